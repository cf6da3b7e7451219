"""Checks of the exercises of notebook 04."""

import numpy as np

from utils.exercises import Hint, answered, asks, choice, correct

SUSPECTS = "engine", "float islands", "unfused layers", "threads", "first calls", "no VNNI"
CAUSES = {"A": "engine", "B": "first calls", "C": "float islands", "D": "threads"}
UNITS = {"millisecond": 1e3, "microsecond": 1e6}


@asks("a dict with one text for each timing")
def check_causes(answer: dict[str, str], look: dict[str, str]) -> None:
    """Check the cause of each timing; ``look`` says which fact to read again."""
    if answered(*answer.values()):
        for run in (run for run, c in CAUSES.items() if choice(answer[run], *SUSPECTS) != c):
            raise Hint(f"{answer[run]!r} does not explain timing {run}. {look[run]}")
        correct("Each cause can be read off before anything is timed again.")


@asks("three numbers")
def check_paired(answer: tuple[float, ...], slow: np.ndarray, fast: np.ndarray) -> None:
    """Check how many times faster ``fast`` is, and the ends of the interval."""
    if answered(*answer):
        r, medians = slow / fast, np.median(slow) / np.median(fast)
        wrong = {"First divide within each round.": medians, "A mean follows outliers.": r.mean()}
        wrong |= {"torch.median takes the lower of two middle values.": np.sort(r)[len(r) // 2 - 1]}
        _compare(answer[0], np.median(r), wrong | {"Divide float32 by int8.": np.median(1 / r)})
        drawn, ends = np.random.default_rng(0).choice(r, (20_000, len(r))), [0.025, 0.975]
        low, high = np.quantile(np.median(drawn, axis=1), ends)
        wrong = {"Single rounds spread so far, not their median.": np.quantile(r, ends)}
        wrong |= {"Take medians, not means.": np.quantile(drawn.mean(axis=1), ends)}
        wrong |= {
            "The lower end comes first.": (high, low),
            "Extremes are no interval.": (r.min(), r.max()),
        }
        _compare(answer[1:], (low, high), wrong, 0.009)
        correct("If the interval contains 1, the two variants tie.")


@asks("two numbers")
def check_bound(answer: tuple[float, float], peak: float, read: float) -> None:
    """Check bytes and least seconds of int8 ``layer1.0.conv1`` at batch 1, padding counted."""
    if answered(*answer):
        moved = 64 * 64 * 9 + 2 * 64 * 49
        wrong = {"int8 needs one byte per number.": 4 * moved, "Weights count too.": 2 * 64 * 49}
        wrong |= {"Write bytes, not bits.": 8 * moved}
        _compare(answer[0], moved, wrong | {"Outputs are written.": moved - 64 * 49})
        times = 2 * 64 * 64 * 9 * 49 / peak, moved / read
        wrong = {"Count two operations per product.": times[0] / 2, "Never add them.": sum(times)}
        wrong |= {f"Write seconds, not {u}s.": v * max(times) for u, v in UNITS.items()}
        _compare(answer[1], max(times), wrong | {"The slower one decides.": min(times)})
        correct("Here arithmetic decides; with more weights and fewer pixels, bytes would.")


def _compare(answer: object, right: object, wrong: dict, within: float = 0.02) -> None:
    for hint, value in (wrong | {"Read again how the task defines it.": answer}).items():
        if not np.allclose(answer, right, within, 0) and np.allclose(answer, value, 0.02, 0, True):
            raise Hint(hint)
