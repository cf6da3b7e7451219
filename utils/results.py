"""Small JSON files that hold what a run measured; README and report are rendered from them."""

import dataclasses
import json
import math
import os
from pathlib import Path

import pandas as pd
import torch

from utils.settings import PROJECT, Settings
from utils.variants import VARIANTS

REFERENCE = PROJECT / "results"
START, END = "<!-- results: generated, do not edit -->", "<!-- end of results -->"


SOURCES = ("03_fusion_and_calibration", "04_cpu_benchmark")  # what the summary is made of


class ResultsError(RuntimeError):
    """A result is missing or does not fit; the message says which notebook makes it."""


def write(settings: Settings, name: str, record: dict) -> Path:
    """Write one notebook's results as ``<name>.json`` and bring ``summary.json`` up to date.

    Parameters
    ----------
    settings : Settings
        Decides the folder.
    name : str
        The notebook's, for instance ``03_fusion_and_calibration``.
    record : dict
        Plain numbers, strings, lists, dicts, dataclasses and DataFrames.

    Raises
    ------
    ValueError
        If a number is NaN or infinite, naming it: JSON has no such numbers.
    """
    path = save(settings.results_dir / f"{name}.json", record)
    if all((path.parent / f"{source}.json").exists() for source in SOURCES):
        save(path.parent / "summary.json", summarize(path.parent))
    return path


