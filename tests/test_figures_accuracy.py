"""The special figures of notebook 06 draw what they are given and say what they draw."""

import itertools

import numpy as np
import pandas as pd

from utils import figures
from utils.figures import accuracy as accuracy_figures

LAYERS = pd.DataFrame(
    {"layer": ["quant", "conv1", "fc"], "a": [40.0, 20.0, 30.0], "b": [np.nan, 44.0, 41.0]}
)


def test_layers_have_names_and_faults_are_hatched():
    columns = {"a": "all noise", "b": "weights"}
    fig, alt = accuracy_figures.by_layer(LAYERS, columns, "Noise", "SQNR (dB)", ["conv1"])
    (ax,) = fig.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["quant", "conv1", "fc"]
    assert "all noise: 20 in conv1; weights: 41 in fc. Hatched: conv1." in alt
    (band,) = ax.patches
    assert band.get_hatch() == "///"
    assert band.get_x() < 1 < band.get_x() + band.get_width()
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), LAYERS["b"])


def test_without_a_fault_nothing_is_hatched():
    fig, alt = accuracy_figures.by_layer(LAYERS, {"a": "all noise"}, "Noise", "SQNR (dB)")
    assert not fig.axes[0].patches
    assert "Hatched" not in alt


def test_shifts_draw_both_models_and_each_difference_in_its_row():
    grid = list(itertools.product(("rotated", "noisy"), (1, 5)))
    level = pd.DataFrame(grid, columns=["kind", "strength"])
    level["float32"], level["int8"] = [99.0, 40.0, 98.0, 20.0], [98.9, 41.0, 98.0, 19.0]
    rows = [(*cell, bits, -0.1 * bits, -1.0, 0.5) for bits in (7, 8) for cell in grid]
    columns = ["kind", "strength", "bits", "mean", "low", "high"]
    fig, alt = accuracy_figures.shifts(level, pd.DataFrame(rows, columns=columns))
    assert "rotated: float32 40.0 %, int8 41.0 %; noisy: float32 20.0 %, int8 19.0 %" in alt
    assert "lowest difference is -0.8 points: rotated, strength 1, 8 bits" in alt
    both, gap = fig.axes[2:]
    assert both.get_title(loc="left") == "noisy"
    np.testing.assert_array_equal(both.lines[0].get_ydata(), [98, 20])
    assert [line.get_color() for line in both.lines] == [figures.FLOAT, figures.INT8]
    (seven, *_), (eight, *_) = (drawn.lines for drawn in gap.containers)
    np.testing.assert_allclose(seven.get_ydata().astype(float), [-0.7] * 2)
    np.testing.assert_allclose(eight.get_ydata().astype(float), [-0.8] * 2)
    assert (seven.get_xdata() < eight.get_xdata()).all(), "an interval hides another"
