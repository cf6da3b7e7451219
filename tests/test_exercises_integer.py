"""Notebook 05's exercises: the right answer passes, every wrong one gets the hint made for it."""

import pytest

from utils.exercises import Hint
from utils.exercises import integer as exercises

Q_X, Q_W = [9, 1, 12, 4], [3, -1, 2, 5]


def test_right_answers_pass_and_empty_ones_are_reminded(capsys):
    exercises.check_by_hand(Q_X, Q_W, 34)
    exercises.check_codes([18, 7, 255])
    exercises.check_padding(" version_b")
    assert capsys.readouterr().out.count("Correct.") == 3
    exercises.check_by_hand(..., ..., ...)
    exercises.check_codes(...)
    exercises.check_padding(...)
    assert capsys.readouterr().out.count("no answer yet") == 3


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        ("by_hand", ([5, -3, 8, 0], Q_W, 34), "add the zero point"),
        ("by_hand", (Q_X, [4, 0, 3, 6], 34), r"round\(r / S\) \+ Z"),
        ("by_hand", (Q_X, Q_W, 70), "subtract Z_x times"),
        ("by_hand", (Q_X, Q_W, 0.1 * 0.02 * 34), "real dot product"),
        ("by_hand", (Q_X, Q_W, 35), "over the four pairs"),
        ("codes", ([10, 7, 255],), "lacks the bias"),
        ("codes", ([11, 7, 255],), "lacks the zero point"),
        ("codes", ([17, 7, 255],), "cut off, not rounded"),
        ("codes", ([18, 2, 255],), "lacks the ReLU"),
        ("codes", ([18, 0, 255],), "not at the code 0"),
        ("codes", ([18, 7, 515],), "clamp"),
        ("codes", ([18, 7, 262],), "Add Z_y first"),
        ("codes", ([18, 7, 127],), "calibration"),
        ("codes", ([17.585, 7, 255],), "whole number"),
        ("codes", ([18, 7],), "three integers"),
        ("by_hand", (Q_X, Q_W, [34]), "not a number"),
        ("padding", ("version_c",), "C is right"),
        ("padding", ("A and B",), "none of these"),
        ("codes", ([1, 7, 255],), "M = S_x S_w / S_y"),
        ("padding", ("A",), "A is right"),
        ("padding", ("C",), "C is right"),
    ],
)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    with pytest.raises(Hint, match=hint):
        getattr(exercises, f"check_{check}")(*answer)
