"""Right answers to the exercises of notebook 02 pass, and each wrong one gets its own hint."""

import pytest
import torch
from torch.nn.functional import interpolate, pad

from utils.comparison import mcnemar_p
from utils.exercises import Hint
from utils.exercises import training as exercises


def prepare(photo, invert=True, height=20, left=None):
    ink = (photo.max() - photo if invert else photo).float()
    rows, columns = (ink > ink.max() / 2).nonzero(as_tuple=True)
    box = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    size = (height, max(1, round(height * box.shape[1] / box.shape[0])))
    small = interpolate(box[None, None] / box.max() * 255, size, mode="area")
    top, left = (28 - height) // 2, (28 - size[1]) // 2 if left is None else left
    frame = (left, 28 - size[1] - left, top, 28 - height - top)
    return pad(small, frame, value=0 if invert else 220).to(torch.uint8)


def test_right_answers_pass(capsys):
    weight = [torch.zeros(1)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD(weight, 0.1), 0.1, total_steps=401, pct_start=0.25
    )
    for _ in range(199):  # a third of the way from 99 to 400
        schedule.optimizer.step()
        schedule.step()
    exercises.check_learning_rate(schedule.get_last_lr()[0], 0.1)
    exercises.check_flips(mcnemar_p(30, 15), 30, 15)
    exercises.check_reader(prepare)
    assert capsys.readouterr().out.count("Correct.") == 3


def test_a_cell_that_was_not_filled_in_is_reminded(capsys):
    exercises.check_learning_rate(..., 0.1)
    exercises.check_flips(..., 30, 15)
    exercises.check_reader(lambda photo: ...)
    assert capsys.readouterr().out.count("no answer yet") == 3


@pytest.mark.parametrize(
    ("check", "answers", "hint"),
    [
        ("learning_rate", (0.0667, 0.1), "cosine"),
        ("learning_rate", (0.05, 0.1), "angle"),
        ("flips", (mcnemar_p(30, 15) / 2, 30, 15), "one tail"),
        ("flips", (0.14, 30, 15), "Only the flips"),
        ("flips", (100 * mcnemar_p(30, 15), 30, 15), "not percent"),
        ("flips", (mcnemar_p(31, 14), 30, 15), "split itself"),
        ("flips", (mcnemar_p(30, 15) - mcnemar_p(31, 14), 30, 15), "Add more uneven"),
        ("reader", (lambda photo: prepare(photo).numpy(),), "not ndarray"),
        ("reader", (lambda photo: prepare(photo[:, :61]).expand(1, 1, 28, 28) * 0 + 255,), "light"),
        ("reader", (lambda photo: prepare(photo).roll(4, 2),), "not in the middle"),
        ("reader", (lambda photo: interpolate(prepare(photo), (28, 90))[..., 31:59],), "5 pixels"),
        ("reader", (lambda photo: prepare(photo)[0],), "shape"),
        ("reader", (lambda photo: prepare(photo).float(),), "float32"),
        ("reader", (lambda photo: prepare(photo, invert=False),), "invert"),
        ("reader", (lambda photo: prepare(photo, height=28),), "20 pixels high"),
        ("reader", (lambda photo: prepare(photo) * 0,), "20 pixels high"),
        ("reader", (lambda photo: prepare(photo, left=2),), "not in the middle"),
    ],
)
def test_a_wrong_answer_gets_its_hint(check, answers, hint):
    with pytest.raises(Hint, match=hint):
        getattr(exercises, f"check_{check}")(*answers)
