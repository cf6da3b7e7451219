"""Notebook 06's exercises: the right answer passes, every wrong one gets the hint made for it."""

import copy

import pytest
import torch
from torch import nn

from utils.exercises import Hint
from utils.exercises import accuracy as exercises
from utils.models import ResNet18


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ResNet18().eval()


def without(model, centers=("0.conv2", "1.conv1", "1.conv2"), corner=slice(1, 3)):
    cleaned = copy.deepcopy(model)
    for name, live in {"0.conv1": corner, **dict.fromkeys(centers, slice(1, 2))}.items():
        weight = cleaned.get_submodule(f"layer4.{name}").weight.data
        kept = weight[:, :, live, live].clone()
        weight.zero_()
        weight[:, :, live, live] = kept
    return cleaned


def test_right_answers_pass_and_empty_ones_are_reminded(model, capsys):
    exercises.check_fault("layer1.0.conv1", " Outlier")
    exercises.check_observers("percentile", "min-max")
    exercises.check_idle(without, model)
    assert capsys.readouterr().out.count("Correct.") == 3
    exercises.check_fault(..., ...)
    exercises.check_observers(..., ...)
    exercises.check_idle(..., model)
    assert capsys.readouterr().out.count("no answer yet") == 3


def test_idle_weights_do_not_take_part_in_float32(model):
    images = torch.randn(4, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(without(model)(images), model(images))


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        ("fault", ("layer1.0.conv2", "outlier"), "not the lowest sqnr_db"),
        ("fault", ("layer1.0.conv1", "range too narrow"), "Do all channels fill it"),
        ("fault", ("layer1.0.conv1", "range too wide"), "Do all channels fill it"),
        ("fault", ("conv1", "outlier"), "lowest own_db"),
        ("observers", ("min-max", "min-max"), "A: cut off, two"),
        ("observers", ("percentile", "minmax"), "none of these"),
        ("observers", ("percentile", "percentile"), "B: cut off, sixty"),
    ],
)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    with pytest.raises(Hint, match=hint):
        getattr(exercises, f"check_{check}")(*answer)


def in_place(model):
    model.layer4[1].conv1.weight.data.zero_()
    return copy.copy(model)


def test_wrong_weights_get_their_own_hint(model):
    for clean, hint in {
        in_place: "model that was given has changed",
        copy.deepcopy: "layer4.0.conv1.weight: some weights meet only padding",
        lambda m: without(m, ("0.conv2",)): "layer4.1.conv1.weight: some weights meet only padding",
        lambda m: without(m, corner=slice(1, 2)): "layer4.0.conv1.weight: values that float32 uses",
        nn.Module.state_dict: "a function that returns a copy of the float32 model",
        model: "a function that returns",
    }.items():
        with pytest.raises(Hint, match=hint):
            exercises.check_idle(clean, model)
