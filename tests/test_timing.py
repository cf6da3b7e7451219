import gc
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from utils import timing
from utils.timing import BenchmarkError

X = torch.zeros(2, 1, 4, 4)
LOGITS = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # of norm 5


@pytest.fixture
def one_call_a_turn(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the models that move it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "timer", lambda: clock.now)
    return clock


@pytest.fixture
def takes(clock):
    """Make a model that takes so many milliseconds, with jitter, on a machine that may change."""
    random = np.random.default_rng(0)

    def make(ms, *, jitter=0.05, machine=lambda now: 1.0):
        def model(x):
            clock.now += 1e-3 * ms * machine(clock.now) * random.lognormal(0, jitter)

        return model

    return make


def every_call(**times):
    """Samples as latency() returns them, from a list of rounds of calls per variant."""
    rows = [
        (variant, 2, 1, number, call, float(ms))
        for variant, rounds in times.items()
        for number, calls in enumerate(rounds)
        for call, ms in enumerate(calls)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


def constant(logits=LOGITS):
    return lambda x: logits.clone()


def test_every_call_is_in_the_table(one_call_a_turn):
    samples = timing.latency({"a": torch.sin, "b": torch.cos}, X, rounds=3)
    assert list(samples.columns) == ["variant", "batch", "threads", "round", "call", "ms"]
    assert samples["variant"].tolist() == ["a", "b"] * 3
    assert samples["round"].tolist() == [0, 0, 1, 1, 2, 2]
    assert set(samples["call"]) == {0}
    assert set(samples["batch"]) == {2}
    assert set(samples["threads"]) == {1}
    assert (samples["ms"] > 0).all()


def test_what_the_clock_says_is_in_the_table(takes, one_call_a_turn):
    models = {"a": takes(3, jitter=0), "b": takes(0.5, jitter=0)}
    samples = timing.latency(models, X, rounds=2)
    assert samples["ms"].tolist() == pytest.approx([3, 0.5, 3, 0.5])


def test_a_turn_is_as_many_calls_as_fit_in_its_time(takes):
    samples = timing.latency({"a": takes(4, jitter=0), "b": takes(30, jitter=0)}, X, rounds=2)
    counts = samples.groupby(["variant", "round"])["call"].agg(list).to_dict()
    five = [0, 1, 2, 3, 4]
    assert counts == {("a", 0): five, ("a", 1): five, ("b", 0): [0], ("b", 1): [0]}


def test_the_first_call_of_a_turn_does_not_count(clock, one_call_a_turn):
    """The caches are still the others'."""
    last = [None]

    def model(name):
        def run(x):
            clock.now += 0.001 if last[0] == name else 0.05
            last[0] = name

        return run

    samples = timing.latency({name: model(name) for name in "ab"}, X, rounds=3)
    assert set(samples["ms"].round(6)) == {1.0}


def test_long_calls_need_no_lead(clock, one_call_a_turn):
    calls = []

    def model(x):
        calls.append(x)
        clock.now += 1.0

    timing.latency({"a": model}, X, rounds=3)
    assert len(calls) == 2 + 3  # warm-up, then one a round


def test_slow_first_calls_are_over_before_the_timing(clock, one_call_a_turn):
    slow = iter([5.0, 4.0, 3.0, 2.0])

    def model(x):
        clock.now += 1e-3 * next(slow, 1.0)

    samples = timing.latency({"a": model}, X, rounds=3)
    assert samples["ms"].tolist() == pytest.approx([1, 1, 1])


def test_the_warm_up_has_an_end(clock):
    """Of a model that becomes faster for ever."""
    ms = [1000.0]

    def model(x):
        ms[0] *= 0.9
        clock.now += 1e-3 * ms[0]

    timing.latency({"a": model}, X, rounds=1)
    assert clock.now < 3 * timing.WARMUP_SECONDS + 1


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 20), (0.0305, 31), (None, 40), (9, 40)])
def test_seconds_stop_early_but_not_before_twenty_rounds(clock, one_call_a_turn, seconds, rounds):
    """A round is two calls of half a millisecond: one that warms the caches, one that counts."""

    def model(x):
        clock.now += 0.5e-3

    samples = timing.latency({"a": model}, X, rounds=40, seconds=seconds)
    assert samples["round"].tolist() == list(range(rounds))


