import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import rel_entr, softmax

from utils import comparison


def logits(predictions):
    return torch.nn.functional.one_hot(torch.as_tensor(predictions), 3).double()


def two_classifiers(both, a_only, b_only, neither):
    """Logits whose fourfold table is the one given; the label is always 0."""
    a = [0] * (both + a_only) + [1] * (b_only + neither)
    b = [0] * both + [1] * a_only + [0] * b_only + [2] * neither
    return logits(a), logits(b), torch.zeros(len(a), dtype=torch.long)


def test_counts():
    result = comparison.compare(*two_classifiers(both=80, a_only=2, b_only=8, neither=10))
    assert result.images == 100
    assert (result.a_only, result.b_only) == (2, 8)
    assert (result.accuracy_a, result.accuracy_b) == (0.82, 0.88)
    assert result.difference == pytest.approx(0.06)
    assert result.flips == 20  # where both are wrong they answer 1 and 2


def test_mcnemar_by_hand():
    result = comparison.compare(*two_classifiers(80, 2, 8, 10))
    assert result.mcnemar_p == pytest.approx(2 * (1 + 10 + 45) / 2**10)


@pytest.mark.parametrize(("a_only", "b_only"), [(0, 1), (1, 6), (7, 7), (40, 25)])
def test_mcnemar_is_the_binomial_test_of_the_flips(a_only, b_only):
    result = comparison.compare(*two_classifiers(5, a_only, b_only, 5))
    expected = stats.binomtest(a_only, a_only + b_only).pvalue
    assert result.mcnemar_p == pytest.approx(expected)


@pytest.mark.parametrize("table", [(10, 5, 2, 3), (1900, 30, 30, 40), (1999, 0, 0, 1)])
def test_interval_by_hand(table):
    """Agresti and Min: half an observation more in each cell, then the plain normal interval."""
    result = comparison.compare(*two_classifiers(*table))
    n, a_only, b_only = sum(table) + 2, table[1] + 0.5, table[2] + 0.5
    middle = (b_only - a_only) / n
    error = math.sqrt(((a_only + b_only) / n - middle**2) / n)
    half = 1.959964 * error
    assert (result.low, result.high) == pytest.approx((middle - half, middle + half), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "labels"), [((4, 3), (5, 3), 4), ((4, 3), (4, 3), 5), ((0, 3), (0, 3), 0)]
)
def test_shapes_must_fit(a, b, labels):
    with pytest.raises(ValueError, match="do not describe the same images"):
        comparison.compare(torch.zeros(a), torch.zeros(b), torch.zeros(labels, dtype=torch.long))


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (95, 100), (9962, 10_000), (10, 10)])
def test_wilson_interval(correct, images):
    expected = stats.binomtest(correct, images).proportion_ci(method="wilson")
    assert comparison.accuracy_interval(correct, images) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("correct", "images"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_interval_of_the_impossible(correct, images):
    with pytest.raises(ValueError, match=f"{correct} correct of {images} images is not possible"):
        comparison.accuracy_interval(correct, images)


def test_many_tests_by_hand():
    """Holm: the smallest p against level / 4, the next against level / 3, and so on."""
    assert comparison.beyond_chance([0.012, 0.017, 0.9, 0.026]) == [True, False, False, False]
    assert comparison.beyond_chance([0.012, 0.016, 0.9, 0.024]) == [True, True, False, True]
    assert comparison.beyond_chance([0.04]) == [True]


@pytest.mark.parametrize(
    ("a_only", "b_only", "said"),
    [(12, 1, "int8 loses 1.10 points"), (1, 12, "int8 gains 1.10 points"), (6, 1, "cannot tell")],
)
def test_a_verdict_for_every_outcome(a_only, b_only, said):
    labels = torch.zeros(1000, dtype=torch.int64)
    a, b = torch.eye(2)[[0] * 1000], torch.eye(2)[[0] * 1000]
    b[:a_only] = b[:a_only].flip(1)
    a[a_only : a_only + b_only] = a[a_only : a_only + b_only].flip(1)
    assert said in comparison.verdict(comparison.compare(a, b, labels))


def test_margins_by_hand():
    found = comparison.margins(torch.tensor([[1.0, 5.0, 3.5], [2.0, 2.0, 0.0]]))
    assert found.tolist() == [1.5, 0.0]


def test_divergence_equals_scipy():
    reference = 2 * torch.randn(40, 5, generator=torch.manual_seed(0))
    coarse = reference + 0.1 * torch.randn(reference.shape, generator=torch.manual_seed(1))
    p, q = (softmax(t.double().numpy(), axis=1) for t in (reference, coarse))
    found = comparison.divergence(reference, coarse)
    np.testing.assert_allclose(found, rel_entr(p, q).sum(1), rtol=1e-9)
    assert comparison.divergence(reference, reference).abs().max() == 0


def test_calibration_error_by_hand():
    # Bin 0.9 to 1: confidence 0.95, half are right. Bin 0.6 to 0.66: confidence 0.65, all are.
    confidence = np.array([0.95, 0.95, 0.65, 0.65])
    correct = np.array([True, False, True, True])
    expected = 0.5 * 0.45 + 0.5 * 0.35
    assert comparison.calibration_error(confidence, correct) == pytest.approx(expected)


def test_a_confidence_of_one_belongs_to_the_last_bin():
    confidence, correct = np.array([1.0, 0.95]), np.array([False, True])
    assert comparison.calibration_error(confidence, correct) == pytest.approx(0.475)


def test_gaps_of_one_bin_cancel_but_not_those_of_two():
    correct = np.array([True, False])
    assert comparison.calibration_error(np.array([0.5, 0.5]), correct) == pytest.approx(0)
    assert comparison.calibration_error(np.array([0.6, 0.4]), correct) == pytest.approx(0.4)