def save(path: Path, record: dict) -> Path:
    """Write a record as JSON, atomically; values and errors as for :func:`write`."""
    text = json.dumps(_plain(record, path.stem), indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def summarize(path: Path) -> dict:
    """Build the flat summary from the notebooks' results in a folder.

    Returns
    -------
    dict
        data_source, engine, test_images, float_accuracy, int8_accuracy (fractions),
        float_only_correct, int8_only_correct, mcnemar_p, difference_low, difference_high,
        float_bytes, int8_bytes; ``latency_ms_{variant}_b{batch}_t{threads}`` (medians); for each
        ``b{batch}_t{threads}`` the names fastest_int8 and fastest_float, and the ratios
        against_eager and against_fastest with ``_low`` and ``_high``; warning (empty if the machine
        was quiet), environment.
    """
    quantized, benchmark = (read(path, name) for name in SOURCES)
    paired = quantized["comparison"]
    summary = {
        "data_source": quantized["environment"]["data_source"],
        "engine": quantized["engine"],
        "test_images": paired["images"],
        "float_accuracy": paired["accuracy_a"],
        "int8_accuracy": paired["accuracy_b"],
        "float_only_correct": paired["a_only"],
        "int8_only_correct": paired["b_only"],
        "mcnemar_p": paired["mcnemar_p"],
        "difference_low": paired["low"],
        "difference_high": paired["high"],
        "float_bytes": quantized["float_bytes"],
        "int8_bytes": quantized["int8_bytes"],
        "environment": quantized["environment"],
    }
    for row in pd.DataFrame(benchmark["summary"]).itertuples():
        summary[latency_key(row.variant, row.batch, row.threads)] = row.median_ms
    for row in pd.DataFrame(benchmark["verdicts"]).to_dict(orient="records"):
        where = f"b{row['batch']}_t{row['threads']}"
        summary[f"fastest_int8_{where}"] = row["int8"]
        summary[f"fastest_float_{where}"] = row["fastest_float"]
        for key in ("against_eager", "against_fastest"):
            for end in ("", "_low", "_high"):
                summary[f"{key}{end}_{where}"] = row[key + end]
    summary["warning"] = benchmark["warning"]
    return summary


def folder(settings: Settings, *names: str) -> Path:
    """Return this run's results folder if it holds all of ``names``, else the reference run's.

    Raises
    ------
    ResultsError
        If neither does.
    """
    for candidate in (settings.results_dir, REFERENCE):
        if all((candidate / f"{name}.json").exists() for name in names):
            return candidate
    missing = [n for n in names if not (settings.results_dir / f"{n}.json").exists()]
    raise ResultsError(f"no results of {', '.join(missing)}: run these notebooks first")


def read(path: Path, name: str) -> dict:
    """Read ``<name>.json`` from a folder.

    Raises
    ------
    ResultsError
        If it is missing or no JSON.
    """
    try:
        return json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ResultsError(f"{name}.json cannot be read ({error}): run notebook {name}") from error


def latency_key(variant: str, batch: int, threads: int) -> str:
    """Return the name of a timing in ``summary.json``."""
    return f"latency_ms_{variant}_b{batch}_t{threads}"


def headline(summary: dict) -> pd.DataFrame:
    """Return the results table: float32, int8 and what changed.

    Parameters
    ----------
    summary : dict
        As ``summary.json`` holds it.
    """
    s = summary
    points = 100 * (s["int8_accuracy"] - s["float_accuracy"])
    rows = [
        (
            f"accuracy on {s['test_images']:,} test images",
            f"{s['float_accuracy']:.2%}",
            f"{s['int8_accuracy']:.2%}",
            f"{points:+.2f} points (McNemar p = {s['mcnemar_p']:.2g})",
        ),
        (
            "file size",
            f"{s['float_bytes'] / 1e6:.2f} MB",
            f"{s['int8_bytes'] / 1e6:.2f} MB",
            f"{s['float_bytes'] / s['int8_bytes']:.2f} times smaller",
        ),
    ]
    for batch in (1, 64):
        where = f"b{batch}_t1"
        int8 = s[f"fastest_int8_{where}"]
        fast = s[latency_key(int8, batch, 1)]
        baselines = {"against_eager": "float_eager", "against_fastest": s[f"fastest_float_{where}"]}
        for key, baseline in baselines.items():
            slow = s[latency_key(baseline, batch, 1)]
            low, high = (s[f"{key}_{end}_{where}"] for end in ("low", "high"))
            runtime = VARIANTS[baseline].label.removeprefix("float32, ")
            kind = runtime if key == "against_eager" else f"fastest: {runtime}"
            rows.append(
                (
                    f"latency, batch {batch}, against float32 {kind}",
                    f"{slow:.2f} ms",
                    f"{fast:.2f} ms",
                    f"{faster(s[f'{key}_{where}'])} ({low:.2f} to {high:.2f})",
                )
            )
    return pd.DataFrame(rows, columns=["", "float32", "int8", "change"])


def faster(ratio: float) -> str:
    """Say in words what a speed-up is, below 1 as well."""
    return f"{ratio:.2f} times {'as fast: slower' if ratio < 1 else 'faster'}"


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame as a Markdown table, without its index."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(v) for v in line) + " |" for line in lines)


def readme_block(summary: dict) -> str:
    """Return what stands between the README's markers."""
    s, e = summary, summary["environment"]
    sets = ", ".join(e["instruction_sets"]) or "none of the int8 instruction sets"
    return (
        f"{START}\n{markdown(headline(summary))}\n\n"
        f"Measured on {e['date']}: {summary['data_source']}, full profile, {e['cpu']} ({sets}), "
        f"torch {e['torch']}. Notebook 03 measures accuracy and size, notebook 04 latency, on one "
        f"thread: int8 is PyTorch's fastest engine; in brackets the 95 % interval of the ratio."
        f"{' ' * bool(s['warning'])}{s['warning']}\n{END}"
    )


def update_readme(path: Path, summary: dict) -> None:
    """Replace the block between the README's markers.

    Raises
    ------
    ResultsError
        If the markers are missing.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ResultsError(f"{path.name} needs one line {START!r} and one line {END!r}")
    before, rest = text.split(START)
    path.write_text(before + readme_block(summary) + rest.split(END)[1], encoding="utf-8")


def _plain(value: object, where: str) -> object:
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="list")
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON cannot hold it")
    return value
