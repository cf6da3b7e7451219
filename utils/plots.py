"""The course's drawing: one look, one function to show a figure with its alt text.

float32 is blue with circles, int8 is orange with squares, in every notebook: Okabe and Ito's
colours, which survive colour blindness, and of different lightness, which survives greyscale.
"""

import base64
import io

from IPython.display import publish_display_data
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from numpy import ma, ndarray, ndenumerate
from pandas import DataFrame

from utils.statistics import accuracy_interval

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


def gallery(images, titles: list[str], heading: str, alt: str, columns: int = 8):
    """Draw small images in rows.

    Parameters
    ----------
    images : array or Tensor
        uint8, shape (N, 1, 28, 28).
    titles : list of str
        One for each image; may be empty strings.
    heading, alt : str
    columns : int

    Returns
    -------
    Figure, str
    """
    rows = max(1, -(-len(images) // columns))
    size = (1.1 * columns, (1.35 if any(titles) else 1.1) * rows + 0.35)
    fig, axes = figure(rows, columns, size=size, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, pixels, title in zip(axes.flat, images, titles, strict=False):
        image(ax, pixels, title)
    fig.suptitle(heading, x=0.01, ha="left", fontsize=11)
    return fig, alt


def learning_curves(history, floor: float, rates):
    """Draw loss, accuracy and learning rate of a training run.

    Parameters
    ----------
    history : DataFrame
        As :func:`utils.training.train` returns it.
    floor : float
        The lowest training loss that label smoothing allows.
    rates : array, shape (steps,)
        Learning rate at every step of the run.

    Returns
    -------
    Figure, str
    """
    fig, (loss, right, rate) = figure(1, 3, size=(10, 3.2))
    epochs, accuracy = history["epoch"], 100 * history["test_accuracy"]
    grey = {"color": GREY, "marker": "^", "linestyle": "--"}
    loss.plot(epochs, history["train_loss"], label="training, smoothed labels", **grey)
    loss.plot(epochs, history["test_loss"], label="test", **STYLE[FLOAT])
    loss.axhline(floor, color="black", linestyle=":", label="floor of the training loss")
    loss.set_ylim(bottom=0)
    loss.legend(fontsize=8, frameon=False)
    label(loss, "Loss", "epoch", "cross-entropy (nats)")
    right.plot(epochs, accuracy, **STYLE[FLOAT])
    label(right, "Accuracy on the test split", "epoch", "accuracy (%)")
    for ax in (loss, right):
        ax.set_xticks(epochs)
    along = [len(history) * (step + 1) / len(rates) for step in range(len(rates))]
    rate.plot(along, rates, color=GREY, label="every step")
    rate.plot(epochs, history["learning_rate"], linestyle="", label="end of epoch", **STYLE[FLOAT])
    rate.legend(fontsize=8, frameon=False)
    label(rate, "Learning rate", "epoch", "learning rate")
    first, last = history.iloc[0], history.iloc[-1]
    return fig, (
        f"Three curves over {len(history)} epochs. The training loss goes from "
        f"{first.train_loss:.2f} to {last.train_loss:.2f}, the test loss from "
        f"{first.test_loss:.2f} to {last.test_loss:.2f}; the floor is {floor:.2f}. The accuracy "
        f"on the test split goes from {first.test_accuracy:.1%} to {last.test_accuracy:.1%}. The "
        f"learning rate rises to {max(rates):.3g} and falls to nearly zero."
    )


def confusion(counts, classes: tuple[str, ...]):
    """Draw a confusion matrix whose colours belong to the errors; what is no error stays white.

    Parameters
    ----------
    counts : array of int, shape (C, C)
        Row: true class; column: predicted class.
    classes : tuple of str

    Returns
    -------
    Figure, str
    """
    errors = counts.copy()
    errors[range(len(classes)), range(len(classes))] = 0
    most = int(errors.max())
    fig, ax = figure(size=(6.4, 5.4))
    drawn = ax.imshow(errors, cmap="Blues", vmin=0, vmax=max(1, most))
    for row, column in zip(*counts.nonzero(), strict=True):
        dark = errors[row, column] > 0.6 * most > 0 and row != column
        colour = "white" if dark else GREY if row == column else "black"
        text = f"{counts[row, column]:,}"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    label(ax, "Images of the test split: errors colored", "predicted class", "true class")
    ticks = range(0, max(1, most) + 1, max(1, most // 6))
    fig.colorbar(drawn, label="wrong images (count)", ticks=ticks)
    row, column = divmod(int(errors.argmax()), len(classes))
    return fig, (
        f"Confusion matrix of {counts.sum():,} images: {counts.trace():,} on the diagonal, "
        f"{errors.sum():,} off it. The largest error count is {most}: true "
        f"{classes[row]} taken for {classes[column]}."
    )


def step_parts(parts, matrix_ms: float):
    """Draw where the time of a training step goes, above the time of its matrix work alone.

    Parameters
    ----------
    parts : Series
        Milliseconds, indexed by the part's name, in order.
    matrix_ms : float
        What the step's multiplications take at the machine's best measured rate.

    Returns
    -------
    Figure, str
    """
    fig, ax = figure(size=(9, 2.6))
    looks = zip(("white", FLOAT, "#9CCBEB", GREY), ("...", "", "//", "xx"), strict=True)
    left = 0.0
    for (name, ms), (colour, hatch) in zip(parts.items(), looks, strict=True):
        text = f"{name}, {ms:.3g} ms"
        ax.barh(1, ms, left=left, color=colour, hatch=hatch, edgecolor="black", label=text)
        left += ms
    text = f"at the best rate, {matrix_ms:.3g} ms"
    ax.barh(0, matrix_ms, color=ACCENT, hatch="\\\\", edgecolor="black", label=text)
    ax.set_yticks([1, 0], ["measured step", "matrix work alone"])
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    label(ax, "One training step and its pure matrix work", "time (ms)")
    listed = ", ".join(f"{name} {ms:.3g} ms" for name, ms in parts.items())
    return fig, (
        f"Two horizontal bars. The measured step of {left:.3g} ms: {listed}. Its matrix work alone "
        f"would take {matrix_ms:.3g} ms, {matrix_ms / left:.0%} of it."
    )


def throughput(table):
    """Draw images per second of training, a row for each setting, with the range of the rounds.

    Parameters
    ----------
    table : DataFrame
        Columns setting (str), images_per_second, lowest, highest (float).

    Returns
    -------
    Figure, str
    """
    fig, ax = figure(size=(9, 0.36 * len(table) + 1.1))
    middle = table["images_per_second"]
    spread = [middle - table["lowest"], table["highest"] - middle]
    ax.errorbar(middle, table["setting"], xerr=spread, linestyle="", capsize=4, **STYLE[FLOAT])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.grid(axis="x", alpha=0.3)
    label(ax, "Training throughput: median, lowest and highest round", "images per second")
    best, worst = table.loc[middle.idxmax()], table.loc[middle.idxmin()]
    return fig, (
        f"Images per second for {len(table)} settings. Fastest: {best.setting}, "
        f"{best.images_per_second:,.0f}; slowest: {worst.setting}, "
        f"{worst.images_per_second:,.0f}. Bars run from the lowest to the highest round."
    )


def quickstart(paired, float_bytes: int, int8_bytes: int, latency) -> tuple[Figure, str]:
    """Draw accuracy, file size and latency of float32 and int8 side by side.

    Parameters
    ----------
    paired : utils.statistics.Comparison
        float32 is A, int8 is B.
    float_bytes, int8_bytes : int
        File sizes.
    latency : DataFrame
        As :func:`utils.benchmark.summarize` returns it, float32 before int8 for each batch.
    """
    fig, axes = figure(1, 4, size=(10, 3.2))
    names, colors = ["float32", "int8"], [FLOAT, INT8]
    accuracies = [100 * paired.accuracy_a, 100 * paired.accuracy_b]
    bounds = [accuracy_interval(round(a * paired.images / 100), paired.images) for a in accuracies]
    for x, (value, (low, high)) in enumerate(zip(accuracies, bounds, strict=True)):
        error = [[value - 100 * low], [100 * high - value]]
        axes[0].errorbar(x, value, error, capsize=6, markersize=8, **STYLE[colors[x]])
        axes[0].text(x + 0.12, value, f"{value:.2f}", va="center")
    axes[0].set(xticks=[0, 1], xticklabels=names, xlim=(-0.5, 1.8))
    label(axes[0], "Accuracy", y="% of test images")
    panels = [("File size", "MB", [float_bytes / 1e6, int8_bytes / 1e6])]
    for batch, group in latency.groupby("batch"):
        panels.append((f"Latency, batch {batch}", "ms, one thread", list(group["median_ms"])))
    for ax, (title, unit, values) in zip(axes[1:], panels, strict=True):
        bars = ax.bar(names, values, color=colors, width=0.6)
        bars[1].set_hatch("//")
        ax.bar_label(bars, fmt="%.2f", padding=2)
        ax.margins(y=0.15)
        label(ax, title, y=unit)
    parts = [f"{title} {v[0]:.2f} and {v[1]:.2f} {unit}" for title, unit, v in panels]
    alt = (
        f"Four panels, float32 against int8: accuracy {accuracies[0]:.2f} and {accuracies[1]:.2f} "
        f"percent with overlapping intervals; {'; '.join(parts)}."
    )
    return fig, alt


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


def number_line(reals, scale: float, zero_point: int, codes: int) -> tuple[Figure, str]:
    """Draw real values, the grid ``S (q - Z)`` below them, and which grid point each one gets.

    Parameters
    ----------
    reals : sequence of float
    scale : float
    zero_point : int
    codes : int
        Number of integers, 0 to codes - 1.
    """
    fig, ax = figure(size=(9, 2.8))
    grid = [scale * (q - zero_point) for q in range(codes)]
    ax.plot(grid, [0] * codes, "|", color=INT8, markersize=18, markeredgewidth=2)
    ax.plot(reals, [1] * len(reals), "o", color=FLOAT, markersize=8)
    for q, value in enumerate(grid):
        weight = "bold" if q == zero_point else "normal"
        ax.text(value, -0.38, str(q), ha="center", va="top", fontsize=9, weight=weight)
    for real in reals:
        code = min(max(round(real / scale) + zero_point, 0), codes - 1)
        ax.annotate("", (grid[code], 0.18), (real, 0.9), arrowprops={"arrowstyle": "->"})
        ax.text(real, 1.18, f"{real:g}", ha="center", fontsize=9)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set(ylim=(-0.9, 1.7), yticks=[0, 1], yticklabels=["integer q", "real r"])
    label(ax, f"{len(reals)} real values on {codes} codes; Z = {zero_point}", x="value of r")
    alt = (
        f"A number line: {len(reals)} real values above, a regular grid of {codes} integers below; "
        f"an arrow leads from each value to its nearest grid point. Zero lies exactly on code "
        f"{zero_point}; values beyond the grid go to its end."
    )
    return fig, alt


def observer_ranges(observers: dict) -> tuple[Figure, str]:
    """Draw what histogram observers saw, with the range that the chosen scale can represent.

    Parameters
    ----------
    observers : dict of str to HistogramObserver
        Layer name to a calibrated observer; up to four.
    """
    fig, axes = figure(1, len(observers), size=(10, 3.2))
    cut = []
    for ax, (name, observer) in zip(axes, observers.items(), strict=True):
        counts = observer.histogram.double().reshape(128, -1).sum(1)  # 2,048 bins are too fine
        low, high = observer.min_val.item(), observer.max_val.item()
        width = (high - low) / len(counts)
        edges = [low + width * i for i in range(len(counts) + 1)]
        ax.stairs(counts, edges, fill=True, color=FLOAT)
        scale, zero_point = (value.item() for value in observer.calculate_qparams())
        ends = [scale * (q - zero_point) for q in (observer.quant_min, observer.quant_max)]
        for end in ends:
            ax.axvline(end, color=INT8, linestyle="--", linewidth=2)
        outside = sum(
            c.item() for c, e in zip(counts, edges, strict=False) if not ends[0] <= e <= ends[1]
        )
        cut.append(f"{name} {100 * outside / counts.sum().item():.3f} %")
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
        label(ax, name, x="activation", y="count (log)" if ax is axes[0] else "")
    alt = (
        "Histograms of the activations of some layers, counts on a logarithmic axis, with dashed "
        f"lines at the ends of the representable range. Share outside it: {', '.join(cut)}."
    )
    return fig, alt


def weight_channels(ranges, name: str) -> tuple[Figure, str]:
    """Draw the largest absolute weight of every output channel against the one of the tensor.

    Parameters
    ----------
    ranges : Tensor
        Shape (channels,).
    name : str
        Of the layer.
    """
    fig, ax = figure(size=(8, 3.2))
    ordered, _ = ranges.sort(descending=True)
    ax.bar(range(len(ordered)), ordered, color=INT8, width=1.0, label="per channel")
    ax.axhline(ordered[0], color=FLOAT, linestyle="--", label="per tensor: one range for all")
    ax.set_ylim(top=1.25 * ordered[0].item())
    ax.legend(frameon=False, ncols=2, loc="upper right")
    label(ax, f"Ranges of the weights of {name}", "output channel, sorted", "largest |weight|")
    alt = (
        f"Bars: the largest absolute weight of each of the {len(ordered)} output channels of {name}"
        f", sorted, falling from {ordered[0]:.3g} to {ordered[-1]:.3g}; a dashed line at the top."
    )
    return fig, alt


def layer_profile(table) -> tuple[Figure, str]:
    """Draw SQNR and the scale of every layer along the network.

    Parameters
    ----------
    table : DataFrame
        Columns layer, sqnr_db and scale, in the order of execution.
    """
    fig, axes = figure(2, 1, size=(9, 5.4), sharex=True)
    x = range(len(table))
    axes[0].plot(x, table["sqnr_db"], linewidth=1.5, **STYLE[INT8])
    label(axes[0], "Signal to quantization noise along the network", y="SQNR (dB)")
    axes[1].bar(x, table["scale"], color=INT8)
    label(axes[1], "Step between two neighbouring codes", y="scale S")
    axes[1].set_xticks(list(x), table["layer"], rotation=60, ha="right", fontsize=8)
    axes[1].set_xlabel("layer, in the order of execution")
    first, last = table["sqnr_db"].iloc[0], table["sqnr_db"].iloc[-1]
    worst = table.loc[table["sqnr_db"].idxmin(), "layer"]
    alt = (
        f"Two panels over {len(table)} layers: SQNR goes from {first:.1f} dB at the input to "
        f"{last:.1f} dB at the logits, lowest at {worst}; below, the scale of each layer's output."
    )
    return fig, alt


def size_parts(parts) -> tuple[Figure, str]:
    """Draw what the bytes of the two files are.

    Parameters
    ----------
    parts : DataFrame
        Index: part; columns float32 and int8, in bytes.
    """
    fig, ax = figure(size=(8, 3.2))
    rows = range(len(parts))
    for shift, column, color, hatch in ((-0.2, "float32", FLOAT, ""), (0.2, "int8", INT8, "//")):
        at = [row + shift for row in rows]
        bars = ax.barh(at, parts[column] / 1e3, 0.38, color=color, hatch=hatch, label=column)
        ax.bar_label(bars, [f"{v / 1e3:,.1f}" if v else "none" for v in parts[column]], padding=3)
    ax.set_xscale("log")
    ax.set_yticks(list(rows), parts.index)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.legend(frameon=False, loc="lower right")
    label(ax, "What the bytes are", x="kilobytes (log)")
    listed = "; ".join(
        f"{part}: {row.float32 / 1e3:,.1f} and {row.int8 / 1e3:,.1f} kB"
        for part, row in parts.iterrows()
    )
    return fig, f"Bars for float32 and int8 on a logarithmic axis. {listed}."


def latency_rounds(samples) -> tuple[Figure, str]:
    """Draw every sample of an interleaved timing, round by round, a panel for each batch size.

    Parameters
    ----------
    samples : DataFrame
        As :func:`utils.benchmark.latency` returns it; the float32 variants' names start "float".
    """
    batches = samples["batch"].unique()
    fig, axes = figure(1, len(batches), size=(9, 3.4), squeeze=False)
    medians = []
    for ax, batch in zip(axes[0], batches, strict=True):
        for variant, group in samples[samples["batch"] == batch].groupby("variant"):
            color = FLOAT if variant.startswith("float") else INT8
            ax.plot(group["round"], group["ms"], linewidth=0.8, label=variant, **STYLE[color])
            medians.append(f"{variant} {group['ms'].median():.2f} ms at batch {batch}")
        ax.set_ylim(bottom=0, top=1.3 * samples.loc[samples["batch"] == batch, "ms"].max())
        ax.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)
        label(ax, f"Batch {batch}, one thread", "round", "latency (ms)")
    return fig, f"Latency of every round, float32 above int8. Medians: {', '.join(medians)}."
