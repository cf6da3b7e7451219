"""One look for every figure: colors, markers, and the one function that shows a figure.

float32 is blue with circles, int8 is orange with squares, in every notebook: Okabe and Ito's
colors, which survive color blindness, and of different lightness, which survives greyscale.
"""

import base64
import io

from IPython.display import publish_display_data
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from utils.catalog import VARIANTS

FLOAT, INT8, GREY, ACCENT = "#0072B2", "#E69F00", "#8A8A8A", "#7B2D5B"
STYLE = {
    FLOAT: {"color": FLOAT, "marker": "o"},
    INT8: {"color": INT8, "marker": "s"},
}
DPI = 100
WIDTH = 7  # inches; on a phone, the text of a wider figure is too small to read


def figure(
    rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = 3.6, **keywords
) -> tuple[Figure, Axes]:
    """Make a figure and its axes, without pyplot's global state.

    Parameters
    ----------
    rows, columns : int
    width, height : float
        In inches; no figure is wider than :data:`WIDTH`.
    **keywords
        For ``Figure.subplots``.

    Returns
    -------
    Figure, Axes or array of Axes
    """
    fig = Figure(figsize=(min(width, WIDTH), height), dpi=DPI, layout="constrained")
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
    drawn, buffer = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI)
    # 256 colors are plenty for a drawing, and a third of the bytes in a notebook.
    Image.open(drawn).convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
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


# One look for each variant, in every figure: the shade of its dtype, a marker and a line style.
LOOKS = {
    "float_eager": (FLOAT, "o", "-"),
    "float_fused": ("#56B4E9", "v", "--"),
    "float_channels_last": ("#003B5C", "^", "-."),
    "float_compiled": ("#3A8FC4", "P", ":"),
    "float_onnxruntime": ("#7FB2D6", "<", (0, (6, 1.5))),
    "float_openvino": ("#00527F", "d", (0, (3, 1, 1, 1, 1, 1))),
    "int8_fbgemm": (INT8, "s", "-"),
    "int8_x86": ("#8A5200", "X", "--"),
    "int8_onednn": ("#D55E00", "D", "-."),
    "int8_qnnpack": ("#F2BE5C", "p", ":"),
}


def look(variant: str) -> dict:
    """Color, marker and line style of a variant; its dtype's own if the variant is unknown."""
    color = FLOAT if variant.startswith("float") else INT8
    unknown = (color, STYLE[color]["marker"], "-")
    return dict(zip(("color", "marker", "linestyle"), LOOKS.get(variant, unknown), strict=True))


def fill(variant: str) -> dict:
    """Color and hatch of a variant's bar or box: int8 is hatched."""
    hatch = "" if variant.startswith("float") else "///"
    return {"facecolor": look(variant)["color"], "hatch": hatch, "edgecolor": "black"}


def name_of(variant: str) -> str:
    return VARIANTS[variant].label if variant in VARIANTS else variant


def short(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def threads_text(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def beside(ax: Axes, end: float, row: int, text: str, **keywords) -> None:
    """Write a text at the end of a horizontal bar."""
    where = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    ax.annotate(text, (end, row), **where, **keywords)


def plain_log(axis: Axis, low: float, high: float) -> None:
    """Put plain numbers on a logarithmic axis, the more of them the shorter it is."""
    marks = {3: (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), 10: (1, 1.5, 2, 3, 4, 5, 7)}
    marks |= {1000: (1, 2, 5), float("inf"): (1,)}
    subs = next(subs for most, subs in marks.items() if high <= most * low)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def legend_below(fig: Figure, columns: int) -> None:
    """One legend for all axes, outside of them, in so few columns that the figure holds it."""
    entries = {}
    for ax in fig.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    below = {"loc": "outside lower center", "frameon": False, "fontsize": 9, "handlelength": 3.5}
    for count in range(columns, 0, -1):
        legend = fig.legend(entries.values(), entries.keys(), ncols=count, **below)
        if count == 1 or legend.get_tightbbox().width <= fig.bbox.width:
            return
        legend.remove()
