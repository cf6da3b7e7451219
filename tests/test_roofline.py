import itertools
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from utils import quantization, timing
from utils.lab import roofline
from utils.lab.isolation import Outcome
from utils.models import STAGES

ALL = [(kind, kernel) for kind, kernels in roofline.KERNELS.items() for kernel in kernels]

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")


@pytest.fixture(autouse=True)
def settings_restored():
    """A kernel runs in a child and may set what it likes there; here it must not."""
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    state = torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine
    torch.set_rng_state(state)


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {"SIZE": 16, "IMAGES": 2, "CHANNELS": 8, "PIXELS": 5}.items():
        monkeypatch.setattr(roofline, name, value)


@pytest.fixture
def fake_child(monkeypatch):
    """Answer from a function instead of a child; keep what was asked."""

    def pretend(answer):
        asked = []

        def call_each(function, calls, *, seconds):
            asked.append((function, list(calls), seconds))
            return [answer(kind, kernel) for kind, kernel, _, _ in calls]

        monkeypatch.setattr(roofline.isolation, "call_each", call_each)
        return asked

    return pretend


@pytest.fixture
def one_second(monkeypatch):
    """Every kernel runs once and is said to have taken a second; keep its output."""
    outputs = []

    def pretend(call, budget):
        outputs.append((call(), budget))
        return 1.0

    monkeypatch.setattr(roofline, "_best_seconds", pretend)
    return outputs


def test_a_row_for_every_kernel(fake_child):
    asked = fake_child(lambda kind, kernel: Outcome(3.0))
    table = roofline.measure(2, working_sets=(1, 0.5), seconds=0.125, limit=7)
    assert list(table.columns) == ["kind", "kernel", "value", "unit", "problem"]
    reads = [
        (kind, kernel)
        for kind in ("read 1 MB", "read 0.5 MB")
        for kernel in ("sum", "maximum", "dot product")
    ]
    assert list(table[["kind", "kernel"]].itertuples(index=False, name=None)) == reads + ALL
    assert (table["value"] == 3).all()
    assert (table["problem"] == "").all()
    assert table["unit"].tolist() == ["GB/s"] * 6 + ["GOP/s"] * len(ALL)
    calls = [(*pair, 2, 0.125) for pair in reads + ALL]
    assert asked == [(roofline.run, calls, 7)]


def test_every_kind_has_kernels_and_bfloat16_comes_last():
    """Without the instructions for it it may hang, and whatever follows needs a new child."""
    assert list(roofline.KERNELS) == ["float32", "int8", "bfloat16"]
    for kernels in roofline.KERNELS.values():
        assert any(kernel.startswith("convolution") for kernel in kernels)
        assert any(kernel.startswith("matrix product") for kernel in kernels)


def test_a_problem_has_no_value_but_words(fake_child):
    def answer(kind, kernel):
        return Outcome(None, "ended by SIGILL") if kernel == "matrix product" else Outcome(2.0)

    fake_child(answer)
    table = roofline.measure()
    failed = table["kernel"] == "matrix product"
    assert set(table.loc[failed, "kind"]) == {"float32", "bfloat16"}
    assert (table["value"].isna() == failed).all()
    assert (table["problem"] == failed.map({True: "ended by SIGILL", False: ""})).all()


def test_best_takes_the_highest_and_leaves_out_kinds_without_value():
    rows = [("a", 1.0), ("b", math.nan), ("a", 3.0), ("c", 5.0), ("a", 2.0), ("c", math.nan)]
    table = pd.DataFrame(rows, columns=["kind", "value"])
    assert roofline.best(table) == {"a": 3.0, "c": 5.0}


def test_int8_instructions_with_amx(monkeypatch):
    """FBGEMM has no kernels for AMX, so a ceiling that oneDNN sets with it is not FBGEMM's."""
    engines = type(torch.backends.quantized)
    monkeypatch.setattr(engines, "supported_engines", ["onednn", "x86", "fbgemm", "none"])
    table = roofline.int8_instructions(["amx_bf16", "amx_int8", "avx2", "avx512_vnni", "avx512f"])
    assert table.to_dict(orient="records") == [
        {"library": "onednn", "fastest": "amx_int8", "unused": ""},
        {"library": "fbgemm", "fastest": "avx512_vnni", "unused": "amx_int8"},
    ]


