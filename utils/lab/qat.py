"""Quantization-aware training: go on training with weights that are rounded in every step.

The forward pass computes with ``r-hat = S q``; the backward pass treats the rounding as if it were
not there (the straight-through estimator of Bengio et al.: Estimating or Propagating Gradients
Through Stochastic Neurons for Conditional Computation, 2013).
"""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from utils import models, training
from utils.data import Dataset
from utils.files import locked
from utils.lab.lowbit import Quantized, core, layers, limits, quantize, scales
from utils.settings import Settings

TERNARY = "ternary"
ZEROS = 1.9


class RoundedWeight(nn.Module):
    """Turns a weight r into S q, with a learned step S for each output channel.

    With b bits, q is round(r / S), clipped (Esser et al.: Learned Step Size Quantization, ICLR
    2020, section 2). Ternary, q is 0 where the absolute value of r is at most ``zeros`` times its
    mean over the layer, and the sign of r elsewhere (Li, Zhang and Liu: Ternary Weight Networks,
    2016, whose factor is about 0.7; a larger one makes more zeros and a smaller file).
    """

    def __init__(self, weight: Tensor, bits: int | str, zeros: float):
        super().__init__()
        self.bits, self.zeros = bits, zeros
        if bits == TERNARY:  # the least squared error: the mean of what is not 0
            kept = self.codes(weight).abs().flatten(1)
            step = (weight.abs().flatten(1) * kept).sum(1) / kept.sum(1).clamp(min=1)
        else:
            step = scales(weight, bits, "least squared error")
        self.step = nn.Parameter(step.view(-1, *[1] * (weight.ndim - 1)))

    def codes(self, weight: Tensor) -> Tensor:
        """Return q in the weight's shape, float32; it is a constant to the backward pass."""
        weight = weight.detach()
        if self.bits == TERNARY:
            return weight.sign() * (weight.abs() > self.zeros * weight.abs().mean())
        return (weight / self.step.detach().abs()).round().clamp(*limits(self.bits))

    def forward(self, weight: Tensor) -> Tensor:
        """Return S q, whose gradient reaches both the weight and the step."""
        q = self.codes(weight)
        most = 1 if self.bits == TERNARY else limits(self.bits)[1]
        slow = (q[0].numel() * most) ** -0.5  # Esser et al., section 2.2
        size = self.step.abs()  # a step that training moves across zero stays one
        step = size.detach() + slow * (size - size.detach())
        if self.bits == TERNARY:
            return step * q + (weight - weight.detach())
        part = (weight / step).clamp(*limits(self.bits))
        return step * (q + (part - part.detach()))


def prepare(fused: nn.Module, bits: int | str = TERNARY, zeros: float = ZEROS) -> nn.Module:
    """Return a copy whose weights are rounded in every forward pass, but for first and last layer.

    The network is fused, so that the training sees the weights that will be stored; it may be
    specialized. ValueError for bits that are neither 2 to 8 nor "ternary".
    """
    student = copy.deepcopy(fused)
    for layer in list(layers(student).values())[1:-1]:
        weight = core(layer).weight.detach()
        parametrize.register_parametrization(
            core(layer), "weight", RoundedWeight(weight, bits, zeros)
        )
    return student


def finish(student: nn.Module) -> tuple[nn.Module, dict[str, Quantized]]:
    """Give a trained network plain weights ``S q``; return it and the codes that they stand for.

    The first and the last layer are rounded to 8 bits. The student is changed: torch's
    parametrizations cannot be removed from a copy alone.
    """
    made = {}
    for name, layer in layers(student.eval()).items():
        conv = core(layer)
        if parametrize.is_parametrized(conv):
            rounded, weight = conv.parametrizations.weight[0], conv.parametrizations.weight.original
            width = 2 if rounded.bits == TERNARY else rounded.bits
            codes = rounded.codes(weight).to(torch.int8)
            made[name] = Quantized(codes, rounded.step.detach().abs().flatten(), width)
            parametrize.remove_parametrizations(conv, "weight")
        else:
            made |= quantize(student, {name: 8})
        conv.weight.data = made[name].weight
    return student, made


def load_or_train(
    settings: Settings, dataset: Dataset, fused: nn.Module, bits: int | str = TERNARY
) -> tuple[nn.Module, dict[str, Quantized], pd.DataFrame]:
    """Train a fused network with few bits by the course's loop, now or before.

    Four epochs of the float model's recipe with a fifth of its learning rate, kept beside the
    float model's checkpoint under the hash of the weights that it began with. Returns what
    :func:`finish` does, and the history of :func:`utils.training.train`.
    """
    recipe = training.recipe_for(settings, dataset)
    recipe = replace(recipe, epochs=min(4, recipe.epochs), peak_lr=recipe.peak_lr / 5)
    name = f"qat-{bits}-{ZEROS}-{models.weights_hash(fused)}-{recipe.key}.pt"
    path = settings.artifacts_dir / name
    made = training.read_checkpoint(path, recipe).get("history", ()) if path.exists() else ()
    with nullcontext() if len(made) == recipe.epochs else locked(path, "training this model"):
        student, history = training.train(
            dataset, recipe, device=settings.device, checkpoint=path, model=prepare(fused, bits)
        )
    return *finish(student), history
