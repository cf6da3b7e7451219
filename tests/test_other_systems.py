"""Other processors and builds of torch, faked: every module is imported, every table built.

In a child process, since modules read what there is while they are imported.
"""

import json
import os
import subprocess
import sys

import pytest

from utils.settings import PROJECT

MODULES = sorted(
    f"utils.{path.stem}" for path in (PROJECT / "utils").glob("*.py") if path.stem != "__init__"
)
SYSTEMS = {
    "Windows": {
        "engines": ["fbgemm", "x86", "onednn", "none"],
        "machine": "AMD64",
        "flags": ["avx2", "avx512f", "avx512_vnni"],
        "absent": ["resource", "fcntl", "termios", "pwd", "grp"],
        "table": {"fbgemm": ("avx512_vnni", ""), "onednn": ("avx512_vnni", "")},
    },
    "ARM": {
        "engines": ["qnnpack", "none"],
        "machine": "aarch64",
        "flags": ["asimddp", "bf16"],
        "table": {"qnnpack": ("its basic kernels", "arm_dotprod")},
    },
    "AVX2": {
        "engines": ["qnnpack", "onednn", "x86", "fbgemm", "none"],
        "machine": "x86_64",
        "flags": ["avx2"],
        "table": {"fbgemm": ("avx2", ""), "onednn": ("avx2", "")},
    },
}
# Only what the machine says of itself is faked; all that reads it is the course's own.
LOOK = """
import importlib, json, platform, sys
import cpuinfo, psutil, torch, torchvision  # these may import what Linux has
system = json.loads(sys.argv[1])
platform.machine = lambda: system["machine"]
cpuinfo.get_cpu_info = lambda: {"brand_raw": "A processor", "flags": system["flags"]}
sys.modules |= dict.fromkeys(system.get("absent", []))  # importing one of these then fails
type(torch.backends.quantized).supported_engines = system["engines"]
for module in system["modules"]:
    importlib.import_module(module)
from utils import environment, quantization, settings
from utils.lab import roofline, runtimes
sets = environment.cpu()["instruction_sets"]
described = environment.describe(settings.load(), "no data")
print(json.dumps({
    "engine": quantization.default_engine(),
    "names": runtimes.names(),
    "missing": runtimes.missing(),
    "kernels": {kind: list(kernels) for kind, kernels in roofline.KERNELS.items()},
    "instructions": roofline.int8_instructions(sets).values.tolist(),
    "sets": described["instruction_sets"],
}))
"""


@pytest.mark.parametrize("name", SYSTEMS)
def test_variants_kernels_and_tables_are_those_of_the_system(name, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    faked = json.dumps(SYSTEMS[name] | {"modules": MODULES})
    environ = os.environ | {"PYTHONPATH": str(PROJECT), "COURSE_HOME": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "look.py"), faked]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    engines = ["qnnpack"] if name == "ARM" else ["fbgemm", "x86", "onednn"]
    libraries = {"qnnpack"} if name == "ARM" else {"fbgemm", "onednn"}
    assert found["engine"] == engines[0]
    int8 = [variant for variant in found["names"] if variant.startswith("int8")]
    assert int8 == [f"int8_{engine}" for engine in engines]
    absent = "int8_fbgemm" if name == "ARM" else "int8_qnnpack"
    assert absent in found["missing"]
    assert len(found["names"]) + len(found["missing"]) == 10
    assert {kernel.split(", ")[1] for kernel in found["kernels"]["int8"]} == libraries
    assert len(found["sets"]) == len(SYSTEMS[name]["flags"])
    table = {library: (fastest, unused) for library, fastest, unused in found["instructions"]}
    assert table == SYSTEMS[name]["table"]
