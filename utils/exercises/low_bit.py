"""Checks of notebook 07's exercises."""

from itertools import product

from pandas import DataFrame
from torch import Tensor, allclose, as_tensor, equal

from utils.exercises import Hint, answered, asks, correct, expect


def check_bytes(size: float) -> None:
    """Check the bytes of a 10 x 512 layer in 3 bits, with float32 scales and biases."""
    if answered(size):
        hints = {1920: "Ten scales and ten biases are stored, too.", 16000: "Bits are not bytes."}
        hints |= {1960: "A scale and a bias take four bytes each.", 2640: "3 bits, not 4."}
        expect(size, 2000, hints, "Count 5,120 codes of 3 bits, 10 scales and 10 biases.", 1e-6)
        correct("Codes take 1,920 bytes, scales and biases 80.")


@asks("a tensor of the shape of weight")
def check_ternary(found: Tensor, weight: Tensor) -> None:
    """Check ternary weights by the rule of Li, Zhang and Liu (2016), one scale for all."""
    if answered(found):
        found, kept = as_tensor(found).to(weight.dtype), weight.abs() > 0.7 * weight.abs().mean()
        if found.shape != weight.shape:
            raise Hint("Keep the shape of weight: each weight is replaced at its place.")
        if len(found.unique()) > 3:
            raise Hint("There are more than three values: one scale serves the whole tensor.")
        if not equal(found != 0, kept):
            raise Hint("Other weights are zero: those up to 0.7 times the mean absolute weight.")
        if not allclose(found.abs().max(), weight[kept].abs().mean(), rtol=1e-3):
            raise Hint("The scale is the mean absolute value of the weights that are kept.")
        if not equal(found.sign(), weight.sign() * kept):
            raise Hint("A kept weight has lost its sign.")
        correct("Three values are left, and log2(3) = 1.58 bits would store one of them.")


@asks("a dict of layer to bits: 2, 3, 4 or 8")
def check_budget(bits: dict, loss: DataFrame, size: DataFrame, budget: float) -> None:
    """Check that this is the least total loss within the budget, by trying every choice."""
    if answered(bits):
        if set(bits) != set(loss.index):
            raise Hint("Every layer of few needs its bits, and no other layer.")

        def total(table: DataFrame, chosen: tuple) -> float:
            return sum(table.loc[n, b] for n, b in zip(loss.index, chosen, strict=True))

        own = tuple(bits[name] for name in loss.index)
        if total(size, own) > budget:
            raise Hint("The layers take more bytes than the budget.")
        every = product(loss.columns, repeat=len(loss))
        best = min(total(loss, c) for c in every if total(size, c) <= budget)
        if total(loss, own) > best * (1 + 1e-9):
            raise Hint("It fits, but another choice loses less: compare all that fit.")
        correct("No choice within the budget loses less.")
