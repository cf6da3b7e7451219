"""The machinery of the exercises; the checks themselves are tested in a file for each notebook."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from utils.exercises import Hint, answered, asks, choice, expect


def test_a_cell_that_was_not_filled_in_is_reminded_and_graded_as_wrong(monkeypatch, capsys):
    assert answered(0, "x")
    assert not answered(1, ...)
    assert "no answer yet" in capsys.readouterr().out
    assert not answered(None)
    assert "return missing" in capsys.readouterr().out
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(Hint, match="no answer yet"):
        answered(...)


def test_a_hint_is_shown_as_one_line(capsys):
    shell = InteractiveShell()
    result = shell.run_cell("from utils.exercises import Hint\nraise Hint('look at section 2')")
    assert isinstance(result.error_in_exec, Hint)
    out = capsys.readouterr().out
    assert out.strip() == "Not yet. look at section 2"


WRONG = [("44.7 MB", "'44.7 MB' is not a number"), ([4, 7], "brackets"), (4.4, "count again")]


@pytest.mark.parametrize(("answer", "hint"), WRONG)
def test_a_wrong_number_and_no_number_get_their_hint(answer, hint):
    with pytest.raises(Hint, match=hint):
        expect(answer, 44.7, {}, "count again")
    expect(44.7, 44.7, {}, "count again")


def test_a_text_is_one_of_those_that_the_task_names():
    assert choice(" Engine ", "threads", "engine") == "engine"
    with pytest.raises(Hint, match="'motor' is none of these: threads, engine"):
        choice("motor", "threads", "engine")


def test_an_answer_of_another_kind_gets_a_hint_instead_of_a_traceback():
    @asks("a list")
    def check(answer):
        if answer[0] == 0:
            raise Hint("not zero")

    check([1])
    with pytest.raises(Hint, match="not zero"):
        check([0])
    with pytest.raises(Hint, match=r"should be a list \(TypeError: 'int' object is not"):
        check(5)
