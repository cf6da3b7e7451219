import math

import pandas as pd
import pytest
import torch

from utils.lab import resampling


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    reference = torch.randn(400, 5, generator=generator)
    reference[range(400), labels] += 2
    return reference, labels


def test_scores_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    table = resampling.per_image(logits, torch.tensor([0, 0, 0, 1]))
    found = resampling.scores(table)
    assert found["accuracy"] == 0.75
    assert found["worst class"] == pytest.approx(2 / 3)
    assert found["margin"] == pytest.approx(2.5)
    assert table["confidence"][0] == pytest.approx(1 / (1 + math.exp(-2)))


def test_a_class_without_images_is_not_the_worst():
    table = resampling.per_image(torch.eye(3)[[0, 2]], torch.tensor([0, 2]))
    assert resampling.scores(table)["worst class"] == 1


def test_equal_models_have_moved_nowhere(logits):
    reference, labels = logits
    table = resampling.changes(reference, reference, labels, (reference, reference), draws=20)
    assert (table[["change", "low", "high", "moved"]] == 0).all(axis=None)


def test_changes_point_the_right_way_and_are_the_same_every_time(logits):
    reference, labels = logits
    worse = reference + 2 * torch.randn(reference.shape, generator=torch.manual_seed(1))
    twins = (reference, reference)
    table = resampling.changes(reference, worse, labels, twins, draws=100).set_index("measure")
    accuracy = (reference.argmax(1) == labels).float().mean()
    assert table.loc["accuracy", "change"] == pytest.approx(
        ((worse.argmax(1) == labels).float().mean() - accuracy).item(), abs=1e-6
    )
    assert table.loc["accuracy", "high"] < 0 < table.loc["flips", "low"]
    assert (table["low"] <= table["high"]).all()
    for name in ("accuracy", "divergence"):
        row = table.loc[name]
        assert row.moved == pytest.approx(2 * abs(row.change) / (row.high - row.low))
        assert row.moved > 1
    again = resampling.changes(reference, worse, labels, twins, draws=100).set_index("measure")
    pd.testing.assert_frame_equal(table, again)


def test_the_bootstrap_interval_is_that_of_a_share(logits):
    reference, labels = logits
    worse = reference + torch.randn(reference.shape, generator=torch.manual_seed(1))
    table = resampling.changes(reference, worse, labels, (reference, reference), draws=600)
    flips = table.set_index("measure").loc["flips"]
    half = 1.96 * math.sqrt(flips.change * (1 - flips.change) / 400)
    assert (flips.high - flips.low) / 2 == pytest.approx(half, rel=0.08)


def test_the_bootstrap_is_paired(logits):
    """A shift common to both models must not widen the interval of their difference."""
    reference, labels = logits
    nearly = reference.clone()
    nearly[0] = -nearly[0]
    twins = (reference, reference)
    table = resampling.changes(reference, nearly, labels, twins, draws=200).set_index("measure")
    width = table.loc["accuracy", "high"] - table.loc["accuracy", "low"]
    assert width < 0.01  # unpaired, it would be near 0.1


def test_flips_move_only_beyond_those_of_two_equally_good_models(logits):
    reference, labels = logits
    one, two, three = (
        reference + 0.3 * torch.randn(reference.shape, generator=torch.manual_seed(seed))
        for seed in (1, 2, 3)
    )
    nothing = resampling.changes(reference, one, labels, (two, three), draws=100)
    moved = nothing.set_index("measure")["moved"]
    assert moved["flips"] < 1
    assert moved["divergence"] < 1
    worse = reference + 2 * torch.randn(reference.shape, generator=torch.manual_seed(1))
    moved = resampling.changes(reference, worse, labels, (two, three), draws=100)
    assert (moved.set_index("measure").loc[["flips", "divergence"], "moved"] > 1).all()
    fewer = resampling.changes(reference, reference, labels, (one, worse), draws=100)
    assert (fewer.set_index("measure").loc[["flips", "divergence"], "moved"] == 0).all()


