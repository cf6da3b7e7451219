"""What a model takes: bytes in its file, and memory in a fresh process."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor, nn

from utils.catalog import VARIANTS
from utils.lab import isolation, runtimes


def memory(
    names: list[str], folder: Path, shape: tuple[int, ...], threads: int = 1, *, limit: float = 120
) -> pd.DataFrame:
    """Load and run each variant in a fresh process, and see what that takes.

    Parameters
    ----------
    names : list of str
    folder : Path
        That :func:`utils.lab.runtimes.export` filled.
    shape : tuple of int
        Of the input.
    threads : int
    limit : float
        Seconds for each variant.

    Returns
    -------
    DataFrame
        variant, file_mb, before_mb (resident set with the libraries loaded and no model), after_mb
        (once it has run), peak_mb (highest resident set), problem. Megabytes are 1e6 bytes.
    """
    calls = [(name, str(folder), shape, threads) for name in names]
    # glibc keeps what is freed in case it is wanted again; here it is to go back at once.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    outcomes = isolation.call_each(_footprint, calls, seconds=limit, fresh=True, environ=at_once)
    rows = []
    for name, outcome in zip(names, outcomes, strict=True):
        file = folder / VARIANTS[name].file
        size = file.stat().st_size / 1e6 if file.exists() else np.nan
        values = outcome.value or dict.fromkeys(("before_mb", "after_mb", "peak_mb"), np.nan)
        rows.append({"variant": name, "file_mb": size, **values, "problem": outcome.problem or ""})
    return pd.DataFrame(rows)


def denormals(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Count the denormal floats in the weights and activations of a float model.

    Denormal is what is not zero but closer to zero than 2**-126 (IEEE 754-2019, section 3.4);
    some processors take many times longer over it.

    Returns
    -------
    DataFrame
        where (``weights``, ``activations``), values, denormal (counts).
    """
    seen = {"weights": [0, 0], "activations": [0, 0]}

    def count(where: str, values: Tensor) -> None:
        # By the bits, since a processor that flushes denormals sees zeros when it compares.
        bits = values.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
        seen[where][0] += bits.numel()
        seen[where][1] += int(((bits > 0) & (bits < 0x00800000)).sum())

    hooks = [
        module.register_forward_hook(lambda _, __, output: count("activations", output))
        for module in model.modules()
        if not list(module.children())
    ]
    try:
        for values in model.state_dict().values():
            if values.dtype == torch.float32:
                count("weights", values)
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = [(where, values, found) for where, (values, found) in seen.items()]
    return pd.DataFrame(rows, columns=["where", "values", "denormal"])


def flushes_denormals() -> bool:
    """Whether this thread takes denormal floats for zero (``torch.set_flush_denormal``)."""
    return (torch.full((1,), 2.0**-126) * 0.5 * 2.0**100).item() == 0


def file_bytes(model: nn.Module) -> int:
    """Return the size of the file that ``torch.save(model.state_dict())`` writes."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def content_bytes(model: nn.Module) -> pd.DataFrame:
    """Take the size of a model apart: what is stored, in which dtype, in how many bytes.

    Returns
    -------
    DataFrame
        Columns part (weights, biases, batch norm, scales and zero points), dtype, values, bytes;
        one row for each combination that occurs.
    """
    rows = []
    for name, value in model.state_dict().items():
        if isinstance(value, tuple):  # the packed weight and bias of an int8 linear layer
            rows += _parts(name + ".weight", value[0]) + _parts(name + ".bias", value[1])
        elif isinstance(value, Tensor):
            rows += _parts(name, value)
    table = pd.DataFrame(rows, columns=["part", "dtype", "values", "bytes"])
    return table.groupby(["part", "dtype"], as_index=False, sort=False).sum()


def _parts(name: str, value: Tensor) -> list[tuple[str, str, int, int]]:
    last = name.split(".")[-1]
    if last in ("scale", "zero_point"):
        part = "scales and zero points"
    elif last == "bias" and ".bn" not in f".{name}" and ".downsample.1" not in f".{name}":
        part = "biases"
    elif last == "weight" and value.ndim > 1:
        part = "weights"
    else:
        part = "batch norm"
    size = value.numel()
    rows = [(part, str(value.dtype).removeprefix("torch."), size, size * value.element_size())]
    if value.is_quantized and value.qscheme() in (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
    ):
        for numbers in (value.q_per_channel_scales(), value.q_per_channel_zero_points()):
            dtype = str(numbers.dtype).removeprefix("torch.")
            size = numbers.numel()
            rows.append(("scales and zero points", dtype, size, size * numbers.element_size()))
    return rows


def _footprint(name: str, folder: str, shape: tuple[int, ...], threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    model = runtimes.load(name, Path(folder), shape, threads)
    images = torch.zeros(shape)
    with torch.inference_mode():
        for _ in range(3):
            model(images)
    after = psutil.Process().memory_info().rss
    found = {"before_mb": before, "after_mb": after, "peak_mb": max(after, _peak_rss())}
    return {key: value / 1e6 for key, value in found.items()}


def _peak_rss() -> int:
    """Return the highest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count what the parent held when it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes
