"""Execute the notebooks and make the report: ``python -m utils.report`` (see ``--help``)."""

import argparse
import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import jinja2
import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from torch import nn
from tqdm import tqdm

from utils import comparison, data, environment, files, models, results, settings, training
from utils.figures import quantization as quantization_figures
from utils.figures import style
from utils.lab import playground
from utils.settings import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
SECOND = "06_accuracy_limits"  # which needs a second float32 model, on Fashion-MNIST
# They measure time, and the last one reads what the others wrote: nothing may run beside them.
ALONE = ("00_", "02_", "04_", "08_", "09_")
CELL_SECONDS = 3600
METADATA = {  # without the kernel's version, which is the machine's and not the notebook's
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SITE = Path(__file__).with_name("site")  # the settings of Sphinx, which makes the pages


@dataclass
class Run:
    """What became of one notebook: the seconds it took, and its error if it failed."""

    name: str
    seconds: float = 0.0
    error: str | None = None


def title_of(notebook: nbformat.NotebookNode) -> str:
    """Return the text of a notebook's first heading; raises ValueError if there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    raise ValueError("the notebook has no title: its first markdown cell must begin with '# '")


def execute(path: Path, label: str = "", threads: int = 0) -> tuple[nbformat.NotebookNode, Run]:
    """Execute a notebook in a fresh kernel, in its own folder, up to the end or to a failing cell.

    The label stands beside the progress bar. Without a number of threads, torch uses all cores.
    """
    notebook = nbformat.read(path, as_version=4)
    run = Run(path.stem)
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
        environ = os.environ | {"COURSE_WIDGETS": "off"}
        if threads:
            environ["OMP_NUM_THREADS"] = str(threads)
        try:
            client.execute(cwd=path.parent, env=environ)
        except (RuntimeError, AssertionError):  # also DeadKernelError, and nbclient's own
            run.error = "The kernel died: is there enough memory? Run the notebook alone."
        except (CellExecutionError, CellTimeoutError) as error:
            run.error = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        run.seconds = time.perf_counter() - start
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook, run


def answer(summary: dict) -> str:
    """Return the course's answer in a few sentences, from the results alone."""
    table = results.headline(summary)
    accuracy, size, _, faster = table["change"][:4]
    fastest = table.iloc[3, 0].split("fastest: ")[1]
    text = (
        f"In this run, int8 changes the accuracy of ResNet-18 by {accuracy} and makes its file "
        f"{size}. With one image at a time, int8 in eager PyTorch is {faster}, compared with "
        f"float32 in {fastest}."
    )
    for one in summary.get("shipped", {}).get("ratio", [])[:1]:
        text += " Over PyTorch, ONNX Runtime and OpenVINO, the fastest int8 is "
        text += f"{one:.2f} times as fast as the fastest float32."
    if small := summary.get("smallest"):
        text += f" The smallest file that keeps the accuracy has {small['bytes'] / 1e6:.2f} MB."
    return text


def start_page(notebooks: dict, kept: Path, folder: Path, **shown) -> str:
    """Return the start page in MyST Markdown, and draw its figure in a folder.

    Its results are those kept in another folder; what else it shows is given by name.
    """
    missing = "The table of results appears when these notebooks have run: "
    shown["table"] = missing + " ".join(results.SOURCES.values())
    if all((kept / f"{name}.json").exists() for name in results.SOURCES):
        try:
            summary = results.collect(kept)
            alt = save_headline_figure(kept, folder)
            table = results.readme_block(summary).replace("](notebooks/", "](")
            shown |= {"table": table, "answer": answer(summary), "alt": alt}
        except (results.ResultsError, KeyError) as error:  # other weights, or an older layout
            shown["table"] = f"There is no table of results: {error}"
    facts, questions = shown["facts"], {}
    for name, notebook in notebooks.items():
        text = notebook.cells[0].source.partition("\n")[2].replace("\n", " ")
        questions[name] = "".join(re.findall(r"[^.?]+\?", text)[:1])
    return jinja2.Template((SITE / "start.md").read_text(encoding="utf-8")).render(
        shown,
        questions=questions,
        seconds=results.read(kept, "run") if (kept / "run.json").exists() else {},
        fallback=facts["data_source"] == data.DIGITS and facts["profile"] == "full",
        facts={key.replace("_", " "): results.listed(value) for key, value in facts.items()},
    )


def site(folder: Path, kept: Path, facts: dict, output: Path, failed: Run | None = None) -> None:
    """Make the pages of a folder's executed notebooks, and the start page with kept results.

    Sphinx makes them beside those of an earlier report, which are then replaced one by one: every
    file is whole at any moment, and a page comes after what it shows. Raises WriteError.
    """
    work = output / ".site"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    source, build = work / "source", work / "build"
    for made in (source, work / "results"):
        made.mkdir(parents=True)
    for picture in results.REFERENCE.glob("*.png"):  # the notebooks show it as ../results/...
        shutil.copy(picture, work / "results")
    notebooks = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        notebooks[path.stem] = nbformat.read(shutil.copy(path, source), 4)
    played = (output / "playground.html").exists()
    text = start_page(notebooks, kept, source, facts=facts, failed=failed, played=played)
    (source / "index.md").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "-c", SITE, "-d", work / "read"]
    if subprocess.run([*command, source, build], check=False).returncode:
        raise files.WriteError("Sphinx could not make the pages; its message stands above.")
    pages = [path.relative_to(build) for path in build.rglob("*") if path.is_file()]
    for path in sorted(pages, key=lambda path: (path.suffix == ".html", path.stem == "index")):
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(build / path, output / path)
    for path in output.glob("*.html"):  # the page of a notebook that is no more
        if path.name != "playground.html" and path.relative_to(output) not in pages:
            path.unlink()
    shutil.rmtree(work)


