"""Time every variant over batches and threads; ``python -m utils.lab.benchmark``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from utils import data, environment, results, settings, training
from utils.catalog import ENOUGH_ROUNDS, VARIANTS
from utils.lab import isolation, runtimes
from utils.models import weights_hash
from utils.timing import (
    BenchmarkError,
    busy,
    fixed_threads,
    interval,
    latency,
    rounds_of,
    steady,
    summarize,
    verify,
)


def headline(
    chosen: pd.DataFrame,
    folder: Path,
    images: Tensor,
    *,
    processes: int = 3,
    rounds: int = ENOUGH_ROUNDS,
    limit: float = 300,
) -> pd.DataFrame:
    """Repeat verdicts in fresh processes, so that their intervals cover processes as well.

    Where memory lies and what the machine does differ from process to process, and no number of
    rounds in one of them shows it. ``chosen`` are rows of :func:`utils.timing.verdicts`; ``folder``
    and ``images`` are as for :func:`sweep`; ``limit`` is in seconds, for each process. A
    :class:`BenchmarkError` says why one failed.

    Returns
    -------
    DataFrame
        Columns as :func:`utils.timing.verdicts`, and processes. A ratio is the mean of the
        processes' medians; its ends are the :func:`interval` of processes and rounds.
    """
    asked = chosen[["batch", "threads", "int8", "fastest_float"]].to_dict(orient="records")
    calls = [(asked, str(folder), images.numpy(), rounds)] * processes
    outcomes = isolation.call_each(_timed_again, calls, seconds=limit, fresh=True)
    if problems := [outcome.problem for outcome in outcomes if outcome.problem]:
        raise BenchmarkError(f"a fresh process could not time the headline: {problems[0]}")
    rows = []
    for row, *tables in zip(asked, *(outcome.value for outcome in outcomes), strict=True):
        row = dict(row)
        named = {"int8": row["int8"], "eager": "float_eager", "fastest_float": row["fastest_float"]}
        times = {key: np.stack([table[name] for table in tables]) for key, name in named.items()}
        row |= {f"{key}_ms": float(np.median(ms)) for key, ms in times.items()}
        for key, slow in {"against_eager": "eager", "against_fastest": "fastest_float"}.items():
            ratios = times[slow] / times["int8"]
            row[key] = float(np.median(ratios, axis=1).mean())
            row[f"{key}_low"], row[f"{key}_high"] = interval(ratios)
        rows.append(row | {"processes": processes, "rounds": rounds})
    return pd.DataFrame(rows)


class Sweep(NamedTuple):
    """What :func:`sweep` timed and what it left out."""

    samples: pd.DataFrame  # as latency() returns them
    left_out: pd.DataFrame  # variant, batch, threads, problem (why)


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

    ``names`` are keys of :data:`utils.catalog.VARIANTS`; a BenchmarkError says if none of them
    works. :func:`utils.lab.runtimes.export` has filled the folder. ``images`` are float32,
    normalized, (N, C, H, W); a ValueError says if the largest batch needs more. ``rounds`` and
    ``seconds`` limit each pair, as for :func:`latency`.
    """
    if max(batches) > len(images):
        raise ValueError(f"a batch of {max(batches)} needs as many images; there are {len(images)}")
    samples, left_out = [], []
    pairs = [(batch, count) for count in threads for batch in batches]
    for batch, count in tqdm(pairs, desc="settings", leave=False):
        inputs = images[:batch].clone()
        models, problems = {}, {}
        for name in names:
            try:
                with fixed_threads(count):
                    models[name] = runtimes.load(name, folder, tuple(inputs.shape), count)
            except runtimes.VariantError as error:
                problems[name] = str(error)
        with steady(count):
            checked = verify(models, inputs, _eager_logits(folder, inputs))
        for row in checked[~checked["ok"]].itertuples():
            problems[row.variant] = row.problem
            del models[row.variant]
        left_out += [(name, batch, count, problem) for name, problem in problems.items()]
        if not models:
            raise BenchmarkError("no variant can be timed: " + "; ".join(problems.values()))
        samples.append(latency(models, inputs, rounds=rounds, threads=count, seconds=seconds))
    columns = ["variant", "batch", "threads", "problem"]
    return Sweep(pd.concat(samples, ignore_index=True), pd.DataFrame(left_out, columns=columns))


def _eager_logits(folder: Path, inputs: Tensor) -> Tensor:
    return runtimes.load("float_eager", folder, tuple(inputs.shape))(inputs)


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.lab.benchmark",
        description="Time the variants of the course's ResNet-18, interleaved, on this machine.",
    )
    known, cores = list(VARIANTS), os.cpu_count() or 1
    parser.add_argument("--variants", nargs="+", metavar="NAME", choices=known, help=f"{known}")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64], help="images per call")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="default: 1")
    parser.add_argument("--rounds", type=int, default=30, help="of each setting, at least 2")
    parser.add_argument("--baseline", metavar="NAME", choices=known, default="float_eager")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the result here")
    given = parser.parse_args(arguments)
    names, out = list(dict.fromkeys(given.variants or runtimes.names())), given.out
    config = settings.load()
    for fine, problem in (
        (min(given.batch) > 0, f"--batch {min(given.batch)} is not 1 or more"),
        (min(given.threads) > 0, f"--threads {min(given.threads)} is not 1 or more"),
        (max(given.threads) <= cores, f"--threads: this machine has {cores} cores"),
        (given.rounds > 1, f"--rounds {given.rounds} has no spread: ask for 2 or more"),
        (given.baseline in names, f"the baseline {given.baseline} is not among {names}"),
        (
            out is None or (out.suffix == ".json" and out.parent.is_dir()),
            f"--out {out}: needs a file .json in an existing folder",
        ),
    ):
        if not fine:
            parser.error(problem)
    dataset = data.load(config)
    if max(given.batch) > (most := len(dataset.test_images)):
        parser.error(f"--batch {max(given.batch)}: there are {most} test images")
    model, _ = training.load_or_train(config, dataset)
    images = dataset.normalizer()(dataset.test_images[: max(given.batch)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtimes.export(folder, model, data.calibration_images(dataset, config.calibration_images))
        found = sweep(names, folder, images, given.batch, given.threads, rounds=given.rounds)
    for row in found.left_out.itertuples():
        print(f"left out at batch {row.batch}, {row.threads} threads: {row.problem}")
    try:
        table = summarize(found.samples, given.baseline)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(table.round(2).to_string(index=False))
    print(busy(table) or "The rounds agree: the machine was quiet.")
    if out:
        weights = {"float32": weights_hash(model)}
        record = {
            "summary": table,
            "left_out": found.left_out,
            "baseline": given.baseline,
            "busy": busy(table),
            "samples": found.samples.round(4),
            "environment": environment.describe(config, dataset.source, weights),
        }
        results.save(out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
