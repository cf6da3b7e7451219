"""The course's drawing: one look, one function to show a figure with its alt text.

float32 is blue with circles, int8 is orange with squares, in every notebook: Okabe and Ito's
colours, which survive colour blindness, and of different lightness, which survives greyscale.
"""

import base64
import io
import textwrap

from IPython.display import publish_display_data
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, LogNorm, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy import clip, geomspace, linspace, ma, minimum, ndarray, ndenumerate, percentile
from pandas import DataFrame, Series
from PIL import Image

from utils.catalog import VARIANTS
from utils.comparison import accuracy_interval

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


def throughput(table, rounds=()):
    """Draw images per second of training, a row for each setting, with the range of the rounds.

    Parameters
    ----------
    table : DataFrame
        Columns setting (str), images_per_second, lowest, highest (float).
    rounds : sequence of sequences of float
        Images per second of every round, for each row of the table; drawn as points.

    Returns
    -------
    Figure, str
    """
    fig, ax = figure(size=(9, 0.36 * len(table) + 1.1))
    middle = table["images_per_second"]
    spread = [middle - table["lowest"], table["highest"] - middle]
    ax.errorbar(middle, table["setting"], xerr=spread, linestyle="", capsize=4, **STYLE[FLOAT])
    for row, seen in enumerate(rounds):
        ax.plot(seen, [row + 0.25] * len(seen), ".", color=GREY, markersize=3)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.grid(axis="x", alpha=0.3)
    label(ax, "Training throughput: median, lowest and highest round", "images per second")
    best, worst = table.loc[middle.idxmax()], table.loc[middle.idxmin()]
    return fig, (
        f"Images per second for {len(table)} settings. Fastest: {best.setting}, "
        f"{best.images_per_second:,.0f}; slowest: {worst.setting}, "
        f"{worst.images_per_second:,.0f}. Bars run from the lowest to the highest round"
        f"{'; below each, every round is a point' if len(rounds) else ''}."
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
        As :func:`utils.timing.summarize` returns it, float32 before int8 for each batch.
    """
    fig, axes = figure(1, 4, size=(10, 3.2))
    names, colors = ["float32", "int8"], [FLOAT, INT8]
    accuracies = _paired_accuracy(axes[0], paired)
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


def _paired_accuracy(ax: Axes, paired) -> list[float]:
    """Draw both accuracies with Wilson's intervals; return them in percent."""
    colors = [FLOAT, INT8]
    accuracies = [100 * paired.accuracy_a, 100 * paired.accuracy_b]
    bounds = [accuracy_interval(round(a * paired.images / 100), paired.images) for a in accuracies]
    for x, (value, (low, high)) in enumerate(zip(accuracies, bounds, strict=True)):
        error = [[value - 100 * low], [100 * high - value]]
        ax.errorbar(x, value, error, capsize=6, markersize=8, **STYLE[colors[x]])
        ax.text(x + 0.12, value, f"{value:.2f}", va="center")
    ax.set(xticks=[0, 1], xticklabels=["float32", "int8"], xlim=(-0.5, 1.8))
    label(ax, "Accuracy", y="% of test images")
    return accuracies


def headline(paired, float_bytes: int, int8_bytes: int, verdicts: DataFrame) -> tuple[Figure, str]:
    """Draw accuracy, size, and latency against the naive and the fastest float32, on one thread.

    Parameters
    ----------
    paired : utils.statistics.Comparison
        float32 is A, int8 is B.
    float_bytes, int8_bytes : int
        File sizes.
    verdicts : DataFrame
        As :func:`utils.timing.verdicts` returns it; batches 1 and 64 are drawn.
    """
    fig, axes = figure(1, 4, size=(10, 3.2), width_ratios=[1, 0.8, 1.2, 1.2])
    accuracies = _paired_accuracy(axes[0], paired)
    sizes = [float_bytes / 1e6, int8_bytes / 1e6]
    panels = [("File size", "MB", ["float32", "int8"], sizes)]
    one = verdicts[verdicts["threads"] == 1].set_index("batch")
    for batch in (1, 64):
        row = one.loc[batch]
        fastest = _name(row["fastest_float"]).removeprefix("float32, ")
        names = ["float32\neager", f"float32\n{textwrap.fill(fastest, 10)}", "int8\neager"]
        values = [row["eager_ms"], row["fastest_float_ms"], row["int8_ms"]]
        panels.append((f"Latency, batch {batch}", "ms, one thread", names, values))
    for ax, (title, unit, names, values) in zip(axes[1:], panels, strict=True):
        colors = [FLOAT] * (len(values) - 1) + [INT8]
        bars = ax.bar(range(len(values)), values, color=colors, width=0.65)
        bars[-1].set_hatch("//")
        if len(values) == 3:
            bars[1].set(alpha=0.6, hatch="..")
        ax.set_xticks(range(len(values)), names, fontsize=9)
        ax.bar_label(bars, fmt="%.2f" if max(values) < 100 else "%.0f", padding=2)
        ax.margins(y=0.15)
        label(ax, title, y=unit)
    parts = "; ".join(
        f"{title} {', '.join(f'{v:.2f}' for v in values)} {unit}"
        for title, unit, _, values in panels
    )
    return fig, (
        f"Four panels: accuracy of float32 and int8, {accuracies[0]:.2f} and {accuracies[1]:.2f} "
        f"percent; then, of eager float32, the fastest float32 and int8, or of float32 and int8: "
        f"{parts}."
    )


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
    """Draw the median call of every round of an interleaved timing, a panel for each batch size.

    Parameters
    ----------
    samples : DataFrame
        As :func:`utils.timing.latency` returns it; without a column ``call`` each row is a
        round. The float32 variants' names start "float".
    """
    batches = samples["batch"].unique()
    fig, axes = figure(1, len(batches), size=(9, 3.4), squeeze=False)
    medians = []
    for ax, batch in zip(axes[0], batches, strict=True):
        here = samples[samples["batch"] == batch]
        rounds = here.groupby(["variant", "round"], sort=False)["ms"].median()
        for variant in here["variant"].unique():
            ms = rounds[variant]
            ax.plot(ms.index, ms, linewidth=0.8, label=variant, **_look(variant))
            medians.append(f"{variant} {ms.median():.2f} ms at batch {batch}")
        ax.set_ylim(bottom=0, top=1.3 * rounds.max())
        ax.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)
        label(ax, f"Batch {batch}, one thread", "round", "latency (ms)")
    return fig, f"Latency of every round, a line a variant. Medians: {', '.join(medians)}."


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


