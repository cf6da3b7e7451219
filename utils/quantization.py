"""Post-training static quantization in four steps: fuse, prepare, calibrate, convert.

Eager mode, as PyTorch defines it. The arithmetic is that of Jacob et al.: Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference (CVPR 2018), section 2.1:
``r = S (q - Z)`` with scale S, zero point Z, real value r and integer q. Only :func:`fuse` and
:func:`quantize` ask for ResNet-18; everything else takes any fused model in eager mode.
"""

import copy
import math
import platform
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import _FusedModule

from utils.data import batches
from utils.models import QuantizableResNet18, hooked, layers_of, tq
from utils.training import save_atomically

_TWINS = tq.get_default_static_quant_module_mappings()  # from float32 layer to int8 layer
_FLOAT = tuple(k for k in _TWINS if k not in (tq.DeQuantStub, nn.Dropout))  # these do not compute
_INT8 = tuple({_TWINS[k] for k in _FLOAT})


class QuantizationError(RuntimeError):
    """A step of post-training quantization was given something it cannot work with."""


def default_engine() -> str:
    """Return the engine for this processor: qnnpack on ARM, else fbgemm."""
    return "qnnpack" if platform.machine().lower() in ("arm64", "aarch64") else "fbgemm"


def set_engine(name: str | None = None) -> str:
    """Choose the int8 kernels of this process, by default the processor's; return their name.

    Raises QuantizationError if this torch lacks them; the message lists those that it has.
    """
    if name is None and (name := default_engine()) == "qnnpack":
        print("ARM processor: quantizing with qnnpack instead of fbgemm")
    supported = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    problem = f"engine {name!r} is not supported here; this torch has: {', '.join(supported)}"
    _require(name in supported, problem)
    torch.backends.quantized.engine = name
    return name


def fuse(model: nn.Module) -> QuantizableResNet18:
    """Step 1: return a quantizable copy with batch norms and ReLUs merged into the convolutions.

    Folding: ``w' = w gamma / sigma``, ``b' = beta - mu gamma / sigma`` with
    ``sigma = sqrt(var + eps)`` (Jacob et al. 2018, section 3.2).

    The model is the course's ResNet-18 or torchvision's, float32, in eval mode, with any number of
    classes and input channels. Raises QuantizationError for another network, in train mode, or if
    the model is fused or quantized already.
    """
    _require_float(model, "fusing")
    fused = any(isinstance(module, _FusedModule) for module in model.modules())
    _require(not fused, "this model is fused already: fuse() takes the trained float model")
    try:
        classes, (_, channels, *_) = len(model.fc.weight), model.conv1.weight.shape
        ours = QuantizableResNet18(classes, channels).eval()
        ours.load_state_dict(model.state_dict())
        x = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():  # equal weights do not make an equal network
            theirs = model(x.to(model.fc.weight.device)).cpu()
            same = not sqnr(theirs, ours(x)) < 40  # NaN is calibrate()'s to explain
    except (AttributeError, RuntimeError, TypeError, ValueError):
        same = False
    _require(
        same,
        f"fuse() knows ResNet-18 only, and this {type(model).__name__} is another network: make it "
        f"quantizable as notebook 03 shows, call tq.fuse_modules yourself, then go on with "
        f"prepare()",
    )
    ours.fuse()
    return ours


def prepare(model: nn.Module, engine: str | None = None, qconfig=None) -> nn.Module:
    """Step 2: return a copy with an observer behind every module that will produce integers.

    The model is fused and in eval mode. Engine (see :func:`set_engine`) and qconfig, by default the
    engine's own, are set together, since a qconfig made for one engine can overflow on another.
    Raises QuantizationError in train mode, or if the model is prepared or quantized already.
    """
    _require_float(model, "preparing")
    _require(not observers(model), "this model is prepared already: go on with calibrate()")
    engine = set_engine(engine)
    prepared = copy.deepcopy(model)
    prepared.qconfig = tq.get_default_qconfig(engine) if qconfig is None else qconfig
    return tq.prepare(prepared, inplace=True)


def calibrate(model: nn.Module, images: Tensor | Iterable[Tensor], batch_size: int = 64) -> int:
    """Step 3: run images through a prepared model, in place; return how many there were.

    The images are float32, normalized, shape (N, channels, H, W), cut into batches of
    ``batch_size``; or an iterable of such batches. Raises QuantizationError if the model was not
    prepared or is in train mode; if there are no images, or of the wrong shape or dtype; if a value
    is NaN or infinite, naming the first layer where it appeared.
    """
    _require(observers(model), "no observers: calibrate() takes the model that prepare() returns")
    _require_float(model, "calibrating")

    def check(name: str, _module, _inputs, output: Tensor) -> None:
        problem = f"NaN or infinity in the output of {name!r}: no scale can represent it"
        _require(output.isfinite().all(), f"{problem}; check the images and the float model")

    seen = 0
    with torch.inference_mode(), hooked(layers_of(model, *_FLOAT), check):
        for x in batches(images, size=batch_size) if isinstance(images, Tensor) else images:
            shape = f"calibration images of shape {tuple(x.shape)}"
            _require(x.ndim == 4, f"{shape}: expected (N, channels, H, W)")
            problem = f"calibration images are {x.dtype}: normalize them to torch.float32 first"
            _require(x.dtype == torch.float32, problem)
            try:
                model(x)
            except QuantizationError:
                raise
            except RuntimeError as error:
                raise QuantizationError(f"{shape} do not fit the model: {error}") from error
            seen += len(x)
    _require(seen, "the calibration set is empty: a few hundred images are enough")
    return seen


