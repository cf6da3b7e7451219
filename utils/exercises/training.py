"""Checks of notebook 02."""

from math import cos, pi

from scipy.stats import binomtest
from torch import Generator, Tensor, randint, uint8

from utils.exercises import Hint, answered, correct, expect


def check_learning_rate(rate: float, peak: float) -> None:
    """Check the rate of the one-cycle schedule after a third of its falling part."""
    if answered(rate):
        hints = {2 / 3 * peak: "The rate falls along a cosine, not along a straight line."}
        formula = "A third of half a wave is an angle of pi / 3: recipe.peak_lr * (1 + cos) / 2."
        expect(rate, peak * (1 + cos(pi / 3)) / 2, hints, formula, within=0.01)
        correct("The rate stays high for long and falls fastest in the middle.")


def check_flips(p: float, a_only: int, b_only: int) -> None:
    """Check the two-sided p value of McNemar's exact test."""
    right = binomtest(a_only, a_only + b_only).pvalue
    if answered(p):
        tail = "This is one tail. Either model could have been the better one: take both."
        coin = "Only the flips count: if both models are equal, each is a toss of a coin."
        hints = {right / 2: tail, 100 * right: "A probability is at most 1, not percent."}
        exactly = binomtest(a_only + 1, a_only + b_only).pvalue
        hints |= {
            exactly: "Count the split itself as well.",
            right - exactly: "Add more uneven ones.",
        }
        expect(p, right, hints, coin, within=0.01)
        correct(f"p = {p:.3f}. The images that both models get right do not matter.")


def check_reader(prepare) -> None:
    """Check ``prepare``: a photograph, uint8 (H, W), dark on light, to uint8 (1, 1, 28, 28)."""
    photo = randint(210, 225, (200, 300), dtype=uint8, generator=Generator().manual_seed(0))
    photo[20:140, 30:60] = 30  # a one, far from the middle
    if answered(digit := prepare(photo)):
        if not isinstance(digit, Tensor):
            raise Hint(f"Return a tensor, not {type(digit).__name__}.")
        if (digit.dtype, *digit.shape) != (uint8, 1, 1, 28, 28):
            raise Hint(f"Return uint8 of shape (1, 1, 28, 28), not {digit.dtype} {digit.shape}.")
        if digit[0, 0, 0, 0] > 60:
            raise Hint("The corner is light: MNIST is light ink on black, so invert the image.")
        rows, columns = (digit[0, 0] > 100).nonzero(as_tuple=True)
        if not 17 <= (len(rows) and rows.max() - rows.min() + 1) <= 22:
            raise Hint("The digit should be 20 pixels high: cut out its box, then resize it.")
        if columns.max() - columns.min() > 8:
            raise Hint("The one is about 5 pixels wide: invert, cut out its box, keep proportions.")
        if max(abs(at.double().mean() - 13.5) for at in (rows, columns)) > 1.5:
            raise Hint("The digit is not in the middle: move its center to pixel 13.5.")
        correct("This is what the digits of MNIST look like.")
