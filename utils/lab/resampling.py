"""How sure a change of accuracy is: over test images, over calibration draws, over both.

Everywhere, logits are floating point, shape (N, classes), and labels int64, shape (N,).
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch.nn.functional as F
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

from utils.comparison import beyond_chance, calibration_error, compare, divergence, margins
from utils.quantization import sqnr


def per_image(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return label, correct, confidence and margin of every image."""
    confidence, predicted = F.softmax(logits.double(), dim=1).max(1)
    table = pd.DataFrame({"label": labels.numpy(), "correct": (predicted == labels).numpy()})
    return table.assign(confidence=confidence.numpy(), margin=margins(logits).numpy())


def scores(table: pd.DataFrame) -> dict[str, float]:
    """Summarize :func:`per_image`'s table in three fractions and the mean margin, in logits."""
    correct = table["correct"]
    return {
        "accuracy": correct.mean(),
        "worst class": correct.groupby(table["label"]).mean().min(),
        "calibration error": calibration_error(table["confidence"].to_numpy(), correct.to_numpy()),
        "margin": table["margin"].mean(),
    }


def changes(
    exact: Tensor, coarse: Tensor, labels: Tensor, twins: tuple[Tensor, Tensor], draws: int = 500
) -> pd.DataFrame:
    """Say by how much each measure moves from float32 to int8, and how sure that is.

    The 95 % intervals are of the paired bootstrap over test images: all models are scored on each
    draw (Efron and Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13). The twins are
    the logits of two int8 models that are equally good, for instance calibrated on two draws: flips
    and divergence cannot be negative, so what the twins differ by stands for zero.

    Returns one row per measure: measure, change (int8 - float32), low, high, and moved, the change
    over half the width of its interval, so that beyond 1 it is more than chance. The measures are
    those of :func:`scores`, and flips (share of predictions that differ) and divergence (mean,
    nats) less those of the twins, which count as moved only if they are more. Raises ValueError if
    the shapes do not fit.
    """
    shapes = {tuple(logits.shape) for logits in (exact, coarse, *twins)}
    if len(shapes) > 1 or exact.shape[:1] != labels.shape:
        shapes = f"logits of shapes {sorted(shapes)} and labels {tuple(labels.shape)}"
        raise ValueError(f"{shapes} do not describe the same images")
    before, after = per_image(exact, labels), per_image(coarse, labels)
    (flips, kl), (idle_flips, idle_kl) = (
        ((one.argmax(1) != other.argmax(1)).double(), divergence(one, other))
        for one, other in ((exact, coarse), twins)
    )
    apart = {"flips": flips - idle_flips, "divergence": kl - idle_kl}
    apart = pd.DataFrame({name: values.numpy() for name, values in apart.items()})

    def moved(chosen: np.ndarray | slice) -> pd.Series:
        change = pd.Series(scores(after.iloc[chosen])) - pd.Series(scores(before.iloc[chosen]))
        return pd.concat([change, apart.iloc[chosen].mean()])

    random, n = np.random.default_rng(0), len(labels)
    drawn = pd.DataFrame([moved(random.integers(0, n, n)) for _ in range(draws)])
    table = pd.DataFrame({"change": moved(slice(None))})
    table["low"], table["high"] = drawn.quantile(0.025), drawn.quantile(0.975)
    half = (table["high"] - table["low"]) / 2
    size = (
        table["change"].abs().where(~table.index.isin(apart.columns), table["change"].clip(lower=0))
    )
    table["moved"] = (size / half.where(half > 0)).fillna(0.0)  # nothing moved: 0
    return table.rename_axis("measure").reset_index()


def cost(exact: Tensor, coarse: Tensor, labels: Tensor) -> dict:
    """Say in a few numbers what quantization changed, from logits of float32 and of int8.

    Returns sqnr_db (of the logits), divergence (mean, nats), flips (share of predictions), points
    (int8 - float32 accuracy, in percent), p (McNemar's, exact), tested (number of images), lost and
    won (lists: the images that only float32, only int8 classifies correctly).
    """
    paired = compare(exact, coarse, labels)
    right, still = exact.argmax(1) == labels, coarse.argmax(1) == labels
    return {
        "sqnr_db": sqnr(exact, coarse),
        "divergence": divergence(exact, coarse).mean().item(),
        "flips": paired.flips / paired.images,
        "points": 100 * paired.difference,
        "p": paired.mcnemar_p,
        "tested": paired.images,
        "lost": (right & ~still).nonzero().flatten().tolist(),
        "won": (still & ~right).nonzero().flatten().tolist(),
    }


