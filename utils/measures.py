"""How far two models are apart beyond top-1: margins, divergence, calibration, with intervals."""

import numpy as np
import pandas as pd
import torch.nn.functional as F
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

from utils.quantization import sqnr
from utils.statistics import beyond_chance, compare

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
    float_logits: Tensor, int8_logits: Tensor, labels: Tensor, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """Say by how much each measure moves from float32 to int8, and how sure that is.

    The intervals are of the paired bootstrap: images are drawn with replacement, and both models
    are scored on the same draw (Efron and Tibshirani: An Introduction to the Bootstrap, 1993,
    chapter 13).

    Parameters
    ----------
    float_logits, int8_logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).
    draws : int
        Of the bootstrap.
    seed : int

    Returns
    -------
    DataFrame
        A row a measure: measure, change (int8 - float32), low, high (95 % interval), and moved: the
        change over half the width of its interval, so that beyond 1 it is more than chance. The
        measures are those of :func:`scores`, and flips (share of predictions that differ) and
        divergence (mean, nats), which are 0 for equal models.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if float_logits.shape != int8_logits.shape or float_logits.shape[:1] != labels.shape:
        raise ValueError(
            f"shapes {tuple(float_logits.shape)}, {tuple(int8_logits.shape)} and labels "
            f"{tuple(labels.shape)} do not describe the same images"
        )
    before, after = per_image(float_logits, labels), per_image(int8_logits, labels)
    apart = pd.DataFrame(
        {
            "flips": (float_logits.argmax(1) != int8_logits.argmax(1)).numpy(),
            "divergence": divergence(float_logits, int8_logits).numpy(),
        }
    )

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
    table["moved"] = (table["change"].abs() / half.where(half > 0)).fillna(0.0)  # nothing moved: 0
    return table.rename_axis("measure").reset_index()


def cost(float_logits: Tensor, int8_logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Say in a few numbers what quantization changed on the same images.

    Parameters
    ----------
    float_logits, int8_logits : Tensor
        Floating point, shape (N, classes).
    labels : Tensor
        int64, shape (N,).

    Returns
    -------
    dict of str to float
        sqnr_db (of the logits), divergence (mean, nats), flips (share of the predictions), points
        (accuracy of int8 less that of float32, in percent), p (McNemar's, exact).
    """
    paired = compare(float_logits, int8_logits, labels)
    return {
        "sqnr_db": sqnr(float_logits, int8_logits),
        "divergence": divergence(float_logits, int8_logits).mean().item(),
        "flips": paired.flips / paired.images,
        "points": 100 * paired.difference,
        "p": paired.mcnemar_p,
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


def summarize(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
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
