"""Checks of the exercises of notebook 08."""

from collections.abc import Callable, Collection
from operator import index

from torch import allclose, equal, nn, randn

from utils.exercises import Hint, answered, asks, correct

# Kernel, stride, padding, image, and the rows of the kernel that meet data.
CASES = ((3, 2, 1, 2, 2), (3, 1, 1, 1, 1), (5, 1, 2, 2, 3), (7, 2, 3, 28, 7), (3, 1, 1, 2, 3))
POINTS = {"a": (45, 9), "b": (11, 2), "c": (11, 3), "d": (4, 1), "e": (5, 0.5), "f": (4, 4)}
POINTS |= {"g": (4.5, 0.8), "h": (4.5, 0.8)}


@asks("a set of whole numbers, for example {0, 4}")
def check_taps(taps: Collection[int]) -> None:
    """Check which taps of a 5-tap kernel, stride 2, padding 2, meet one of two pixels."""
    if answered(taps):
        taps = {index(tap) for tap in taps}
        if taps > {2, 3}:
            raise Hint("There is only one output: (2 + 2 * 2 - 5) // 2 + 1. Where does it begin?")
        if taps != {2, 3}:
            raise Hint("With i = 0, tap k meets row k - 2: row -2 is padding, rows 0, 1 are data.")
        correct("Three of five taps only ever meet padding, and in two dimensions 21 of 25.")


def check_front(front: Callable[[dict], Collection[str]]) -> None:
    """Check a function from name -> (bytes, ms) to the names that no other beats in both."""
    found = None if front is ... else front(dict(POINTS))
    if answered(found):
        found = set(found)
        if {"d", "e"} >= found > set():
            raise Hint(
                "Keep also what is best in no single cost; and do equal ones beat each other?"
            )
        if {"c", "f"} & found:
            raise Hint("Equal in one cost and worse in the other is beaten as well.")
        if {"d", "e"} < found < {"d", "e", "g", "h"}:
            raise Hint("g and h have equal costs: neither is better in one, so both stay.")
        if found != {"d", "e", "g", "h"}:
            raise Hint(f"{found}: compare both costs of a name with all others, not with itself.")
        correct("Everything else has a rival that is at least as small and at least as fast.")


def check_crop(crop: Callable[[nn.Conv2d, int], nn.Conv2d]) -> None:
    """Check a function that crops a square kernel for square images of one size."""
    for kernel, stride, padding, size, met in CASES if crop is not ... else ():
        conv, images = nn.Conv2d(2, 3, kernel, stride, padding), randn(4, 2, size, size)
        want, small = conv(images), crop(conv, size)
        if not answered(small):
            return
        case = f"kernel {kernel}, stride {stride}, padding {padding}, image {size}"
        if not isinstance(small, nn.Conv2d) or small is conv or not equal(conv(images), want):
            raise Hint("Return a new nn.Conv2d, and leave the given one as it is.")
        fits = size + 2 * small.padding[0] >= max(small.kernel_size)
        if not fits or (got := small(images)).shape != want.shape:
            raise Hint(f"{case}: taps cut at the front come off the padding. Is the stride kept?")
        if not allclose(got, want, atol=1e-5):
            raise Hint(f"{case}: the output changed: which taps did you keep? And the bias?")
        if small.kernel_size != (met, met):
            raise Hint(f"{case}: {met} x {met} taps meet data, and yours are {small.kernel_size}.")
    if answered(crop):
        correct("The same outputs with fewer weights: this is what specialize() does.")
