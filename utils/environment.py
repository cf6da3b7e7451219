"""What machine is this, and can it run the course?  ``python -m utils.environment``"""

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path

import cpuinfo
import psutil
import torch

from utils import settings as settings_module
from utils.settings import PROJECT, Settings

# Instruction sets that decide how fast int8 (and bfloat16) can be; cpuinfo's spelling varies.
INSTRUCTION_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx_vnni": "avx_vnni",
    "avxvnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimddp": "arm_dotprod",
    "i8mm": "arm_i8mm",
    "bf16": "arm_bf16",
}
MINIMUM_PYTHON = (3, 11)
DISK_NEEDED = 1e9  # data, checkpoints and a report; the packages are installed already
TOOLS = ("jupyterlab", "pytest", "nbval", "ruff")  # pinned, but no notebook imports them
OPENMP = ("OMP_", "KMP_", "GOMP_", "MKL_")  # variables that change how threads work
OK, WARN, FAIL = "OK", "WARN", "FAIL"


@functools.cache
def cpu() -> dict:
    """Return what is known about the CPU.

    Returns
    -------
    dict
        ``model`` (str; some hosts hide it: "AMD EPYC"), ``numbers`` (family, model and stepping
        as far as they are known), ``instruction_sets`` (sorted list of str: those that matter for
        int8), ``caches_kb`` (level to kB, of one core) and ``virtual`` (bool; None if unknown).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = cpuinfo.get_cpu_info()
    flags = info.get("flags", [])
    if sys.platform == "darwin" and platform.machine() == "arm64":
        flags = [*flags, "asimddp"]  # cpuinfo reads no flags there; every Apple M core has it
    virtual = "hypervisor" in flags  # Linux on x86 always sets the flag in a virtual machine
    knows = sys.platform == "linux" and "sse2" in flags
    return {
        "model": info.get("brand_raw", platform.machine()),
        "numbers": {k: info[k] for k in ("family", "model", "stepping") if k in info},
        "instruction_sets": sorted({INSTRUCTION_SETS[f] for f in flags if f in INSTRUCTION_SETS}),
        "caches_kb": _linux_caches() or _caches(info),
        "virtual": virtual if virtual or knows else None,
    }


def _linux_caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict:
    """Read the sizes from the kernel: cpuinfo takes them from a field that AMD fills otherwise."""
    found = {}
    for index in sorted(folder.glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level, kind, size = ((index / n).read_text().strip() for n in ("level", "type", "size"))
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{letter}"] = int(size.removesuffix("K"))
    return found


def _caches(info: dict) -> dict:
    keys = {"L1d": "l1_data_cache_size", "L2": "l2_cache_size", "L3": "l3_cache_size"}
    return {n: info[k] // 1024 for n, k in keys.items() if isinstance(info.get(k), int)}


def runtimes() -> dict[str, str]:
    """Return the versions of the libraries that compute: those that are installed."""
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", torch.__config__.show())
    found = {"oneDNN": onednn[1]} if onednn else {}
    packages = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "NumPy": "numpy"}
    return found | {name: v for name, package in packages.items() if (v := _version(package))}


def commit() -> str | None:
    """Return the project's commit; None without git.

    "+changes" follows if files differ from it, other than those that a run itself rewrites.
    """
    ours = [".", ":!notebooks", ":!results", ":!README.md"]
    found = _git("rev-parse", "HEAD", "--show-prefix")
    if found is None or len(found.split()) != 1:  # a prefix: the repository is another one, around
        return None
    return found.strip() + ("+changes" if _git("status", "--porcelain", "--", *ours) else "")


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(PROJECT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(
    settings: Settings, data_source: str, weights: Mapping[str, str] | None = None
) -> dict:
    """Return the record of versions and machine that every result file carries.

    What this machine does not tell is None or left out; no name of a host or path is in it.

    Parameters
    ----------
    settings : Settings
    data_source : str
        As :attr:`utils.data.Dataset.source` names it.
    weights : mapping of str to str, optional
        What the figures belong to, for instance ``{"float32": ..., "int8": ...}``, each as
        :func:`utils.models.weights_hash` returns it.
    """
    cuda = torch.cuda.is_available()
    now = datetime.datetime.now(datetime.UTC)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "runtimes": runtimes(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu()["model"],
        "cpu_numbers": cpu()["numbers"],
        "instruction_sets": cpu()["instruction_sets"],
        "caches_kb": cpu()["caches_kb"],
        "virtual": cpu()["virtual"],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cores": os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "openmp": {k: v for k, v in sorted(os.environ.items()) if k.startswith(OPENMP)},
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "device": settings.device,
        "profile": settings.profile,
        "seed": settings.seed,
        "data_source": data_source,
        "weights": dict(weights or {}),
        "commit": commit(),
        "date": now.date().isoformat(),
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def requirements() -> dict[str, str]:
    """Return the pins of requirements.txt as ``{package: version}``."""
    text = (PROJECT / "requirements.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))


def torch_bound() -> tuple[str, str]:
    """Return the versions of PyTorch, from and below, that the course works with."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    bound = next(d for d in project["dependencies"] if d.startswith("torch>"))
    return re.fullmatch(r"torch>=([\d.]+),<([\d.]+)", bound).groups()


