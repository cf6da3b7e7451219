"""Figures of notebook 01; notebook 03 draws its blocks with the same function."""

from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy import cumsum, ma, ndarray, ndenumerate, searchsorted
from pandas import DataFrame

from utils.figures.style import ACCENT, DPI, FLOAT, GREY, INT8, WIDTH, figure, label, legend_below

_BLOCKS = {  # title, and the middle of each box
    "float": (
        "A residual block, float32",
        {"conv1": 8, "bn1": 21, "relu": 34, "conv2": 47, "bn2": 60, "+": 73, "relu ": 86},
    ),
    "ready": (
        "The same block, ready for quantization",
        {"conv1": 8, "bn1": 21, "relu": 34, "conv2": 47, "bn2": 60, "add_relu": 79.5},
    ),
    "int8": (
        "The block in int8",
        {"ConvReLU2d": 21, "Conv2d": 53.5, "add_relu": 79.5},
    ),
}
_OBSERVED = (0.5, 40, 68, 93)  # the input, relu, bn2 and add_relu


def residual_block(kind: str = "float") -> tuple[Figure, str]:
    """Draw a basic block with its shortcut.

    Parameters
    ----------
    kind : {"float", "ready", "int8"}
        As it is; with its addition as a module and with observers; fused and converted.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    name, middles = _BLOCKS[kind]
    color, corners = (INT8, "square,pad=0") if kind == "int8" else (FLOAT, "round,pad=0")
    fig, ax = figure(height=2.3)
    ax.set(xlim=(-2, 100), ylim=(-11, 6))
    ax.set_axis_off()
    label(ax, name)
    line = {"color": color, "linewidth": 2}
    head = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12, **line}
    sizes = {"+": 5, "add_relu": 14, "ConvReLU2d": 35, "Conv2d": 22}
    halves = [sizes.get(text, 9) / 2 for text in middles]
    starts = [-1, *(x + half for x, half in zip(middles.values(), halves, strict=True))]
    ends = [*(x - half for x, half in zip(middles.values(), halves, strict=True)), 99]
    for start, end in zip(starts, ends, strict=True):
        ax.annotate("", (end, 0), (start, 0), arrowprops=head)
    for (text, x), half in zip(middles.items(), halves, strict=True):
        box = FancyBboxPatch((x - half, -3), 2 * half, 6, boxstyle=corners, linewidth=1.6)
        ax.add_patch(box).set(facecolor=to_rgba(color, 0.16), edgecolor=color)
        ax.text(x, 0, text.strip(), ha="center", va="center", fontsize=11)
    plus = middles.get("+", middles.get("add_relu"))
    ax.plot([2, 2, plus], [0, -8, -8], **line)
    ax.annotate("", (plus, -3), (plus, -8), arrowprops=head)
    look = {"facecolor": "white", "edgecolor": color, "linestyle": ":"}
    detour = f"{'conv 1×1' if kind == 'int8' else 'conv 1×1 and bn'} where shapes differ"
    ax.text(plus / 2, -8, f"shortcut; {detour}", fontsize=9, ha="center", va="center", bbox=look)
    ax.text(-1, 2.5, "x", style="italic", fontsize=11)
    said = f"{name}: {', '.join(text.strip() for text in middles)}; a shortcut leads from the input"
    said += f" to the addition ({detour})."
    if kind == "ready":
        ax.plot(_OBSERVED, [0] * 4, "D", color=ACCENT, markersize=7, label="observer", zorder=5)
        ax.legend(frameon=False, loc="lower right")
        said += " Observers sit at the input and behind relu, bn2 and add_relu."
    return fig, said


def receptive_field(gradient: ndarray, box: tuple[int, int]) -> tuple[Figure, str]:
    """Draw which pixels one output depends on, and how strongly.

    Parameters
    ----------
    gradient : ndarray
        Shape (H, W): absolute derivative of one output with respect to each input pixel.
    box : (int, int)
        First and last pixel that the formula says this output sees, in both directions.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, (left, right) = figure(1, 2, height=3.2, width_ratios=(1, 1.1))
    first, last = box
    width = last - first + 1
    fig.get_layout_engine().set(wspace=0.06)  # the labels in the middle belong to two panels
    norm = LogNorm(gradient[gradient > 0].min(), gradient.max())
    drawn = left.imshow(ma.masked_equal(gradient, 0), norm=norm, cmap="Greys")
    corner = (first - 0.5, first - 0.5)
    left.add_patch(Rectangle(corner, width, width, fill=False, edgecolor=ACCENT, linewidth=2))
    label(left, f"Reached: {width} pixels", "column (pixel)", "row (pixel)")
    fig.colorbar(drawn, ax=left, label="|gradient| (logarithmic)", shrink=0.85)
    strength = 100 * gradient.sum(0) / gradient.sum()
    low, high = searchsorted(cumsum(strength), (5, 95))
    right.axvspan(low, high, color="#E5E5E5")
    right.plot(strength, color="black", linewidth=1)
    for edge in box:
        right.axvline(edge, color=ACCENT, linewidth=2)
    right.set_ylim(bottom=0)
    title = f"Shaded: 90 %, {high - low + 1} columns"
    label(right, title, "column (pixel)", "share of the gradient (%)")
    return fig, (
        f"Left: the gradient of one output fills a square of {width} pixels, on a logarithmic "
        f"scale. Right: its share in each column of pixels, on a linear scale: {high - low + 1} "
        f"columns in the middle hold 90 % of it."
    )


def padding_taps(counts: dict[str, ndarray], stages: DataFrame) -> tuple[Figure, str]:
    """Draw which taps of four kernels meet data, and how many weights that leaves idle.

    Parameters
    ----------
    counts : dict of str to ndarray
        Layer to an array (k, k): how many output positions meet a pixel through this tap.
    stages : DataFrame
        Index: stage; columns used and idle (numbers of weights).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig = Figure(figsize=(WIDTH, 3.6), dpi=DPI, layout="constrained")
    grid = fig.add_gridspec(2, 4, width_ratios=(1, 1, 0.1, 2.3))
    data = {"facecolor": ACCENT, "edgecolor": GREY}
    padding = {"facecolor": "white", "edgecolor": GREY, "hatch": "xxxx"}
    for place, (name, count) in enumerate(counts.items()):
        ax = fig.add_subplot(grid[divmod(place, 2)])
        for (row, column), met in ndenumerate(count):
            ax.add_patch(Rectangle((column, row), 1, 1, **(data if met else padding)))
        width = len(count)
        ax.set(xlim=(0, width), ylim=(width, 0), aspect="equal", xticks=[], yticks=[])
        ax.set_title(name, fontsize=10)
    ax = fig.add_subplot(grid[:, 3])
    ax.spines[["top", "right"]].set_visible(False)
    used, idle = stages["used"] / 1e6, stages["idle"] / 1e6
    ax.barh(stages.index, used, label="meet data", **data)
    ax.barh(stages.index, idle, left=used, label="meet only padding", **padding)
    ax.invert_yaxis()
    legend_below(fig, 2)
    label(ax, "Weights, by stage", "weights (millions)")
    share = idle.sum() / (used.sum() + idle.sum())
    taps = ", ".join(f"{name}: {(c > 0).sum()} of {c.size}" for name, c in counts.items())
    return fig, (
        f"Left: taps that meet data, {taps}; the others meet only padding. Right: bars of the "
        f"weights of each stage; {share:.0%} of all weights meet only padding."
    )
