"""The checks of notebook 00's exercises: right answers pass, wrong ones get their own hint."""

import pytest

from utils import quantization
from utils.exercises import Hint, quickstart


def test_right_answers_pass(int8_model, capsys):
    quickstart.check_megabytes(11_175_370 * 4 / 1e6, 11_175_370 / 1e6)
    quickstart.check_points(-0.03)
    quickstart.check_int8(int8_model)
    assert capsys.readouterr().out.count("Correct.") == 3


def test_no_answer_is_not_wrong(capsys):
    quickstart.check_megabytes(44.7, ...)
    quickstart.check_points(...)
    quickstart.check_int8(None)
    assert "Correct" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "hint"),
    [
        ((357.61, 89.4), "8 bits"),
        ((42.631, 10.658), "mebibytes"),
        ((11.175, 11.175), "4 bytes"),
        ((44.701, 5.6), "1 byte"),
    ],
)
def test_hints_on_megabytes(answers, hint):
    with pytest.raises(Hint, match=hint):
        quickstart.check_megabytes(*answers)


@pytest.mark.parametrize(
    ("points", "hint"),
    [(0.03, "int8 - float32"), (-0.0003, "hundredth"), (0.15, "makes up"), (9, "Subtract")],
)
def test_hints_on_points(points, hint):
    with pytest.raises(Hint, match=hint):
        quickstart.check_points(points)


def test_hint_on_a_model_that_is_only_prepared(float_model):
    with pytest.raises(Hint, match="convert"):
        quickstart.check_int8(quantization.prepare(quantization.fuse(float_model)))
