"""What a run of the course is: profile, data, device, seed and folders, from the environment.

==================  ==========================================  =======
variable            values                                      default
==================  ==========================================  =======
``COURSE_PROFILE``  ``full``, ``quick``                         full
``COURSE_DATA``     ``auto``, ``mnist``, ``digits``             auto
``COURSE_DEVICE``   ``auto``, ``cpu``, ``cuda``, ``mps``        auto
``COURSE_SEED``     a whole number below 2**32                  0
``COURSE_HOME``     the folder that holds data/ and artifacts/  project
``COURSE_RESULTS``  the folder that results are written to      below artifacts/
``COURSE_WIDGETS``  ``auto``, ``on``, ``off``                   auto
==================  ==========================================  =======
"""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parents[1]
CHOICES = {
    "COURSE_PROFILE": ("full", "quick"),
    "COURSE_DATA": ("auto", "mnist", "digits"),
    "COURSE_DEVICE": ("auto", "cpu", "cuda", "mps"),
    "COURSE_WIDGETS": ("auto", "on", "off"),
}
# One of these is set in a kernel whose notebook is open in JupyterLab, VS Code or Colab.
FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_JUPYTER_IP")


class SettingsError(ValueError):
    """A ``COURSE_*`` variable has a value that the course does not know."""


@dataclass(frozen=True)
class Settings:
    """One run's settings; everything that differs between quick and full is decided here.

    The data "auto" is MNIST in the full profile if it can be had, else the embedded digits; "mnist"
    makes falling back an error. The device is for training: int8 always runs on the CPU. A notebook
    shows widgets if it is live: a person has it open, and no program executes it.
    """

    profile: str
    data: str
    device: str
    seed: int
    home: Path
    results_dir: Path
    live: bool

    @property
    def quick(self) -> bool:
        """Whether this is the small profile that the tests use."""
        return self.profile == "quick"

    @property
    def data_dir(self) -> Path:
        """Where the data sets are kept."""
        return self.home / "data"

    @property
    def artifacts_dir(self) -> Path:
        """Where the checkpoints and int8 models of this profile are kept."""
        return self.home / "artifacts" / self.profile

    @property
    def calibration_images(self) -> int:
        """Number of training images that the observers see."""
        return 128 if self.quick else 512

    @property
    def timing_rounds(self) -> int:
        """Interleaved rounds of a latency measurement."""
        return 5 if self.quick else 30

    @property
    def timing_batches(self) -> tuple[int, ...]:
        """Batch sizes of the CPU benchmark."""
        return (1, 64) if self.quick else (1, 8, 64, 256)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from ``environ``, by default ``os.environ``.

    Raises SettingsError for an unknown value, naming the allowed ones; for a device that this
    machine lacks; for a home that is a file.
    """
    environ = os.environ if environ is None else environ
    chosen = {}
    for name, allowed in CHOICES.items():
        chosen[name] = environ.get(name) or allowed[0]
        if chosen[name] not in allowed:
            raise SettingsError(
                f"{name}={chosen[name]!r} is unknown; allowed: {', '.join(allowed)}"
            )
    profile, data, wanted, widgets = chosen.values()
    live = any(name in environ for name in FRONT_ENDS) if widgets == "auto" else widgets == "on"
    gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available = [name for name, there in gpus.items() if there] + ["cpu"]
    device = available[0] if wanted == "auto" else wanted
    if device not in available:
        raise SettingsError(
            f"COURSE_DEVICE={wanted!r} is not available here; this machine has: "
            f"{', '.join(available)}. Unset COURSE_DEVICE to let the course choose."
        )
    seed = environ.get("COURSE_SEED") or "0"
    if not seed.isdecimal() or int(seed) >= 2**32:
        raise SettingsError(f"COURSE_SEED={seed!r} must be a whole number from 0 to {2**32 - 1}")
    home = Path(environ.get("COURSE_HOME") or PROJECT).resolve()
    if home.exists() and not home.is_dir():
        raise SettingsError(f"COURSE_HOME={home.name!r} is a file; it must be a folder")
    results = Path(environ.get("COURSE_RESULTS") or home / "artifacts" / profile / "results")
    return Settings(profile, data, device, int(seed), home, results.resolve(), live)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch: the one place where the course does so."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries still draw from the global generator
    torch.manual_seed(seed)
