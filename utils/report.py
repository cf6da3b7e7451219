"""Execute the notebooks and make the report: ``python -m utils.report`` (see ``--help``)."""

import argparse
import base64
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import jinja2
import nbformat
import pandas as pd
from latex2mathml.converter import convert as mathml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from torch import nn
from tqdm import tqdm

from utils import comparison, data, environment, files, models, results, settings, training
from utils.figures import quantization as quantization_figures
from utils.figures import style
from utils.lab import playground
from utils.settings import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
SECOND = "06_accuracy_limits"  # which needs a second float32 model, on Fashion-MNIST
CELL_SECONDS = 3600
METADATA = {  # without the kernel's version, which is the machine's and not the notebook's
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
# JupyterLab's page without what it would fetch, and with the figures' alternative text.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block data_png %}<img src="data:image/png;base64,{{ output.data['image/png'].strip() }}"
alt="{{ (output | get_metadata('alt', 'image/png') or '') | e }}">{% endblock %}"""


@dataclass
class Run:
    """What became of one notebook: its title, the seconds it took, and its error if it failed."""

    name: str
    title: str
    seconds: float = 0.0
    error: str | None = None


def title_of(notebook: nbformat.NotebookNode) -> str:
    """Return the text of a notebook's first heading; raises ValueError if there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    raise ValueError("the notebook has no title: its first markdown cell must begin with '# '")


def execute(path: Path, label: str = "") -> tuple[nbformat.NotebookNode, Run]:
    """Execute a notebook in a fresh kernel, in its own folder, up to the end or to a failing cell.

    The label stands beside the progress bar.
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
            on_cell_executed=lambda **_: bar.update(),
        )
        start = time.perf_counter()
        try:
            client.execute(cwd=path.parent, env=os.environ | {"COURSE_WIDGETS": "off"})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            run.error = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        run.seconds = time.perf_counter() - start
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook, run


def offline(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy that needs nothing around it: a page may be copied to another machine.

    Formulas become MathML, which browsers draw themselves, links to notebooks lead to their pages,
    and pictures of the project are embedded.
    """

    def drawn(match: re.Match) -> str:
        code, block, inline = match.groups()
        display = "block" if block else "inline"
        return code or mathml((block or inline).strip(), display=display)

    def embedded(match: re.Match) -> str:
        picture = base64.b64encode((NOTEBOOKS / match[1]).read_bytes()).decode()
        return f"](data:image/png;base64,{picture})"

    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = FORMULA.sub(drawn, re.sub(r"\]\((\.\./[^)]+\.png)\)", embedded, cell.source))
            cell.source = re.sub(r"\]\((\w+)\.ipynb(#[^)]*)?\)", r"](\1.html\2)", text)
    return notebook


def to_html(notebook: nbformat.NotebookNode, *, hide_code: bool = False) -> str:
    """Render an executed notebook as one page that needs no network."""
    parts = ("exclude_input", "exclude_input_prompt", "exclude_output_prompt")
    exporter = HTMLExporter(raw_template=PAGE, **dict.fromkeys(parts, hide_code))
    named = {"metadata": {"name": title_of(notebook)}}
    return exporter.from_notebook_node(offline(notebook), resources=named)[0]


def index_page(runs: list[Run], facts: dict, kept: Path, *, played: bool = False) -> str:
    """Return the report's start page, from the results in a folder and the machine's facts.

    ``played`` says whether there is a playground to link to.
    """
    table, missing = None, "The table of results appears when these notebooks have run: "
    missing += " ".join(results.SOURCES.values())
    if all((kept / f"{name}.json").exists() for name in results.SOURCES):
        try:
            table = results.headline(results.collect(kept)).to_html(index=False, border=0)
        except (results.ResultsError, KeyError) as error:  # other weights, or an older layout
            missing = f"There is no table of results: {error}"
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return jinja2.Template(template, autoescape=True, keep_trailing_newline=True).render(
        runs=runs,
        facts={key.replace("_", " "): results.listed(value) for key, value in facts.items()},
        fallback=facts["data_source"] == data.DIGITS and facts["profile"] == "full",
        table=table,
        missing=missing,
        played=played,
    )


def make(output: Path, *, in_place: bool, only: list[str] | None = None) -> int:
    """Execute the notebooks in order, write the report to a folder and return the exit code.

    It is 1 if a notebook failed, or if nothing could be started. What was made before stays; every
    file is complete at any moment, so a run that was killed is simply repeated. With ``in_place``
    the executed notebooks, the results of the reference run and the README's table are kept too.
    ``only`` names the notebooks, by default all.
    """
    current = settings.load()
    failed = [row for row in environment.check(current) if row[0] == environment.FAIL]
    for _, what, detail in failed:
        print(f"[FAIL] {what}: {detail}")
    if failed:
        return 1
    # Whoever refreshes the committed files needs them alone, whatever the folder of the report.
    shared = [current.home / "artifacts"] if in_place else []
    kept = results.REFERENCE if in_place else output / "results"
    try:
        with _locked(output, *shared):
            if not only:  # what an earlier run measured is not this run's
                for name in ["run"] if in_place else [*_names(), "summary", "run"]:
                    (kept / f"{name}.json").unlink(missing_ok=True)
            names = [name for name in _names() if not only or name in only]
            facts = _train_all(kept, second=SECOND in names)
            if not only:
                _write_playground(output, kept if in_place else None)
            if not _execute_all(names, facts, output, in_place=in_place):
                return 1
            if in_place:
                results.update_readme(PROJECT / "README.md", results.collect(kept))
                save_headline_figure(kept)
    except (files.WriteError, results.ResultsError) as error:
        print(error)
        return 1
    print(f"report: {output.name}/index.html")
    return 0


@contextlib.contextmanager
def _locked(*folders: Path) -> Iterator[None]:
    """Make these folders and keep every other report out of them."""
    with contextlib.ExitStack() as locks:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                locks.enter_context(filelock.FileLock(folder / ".report.lock", timeout=0))
            except OSError as error:
                problem = f"cannot write to {folder.name}/ ({error.strerror or error}):"
                if isinstance(error, filelock.Timeout):
                    problem = f"another report is being made in {folder.name}/: wait, or"
                raise files.WriteError(f"{problem} set --output") from error
        yield


def _train_all(kept: Path, *, second: bool) -> dict:
    """Make the float32 models here, since nobody would see the bars of a notebook's kernel.

    Returns the facts about this run, and tells the kernels by the environment what was settled.
    """
    os.environ["COURSE_RESULTS"] = str(kept)
    if kept == results.REFERENCE:
        os.environ.setdefault("COURSE_DATA", "mnist")  # a reference run must not fall back
    current = settings.load()
    dataset = data.load(current)
    if dataset.is_fallback:
        os.environ["COURSE_DATA"] = "digits"  # the notebooks need not ask the network again
        current = replace(current, data="digits")
    start = time.perf_counter()
    weights = {"float32": models.weights_hash(_train(current, dataset))}
    if second:
        _train(current, data.load(current, "fashion"))
    _note_seconds(kept, "training", time.perf_counter() - start)
    os.environ["TQDM_DISABLE"] = "1"  # in the kernels: a bar does not belong into saved outputs
    return environment.describe(current, dataset.source, weights)


def _execute_all(names: list[str], facts: dict, output: Path, *, in_place: bool) -> bool:
    """Execute the notebooks and write their pages; return False after one that failed."""
    kept, runs = Path(os.environ["COURSE_RESULTS"]), []
    played = (output / "playground.html").exists()
    for number, name in enumerate(names, start=1):
        path, place = NOTEBOOKS / f"{name}.ipynb", f"[{number}/{len(names)}] {name}"
        notebook, run = execute(path, place)
        runs.append(run)
        page = to_html(notebook, hide_code=name.endswith("_report"))
        files.write_text(output / f"{name}.html", page)
        files.write_text(output / "index.html", index_page(runs, facts, kept, played=played))
        if run.error:
            print(f"{place}: FAILED after {run.seconds:.0f} s\n\n{run.error}\n")
            print(f"{name} failed; what was made so far is in {output.name}/index.html")
            return False
        _note_seconds(kept, name, run.seconds)
        if in_place:
            files.write_text(path, nbformat.writes(notebook) + "\n")
        print(f"{place}: {run.seconds:.0f} s", flush=True)
    return True


def _write_playground(output: Path, kept: Path | None) -> None:
    """Write the page in which a reader draws a digit; with ``kept``, its picture for the README."""
    current = settings.load()
    dataset = data.load(current, announce=False)
    model, _ = training.load_or_train(current, dataset)
    calibration = data.calibration_images(dataset, current.calibration_images)
    page = playground.write_page(
        output / "playground.html", playground.build(model, calibration, dataset)
    )
    if kept is not None:
        try:
            playground.take_picture(page, kept / "playground.png")
        except (ImportError, FileNotFoundError) as error:
            print(f"the playground's picture is as before: {error}")


def _names() -> list[str]:
    return sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))


