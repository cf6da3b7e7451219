"""The special figures of notebook 05 draw what they are given and say what they draw."""

import numpy as np
import pandas as pd
import pytest

from utils.figures import integer as integer_figures
from utils.lab.integer import Quantized


def quantized(q):
    return Quantized(q.astype(np.uint8), np.float32(0.1), 20)


def test_the_border_is_counted_apart_from_the_inside():
    right = np.full((8, 8), 50, dtype=np.uint8)
    wrong = right.copy()
    wrong[0, :] += 9
    wrong[1, 3] += 2
    wrong[4, 4] -= 3
    fig, alt = integer_figures.padding_border(right, wrong)
    assert "10 of 64 codes differ, by up to 9; 1 of them" in alt
    np.testing.assert_array_equal(fig.axes[2].images[0].get_array(), wrong.astype(int) - right)


def test_the_path_shows_every_station_and_marks_the_largest_logit():
    random = np.random.default_rng(0)
    shapes = [(28, 28, 1), (14, 14, 64), (7, 7, 64), (7, 7, 64), (4, 4, 128), (2, 2, 256)]
    shapes.append((1, 1, 512))
    out = {
        name: quantized(random.integers(0, 128, (2, *shape)))
        for name, shape in zip(integer_figures.STATIONS, shapes, strict=True)
    }
    out["fc"] = quantized(np.array([[20, 90, 30], [99, 0, 0]]))
    fig, alt = integer_figures.integer_path(out, ("a", "b", "c"))
    assert "maxpool 7 x 7 x 64" in alt
    assert "the highest is class b with 90" in alt
    drawn = [len(ax.images) for ax in fig.axes]
    assert drawn == [1] * 7 + [0]
    marked = [bar.get_hatch() for bar in fig.axes[-1].patches]
    assert marked == [None, "///", None]


def test_tiles_stand_side_by_side_with_lines_between():
    canvas = integer_figures._mosaic(np.arange(4).reshape(4, 1, 1).repeat(2, 1).repeat(2, 2))
    expected = [[0, 0, 127, 1, 1]] * 2 + [[127] * 5] + [[2, 2, 127, 3, 3]] * 2
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize("panel", [0, 1])
def test_a_layer_without_differences_has_no_mark(panel):
    own = pd.DataFrame({"rounding": [0.0, 0.1], "padding": [0.5, 0.0]}, ["conv1", "fc"])
    fig, alt = integer_figures.spread(own, 2 * own)
    assert "padding: at most 1 of a layer" in alt
    drawn = [line.get_ydata() for line in fig.axes[panel].lines]
    np.testing.assert_allclose(drawn, (panel + 1) * np.array([[np.nan, 10], [50, np.nan]]))
    assert fig.axes[0].lines[0].get_color() != "#E69F00"  # int8's own
