"""Figures of notebooks 00 and 03, and the README's headline."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from utils.comparison import accuracy_interval
from utils.figures.style import FLOAT, GREY, INT8, STYLE, figure, label, name_of


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
        fastest = name_of(row["fastest_float"]).removeprefix("float32, ")
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
