from collections import deque

import pytest

from utils.lab import experiments
from utils.lab.experiments import ExperimentError, run_all

CALLS = deque()  # no plain value: what it holds is not part of the key
LEVEL = 1


def double(x, y="a"):
    CALLS.append((x, y))
    return {"twice": 2 * x, "level": LEVEL}


def helper(x):
    return x + 1


def helped(x):
    return {"next": helper(x)}


def several(x):
    return [{"part": part, "value": x * part} for part in (1, 2)]


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def files(course):
    return sorted((course.artifacts_dir / "experiments").glob("*"))


def test_every_combination_once_and_the_last_fastest(course):
    table = run_all(course, "trial", double, {}, x=[1, 2], y=["a", "b"])
    assert list(CALLS) == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert table.columns.tolist() == ["x", "y", "twice", "level"]
    assert table["twice"].tolist() == [2, 2, 4, 4]


def test_a_second_time_it_is_read(course):
    first = run_all(course, "trial", double, {"key": "abc"}, x=[1, 2])
    second = run_all(course, "trial", double, {"key": "abc"}, x=[1, 2])
    assert len(CALLS) == 2
    assert first.equals(second)
    (path,) = files(course)  # and no temporary file is left
    assert path.name.startswith("trial-")


def test_several_rows_a_point(course):
    table = run_all(course, "trial", several, {}, x=[3, 4])
    assert table.to_dict("list") == {"x": [3, 3, 4, 4], "part": [1, 2, 1, 2], "value": [3, 6, 4, 8]}


def test_what_made_it_decides(course, monkeypatch):
    def made():
        run_all(course, "trial", double, made_by, x=grid)
        return len(files(course))

    made_by, grid = {"recipe": "a"}, [1]
    assert made() == 1
    made_by = {"recipe": "b"}
    assert made() == 2
    grid = [1, 2]
    assert made() == 3
    monkeypatch.setitem(globals(), "LEVEL", 2)  # a plain value that the function uses
    assert made() == 4
    monkeypatch.setattr(experiments, "_library", lambda: "another")
    assert made() == 5
    monkeypatch.setattr(experiments.torch, "__version__", "0.0")
    assert made() == 6
    assert made() == 6


def test_so_does_a_function_beside_it_and_what_that_uses(monkeypatch):
    def indirect(x):
        return helped(x)

    assert "def helper" in "".join(experiments._sources(indirect))
    monkeypatch.setitem(globals(), "helper", several)
    sources = experiments._sources(helped)
    assert "def several" in sources[1]
    assert "def helper" not in "".join(sources)

    def hidden(xs):
        return sum(several(x) for x in xs)

    assert any(source.startswith("def several") for source in experiments._sources(hidden))
    assert len(experiments._library()) == 64


def test_an_empty_grid(course):
    with pytest.raises(ExperimentError, match=r"'trial' has an empty grid: \{'x': \[\]\}"):
        run_all(course, "trial", double, {}, x=[])
    with pytest.raises(ExperimentError, match="empty grid"):
        run_all(course, "trial", double, {})


@pytest.mark.parametrize("content", ["[]", '{"table": ', '{"other": 1}'])
def test_a_damaged_table_is_named(course, content):
    run_all(course, "trial", double, {}, x=[1])
    (path,) = files(course)
    path.write_text(content)
    with pytest.raises(ExperimentError, match=rf"{path.name}.*is damaged.*delete it"):
        run_all(course, "trial", double, {}, x=[1])


def test_a_failure_leaves_nothing(course):
    with pytest.raises(ZeroDivisionError):
        run_all(course, "trial", lambda x: {"value": 1 / x}, {}, x=[1, 0])
    assert files(course) == []
