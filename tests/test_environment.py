import datetime
import json
import re
import subprocess

import cpuinfo
import numpy as np
import pytest
import torch

from utils import environment
from utils.environment import FAIL, OK, WARN


@pytest.fixture
def fake_cpu(monkeypatch):
    """Let cpuinfo report what the test wants; the real answer is cached and comes back after."""

    def pretend(platform="linux", machine="x86_64", **info):
        environment.cpu.cache_clear()
        monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: info)
        monkeypatch.setattr(environment.sys, "platform", platform)
        monkeypatch.setattr(environment.platform, "machine", lambda: machine)
        return environment.cpu()

    yield pretend
    monkeypatch.undo()
    environment.cpu.cache_clear()


@pytest.mark.parametrize(
    ("system", "flags", "sets", "virtual"),
    [
        (("linux", "x86_64"), ["sse2", "hypervisor"], [], True),
        (
            ("linux", "x86_64"),
            ["sse2", "avx512vnni", "avx2", "amx_int8", "avxvnni"],
            ["amx_int8", "avx2", "avx512_vnni", "avx_vnni"],
            False,
        ),
        (("linux", "aarch64"), ["asimddp", "i8mm"], ["arm_dotprod", "arm_i8mm"], None),
        (("win32", "AMD64"), ["sse2", "avx2"], ["avx2"], None),
        (("darwin", "arm64"), [], ["arm_dotprod"], None),
    ],
)
def test_cpu_keeps_what_matters_and_says_only_what_it_knows(fake_cpu, system, flags, sets, virtual):
    found = fake_cpu(*system, flags=flags, brand_raw="AMD EPYC", family=25)
    assert found["instruction_sets"] == sets
    assert found["virtual"] is virtual
    assert (found["model"], found["numbers"]) == ("AMD EPYC", {"family": 25})


def test_cache_sizes_come_from_the_kernel_or_else_from_cpuinfo(fake_cpu, monkeypatch, tmp_path):
    for name in ("index0", "index1"):  # the second stays empty, as in some containers
        (tmp_path / name).mkdir()
    for name, text in {"level": "1", "type": "Data", "size": "48K"}.items():
        (tmp_path / "index0" / name).write_text(text + "\n")
    assert environment._linux_caches(tmp_path) == {"L1d": 48}
    monkeypatch.setattr(environment, "_linux_caches", lambda: {})
    found = fake_cpu(l2_cache_size=2 * 2**20, l3_cache_size="unknown")
    assert found["caches_kb"] == {"L2": 2048}


def test_describe_fits_into_json_and_names_the_run(course, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    record = environment.describe(course, "some digits", {"int8": "def"})
    assert json.loads(json.dumps(record)) == record
    expected = {"profile": "quick", "seed": 0, "device": "cpu", "weights": {"int8": "def"}}
    expected |= {"torch": torch.__version__, "data_source": "some digits"}
    expected |= {"threads": torch.get_num_threads()}
    assert expected.items() <= record.items()
    assert record["openmp"]["OMP_WAIT_POLICY"] == "PASSIVE"
    made = datetime.datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%S%z")
    now = datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta() <= now - made < datetime.timedelta(minutes=1)
    assert str(environment.PROJECT) not in json.dumps(record)


def test_runtimes_are_those_that_are_installed(monkeypatch):
    assert environment.runtimes()["NumPy"] == np.__version__
    build = "PyTorch built with:\n  - Intel(R) MKL-DNN v3.13.3 (Git Hash 1)\n"
    monkeypatch.setattr(torch.__config__, "show", lambda: build)
    monkeypatch.setattr(environment, "_version", {"onnxruntime": "1.2"}.get)
    assert environment.runtimes() == {"oneDNN": "3.13.3", "ONNX Runtime": "1.2"}


def test_the_commit_is_the_projects_own_and_marked_only_by_changes_no_run_makes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "code.py").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
        subprocess.run([*git, *arguments], check=True)
    clean = environment.commit()
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (tmp_path / "notebooks" / "00.ipynb").write_text("executed")
    (tmp_path / "README.md").write_text("table")
    assert environment.commit() == clean
    (tmp_path / "code.py").write_text("2")
    assert environment.commit() == clean + "+changes"
    monkeypatch.setattr(environment, "PROJECT", tmp_path / "notebooks")  # the repository is around
    assert environment.commit() is None
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # which holds no git
    assert environment.commit() is None


def row(course, what):
    return next(row for row in environment.check(course) if row[1] == what)


def test_check_has_a_row_for_everything_needed(course):
    rows = {what: state for state, what, _ in environment.check(course)}
    needed = {"Python", "int8 engines", "free disk", "data", "CPU", "GPU"}
    assert rows.keys() >= needed | environment.requirements().keys()
    assert rows["data"] == rows["int8 engines"] == OK


@pytest.mark.parametrize(
    ("package", "version", "state", "detail"),
    [
        ("scipy", "0.1", WARN, "0.1 instead of the pinned 1.17.1: results may differ"),
        ("scipy", "1.17.1+local", OK, "1.17.1+local"),
        ("scipy", "", FAIL, "missing, pinned is 1.17.1: pip install -r requirements.txt"),
        ("ruff", "", WARN, "missing"),
        ("torch", "2.9.1", FAIL, "needs >=2.11,<2.16: pip install -r requirements.txt"),
        ("torch", "2.11.0", WARN, "instead of the pinned"),
        ("torch", "2.16.0", FAIL, "needs"),
        ("torch", "2.110.0", FAIL, "needs"),
        ("torch", "10.0", FAIL, "needs"),
    ],
)
def test_only_versions_that_cannot_work_fail(
    course, monkeypatch, tmp_path, package, version, state, detail
):
    pins = "# a line\nscipy==1.17.1  # why\ntorch==2.15.0\nruff==1\nnot-a-pin\n-e .\n"
    (tmp_path / "requirements.txt").write_text(pins)
    (tmp_path / "pyproject.toml").write_bytes((environment.PROJECT / "pyproject.toml").read_bytes())
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    assert environment.requirements() == {"scipy": "1.17.1", "torch": "2.15.0", "ruff": "1"}
    versions = environment.requirements() | {package: version}
    monkeypatch.setattr(environment, "_version", lambda name: versions.get(name, ""))
    found = row(course, package)
    assert found[0] == state
    assert detail in found[2]
    monkeypatch.setattr(environment.settings_module, "load", lambda: course)
    assert environment.main() == int(state == FAIL)  # a warning is no failure


ENGINES = type(torch.backends.quantized)  # where torch keeps them as a property


@pytest.mark.parametrize(
    ("owner", "name", "value", "what", "detail"),
    [
        (environment, "MINIMUM_PYTHON", (9, 9), "Python", "needs 9.9+"),
        (environment, "DISK_NEEDED", 1e30, "free disk", "needs 1 GB"),
        (environment.os, "access", lambda *_: False, "free disk", "read-only: set COURSE_HOME to"),
        (ENGINES, "supported_engines", ["none"], "int8 engines", "reinstall torch"),
    ],
)
def test_what_the_machine_lacks_fails_and_makes_the_command_fail(
    course, monkeypatch, capsys, owner, name, value, what, detail
):
    monkeypatch.setattr(environment.settings_module, "load", lambda: course)
    monkeypatch.setattr(owner, name, value)
    state, _, found = row(course, what)
    assert state == FAIL and detail in found
    assert environment.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[FAIL]") and detail in line]
    assert [line for line in lines if line.startswith("[OK]")]
