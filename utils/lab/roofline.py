"""What the layers have to do, and what this machine can do at best.

Each ceiling is the best of several kernels, since no library is the fastest on every processor.
All run in a child process, with a limit: some kernels were seen never to return.
"""

import time
from collections.abc import Callable
from time import perf_counter as timer

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from tqdm import tqdm

from utils.lab import isolation
from utils.timing import steady, warm_up

SIZE = 1024  # of square matrices: large enough to keep every unit busy, small enough to repeat
IMAGES, CHANNELS, PIXELS = 8, 128, 28  # of the 3x3 convolutions
LIMIT_SECONDS = 5.0
INT8_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "arm_dotprod", "arm_i8mm")
# Instruction sets that each library has int8 kernels for, the fastest last. FBGEMM: inst_set_t in
# its Utils.h; oneDNN: "CPU dispatcher control" in its developer guide (on ARM through Arm's Compute
# Library), and which one it takes for a convolution depends on the shape. QNNPACK uses none.
INT8_INSTRUCTIONS = {
    "fbgemm": ("avx2", "avx512f", "avx512_vnni"),
    "onednn": INT8_SETS,
    "qnnpack": (),
}


def measure(
    threads: int = 1,
    working_sets: tuple[float, ...] = (1, 512),
    *,
    seconds: float = 0.25,
    limit: float = LIMIT_SECONDS,
) -> pd.DataFrame:
    """Measure the ceilings of this machine.

    Parameters
    ----------
    threads : int
    working_sets : tuple of float
        Megabytes to read over and over: those that fit in a cache show the cache's rate.
    seconds : float
        Spent on each kernel once it is warm.
    limit : float
        After which a kernel is ended, its child process with it.

    Returns
    -------
    DataFrame
        A row a kernel: kind (``float32``, ``bfloat16``, ``int8`` or ``read 512 MB``), kernel,
        value (1e9 operations or 1e9 bytes per second; NaN if there is none), unit, problem
        (why there is none, or empty).

    Raises
    ------
    ValueError
        If ``threads`` is smaller than 1, or a working set is not positive.
    """
    if threads < 1:
        raise ValueError(f"threads={threads}: must be at least 1")
    if any(size <= 0 for size in working_sets):
        raise ValueError(f"working_sets={working_sets}: every size must be positive")
    names = [
        *((f"read {size:g} MB", kernel) for size in working_sets for kernel in READERS),
        *((kind, kernel) for kind, kernels in KERNELS.items() for kernel in kernels),
    ]
    calls = [(kind, kernel, threads, seconds) for kind, kernel in names]
    outcomes = isolation.call_each(run, calls, seconds=limit)
    rows = [
        {
            "kind": kind,
            "kernel": kernel,
            "value": float("nan") if outcome.problem else outcome.value,
            "unit": "GB/s" if kind.startswith("read") else "GOP/s",
            "problem": outcome.problem or "",
        }
        for (kind, kernel), outcome in zip(names, outcomes, strict=True)
    ]
    return pd.DataFrame(rows)


def best(table: pd.DataFrame) -> dict[str, float]:
    """Return the highest value of each kind, leaving out kinds of which no kernel ran."""
    return table.dropna(subset="value").groupby("kind", sort=False)["value"].max().to_dict()


def int8_instructions(found: list[str]) -> pd.DataFrame:
    """Say for which of a processor's instruction sets the int8 libraries of torch have kernels.

    Parameters
    ----------
    found : list of str
        As :func:`utils.environment.cpu` names them.

    Returns
    -------
    DataFrame
        library, fastest (the fastest set that it has kernels for, or ``its basic kernels``), unused
        (of the sets that some library has int8 kernels for, those that this one cannot use).
    """
    known = [name for name in INT8_SETS if name in found]
    rows = []
    for library in _libraries():
        if library in INT8_INSTRUCTIONS:
            used = [name for name in known if name in INT8_INSTRUCTIONS[library]]
            unused = ", ".join(name for name in known if name not in used)
            rows.append((library, (used or ["its basic kernels"])[-1], unused))
    return pd.DataFrame(rows, columns=["library", "fastest", "unused"])


