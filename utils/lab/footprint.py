"""What a model takes: the size of its file, and memory in a fresh process."""

from pathlib import Path

import pandas as pd
import psutil
import torch

from utils.catalog import VARIANTS
from utils.lab import isolation, runtimes


def memory(
    names: list[str], folder: Path, shape: tuple[int, ...], threads: int = 1, *, limit: float = 120
) -> pd.DataFrame:
    """Load and run each variant in a fresh process, for ``limit`` seconds at most.

    ``folder`` is one that :func:`utils.lab.runtimes.export` filled, ``shape`` that of the input.
    The columns: variant, file_mb, before_mb (resident set with the libraries loaded and no model),
    after_mb (once it has run), peak_mb (highest resident set), problem. A megabyte is 1e6 bytes.
    """
    calls = [(name, str(folder), shape, threads) for name in names]
    # glibc keeps what is freed in case it is wanted again; here it is to go back at once.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = isolation.call_each(_footprint, calls, seconds=limit, fresh=True, environ=at_once)
    table = pd.DataFrame(
        [[x / 1e6 for x in one.value or (float("nan"),) * 3] for one in found],
        columns=["before_mb", "after_mb", "peak_mb"],
    )
    files = [folder / VARIANTS[name].file for name in names]
    sizes = [file.stat().st_size / 1e6 if file.exists() else float("nan") for file in files]
    table.insert(0, "variant", names)
    table.insert(1, "file_mb", sizes)
    return table.assign(problem=[one.problem or "" for one in found])


def _footprint(name: str, folder: str, shape: tuple[int, ...], threads: int) -> tuple[int, ...]:
    """Return the resident set before and after, and its peak, in bytes."""
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    model = runtimes.load(name, Path(folder), shape, threads)
    images = torch.zeros(shape)
    with torch.inference_mode():
        for _ in range(3):
            model(images)
    after = psutil.Process().memory_info().rss
    return before, after, max(after, _peak_rss())


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
