"""Checks of the exercises of notebook 04."""

import numpy as np

from utils.exercises import Hint, answered, correct
from utils.timing import interval

CAUSES = {"A": "engine", "B": "first calls", "C": "float islands", "D": "threads"}


def check_causes(answer: dict[str, str], look: dict[str, str]) -> None:
    """Check the cause of each timing; ``look`` says which fact to read again."""
    if answered(*answer.values()):
        for run in (run for run, cause in CAUSES.items() if answer[run] != cause):
            raise Hint(f"{answer[run]!r} does not explain timing {run}. {look[run]}")
        correct("Each cause can be read off before anything is timed again.")


def check_paired(answer: tuple[float, ...], slow: np.ndarray, fast: np.ndarray) -> None:
    """Check how many times faster ``fast`` is, and the ends of the interval."""
    if answered(*answer):
        r, medians = slow / fast, np.median(slow) / np.median(fast)
        wrong = {"First divide within each round.": medians, "A mean follows outliers.": r.mean()}
        _compare(answer[0], np.median(r), wrong | {"Divide float32 by int8.": np.median(1 / r)})
        wrong = {"Single rounds spread so far, not their median.": np.quantile(r, [0.025, 0.975])}
        _compare(answer[1:], interval(r), wrong | {"This is the range.": (r.min(), r.max())})
        correct("If the interval contains 1, the two variants tie.")


def check_bound(answer: tuple[float, float], peak: float, read: float) -> None:
    """Check bytes and least seconds of int8 ``layer1.0.conv1`` at batch 1, padding counted."""
    if answered(*answer):
        moved = 64 * 64 * 9 + 2 * 64 * 49
        wrong = {"int8 needs one byte per number.": 4 * moved, "Weights count too.": 2 * 64 * 49}
        _compare(answer[0], moved, wrong | {"Outputs are written.": moved - 64 * 49})
        times = 2 * 64 * 64 * 9 * 49 / peak, moved / read
        wrong = {"Count two operations per product.": times[0] / 2, "Never add them.": sum(times)}
        _compare(answer[1], max(times), wrong | {"The slower one decides.": min(times)})
        correct("Here arithmetic decides; with more weights and fewer pixels, bytes would.")


def _compare(answer: object, right: object, wrong: dict[str, object]) -> None:
    for hint, value in (wrong | {"Read again how the task defines it.": answer}).items():
        if not np.allclose(answer, right, 0.02, 0) and np.allclose(answer, value, 0.02, 0, True):
            raise Hint(hint)
