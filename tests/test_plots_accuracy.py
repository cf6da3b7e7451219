import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from utils import plots, plots_accuracy

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"]


def drawn(fig):
    """The figure's pixels, as an array (height, width, 4)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def check(fig, alt):
    """Every axes has labels, the alt text says something, and it can be drawn."""
    assert len(alt) > 60
    assert drawn(fig).std() > 0
    for ax in fig.axes:
        assert ax.lines or ax.patches or ax.collections


@pytest.fixture
def summary():
    return pd.DataFrame(
        {
            "observer": ["min-max"] * 2 + ["histogram"] * 2,
            "images": [1, 64] * 2,
            "mean": [20.0, 30.0, 21.0, 33.0],
            "low": [18.0, 29.0, 20.0, 32.5],
            "high": [22.0, 31.0, 22.0, 33.5],
        }
    )


def test_looks_can_be_told_apart_without_color():
    pairs = {(look["marker"], str(look["linestyle"])) for look in plots_accuracy.LOOKS}
    assert len(pairs) == len(plots_accuracy.LOOKS)
    assert plots_accuracy.LOOKS[0]["color"] == plots.INT8
    assert plots.FLOAT not in [look["color"] for look in plots_accuracy.LOOKS]
    light = [np.dot(to_rgb(look["color"]), [0.299, 0.587, 0.114]) for look in plots_accuracy.LOOKS]
    assert max(light) < 0.75  # readable on white


def test_lines(summary):
    tables = {"SQNR (dB)": summary, "points": summary}
    fig, alt = plots_accuracy.lines(tables, "observer", "images", "Title", "images (log)")
    check(fig, alt)
    assert len(fig.axes) == 2
    assert [ax.get_ylabel() for ax in fig.axes] == list(tables)
    assert all(ax.get_xlabel() == "images (log)" and ax.get_xscale() == "log" for ax in fig.axes)
    assert "SQNR (dB), histogram: 21 at 1, 33 at 64" in alt
    one, other = fig.axes[0].containers
    assert one.lines[0].get_ydata().tolist() == [20, 30]
    assert (one.lines[0].get_xdata() < other.lines[0].get_xdata()).all()  # neither hides the other


def test_measures_moved():
    table = pd.DataFrame(
        [
            (name, bits, measure, moved)
            for name in ("digits", "clothes")
            for bits in (7, 3)
            for measure, moved in {"accuracy": 2.0 if bits == 3 else 0.0, "flips": 5.0}.items()
        ],
        columns=["dataset", "bits", "measure", "moved"],
    )
    fig, alt = plots_accuracy.measures_moved(table)
    check(fig, alt)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["digits", "clothes"]
    assert "digits, accuracy: beyond chance at 3 bits" in alt
    assert "clothes, flips: beyond chance at 7 bits" in alt
    assert fig.axes[0].xaxis_inverted()
    table["moved"] = 0.1
    assert "never beyond chance" in plots_accuracy.measures_moved(table)[1]


def test_margin_histogram():
    margin = np.linspace(0, 5, 100)
    fig, alt = plots_accuracy.margin_histogram(margin, margin + 0.1, margin < 0.11)
    check(fig, alt)
    assert "The 3 flips are marked at the bottom, the largest at a margin of 0.10" in alt
    fig, alt = plots_accuracy.margin_histogram(margin, margin, margin < 0)
    assert "The 0 flips" in alt


def test_dots(summary):
    table = summary[["observer", "mean", "low", "high"]].iloc[[0, 2]]
    fig, alt = plots_accuracy.dots({"dB": table, "points": table}, "observer", "Title")
    check(fig, alt)
    ticks = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert ticks == ["min-max", "histogram"]
    assert "dB: min-max 20, histogram 21" in alt


@pytest.fixture
def costs():
    return pd.DataFrame(
        {
            "layer": LAYERS,
            "layer_db": [30.0, 40.0, 45.0, 35.0],
            "per_channel_db": [50.0, 51.0, 52.0, 53.0],
            "per_tensor_db": [40.0, 30.0, 50.0, 49.0],
            "gain_db": [0.5, 0.1, -0.1, 0.2],
            "points": [0.0, -0.1, 0.1, 0.0],
            "predicted_db": [12.0, 20.0, 2.0, 4.0],
            "shared_db": [2.0, 21.0, 2.0, 4.0],
        }
    )


def test_layer_costs(costs):
    fig, alt = plots_accuracy.layer_costs(costs)
    check(fig, alt)
    assert "weights and output: conv1" in alt
    assert "weights alone, per tensor: layer1.0.conv1" in alt
    assert "conv1 gives the most, 0.50 dB" in alt
    assert [t.get_text() for t in fig.axes[1].get_xticklabels()] == LAYERS


def test_layer_ranks(costs):
    fig, alt = plots_accuracy.layer_ranks(costs)
    check(fig, alt)
    assert {t.get_text() for t in fig.axes[0].texts} == {"conv1", "fc", "layer1.0.conv1"}
    assert "farthest from the prediction: conv1, highest cost: layer1.0.conv1." in alt


def test_shifts():
    table = pd.DataFrame(
        {"kind": ["rotated"] * 2 + ["noisy"] * 2, "strength": [1, 5] * 2}
        | {"float32": [99.0, 50.0, 98.0, 90.0], "int8": [99.0, 49.0, 98.0, 91.0]}
    )
    apart = table[["kind", "strength"]].assign(bits=7, mean=[0, -1.0, 0, 1.0], low=-2.0, high=2.0)
    apart = pd.concat([apart, apart.assign(bits=8)])
    fig, alt = plots_accuracy.shifts(table, apart)
    check(fig, alt)
    assert len(fig.axes) == 4
    assert "rotated: float32 50.0 %, int8 49.0 %" in alt
    float_line, int8_line = fig.axes[0].lines
    legend = [t.get_text() for t in fig.axes[len(fig.axes) // 2].get_legend().get_texts()]
    assert legend == ["7 bits", "8 bits"]
    assert (float_line.get_color(), int8_line.get_color()) == (plots.FLOAT, plots.INT8)


def test_diagnosis(costs):
    table = pd.DataFrame(
        {"layer": LAYERS, "sqnr_db": 30.0, "own_db": 35.0, "weight_db": [40, np.nan, 41, 42]}
        | {"verdict": ["ok", "outlier: channel 3", "ok", "ok"]}
    )
    fig, alt = plots_accuracy.diagnosis(table, "Title")
    check(fig, alt)
    assert "Hatched, with a fault: layer1.0.conv1." in alt
    for harmless in ("ok", "note: per-tensor weights"):
        healthy = table.assign(verdict=harmless)
        assert "with a fault: none" in plots_accuracy.diagnosis(healthy, "T")[1]
