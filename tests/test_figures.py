"""The style and the general charts: they draw, say what they draw, and stay legible in grey."""

import base64
import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from PIL import Image

from utils import figures
from utils.catalog import VARIANTS
from utils.figures import charts, style

RANGES = pd.DataFrame(
    [
        ("a", 1, 0.5, 0.4, 0.6),
        ("a", 4, 0.7, 0.6, 0.9),
        ("b", 1, 0.1, 0.0, 0.2),
        ("b", 4, 0.3, 0, 1),
    ],
    columns=["choice", "images", "mean", "low", "high"],
)
CHARTS = {
    "bars": (
        lambda: figures.bars(pd.Series({"one": 1.5, "two": 250.0}), "Sizes", "MB"),
        "two: 250",
    ),
    "grouped bars": (
        lambda: figures.bars(
            pd.DataFrame({"float32": [4.0, 8], "int8": [1.0, np.nan]}, ["a", "b"]), "Sizes", "MB"
        ),
        "a: float32 4, int8 1",
    ),
    "dots": (
        lambda: figures.dots({"SQNR (dB)": RANGES[:2]}, "choice", "Dots", reference=0),
        "a 0.5",
    ),
    "lines": (
        lambda: figures.lines({"points": RANGES}, "choice", "images", "Lines", "images (log)"),
        "points, b: 0.1 at 1, 0.3 at 4",
    ),
    "linear lines": (
        lambda: figures.lines(
            {"points": RANGES.drop(columns=["low", "high"])},
            "choice",
            "images",
            "L",
            "n",
            base=None,
        ),
        "points, a: 0.5 at 1, 0.7 at 4",
    ),
    "heat map": (
        lambda: figures.heat_map(
            pd.DataFrame({"x": [1.0, 0.5], "y\nz": [2.0, 3]}, ["r", "s"]),
            "Map",
            "c",
            "row",
            "times",
        ),
        "row s: x 0.5, y z 3",
    ),
    "differences": (
        lambda: figures.heat_map(
            pd.DataFrame({"x": [-1.0, 0.0]}), "Map", "column", "row", "points", neutral=0
        ),
        "row 0: x -1",
    ),
    "histograms": (
        lambda: figures.histograms(
            {"float32": np.arange(9.0), "int8": np.arange(4.0)}, "H", "value", marks={"end": 7.5}
        ),
        "int8: 4 values from 0 to 3; end at 7.5",
    ),
    "gallery": (
        lambda: figures.gallery(np.zeros((3, 1, 28, 28)), ["a", "b", "c"], "Three", "three digits"),
        "three digits",
    ),
}


