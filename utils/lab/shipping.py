"""Roads out of the course: the same network, prepared once for a runtime, as a file to ship.

Every road starts from the same weights and the same calibration images.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.ao.nn.quantized as nnq
from numpy import ndarray
from pandas import DataFrame
from torch import Tensor, nn

from utils import environment, files, settings, timing
from utils import quantization as ptq
from utils.data import Dataset, batches
from utils.lab import classify
from utils.models import ResNet18, hooked, layers_of
from utils.specialization import load_specialized, specialize
from utils.training import save_atomically

INT8_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8", "arm_dotprod"}


def saturates() -> bool:
    """Whether kernels add pairs of 8-bit products in 16 bits here, so that 7 bits are safer."""
    return not INT8_SUMS & set(environment.cpu()["instruction_sets"])


@contextlib.contextmanager
def _quiet():
    """Keep what exporters and runtimes print, log and warn of out of a notebook."""
    before, stderr = logging.root.manager.disable, os.dup(2)
    logging.disable(logging.WARNING)
    try:
        said = io.StringIO()
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),  # a runtime may write through Python's, too
        ):
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)  # where C++ writes to
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(before)


@dataclass(frozen=True, eq=False)
class Network:
    """What a road starts from: float32 with batch norms folded, eager int8, calibration images."""

    fused: nn.Module
    int8: nn.Module
    images: Tensor

    def specialized(self) -> "Network":
        """Return the network without the taps that meet no data in images of this shape."""
        shape = tuple(self.images.shape[1:])
        fused, int8 = (specialize(model, shape)[0] for model in (self.fused, self.int8))
        return replace(self, fused=fused, int8=int8)


@dataclass(frozen=True)
class Road:
    """One way to ship: a label, the file's suffix, what writes the file, the packages it needs."""

    label: str
    suffix: str
    write: Callable[[Network, Path], object]
    packages: tuple[str, ...] = ()

    def missing(self) -> str:
        """Say which packages are not installed and how to get them; empty if all are there."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        file = f"requirements-{'phone' if 'executorch' in absent else 'runtimes'}.txt"
        return f"not installed: {', '.join(absent)} (pip install -r {file})" if absent else ""

    def prepare(self, network: Network, stem: Path) -> "Shipment":
        """Write the file, ``stem`` with this road's suffix; its folder is made if missing."""
        path = stem.with_name(stem.name + self.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self.write(network, path)
        return Shipment(path)


@dataclass(frozen=True)
class Shipment:
    """A network in a file."""

    path: Path

    @property
    def files(self) -> list[Path]:
        """The file, and the one with its weights where a format has two."""
        return [p for p in (self.path, self.path.with_suffix(".bin")) if p.exists()]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.files)

    def load(self, batch: int = 1, threads: int = 1) -> Callable[[Tensor], Tensor]:
        """Return a function from float32 images (N, C, H, W) to float32 logits (N, classes).

        PyTorch's roads follow the number of threads and the engine that are set in torch.
        """
        load = load_eager if self.path.suffix == ".pt" else classify.load
        with _quiet():
            model = load(self.path, batch, threads)
        return lambda images: torch.from_numpy(model(images.numpy()))

    def pack(self, folder: Path, dataset: Dataset, sure: float = 0.8) -> Path:
        """Make the folder that is shipped: model, card, ``classify.py``; return the folder.

        The card holds preprocessing (mean, std), labels, the SHA-256 of each file, and the softmax
        share from which on an answer counts as sure.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*self.files, Path(classify.__file__)):
            shutil.copy(path, folder)
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files}
        card = {"model": self.path.name, "sha256": sums, "labels": dataset.classes, "sure": sure}
        card |= vars(dataset.normalizer())
        files.write_text(folder / "model.json", json.dumps(card, indent=1) + "\n")
        return folder


def run_shipped(folder: Path, *pictures: Path) -> tuple[int, str]:
    """Run a shipped ``classify.py`` in a fresh process; return its exit code and what it printed.

    A last line names which of utils and the runtimes were imported.
    """
    code = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\ntry:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\nfinally:\n"
        "    names = 'utils', 'torch', 'executorch', 'onnxruntime', 'openvino'\n"
        "    print('imported:', *[name for name in names if name in sys.modules], flush=True)"
    )
    return _python(code, folder / "classify.py", *pictures)


def startup(ship: Shipment, threads: int = 1) -> dict[str, float]:
    """Load a file in a fresh process, on so many threads, and call it once.

    Returns load_ms (with the imports; an eager file needs the course, all others do not), first_ms,
    memory_mb (resident set then). Raises RuntimeError with what the process said if it fails.
    """
    code = (
        "import json, pathlib, psutil, runpy, sys, time\n"
        "path, module, name, threads, project = sys.argv[1:]\n"
        "sys.path.append(project)\ntimes = [time.perf_counter()]\n"
        "load = runpy.run_path(module)[name]\nmodel = load(pathlib.Path(path), 1, int(threads))\n"
        "times.append(time.perf_counter())\nimport numpy as np\n"
        "model(np.zeros((1, 1, 28, 28), np.float32))\ntimes.append(time.perf_counter())\n"
        "ms = [1e3 * (b - a) for a, b in zip(times, times[1:])]\n"
        "memory = psutil.Process().memory_info().rss / 1e6\n"
        "print(json.dumps({'load_ms': ms[0], 'first_ms': ms[1], 'memory_mb': memory}))"
    )
    eager = ship.path.suffix == ".pt"
    module, name = (__file__, "load_eager") if eager else (classify.__file__, "load")
    end, said = _python(code, ship.path, module, name, threads, settings.PROJECT, threads=threads)
    if end:
        raise RuntimeError(f"{ship.path.name} does not load in a fresh process: {said[-500:]}")
    return json.loads(said.splitlines()[-1])


def _python(code: str, *arguments: object, threads: int | None = None) -> tuple[int, str]:
    command = [sys.executable, "-I", "-W", "ignore", "-c", code, *map(str, arguments)]
    own = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # quantized dtypes are deprecated
    own |= {"OMP_NUM_THREADS": str(threads)} if threads else {}  # which torch follows
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=own)
    return done.returncode, (done.stderr + done.stdout).strip()


def load_eager(path: Path, batch: int = 1, threads: int = 1) -> Callable[[ndarray], ndarray]:
    """Do for a ``.pt`` file what ``classify.load`` does for all others; the threads are torch's."""
    state = torch.load(path, weights_only=True)
    if "image_shape" in state:
        model = load_specialized(path)
    elif "fc.weight" in state:  # int8 packs it
        model = ptq.fuse(ResNet18(len(state["fc.bias"]), state["conv1.0.weight"].shape[1]).eval())
        model.load_state_dict(state)
    else:
        model = ptq.load_int8(path, torch.backends.quantized.engine)
    model.requires_grad_(False)
    return lambda x: model(torch.from_numpy(x)).numpy()


