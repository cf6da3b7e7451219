"""The sweep, the headline, memory and the command line; utils.timing has a file of its own."""

import itertools
import json
import mmap
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from utils import quantization, timing, training
from utils.lab import benchmark, footprint, runtimes
from utils.lab.isolation import Outcome
from utils.lab.runtimes import VariantError
from utils.timing import BenchmarkError

IMAGES = torch.rand(4, 1, 2, 2) + 1


def every_call(**times):
    """Samples as latency() returns them, of one call a round, at batch 2 and one thread."""
    rows = [
        (variant, 2, 1, number, 0, float(ms))
        for variant, rounds in times.items()
        for number, ms in enumerate(rounds)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


@pytest.fixture
def fakes(monkeypatch):
    """Variants that answer with the first value of every image; keep what was loaded and run."""
    loads, runs, wrong = [], [], {}

    def load(name, folder, shape, threads=1):
        loads.append((name, folder, shape, threads, torch.get_num_threads()))
        if wrong.get(name) == "fails":
            raise VariantError(f"{name}: cannot be built")

        def model(x):
            runs.append((name, len(x), torch.get_num_threads(), x.is_inference()))
            return x[:, 0, 0, :2] * (3 if wrong.get(name) == len(x) else 1)

        return model

    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)
    monkeypatch.setattr(timing, "WARMUP_SECONDS", 0)
    monkeypatch.setattr(benchmark.runtimes, "load", load)
    monkeypatch.setattr(benchmark, "_eager_logits", lambda folder, x: x[:, 0, 0, :2])
    return SimpleNamespace(loads=loads, runs=runs, wrong=wrong)


def test_every_pair_of_a_sweep_is_timed_with_fresh_models_and_the_asked_threads(fakes, tmp_path):
    """An int8 layer of oneDNN keeps what it chose for the first shape and threads that it met."""
    names = ["float_eager", "int8_x86"]
    found = benchmark.sweep(names, tmp_path, IMAGES, (1, 3), (1, 2), rounds=2)
    rows = found.samples[["threads", "batch", "round", "variant"]].to_records(index=False).tolist()
    assert rows == list(itertools.product((1, 2), (1, 3), (0, 1), names))
    assert found.left_out.empty
    assert list(found.left_out.columns) == ["variant", "batch", "threads", "problem"]
    assert fakes.loads == [
        (name, tmp_path, (batch, 1, 2, 2), threads, threads)
        for threads, batch, name in itertools.product((1, 2), (1, 3), names)
    ]
    # For inference tensors torch.compile would compile once more, and freeze nothing.
    expected = itertools.product(names, (1, 3), (1, 2), [False])
    assert set(fakes.runs) == set(expected)
    assert torch.get_num_threads() == 1


def test_a_sweep_hands_the_limit_on(fakes, tmp_path):
    found = benchmark.sweep(["float_eager"], tmp_path, IMAGES, (1,), (1,), rounds=25, seconds=0)
    assert found.samples["round"].nunique() == 20


def test_a_sweep_leaves_out_what_fails_with_the_reason(fakes, tmp_path):
    fakes.wrong |= {"float_openvino": "fails", "int8_x86": 3}
    names = ["float_eager", "float_openvino", "int8_x86"]
    found = benchmark.sweep(names, tmp_path, IMAGES, (1, 3), (1,), rounds=2)
    timed = found.samples.groupby("batch")["variant"].agg(set).to_dict()
    assert timed == {1: {"float_eager", "int8_x86"}, 3: {"float_eager"}}
    assert found.left_out.to_records(index=False).tolist() == [
        ("float_openvino", 1, 1, "float_openvino: cannot be built"),
        ("float_openvino", 3, 1, "float_openvino: cannot be built"),
        ("int8_x86", 3, 1, "int8_x86: its logits differ from float32 by 2 of their norm"),
    ]
    assert [run[:2] for run in fakes.runs].count(("int8_x86", 3)) == 1  # verified, not timed


def test_a_sweep_needs_a_right_variant_and_enough_images(fakes, tmp_path):
    fakes.wrong |= {"float_openvino": "fails", "int8_x86": 1}
    with pytest.raises(BenchmarkError, match=r"openvino: cannot be built; int8_x86: its logits"):
        benchmark.sweep(["float_openvino", "int8_x86"], tmp_path, IMAGES, (1,), (1,), rounds=2)
    fakes.loads.clear()
    with pytest.raises(ValueError, match="a batch of 5 needs as many images; there are 4"):
        benchmark.sweep(["float_eager"], tmp_path, IMAGES, (1, 5), (1,))
    assert not fakes.loads


# The headline, repeated in fresh processes.


CHOSEN = pd.DataFrame(
    {"batch": [1, 64], "threads": 1, "int8": "int8_x86", "fastest_float": "float_openvino"}
)


