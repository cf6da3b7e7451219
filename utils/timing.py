"""Time variants in turn, in pairs, with intervals.

Variants are timed round after round (A B C A B C ...): what else the machine does then falls on
all of them alike, and every round gives one paired ratio.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter as timer

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from utils.catalog import ENOUGH_ROUNDS

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
    """Time several models on the same input, interleaved, on so many threads.

    Returns one row per call: variant (str), batch, threads, round, call (int), ms (float,
    milliseconds for the whole batch). Raises ValueError if there is nothing to time or a number is
    not positive, BenchmarkError if a model's logits are wrong: then nothing is timed.

    Parameters
    ----------
    models : dict of str to callable
        Each is called as ``model(inputs)`` under ``inference_mode``. oneDNN's int8 layers keep what
        they chose for the first shape and thread count: time a model that has met no other.
    inputs : Tensor
        One batch, shape (N, C, H, W); made outside the timed region.
    seconds : float, optional
        Stop after the round that ends later than this, but not before 20 rounds.
    reference : Tensor, optional
        The float32 logits that every model must agree with, see :func:`verify`.
    """
    if not models:
        raise ValueError("no variants to time")
    for name, value in {"rounds": rounds, "threads": threads, "batch": len(inputs)}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    rows = []
    with steady(threads):
        if reference is not None:
            problems = verify(models, inputs, reference)["problem"]
            if any(problems):
                raise BenchmarkError("; ".join(filter(None, problems)))
        took = {name: warm_up(model, inputs) for name, model in models.items()}
        start = timer()
        for number in tqdm(range(rounds), desc="timing", unit="round", leave=False):
            for name, model in models.items():
                if took[name] < LONG_SECONDS:
                    model(inputs)  # the others have emptied the caches
                for call in range(max(1, round(SAMPLE_SECONDS / took[name]))):
                    ms = 1e3 * _seconds(model, inputs)
                    rows.append((name, len(inputs), threads, number, call, ms))
            over = seconds is not None and timer() - start > seconds
            if over and number + 1 >= ENOUGH_ROUNDS:
                break
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "call", "ms"])


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Set torch's intra-op threads for a ``with`` block; what was set before comes back.

    Pack weights under the thread count they will be used with: oneDNN chooses their order by it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def verify(models: dict[str, Model], inputs: Tensor, reference: Tensor) -> pd.DataFrame:
    """Compare every model's logits with the float32 reference, before any is timed.

    Names that begin with ``int8`` may differ by rounding, all others hardly. Returns variant, error
    (norm of the difference relative to that of the reference), limit, ok, problem (or empty).
    """
    rows = []
    with torch.inference_mode():
        for name, model in models.items():
            limit = LIMITS["int8" if name.startswith("int8") else "float32"]
            try:
                error = ((model(inputs) - reference).norm() / reference.norm()).item()
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
    """Condense the samples of :func:`latency` to one row per variant, batch and thread count.

    Returns variant, batch, threads; median_ms, p90_ms, p99_ms (of all calls; None of fewer than 20
    or 100 calls); images_per_second; speedup (median over rounds of the baseline's time / own
    time), speedup_low, speedup_high (its :func:`interval`), always_faster (in every round); spread
    (of the middle 80 % of the rounds, relative to their median); rounds (how many). Raises
    ValueError if ``baseline`` was not timed at every setting, or there are fewer than two rounds.
    """
    if samples["round"].nunique() < 2:
        raise ValueError("one round has no spread: time at least two rounds")
    rows = []
    for (batch, threads), group in samples.groupby(["batch", "threads"], sort=False):
        table = _by_round(group, baseline)
        for variant, own in table.items():
            ms = group.loc[group["variant"] == variant, "ms"]
            p10, p50, p90 = own.quantile([0.1, 0.5, 0.9])
            ratio, low, high = _median(table[baseline] / own)
            row = {"variant": variant, "batch": batch, "threads": threads, "median_ms": ms.median()}
            for share, calls in ENOUGH_CALLS.items():
                row[f"p{100 * share:.0f}_ms"] = ms.quantile(share) if len(ms) >= calls else np.nan
            row |= {"images_per_second": batch / ms.median() * 1e3, "speedup": ratio}
            row |= {"speedup_low": low, "speedup_high": high}
            row["always_faster"] = bool((table[baseline] > own).all())
            rows.append(row | {"spread": (p90 - p10) / p50, "rounds": len(own)})
    table = pd.DataFrame(rows)
    few = ["p90_ms", "p99_ms"]  # JSON has None, not NaN
    table[few] = table[few].astype(object).where(table[few].notna(), None)
    return table


def verdicts(samples: pd.DataFrame) -> pd.DataFrame:
    """Compare the fastest int8 variant with the naive and with the fastest float32, per setting.

    Which variants are the fastest is decided on the even rounds, and everything else is taken from
    the odd ones: a variant that was chosen because it was lucky is not lucky again.

    Returns one row per batch and thread count: batch, threads; int8, fastest_float (variant names);
    int8_ms, eager_ms, fastest_float_ms (medians); against_eager, against_fastest (how many times
    faster int8 is), each with its :func:`interval` (``_low``, ``_high``); rounds. Raises ValueError
    if a setting lacks ``float_eager`` or int8, or has fewer than four rounds.
    """
    if samples["round"].nunique() < 4:
        raise ValueError("verdicts need four rounds: two to choose by, two to compare")
    rows = []
    for (batch, threads), group in samples.groupby(["batch", "threads"], sort=False):
        choosing, rest = (group[group["round"] % 2 == half] for half in (0, 1))
        chosen, medians = (part.groupby("variant")["ms"].median() for part in (choosing, rest))
        if chosen.filter(like="int8").empty:
            raise ValueError(f"no int8 variant was timed at batch {batch}, {threads} threads")
        int8, fastest = (chosen.filter(like=kind).idxmin() for kind in ("int8", "float"))
        table = _by_round(rest, "float_eager")
        row = {"batch": batch, "threads": threads, "int8": int8, "fastest_float": fastest}
        row |= {"int8_ms": medians[int8], "eager_ms": medians["float_eager"]}
        row["fastest_float_ms"] = medians[fastest]
        for key, slow in {"against_eager": "float_eager", "against_fastest": fastest}.items():
            ends = _median(table[slow] / table[int8])
            row |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
        rows.append(row | {"rounds": len(table)})
    return pd.DataFrame(rows)


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a median, or the range of fewer than 20 rounds.

    Of shape (processes, rounds), processes are resampled before rounds, for the mean of their
    medians (Davison and Hinkley: Bootstrap Methods and their Application, 1997, section 3.8); with
    three or five processes it is rather too narrow.
    """
    ratios = np.atleast_2d(ratios)
    processes, rounds = ratios.shape
    if rounds < ENOUGH_ROUNDS:
        return float(ratios.min()), float(ratios.max())
    draw = np.random.default_rng(0)
    process = draw.integers(processes, size=(2000, processes, 1))
    drawn = ratios[process, draw.integers(rounds, size=(2000, processes, rounds))]
    low, high = np.quantile(np.median(drawn, axis=2).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired(samples: pd.DataFrame, slow: str, fast: str) -> tuple[float, float, float]:
    """Return how many times faster a variant is at one setting, over rounds; and the interval."""
    table = _by_round(samples, slow)
    return _median(table[slow] / table[fast])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`verdicts` or a headline with each ratio and its ends in one column."""
    shown = table[["threads", "batch", "int8", "fastest_float"]].copy()
    for key in ("against_eager", "against_fastest"):
        ends = table[[key, f"{key}_low", f"{key}_high"]].itertuples(index=False)
        shown[key] = [f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in ends]
    return shown.assign(brackets=[interval_name(rounds) for rounds in table["rounds"]])


def interval_name(rounds: int) -> str:
    """Return what :func:`interval` is called with so many rounds."""
    return "95 % interval" if rounds >= ENOUGH_ROUNDS else f"range of {rounds} rounds"


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


@contextmanager
def steady(threads: int) -> Iterator[None]:
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


def warm_up(model: Model, inputs: Tensor) -> float:
    """Call until it gets no faster; return the seconds of a call then."""
    best, end = float("inf"), timer() + WARMUP_SECONDS
    while True:
        took = []
        while len(took) < 3 and sum(took) < SAMPLE_SECONDS:
            took.append(_seconds(model, inputs))
        if min(took) > 0.97 * best or timer() > end:
            return min(best, *took)
        best = min(took)


def _seconds(model: Model, inputs: Tensor) -> float:
    before = timer()
    model(inputs)
    return timer() - before


def _by_round(samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the milliseconds of each round, one column per variant."""
    table = rounds_of(samples).pivot_table("ms", "round", "variant", sort=False)
    if baseline not in table:
        where = f"batch {samples['batch'].iloc[0]}, {samples['threads'].iloc[0]} threads"
        have = ", ".join(table.columns)
        raise ValueError(f"baseline {baseline!r} was not timed at {where}; have {have}")
    return table


def _median(ratios: pd.Series) -> tuple[float, float, float]:
    return float(ratios.median()), *interval(ratios.to_numpy())
