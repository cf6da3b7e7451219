"""Compare two classifiers on the same images: paired, because unpaired hides what happened.

Beyond top-1: margins, divergence, calibration error, SQNR; with intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.nn.functional as F
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

from utils.quantization import sqnr


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


BINS = 15  # of the calibration error, as in Guo et al. 2017


def margins(logits: Tensor) -> Tensor:
    """Return the distance between the two largest logits of every image.

    Parameters
    ----------
    logits : Tensor
        Floating point, shape (N, classes).

    Returns
    -------
    Tensor
        Shape (N,), 0 or larger: what quantization noise must overcome to change a prediction.
    """
    largest, _ = logits.topk(2)
    return largest[:, 0] - largest[:, 1]


def divergence(reference: Tensor, approximation: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the two softmax distributions of every image.

    ``sum_k p_k log(p_k / q_k)``, p from ``reference`` (Kullback and Leibler: On Information and
    Sufficiency, 1951).

    Parameters
    ----------
    reference, approximation : Tensor
        Logits, floating point, shape (N, classes).

    Returns
    -------
    Tensor
        float64, shape (N,), in nats.
    """
    p, q = (F.log_softmax(t.double(), dim=1) for t in (reference, approximation))
    return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error: how far confidence is from the share that is right.

    Mean over 15 equal bins of the confidence, weighted by their images, of
    ``|accuracy - confidence|`` (Guo et al.: On Calibration of Modern Neural Networks, ICML 2017,
    equation 3).

    Parameters
    ----------
    confidence : ndarray
        Largest softmax probability of every image, shape (N,).
    correct : ndarray of bool
        Shape (N,).

    Returns
    -------
    float
        A fraction, 0 if confidence can be believed.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))


def scores(table: pd.DataFrame) -> dict[str, float]:
    """Summarize one model.

    Parameters
    ----------
    table : DataFrame
        As :func:`per_image` returns it.

    Returns
    -------
    dict of str to float
        accuracy, worst class (the lowest accuracy of a class), calibration error (all fractions),
        margin (mean, in logits).
    """
    correct, label = table["correct"].to_numpy(), table["label"].to_numpy()
    total = np.bincount(label)
    right = np.bincount(label, weights=correct)
    return {
        "accuracy": float(correct.mean()),
        "worst class": float((right[total > 0] / total[total > 0]).min()),
        "calibration error": calibration_error(table["confidence"].to_numpy(), correct),
        "margin": float(table["margin"].mean()),
    }


