"""Figures of notebook 04: latencies, a waterfall of steps, a roofline, a map of ratios."""

import textwrap
from functools import partial
from itertools import pairwise, product

from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy import concatenate, geomspace, ma, minimum, ndenumerate
from pandas import DataFrame, to_numeric

from utils.figures import charts, style
from utils.figures.style import FLOAT, INT8, figure, label, legend_below, plain_log, short

FLOAT_TO_INT8 = LinearSegmentedColormap.from_list("float to int8", [FLOAT, "white", INT8])
STEPS = {
    "float32 at the start": {"facecolor": FLOAT},
    "a faster step": {"facecolor": "#D9D9D9"},
    "a slower step": {"facecolor": "white", "hatch": "xxx"},
    "int8": {"facecolor": INT8, "hatch": "///"},
}


def latency_rounds(samples: DataFrame) -> tuple[Figure, str]:
    """Draw the median call of every round of :func:`utils.timing.latency`, one panel per batch."""
    rounds = samples.groupby(["batch", "variant", "round"], sort=False)["ms"].median()
    rounds = rounds.rename("mean").reset_index()
    tables = {f"latency (ms), batch {b}": t for b, t in rounds.groupby("batch", sort=False)}
    looks = {name: style.look(name) for name in rounds["variant"].unique()}
    title = "Latency of every round, one thread"
    return charts.lines(tables, "variant", "round", title, "round", base=None, looks=looks)


def latencies(summary: DataFrame, threads: int = 1) -> tuple[Figure, str]:
    """Draw medians and 90th percentiles of :func:`utils.timing.summarize`, one panel per batch."""
    here = summary[summary["threads"] == threads]
    variants, panels = list(here["variant"].unique()), list(here.groupby("batch"))
    height = 0.42 * len(variants) + 1.2
    fig, axes = figure(1, len(panels), height=height, sharey=True, squeeze=False)
    said = []
    for ax, (batch, rows) in zip(axes[0], panels, strict=True):
        ends = to_numeric(rows["p90_ms"]).fillna(rows["median_ms"])
        for row, end in zip(rows.itertuples(), ends, strict=True):
            place, look = variants.index(row.variant), style.look(row.variant)
            ax.plot([row.median_ms, end], [place] * 2, "-|", color=look["color"], linewidth=2)
            ax.plot(row.median_ms, place, markersize=7, markeredgecolor="black", **look)
            style.beside(ax, end, place, f"  {short(row.median_ms)}", fontsize=9)
            said.append(f"{style.name_of(row.variant)}, batch {batch}: {short(row.median_ms)} ms")
        low = 0.8 * rows["median_ms"].min()
        high = ends.max() * (ends.max() / low) ** 0.5  # with room for the number
        ax.set(xscale="log", xlim=(low, high))
        plain_log(ax.xaxis, low, high)
        ax.grid(axis="x", alpha=0.3)
        label(ax, f"Batch {batch}", "latency (ms, log)")
    names = [textwrap.fill(style.name_of(name), 24) for name in variants]
    axes[0, 0].set_yticks(range(len(variants)), names)
    title = f"Latency of a call, {style.threads_text(threads)}"
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes[0, 0].set_ylim(len(variants) - 0.4, -0.6)
    ends = "A marker is the median, its line ends at the 90th percentile"
    return fig, f"{title}. {ends}. {'; '.join(said)}."


