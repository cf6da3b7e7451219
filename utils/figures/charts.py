"""General charts. Each one makes its alt text from the data that it draws."""

from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy import isfinite, ndarray, ndenumerate
from pandas import DataFrame, Series
from torch import Tensor

from utils.figures import style
from utils.figures.style import ACCENT, FLOAT, GREY, INT8, figure, label, legend_below, short

# Any two of these can be told apart in greyscale: by marker, dashes and lightness.
LINES = (
    {"color": "black", "marker": "v", "linestyle": "-"},
    {"color": ACCENT, "marker": "D", "linestyle": ":"},
    {"color": GREY, "marker": "^", "linestyle": "--"},
    {"color": "#009E73", "marker": "P", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "X", "linestyle": (0, (1, 1))},
)
# One look for each observer, wherever several are compared.
OBSERVERS = dict(zip(("min-max", "moving average", "histogram", "percentile"), LINES, strict=False))
BARS = (
    {"facecolor": GREY, "edgecolor": "black"},
    {"facecolor": "white", "edgecolor": "black", "hatch": "////"},
    {"facecolor": ACCENT, "edgecolor": "black", "hatch": ".."},
    {"facecolor": "#D9D9D9", "edgecolor": "black", "hatch": "xx"},
)
DTYPES = {
    "float32": {"facecolor": FLOAT, "edgecolor": "black"},
    "int8": {"facecolor": INT8, "edgecolor": "black", "hatch": "///"},
}


