"""Choices of qconfig: observers of activations, weights per channel or per tensor, bits."""

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils.models import tq

CODES = 256  # that the kernels have, whatever range an observer was asked to use


class PercentileObserver(tq.HistogramObserver):
    """Take the range that holds all but the rarest values, at both ends.

    torch.ao has none. The histogram is that of ``HistogramObserver``; only the choice of the range
    differs (Wu et al.: Integer Quantization for Deep Learning Inference, 2020, section 3.4).

    Parameters
    ----------
    percentile : float
        Percent of the values below the upper end, over 50 and up to 100; likewise above the lower.
    **keywords
        For ``HistogramObserver``.

    Raises
    ------
    ValueError
        If ``percentile`` is out of range.
    """

    def __init__(self, percentile: float = 99.99, **keywords):
        super().__init__(**keywords)
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile={percentile}: choose more than 50 and up to 100")
        self.percentile = percentile

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        below = self.histogram.double().cumsum(0)
        tail = (1 - self.percentile / 100) * below[-1]
        width = (self.max_val - self.min_val) / self.bins
        first = torch.searchsorted(below, tail, right=True)
        last = torch.searchsorted(below, below[-1] - tail)
        return self.min_val + first * width, self.min_val + (last + 1) * width


OBSERVERS = {
    "min-max": tq.MinMaxObserver,
    "moving average": tq.MovingAverageMinMaxObserver,
    "histogram": tq.HistogramObserver,
    "percentile": PercentileObserver,
}
WEIGHTS = {
    "per channel": tq.default_per_channel_weight_observer,
    "per tensor": tq.default_weight_observer,
}
ACTIVATIONS = {"affine": torch.per_tensor_affine, "symmetric": torch.per_tensor_symmetric}


def qconfig(
    observer: str = "histogram",
    weights: str = "per channel",
    activations: str = "affine",
    bits: int = 7,
) -> tq.QConfig:
    """Compose a qconfig; the defaults are those of the engine fbgemm.

    Parameters
    ----------
    observer : {"min-max", "moving average", "histogram", "percentile"}
        Of the activations.
    weights : {"per channel", "per tensor"}
        Always 8 bits, symmetric, from the extremes.
    activations : {"affine", "symmetric"}
        ``quint8`` either way: symmetric means a zero point in the middle of the codes.
    bits : int
        The observed range is mapped to the codes 0 to 2^bits - 1; 2 to 8.

    Raises
    ------
    ValueError
        For an unknown choice; lists the known ones.
    """
    for value, known in (
        (observer, OBSERVERS),
        (weights, WEIGHTS),
        (activations, ACTIVATIONS),
        (bits, range(2, 9)),
    ):
        check_choice(value, known)
    activation = OBSERVERS[observer].with_args(
        dtype=torch.quint8,
        qscheme=ACTIVATIONS[activations],
        quant_min=0,
        quant_max=2**bits - 1,
    )
    return tq.QConfig(activation=activation, weight=WEIGHTS[weights])


def weighted_layers(fused: nn.Module) -> list[str]:
    """Return the names of all layers with weights of a fused model, in the order of definition."""
    return [
        name
        for name, module in fused.named_modules()
        if isinstance(module, ConvReLU2d | nn.Conv2d | nn.Linear)
        and not isinstance(fused.get_submodule(name.rpartition(".")[0]), ConvReLU2d)
    ]


def convert(
    prepared: nn.Module, weights: str = "per channel", activations: str = "affine", bits: int = 7
) -> nn.Module:
    """Convert a calibrated model with other choices than it was prepared with.

    The ranges that the observers saw stay, so one calibration serves every choice.

    Parameters
    ----------
    prepared : nn.Module
        Calibrated, with a :func:`qconfig` of the observer of choice; its choices are changed.
    weights, activations, bits
        As for :func:`qconfig`.

    Returns
    -------
    nn.Module
        int8, as if prepared with this qconfig.
    """
    made = qconfig(weights=weights, activations=activations, bits=bits)
    for observer in ptq.observers(prepared).values():
        observer.quant_max, observer.qscheme = 2**bits - 1, ACTIVATIONS[activations]
    for module in prepared.modules():
        if getattr(module, "qconfig", None):
            module.qconfig = module.qconfig._replace(weight=made.weight)
    return ptq.convert(prepared)


def check_choice(value, known) -> None:
    if value not in known:
        raise ValueError(f"unknown choice {value!r}; known: {', '.join(map(str, known))}")
