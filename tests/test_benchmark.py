import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from utils import quantization, timing, training
from utils.lab import benchmark, footprint, roofline, runtimes
from utils.lab.isolation import Outcome
from utils.lab.runtimes import VariantError
from utils.models import STAGES
from utils.timing import BenchmarkError

X = torch.zeros(2, 1, 4, 4)


@pytest.fixture
def one_call_a_turn(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the models that move it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "timer", lambda: clock.now)
    monkeypatch.setattr(roofline, "timer", lambda: clock.now)
    return clock


def every_call(**times):
    """Samples as latency() returns them, from a list of rounds of calls per variant."""
    rows = [
        (variant, 2, 1, number, call, float(ms))
        for variant, rounds in times.items()
        for number, calls in enumerate(rounds)
        for call, ms in enumerate(calls)
    ]
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


# Many variants, batches and threads.


@pytest.fixture
def fakes(monkeypatch, one_call_a_turn):
    """Variants that answer with the first value of every image; keep what was loaded and run."""
    loads, runs, wrong = [], [], {}

    def load(name, folder, shape, threads=1):
        loads.append((name, folder, shape, threads, torch.get_num_threads()))
        if wrong.get(name) == "fails":
            raise VariantError(f"{name}: cannot be built")

        def model(x):
            runs.append((name, len(x), torch.get_num_threads()))
            return x[:, 0, 0, :2] * (3 if wrong.get(name) == len(x) else 1)

        return model

    monkeypatch.setattr(benchmark.runtimes, "load", load)
    monkeypatch.setattr(benchmark, "_eager_logits", lambda folder, x: x[:, 0, 0, :2])
    return SimpleNamespace(loads=loads, runs=runs, wrong=wrong)


IMAGES = torch.rand(4, 1, 2, 2) + 1


def test_sweep_times_every_pair(fakes, tmp_path):
    names = ["float_eager", "int8_x86"]
    found = benchmark.sweep(names, tmp_path, IMAGES, (1, 3), (1, 2), rounds=2)
    rows = found.samples[["threads", "batch", "round", "variant"]].to_records(index=False).tolist()
    assert rows == list(itertools.product((1, 2), (1, 3), (0, 1), names))
    assert found.left_out.empty
    assert list(found.left_out.columns) == ["variant", "batch", "threads", "problem"]
    assert {(batch, threads) for _, batch, threads in fakes.runs} == {
        (1, 1),
        (3, 1),
        (1, 2),
        (3, 2),
    }
    assert found.flushes_denormals is footprint.flushes_denormals()


def test_sweep_hands_the_limit_on(fakes, tmp_path):
    found = benchmark.sweep(["float_eager"], tmp_path, IMAGES, (1,), (1,), rounds=25, seconds=0)
    assert found.samples["round"].nunique() == 20


def test_sweep_verifies_and_times_with_the_asked_threads(fakes, tmp_path):
    benchmark.sweep(["float_eager", "int8_x86"], tmp_path, IMAGES, (1,), (2,), rounds=2)
    assert {threads for *_, threads in fakes.runs} == {2}
    assert torch.get_num_threads() == 1


def test_every_setting_of_a_sweep_gets_fresh_models(fakes, tmp_path):
    """An int8 layer of oneDNN keeps what it chose for the first shape and threads that it met."""
    names = ["float_eager", "int8_x86"]
    benchmark.sweep(names, tmp_path, IMAGES, (1, 3), (1, 2), rounds=2)
    shapes = [(1, 1, 2, 2), (3, 1, 2, 2)]
    assert fakes.loads == [
        (name, tmp_path, shape, threads, threads)
        for threads in (1, 2)
        for shape in shapes
        for name in names
    ]