def gallery(
    images: Tensor | ndarray, titles: list[str], heading: str, alt: str, columns: int = 8
) -> tuple[Figure, str]:
    """Draw small images, uint8 of shape (N, 1, 28, 28), in rows, each below its title."""
    rows = max(1, -(-len(images) // columns))
    side = min(1.1, style.WIDTH / columns)
    height = (side + 0.25 * any(titles)) * rows + 0.35
    fig, axes = figure(rows, columns, side * columns, height, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, pixels, title in zip(axes.flat, images, titles, strict=False):
        style.image(ax, pixels, title)
    fig.suptitle(heading, x=0.01, ha="left", fontsize=11)
    return fig, alt


def bars(
    table: DataFrame | Series, title: str, x: str, *, highlight: str | None = None, log=False
) -> tuple[Figure, str]:
    """Draw horizontal bars: one row per index entry, one bar per column.

    Parameters
    ----------
    table : DataFrame or Series
        Numbers. Columns named ``float32`` and ``int8`` have the course's two colors.
    title, x : str
        Of the figure and of its horizontal axis, with the unit.
    highlight : str, optional
        The row that stands out; needs a Series.
    log : bool
        Whether the axis is logarithmic.

    Returns
    -------
    Figure, str
        The figure and its alt text.

    Raises
    ------
    ValueError
        If ``highlight`` is not in the index.
    """
    table = table.to_frame(table.name or x) if isinstance(table, Series) else table
    rows, several = [str(name) for name in table.index], table.shape[1] > 1
    height = 0.8 / table.shape[1]
    fig, ax = figure(height=(0.2 * table.shape[1] + 0.2) * len(table) + 1.1 + 0.3 * several)
    for number, (name, values) in enumerate(table.items()):
        places = [row - 0.4 + height * (number + 0.5) for row in range(len(table))]
        look = DTYPES.get(name, BARS[number % len(BARS)])
        drawn = ax.barh(places, values, height, label=str(name), **look)
        ax.bar_label(drawn, [short(v) if isfinite(v) else "none" for v in values], padding=4)
    if highlight is not None:
        row = rows.index(str(highlight))
        ax.patches[row].set(facecolor=ACCENT, hatch="///", edgecolor="white")
    ax.set_yticks(range(len(table)), rows)
    ax.invert_yaxis()
    if log:
        ax.set_xscale("log")
    ax.margins(x=0.12 if table.min().min() >= 0 else 0.2)  # with room for the numbers
    label(ax, title, x)
    if several:
        legend_below(fig, table.shape[1])
    said = "; ".join(
        f"{row}: " + ", ".join(f"{c} {short(v)}" if several else short(v) for c, v in cells.items())
        for row, (_, cells) in zip(rows, table.iterrows(), strict=True)
    )
    marked = "" if highlight is None else f" {highlight} is highlighted."
    return fig, f"Horizontal bars: {title}. {x}. {said}.{marked}"


def dots(
    tables: dict[str, DataFrame], by: str, title: str, *, reference: float | None = None
) -> tuple[Figure, str]:
    """Draw a mean with its 95 % interval for each choice, one panel per measure.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Label of the horizontal axis, with the unit, to a table with the columns ``by``, mean, low
        and high; the same choices in the same order in each.
    by : str
        Column with the names of the choices.
    title : str
    reference : float, optional
        Where a dashed line stands in each panel, for instance 0 for "no change".

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    names = next(iter(tables.values()))[by].astype(str).tolist()
    width, height = 4.6 * len(tables) + 1.5, 0.34 * len(names) + 1.5
    fig, axes = figure(1, len(tables), width, height, squeeze=False, sharey=True)
    said = []
    for ax, (x_label, table) in zip(axes[0], tables.items(), strict=True):
        spread = [table["mean"] - table["low"], table["high"] - table["mean"]]
        where = {"xerr": spread, "linestyle": "", "capsize": 4}
        ax.errorbar(table["mean"], range(len(table)), **where, **style.STYLE[INT8])
        if reference is not None:
            ax.axvline(reference, color="black", linestyle="--", linewidth=1)
        ax.grid(alpha=0.3)
        label(ax, "", x_label)
        values = ", ".join(f"{n} {v:.3g}" for n, v in zip(names, table["mean"], strict=True))
        said.append(f"{x_label}: {values}")
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig, f"{title}. Means with 95 % intervals. {'; '.join(said)}."


def lines(
    tables: dict[str, DataFrame],
    by: str,
    x: str,
    title: str,
    x_label: str,
    *,
    base: float | None = 2,
    looks: dict[str, dict] | None = None,
) -> tuple[Figure, str]:
    """Draw means with their intervals, one panel per measure, one line per choice.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Label of the vertical axis, with the unit, to a table with the columns ``by``, ``x``, mean
        and, where there are intervals, low and high.
    by, x : str
        Columns: which line, and where along it.
    title, x_label : str
    base : float, optional
        Of the logarithmic horizontal axis; None makes it linear.
    looks : dict, optional
        Color, marker and line style of a choice, in place of those in :data:`LINES`.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    rows = -(-len(tables) // 2)
    fig, axes = figure(rows, min(2, len(tables)), height=3.2 * rows + 0.6, squeeze=False)
    for ax in axes.flat[len(tables) :]:
        ax.set_axis_off()
    said = []
    for ax, (y_label, table) in zip(axes.flat, tables.items(), strict=False):
        middle = (table[by].nunique() - 1) / 2
        for number, (name, rows) in enumerate(table.groupby(by, sort=False)):
            look = {"capsize": 3, "markersize": 5}
            look |= (looks or OBSERVERS).get(name, LINES[number % len(LINES)])
            places, spread = rows[x], None
            if "low" in rows:
                spread = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
                if base:  # side by side, so that no interval hides another
                    places = rows[x] * base ** (0.12 * (number - middle))
            ax.errorbar(places, rows["mean"], yerr=spread, label=str(name), **look)
            first, last = rows.iloc[0], rows.iloc[-1]
            ends = (f"{row['mean']:.4g} at {row[x]:,}" for row in (first, last))
            said.append(f"{y_label}, {name}: {', '.join(ends)}")
        ticks = sorted(table[x].unique())
        if base:
            ax.set_xscale("log", base=base)
        if len(ticks) <= 12:
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=9)
            ax.minorticks_off()
        elif not base and table[x].dtype.kind == "i":
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(axis="y", alpha=0.3)
        label(ax, "", x_label, y_label)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    legend_below(fig, min(4, table[by].nunique()))
    spread = " Means with their intervals." if "low" in table else ""
    return fig, f"{title}.{spread} {'; '.join(said)}."


def heat_map(
    table: DataFrame, title: str, x: str, y: str, unit: str, *, neutral=None, log=False
) -> tuple[Figure, str]:
    """Draw a table of numbers as colored cells with the numbers in them.

    Parameters
    ----------
    table : DataFrame
        Index: rows; columns: columns.
    title, x, y : str
        Of the figure and its axes.
    unit : str
        What the numbers are, with the unit, beside the color bar.
    neutral : float, optional
        The value that is drawn white, for differences (0) and ratios (1).
    log : bool
        Whether the colors are logarithmic.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    values = table.to_numpy(float)
    low, high = table.min().min(), table.max().max()
    norm, colors = (LogNorm(low, high) if log else None), "cividis"
    if neutral is not None:
        reach = max(high - neutral, neutral - low, 1e-9)
        norm, colors = TwoSlopeNorm(neutral, neutral - reach, neutral + reach), "PuOr"
    longest = max(len(str(name)) for name in table.index)
    width = max(5.5, 2.6 + 0.08 * longest + 0.85 * table.shape[1])  # with labels and color bar
    fig, ax = figure(width=width, height=1.4 + 0.42 * len(table))
    drawn = ax.imshow(values, cmap=colors, norm=norm, aspect="auto")
    for (row, column), value in ndenumerate(values):
        red, green, blue, _ = drawn.cmap(drawn.norm(value))
        dark = isfinite(value) and 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        text = short(value) if isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    ax.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], fontsize=9)
    ax.set_yticks(range(len(table)), [str(name) for name in table.index])
    ax.spines[:].set_visible(False)
    label(ax, title, x, y)
    fig.colorbar(drawn, label=unit)
    said = "; ".join(
        f"{y} {row}: " + ", ".join(f"{c} {short(v)}" for c, v in cells.items())
        for row, cells in table.iterrows()
    )
    return fig, f"Heat map: {title}. {unit}; columns: {x}. {said}.".replace("\n", " ")


def histograms(
    values: dict[str, ndarray],
    title: str,
    x: str,
    *,
    bins: int | ndarray = 60,
    log=False,
    marks: dict[str, float] | None = None,
) -> tuple[Figure, str]:
    """Draw how values are distributed, one outline per name, with marked places.

    Parameters
    ----------
    values : dict of str to ndarray
        ``float32`` and ``int8`` have the course's two colors.
    title, x : str
    bins : int or ndarray
        Number of bins, or their edges.
    log : bool
        Whether the counts are on a logarithmic axis.
    marks : dict of str to float, optional
        Vertical lines: legend entry to place.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(height=3.4)
    own = {"float32": FLOAT, "int8": INT8}
    for number, (name, found) in enumerate(values.items()):
        look = LINES[number % len(LINES)]
        line = {"color": own.get(name, look["color"]), "ls": look["linestyle"], "lw": 1.8}
        ax.hist(found, bins, histtype="step", label=name, **line)
    for number, (name, place) in enumerate((marks or {}).items()):
        dashes = ("--", ":", "-.")[number % 3]
        ax.axvline(place, color="black", linestyle=dashes, linewidth=1.2, label=name)
    if log:
        ax.set_yscale("log")
    else:
        ax.yaxis.get_major_locator().set_params(integer=True)
    label(ax, title, x, "count" + (" (log)" if log else ""))
    if len(values) + len(marks or {}) > 1:
        legend_below(fig, min(4, len(values) + len(marks or {})))
    said = [
        f"{n}: {len(v):,} values from {v.min():.3g} to {v.max():.3g}" for n, v in values.items()
    ]
    said += [f"{name} at {place:.3g}" for name, place in (marks or {}).items()]
    return fig, f"Histogram: {title}. {x}. {'; '.join(said)}."
