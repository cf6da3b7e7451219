"""The drawings of notebook 02 show what they are given."""

import numpy as np
import pytest
import torch

from utils import figures
from utils.figures import training


def test_the_dot_shows_how_far_a_digit_was_shifted():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[0, 0, 13:15, 13:15] = 255
    images[1] = images[0].roll((3, 4), (1, 2))  # down, right
    fig, alt = training.augmented(images, "A square")
    assert "A square" in alt and "up to 5.0 pixels" in alt
    for ax, (x, y) in zip(fig.axes, [(13.5, 13.5), (17.5, 16.5)], strict=False):
        across, upright, dot = ax.lines
        assert set(across.get_ydata()) == set(upright.get_xdata()) == {13.5}
        assert across.get_color() == upright.get_color() == figures.GREY  # the dtypes have blue
        assert (dot.get_xdata().item(), dot.get_ydata().item()) == pytest.approx((x, y))


def test_only_the_errors_of_a_confusion_matrix_are_shaded():
    counts = np.array([[90, 0, 1], [4, 95, 0], [0, 0, 99]])
    fig, alt = training.confusion(counts, ("a", "b", "c"))
    shaded = fig.axes[0].images[0].get_array()
    assert shaded.tolist() == [[0, 0, 1], [4, 0, 0], [0, 0, 0]]
    assert [t.get_text() for t in fig.axes[0].texts] == ["90", "1", "4", "95", "99"]
    assert fig.axes[0].get_ylabel() == "true class"  # the rows
    assert fig.axes[0].get_xlabel() == "predicted class"
    assert "284 on the diagonal, 5 off it" in alt
    assert "count is 4: true b taken for a." in alt
    _, alt = training.confusion(np.array([[9, 2, 0], [0, 9, 0], [2, 0, 9]]), ("a", "b", "c"))
    assert "count is 2: true a taken for b, true c taken for a." in alt
    assert "count is 0: no errors." in training.confusion(np.eye(3, dtype=int), ("a", "b", "c"))[1]
    assert counts[0, 0] == 90, "the counts of the caller were changed"


def test_a_network_without_errors_can_be_drawn():
    _, alt = training.confusion(np.eye(2, dtype=int), ("a", "b"))
    assert "0 off it" in alt


def test_one_slow_round_is_a_point_and_does_not_move_the_median():
    fig, alt = training.throughput({"cpu": [100.0, 102, 5], "cpu, batch 64": [50.0, 51, 52]})
    points, bar = fig.axes[0].lines[:2]
    assert sorted(points.get_xdata()) == [5, 100, 102]
    assert bar.get_xdata().item() == 100
    assert "cpu: 100; cpu, batch 64: 51" in alt
    dtypes = {figures.FLOAT, figures.INT8}
    assert not dtypes & {line.get_color() for line in fig.axes[0].lines}
