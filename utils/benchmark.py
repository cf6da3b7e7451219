"""Interleaved latency, honest size, memory in fresh processes; ``python -m utils.benchmark``.

Variants are timed in turn, round after round (A B C A B C ...): what else the machine does then
falls on all of them alike, and every round gives one paired ratio.
"""

import argparse
import gc
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter as timer

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from tqdm import tqdm

from utils import data, environment, isolation, results, settings, training, variants
from utils.models import weights_hash

SAMPLE_SECONDS = 0.02  # a variant's turn is as many calls as fit in this time
LONG_SECONDS = 0.1  # for such a call it hardly matters that the caches are not its own yet
WARMUP_SECONDS = 2.0  # at most, until calls stop becoming faster
ENOUGH_CALLS = {0.9: 20, 0.99: 100}  # for a percentile: at least one or two calls lie beyond it
BUSY = 0.25  # a wider spread of the rounds, relative to their median, is not the model's own
LIMITS = {"float32": 1e-3, "int8": 0.2}  # relative error of the logits that is still the same model

Model = Callable[[Tensor], Tensor]


class BenchmarkError(RuntimeError):
    """What was to be timed does not compute what it should."""


def latency(
    models: dict[str, Model],
    inputs: Tensor,
    *,
    rounds: int = 30,
    threads: int = 1,
    seconds: float | None = None,
    reference: Tensor | None = None,
) -> pd.DataFrame:
    """Time several models on the same input, interleaved.

    Parameters
    ----------
    models : dict of str to callable
        Name to model; each is called as ``model(inputs)`` under ``inference_mode``. oneDNN's int8
        layers keep what they chose for the first shape and thread count that they met: time a
        model that has met no other.
    inputs : Tensor
        One batch, shape (N, C, H, W); made outside the timed region.
    rounds : int
        How often each model has its turn.
    threads : int
        Intra-op threads while timing; the number that was set before is restored.
    seconds : float, optional
        Stop after the round that ends later than this, but not before 20 rounds.
    reference : Tensor, optional
        The float32 logits that every model must agree with, see :func:`verify`.

    Returns
    -------
    DataFrame
        A row a call: variant (str), batch, threads, round, call (int), ms (float, milliseconds for
        the whole batch).

    Raises
    ------
    ValueError
        If there is nothing to time, or a number is not positive.
    BenchmarkError
        If a model's logits are wrong: then nothing is timed.
    """
    if not models:
        raise ValueError("no variants to time")
    for name, value in {"rounds": rounds, "threads": threads, "batch": len(inputs)}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    rows = []
    with _steady(threads):
        if reference is not None:
            checked = verify(models, inputs, reference)
            if not checked["ok"].all():
                raise BenchmarkError("; ".join(checked.loc[~checked["ok"], "problem"]))
        seconds_of = {name: _warm_up(model, inputs) for name, model in models.items()}
        start = timer()
        for number in tqdm(range(rounds), desc="timing", unit="round", leave=False):
            for name, model in models.items():
                if seconds_of[name] < LONG_SECONDS:
                    model(inputs)  # the others have emptied the caches
                for call in range(max(1, round(SAMPLE_SECONDS / seconds_of[name]))):
                    before = timer()
                    model(inputs)
                    ms = (timer() - before) * 1e3
                    rows.append((name, len(inputs), threads, number, call, ms))
            over = seconds is not None and timer() - start > seconds
            if over and number + 1 >= results.ENOUGH_ROUNDS:
                break
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Set torch's intra-op threads for a ``with`` block; what was set before comes back.

    Pack weights under the thread count they will be used with: oneDNN chooses their order by it,
    and rearranges them at every call that it does not suit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def verify(models: dict[str, Model], inputs: Tensor, reference: Tensor) -> pd.DataFrame:
    """Compare every model's logits with the float32 reference, before any is timed.

    Parameters
    ----------
    models : dict of str to callable
        Names that begin with ``int8`` may differ by rounding, all others hardly.
    inputs, reference : Tensor
        One batch, and the logits it should give.

    Returns
    -------
    DataFrame
        variant, error (norm of the difference relative to that of the reference), limit, ok,
        problem (in words, or empty).
    """
    rows = []
    with torch.inference_mode():
        for name, model in models.items():
            limit = LIMITS["int8" if name.startswith("int8") else "float32"]
            try:
                logits = model(inputs)
                error = ((logits - reference).norm() / reference.norm()).item()
                problem = f"its logits differ from float32 by {error:.2g} of their norm"
            except Exception as reason:  # a variant that cannot run is left out, and says why
                error, problem = float("nan"), f"{type(reason).__name__}: {reason}"
            ok = error <= limit
            rows.append((name, error, limit, ok, "" if ok else f"{name}: {problem}"))
    return pd.DataFrame(rows, columns=["variant", "error", "limit", "ok", "problem"])


