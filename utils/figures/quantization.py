"""Figures of notebooks 00 and 03, and the README's headline."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import abs, clip, interp, linspace, rint
from pandas import DataFrame

from utils.comparison import Comparison, accuracy_interval
from utils.figures.charts import OBSERVERS
from utils.figures.style import FLOAT, GREY, INT8, STYLE, figure, label, legend_below, name_of


def pipeline() -> tuple[Figure, str]:
    """Draw the way from training to an int8 network, with what each step needs or makes."""
    notes = {
        "1. train": "float32 weights, labels needed",
        "2. fuse": "conv, batch norm, ReLU: one layer",
        "3. observe": "an observer behind every layer",
        "4. calibrate": "a few hundred images, no labels: ranges",
        "5. convert": "ranges become S and Z, weights become int8",
        "6. run": "8-bit integers from layer to layer",
    }
    boxes = [(0, -y, name, FLOAT if y < 4 else INT8) for y, name in enumerate(notes)]
    fig, ax = _flow(boxes, [(y, y + 1) for y in range(5)], (5.5, 3.8))
    for y, note in enumerate(notes.values()):
        ax.text(0.7, -y, note, va="center")
    ax.set(xlim=(-0.5, 3.9), ylim=(-5.5, 0.5))
    said = "; ".join(f"{name}: {note}" for name, note in notes.items())
    return fig, f"Six boxes joined by arrows downwards, four in float32, then two in int8. {said}."


def conv_flow(values: dict[str, float]) -> tuple[Figure, str]:
    """Draw the data flow of an int8 convolution with the numbers of one output value.

    Parameters
    ----------
    values : dict of str to float
        products (how many are summed), total (int32), bias (in units of the sum), multiplier,
        real (the scaled sum), Z (of the output), code.
    """
    v = values
    boxes = [
        (0, 2, f"$q_x - Z_x$\n{v['products']} codes, quint8", INT8),
        (0, 1, f"$q_w$\n{v['products']} codes, qint8", INT8),
        (1.2, 1.5, f"multiply, add up\nint32\n{v['total']:,}", INT8),
        (2.4, 1.5, f"+ bias / $(S_x S_w)$\n{v['bias']:+,.1f}", "white"),
        (2.4, 0, f"× $S_x S_w / S_y$\n× {v['multiplier']:.4g}\n= {v['real']:.2f}", "white"),
        (1.2, 0, f"round, + $Z_y$\n{round(v['real'])} + {v['Z']}", "white"),
        (0, 0, f"clamp\n$q_y$ = {v['code']}\nquint8", INT8),
    ]
    fig, ax = _flow(boxes, [(0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)], (6.5, 3.4))
    ax.set(xlim=(-0.5, 2.9), ylim=(-0.4, 2.3))
    return fig, (
        f"Data flow: {v['products']} input codes and {v['products']} weight codes are multiplied "
        f"and added up to the int32 value {v['total']:,}; the bias adds {v['bias']:,.1f}; times "
        f"{v['multiplier']:.4g} gives {v['real']:.2f}; rounded, plus the zero point {v['Z']}, and "
        f"clamped, the output code is {v['code']}."
    )


def _flow(boxes: list, arrows: list, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Draw boxes (x, y, text, color), and arrows between pairs of their numbers."""
    fig, ax = figure(width=size[0], height=size[1])
    ax.set_axis_off()
    drawn = []
    for x, y, text, color in boxes:
        frame = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "black"}
        ink = "white" if color == FLOAT else "black"
        drawn.append(ax.text(x, y, text, ha="center", va="center", color=ink, bbox=frame))
    for start, end in arrows:
        ends = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
        look = {"arrowstyle": "-|>", "color": "black", **ends}
        ax.annotate("", boxes[end][:2], boxes[start][:2], arrowprops=look)
    return fig, ax


