"""Post-training static quantization in four steps: fuse, prepare, calibrate, convert.

Eager mode, as PyTorch defines it. The arithmetic is that of Jacob et al.: Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference (CVPR 2018), section 2.1:
``r = S (q - Z)`` with scale S, zero point Z, real value r and integer q.
"""

import copy
import math
import platform
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
import torch.ao.nn.intrinsic.quantized as nniq
import torch.ao.nn.quantized as nnq
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils.data import batches
from utils.models import QuantizableResNet18, tq
from utils.training import save_atomically

# What counts as a layer, in float32 (QuantStub, Conv2d, ...) and in int8 (nnq: "nn, quantized").
LAYERS = (tq.QuantStub, ConvReLU2d, nn.Conv2d, nn.Linear, nnq.Quantize, nnq.Conv2d, nnq.Linear)


class QuantizationError(RuntimeError):
    """A step of post-training quantization was given something it cannot work with."""


def default_engine() -> str:
    """Return the engine for this processor: qnnpack on ARM, else fbgemm."""
    return "qnnpack" if platform.machine().lower() in ("arm64", "aarch64") else "fbgemm"


def set_engine(name: str | None = None) -> str:
    """Choose the int8 kernels, for this process.

    Parameters
    ----------
    name : str, optional
        ``fbgemm``, ``x86``, ``onednn`` or ``qnnpack``. By default fbgemm on x86 and qnnpack on ARM.

    Returns
    -------
    str
        The engine now set.

    Raises
    ------
    QuantizationError
        If this build of torch lacks it; lists those it has.
    """
    supported = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    if name is None:
        name = default_engine()
        if name == "qnnpack":
            print("ARM processor: quantizing with qnnpack instead of fbgemm")
    if name not in supported:
        raise QuantizationError(
            f"engine {name!r} is not supported here; this torch has: {', '.join(supported)}"
        )
    torch.backends.quantized.engine = name
    return name


def fuse(model: nn.Module) -> QuantizableResNet18:
    """Step 1: a quantizable copy of the float model with batch norms and ReLUs merged.

    Folding: ``w' = w gamma / sigma``, ``b' = beta - mu gamma / sigma`` with
    ``sigma = sqrt(var + eps)`` (Jacob et al. 2018, section 3.2).

    Parameters
    ----------
    model : ResNet18 or QuantizableResNet18
        float32, in eval mode; not changed.

    Raises
    ------
    QuantizationError
        If the model is in train mode, or is fused or quantized already.
    """
    if model.training:
        raise QuantizationError("the model is in train mode: call model.eval() before fusing")
    _refuse_quantized(model)
    if not isinstance(model.bn1, nn.BatchNorm2d):
        raise QuantizationError("this model is fused already: fuse() takes the trained float model")
    fused = QuantizableResNet18(model.fc.out_features, model.conv1.in_channels).eval()
    fused.load_state_dict(model.state_dict())
    fused.fuse()
    return fused


def prepare(model: nn.Module, engine: str | None = None, qconfig=None) -> nn.Module:
    """Step 2: a copy with an observer behind every module that will produce integers.

    Parameters
    ----------
    model : nn.Module
        Fused, in eval mode; not changed.
    engine : str, optional
        See :func:`set_engine`; engine and qconfig are set together, since a qconfig made for one
        engine can overflow on another.
    qconfig : torch.ao.quantization.QConfig, optional
        Instead of the engine's default.

    Raises
    ------
    QuantizationError
        If the model is in train mode, or prepared or quantized already.
    """
    if model.training:
        raise QuantizationError("the model is in train mode: call model.eval() before preparing")
    _refuse_quantized(model)
    if observers(model):
        raise QuantizationError("this model is prepared already: go on with calibrate()")
    engine = set_engine(engine)
    prepared = copy.deepcopy(model)
    prepared.qconfig = tq.get_default_qconfig(engine) if qconfig is None else qconfig
    return tq.prepare(prepared)