def test_cost(logits):
    reference, labels = logits
    coarse = reference + 0.5
    coarse[0, reference[0].argmin()] += 100
    found = resampling.cost(reference, coarse, labels)
    assert found["flips"] == pytest.approx(1 / 400)
    was_right = (reference[0].argmax() == labels[0]).item()
    assert found["points"] == pytest.approx(-100 / 400 * was_right)
    assert (found["tested"], found["lost"], found["won"]) == (400, [0] * was_right, [])
    assert found["p"] == 1
    assert found["divergence"] > 0
    noise = (reference - coarse).square().sum()
    expected = 10 * torch.log10(reference.square().sum() / noise).item()
    assert found["sqnr_db"] == pytest.approx(expected, abs=1e-3)


def test_the_class_that_loses_most_comes_first(logits):
    reference, labels = logits
    worse = reference.clone()
    worse[labels == 3] = -worse[labels == 3]
    table = resampling.by_class(reference, worse, labels, tuple("abcde"))
    assert table["class"].tolist()[0] == "d"
    assert table["beyond chance"].tolist() == [True] + [False] * 4
    assert (table["change"][1:] == 0).all()
    of = labels == 3
    found = 100 * (reference[of].argmax(1) == 3).double().mean().item()
    assert table["float32"][0] == pytest.approx(found)


def test_mean_interval_by_hand():
    mean, low, high = resampling.mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # Student's t for 2 degrees of freedom, deviation 1
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="1 value: an interval needs at least two"):
        resampling.mean_interval([1.0])


def test_one_draw_has_the_interval_of_the_images():
    """Agresti and Min's for matched pairs, worked out by hand."""
    lost, won, n = range(30), range(30, 45), 1000
    found = resampling.points_interval([lost], [won], n)
    mean = (15 - 30) / (n + 2)
    half = 1.96 * math.sqrt((30.5 + 15.5) / (n + 2) - mean**2) / math.sqrt(n + 2)
    assert found[0] == pytest.approx(-1.5)
    assert found[1:] == pytest.approx((100 * (mean - half), 100 * (mean + half)), abs=0.15)


def test_draws_that_differ_widen_the_interval_as_student_would():
    shares = [0.10, 0.12, 0.20, 0.25, 0.33]
    images = 20_000  # so many that their own noise hardly counts
    lost = [range(int(share * images)) for share in shares]
    mean, low, high = resampling.points_interval(lost, [[]] * 5, images, repeats=5000)
    _, expected_low, expected_high = resampling.mean_interval([-100 * share for share in shares])
    assert mean == pytest.approx(-20)
    assert high - low == pytest.approx(expected_high - expected_low, rel=0.06)


def test_a_few_flips_of_harmless_draws_prove_nothing():
    """Over draws alone, every one of these would look harmful."""
    lost = [[1, 2, 3], [1, 2, 3], [1, 2, 4]]
    by_draw = resampling.mean_interval([-3.0, -3.0, -3.001])
    assert by_draw[2] < 0
    low, high = resampling.points_interval(lost, [[]] * 3, 1000)[1:]
    assert low < 0 <= high


def test_parts_of_their_own_are_one_test_set():
    parts = resampling.points_interval([range(10), range(500, 510)], [[], []], 1000, 500)
    assert parts[0] == pytest.approx(-2)
    whole = resampling.points_interval([[*range(10), *range(500, 510)]], [[]], 1000)
    assert parts == pytest.approx(whole, abs=0.15)


def test_summarize_points():
    rows = [("b", 100, [1], []), ("b", 100, [1, 2], []), ("a", 100, [], [3]), ("a", 100, [], [3])]
    table = pd.DataFrame(rows, columns=["kind", "tested", "lost", "won"])
    found = resampling.points_by(table, ["kind"])
    assert found["kind"].tolist() == ["b", "a"]
    assert found["mean"].tolist() == pytest.approx([-1.5, 1])
    halved = resampling.points_by(table, ["kind"], images=200)
    assert halved["mean"].tolist() == pytest.approx([-1.5, 1])


@pytest.mark.parametrize("by", [["kind"], ["kind", "size"]])
def test_summarize_keeps_order_and_groups(by):
    table = pd.DataFrame(
        {"kind": list("bbaa"), "size": [2, 2, 1, 1], "value": [1.0, 3.0, 10.0, 10.0]}
    )
    found = resampling.means_by(table, by, "value")
    assert found["kind"].tolist() == ["b", "a"]
    assert found["mean"].tolist() == [2, 10]
    assert found["low"][1] == found["high"][1] == 10
    assert found["low"][0] < 2 < found["high"][0]
    assert list(found.columns) == [*by, "mean", "low", "high"]