def per_image(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return what :func:`scores` needs of every image: label, correct, confidence and margin.

    Parameters
    ----------
    logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).
    """
    confidence, predicted = F.softmax(logits.double(), dim=1).max(1)
    return pd.DataFrame(
        {
            "label": labels.numpy(),
            "correct": (predicted == labels).numpy(),
            "confidence": confidence.numpy(),
            "margin": margins(logits).numpy(),
        }
    )


def changes(
    float_logits: Tensor,
    int8_logits: Tensor,
    labels: Tensor,
    twins: tuple[Tensor, Tensor],
    draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Say by how much each measure moves from float32 to int8, and how sure that is.

    The intervals are of the paired bootstrap: images are drawn with replacement, and all models
    are scored on the same draw (Efron and Tibshirani: An Introduction to the Bootstrap, 1993,
    chapter 13). They hold the chance in the choice of test images alone.

    Parameters
    ----------
    float_logits, int8_logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).
    twins : (Tensor, Tensor)
        Logits of two int8 models that are equally good, for instance calibrated on two draws.
        Flips and divergence cannot be negative, so what the twins differ by stands for zero.
    draws : int
        Of the bootstrap.
    seed : int

    Returns
    -------
    DataFrame
        A row a measure: measure, change (int8 - float32), low, high (95 % interval), and moved: the
        change over half the width of its interval, so that beyond 1 it is more than chance. The
        measures are those of :func:`scores`, and flips (share of predictions that differ) and
        divergence (mean, nats), each between float32 and int8 less that between the twins; for
        these two only more than the twins counts as moved.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    shapes = {tuple(logits.shape) for logits in (float_logits, int8_logits, *twins)}
    if len(shapes) > 1 or float_logits.shape[:1] != labels.shape:
        raise ValueError(
            f"logits of shapes {sorted(shapes)} and labels {tuple(labels.shape)} do not describe "
            f"the same images"
        )
    before, after = per_image(float_logits, labels), per_image(int8_logits, labels)
    apart = _apart(float_logits, int8_logits) - _apart(*twins)

    def moved(chosen: np.ndarray | slice) -> dict[str, float]:
        was, now = scores(before.iloc[chosen]), scores(after.iloc[chosen])
        return {name: now[name] - was[name] for name in was} | apart.iloc[chosen].mean().to_dict()

    random = np.random.default_rng(seed)
    drawn = pd.DataFrame(
        [moved(random.integers(0, len(labels), len(labels))) for _ in range(draws)]
    )
    change = pd.Series(moved(slice(None)))
    table = pd.DataFrame({"change": change, "low": drawn.quantile(0.025)})
    table["high"] = drawn.quantile(0.975)
    half = (table["high"] - table["low"]) / 2
    size = change.abs()
    size[apart.columns] = change[apart.columns].clip(lower=0)
    table["moved"] = (size / half.where(half > 0)).fillna(0.0)  # nothing moved: 0
    return table.rename_axis("measure").reset_index()


def _apart(one: Tensor, other: Tensor) -> pd.DataFrame:
    flips = (one.argmax(1) != other.argmax(1)).double()
    return pd.DataFrame({"flips": flips.numpy(), "divergence": divergence(one, other).numpy()})


def cost(float_logits: Tensor, int8_logits: Tensor, labels: Tensor) -> dict:
    """Say in a few numbers what quantization changed on the same images.

    Parameters
    ----------
    float_logits, int8_logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).

    Returns
    -------
    dict
        sqnr_db (of the logits), divergence (mean, nats), flips (share of the predictions), points
        (accuracy of int8 less that of float32, in percent), p (McNemar's, exact), tested (number of
        images), lost and won (lists: which images only float32, only int8 classifies correctly).
    """
    paired = compare(float_logits, int8_logits, labels)
    right, still = (logits.argmax(1) == labels for logits in (float_logits, int8_logits))
    return {
        "sqnr_db": sqnr(float_logits, int8_logits),
        "divergence": divergence(float_logits, int8_logits).mean().item(),
        "flips": paired.flips / paired.images,
        "points": 100 * paired.difference,
        "p": paired.mcnemar_p,
        "tested": paired.images,
        "lost": (right & ~still).nonzero().flatten().tolist(),
        "won": (still & ~right).nonzero().flatten().tolist(),
    }


def by_class(
    float_logits: Tensor, int8_logits: Tensor, labels: Tensor, classes: tuple[str, ...]
) -> pd.DataFrame:
    """Compare two models class by class, the class that loses most first.

    Parameters
    ----------
    float_logits, int8_logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,); every class has images.
    classes : tuple of str

    Returns
    -------
    DataFrame
        Columns class, float32 (accuracy in percent), change (int8 - float32, in points), p
        (McNemar's, exact), beyond chance (with Holm's correction for asking about every class).
    """
    rows = []
    for number, name in enumerate(classes):
        of = labels == number
        paired = compare(float_logits[of], int8_logits[of], labels[of])
        rows.append((name, 100 * paired.accuracy_a, 100 * paired.difference, paired.mcnemar_p))
    table = pd.DataFrame(rows, columns=["class", "float32", "change", "p"])
    table["beyond chance"] = beyond_chance(table["p"])
    return table.sort_values("change", ignore_index=True)


def mean_interval(values) -> tuple[float, float, float]:
    """Return mean and 95 % interval of a few repetitions, by Student's t distribution.

    Parameters
    ----------
    values : sequence of float
        At least two.

    Returns
    -------
    mean, low, high : float

    Raises
    ------
    ValueError
        If there are fewer than two values: one draw says nothing about the spread.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: an interval needs at least two repetitions")
    low, high = DescrStatsW(values).tconfint_mean()
    return float(values.mean()), float(low), float(high)


