"""Figures of notebook 01."""

from matplotlib.colors import ListedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from numpy import ma, ndarray, ndenumerate
from pandas import DataFrame

from utils.figures.style import ACCENT, DPI, FLOAT, GREY, INT8, figure, label


def layer_shares(tables: dict[str, DataFrame]) -> tuple[Figure, str]:
    """Draw where a network's parameters, multiply-accumulates and activations sit.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Input size to a table with a row a layer: columns layer (str, the same layers in each
        table), parameters, macs and activation_bytes (numbers). At most two tables.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    panels = {
        "parameters": ("Parameters", 1e6, "M"),
        "macs": ("Multiply-accumulates", 1e6, "M"),
        "activation_bytes": ("Activations, float32", 1e6, "MB"),
    }
    looks = ({"color": ACCENT}, {"color": "white", "edgecolor": "black", "hatch": "//////"})
    fig, axes = figure(1, 3, size=(10, 6.4), sharey=True)
    height = 0.8 / len(tables)
    said = []
    for ax, (column, (title, unit, symbol)) in zip(axes, panels.items(), strict=True):
        for number, (size, table) in enumerate(tables.items()):
            total = table[column].sum()
            shares = 100 * table[column] / total
            places = [row + (number - (len(tables) - 1) / 2) * height for row in range(len(table))]
            text = f"{size}: {total / unit:,.4g} {symbol} in all"
            ax.barh(places, shares, height, label=text, **looks[number])
            stages = shares.groupby(table["layer"].str.split(".").str[0], sort=False).sum()
            listed = ", ".join(f"{stage} {share:.0f} %" for stage, share in stages.items())
            said.append(f"{title} at {size}: {listed}")
        label(ax, title, "share of the total (%)")
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.06), frameon=False)
    layers = next(iter(tables.values()))["layer"]
    axes[0].set_yticks(range(len(layers)), layers, fontsize=8)
    axes[0].set_ylabel("layer, in the order of execution")
    axes[0].set_ylim(len(layers) - 0.4, -0.6)
    return fig, f"Bars of the shares of {len(layers)} layers. " + "; ".join(said) + "."


def receptive_field(
    fields: DataFrame, gradient: ndarray, box: tuple[int, int], sizes: tuple[int, ...]
) -> tuple[Figure, str]:
    """Draw the receptive field by layer, and the gradient that proves the last one.

    Parameters
    ----------
    fields : DataFrame
        Columns layer (str) and field (int, pixels), in the order of execution.
    gradient : ndarray
        Shape (H, W): absolute derivative of one output with respect to each input pixel.
    box : (int, int)
        First and last pixel that the formula says this output sees, in both directions.
    sizes : tuple of int
        Image widths to compare with, in pixels.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, (left, right) = figure(1, 2, size=(10, 4.4), width_ratios=(1.25, 1))
    places = range(len(fields))
    left.step(places, fields["field"], where="mid", color=FLOAT)
    left.plot(places, fields["field"], "o", color=FLOAT, markersize=4)
    for size in sizes:
        left.axhline(size, color=GREY, linestyle="--", linewidth=1)
        above = size > fields["field"].median()  # write where the curve is not
        place, side = (0, "left") if above else (len(fields) - 1, "right")
        text = f"{size}-pixel image"
        left.text(place, size * 1.06, text, color="#555555", fontsize=9, ha=side)
    left.set_yscale("log")
    ticks = [5, 10, 20, 50, 100, 200, 500]
    left.set_yticks(ticks, [str(tick) for tick in ticks])
    left.minorticks_off()
    left.set_xticks(places, fields["layer"], rotation=90, fontsize=8)
    label(left, "By the formula", "", "receptive field (pixels)")
    scale = LogNorm(gradient[gradient > 0].min(), gradient.max())
    drawn = right.imshow(ma.masked_equal(gradient, 0), norm=scale, cmap="Blues")
    first, last = box
    width = last - first + 1
    corner = (first - 0.5, first - 0.5)
    right.add_patch(Rectangle(corner, width, width, fill=False, edgecolor=ACCENT, linewidth=2))
    note = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    text = f"formula: {width} pixels wide"
    right.text(first + 12, last - 14, text, color=ACCENT, fontsize=9, bbox=note)
    label(right, "By the gradient of one output", "column (pixel)", "row (pixel)")
    fig.colorbar(drawn, ax=right, label="|gradient| (logarithmic)", shrink=0.85)
    alt = (
        f"Left: the receptive field grows from {fields['field'].iloc[0]} to "
        f"{fields['field'].iloc[-1]} pixels over {len(fields)} layers; dashed lines mark images of "
        f"{' and '.join(map(str, sizes))} pixels. Right: the gradient of one output fills a square "
        f"of {width} pixels, the one that the formula gives, and is strongest in its middle."
    )
    return fig, alt


