"""Choices of qconfig: observers of activations, weights per channel or per tensor, bits."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings

from utils import quantization as ptq
from utils.models import layers_of, tq

CODES = 256  # that the kernels have, whatever range an observer was asked to use


class PercentileObserver(tq.HistogramObserver):
    """Take the range that holds all but the rarest values, at both ends.

    torch.ao has none. The histogram is that of ``HistogramObserver``; only the choice of the range
    differs (Wu et al.: Integer Quantization for Deep Learning Inference, 2020, section 3.4).
    ``percentile`` is the percentage of the values below the upper end, over 50 and up to 100, and
    likewise above the lower end; a ValueError says if it is out of range.
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
    """Compose a qconfig from keys of OBSERVERS, WEIGHTS and ACTIVATIONS, by default fbgemm's.

    Weights always have 8 bits, symmetric, from the extremes. Activations are ``quint8`` either way:
    symmetric means a zero point in the middle of the codes. Their observed range is mapped to the
    codes 0 to 2^bits - 1, with 2 to 8 bits.
    """
    for value, known in (
        (observer, OBSERVERS),
        (weights, WEIGHTS),
        (activations, ACTIVATIONS),
        (bits, range(2, 9)),
    ):
        if value not in known:
            raise ValueError(f"unknown choice {value!r}; known: {', '.join(map(str, known))}")
    how = {"qscheme": ACTIVATIONS[activations], "quant_min": 0, "quant_max": 2**bits - 1}
    activation = OBSERVERS[observer].with_args(dtype=torch.quint8, **how)
    return tq.QConfig(activation=activation, weight=WEIGHTS[weights])


def weighted_layers(fused: nn.Module) -> list[str]:
    """Return the names of all layers with weights of a fused model, in the order of definition."""
    return list(layers_of(fused, ConvReLU2d, nn.Conv2d, nn.Linear))


class _PackOnce:
    """In the place of an int8 convolution's class: converts as it does, but packs weights once.

    Quantizing and packing the weights takes most of a conversion and does not depend on ranges.
    """

    KEPT = 80  # layers: those of four networks, of up to 60 MB each
    _kept: ClassVar[dict] = {}  # the last used at the end

    def __init__(self, int8: type[nn.Module]):
        self.int8 = int8

    def from_float(self, layer: nn.Module) -> nn.Module:
        conv = layer[0] if isinstance(layer, ConvReLU2d) else layer
        tensors = [p.detach() for p in conv.parameters()]
        key = (self.int8, torch.backends.quantized.engine, str(conv.qconfig.weight))
        key += (conv.extra_repr(), tensors[0].sum().item())
        weights, made = self._kept.pop(key, ((), None))
        if made is None or not all(map(torch.equal, weights, tensors)):
            weights, made = [t.clone() for t in tensors], self.int8.from_float(layer)
        self._kept[key] = weights, made
        if len(self._kept) > self.KEPT:
            del self._kept[next(iter(self._kept))]
        new = self.int8.__new__(self.int8)  # the constructor, and copy(), would pack again
        new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in vars(made).items()}
        scale, zero_point = layer.activation_post_process.calculate_qparams()
        new.scale, new.zero_point = float(scale), int(zero_point)
        return new


def reconvert(
    prepared: nn.Module, weights: str = "per channel", activations: str = "affine", bits: int = 7
) -> nn.Module:
    """Return the int8 model of a calibrated one, as if it had been prepared with these choices.

    The ranges that the observers saw stay, so one calibration serves every choice of a
    :func:`qconfig` but the observer. ``prepared`` is left with the choices.
    """
    made = qconfig(weights=weights, activations=activations, bits=bits)
    for observer in ptq.observers(prepared).values():
        observer.quant_max, observer.qscheme = 2**bits - 1, ACTIVATIONS[activations]
        observer.has_customized_qrange = True  # or symmetric puts the zero point at 128
    for module in prepared.modules():
        if getattr(module, "qconfig", None):
            module.qconfig = module.qconfig._replace(weight=made.weight)
    mapping = get_default_static_quant_module_mappings()
    if torch.backends.quantized.engine != "qnnpack":  # it packs the scale of the output as well
        mapping |= {kind: _PackOnce(mapping[kind]) for kind in (ConvReLU2d, nn.Conv2d)}
    return ptq.convert(prepared, mapping)