def _note_seconds(folder: Path, name: str, seconds: float) -> None:
    """Keep what each notebook took in ``run.json``, which notebook 09 shows."""
    noted = results.read(folder, "run") if (folder / "run.json").exists() else {}
    results.save(folder / "run.json", noted | {name: seconds})


def _train(current: settings.Settings, dataset: data.Dataset) -> nn.Module:
    """Have the float32 model of a dataset ready, and say how long that takes."""
    recipe = training.recipe_for(current, dataset)
    known = training.checkpoint_path(current, recipe).exists()
    doing = f"training {recipe.epochs} epochs on {current.device}, once"
    print(f"float model: {'trained before' if known else doing}", flush=True)
    start = time.perf_counter()
    model, history = training.load_or_train(current, dataset)
    accuracy = history["test_accuracy"].iloc[-1]
    print(f"float model: {accuracy:.2%} ({time.perf_counter() - start:.0f} s)", flush=True)
    return model


def save_headline_figure(folder: Path) -> None:
    """Draw ``headline.png``, the README's figure, from the results in a folder."""
    quantized, benchmark = (results.read(folder, name) for name in results.SOURCES)
    paired = comparison.Comparison(**quantized["comparison"])
    sizes = (quantized["float_bytes"], quantized["int8_bytes"])
    timed = pd.DataFrame(benchmark.get("headline") or benchmark["verdicts"])
    figure, _ = quantization_figures.headline(paired, *sizes, timed)
    options = {"format": "png", "dpi": style.DPI, "metadata": {"Software": None}}
    path = folder / "headline.png"
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, **options))


def main() -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m utils.report", description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=PROJECT / "report", help="folder to write")
    also = "also refresh the committed notebooks, results/ and the README's table"
    add("--in-place", action="store_true", help=also)
    add("--only", nargs="+", choices=_names(), metavar="NAME", help="notebooks, without .ipynb")
    chosen = parser.parse_args()
    output = chosen.output.resolve()
    if output == PROJECT:
        parser.error("--output must not be the project: its results/ are the reference run's")
    return make(output, in_place=chosen.in_place, only=chosen.only)


if __name__ == "__main__":
    sys.exit(main())
