"""Special figures of notebook 05."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from pandas import DataFrame

from utils.figures.charts import LINES
from utils.figures.style import ACCENT, GREY, figure, label, legend_below
from utils.lab.integer import Quantized

# What the picture of one image shows, in the order of execution.
STATIONS = ("quant", "conv1", "maxpool", *(f"layer{n}.1.add_relu" for n in range(1, 5)))


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
    most, top = max(1, int(np.abs(gap).max())), int(max(right.max(), wrong.max()))
    fig, axes = figure(1, 3, height=4)
    titles = ("padded with\nthe zero point", "padded with\nthe code 0", "\ndifference")
    for ax, values, title in zip(axes, (right, wrong, gap), titles, strict=True):
        signed = values is gap
        limits = {"vmin": -most, "vmax": most} if signed else {"vmin": 0, "vmax": top}
        drawn = ax.imshow(values, cmap="PuOr" if signed else "gray", **limits)
        ax.yaxis.get_major_locator().set_params(integer=True)
        fig.colorbar(drawn, ax=ax, location="bottom", label="codes" if signed else "code")
        label(ax, title, "column (pixels)", "row (pixels)" if ax is axes[0] else "")
    fig.suptitle("What padding does to one feature map", x=0.01, ha="left", fontsize=11)
    inside = int((gap[2:-2, 2:-2] != 0).sum())
    return fig, (
        f"One feature map with two paddings, and their difference: {(gap != 0).sum()} of "
        f"{gap.size} codes differ, by up to {most}; {inside} of them are two pixels or more away "
        f"from the border."
    )


def integer_path(out: Mapping[str, Quantized], classes: tuple[str, ...]) -> tuple[Figure, str]:
    """Draw the codes of one image from layer to layer, and those of the logits at the end.

    Parameters
    ----------
    out : mapping of str to Quantized
        Channels last; of several images the first is drawn.
    classes : tuple of str

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, axes = figure(4, 2, height=9.5)
    said = []
    for ax, name in zip(axes.flat, STATIONS, strict=False):
        maps = out[name].q[0].transpose(2, 0, 1)
        shape = " x ".join(str(size) for size in out[name].q.shape[1:])
        tiles = maps[:64] if maps[0].size > 1 else maps
        ax.imshow(_mosaic(tiles), "gray", vmin=0, vmax=max(127, tiles.max()), interpolation="none")
        few = "" if len(tiles) == len(maps) else f", {len(tiles)} channels shown"
        ax.set_title(f"{name}\n{shape}{few}", fontsize=9, loc="left")
        ax.set_axis_off()
        said.append(f"{name} {shape}")
    ax, codes = axes.flat[-1], out["fc"].q[0]
    winner = int(codes.argmax())
    ax.bar(range(len(codes)), codes, color=GREY, edgecolor="black")
    ax.patches[winner].set(facecolor=ACCENT, hatch="///")
    ax.axhline(out["fc"].zero_point, color="black", linestyle=":", linewidth=1)
    short = max(map(len, classes)) < 3
    ax.set_xticks(range(len(codes)), classes, fontsize=9, rotation=0 if short else 60)
    label(ax, "", "class (dotted line: the zero point)", "code")
    ax.set_title(f"fc\n{len(codes)} logits", fontsize=9, loc="left")
    fig.suptitle("One image on its way through the int8 network", x=0.01, ha="left", fontsize=11)
    return fig, (
        f"Codes of one image in {', '.join(said)}, as gray tiles, one tile per channel; then bars, "
        f"the codes of the logits: the highest is class {classes[winner]} with {codes[winner]}."
    )


def spread(own: DataFrame, overall: DataFrame) -> tuple[Figure, str]:
    """Draw, layer by layer, which share of the activations differs: made there, and in all.

    Parameters
    ----------
    own, overall : DataFrame
        One row per layer, in the order of execution; one column per change; shares from 0 to 1: of
        differences that the layer makes from equal inputs, and of all differences.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, axes = figure(2, 1, height=7.5, sharex=True, sharey=True)
    titles = ("made in the layer, from equal inputs", "in all, with what was handed down")
    for ax, title, shares in zip(axes, titles, (own, overall), strict=True):
        for change, look in zip(shares, LINES, strict=False):
            drawn = look | ({"linestyle": "none"} if shares is own else {})
            some = 100 * shares[change].where(shares[change] > 0)
            ax.plot(range(len(shares)), some, label=change, markersize=5, **drawn)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.8f}".rstrip("0").rstrip("."))
        ax.set_xticks(range(len(shares)), shares.index, rotation=90, fontsize=9)
        ax.grid(axis="y", alpha=0.3)
        label(ax, title, y="activations that differ (%, log)")
    ax.set_xlabel("layer (no mark: none differ)")
    legend_below(fig, 2)
    said = "; ".join(f"{c}: at most {overall[c].max():.2g} of a layer" for c in overall)
    return fig, (
        f"Share of the activations that differ in each of {len(own)} layers, in two panels: made "
        f"in the layer, and in all. {said}."
    )


def _mosaic(tiles: ndarray) -> ndarray:
    """Put tiles (n, h, w) side by side, about as many rows as columns, white lines between them."""
    n, height, width = tiles.shape
    columns, line = int(np.ceil(np.sqrt(2 * n if height == 1 else n))), int(height > 1)
    rows = -(-n // columns)
    canvas = np.full((rows * (height + line) - line, columns * (width + line) - line), 127)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + line), k % columns * (width + line)
        canvas[top : top + height, left : left + width] = tile
    return canvas
