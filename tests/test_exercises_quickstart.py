"""The checks of notebook 00's exercises: right answers pass, wrong ones get their own hint."""

import pytest
import torch

from utils import quantization
from utils.exercises import Hint, quickstart


def test_right_answers_pass(float_model, int8_model, images, capsys):
    quickstart.check_megabytes(11_175_370 * 4 / 1e6, 11_175_370 / 1e6)
    quickstart.check_points(-0.03)
    quickstart.check_megabytes(44.7, 11.2)
    mine = quantization.quantize(float_model, images[:8])
    quickstart.check_int8(mine, int8_model, images[:8])
    assert capsys.readouterr().out.count("Correct.") == 4


def test_no_answer_is_not_wrong(capsys):
    quickstart.check_megabytes(44.7, ...)
    quickstart.check_points(...)
    quickstart.check_int8(..., None, None)
    assert "Correct" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "hint"),
    [
        ((357.61, 89.4), "8 bits"),
        ((42.631, 10.658), "mebibytes"),
        ((11.175, 11.175), "4 bytes"),
        ((44_701_480, 11.2), "million"),
        ((44.78, 11.2), "whole file"),
        ((44.7, 11.3), "whole file"),
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


def test_hints_on_models_that_are_not_another_int8_network(float_model, int8_model, images):
    dynamic = torch.ao.quantization.quantize_dynamic(float_model)  # the linear layer alone
    plain = quantization.prepare(float_model)  # without stubs
    quantization.calibrate(plain, images[:4])
    plain = quantization.convert(plain)
    prepared = quantization.prepare(quantization.fuse(float_model))
    for wrong, hint in {
        prepared: r"convert\(\), is missing",
        dynamic: "begin with fuse",
        plain: "fails on images",
        int8_model: "eight images",
        "my_model": "should be a model",
    }.items():
        with pytest.raises(Hint, match=hint):
            quickstart.check_int8(wrong, int8_model, images[:8])
