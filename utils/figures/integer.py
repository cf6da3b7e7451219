"""Figures of notebook 05."""

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy import ndarray
from pandas import DataFrame

from utils.figures.style import ACCENT, FLOAT, GREY, INT8, figure, label
from utils.lab.integer import Layer, Quantized

# What the picture of one digit shows, in the order of execution, where the network has it.
STATIONS = (
    "quant",
    "conv1",
    "maxpool",
    "layer1.1.add_relu",
    "layer2.1.add_relu",
    "layer3.1.add_relu",
    "layer4.1.add_relu",
)
LINES = [
    {"color": "#E69F00", "marker": "s", "linestyle": "-"},
    {"color": "#8A5200", "marker": "X", "linestyle": "--"},
    {"color": "#7B2D5B", "marker": "D", "linestyle": "-."},
    {"color": "#000000", "marker": "v", "linestyle": ":"},
]


def accumulators(sums: DataFrame) -> tuple[Figure, str]:
    """Draw the largest accumulator of each layer beside what integers can hold.

    Parameters
    ----------
    sums : DataFrame
        layer (str), largest (absolute value seen), products (K, that a sum adds up).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(size=(9, 0.26 * len(sums) + 1.4))
    rows = range(len(sums))
    ax.barh(rows, sums["largest"], color=INT8, edgecolor="black", label="largest sum seen")
    bound = 127 * 127 * sums["products"]
    ax.plot(
        bound, rows, "|", color="black", markersize=11, markeredgewidth=2, label="K x 127 x 127"
    )
    for power, name in {15: "int16", 24: "exact in float32", 31: "int32"}.items():
        ax.axvline(2.0**power, color=GREY, linestyle="--", zorder=0)
        ax.text(2.0**power, -1.1, name, ha="center", fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set_xlim(2**10, 2**32.5)
    ax.set_yticks(rows, sums["layer"], fontsize=8)
    ax.set_ylim(len(sums) - 0.4, -1.6)
    label(ax, "", "absolute value of the sum (log)")
    fig.suptitle("How large the sums become", x=0.01, ha="left", fontsize=11)
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    top = sums.loc[sums["largest"].idxmax()]
    beyond = int((sums["largest"] > 2**15 - 1).sum())
    return fig, (
        f"Bars of the largest int32 sum in each of {len(sums)} layers, on a logarithmic axis with "
        f"the limits of int16, of exact float32 integers and of int32. {beyond} layers leave "
        f"int16; the largest sum is {top.largest:,} in {top.layer}."
    )


def padding_border(right: ndarray, wrong: ndarray) -> tuple[Figure, str]:
    """Draw one feature map padded with the zero point, padded with code 0, and the difference.

    Parameters
    ----------
    right, wrong : ndarray
        uint8, shape (H, W).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    gap = wrong.astype(int) - right
    most = max(1, int(np.abs(gap).max()))
    top = int(max(right.max(), wrong.max()))
    fig, axes = figure(1, 3, size=(9.5, 3.3))
    titles = ("padded with the zero point", "padded with the code 0", "difference")
    for ax, values, title in zip(axes, (right, wrong, gap), titles, strict=True):
        signed = values is gap
        limits = {"vmin": -most, "vmax": most} if signed else {"vmin": 0, "vmax": top}
        drawn = ax.imshow(values, cmap="PuOr" if signed else "gray", **limits)
        fig.colorbar(drawn, ax=ax, shrink=0.75, label="codes" if signed else "code")
        label(ax, title, "column (pixels)", "row (pixels)" if ax is axes[0] else "")
        ax.spines[:].set_visible(False)
    fig.suptitle("What padding does to one feature map", x=0.01, ha="left", fontsize=11)
    inside = np.zeros(gap.shape, dtype=bool)
    inside[2:-2, 2:-2] = True
    changed = gap != 0
    return fig, (
        f"One feature map with two paddings, and their difference: {changed.sum()} of {gap.size} "
        f"codes differ, by up to {most}; {int((changed & inside).sum())} of them are two pixels or "
        f"more away from the border."
    )


