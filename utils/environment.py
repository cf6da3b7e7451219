"""What machine is this, and can it run the course?  ``python -m utils.environment``"""

import datetime
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Mapping

import cpuinfo
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


@functools.cache
def cpu() -> dict:
    """Return the CPU's model name and the instruction sets that matter for int8.

    Returns
    -------
    dict
        ``model`` (str) and ``instruction_sets`` (sorted list of str).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = cpuinfo.get_cpu_info()
    flags = info.get("flags", [])
    if sys.platform == "darwin" and platform.machine() == "arm64":
        flags = [*flags, "asimddp"]  # cpuinfo reads no flags there; every Apple M core has it
    found = sorted({INSTRUCTION_SETS[flag] for flag in flags if flag in INSTRUCTION_SETS})
    return {"model": info.get("brand_raw", platform.machine()), "instruction_sets": found}


def describe(
    settings: Settings, data_source: str, weights: Mapping[str, str] | None = None
) -> dict:
    """Return the record of versions and machine that every result file carries.

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
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu()["model"],
        "instruction_sets": cpu()["instruction_sets"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "device": settings.device,
        "profile": settings.profile,
        "seed": settings.seed,
        "data_source": data_source,
        "weights": dict(weights or {}),
        "date": datetime.date.today().isoformat(),
    }


def requirements() -> dict[str, str]:
    """Return the pins of requirements.txt as ``{package: version}``."""
    text = (PROJECT / "requirements.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))


def check(settings: Settings) -> list[tuple[bool, str, str]]:
    """Check everything the course needs.

    Returns
    -------
    list of (ok, what, detail)
        ``detail`` of a failed line says what to do next.
    """
    rows = []
    python = sys.version_info[:2]
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    rows.append(
        (python >= MINIMUM_PYTHON, "Python", f"{platform.python_version()} (needs {wanted}+)")
    )
    for package, pin in requirements().items():
        version = _version(package) or "missing"
        ok = version.split("+")[0] == pin
        advice = "" if ok else f", needs {pin}: pip install -r requirements.txt"
        rows.append((ok, package, version + advice))
    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    advice = "" if engines else "none: this build of torch cannot run int8 models; reinstall torch"
    rows.append((bool(engines), "int8 engines", ", ".join(engines) or advice))
    existing = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    rows.append((free > DISK_NEEDED, "free disk", f"{free / 1e9:.1f} GB (needs 1 GB)"))
    rows.append(_data_row(settings))
    runtimes = [f"{r} {v}" for r in ("onnxruntime", "openvino") if (v := _version(r))]
    advice = "none (optional: pip install -r requirements-runtimes.txt)"
    rows.append((True, "other runtimes", ", ".join(runtimes) or advice))
    sets = ", ".join(cpu()["instruction_sets"]) or "no int8-relevant instruction set found"
    rows.append((True, "CPU", f"{cpu()['model']}: {sets}"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, training uses "
    rows.append((True, "GPU", gpu + ("" if torch.cuda.is_available() else settings.device)))
    return rows


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _data_row(settings: Settings) -> tuple[bool, str, str]:
    from utils import data  # data sits above this module; only the check looks upwards

    ok, detail = data.availability(settings)
    return ok, "data", detail


def main() -> int:
    """Print [OK] or [FAIL] for each requirement; return the exit code."""
    rows = check(settings_module.load())
    for ok, what, detail in rows:
        print(f"[{'OK' if ok else 'FAIL'}]".ljust(7), what.ljust(14), detail)
    return 0 if all(ok for ok, _, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