def check(settings: Settings) -> list[tuple[str, str, str]]:
    """Check everything the course needs.

    Returns
    -------
    list of (state, what, detail)
        State is OK, WARN or FAIL. Only what results depend on, or what is missing altogether,
        fails; a version other than the pinned one is a warning. The detail says what to do next.
    """
    rows = []
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    state = OK if sys.version_info[:2] >= MINIMUM_PYTHON else FAIL
    rows.append((state, "Python", f"{platform.python_version()} (needs {wanted}+)"))
    rows += [_package_row(package, pin) for package, pin in requirements().items()]
    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    advice = "" if engines else "none: this build of torch cannot run int8 models; reinstall torch"
    rows.append((OK if engines else FAIL, "int8 engines", ", ".join(engines) or advice))
    existing = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    advice = (
        "" if os.access(existing, os.W_OK) else "; read-only: set COURSE_HOME to another folder"
    )
    state = OK if free > DISK_NEEDED and not advice else FAIL
    rows.append((state, "free disk", f"{free / 1e9:.1f} GB (needs 1 GB){advice}"))
    rows.append(_data_row(settings))
    found = [f"{n} {v}" for n, v in runtimes().items() if n in ("ONNX Runtime", "OpenVINO")]
    advice = "none (optional: pip install -r requirements-runtimes.txt)"
    rows.append((OK, "other runtimes", ", ".join(found) or advice))
    sets = ", ".join(cpu()["instruction_sets"]) or "no int8-relevant instruction set found"
    rows.append((OK, "CPU", f"{cpu()['model']}: {sets}"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, training uses "
    rows.append((OK, "GPU", gpu + ("" if torch.cuda.is_available() else settings.device)))
    return rows


def _package_row(package: str, pin: str) -> tuple[str, str, str]:
    version = _version(package)
    if not version:
        state = WARN if package in TOOLS else FAIL
        return state, package, f"missing, pinned is {pin}: pip install -r requirements.txt"
    low, below = torch_bound()
    if package == "torch" and not _numbers(low) <= _numbers(version) < _numbers(below):
        return FAIL, package, f"{version}, needs >={low},<{below}: pip install -r requirements.txt"
    if version.split("+")[0] != pin:
        return WARN, package, f"{version} instead of the pinned {pin}: results may differ"
    return OK, package, version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _data_row(settings: Settings) -> tuple[str, str, str]:
    from utils import data  # data sits above this module; only the check looks upwards

    ok, detail = data.availability(settings)
    return OK if ok else FAIL, "data", detail


def main() -> int:
    """Print [OK], [WARN] or [FAIL] for each requirement; return the exit code."""
    rows = check(settings_module.load())
    for state, what, detail in rows:
        print(f"[{state}]".ljust(7), what.ljust(14), detail)
    return 1 if FAIL in [state for state, _, _ in rows] else 0


if __name__ == "__main__":
    sys.exit(main())