def waterfall(steps: DataFrame) -> tuple[Figure, str]:
    """Draw the way from the float32 to the int8 latency, and what each step on it changes.

    Parameters
    ----------
    steps : DataFrame
        Columns step (str) and ms (float): the latency after this step. The first row is where
        float32 starts; the last step leads to int8.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    names, ms = list(steps["step"]), list(steps["ms"])
    fig, ax = figure(height=4.8)
    used, said = set(), [f"{names[0]} {short(ms[0])} ms"]

    def bar(place: int, kind: str, ends: tuple[float, float], text: str, **changed) -> None:
        look = {"edgecolor": "black", "label": "_" if kind in used else kind} | STEPS[kind]
        ax.bar(place, max(ends) - min(ends), 0.62, min(ends), **(look | changed))
        where = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        ax.annotate(text, (place, max(ends)), va="bottom", **where)
        used.add(kind)

    bar(0, "float32 at the start", (0, ms[0]), f"{short(ms[0])} ms")
    for place, (before, after) in enumerate(pairwise(ms), start=1):
        turn, slower = _times(before, after), after > before
        text = f"{short(after)} ms\n" + turn.replace("times ", "times\n")
        hatch = {"hatch": "xxx" if slower else "///"} if place == len(ms) - 1 else {}
        kind = "int8" if hatch else "a slower step" if slower else "a faster step"
        bar(place, kind, (before, after), text, **hatch)
        ax.plot([place - 0.69, place + 0.31], [before] * 2, color="black", linewidth=0.9)
        said.append(f"{names[place]} {short(after)} ms ({turn})")
    bar(len(ms), "int8", (0, ms[-1]), f"{short(ms[-1])} ms")
    ax.plot([len(ms) - 0.69, len(ms) + 0.31], [ms[-1]] * 2, color="black", linewidth=0.9)
    titles = [names[0], *(f"step: {name}" for name in names[1:]), "at the end"]
    ax.set_xticks(range(len(titles)), [textwrap.fill(name, 10) for name in titles])
    ax.set_ylim(0, 1.25 * max(ms))
    total = f"{_times(ms[0], ms[-1])} in all"
    label(ax, f"From {short(ms[0])} to {short(ms[-1])} ms: {total}", "", "latency (ms)")
    legend_below(fig, 4)
    drawn = "A faster step is a falling bar, a slower one a rising, cross-hatched bar"
    return fig, f"Waterfall of the latency: {'; '.join(said)}. {total}. {drawn}."


def _times(before: float, after: float) -> str:
    """Say how many times faster or slower a call became, in three digits."""
    ratio = short(max(before, after) / min(before, after))
    word = "slower" if after > before else "faster"
    return "equally fast" if ratio == "1" else f"{ratio} times {word}"


def roofline(
    points: DataFrame, roofs: dict[str, tuple[float, float]], labeled: tuple[str, ...] = ()
) -> tuple[Figure, str]:
    """Draw what each layer reaches below what the machine allows, one panel per batch size.

    Parameters
    ----------
    points : DataFrame
        One row per layer: dtype (``float32`` or ``int8``), batch, layer, intensity (operations per
        byte moved), rate (1e9 operations per second).
    roofs : dict of str to (float, float)
        dtype to its highest rate (1e9 operations per second) and memory's (1e9 bytes per second).
    labeled : tuple of str
        Layers with their names beside their points; the other points are drawn small.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    batches, ridges = points["batch"].unique(), [peak / read for peak, read in roofs.values()]
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = figure(len(batches), 1, height=3.5 * len(batches) + 0.8, **shared)
    left = 0.6 * min(points["intensity"].min(), *ridges)
    right = 1.6 * max(points["intensity"].max(), *ridges)
    highest = 1.6 * max(points["rate"].max(), *(peak for peak, _ in roofs.values()))
    along, said, ends = geomspace(left, right, 400), [], {}
    for ax, batch in zip(axes.flat, batches, strict=True):
        for dtype, (peak, read) in roofs.items():
            color = {"float32": FLOAT, "int8": INT8}[dtype]
            look = {"color": color, "linestyle": "-" if dtype == "float32" else "--"}
            ends[dtype] = f"{dtype} roof: {short(peak)} GOP/s, {short(read)} GB/s"
            ax.plot(along, minimum(peak, along * read), label=ends[dtype], linewidth=2, **look)
            here = points[(points["batch"] == batch) & (points["dtype"] == dtype)]
            named = here["layer"].isin(labeled)
            for rows, size, text in ((here[~named], 4, f"{dtype} layers"), (here[named], 8, "_")):
                look = {"markersize": size, "markeredgecolor": "black", "linestyle": ""}
                ax.plot(rows["intensity"], rows["rate"], label=text, **look, **style.STYLE[color])
            for row in here[named].itertuples():
                halo = [withStroke(linewidth=2, foreground="white")]
                where = {"xytext": (0, 0), "textcoords": "offset points", "path_effects": halo}
                where["arrowprops"] = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 4}
                ax.annotate(row.layer, (row.intensity, row.rate), fontsize=9, **where)
                said.append(f"batch {batch}, {dtype}, {row.layer}: {short(row.rate)} GOP/s")
        ax.set(xscale="log", yscale="log", xlim=(left, right))
        ax.set_ylim(0.6 * points["rate"].min(), highest)
        ax.grid(alpha=0.3)
        label(ax, f"Batch {batch}", "operations per byte (log)", "GOP/s (log)")
    plain_log(axes[0, 0].xaxis, left, right)
    plain_log(axes[0, 0].yaxis, 0.6 * points["rate"].min(), highest)
    legend_below(fig, 2)
    fig.draw_without_rendering()
    _beside_points(fig)
    alt = f"Rate of each layer over its operations per byte. {'; '.join(ends.values())}. "
    return fig, f"{alt}{'; '.join(said)}."