def staircase(reals, scale: float, zero_point: int, codes: int) -> tuple[Figure, str]:
    """Draw which value ``r-hat = S (q - Z)`` every real value gets, and the error that remains.

    Parameters
    ----------
    reals : array of float
        Values to mark.
    scale : float
    zero_point, codes : int
        Codes run from 0 to ``codes`` - 1.
    """
    ends = [scale * (q - zero_point) for q in (0, codes - 1)]
    line = linspace(min(*reals, ends[0]) - 2 * scale, max(*reals, ends[1]) + 2 * scale, 2001)

    def there_and_back(r):
        return scale * (clip(rint(r / scale) + zero_point, 0, codes - 1) - zero_point)

    fig, (steps, error) = figure(2, 1, height=7)
    steps.plot(line, line, color=FLOAT, linestyle="--", label="r")
    steps.plot(line, there_and_back(line), color=INT8, linewidth=2, label="r-hat")
    to_code, to_real = lambda r: r / scale + zero_point, lambda q: scale * (q - zero_point)
    right = steps.secondary_yaxis("right", functions=(to_code, to_real))
    right.set(ylabel="code q", yticks=[0, zero_point, codes - 1])
    label(steps, f"{codes} codes, S = {scale:.3g}, Z = {zero_point}", "r", "r-hat = S (q - Z)")
    error.plot(line, there_and_back(line) - line, color=INT8)
    error.hlines([-scale / 2, scale / 2], line[0], line[-1], "black", ":", linewidth=1)
    label(error, "Error; dotted: half a step, S / 2", "r", "r-hat - r")
    for ax, marked in ((steps, there_and_back(reals)), (error, there_and_back(reals) - reals)):
        ax.plot(reals, marked, "k.", markersize=8, label="marked values")
        ax.axvspan(line[0], ends[0], color=GREY, alpha=0.25, label="beyond the codes")
        ax.axvspan(ends[1], line[-1], color=GREY, alpha=0.25)
    steps.legend(frameon=False, fontsize=9)
    return fig, (
        f"A staircase of {codes} steps from {ends[0]:.3g} to {ends[1]:.3g} along the line r-hat = "
        f"r; zero is exact, on code {zero_point}. Below it, the error: a saw between plus and "
        f"minus {scale / 2:.3g} inside the range, growing without bound in the shaded parts beyond."
    )


def number_line(reals, ends: tuple[float, float], bits: int) -> tuple[Figure, str]:
    """Draw the :func:`staircase` of a range, extended to zero, with the codes of real values."""
    low, high = min(ends[0], 0), max(ends[1], 0)
    scale = max(high - low, 0.01) / (2**bits - 1)
    zero_point = round(-low / scale)
    fig, alt = staircase(reals, scale, zero_point, 2**bits)
    codes = clip(rint(reals / scale) + zero_point, 0, 2**bits - 1)
    errors = abs(scale * (codes - zero_point) - reals)
    said = f"codes of the marked values: {', '.join(f'{code:.0f}' for code in codes)}"
    fig.axes[0].set_title(f"{fig.axes[0].get_title('left')}\n{said}", loc="left", fontsize=11)
    worst = f"largest error {errors.max():.3g}, at {reals[errors.argmax()]:.3g}"
    label(fig.axes[1], f"Error; dotted: S / 2 = {scale / 2:.2g}\n{worst}", "r", "r-hat - r")
    return fig, f"{alt} S = {scale:.3g}; {said}; {worst}."


