"""Figures of notebook 04."""

import textwrap

from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy import clip, geomspace, linspace, ma, minimum, ndarray, ndenumerate, percentile
from pandas import DataFrame

from utils.figures.style import (
    ACCENT,
    FLOAT,
    GREY,
    INT8,
    STYLE,
    beside,
    figure,
    fill,
    label,
    legend_below,
    look,
    name_of,
    plain_log,
    short,
    threads_text,
)


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
            ax.plot(ms.index, ms, linewidth=0.8, label=variant, **look(variant))
            medians.append(f"{variant} {ms.median():.2f} ms at batch {batch}")
        ax.set_ylim(bottom=0, top=1.3 * rounds.max())
        ax.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)
        label(ax, f"Batch {batch}, one thread", "round", "latency (ms)")
    return fig, f"Latency of every round, a line a variant. Medians: {', '.join(medians)}."


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
        ax.plot(range(1, len(calls) + 1), calls, label=name_of(variant), **look(variant))
        said.append(f"{name_of(variant)}: {short(calls[0])} ms, then {short(calls[-1])} ms")
    low, high = (end(end(calls) for calls in ms.values()) for end in (min, max))
    log = high > 10 * low
    if log:
        ax.set_yscale("log")
        plain_log(ax.yaxis, low, high)
    else:
        ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)
    unit = "latency (ms, log)" if log else "latency (ms)"
    label(ax, "The first calls after loading", "call", unit)
    legend_below(fig, 3)
    return fig, f"Latency of the first and of the last call drawn. {'; '.join(said)}."


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
    legend_below(fig, 3)
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
    rows, names = range(len(table)), [name_of(variant) for variant in table["variant"]]
    fig, axes = figure(1, 3, size=(10, 0.34 * len(table) + 1.1), sharey=True)
    said = []
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        texts = ["none" if value != value else f"{value:.1f}" for value in values]
        for row, variant, value, text in zip(rows, table["variant"], values, texts, strict=True):
            if value == value:
                ax.barh(row, value, **fill(variant))
            beside(ax, max(0, value) if value == value else 0, row, text, fontsize=9)
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
            look = {"boxprops": fill(variant), "medianprops": line, "showfliers": False}
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
            plain_log(ax.xaxis, *ends[place])
        ax.grid(axis="x", alpha=0.3)
        label(ax, f"Batch {batch}, {threads_text(threads)}, {whiskers}", unit)
        medians = calls.median()
        best, worst = medians.idxmin(), medians.idxmax()
        said.append(
            f"batch {batch} ({whiskers}): from {short(medians[best])} ms ({name_of(best)}) to "
            f"{short(medians[worst])} ms ({name_of(worst)})"
        )
    axes[0, 0].set_yticks(range(len(variants)), [name_of(variant) for variant in variants])
    axes[0, 0].set_ylim(len(variants) - 0.4, -0.6)
    for ax in axes.flat[len(batches) :]:
        ax.set_axis_off()
    return fig, (
        f"Box plots of the latency of single calls, {threads_text(threads)}, {len(variants)} "
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
                line["batch"], line["images_per_second"], label=name_of(variant), **look(variant)
            )
        ax.set_xscale("log", base=2)
        batches = here["batch"].unique()
        ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
        text = threads_text(count)
        label(ax, text.capitalize(), "batch size (images, log)")
        for batch in dict.fromkeys((batches[0], batches[-1])):
            best = here.loc[here.loc[here["batch"] == batch, "images_per_second"].idxmax()]
            rate = f"{best.images_per_second:,.0f} images per second"
            said.append(f"{text}, batch {batch}: {rate} ({name_of(best.variant)})")
    axes[0, 0].set_yscale("log")
    rates = summary["images_per_second"]
    plain_log(axes[0, 0].yaxis, rates.min(), rates.max())
    axes[0, 0].set_ylabel("images per second (log)")
    legend_below(fig, 3)
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
    used, said = set(), [f"{names[0]} {short(ms[0])} ms"]
    for place, after in enumerate(ms):
        before = ms[place - 1] if place else after
        kind = "float32 at the start" if place == 0 else "slower" if after > before else "faster"
        bottom, top = min(before, after), max(before, after)
        if place in (0, last):
            kind, bottom, top = ("int8 at the end" if place else kind), 0, after
        text = "_" if kind in used else kind
        ax.bar(place, top - bottom, 0.62, bottom, edgecolor="black", label=text, **looks[kind])
        used.add(kind)
        text = f"{short(after)} ms"
        if place:
            turn = " faster" if after < before else ", slower" if after > before else ", the same"
            factor = f"×{short(before / after)}{turn}"
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
    title = f"From {short(ms[0])} to {short(ms[-1])} ms: ×{short(ms[0] / ms[-1])} in all"
    label(ax, title, "", "latency (ms)")
    legend_below(fig, 4)
    return fig, (
        f"Waterfall of the latency: {'; '.join(said)}. In all ×{short(ms[0] / ms[-1])}. A faster "
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
            text = f"{dtype} roof: {short(peak)} GOP/s, {short(bandwidth)} GB/s"
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
    plain_log(axes[0, 0].xaxis, left, right)
    plain_log(axes[0, 0].yaxis, low, high)
    legend_below(fig, 2)
    ends = "; ".join(
        f"{dtype} {short(peak)} GOP/s and {short(bandwidth)} GB/s"
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
    plain_log(bar.ax.yaxis, 1 / most, most)
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
    for text, (which, shade) in looks.items():
        if which.any():
            here = ratios[which]
            ax.bar(here.index, here - 1, bottom=1, label=text, edgecolor="black", **shade)
    ax.axhline(1, color="black", linewidth=1)
    ax.set_yscale("log")
    low, high = 0.85 * min(1, ratios.min()), 1.15 * max(1, ratios.max())
    ax.set_ylim(low, high)
    plain_log(ax.yaxis, low, high)
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
                    beside(ax, 0, len(names), text, fontsize=8, style="italic")
                else:
                    look, weight = {"facecolor": GREY, "edgecolor": "black"}, "normal"
                    if row.value == best:
                        look = {"facecolor": ACCENT, "edgecolor": "white", "hatch": "///"}
                        weight = "bold"
                        said.append(f"{kind} {short(best)} {unit} ({row.kernel})")
                    ax.barh(len(names), row.value, 0.74, **look)
                    text = short(row.value)
                    beside(ax, row.value, len(names), text, fontsize=8, weight=weight)
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
