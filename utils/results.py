"""Small JSON files that hold what a run measured; README and report are rendered from them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from utils import files
from utils.catalog import ENOUGH_ROUNDS, VARIANTS
from utils.settings import PROJECT, Settings

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
        try:
            save(path.parent / "summary.json", collect(path.parent))
        except ResultsError as error:
            if name == SOURCES[-1]:  # an earlier notebook is followed by the one that mends it
                print(f"summary.json is not written: {error}")
    return path


def save(path: Path, record: dict) -> Path:
    """Write a record as JSON, atomically; values and errors as for :func:`write`."""
    return files.write_text(path, json.dumps(_plain(record, path.stem), indent=1) + "\n")


def collect(path: Path) -> dict:
    """Build the flat summary from the notebooks' results in a folder.

    Returns
    -------
    dict
        data_source, engine, test_images, float_accuracy, int8_accuracy (fractions),
        float_only_correct, int8_only_correct, mcnemar_p, difference_low, difference_high,
        float_bytes, int8_bytes; ``latency_ms_{variant}_b{batch}_t{threads}`` (medians); for each
        ``b{batch}_t{threads}`` the names fastest_int8 and fastest_float, the latencies int8_ms,
        eager_ms and fastest_float_ms, the ratios against_eager and against_fastest with ``_low``
        and ``_high``, and, where the timing was repeated, processes and rounds; warning (empty if
        the machine was quiet); environments, one for each of :data:`SOURCES`.

    Raises
    ------
    ResultsError
        If a file is missing, or if the two notebooks used different weights.
    """
    quantized, benchmark = records = [read(path, name) for name in SOURCES]
    environments = {n: r["environment"] for n, r in zip(SOURCES, records, strict=True)}
    check_weights(environments)
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
    }
    for row in pd.DataFrame(benchmark["summary"]).itertuples():
        summary[latency_key(row.variant, row.batch, row.threads)] = row.median_ms
    names = {"int8": "fastest_int8", "fastest_float": "fastest_float"}
    for table in (benchmark["verdicts"], benchmark.get("headline", {})):  # the later one prevails
        for row in pd.DataFrame(table).to_dict(orient="records"):
            where = f"b{row.pop('batch')}_t{row.pop('threads')}"
            summary |= {f"{names.get(key, key)}_{where}": value for key, value in row.items()}
    return summary | {"warning": benchmark["warning"], "environments": environments}


def check_weights(environments: Mapping[str, dict]) -> None:
    """Refuse to set figures of different weights side by side.

    Parameters
    ----------
    environments : mapping of str to dict
        A notebook's name to its record's environment; where one names no weights (records of
        before), nothing is compared. Of several models of a kind ("float32, mnist", "float32,
        fashion") the first counts.

    Raises
    ------
    ResultsError
        With the hashes, and which notebooks to run again.
    """
    for kind in ("float32", "int8"):
        found = {
            name: weights
            for name, environment in environments.items()
            for key, weights in reversed(environment.get("weights", {}).items())
            if key.startswith(kind)
        }
        if len(set(found.values())) > 1:
            which = ", ".join(f"{weights} in {name}" for name, weights in found.items())
            raise ResultsError(
                f"the {kind} weights differ ({which}), so their figures cannot be compared: "
                f"run {' and '.join(found)} again"
            )


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


def section(path: Path, name: str, like: Mapping | None = None) -> tuple[dict | None, str]:
    """Read one notebook's results for a page that also shows those of others.

    Parameters
    ----------
    path : Path
        Folder of this run or of the reference run, see :func:`folder`.
    name : str
        The notebook's.
    like : mapping, optional
        The environment of the results beside which these will stand.

    Returns
    -------
    record, note
        The record, and where it comes from. None, and why, if its weights are not those of
        ``like``.
    """
    record = read(path, name)
    try:
        check_weights({"the sections above": like or {}, name: record["environment"]})
    except ResultsError as error:
        return None, f"**Not shown:** {error}."
    run = "the reference run" if path == REFERENCE else "this machine's run"
    return record, f"Notebook {name[:2]}, {run}: {origin(record['environment'])}."


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
        fast = s[f"int8_ms_{where}"]
        baselines = {"eager": "float_eager", "fastest": s[f"fastest_float_{where}"]}
        for key, baseline in baselines.items():
            slow = s[f"{'eager' if key == 'eager' else 'fastest_float'}_ms_{where}"]
            low, high = (s[f"against_{key}_{end}_{where}"] for end in ("low", "high"))
            runtime = VARIANTS[baseline].label.removeprefix("float32, ")
            kind = runtime if key == "eager" else f"fastest: {runtime}"
            rows.append(
                (
                    f"latency, batch {batch}, against float32 {kind}",
                    f"{slow:.2f} ms",
                    f"{fast:.2f} ms",
                    faster(s[f"against_{key}_{where}"], low, high),
                )
            )
    return pd.DataFrame(rows, columns=["", "float32", "int8", "change"])


def faster(ratio: float, low: float, high: float) -> str:
    """Say in words what a speed-up is: faster, slower, or a tie if its interval contains 1."""
    words = "faster" if low > 1 else "as fast: slower" if high < 1 else "as fast: a tie"
    return f"{ratio:.2f} times {words} ({low:.2f} to {high:.2f})"


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame as a Markdown table, without its index."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(v) for v in line) + " |" for line in lines)


def listed(value: object) -> str:
    """Return a list or dict of a record as a line of text, anything else as itself."""
    if isinstance(value, dict):
        value = [f"{key} {item}" for key, item in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def advice(summary: dict) -> str:
    """Return one paragraph for who has to decide, from the results alone.

    Each latency is called better or worse only if its whole 95 % interval is; how much accuracy
    may be lost is the lower end of the interval of the paired difference (non-inferiority).
    """
    s = summary
    sentences = [
        f"The int8 file is {s['float_bytes'] / s['int8_bytes']:.1f} times smaller: use int8 where "
        "disk or download is short."
    ]
    for batch in (1, 64):
        where = f"b{batch}_t1"
        low, high = (s[f"against_fastest_{end}_{where}"] for end in ("low", "high"))
        fastest = VARIANTS[s[f"fastest_float_{where}"]].label.removeprefix("float32, ")
        text = f"At batch {batch}, on one thread of this processor, int8 in PyTorch "
        if low > 1:
            text += f"is faster than every float32 that was timed ({low:.2f} times or more): use it"
        elif high < 1:
            text += f"is slower than float32 in {fastest}: use that where only latency counts"
        else:
            text += f"and float32 in {fastest} are too close to call: let size decide"
        sentences.append(text + ".")
    worst = -100 * s["difference_low"]
    loss = f"at most {worst:.2f} points worse" if worst > 0 else "no worse"
    sentences.append(
        f"Accuracy: int8 is {loss} than float32 on images like these "
        f"({s['test_images']:,} test images, lower end of the 95 % interval)."
    )
    return " ".join(sentences)


def origin(environment: dict) -> str:
    """Say in one line what figures were measured with: time, data, profile, machine, weights."""
    e = environment
    when = e.get("time", e["date"]).replace("T", " ").replace("Z", " UTC")
    processor = "; ".join(
        filter(None, [listed(e.get("cpu_numbers", {})), listed(e["instruction_sets"])])
    )
    versions = {"torch": e["torch"]} | e.get("runtimes", {})
    weights = [f"{kind} weights {value}" for kind, value in e.get("weights", {}).items()]
    commit = [f"commit {e['commit'][:10]}{e['commit'][40:]}"] if e.get("commit") else []
    return ", ".join(
        [when, e["data_source"], f"{e['profile']} profile", f"{e['cpu']} ({processor})"]
        + [f"{name} {version}" for name, version in versions.items()]
        + weights
        + commit
    )


def intervals(summary: dict) -> str:
    """Say what the intervals of the latency ratios cover, from what the summary tells."""
    processes, rounds = (summary.get(f"{key}_b1_t1") for key in ("processes", "rounds"))
    if not processes:
        return "95 % interval of the ratio over the rounds of one process"
    name = "95 % interval" if rounds >= ENOUGH_ROUNDS else "range"
    return f"{name} of the ratio over {processes} processes of {rounds} rounds"


def readme_block(summary: dict) -> str:
    """Return what stands between the README's markers."""
    s = summary
    accuracy, latency = (origin(s["environments"][name]) for name in SOURCES)
    return (
        f"{START}\n{markdown(headline(summary))}\n\n"
        f"Accuracy and size (notebook 03): {accuracy}.\n\n"
        f"Latency (notebook 04), on one thread; int8 is PyTorch's fastest engine; in brackets the "
        f"{intervals(s)}: {latency}.{' ' * bool(s['warning'])}{s['warning']}\n{END}"
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
    files.write_text(path, before + readme_block(summary) + rest.split(END)[1])


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
