"""The figure of notebook 08: what each way to ship costs in bytes and in time."""

import pandas as pd
from matplotlib.figure import Figure

from utils.figures.style import FLOAT, INT8, STYLE, figure, label, plain_log, short


def front(table: pd.DataFrame) -> list[str]:
    """Return the variants that no other beats in both columns, file_mb and ms."""
    costs = table.sort_values(["file_mb", "ms"])
    return costs.loc[
        costs["ms"] < costs["ms"].cummin().shift(fill_value=float("inf")), "label"
    ].tolist()


def pareto(table: pd.DataFrame, title: str) -> tuple[Figure, str]:
    """Draw bytes against latency, one labeled point for each variant; whole ones are hollow.

    Parameters
    ----------
    table : DataFrame
        label, dtype (``float32`` or ``int8``), specialized (bool), file_mb, ms.
    title : str
    """
    fig, ax = figure(width=6.5, height=5.5)
    best = front(table)
    edge = table[table["label"].isin(best)].sort_values("file_mb")
    ax.plot(edge["file_mb"], edge["ms"], color="black", linestyle=":", linewidth=1)
    turn = table.sort_values("ms").groupby(["dtype", "specialized"]).cumcount() % 2
    for row, left in zip(table.itertuples(), turn.reindex(table.index), strict=True):
        color = FLOAT if row.dtype == "float32" else INT8
        fill = color if row.specialized else "white"
        look = STYLE[color] | {"linestyle": "", "markersize": 9, "markerfacecolor": fill}
        ax.plot(row.file_mb, row.ms, **look)
        where = {"ha": "right" if left else "left", "va": "center", "fontsize": 9}
        where |= {"xytext": (-8 if left else 8, 0), "textcoords": "offset points"}
        weight = "bold" if row.label in best else "normal"
        text = row.label.split(", ")[-1].replace(" (deprecated)", "")
        ax.annotate(text, (row.file_mb, row.ms), weight=weight, **where)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(table["file_mb"].min() / 2, table["file_mb"].max() * 2),
    )
    plain_log(ax.xaxis, *ax.get_xlim())
    plain_log(ax.yaxis, *ax.get_ylim())
    label(ax, title, "file (MB, log)", "latency (ms, log)")
    said = "; ".join(
        f"{r.label}: {short(r.file_mb)} MB, {short(r.ms)} ms" for r in table.itertuples()
    )
    return fig, f"{title}. {said}. Not beaten in both: {', '.join(best)}."