def _look(variant: str) -> dict:
    """Color, marker and line style of a variant; its dtype's own if the variant is unknown."""
    color = FLOAT if variant.startswith("float") else INT8
    unknown = (color, STYLE[color]["marker"], "-")
    return dict(zip(("color", "marker", "linestyle"), LOOKS.get(variant, unknown), strict=True))


def _fill(variant: str) -> dict:
    """Color and hatch of a variant's bar or box: int8 is hatched."""
    hatch = "" if variant.startswith("float") else "///"
    return {"facecolor": _look(variant)["color"], "hatch": hatch, "edgecolor": "black"}


def _name(variant: str) -> str:
    return VARIANTS[variant].label if variant in VARIANTS else variant


def _short(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _beside(ax: Axes, end: float, row: int, text: str, **keywords) -> None:
    """Write a text at the end of a horizontal bar."""
    where = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    ax.annotate(text, (end, row), **where, **keywords)


def _plain_log(axis: Axis, low: float, high: float) -> None:
    """Put plain numbers on a logarithmic axis, the more of them the shorter it is."""
    marks = {3: (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), 10: (1, 1.5, 2, 3, 4, 5, 7)}
    marks |= {1000: (1, 2, 5), float("inf"): (1,)}
    subs = next(subs for most, subs in marks.items() if high <= most * low)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def _legend_below(fig: Figure, columns: int) -> None:
    """One legend for all axes, outside of them."""
    entries = {}
    for ax in fig.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    below = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
    fig.legend(entries.values(), entries.keys(), handlelength=3.5, **below)


def first_calls(ms: dict[str, list[float]]) -> tuple[Figure, str]:
    """Draw the latency of the first calls after a model was loaded, a line a variant.

    Parameters
    ----------
    ms : dict of str to list of float
        Variant to the milliseconds of its calls, in order.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(size=(9, 4))
    said = []
    for variant, calls in ms.items():
        ax.plot(range(1, len(calls) + 1), calls, label=_name(variant), **_look(variant))
        said.append(f"{_name(variant)}: {_short(calls[0])} ms, then {_short(calls[-1])} ms")
    low, high = (end(end(calls) for calls in ms.values()) for end in (min, max))
    log = high > 10 * low
    if log:
        ax.set_yscale("log")
        _plain_log(ax.yaxis, low, high)
    else:
        ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)
    unit = "latency (ms, log)" if log else "latency (ms)"
    label(ax, "The first calls after loading", "call", unit)
    _legend_below(fig, 3)
    return fig, f"Latency of the first and of the last call drawn. {'; '.join(said)}."


def choices(table: Series, title: str, x: str, highlight: str | None = None) -> tuple[Figure, str]:
    """Draw one number for each of a few choices, and make one of them stand out.

    Parameters
    ----------
    table : Series
        Numbers, indexed by the choices' names, in order.
    title, x : str
        Of the figure and of its horizontal axis, with the unit.
    highlight : str, optional
        The choice that stands out.

    Returns
    -------
    Figure, str
        The figure and its alt text.

    Raises
    ------
    ValueError
        If ``highlight`` is not in the index.
    """
    names = [str(name) for name in table.index]
    fig, ax = figure(size=(8, 0.36 * len(table) + 1.0))
    bars = ax.barh(range(len(table)), table, color=GREY, edgecolor="black")
    ax.bar_label(bars, [_short(value) for value in table], padding=4)
    ax.set_yticks(range(len(table)), names)
    if highlight is not None:
        row = names.index(str(highlight))
        bars[row].set(facecolor=ACCENT, hatch="///", edgecolor="white")
        ax.get_yticklabels()[row].set_weight("bold")
    ax.invert_yaxis()
    ax.margins(x=0.12)
    label(ax, title, x)
    marked = "" if highlight is None else f" {highlight} is highlighted."
    listed = "; ".join(f"{n} {_short(v)}" for n, v in zip(names, table, strict=True))
    return fig, f"Horizontal bars: {title}. {x}: {listed}.{marked}"


def one_call_or_many(
    single: ndarray, low: float, median: float, high: float, name: str = "95 % interval"
) -> tuple[Figure, str]:
    """Draw the speed-ups that single pairs of calls would report, and what many rounds say.

    Parameters
    ----------
    single : ndarray
        Shape (pairs,): float32 time / int8 time of one call each.
    low, median, high : float
        Median speed-up over the rounds, with the ends of the band around it.
    name : str
        What the band is, see :func:`utils.timing.interval_name`.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    quarter, last = percentile(single, [25, 75])
    reach = 3 * (last - quarter)
    first, last = max(min(single), quarter - reach), min(max(single), last + reach)
    shown = clip(single, first, last)  # a far outlier would leave no room for the others
    beyond = int((shown != single).sum())
    fig, ax = figure(size=(9, 3.8))
    drawn = f"one pair of calls ({len(single):,} pairs)"
    ax.hist(shown, bins=linspace(first, last, 41), color=GREY, label=drawn)
    text = f"median over rounds: {median:.2f}"
    ax.axvline(median, color="black", linestyle="--", linewidth=2, label=text, zorder=3)
    band = {"facecolor": to_rgba(ACCENT, 0.35), "edgecolor": ACCENT, "hatch": "////", "zorder": 2}
    ax.axvspan(low, high, label=f"its {name}: {low:.2f} to {high:.2f}", **band)
    more = f"; {beyond} beyond the axis, in the outermost bars" if beyond else ""
    title = "What one pair of calls would report, and what many rounds say"
    label(ax, title, f"speed-up, float32 / int8 (times{more})", "pairs (count)")
    _legend_below(fig, 3)
    outside = ((single < low) | (single > high)).mean()
    return fig, (
        f"Histogram of the speed-ups of {len(single):,} single pairs of calls, from "
        f"{min(single):.2f} to {max(single):.2f}. The median over rounds is {median:.2f}, a band "
        f"shows its {name} from {low:.2f} to {high:.2f}; {outside:.0%} of the single pairs "
        f"lie outside it."
    )


def memory_bars(table: DataFrame) -> tuple[Figure, str]:
    """Draw file size and memory of each variant, the libraries' own memory taken off.

    Parameters
    ----------
    table : DataFrame
        As :func:`utils.lab.footprint.memory` returns it: variant, file_mb, before_mb, after_mb,
        peak_mb; NaN where a variant could not be run.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    panels = {
        "File": table["file_mb"],
        "Memory that the model keeps": table["after_mb"] - table["before_mb"],
        "Memory at the peak": table["peak_mb"] - table["before_mb"],
    }
    rows, names = range(len(table)), [_name(variant) for variant in table["variant"]]
    fig, axes = figure(1, 3, size=(10, 0.34 * len(table) + 1.1), sharey=True)
    said = []
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        texts = ["none" if value != value else f"{value:.1f}" for value in values]
        for row, variant, value, text in zip(rows, table["variant"], values, texts, strict=True):
            if value == value:
                ax.barh(row, value, **_fill(variant))
            _beside(ax, max(0, value) if value == value else 0, row, text, fontsize=9)
        highest = values.max()
        ax.set_xlim(right=1.25 * highest if highest > 0 else 1)
        label(ax, title, "MB")
        listed = "; ".join(f"{n}: {t}" for n, t in zip(names, texts, strict=True))
        said.append(f"{title} (MB): {listed}.")
    axes[0].set_yticks(rows, names)
    axes[0].set_ylim(len(table) - 0.4, -0.6)
    return fig, f"Three panels of bars, a row a variant. {' '.join(said)}"


def latency_distributions(samples: DataFrame, threads: int) -> tuple[Figure, str]:
    """Draw how the single calls of each variant spread, a panel for each batch size.

    Whiskers reach to the percentiles for which every variant has enough calls.

    Parameters
    ----------
    samples : DataFrame
        As :func:`utils.timing.latency` returns it. Of more than four batch sizes, four from the
        smallest to the largest are drawn.
    threads : int
        Only the samples with so many threads.

    Returns
    -------
    Figure, str
        The figure and its alt text.

    Raises
    ------
    ValueError
        If there are no such samples.
    """
    samples = samples[samples["threads"] == threads]
    if samples.empty:
        raise ValueError(f"no samples with {threads} threads")
    batches = sorted(samples["batch"].unique())
    if len(batches) > 4:
        batches = [batches[round(place)] for place in linspace(0, len(batches) - 1, 4)]
    variants = list(samples["variant"].unique())
    rows, columns = -(-len(batches) // 2), min(2, len(batches))
    size = (10, (0.27 * len(variants) + 0.9) * rows)
    fig, axes = figure(rows, columns, size=size, sharey=True, squeeze=False)
    taken = [samples[samples["batch"] == batch] for batch in batches]
    taken = [here.groupby("variant", sort=False)["ms"] for here in taken]
    ends = [(calls.quantile(0.01).min(), calls.quantile(0.99).max()) for calls in taken]
    log = any(high > 5 * low for low, high in ends)
    unit = "latency of a call (ms, log)" if log else "latency of a call (ms)"
    line = {"color": "white", "linewidth": 1.2}  # with a black rim: seen on every shade
    line["path_effects"] = [withStroke(linewidth=2.8, foreground="black")]
    said = []
    for place, (batch, calls) in enumerate(zip(batches, taken, strict=True)):
        ax = axes.flat[place]
        fewest = calls.size().min()
        ends_at = 1 if fewest >= 100 else 10 if fewest >= 20 else 25
        whiskers = f"whiskers {ends_at} to {100 - ends_at} %" if ends_at < 25 else "too few calls"
        whiskers += "" if ends_at < 25 else " for whiskers"
        for variant, ms in calls:
            look = {"boxprops": _fill(variant), "medianprops": line, "showfliers": False}
            look |= {"patch_artist": True, "manage_ticks": False, "orientation": "horizontal"}
            ax.boxplot(
                ms,
                whis=(ends_at, 100 - ends_at),
                positions=[variants.index(variant)],
                widths=0.7,
                **look,
            )
        if log:
            ax.set_xscale("log")
            _plain_log(ax.xaxis, *ends[place])
        ax.grid(axis="x", alpha=0.3)
        label(ax, f"Batch {batch}, {_threads(threads)}, {whiskers}", unit)
        medians = calls.median()
        best, worst = medians.idxmin(), medians.idxmax()
        said.append(
            f"batch {batch} ({whiskers}): from {_short(medians[best])} ms ({_name(best)}) to "
            f"{_short(medians[worst])} ms ({_name(worst)})"
        )
    axes[0, 0].set_yticks(range(len(variants)), [_name(variant) for variant in variants])
    axes[0, 0].set_ylim(len(variants) - 0.4, -0.6)
    for ax in axes.flat[len(batches) :]:
        ax.set_axis_off()
    return fig, (
        f"Box plots of the latency of single calls, {_threads(threads)}, {len(variants)} "
        f"variants. Medians: {'; '.join(said)}."
    )


def throughput_curves(summary: DataFrame) -> tuple[Figure, str]:
    """Draw images per second over the batch size, a line a variant, a panel a thread count.

    Parameters
    ----------
    summary : DataFrame
        As :func:`utils.timing.summarize` returns it.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    counts = sorted(summary["threads"].unique())
    fig, axes = figure(1, len(counts), size=(10, 4.8), sharey=True, squeeze=False)
    said = []
    for ax, count in zip(axes[0], counts, strict=True):
        here = summary[summary["threads"] == count].sort_values("batch")
        for variant in summary["variant"].unique():
            line = here[here["variant"] == variant]
            ax.plot(
                line["batch"], line["images_per_second"], label=_name(variant), **_look(variant)
            )
        ax.set_xscale("log", base=2)
        batches = here["batch"].unique()
        ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
        text = _threads(count)
        label(ax, text.capitalize(), "batch size (images, log)")
        for batch in dict.fromkeys((batches[0], batches[-1])):
            best = here.loc[here.loc[here["batch"] == batch, "images_per_second"].idxmax()]
            rate = f"{best.images_per_second:,.0f} images per second"
            said.append(f"{text}, batch {batch}: {rate} ({_name(best.variant)})")
    axes[0, 0].set_yscale("log")
    rates = summary["images_per_second"]
    _plain_log(axes[0, 0].yaxis, rates.min(), rates.max())
    axes[0, 0].set_ylabel("images per second (log)")
    _legend_below(fig, 3)
    variants = summary["variant"].nunique()
    return fig, (
        f"Images per second over the batch size for {variants} variants, both axes logarithmic. "
        f"Fastest: {'; '.join(said)}."
    )


def waterfall(steps: DataFrame) -> tuple[Figure, str]:
    """Draw the way from the float32 to the int8 latency, and what each step on it changes.

    Parameters
    ----------
    steps : DataFrame
        Columns step (str) and ms (float): the latency after this step. The first row is where
        float32 starts, the last is int8.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    names, ms = list(steps["step"]), list(steps["ms"])
    last = len(ms) - 1
    fig, ax = figure(size=(min(10, 1.35 * len(ms) + 1.2), 4.4))
    looks = {
        "float32 at the start": {"facecolor": FLOAT},
        "faster": {"facecolor": "#D3B4C6"},
        "slower": {"facecolor": "#CFCFCF", "hatch": "xxx"},
        "int8 at the end": {"facecolor": INT8, "hatch": "///"},
    }
    used, said = set(), [f"{names[0]} {_short(ms[0])} ms"]
    for place, after in enumerate(ms):
        before = ms[place - 1] if place else after
        kind = "float32 at the start" if place == 0 else "slower" if after > before else "faster"
        bottom, top = min(before, after), max(before, after)
        if place in (0, last):
            kind, bottom, top = ("int8 at the end" if place else kind), 0, after
        text = "_" if kind in used else kind
        ax.bar(place, top - bottom, 0.62, bottom, edgecolor="black", label=text, **looks[kind])
        used.add(kind)
        text = f"{_short(after)} ms"
        if place:
            turn = " faster" if after < before else ", slower" if after > before else ", the same"
            factor = f"×{_short(before / after)}{turn}"
            said.append(f"{names[place]} {text} ({factor})")
            text += f"\n{factor}"
            ax.plot([place - 0.69, place + 0.31], [before] * 2, color="black", linewidth=0.9)
        ax.annotate(
            text,
            (place, max(before, after)),
            (0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )
    ax.set_xticks(range(len(ms)), [textwrap.fill(name, 14) for name in names])
    ax.set_xlim(-0.6, last + 0.6)
    ax.set_ylim(0, 1.18 * max(ms))
    title = f"From {_short(ms[0])} to {_short(ms[-1])} ms: ×{_short(ms[0] / ms[-1])} in all"
    label(ax, title, "", "latency (ms)")
    _legend_below(fig, 4)
    return fig, (
        f"Waterfall of the latency: {'; '.join(said)}. In all ×{_short(ms[0] / ms[-1])}. A faster "
        f"step is a falling bar, a slower one a rising, hatched bar."
    )


def roofline(
    points: DataFrame, roofs: dict[str, tuple[float, float]], labeled: tuple[str, ...] = ()
) -> tuple[Figure, str]:
    """Draw what each layer reaches below what the machine allows, a panel for each batch size.

    Parameters
    ----------
    points : DataFrame
        A row a layer: dtype (``float32`` or ``int8``), batch, layer, intensity (operations per
        byte moved), rate (1e9 operations per second).
    roofs : dict of str to (float, float)
        dtype to its highest rate (1e9 operations per second) and the memory's (1e9 bytes per
        second).
    labeled : tuple of str
        Layers that get their name beside their point.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    batches = points["batch"].unique()
    size = (10, 4.4) if len(batches) > 1 else (7, 4.6)
    fig, axes = figure(1, len(batches), size=size, sharex=True, sharey=True, squeeze=False)
    colors, lines = {"float32": FLOAT, "int8": INT8}, {"float32": "-", "int8": "--"}
    ridges = [peak / bandwidth for peak, bandwidth in roofs.values()]
    left = 0.6 * min(points["intensity"].min(), *ridges)
    right = 1.6 * max(points["intensity"].max(), *ridges)
    along = geomspace(left, right, 400)
    halo = withStroke(linewidth=2, foreground="white")
    said = []
    for ax, batch in zip(axes[0], batches, strict=True):
        for dtype, (peak, bandwidth) in roofs.items():
            text = f"{dtype} roof: {_short(peak)} GOP/s, {_short(bandwidth)} GB/s"
            roof = {"color": colors[dtype], "linestyle": lines[dtype], "linewidth": 2}
            ax.plot(along, minimum(peak, along * bandwidth), label=text, **roof)
            here = points[(points["batch"] == batch) & (points["dtype"] == dtype)]
            if here.empty:
                continue
            look = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.6}
            look |= STYLE[colors[dtype]] | {"markersize": 6.5, "alpha": 0.85}
            ax.plot(here["intensity"], here["rate"], label=f"{dtype} layers", **look)
            for row in here[here["layer"].isin(labeled)].itertuples():
                # Above and left of int8, below and right of float32: seldom on one another.
                x, y, side = (-5, 4, "right") if dtype == "int8" else (5, -10, "left")
                where = {"xytext": (x, y), "textcoords": "offset points", "ha": side}
                text = {"fontsize": 8, "path_effects": [halo]}
                ax.annotate(row.layer, (row.intensity, row.rate), **where, **text)
            share = (here["rate"] / minimum(peak, here["intensity"] * bandwidth)).median()
            said.append(f"batch {batch}, {dtype}: {share:.0%} of the roof")
        ax.set(xscale="log", yscale="log", xlim=(left, right))
        ax.grid(alpha=0.3)
        label(ax, f"Batch {batch}", "operations per byte (log)")
    axes[0, 0].set_ylabel("GOP/s (1e9 operations per second, log)")
    low, high = points["rate"].min(), max(peak for peak, _ in roofs.values())
    low, high = 0.6 * min(low, high), 1.6 * max(points["rate"].max(), high)
    axes[0, 0].set_ylim(low, high)
    _plain_log(axes[0, 0].xaxis, left, right)
    _plain_log(axes[0, 0].yaxis, low, high)
    _legend_below(fig, 2)
    ends = "; ".join(
        f"{dtype} {_short(peak)} GOP/s and {_short(bandwidth)} GB/s"
        for dtype, (peak, bandwidth) in roofs.items()
    )
    return fig, (
        f"Rate of each layer over its operations per byte, below a roof per dtype ({ends}). The "
        f"median layer reaches, {'; '.join(said)}."
    )