def clipping(values, errors: DataFrame, ends: dict[str, float], top: float) -> tuple[Figure, str]:
    """Draw what ranges that end at ``top`` cut off, and their squared errors.

    The table ``errors`` has the columns error (``both``, ``rounding`` or ``clipping``), top and
    mean; ``ends`` are the upper ends that some of :data:`utils.figures.charts.OBSERVERS` chose.
    """
    curves = errors.pivot_table("mean", "top", "error")
    times = interp(top, curves.index, curves["both"]) / curves["both"].min()
    fig, (seen, error) = figure(2, 1, height=6.5)
    seen.hist(values, 80, color=FLOAT, log=True)
    looks = {"both": "-", "rounding": (0, (8, 2)), "clipping": (0, (1, 1))}
    for name, dashes in looks.items():
        error.plot(curves[name], color=INT8, linestyle=dashes, linewidth=2, label=f"error, {name}")
    error.set(yscale="log", ylim=(curves["rounding"].min() / 2, 2 * curves["both"].max()))
    for ax in (seen, error):
        ax.axvline(top, color=GREY, linewidth=5, label="your upper end")
        for name, end in ends.items():
            look = OBSERVERS[name] | {"marker": ""}
            ax.axvline(end, linewidth=1.6, label=name, **look)
        ax.axvspan(top, 9 * top, color=GREY, alpha=0.25)
        ax.set_xlim(0 if ax is seen else curves.index.min(), curves.index.max())
    cut = f"{(values > top).mean():.3%} of the values cut off"
    times = f"{times:.2f} times the smallest error"
    label(seen, f"Upper end {top:.3g}: {cut}", "value", "count (log)")
    label(error, f"Upper end {top:.3g}: {times}", "upper end", "mean squared error (log)")
    legend_below(fig, 4)
    said = "; ".join(f"{name} {end:.3g}" for name, end in ends.items())
    drawn = "Histogram, and rounding and clipping error along the upper end of the range"
    return fig, f"{drawn}. Observers chose {said}. Upper end {top:.3g}: {cut}, {times}."


