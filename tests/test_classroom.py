import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from utils.lab import classroom

SOLUTION = "answer = 6 * 7\nexercises.check_answer(answer)"
CHECKS = """
from utils.exercises import Hint, answered, correct


def check_answer(answer):
    if answered(answer):
        if answer != 42:
            raise Hint(f"{answer} is not the product of six and seven")
        if not isinstance(answer, int):
            raise Hint("A whole number.")
        correct("Six times seven.")
"""


@pytest.fixture
def lesson():
    """A notebook with one exercise."""
    cells = [
        new_markdown_cell("# A lesson\n\nSee $x^2$ and [next](01_next.ipynb)."),
        new_code_cell("import lesson_checks as exercises"),
        new_markdown_cell("## Exercises\nFill in the cell. The solutions are folded."),
        new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
        new_code_cell("exercises.check_answer(answer)"),
        new_markdown_cell("The answer is 42, because:"),
        new_code_cell(SOLUTION, metadata={"tags": ["solution"]}),
        new_markdown_cell("## Next"),
    ]
    return new_notebook(cells=cells)


def test_students_get_everything_but_the_solution(lesson):
    kept = [cell.source for cell in classroom.student(lesson).cells]
    told = ("The answer is 42, because:", SOLUTION)
    assert [text.replace("cell.", "cell. The solutions are folded.") for text in kept] == [
        cell.source for cell in lesson.cells if cell.source not in told
    ]
    assert len(lesson.cells) == 8  # the notebook itself is as it was


def test_an_exercise_needs_its_check_and_solution(lesson):
    del lesson.cells[6]
    with pytest.raises(ValueError, match=r"no check and solution follow the exercise 'answer = "):
        list(classroom.exercises(lesson))


def test_slides_end_before_the_exercises_and_load_nothing_from_the_network(lesson):
    html = classroom.slides(lesson)
    found = [text in html for text in ("A lesson", "<math", "01_next.html", "check_answer")]
    assert found == [True, True, True, False]  # comparing whole pages would take minutes
    loaded = re.findall(r"<(?:script|link)[^>]*\s(?:src|href)=[\"']([^\"']*)", html)
    assert loaded and all(address.startswith("reveal.js/") for address in loaded)
    assert not re.findall(r"(?:import|from|url\()\s*[\"']?https?:", html)


def test_slides_show_figures_and_fold_their_code(lesson, tmp_path, browser):
    reveal = pytest.importorskip(classroom.REVEAL)
    axe = pytest.importorskip("axe_core_python.selenium")
    dot = base64.b64encode((classroom.report.PROJECT / "results/headline.png").read_bytes())
    picture = new_output("display_data", {"image/png": dot.decode()}, metadata={})
    short, long = "x = 1", "\n".join(f"x = {number}" for number in range(20))
    cells = [new_code_cell(short, outputs=[picture]), new_code_cell(long), new_code_cell(short)]
    lesson.cells[1:1] = cells
    (tmp_path / "slides.html").write_text(classroom.slides(lesson))
    shutil.copytree(Path(reveal.__file__).parent / "_static" / "revealjs", tmp_path / "reveal.js")
    browser.get((tmp_path / "slides.html").as_uri())
    folded, drawn, formulas = browser.execute_script(
        """return [[...document.querySelectorAll(".jp-CodeCell")].map((cell) =>
        Boolean(cell.querySelector("details:not([open]) .jp-Cell-inputWrapper"))),
        [...document.images].map((image) => image.naturalWidth),
        [...document.querySelectorAll("math")].map((math) => math.clientHeight > 0)]"""
    )
    assert (folded, min(drawn) > 1, formulas) == ([True, True, False, False], True, [True])
    found = {violation["id"] for violation in axe.Axe().run(browser)["violations"]}
    assert found <= {"landmark-complementary-is-top-level"}  # the arrows of reveal.js itself
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_notes_list_solution_and_hints(lesson, tmp_path, monkeypatch):
    folder = tmp_path / "utils" / "exercises"
    folder.mkdir(parents=True)
    (folder / "lesson.py").write_text(CHECKS)
    monkeypatch.setattr(classroom.report, "PROJECT", tmp_path)
    notes = classroom.notes({"00_lesson": lesson})
    assert "## 00_lesson: A lesson" in notes
    assert f"```python\n{SOLUTION}\n```" in notes
    assert "- … is not the product of six and seven" in notes and "- A whole number." in notes


def test_nbgrader_gives_the_solution_its_point_and_the_untouched_version_none(
    lesson, tmp_path, monkeypatch
):
    pytest.importorskip("nbgrader")
    from nbgrader.api import Gradebook

    (tmp_path / "lesson_checks.py").write_text(CHECKS)
    paths = [str(tmp_path), str(classroom.report.PROJECT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]  # nbgrader calls alembic
    monkeypatch.setenv("PATH", os.pathsep.join(programs))
    source = classroom.for_nbgrader(lesson, "one")
    release = tmp_path / "release" / "one" / "one.ipynb"
    for name in ("source/one", "submitted/ada/one", "submitted/bob/one"):
        (tmp_path / name).mkdir(parents=True)
        nbformat.write(source, tmp_path / name / "one.ipynb")
    for command in ("generate_assignment", "autograde"):
        run = [sys.executable, "-m", "nbgrader", command, "one"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command == "generate_assignment":
            assert "6 * 7" not in release.read_text()
            (tmp_path / "submitted/bob/one/one.ipynb").write_bytes(release.read_bytes())
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as book:
        scores = {name: book.find_submission("one", name).score for name in ("ada", "bob")}
    assert scores == {"ada": 1, "bob": 0}
