import math

import pandas as pd
import pytest
import torch

from utils.lab import roofline
from utils.lab.isolation import Outcome

ALL = [(kind, kernel) for kind, kernels in roofline.KERNELS.items() for kernel in kernels]
NATIVE = [pair for pair in ALL if pair[0] != "bfloat16"]

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
    fake_child(lambda kind, kernel: Outcome(3.0))
    table = roofline.measure(working_sets=(1, 0.5, 512))
    assert list(table.columns) == ["kind", "kernel", "value", "unit", "problem"]
    reads = [
        (kind, kernel)
        for kind in ("read 1 MB", "read 0.5 MB", "read 512 MB")
        for kernel in ("sum", "maximum", "dot product")
    ]
    assert list(table[["kind", "kernel"]].itertuples(index=False, name=None)) == reads + ALL
    assert (table["value"] == 3).all()
    assert (table["problem"] == "").all()
    is_read = table["kind"].str.startswith("read")
    assert set(table.loc[is_read, "unit"]) == {"GB/s"}
    assert set(table.loc[~is_read, "unit"]) == {"GOP/s"}


def test_every_kind_has_kernels_and_bfloat16_comes_last():
    """Without the instructions for it it may hang, and whatever follows needs a new child."""
    assert list(roofline.KERNELS) == ["float32", "int8", "bfloat16"]
    for kernels in roofline.KERNELS.values():
        assert any(kernel.startswith("convolution") for kernel in kernels)
        assert any(kernel.startswith("matrix product") for kernel in kernels)


def test_threads_seconds_and_limit_are_handed_on(fake_child):
    asked = fake_child(lambda kind, kernel: Outcome(3.0))
    roofline.measure(2, seconds=0.125, limit=7)
    [(function, calls, seconds)] = asked
    assert function is roofline.run
    assert seconds == 7
    assert {call[2:] for call in calls} == {(2, 0.125)}
    assert [kind for kind, *_ in calls[:6]] == ["read 1 MB"] * 3 + ["read 512 MB"] * 3


def test_working_sets_may_be_none_at_all(fake_child):
    fake_child(lambda kind, kernel: Outcome(3.0))
    table = roofline.measure(working_sets=())
    assert list(table["kind"].unique()) == list(roofline.KERNELS)


def test_a_problem_has_no_value_but_words(fake_child):
    def answer(kind, kernel):
        return Outcome(None, "ended by SIGILL") if kernel == "matrix product" else Outcome(2.0)

    fake_child(answer)
    table = roofline.measure()
    failed = table[table["kernel"] == "matrix product"]
    assert set(failed["kind"]) == {"float32", "bfloat16"}
    assert failed["value"].isna().all()
    assert set(failed["problem"]) == {"ended by SIGILL"}
    rest = table.drop(failed.index)
    assert rest["value"].notna().all()
    assert set(rest["problem"]) == {""}


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


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(fake_child, threads):
    asked = fake_child(lambda kind, kernel: Outcome(3.0))
    with pytest.raises(ValueError, match=f"threads={threads}: must be at least 1"):
        roofline.measure(threads)
    assert not asked


@pytest.mark.parametrize("size", [0, -1])
def test_working_sets_must_be_positive(fake_child, size):
    asked = fake_child(lambda kind, kernel: Outcome(3.0))
    with pytest.raises(ValueError, match=rf"working_sets=\(1, {size}\): every size"):
        roofline.measure(working_sets=(1, size))
    assert not asked


@pytest.mark.parametrize(("kind", "kernel"), NATIVE)
def test_operations_are_counted_from_what_comes_out(tiny, one_second, kind, kernel):
    rate = roofline.run(kind, kernel, 1, 0.25)
    [(output, budget)] = one_second
    assert budget == 0.25
    if kernel.startswith("matrix product"):
        assert tuple(output.shape) == (16, 16)
        each = 2 * 16
    else:
        assert tuple(output.shape) == (2, 8, 5, 5)
        each = 2 * 8 * 9
    assert rate == pytest.approx(output.numel() * each / 1e9)
    assert output.dtype == {"float32": torch.float32, "int8": torch.quint8}[kind]


@pytest.mark.parametrize(("kind", "kernel"), [pair for pair in ALL if pair[0] == "bfloat16"])
def test_bfloat16_is_measured_where_it_runs(tiny, one_second, kind, kernel):
    try:
        rate = roofline.run(kind, kernel, 1, 0.25)
    except RuntimeError as error:
        pytest.skip(f"not on this processor: {str(error).splitlines()[0]}")
    [(output, _)] = one_second
    assert output.dtype == torch.bfloat16
    each = 2 * 16 if kernel == "matrix product" else 2 * 8 * 9
    assert rate == pytest.approx(output.numel() * each / 1e9)


def test_operations_at_full_size(monkeypatch):
    """Without running."""
    monkeypatch.setattr(roofline, "_best_seconds", lambda call, budget: 1.0)
    assert roofline.run("float32", "matrix product", 1, 1) == 2 * 1024**3 / 1e9
    outputs = 8 * 128 * 28 * 28
    assert roofline.run("float32", "convolution", 1, 1) == 2 * outputs * 128 * 9 / 1e9


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
