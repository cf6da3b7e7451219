"""Count where the integer network and the kernels differ, code by code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor, nn
from tqdm import tqdm

from utils import quantization as ptq
from utils.data import batches
from utils.lab.integer import BATCH, Quantized


def kernel_activations(model: nn.Module, images: Tensor) -> dict[str, Quantized]:
    """Run PyTorch's int8 kernels and return every layer's codes, channels last.

    Parameters
    ----------
    model : nn.Module
        Converted; whatever its engine.
    images : Tensor
        float32, normalized, shape (N, channels, H, W).
    """
    out = {}
    for name, y in ptq.layer_outputs(model, images, integers=True).items():
        q = y.int_repr().flatten(1) if name == "avgpool" else y.int_repr()
        q = q.permute(0, 2, 3, 1) if q.ndim == 4 else q
        out[name] = Quantized(q.numpy(), np.float32(y.q_scale()), y.q_zero_point())
    return out


Run = Callable[[Tensor], dict[str, Quantized]]


@dataclass(frozen=True)
class Agreement:
    """How two ways to run the network differ.

    Attributes
    ----------
    layers : DataFrame
        layer, activations (compared), different (how many), largest (difference, in codes).
    first, second : ndarray
        int64, shape (N,): the class that each predicts.
    """

    layers: DataFrame
    first: ndarray
    second: ndarray

    @property
    def different(self) -> int:
        """Activations that differ, over all layers."""
        return int(self.layers["different"].sum())

    @property
    def activations(self) -> int:
        """Activations compared, over all layers."""
        return int(self.layers["activations"].sum())

    @property
    def predictions_changed(self) -> int:
        """Images that the two put into different classes."""
        return int((self.first != self.second).sum())

    def __str__(self) -> str:
        return (
            f"{self.different:,} of {self.activations:,} codes differ, by at most "
            f"{self.layers['largest'].max()}; {self.predictions_changed} predictions change"
        )


def compare_codes(
    reference: Run, others: Mapping[str, Run], images: Tensor
) -> dict[str, Agreement]:
    """Run several versions of the network and compare every layer's codes with a reference.

    Parameters
    ----------
    reference : callable
        From a batch of images to the codes by layer, for instance
        :meth:`IntegerResNet18.activations`.
    others : mapping of str to callable
        Likewise, by name.
    images : Tensor
        float32, normalized, shape (N, channels, H, W).

    Returns
    -------
    dict of str to Agreement
        By the names of ``others``; in each, ``first`` is the reference.

    Raises
    ------
    ValueError
        If two do not have the same layers, or a layer not the same shape.
    """
    seen: dict[str, dict[str, list[int]]] = {name: {} for name in others}
    classes: dict[str, list[ndarray]] = {name: [] for name in others}
    expected: list[ndarray] = []
    steps = list(batches(images, size=BATCH))
    for batch in tqdm(steps, desc="comparing", unit="batch", leave=False):
        right = reference(batch)
        expected.append(right["fc"].q.argmax(1))
        for name, run in others.items():
            codes = run(batch)
            _count(right, codes, seen[name])
            classes[name].append(codes["fc"].q.argmax(1))
    return {
        name: Agreement(
            DataFrame(
                [(layer, *counts) for layer, counts in seen[name].items()],
                columns=["layer", "activations", "different", "largest"],
            ),
            np.concatenate(expected),
            np.concatenate(classes[name]),
        )
        for name in others
    }


def _count(a: dict[str, Quantized], b: dict[str, Quantized], seen: dict[str, list[int]]) -> None:
    """Add what two runs of one batch have in each layer: codes, different ones, largest gap."""
    if a.keys() != b.keys():
        raise ValueError(f"layers of only one of the two: {sorted(a.keys() ^ b.keys())}")
    for layer in a:
        left, right = a[layer].q, b[layer].q
        if left.shape != right.shape:
            raise ValueError(f"{layer}: the shapes {left.shape} and {right.shape} differ")
        apart = left != right
        gap = np.abs(left[apart].astype(np.int16) - right[apart])
        counts = seen.setdefault(layer, [0, 0, 0])
        counts[0] += apart.size
        counts[1] += gap.size
        counts[2] = max(counts[2], int(gap.max(initial=0)))