def test_models_see_the_input_in_inference_mode_with_the_asked_threads(one_call_a_turn):
    seen = set()

    def model(x):
        state = (torch.is_inference_mode_enabled(), torch.get_num_threads(), gc.isenabled())
        seen.add((x is X, *state))

    timing.latency({"a": model}, X, rounds=1, threads=2)
    assert seen == {(True, True, 2, False)}


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_threads_collection_and_mode_are_restored(one_call_a_turn, before, collecting, fails):
    def fail(x):
        raise ZeroDivisionError

    default = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        if not collecting:
            gc.disable()
        try:
            timing.latency({"a": fail if fails else abs}, X, rounds=1, threads=3 - before)
        except ZeroDivisionError:
            assert fails
        assert torch.get_num_threads() == before
        assert gc.isenabled() is collecting
        assert not torch.is_inference_mode_enabled()
    finally:
        gc.enable()
        torch.set_num_threads(default)


@pytest.mark.parametrize("wrong", ["rounds", "threads"])
def test_numbers_must_be_positive(wrong):
    with pytest.raises(ValueError, match=f"{wrong}=0: must be at least 1"):
        timing.latency({"a": torch.sin}, X, **{wrong: 0})


def test_there_must_be_something_to_time():
    with pytest.raises(ValueError, match="no variants"):
        timing.latency({}, X)
    with pytest.raises(ValueError, match="batch=0"):
        timing.latency({"a": torch.sin}, X[:0])


def test_a_wrong_model_is_named_and_nothing_is_timed(one_call_a_turn):
    calls = []

    def model(name, logits):
        return lambda x: calls.append(name) or logits

    models = {"right": model("right", LOGITS), "wrong": model("wrong", LOGITS * 1.1)}
    with pytest.raises(BenchmarkError, match=r"^wrong: its logits differ from float32 by 0\.1 of"):
        timing.latency(models, X, rounds=3, reference=LOGITS)
    assert calls == ["right", "wrong"]
    del models["wrong"]
    assert len(timing.latency(models, X, rounds=3, reference=LOGITS)) == 3


def test_verify_by_hand():
    def broken(x):
        raise RuntimeError("no such kernel")

    models = {
        "float_same": constant(),
        "float_close": constant(LOGITS * (1 + 0.9e-3)),
        "float_off": constant(LOGITS * (1 + 1.1e-3)),
        "int8_close": constant(LOGITS * 1.19),
        "int8_off": constant(LOGITS * 1.21),
        "int8_nan": constant(LOGITS * math.nan),
        "float_broken": broken,
    }
    table = timing.verify(models, X, LOGITS)
    assert list(table.columns) == ["variant", "error", "limit", "ok", "problem"]
    assert table["variant"].tolist() == list(models)
    assert table["ok"].tolist() == [True, True, False, True, False, False, False]
    assert table["limit"].tolist() == [1e-3] * 3 + [0.2] * 3 + [1e-3]
    expected = [0, 0.9e-3, 1.1e-3, 0.19, 0.21, math.nan, math.nan]
    assert table["error"].tolist() == pytest.approx(expected, rel=1e-3, nan_ok=True)
    problems = table.set_index("variant")["problem"]
    assert (problems[table["ok"].to_numpy()] == "").all()
    assert problems["int8_off"] == "int8_off: its logits differ from float32 by 0.21 of their norm"
    assert "by nan" in problems["int8_nan"]
    assert problems["float_broken"] == "float_broken: RuntimeError: no such kernel"


# The harness itself, on workloads whose ratio is known.


def test_a_machine_that_becomes_slower_leaves_the_ratio_alone(clock, takes):
    """Timed one after the other, the same two models seem to differ by another factor."""

    def machine(now):
        return 1.0 if now < 0.75 else 2.0

    models = {"slow": takes(3, machine=machine), "fast": takes(1, machine=machine)}
    samples = timing.latency(models, X, rounds=30)
    assert samples.loc[samples["variant"] == "fast", "ms"].max() > 1.8  # it did become slower
    row = timing.summarize(samples, "slow").set_index("variant").loc["fast"]
    assert row["speedup_low"] < 3 < row["speedup_high"]
    assert row["speedup"] == pytest.approx(3, rel=0.02)
    assert row["spread"] > 0.4

    clock.now = 0.0
    alone = [timing.latency({name: model}, X, rounds=30) for name, model in models.items()]
    row = timing.summarize(pd.concat(alone), "slow").set_index("variant").loc["fast"]
    assert row["speedup_high"] < 1.6


