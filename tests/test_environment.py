import datetime
import json
import os
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

    def pretend(**info):
        environment.cpu.cache_clear()
        monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: info)

    yield pretend
    monkeypatch.undo()
    environment.cpu.cache_clear()


def test_cpu_keeps_only_what_matters_and_unifies_the_spelling(fake_cpu):
    fake_cpu(brand_raw="A CPU", flags=["sse2", "avx512vnni", "avx2", "avx512_vnni", "amx_int8"])
    sets = ["amx_int8", "avx2", "avx512_vnni"]
    assert environment.cpu()["model"] == "A CPU"
    assert environment.cpu()["instruction_sets"] == sets


def test_cpu_names_arm_extensions(fake_cpu):
    fake_cpu(flags=["asimddp", "i8mm"])
    assert environment.cpu()["instruction_sets"] == ["arm_dotprod", "arm_i8mm"]


def test_an_apple_cpu_has_dotprod(fake_cpu, monkeypatch):
    fake_cpu(brand_raw="Apple M1")
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert environment.cpu()["instruction_sets"] == ["arm_dotprod"]


@pytest.mark.parametrize(
    ("platform", "flags", "virtual"),
    [
        ("linux", ["sse2", "hypervisor"], True),
        ("linux", ["sse2"], False),
        ("linux", ["asimddp"], None),
        ("win32", ["sse2"], None),
        ("darwin", [], None),
    ],
)
def test_a_virtual_machine_is_called_so_only_where_it_shows(
    fake_cpu, monkeypatch, platform, flags, virtual
):
    fake_cpu(flags=flags)
    monkeypatch.setattr(environment.sys, "platform", platform)
    assert environment.cpu()["virtual"] is virtual


def test_cpu_numbers_stand_for_a_hidden_name(fake_cpu):
    fake_cpu(brand_raw="AMD EPYC", family=25, model=17)
    assert environment.cpu()["numbers"] == {"family": 25, "model": 17}


def test_cache_sizes_come_from_the_kernel_or_else_from_cpuinfo(fake_cpu, monkeypatch, tmp_path):
    files = {"level": "2", "type": "Unified", "size": "1024K"}
    (tmp_path / "index0").mkdir()
    (tmp_path / "index1").mkdir()  # half empty, as in some containers
    for name, text in files.items():
        (tmp_path / "index0" / name).write_text(text + "\n")
    assert environment._linux_caches(tmp_path) == {"L2": 1024}
    monkeypatch.setattr(environment, "_linux_caches", lambda: {})
    fake_cpu(l2_cache_size=2 * 2**20, l3_cache_size="unknown")
    assert environment.cpu()["caches_kb"] == {"L2": 2048}