def pixels(fig):
    """The figure as an array (height, width, 4)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(("draw", "said"), CHARTS.values(), ids=CHARTS)
def test_a_chart_draws_and_its_alt_text_names_the_data(draw, said):
    fig, alt = draw()
    assert said in alt
    assert len(np.unique(pixels(fig).reshape(-1, 4), axis=0)) > 2
    assert not pyplot.get_fignums()  # no global state
    for ax in fig.axes:
        if ax.axison and ax.get_label() != "<colorbar>":
            assert ax.get_xlabel()


@pytest.mark.parametrize("name", [name for name in CHARTS if name != "gallery"])
def test_tick_labels_do_not_overlap(name):
    fig, _ = CHARTS[name][0]()
    fig.draw_without_rendering()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text()]
        for one, two in itertools.pairwise(boxes):
            assert not one.overlaps(two), f"{name}: two tick labels overlap"


def test_the_interval_of_a_dot_goes_from_low_to_high():
    fig, _ = figures.dots({"points": RANGES[1:2]}, "choice", "T")
    (segment,) = fig.axes[0].collections[0].get_segments()
    assert segment[:, 0].tolist() == pytest.approx([0.6, 0.9])


def test_bars_highlight_a_row_and_refuse_an_unknown_one():
    table = pd.Series({"one": 1.0, "two": 2.0})
    fig, alt = figures.bars(table, "T", "ms", highlight="two")
    assert alt.endswith("two is highlighted.")
    first, second = fig.axes[0].patches
    assert first.get_facecolor() != second.get_facecolor()
    with pytest.raises(ValueError, match="three"):
        figures.bars(table, "T", "ms", highlight="three")


def test_float_and_int8_keep_their_colors_in_every_chart():
    table = pd.DataFrame({"float32": [1.0], "int8": [2.0]}, ["a"])
    left, right = figures.bars(table, "T", "ms")[0].axes[0].patches
    assert left.get_facecolor()[:3] == to_rgb(figures.FLOAT)
    assert right.get_facecolor()[:3] == to_rgb(figures.INT8)


def lightness(color):
    return np.dot(to_rgb(color), (0.299, 0.587, 0.114))


def test_float_and_int8_differ_in_lightness_and_marker():
    assert abs(lightness(figures.FLOAT) - lightness(figures.INT8)) > 0.2
    assert figures.STYLE[figures.FLOAT]["marker"] != figures.STYLE[figures.INT8]["marker"]


def test_lines_and_variants_can_be_told_apart_without_color():
    assert set(style.LOOKS) == set(VARIANTS)
    for looks in (
        [(x["marker"], x["linestyle"]) for x in charts.LINES],
        [(marker, line) for _, marker, line in style.LOOKS.values()],
    ):
        assert len(set(looks)) == len(looks)


def test_no_line_has_the_color_of_a_dtype_and_an_observer_looks_the_same_everywhere():
    assert not {figures.FLOAT, figures.INT8} & {look["color"] for look in charts.LINES}
    table = RANGES.replace({"choice": {"a": "percentile", "b": "min-max"}})
    fig, _ = figures.lines({"points": table}, "choice", "images", "Lines", "images")
    colors = {bars.get_label(): bars.lines[0].get_color() for bars in fig.axes[0].containers}
    assert colors == {name: charts.OBSERVERS[name]["color"] for name in ("percentile", "min-max")}


def test_panels_stand_in_two_columns_no_figure_is_wide_and_whole_numbers_have_whole_ticks():
    rounds = pd.DataFrame({"of": "a", "round": range(21), "mean": 1.0})
    one, three = (
        figures.lines(dict.fromkeys(names, rounds), "of", "round", "Rounds", "round", base=None)[0]
        for names in ("a", "abc")
    )
    assert figures.figure(width=9)[0].get_figwidth() == one.get_figwidth() == style.WIDTH
    assert [ax.axison for ax in three.axes] == [True, True, True, False]
    assert three.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 2)
    assert all(tick == round(tick) for tick in one.axes[0].get_xticks())


def test_an_unknown_variant_looks_like_its_dtype():
    assert style.look("int8_new") == {**figures.STYLE[figures.INT8], "linestyle": "-"}


def test_show_publishes_the_picture_with_its_alt_text(monkeypatch):
    published = []
    monkeypatch.setattr(style, "publish_display_data", lambda *a: published.append(a))
    figures.show(figures.figure(width=2, height=1)[0], "an empty frame")
    ((data, metadata),) = published
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size == (200, 100)
    assert metadata["image/png"]["alt"] == data["text/plain"] == "an empty frame"
    with pytest.raises(ValueError, match="alt text"):
        figures.show(figures.figure()[0], " ")


@pytest.mark.parametrize(
    ("word", "columns"), [("short", 4), ("a long name " * 2, 2), ("a long name " * 5, 1)]
)
def test_a_legend_takes_no_more_room_than_the_figure_has(word, columns):
    figure, ax = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for number in range(4):
        ax.plot([0, 1], [0, number], label=f"{word} {number}")
    style.legend_below(figure, 4)
    assert figure.legends[0]._ncols == columns
    assert len(figure.legends) == 1
