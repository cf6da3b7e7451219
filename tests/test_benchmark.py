import itertools

import pandas as pd
import pytest
import torch
from torch import nn

from utils import benchmark, quantization

X = torch.zeros(2, 1, 4, 4)


@pytest.fixture
def one_run_a_sample(monkeypatch):
    monkeypatch.setattr(benchmark, "SAMPLE_SECONDS", 0)


def test_every_sample_is_in_the_table(one_run_a_sample):
    samples = benchmark.latency({"a": torch.sin, "b": torch.cos}, X, rounds=3)
    assert list(samples.columns) == ["variant", "batch", "threads", "round", "ms"]
    assert samples["variant"].tolist() == ["a", "b"] * 3
    assert samples["round"].tolist() == [0, 0, 1, 1, 2, 2]
    assert set(samples["batch"]) == {2}
    assert set(samples["threads"]) == {1}
    assert (samples["ms"] > 0).all()


def test_variants_take_turns(one_run_a_sample):
    calls = []
    variants = {name: lambda x, name=name: calls.append(name) for name in "abc"}
    benchmark.latency(variants, X, rounds=4)
    turns = [name for name, _ in itertools.groupby(calls)]
    assert turns == ["a", "b", "c"] * (1 + 4)  # warm-up, then the rounds


def test_a_fast_variant_is_run_more_than_once_a_sample():
    calls = []
    benchmark.latency({"a": calls.append}, X, rounds=1)
    assert len(calls) > 100


def test_models_see_the_input_in_inference_mode_with_the_asked_threads(one_run_a_sample):
    seen = set()

    def model(x):
        seen.add((x is X, torch.is_inference_mode_enabled(), torch.get_num_threads()))

    benchmark.latency({"a": model}, X, rounds=1, threads=2)
    assert seen == {(True, True, 2)}


@pytest.mark.parametrize("before", [1, 2])
def test_the_thread_count_is_restored(one_run_a_sample, before):
    default = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        benchmark.latency({"a": torch.sin}, X, rounds=1, threads=3 - before)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(default)


@pytest.mark.parametrize("wrong", ["rounds", "threads"])
def test_numbers_must_be_positive(wrong):
    with pytest.raises(ValueError, match=f"{wrong}=0: must be at least 1"):
        benchmark.latency({"a": torch.sin}, X, **{wrong: 0})


def test_there_must_be_something_to_time():
    with pytest.raises(ValueError, match="no variants"):
        benchmark.latency({}, X)
    with pytest.raises(ValueError, match="batch=0"):
        benchmark.latency({"a": torch.sin}, X[:0])


@pytest.fixture
def samples():
    """Two variants, four rounds, two batch sizes; times in the order of the rounds."""
    times = {("slow", 1): [8, 6, 4, 2], ("fast", 1): [1, 2, 4, 2], ("slow", 10): [9] * 4}
    times["fast", 10] = [3, 3, 3, 3]
    rows = [
        (variant, batch, 1, number, float(ms))
        for (variant, batch), values in times.items()
        for number, ms in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "ms"])


def test_summarize_by_hand(samples):
    table = benchmark.summarize(samples, "slow").set_index(["variant", "batch"])
    fast, slow = table.loc["fast", 1], table.loc["slow", 1]
    assert (slow["median_ms"], fast["median_ms"]) == (5, 2)
    assert slow["p10_ms"] == pytest.approx(2.6)
    assert slow["p90_ms"] == pytest.approx(7.4)
    assert fast["images_per_second"] == 500
    assert fast["speedup"] == 2  # the median of 8, 3, 1, 1; not 5 / 2
    assert slow["speedup"] == 1
    assert not fast["always_faster"]  # two rounds were a tie
    assert table.loc["fast", 10]["speedup"] == 3
    assert table.loc["fast", 10]["always_faster"]
    assert table.loc["fast", 10]["images_per_second"] == pytest.approx(10_000 / 3)
    assert not table.loc["slow", 10]["always_faster"]


def test_speedup_pairs_the_rounds(samples):
    """A disturbance that hits both variants of one round leaves the ratio alone."""
    disturbed = samples.copy()
    disturbed.loc[disturbed["round"] == 1, "ms"] *= 100
    before = benchmark.summarize(samples, "slow")
    after = benchmark.summarize(disturbed, "slow")
    assert after["speedup"].tolist() == before["speedup"].tolist()


def test_the_baseline_must_have_been_timed(samples):
    with pytest.raises(ValueError, match=r"baseline 'other' was not timed; have .*fast"):
        benchmark.summarize(samples, "other")


def test_file_bytes_is_what_lands_on_the_disk(int8_model, tmp_path):
    size = quantization.save_int8(int8_model, tmp_path / "int8.pt")
    assert benchmark.file_bytes(int8_model) == pytest.approx(size, rel=1e-3)


def test_content_of_a_float_model(float_model):
    table = benchmark.content_bytes(float_model)
    assert list(table.columns) == ["part", "dtype", "values", "bytes"]
    state = float_model.state_dict().values()
    assert table["bytes"].sum() == sum(v.numel() * v.element_size() for v in state)
    assert set(table["part"]) == {"weights", "biases", "batch norm"}
    values = table.groupby("part")["values"].sum()
    weights = [m.weight for m in float_model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert values["weights"] == sum(w.numel() for w in weights)
    assert values["biases"] == 10
    assert table["bytes"].sum() < benchmark.file_bytes(float_model)


def test_content_of_an_int8_model(float_model, int8_model):
    exact = benchmark.content_bytes(float_model).groupby("part")["values"].sum()
    table = benchmark.content_bytes(int8_model)
    assert not table.duplicated(["part", "dtype"]).any()
    assert set(table["part"]) == {"weights", "biases", "scales and zero points"}
    weights = table[table["part"] == "weights"].iloc[0]
    assert weights["dtype"] == "qint8"
    assert weights["values"] == weights["bytes"] == exact["weights"]
    channels = sum(m.out_channels for m in float_model.modules() if isinstance(m, nn.Conv2d))
    values = table.set_index(["part", "dtype"])["values"]
    assert values["biases", "float32"] == channels + 10
    assert values["scales and zero points", "float64"] == channels + 10  # one a channel
    total = table["bytes"].sum()
    assert 0.95 * benchmark.file_bytes(int8_model) < total < benchmark.file_bytes(int8_model)
