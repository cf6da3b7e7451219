"""The machinery of the exercises; the checks themselves are tested in a file for each notebook."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from utils.exercises import Hint, answered, expect


def test_a_cell_that_was_not_filled_in_is_reminded_and_graded_as_wrong(monkeypatch, capsys):
    assert answered(0, "x")
    assert not answered(1, ...)
    assert not answered(None)
    assert "no answer yet" in capsys.readouterr().out
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(Hint, match="no answer yet"):
        answered(...)


def test_a_hint_is_shown_as_one_line(capsys):
    shell = InteractiveShell()
    result = shell.run_cell("from utils.exercises import Hint\nraise Hint('look at section 2')")
    assert isinstance(result.error_in_exec, Hint)
    out = capsys.readouterr().out
    assert out.strip() == "Not yet. look at section 2"


@pytest.mark.parametrize("answer, hint", [("44.7 MB", "'44.7 MB' is a text"), (4.4, "count again")])
def test_a_wrong_number_and_a_text_get_their_hint(answer, hint):
    with pytest.raises(Hint, match=hint):
        expect(answer, 44.7, {}, "count again")
    expect(44.7, 44.7, {}, "count again")
