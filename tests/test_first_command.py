"""The first command in a fresh clone: full profile, no data, mirrors at which nobody answers."""

import os
import socket
import subprocess
import sys

import pytest

from utils import data
from utils.settings import PROJECT

# The mirrors' address is the only thing replaced. Everything else is what the command runs.
CHILD = """
import sys
import torchvision
for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
    kind.mirrors = [sys.argv[1]]
from utils import data, environment, settings
code = environment.main()
print(data.load(settings.load(), announce=False).source)
sys.exit(code)
"""


@pytest.mark.parametrize("forbidden", [False, True])
def test_without_network_the_digits_are_used_or_the_check_fails(tmp_path, forbidden):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
    environ |= {"COURSE_HOME": str(tmp_path), "COURSE_DEVICE": "cpu", "no_proxy": "*"}
    environ |= {"COURSE_DATA": "mnist"} if forbidden else {}
    command = [sys.executable, "-c", CHILD, address]
    run = subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True)
    line = next(line for line in run.stdout.splitlines() if " data " in line)
    if forbidden:
        assert line.startswith("[FAIL]") and "unset COURSE_DATA" in line
        assert "COURSE_DATA=mnist forbids the embedded digits" in run.stderr
        assert run.returncode == 1
        return
    assert line.startswith("[OK]")
    assert line.endswith(f"no network and no MNIST in data/: {data.DIGITS} will be used")
    note, source = run.stdout.splitlines()[-2:]
    assert note.startswith("NOTE: MNIST is not in data/ and no network answers. Falling back")
    assert (source, run.returncode) == (data.DIGITS, 0)
