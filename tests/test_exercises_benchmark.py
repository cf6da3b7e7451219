"""The checks of notebook 04 pass what is right, and answer each mistake with its own hint."""

import numpy as np
import pytest

from utils.exercises import Hint, benchmark

NOISE = np.random.default_rng(0).lognormal(0, 0.1, (2, 24))
SLOW, FAST = np.linspace(1, 2, 24) * NOISE * [[3.0], [1.0]]  # the machine slows down
FAST[:5] *= 4  # and something else disturbs one of the two at first
R, NUMBERS = SLOW / FAST, np.random.default_rng(7)  # another generator than the check's
RIGHT = (np.median(R), *np.quantile(np.median(NUMBERS.choice(R, (20_000, 24)), 1), [0.025, 0.975]))
PEAK, READ, MOVED, OPERATIONS = 4e11, 2e10, 43136, 3612672


def test_right_answers_pass(capsys):
    benchmark.check_causes(dict(benchmark.CAUSES), {})
    benchmark.check_paired(RIGHT, SLOW, FAST)
    benchmark.check_bound((MOVED, OPERATIONS / PEAK), PEAK, READ)
    assert capsys.readouterr().out.count("Correct.") == 3


def test_no_answer_is_only_reminded(capsys):
    benchmark.check_causes(dict.fromkeys(benchmark.CAUSES, ...), {})
    benchmark.check_paired((..., ..., ...), SLOW, FAST)
    benchmark.check_bound((..., ...), PEAK, READ)
    assert capsys.readouterr().out.count("no answer yet") == 3


@pytest.mark.parametrize("run", benchmark.CAUSES)
def test_a_wrong_cause_sends_to_the_fact_of_that_timing(run):
    answer = benchmark.CAUSES | {run: "no VNNI"}
    with pytest.raises(Hint, match=f"'no VNNI' does not explain timing {run}. look at {run}"):
        benchmark.check_causes(answer, {name: f"look at {name}" for name in benchmark.CAUSES})


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((np.median(SLOW) / np.median(FAST), *RIGHT[1:]), "within each round"),
        ((R.mean(), *RIGHT[1:]), "follows outliers"),
        ((np.median(1 / R), *RIGHT[1:]), "float32 by int8"),
        ((1.0, *RIGHT[1:]), "defines it"),
        ((np.nan, *RIGHT[1:]), "defines it"),
        ((RIGHT[0], R.min(), R.max()), "Extremes"),
        ((np.sort(R)[11], *RIGHT[1:]), "torch.median"),
        ((RIGHT[0], *RIGHT[:0:-1]), "lower end"),
        ((RIGHT[0], *np.quantile(NUMBERS.choice(R, (9999, 24)).mean(1), [0.025, 0.975])), "means"),
        (
            (RIGHT[0], *np.quantile(np.median(NUMBERS.choice(R, (9999, 24)), 1), [0.05, 0.95])),
            "Read",
        ),
        (("2.6", *RIGHT[1:]), "three numbers"),
        ((RIGHT[0], *np.quantile(R, [0.025, 0.975])), "Single rounds"),
    ],
)
def test_a_wrong_ratio_or_interval_gets_its_hint(answer, hint):
    with pytest.raises(Hint, match=hint):
        benchmark.check_paired(answer, SLOW, FAST)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((4 * MOVED, 0), "one byte"),
        ((6272, 0), "Weights"),
        ((MOVED - 3136, 0), "Outputs"),
        ((MOVED, OPERATIONS / PEAK / 2), "two operations"),
        ((8 * MOVED, 0), "not bits"),
        ((MOVED, 1e6 * OPERATIONS / PEAK), "not microseconds"),
        ((MOVED, MOVED / READ), "slower one"),
        ((MOVED, MOVED / READ + OPERATIONS / PEAK), "Never add"),
    ],
)
def test_a_wrong_bound_gets_its_hint(answer, hint):
    with pytest.raises(Hint, match=hint):
        benchmark.check_bound(answer, PEAK, READ)
