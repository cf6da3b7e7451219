"""The same trained network in every form that the course times, loaded from files."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils.catalog import VARIANTS
from utils.models import ResNet18, hooked, layers_of
from utils.training import save_atomically

Model = Callable[[Tensor], Tensor]
ENGINES = ("fbgemm", "x86", "onednn")  # that share fbgemm's ranges, and so one int8 file


class VariantError(RuntimeError):
    """A form of the network is unknown, or cannot be had on this machine."""


def missing() -> dict[str, str]:
    """Return the variants that this machine cannot run, each with the reason."""
    engine = ptq.default_engine()
    reasons = {}
    for variant in VARIANTS.values():
        kernel = variant.name.removeprefix("int8_")
        if importlib.util.find_spec(variant.package) is None:
            reasons[variant.name] = (
                f"{variant.package} is not installed: pip install -r requirements-runtimes.txt"
            )
        elif variant.package != "torch" and importlib.util.find_spec("onnxscript") is None:
            reasons[variant.name] = "onnxscript, which writes the ONNX file, is not installed"
        elif variant.dtype == "int8" and (kernel == "qnnpack") != (engine == "qnnpack"):
            reasons[variant.name] = f"not meant for this processor, which uses {engine}"
        elif variant.dtype == "int8" and kernel not in torch.backends.quantized.supported_engines:
            reasons[variant.name] = f"this build of torch has no engine {kernel}"
    return reasons


def names() -> list[str]:
    """Return the variants that this machine can try, float32 first."""
    absent = missing()
    return [name for name in VARIANTS if name not in absent]


def export(folder: Path, model: ResNet18, images: Tensor) -> None:
    """Write every file that :func:`load` reads: float32, int8, and ONNX where it is wanted.

    All int8 engines get the same integers: calibrated once, with the default engine's qconfig.
    ``model`` is trained, float32, in eval mode; ``images`` are for calibration, float32,
    normalized, (N, C, H, W). The folder is made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_atomically(model.state_dict(), folder / "float.pt")
    ptq.save_int8(ptq.quantize(model, images), folder / "int8.pt")
    if any(VARIANTS[name].file == "float.onnx" for name in names()):
        batch, height, width = (torch.export.Dim(n, min=1) for n in ("batch", "height", "width"))
        torch.onnx.export(
            model,
            (images[:2],),
            folder / "float.onnx",
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: batch, 2: height, 3: width},),
        )


def load(name: str, folder: Path, shape: tuple[int, ...], threads: int = 1) -> Model:
    """Load one variant, ready to be called.

    ``name`` is a key of :data:`VARIANTS`, ``folder`` one that :func:`export` filled, and ``shape``
    that of the input, (N, C, H, W), since compilers specialize in it. Variants that do not fix the
    number of threads when they are built follow torch's setting.

    Returns
    -------
    callable
        float32 input of ``shape`` to float32 logits. Under ``inference_mode``, but for images made
        outside of it: ``float_compiled`` is compiled again, and is slower, for any others.

    Raises
    ------
    VariantError
        If the name is unknown, this machine cannot run it, or building it fails; says why.
    """
    if name not in VARIANTS:
        raise VariantError(f"variant {name!r} is unknown; there are: {', '.join(VARIANTS)}")
    if name in (absent := missing()):
        raise VariantError(f"{name}: {absent[name]}")
    try:
        return _build(name, folder / VARIANTS[name].file, shape, threads)
    except Exception as error:  # every runtime has its own
        reason = " ".join(str(error).strip().split("\n\n")[0].split())  # advice may follow
        raise VariantError(f"{name}: {type(error).__name__}: {reason}") from error


def replace_convolutions(
    model: nn.Module, make: Callable[[nn.Conv2d, torch.Size, bool], nn.Module], images: Tensor
) -> nn.Module:
    """Return a copy whose convolutions are others: to change one thing about them and time it.

    ``make`` takes the convolution, the shape of its input and whether a ReLU is fused into it, and
    returns the module in its place. ``model`` is float32, fused or not; the shapes are learned
    from one batch of ``images``.
    """
    model, shapes = copy.deepcopy(model), {}
    places = layers_of(model, nn.Conv2d, ConvReLU2d)

    def look(name: str, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        shapes[name] = inputs[0].shape

    with hooked(places, before=look), torch.inference_mode():
        model(images)
    for name, module in places.items():
        fused = isinstance(module, ConvReLU2d)
        model.set_submodule(name, make(module[0] if fused else module, shapes[name], fused))
    return model


def _build(name: str, path: Path, shape: tuple[int, ...], threads: int) -> Model:
    if VARIANTS[name].dtype == "int8":
        before = torch.backends.quantized.engine  # what is packed keeps its own
        try:
            return ptq.load_int8(path, name.removeprefix("int8_"))
        finally:
            torch.backends.quantized.engine = before
    if name == "float_onnxruntime":
        return _onnxruntime(path, threads)
    if name == "float_openvino":
        return _openvino(path, shape, threads)
    state = torch.load(path, weights_only=True)
    model = ResNet18(len(state["fc.bias"]), state["conv1.weight"].shape[1]).eval()
    model.load_state_dict(state)
    if name == "float_eager":
        return model
    model = ptq.fuse(model)
    if name == "float_channels_last":
        model = model.to(memory_format=torch.channels_last)
    if name == "float_compiled":
        return _compiled(model, shape, threads)
    return model


def _compiled(model: nn.Module, shape: tuple[int, ...], threads: int) -> Model:
    from torch._inductor import config as inductor  # takes seconds

    # Earlier graphs of the same code count towards a limit on recompilation.
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=False)
    # Made outside of inference mode, as the images to come are: for a tensor of the other kind
    # torch would compile once more, then without freezing.
    images = torch.zeros(shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # is written into the generated code
    try:
        # As an option of torch.compile, freezing would come too late to pack the weights.
        with torch.inference_mode(), inductor.patch(freezing=True):
            compiled(images)
    finally:
        torch.set_num_threads(before)
    return compiled


def _onnxruntime(path: Path, threads: int) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {feed: images.numpy()})[0])


def _openvino(path: Path, shape: tuple[int, ...], threads: int) -> Model:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))  # a fixed shape is the faster one
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # never bfloat16 by itself
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True)[0])
