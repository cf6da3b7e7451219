"""Small JSON files that hold what a run measured; README and report are rendered from them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from utils import files
from utils.catalog import ENOUGH_ROUNDS, VARIANTS
from utils.settings import PROJECT, Settings

REFERENCE = PROJECT / "results"
START, END = "<!-- results: generated, do not edit -->", "<!-- end of results -->"
SOURCES = {  # the notebooks that the summary is made of, and their questions
    "03_fusion_and_calibration": "How does float32 become int8?",
    "04_cpu_benchmark": "How much smaller and faster is it, and why?",
}
RUNTIMES = "the fastest of PyTorch, ONNX Runtime and OpenVINO"  # those of notebook 08's table
_PAIRED = {"test_images": "images", "float_accuracy": "accuracy_a", "int8_accuracy": "accuracy_b"}
_PAIRED |= {"float_only_correct": "a_only", "int8_only_correct": "b_only"}
_PAIRED |= {"mcnemar_p": "mcnemar_p", "difference_low": "low", "difference_high": "high"}


class ResultsError(RuntimeError):
    """A result is missing or does not fit; the message says which notebook makes it."""


def write(settings: Settings, name: str, record: dict) -> Path:
    """Write one notebook's results as ``<name>.json`` and bring ``summary.json`` up to date.

    A record holds numbers, strings, lists, dicts, dataclasses, tensors and DataFrames. Raises
    ValueError if a number is NaN or infinite, naming it: JSON has no such numbers.
    """
    path = save(settings.results_dir / f"{name}.json", record)
    if all((path.parent / f"{source}.json").exists() for source in SOURCES):
        try:
            save(path.parent / "summary.json", collect(path.parent))
        except ResultsError as error:
            # An earlier notebook is followed by the one that mends it.
            if name == list(SOURCES)[-1]:
                print(f"summary.json is not written: {error}")
    return path


def save(path: Path, record: dict) -> Path:
    """Write a record as JSON, atomically; values and errors as for :func:`write`."""
    return files.write_text(path, json.dumps(_plain(record, path.stem), indent=1) + "\n")


def collect(path: Path) -> dict:
    """Build the flat summary from the notebooks' results in a folder.

    Besides accuracies (fractions) and bytes it holds ``latency_ms_{variant}_b{batch}_t{threads}``
    (medians); for each ``b{batch}_t{threads}`` the names fastest_int8 and fastest_float, the
    latencies int8_ms, eager_ms and fastest_float_ms, the ratios against_eager and against_fastest
    with ``_low`` and ``_high``, and, where the timing was repeated, processes and rounds; and the
    environments of :data:`SOURCES`. Raises ResultsError if a file is missing or weights differ.
    """
    quantized, benchmark = records = [read(path, name) for name in SOURCES]
    environments = {n: r["environment"] for n, r in zip(SOURCES, records, strict=True)}
    check_weights(environments)
    summary = {"data_source": quantized["environment"]["data_source"]}
    summary |= {key: quantized[key] for key in ("engine", "float_bytes", "int8_bytes")}
    summary |= {key: quantized["comparison"][name] for key, name in _PAIRED.items()}
    for row in pd.DataFrame(benchmark["summary"]).itertuples():
        summary[latency_key(row.variant, row.batch, row.threads)] = row.median_ms
    names = {"int8": "fastest_int8"}
    for table in (benchmark["verdicts"], benchmark.get("headline", {})):  # the later one prevails
        for row in pd.DataFrame(table).to_dict(orient="records"):
            where = f"b{row.pop('batch')}_t{row.pop('threads')}"
            summary |= {f"{names.get(key, key)}_{where}": value for key, value in row.items()}
    summary |= {"warning": benchmark["warning"], "environments": environments}
    for name, found in (("08_deployment", _shipped), ("07_low_bit", _smallest)):
        try:
            record = read(path, name)
            check_weights({**environments, name: record["environment"]})
        except ResultsError:  # it has not run, or on other weights
            continue
        summary |= found(record)
    return summary


def _shipped(record: dict) -> dict:
    size = pd.DataFrame(record["summary"]).groupby("variant")["file_mb"].first()
    names = ("float_eager", "int8_eager_specialized")
    return {"shipped_mb": [size[name] for name in names], "shipped": record["verdicts"]}


def _smallest(record: dict) -> dict:
    small = record.get("smallest")
    kept = small and (small["mcnemar_p"] >= 0.05 or small["difference"] >= 0)
    return {"smallest": small} if kept else {}


def check_weights(environments: Mapping[str, dict]) -> None:
    """Refuse to set figures of different weights side by side, by each notebook's environment.

    Of several models of a kind ("float32, mnist", "float32, fashion") the first counts; records
    that name no weights are not compared. Raises ResultsError with the hashes and the notebooks.
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

    Raises ResultsError if neither does.
    """
    folders = (settings.results_dir, REFERENCE)
    absent = [[name for name in names if not (f / f"{name}.json").exists()] for f in folders]
    for candidate, missing in zip(folders, absent, strict=True):
        if not missing:
            return candidate
    raise ResultsError(f"no results of {', '.join(absent[0])}: run these notebooks first")


def section(path: Path, name: str, like: Mapping | None = None) -> tuple[dict | None, str]:
    """Return a notebook's record and its origin, to be shown beside results of ``like``.

    The record is None, and the text says why, if its weights are not those of this environment.
    """
    record = read(path, name)
    try:
        check_weights({"the sections above": like or {}, name: record["environment"]})
    except ResultsError as error:
        return None, f"**Not shown:** {error}."
    run = "the reference run" if path == REFERENCE else "this machine's run"
    return record, f"Notebook {name[:2]}, {run}: {origin(record['environment'])}."


def read(path: Path, name: str) -> dict:
    """Read ``<name>.json`` from a folder; raises ResultsError if it is missing or no JSON."""
    try:
        return json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not UTF-8, or no JSON
        raise ResultsError(f"{name}.json cannot be read ({error}): run notebook {name}") from error


def latency_key(variant: str, batch: int, threads: int) -> str:
    """Return the name of a timing in ``summary.json``."""
    return f"latency_ms_{variant}_b{batch}_t{threads}"


def headline(summary: dict) -> pd.DataFrame:
    """Return the results table of a summary: float32, int8 and what changed."""
    s = summary
    points = f"{100 * (s['int8_accuracy'] - s['float_accuracy']):+.2f} points"
    smaller = f"{s['float_bytes'] / s['int8_bytes']:.2f} times smaller"
    accuracies = [f"{s[key]:.2%}" for key in ("float_accuracy", "int8_accuracy")]
    sizes = [f"{s[key] / 1e6:.2f} MB" for key in ("float_bytes", "int8_bytes")]
    tested = f"accuracy on {s['test_images']:,} test images"
    rows = [(tested, *accuracies, f"{points} (McNemar p = {s['mcnemar_p']:.2g})")]
    rows.append(("file size", *sizes, smaller))
    for batch in (1, 64):
        where = f"b{batch}_t1"
        names = {"eager": "eager", "fastest": f"fastest: {_fastest_float(s, where)}"}
        for key, name in names.items():
            slow = s[f"{'eager' if key == 'eager' else 'fastest_float'}_ms_{where}"]
            change = faster(*(s[f"against_{key}{end}_{where}"] for end in ("", "_low", "_high")))
            times = [f"{ms:.2f} ms" for ms in (slow, s[f"int8_ms_{where}"])]
            rows.append((f"latency, batch {batch}, against float32 {name}", *times, change))
    if "shipped_mb" in s:
        large, small = s["shipped_mb"]
        sizes = [f"{value:.2f} MB" for value in (large, small)]
        what = "file size: whole float32, specialized int8"
        rows.append((what, *sizes, f"{large / small:.1f} times smaller"))
        for row in pd.DataFrame(s["shipped"]).itertuples():
            slow = f"{row.fastest_float}: {row.ms * row.ratio:.2f} ms"
            fast = f"{row.choice}: {row.ms:.2f} ms"
            what = f"{row.situation}, one thread, {RUNTIMES}"
            rows.append((what, slow, fast, f"{row.ratio:.2f} times as fast"))
    if small := s.get("smallest"):
        sizes = [f"{small[key] / 1e6:.2f} MB" for key in ("float_bytes", "bytes")]
        points = f"{100 * small['difference']:+.2f} points (McNemar p = {small['mcnemar_p']:.2g})"
        change = f"{small['times']:.0f} times smaller, accuracy {points}"
        what = f"smallest file with this accuracy: {small['name']}"
        rows.append((what, sizes[0], f"not int8: {sizes[1]}", change))
    return pd.DataFrame(rows, columns=["", "float32", "int8", "change"])


def _fastest_float(summary: dict, where: str) -> str:
    return VARIANTS[summary[f"fastest_float_{where}"]].label.removeprefix("float32, ")


def faster(ratio: float, low: float, high: float) -> str:
    """Say in words what a speed-up is: faster, slower, or a tie if its interval contains 1."""
    ends = round(low, 2), round(high, 2)  # as they are shown
    words = "faster" if ends[0] > 1 else "as fast: slower" if ends[1] < 1 else "as fast: a tie"
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
    smaller = f"{summary['float_bytes'] / summary['int8_bytes']:.1f} times smaller"
    text = f"The int8 file is {smaller}: use int8 where disk or download is short."
    for batch in (1, 64):
        low, high = (summary[f"against_fastest_{end}_b{batch}_t1"] for end in ("low", "high"))
        fastest = _fastest_float(summary, f"b{batch}_t1")
        text += f" At batch {batch}, on one thread of this processor, int8 in eager PyTorch "
        if low > 1:
            text += f"is faster than every float32 of notebook 04 ({low:.2f} times or more): use it"
        elif high < 1:
            text += f"is slower than float32 in {fastest}: prefer that where only latency counts"
        else:
            text += f"and float32 in {fastest} are too close to call: let size decide"
        text += "."
    worst = -100 * summary["difference_low"]
    loss = f"at most {worst:.2f} points worse" if worst > 0 else "no worse"
    return (
        f"{text} Accuracy: int8 is {loss} than float32 on images like these "
        f"({summary['test_images']:,} test images, lower end of the 95 % interval)."
    )


def origin(environment: dict) -> str:
    """Say in one line what figures were measured with: time, data, profile, machine, weights."""
    e = environment
    when = e.get("time", e["date"]).replace("T", " ").replace("Z", " UTC")
    processor = filter(None, [listed(e.get("cpu_numbers", {})), listed(e["instruction_sets"])])
    parts = [when, e["data_source"], f"{e['profile']} profile"]
    parts += [f"{e['cpu']} ({'; '.join(processor)})"]
    parts += [
        f"{name} {version}"
        for name, version in {"torch": e["torch"], **e.get("runtimes", {})}.items()
    ]
    parts += [f"{kind} weights {value}" for kind, value in e.get("weights", {}).items()]
    if commit := e.get("commit"):
        parts.append(f"commit {commit[:10]}{commit[40:]}")  # with the mark of a changed tree
    return ", ".join(parts)


def intervals(summary: dict) -> str:
    """Say what the intervals of the latency ratios cover, from what the summary tells."""
    processes, rounds = (summary.get(f"{key}_b1_t1") for key in ("processes", "rounds"))
    if not processes:
        return "95 % interval of the ratio over the rounds of one process"
    name = "95 % interval" if rounds >= ENOUGH_ROUNDS else "range"
    return f"{name} of the ratio over {processes} processes of {rounds} rounds"


def readme_block(summary: dict) -> str:
    """Return what stands between the README's markers."""
    accuracy, latency = (
        f"[{question}](notebooks/{name}.ipynb): {origin(summary['environments'][name])}"
        for name, question in SOURCES.items()
    )
    warning = f" {summary['warning']}".rstrip()
    return (
        f"{START}\n{markdown(headline(summary))}\n\nAccuracy and size in the first rows come from "
        f"{accuracy}.\n\nLatency at batch 1 and 64, on one thread, comes from {latency}. int8 is "
        f"PyTorch's fastest engine; in brackets stands the {intervals(summary)}.{warning} Any "
        f"further rows come from notebooks 07 and 08.\n{END}"
    )


def update_readme(path: Path, summary: dict) -> None:
    """Replace the block between the README's markers; raises ResultsError if they are missing."""
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ResultsError(f"{path.name} needs one line {START!r} and one line {END!r}")
    before, rest = text.split(START)
    files.write_text(path, before + readme_block(summary) + rest.split(END)[1])


def _plain(value: object, where: str) -> object:
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    elif isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="list")
    elif hasattr(value, "tolist"):  # a tensor, an array, or a NumPy scalar
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: JSON cannot hold it")
    return value
