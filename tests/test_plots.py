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

from utils import plots, statistics
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
PAIRED = statistics.Comparison(1000, 0.99, 0.985, 7, 2, 10, 0.18, -0.005, -0.011, 0.001)


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
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # those that utils.models silences
@pytest.mark.parametrize(("draw", "said"), FIGURES.values(), ids=FIGURES)
def test_a_figure_comes_with_alt_text_that_says_what_it_shows(draw, said):
    fig, alt = draw()
    assert isinstance(fig, Figure)
    assert len(np.unique(drawn(fig))) > 2
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
