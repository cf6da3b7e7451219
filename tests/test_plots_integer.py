"""The figures of the integer arithmetic: what they draw, and what their alt text says."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils import plots, plots_integer
from utils.lab.integer import Layer, Quantized


@pytest.fixture
def sums():
    return pd.DataFrame(
        {"layer": ["conv1", "fc"], "largest": [20_000, 1_234_567], "products": [49, 512]}
    )


@pytest.fixture
def layer():
    return Layer(
        weight=np.array([[[[3, -1]]], [[[-7, 0]]]], dtype=np.int8),
        weight_scale=np.array([0.01, 0.02], dtype=np.float32),
        bias=np.zeros(2, np.float32),
        scale=np.float32(0.05),
        zero_point=7,
        relu=True,
    )


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(plots_integer.STATIONS, (2, 2, 2, 100)) | {
        "quant": (2, 28, 28, 1),
        "layer4.1.add_relu": (2, 1, 1, 512),
        "fc": (2, 10),
    }
    out = {
        name: Quantized(rng.integers(0, 100, shape, dtype=np.uint8), np.float32(0.1), 60)
        for name, shape in shapes.items()
    }
    out["fc"].q[0, 3] = 200
    return out


def drawn(fig):
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("L"))


def test_accumulators_count_what_leaves_int16(sums):
    fig, alt = plots_integer.accumulators(sums)
    assert "1 layers leave int16; the largest sum is 1,234,567 in fc" in alt
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == [20_000, 1_234_567]
    assert ax.lines[0].get_xdata().tolist() == [49 * 127**2, 512 * 127**2]
    assert ax.get_xscale() == "log"


def test_padding_border_counts_codes_inside_the_map():
    right = np.full((7, 7), 20, dtype=np.uint8)
    wrong = right.copy()
    wrong[0] = 5
    wrong[3, 3] = 22
    fig, alt = plots_integer.padding_border(right, wrong)
    assert "8 of 49 codes differ, by up to 15; 1 of them are two pixels" in alt
    assert [ax.get_title(loc="left") for ax in fig.axes[:3]][2] == "difference"
    assert fig.axes[2].images[0].get_clim() == (-15, 15)


def test_integer_path_names_the_winner_and_draws_the_first_image(codes):
    fig, alt = plots_integer.integer_path(codes, tuple("abcdefghij"))
    assert "the highest is class d with 200" in alt
    assert "quant 28 x 28 x 1" in alt
    assert np.array_equal(fig.axes[0].images[0].get_array(), codes["quant"].q[0, :, :, 0])
    assert "64 channels shown" in fig.axes[1].get_title(loc="left")
    assert fig.axes[6].images[0].get_array().size == 512


def test_spread_leaves_out_layers_without_a_difference():
    own = pd.DataFrame({"a": [0.0, 1e-5], "b": [0.0, 0.0]}, index=["quant", "conv1"])
    whole = pd.DataFrame({"a": [0.0, 0.3], "b": [0.0, 0.1]}, index=["quant", "conv1"])
    fig, alt = plots_integer.spread(own, whole)
    assert "a: at most 0.3 of a layer; b: at most 0.1 of a layer" in alt
    left, right = (ax.lines[0].get_ydata() for ax in fig.axes)
    assert np.isnan(left[0])
    assert left[1] == pytest.approx(1e-3)
    assert right[1] == pytest.approx(30)
    assert len({str(line.get_linestyle()) for line in fig.axes[1].lines}) == 2


@pytest.mark.parametrize("relu", [True, False])
def test_integer_layer_states_the_layers_numbers(layer, relu):
    layer, x = replace(layer, relu=relu), Quantized(np.zeros(1, np.uint8), np.float32(0.05), 7)
    _, alt = plots_integer.integer_layer(layer, x, 987_654)
    assert "2 products with int8 weights; largest sum seen 987,654" in alt
    assert f"clamp to {7 if relu else 0} ... 255" in alt
    assert ("ReLU" in alt) == relu
    assert "-14 to 49" in alt  # minus Z_x = 7 times the sums of the weights, 2 and -7
    assert "0.01 to 0.02" in alt
    assert "sum of  q_x q_w" in alt  # no LaTeX is left
    assert not set("$\\") & set(alt)


def test_they_are_drawn_in_greyscale_too(sums, layer, codes):
    share = pd.DataFrame({"a": [0.0, 0.3]}, index=["quant", "conv1"])
    for fig, _ in (
        plots_integer.accumulators(sums),
        plots_integer.integer_layer(layer, codes["quant"], 5),
        plots_integer.spread(share, share),
        plots_integer.integer_path(codes, tuple("0123456789")),
    ):
        assert drawn(fig).std() > 10
        assert fig.dpi == plots.DPI
