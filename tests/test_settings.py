import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import settings
from utils.settings import PROJECT, SettingsError


def test_defaults_and_what_replaces_them(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for environ in ({}, {"COURSE_PROFILE": "", "COURSE_SEED": ""}):
        s = settings.load(environ)
        assert (s.profile, s.data, s.device, s.seed, s.home) == ("full", "auto", "cpu", 0, PROJECT)
        assert not s.quick
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    monkeypatch.setenv("COURSE_SEED", "7")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "new"))
    s = settings.load()
    assert s.quick and s.seed == 7
    assert s.data_dir == tmp_path.resolve() / "new" / "data"
    assert s.artifacts_dir == tmp_path.resolve() / "new" / "artifacts" / "quick"
    assert s.results_dir == s.artifacts_dir / "results"
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "r"))
    assert settings.load().results_dir == tmp_path.resolve() / "r"


@pytest.mark.parametrize("name", settings.CHOICES)
def test_an_unknown_value_is_answered_with_the_allowed_ones(name):
    with pytest.raises(SettingsError) as error:
        settings.load({name: "nonsense"})
    for part in (name, "'nonsense'", *settings.CHOICES[name]):
        assert part in str(error.value)


def test_a_notebook_is_live_where_a_person_has_it_open_and_the_choice_overrides_that():
    open_in_lab = {"JPY_SESSION_NAME": "03.ipynb"}
    assert settings.load(open_in_lab).live and not settings.load({}).live
    assert not settings.load(open_in_lab | {"COURSE_WIDGETS": "off"}).live
    assert settings.load({"COURSE_WIDGETS": "on"}).live


@pytest.mark.parametrize("seed", ["-1", "1.5", "one", str(2**32)])
def test_the_seed_is_a_whole_number(seed):
    with pytest.raises(SettingsError, match="whole number"):
        settings.load({"COURSE_SEED": seed})


def test_home_may_not_be_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="COURSE_HOME='file' is a file"):
        settings.load({"COURSE_HOME": str(tmp_path / "file")})


def test_auto_prefers_the_gpu_and_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settings.load({}).device == "cuda"
    assert settings.load({"COURSE_DEVICE": "cpu"}).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"'cuda' is not available here.*cpu"):
        settings.load({"COURSE_DEVICE": "cuda"})


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
    assert said and all(spins in line for line in said), said