@pytest.mark.parametrize(("kind", "kernel"), ALL)
def test_operations_are_counted_from_what_comes_out(tiny, one_second, kind, kernel):
    try:
        rate = roofline.run(kind, kernel, 1, 0.25)
    except RuntimeError as error:
        if kind != "bfloat16":
            raise
        pytest.skip(f"not on this processor: {str(error).splitlines()[0]}")
    [(output, budget)] = one_second
    assert budget == 0.25
    if kernel.startswith("matrix product"):
        assert tuple(output.shape) == (16, 16)
        each = 2 * 16
    else:
        assert tuple(output.shape) == (2, 8, 5, 5)
        each = 2 * 8 * 9
    assert rate == pytest.approx(output.numel() * each / 1e9)
    assert output.dtype == {"int8": torch.quint8}.get(kind, getattr(torch, kind))


def test_float_kernels_compute_the_same(tiny, one_second):
    for kernel in ("convolution", "convolution, weights packed"):
        roofline.run("float32", kernel, 1, 0.25)
    (plain, _), (packed, _) = one_second
    torch.testing.assert_close(plain, packed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", roofline.READERS)
def test_bytes_are_counted_from_what_is_read(monkeypatch, one_second, kernel):
    read = []
    reader = roofline.READERS[kernel]
    monkeypatch.setitem(roofline.READERS, kernel, lambda x: read.append(x) or reader(x))
    assert roofline.run("read 0.5 MB", kernel, 1, 0.25) == pytest.approx(0.5e6 / 1e9)
    [data] = read
    assert data.numel() * data.element_size() == 500_000
    [(output, _)] = one_second
    assert output.item() == {"sum": 125_000, "maximum": 1, "dot product": 125_000}[kernel]


def test_run_sets_the_threads_and_inference_mode(tiny, monkeypatch):
    seen = []

    def look(call, budget):
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return 1.0

    monkeypatch.setattr(roofline, "_best_seconds", look)
    for threads in (2, 1):
        roofline.run("float32", "matrix product", threads, 0.25)
    roofline.run("read 0.1 MB", "sum", 2, 0.25)
    assert seen == [(2, True), (1, True), (2, True)]


def test_the_best_call_counts_and_the_first_does_not(monkeypatch):
    now = [0.0]
    steps = iter([0.001, 5, 4, 2, 3])  # of which the first only warms up

    def call():
        now[0] += next(steps)

    monkeypatch.setattr(roofline.time, "perf_counter", lambda: now[0])
    assert roofline._best_seconds(call, 10) == 2  # 5, 4 and 2 fill the time


def test_at_least_three_calls_are_timed(monkeypatch):
    calls = []
    roofline._best_seconds(lambda: calls.append(0), 0)
    assert len(calls) == 1 + 3


def test_a_kernel_overruns_a_tiny_limit(monkeypatch):
    """End to end, in a child that is ended."""
    monkeypatch.setattr(roofline, "KERNELS", {"float32": {"matrix product": None}})
    monkeypatch.setattr(roofline, "READERS", {})
    table = roofline.measure(limit=1e-4)
    assert table["problem"].tolist() == ["not done after 0.0001 s"]
    assert table["value"].isna().all()
    assert roofline.best(table) == {}


# Layers.


X = torch.zeros(2, 1, 4, 4)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the models that move it; a turn is one call."""
    clock = SimpleNamespace(now=0.0)
    for module in (timing, roofline):
        monkeypatch.setattr(module, "timer", lambda: clock.now)
    return clock


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


def test_layer_times_reads_float_and_int8(float_model, int8_model, images):
    models = {"float": quantization.fuse(float_model), "int8": int8_model}
    layers = ["conv1", "layer2.0.downsample.0", "fc"]
    table = roofline.layer_times(models, layers, images[:1], rounds=2)
    assert table["layer"].tolist() == layers
    assert (table[["float", "int8"]] > 0).all(axis=None)