def run(kind: str, kernel: str, threads: int, seconds: float) -> float:
    """Measure one kernel, in this process: 1e9 operations (or bytes) per second, at best."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        if kind.startswith("read"):
            size = float(kind.split()[1]) * 1e6
            data = torch.ones(int(size) // 4)
            return size / _best_seconds(lambda: READERS[kernel](data), seconds) / 1e9
        call, operations = KERNELS[kind][kernel]()
        return operations / _best_seconds(call, seconds) / 1e9


def _best_seconds(call: Callable, budget: float) -> float:
    call()
    took, end = [], time.perf_counter() + budget
    while time.perf_counter() < end or len(took) < 3:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took)


def _matmul(dtype: torch.dtype):
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * SIZE**3


def _images_and_weights() -> tuple[torch.Tensor, torch.Tensor, int]:
    x = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS).to(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3)
    return x, weight, 2 * x.numel() * CHANNELS * 9


def _convolution(dtype: torch.dtype):
    x, weight, operations = _images_and_weights()
    x, weight = x.to(dtype), weight.to(dtype, memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1), operations


def _packed_convolution(dtype: torch.dtype):
    x, weight, operations = _images_and_weights()
    x, weight = x.to(dtype), weight.to(dtype)
    where = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *where, list(x.shape))
    convolve = torch.ops.mkldnn._convolution_pointwise
    return lambda: convolve(x, packed, None, *where, "none", [], ""), operations


def _int8_linear(engine: str):
    torch.backends.quantized.engine = engine
    x = torch.quantize_per_tensor(torch.rand(SIZE, SIZE), 1 / 127, 0, torch.quint8)
    weight = torch.quantize_per_tensor(torch.rand(SIZE, SIZE) - 0.5, 1 / 127, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    return lambda: torch.ops.quantized.linear(x, packed, 1.0, 0), 2 * SIZE**3


def _int8_convolution(engine: str):
    torch.backends.quantized.engine = engine
    x, weight, operations = _images_and_weights()
    x = torch.quantize_per_tensor(x.abs(), 5 / 127, 0, torch.quint8)
    weight = torch.quantize_per_tensor(weight, 5 / 127, 0, torch.qint8)
    one = [1, 1]
    packed = torch.ops.quantized.conv2d_prepack(weight, None, one, one, one, 1)
    return lambda: torch.ops.quantized.conv2d(x, packed, 1.0, 0), operations


def _libraries() -> list[str]:
    """The engines that have kernels of their own; x86 chooses between two others."""
    engines = [e for e in torch.backends.quantized.supported_engines if e not in ("none", "x86")]
    if "fbgemm" in engines:  # qnnpack is meant for ARM and slow elsewhere; Windows has none
        engines = [engine for engine in engines if engine != "qnnpack"]
    return engines


def _kernels() -> dict[str, dict[str, Callable]]:
    def floating(dtype):
        return {
            "convolution": lambda: _convolution(dtype),
            "convolution, weights packed": lambda: _packed_convolution(dtype),
            "matrix product": lambda: _matmul(dtype),
        }

    engines = _libraries()
    int8 = {f"convolution, {e}": lambda e=e: _int8_convolution(e) for e in engines}
    int8 |= {f"matrix product, {e}": lambda e=e: _int8_linear(e) for e in reversed(engines)}
    return {
        "float32": floating(torch.float32),
        "int8": int8,
        # Last, since without the instructions for it its matrix product may overrun the limit, and
        # whatever follows needs a fresh process.
        "bfloat16": floating(torch.bfloat16),
    }


KERNELS = _kernels()
READERS = {
    "sum": torch.Tensor.sum,
    "maximum": torch.Tensor.max,
    "dot product": lambda data: data.dot(data),
}


def layer_work(fused: nn.Module, images: Tensor) -> pd.DataFrame:
    """Count what every convolution and linear layer of a fused float model has to do.

    Products with padding are not needed, and weights that only ever meet padding need not be read:
    some kernels leave both out, so a limit that holds for all must not count them.

    Returns
    -------
    DataFrame
        layer; operations (two per multiply-accumulate that is needed) and weights (that meet data);
        all_operations and all_weights (with padding); activations (inputs plus outputs), all for
        the whole batch.
    """
    rows = []

    def count(name: str, module: nn.Module):
        def hook(_, inputs: tuple[Tensor], output: Tensor) -> None:
            pairs = module.weight.shape[0] * module.weight.shape[1]
            met = taps(module, inputs[0].shape)  # taps x positions of the output
            needed = 2 * len(output) * pairs * int(met.sum())
            every = 2 * len(output) * pairs * met.numel()
            weights = pairs * int(met.any(1).sum())
            numbers = inputs[0].numel() + output.numel()
            rows.append((name, needed, weights, every, module.weight.numel(), numbers))

        return hook

    hooks = []
    for name, module in fused.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            place = name.removesuffix(".0") if _inside_fused(fused, name) else name
            hooks.append(module.register_forward_hook(count(place, module)))
    try:
        with torch.inference_mode():
            fused(images)
    finally:
        for hook in hooks:
            hook.remove()
    columns = ["layer", "operations", "weights", "all_operations", "all_weights", "activations"]
    return pd.DataFrame(rows, columns=columns)


def taps(module: nn.Module, shape: torch.Size) -> Tensor:
    """Return whether each tap of a layer's kernel meets data at each output position.

    Parameters
    ----------
    module : nn.Conv2d or nn.Linear
    shape : torch.Size
        Of its input, (N, C, H, W).

    Returns
    -------
    Tensor
        bool, shape (taps, positions).
    """
    if isinstance(module, nn.Linear):
        return torch.ones(1, 1, dtype=torch.bool)
    c = module
    where = {"dilation": c.dilation, "padding": c.padding, "stride": c.stride}
    return nn.functional.unfold(torch.ones(1, 1, *shape[2:]), c.kernel_size, **where)[0] > 0


def layer_times(
    models: dict[str, nn.Module],
    layers: list[str],
    images: Tensor,
    *,
    rounds: int = 30,
    threads: int = 1,
) -> pd.DataFrame:
    """Time layers where they stand, inside the running network, models in turn.

    A layer timed alone finds its weights in the cache; inside the network it does not.

    Returns
    -------
    DataFrame
        layer, then a column for each model: median milliseconds.
    """
    took = {(name, layer): [] for name in models for layer in layers}
    started = {}

    def before(_module, _inputs) -> None:
        started["at"] = timer()

    hooks = []
    for name, model in models.items():
        for layer in layers:
            module, into = model.get_submodule(layer), took[name, layer]
            hooks.append(module.register_forward_pre_hook(before))
            end = lambda *_, into=into: into.append(timer() - started["at"])  # noqa: E731
            hooks.append(module.register_forward_hook(end))
    try:
        with steady(threads):
            for model in models.values():
                warm_up(model, images)
            for times in took.values():
                times.clear()
            for _ in tqdm(range(rounds), desc="layers", unit="round", leave=False):
                for model in models.values():
                    model(images)
    finally:
        for hook in hooks:
            hook.remove()
    columns = {
        name: [1e3 * float(np.median(took[name, layer])) for layer in layers] for name in models
    }
    return pd.DataFrame({"layer": layers, **columns})


def _inside_fused(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), ConvReLU2d)
