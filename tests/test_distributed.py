"""Several processes that train together, started by torchrun, over gloo."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from utils.settings import PROJECT

# One batch per epoch, so that the history holds the loss of every step. The course's network
# amplifies a difference in rounding many times with each step on so few images, so it is compared
# for two steps at a low learning rate; a smaller one with batch norm is compared over 20 steps, on
# 15 images, which cannot be shared evenly.
CHILD = """
import sys
from pathlib import Path
import torch
from torch import nn
from utils import settings, training
from utils.data import Dataset
torch.set_num_threads(1)
training.bf16_helps = lambda device: False  # float32: rounding is what is compared
folder, ending, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
dataset = Dataset(**torch.load(folder / "data.pt"))

def small():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

jobs = {"small": (15, 20, 0.04, small), "resnet18": (64, 2, 0.001, lambda: None)}
with training.processes_of_torchrun(settings.load()) as config:
    print(f"rank {training.place()}\\n", end="", flush=True)
    for name in names:
        images, epochs, rate, network = jobs[name]
        recipe = training.Recipe(dataset.source, images, epochs, images, peak_lr=rate)
        path = folder / f"{name}-{ending}.pt"
        training.train(dataset, recipe, device=config.device, checkpoint=path, model=network())
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
JOBS = ["small", "resnet18"]


def start(folder, ending, names, launcher=()):
    command = [sys.executable, *launcher, str(folder / "child.py"), str(folder), ending, *names]
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "COURSE_DEVICE": "cpu"}
    environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=PROJECT, env=environ, **pipes)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def read(folder, name, ending):
    return torch.load(folder / f"{name}-{ending}.pt", weights_only=True)


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """Checkpoints that one process wrote, and two."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "child.py").write_text(CHILD)
    few = {f.name: getattr(digits.head(64), f.name) for f in dataclasses.fields(digits)}
    few |= {name: few[name][:8].clone() for name in ("test_images", "test_labels")}
    torch.save(few, folder / "data.pt")
    assert finish(start(folder, "one", JOBS)) == "rank (0, 1)\n"
    output = finish(start(folder, "two", JOBS, TORCHRUN))
    # Both write to one pipe, so that two lines may become one.
    assert "rank (0, 2)" in output and "rank (1, 2)" in output, output
    return folder


@pytest.mark.parametrize(
    ("name", "steps", "tolerance"), [("small", 20, 1e-5), ("resnet18", 2, 2e-4)]
)
def test_two_processes_and_one_give_the_same_losses_and_weights(folder, name, steps, tolerance):
    one, two = read(folder, name, "one"), read(folder, name, "two")
    losses, same = ([row["train_loss"] for row in state["history"]] for state in (one, two))
    assert len(losses) == steps
    assert same == pytest.approx(losses, rel=tolerance)
    assert one.keys() == two.keys()
    assert one["recipe"] == two["recipe"]
    assert list(one["model"]) == list(two["model"])  # no "module." before the names
    for key, value in one["model"].items():
        assert value.stride() == two["model"][key].stride()
        torch.testing.assert_close(two["model"][key], value, rtol=1e-2, atol=1e-3, msg=key)
    assert torch.equal(one["generator"], two["generator"])


def test_two_processes_killed_and_resumed_end_as_undisturbed(folder):
    killed, checkpoint = start(folder, "killed", ["small"], TORCHRUN), folder / "small-killed.pt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
        process.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 1 <= len(read(folder, "small", "killed")["history"]) < 20, "killed too late"
    finish(start(folder, "killed", ["small"], TORCHRUN))
    found, expected = (read(folder, "small", ending) for ending in ("killed", "two"))
    assert len(found["history"]) == 20
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key