@pytest.fixture
def samples():
    """Two variants, four rounds, two batch sizes; times in the order of the rounds."""
    times = {("slow", 1): [8, 6, 4, 2], ("fast", 1): [1, 2, 4, 2], ("slow", 10): [9] * 4}
    times["fast", 10] = [3, 3, 3, 3]
    rows = [
        (variant, batch, 1, number, 0, float(ms))
        for (variant, batch), values in times.items()
        for number, ms in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


def test_summarize_by_hand(samples):
    table = timing.summarize(samples, "slow").set_index(["variant", "batch"])
    fast, slow = table.loc["fast", 1], table.loc["slow", 1]
    assert (slow["median_ms"], fast["median_ms"]) == (5, 2)
    assert slow["p90_ms"] is slow["p99_ms"] is None  # of four calls
    assert slow["rounds"] == fast["rounds"] == 4
    assert slow["spread"] == pytest.approx((7.4 - 2.6) / 5)
    assert fast["images_per_second"] == 500
    assert fast["speedup"] == 2  # the median of 8, 3, 1, 1; not 5 / 2
    assert slow["speedup"] == 1
    assert not fast["always_faster"]  # two rounds were a tie
    assert table.loc["fast", 10]["speedup"] == 3
    assert table.loc["fast", 10]["always_faster"]
    assert table.loc["fast", 10]["images_per_second"] == pytest.approx(10_000 / 3)
    assert table.loc["fast", 10]["spread"] == 0
    assert not table.loc["slow", 10]["always_faster"]


@pytest.mark.parametrize(("calls", "p90", "p99"), [(18, 0, 0), (20, 1, 0), (98, 1, 0), (100, 1, 1)])
def test_percentiles_need_enough_calls(calls, p90, p99):
    half = list(range(1, calls // 2 + 1))
    row = timing.summarize(every_call(a=[half, half]), "a").iloc[0]
    assert (row["p90_ms"] is not None, row["p99_ms"] is not None) == (bool(p90), bool(p99))
    if p90:
        assert row["p90_ms"] == pytest.approx(np.quantile(half * 2, 0.9))
    if p99:
        assert row["p99_ms"] == pytest.approx(np.quantile(half * 2, 0.99))


def test_percentiles_are_of_all_calls_and_ratios_of_rounds():
    samples = every_call(a=[[10, 20, 90], [40, 30, 1]], b=[[5, 5, 5], [2, 2, 60]])
    rounds = timing.rounds_of(samples)
    assert list(rounds.columns) == ["variant", "batch", "threads", "round", "ms"]
    assert rounds["ms"].tolist() == [20, 30, 5, 2]
    a, b = (row for _, row in timing.summarize(samples, "a").iterrows())
    assert (a["variant"], b["variant"]) == ("a", "b")
    assert a["median_ms"] == 25
    assert b["speedup"] == pytest.approx((20 / 5 + 30 / 2) / 2)
    assert a["spread"] == pytest.approx(8 / 25)  # of 20 and 30, a tenth cut off on either side
    assert b["always_faster"]


def test_the_interval_holds_95_percent():
    """The median of 1 to 101: by its ranks, 51 and 1.96 standard deviations of a binomial."""
    base = every_call(base=[[number] for number in range(1, 102)], one=[[1]] * 101)
    row = timing.summarize(base, "base").set_index("variant").loc["one"]
    assert row["speedup"] == 51
    half = 1.96 * math.sqrt(101 / 4)
    assert row["speedup_low"] == pytest.approx(51 - half, abs=1)
    assert row["speedup_high"] == pytest.approx(51 + half, abs=1)


def test_paired_ratios_by_hand():
    samples = every_call(a=[[8, 8], [6, 6], [4, 4]], b=[[1, 1], [2, 2], [4, 4]])
    assert timing.paired(samples, "a", "b") == (3, 1, 8)  # not 6 / 2
    assert timing.paired(samples, "b", "a") == (pytest.approx(1 / 3), 1 / 8, 1)


def test_verdicts_become_readable():
    samples = every_call(float_eager=[[4], [6], [9], [6]], int8_x86=[[1], [2], [2], [1]])
    table = timing.readable(timing.verdicts(samples)).iloc[0]
    assert table["against_eager"] == table["against_fastest"] == "4.50 (3.00 to 6.00)"
    assert table["brackets"] == "range of 2 rounds"
    assert (table["int8"], table["fastest_float"]) == ("int8_x86", "float_eager")


def test_too_few_rounds_have_a_range():
    ratios = np.arange(19.0)
    assert timing.interval(ratios) == (0, 18)
    low, high = timing.interval(np.arange(20.0))
    assert 0 < low < 9.5 < high < 19
    assert timing.interval_name(19) == "range of 19 rounds"
    assert timing.interval_name(20) == "95 % interval"


def test_the_interval_covers_processes():
    """Processes that differ by far more than the rounds within them do, as they really may."""
    draw = np.random.default_rng(0)
    covered = {"processes": 0, "rounds": 0}
    for _ in range(60):
        ratios = 2 * draw.lognormal(0, 0.1, (5, 1)) * draw.lognormal(0, 0.02, (5, 20))
        low, high = timing.interval(ratios)
        covered["processes"] += low < 2 < high
        low, high = timing.interval(ratios[0])
        covered["rounds"] += low < 2 < high
    assert covered["processes"] >= 45  # of 57; five processes make it too narrow, as it says
    assert covered["rounds"] < 20  # rounds of one process alone


def test_one_round_is_refused():
    with pytest.raises(ValueError, match="one round has no spread"):
        timing.summarize(every_call(a=[[1, 2, 3]]), "a")


def test_the_baseline_must_have_been_timed_at_every_setting(samples):
    part = samples[(samples["variant"] == "fast") | (samples["batch"] == 1)]
    with pytest.raises(
        ValueError, match="baseline 'slow' was not timed at batch 10, 1 threads; have fast"
    ):
        timing.summarize(part, "slow")


def test_verdicts_by_hand():
    with pytest.raises(ValueError, match="verdicts need four rounds"):
        timing.verdicts(every_call(float_eager=[[1]] * 3, int8_x86=[[1]] * 3))
    times = {"float_eager": 12, "float_openvino": 4, "int8_fbgemm": 6, "int8_x86": 8}
    one = every_call(**{name: [[ms], [2 * ms]] * 2 for name, ms in times.items()})
    times = {"float_eager": 12, "float_openvino": 24, "int8_fbgemm": 6, "int8_x86": 4}
    other = every_call(**{name: [[ms]] * 4 for name, ms in times.items()}).assign(batch=8)
    table = timing.verdicts(pd.concat([one, other]))
    first, second = table.to_dict(orient="records")
    ratios = {"against_eager": 2, "against_eager_low": 2, "against_eager_high": 2}
    for end in ("", "_low", "_high"):
        ratios[f"against_fastest{end}"] = pytest.approx(4 / 6)
    assert first == {
        "batch": 2,
        "threads": 1,
        "int8": "int8_fbgemm",
        "fastest_float": "float_openvino",
        "int8_ms": 12,  # of the odd rounds
        "eager_ms": 24,
        "fastest_float_ms": 8,
        **ratios,
        "rounds": 2,
    }
    assert (second["batch"], second["int8"]) == (8, "int8_x86")
    assert second["fastest_float"] == "float_eager"
    assert second["against_fastest"] == second["against_eager"] == 3


def test_verdicts_do_not_choose_by_the_rounds_that_they_report():
    """Of variants alike but for noise, the luckiest must not look faster than it is."""
    draw = np.random.default_rng(0)
    for _ in range(5):
        times = {f"int8_{name}": draw.lognormal(0, 0.3, (40, 1)) for name in "abcdefgh"}
        samples = every_call(float_eager=[[1]] * 40, **times)
        found = timing.verdicts(samples).iloc[0]
        even = samples[(samples["round"] % 2 == 0) & (samples["variant"] != "float_eager")]
        assert found["int8"] == even.groupby("variant")["ms"].median().idxmin()
        odd = samples[(samples["round"] % 2 == 1) & (samples["variant"] == found["int8"])]
        assert found["int8_ms"] == odd["ms"].median()
        assert found["against_eager"] == pytest.approx((1 / odd["ms"]).median())
        assert found["against_eager_low"] < found["against_eager"] < found["against_eager_high"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["float_fused", "int8_x86"], "'float_eager' was not timed"),
        (["float_eager"], "no int8 variant was timed at batch 2, 1 threads"),
    ],
)
def test_verdicts_need_both_kinds(names, words):
    with pytest.raises(ValueError, match=words):
        timing.verdicts(every_call(**{name: [[1], [2]] * 2 for name in names}))


def test_disturbed_rounds_are_named():
    quiet = every_call(a=[[10], [11], [10], [9]], b=[[1], [1], [1], [1]])
    assert timing.busy(timing.summarize(quiet, "a")) == ""
    disturbed = every_call(a=[[10]] * 4, bad=[[1], [2], [1], [2]], worst=[[10], [30], [10], [30]])
    text = timing.busy(timing.summarize(disturbed, "a"))
    assert "busy: in 2 of 3 rows" in text
    assert "(most: worst, batch 2, 1 threads, 100%)" in text