def calibrate(model: nn.Module, images: Tensor | Iterable[Tensor], batch_size: int = 64) -> int:
    """Step 3: run images through a prepared model, in place, so that observers see ranges.

    Parameters
    ----------
    model : nn.Module
        As :func:`prepare` returns it.
    images : Tensor or iterable of Tensor
        float32, normalised, shape (N, channels, H, W); or batches of that shape.
    batch_size : int
        For a single tensor.

    Returns
    -------
    int
        How many images were seen.

    Raises
    ------
    QuantizationError
        If the model was not prepared or is in train mode; if there are no images, or of the wrong
        shape or dtype; if a value is NaN or infinite, naming the first layer where it appeared.
    """
    if not observers(model):
        raise QuantizationError("no observers: calibrate() takes the model that prepare() returns")
    if model.training:
        raise QuantizationError("the model is in train mode: call model.eval() before calibrating")
    channels = next(model.parameters()).shape[1]  # of the first convolution
    if isinstance(images, Tensor):
        _check_images(images, channels)
        images = batches(images, size=batch_size)
    hooks = [
        module.register_forward_hook(_finite_hook(name), prepend=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | tq.QuantStub)
    ]
    seen = 0
    try:
        with torch.inference_mode():
            for batch in images:
                _check_images(batch, channels)
                model(batch)
                seen += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if seen == 0:
        raise QuantizationError("the calibration set is empty: a few hundred images are enough")
    return seen


def convert(model: nn.Module) -> nn.Module:
    """Step 4: an int8 copy of the calibrated model.

    Raises
    ------
    QuantizationError
        If the model was not prepared, or an observer saw nothing (lists which).
    """
    seers = observers(model)
    if not seers:
        raise QuantizationError("nothing to convert: the model was not prepared")
    blind = [n for n, o in seers.items() if hasattr(o, "min_val") and not _has_seen(o)]
    if blind:
        listed = ", ".join(blind[:3]) + (" ..." if len(blind) > 3 else "")
        raise QuantizationError(
            f"{len(blind)} of {len(seers)} observers saw no data ({listed}): "
            f"calibrate() the model first, with images that pass through every layer"
        )
    return tq.convert(model)


def quantize(
    model: nn.Module, images: Tensor, engine: str | None = None, qconfig=None
) -> nn.Module:
    """All four steps: float32 model and calibration images in, int8 model out."""
    prepared = prepare(fuse(model), engine, qconfig)
    calibrate(prepared, images)
    return convert(prepared)


def observers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the activation observers of a prepared model by the name of the module observed."""
    return {
        name.removesuffix(".activation_post_process"): module
        for name, module in model.named_modules()
        if isinstance(module, tq.ObserverBase)
    }


def is_quantized(model: nn.Module) -> bool:
    """Whether any module of the model computes in integers."""
    integer = nnq.Quantize | nnq.Conv2d | nnq.Linear | nnq.QFunctional
    return any(isinstance(module, integer) for module in model.modules())


def save_int8(model: nn.Module, path: Path) -> int:
    """Save the state_dict of an int8 model, atomically; return the file's size in bytes.

    Raises
    ------
    QuantizationError
        If the model is not quantized.
    """
    if not is_quantized(model):
        raise QuantizationError("save_int8() takes a converted model; this one is float32")
    save_atomically(model.state_dict(), path)
    return path.stat().st_size


def load_int8(path: Path, engine: str | None = None) -> nn.Module:
    """Load what :func:`save_int8` wrote, with ``weights_only=True``.

    The int8 network is built empty and filled from the file, without calibrating anything.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    QuantizationError
        If the file does not hold this network in int8.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.name} does not exist: save_int8() a quantized model first")
    try:
        state = torch.load(path, weights_only=True)
        channels = state["conv1.weight"].shape[1]
        classes = state["fc._packed_params._packed_params"][0].shape[0]
        set_engine(engine)
        skeleton = _empty_int8(classes, channels)
        skeleton.load_state_dict(state)
    except QuantizationError:  # of the engine
        raise
    except Exception as error:  # whatever a foreign file makes torch raise
        raise QuantizationError(
            f"{path.name} is not an int8 ResNet-18 ({type(error).__name__}): delete it and make it "
            f"again with save_int8()"
        ) from error
    return skeleton


