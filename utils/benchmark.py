"""Interleaved latency and honest size.

Variants are timed in turn, round after round (A B C A B C ...): what else the machine does then
falls on all of them alike, and every round gives one paired ratio.
"""

import io
import logging
import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

# The timer's module looks for a CUDA toolkit when imported, and says on stderr what it misses.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402

SAMPLE_SECONDS = 0.02  # a sample averages as many runs as fit in this time


def latency(
    variants: dict[str, Callable[[Tensor], Tensor]],
    inputs: Tensor,
    *,
    rounds: int = 30,
    threads: int = 1,
    warmup: int = 3,
) -> pd.DataFrame:
    """Time several models on the same input, interleaved.

    Parameters
    ----------
    variants : dict of str to callable
        Name to model; each is called as ``model(inputs)`` under ``inference_mode``.
    inputs : Tensor
        One batch, shape (N, C, H, W); made outside the timed region.
    rounds : int
        Samples of each variant.
    threads : int
        Intra-op threads while timing; torch's timer restores the number that was set before.
    warmup : int
        Untimed runs of each variant first.

    Returns
    -------
    DataFrame
        A row a sample: variant (str), batch, threads, round (int), ms (float, milliseconds for
        one call on the whole batch).

    Raises
    ------
    ValueError
        If there is nothing to time, or a number is not positive.
    """
    if not variants:
        raise ValueError("no variants to time")
    for name, value in {"rounds": rounds, "threads": threads, "batch": len(inputs)}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    timers, runs = {}, {}
    with torch.inference_mode():
        for name, model in variants.items():
            timer = Timer("model(x)", globals={"model": model, "x": inputs}, num_threads=threads)
            timer.timeit(warmup)
            once = timer.timeit(1).mean
            timers[name], runs[name] = timer, max(1, math.ceil(SAMPLE_SECONDS / once))
        rows = []
        for number in tqdm(range(rounds), desc="timing", unit="round", leave=False):
            for name, timer in timers.items():
                ms = timer.timeit(runs[name]).mean * 1e3
                rows.append((name, len(inputs), threads, number, ms))
    return pd.DataFrame(rows, columns=["variant", "batch", "threads", "round", "ms"])


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
        variant, batch, threads, median_ms, p10_ms, p90_ms, images_per_second, speedup (median over
        rounds of baseline time / own time), always_faster (in every round).

    Raises
    ------
    ValueError
        If ``baseline`` was not timed.
    """
    if baseline not in set(samples["variant"]):
        raise ValueError(f"baseline {baseline!r} was not timed; have {set(samples['variant'])}")
    rows = []
    for (batch, threads), group in samples.groupby(["batch", "threads"], sort=False):
        table = group.pivot_table(index="round", columns="variant", values="ms", sort=False)
        for variant in table.columns:
            ms, ratio = table[variant], table[baseline] / table[variant]
            rows.append(
                {
                    "variant": variant,
                    "batch": batch,
                    "threads": threads,
                    "median_ms": ms.median(),
                    "p10_ms": ms.quantile(0.1),
                    "p90_ms": ms.quantile(0.9),
                    "images_per_second": batch / ms.median() * 1e3,
                    "speedup": ratio.median(),
                    "always_faster": bool((ratio > 1).all()),
                }
            )
    return pd.DataFrame(rows)


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