def padding_taps(counts: dict[str, ndarray], stages: DataFrame) -> tuple[Figure, str]:
    """Draw which taps of a kernel meet data, and what share of the parameters that leaves idle.

    Parameters
    ----------
    counts : dict of str to ndarray
        Layer to an array (k, k): how many output positions meet a pixel through this tap.
    stages : DataFrame
        Columns stage (str), used and idle (numbers of parameters).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig = Figure(figsize=(10, 3.6), dpi=DPI, layout="constrained")
    grid = fig.add_gridspec(2, 4, width_ratios=(1, 1, 0.2, 3.2))
    for place, (name, count) in enumerate(counts.items()):
        ax = fig.add_subplot(grid[divmod(place, 2)])
        ax.imshow(count > 0, cmap=ListedColormap(["white", FLOAT]), vmin=0, vmax=1)
        for (row, column), met in ndenumerate(count):
            text, colour = ("data", "white") if met else ("0", GREY)
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        size = len(count)
        ax.set_xticks([i - 0.5 for i in range(1, size)], [])
        ax.set_yticks([i - 0.5 for i in range(1, size)], [])
        ax.grid(color=GREY)
        ax.tick_params(length=0)
        ax.set_title(name, fontsize=9)
    ax = fig.add_subplot(grid[:, 3])
    ax.spines[["top", "right"]].set_visible(False)
    used, idle = stages["used"] / 1e6, stages["idle"] / 1e6
    ax.barh(stages["stage"], used, color=FLOAT, label="meet data")
    look = {"color": "white", "edgecolor": GREY, "hatch": "xxxx"}
    ax.barh(stages["stage"], idle, left=used, label="only ever meet padding zeros", **look)
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper right")
    label(ax, "Weights, by stage", "weights (millions)")
    share = idle.sum() / (used.sum() + idle.sum())
    alt = (
        f"Left: the kernels of {', '.join(counts)}; "
        + ", ".join(f"{(c > 0).sum()}" for c in counts.values())
        + f" of {next(iter(counts.values())).size} taps meet data. Right: bars of the weights of "
        f"each stage; {share:.0%} of all weights only ever meet padding zeros."
    )
    return fig, alt


def residual_block(qparams: dict[str, tuple[float, int]]) -> tuple[Figure, str]:
    """Draw a basic block as it is, as quantization needs it, and as it runs in int8.

    Parameters
    ----------
    qparams : dict of str to (float, int)
        Scale and zero point of ``input``, ``conv1``, ``conv2`` and ``add_relu`` in int8.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(size=(10, 7.6))
    ax.set(xlim=(-0.5, 100.5), ylim=(-2.5, 73.5), aspect="equal")
    ax.set_axis_off()

    def box(left, right, y, text, colour=FLOAT, dash="-", small=None):
        corners = "square,pad=0" if colour == INT8 else "round,pad=0,rounding_size=1.2"
        patch = FancyBboxPatch(
            (left, y - 3.5), right - left, 7, boxstyle=corners, facecolor=to_rgba(colour, 0.16)
        )
        patch.set(edgecolor=colour, linewidth=2.6 if colour == INT8 else 1.6, linestyle=dash)
        ax.add_patch(patch)
        middle = (left + right) / 2
        ax.text(middle, y + (1 if small else 0), text, ha="center", va="center", fontsize=10)
        if small:
            ax.text(middle, y - 1.7, small, ha="center", va="center", fontsize=8, color="#444444")

    def arrow(start, end, colour=FLOAT):
        style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end, start, arrowprops=style | {"linewidth": 2, "mutation_scale": 12})

    def shortcut(y, end, top, colour=FLOAT, text="conv 1×1 + bn"):
        ax.plot([5, 5, end], [y, y - 7.5, y - 7.5], color=colour, linewidth=2)
        ax.plot(5, y, "o", color=colour, markersize=5)
        arrow((end, y - 7.6), (end, top), colour)
        ax.text(7, y - 6.9, "shortcut", fontsize=9, color="#444444", va="bottom")
        style = {"facecolor": "white", "edgecolor": colour, "linestyle": ":", "linewidth": 1.4}
        text = f"{text}, where shapes differ"
        ax.text(45, y - 7.5, text, fontsize=8, ha="center", va="center", bbox=style)

    def chain(y, spans, colour=FLOAT):
        ends, starts = [0, *(s[1] for s in spans)], [*(s[0] for s in spans), 98]
        for left, right in zip(ends, starts, strict=True):
            arrow((left, y), (right, y), colour)
        ax.text(0, y + 1, "x", fontsize=11, style="italic")

    def title(y, text, rest):
        ax.text(0, y + 10.2, text, fontsize=11, weight="bold", va="bottom")
        ax.text(100, y + 10.2, rest, fontsize=9, va="bottom", ha="right", color="#444444")

    convs = {"conv1": (10, 20), "bn1": (24, 31), "relu": (35, 43), "conv2": (49, 59)}
    convs |= {"bn2": (63, 70)}
    y = 59
    title(y, "1  The float block", "float32 throughout")
    chain(y, [*convs.values(), (76, 80), (85, 93)])
    for name, span in (convs | {"relu ": (85, 93)}).items():
        colour = ACCENT if "relu" in name else FLOAT
        box(*span, y, name.strip(), colour, "--" if "relu" in name else "-")
    ax.plot([39, 39, 89, 89], [y + 4, y + 7, y + 7, y + 4], "--", color=ACCENT, linewidth=1.2)
    ax.text(63, y + 7.5, "one module, called twice", color=ACCENT, fontsize=9, ha="center")
    ax.add_patch(Circle((78, y), 2, facecolor="white", edgecolor=ACCENT, linewidth=1.6))
    ax.text(78, y, "+", ha="center", va="center", fontsize=13, color=ACCENT)
    ax.text(80.5, y - 4.2, "no module:\nnothing to observe", color=ACCENT, fontsize=9, va="top")
    shortcut(y, 78, y - 2)

    y = 36
    title(y, "2  Ready for quantization", "still float32, the same outputs bit for bit")
    for left, right, top in ((8.5, 44.5, "fuse"), (47.5, 71.5, "fuse")):
        group = FancyBboxPatch((left, y - 5), right - left, 10, boxstyle="round,pad=0")
        group.set(facecolor="none", edgecolor=GREY, linestyle="--", linewidth=1.2)
        ax.add_patch(group)
        ax.text((left + right) / 2, y + 5.5, top, fontsize=9, ha="center", color="#444444")
    chain(y, [*convs.values(), (76, 93)])
    for name, span in convs.items():
        box(*span, y, name)
    box(76, 93, y, "add_relu", small="FloatFunctional")
    for x in (2.4, 46, 73, 95):
        ax.plot(x, y, "D", color=ACCENT, markersize=7)
    shortcut(y, 84.5, y - 3.5)

    y = 13
    title(y, "3  Fused and converted", "integers throughout: the shortcut carries them too")
    chain(y, [(10, 43), (49, 70), (76, 93)], INT8)
    box(10, 43, y, "ConvReLU2d", INT8, small="int8 weights, int32 sums")
    box(49, 70, y, "Conv2d", INT8, small="int8 weights, int32 sums")
    box(76, 93, y, "add_relu", INT8, small="QFunctional")
    for x, name in zip((5, 46, 73, 96), ("input", "conv1", "conv2", "add_relu"), strict=True):
        scale, zero = qparams[name]
        text = f"$S$ = {scale:#.3g}\n$Z$ = {zero}"
        ax.text(x, y + 4.4, text, ha="center", va="bottom", fontsize=8.5)
    shortcut(y, 84.5, y - 3.5, INT8, "conv 1×1")

    box(1, 5, 0.8, "")
    ax.patches[-1].set_bounds(1, -0.4, 4, 2.4)
    ax.text(6, 0.8, "float32, 4 bytes a value", va="center", fontsize=9)
    box(32, 36, 0.8, "", INT8)
    ax.patches[-1].set_bounds(32, -0.4, 4, 2.4)
    ax.text(37, 0.8, "8-bit integers, 1 byte a value", va="center", fontsize=9)
    ax.plot(67, 0.8, "D", color=ACCENT, markersize=7)
    ax.text(69, 0.8, "observer: gives scale $S$, zero point $Z$", va="center", fontsize=9)
    values = "; ".join(f"{n} S = {s:.3g}, Z = {z}" for n, (s, z) in qparams.items())
    alt = (
        "Three drawings of a basic block with its shortcut. 1: float32, conv1, bn1, relu, conv2, "
        "bn2, a plain plus, and the same relu module again. 2: still float32, but relu serves once "
        "and the addition is a FloatFunctional module add_relu; observers sit on the input and "
        "behind relu, bn2 and add_relu; conv1, bn1 and relu form one group to fuse, conv2 and bn2 "
        "another. 3: int8, three boxes ConvReLU2d, Conv2d and add_relu joined by 8-bit integers, "
        f"the shortcut included, each with its scale and zero point: {values}."
    )
    return fig, alt