def make(output: Path, *, in_place: bool, only: list[str] | None = None) -> int:
    """Execute the notebooks, write the report to a folder and return the exit code.

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
    shared = [PROJECT / "artifacts"] if in_place else []
    kept = results.REFERENCE if in_place else output / "results"
    try:
        with _locked(output, *shared):
            if not only:  # what an earlier run measured is not this run's
                for name in ["run"] if in_place else [*_names(), "summary", "run"]:
                    (kept / f"{name}.json").unlink(missing_ok=True)
                shutil.rmtree(output / "notebooks", ignore_errors=True)
            names = [name for name in _names() if not only or name in only]
            facts = _train_all(kept, second=SECOND in names)
            if not only:
                _write_playground(output, kept if in_place else None)
            failed = _execute_all(names, output / "notebooks", in_place=in_place)
            site(output / "notebooks", kept, facts, output, failed)
            if failed:
                print(f"{failed.name} failed; what was made so far is in {output.name}/index.html")
                return 1
            if in_place:
                results.update_readme(PROJECT / "README.md", results.collect(kept))
                save_headline_figure(kept)
    except (files.WriteError, results.ResultsError, data.DataError, training.CheckpointError) as e:
        print(e)
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
    if kept == results.REFERENCE and settings.load().data == "auto":
        os.environ["COURSE_DATA"] = "mnist"  # a reference run must not fall back
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


def _execute_all(names: list[str], folder: Path, *, in_place: bool) -> Run | None:
    """Execute the notebooks and keep them in a folder; return one that failed, if any did.

    Those that measure no time come first, from the last one, since 07 and 06 take longest, and
    share the cores; the others follow one by one.
    """
    shared = [name for name in reversed(names) if not name.startswith(ALONE)]
    cores = os.cpu_count() or 1
    workers = max(1, min(cores, len(shared)))

    def run(name: str, threads: int = 0) -> Run:
        path, place = NOTEBOOKS / f"{name}.ipynb", f"[{names.index(name) + 1}/{len(names)}] {name}"
        notebook, made = execute(path, place, threads)
        for kept in (folder, NOTEBOOKS) if in_place and not made.error else (folder,):
            files.write_text(kept / path.name, nbformat.writes(notebook) + "\n")
        seconds = f"{made.seconds:.0f} s"
        tqdm.write(
            f"{place}: FAILED after {seconds}\n\n{made.error}\n"
            if made.error
            else f"{place}: {seconds}"
        )
        return made

    side_by_side = ThreadPoolExecutor(workers).map(run, shared, itertools.repeat(cores // workers))
    one_by_one = (run(name) for name in names if name not in shared)
    try:
        for runs in (side_by_side, one_by_one):
            failed = None
            for made in runs:
                if made.error:
                    failed = made
                    if runs is one_by_one:
                        break
                else:
                    _note_seconds(Path(os.environ["COURSE_RESULTS"]), made.name, made.seconds)
            if failed:
                return failed
    except KeyboardInterrupt:
        os._exit(130)  # now, and not when the threads end; the kernels end with this process
    return None


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
    results.save(folder / "run.json", dict(sorted((noted | {name: seconds}).items())))


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


def save_headline_figure(folder: Path, target: Path | None = None) -> str:
    """Draw ``headline.png`` from a folder's results, there or in ``target``; return its text."""
    quantized, benchmark = (results.read(folder, name) for name in results.SOURCES)
    paired = comparison.Comparison(**quantized["comparison"])
    sizes = (quantized["float_bytes"], quantized["int8_bytes"])
    timed = pd.DataFrame(benchmark.get("headline") or benchmark["verdicts"])
    figure, alt = quantization_figures.headline(paired, *sizes, timed)
    options = {"format": "png", "dpi": style.DPI, "metadata": {"Software": None}}
    path = (target or folder) / "headline.png"
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, **options))
    return alt


def main() -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m utils.report", description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=PROJECT / "report", help="folder to write")
    also = "also refresh the committed notebooks, results/ and the README's table"
    add("--in-place", action="store_true", help=also)
    add("--no-execute", action="store_true", help="show the committed notebooks and results")
    add("--only", nargs="+", choices=_names(), metavar="NAME", help="notebooks, without .ipynb")
    output = (chosen := parser.parse_args()).output.resolve()
    there = {path.name for path in output.glob("*")}  # a report replaces what its folder holds
    if output == PROJECT or (there and not there & {".report.lock", "results", "searchindex.js"}):
        parser.error("--output must not be the project, nor a folder with files of your own")
    if chosen.no_execute:
        facts = results.read(results.REFERENCE, "00_quickstart")["environment"]
        with _locked(output):
            site(NOTEBOOKS, results.REFERENCE, facts, output)
        return 0
    return make(output, in_place=chosen.in_place, only=chosen.only)


if __name__ == "__main__":
    sys.exit(main())
