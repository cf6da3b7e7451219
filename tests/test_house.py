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
    "catalog",
    "comparison",
    "timing",
    "results",
    "exercises",
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


@pytest.mark.parametrize(
    "path",
    [p for p in UTILS.glob("[a-z]*.py") if "plots" not in p.stem],
    ids=lambda path: path.stem,
)
def test_a_core_module_imports_only_modules_above_it(path):
    above = set(CORE[: CORE.index(path.stem)])
    if path.stem == "report":  # the one that may know every room
        above |= {name for name in imported(path) if name.startswith(("lab.", "figures.", "plots"))}
    assert imported(path) <= above
