"""The course's drawing: one look, one function to show a figure with its alt text.

float32 is blue with circles, int8 is orange with squares, in every notebook: Okabe and Ito's
colours, which survive colour blindness, and of different lightness, which survives greyscale.
"""

import base64
import io

from IPython.display import publish_display_data
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FLOAT, INT8, GREY, ACCENT = "#0072B2", "#E69F00", "#8A8A8A", "#7B2D5B"
STYLE = {
    FLOAT: {"color": FLOAT, "marker": "o"},
    INT8: {"color": INT8, "marker": "s"},
}
DPI = 100


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 3.6), **keywords
) -> tuple[Figure, Axes]:
    """Make a figure and its axes, without pyplot's global state.

    Parameters
    ----------
    rows, columns : int
    size : (float, float)
        Width and height in inches.
    **keywords
        For ``Figure.subplots``.

    Returns
    -------
    Figure, Axes or array of Axes
    """
    fig = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = fig.subplots(rows, columns, **keywords)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def show(fig: Figure, alt: str) -> None:
    """Display a figure in the notebook, with alt text for those who cannot see it.

    Raises
    ------
    ValueError
        If ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("a figure needs alt text: say what it shows and what one sees")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    png = base64.b64encode(buffer.getvalue()).decode()
    publish_display_data({"image/png": png, "text/plain": alt}, {"image/png": {"alt": alt}})


def label(ax: Axes, title: str, x: str = "", y: str = "") -> None:
    """Set title and axis labels; units belong into the labels."""
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def image(ax: Axes, pixels, title: str = "") -> None:
    """Draw one digit: a (28, 28) or (1, 28, 28) array, 0 black to 255 white."""
    ax.imshow(pixels.reshape(pixels.shape[-2:]), cmap="gray", vmin=0, vmax=255)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
