"""Special figures of notebook 06."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from pandas import DataFrame

from utils.figures.charts import LINES
from utils.figures.style import FLOAT, INT8, STYLE, figure, label, legend_below


def by_layer(
    table: DataFrame,
    columns: Mapping[str, str],
    title: str,
    y: str,
    marked: Sequence[str] = (),
) -> tuple[Figure, str]:
    """Draw one line per measure over the layers, with their names, and hatch some of them.

    Parameters
    ----------
    table : DataFrame
        The column layer and those of ``columns``; one row per layer.
    columns : mapping of str to str
        Column to its name in the legend.
    title, y : str
        Of the figure and of its vertical axis, with the unit.
    marked : sequence of str
        Layers to hatch, for instance those with a fault.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(height=4)
    x = range(len(table))
    for look, (column, name) in zip(LINES, columns.items(), strict=False):
        ax.plot(x, table[column], label=name, markersize=5, **look)
    for place in (n for n, name in enumerate(table["layer"]) if name in marked):
        around = place - 0.4, place + 0.4
        ax.axvspan(*around, facecolor="none", edgecolor="#555555", hatch="///", linewidth=0)
    ax.set_xticks(list(x), table["layer"], rotation=90, fontsize=9)
    ax.grid(axis="y", alpha=0.3)
    label(ax, title, "layer", y)
    legend_below(fig, min(3, len(columns)))
    lowest = "; ".join(
        f"{name}: {table[column].min():.3g} in {table.loc[table[column].idxmin(), 'layer']}"
        for column, name in columns.items()
    )
    hatched = f" Hatched: {', '.join(marked)}." if marked else ""
    return fig, f"{title}: {y} over {len(table)} layers. Lowest values: {lowest}.{hatched}"


def shifts(table: DataFrame, differences: DataFrame) -> tuple[Figure, str]:
    """Draw accuracy under shift, one row per kind, beside the difference of the two models.

    Parameters
    ----------
    table : DataFrame
        Columns kind, strength, float32 and int8 (accuracy in percent).
    differences : DataFrame
        Columns kind, strength, bits, mean, low and high (int8 - float32, in points).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    kinds = table["kind"].unique()
    shared = {"sharex": True, "sharey": "col", "squeeze": False}
    fig, axes = figure(len(kinds), 2, height=1.8 * len(kinds) + 0.9, **shared)
    said = []
    for (both, gap), kind in zip(axes, kinds, strict=True):
        rows, apart = table[table["kind"] == kind], differences[differences["kind"] == kind]
        both.plot(rows["strength"], rows["float32"], label="float32", **STYLE[FLOAT])
        both.plot(rows["strength"], rows["int8"], label="int8", linestyle="--", **STYLE[INT8])
        for number, (bits, line) in enumerate(apart.groupby("bits")):
            spread = [line["mean"] - line["low"], line["high"] - line["mean"]]
            where = {"label": f"int8 - float32, {bits} bits", "capsize": 3, "markersize": 5}
            places = line["strength"] + 0.12 * number - 0.06  # so that no interval hides another
            gap.errorbar(places, line["mean"], spread, **where, **LINES[number])
        gap.axhline(0, color=FLOAT, linewidth=1.5)
        gap.set_xticks(rows["strength"])
        label(both, kind, y="accuracy (%)")
        label(gap, "", y="difference (points)")
        last = rows.iloc[-1]
        said.append(f"{kind}: float32 {last['float32']:.1f} %, int8 {last['int8']:.1f} %")
    lowest = differences.iloc[differences["mean"].argmin()]
    for ax in axes[-1]:
        ax.set_xlabel("strength")
    legend_below(fig, 2)
    return fig, (
        f"Accuracy over the strengths of {len(kinds)} shifts, float32 and int8; beside, their "
        f"difference with its 95 % interval. At the highest: {'; '.join(said)}. The lowest "
        f"difference is {lowest['mean']:.1f} points: {lowest['kind']}, strength "
        f"{lowest['strength']}, {lowest['bits']} bits."
    )
