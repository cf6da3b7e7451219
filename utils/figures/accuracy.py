"""Figures of notebook 06."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import histogram, linspace, median
from pandas import DataFrame

from utils.figures.charts import LINES
from utils.figures.style import FLOAT, INT8, STYLE, figure, label
from utils.lab.diagnosis import has_fault


def measures_moved(table: DataFrame) -> tuple[Figure, str]:
    """Draw how far each measure has moved, in units of its own uncertainty.

    Parameters
    ----------
    table : DataFrame
        Columns dataset, bits, measure and moved: the change over half the width of its 95 %
        interval, so that above 1 the interval does not contain zero.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    datasets = table["dataset"].unique()
    fig, axes = figure(1, len(datasets), size=(5 * len(datasets), 4), squeeze=False, sharey=True)
    said = []
    for ax, dataset in zip(axes[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset]
        for look, (measure, line) in zip(LINES, rows.groupby("measure", sort=False), strict=False):
            ax.plot(line["bits"], line["moved"].clip(lower=0.05), label=measure, **look)
            beyond = line[line["moved"] > 1]["bits"]
            said.append(
                f"{dataset}, {measure}: "
                + (
                    f"beyond chance at {beyond.max()} bits"
                    if len(beyond)
                    else "never beyond chance"
                )
            )
        ax.axhline(1, color="black", linewidth=1)
        ax.set_yscale("log")
        ax.set_xticks(sorted(rows["bits"].unique()))
        ax.invert_xaxis()
        label(ax, dataset, "steps as fine as this many bits give")
    axes[0][0].set_ylabel("change / half of its 95 % interval")
    _legend(fig, axes[0][0])
    return fig, (
        "Lines of the size of a change over its own uncertainty, a panel a dataset; above the line "
        f"at 1 it is beyond chance. {'; '.join(said)}."
    )


def margin_histogram(float_margin, int8_margin, flipped) -> tuple[Figure, str]:
    """Draw the distribution of the margins of float32 and int8, and where the flips lie.

    Parameters
    ----------
    float_margin, int8_margin : array, shape (N,)
        Distance between the two largest logits.
    flipped : array of bool, shape (N,)
        Images whose prediction changed.

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(size=(8, 3.6))
    edges = linspace(0, float(max(float_margin.max(), int8_margin.max())), 25)
    for values, colour, dashes, name in (
        (float_margin, FLOAT, "-", "float32"),
        (int8_margin, INT8, "--", "int8"),
    ):
        counts, _ = histogram(values, edges)
        ax.stairs(counts, edges, color=colour, linestyle=dashes, linewidth=2, label=name)
    flips = float_margin[flipped]
    top = ax.get_ylim()[1]
    ax.plot(flips, [top * 0.02] * len(flips), "|", color="black", markersize=14, label="flips")
    ax.legend(frameon=False)
    ax.set_ylim(bottom=0)
    label(ax, "Margin of every test image", "margin (logits)", "images (count)")
    largest = float(flips.max()) if len(flips) else 0.0
    return fig, (
        f"Histograms of the margins of {len(float_margin):,} images, of float32 and of int8. The "
        f"{len(flips)} flips are marked at the bottom, the largest at a margin of {largest:.2f}; "
        f"the median of all images is {median(float_margin):.2f}."
    )


def layer_costs(table: DataFrame) -> tuple[Figure, str]:
    """Draw what one layer in int8 costs, above what one layer back in float32 gives back.

    Parameters
    ----------
    table : DataFrame
        Columns layer, layer_db (SQNR of the logits with this layer alone in int8), per_channel_db
        and per_tensor_db (with its weights alone rounded), gain_db (what the SQNR of the int8
        model gains with this layer in float32).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, (alone, back) = figure(2, 1, size=(9, 6.4), sharex=True)
    x = range(len(table))
    looks = {
        "layer_db": "the layer in int8, weights and output",
        "per_channel_db": "weights alone, per channel",
        "per_tensor_db": "weights alone, per tensor",
    }
    for look, (column, name) in zip(LINES, looks.items(), strict=False):
        alone.plot(x, table[column], label=name, **look)
    alone.margins(y=0.2)  # room for the legend
    alone.legend(frameon=False, fontsize=8, loc="lower center", ncols=3)
    alone.grid(axis="y", alpha=0.3)
    label(alone, "One layer alone: lower is worse", y="SQNR of the logits (dB)")
    back.bar(x, table["gain_db"], color=INT8, hatch="//", edgecolor="black")
    label(back, "All layers in int8 but this one", y="gain of SQNR (dB)")
    back.set_xticks(list(x), table["layer"], rotation=60, ha="right", fontsize=8)
    back.set_xlabel("layer, in the order of definition")
    worst = ", ".join(
        f"{name}: {table.loc[table[column].idxmin(), 'layer']}" for column, name in looks.items()
    )
    most = table.loc[table["gain_db"].idxmax()]
    return fig, (
        f"Two panels over {len(table)} layers. Lowest SQNR of the logits: {worst}. Back in "
        f"float32, {most.layer} gives the most, {most.gain_db:.2f} dB."
    )


def scatter(ax: Axes, table: DataFrame, x: str, y: str, named: list[str]) -> None:
    """Draw a layer a point and name some of them.

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        Columns layer, ``x`` and ``y``.
    x, y : str
    named : list of str
        Layers.
    """
    ax.scatter(table[x], table[y], color=INT8, marker="s", edgecolor="black", zorder=3)
    for row in table[table["layer"].isin(named)].to_dict("records"):
        right = row[x] > table[x].mean()  # the name goes towards the middle
        place = {"xytext": (-6 if right else 6, 4), "textcoords": "offset points", "fontsize": 8}
        ax.annotate(row["layer"], (row[x], row[y]), ha="right" if right else "left", **place)
    ax.margins(x=0.1, y=0.12)
    ax.locator_params(axis="x", nbins=6)
    ax.grid(alpha=0.3)


def layer_ranks(table: DataFrame) -> tuple[Figure, str]:
    """Draw whether accuracy, and the ranges of the weights, tell the same layers as SQNR does.

    Parameters
    ----------
    table : DataFrame
        Columns layer, layer_db (SQNR of the logits with this layer alone in int8), points (its
        change of accuracy), predicted_db and shared_db (what one scale for all channels should
        cost and does cost).

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, (ranks, ranges) = figure(1, 2, size=(10, 4.2))
    lowest = table.nsmallest(3, "layer_db")["layer"].tolist()
    scatter(ranks, table, "points", "layer_db", lowest)
    y = "SQNR of the logits (dB)"
    label(ranks, "The layer alone in int8", "change of accuracy (points)", y)
    away = (table["predicted_db"] - table["shared_db"]).abs()
    named = table.loc[[away.idxmax(), table["shared_db"].idxmax()], "layer"].tolist()
    scatter(ranges, table, "predicted_db", "shared_db", named)
    ends = [0, table[["predicted_db", "shared_db"]].max(axis=None)]
    ranges.plot(ends, ends, color="black", linestyle=":", label="as predicted")
    ranges.legend(frameon=False, fontsize=8, loc="lower right")
    title = "Its weights alone: one scale for all channels"
    label(ranges, title, "6.02 dB for each bit that the median channel loses", "measured cost (dB)")
    return fig, (
        f"Two scatter plots of {len(table)} layers. SQNR of the logits against the change of "
        f"accuracy; lowest SQNR: {', '.join(lowest)}. What one scale for all channels costs, "
        f"measured against predicted from the ranges; farthest from the prediction: {named[0]}, "
        f"highest cost: {named[1]}."
    )


def shifts(table: DataFrame, differences: DataFrame) -> tuple[Figure, str]:
    """Draw accuracy under shift, a column a kind, above the difference between the two models.

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
    fig, axes = figure(
        2, len(kinds), size=(2.7 * len(kinds), 5), sharex=True, sharey="row", squeeze=False
    )
    said = []
    for column, kind in enumerate(kinds):
        rows, apart = table[table["kind"] == kind], differences[differences["kind"] == kind]
        top, bottom = axes[:, column]
        top.plot(rows["strength"], rows["float32"], label="float32", **STYLE[FLOAT])
        top.plot(rows["strength"], rows["int8"], label="int8", linestyle="--", **STYLE[INT8])
        for look, (bits, line) in zip(LINES, apart.groupby("bits"), strict=False):
            spread = [line["mean"] - line["low"], line["high"] - line["mean"]]
            name = f"{bits} bits"
            bottom.errorbar(
                line["strength"], line["mean"], spread, label=name, capsize=3, markersize=5, **look
            )
        bottom.axhline(0, color=FLOAT, linewidth=1.5)
        bottom.set_xticks(rows["strength"])
        label(top, kind)
        label(bottom, "", "strength")
        last = rows.iloc[-1]
        said.append(f"{kind}: float32 {last['float32']:.1f} %, int8 {last['int8']:.1f} %")
    axes[0][0].set_ylabel("accuracy (%)")
    axes[1][0].set_ylabel("int8 - float32 (points)")
    for ax in axes[:, 0]:
        ax.legend(frameon=False, fontsize=8)
    return fig, (
        f"Accuracy over five strengths of {len(kinds)} shifts, float32 and int8, and below their "
        f"difference with 95 % intervals around zero. At strength 5: {'; '.join(said)}."
    )


def diagnosis(table: DataFrame, title: str) -> tuple[Figure, str]:
    """Draw the three SQNR of every layer and mark the layers with a fault.

    Parameters
    ----------
    table : DataFrame
        As :func:`utils.diagnosis.diagnose` returns it.
    title : str

    Returns
    -------
    Figure, str
        The figure and its alt text.
    """
    fig, ax = figure(size=(9, 4))
    x = range(len(table))
    for column, name, look in (
        ("sqnr_db", "all that came together", LINES[0]),
        ("own_db", "this range and step alone", LINES[1]),
        ("weight_db", "these weights alone", {**LINES[2], "linestyle": ""}),
    ):
        ax.plot(x, table[column], label=name, markersize=5, **look)
    faults = [row for row in x if has_fault(table).iloc[row]]
    for row in faults:
        ax.axvspan(row - 0.4, row + 0.4, facecolor="none", edgecolor="#555555", hatch="///", lw=0)
    ax.set_xticks(list(x), table["layer"], rotation=60, ha="right", fontsize=8)
    ax.grid(axis="y", alpha=0.3)
    label(ax, title, "layer, in the order of execution", "SQNR (dB)")
    _legend(fig, ax)
    listed = ", ".join(table["layer"].iloc[row] for row in faults) or "none"
    return fig, (
        f"{title}: SQNR of {len(table)} layers, all noise together, the layer's own range and step "
        f"alone, and its weights alone. Hatched, with a fault: {listed}."
    )


def _legend(fig: Figure, ax: Axes) -> None:
    """One legend for all axes, below them."""
    handles, names = ax.get_legend_handles_labels()
    below = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    fig.legend(handles, names, ncols=min(len(names), 4), handlelength=3.5, **below)
