"""Make the class material: student notebooks, nbgrader sources, slides, instructor's notes.

``python -m utils.lab.classroom`` (``make class``) writes it to ``class/``; nothing is executed.
An exercise is three cells: one tagged ``exercise`` to work in, a check, and one tagged
``solution`` that solves it and calls the same check.
"""

import argparse
import ast
import base64
import importlib.util
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import SlidesExporter
from nbformat import NotebookNode

from utils import files, report
from utils.report import NOTEBOOKS

REVEAL = "sphinx_revealjs"  # a package that carries reveal.js, so that slides need no network
FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
# Slides without what they would fetch, and with the figures' alternative text. reveal.js starts
# without RequireJS. A class looks at results: code that is long or draws a figure is folded, and
# what is still too tall scrolls.
SHOW = """{% extends 'reveal/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block data_png %}<img src="data:image/png;base64,{{ output.data['image/png'].strip() }}"
alt="{{ (output | get_metadata('alt', 'image/png') or '') | e }}">{% endblock %}
{% block footer_js %}
<style>.reveal .slides section section { max-height: 700px; overflow-y: auto; }
.reveal h1, .reveal h2, .reveal h3 { text-transform: none; }
.reveal .jp-OutputArea img { max-height: 480px; width: auto; }
.reveal .jp-OutputArea pre { max-height: 320px; overflow: auto; }
.reveal summary { font-size: 60%; cursor: pointer; } .reveal .jp-InputPrompt { display: none; }
:root { --jp-cell-editor-background: #fff; --jp-mirror-editor-number-color: #070; }</style>
<script>for (const cell of document.querySelectorAll(".jp-CodeCell")) {
  const code = cell.querySelector(".jp-Cell-inputWrapper");
  if (!cell.querySelector("img") && code.textContent.trim().split("\\n").length <= 12) continue;
  const fold = document.createElement("details");
  fold.innerHTML = "<summary>code</summary>";
  code.replaceWith(fold);
  fold.append(code);
}</script>
<script src="reveal.js/dist/reveal.js"></script>
<script>Reveal.initialize({ hash: true, slideNumber: true, width: 1280 });</script>{% endblock %}"""


def exercises(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode, NotebookNode]]:
    """Yield working cell, check cell and solution cell of each exercise, in order.

    Raises
    ------
    ValueError
        If a working cell is not followed by a check and a solution.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells):
        if not has_tag(cell, "exercise"):
            continue
        check, solution = (cells[number + 1 : number + 3] + [None, None])[:2]
        complete = solution is not None and "exercises.check_" in check.source
        if not (complete and has_tag(solution, "solution")):
            raise ValueError(f"no check and solution follow the exercise {cell.source[:60]!r}")
        yield cell, check, solution


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell carries this tag."""
    return tag in cell.metadata.get("tags", [])


