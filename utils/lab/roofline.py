"""What the layers have to do, and what this machine can do at best.

Each ceiling is the best of several kernels, since no library is the fastest on every processor.
All run in a child process, with a limit: some kernels were seen never to return.
"""

import time
from collections.abc import Callable
from time import perf_counter as timer

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from tqdm import tqdm

from utils.lab import isolation
from utils.models import hooked, layers_of
from utils.timing import steady, warm_up

SIZE = 1024  # of square matrices: large enough to keep every unit busy, small enough to repeat
IMAGES, CHANNELS, PIXELS = 8, 128, 28  # of the 3x3 convolutions
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
    limit: float = 5.0,
) -> pd.DataFrame:
    """Measure the ceilings of this machine.

    ``working_sets`` are megabytes to read over and over: those that fit in a cache show the cache's
    rate. Each kernel runs for ``seconds`` once it is warm, and is ended after ``limit`` seconds.

    Returns
    -------
    DataFrame
        One row per kernel: kind (``float32``, ``bfloat16``, ``int8`` or ``read 512 MB``), kernel,
        value (1e9 operations or 1e9 bytes per second; NaN if there is none), unit, problem
        (why there is no value, or empty).
    """
    names = [
        *((f"read {size:g} MB", kernel) for size in working_sets for kernel in READERS),
        *((kind, kernel) for kind, kernels in KERNELS.items() for kernel in kernels),
    ]
    calls = [(kind, kernel, threads, seconds) for kind, kernel in names]
    table = pd.DataFrame(names, columns=["kind", "kernel"])
    found = isolation.call_each(run, calls, seconds=limit)
    table["value"] = [float("nan") if one.value is None else one.value for one in found]
    table["unit"] = ["GB/s" if kind.startswith("read") else "GOP/s" for kind in table["kind"]]
    return table.assign(problem=[one.problem or "" for one in found])


def best(table: pd.DataFrame) -> dict[str, float]:
    """Return the highest value of each kind, leaving out kinds of which no kernel ran."""
    return table.dropna(subset="value").groupby("kind", sort=False)["value"].max().to_dict()


def int8_instructions(found: list[str]) -> pd.DataFrame:
    """Say for which of a processor's instruction sets the int8 libraries of torch have kernels.

    From the names that :func:`utils.environment.cpu` gives to: library, fastest (set that it has
    kernels for, or ``its basic kernels``), unused (sets that only other libraries can use).
    """
    known = [name for name in INT8_SETS if name in found]
    rows = []
    for library in _libraries():
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
            amount = float(kind.split()[1]) * 1e6
            data = torch.ones(int(amount) // 4)
            call = lambda: READERS[kernel](data)  # noqa: E731
        else:
            make, *arguments = KERNELS[kind][kernel]
            call = make(*arguments)
            amount = 2 * SIZE**3
            if kernel.startswith("convolution"):
                amount = 2 * IMAGES * PIXELS**2 * CHANNELS**2 * 9
        return amount / _best_seconds(call, seconds) / 1e9


def _best_seconds(call: Callable, budget: float) -> float:
    call()
    took, end = [], time.perf_counter() + budget
    while time.perf_counter() < end or len(took) < 3:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took)


def _images_and_weights() -> tuple[Tensor, Tensor]:
    x = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS).to(memory_format=torch.channels_last)
    return x, torch.randn(CHANNELS, CHANNELS, 3, 3)


def _matmul(dtype: torch.dtype) -> Callable:
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    return lambda: a @ b


def _convolution(dtype: torch.dtype) -> Callable:
    x, weight = (t.to(dtype, memory_format=torch.channels_last) for t in _images_and_weights())
    return lambda: F.conv2d(x, weight, padding=1)


def _packed_convolution(dtype: torch.dtype) -> Callable:
    x, weight = (t.to(dtype) for t in _images_and_weights())
    where = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *where, list(x.shape))
    convolve = torch.ops.mkldnn._convolution_pointwise
    return lambda: convolve(x, packed, None, *where, "none", [], "")


