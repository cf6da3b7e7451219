"""Find out what int8 costs and where: single layers, planted faults, diagnose.

Models that are called int8 here run PyTorch's real int8 kernels.
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
from utils.lab.observers import CODES, WEIGHTS, check_choice, convert, qconfig, weighted_layers
from utils.models import ResNet18, tq

# What counts as a fault. Fixed by what each number means, on no data set.
SATURATED = 0.01  # share of values beyond the range that is worth knowing
WEAK_DB = 20.0  # below this, noise is more than a tenth of a channel's own signal
OUTLIER = 8.0  # times the median channel's range
# Pixels from 0 to 1 deviate by at most 0.5, so normalization makes their range at least twice as
# wide: an input that was not normalized uses less than half of what the model was calibrated for.
UNUSED_INPUT = 0.5


@contextlib.contextmanager
def replaced(model: nn.Module, name: str, layer: nn.Module) -> Iterator[nn.Module]:
    """Put a layer into a model for as long as the context lasts.

    Parameters
    ----------
    model : nn.Module
        Changed meanwhile: cheaper than a copy for each layer.
    name : str
        Of the module to replace.
    layer : nn.Module
    """
    before = model.get_submodule(name)
    model.set_submodule(name, layer)
    try:
        yield model
    finally:
        model.set_submodule(name, before)


def alone(
    fused: nn.Module, images: Tensor, qconfig: tq.QConfig | None = None
) -> dict[str, nn.Module]:
    """Quantize every layer for itself, between a Quantize and a DeQuantize.

    One pass calibrates all of them. :func:`replaced` puts one into the float32 model.

    Parameters
    ----------
    fused : nn.Module
        As :func:`utils.quantization.fuse` returns it; not changed.
    images : Tensor
        Calibration images, float32, normalised, shape (N, channels, H, W).
    qconfig : QConfig, optional
        Instead of the engine's default.

    Returns
    -------
    dict of str to nn.Module
        By the layer's name: float32 in, float32 out, int8 within.
    """
    engine = ptq.set_engine()
    model = copy.deepcopy(fused)
    names = weighted_layers(fused)
    for name in names:
        layer = tq.QuantWrapper(model.get_submodule(name))
        layer.qconfig = tq.get_default_qconfig(engine) if qconfig is None else qconfig
        model.set_submodule(name, layer)
    prepared = tq.prepare(model)
    ptq.calibrate(prepared, images)
    return {name: tq.convert(prepared.get_submodule(name)) for name in names}


def round_weights(
    fused: nn.Module, name: str, weights: str = "per channel", channels: Tensor | None = None
) -> nn.Module:
    """Round the weights of one layer to 8 bits and leave everything else in float32.

    Parameters
    ----------
    fused : nn.Module
        As :func:`utils.quantization.fuse` returns it; not changed.
    name : str
        Of a layer with weights.
    weights : {"per channel", "per tensor"}
    channels : Tensor of int64, optional
        Output channels to round; all by default.

    Returns
    -------
    nn.Module
        The layer, float32; its weights are the reals ``S q`` that an int8 layer computes with.
        :func:`replaced` puts it into the model.

    Raises
    ------
    ValueError
        For an unknown layer or choice; lists the known ones.
    """
    _check_layer(fused, name)
    check_choice(weights, WEIGHTS)
    layer = copy.deepcopy(fused.get_submodule(name))
    weight, observer = _weight(layer), WEIGHTS[weights]()
    observer(weight)
    scales, zero_points = observer.calculate_qparams()
    zero_points = zero_points.int()
    low, high = observer.quant_min, observer.quant_max
    if weights == "per channel":
        rounded = torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, low, high)
    else:
        rounded = torch.fake_quantize_per_tensor_affine(weight, scales, zero_points, low, high)
    chosen = slice(None) if channels is None else channels
    weight[chosen] = rounded[chosen]
    return layer


def bits_lost(fused: nn.Module, name: str) -> Tensor:
    """Return how many bits each output channel of a layer gives up to a scale shared by all.

    ``log2(max |w| / max |w_c|)``: a channel that reaches half as far is left with half the codes.

    Parameters
    ----------
    fused : nn.Module
    name : str
        Of a layer with weights.

    Returns
    -------
    Tensor
        float32, shape (output channels,), 0 for the channel that reaches farthest.
    """
    _check_layer(fused, name)
    reach = _weight(fused.get_submodule(name)).abs().flatten(1).amax(1)
    return torch.log2(reach.max() / reach)


def in_float(fused: nn.Module, int8: nn.Module, name: str) -> nn.Module:
    """Return one layer of an int8 model in float32, between a DeQuantize and a Quantize.

    Its output still goes to the codes of the int8 layer, because the next one takes integers: what
    this saves is the rounding of the weights, not of the output. :func:`replaced` puts it into the
    int8 model.

    Parameters
    ----------
    fused, int8 : nn.Module
        The same network; neither is changed.
    name : str
        Of a layer with weights.

    Raises
    ------
    ValueError
        For an unknown layer; lists the known ones.
    """
    _check_layer(fused, name)
    layer = int8.get_submodule(name)
    again = nnq.Quantize(float(layer.scale), int(layer.zero_point), torch.quint8)
    return nn.Sequential(nnq.DeQuantize(), fused.get_submodule(name), again)


def plant_outlier(
    model: ResNet18, channel: int, factor: float, block: str = "layer1.0"
) -> ResNet18:
    """Scale one channel inside a block up, and what reads it down by the same factor.

    A ReLU lets a positive factor through, so the float32 function stays the same, to rounding:
    this is cross-layer equalization in reverse (Nagel et al.: Data-Free Quantization Through Weight
    Equalization and Bias Correction, ICCV 2019, section 4.1).

    Parameters
    ----------
    model : ResNet18
        float32, trained, fused or not; not changed.
    channel : int
        Of the output of the block's ``conv1``.
    factor : float
        Positive.
    block : str
        Name of the block.

    Raises
    ------
    ValueError
        For a channel that does not exist or a factor that is not positive.
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
    float_model : nn.Module
        A :class:`~utils.models.ResNet18`, or any fused float32 model.
    int8_model : nn.Module
        Its int8 twin, with the same names of layers.
    images : Tensor
        float32, shape (N, channels, H, W), normalised as in production; a few hundred.
    bits : int, optional
        Of the codes that calibration used, which a converted model no longer tells; by default
        those of the engine's qconfig, 7 where it reduces the range, else 8.

    Returns
    -------
    DataFrame
        A row a layer, in the order of execution: layer; low, high (the range that its codes can
        represent); seen_low, seen_high (of the float32 output); saturated (share of the float32
        values beyond the range); unused (share of the 256 codes that no value took; half of them
        by design where the observer reduced the range); sqnr_db, own_db, weight_db (NaN without
        weights); verdict ("ok", or the fault in plain words; beginning with "note:" if it is worth
        knowing but no fault).

    Raises
    ------
    ValueError
        If the second model is not int8, or there are no images.
    """
    if not ptq.is_quantized(int8_model):
        raise ValueError("the second model is float32: diagnose(float_model, int8_model, images)")
    if not len(images):
        raise ValueError("no images: take a few hundred of those that the model will meet")
    fused = float_model
    if any(isinstance(module, nn.BatchNorm2d) for module in float_model.modules()):
        fused = ptq.fuse(float_model)
    exact, coarse = (ptq.layer_outputs(model, images) for model in (fused, int8_model))
    default = tq.get_default_qconfig(torch.backends.quantized.engine).activation()
    bits = bits or (7 if default.reduce_range else 8)
    rows = [
        _diagnose_layer(name, exact[name], coarse[name], fused, int8_model, bits)
        for name in exact
        if hasattr(int8_model.get_submodule(name), "scale")
    ]
    return pd.DataFrame(rows)


def culprit(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the layer to look at first, None if there is no fault.

    Parameters
    ----------
    table : DataFrame
        As :func:`diagnose` returns it.

    Returns
    -------
    Series or None
        A layer that was never calibrated; else the input, since a wrong input spoils every range
        behind it; else the layer whose own noise is the worst. Notes are no faults.
    """
    faults = table[has_fault(table)]
    if faults.empty:
        return None
    blind = faults[faults["verdict"].str.startswith("never calibrated")]
    if not blind.empty:
        return blind.iloc[0]
    if "quant" in set(faults["layer"]):
        return faults.set_index("layer", drop=False).loc["quant"]
    in_weights = faults["verdict"].str.startswith("per-tensor")
    return faults.loc[faults["own_db"].mask(in_weights, faults["weight_db"]).idxmin()]


