"""Checks of notebook 02."""

from math import cos, pi

from scipy.stats import binomtest
from torch import full, uint8

from utils.exercises import Hint, answered, correct, expect


def check_learning_rate(rate: float, peak: float) -> None:
    """Check the rate of the one-cycle schedule after a quarter of its falling part."""
    if answered(rate):
        hints = {0.75 * peak: "The rate falls along a cosine, not along a straight line."}
        formula = "A quarter of half a wave is an angle of pi / 4: peak * (1 + cos) / 2."
        expect(rate, peak * (1 + cos(pi / 4)) / 2, hints, formula, within=0.01)
        correct("The rate stays high for long and falls fastest in the middle.")


def check_flips(p: float, a_only: int, b_only: int) -> None:
    """Check the two-sided p value of McNemar's exact test."""
    right = binomtest(a_only, a_only + b_only).pvalue
    if answered(p):
        tail = "This is one tail. Either model could have been the better one: take both."
        coin = "Only the flips count: if both models are equal, each is a toss of a coin."
        expect(p, right, {right / 2: tail}, coin, within=0.01)
        correct(f"p = {p:.3f}. The images that both models get right do not matter.")


def check_reader(prepare) -> None:
    """Check ``prepare``: a photograph, uint8 (H, W), dark on light, to uint8 (1, 1, 28, 28)."""
    photo = full((200, 300), 220, dtype=uint8)
    photo[20:140, 30:60] = 30  # a one, far from the middle
    if answered(digit := prepare(photo)):
        if (digit.dtype, *digit.shape) != (uint8, 1, 1, 28, 28):
            raise Hint(f"Return uint8 of shape (1, 1, 28, 28), not {digit.dtype} {digit.shape}.")
        if digit[0, 0, 0, 0] > 40:
            raise Hint("The corner is light: MNIST is light ink on black, so invert the image.")
        rows, columns = (digit[0, 0] > 100).nonzero(as_tuple=True)
        if not 17 <= (len(rows) and rows.max() - rows.min() + 1) <= 22:
            raise Hint("The digit should be 20 pixels high: cut out its box, then resize it.")
        if abs(columns.double().mean() - 13.5) > 1.5:
            raise Hint("The digit is not in the middle: move its center to pixel 13.5.")
        correct("This is what the digits of MNIST look like.")