def _int8(engine: str, convolve: bool) -> Callable:
    torch.backends.quantized.engine = engine
    x, weight = _images_and_weights() if convolve else torch.randn(2, SIZE, SIZE)
    x = torch.quantize_per_tensor(x.abs(), 5 / 127, 0, torch.quint8)
    weight = torch.quantize_per_tensor(weight, 5 / 127, 0, torch.qint8)
    ops = torch.ops.quantized
    if convolve:
        packed = ops.conv2d_prepack(weight, None, [1, 1], [1, 1], [1, 1], 1)
        return lambda: ops.conv2d(x, packed, 1.0, 0)
    packed = ops.linear_prepack(weight, None)
    return lambda: ops.linear(x, packed, 1.0, 0)


def _libraries() -> list[str]:
    """The engines that have kernels of their own; x86 chooses between two others."""
    engines = [e for e in torch.backends.quantized.supported_engines if e in INT8_INSTRUCTIONS]
    if "fbgemm" in engines:  # qnnpack is meant for ARM and slow elsewhere; Windows has none
        engines = [engine for engine in engines if engine != "qnnpack"]
    return engines


def _float(dtype: torch.dtype) -> dict[str, tuple]:
    return {
        "convolution": (_convolution, dtype),
        "convolution, weights packed": (_packed_convolution, dtype),
        "matrix product": (_matmul, dtype),
    }


# bfloat16 comes last, since without the instructions for it its matrix product may overrun the
# limit, and whatever follows needs a fresh process. So may onednn's int8 matrix product.
KERNELS = {
    "float32": _float(torch.float32),
    "int8": {f"convolution, {engine}": (_int8, engine, True) for engine in _libraries()}
    | {f"matrix product, {engine}": (_int8, engine, False) for engine in reversed(_libraries())},
    "bfloat16": _float(torch.bfloat16),
}
READERS = {"sum": Tensor.sum, "maximum": Tensor.max, "dot product": lambda data: data.dot(data)}


def layer_work(fused: nn.Module, images: Tensor) -> pd.DataFrame:
    """Count what every convolution and linear layer of a fused float model has to do.

    Products with padding are not needed, and weights that only ever meet padding need not be read:
    some kernels leave both out, so a limit that holds for all must not count them. The columns:
    layer; operations (two per multiply-accumulate that is needed) and weights (that meet data);
    all_operations and all_weights (with padding); activations (inputs plus outputs), all for the
    whole batch.
    """
    rows = []

    def count(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        layer = module[0] if isinstance(module, ConvReLU2d) else module
        pairs = layer.weight.shape[0] * layer.weight.shape[1]
        met = taps(layer, inputs[0].shape)  # taps x positions of the output
        rows.append(
            {
                "layer": name,
                "operations": 2 * len(output) * pairs * int(met.sum()),
                "weights": pairs * int(met.any(1).sum()),
                "all_operations": 2 * len(output) * pairs * met.numel(),
                "all_weights": layer.weight.numel(),
                "activations": inputs[0].numel() + output.numel(),
            }
        )

    layers = layers_of(fused, ConvReLU2d, nn.Conv2d, nn.Linear)
    with hooked(layers, count), torch.inference_mode():
        fused(images)
    return pd.DataFrame(rows)


def taps(module: nn.Module, shape: torch.Size) -> Tensor:
    """Return whether each tap of a layer's kernel meets data at each output position.

    ``shape`` is that of the layer's input, (N, C, H, W). The result is bool, (taps, positions);
    a linear layer has one of each.
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

    A layer timed alone finds its weights in the cache; inside the network it does not. The table
    has the column layer, and a column for each model: median milliseconds.
    """
    calls, started = [], {}

    def before(name: str, *_) -> None:
        started[name] = timer()

    def after(name: str, *_) -> None:
        calls.append((name, 1e3 * (timer() - started[name])))

    rows = []
    with steady(threads):
        for model in models.values():
            warm_up(model, images)
        for _ in tqdm(range(rounds), desc="layers", unit="round", leave=False):
            for name, model in models.items():
                parts = {layer: model.get_submodule(layer) for layer in layers}
                with hooked(parts, after, before=before):
                    model(images)
                rows += [(name, *call) for call in calls]
                calls.clear()
    table = pd.DataFrame(rows, columns=["model", "layer", "ms"])
    table = table.pivot_table("ms", "layer", "model", aggfunc="median")
    return table.loc[layers, list(models)].rename_axis(columns=None).reset_index()
