import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import settings
from utils.settings import PROJECT, SettingsError


def test_defaults(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    chosen = settings.load({})
    assert (chosen.profile, chosen.data, chosen.device, chosen.seed) == ("full", "auto", "cpu", 0)
    assert chosen.home == PROJECT
    assert not chosen.quick


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    monkeypatch.setenv("COURSE_SEED", "7")
    chosen = settings.load()
    assert chosen.quick
    assert chosen.seed == 7


def test_an_empty_variable_means_the_default():
    assert settings.load({"COURSE_PROFILE": "", "COURSE_SEED": ""}).profile == "full"


def test_folders_follow_home_and_profile(tmp_path):
    chosen = settings.load({"COURSE_HOME": str(tmp_path), "COURSE_PROFILE": "quick"})
    home = tmp_path.resolve()
    assert chosen.data_dir == home / "data"
    assert chosen.artifacts_dir == home / "artifacts" / "quick"
    assert chosen.results_dir == home / "artifacts" / "quick" / "results"
    elsewhere = settings.load({"COURSE_RESULTS": str(tmp_path / "r")})
    assert elsewhere.results_dir == home / "r"


def test_quick_does_less_than_full():
    quick, full = settings.load({"COURSE_PROFILE": "quick"}), settings.load({})
    assert quick.calibration_images < full.calibration_images
    assert quick.timing_rounds < full.timing_rounds
    assert quick.artifacts_dir != full.artifacts_dir


@pytest.mark.parametrize("name", settings.CHOICES)
def test_an_unknown_value_is_answered_with_the_allowed_ones(name):
    with pytest.raises(SettingsError) as error:
        settings.load({name: "nonsense"})
    assert name in str(error.value)
    assert "'nonsense'" in str(error.value)
    assert all(value in str(error.value) for value in settings.CHOICES[name])


def test_home_is_a_folder_there_or_to_be_made(tmp_path):
    assert settings.load({"COURSE_HOME": str(tmp_path / "new")}).home == tmp_path.resolve() / "new"
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="COURSE_HOME='file' is a file"):
        settings.load({"COURSE_HOME": str(tmp_path / "file")})


@pytest.mark.parametrize("seed", ["-1", "1.5", "one"])
def test_the_seed_is_a_whole_number(seed):
    with pytest.raises(SettingsError, match="whole number"):
        settings.load({"COURSE_SEED": seed})


def test_a_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"'cuda' is not available here.*cpu"):
        settings.load({"COURSE_DEVICE": "cuda"})


def test_auto_prefers_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settings.load({}).device == "cuda"
    assert settings.load({"COURSE_DEVICE": "cpu"}).device == "cpu"


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        settings.load({}).home = Path()


def test_seed_everything_seeds_all_three_generators():
    def draw(seed):
        settings.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    first, again, other = draw(3), draw(3), draw(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another OpenMP")
@pytest.mark.parametrize(("wanted", "spins"), [("", "'10000'"), ("777", "'777'")])
def test_waiting_threads_spin_briefly_unless_asked_otherwise(wanted, spins):
    unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    environ = {k: v for k, v in os.environ.items() if k not in unset}
    environ |= {"OMP_DISPLAY_ENV": "verbose"} | ({"GOMP_SPINCOUNT": wanted} if wanted else {})
    command = [sys.executable, "-c", "import utils.settings"]
    run = subprocess.run(command, cwd=PROJECT, env=environ, stderr=subprocess.PIPE, text=True)
    said = [line for line in run.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert said
    assert all(spins in line for line in said), said