def _beside_points(fig: Figure) -> None:
    """Move the names of points to where they hide as few names and points as possible."""
    places = list(product((5, -11, -15, 15, -21, 25), ((6, "left"), (-6, "right"))))

    def hidden(name: Annotation, taken: list[Bbox], place: tuple) -> int:
        name.set(position=(place[1][0], place[0]), ha=place[1][1])
        box, frame = Text.get_window_extent(name), name.axes.bbox  # without the line to the point
        return box.count_overlaps(taken) + 9 * (box.x0 < frame.x0 or box.x1 > frame.x1)

    for ax in fig.axes:
        dots = [line.get_xydata() for line in ax.lines if line.get_linestyle() == "None"]
        taken = [Bbox([xy, xy]).padded(5) for xy in ax.transData.transform(concatenate(dots))]
        for name in sorted(ax.texts, key=lambda text: -text.xy[0]):  # from the right
            hidden(name, taken, min(places, key=partial(hidden, name, taken)))
            taken.append(Text.get_window_extent(name))


def setting(summary: DataFrame, batch: int, threads: int) -> tuple[Figure, str]:
    """Draw the :func:`latencies` of one batch size and number of threads, the fastest on top."""
    here = summary.query("batch == @batch and threads == @threads").sort_values("median_ms")
    fig, alt = latencies(here, threads)
    lowest = f"lowest median: {style.name_of(here['variant'].iloc[0])}"
    title = f"Batch {batch}, {style.threads_text(threads)}; {lowest}"
    fig.axes[0].set_title(title, loc="left", fontsize=11)
    return fig, f"{alt} The {lowest}."


def ratio_map(table: DataFrame, title: str) -> tuple[Figure, str]:
    """Draw how many times int8 is faster than float32, one cell per setting; NaN where nothing is.

    Orange where int8 is faster, blue and bold where it is slower. The names of index and columns
    are the labels of the axes.
    """
    values, y, x = ma.masked_invalid(table.to_numpy(float)), table.index.name, table.columns.name
    most = max(1.25, values.max(), 1 / values.min())
    norm = LogNorm(1 / most, most)  # its middle, which is white, is 1
    fig, ax = figure(width=1.1 * table.shape[1] + 3.5, height=0.4 * max(3, len(table)) + 1.3)
    drawn = ax.imshow(values, cmap=FLOAT_TO_INT8, norm=norm, aspect="auto")
    for (row, column), value in ndenumerate(table.to_numpy(float)):
        dark = sum(to_rgb(FLOAT_TO_INT8(norm(value)))) < 1.5
        look = {"color": "white" if dark else "black", "weight": "bold" if value < 1 else "normal"}
        text = "–" if value != value else f"{value:.2f}"
        ax.text(column, row, text, ha="center", va="center", **(look if text != "–" else {}))
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(len(table)), table.index)
    label(ax, title, x, y)
    bar = fig.colorbar(drawn, label="float32 time / int8 time (log)\nbold: int8 is slower")
    plain_log(bar.ax.yaxis, 1 / most, most)
    cells = table.melt(ignore_index=False).dropna().itertuples(name=None)
    said = "; ".join(f"{y} {row}, {x} {column}: {value:.2f}" for row, column, value in cells)
    return fig, f"Map: {title}. float32 time / int8 time, above 1 int8 is faster. {said}."
