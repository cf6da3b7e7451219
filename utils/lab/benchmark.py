"""Time every variant over batches and threads; ``python -m utils.lab.benchmark``."""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from utils import data, environment, results, settings, training
from utils.catalog import ENOUGH_ROUNDS, VARIANTS
from utils.lab import isolation, runtimes
from utils.lab.footprint import flushes_denormals
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
    rounds in one of them shows it.

    Parameters
    ----------
    chosen : DataFrame
        Rows of :func:`verdicts`: batch, threads, int8, fastest_float.
    folder : Path
        That :func:`utils.lab.runtimes.export` filled.
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
        Keys of :data:`utils.catalog.VARIANTS`.
    folder : Path
        That :func:`utils.lab.runtimes.export` filled.
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
                    models[name] = runtimes.load(name, folder, tuple(inputs.shape), count)
            except runtimes.VariantError as error:
                problems[name] = str(error)
        with steady(count):
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


def _eager_logits(folder: Path, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
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
        prog="python -m utils.lab.benchmark",
        description="Time the variants of the course's ResNet-18, interleaved, on this machine.",
    )
    known = list(VARIANTS)
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
    names = list(dict.fromkeys(chosen.variants or runtimes.names()))
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
        runtimes.export(Path(folder), model, calibration)
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
