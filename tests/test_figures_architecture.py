"""The drawings of notebook 01 show what they are given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from utils import figures
from utils.figures import architecture


def words(fig) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts if text.get_text()]


@pytest.mark.parametrize(
    ("kind", "modules", "color"),
    [
        ("float", ["conv1", "bn1", "relu", "conv2", "bn2", "+", "relu"], figures.FLOAT),
        ("ready", ["conv1", "bn1", "relu", "conv2", "bn2", "add_relu"], figures.FLOAT),
        ("int8", ["ConvReLU2d", "Conv2d", "add_relu"], figures.INT8),
    ],
)
def test_a_block_is_drawn_in_order_in_the_color_of_its_dtype(kind, modules, color):
    fig, alt = architecture.residual_block(kind)
    assert words(fig)[: len(modules)] == modules
    assert ", ".join(modules) in alt and "shortcut" in alt
    boxes = fig.axes[0].patches
    assert len(boxes) == len(modules)
    assert {box.get_edgecolor()[:3] for box in boxes} == {to_rgb(color)}
    fig.draw_without_rendering()
    extents = [box.get_window_extent() for box in boxes]
    observers = [line for line in fig.axes[0].lines if line.get_label() == "observer"]
    assert len(observers) == (kind == "ready")
    for line in observers:
        for point in fig.axes[0].transData.transform(line.get_xydata()):
            assert not any(extent.contains(*point) for extent in extents)


def test_the_receptive_field_is_boxed_and_its_center_shaded():
    row = np.array([0, 1, 2, 44, 48, 2, 2, 1, 0.0])
    fig, alt = architecture.receptive_field(np.outer(row, row), (1, 7))
    (box,) = (patch for patch in fig.axes[0].patches if isinstance(patch, Rectangle))
    assert (box.get_x(), box.get_width()) == (0.5, 7)
    assert "square of 7 pixels" in alt
    assert "2 columns in the middle hold 90 %" in alt


def test_taps_without_data_are_hatched_and_their_share_is_computed():
    counts = {f"layer{n}": np.array([[0, 0, 1], [0, 0, 1], [0, 2, n]]) for n in range(4)}
    stages = pd.DataFrame({"used": [1e6, 1e6], "idle": [0, 2e6]}, index=["conv1", "layer4"])
    fig, alt = architecture.padding_taps(counts, stages)
    for ax, count in zip(fig.axes, counts.values(), strict=False):
        places = {tap.get_xy(): tap.get_hatch() for tap in ax.patches}
        idle = {(column, row): "xxxx" for row, column in np.argwhere(count == 0)}
        assert {xy: hatch for xy, hatch in places.items() if hatch} == idle
        assert len(places) == 9
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert texts == ["meet data", "meet only padding"]
    assert "layer0: 3 of 9, layer1: 4 of 9" in alt
    assert "50% of all weights meet only padding" in alt
