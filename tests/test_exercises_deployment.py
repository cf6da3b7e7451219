"""Every answer that a learner would give to notebook 08's exercises meets its own hint."""

import pytest
from torch import nn

from utils.exercises import Hint, deployment


@pytest.mark.parametrize(
    ("taps", "hint"),
    [
        ({0, 1, 2, 3, 4}, "only one output"),
        ({1, 2, 3}, "only one output"),
        ({0, 1}, "row -2"),
        ({2}, "tap k meets row"),
        (2, "a set of whole numbers"),
        ("23", "a set of whole numbers"),
        ({2.6, 3.4}, "a set of whole numbers"),
    ],
)
def test_taps(taps, hint, capsys):
    deployment.check_taps([2, 3])
    assert "Correct" in capsys.readouterr().out
    with pytest.raises(Hint, match=hint):
        deployment.check_taps(taps)


def crop(conv, size, shift=True, front=False, keep=False):
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    outputs = (size + 2 * padding - kernel) // stride + 1
    rows = [stride * i - padding for i in range(outputs)]
    met = [k for k in range(kernel) if any(0 <= r + k < size for r in rows)]
    met = list(range(kernel)) if keep else met
    new = nn.Conv2d(2, 3, len(met), stride, padding - met[0] * shift)
    part = slice(0, len(met)) if front else slice(met[0], met[-1] + 1)
    new.weight.data, new.bias = conv.weight.data[:, :, part, part].clone(), conv.bias
    return new


def replace(conv, other):
    vars(conv).update(vars(other))
    return conv


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [({"shift": False}, "off the padding"), ({"front": True}, "output changed")]
    + [({"keep": True}, "2 x 2 taps meet data")],
)
def test_crop(wrong, hint, capsys):
    deployment.check_crop(crop)
    assert "Correct" in capsys.readouterr().out
    with pytest.raises(Hint, match=hint):
        deployment.check_crop(lambda conv, size: crop(conv, size, **wrong))
    with pytest.raises(Hint, match="Return a new"):  # crops what it is given
        deployment.check_crop(lambda conv, size: replace(conv, crop(conv, size)))
    with pytest.raises(Hint, match="Return a new"):
        deployment.check_crop(lambda conv, size: crop(conv, size).weight)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ("d", "best in no single"),
        ("de", "equal ones"),
        ("defgh", "Equal in one"),
        ("deg", "both stay"),
    ]
    + [("debgh", "all others"), ("", "with itself")],
)
def test_front(names, hint, capsys):
    deployment.check_front(lambda costs: iter("edhg"))
    assert "Correct" in capsys.readouterr().out
    with pytest.raises(Hint, match=hint):
        deployment.check_front(lambda costs: list(names))


def test_an_empty_cell_is_reminded(capsys):
    deployment.check_taps(...)
    deployment.check_front(lambda costs: ...)
    deployment.check_crop(lambda conv, size: ...)
    assert capsys.readouterr().out.count("no answer yet") == 3