def by_class(exact: Tensor, coarse: Tensor, labels: Tensor, classes: Sequence[str]) -> pd.DataFrame:
    """Compare float32 with int8 class by class, the class that loses most first.

    Returns class, float32 (accuracy in percent), change (int8 - float32, in points), p (McNemar's,
    exact) and beyond chance (with Holm's correction). Every class has images.
    """
    parts = [labels == number for number in range(len(classes))]
    found = [compare(exact[of], coarse[of], labels[of]) for of in parts]
    rows = [(100 * one.accuracy_a, 100 * one.difference, one.mcnemar_p) for one in found]
    table = pd.DataFrame(rows, columns=["float32", "change", "p"])
    table.insert(0, "class", list(classes))
    table["beyond chance"] = beyond_chance(table["p"])
    return table.sort_values("change", ignore_index=True)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high (95 % interval, Student's t) of two or more repetitions."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: an interval needs at least two repetitions")
    values = DescrStatsW(np.asarray(values, dtype=float))
    return float(values.mean), *map(float, values.tconfint_mean())


def points_interval(
    lost: Sequence, won: Sequence, images: int, each: int | None = None, repeats: int = 2000
) -> tuple[float, float, float]:
    """Return a change of accuracy and its 95 % interval over test images *and* draws, in points.

    Images and draws are resampled independently and the deviations added, which is a little too
    cautious (Owen: The pigeonhole bootstrap, Annals of Applied Statistics 2007). Half an image lost
    and half an image won are added, as in :func:`utils.comparison.compare`. Few draws underrate
    their own spread: it is widened as Student's t asks (Hesterberg: What Teachers Should Know About
    the Bootstrap, The American Statistician 2015).

    ``lost`` and ``won`` are lists of int, those of :func:`cost` for each draw; for int8 models A
    and B, join A's won to B's lost and A's lost to B's won. If each draw was tested on a part of
    the ``images`` that is its own, ``each`` is how many they are.
    """
    known = np.unique(np.concatenate([*lost, *won]).astype(int))
    change = np.zeros((len(lost), len(known) + 2))
    for row, minus, plus in zip(change, lost, won, strict=True):
        np.add.at(row, np.searchsorted(known, np.asarray(minus, int)), -1)
        np.add.at(row, np.searchsorted(known, np.asarray(plus, int)), 1)
    change *= images / (each or images)
    mean = change.mean(0).sum() / images
    change[:, -2:] = -1, 1  # the halves of an image
    odds = np.array([1.0] * len(known) + [0.5, 0.5, images + 1 - len(known)]) / (images + 2)
    random, n = np.random.default_rng(0), len(lost)
    found = random.multinomial(images + 2, odds, repeats)[:, :-1] @ change.mean(0)
    if n > 1:
        wider = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * np.sqrt(n / (n - 1))
        away = change.sum(1) - change.sum(1).mean()
        found += wider * random.multinomial(n, np.full(n, 1 / n), repeats) @ away / n
    low, high = np.quantile(found / (images + 2), [0.025, 0.975])
    return 100 * float(mean), 100 * float(low), 100 * float(high)


def means_by(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Return the :func:`mean_interval` of a column within each group of rows."""
    return _each_group(table, by, lambda group: mean_interval(group[value]))


def points_by(table: pd.DataFrame, by: list[str], images: int | None = None) -> pd.DataFrame:
    """Return each group's :func:`points_interval`, from one row of :func:`cost` per draw.

    With ``images`` in all, each draw was tested on a part of its own. Lost and won are then
    numbered over all of them; :func:`cost`, which sees one part, numbers them within it.
    """

    def points(group: pd.DataFrame) -> tuple[float, float, float]:
        each = int(group["tested"].iloc[0])
        return points_interval(group["lost"], group["won"], images or each, each)

    return _each_group(table, by, points)


def _each_group(table: pd.DataFrame, by: list[str], measure: Callable) -> pd.DataFrame:
    rows = [(*key, *measure(group)) for key, group in table.groupby(by, sort=False)]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])
