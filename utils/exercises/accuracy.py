"""Checks of notebook 06."""

import copy
from collections.abc import Callable

from torch import equal, full_like, nn

from utils.exercises import Hint, answered, asks, choice, correct

# Rows and columns of layer4's 3x3 kernels that meet data, where the maps are 2x2 and then 1x1.
LIVE = dict.fromkeys(("0.conv2", "1.conv1", "1.conv2"), slice(1, 2)) | {"0.conv1": slice(1, 3)}


def check_fault(layer: str, fault: str) -> None:
    """The layer to look at first in the colleague's table, and what is wrong with it."""
    if answered(layer, fault):
        if layer != "layer1.0.conv1":
            raise Hint("Noise is handed down: look for the lowest own_db, not the lowest sqnr_db.")
        if choice(fault, "range too narrow", "range too wide", "outlier") != "outlier":
            raise Hint("The values seen lie within the range and fill it. Do all channels fill it?")
        correct("One loud channel takes the range, and little is left for the median channel.")


def check_observers(a: str, b: str) -> None:
    """Percentile or min-max, for the two histograms."""
    if answered(a, b):
        a, b = (choice(answer, "percentile", "min-max") for answer in (a, b))
        if (a, b) != ("percentile", "min-max"):
            cut = ("A: cut off, two", 2) if a != "percentile" else ("B: cut off, sixty", 60)
            raise Hint(f"{cut[0]} values cost {cut[1]} x 56^2. What does the coarse step cost?")
        correct("It depends on how many values lie far out, not on how far out they lie.")


@asks("a function that returns a copy of the float32 model")
def check_idle(clean: Callable[[nn.Module], nn.Module], model: nn.Module) -> None:
    """A function that returns a copy of the float32 model whose idle weights are zero."""
    given = copy.deepcopy(model)
    if answered(after := clean if clean is ... else clean(given)):
        if not all(map(equal, given.state_dict().values(), model.state_dict().values())):
            raise Hint("The model that was given has changed: work on copy.deepcopy(model).")
        for name, old in model.state_dict().items():
            live = LIVE.get(name.removeprefix("layer4.").removesuffix(".weight"))
            new, idle = after.state_dict()[name], full_like(old, live is not None, dtype=bool)
            if live is not None:
                idle[:, :, live, live] = False
            if not equal(new[~idle], old[~idle]):
                raise Hint(f"{name}: values that float32 uses have changed; only idle weights may.")
            if new[idle].any():
                raise Hint(
                    f"{name}: some weights meet only padding and are not 0. How large is its map?"
                )
        correct("The idle weights are 0, and float32 computes the same.")
