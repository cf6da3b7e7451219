"""Run a function over a grid of settings once, and keep the table under artifacts/."""

import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from utils import results
from utils.settings import PROJECT, Settings


class ExperimentError(RuntimeError):
    """An experiment or its kept table cannot be used; the message says why and what to do."""


def run_all(
    settings: Settings,
    name: str,
    run: Callable[..., Mapping | list[Mapping]],
    made_by: Mapping,
    /,
    **grid: Sequence,
) -> pd.DataFrame:
    """Call ``run`` for every combination of the grid, or read what an earlier call made of it.

    The table is kept under ``artifacts/<profile>/experiments/`` by what made it: ``made_by``, the
    grid, the source text of ``run``, the functions beside it and the plain values that it uses, the
    library's own source, and torch's version. Change any of them and it is made anew.

    ``run`` takes one value of each row of the grid by name, of which the last changes fastest. It
    returns one row or several, as mappings from column to a number or a string, which follow the
    grid's columns in the table. ``made_by`` names for JSON what else decides the result: numbers
    of images, and each model's :func:`~utils.models.weights_hash` (a recipe that is trained again
    gives other weights). An :class:`ExperimentError` says if the grid is empty or a kept table is
    damaged.
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise ExperimentError(f"experiment {name!r} has an empty grid: {grid}")
    made_by = {
        "made_by": dict(made_by),
        "grid": {key: list(values) for key, values in grid.items()},
        "run": _sources(run),
        "library": _library(),
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:12]
    path = settings.artifacts_dir / "experiments" / f"{name}-{key}.json"
    if path.exists():
        return _read(path)
    rows = []
    points = list(itertools.product(*grid.values()))
    for values in tqdm(points, desc=name, leave=False):
        point = dict(zip(grid, values, strict=True))
        found = run(**point)
        rows += [{**point, **row} for row in (found if isinstance(found, list) else [found])]
    results.save(path, {"table": pd.DataFrame(rows)})
    return _read(path)  # what a later run will read, not what happens to be in memory


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["table"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ExperimentError(
            f"{path.name} in experiments/ is damaged ({type(error).__name__}): delete it and run "
            f"again."
        ) from error


def _sources(run: Callable, seen: tuple[Callable, ...] = ()) -> list[str]:
    """Source text of a function, and the functions and plain values of its module that it uses."""
    codes = [run.__code__]
    for code in codes:  # getclosurevars() does not look into comprehensions, generators, lambdas
        codes += filter(inspect.iscode, code.co_consts)
    used = {n: run.__globals__[n] for code in codes for n in code.co_names if n in run.__globals__}
    plain = (bool, int, float, str, list, tuple)
    beside = [f"{name}={value!r}" for name, value in used.items() if isinstance(value, plain)]
    for f in used.values():
        if inspect.isfunction(f) and f.__module__ == run.__module__ and f not in (*seen, run):
            beside += _sources(f, (*seen, run))
    return [inspect.getsource(run), *sorted(beside)]


@functools.cache
def _library() -> str:
    """Hash of every module that an experiment's numbers can depend on."""
    digest = hashlib.sha256()
    core = ("data", "models", "training", "quantization", "comparison")
    lab = ("corruptions", "observers", "diagnosis", "resampling")
    for name in (*core, *(f"lab/{name}" for name in lab)):
        digest.update((PROJECT / "utils" / f"{name}.py").read_bytes())
    return digest.hexdigest()