def test_sweep_leaves_out_what_fails_with_the_reason(fakes, tmp_path):
    fakes.wrong |= {"float_openvino": "fails", "int8_x86": 3}
    names = ["float_eager", "float_openvino", "int8_x86", "abacus"]
    fakes.wrong["abacus"] = "fails"
    found = benchmark.sweep(names, tmp_path, IMAGES, (1, 3), (1,), rounds=2)
    timed = found.samples.groupby("batch")["variant"].agg(set).to_dict()
    assert timed == {1: {"float_eager", "int8_x86"}, 3: {"float_eager"}}
    wrong = "int8_x86: its logits differ from float32 by 2 of their norm"
    assert found.left_out.to_records(index=False).tolist() == [
        ("float_openvino", 1, 1, "float_openvino: cannot be built"),
        ("abacus", 1, 1, "abacus: cannot be built"),
        ("float_openvino", 3, 1, "float_openvino: cannot be built"),
        ("abacus", 3, 1, "abacus: cannot be built"),
        ("int8_x86", 3, 1, wrong),
    ]
    assert fakes.runs.count(("int8_x86", 3, 1)) == 1  # to be verified, not timed


def test_sweep_without_a_right_variant_is_an_error(fakes, tmp_path):
    fakes.wrong |= {"float_openvino": "fails", "int8_x86": 1}
    with pytest.raises(BenchmarkError, match=r"openvino: cannot be built; int8_x86: its logits"):
        benchmark.sweep(["float_openvino", "int8_x86"], tmp_path, IMAGES, (1,), (1,), rounds=2)


def test_sweep_needs_as_many_images_as_the_batch(fakes, tmp_path):
    with pytest.raises(ValueError, match="a batch of 5 needs as many images; there are 4"):
        benchmark.sweep(["float_eager"], tmp_path, IMAGES, (1, 5), (1,))
    assert not fakes.loads


def test_the_images_of_a_sweep_are_no_inference_tensors(fakes, tmp_path, monkeypatch):
    """For those torch.compile would compile once more, and freeze nothing."""
    seen = set()
    real = timing.latency
    monkeypatch.setattr(
        benchmark,
        "latency",
        lambda models, x, **kw: seen.add(x.is_inference()) or real(models, x, **kw),
    )
    benchmark.sweep(["float_eager"], tmp_path, IMAGES, (1, 2), (1,), rounds=2)
    assert seen == {False}


def test_the_reference_of_a_sweep_is_eager_float32(float_model, images, tmp_path):
    training.save_atomically(float_model.state_dict(), tmp_path / "float.pt")
    with torch.inference_mode():
        assert torch.equal(benchmark._eager_logits(tmp_path, images[:2]), float_model(images[:2]))


# The headline, repeated in fresh processes.


CHOSEN = pd.DataFrame(
    {"batch": [1, 64], "threads": 1, "int8": "int8_x86", "fastest_float": "float_openvino"}
)


def test_headline_by_hand(monkeypatch):
    """Three processes, in which int8 takes 1, 2 and 4 ms; the float forms always take 8 and 4."""
    asked = []

    def call_each(function, calls, **how):
        asked.append((function, calls, how))
        return [
            Outcome(
                [{"float_eager": eight, "float_openvino": eight / 2, "int8_x86": eight / ratio}] * 2
            )
            for ratio, eight in zip((8, 4, 2), np.full((3, 20), 8.0), strict=True)
        ]

    monkeypatch.setattr(footprint.isolation, "call_each", call_each)
    table = benchmark.headline(CHOSEN, Path("there"), IMAGES, processes=3, limit=7)
    [(function, calls, how)] = asked
    assert function is benchmark._timed_again
    assert len(calls) == 3
    assert how == {"seconds": 7, "fresh": True}
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
    monkeypatch.setattr(footprint.isolation, "call_each", lambda *_, **__: outcomes)
    with pytest.raises(BenchmarkError, match="could not time the headline: ended by SIGILL"):
        benchmark.headline(CHOSEN, Path("there"), IMAGES, processes=2)


def test_the_headline_of_real_processes(float_model, int8_model, images, tmp_path):
    training.save_atomically(float_model.state_dict(), tmp_path / "float.pt")
    quantization.save_int8(int8_model, tmp_path / "int8.pt")
    int8 = f"int8_{quantization.default_engine()}"
    chosen = CHOSEN.assign(int8=int8, fastest_float="float_eager", batch=[1, 2])
    table = benchmark.headline(chosen, tmp_path, images[:2], processes=1, rounds=2)
    assert table["batch"].tolist() == [1, 2]
    assert (table["eager_ms"] == table["fastest_float_ms"]).all()
    assert (table["against_eager"] == table["against_fastest"]).all()
    assert (table["against_eager_low"] < table["against_eager_high"]).all()
    assert table["processes"].eq(1).all() and table["rounds"].eq(2).all()


