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
    },
    "ARM": {"engines": ["qnnpack", "none"], "machine": "aarch64", "flags": ["asimddp", "bf16"]},
    "AVX2": {
        "engines": ["qnnpack", "onednn", "x86", "fbgemm", "none"],
        "machine": "x86_64",
        "flags": ["avx2"],
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
from utils import environment, quantization, settings, training
from utils.lab import roofline, runtimes
sets = environment.cpu()["instruction_sets"]
described = environment.describe(settings.load(), "no data")
print(json.dumps({
    "engine": quantization.default_engine(),
    "names": runtimes.names(),
    "missing": runtimes.missing(),
    "kernels": {kind: list(kernels) for kind, kernels in roofline.KERNELS.items()},
    "instructions": roofline.int8_instructions(sets).values.tolist(),
    "bf16": training.bf16_helps("cpu"),
    "sets": described["instruction_sets"],
}))
"""


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request, tmp_path_factory):
    """Return the system's name and what the course finds there."""
    script = tmp_path_factory.mktemp("look") / "look.py"
    script.write_text(LOOK)
    faked = json.dumps(SYSTEMS[request.param] | {"modules": MODULES})
    environ = os.environ | {"PYTHONPATH": str(PROJECT), "COURSE_HOME": str(script.parent)}
    command = [sys.executable, str(script), faked]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout.splitlines()[-1])


def test_int8_variants_and_kernels_are_those_of_the_engines(system):
    name, found = system
    int8 = [variant for variant in found["names"] if variant.startswith("int8")]
    if name == "ARM":
        assert found["engine"] == "qnnpack"
        assert int8 == ["int8_qnnpack"]
        assert found["missing"]["int8_fbgemm"] == (
            "no engine for this processor, which uses qnnpack"
        )
        assert found["kernels"]["int8"] == ["convolution, qnnpack", "matrix product, qnnpack"]
    else:
        assert found["engine"] == "fbgemm"
        assert int8 == ["int8_fbgemm", "int8_x86", "int8_onednn"]
        assert "int8_qnnpack" in found["missing"]
        libraries = {kernel.split(", ")[1] for kernel in found["kernels"]["int8"]}
        assert libraries == {"fbgemm", "onednn"}
    assert len(found["names"]) + len(found["missing"]) == 10


def test_tables_follow_the_instruction_sets(system):
    name, found = system
    assert found["bf16"] is (name == "ARM")
    assert len(found["sets"]) == len(SYSTEMS[name]["flags"])
    table = {library: (fastest, unused) for library, fastest, unused in found["instructions"]}
    basic = "its basic kernels"
    assert (
        table
        == {
            "Windows": {"fbgemm": ("avx512_vnni", ""), "onednn": ("avx512_vnni", "")},
            "ARM": {"qnnpack": (basic, "arm_dotprod")},
            "AVX2": {"fbgemm": ("avx2", ""), "onednn": ("avx2", "")},
        }[name]
    )
