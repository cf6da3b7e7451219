"""The checks of notebook 07: the right answer passes, each wrong one gets its own hint."""

import pandas as pd
import pytest
import torch

from utils.exercises import Hint
from utils.exercises import low_bit as exercises

WEIGHT = torch.tensor([2.0, -1.0, 0.1, -0.1])
LOSS = pd.DataFrame({2: [5.0, 9.0], 8: [1.0, 1.0]}, index=["a", "b"])
SIZE = pd.DataFrame({2: [1, 1], 8: [4, 6]}, index=["a", "b"])
TASK = LOSS, SIZE, 7


def ternary(*values):
    return torch.tensor(values), WEIGHT


def test_right_answers_pass(capsys):
    exercises.check_bytes(5120 * 3 / 8 + 80)
    exercises.check_ternary(*ternary(1.5, -1.5, 0.0, 0.0))
    exercises.check_ternary([1.5, -1.5, 0.0, 0.0], WEIGHT)
    exercises.check_budget({"a": 2, "b": 8}, *TASK)
    assert capsys.readouterr().out.count("Correct.") == 4


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (exercises.check_bytes, (1920,), "Ten scales"),
        (exercises.check_bytes, (1960,), "four bytes"),
        (exercises.check_bytes, (16000,), "not bytes"),
        (exercises.check_bytes, (2640,), "not 4"),
        (exercises.check_bytes, (7,), "5,120"),
        (exercises.check_bytes, (2001,), "5,120"),
        (exercises.check_ternary, ternary(2.0, -1.0, 0.0, 0.5), "more than three"),
        (exercises.check_ternary, ternary(1.5, 0.0, 0.0, 0.0), "Other weights"),
        (exercises.check_ternary, ternary(2.0, -2.0, 0.0, 0.0), "mean absolute value"),
        (exercises.check_ternary, ternary(1.5, 1.5, 0.0, 0.0), "sign"),
        (exercises.check_ternary, ternary([1.5, -1.5], [0.0, 0.0]), "Keep the shape"),
        (exercises.check_ternary, ("1.5", WEIGHT), "should be a tensor"),
        (exercises.check_budget, ({"a": 2}, *TASK), "Every layer"),
        (exercises.check_budget, ({"a": 2, "b": 5}, *TASK), "2, 3, 4 or 8"),
        (exercises.check_budget, ({"a": 8, "b": 8}, *TASK), "more bytes"),
        (exercises.check_budget, ({"a": 8, "b": 2}, *TASK), "loses less"),
    ],
)
def test_each_mistake_has_its_hint(check, answer, hint):
    with pytest.raises(Hint, match=hint):
        check(*answer)
