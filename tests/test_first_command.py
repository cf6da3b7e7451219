"""The first command in a fresh clone: full profile, no data, mirrors at which nobody answers."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from utils import data
from utils.settings import PROJECT

# The mirrors' address is the only thing replaced. Everything else is what the command runs.
CHILD = """
import runpy, sys
import torchvision
for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
    kind.mirrors = [sys.argv[1]]
module, *sys.argv[1:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
LOAD = "from utils import data, settings; print(data.load(settings.load()).source)"


@pytest.fixture
def first(tmp_path):
    """Start a child in the full profile, with an empty home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(module, *arguments, **variables):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
        environ |= {"COURSE_HOME": str(tmp_path), "COURSE_DEVICE": "cpu", "no_proxy": "*"}
        command = [sys.executable, "-u", "-c", CHILD, f"http://127.0.0.1:{port}/", module]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=PROJECT,
            env={**environ, "PYTHONPATH": str(PROJECT), "TQDM_DISABLE": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_the_environment_check_says_what_will_be_used(first):
    output, _ = first("utils.environment").communicate(timeout=120)
    assert "Traceback" not in output
    line = next(line for line in output.splitlines() if " data " in line)
    assert line.startswith("[OK]")
    assert line.endswith(f"no network and no MNIST in data/: {data.DIGITS} will be used")


def test_the_environment_check_fails_where_falling_back_is_forbidden(first):
    child = first("utils.environment", COURSE_DATA="mnist")
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "Traceback" not in output
    assert "[FAIL]" in next(line for line in output.splitlines() if " data " in line)
    assert "unset COURSE_DATA" in output


def test_load_falls_back_and_says_so(first, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(LOAD)
    child = first("script", PYTHONPATH=f"{tmp_path}{os.pathsep}{PROJECT}")
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0, output
    note, counts, source = output.splitlines()
    assert note.startswith("NOTE: MNIST is not in data/ and no network answers. Falling back")
    assert "4,000 training and 1,000 test images" in counts
    assert source == data.DIGITS


def test_the_report_starts_on_the_embedded_digits(first, tmp_path):
    """Up to its training; what follows is what .ci/run runs in full."""
    child = first("utils.report", "--output", str(tmp_path / "report"))
    lines = []
    limit = threading.Timer(240, child.kill)
    limit.start()
    try:
        for line in child.stdout:
            lines.append(line)
            if "training" in line and "epochs" in line:
                break
    finally:
        limit.cancel()
        child.kill()
        child.communicate()
    output = "".join(lines)
    assert "Traceback" not in output
    assert "no network answers. Falling back" in output
    assert "epochs on cpu" in lines[-1], output