def integer_path(out: Mapping[str, Quantized], classes: tuple[str, ...]) -> tuple[Figure, str]:
    """Draw the codes of one image from layer to layer, and the ten codes at the end.

    Parameters
    ----------
    out : mapping of str to Quantized
        As :meth:`utils.integer.IntegerResNet18.activations` returns it for one image or more; the
        first is drawn.
    classes : tuple of str

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    shown = [name for name in STATIONS if name in out]
    fig, axes = figure(2, 4, size=(10.5, 5.8))
    said = []
    for ax, name in zip(axes.flat, shown, strict=False):
        maps = out[name].q[0].transpose(2, 0, 1)
        shape = " x ".join(str(size) for size in out[name].q.shape[1:])
        tiles = maps[:64] if maps[0].size > 1 else maps
        ax.imshow(_mosaic(tiles), cmap="gray", vmin=0, vmax=127, interpolation="nearest")
        few = "" if len(tiles) == len(maps) else f", {len(tiles)} channels shown"
        ax.set_title(f"{name}\n{shape}{few}", fontsize=9, loc="left")
        ax.set_axis_off()
        said.append(f"{name} {shape}")
    for ax in axes.flat[len(shown) : -1]:
        ax.set_axis_off()
    ax, codes = axes.flat[-1], out["fc"].q[0]
    bars = ax.bar(range(len(codes)), codes, color=GREY, edgecolor="black")
    winner = int(codes.argmax())
    bars[winner].set(facecolor=INT8, hatch="///")
    ax.axhline(out["fc"].zero_point, color="black", linestyle=":", linewidth=1)
    edge = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    ax.annotate(
        "zero\npoint", (1, out["fc"].zero_point), xycoords=("axes fraction", "data"), **edge
    )
    size = 8 if max(map(len, classes)) < 3 else 6
    ax.set_xticks(range(len(codes)), classes, fontsize=size, rotation=0 if size == 8 else 60)
    ax.set_title("fc\nten codes", fontsize=9, loc="left")
    ax.set_ylabel("code")
    fig.suptitle("One digit on its way through the int8 network", x=0.01, ha="left", fontsize=11)
    return fig, (
        f"Codes of one image in {', '.join(said)}, as grey tiles, a tile a channel; then ten bars, "
        f"the codes of the logits: the highest is class {classes[winner]} with {codes[winner]}."
    )


def spread(own: DataFrame, all_: DataFrame) -> tuple[Figure, str]:
    """Draw, layer by layer, which share of the activations differs: made there, and in all.

    Parameters
    ----------
    own, all_ : DataFrame
        A row a layer (the index, in the order of execution), a column a change; shares between 0
        and 1: of differences that the layer makes from equal inputs, and of all differences.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, axes = figure(1, 2, size=(10.5, 4.6), sharey=True)
    titles = ("made in the layer, from equal inputs", "in all, with what was handed down")
    for ax, title, shares in zip(axes, titles, (own, all_), strict=True):
        for change, look in zip(shares, LINES, strict=False):
            drawn = look | ({"linestyle": "none"} if shares is own else {})
            some = 100 * shares[change].where(shares[change] > 0)
            ax.plot(range(len(shares)), some, label=change, markersize=5, **drawn)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
        ax.set_xticks(range(len(shares)), shares.index, rotation=90, fontsize=7)
        ax.grid(axis="y", alpha=0.3)
        label(ax, title, "layer (no mark: none differ)")
    axes[0].set_ylabel("activations that differ (%, log)")
    entries = axes[1].get_legend_handles_labels()
    below = {"loc": "outside lower center", "ncols": 2, "frameon": False, "fontsize": 9}
    fig.legend(*entries, handlelength=3.5, **below)
    said = "; ".join(f"{change}: at most {all_[change].max():.2g} of a layer" for change in all_)
    return fig, (
        f"Share of the activations that differ in each of {len(own)} layers, in two panels: made "
        f"in the layer, and in all, where shares grow along the network. {said}."
    )