def has_fault(table: pd.DataFrame) -> pd.Series:
    """Return which rows of :func:`diagnose`'s table name a fault, neither "ok" nor a note."""
    return ~table["verdict"].str.match("ok$|note:")


def saturated(exact: Tensor, module: nn.Module) -> float:
    """Return the share of values that lie beyond the range of an int8 layer, by half a step.

    Parameters
    ----------
    exact : Tensor
        What the layer puts out in float32.
    module : nn.Module
        The int8 layer.
    """
    low, high = _range(module)
    half = float(module.scale) / 2
    return ((exact < low - half) | (exact > high + half)).double().mean().item()


def cases(
    fused: nn.Module, pixels: Tensor, labels: Tensor, normalize: nn.Module, draw: int
) -> Iterator[dict]:
    """Make int8 models for :func:`diagnose` to judge, half of them healthy, half with a fault.

    Parameters
    ----------
    fused : nn.Module
        Trained, float32.
    pixels, labels : Tensor
        Training images, uint8, shape (N, channels, H, W), and their classes, shape (N,).
    normalize : callable
        From uint8 pixels to what the model was trained on.
    draw : int
        Of the calibration images, the layers and the channels.

    Yields
    ------
    dict
        kind (in words); guilty (the layer to be named, empty for a healthy model); and the
        arguments float_model, int8_model, images and bits of :func:`diagnose`.
    """
    random = torch.Generator().manual_seed(draw)
    order = torch.randperm(len(pixels), generator=random)
    few, met = pixels[order[:128]], pixels[order[128:192]]

    def calibrated(x: Tensor, observer: str = "histogram", model: nn.Module = fused) -> nn.Module:
        prepared = ptq.prepare(model, qconfig=qconfig(observer))
        ptq.calibrate(prepared, x)
        return prepared

    def case(kind, int8_model, guilty="", model=fused, images=None, bits=7):
        images = normalize(met) if images is None else images
        made = {"float_model": model, "int8_model": int8_model, "images": images, "bits": bits}
        return {"kind": kind, "guilty": guilty, **made}

    prepared = calibrated(normalize(few))
    yield case("healthy, per tensor", convert(prepared, weights="per tensor"))
    yield case("healthy, symmetric", convert(prepared, activations="symmetric"))
    yield case("healthy, 8 bits", convert(prepared, bits=8), bits=8)
    healthy = convert(prepared)
    yield case("healthy, default", healthy)
    for observer in ("min-max", "moving average", "percentile"):
        yield case(f"healthy, {observer}", convert(calibrated(normalize(few), observer)))
    of_class = pixels[labels == draw % 10][:128]
    yield case("healthy, calibrated on one class", convert(calibrated(normalize(of_class))))

    for kind, x, y in (("0 to 1", few / 255, met / 255), ("raw", few.float(), met.float())):
        yield case(f"calibrated on pixels {kind}", convert(calibrated(x)), "quant")
        yield case(f"used on pixels {kind}", healthy, "quant", images=y)
    names = list(ptq.observers(prepared))
    blocks = [name.removesuffix(".add_relu") for name in names if name.endswith("add_relu")]
    for factor in (32, 128):
        name = names[torch.randint(len(names), (), generator=random)]
        forgotten = copy.deepcopy(healthy)
        layer = forgotten.get_submodule(name)
        layer.scale, layer.zero_point = 1.0, 0  # what convert() gives an observer without data
        yield case("forgotten observer", forgotten, name)
        block = blocks[torch.randint(len(blocks), (), generator=random)]
        channel = bits_lost(fused, f"{block}.conv1").argsort()[draw].item()  # a wide one
        planted = plant_outlier(fused, channel, factor, block)
        int8_model = convert(calibrated(normalize(few), "min-max", planted))
        yield case(f"outlier channel, factor {factor}", int8_model, f"{block}.conv1", planted)


