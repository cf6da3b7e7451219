"""Checks of the exercises of notebook 08."""

from collections.abc import Callable, Collection

from torch import allclose, nn, randn

from utils.exercises import Hint, answered, correct

CASES = ((3, 2, 1, 2), (3, 1, 1, 1), (5, 1, 2, 2), (7, 2, 3, 28), (3, 1, 1, 2))
POINTS = {"a": (45, 9), "b": (11, 2), "c": (11, 3), "d": (4, 1), "e": (5, 0.5), "f": (4, 4)}


def check_taps(taps: Collection[int]) -> None:
    """Check which taps of a 5-tap kernel, stride 2, padding 2, meet one of two pixels."""
    if answered(taps):
        if set(taps) > {2, 3}:
            raise Hint("There is only one output: (2 + 2 * 2 - 5) // 2 + 1. Where does it begin?")
        if set(taps) != {2, 3}:
            raise Hint("With i = 0, tap k meets row k - 2: row -2 is padding, rows 0, 1 are data.")
        correct("Three of five taps only ever meet padding, and in two dimensions 21 of 25.")


def check_front(front: Callable[[dict], Collection[str]]) -> None:
    """Check a function from name -> (bytes, ms) to the names that no other beats in both."""
    found = None if front is ... else front(dict(POINTS))
    if answered(found):
        if set(found) in ({"d"}, {"e"}):
            raise Hint("The best of one cost is not all: keep whatever nothing else beats in both.")
        if {"c", "f"} & set(found):
            raise Hint("Equal in one cost and worse in the other is beaten as well.")
        if set(found) != {"d", "e"}:
            raise Hint(f"{sorted(found)}: a name stays out if another is no worse in both costs.")
        correct("Everything else has a rival that is at least as small and at least as fast.")


def check_crop(crop: Callable[[nn.Conv2d, int], nn.Conv2d]) -> None:
    """Check a function that crops a square kernel for square images of one size."""
    for kernel, stride, padding, size in CASES if crop is not ... else ():
        conv, images = nn.Conv2d(2, 3, kernel, stride, padding), randn(4, 2, size, size)
        want, small = conv(images), crop(conv, size)
        if not answered(small):
            return
        case = f"kernel {kernel}, stride {stride}, padding {padding}, image {size}"
        if (got := small(images)).shape != want.shape:
            raise Hint(f"{case}: taps cut at the front come off the padding as well.")
        if not allclose(got, want, atol=1e-5):
            raise Hint(f"{case}: the output changed: which taps did you keep?")
        if (kernel, size) == (3, 1) and small.weight.shape[-1] != 1:
            raise Hint(f"{case}: nothing was cut, though eight of nine taps meet only padding.")
    if answered(crop):
        correct("The same outputs with fewer weights: this is what specialize() does.")