def means_by(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Return mean, low and high of ``value`` over the repetitions within each group.

    Parameters
    ----------
    table : DataFrame
        A row for each repetition.
    by : list of str
        Columns that name a group; the order of appearance is kept.
    value : str
        Column of numbers.

    Returns
    -------
    DataFrame
        The columns of ``by``, then mean, low and high (95 % interval, Student's t).
    """
    rows = [
        (*(key if isinstance(key, tuple) else (key,)), *mean_interval(group[value]))
        for key, group in table.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])


def points_interval(
    lost: Sequence[Sequence[int]],
    won: Sequence[Sequence[int]],
    images: int,
    each: int | None = None,
    repeats: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return a change of accuracy and its 95 % interval over test images *and* draws.

    Images and draws are resampled independently, and the two deviations added. This is a little too
    cautious, because the draws' differences contain noise of the images already (Owen: The
    pigeonhole bootstrap, Annals of Applied Statistics 2007). Half an image lost and half an image
    won are added, as in :func:`utils.statistics.compare`, so that few flips do not look like
    certainty. Few draws underrate their own spread: it is widened as Student's t asks (Hesterberg:
    What Teachers Should Know About the Bootstrap, The American Statistician 2015).

    Parameters
    ----------
    lost, won : sequence of sequences of int
        For each draw (a model with calibration images of its own), which images only float32, only
        int8 classifies correctly. The two models are those of :func:`cost`; for two int8 models A
        and B, join A's won to B's lost and A's lost to B's won.
    images : int
        In all; ``lost`` and ``won`` are numbers below it.
    each : int, optional
        Images that each draw was tested on, if each had a part of its own; by default all.
    repeats, seed : int
        Of the bootstrap.

    Returns
    -------
    mean, low, high : float
        In points (percent), int8 - float32.
    """
    known = np.unique(np.concatenate([*lost, *won]).astype(int))
    change = np.zeros((len(lost), len(known) + 2))
    for row, (minus, plus) in enumerate(zip(lost, won, strict=True)):
        np.add.at(change[row], np.searchsorted(known, np.asarray(minus, int)), -1)
        np.add.at(change[row], np.searchsorted(known, np.asarray(plus, int)), 1)
    change *= images / (each or images)
    mean = change.mean(0).sum() / images
    change[:, -2:] = -1, 1  # the halves of an image
    odds = np.array([1.0] * len(known) + [0.5, 0.5, images + 1 - len(known)]) / (images + 2)
    random = np.random.default_rng(seed)
    times = random.multinomial(images + 2, odds, repeats)[:, :-1]
    n = len(lost)
    found = times @ change.mean(0)
    if n > 1:
        wider = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * np.sqrt(n / (n - 1))
        away = change.sum(1) - change.sum(1).mean()
        found += wider * random.multinomial(n, np.full(n, 1 / n), repeats) @ away / n
    found /= images + 2
    low, high = np.quantile(found, [0.025, 0.975])
    return 100 * float(mean), 100 * float(low), 100 * float(high)


def points_by(table: pd.DataFrame, by: list[str], images: int | None = None) -> pd.DataFrame:
    """Return the change of accuracy of each group with :func:`points_interval`'s interval.

    Parameters
    ----------
    table : DataFrame
        A row for each draw, with the columns tested, lost and won of :func:`cost`.
    by : list of str
        Columns that name a group; the order of appearance is kept.
    images : int, optional
        In all, if each draw was tested on a part of its own; lost and won then count from there.

    Returns
    -------
    DataFrame
        The columns of ``by``, then mean, low and high, in points.
    """
    rows = []
    for key, group in table.groupby(by, sort=False):
        each = int(group["tested"].iloc[0])
        found = points_interval(group["lost"], group["won"], images or each, each)
        rows.append((*(key if isinstance(key, tuple) else (key,)), *found))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])
