"""Compare two classifiers on the same images: paired, because unpaired hides what happened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

BINS = 15  # of the calibration error, as in Guo et al. 2017


@dataclass(frozen=True)
class Comparison:
    """Two classifiers, A and B, on the same images."""

    images: int
    accuracy_a: float  # fractions
    accuracy_b: float
    a_only: int  # images that only A classifies correctly: flips that change accuracy
    b_only: int
    flips: int  # images on which the two predictions differ, right or wrong
    mcnemar_p: float  # exact, two-sided, that a_only and b_only are equally likely
    difference: float  # accuracy_b - accuracy_a
    low: float  # of its 95 % interval
    high: float


def compare(logits_a: Tensor, logits_b: Tensor, labels: Tensor) -> Comparison:
    """Compare two classifiers, from logits of shape (N, classes) and int64 labels of shape (N,).

    The p value is McNemar's (1947), exact. The interval is that of Agresti and Min: Simple Improved
    Confidence Intervals for Comparing Matched Proportions (2005): half an observation is added to
    each of the four cells, so that it does not shrink to nothing when there are no flips. Raises
    ValueError if the shapes do not fit, or there are no images.
    """
    if logits_a.shape != logits_b.shape or logits_a.shape[:1] != labels.shape or not len(labels):
        raise ValueError(
            f"shapes {tuple(logits_a.shape)}, {tuple(logits_b.shape)} and labels "
            f"{tuple(labels.shape)} do not describe the same images"
        )
    a, b = logits_a.argmax(1), logits_b.argmax(1)
    right_a, right_b = a == labels, b == labels
    a_only, b_only = (right_a & ~right_b).sum().item(), (~right_a & right_b).sum().item()
    n = len(labels)
    middle = (b_only - a_only) / (n + 2)
    half = 1.959964 * (((a_only + b_only + 1) / (n + 2) - middle**2) / (n + 2)) ** 0.5
    low, high = middle - half, middle + half
    shares = [right.sum().item() / n for right in (right_a, right_b)]
    flips, p = (a != b).sum().item(), mcnemar_p(a_only, b_only)
    return Comparison(n, *shares, a_only, b_only, flips, p, (b_only - a_only) / n, low, high)


def verdict(paired: Comparison, a: str = "float32", b: str = "int8") -> str:
    """Say in a sentence whether these images can tell the classifiers named a and b apart.

    A loss or a gain of B is one where McNemar's p is below 0.05.
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

    It counts the images that only one of the two classifiers gets right.
    """
    return float(mcnemar([[0, a_only], [b_only, 0]], exact=True).pvalue)


def beyond_chance(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Say which of many tests hold when all are asked at once; at least one p value.

    The probability of a single false alarm among all is at most ``level`` (Holm: A Simple
    Sequentially Rejective Multiple Test Procedure, 1979).
    """
    return multipletests(list(p_values), level, method="holm")[0].tolist()


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy (Wilson 1927), as fractions.

    Raises ValueError if ``correct`` is not between 0 and ``images``, or there are no images.
    """
    if not 0 <= correct <= images or images < 1:
        raise ValueError(f"{correct} correct of {images} images is not possible")
    low, high = proportion_confint(correct, images, method="wilson")
    return float(low), float(high)


def margins(logits: Tensor) -> Tensor:
    """Return the distance between the two largest logits of every image.

    It is what quantization noise must overcome to change a prediction. The logits are floating
    point, shape (N, classes); the distances have shape (N,) and are 0 or larger.
    """
    largest = logits.topk(2).values
    return largest[:, 0] - largest[:, 1]


def divergence(reference: Tensor, approximation: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the two softmax distributions of every image.

    ``sum_k p_k log(p_k / q_k)``, p from ``reference`` (Kullback and Leibler: On Information and
    Sufficiency, 1951), in nats: float64, shape (N,), from logits of shape (N, classes).
    """
    p, q = (F.log_softmax(t.double(), dim=1) for t in (reference, approximation))
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error: how far confidence is from the share that is right.

    Mean over 15 equal bins of the confidence, weighted by their images, of
    ``|accuracy - confidence|`` (Guo et al.: On Calibration of Modern Neural Networks, ICML 2017,
    equation 3); a fraction, 0 if confidence can be believed. From the largest softmax probability
    of every image and whether it was right (bool), shape (N,).
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))
