import datetime
import json

import cpuinfo
import pytest
import torch

from utils import environment


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
    assert environment.cpu() == {"model": "A CPU", "instruction_sets": sets}


def test_cpu_names_arm_extensions(fake_cpu):
    fake_cpu(flags=["asimddp", "i8mm"])
    assert environment.cpu()["instruction_sets"] == ["arm_dotprod", "arm_i8mm"]


def test_an_apple_cpu_has_dotprod(fake_cpu, monkeypatch):
    fake_cpu(brand_raw="Apple M1")
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert environment.cpu()["instruction_sets"] == ["arm_dotprod"]


def test_describe_fits_into_json_and_names_the_run(course):
    record = environment.describe(course, "some digits")
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__
    assert record["data_source"] == "some digits"
    assert (record["profile"], record["seed"], record["device"]) == ("quick", 0, "cpu")
    assert record["threads"] == torch.get_num_threads()
    assert record["date"] == datetime.date.today().isoformat()
    keys = {"python", "torchvision", "system", "cpu", "instruction_sets", "cores", "gpu"}
    assert keys <= record.keys()


def test_requirements_reads_the_pins(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("# a line\ntorch==1.2.3  # why\nnot-a-pin\n-e .\n")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    assert environment.requirements() == {"torch": "1.2.3"}


def test_check_has_a_row_for_everything_needed(course):
    rows = {what: (ok, detail) for ok, what, detail in environment.check(course)}
    assert rows.keys() >= {"Python", "int8 engines", "free disk", "data", "CPU", "GPU"}
    assert rows.keys() >= environment.requirements().keys()
    assert rows["data"][0]


def _row(course, what):
    return next(row for row in environment.check(course) if row[1] == what)


def test_check_tells_how_to_mend_a_package(course, monkeypatch):
    pins = {"torch": "0.1", "no-such-package": "1"}
    monkeypatch.setattr(environment, "requirements", lambda: pins)
    ok, _, detail = _row(course, "torch")
    assert not ok
    assert "needs 0.1: pip install -r requirements.txt" in detail
    ok, _, detail = _row(course, "no-such-package")
    assert not ok
    assert detail.startswith("missing")


def test_a_local_build_tag_is_the_same_version(course, monkeypatch):
    monkeypatch.setattr(environment, "requirements", lambda: {"torch": "2.15.0"})
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda _: "2.15.0+cpu")
    assert _row(course, "torch")[0]


def test_check_fails_on_an_old_python(course, monkeypatch):
    monkeypatch.setattr(environment, "MINIMUM_PYTHON", (9, 9))
    assert not _row(course, "Python")[0]
    assert "needs 9.9+" in _row(course, "Python")[2]


def test_check_fails_on_a_full_disk(course, monkeypatch):
    monkeypatch.setattr(environment, "DISK_NEEDED", 1e30)
    assert not _row(course, "free disk")[0]


@pytest.mark.parametrize(("ok", "code", "tag"), [(True, 0, "[OK]"), (False, 1, "[FAIL]")])
def test_main_prints_every_row_and_returns_the_exit_code(ok, code, tag, monkeypatch, capsys):
    rows = [(True, "first", "fine"), (ok, "second", "advice")]
    monkeypatch.setattr(environment, "check", lambda _: rows)
    assert environment.main() == code
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["[OK]", "first", "fine"]
    assert second.split() == [tag, "second", "advice"]
