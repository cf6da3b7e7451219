"""Figures of notebook 02."""

from utils.figures.style import ACCENT, FLOAT, GREY, STYLE, figure, label


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
