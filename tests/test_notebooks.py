"""The notebooks as documents, and one of them opened first in an empty clone."""

import itertools
import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from utils import results
from utils.report import NOTEBOOKS, execute, title_of
from utils.settings import PROJECT

PATHS = sorted(NOTEBOOKS.rglob("*.ipynb"))
PATHS = [path for path in PATHS if ".ipynb_checkpoints" not in path.parts]
PRIVATE = re.compile(r"(/root\b|/home/\w|/Users/\w|/work\b|/tmp\b|site-packages|[A-Z]:\\\\)")
TEMPLATE = (
    "**You will learn",
    "**Before you start",
    "**Time",
    "## Recap",
    "## References",
    "## Next",
)
EXPECTED = (
    "00_quickstart",
    "01_architecture",
    "02_gpu_training",
    "03_fusion_and_calibration",
    "04_cpu_benchmark",
    "05_integer_arithmetic",
    "06_accuracy_limits",
    "07_low_bit",
    "08_deployment",
    "09_report",
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def outputs(notebook):
    return [(cell, output) for cell in code(notebook) for output in cell.outputs]


def text_of(output) -> str:
    data = output.get("data", {})
    return "".join(
        [output.get("text", ""), data.get("text/plain", ""), *output.get("traceback", [])]
    )


def test_every_planned_notebook_is_there():
    assert {path.stem for path in PATHS} >= set(EXPECTED)


def test_it_is_a_valid_notebook_with_a_title(notebook):
    nbformat.validate(notebook)
    assert title_of(notebook)


def test_it_was_executed_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_error_no_stderr_no_progress_bar_no_widget(notebook):
    for cell, output in outputs(notebook):
        tagged = "raises-exception" in cell.metadata.get("tags", [])
        assert output.output_type != "error" or tagged
        assert output.get("name") != "stderr", output.text
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        assert "Warning" not in text_of(output)
        assert "<Figure" not in text_of(output)


def test_no_private_path_in_outputs(notebook):
    for _, output in outputs(notebook):
        assert not PRIVATE.search(text_of(output)), text_of(output)


def test_committed_outputs_are_of_the_full_profile_on_mnist(path, notebook):
    text = "\n".join(text_of(output) for _, output in outputs(notebook))
    assert "profile: full" in text or "full profile" in text
    assert "MNIST (torchvision)" in text


def test_cells_are_short_and_explained(notebook):
    lines = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert max(lines) <= 25
    assert statistics.median(lines) <= 8
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= len(lines)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert ("code", "code") not in itertools.pairwise(kinds)


def test_every_figure_has_alt_text(notebook):
    for _, output in outputs(notebook):
        if "image/png" in output.get("data", {}):
            assert len(output.metadata.get("image/png", {}).get("alt", "")) > 40


def test_it_follows_the_template(notebook):
    text = prose(notebook)
    for term in TEMPLATE:
        assert term in text, f"missing: {term}"


def without_report(path):
    if path.stem == "09_report":
        pytest.skip("a report, not a lesson")


def place(notebook, heading: str) -> int:
    """Number of the cell with this heading."""
    lines = ((i, line) for i, c in enumerate(notebook.cells) for line in c.source.splitlines())
    return next(i for i, line in lines if line.startswith(heading))


def test_the_core_path_is_one_lesson_and_asks_to_predict(path, notebook):
    without_report(path)
    assert place(notebook, "## Recap") < place(notebook, "## Exercises") <= 45
    assert prose(notebook).count("**Predict first.**") >= 2


def test_three_exercises_each_with_a_hidden_solution(path, notebook):
    without_report(path)
    cells = code(notebook)
    tasks, solutions = (
        [c for c in cells if tag in c.metadata.get("tags", [])] for tag in ("exercise", "solution")
    )
    assert len(tasks) >= 3 and len(solutions) >= 3
    for cell in solutions:
        assert cell.metadata.get("jupyter", {}).get("source_hidden")
        assert "exercises.check_" in cell.source
        assert any("Correct." in text_of(output) for output in cell.outputs), cell.source


def test_going_deeper_is_folded(path, notebook):
    without_report(path)
    start, end = place(notebook, "## Going deeper"), place(notebook, "## References")
    assert place(notebook, "## Exercises") < start < end
    for cell in notebook.cells[start:end]:
        if cell.cell_type == "markdown" and re.match(r"#{2,4} ", cell.source):
            assert cell.metadata.get("jp-MarkdownHeadingCollapsed"), cell.source[:60]


def test_next_leads_to_the_next_notebook(path, notebook):
    following = [other.name for other in sorted(PATHS) if other.name > path.name]
    if following:
        after = notebook.cells[place(notebook, "## Next") :]
        assert f"({following[0]})" in "\n".join(cell.source for cell in after)


def test_links_to_files_resolve(path, notebook):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(notebook)):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), target


def test_it_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_the_quickstart_has_at_most_ten_code_cells_up_to_its_recap():
    notebook = nbformat.read(NOTEBOOKS / "00_quickstart.ipynb", 4)
    core = notebook.cells[: place(notebook, "## Recap")]
    assert sum(cell.cell_type == "code" for cell in core) <= 10


def test_a_later_notebook_passes_alone_with_nothing_there(tmp_path, monkeypatch):
    """Notebook 03, opened first: an empty home, no checkpoint, no results."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    monkeypatch.delenv("COURSE_RESULTS", raising=False)
    _, run = execute(NOTEBOOKS / "03_fusion_and_calibration.ipynb")
    assert run.error is None, run.error
    folder = tmp_path / "artifacts" / "quick" / "results"
    assert (folder / "03_fusion_and_calibration.json").exists()
    assert PROJECT not in folder.parents


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("05_integer_arithmetic", "**Not shown:** the int8 weights differ (aaa in the sections"),
        ("04_cpu_benchmark", "The results of this machine's run are not shown: the int8 weights"),
    ],
)
def test_the_report_shows_no_figures_of_other_weights(tmp_path, monkeypatch, name, said):
    for path in results.REFERENCE.glob("0*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["environment"]["weights"] = {"int8": "bbb" if path.stem == name else "aaa"}
        results.save(tmp_path / path.name, record)
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))
    executed, run = execute(NOTEBOOKS / "09_report.ipynb")
    assert run.error is None, run.error
    shown = "\n".join(
        text_of(output) + output.get("data", {}).get("text/markdown", "")
        for _, output in outputs(executed)
    )
    assert said in shown
    if name == "05_integer_arithmetic":
        assert "different from fbgemm" not in shown  # a column of its table
