import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from utils import plots


def drawn(fig):
    """The figure's pixels, as an array (height, width, 4)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def texts(ax):
    """Title and axis labels."""
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
}


@pytest.mark.parametrize(("draw", "said"), FIGURES.values(), ids=FIGURES)
def test_a_figure_comes_with_alt_text_that_says_what_it_shows(draw, said):
    fig, alt = draw()
    assert isinstance(fig, Figure)
    assert len(np.unique(drawn(fig))) > 2
    for part in said:
        assert part in alt


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