def observer_ranges(observers: dict) -> tuple[Figure, str]:
    """Draw what histogram observers saw, the range that they chose, and the share outside of it.

    Parameters
    ----------
    observers : dict of str to HistogramObserver
        Layer name to a calibrated observer; two or four.
    """
    fig, axes = figure(-(-len(observers) // 2), 2, height=5.8, squeeze=False)
    said = []
    for ax, (name, observer) in zip(axes.flat, observers.items(), strict=True):
        low, high = observer.min_val.item(), observer.max_val.item()
        fine = observer.histogram.double()
        ax.stairs(fine.reshape(128, -1).sum(1), linspace(low, high, 129), fill=True, color=FLOAT)
        scale, zero_point = (value.item() for value in observer.calculate_qparams())
        ends = [scale * (q - zero_point) for q in (observer.quant_min, observer.quant_max)]
        middles = linspace(low, high, len(fine) + 1)[:-1] + (high - low) / len(fine) / 2
        outside = fine[(middles < ends[0]) | (middles > ends[1])].sum() / fine.sum()
        ax.axvspan(*ends, facecolor="#FBEFD5", edgecolor=INT8, linestyle="--", zorder=0)
        said.append(f"{name} {ends[0]:.3g} to {ends[1]:.3g}, outside {outside:.3%}")
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
        label(ax, f"{name}\noutside: {outside:.3%}", "activation", "count (log)")
    return fig, (
        "Histograms of the activations of some layers on a logarithmic axis, the range that the "
        f"codes represent shaded: {'; '.join(said)}."
    )


def layer_profile(table: DataFrame) -> tuple[Figure, str]:
    """Draw SQNR along the network, the lowest one marked.

    Parameters
    ----------
    table : DataFrame
        Columns layer and sqnr_db, in the order of execution.
    """
    fig, ax = figure(height=3.8)
    db, worst = table["sqnr_db"], int(table["sqnr_db"].argmin())
    ax.plot(range(len(table)), db, linewidth=1.5, **STYLE[INT8])
    ax.plot(worst, db.iloc[worst], "o", color="black", markersize=13, fillstyle="none")
    ax.set_xticks(range(len(table)), table["layer"], rotation=90, fontsize=9)
    ax.grid(axis="y", alpha=0.3)
    label(ax, "Signal to noise along the network; circle: lowest", "layer", "SQNR (dB)")
    return fig, (
        f"SQNR over {len(table)} layers in the order of execution: {db.iloc[0]:.1f} dB at the "
        f"input, {db.iloc[-1]:.1f} dB at the logits, lowest at {table['layer'].iloc[worst]} with "
        f"{db.iloc[worst]:.1f} dB."
    )


def quickstart(
    paired: Comparison, float_bytes: int, int8_bytes: int, latency: DataFrame
) -> tuple[Figure, str]:
    """Draw accuracy, file size and latency of float32 (A) and int8 (B) side by side.

    The table ``latency`` is that of :func:`utils.timing.summarize`, float32 first in each batch.
    """
    timed = {batch: list(rows["median_ms"]) for batch, rows in latency.groupby("batch")}
    timed = {batch: (["float32", "int8"], ms) for batch, ms in timed.items()}
    return _summary(paired, float_bytes, int8_bytes, timed)


def headline(
    paired: Comparison, float_bytes: int, int8_bytes: int, verdicts: DataFrame
) -> tuple[Figure, str]:
    """Draw accuracy, size, and latency against the naive and the fastest float32, on one thread.

    The table ``verdicts`` is that of :func:`utils.timing.verdicts`; batches 1 and 64 are drawn.
    """
    one, timed = verdicts[verdicts["threads"] == 1].set_index("batch"), {}
    for batch in (1, 64):
        row = one.loc[batch]
        fastest = textwrap.fill(name_of(row["fastest_float"]).removeprefix("float32, "), 10)
        names = ["float32\neager", f"float32\n{fastest}", "int8\neager"]
        timed[batch] = names, [row["eager_ms"], row["fastest_float_ms"], row["int8_ms"]]
    return _summary(paired, float_bytes, int8_bytes, timed)


def _summary(paired, float_bytes: int, int8_bytes: int, timed: dict) -> tuple[Figure, str]:
    many = max(len(names) for names, _ in timed.values()) > 2
    fig, grid = figure(2, 2, height=5.6)
    right, *axes = grid.flat
    for x, (share, color) in enumerate(((paired.accuracy_a, FLOAT), (paired.accuracy_b, INT8))):
        low, high = accuracy_interval(round(share * paired.images), paired.images)
        error = [[100 * (share - low)], [100 * (high - share)]]
        right.errorbar(x, 100 * share, error, capsize=6, markersize=8, **STYLE[color])
        right.text(x + 0.12, 100 * share, f"{share:.2%}", va="center")
    right.set(xticks=[0, 1], xticklabels=["float32", "int8"], xlim=(-0.5, 1.8))
    label(right, "Accuracy", y="% of test images")
    panels = [("File size", "MB", ["float32", "int8"], [float_bytes / 1e6, int8_bytes / 1e6])]
    panels += [(f"Latency, batch {b}", "ms, one thread", *bars) for b, bars in timed.items()]
    said = [f"accuracy {paired.accuracy_a:.2%}, {paired.accuracy_b:.2%}"]
    for ax, (title, unit, names, values) in zip(axes, panels, strict=True):
        bars = ax.bar(range(len(values)), values, width=0.65, color=[FLOAT, FLOAT, INT8])
        bars[-1].set(facecolor=INT8, hatch="//")
        if len(values) == 3:
            bars[1].set(alpha=0.6, hatch="..")
        ax.set_xticks(range(len(values)), names, fontsize=9)
        ax.bar_label(bars, fmt="%.2f" if max(values) < 100 else "%.0f", padding=2)
        ax.margins(y=0.15)
        label(ax, title, y=unit)
        said.append(f"{title} {', '.join(f'{value:.2f}' for value in values)} {unit}")
    order = (
        "eager float32, the fastest float32 where it was timed, int8" if many else "float32, int8"
    )
    return fig, f"Four panels, each in the order {order}: {'; '.join(said)}."
