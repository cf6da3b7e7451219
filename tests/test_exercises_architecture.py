"""Right answers to the exercises of notebook 01 pass, and each wrong one gets its own hint."""

import pytest
from torch import nn, ones

from utils.exercises import Hint
from utils.exercises import architecture as exercises
from utils.models import BasicBlock, ResNet18


def met_taps(width, kernel, stride, padding):
    weight = ones(1, 1, 1, kernel)
    y = nn.functional.conv2d(ones(1, 1, 1, width), weight, stride=stride, padding=(0, padding))
    size, where = (1, 1, 1, kernel), {"stride": stride, "padding": (0, padding)}
    count = nn.grad.conv2d_weight(ones(1, 1, 1, width), size, ones(y.shape), **where)
    return (count.flatten() > 0).tolist()


def test_what_the_network_itself_says_is_right(capsys):
    net = ResNet18().eval()
    maps = nn.Sequential(*list(net.children())[:-2])(ones(1, 1, 100, 100))
    exercises.check_output_size(maps.shape[-1])
    exercises.check_block_parameters(sum(p.numel() for p in BasicBlock(128, 256, 2).parameters()))
    exercises.check_met_taps(met_taps)
    assert capsys.readouterr().out.count("Correct.") == 3


def test_a_cell_that_was_not_filled_in_is_reminded(capsys):
    exercises.check_output_size(...)
    exercises.check_block_parameters(...)
    exercises.check_met_taps(lambda *arguments: ...)
    assert capsys.readouterr().out.count("no answer yet") == 3


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        ("output_size", 3, "rounds up"),
        ("output_size", 3.125, "rounds up"),
        ("output_size", 7, "max pool"),
        ("output_size", 2, "Only conv1"),
        ("block_parameters", 917_504, "batch norms have"),
        ("block_parameters", 885_760, "shortcut has"),
        ("block_parameters", 919_808, "without bias"),
        ("block_parameters", 624_128, "256 input channels"),
        ("block_parameters", 1_181_184, "is 1x1"),
        ("block_parameters", 1_180_672, "second block"),
        ("met_taps", lambda width, kernel, *a: [True] * kernel, "tap in the middle"),
        ("met_taps", lambda w, k, s, p: met_taps(w, k, 1, p), "stride 2"),
        ("met_taps", lambda w, k, s, p: [0 <= t - p < w for t in range(k)], "two positions"),
        ("met_taps", lambda w, k, s, p: met_taps(w // s * s, k, s, p), "two pixels apart"),
        ("met_taps", lambda w, k, s, p: met_taps(w, k, s, min(p, w)), "three positions"),
    ],
)
def test_a_wrong_answer_gets_its_hint(check, answer, hint):
    with pytest.raises(Hint, match=hint):
        getattr(exercises, f"check_{check}")(answer)