def _trace(network: Network, path: Path) -> None:
    traced = torch.jit.trace(network.int8, network.images[:1], check_trace=False)
    torch.jit.save(torch.jit.freeze(traced), path)


@_quiet()
def pt2e(
    network: Network, quantizer=None, *, reduce_range: bool = False, strict: bool = True
) -> nn.Module:
    """Quantize the exported float graph by torchao's PT2E, for batches of one image.

    The graph has quantize and dequantize nodes that a compiler fuses with their neighbors. The
    quantizer is that of torch.compile on x86 by default. It gives activations all 256 codes, or
    128 with ``reduce_range``, where compiled kernels may saturate. ``strict`` is torch.export's.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    graph = torch.export.export(network.fused, (network.images[:1],), strict=strict).module()
    if quantizer is None:
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(
            x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
        )
    prepared = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for image in batches(network.images, size=1):
            prepared(image)
    return convert_pt2e(prepared)


def scales(int8: nn.Module, images: Tensor) -> DataFrame:
    """Return for each layer with weights, in the order of calls, two scales of an eager int8 model.

    ``activations`` is its input's scale, ``weights`` the mean over channels; the index has names.
    """
    rows = {}

    def look(name: str, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        weight = layer.weight()
        one = weight.qscheme() == torch.per_tensor_affine
        scale = weight.q_scale() if one else weight.q_per_channel_scales().mean().item()
        rows[name] = {"activations": inputs[0].q_scale(), "weights": scale}

    with hooked(layers_of(int8, nnq.Conv2d, nnq.Linear), before=look), torch.inference_mode():
        int8(images)
    return DataFrame(rows).T


def graph_scales(graph: nn.Module) -> DataFrame:
    """Return the same two scales of what :func:`pt2e` returns, in the same order."""
    kinds = ("aten.conv2d.default", "aten.linear.default")
    calls = [node.args[:2] for node in graph.graph.nodes if str(node.target) in kinds]
    rows = [(x.args[1], getattr(graph, w.args[1].target).mean().item()) for x, w in calls]
    return DataFrame(rows, columns=["activations", "weights"])


def file_scales(path: Path, int8: nn.Module, images: Tensor) -> DataFrame:
    """Return what :func:`scales` does of an eager model, of a file for ONNX Runtime or OpenVINO.

    Files keep parallel layers in another order, so a layer is found by the shape of its weights,
    and among equal shapes by its place. Two further columns are ``largest_code``, of a layer's
    weights in absolute value, and ``symmetric``: whether zero is in the middle or at the lower end
    of the input's range. Raises ValueError if a layer of ``int8`` or of the file has no partner.
    """
    left, rows = {}, {}
    for layer in (_onnx_layers if path.suffix == ".onnx" else _openvino_layers)(path):
        left.setdefault(layer[-1].shape, []).append(layer)
    for name in scales(int8, images).index:
        shape = tuple(int8.get_submodule(name).weight().shape)
        if not left.get(shape):
            raise ValueError(f"{path.name} has no weights of {shape}, the shape of {name}")
        x, symmetric, scale, codes = left[shape].pop(0)
        rows[name] = (x, scale.mean(), int(abs(codes.astype(int)).max()), symmetric)
    if extra := [shape for shape, layers in left.items() if layers]:
        raise ValueError(f"{path.name} has weights of {extra[0]} that no layer needs")
    columns = ["activations", "weights", "largest_code", "symmetric"]
    return DataFrame(list(rows.values()), list(rows), columns)


def _onnx_layers(path: Path) -> Iterator[tuple[float, bool, ndarray, ndarray]]:
    import onnx

    graph = onnx.load(path).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            x, weight = (made_by[name] for name in node.input[:2])  # both DequantizeLinear
            even = stored[x.input[2]].item() in (0, 128)
            yield stored[x.input[1]].item(), even, *(stored[weight.input[k]] for k in (1, 0))


def _openvino_layers(path: Path) -> Iterator[tuple[float, bool, ndarray, ndarray]]:
    import openvino

    for op in openvino.Core().read_model(path).get_ordered_ops():
        if op.get_type_name() in ("Convolution", "MatMul"):
            x, weight = (op.input_value(k).get_node() for k in (0, 1))
            while x.get_type_name() != "FakeQuantize":  # pooling changes no scale
                x = x.input_value(0).get_node()
            low, high = (x.input_value(k).get_node().data.item() for k in (1, 2))
            even = low == 0 or abs(low + high) < 0.02 * high
            codes = weight.input_value(0).get_node().input_value(0).get_node()  # converted
            scale = weight.input_value(1).get_node().data
            yield (high - low) / (x.get_attributes()["levels"] - 1), even, scale, codes.data


def _compile(network: Network, path: Path) -> None:
    # The weights are packed for the threads that torch has now: with others, every call reorders.
    with timing.fixed_threads(1), torch.no_grad():
        graph = pt2e(network, reduce_range=saturates())
        program = torch.export.export(graph, (network.images[:1],))
        freezing = {"freezing": True}  # packs the weights
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=freezing
        )


def _lower(network: Network, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from executorch.exir import to_edge_transform_and_lower

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    graph = pt2e(network, xnnpack.XNNPACKQuantizer().set_global(config))
    program = torch.export.export(graph, (network.images[:1],))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


@lru_cache(maxsize=2)  # four roads begin with it
def _onnx(network: Network) -> bytes:
    program = torch.onnx.export(
        network.fused,
        (network.images[:2],),
        dynamo=True,
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def _write_onnx(network: Network, path: Path) -> None:
    path.write_bytes(_onnx(network))


def _quantize_onnx(network: Network, path: Path) -> None:
    from onnxruntime import quantization as ort

    _write_onnx(network, path)
    feed = iter([{"images": batch.numpy()} for batch in batches(network.images, size=64)])
    reader = type("Reader", (ort.CalibrationDataReader,), {"get_next": lambda _: next(feed, None)})
    choices = {"activation_type": ort.QuantType.QUInt8, "weight_type": ort.QuantType.QInt8}
    choices["reduce_range"] = saturates()  # of the weights
    ort.quantize_static(path, path, reader(), per_channel=True, **choices)


def _openvino(network: Network, path: Path, int8: bool) -> None:
    import openvino

    model = openvino.Core().read_model(_onnx(network))
    if int8:
        import nncf
        import rich

        console = rich.get_console()  # progress bars would stay in the notebook
        console.quiet, console.is_jupyter = True, False
        images = nncf.Dataset(list(network.images[:, None].numpy()))
        model = nncf.quantize(model, images, subset_size=len(network.images))
    openvino.save_model(model, path, compress_to_fp16=False)


ONNX, OPENVINO = ("onnxruntime", "onnx", "onnxscript"), ("openvino", "onnx", "onnxscript")
INTEGERS = partial(_openvino, int8=True)
ROADS = {
    "float_eager": Road(
        "float32, eager",
        ".pt",
        lambda network, path: save_atomically(network.fused.state_dict(), path),
    ),
    "float_onnxruntime": Road("float32, ONNX Runtime", ".onnx", _write_onnx, ONNX),
    "float_openvino": Road("float32, OpenVINO", ".xml", partial(_openvino, int8=False), OPENVINO),
    "int8_eager": Road(
        "int8, eager", ".pt", lambda network, path: ptq.save_int8(network.int8, path)
    ),
    "int8_traced": Road("int8, TorchScript (deprecated)", ".ts", _trace),
    "int8_pt2e": Road("int8, PT2E and AOTInductor", ".pt2", _compile, ("torchao",)),
    "int8_executorch": Road(
        "int8, ExecuTorch and XNNPACK", ".pte", _lower, ("executorch", "torchao")
    ),
    "int8_onnxruntime": Road("int8, ONNX Runtime", ".onnx", _quantize_onnx, ONNX),
    "int8_openvino": Road("int8, OpenVINO", ".xml", INTEGERS, (*OPENVINO, "nncf")),
}
