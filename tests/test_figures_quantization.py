"""The special figures of notebooks 00 and 03: what they draw is what they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.ao.quantization as tq
from matplotlib.colors import to_rgb

from utils import figures
from utils.figures import quantization as drawn


def heights(ax):
    return [round(bar.get_height(), 2) for bar in ax.patches]


def test_the_pipeline_turns_from_float32_to_int8_at_convert():
    fig, alt = drawn.pipeline()
    boxes = [text for text in fig.axes[0].texts if text.get_bbox_patch()]
    colors = {t.get_text()[3:]: t.get_bbox_patch().get_facecolor()[:3] for t in boxes}
    names = ["train", "fuse", "observe", "calibrate", "convert", "run"]
    assert list(colors) == names
    assert colors == {n: to_rgb(figures.FLOAT if n in names[:4] else figures.INT8) for n in names}
    assert "convert: ranges become S and Z" in alt
    arrows = [text.arrow_patch for text in fig.axes[0].texts if hasattr(text, "arrow_patch")]
    assert [arrow.get_facecolor()[:3] for arrow in arrows] == [(0, 0, 0)] * 5


def test_the_flow_shows_the_numbers_of_one_value():
    values = {"products": 576, "total": -1234, "bias": 2000.0, "multiplier": 0.01}
    fig, alt = drawn.conv_flow(values | {"real": 7.66, "Z": 3, "code": 11})
    shown = "\n".join(text.get_text() for text in fig.axes[0].texts)
    for text in ("576 codes", "-1,234", "+2,000.0", "× 0.01\n", "= 7.66", "8 + 3", "= 11"):
        assert text in shown
    assert "the output code is 11" in alt


def test_the_staircase_clamps_and_errs_by_half_a_step_at_most():
    fig, alt = drawn.staircase(np.array([0.26, 9.0]), 0.5, 2, 8)
    steps, error = fig.axes[:2]
    x, y = steps.lines[1].get_data()
    assert sorted(set(y.round(6))) == [-1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5]
    inside = (x >= -1) & (x <= 2.5)
    assert np.abs(error.lines[0].get_ydata()[inside]).max() == pytest.approx(0.25, abs=1e-3)
    assert steps.lines[-1].get_ydata().tolist() == [0.5, 2.5]
    assert "on code 2" in alt


def test_the_share_outside_a_range_is_written_on_its_panel():
    seen = {}
    for name, top in (("all inside", 1.0), ("half outside", 0.5)):
        observer = tq.HistogramObserver(quant_min=0, quant_max=127)
        observer(torch.linspace(0, 1, 10_000))
        observer.calculate_qparams = lambda top=top: (torch.tensor(top / 127), torch.tensor(0))
        seen[name] = observer
    fig, alt = drawn.observer_ranges(seen)
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "all inside\noutside: 0.000%",
        "half outside\noutside: 50.000%",
    ]
    assert "0 to 0.5, outside 50.000%" in alt


def test_the_profile_marks_the_lowest_layer():
    table = pd.DataFrame({"layer": ["a", "b", "c"], "sqnr_db": [40.0, 20.0, 30.0]})
    fig, alt = drawn.layer_profile(table)
    assert fig.axes[0].lines[1].get_xydata().tolist() == [[1, 20]]
    assert "lowest at b with 20.0 dB" in alt


@pytest.mark.parametrize("name", ["quickstart", "headline"])
def test_the_summaries_draw_size_and_latency_float32_first(records, name):
    known, timed = records["03_fusion_and_calibration"], records["04_cpu_benchmark"]
    latency = timed["summary"][timed["summary"]["variant"] != "float_openvino"]
    table = latency if name == "quickstart" else timed["verdicts"]
    fig, alt = getattr(drawn, name)(known["comparison"], 44_800_000, 11_200_000, table)
    middle = [] if name == "quickstart" else [0.4]
    assert [heights(ax) for ax in fig.axes[1:3]] == [[44.8, 11.2], [5.0, *middle, 0.5]]
    assert fig.axes[2].patches[-1].get_facecolor()[:3] == to_rgb(figures.INT8)
    assert "accuracy 99.00%, 98.50%" in alt
