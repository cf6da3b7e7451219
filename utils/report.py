"""Execute the notebooks and make the report: ``python -m utils.report`` (see ``--help``)."""

import argparse
import contextlib
import html
import importlib.resources
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import latex2mathml.converter
import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from torch import nn
from tqdm import tqdm

from utils import comparison, data, environment, files, models, results, settings, training
from utils.figures import quantization as quantization_figures
from utils.figures import style
from utils.settings import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
SECOND = "06_accuracy_limits"  # which needs a second float32 model, on Fashion-MNIST
CELL_SECONDS = 3600
# Nothing may be fetched when the page is opened: every address that nbconvert would load is empty.
OFFLINE = dict.fromkeys(
    (
        "require_js_url",
        "mathjax_url",
        "mermaid_js_url",
        "mermaid_layout_elk_js_url",
        "jquery_url",
        "jupyter_widgets_base_url",
        "widget_renderer_url",
    ),
    "",
)
MATH = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


@dataclass
class Run:
    """What became of one notebook: its title, the seconds it took, and its error if it failed."""

    name: str
    title: str
    seconds: float = 0.0
    error: str | None = None


def title_of(notebook) -> str:
    """Return the text of a notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    raise ValueError("the notebook has no title: its first markdown cell must begin with '# '")


def execute(path: Path, label: str = "") -> tuple[nbformat.NotebookNode, Run]:
    """Execute a notebook in a fresh kernel, in its own folder.

    Parameters
    ----------
    path : Path
    label : str
        Beside the progress bar; the notebook's name by default.

    Returns
    -------
    notebook, run
        Executed up to the end or to the failing cell; ``run.error`` says which and why.
    """
    notebook = nbformat.read(path, as_version=4)
    run = Run(path.stem, title_of(notebook))
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=cells, desc=label or path.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        start = time.perf_counter()
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            run.error = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        run.seconds = time.perf_counter() - start
    # The kernel's version is the machine's, not the notebook's.
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook, run


def to_html(notebook: nbformat.NotebookNode, *, hide_code: bool = False) -> str:
    """Render an executed notebook as one page that needs no network.

    Formulas become MathML, which browsers draw themselves; links to notebooks lead to their pages.
    """
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = MATH.sub(_mathml, cell.source)
            cell.source = re.sub(r"\]\((\w+)\.ipynb(#[^)]*)?\)", r"](\1.html\2)", text)
        for output in cell.get("outputs", []):  # nbconvert's own <img> would drop the alt text
            png = output.get("data", {}).get("image/png")
            if png:
                alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
                image = f'<img alt="{alt}" src="data:image/png;base64,{png.strip()}">'
                output.data = {"text/html": image}
    # Not embed_images: it parses inline tags one by one and so empties every <math>. Figures are
    # outputs, which are embedded anyway.
    exporter = HTMLExporter(
        exclude_input=hide_code,
        exclude_input_prompt=hide_code,
        exclude_output_prompt=hide_code,
        **OFFLINE,
    )
    body, _ = exporter.from_notebook_node(
        notebook, resources={"metadata": {"name": title_of(notebook)}}
    )
    # What is left refers to the addresses emptied above.
    body = re.sub(r"<script[^>]*\ssrc=[^>]*>\s*</script>", "", body)
    return re.sub(r'<script type="module">.*?</script>', "", body, flags=re.DOTALL)


def _mathml(match: re.Match) -> str:
    code, block, inline = match.groups()
    if code:
        return code
    display = "block" if block else "inline"
    return latex2mathml.converter.convert((block or inline).strip(), display=display)


def index_page(runs: list[Run], facts: dict, table: str) -> str:
    """Return the report's start page.

    Parameters
    ----------
    runs : list of Run
    facts : dict
        As :func:`utils.environment.describe` returns it.
    table : str
        The headline as an HTML table, or a sentence that says why there is none.
    """
    rows = "".join(
        f'<tr class="{"failed" if run.error else ""}"><td><a href="{run.name}.html">{run.name}</a>'
        f"</td><td>{html.escape(run.title)}</td><td>{run.seconds:.0f} s</td>"
        f"<td>{'FAILED' if run.error else 'ok'}</td></tr>"
        for run in runs
    )
    fallback = facts["data_source"] == data.DIGITS and facts["profile"] == "full"
    notice = (
        '<p class="notice">This report was made from the embedded digits, not from MNIST: no '
        "network was reached, or COURSE_DATA asked for them. "
        f"Data: {html.escape(facts['data_source'])}.</p>"
        if fallback
        else ""
    )
    listed = "".join(
        f"<tr><td>{key.replace('_', ' ')}</td><td>{html.escape(results.listed(value))}</td></tr>"
        for key, value in facts.items()
    )
    errors = "".join(
        f"<h2>{run.name} failed</h2><pre>{html.escape(run.error)}</pre>"
        for run in runs
        if run.error
    )
    page = importlib.resources.files("utils").joinpath("report.html").read_text(encoding="utf-8")
    for name, value in {
        "NOTICE": notice,
        "TABLE": table,
        "ROWS": rows,
        "FACTS": listed,
        "ERRORS": errors,
    }.items():
        page = page.replace(f"<!-- {name} -->", value)
    return page


def make(output: Path, *, in_place: bool, only: list[str] | None = None) -> int:
    """Execute the notebooks in order and write the report.

    Parameters
    ----------
    output : Path
        Folder of the report.
    in_place : bool
        Also keep the executed notebooks, the results of the reference run, and the README's table.
    only : list of str, optional
        Names of notebooks; all by default.

    Returns
    -------
    int
        Exit code: 1 if a notebook failed, or if nothing could be started. What was made before
        stays; every file is complete at any moment, so a run that was killed is simply repeated.
    """
    current = settings.load()
    failed = [row for row in environment.check(current) if row[0] == environment.FAIL]
    for _, what, detail in failed:
        print(f"[FAIL] {what}: {detail}")
    if failed:
        return 1
    # Whoever refreshes the committed files needs them alone, whatever the folder of the report.
    locked = [output] + ([current.home / "artifacts"] if in_place else [])
    with contextlib.ExitStack() as locks:
        try:
            for folder in locked:
                folder.mkdir(parents=True, exist_ok=True)
                locks.enter_context(filelock.FileLock(folder / ".report.lock", timeout=0))
        except filelock.Timeout:
            print(f"another report is being made in {folder.name}/: wait, or set --output")
            return 1
        except OSError as error:
            print(f"cannot write to {folder.name}/ ({error.strerror or error}): set --output")
            return 1
        try:
            return _make(output, in_place, only)
        except (files.WriteError, results.ResultsError) as error:
            print(error)
            return 1


def _make(output: Path, in_place: bool, only: list[str] | None) -> int:
    kept = results.REFERENCE if in_place else output / "results"
    os.environ["COURSE_RESULTS"] = str(kept)
    if in_place:
        os.environ.setdefault("COURSE_DATA", "mnist")  # a reference run must not fall back
    names = [path.stem for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))]
    if not only:  # what an earlier run measured is not this run's
        for name in ["run"] if in_place else [*names, "summary", "run"]:
            (kept / f"{name}.json").unlink(missing_ok=True)
    written = {output: "html", kept: "json"} | ({NOTEBOOKS: "ipynb"} if in_place else {})
    for folder, kind in written.items():  # what a run that was killed left half-written
        for path in folder.glob(f"*.{kind}.*.tmp"):
            path.unlink()
    current = settings.load()
    dataset = data.load(current)
    if dataset.is_fallback:
        os.environ["COURSE_DATA"] = "digits"  # the notebooks need not ask the network again
        current = replace(current, data="digits")
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in names if not only or name in only]
    # Here rather than in the notebooks, whose bars nobody would see.
    start = time.perf_counter()
    weights = {"float32": models.weights_hash(_train(current, dataset))}
    if SECOND in [path.stem for path in paths]:
        _train(current, data.load(current, "fashion"))
    _note_seconds(kept, "training", time.perf_counter() - start)
    facts = environment.describe(current, dataset.source, weights)
    os.environ["TQDM_DISABLE"] = "1"  # in the kernels: a bar does not belong into saved outputs
    runs: list[Run] = []
    for number, path in enumerate(paths, start=1):
        place = f"[{number}/{len(paths)}] {path.stem}"
        notebook, run = execute(path, place)
        runs.append(run)
        page = to_html(notebook, hide_code=path.stem.endswith("_report"))
        files.write_text(output / f"{path.stem}.html", page)
        files.write_text(output / "index.html", index_page(runs, facts, _headline(kept)))
        if run.error:
            print(f"{place}: FAILED after {run.seconds:.0f} s\n\n{run.error}\n")
            print(f"{path.stem} failed; what was made so far is in {output.name}/index.html")
            return 1
        _note_seconds(kept, run.name, run.seconds)
        if in_place:
            files.write_text(path, nbformat.writes(notebook) + "\n")
        print(f"{place}: {run.seconds:.0f} s", flush=True)
    if in_place:
        results.update_readme(PROJECT / "README.md", results.collect(kept))
        save_headline_figure(kept)
    print(f"report: {output.name}/index.html")
    return 0


def _note_seconds(folder: Path, name: str, seconds: float) -> None:
    """Keep what each notebook took in ``run.json``, which notebook 09 shows."""
    noted = results.read(folder, "run") if (folder / "run.json").exists() else {}
    results.save(folder / "run.json", noted | {name: seconds})


def _train(current: settings.Settings, dataset: data.Dataset) -> nn.Module:
    """Have the float32 model of a dataset ready, and say how long that takes."""
    recipe = training.recipe_for(current, dataset)
    if training.checkpoint_path(current, recipe).exists():
        print("float model: trained before")
    else:
        print(f"float model: training {recipe.epochs} epochs on {current.device}, once", flush=True)
    start = time.perf_counter()
    model, history = training.load_or_train(current, dataset)
    accuracy = history["test_accuracy"].iloc[-1]
    print(f"float model: {accuracy:.2%} ({time.perf_counter() - start:.0f} s)", flush=True)
    return model


def save_headline_figure(folder: Path) -> None:
    """Draw ``headline.png``, the README's figure, from the results in a folder."""
    quantized, benchmark = (results.read(folder, name) for name in results.SOURCES)
    figure, _ = quantization_figures.headline(
        comparison.Comparison(**quantized["comparison"]),
        quantized["float_bytes"],
        quantized["int8_bytes"],
        pd.DataFrame(benchmark.get("headline") or benchmark["verdicts"]),
    )
    files.write_atomically(
        folder / "headline.png",
        lambda path: figure.savefig(path, format="png", dpi=style.DPI, metadata={"Software": None}),
    )


def _headline(folder: Path) -> str:
    if not all((folder / f"{name}.json").exists() for name in results.SOURCES):
        return "<p>The table of results appears when notebooks 03 and 04 have run.</p>"
    try:
        summary = results.collect(folder)
    except (results.ResultsError, KeyError) as error:  # other weights, or an older layout
        return f"<p>There is no table of results: {html.escape(str(error))}</p>"
    return results.headline(summary).to_html(index=False, border=0)


def main() -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m utils.report", description=__doc__)
    parser.add_argument("--output", type=Path, default=PROJECT / "report", help="folder to write")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="also refresh the committed notebooks, results/ and the README's table",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="notebooks, without .ipynb")
    arguments = parser.parse_args()
    known = sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb"))
    unknown = set(arguments.only or ()) - set(known)
    if unknown:
        parser.error(f"no notebook {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    output = arguments.output.resolve()
    if output == PROJECT:
        parser.error("--output must not be the project: its results/ are the reference run's")
    return make(output, in_place=arguments.in_place, only=arguments.only)


if __name__ == "__main__":
    sys.exit(main())
