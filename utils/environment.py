"""What machine is this, and can it run the course?  ``python -m utils.environment``"""

import contextlib
import datetime
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import cpuinfo
import psutil
import torch

from utils import data
from utils import settings as settings_module
from utils.settings import PROJECT, Settings

# Instruction sets that decide how fast int8 (and bfloat16) can be, by cpuinfo's names, of which
# some versions leave out the underscores.
X86_SETS = "avx2 avx512f avx_vnni avx512_vnni avx512_bf16 amx_int8 amx_bf16"
INSTRUCTION_SETS = {"asimddp": "arm_dotprod", "i8mm": "arm_i8mm", "bf16": "arm_bf16"} | {
    spelling: name for name in X86_SETS.split() for spelling in (name, name.replace("_", ""))
}
MINIMUM_PYTHON = (3, 11)
DISK_NEEDED = 1e9  # bytes for data, checkpoints and a report
TOOLS = ("jupyterlab", "pytest", "nbval", "ruff")  # pinned, but no notebook imports them
OPENMP = ("OMP_", "KMP_", "GOMP_", "MKL_")  # variables that change how threads work
OK, WARN, FAIL = "OK", "WARN", "FAIL"


@functools.cache
def cpu() -> dict:
    """Return what is known about the CPU.

    ``model`` (str; some hosts hide it: "AMD EPYC"), ``numbers`` (family, model and stepping as far
    as they are known), ``instruction_sets`` (sorted list of str: those that matter for int8),
    ``caches_kb`` (level to kB, of one core) and ``virtual`` (bool; None if unknown).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = cpuinfo.get_cpu_info()
    flags = info.get("flags", [])
    if sys.platform == "darwin" and platform.machine() == "arm64":
        flags = [*flags, "asimddp"]  # cpuinfo reads no flags there; every Apple M core has it
    caches = {"L1d": "l1_data_cache_size", "L2": "l2_cache_size", "L3": "l3_cache_size"}
    virtual = "hypervisor" in flags  # Linux on x86 always sets the flag in a virtual machine
    knows = sys.platform == "linux" and "sse2" in flags
    return {
        "model": info.get("brand_raw", platform.machine()),
        "numbers": {k: info[k] for k in ("family", "model", "stepping") if k in info},
        "instruction_sets": sorted({INSTRUCTION_SETS[f] for f in flags if f in INSTRUCTION_SETS}),
        "caches_kb": _linux_caches()
        or {n: info[k] // 1024 for n, k in caches.items() if isinstance(info.get(k), int)},
        "virtual": virtual if virtual or knows else None,
    }


def _linux_caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict:
    found = {}  # from the kernel, because cpuinfo reads a field that AMD fills otherwise
    for index in sorted(folder.glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level, kind, size = ((index / n).read_text().strip() for n in ("level", "type", "size"))
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{letter}"] = int(size.removesuffix("K"))
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


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
    git = ("git", "--no-optional-locks", "-C", str(PROJECT))
    ours = ("--", ".", ":!notebooks", ":!results", ":!README.md")
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    try:
        found = run([*git, "rev-parse", "HEAD", "--show-prefix"]).stdout.split()
        if len(found) != 1:  # a prefix: the repository is another one, around the project
            return None
        return found[0] + "+changes" * bool(run([*git, "status", "--porcelain", *ours]).stdout)
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(
    settings: Settings, data_source: str, weights: Mapping[str, str] | None = None
) -> dict:
    """Return the record of versions and machine that every result file carries.

    What this machine does not tell is None or left out; no name of a host or path is in it.
    ``weights`` holds, for instance for "float32", what :func:`utils.models.weights_hash` returned.
    """
    known, now = cpu(), datetime.datetime.now(datetime.UTC)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "runtimes": runtimes(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": known["model"],
        "cpu_numbers": known["numbers"],
        **{key: known[key] for key in ("instruction_sets", "caches_kb", "virtual")},
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cores": os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "openmp": {k: v for k, v in sorted(os.environ.items()) if k.startswith(OPENMP)},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{key: getattr(settings, key) for key in ("device", "profile", "seed")},
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
    return re.search(r"torch>=([\d.]+),<([\d.]+)", " ".join(project["dependencies"])).groups()


def check(settings: Settings) -> list[tuple[str, str, str]]:
    """Check everything the course needs; return rows of state, what, and detail.

    Only what results depend on, or what is missing altogether, has the state FAIL; a version other
    than the pinned one has WARN. The detail says what to do next.
    """
    python = f"{platform.python_version()} (needs {'.'.join(map(str, MINIMUM_PYTHON))}+)"
    new_enough = sys.version_info[:2] >= MINIMUM_PYTHON
    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    no_engine = "none: this build of torch cannot run int8 models; reinstall torch"
    home = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    writable, free = os.access(home, os.W_OK), shutil.disk_usage(home).free
    disk = f"{free / 1e9:.1f} GB (needs 1 GB)"
    disk += "" if writable else "; read-only: set COURSE_HOME to another folder"
    ready, source = data.availability(settings)
    others = [f"{n} {v}" for n, v in runtimes().items() if n in ("ONNX Runtime", "OpenVINO")]
    no_other = "none (optional: pip install -r requirements-runtimes.txt)"
    sets = ", ".join(cpu()["instruction_sets"]) or "no int8-relevant instruction set found"
    gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
    return [
        (OK if new_enough else FAIL, "Python", python),
        *(_package_row(package, pin) for package, pin in requirements().items()),
        (OK if engines else FAIL, "int8 engines", ", ".join(engines) or no_engine),
        (OK if free > DISK_NEEDED and writable else FAIL, "free disk", disk),
        (OK if ready else FAIL, "data", source),
        (OK, "other runtimes", ", ".join(others) or no_other),
        (OK, "CPU", f"{cpu()['model']}: {sets}"),
        (OK, "GPU", gpu or f"none, training uses {settings.device}"),
    ]


def _package_row(package: str, pin: str) -> tuple[str, str, str]:
    version, (low, below) = _version(package), torch_bound()
    numbers, least, end = (
        [int(n) for n in re.findall(r"\d+", v)[:2]] for v in (version, low, below)
    )
    advice = ": pip install -r requirements.txt"
    if not version:
        return WARN if package in TOOLS else FAIL, package, f"missing, pinned is {pin}{advice}"
    if package == "torch" and not least <= numbers < end:
        return FAIL, package, f"{version}, needs >={low},<{below}{advice}"
    if version.split("+")[0] != pin:
        return WARN, package, f"{version} instead of the pinned {pin}: results may differ"
    return OK, package, version


def main() -> int:
    """Print [OK], [WARN] or [FAIL] for each requirement; return the exit code."""
    rows = check(settings_module.load())
    for state, what, detail in rows:
        print(f"[{state}]".ljust(7), what.ljust(14), detail)
    return int(any(state == FAIL for state, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