def convert(model: nn.Module, mapping: dict | None = None) -> nn.Module:
    """Step 4: return an int8 copy of the calibrated model.

    ``mapping`` goes to torch: the class that converts each kind of module, if not torch's own.

    Raises QuantizationError if it was not prepared, or lists the observers that saw nothing.
    """
    found = observers(model)
    _require(found, "nothing to convert: the model was not prepared")
    ranges = {name: o.min_val for name, o in found.items() if hasattr(o, "min_val")}
    blind = [name for name, low in ranges.items() if not low.isfinite().any()]
    # Some networks have additions that they never use; a layer with weights is used.
    idle = [name for name in blind if isinstance(model.get_submodule(name), nnq.FloatFunctional)]
    listed = ", ".join(blind[:3]) + " ..." * (len(blind) > 3)
    _require(
        blind == idle,
        f"{len(blind)} of {len(found)} observers saw no data ({listed}): calibrate() the model "
        f"first, with images that pass through every layer",
    )
    return tq.convert(model, mapping)


def quantize(
    model: nn.Module, images: Tensor, engine: str | None = None, qconfig=None
) -> nn.Module:
    """All four steps: ResNet-18 in float32 and calibration images in, int8 model out."""
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
    return any(isinstance(module, _INT8) for module in model.modules())


def save_int8(model: nn.Module, path: Path) -> int:
    """Save the state_dict of an int8 model, atomically; return the file's size in bytes.

    Raises QuantizationError if the model is float32.
    """
    _require(is_quantized(model), "save_int8() takes a converted model; this one is float32")
    save_atomically(model.state_dict(), path)
    return path.stat().st_size


def load_int8(path: Path, engine: str | None = None, like: nn.Module | None = None) -> nn.Module:
    """Load what :func:`save_int8` wrote, with ``weights_only=True`` and without calibrating.

    ``like`` is a fused float32 model of the same architecture, by default ResNet-18 with the
    classes and input channels that the file has. Raises FileNotFoundError if there is no such file,
    QuantizationError if it does not hold this network in int8.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.name} does not exist: save_int8() a quantized model first")
    engine = set_engine(engine)
    kind = "ResNet-18" if like is None else type(like).__name__
    try:
        state = torch.load(path, weights_only=True)
        if like is None:
            classes = len(state["fc._packed_params._packed_params"][0])
            like = QuantizableResNet18(classes, state["conv1.weight"].shape[1]).eval()
            like.fuse()
        unknown = tq.FixedQParamsObserver.with_args(scale=1.0, zero_point=0)  # the file has it
        empty = prepare(like, engine, tq.QConfig(unknown, tq.default_weight_observer))
        int8 = tq.convert(empty, inplace=True)
        int8.load_state_dict(state)
    except Exception as error:  # whatever a foreign file makes torch raise
        raise QuantizationError(
            f"{path.name} is not an int8 {kind} ({error!r:.150}): pass the fused "
            f"float network as like, or delete it and make it again with save_int8()"
        ) from error
    return int8


def sqnr(reference: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise ratio, ``10 log10(sum r^2 / sum (r - r')^2)``, in decibels.

    See Lin, Talathi, Annapureddy: Fixed Point Quantization of Deep Convolutional Networks (ICML
    2016), section 3. 20 dB more is a tenth of the error; equal tensors give infinity. Both tensors
    are floating point; raises ValueError if their shapes differ.
    """
    if reference.shape != approximation.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {approximation.shape}")
    reference, approximation = reference.double(), approximation.double()
    noise = (reference - approximation).square().sum()
    return (10 * torch.log10(reference.square().sum() / noise)).item() if noise else math.inf


def layer_outputs(model: nn.Module, images: Tensor, *, integers: bool = False) -> dict[str, Tensor]:
    """Run images through a fused or int8 model; return each layer's output by name, in order.

    The images are float32, normalized, shape (N, channels, H, W). With ``integers``, int8 outputs
    are returned as they are, not dequantized (``S (q - Z)``), and those of the pooling layers too.
    """
    pooling = (nn.MaxPool2d, nn.AdaptiveAvgPool2d) if integers else ()
    layers = layers_of(model, *_FLOAT, *_INT8, *pooling)
    # A functional is called by method, not by forward: the hook goes on the identity it ends in.
    layers = {n: getattr(m, "activation_post_process", m) for n, m in layers.items()}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module, _inputs, output: Tensor) -> None:
        coded = output.is_quantized and not integers
        outputs[name] = output.dequantize() if coded else output.clone()

    with torch.inference_mode(), hooked(layers, keep):
        model(images)
    return outputs


def layer_sqnr(fused: nn.Module, int8: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return layer (str) and sqnr_db (float) of a fused float32 model and its int8 twin."""
    exact, coarse = layer_outputs(fused, images), layer_outputs(int8, images)
    rows = [(name, sqnr(exact[name], coarse[name])) for name in exact if name in coarse]
    return pd.DataFrame(rows, columns=["layer", "sqnr_db"])


def _require(fine: object, problem: str) -> None:
    if not fine:
        raise QuantizationError(problem)


def _require_float(model: nn.Module, doing: str) -> None:
    """Refuse a model in train mode, or one that is int8 already."""
    _require(not model.training, f"the model is in train mode: call model.eval() before {doing}")
    problem = "this model is quantized already: start again from the float model, whose weights "
    _require(not is_quantized(model), f"{problem}int8 no longer holds")
