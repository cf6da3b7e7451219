"""Figures of notebook 02."""

from matplotlib.figure import Figure
from numpy import median, ndarray, ndenumerate
from torch import Tensor, arange

from utils.figures.charts import gallery
from utils.figures.style import ACCENT, GREY, figure, label


def augmented(images: Tensor, heading: str) -> tuple[Figure, str]:
    """Draw copies of a digit, uint8 (N, 1, 28, 28), with a cross-hair and each one's center.

    The cross-hair is in the middle of the frame, the dot at the center of the ink, so that the
    distance between the two shows the shift.
    """
    alt = f"{heading}. Lines cross in the middle of each frame; a dot marks the center of the ink, "
    ink, places = images[:, 0].double(), arange(28)
    down = (ink.sum(2) * places).sum(1) / ink.sum((1, 2))
    right = (ink.sum(1) * places).sum(1) / ink.sum((1, 2))
    alt += (
        f"which moves by up to {float((down - down[0]).hypot(right - right[0]).max()):.1f} pixels."
    )
    fig, alt = gallery(images, [""] * len(images), heading, alt)
    for ax, x, y in zip(fig.axes, right, down, strict=False):
        ax.axhline(13.5, color=GREY, linewidth=1)
        ax.axvline(13.5, color=GREY, linewidth=1)
        ax.plot(x, y, "o", color="#E377C2", markeredgecolor="black", markersize=6)
    return fig, alt


def confusion(counts: ndarray, classes: tuple[str, ...]) -> tuple[Figure, str]:
    """Draw a confusion matrix, int (true class, predicted class), with its errors colored."""
    errors = counts.copy()
    errors[range(len(classes)), range(len(classes))] = 0
    most = max(1, int(errors.max()))
    fig, ax = figure(width=6.4, height=5.4)
    ax.imshow(errors, cmap="Greys", vmin=0, vmax=1.4 * most)
    for (row, column), count in ndenumerate(counts):
        if count:
            dark = errors[row, column] > most / 2
            color = "#555555" if row == column else ("white" if dark else "black")
            ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    label(ax, "Images of the test split: errors shaded", "predicted class", "true class")
    worst = ((classes[r], classes[c]) for (r, c), n in ndenumerate(errors) if n == most)
    return fig, (
        f"Confusion matrix of {counts.sum():,} images: {counts.trace():,} on the diagonal, "
        f"{errors.sum():,} off it. The largest error count is {errors.max()}: "
        f"{', '.join(f'true {true} taken for {taken}' for true, taken in worst) or 'no errors'}."
    )


def throughput(rounds: dict[str, list[float]]) -> tuple[Figure, str]:
    """Draw images per second: a setting's name to all of its rounds; the median is a bar."""
    fig, ax = figure(height=0.42 * len(rounds) + 1.1)
    for row, seen in enumerate(rounds.values()):
        ax.plot(seen, [row] * len(seen), "o", color=GREY, alpha=0.6, markersize=5)
        ax.plot(median(seen), row, "|", color=ACCENT, markersize=18, markeredgewidth=3)
    ax.set_yticks(range(len(rounds)), list(rounds))
    ax.set_ylim(len(rounds) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    label(ax, "Training: every round (dots) and the median (bar)", "images per second")
    said = "; ".join(f"{name}: {median(seen):,.0f}" for name, seen in rounds.items())
    return fig, f"Images per second of every round for {len(rounds)} settings. Medians: {said}."
