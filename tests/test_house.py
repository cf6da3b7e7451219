"""The order of the library: data flows downwards, and nothing in the core knows the annexes."""

import ast

import pytest

from utils.settings import PROJECT

CORE = [
    "settings",
    "files",
    "data",
    "environment",
    "models",
    "training",
    "quantization",
    "specialization",
    "catalog",
    "comparison",
    "timing",
    "results",
    "report",
]
UTILS = PROJECT / "utils"


def imported(path) -> set[str]:
    """Modules of utils that a file imports, anywhere in it, as ``lab.integer``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "utils":
            inner = node.module.removeprefix("utils").removeprefix(".")
            for alias in node.names:
                whole = f"{inner}.{alias.name}".strip(".")
                is_module = (UTILS / f"{whole.replace('.', '/')}.py").exists()
                found.add(whole if is_module else inner)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("utils.") for a in node.names if "utils." in a.name}
    return found


def lines(files) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def lines_of_code(text: str) -> int:
    """Lines that do something: neither blank, nor only a comment, nor part of a docstring."""
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    rest = [line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in told]
    return sum(bool(line) and not line.startswith("#") for line in rest)


def test_docstrings_comments_and_blank_lines_are_not_code():
    text = '"""One\ntwo."""\n\n# three\ndef f():\n    """Four."""\n    return """five\nsix"""\n'
    assert lines_of_code(text) == 3


# Docstrings teach, so nobody shall save lines there: the budget counts code.
BUDGET = {"core": ("*.py", 2_000), "exercises": ("exercises/*.py", 420)}
BUDGET |= {"lab": ("lab/*.py", 2_500), "figures": ("figures/*.py", 1_000)}


@pytest.mark.parametrize("part", BUDGET)
def test_the_house_stays_small(part):
    pattern, most = BUDGET[part]
    texts = [path.read_text(encoding="utf-8") for path in UTILS.glob(pattern)]
    assert sum(map(lines_of_code, texts)) <= most


def test_there_is_no_more_test_than_library():
    assert lines(PROJECT.glob("tests/*.py")) <= lines([*UTILS.rglob("*.py"), *UTILS.rglob("*.js")])


@pytest.mark.parametrize("path", UTILS.glob("exercises/*.py"), ids=lambda path: path.stem)
def test_exercises_know_neither_apparatus_nor_figures(path):
    assert not any(name.startswith(("lab", "figures")) for name in imported(path))


@pytest.mark.parametrize("path", UTILS.glob("lab/*.py"), ids=lambda path: path.stem)
def test_the_lab_draws_nothing(path):
    assert not any(name.startswith("figures") for name in imported(path))


@pytest.mark.parametrize("path", UTILS.glob("[a-z]*.py"), ids=lambda path: path.stem)
def test_a_core_module_imports_only_modules_above_it(path):
    above = set(CORE[: CORE.index(path.stem)])
    if path.stem == "report":  # the one that may know every room
        above |= {name for name in imported(path) if name.startswith(("lab", "figures"))}
    assert imported(path) <= above
