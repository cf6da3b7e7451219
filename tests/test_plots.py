import base64
import inspect
import io

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from utils import comparison, plots
from utils.catalog import VARIANTS
from utils.models import tq


def drawn(fig):
    """The figure's pixels, as an array (height, width, 4)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def texts(ax):
    """What stands at the axes: title and labels."""
    return ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()


def test_figure_is_no_global_state():
    fig, axes = plots.figure(2, 3, size=(4, 2))
    assert axes.shape == (2, 3)
    assert tuple(fig.get_size_inches()) == (4, 2)
    assert not any(ax.spines["top"].get_visible() for ax in fig.axes)
    assert not pyplot.get_fignums()


def test_float_and_int8_differ_in_hue_lightness_and_marker():
    def lightness(colour):
        return np.dot(to_rgb(colour), [0.299, 0.587, 0.114])

    assert abs(lightness(plots.FLOAT) - lightness(plots.INT8)) > 0.2
    assert plots.STYLE[plots.FLOAT]["marker"] != plots.STYLE[plots.INT8]["marker"]


def test_show_publishes_the_picture_with_its_alt_text(monkeypatch):
    published = []
    monkeypatch.setattr(plots, "publish_display_data", lambda *a: published.append(a))
    fig, _ = plots.figure(size=(2, 1))
    plots.show(fig, "an empty frame")
    ((content, metadata),) = published
    assert content["text/plain"] == "an empty frame"
    assert metadata["image/png"]["alt"] == "an empty frame"
    picture = Image.open(io.BytesIO(base64.b64decode(content["image/png"])))
    assert picture.size == (200, 100)


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_show_needs_alt_text(alt):
    with pytest.raises(ValueError, match="needs alt text"):
        plots.show(plots.figure()[0], alt)


def test_label():
    _, ax = plots.figure()
    plots.label(ax, "Title", "time (ms)", "count")
    assert texts(ax) == ("Title", "time (ms)", "count")


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28)])
@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_image_takes_arrays_and_tensors(shape, kind):
    _, ax = plots.figure()
    plots.image(ax, kind(shape), "7")
    assert ax.get_title() == "7"
    (picture,) = ax.images
    assert picture.get_array().shape == (28, 28)
    assert picture.get_clim() == (0, 255)  # never stretched to the image's own range


HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "train_loss": [1.5, 0.5],
        "test_loss": [1.25, 0.25],
        "test_accuracy": [0.75, 0.975],
        "learning_rate": [0.04, 0.0001],
    }
)
COUNTS = np.array([[50, 0, 1], [4, 40, 0], [0, 2, 30]])
RATES = pd.DataFrame(
    {
        "setting": ["one", "two"],
        "images_per_second": [100.0, 1200.0],
        "lowest": [90.0, 1100.0],
        "highest": [110.0, 1300.0],
    }
)
PARTS = pd.Series({"data": 1.0, "forward": 20.0, "backward": 40.0, "optimizer": 3.0})

LATENCY = pd.DataFrame(
    {
        "variant": ["float_eager", "int8_x", "float_eager", "int8_x"],
        "batch": [1, 1, 64, 64],
        "median_ms": [5.0, 0.5, 30.0, 10.0],
    }
)
VERDICTS = pd.DataFrame(
    {
        "batch": [1, 64],
        "threads": 1,
        "fastest_float": ["float_openvino", "float_compiled"],
        "eager_ms": [5.0, 30.0],
        "fastest_float_ms": [0.4, 20.0],
        "int8_ms": [0.5, 10.0],
    }
)
SAMPLES = pd.DataFrame(
    {
        "variant": ["float_eager", "int8_x"] * 3,
        "batch": 8,
        "round": [0, 0, 1, 1, 2, 2],
        "ms": [4.0, 1.0, 5.0, 2.0, 9.0, 3.0],
    }
)
SHARES = pd.DataFrame(
    {
        "layer": ["conv1", "layer1.0", "layer1.1"],
        "parameters": [1, 1, 2],
        "macs": [2, 1, 1],
        "activation_bytes": [6, 1, 1],
    }
)
FIELDS = pd.DataFrame({"layer": ["conv1", "pool", "last"], "field": [7, 11, 20]})
STAGES = pd.DataFrame({"stage": ["layer1", "layer2"], "used": [1e6, 2e6], "idle": [0, 1e6]})
TAPS = {"layer1.0": np.ones((3, 3)), "layer2.0": np.diag([0, 1, 0])}
PROFILE = pd.DataFrame(
    {"layer": ["quant", "conv1", "fc"], "sqnr_db": [40.0, 21.5, 25.0], "scale": [0.1, 0.2, 0.3]}
)
BYTES = pd.DataFrame({"float32": [4000, 800], "int8": [1000, 0]}, index=["weights", "batch norm"])
QPARAMS = {"input": (0.1, 3), "conv1": (0.2, 0), "conv2": (0.3, 64), "add_relu": (0.25, 0)}
PAIRED = comparison.Comparison(1000, 0.99, 0.985, 7, 2, 10, 0.18, -0.005, -0.011, 0.001)


NAMES = ["float_eager", "float_fused", "float_openvino", "int8_fbgemm", "int8_x86", "int8_onednn"]
FIRST_CALLS = {"float_eager": [120.0, 11.0, 9.0], "int8_fbgemm": [9.0, 3.5, 3.4]}
SETTINGS = pd.Series({"1 thread": 9.0, "2 threads": 5.25, "4 threads": 1234.0})
SINGLE = np.concatenate([np.linspace(2.0, 3.0, 98), [0.1, 40.0]])
MEMORY = pd.DataFrame(
    {
        "variant": ["float_eager", "int8_fbgemm", "float_openvino"],
        "file_mb": [44.8, 11.3, 44.7],
        "before_mb": [200.0, 200.0, np.nan],
        "after_mb": [252.0, 222.5, np.nan],
        "peak_mb": [300.0, 236.0, np.nan],
    }
)
SUMMARY = pd.DataFrame(
    {
        "variant": NAMES * 4,
        "batch": np.repeat([1, 64, 1, 64], len(NAMES)),
        "threads": np.repeat([1, 1, 2, 2], len(NAMES)),
        "images_per_second": [
            *(110.0, 111, 425, 290, 320, 260, 450, 455, 1185, 1480, 1560, 1940),
            *(190.0, 191, 700, 480, 520, 410, 760, 770, 1950, 2400, 2500, 3200),
        ],
    }
)
STEPS = pd.DataFrame(
    {
        "step": ["eager", "oneDNN kernel", "packed weights", "fused", "fewer weight bytes", "int8"],
        "ms": [9.9, 14.0, 5.5, 4.5, 4.3, 3.4],
    }
)
POINTS = pd.DataFrame(
    {
        "dtype": ["float32", "float32", "int8", "int8"] * 2,
        "batch": [1] * 4 + [64] * 4,
        "layer": ["conv1", "fc"] * 4,
        "intensity": [40.0, 0.5, 150.0, 2.0, 90.0, 30.0, 350.0, 110.0],
        "rate": [45.0, 9.5, 95.0, 60.0, 81.0, 45.0, 152.0, 38.0],
    }
)
ROOFS = {"float32": (90.0, 19.0), "int8": (190.0, 60.0)}
RATIOS = pd.DataFrame([[0.5, 0.8], [1.0, 1.25], [1.6, np.nan]], index=[1, 8, 64], columns=[1, 2])
LAYERS = pd.DataFrame(
    {"layer": ["conv1", "conv2", "fc"], "float_ms": [0.5, 0.3, 0.01], "int8_ms": [0.1, 0.2, 0.02]}
)
CEILINGS = pd.DataFrame(
    [
        ("read 1 MB", "sum", 61.2, "GB/s", ""),
        ("read 1 MB", "maximum", 80.1, "GB/s", ""),
        ("float32", "convolution", 71.0, "GOP/s", ""),
        ("float32", "matrix product", 90.0, "GOP/s", ""),
        ("int8", "convolution, onednn", np.nan, "GOP/s", "not done after 5 s"),
        ("int8", "convolution, fbgemm", 190.0, "GOP/s", ""),
        (
            "bfloat16",
            "convolution",
            np.nan,
            "GOP/s",
            "RuntimeError: " + "no such\ninstruction " * 5,
        ),
    ],
    columns=["kind", "kernel", "value", "unit", "problem"],
)


def calls(names=tuple(NAMES), batches=(1, 64), threads=(1, 2), rounds=3):
    """Samples as the benchmark returns them: the later the variant's name, the faster it is."""
    rows = [
        (name, batch, count, number, call, (9.0 - place) * batch / count * (1 + 0.1 * call))
        for count in threads
        for batch in batches
        for number in range(rounds)
        for place, name in enumerate(names)
        for call in range(5)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


def gradient():
    """A square of ones on zeros."""
    field = np.zeros((32, 32))
    field[6:26, 6:26] = np.linspace(1, 2, 400).reshape(20, 20)
    return field


def observers():
    """Two observers that have seen numbers."""
    made = {"a": tq.HistogramObserver(), "b": tq.HistogramObserver()}
    for observer in made.values():
        observer(torch.linspace(-1, 3, 500))
    return made


# Each drawing function with arguments, and what its alt text must say.
FIGURES = {
    "gallery": (
        lambda: plots.gallery(torch.zeros(9, 1, 28, 28), [*"123456789"], "Digits", "nine digits"),
        ["nine digits"],
    ),
    "learning_curves": (
        lambda: plots.learning_curves(HISTORY, 0.2, [0.01, 0.04, 0.02, 0.0001]),
        ["from 1.50 to 0.50", "from 1.25 to 0.25", "from 75.0% to 97.5%", "rises to 0.04"],
    ),
    "confusion": (
        lambda: plots.confusion(COUNTS, ("cat", "dog", "cow")),
        ["127 images", "120 on the diagonal", "7 off it", "is 4: true dog taken for cat"],
    ),
    "step_parts": (
        lambda: plots.step_parts(PARTS, 16.0),
        ["64 ms", "forward 20 ms", "16 ms, 25% of it"],
    ),
    "throughput": (
        lambda: plots.throughput(RATES),
        ["Fastest: two, 1,200", "slowest: one, 100"],
    ),
    "headline": (
        lambda: plots.headline(PAIRED, 4_000_000, 1_000_000, VERDICTS),
        ["99.00 and 98.50", "4.00, 1.00 MB", "5.00, 0.40, 0.50 ms", "batch 64 30.00, 20.00, 10.00"],
    ),
    "quickstart": (
        lambda: plots.quickstart(PAIRED, 44_800_000, 11_200_000, LATENCY),
        ["99.00 and 98.50", "44.80 and 11.20 MB", "batch 64 30.00 and 10.00 ms"],
    ),
    "layer_shares": (
        lambda: plots.layer_shares({"28x28": SHARES, "224x224": SHARES}),
        ["3 layers", "Parameters at 28x28: conv1 25 %, layer1 75 %"],
    ),
    "receptive_field": (
        lambda: plots.receptive_field(FIELDS, gradient(), (6, 25), (28, 224)),
        ["from 7 to 20 pixels over 3 layers", "28 and 224 pixels", "square of 20 pixels"],
    ),
    "padding_taps": (
        lambda: plots.padding_taps(TAPS, STAGES),
        ["9, 1 of 9 taps meet data", "25% of all weights"],
    ),
    "residual_block": (
        lambda: plots.residual_block(QPARAMS),
        ["conv2 S = 0.3, Z = 64", "add_relu S = 0.25, Z = 0"],
    ),
    "number_line": (
        lambda: plots.number_line([-0.5, 0.2, 9.0], 0.25, 3, 8),
        ["3 real values", "8 integers", "on code 3"],
    ),
    "observer_ranges": (lambda: plots.observer_ranges(observers()), ["outside it: a ", "b "]),
    "weight_channels": (
        lambda: plots.weight_channels(torch.tensor([0.25, 1.0, 0.5]), "conv1"),
        ["3 output channels of conv1", "from 1 to 0.25"],
    ),
    "layer_profile": (
        lambda: plots.layer_profile(PROFILE),
        ["3 layers", "from 40.0 dB", "to 25.0 dB", "lowest at conv1"],
    ),
    "size_parts": (lambda: plots.size_parts(BYTES), ["weights: 4.0 and 1.0 kB"]),
    "latency_rounds": (
        lambda: plots.latency_rounds(SAMPLES),
        ["float_eager 5.00 ms at batch 8", "int8_x 2.00 ms"],
    ),
    "first_calls": (
        lambda: plots.first_calls(FIRST_CALLS),
        ["float32, eager: 120 ms, then 9 ms", "int8, eager, fbgemm: 9 ms, then 3.4 ms"],
    ),
    "choices": (
        lambda: plots.choices(SETTINGS, "Threads", "latency (ms)", "2 threads"),
        ["Threads. latency (ms): 1 thread 9; 2 threads 5.25; 4 threads 1,234", "2 threads is high"],
    ),
    "one_call_or_many": (
        lambda: plots.one_call_or_many(SINGLE, 2.4, 2.5, 2.6, "range of 7 rounds"),
        [
            "its range of 7 rounds from",
            "100 single pairs",
            "from 0.10 to 40.00",
            "is 2.50",
            "from 2.40 to 2.60; 80%",
        ],
    ),
    "memory_bars": (
        lambda: plots.memory_bars(MEMORY),
        ["File (MB): float32, eager: 44.8", "keeps (MB): float32, eager: 52.0; int8, eager, fbg"]
        + ["fbgemm: 22.5; float32, OpenVINO: none", "peak (MB): float32, eager: 100.0"],
    ),
    "latency_distributions": (
        lambda: plots.latency_distributions(calls(), 2),
        [
            "2 threads, 6 variants",
            "batch 1 (too few calls for whiskers): from 2.4 ms (int8, eager, onednn) to 5.4",
        ],
    ),
    "throughput_curves": (
        lambda: plots.throughput_curves(SUMMARY),
        ["6 variants", "one thread, batch 1: 425 images per second (float32, OpenVINO)"]
        + ["2 threads, batch 64: 3,200 images per second (int8, eager, onednn)"],
    ),
    "waterfall": (
        lambda: plots.waterfall(STEPS),
        ["eager 9.9 ms; oneDNN kernel 14 ms (×0.707, slower)", "5.5 ms (×2.55 faster)"]
        + ["int8 3.4 ms (×1.26 faster)", "In all ×2.91"],
    ),
    "roofline": (
        lambda: plots.roofline(POINTS, ROOFS),
        ["float32 90 GOP/s and 19 GB/s", "batch 1, float32: 75% of the roof"]
        + ["batch 64, int8: 50% of the roof"],
    ),
    "ratio_map": (
        lambda: plots.ratio_map(RATIOS, "int8 against float32"),
        ["faster in 2 and slower in 2 of 5 cells", "from 0.50 times at batch 1, threads 1 to 1.60"],
    ),
    "layer_ratios": (
        lambda: plots.layer_ratios(LAYERS),
        ["3 layers", "most at conv1, 5.00", "least at fc, 0.50", "Slower in int8: fc."],
    ),
    "ceilings": (
        lambda: plots.ceilings(CEILINGS),
        ["float32 90 GOP/s (matrix product); int8 190 GOP/s (convolution, fbgemm); bfloat16 none"]
        + ["read 1 MB 80.1 GB/s (maximum)"],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # those that utils.models silences
@pytest.mark.parametrize(("draw", "said"), FIGURES.values(), ids=FIGURES)
def test_a_figure_comes_with_alt_text_that_says_what_it_shows(draw, said):
    fig, alt = draw()
    assert isinstance(fig, Figure)
    assert len(np.unique(drawn(fig))) > 2
    assert fig.get_size_inches()[0] <= 10
    for part in said:
        assert part in alt


def test_every_drawing_function_is_in_the_list_above():
    drawing = {
        name
        for name, function in inspect.getmembers(plots, inspect.isfunction)
        if function.__module__ == plots.__name__ and not name.startswith("_")
    }
    assert drawing - {"figure", "show", "label", "image"} == FIGURES.keys()


def test_gallery_hides_the_axes_it_does_not_need():
    fig, _ = plots.gallery(torch.zeros(3, 1, 28, 28), [""] * 3, "h", "alt", columns=2)
    assert len(fig.axes) == 4
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1, 0]
    assert not any(ax.axison for ax in fig.axes)


def test_confusion_leaves_its_input_alone_and_the_diagonal_white():
    counts = COUNTS.copy()
    fig, _ = plots.confusion(counts, ("cat", "dog", "cow"))
    assert (counts == COUNTS).all()
    assert fig.axes[0].images[0].get_array().diagonal().tolist() == [0, 0, 0]


def test_confusion_without_an_error():
    _, alt = plots.confusion(np.diag([3, 4]), ("a", "b"))
    assert "7 on the diagonal, 0 off it" in alt


def test_latency_rounds_draws_the_median_call_of_every_round():
    samples = calls(["float_eager", "int8_x86"], [1], [1])
    samples.loc[samples["call"] == 4, "ms"] = 500.0  # not seen by the median
    fig, alt = plots.latency_rounds(samples)
    drawn_lines = [line.get_ydata() for line in fig.axes[0].lines]
    assert np.allclose(drawn_lines, [[10.8] * 3, [9.6] * 3])
    assert "float_eager 10.80 ms at batch 1" in alt


def test_every_variant_has_a_look_of_its_own():
    assert plots.LOOKS.keys() == VARIANTS.keys()
    colors, markers, _ = zip(*plots.LOOKS.values(), strict=True)
    assert len(set(colors)) == len(set(markers)) == len(VARIANTS)
    for dtype in ("float", "int8"):
        styles = [look[2] for name, look in plots.LOOKS.items() if name.startswith(dtype)]
        assert len(set(styles)) == len(styles)


def test_an_unknown_variant_looks_like_its_dtype():
    assert plots._look("float_new") == {**plots.STYLE[plots.FLOAT], "linestyle": "-"}
    assert plots._look("int8_new") == {**plots.STYLE[plots.INT8], "linestyle": "-"}
    fig, _ = plots.first_calls({"int8_new": [1.0, 1.0]})
    assert [text.get_text() for text in fig.legends[0].texts] == ["int8_new"]


def test_a_variant_has_the_same_look_in_every_figure():
    samples = calls()
    memory = pd.DataFrame({"variant": NAMES, "file_mb": 9.0, "before_mb": 1.0})
    memory = memory.assign(after_mb=3.0, peak_mb=4.0)
    lines = [
        plots.first_calls({name: [2.0, 1.0] for name in NAMES})[0].axes[0].lines,
        *(ax.lines for ax in plots.throughput_curves(SUMMARY)[0].axes),
        *(ax.lines for ax in plots.latency_rounds(samples[samples["threads"] == 1])[0].axes),
    ]
    patches = [
        *(ax.patches for ax in plots.memory_bars(memory)[0].axes),
        *(ax.patches for ax in plots.latency_distributions(samples, 1)[0].axes),
    ]
    for drawn_lines in lines:
        looks = [(line.get_color(), line.get_marker()) for line in drawn_lines]
        assert looks == [plots.LOOKS[name][:2] for name in NAMES]
    for drawn_patches in patches:
        colors = [patch.get_facecolor()[:3] for patch in drawn_patches]
        assert colors == [to_rgb(plots.LOOKS[name][0]) for name in NAMES]
        hatched = [bool(patch.get_hatch()) for patch in drawn_patches]
        assert hatched == [name.startswith("int8") for name in NAMES]


@pytest.mark.parametrize(("first", "scale"), [(90.0, "linear"), (91.0, "log")])
def test_first_calls_are_logarithmic_over_ten_times(first, scale):
    fig, _ = plots.first_calls({"float_eager": [first, 9.0]})
    assert fig.axes[0].get_yscale() == scale


def test_choices_highlights_one_row():
    fig, _ = plots.choices(SETTINGS, "Threads", "latency (ms)", "2 threads")
    grey, marked = to_rgb(plots.GREY), to_rgb(plots.ACCENT)
    colors = [patch.get_facecolor()[:3] for patch in fig.axes[0].patches]
    assert colors == [grey, marked, grey]
    assert [bool(patch.get_hatch()) for patch in fig.axes[0].patches] == [False, True, False]
    _, alt = plots.choices(SETTINGS, "Threads", "latency (ms)")
    assert "highlighted" not in alt
    with pytest.raises(ValueError, match="not in list"):
        plots.choices(SETTINGS, "Threads", "latency (ms)", "3 threads")


def test_far_pairs_are_counted_at_the_ends_of_the_axis():
    fig, _ = plots.one_call_or_many(SINGLE, 2.4, 2.5, 2.6)
    (ax,) = fig.axes
    assert sum(patch.get_height() for patch in ax.patches[:40]) == len(SINGLE)
    assert ax.get_xlim()[1] < 10
    assert "2 beyond the axis" in ax.get_xlabel()
    fig, _ = plots.one_call_or_many(SINGLE[:-2], 2.4, 2.5, 2.6)
    assert "beyond" not in fig.axes[0].get_xlabel()


def test_memory_bars_take_the_libraries_off_and_say_none():
    fig, _ = plots.memory_bars(MEMORY)
    assert [[patch.get_width() for patch in ax.patches] for ax in fig.axes] == [
        [44.8, 11.3, 44.7],
        [52.0, 22.5],
        [100.0, 36.0],
    ]
    assert [[text.get_text() for text in ax.texts][2] for ax in fig.axes] == [
        "44.7",
        "none",
        "none",
    ]


def test_memory_bars_without_a_number():
    _, alt = plots.memory_bars(MEMORY.iloc[[2]])
    assert "keeps (MB): float32, OpenVINO: none." in alt


def titles(fig):
    """Of the axes that are shown."""
    return [ax.get_title(loc="left") for ax in fig.axes if ax.axison]


def test_distributions_choose_four_of_many_batches():
    fig, _ = plots.latency_distributions(calls(batches=(1, 2, 4, 8, 16, 32, 64)), 1)
    assert titles(fig) == [
        f"Batch {n}, one thread, too few calls for whiskers" for n in (1, 4, 16, 64)
    ]


def test_distributions_of_three_batches_leave_a_panel_empty():
    fig, _ = plots.latency_distributions(calls(batches=(1, 8, 64)), 2)
    assert [title.split(",")[0] for title in titles(fig)] == ["Batch 1", "Batch 8", "Batch 64"]


@pytest.mark.parametrize(
    ("rounds", "words"),
    [(3, "too few calls for whiskers"), (4, "whiskers 10 to 90 %"), (20, "whiskers 1 to 99 %")],
)
def test_whiskers_end_where_there_are_enough_calls(rounds, words):
    """Five calls a round; the fewest of any variant decide."""
    samples = calls(["float_eager", "int8_x86"], [1], [1], rounds)
    fig, alt = plots.latency_distributions(samples, 1)
    assert titles(fig) == [f"Batch 1, one thread, {words}"]
    assert words in alt
    share = 0.25 if rounds < 4 else 0.1 if rounds < 20 else 0.01
    lowest = min(x for line in fig.axes[0].lines for x in line.get_xdata())
    assert lowest == pytest.approx(samples[samples["variant"] == "int8_x86"]["ms"].quantile(share))


def test_distributions_put_each_box_into_the_row_of_its_variant():
    samples = calls()
    samples = samples[(samples["batch"] == 1) | (samples["variant"] != "float_fused")]
    fig, _ = plots.latency_distributions(samples, 1)
    rows = [[path.get_path().vertices[:4, 1].mean() for path in ax.patches] for ax in fig.axes]
    assert rows == [[0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5]]


def test_distributions_need_samples():
    with pytest.raises(ValueError, match="no samples with 8 threads"):
        plots.latency_distributions(calls(), 8)


@pytest.mark.parametrize(("slowest", "scale"), [(5.0, "linear"), (5.5, "log")])
def test_distributions_are_logarithmic_over_five_times(slowest, scale):
    samples = calls(["float_eager", "int8_x86"], [1], [1])
    samples["ms"] = np.where(samples["variant"] == "float_eager", slowest, 1.0)
    assert plots.latency_distributions(samples, 1)[0].axes[0].get_xscale() == scale


def test_throughput_ticks_are_the_batches():
    fig, _ = plots.throughput_curves(SUMMARY)
    assert titles(fig) == ["One thread", "2 threads"]
    for ax in fig.axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "64"]
    assert len(fig.legends) == 1
    assert len(fig.legends[0].texts) == len(NAMES)


def bars(fig):
    """Lower end, upper end and hatch of each bar."""
    return [
        (round(bar.get_y(), 6), round(bar.get_y() + bar.get_height(), 6), bool(bar.get_hatch()))
        for bar in fig.axes[0].patches
    ]


def test_waterfall_draws_a_slower_step_rising_and_hatched():
    fig, _ = plots.waterfall(STEPS)
    assert bars(fig) == [
        (0, 9.9, False),
        (9.9, 14.0, True),
        (5.5, 14.0, False),
        (4.5, 5.5, False),
        (4.3, 4.5, False),
        (0, 3.4, True),
    ]
    said = [text.get_text() for text in fig.axes[0].texts]
    assert said[:3] == ["9.9 ms", "14 ms\n×0.707, slower", "5.5 ms\n×2.55 faster"]
    colors = [fig.axes[0].patches[place].get_facecolor()[:3] for place in (0, -1)]
    assert colors == [to_rgb(plots.FLOAT), to_rgb(plots.INT8)]


def test_waterfall_may_end_slower_or_change_nothing():
    steps = pd.DataFrame({"step": ["a", "b", "c"], "ms": [4.0, 4.0, 5.0]})
    fig, alt = plots.waterfall(steps)
    assert bars(fig) == [(0, 4.0, False), (4.0, 4.0, False), (0, 5.0, True)]
    assert "b 4 ms (×1, the same); c 5 ms (×0.8, slower)" in alt
    assert fig.axes[0].get_ylim()[1] > 5


def test_roofs_bend_where_the_memory_is_enough():
    fig, _ = plots.roofline(POINTS, ROOFS)
    assert titles(fig) == ["Batch 1", "Batch 64"]
    float_roof, float_points, int8_roof, _ = fig.axes[0].lines
    for line, (peak, bandwidth) in ((float_roof, ROOFS["float32"]), (int8_roof, ROOFS["int8"])):
        x, y = line.get_data()
        assert np.allclose(y, np.minimum(peak, bandwidth * x))
        assert x[0] < peak / bandwidth < x[-1]
    assert float_roof.get_linestyle() != int8_roof.get_linestyle()
    assert list(float_points.get_ydata()) == [45.0, 9.5]


def test_roofline_names_the_layers_it_is_asked_to():
    fig, _ = plots.roofline(POINTS, ROOFS, ("conv1",))
    for ax in fig.axes:
        assert [text.get_text() for text in ax.texts] == ["conv1"] * 2  # float32 and int8
        points = {xy for line in ax.lines for xy in zip(*line.get_data(), strict=True)}
        assert {text.xy for text in ax.texts} <= points


def test_roofline_of_one_dtype_and_batch():
    here = POINTS[(POINTS["dtype"] == "int8") & (POINTS["batch"] == 1)]
    fig, alt = plots.roofline(here, ROOFS)
    assert titles(fig) == ["Batch 1"]
    assert len(fig.axes[0].lines) == 3  # the float32 roof has no points
    assert "batch 1, int8" in alt and "batch 1, float32" not in alt


def test_ratio_map_is_white_at_one_and_marks_where_int8_loses():
    fig, _ = plots.ratio_map(RATIOS, "title")
    (picture,) = fig.axes[0].images
    assert np.allclose(picture.to_rgba(1.0), 1, atol=0.01)
    blue, orange = picture.to_rgba(0.5)[:3], picture.to_rgba(2.0)[:3]
    assert np.allclose([blue, orange], [to_rgb(plots.FLOAT), to_rgb(plots.INT8)])
    cells = {text.get_text(): text.get_weight() == "bold" for text in fig.axes[0].texts}
    assert cells == {
        **{"0.50": True, "0.80": True, "1.00": False},
        **{"1.25": False, "1.60": False, "none": False},
    }
    hatched = [patch.get_xy() for patch in fig.axes[0].patches if patch.get_hatch()]
    assert hatched == [(-0.5, -0.5), (0.5, -0.5)]


def test_ratio_map_takes_its_labels_from_the_table():
    table = RATIOS.rename_axis(index="size", columns="engine")
    fig, alt = plots.ratio_map(table, "title")
    assert texts(fig.axes[0]) == ("title", "engine", "size")
    assert "at size 1, engine 1" in alt


def test_layers_that_int8_slows_down_hang_below_one():
    fig, _ = plots.layer_ratios(LAYERS)
    assert fig.axes[0].get_yscale() == "log"
    assert [(top, hatch) for _, top, hatch in bars(fig)] == [(5, False), (1.5, False), (0.5, True)]
    assert {low for low, _, _ in bars(fig)} == {1}


def test_layer_ratios_when_int8_always_wins():
    fig, alt = plots.layer_ratios(LAYERS.iloc[:2])
    assert [text.get_text() for text in fig.axes[0].get_legend().texts] == ["int8 is faster"]
    assert alt.endswith("Slower in int8: none.")


def test_ceilings_emphasize_the_best_and_tell_problems_briefly():
    fig, _ = plots.ceilings(CEILINGS)
    assert titles(fig) == ["Arithmetic", "Reading memory"]
    arithmetic, reading = fig.axes
    assert {p.get_width(): bool(p.get_hatch()) for p in arithmetic.patches} == {
        71.0: False,
        90.0: True,
        190.0: True,
    }
    assert [bool(p.get_hatch()) for p in reading.patches] == [False, True]
    said = [text.get_text() for text in arithmetic.texts]
    assert said[2] == "not done after 5 s"
    assert said[-1] == "RuntimeError: no such instruction no su…"
    assert len(said[-1]) == 40


def test_ceilings_of_which_none_was_reached():
    fig, alt = plots.ceilings(CEILINGS.iloc[[6]])
    assert titles(fig) == ["Arithmetic"]
    assert "bfloat16 none" in alt


def test_axes_of_the_timings_carry_units():
    figures = ["first_calls", "choices", "latency_distributions", "waterfall", "latency_rounds"]
    for name in figures:
        for ax in FIGURES[name][0]()[0].axes:
            assert "(ms" in ax.get_xlabel() + ax.get_ylabel(), name
