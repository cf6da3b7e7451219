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
    with steady(threads):
        if reference is not None:
            checked = verify(models, inputs, reference)
            if not checked["ok"].all():
                raise BenchmarkError("; ".join(checked.loc[~checked["ok"], "problem"]))
        seconds_of = {name: warm_up(model, inputs) for name, model in models.items()}
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
            if over and number + 1 >= ENOUGH_ROUNDS:
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
    if rounds < ENOUGH_ROUNDS:
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


def _percentile(ms: pd.Series, share: float) -> float:
    return ms.quantile(share) if len(ms) >= ENOUGH_CALLS[share] else np.nan


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
            before = timer()
            model(inputs)
            took.append(timer() - before)
        if min(took) > 0.97 * best or timer() > end:
            return min(best, *took)
        best = min(took)