def rounds_of(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the median call of every round: variant, batch, threads, round, ms."""
    keys = ["variant", "batch", "threads", "round"]
    return samples.groupby(keys, sort=False, as_index=False)["ms"].median()


def summarize(samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Condense the samples of :func:`latency` to a row per variant, batch and thread count.

    Parameters
    ----------
    samples : DataFrame
    baseline : str
        The variant that ``speedup`` compares with.

    Returns
    -------
    DataFrame
        variant, batch, threads; median_ms, p90_ms, p99_ms (of all calls; None where there are fewer
        than 20 or 100 calls); images_per_second; speedup (median over rounds of baseline time / own
        time), speedup_low and speedup_high (its :func:`interval`), always_faster (in every round);
        spread (of the rounds: 80 % of them lie within so wide a band, relative to their median);
        rounds (how many).

    Raises
    ------
    ValueError
        If ``baseline`` was not timed at every setting, or there are fewer than two rounds.
    """
    if baseline not in set(samples["variant"]):
        raise ValueError(f"baseline {baseline!r} was not timed; have {set(samples['variant'])}")
    if samples["round"].nunique() < 2:
        raise ValueError("one round has no spread: time at least two rounds")
    rows = []
    every = rounds_of(samples)
    for (batch, threads), group in samples.groupby(["batch", "threads"], sort=False):
        here = every[(every["batch"] == batch) & (every["threads"] == threads)]
        table = here.pivot_table(index="round", columns="variant", values="ms", sort=False)
        if baseline not in table:
            where = f"batch {batch}, {threads} threads"
            raise ValueError(f"baseline {baseline!r} was not timed at {where}")
        for variant in table.columns:
            ms = group.loc[group["variant"] == variant, "ms"]
            ratio = (table[baseline] / table[variant]).to_numpy()
            low, high = interval(ratio)
            p10, p50, p90 = table[variant].quantile([0.1, 0.5, 0.9])
            rows.append(
                {
                    "variant": variant,
                    "batch": batch,
                    "threads": threads,
                    "median_ms": ms.median(),
                    "p90_ms": _percentile(ms, 0.9),
                    "p99_ms": _percentile(ms, 0.99),
                    "images_per_second": batch / ms.median() * 1e3,
                    "speedup": float(np.median(ratio)),
                    "speedup_low": low,
                    "speedup_high": high,
                    "always_faster": bool((ratio > 1).all()),
                    "spread": (p90 - p10) / p50,
                    "rounds": len(ratio),
                }
            )
    table = pd.DataFrame(rows)
    for column in ("p90_ms", "p99_ms"):  # JSON has None, not NaN
        table[column] = table[column].astype(object).where(table[column].notna(), None)
    return table


def verdicts(samples: pd.DataFrame) -> pd.DataFrame:
    """Compare the fastest int8 variant with the naive and with the fastest float32, per setting.

    Which variants are the fastest is decided on the even rounds, and everything else is taken from
    the odd ones: a variant that was chosen because it was lucky is not lucky again.

    Returns
    -------
    DataFrame
        A row for each batch and thread count: batch, threads; int8, fastest_float (variant names);
        int8_ms, eager_ms, fastest_float_ms (medians); against_eager and against_fastest (how many
        times faster int8 is, below 1 if it is slower), each with its :func:`interval` in columns
        ending in ``_low`` and ``_high``; rounds (those it is taken from).

    Raises
    ------
    ValueError
        If a setting lacks ``float_eager`` or any int8 variant, or has fewer than four rounds.
    """
    if samples["round"].nunique() < 4:
        raise ValueError("verdicts need four rounds: two to choose by, two to compare")
    rows = []
    for (batch, threads), group in samples.groupby(["batch", "threads"], sort=False):
        choosing, rest = (group[group["round"] % 2 == half] for half in (0, 1))
        medians = choosing.groupby("variant")["ms"].median()
        of = {kind: medians[medians.index.str.startswith(kind)] for kind in ("float", "int8")}
        if of["int8"].empty:
            raise ValueError(f"no int8 variant was timed at batch {batch}, {threads} threads")
        int8, fastest = of["int8"].idxmin(), of["float"].idxmin()
        naive = summarize(rest, "float_eager").set_index("variant")
        row = {"batch": batch, "threads": threads, "int8": int8, "fastest_float": fastest}
        named = {"int8": int8, "eager": "float_eager", "fastest_float": fastest}
        row |= {f"{key}_ms": naive.loc[name, "median_ms"] for key, name in named.items()}
        best = summarize(rest, fastest).set_index("variant")
        for key, table in {"against_eager": naive, "against_fastest": best}.items():
            ends = {end: table.loc[int8, f"speedup{end}"] for end in ("", "_low", "_high")}
            row |= {f"{key}{end}": value for end, value in ends.items()}
        rows.append(row | {"rounds": rest["round"].nunique()})
    return pd.DataFrame(rows)


def headline(
    chosen: pd.DataFrame,
    folder: Path,
    images: Tensor,
    *,
    processes: int = 3,
    rounds: int = results.ENOUGH_ROUNDS,
    limit: float = 300,
) -> pd.DataFrame:
    """Repeat verdicts in fresh processes, so that their intervals cover processes as well.

    Where memory lies and what the machine does differ from process to process, and no number of
    rounds in one of them shows it.

    Parameters
    ----------
    chosen : DataFrame
        Rows of :func:`verdicts`: batch, threads, int8, fastest_float.
    folder : Path
        That :func:`utils.variants.export` filled.
    images : Tensor
        As for :func:`sweep`.
    processes, rounds : int
        Every row is timed for so many rounds in each of so many processes.
    limit : float
        Seconds for each process.

    Returns
    -------
    DataFrame
        Columns as :func:`verdicts`, and processes. A ratio is the mean of the processes' medians;
        its ends are the :func:`interval` of processes and rounds.

    Raises
    ------
    BenchmarkError
        If a process fails; says why.
    """
    asked = chosen[["batch", "threads", "int8", "fastest_float"]].to_dict(orient="records")
    calls = [(asked, str(folder), images.numpy(), rounds)] * processes
    outcomes = isolation.call_each(_timed_again, calls, seconds=limit, fresh=True)
    if problems := [outcome.problem for outcome in outcomes if outcome.problem]:
        raise BenchmarkError(f"a fresh process could not time the headline: {problems[0]}")
    rows = []
    for place, setting in enumerate(asked):
        tables = [outcome.value[place] for outcome in outcomes]
        row = dict(setting)
        named = {"int8": row["int8"], "eager": "float_eager", "fastest_float": row["fastest_float"]}
        times = {key: np.stack([table[name] for table in tables]) for key, name in named.items()}
        row |= {f"{key}_ms": float(np.median(ms)) for key, ms in times.items()}
        for key, slow in {"against_eager": "eager", "against_fastest": "fastest_float"}.items():
            ratios = times[slow] / times["int8"]
            row[key] = float(np.median(ratios, axis=1).mean())
            row[f"{key}_low"], row[f"{key}_high"] = interval(ratios)
        rows.append(row | {"processes": processes, "rounds": rounds})
    return pd.DataFrame(rows)


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a median, or the range of too few rounds.

    Rounds are resampled, and processes before them if there are several (a bootstrap of two stages,
    Davison and Hinkley: Bootstrap Methods and their Application, 1997, section 3.8). With three or
    five processes it is rather too narrow: so few hardly show how far processes differ.

    Parameters
    ----------
    ratios : ndarray
        Shape (rounds,) or (processes, rounds).

    Returns
    -------
    float, float
        Of the mean of the processes' medians; with fewer than 20 rounds the lowest and the highest
        ratio, see :func:`interval_name`.
    """
    ratios = np.atleast_2d(ratios)
    processes, rounds = ratios.shape
    if rounds < results.ENOUGH_ROUNDS:
        return float(ratios.min()), float(ratios.max())
    draw = np.random.default_rng(0)
    process = draw.integers(processes, size=(2000, processes, 1))
    drawn = ratios[process, draw.integers(rounds, size=(2000, processes, rounds))]
    low, high = np.quantile(np.median(drawn, axis=2).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired(samples: pd.DataFrame, slow: str, fast: str) -> tuple[float, float, float]:
    """Return how many times faster one variant is than another, round by round.

    Parameters
    ----------
    samples : DataFrame
        Of :func:`latency`, at one batch and thread count.
    slow, fast : str
        Variants.

    Returns
    -------
    float, float, float
        The median ratio of their times, and its :func:`interval`.
    """
    ms = rounds_of(samples).pivot_table(index="round", columns="variant", values="ms")
    ratio = (ms[slow] / ms[fast]).to_numpy()
    return float(np.median(ratio)), *interval(ratio)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`verdicts` or :func:`headline` with each ratio and its ends in one column."""
    shown = table[["threads", "batch", "int8", "fastest_float"]].copy()
    for key in ("against_eager", "against_fastest"):
        ends = table[[key, f"{key}_low", f"{key}_high"]].itertuples(index=False)
        shown[key] = [f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in ends]
    return shown.assign(brackets=[interval_name(rounds) for rounds in table["rounds"]])


def interval_name(rounds: int) -> str:
    """Return what :func:`interval` is called with so many rounds."""
    return "95 % interval" if rounds >= results.ENOUGH_ROUNDS else f"range of {rounds} rounds"


def busy(summary: pd.DataFrame) -> str:
    """Return a warning if the rounds spread so widely that the machine had other work; else ""."""
    wide = summary[summary["spread"] > BUSY]
    if wide.empty:
        return ""
    worst = wide.loc[wide["spread"].idxmax()]
    return (
        f"The machine was busy: in {len(wide)} of {len(summary)} rows, 80 % of the rounds spread "
        f"over more than {BUSY:.0%} of their median (most: {worst.variant}, batch {worst.batch}, "
        f"{worst.threads} threads, {worst.spread:.0%}). Ratios may lie outside their intervals "
        f"when this is repeated; close other programs and run again."
    )


@dataclass(frozen=True)
class Sweep:
    """What :func:`sweep` found.

    Attributes
    ----------
    samples : DataFrame
        As :func:`latency` returns them.
    left_out : DataFrame
        variant, batch, threads, problem: what was not timed, and why.
    flushes_denormals : bool
        Whether denormal floats counted as zero meanwhile.
    """

    samples: pd.DataFrame
    left_out: pd.DataFrame
    flushes_denormals: bool


def sweep(
    names: list[str],
    folder: Path,
    images: Tensor,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    *,
    rounds: int = 30,
    seconds: float | None = None,
) -> Sweep:
    """Time variants over batch sizes and thread counts; leave out, with the reason, what fails.

    Every pair gets models of its own, since an int8 layer of oneDNN stays with what it chose for
    the first input and thread count that it met.

    Parameters
    ----------
    names : list of str
        Keys of :data:`utils.variants.VARIANTS`.
    folder : Path
        That :func:`utils.variants.export` filled.
    images : Tensor
        float32, normalized, shape (N, C, H, W), N no smaller than the largest batch.
    batches, threads : tuple of int
        Every pair is timed.
    rounds, seconds
        Of each pair, as for :func:`latency`.

    Raises
    ------
    ValueError
        If a batch is larger than ``images``.
    BenchmarkError
        If no variant is left.
    """
    if max(batches) > len(images):
        raise ValueError(f"a batch of {max(batches)} needs as many images; there are {len(images)}")
    samples, left_out = [], []
    pairs = [(batch, count) for count in threads for batch in batches]
    for batch, count in tqdm(pairs, desc="settings", leave=False):
        inputs = images[:batch].clone()
        reference = _eager_logits(folder, inputs)
        models, problems = {}, {}
        for name in names:
            try:
                with fixed_threads(count):
                    models[name] = variants.load(name, folder, tuple(inputs.shape), count)
            except variants.VariantError as error:
                problems[name] = str(error)
        with _steady(count):
            checked = verify(models, inputs, reference)
        for row in checked[~checked["ok"]].itertuples():
            problems[row.variant] = row.problem
            del models[row.variant]
        left_out += [(name, batch, count, problem) for name, problem in problems.items()]
        if not models:
            raise BenchmarkError("no variant can be timed: " + "; ".join(problems.values()))
        samples.append(latency(models, inputs, rounds=rounds, threads=count, seconds=seconds))
    columns = ["variant", "batch", "threads", "problem"]
    return Sweep(
        pd.concat(samples, ignore_index=True),
        pd.DataFrame(left_out, columns=columns),
        flushes_denormals(),
    )


def layer_work(fused: nn.Module, images: Tensor) -> pd.DataFrame:
    """Count what every convolution and linear layer of a fused float model has to do.

    Products with padding are not needed, and weights that only ever meet padding need not be read:
    some kernels leave both out, so a limit that holds for all must not count them.

    Returns
    -------
    DataFrame
        layer; operations (two per multiply-accumulate that is needed) and weights (that meet data);
        all_operations and all_weights (with padding); activations (inputs plus outputs), all for
        the whole batch.
    """
    rows = []

    def count(name: str, module: nn.Module):
        def hook(_, inputs: tuple[Tensor], output: Tensor) -> None:
            pairs = module.weight.shape[0] * module.weight.shape[1]
            met = taps(module, inputs[0].shape)  # taps x positions of the output
            needed = 2 * len(output) * pairs * int(met.sum())
            every = 2 * len(output) * pairs * met.numel()
            weights = pairs * int(met.any(1).sum())
            numbers = inputs[0].numel() + output.numel()
            rows.append((name, needed, weights, every, module.weight.numel(), numbers))

        return hook

    hooks = []
    for name, module in fused.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            place = name.removesuffix(".0") if _inside_fused(fused, name) else name
            hooks.append(module.register_forward_hook(count(place, module)))
    try:
        with torch.inference_mode():
            fused(images)
    finally:
        for hook in hooks:
            hook.remove()
    columns = ["layer", "operations", "weights", "all_operations", "all_weights", "activations"]
    return pd.DataFrame(rows, columns=columns)


def taps(module: nn.Module, shape: torch.Size) -> Tensor:
    """Return whether each tap of a layer's kernel meets data at each output position.

    Parameters
    ----------
    module : nn.Conv2d or nn.Linear
    shape : torch.Size
        Of its input, (N, C, H, W).

    Returns
    -------
    Tensor
        bool, shape (taps, positions).
    """
    if isinstance(module, nn.Linear):
        return torch.ones(1, 1, dtype=torch.bool)
    c = module
    where = {"dilation": c.dilation, "padding": c.padding, "stride": c.stride}
    return nn.functional.unfold(torch.ones(1, 1, *shape[2:]), c.kernel_size, **where)[0] > 0


def layer_times(
    models: dict[str, nn.Module],
    layers: list[str],
    images: Tensor,
    *,
    rounds: int = 30,
    threads: int = 1,
) -> pd.DataFrame:
    """Time layers where they stand, inside the running network, models in turn.

    A layer timed alone finds its weights in the cache; inside the network it does not.

    Returns
    -------
    DataFrame
        layer, then a column for each model: median milliseconds.
    """
    took = {(name, layer): [] for name in models for layer in layers}
    started = {}

    def before(_module, _inputs) -> None:
        started["at"] = timer()

    hooks = []
    for name, model in models.items():
        for layer in layers:
            module, into = model.get_submodule(layer), took[name, layer]
            hooks.append(module.register_forward_pre_hook(before))
            end = lambda *_, into=into: into.append(timer() - started["at"])  # noqa: E731
            hooks.append(module.register_forward_hook(end))
    try:
        with _steady(threads):
            for model in models.values():
                _warm_up(model, images)
            for times in took.values():
                times.clear()
            for _ in tqdm(range(rounds), desc="layers", unit="round", leave=False):
                for model in models.values():
                    model(images)
    finally:
        for hook in hooks:
            hook.remove()
    columns = {
        name: [1e3 * float(np.median(took[name, layer])) for layer in layers] for name in models
    }
    return pd.DataFrame({"layer": layers, **columns})


def memory(
    names: list[str], folder: Path, shape: tuple[int, ...], threads: int = 1, *, limit: float = 120
) -> pd.DataFrame:
    """Load and run each variant in a fresh process, and see what that takes.

    Parameters
    ----------
    names : list of str
    folder : Path
        That :func:`utils.variants.export` filled.
    shape : tuple of int
        Of the input.
    threads : int
    limit : float
        Seconds for each variant.

    Returns
    -------
    DataFrame
        variant, file_mb, before_mb (resident set with the libraries loaded and no model), after_mb
        (once it has run), peak_mb (highest resident set), problem. Megabytes are 1e6 bytes.
    """
    calls = [(name, str(folder), shape, threads) for name in names]
    # glibc keeps what is freed in case it is wanted again; here it is to go back at once.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    outcomes = isolation.call_each(_footprint, calls, seconds=limit, fresh=True, environ=at_once)
    rows = []
    for name, outcome in zip(names, outcomes, strict=True):
        file = folder / variants.VARIANTS[name].file
        size = file.stat().st_size / 1e6 if file.exists() else np.nan
        values = outcome.value or dict.fromkeys(("before_mb", "after_mb", "peak_mb"), np.nan)
        rows.append({"variant": name, "file_mb": size, **values, "problem": outcome.problem or ""})
    return pd.DataFrame(rows)


def denormals(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Count the denormal floats in the weights and activations of a float model.

    Denormal is what is not zero but closer to zero than 2**-126 (IEEE 754-2019, section 3.4);
    some processors take many times longer over it.

    Returns
    -------
    DataFrame
        where (``weights``, ``activations``), values, denormal (counts).
    """
    seen = {"weights": [0, 0], "activations": [0, 0]}

    def count(where: str, values: Tensor) -> None:
        # By the bits, since a processor that flushes denormals sees zeros when it compares.
        bits = values.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
        seen[where][0] += bits.numel()
        seen[where][1] += int(((bits > 0) & (bits < 0x00800000)).sum())

    hooks = [
        module.register_forward_hook(lambda _, __, output: count("activations", output))
        for module in model.modules()
        if not list(module.children())
    ]
    try:
        for values in model.state_dict().values():
            if values.dtype == torch.float32:
                count("weights", values)
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = [(where, values, found) for where, (values, found) in seen.items()]
    return pd.DataFrame(rows, columns=["where", "values", "denormal"])


def flushes_denormals() -> bool:
    """Whether this thread takes denormal floats for zero (``torch.set_flush_denormal``)."""
    return (torch.full((1,), 2.0**-126) * 0.5 * 2.0**100).item() == 0


def file_bytes(model: nn.Module) -> int:
    """Return the size of the file that ``torch.save(model.state_dict())`` writes."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def content_bytes(model: nn.Module) -> pd.DataFrame:
    """Take the size of a model apart: what is stored, in which dtype, in how many bytes.

    Returns
    -------
    DataFrame
        Columns part (weights, biases, batch norm, scales and zero points), dtype, values, bytes;
        one row for each combination that occurs.
    """
    rows = []
    for name, value in model.state_dict().items():
        if isinstance(value, tuple):  # the packed weight and bias of an int8 linear layer
            rows += _parts(name + ".weight", value[0]) + _parts(name + ".bias", value[1])
        elif isinstance(value, Tensor):
            rows += _parts(name, value)
    table = pd.DataFrame(rows, columns=["part", "dtype", "values", "bytes"])
    return table.groupby(["part", "dtype"], as_index=False, sort=False).sum()


def _parts(name: str, value: Tensor) -> list[tuple[str, str, int, int]]:
    last = name.split(".")[-1]
    if last in ("scale", "zero_point"):
        part = "scales and zero points"
    elif last == "bias" and ".bn" not in f".{name}" and ".downsample.1" not in f".{name}":
        part = "biases"
    elif last == "weight" and value.ndim > 1:
        part = "weights"
    else:
        part = "batch norm"
    size = value.numel()
    rows = [(part, str(value.dtype).removeprefix("torch."), size, size * value.element_size())]
    if value.is_quantized and value.qscheme() in (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
    ):
        for numbers in (value.q_per_channel_scales(), value.q_per_channel_zero_points()):
            dtype = str(numbers.dtype).removeprefix("torch.")
            size = numbers.numel()
            rows.append(("scales and zero points", dtype, size, size * numbers.element_size()))
    return rows


def _percentile(ms: pd.Series, share: float) -> float:
    return ms.quantile(share) if len(ms) >= ENOUGH_CALLS[share] else np.nan


@contextmanager
def _steady(threads: int) -> Iterator[None]:
    """Hold the thread count, inference mode, and no garbage collection in between."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with fixed_threads(threads), torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()


def _warm_up(model: Model, inputs: Tensor) -> float:
    """Call until it gets no faster; return the seconds of a call then."""
    best, end = float("inf"), timer() + WARMUP_SECONDS
    while True:
        took = []
        while len(took) < 3 and sum(took) < SAMPLE_SECONDS:
            before = timer()
            model(inputs)
            took.append(timer() - before)
        if min(took) > 0.97 * best or timer() > end:
            return min(best, *took)
        best = min(took)


def _eager_logits(folder: Path, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return variants.load("float_eager", folder, tuple(inputs.shape))(inputs)


def _inside_fused(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), ConvReLU2d)


def _timed_again(
    asked: list[dict], folder: str, images: np.ndarray, rounds: int
) -> list[dict[str, np.ndarray]]:
    """Time settings in this process; of each, return the median of every round by variant."""
    tables = []
    for row in asked:
        names = list(dict.fromkeys(["float_eager", row["fastest_float"], row["int8"]]))
        where = (names, Path(folder), torch.from_numpy(images), (row["batch"],), (row["threads"],))
        found = sweep(*where, rounds=rounds)
        if not found.left_out.empty:
            raise BenchmarkError("; ".join(found.left_out["problem"]))
        by_variant = rounds_of(found.samples).groupby("variant")["ms"]
        tables.append({name: ms.to_numpy() for name, ms in by_variant})
    return tables


def _footprint(name: str, folder: str, shape: tuple[int, ...], threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    model = variants.load(name, Path(folder), shape, threads)
    images = torch.zeros(shape)
    with torch.inference_mode():
        for _ in range(3):
            model(images)
    after = psutil.Process().memory_info().rss
    found = {"before_mb": before, "after_mb": after, "peak_mb": max(after, _peak_rss())}
    return {key: value / 1e6 for key, value in found.items()}


def _peak_rss() -> int:
    """Return the highest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count what the parent held when it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
        return int(text)

    def threads(text: str) -> int:
        if positive(text) > (os.cpu_count() or 1):
            raise argparse.ArgumentTypeError(f"{text}: this machine has {os.cpu_count()} cores")
        return int(text)

    def out(text: str) -> Path:
        path = Path(text)
        if path.suffix != ".json" or not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}: needs a file .json in an existing folder")
        return path

    parser = argparse.ArgumentParser(
        prog="python -m utils.benchmark",
        description="Time the variants of the course's ResNet-18, interleaved, on this machine.",
    )
    known = list(variants.VARIANTS)
    parser.add_argument("--variants", nargs="+", metavar="NAME", choices=known, help=f"{known}")
    parser.add_argument("--batch", nargs="+", type=positive, default=[1, 64], help="images a call")
    parser.add_argument("--threads", nargs="+", type=threads, default=[1], help="default: 1")
    parser.add_argument("--rounds", type=positive, default=30, help="of each setting, at least 2")
    parser.add_argument("--baseline", metavar="NAME", choices=known, default="float_eager")
    parser.add_argument("--out", type=out, metavar="FILE.json", help="also write the result here")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    names = list(dict.fromkeys(chosen.variants or variants.names()))
    if chosen.baseline not in names:
        parser.error(f"the baseline {chosen.baseline} is not among the variants {names}")
    if chosen.rounds < 2:
        parser.error("--rounds 1 has no spread: ask for 2 or more")
    config = settings.load()
    dataset = data.load(config)
    if max(chosen.batch) > (most := len(dataset.test_images)):
        parser.error(f"--batch {max(chosen.batch)}: there are {most} test images")
    model, _ = training.load_or_train(config, dataset)
    images = dataset.normalizer()(dataset.test_images[: max(chosen.batch)])
    with tempfile.TemporaryDirectory() as folder:
        calibration = data.calibration_images(dataset, config.calibration_images)
        variants.export(Path(folder), model, calibration)
        found = sweep(
            names, Path(folder), images, chosen.batch, chosen.threads, rounds=chosen.rounds
        )
    for row in found.left_out.itertuples():
        print(f"left out at batch {row.batch}, {row.threads} threads: {row.problem}")
    try:
        table = summarize(found.samples, chosen.baseline)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(table.round(2).to_string(index=False))
    print(busy(table) or "The rounds agree: the machine was quiet.")
    if chosen.out:
        record = {
            "summary": table,
            "left_out": found.left_out,
            "baseline": chosen.baseline,
            "busy": busy(table),
            "flushes_denormals": found.flushes_denormals,
            "samples": found.samples.round(4),
            "environment": environment.describe(
                config, dataset.source, {"float32": weights_hash(model)}
            ),
        }
        results.save(chosen.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