def ratio_map(table: DataFrame, title: str) -> tuple[Figure, str]:
    """Draw how many times int8 is faster than the fastest float32, a cell for each setting.

    Parameters
    ----------
    table : DataFrame
        Fastest float32 latency / int8 latency; below 1 int8 loses; NaN where nothing was timed.
        The names of index and columns are the axes' labels, by default batch and threads.
    title : str

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    values = table.to_numpy(dtype=float)
    y, x = table.index.name or "batch", table.columns.name or "threads"
    cells = {
        f"{value:.2f} times at {y} {table.index[row]}, {x} {table.columns[column]}": value
        for (row, column), value in ndenumerate(values)
        if value == value
    }
    best, worst = max(cells, key=cells.get), min(cells, key=cells.get)
    most = max(1.25, cells[best], 1 / cells[worst])
    colors = LinearSegmentedColormap.from_list("float to int8", [FLOAT, "white", INT8])
    colors = colors.with_extremes(bad="#EEEEEE")
    norm = LogNorm(1 / most, most)  # its middle, which is white, is 1
    fig, ax = figure(size=(min(10, values.shape[1] + 4.2), 0.5 * max(3, len(values)) + 1.5))
    drawn = ax.imshow(ma.masked_invalid(values), cmap=colors, norm=norm, aspect="auto")
    for (row, column), value in ndenumerate(values):
        text, weight, color = f"{value:.2f}", "normal", "black"
        if value != value:
            text, color = "none", "#555555"
        elif value < 1:
            weight = "bold"
            color = "white" if sum(to_rgb(colors(norm(value)))) < 1.5 else "black"
            hatched = {"fill": False, "hatch": "///", "linewidth": 0}
            edge = {"edgecolor": to_rgba(color, 0.45)}
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **hatched, **edge))
        behind = {"facecolor": colors(norm(value)), "linewidth": 0, "pad": 1.5}
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color=color,
            weight=weight,
            bbox=behind if weight == "bold" else None,
        )
    ax.set_xticks(range(values.shape[1]), table.columns)
    ax.set_yticks(range(len(values)), table.index)
    label(ax, title, x, y)
    bar = fig.colorbar(drawn)
    bar.set_label("float32 time / int8 time (log)\nhatched: int8 loses", fontsize=9)
    _plain_log(bar.ax.yaxis, 1 / most, most)
    won, lost = sum(v > 1 for v in cells.values()), sum(v < 1 for v in cells.values())
    return fig, (
        f"Heatmap: {title}. int8 is faster in {won} and slower in {lost} of {len(cells)} cells; "
        f"from {worst} to {best}."
    )


def layer_ratios(table: DataFrame) -> tuple[Figure, str]:
    """Draw by layer how many times int8 is faster than float32: up from 1, or down.

    Parameters
    ----------
    table : DataFrame
        Columns layer (str), float_ms and int8_ms, in the order of execution.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    ratios = (table["float_ms"] / table["int8_ms"]).reset_index(drop=True)
    layers = table["layer"].reset_index(drop=True)
    fig, ax = figure(size=(10, 4.2))
    looks = {
        "int8 is faster": (ratios >= 1, {"facecolor": INT8}),
        "int8 is slower": (ratios < 1, {"facecolor": FLOAT, "hatch": "////"}),
    }
    for text, (which, look) in looks.items():
        if which.any():
            here = ratios[which]
            ax.bar(here.index, here - 1, bottom=1, label=text, edgecolor="black", **look)
    ax.axhline(1, color="black", linewidth=1)
    ax.set_yscale("log")
    low, high = 0.85 * min(1, ratios.min()), 1.15 * max(1, ratios.max())
    ax.set_ylim(low, high)
    _plain_log(ax.yaxis, low, high)
    ax.set_xlim(-0.7, len(ratios) - 0.3)
    ax.set_xticks(range(len(ratios)), layers, rotation=60, ha="right", fontsize=8)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    title = "How many times faster each layer is in int8"
    label(ax, title, "layer, in the order of execution", "float32 time / int8 time (log)")
    ax.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    best, worst = ratios.idxmax(), ratios.idxmin()
    slower = ", ".join(layers[ratios < 1]) or "none"
    return fig, (
        f"Bars of float32 time over int8 time for {len(ratios)} layers, logarithmic around 1: most "
        f"at {layers[best]}, {ratios[best]:.2f}; least at {layers[worst]}, {ratios[worst]:.2f}. "
        f"Slower in int8: {slower}."
    )


