"""Find out what int8 costs and where: single layers, planted faults, diagnose.

``fused`` is always a float32 model as :func:`utils.quantization.fuse` returns it; it is not
changed. ``name`` is that of a layer with weights; a ValueError lists them if there is no such one.
"""

import contextlib
import copy
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils.lab.observers import CODES, WEIGHTS, qconfig, reconvert, weighted_layers
from utils.models import ResNet18, layers_of, tq

# What counts as a fault. Fixed by what each number means, on no data set.
SATURATED = 0.01  # share of values beyond the range that is worth knowing
WEAK_DB = 20.0  # below this, noise is more than a tenth of a channel's own signal
OUTLIER = 8.0  # times the median channel's range
# Pixels from 0 to 1 deviate by at most 0.5, so normalization makes their range at least twice as
# wide: an input that was not normalized uses less than half of what the model was calibrated for.
UNUSED_INPUT = 0.5


@contextlib.contextmanager
def replaced(model: nn.Module, name: str, layer: nn.Module) -> Iterator[nn.Module]:
    """Put a layer into a model, itself and no copy, for as long as the context lasts."""
    before = model.get_submodule(name)
    model.set_submodule(name, layer)
    try:
        yield model
    finally:
        model.set_submodule(name, before)


def alone(fused: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Quantize every layer for itself, for :func:`replaced`: float32 in and out, int8 within.

    One pass of ``images``, float32, normalized, (N, channels, H, W), calibrates all of them.
    """
    engine = ptq.set_engine()
    model = copy.deepcopy(fused)
    names = weighted_layers(fused)
    for name in names:
        layer = tq.QuantWrapper(model.get_submodule(name))
        layer.qconfig = tq.get_default_qconfig(engine)
        model.set_submodule(name, layer)
    prepared = tq.prepare(model)
    ptq.calibrate(prepared, images)
    return {name: tq.convert(prepared.get_submodule(name)) for name in names}


def round_weights(
    fused: nn.Module, name: str, weights: str = "per channel", channels: Tensor | None = None
) -> nn.Module:
    """Return one layer in float32 with weights rounded to 8 bits, for :func:`replaced`.

    They are the reals ``S q`` that an int8 layer computes with. ``weights`` is "per channel" or
    "per tensor"; ``channels``, int64, says which output channels to round (all by default).
    """
    layer = copy.deepcopy(_layer(fused, name))
    weight, observer = _weight(layer), WEIGHTS[weights]()
    observer(weight)
    scales, zero_points = observer.calculate_qparams()
    ends = observer.quant_min, observer.quant_max
    where = (0,) if weights == "per channel" else ()
    kind = "per_channel" if where else "per_tensor"
    round_ = getattr(torch, f"fake_quantize_{kind}_affine")
    rounded = round_(weight, scales, zero_points.int(), *where, *ends)
    chosen = slice(None) if channels is None else channels
    weight[chosen] = rounded[chosen]
    return layer


def bits_lost(fused: nn.Module, name: str) -> Tensor:
    """Return how many bits each output channel of a layer gives up to a scale shared by all.

    ``log2(max |w| / max |w_c|)``, float32, shape (output channels,): a channel that reaches half
    as far is left with half the codes. It is 0 for the channel that reaches farthest.
    """
    reach = _weight(_layer(fused, name)).abs().flatten(1).amax(1)
    return torch.log2(reach.max() / reach)


def in_float(fused: nn.Module, int8: nn.Module, name: str) -> nn.Module:
    """Return one layer of an int8 model in float32, for :func:`replaced`.

    Its output still goes to the codes of the int8 layer, because the next one takes integers: what
    this saves is the rounding of the weights, not of the output.
    """
    exact, layer = _layer(fused, name), int8.get_submodule(name)
    again = nnq.Quantize(float(layer.scale), int(layer.zero_point), torch.quint8)
    return nn.Sequential(nnq.DeQuantize(), exact, again)


def plant_outlier(
    model: ResNet18, channel: int, factor: float, block: str = "layer1.0"
) -> ResNet18:
    """Scale one channel inside a block up, and what reads it down by the same factor.

    A ReLU lets a positive factor through, so the float32 function stays the same, to rounding:
    this is cross-layer equalization in reverse (Nagel et al.: Data-Free Quantization Through Weight
    Equalization and Bias Correction, ICCV 2019, section 4.1). ``model`` is float32, trained, fused
    or not, and is not changed; ``channel`` is one of the output of the block's ``conv1``. A
    ValueError says if there is no such channel, or ``factor`` is not positive.
    """
    model = copy.deepcopy(model)
    place = model.get_submodule(block)
    channels = place.conv2.in_channels
    if not 0 <= channel < channels or factor <= 0:
        raise ValueError(
            f"channel={channel}, factor={factor}: choose 0 to {channels - 1} and a positive factor"
        )
    writes = place.conv1[0] if isinstance(place.conv1, ConvReLU2d) else place.bn1
    with torch.no_grad():
        writes.weight[channel] *= factor
        writes.bias[channel] *= factor
        place.conv2.weight[:, channel] /= factor
    return model


def diagnose(
    float_model: nn.Module, int8_model: nn.Module, images: Tensor, bits: int | None = None
) -> pd.DataFrame:
    """Look for what quantization did wrong, layer by layer, on the images the model will meet.

    A layer's noise is taken apart: ``own_db`` is what its range and step alone would do to the
    float32 output, ``weight_db`` what rounding did to its weights, each as the SQNR of the median
    channel; ``sqnr_db`` is all that has come together up to here, as usually reported. The median
    channel counts because one loud channel lets the SQNR of its whole layer look good.

    Parameters
    ----------
    float_model, int8_model : nn.Module
        A :class:`~utils.models.ResNet18`, or any fused float32 model, and its int8 twin, with the
        same names of layers. A ValueError is raised if the latter lacks one, or if float32 gives
        NaN or infinity.
    images : Tensor
        float32, shape (N, channels, H, W), normalized as in production; a few hundred.
    bits : int, optional
        Of the codes that calibration used, which a converted model no longer tells; by default
        those of the engine's qconfig, 7 where it reduces the range, else 8.

    Returns
    -------
    DataFrame
        One row per layer, in the order of execution: layer; low, high (the range that its codes can
        represent); seen_low, seen_high (of the float32 output); saturated (share of the float32
        values beyond the range); unused (share of the 256 codes that no value took; half of them
        by design where the observer reduced the range); sqnr_db, own_db, weight_db (NaN without
        weights); verdict ("ok", or the fault in plain words; beginning with "note:" if it is worth
        knowing but no fault).
    """
    if not ptq.is_quantized(int8_model):
        raise ValueError("the second model is float32: diagnose(float_model, int8_model, images)")
    if not len(images):
        raise ValueError("no images: take a few hundred of those that the model will meet")
    fused = ptq.fuse(float_model) if layers_of(float_model, nn.BatchNorm2d) else float_model
    exact, coarse = (ptq.layer_outputs(model, images) for model in (fused, int8_model))
    if missing := sorted(exact.keys() - dict(int8_model.named_modules()).keys()):
        raise ValueError(f"layers that the int8 model lacks: {', '.join(missing)}")
    if bad := [name for name, output in exact.items() if not output.isfinite().all()]:
        raise ValueError(f"NaN or infinity in the float32 output of {bad[0]!r}: check the images")
    default = tq.get_default_qconfig(torch.backends.quantized.engine).activation()
    bits = bits or (7 if default.reduce_range else 8)
    rows = []
    for name, output in exact.items():
        module = int8_model.get_submodule(name)
        if hasattr(module, "scale"):
            weight = _weight(fused.get_submodule(name)) if hasattr(module, "weight") else None
            rows.append({"layer": name} | _judge(output, coarse[name], module, weight, bits))
    return pd.DataFrame(rows)


def culprit(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of :func:`diagnose` to look at first, None if there is no fault.

    A layer that was never calibrated; else the input, since a wrong input spoils every range after
    it; else the layer whose own noise is the worst. Notes are no faults.
    """
    faults = table[has_fault(table)]
    if faults.empty:
        return None
    uncalibrated = faults["verdict"].str.startswith("never calibrated")
    for first in (faults[uncalibrated], faults[faults["layer"] == "quant"]):
        if not first.empty:
            return first.iloc[0]
    in_weights = faults["verdict"].str.startswith("per-tensor")
    return faults.loc[faults["own_db"].mask(in_weights, faults["weight_db"]).idxmin()]


def has_fault(table: pd.DataFrame) -> pd.Series:
    """Return which rows of :func:`diagnose`'s table name a fault, neither "ok" nor a note."""
    return ~table["verdict"].str.match("ok$|note:")


def saturated(exact: Tensor, module: nn.Module) -> float:
    """Return the share of float32 outputs more than half a step beyond an int8 layer's range."""
    scale, _, low, high = _range(module)
    return ((exact < low - scale / 2) | (exact > high + scale / 2)).double().mean().item()


def cases(
    fused: nn.Module, pixels: Tensor, labels: Tensor, normalize: nn.Module, draw: int
) -> Iterator[dict]:
    """Make int8 models for :func:`diagnose` to judge, half of them healthy, half with a fault.

    ``pixels`` are training images, uint8, (N, channels, H, W), ``labels`` their classes, (N,), and
    ``normalize`` maps pixels to what the model was trained on. ``draw`` decides the calibration
    images, the layers and the channels. Each dict holds kind (in words), guilty (the layer to be
    named, empty for a healthy model) and the arguments of :func:`diagnose`.
    """
    random = torch.Generator().manual_seed(draw)
    order = torch.randperm(len(pixels), generator=random)
    few, met = pixels[order[:128]], pixels[order[128:192]]
    normal, usual = normalize(few), normalize(met)

    def calibrated(x, observer="histogram", model=fused):
        prepared = ptq.prepare(model, qconfig=qconfig(observer))
        ptq.calibrate(prepared, x)
        return prepared

    def case(kind, int8_model, guilty="", model=fused, images=usual, bits=7):
        made = {"float_model": model, "int8_model": int8_model, "images": images, "bits": bits}
        return {"kind": kind, "guilty": guilty, **made}

    prepared = calibrated(normal)
    yield case("healthy, per tensor", reconvert(prepared, weights="per tensor"))
    yield case("healthy, symmetric", reconvert(prepared, activations="symmetric"))
    yield case("healthy, 8 bits", reconvert(prepared, bits=8), bits=8)
    healthy = reconvert(prepared)
    yield case("healthy, default", healthy)
    for observer in ("min-max", "moving average", "percentile"):
        yield case(f"healthy, {observer}", reconvert(calibrated(normal, observer)))
    of_class = pixels[labels == draw % 10][:128]
    yield case("healthy, calibrated on one class", reconvert(calibrated(normalize(of_class))))

    for kind, x, y in (("0 to 1", few / 255, met / 255), ("raw", few.float(), met.float())):
        yield case(f"calibrated on pixels {kind}", reconvert(calibrated(x)), "quant")
        yield case(f"used on pixels {kind}", healthy, "quant", images=y)
    names = list(ptq.observers(prepared))
    blocks = [name.removesuffix(".add_relu") for name in names if name.endswith("add_relu")]
    for factor in (32, 128):
        name = names[torch.randint(len(names), (), generator=random)]
        forgotten = copy.deepcopy(healthy)
        layer = forgotten.get_submodule(name)
        layer.scale, layer.zero_point = torch.tensor(1.0), torch.tensor(0)  # as if without data
        yield case("forgotten observer", forgotten, name)
        block = blocks[torch.randint(len(blocks), (), generator=random)]
        channel = bits_lost(fused, f"{block}.conv1").argsort()[draw % 64].item()  # a wide one
        planted = plant_outlier(fused, channel, factor, block)
        int8_model = reconvert(calibrated(normal, "min-max", planted))
        yield case(f"outlier channel, factor {factor}", int8_model, f"{block}.conv1", planted)


def _range(module: nn.Module) -> tuple[float, int, float, float]:
    """Return scale, zero point, and the lowest and the highest number that a code stands for."""
    scale, zero_point = float(module.scale), int(module.zero_point)
    return scale, zero_point, scale * (0 - zero_point), scale * (CODES - 1 - zero_point)


def _judge(
    exact: Tensor, coarse: Tensor, module: nn.Module, weight: Tensor | None, bits: int
) -> dict:
    scale, zero_point, low, high = _range(module)
    codes = torch.round(coarse / scale + zero_point).flatten().int()
    rounded = torch.fake_quantize_per_tensor_affine(exact, scale, zero_point, 0, CODES - 1)
    row = {
        "low": low,
        "high": high,
        "seen_low": exact.min().item(),
        "seen_high": exact.max().item(),
        "saturated": saturated(exact, module),
        "unused": (torch.bincount(codes, minlength=CODES) == 0).double().mean().item(),
        "sqnr_db": ptq.sqnr(exact, coarse),
        "own_db": _median_sqnr(exact.transpose(0, 1), rounded.transpose(0, 1)),
        "weight_db": float("nan"),
    }
    if weight is not None:
        row["weight_db"] = _median_sqnr(weight, module.weight().dequantize())
    weak = min(row["own_db"], ptq.sqnr(exact, rounded)) < WEAK_DB  # or a few channels are cut off
    return row | {"verdict": _verdict(row, exact, module, bits, weak)}


def _verdict(row: dict, exact: Tensor, module: nn.Module, bits: int, weak: bool) -> str:
    scale, zero_point, low, high = _range(module)
    if (scale, zero_point) == (1.0, 0):
        return "never calibrated: scale 1 and zero point 0 are what an observer without data gives"
    is_input = isinstance(module, nnq.Quantize)
    cause = "normalized as for the calibration?" if is_input else "calibrated on other data?"
    if (beyond := row["saturated"]) > SATURATED:
        note = "" if weak else "note: "
        return f"{note}range too narrow: {beyond:.1%} of the values lie beyond it; {cause}"
    seen = row["seen_high"] - row["seen_low"]
    if is_input and (used := seen / (scale * (2**bits - 1))) < UNUSED_INPUT:
        return (
            f"range too wide: the input uses {used:.0%} of what the model was calibrated for; "
            f"{cause}"
        )
    if row["own_db"] < WEAK_DB:
        ranges = exact.abs().transpose(0, 1).flatten(1).amax(1)
        times = (ranges.max() / ranges.median()).item()
        if len(ranges) > 1 and times > OUTLIER:
            loud = ranges.argmax()
            return f"outlier: channel {loud} takes the range, {times:.0f} times the median's"
        return f"range too wide: {(high - low) / seen:.0f} times what the values need; {cause}"
    if hasattr(module, "weight") and module.weight().qscheme() == torch.per_tensor_affine:
        codes = module.weight().int_repr().int().abs().flatten(1).amax(1).double()
        weakest = codes.argmin()
        left = 1 + torch.log2(codes[weakest].clamp(min=1)).item()
        note = "" if row["weight_db"] < WEAK_DB else "note: "
        return f"{note}per-tensor weights: channel {weakest} is left with {left:.1f} of 8 bits"
    return "ok"


def _weight(layer: nn.Module) -> Tensor:
    return (layer[0] if isinstance(layer, ConvReLU2d) else layer).weight.detach()


def _median_sqnr(exact: Tensor, coarse: Tensor) -> float:
    """SQNR of the median row in dB; rows that are silent in float32 are left out."""
    exact, coarse = exact.double().flatten(1), coarse.double().flatten(1)
    signal = exact.square().sum(1)
    noise = (exact - coarse).square().sum(1).clamp(min=1e-300)
    return 10 * torch.log10((signal / noise)[signal > 0]).median().item()


def _layer(fused: nn.Module, name: str) -> nn.Module:
    if name not in (known := weighted_layers(fused)):
        raise ValueError(f"no layer with weights {name!r}; there are: {', '.join(known)}")
    return fused.get_submodule(name)