def test_headline_by_hand(monkeypatch):
    """Three processes, in which int8 takes 1, 2 and 4 ms; the float forms always take 8 and 4."""
    asked = []

    def call_each(function, calls, **how):
        asked.append((function, len(calls), how))
        eight = np.full(20, 8.0)
        return [
            Outcome([{"float_eager": eight, "float_openvino": eight / 2, "int8_x86": took}] * 2)
            for took in (eight / 8, eight / 4, eight / 2)
        ]

    monkeypatch.setattr(benchmark.isolation, "call_each", call_each)
    table = benchmark.headline(CHOSEN, Path("there"), IMAGES, processes=3, limit=7)
    assert asked == [(benchmark._timed_again, 3, {"seconds": 7, "fresh": True})]
    first, second = table.to_dict(orient="records")
    low, high = (first.pop(f"against_eager_{end}") for end in ("low", "high"))
    assert 2 <= low < 14 / 3 < high <= 8
    assert first.pop("against_fastest_low") == pytest.approx(low / 2)
    assert first.pop("against_fastest_high") == pytest.approx(high / 2)
    assert first == {
        "batch": 1,
        "threads": 1,
        "int8": "int8_x86",
        "fastest_float": "float_openvino",
        "int8_ms": 2,
        "eager_ms": 8,
        "fastest_float_ms": 4,
        "against_eager": pytest.approx(14 / 3),
        "against_fastest": pytest.approx(7 / 3),
        "processes": 3,
        "rounds": 20,
    }
    assert second["batch"] == 64


def test_a_headline_that_cannot_be_timed_says_why(monkeypatch):
    outcomes = [Outcome([]), Outcome(None, "ended by SIGILL")]
    monkeypatch.setattr(benchmark.isolation, "call_each", lambda *_, **__: outcomes)
    with pytest.raises(BenchmarkError, match="could not time the headline: ended by SIGILL"):
        benchmark.headline(CHOSEN, Path("there"), IMAGES, processes=2)


def test_the_headline_of_a_real_process(float_model, int8_model, images, tmp_path):
    training.save_atomically(float_model.state_dict(), tmp_path / "float.pt")
    quantization.save_int8(int8_model, tmp_path / "int8.pt")
    with torch.inference_mode():
        found = benchmark._eager_logits(tmp_path, images[:2])
        assert torch.equal(found, float_model(images[:2]))
    int8 = f"int8_{quantization.default_engine()}"
    chosen = CHOSEN.assign(int8=int8, fastest_float="float_eager", batch=[1, 2])
    table = benchmark.headline(chosen, tmp_path, images[:2], processes=1, rounds=2)
    assert table["batch"].tolist() == [1, 2]
    assert (table["eager_ms"] == table["fastest_float_ms"]).all()
    assert (table["against_eager"] == table["against_fastest"]).all()
    assert (table["against_eager_low"] < table["against_eager_high"]).all()
    assert table["processes"].eq(1).all() and table["rounds"].eq(2).all()


# Memory.


def test_memory_of_a_real_child(int8_model, tmp_path):
    name = f"int8_{quantization.default_engine()}"
    size = quantization.save_int8(int8_model, tmp_path / "int8.pt")
    table = footprint.memory([name], tmp_path, (1, 1, 28, 28))
    columns = ["variant", "file_mb", "before_mb", "after_mb", "peak_mb", "problem"]
    assert list(table.columns) == columns
    row = table.iloc[0]
    assert (row["variant"], row["problem"]) == (name, "")
    assert row["file_mb"] == size / 1e6
    assert 20 < row["before_mb"] < row["after_mb"] <= row["peak_mb"] < 10_000
    assert row["after_mb"] - row["before_mb"] > row["file_mb"]  # the weights are in memory


def test_memory_asks_for_fresh_children_and_takes_what_fails_for_a_problem(monkeypatch, tmp_path):
    asked = []

    def call_each(function, calls, **how):
        asked.append((function, calls, how))
        return [Outcome((100e6, 150e6, 160e6)), Outcome(None, "ended by SIGSEGV")]

    monkeypatch.setattr(footprint.isolation, "call_each", call_each)
    (tmp_path / "float.pt").write_bytes(bytes(2_000_000))
    names = ["float_eager", "int8_x86"]  # of which the second has no file
    table = footprint.memory(names, tmp_path, (2, 1, 8, 8), 2, limit=7)
    [(function, calls, how)] = asked
    assert function is footprint._footprint
    assert calls == [(name, str(tmp_path), (2, 1, 8, 8), 2) for name in names]
    assert (how["fresh"], how["seconds"]) == (True, 7)
    assert "MALLOC_MMAP_THRESHOLD_" in how["environ"]
    assert table.iloc[0].tolist() == ["float_eager", 2.0, 100.0, 150.0, 160.0, ""]
    assert table.iloc[1]["problem"] == "ended by SIGSEGV"
    assert table.iloc[1, 1:5].isna().all()