def ceilings(table: DataFrame) -> tuple[Figure, str]:
    """Draw what each kernel reached: operations on the left, bytes read on the right.

    Parameters
    ----------
    table : DataFrame
        As :func:`utils.lab.roofline.measure` returns it: kind, kernel, value, unit, problem.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    titles = {"GOP/s": "Arithmetic", "GB/s": "Reading memory"}
    panels = {unit: table[table["unit"] == unit] for unit in titles}
    panels = {unit: rows for unit, rows in panels.items() if len(rows)}
    longest = max(len(rows) + rows["kind"].nunique() for rows in panels.values())
    fig, axes = figure(1, len(panels), size=(10, 0.27 * longest + 1.0), squeeze=False)
    said = []
    for ax, (unit, rows) in zip(axes[0], panels.items(), strict=True):
        names, headings = [], []
        for kind, group in rows.groupby("kind", sort=False):
            headings.append(len(names))
            names.append(kind)
            best = group["value"].max()
            for row in group.itertuples():
                if row.value != row.value:
                    text = " ".join(row.problem.split())
                    text = text if len(text) <= 40 else text[:39] + "…"
                    _beside(ax, 0, len(names), text, fontsize=8, style="italic")
                else:
                    look, weight = {"facecolor": GREY, "edgecolor": "black"}, "normal"
                    if row.value == best:
                        look = {"facecolor": ACCENT, "edgecolor": "white", "hatch": "///"}
                        weight = "bold"
                        said.append(f"{kind} {_short(best)} {unit} ({row.kernel})")
                    ax.barh(len(names), row.value, 0.74, **look)
                    text = _short(row.value)
                    _beside(ax, row.value, len(names), text, fontsize=8, weight=weight)
                names.append(row.kernel)
            if best != best:
                said.append(f"{kind} none")
        ax.set_yticks(range(len(names)), names, fontsize=9)
        for row in headings:
            ax.get_yticklabels()[row].set_weight("bold")
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(longest - 0.4, -0.6)
        ax.set_xlim(0, 1.15 * rows["value"].max() if rows["value"].notna().any() else 1)
        label(ax, titles[unit], unit)
    return fig, f"Bars of what each kernel reached; the best of each kind: {'; '.join(said)}."