def integer_layer(layer: Layer, x: Quantized, largest: int) -> tuple[Figure, str]:
    """Draw what an int8 layer computes, with the numbers of a real one.

    Parameters
    ----------
    layer : Layer
        That is drawn.
    x : Quantized
        Its input.
    largest : int
        The largest sum that was seen in it.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    products = int(np.prod(layer.weight.shape[1:]))
    unit = x.scale * layer.weight_scale
    factor = unit / layer.scale
    offset = -x.zero_point * layer.weight.reshape(len(layer.weight), -1).sum(1, dtype=int)
    lowest = layer.zero_point if layer.relu else 0
    steps = (
        (
            "uint8",
            "input codes  $q_x$",
            f"scale $S_x$ = {x.scale:.4g}, zero point $Z_x$ = {x.zero_point}",
        ),
        (
            "int32",
            "sum of  $q_x\\,q_w$  over a patch",
            f"{products:,} products with int8 weights; largest sum seen {largest:,}",
        ),
        (
            "int32",
            "$-\\;Z_x\\,\\Sigma q_w$",
            f"known in advance, one per channel: {offset.min():,} to {offset.max():,}",
        ),
        (
            "float32",
            "$+\\;b\\,/\\,(S_x S_w)$",
            f"the bias, batch norm folded in; $S_w$ per channel, {layer.weight_scale.min():.2g} to "
            f"{layer.weight_scale.max():.2g}",
        ),
        (
            "float32",
            "$\\times\\;M = S_x S_w / S_y$",
            f"the one real factor, per channel: {factor.min():.2g} to {factor.max():.2g}",
        ),
        ("int32", "round half to even, $+\\;Z_y$", f"zero point $Z_y$ = {layer.zero_point}"),
        (
            "uint8",
            f"clamp to {lowest} ... 255:  $q_y$",
            f"{'the ReLU is this clamp; ' * layer.relu}scale $S_y$ = {layer.scale:.4g}",
        ),
    )
    looks = {"uint8": (INT8, "///"), "int32": ("#F6D9A0", ""), "float32": (FLOAT, "")}
    fig, ax = figure(size=(9.5, 0.72 * len(steps) + 0.7))
    ax.set_axis_off()
    ax.set_xlim(0, 10)
    ax.set_ylim(len(steps) - 0.35, -0.75)
    ax.text(0.1, -0.6, "type", fontsize=9, color="black")
    for row, (dtype, what, detail) in enumerate(steps):
        color, hatch = looks[dtype]
        where = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "edgecolor": "black"}
        ax.add_patch(FancyBboxPatch((0.1, row - 0.27), 0.9, 0.54, facecolor=color, **where))
        light = "white" if dtype == "float32" else "black"
        ax.text(0.55, row, dtype, ha="center", va="center", fontsize=9, color=light)
        box = FancyBboxPatch((1.3, row - 0.27), 3.4, 0.54, facecolor="white", **where)
        box.set_linewidth(2.2 if hatch else 1)
        ax.add_patch(box)
        ax.text(3.0, row, what, ha="center", va="center", fontsize=11)
        ax.text(4.95, row, detail, va="center", fontsize=9)
        if row:
            arrow = {"arrowstyle": "-|>", "mutation_scale": 11, "color": ACCENT, "linewidth": 1.4}
            ax.add_patch(FancyArrowPatch((3.0, row - 0.73), (3.0, row - 0.27), **arrow))
    fig.suptitle("What an int8 layer computes", x=0.01, ha="left", fontsize=11)
    return fig, "Flow chart of an int8 layer, from top to bottom: " + "; ".join(
        re.sub(r"[\\$]", "", re.sub(r"\\[,;]", " ", f"{dtype}: {what} ({detail})"))
        for dtype, what, detail in steps
    )


def _mosaic(tiles: ndarray) -> ndarray:
    """Put tiles (n, h, w) side by side, about as many rows as columns, with white lines between."""
    n, height, width = tiles.shape
    if n == 1:
        return tiles[0]
    columns = int(np.ceil(np.sqrt(n * 2)) if height == 1 else np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    line = 0 if height == 1 else 1
    canvas = np.full((rows * (height + line) - line, columns * (width + line) - line), 127)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + line), k % columns * (width + line)
        canvas[top : top + height, left : left + width] = tile
    return canvas
