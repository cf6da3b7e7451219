"""The explorables: figures of their arguments, and sliders only where a notebook is live."""

import ipywidgets
import numpy as np
import pandas as pd
import pytest

from utils import figures
from utils.figures import benchmark, quantization, style

REALS = np.array([-0.25, 0.0, 0.45, 2.3])


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes]


@pytest.mark.parametrize(
    ("ends", "bits", "said"),
    [
        ((-1.0, 2.0), 4, ["16 codes, S = 0.2, Z = 5", "values: 4, 5, 7, 15", "error 0.3, at 2.3"]),
        ((-1.0, 2.5), 3, ["8 codes, S = 0.5, Z = 2", "values: 2, 2, 3, 7", "error 0.25, at -0.25"]),
        ((0.5, 3.0), 2, ["4 codes, S = 1, Z = 0", "values: 0, 0, 0, 2", "error 0.45, at 0.45"]),
        ((0.0, 0.0), 8, ["256 codes", "values: 0, 0, 255, 255", "error 2.29, at 2.3"]),
    ],
)
def test_the_number_line_follows_range_and_bits(ends, bits, said):
    fig, alt = quantization.number_line(REALS, ends, bits)
    text = "\n".join(titles(fig))
    assert all(part in text for part in said), text
    assert said[1] in alt and said[2] in alt


def test_clipping_says_what_is_cut_off_and_what_it_costs():
    values = np.arange(1, 101) / 10
    rows = [("both", 4.0, 3.0), ("rounding", 4.0, 1.0), ("clipping", 4.0, 2.0)]
    rows += [("both", 8.0, 1.5), ("rounding", 8.0, 1.5), ("clipping", 8.0, 0.0)]
    errors = pd.DataFrame(rows, columns=["error", "top", "mean"])
    fig, alt = quantization.clipping(values, errors, {"min-max": 10.0}, 6.0)
    cut, cost = titles(fig)
    assert "40.000% of the values" in cut and "1.50 times the smallest" in cost
    assert "min-max 10" in alt and "1.50 times" in alt
    thick = [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_linewidth() > 2]
    assert thick == [6.0]


@pytest.mark.parametrize(
    ("batch", "threads", "said", "medians"),
    [
        (1, 1, "Batch 1, one thread; lowest median: float32, OpenVINO", [2, 4]),
        (8, 2, "Batch 8, 2 threads; lowest median: int8, eager, fbgemm", [3, 9]),
    ],
)
def test_a_setting_has_the_fastest_on_top_whichever_dtype_it_has(batch, threads, said, medians):
    rows = [("int8_fbgemm", 1, 1, 4.0), ("float_openvino", 1, 1, 2.0)]
    rows += [("float_openvino", 8, 2, 9.0), ("int8_fbgemm", 8, 2, 3.0)]
    table = pd.DataFrame(rows, columns=["variant", "batch", "threads", "median_ms"])
    fig, alt = benchmark.setting(table.assign(p90_ms=np.nan), batch, threads)
    assert titles(fig) == [said] and said.split("; ")[1] in alt
    assert [line.get_xdata()[0] for line in fig.axes[0].lines[1::2]] == medians


@pytest.fixture
def shown(monkeypatch):
    """The alt texts of the figures shown."""
    alts = []
    monkeypatch.setattr(style, "publish_display_data", lambda data, _: alts.append(data))
    return alts


def draw(ends, bits, batch):
    return figures.figure(width=2, height=1)[0], f"{ends}, {bits} bits, batch {batch}"


CHOICES = {"ends": ((-1.0, 2.0), -4.0, 4.0, 0.1), "bits": (4, 2, 8, 1), "batch": [1, 64]}


def test_a_program_gets_the_figure_as_it_starts_and_no_widget(shown, monkeypatch):
    monkeypatch.setenv("COURSE_WIDGETS", "off")
    monkeypatch.setenv("JPY_SESSION_NAME", "03.ipynb")
    before = len(ipywidgets.widgets.widget._instances)
    assert figures.explore(draw, **CHOICES) is None
    assert [data["text/plain"] for data in shown] == ["(-1.0, 2.0), 4 bits, batch 1"]
    assert "image/png" in shown[0] and len(ipywidgets.widgets.widget._instances) == before


def test_a_person_gets_sliders_and_moving_one_draws_again(shown, monkeypatch):
    monkeypatch.setenv("COURSE_WIDGETS", "on")
    ends, bits, batch, output = figures.explore(draw, **CHOICES).children
    assert isinstance(output, ipywidgets.Output)
    assert [type(s).__name__ for s in (ends, bits, batch)] == [
        "FloatRangeSlider",
        "IntSlider",
        "SelectionSlider",
    ]
    assert (bits.min, bits.max, ends.max, batch.options) == (2, 8, 4.0, (1, 64))
    bits.value, batch.value, ends.value = 3, 64, (-1.0, 3.0)
    assert [data["text/plain"] for data in shown] == [
        "(-1.0, 2.0), 4 bits, batch 1",
        "(-1.0, 2.0), 3 bits, batch 1",
        "(-1.0, 2.0), 3 bits, batch 64",
        "(-1.0, 3.0), 3 bits, batch 64",
    ]
