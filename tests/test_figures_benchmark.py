"""The figures of notebook 04 draw what their data say, for int8 that wins and int8 that loses."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from utils import figures
from utils.figures import benchmark


def steps(int8: float) -> pd.DataFrame:
    return pd.DataFrame({"step": ["eager", "packed", "int8"], "ms": [8.0, 2.0, int8]})


def drawn(fig) -> None:
    fig.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize(
    ("int8", "words"),
    [(1.0, "2 times faster"), (3.31, "1.66 times slower"), (2.0, "equally fast")],
)
def test_every_step_of_the_waterfall_has_its_bar_int8_too(int8, words):
    fig, alt = benchmark.waterfall(steps(int8))
    drawn(fig)
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in fig.axes[0].patches]
    assert ends == [(0, 8), (2, 8), (min(2, int8), max(2, int8)), (0, int8)]
    assert f"packed 2 ms (4 times faster); int8 {int8:.3g} ms ({words})" in alt
    shown = [text.get_text().replace("\n", " ") for text in fig.axes[0].texts]
    assert f"{int8:.3g} ms {words}" in shown
    colors = [bar.get_facecolor()[:3] for bar in fig.axes[0].patches]
    assert colors[0] == to_rgb(figures.FLOAT)
    assert colors[2] == colors[3] == to_rgb(figures.INT8)
    assert colors[1] not in (colors[0], colors[2])


def test_latencies_draw_a_whisker_only_where_there_is_a_percentile():
    rows = [("float_eager", 1, 1, 4.0, 6.0), ("int8_x86", 1, 1, 1.0, None)]
    table = pd.DataFrame(rows, columns=["variant", "batch", "threads", "median_ms", "p90_ms"])
    fig, alt = benchmark.latencies(table.astype({"p90_ms": object}))
    drawn(fig)
    lines = [list(line.get_xdata()) for line in fig.axes[0].lines if len(line.get_xdata()) == 2]
    assert lines == [[4, 6], [1, 1]]
    assert "int8, eager, x86, batch 1: 1 ms" in alt


def test_the_roofline_names_the_layers_that_are_asked_for():
    rows = [(d, b, n, 2.0, 3.0) for d in ("float32", "int8") for b in (1, 64) for n in "pq"]
    points = pd.DataFrame(rows, columns=["dtype", "batch", "layer", "intensity", "rate"])
    fig, alt = benchmark.roofline(points, {"float32": (100, 50), "int8": (400, 50)}, ("q",))
    drawn(fig)
    assert [[text.get_text() for text in ax.texts] for ax in fig.axes] == [["q", "q"]] * 2
    assert "int8 roof: 400 GOP/s, 50 GB/s" in alt
    assert "batch 64, int8, q: 3 GOP/s" in alt


def test_the_ratio_map_is_white_at_a_tie_and_leaves_out_what_is_missing():
    table = pd.DataFrame({1: [0.5, 1.0], 2: [2.0, np.nan]}, pd.Index([1, 64], name="batch"))
    fig, alt = benchmark.ratio_map(table.rename_axis(columns="threads"), "Map")
    drawn(fig)
    assert [text.get_text() for text in fig.axes[0].texts] == ["0.50", "2.00", "1.00", "–"]
    image = fig.axes[0].images[0]
    assert np.allclose(image.cmap(image.norm(1.0))[:3], 1, atol=0.01)
    assert "batch 1, threads 1: 0.50; batch 64, threads 1: 1.00; batch 1, threads 2: 2.00." in alt


def test_rounds_are_medians_of_their_calls():
    rows = [("float_eager", 8, number, ms) for number in (0, 1) for ms in (1.0, 2.0, 9.0)]
    samples = pd.DataFrame(rows, columns=["variant", "batch", "round", "ms"])
    assert (
        "latency (ms), batch 8, float_eager: 2 at 0, 2 at 1" in benchmark.latency_rounds(samples)[1]
    )


def test_names_hide_neither_one_another_nor_a_point_nor_leave_their_panel():
    rows = [("float32", 1, "layer4.1.conv1", 2.0, 3.0), ("int8", 1, "layer4.1.conv1", 2.3, 3.1)]
    rows += [("float32", 1, "layer1.0.conv1", 2.1, 3.2), ("int8", 1, "conv1", 400.0, 90.0)]
    rows += [("int8", 1, "no name", beside, 113.0) for beside in (300.0, 500.0)]
    points = pd.DataFrame(rows, columns=["dtype", "batch", "layer", "intensity", "rate"])
    names = tuple(points["layer"][:-2])
    fig, _ = benchmark.roofline(points, {"float32": (100, 50), "int8": (400, 50)}, names)
    drawn(fig)
    (ax,) = fig.axes
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the line to the point
    for number, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:number])
        assert ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
        for x, y in ax.transData.transform(points[["intensity", "rate"]]):
            assert not box.contains(x, y)