def student(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without its solutions; everything else stays, outputs included.

    The text between a check and a solution leads to the solution, or explains it: it goes, too.
    """
    notebook, kept = deepcopy(notebook), []
    for cell in notebook.cells:
        if has_tag(cell, "solution"):
            while kept[-1].cell_type == "markdown":
                kept.pop()
        else:
            cell.source = cell.source.replace(" The solutions are folded.", "")
            kept.append(cell)
    notebook.cells = kept
    return notebook


def for_nbgrader(notebook: NotebookNode, name: str) -> NotebookNode:
    """Return a source notebook for ``nbgrader generate_assignment``.

    The solution stands in the working cell, between nbgrader's markers; the check is worth one
    point.
    """
    notebook = deepcopy(notebook)
    for number, (work, check, solution) in enumerate(exercises(notebook), 1):
        lines = [line for line in solution.source.splitlines() if "exercises.check_" not in line]
        work.source = "\n".join(["### BEGIN SOLUTION", *lines, "### END SOLUTION"])
        for cell, role in ((work, "solution"), (check, "grade")):
            identity = f"{name}-{number}-{role}"
            cell.metadata.nbgrader = {
                "grade": role == "grade",
                "solution": role == "solution",
                "locked": role == "grade",
                "task": False,
                "grade_id": identity,
                "schema_version": 3,
                "cell_type": "code",
            } | ({"points": 1} if role == "grade" else {})
    notebook = student(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _offline(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
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


def slides(notebook: NotebookNode) -> str:
    """Return the core path as a slide show: one heading per slide, one column of steps below it."""
    notebook = _offline(notebook)
    core = []
    for cell in notebook.cells:
        before, heading, _ = f"\n{cell.source}".partition("\n## Exercises")
        cell.source = before.strip("\n")
        core.append(cell)
        if heading:
            break
    notebook.cells = core
    for cell in notebook.cells:
        kind = "-" if cell.cell_type == "code" else "subslide"
        if cell.cell_type == "markdown" and cell.source.startswith(("# ", "## ")):
            kind = "slide"
        if "setup" in cell.metadata.get("tags", []):
            kind = "skip"
        cell.metadata.slideshow = {"slide_type": kind}
    exporter = SlidesExporter(
        raw_template=SHOW, reveal_url_prefix="reveal.js", reveal_theme="white"
    )
    resources = {"metadata": {"name": report.title_of(notebook)}}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def hints(check: NotebookNode) -> list[str]:
    """Return what a check says about wrong answers: the sentences in its source."""
    name = re.search(r"exercises\.(check_\w+)", check.source)[1]
    for path in sorted((report.PROJECT / "utils" / "exercises").glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                body = node.body[bool(ast.get_docstring(node)) :]
                return list(dict.fromkeys(_sentences(ast.Module(body, []))))
    raise ValueError(f"utils/exercises has no {name}")


def _sentences(node: ast.AST) -> Iterator[str]:
    """Yield the sentences below a node, other than praise."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "correct":
        return
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
    if isinstance(node, ast.JoinedStr | ast.Constant):
        text = "".join(map(str, texts))
        if text.count(" ") > 3 or (" " in text and text[-1] in ".?"):
            yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from _sentences(child)


def notes(notebooks: dict[str, NotebookNode]) -> str:
    """Return the instructor's notes in Markdown: solutions, and mistakes that have hints."""
    parts = ["# Instructor's notes\n\nAnswers, and what each check says about common mistakes."]
    for name, notebook in notebooks.items():
        parts.append(f"## {name}: {report.title_of(notebook)}")
        for number, (_, check, solution) in enumerate(exercises(notebook), 1):
            parts.append(f"### Exercise {number}\n\n```python\n{solution.source}\n```")
            parts += [f"- {hint}" for hint in hints(check)]
    return "\n\n".join(parts) + "\n"


def make(output: Path) -> None:
    """Write everything below ``output``; the slides only if reveal.js is installed."""
    found = importlib.util.find_spec(REVEAL)
    if found is None:
        print(f"no slides: {REVEAL} is not installed (pip install -r requirements-class.txt)")
    notebooks = {path.stem: nbformat.read(path, 4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    lessons = {name: book for name, book in notebooks.items() if any(exercises(book))}
    for name, notebook in lessons.items():
        files.write_text(output / "student" / f"{name}.ipynb", nbformat.writes(student(notebook)))
        source = output / "nbgrader" / "source" / name / f"{name}.ipynb"
        files.write_text(source, nbformat.writes(for_nbgrader(notebook, name)))
        if found is not None:
            files.write_text(output / "slides" / f"{name}.html", slides(notebook))
    if found is not None:
        reveal = Path(found.origin).parent / "_static" / "revealjs"
        shutil.copytree(reveal, output / "slides" / "reveal.js", dirs_exist_ok=True)
    files.write_text(output / "instructor.md", notes(lessons))
    print(f"{len(lessons)} notebooks: student versions, nbgrader sources, notes in {output.name}/")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=report.PROJECT / "class")
    make(parser.parse_args().output)


if __name__ == "__main__":
    main()