def _range(module: nn.Module) -> tuple[float, float]:
    scale, zero_point = float(module.scale), int(module.zero_point)
    return scale * (0 - zero_point), scale * (CODES - 1 - zero_point)


def _diagnose_layer(
    name: str, exact: Tensor, coarse: Tensor, fused: nn.Module, int8_model: nn.Module, bits: int
) -> dict:
    module = int8_model.get_submodule(name)
    scale, zero_point = float(module.scale), int(module.zero_point)
    low, high = _range(module)
    codes = torch.round(coarse / scale + zero_point).flatten().int()
    rounded = torch.fake_quantize_per_tensor_affine(exact, scale, zero_point, 0, CODES - 1)
    row = {
        "layer": name,
        "low": low,
        "high": high,
        "seen_low": exact.min().item(),
        "seen_high": exact.max().item(),
        "saturated": saturated(exact, module),
        "unused": (torch.bincount(codes, minlength=CODES) == 0).double().mean().item(),
        "sqnr_db": ptq.sqnr(exact, coarse),
        "own_db": _channel_sqnr(exact.transpose(0, 1), rounded.transpose(0, 1)).median().item(),
        "weight_db": float("nan"),
    }
    if hasattr(module, "weight"):
        weight, quantized = _weight(fused.get_submodule(name)), module.weight()
        row["weight_db"] = _channel_sqnr(weight, quantized.dequantize()).median().item()
    weak = min(row["own_db"], ptq.sqnr(exact, rounded)) < WEAK_DB  # or a few channels are cut off
    return row | {"verdict": _verdict(row, exact, module, bits, weak)}


