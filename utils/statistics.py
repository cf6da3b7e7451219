"""Compare two classifiers on the same images: paired, because unpaired hides what happened."""

from collections.abc import Sequence
from dataclasses import dataclass

from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """Two classifiers, A and B, on the same images.

    Attributes
    ----------
    images : int
    accuracy_a, accuracy_b : float
        Fractions.
    a_only, b_only : int
        Images that only A, only B classifies correctly: the flips that change accuracy.
    flips : int
        Images on which the two predictions differ, right or wrong.
    mcnemar_p : float
        Exact two-sided p value of McNemar's test that a_only and b_only are equally likely.
    difference : float
        accuracy_b - accuracy_a.
    low, high : float
        95 % interval of the difference.
    """

    images: int
    accuracy_a: float
    accuracy_b: float
    a_only: int
    b_only: int
    flips: int
    mcnemar_p: float
    difference: float
    low: float
    high: float


def compare(logits_a: Tensor, logits_b: Tensor, labels: Tensor) -> Comparison:
    """Compare two classifiers on the same images.

    The p value is McNemar's (1947), exact. The interval is that of Agresti and Min: Simple Improved
    Confidence Intervals for Comparing Matched Proportions (2005): half an observation is added to
    each of the four cells, so that it does not shrink to nothing when there are no flips.

    Parameters
    ----------
    logits_a, logits_b : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).

    Raises
    ------
    ValueError
        If the shapes do not fit, or there are no images.
    """
    if logits_a.shape != logits_b.shape or logits_a.shape[:1] != labels.shape or not len(labels):
        raise ValueError(
            f"shapes {tuple(logits_a.shape)}, {tuple(logits_b.shape)} and labels "
            f"{tuple(labels.shape)} do not describe the same images"
        )
    a, b = logits_a.argmax(1), logits_b.argmax(1)
    right_a, right_b = a == labels, b == labels
    n = len(labels)
    both, neither = (right_a & right_b).sum().item(), (~right_a & ~right_b).sum().item()
    a_only, b_only = (right_a & ~right_b).sum().item(), (~right_a & right_b).sum().item()
    cells = DescrStatsW([-1, 1, 0], weights=[a_only + 0.5, b_only + 0.5, both + neither + 1])
    low, high = cells.zconfint_mean()
    return Comparison(
        images=n,
        accuracy_a=right_a.sum().item() / n,
        accuracy_b=right_b.sum().item() / n,
        a_only=a_only,
        b_only=b_only,
        flips=(a != b).sum().item(),
        mcnemar_p=mcnemar_p(a_only, b_only),
        difference=(b_only - a_only) / n,
        low=float(low),
        high=float(high),
    )


def verdict(paired: Comparison, a: str = "float32", b: str = "int8") -> str:
    """Say in a sentence whether these images can tell the two classifiers apart.

    Parameters
    ----------
    paired : Comparison
    a, b : str
        Names of the classifiers.

    Returns
    -------
    str
        A loss or a gain of B where McNemar's p is below 0.05, else that they cannot tell.
    """
    p = f"McNemar's p = {paired.mcnemar_p:.2g}"
    if paired.mcnemar_p >= 0.05:
        return (
            f"{paired.images:,} images cannot tell {b} from {a}: chance alone would often give "
            f"such a difference ({p})."
        )
    change = "loses" if paired.difference < 0 else "gains"
    return (
        f"{b} {change} {abs(100 * paired.difference):.2f} points against {a}, which is more than "
        f"chance in the choice of {paired.images:,} images explains ({p})."
    )


def mcnemar_p(a_only: int, b_only: int) -> float:
    """Return the exact two-sided p value of McNemar's test (1947).

    Parameters
    ----------
    a_only, b_only : int
        Images that only the one, only the other classifier gets right. Those that both or neither
        gets right do not enter.
    """
    return float(mcnemar([[0, a_only], [b_only, 0]], exact=True).pvalue)


def beyond_chance(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Say which of many tests hold when all are asked at once.

    Holm: A Simple Sequentially Rejective Multiple Test Procedure (1979). The probability of a
    single false alarm among all is at most ``level``.

    Parameters
    ----------
    p_values : sequence of float
        At least one.
    level : float
    """
    rejected, *_ = multipletests(list(p_values), level, method="holm")
    return rejected.tolist()


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy (Wilson 1927), as fractions.

    Raises
    ------
    ValueError
        If ``correct`` is not between 0 and ``images``, or there are no images.
    """
    if not 0 <= correct <= images or images < 1:
        raise ValueError(f"{correct} correct of {images} images is not possible")
    low, high = proportion_confint(correct, images, method="wilson")
    return float(low), float(high)