def sqnr(reference: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise ratio, ``10 log10(sum r^2 / sum (r - r')^2)``, in decibels.

    Jacob et al. do not name it; see Lin, Talathi, Annapureddy: Fixed Point Quantization of Deep
    Convolutional Networks (ICML 2016), section 3. 20 dB more is a tenth of the error.

    Parameters
    ----------
    reference, approximation : Tensor
        Floating point, of one shape.

    Returns
    -------
    float
        Infinite if they are equal.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if reference.shape != approximation.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {approximation.shape}")
    reference, approximation = reference.double(), approximation.double()
    noise = (reference - approximation).square().sum()
    if noise == 0:
        return math.inf
    return (10 * torch.log10(reference.square().sum() / noise)).item()


def layer_outputs(model: nn.Module, images: Tensor, *, integers: bool = False) -> dict[str, Tensor]:
    """Run images through a fused or int8 model and return what every layer put out.

    Parameters
    ----------
    model : nn.Module
    images : Tensor
        float32, normalized, shape (N, channels, H, W).
    integers : bool
        Return int8 outputs as they are, and those of the pooling layers too.

    Returns
    -------
    dict of str to Tensor
        By layer name, in the order of execution; int8 outputs dequantized, ``S (q - Z)``, unless
        ``integers``.
    """
    outputs: dict[str, Tensor] = {}
    layers = (*LAYERS, nn.MaxPool2d, nn.AdaptiveAvgPool2d) if integers else LAYERS

    def keep(name: str):
        def hook(_module, _inputs, output: Tensor) -> None:
            coded = output.is_quantized and not integers
            outputs[name] = output.dequantize() if coded else output.clone()

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nnq.FloatFunctional | nnq.QFunctional):
            # Called by method, not by forward: the hook goes on the identity it ends in.
            hooks.append(module.activation_post_process.register_forward_hook(keep(name)))
        elif isinstance(module, layers) and not _inside_fused(model, name):
            hooks.append(module.register_forward_hook(keep(name)))
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def layer_sqnr(fused: nn.Module, int8: nn.Module, images: Tensor) -> pd.DataFrame:
    """Compare the fused float32 model with its int8 twin, layer by layer.

    Returns
    -------
    DataFrame
        Columns layer (str) and sqnr_db (float), in the order of execution.
    """
    exact, coarse = layer_outputs(fused, images), layer_outputs(int8, images)
    rows = [(name, sqnr(exact[name], coarse[name])) for name in exact if name in coarse]
    return pd.DataFrame(rows, columns=["layer", "sqnr_db"])


def _refuse_quantized(model: nn.Module) -> None:
    if is_quantized(model):
        raise QuantizationError(
            "this model is quantized already: start again from the float model, whose weights int8 "
            "no longer holds"
        )


def _empty_int8(classes: int, channels: int) -> nn.Module:
    """Build what convert() returns, for a state_dict to fill."""
    model = QuantizableResNet18(classes, channels).eval()
    model.fuse()
    places = [(n, m) for n, m in model.named_modules() if n and not _inside_fused(model, n)]
    for name, module in places:
        if isinstance(module, ConvReLU2d | nn.Conv2d):
            fused = isinstance(module, ConvReLU2d)
            conv = module[0] if fused else module
            twin = (nniq.ConvReLU2d if fused else nnq.Conv2d)(
                conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
            )
        elif isinstance(module, nn.Linear):
            twin = nnq.Linear(module.in_features, module.out_features)
        elif isinstance(module, nn.BatchNorm2d):
            twin = nn.Identity()  # folded
        elif isinstance(module, nnq.FloatFunctional):
            twin = nnq.QFunctional()
        elif isinstance(module, tq.QuantStub):
            twin = nnq.Quantize(1.0, 0, torch.quint8)
        elif isinstance(module, tq.DeQuantStub):
            twin = nnq.DeQuantize()
        else:
            continue
        model.set_submodule(name, twin)
    return model


def _inside_fused(model: nn.Module, name: str) -> bool:
    """Whether a module is the convolution within a fused ConvReLU2d."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), ConvReLU2d)


def _check_images(images: Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels:
        raise QuantizationError(
            f"calibration images have shape {tuple(images.shape)}; expected (N, {channels}, H, W)"
        )
    if images.dtype != torch.float32:
        raise QuantizationError(
            f"calibration images are {images.dtype}; normalise them to torch.float32 first"
        )


def _finite_hook(name: str):
    def hook(_module, _inputs, output) -> None:
        if not torch.isfinite(output).all():
            raise QuantizationError(
                f"NaN or infinity in the output of {name!r}: no scale can represent it; check the "
                f"input images and the float model"
            )

    return hook


def _has_seen(observer: nn.Module) -> bool:
    low = observer.min_val
    return low.numel() > 0 and bool(torch.isfinite(low).all())