def _verdict(row: dict, exact: Tensor, module: nn.Module, bits: int, weak: bool) -> str:
    scale, zero_point = float(module.scale), int(module.zero_point)
    if (scale, zero_point) == (1.0, 0):
        return "never calibrated: scale 1 and zero point 0 are what an observer without data gives"
    is_input = isinstance(module, nnq.Quantize)
    if row["saturated"] > SATURATED:
        cause = "normalised as for the calibration?" if is_input else "calibrated on other data?"
        note = "" if weak else "note: "
        return (
            f"{note}range too narrow: {row['saturated']:.1%} of the values lie beyond it; {cause}"
        )
    used = (row["seen_high"] - row["seen_low"]) / (scale * (2**bits - 1))
    if is_input and used < UNUSED_INPUT:
        return (
            f"range too wide: the input uses {used:.0%} of what the model was calibrated for; "
            f"normalised as for the calibration?"
        )
    if row["own_db"] < WEAK_DB:
        ranges = exact.abs().transpose(0, 1).flatten(1).amax(1)
        times = (ranges.max() / ranges.median()).item()
        if len(ranges) > 1 and times > OUTLIER:
            loud = ranges.argmax()
            return f"outlier: channel {loud} takes the range, {times:.0f} times the median's"
        cause = "normalised as for the calibration?" if is_input else "calibrated on other data?"
        wide = (row["high"] - row["low"]) / (row["seen_high"] - row["seen_low"])
        return f"range too wide: {wide:.0f} times what the values need; {cause}"
    if hasattr(module, "weight"):
        weight = module.weight()
        if weight.qscheme() == torch.per_tensor_affine:
            codes = weight.int_repr().abs().flatten(1).amax(1).double()
            weakest = codes.argmin()
            left = 1 + torch.log2(codes[weakest].clamp(min=1)).item()
            note = "" if row["weight_db"] < WEAK_DB else "note: "
            return f"{note}per-tensor weights: channel {weakest} is left with {left:.1f} of 8 bits"
    return "ok"


def _weight(layer: nn.Module) -> Tensor:
    return (layer[0] if isinstance(layer, ConvReLU2d) else layer).weight.detach()


def _channel_sqnr(exact: Tensor, coarse: Tensor) -> Tensor:
    """SQNR of every row in dB; rows that are silent in float32 are left out."""
    exact, coarse = exact.double().flatten(1), coarse.double().flatten(1)
    signal = exact.square().sum(1)
    noise = (exact - coarse).square().sum(1).clamp(min=1e-300)
    return 10 * torch.log10((signal / noise)[signal > 0])


def _check_layer(fused: nn.Module, name: str) -> None:
    known = weighted_layers(fused)
    if name not in known:
        raise ValueError(f"no layer with weights {name!r}; there are: {', '.join(known)}")
