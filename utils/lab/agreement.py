"""Count where the integer network and the kernels differ, code by code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from pandas import DataFrame, concat
from torch import Tensor, nn
from tqdm import tqdm

from utils import quantization as ptq
from utils.data import batches
from utils.lab.integer import BATCH, Quantized

Run = Callable[[Tensor], dict[str, Quantized]]  # from a batch of images to the codes by layer


def kernel_activations(model: nn.Module, images: Tensor) -> dict[str, Quantized]:
    """Run PyTorch's int8 kernels, whatever the engine; return every layer's codes, channels last.

    ``images`` are float32, normalized, of shape (N, channels, H, W).
    """
    out = {}
    for name, y in ptq.layer_outputs(model, images, integers=True).items():
        q = y.int_repr().flatten(1) if name == "avgpool" else y.int_repr()
        q = q.permute(0, 2, 3, 1) if q.ndim == 4 else q
        name = name.removesuffix(".1")  # the convolution in a Sequential with its padding
        out[name] = Quantized(q.numpy(), np.float32(y.q_scale()), y.q_zero_point())
    return out


@dataclass(frozen=True)
class Agreement:
    """How two ways to run the network differ."""

    layers: DataFrame  # layer, activations (compared), different (how many), largest (in codes)
    first: ndarray  # the classes that the reference predicts, int64, shape (N,)
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

    ``images`` are float32, normalized, of shape (N, channels, H, W). A ValueError says if two
    versions do not have the same layers, or a layer not the same shape.
    """
    counts: dict[str, list[DataFrame]] = {name: [] for name in others}
    classes: dict[str, list[ndarray]] = {name: [] for name in others}
    expected: list[ndarray] = []
    steps = list(batches(images, size=BATCH))
    for batch in tqdm(steps, desc="comparing", unit="batch", leave=False):
        right = reference(batch)
        expected.append(right["fc"].q.argmax(1))
        for name, run in others.items():
            codes = run(batch)
            counts[name].append(_count(right, codes))
            classes[name].append(codes["fc"].q.argmax(1))
    how = {"activations": "sum", "different": "sum", "largest": "max"}
    return {
        name: Agreement(
            concat(counts[name]).groupby("layer", sort=False).agg(how).reset_index(),
            np.concatenate(expected),
            np.concatenate(classes[name]),
        )
        for name in others
    }


def _count(a: dict[str, Quantized], b: dict[str, Quantized]) -> DataFrame:
    """Return for every layer of one batch: how many codes, how many differ, the largest gap."""
    if a.keys() != b.keys():
        raise ValueError(f"layers of only one of the two: {sorted(a.keys() ^ b.keys())}")
    rows = []
    for layer in a:
        left, right = a[layer].q, b[layer].q
        if left.shape != right.shape:
            raise ValueError(f"{layer}: the shapes {left.shape} and {right.shape} differ")
        apart = left != right
        gap = np.abs(left[apart].astype(np.int16) - right[apart])
        rows.append((layer, apart.size, gap.size, int(gap.max(initial=0))))
    return DataFrame(rows, columns=["layer", "activations", "different", "largest"])