def test_the_footprint_sets_the_threads(monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes, "load", lambda *_: torch.sin)
    before = torch.get_num_threads()
    try:
        _, after, peak = footprint._footprint("float_eager", str(tmp_path), (1, 1, 28, 28), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert peak >= after > 1e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_the_peak_is_remembered():
    # Mapped, not allocated: malloc may take it from memory freed before, and keep it.
    with mmap.mmap(-1, 240_000_000) as block:
        block.write(bytes(240_000_000))
        high = psutil.Process().memory_info().rss
    assert psutil.Process().memory_info().rss < high - 200e6
    assert footprint._peak_rss() > 0.99 * high


# The command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "x"], "invalid int value: 'x'"),
        (["--batch", "1", "-4"], "--batch -4 is not 1 or more"),
        (["--threads", "0"], "--threads 0 is not 1 or more"),
        (["--threads", "1", "99999"], "--threads: this machine has [0-9]+ cores"),
        (["--variants", "abacus"], "invalid choice: 'abacus'"),
        (["--out", "result.txt"], "--out result.txt: needs a file .json in an existing folder"),
        (["--out", "no/such/folder/result.json"], "needs a file .json in an existing folder"),
        (["--variants", "float_fused"], "the baseline float_eager is not among"),
        (["--rounds", "1"], "--rounds 1 has no spread: ask for 2 or more"),
        (["--batch", "1", "1001"], "--batch 1001: there are 1000 test images"),
    ],
)
def test_bad_arguments_are_refused_before_training(command, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(benchmark, "training", None)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.fixture
def command(monkeypatch, course, digits, float_model, tmp_path):
    """The command line without its work; keep what it asks for, and answer with these samples."""
    asked = SimpleNamespace(
        samples=every_call(float_eager=[6, 6], int8_x86=[2, 3]),
        left_out=[("float_openvino", 2, 1, "float_openvino: cannot be built")],
        exported=[],
        swept=[],
    )

    def sweep(*what, **how):
        asked.swept.append((*what, how))
        columns = ["variant", "batch", "threads", "problem"]
        return benchmark.Sweep(asked.samples, pd.DataFrame(asked.left_out, columns=columns))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark.settings, "load", lambda: course)
    monkeypatch.setattr(benchmark.data, "load", lambda config: digits)
    monkeypatch.setattr(benchmark.training, "load_or_train", lambda *_: (float_model, None))
    monkeypatch.setattr(benchmark.runtimes, "export", lambda *a: asked.exported.append(a))
    monkeypatch.setattr(benchmark, "sweep", sweep)
    return asked


def test_the_command_line_writes_what_it_found(command, course, digits, capsys, tmp_path):
    names = ["float_eager", "int8_x86", "float_openvino"]
    arguments = ["--variants", *names, "int8_x86", "--batch", "2", "3", "--rounds", "7"]
    assert benchmark.main([*arguments, "--out", "result.json"]) == 0
    [(asked, folder, images, batches, threads, how)] = command.swept
    assert (asked, list(batches), list(threads), how) == (names, [2, 3], [1], {"rounds": 7})
    assert torch.equal(images, digits.normalizer()(digits.test_images[:3]))
    [(exported, _, calibration)] = command.exported
    assert exported == folder
    assert len(calibration) == course.calibration_images
    assert not folder.exists()  # it was a temporary one

    printed = capsys.readouterr().out
    assert "left out at batch 2, 1 threads: float_openvino: cannot be built" in printed
    assert "The machine was busy" in printed  # rounds of 2 and 3 ms

    record = json.loads((tmp_path / "result.json").read_text())
    assert record["summary"]["variant"] == ["float_eager", "int8_x86"]
    assert record["summary"]["speedup"] == [1, 2.5]
    assert record["left_out"]["variant"] == ["float_openvino"]
    assert record["baseline"] == "float_eager"
    assert record["busy"].startswith("The machine was busy")
    assert record["samples"]["ms"] == [6, 6, 2, 3]
    assert record["environment"]["torch"] == torch.__version__


def test_the_command_line_by_default(command, capsys, tmp_path):
    command.samples = every_call(float_eager=[6, 6], int8_x86=[2, 2])
    command.left_out = []
    assert benchmark.main([]) == 0
    [(names, _, images, batches, threads, how)] = command.swept
    assert names == runtimes.names()
    assert (list(batches), list(threads), how) == ([1, 64], [1], {"rounds": 30})
    assert len(images) == 64
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert "The rounds agree: the machine was quiet." in printed
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("baseline", ["int8_x86", "float_openvino"])
def test_another_baseline_has_to_be_timed(command, capsys, baseline):
    arguments = ["--variants", "float_eager", baseline, "--baseline", baseline]
    timed = baseline == "int8_x86"
    assert benchmark.main([*arguments, "--out", "result.json"]) == (0 if timed else 1)
    if timed:
        assert json.loads(Path("result.json").read_text())["summary"]["speedup"][1] == 1
    else:
        assert "baseline 'float_openvino' was not timed" in capsys.readouterr().err
        assert not Path("result.json").exists()