def test_describe_fits_into_json_and_names_the_run(course, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    weights = {"float32": "abc", "int8": "def"}
    record = environment.describe(course, "some digits", weights)
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__
    assert record["data_source"] == "some digits"
    assert (record["profile"], record["seed"], record["device"]) == ("quick", 0, "cpu")
    assert record["threads"] == torch.get_num_threads()
    assert record["weights"] == weights
    assert record["openmp"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert record["memory_gb"] > 0.5
    now = datetime.datetime.now(datetime.UTC)
    made = datetime.datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%S%z")
    assert datetime.timedelta() <= now - made < datetime.timedelta(minutes=1)
    assert record["time"].startswith(record["date"])
    keys = {"python", "torchvision", "system", "cpu", "instruction_sets", "cores", "gpu"}
    assert keys <= record.keys()
    assert str(environment.PROJECT) not in json.dumps(record)


def test_runtimes_are_those_that_are_installed(monkeypatch):
    found = environment.runtimes()
    assert found["NumPy"] == np.__version__
    build = "PyTorch built with:\n  - Intel(R) MKL-DNN v3.13.3 (Git Hash 1)\n"
    monkeypatch.setattr(torch.__config__, "show", lambda: build)
    versions = {"onnxruntime": "1.2"}
    monkeypatch.setattr(environment, "_version", lambda package: versions.get(package, ""))
    assert environment.runtimes() == {"oneDNN": "3.13.3", "ONNX Runtime": "1.2"}
    monkeypatch.setattr(torch.__config__, "show", lambda: "PyTorch built with:\n")
    assert environment.runtimes() == {"ONNX Runtime": "1.2"}


# The commit


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, in place of the project's."""
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "code.py").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
        subprocess.run([*git, *arguments], check=True)
    return tmp_path


def test_the_commit_is_marked_only_by_changes_that_a_run_does_not_make(repository):
    clean = environment.commit()
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (repository / "notebooks" / "00.ipynb").write_text("executed")
    (repository / "README.md").write_text("table")
    assert environment.commit() == clean
    (repository / "code.py").write_text("2")
    assert environment.commit() == clean + "+changes"


def test_no_git_or_the_repository_of_someone_else_is_no_commit(repository, monkeypatch, tmp_path):
    inside = repository / "unpacked"
    inside.mkdir()
    monkeypatch.setattr(environment, "PROJECT", inside)
    assert environment.commit() is None
    monkeypatch.setattr(environment, "PROJECT", repository)
    monkeypatch.setenv("PATH", str(inside))  # which holds no git
    assert environment.commit() is None


def test_requirements_reads_the_pins(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("# a line\ntorch==1.2.3  # why\nnot-a-pin\n-e .\n")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    assert environment.requirements() == {"torch": "1.2.3"}


def test_check_has_a_row_for_everything_needed(course):
    rows = {what: (ok, detail) for ok, what, detail in environment.check(course)}
    assert rows.keys() >= {"Python", "int8 engines", "free disk", "data", "CPU", "GPU"}
    assert rows.keys() >= environment.requirements().keys()
    assert rows["data"][0] == OK


def _row(course, what):
    return next(row for row in environment.check(course) if row[1] == what)


def test_another_version_than_the_pinned_one_is_a_warning_with_both(course, monkeypatch):
    found = environment.importlib.metadata.version("scipy")
    monkeypatch.setattr(environment, "requirements", lambda: {"scipy": "0.1", "ruff": "0.2"})
    state, _, detail = _row(course, "scipy")
    assert (state, detail) == (WARN, f"{found} instead of the pinned 0.1: results may differ")
    assert _row(course, "ruff")[0] == WARN


def test_torch_outside_its_bound_fails(course, monkeypatch):
    pin = {"torch": environment.requirements()["torch"]}
    monkeypatch.setattr(environment, "requirements", lambda: pin)
    for version, state in {
        "2.9.1": FAIL,
        "2.10.1": FAIL,
        "2.11.0": WARN,
        "2.16.0": FAIL,
        "10.0": FAIL,
    }.items():
        monkeypatch.setattr(environment, "_version", lambda _, v=version: v)
        assert _row(course, "torch")[0] == state
    assert "10.0, needs >=2.11,<2.16: pip install -r requirements.txt" in _row(course, "torch")[2]


def test_a_package_that_notebooks_import_may_not_be_missing(course, monkeypatch):
    pins = {"no-such-package": "1", "ruff": "2"}
    monkeypatch.setattr(environment, "requirements", lambda: pins)
    monkeypatch.setattr(environment, "_version", lambda _: "")
    state, _, detail = _row(course, "no-such-package")
    assert (state, detail) == (FAIL, "missing, pinned is 1: pip install -r requirements.txt")
    assert _row(course, "ruff")[0] == WARN


def test_a_local_build_tag_is_the_same_version(course, monkeypatch):
    monkeypatch.setattr(environment, "requirements", lambda: {"torch": "2.15.0"})
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda _: "2.15.0+cpu")
    assert _row(course, "torch")[0] == OK


def test_check_fails_on_an_old_python(course, monkeypatch):
    monkeypatch.setattr(environment, "MINIMUM_PYTHON", (9, 9))
    assert _row(course, "Python")[0] == FAIL
    assert "needs 9.9+" in _row(course, "Python")[2]


def test_check_fails_on_a_full_disk(course, monkeypatch):
    monkeypatch.setattr(environment, "DISK_NEEDED", 1e30)
    assert _row(course, "free disk")[0] == FAIL


def test_check_fails_where_nothing_can_be_written(course, monkeypatch):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: mode != os.W_OK)
    state, _, detail = _row(course, "free disk")
    assert state == FAIL
    assert "read-only: set COURSE_HOME to another folder" in detail


def test_main_prints_every_row_and_only_a_failure_is_an_error(monkeypatch, capsys):
    rows = [(OK, "first", "fine"), (WARN, "second", "odd")]
    monkeypatch.setattr(environment, "check", lambda _: rows)
    assert environment.main() == 0
    monkeypatch.setattr(environment, "check", lambda _: [*rows, (FAIL, "third", "advice")])
    assert environment.main() == 1
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split() for line in lines] == [
        ["[OK]", "first", "fine"],
        ["[WARN]", "second", "odd"],
        ["[FAIL]", "third", "advice"],
    ]