# Layers.


def test_layer_work_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(8, 5))
    table = roofline.layer_work(model, torch.zeros(3, 1, 2, 2))
    rows = table.set_index("layer").to_dict(orient="index")
    # Every one of the 4 outputs sees the 4 inputs, and 5 of its 9 taps lie on padding.
    assert rows["0"] == {
        "operations": 2 * 3 * 4 * 2 * 4,
        "weights": 18,
        "all_operations": 2 * 3 * 4 * 2 * 9,
        "all_weights": 18,
        "activations": 3 * (4 + 8),
    }
    linear = 2 * 3 * 5 * 8
    assert rows["2"] == {
        "operations": linear,
        "weights": 40,
        "all_operations": linear,
        "all_weights": 40,
        "activations": 3 * (8 + 5),
    }


def test_weights_that_only_meet_padding_are_not_needed():
    table = roofline.layer_work(nn.Conv2d(4, 6, 3, padding=1), torch.zeros(2, 4, 1, 1))
    row = table.iloc[0]
    assert (row["weights"], row["all_weights"]) == (24, 216)
    assert (row["operations"], row["all_operations"]) == (2 * 2 * 24, 2 * 2 * 216)


def test_layer_work_of_the_whole_network(float_model, images):
    table = roofline.layer_work(quantization.fuse(float_model), images[:2])
    layers = {n for n, m in float_model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(table["layer"]) == layers
    assert len(table) == len(layers)

    def taps(size, kernel, stride):
        """How many taps meet data along one axis, and how many outputs there are."""
        starts = range(-(kernel // 2), size + kernel // 2 - kernel + 1, stride)
        return sum(0 <= s + k < size for s in starts for k in range(kernel)), len(starts)

    needed = every = 0
    size, inputs = 7, 64  # behind the stem and its pooling
    shapes = [(28, 1, 64, 7, 2)]
    for outputs, stride in STAGES:
        after = -(-size // stride)
        shapes += [(size, inputs, outputs, 3, stride)] + [(after, outputs, outputs, 3, 1)] * 3
        shapes += [(size, inputs, outputs, 1, stride)] * (inputs != outputs)
        size, inputs = after, outputs
    for size, inputs, outputs, kernel, stride in shapes:
        met, positions = taps(size, kernel, stride)
        needed += inputs * outputs * met**2
        every += inputs * outputs * (kernel * positions) ** 2
    assert every + 5120 == 33_010_944
    assert table["all_operations"].sum() == 2 * 2 * (every + 5120)
    assert table["operations"].sum() == 2 * 2 * (needed + 5120)
    weights = [m.weight for m in float_model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert table["all_weights"].sum() == sum(weight.numel() for weight in weights)


def test_layer_work_leaves_no_hook():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        roofline.layer_work(model, torch.zeros(1, 4))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture
def ticking(clock):
    """Make layers that take so many milliseconds each, the first calls ten times as long."""

    def make(*milliseconds, calls=None):
        model = nn.Sequential(*(nn.Identity() for _ in milliseconds))
        for number, (layer, ms) in enumerate(zip(model, milliseconds, strict=True)):
            slow = iter([10.0] * 2)

            def forward(x, number=number, ms=ms, slow=slow):
                clock.now += 1e-3 * ms * next(slow, 1.0)
                if calls is not None:
                    calls.append((milliseconds, number, torch.get_num_threads()))
                return x

            layer.forward = forward
        return model

    return make


def test_layer_times(ticking):
    models = {"slow": ticking(5, 50, 7), "fast": ticking(1, 10, 2)}
    table = roofline.layer_times(models, ["2", "0"], X, rounds=3)
    assert list(table.columns) == ["layer", "slow", "fast"]
    assert table["layer"].tolist() == ["2", "0"]
    assert table["slow"].tolist() == pytest.approx([7, 5])
    assert table["fast"].tolist() == pytest.approx([2, 1])
    for model in models.values():
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_are_timed_in_turn_with_the_asked_threads(ticking):
    calls = []
    models = {"slow": ticking(40, calls=calls), "fast": ticking(30, calls=calls)}
    roofline.layer_times(models, ["0"], X, rounds=3, threads=2)
    turns = [key for key, _ in itertools.groupby(calls)]
    assert turns == [((40,), 0, 2), ((30,), 0, 2)] * (1 + 3)


def test_the_time_of_a_layer_is_the_median_of_the_rounds(clock):
    times = iter([30.0, 30.0] + [1.0, 2.0, 9.0])  # 30: two calls that warm up
    layer = nn.Identity()

    def forward(x):
        clock.now += 1e-3 * next(times)
        return x

    layer.forward = forward
    table = roofline.layer_times({"a": nn.Sequential(layer)}, ["0"], X, rounds=3)
    assert table["a"].tolist() == pytest.approx([2])


def test_layer_times_leaves_no_hook_behind_a_failure():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        roofline.layer_times({"a": model}, ["0", "1"], torch.zeros(1, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layer_times_reads_float_and_int8(float_model, int8_model, images):
    models = {"float": quantization.fuse(float_model), "int8": int8_model}
    layers = ["conv1", "layer2.0.downsample.0", "fc"]
    table = roofline.layer_times(models, layers, images[:1], rounds=2)
    assert table["layer"].tolist() == layers
    assert (table[["float", "int8"]] > 0).all(axis=None)


# Memory, denormals and size.


@pytest.fixture
def child(monkeypatch):
    """Answer in place of a child process; keep what was asked."""
    asked = []
    good = {"before_mb": 100.0, "after_mb": 150.0, "peak_mb": 160.0}

    def call_each(function, calls, **how):
        asked.append((function, calls, how))
        return [
            Outcome(good) if call[0] == "float_eager" else Outcome(None, "ended by SIGSEGV")
            for call in calls
        ]

    monkeypatch.setattr(footprint.isolation, "call_each", call_each)
    return asked


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


def test_memory_asks_for_fresh_children_that_give_back_at_once(child, tmp_path):
    (tmp_path / "float.pt").write_bytes(bytes(2_000_000))
    table = footprint.memory(["float_eager"], tmp_path, (2, 1, 8, 8), 2, limit=7)
    [(function, calls, how)] = child
    assert function is footprint._footprint
    assert calls == [("float_eager", str(tmp_path), (2, 1, 8, 8), 2)]
    assert how["fresh"] is True
    assert how["seconds"] == 7
    assert "MALLOC_MMAP_THRESHOLD_" in how["environ"]
    assert table.iloc[0].tolist() == ["float_eager", 2.0, 100.0, 150.0, 160.0, ""]


def test_memory_of_what_crashes_or_has_no_file_is_a_problem(child, tmp_path):
    (tmp_path / "float.pt").write_bytes(bytes(1000))
    table = footprint.memory(["float_fused", "int8_x86"], tmp_path, (1, 1, 28, 28))
    assert table["problem"].tolist() == ["ended by SIGSEGV"] * 2
    assert table["file_mb"].tolist() == pytest.approx([0.001, math.nan], nan_ok=True)
    assert table[["before_mb", "after_mb", "peak_mb"]].isna().all(axis=None)


def test_the_footprint_sets_the_threads(float_model, tmp_path):
    training.save_atomically(float_model.state_dict(), tmp_path / "float.pt")
    before = torch.get_num_threads()
    try:
        found = footprint._footprint("float_eager", str(tmp_path), (1, 1, 28, 28), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found["peak_mb"] >= found["after_mb"] > 1
    assert list(found) == ["before_mb", "after_mb", "peak_mb"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_the_peak_is_remembered():
    block = np.ones(30_000_000)  # 240 MB
    high = psutil.Process().memory_info().rss
    del block
    assert psutil.Process().memory_info().rss < high - 200e6
    assert footprint._peak_rss() > 0.99 * high


@pytest.fixture
def flushing():
    """Let this thread take denormals for zero, and end that."""
    before = footprint.flushes_denormals()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    yield
    torch.set_flush_denormal(before)


@pytest.fixture(params=[False, True], ids=["kept", "flushed"])
def planted(request):
    """A model with two denormal weights, and images with three denormals in eight values."""
    least = 2.0**-126
    weights = torch.tensor([least / 2, -least / 4, least, -least, 0.0, -0.0, 1.0])
    images = torch.tensor([[1e-40, -1e-45, least * 0.999, least, 0.0, -0.0, 5.0, -1e-37]])
    model = nn.Sequential(nn.Flatten(), nn.Flatten())
    model.register_parameter("weights", nn.Parameter(weights))
    model.register_buffer("seen", torch.tensor(1))  # not a float: not counted
    if request.param:
        request.getfixturevalue("flushing")
    return model, images


def test_denormals_are_counted(planted):
    model, images = planted
    table = footprint.denormals(model, images)
    assert list(table.columns) == ["where", "values", "denormal"]
    assert table.to_records(index=False).tolist() == [
        ("weights", 7, 2),
        ("activations", 2 * 8, 2 * 3),
    ]
    assert not any(module._forward_hooks for module in model.modules())


def test_denormals_leave_no_hook_behind_a_failure():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        footprint.denormals(model, torch.zeros(1, 4))
    assert not any(module._forward_hooks for module in model.modules())


def test_flushing_is_noticed(flushing):
    assert footprint.flushes_denormals() is True
    torch.set_flush_denormal(False)
    assert footprint.flushes_denormals() is False


def test_file_bytes_is_what_lands_on_the_disk(int8_model, tmp_path):
    size = quantization.save_int8(int8_model, tmp_path / "int8.pt")
    assert footprint.file_bytes(int8_model) == pytest.approx(size, rel=1e-3)


def test_content_of_a_float_model(float_model):
    table = footprint.content_bytes(float_model)
    assert list(table.columns) == ["part", "dtype", "values", "bytes"]
    state = float_model.state_dict().values()
    assert table["bytes"].sum() == sum(v.numel() * v.element_size() for v in state)
    assert set(table["part"]) == {"weights", "biases", "batch norm"}
    values = table.groupby("part")["values"].sum()
    weights = [m.weight for m in float_model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert values["weights"] == sum(w.numel() for w in weights)
    assert values["biases"] == 10
    assert table["bytes"].sum() < footprint.file_bytes(float_model)


def test_content_of_an_int8_model(float_model, int8_model):
    exact = footprint.content_bytes(float_model).groupby("part")["values"].sum()
    table = footprint.content_bytes(int8_model)
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
    assert 0.95 * footprint.file_bytes(int8_model) < total < footprint.file_bytes(int8_model)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "0"], "'0' is not a whole number of 1 or more"),
        (["--batch", "x"], "'x' is not a whole number of 1 or more"),
        (["--batch", "1", "-4"], "'-4' is not a whole number of 1 or more"),
        (["--rounds", "1.5"], "'1.5' is not a whole number"),
        (["--threads", "0"], "'0' is not a whole number"),
        (["--threads", "99999"], "99999: this machine has [0-9]+ cores"),
        (["--variants", "abacus"], "invalid choice: 'abacus'"),
        (["--baseline", "abacus"], "invalid choice: 'abacus'"),
        (["--out", "result.txt"], "'result.txt': needs a file .json in an existing folder"),
        (["--out", "no/such/folder/result.json"], "needs a file .json in an existing folder"),
        (["--variants", "float_fused"], "the baseline float_eager is not among the variants"),
        (["--rounds", "1"], "--rounds 1 has no spread: ask for 2 or more"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(
    monkeypatch, capsys, tmp_path, arguments, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "data", None)
    monkeypatch.setattr(benchmark, "training", None)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.fixture
def command(monkeypatch, course, digits, float_model):
    """The command line without its work; keep what it asks for, and answer with these samples."""
    asked = SimpleNamespace(
        samples=every_call(float_eager=[[6], [6]], int8_x86=[[2], [3]]),
        left_out=[("float_openvino", 2, 1, "float_openvino: cannot be built")],
        exported=[],
        swept=[],
    )

    def sweep(names, folder, images, batches, threads, **how):
        asked.swept.append((names, folder, images, batches, threads, how))
        columns = ["variant", "batch", "threads", "problem"]
        return benchmark.Sweep(asked.samples, pd.DataFrame(asked.left_out, columns=columns), True)

    monkeypatch.setattr(benchmark.settings, "load", lambda: course)
    monkeypatch.setattr(benchmark.data, "load", lambda config: digits)
    monkeypatch.setattr(benchmark.training, "load_or_train", lambda *_: (float_model, None))
    monkeypatch.setattr(benchmark.runtimes, "export", lambda *a: asked.exported.append(a))
    monkeypatch.setattr(benchmark, "sweep", sweep)
    return asked


def test_the_command_line_writes_what_it_found(command, course, digits, capsys, tmp_path):
    out = tmp_path / "result.json"
    names = ["float_eager", "int8_x86", "float_openvino"]
    arguments = ["--variants", *names, "int8_x86", "--batch", "2", "3", "--rounds", "7"]
    assert benchmark.main([*arguments, "--out", str(out)]) == 0
    [(asked, folder, images, batches, threads, how)] = command.swept
    assert (asked, list(batches), list(threads), how) == (names, [2, 3], [1], {"rounds": 7})
    assert torch.equal(images, digits.normalizer()(digits.test_images[:3]))
    [(exported, _, calibration)] = command.exported
    assert exported == folder
    assert len(calibration) == course.calibration_images
    assert not folder.exists()  # it was a temporary one

    printed = capsys.readouterr().out
    assert "left out at batch 2, 1 threads: float_openvino: cannot be built" in printed
    assert "int8_x86" in printed
    assert "The machine was busy" in printed  # rounds of 2 and 3 ms

    record = json.loads(out.read_text())
    assert list(record) == [
        "summary",
        "left_out",
        "baseline",
        "busy",
        "flushes_denormals",
        "samples",
        "environment",
    ]
    assert record["summary"]["variant"] == ["float_eager", "int8_x86"]
    assert record["summary"]["speedup"] == [1, 2.5]
    assert record["left_out"]["variant"] == ["float_openvino"]
    assert record["baseline"] == "float_eager"
    assert record["busy"].startswith("The machine was busy")
    assert record["flushes_denormals"] is True
    assert record["samples"]["ms"] == [6, 6, 2, 3]
    assert record["environment"]["torch"] == torch.__version__


def test_the_command_line_by_default(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.samples = every_call(float_eager=[[6], [6]], int8_x86=[[2], [2]])
    command.left_out = []
    assert benchmark.main([]) == 0
    [(names, _, images, batches, threads, how)] = command.swept
    assert names == runtimes.names()
    assert (list(batches), list(threads), how) == ([1, 64], [1], {"rounds": 30})
    assert len(images) == 64
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert "The rounds agree: the machine was quiet." in printed
    assert [path for path in tmp_path.iterdir() if path.suffix == ".json"] == []


def test_another_baseline(command, capsys, tmp_path):
    out = tmp_path / "result.json"
    names = ["float_eager", "int8_x86"]
    assert benchmark.main(["--variants", *names, "--baseline", names[1], "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["baseline"] == "int8_x86"
    assert record["summary"]["speedup"][1] == 1


def test_a_baseline_that_could_not_be_timed_is_an_error(command, capsys, tmp_path):
    out = tmp_path / "result.json"
    names = ["float_eager", "float_openvino"]
    arguments = ["--variants", *names, "--baseline", "float_openvino", "--out", str(out)]
    assert benchmark.main(arguments) == 1
    printed = capsys.readouterr()
    assert "left out at batch 2, 1 threads: float_openvino: cannot be built" in printed.out
    assert "baseline 'float_openvino' was not timed" in printed.err
    assert not out.exists()


def test_a_batch_larger_than_the_test_images_is_refused_before_training(
    command, capsys, digits, monkeypatch
):
    monkeypatch.setattr(benchmark, "training", None)
    most = len(digits.test_images)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--batch", "1", str(most + 1)])
    assert stopped.value.code == 2
    assert f"--batch {most + 1}: there are {most} test images" in capsys.readouterr().err
