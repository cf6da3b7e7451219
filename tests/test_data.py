import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from utils import data
from utils.data import DataError
from utils.files import WriteError
from utils.lab import corruptions
from utils.settings import PROJECT

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture
def closed_address():
    """The address of a port on this machine at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


@pytest.fixture
def archives(course, monkeypatch, closed_address):
    """Four tiny archives in place of MNIST's, and a mirror that does not answer."""
    monkeypatch.setenv("no_proxy", "*")
    folder = course.data_dir / "MNIST" / "raw"
    folder.mkdir(parents=True)
    paths, listed, inside = [], [], {}
    for file, count in zip(FILES, (30, 30, 20, 20), strict=True):
        if "images" in file:
            pixels = bytes((7 * i) % 256 for i in range(count * 28 * 28))
            content = struct.pack(">4i", 2051, count, 28, 28) + pixels
        else:
            content = struct.pack(">2i", 2049, count) + bytes(i % 10 for i in range(count))
        paths.append(folder / f"{file}-ubyte.gz")
        paths[-1].write_bytes(gzip.compress(content))
        listed.append((paths[-1].name, hashlib.md5(paths[-1].read_bytes()).hexdigest()))
        inside[listed[-1][1]] = hashlib.md5(content).hexdigest()
    attributes = {"resources": listed, "mirrors": [closed_address]}
    fake = type("MNIST", (torchvision.datasets.MNIST,), attributes)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    monkeypatch.setattr(data, "UNPACKED", inside)
    return paths


@pytest.fixture
def asked(archives, monkeypatch):
    """Names of the files that were asked of a real server, which comes after a dead one."""
    served = {path.name: path.read_bytes() for path in archives}
    asked = []

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path[1:])
            content = served[self.path[1:]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fake = torchvision.datasets.MNIST
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(fake, "mirrors", [*fake.mirrors, address])
        yield asked
        server.shutdown()


def unpack(archive):
    """Leave only the unpacked file of an archive."""
    unpacked = archive.with_suffix("")
    unpacked.write_bytes(gzip.decompress(archive.read_bytes()))
    archive.unlink()
    return unpacked


def full(course, wanted="auto"):
    return replace(course, profile="full", data=wanted)


# The embedded digits


@pytest.fixture(scope="module")
def harder():
    return data._digits("fashion")


def test_digits_are_split_stratified_shuffled_and_the_same_every_time(digits, harder, course):
    assert digits.train_images.shape == (4000, 1, 28, 28)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    assert len(digits.train_labels[:100].unique()) == 10
    for name, before in (("mnist", digits), ("fashion", harder)):
        again = data.load(course, name, announce=False)
        assert torch.equal(again.train_images, before.train_images)
        assert torch.equal(again.test_labels, before.test_labels)


def test_digits_train_and_test_are_disjoint_and_complete(digits):
    def pictures(images):
        return {bytes(image.flatten().tolist()) for image in images}

    train, test = pictures(digits.train_images), pictures(digits.test_images)
    assert not train & test
    assert len(train) + len(test) == 5000


def test_digits_carry_their_own_labels_and_the_harder_ones_are_not_hopeless(digits, harder):
    """A classifier by nearest class mean is right far more often than chance."""
    assert harder.source == data.HARDER != data.DIGITS and harder.is_fallback
    assert torch.equal(harder.train_labels, digits.train_labels)
    shares = []
    for dataset in (digits, harder):
        images, labels = dataset.train_images.float(), dataset.train_labels
        means = torch.stack([images[labels == d].mean(0) for d in range(10)])
        distance = torch.cdist(dataset.test_images.flatten(1).float(), means.flatten(1))
        shares.append((distance.argmin(1) == dataset.test_labels).double().mean())
    assert shares[0] > 0.7 > shares[1] > 0.2


@pytest.mark.parametrize(
    ("profile", "wanted"), [("quick", "auto"), ("quick", "digits"), ("full", "digits")]
)
def test_when_digits_are_asked_for_no_network_is_needed(
    course, monkeypatch, capsys, profile, wanted
):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    course = replace(course, profile=profile, data=wanted)
    assert data.load(course).source == data.DIGITS
    expected = f"data: {data.DIGITS}; 4,000 training and 1,000 test images\n"
    assert capsys.readouterr().out == expected
    assert data.availability(course) == (True, data.DIGITS)


def test_an_unknown_name(course):
    with pytest.raises(ValueError, match="unknown dataset 'cifar'; known: mnist, fashion, cifar10"):
        data.load(course, "cifar")


# torchvision's files


@pytest.mark.parametrize("number", range(4))
def test_torchvision_files_are_read_packed_or_not_and_damaged_ones_named(
    course, archives, monkeypatch, number
):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    for path in (archives[number], archives[number].with_suffix("")):
        if path.suffix != ".gz":
            unpack(archives[number])
        mnist = data.load(full(course, "mnist"), announce=False)
        assert (mnist.source, mnist.is_fallback) == ("MNIST (torchvision)", False)
        assert mnist.train_images.shape == (30, 1, 28, 28)
        assert mnist.train_images[0, 0, 0, :3].tolist() == [0, 7, 14]
        assert mnist.test_labels.tolist() == [*range(10)] * 2
        assert mnist.classes == tuple("0123456789")
        right = path.read_bytes()
        path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        with pytest.raises(DataError, match=rf"{path.name} in MNIST/raw/ is damaged.*delete it"):
            data.load(full(course))
        path.write_bytes(right)


def test_a_damaged_unpacked_file_beside_its_archive_does_no_harm(course, archives):
    archives[0].with_suffix("").write_bytes(b"half of a fi")
    assert data.load(full(course), announce=False).train_images.shape == (30, 1, 28, 28)


def test_the_table_of_unpacked_files_knows_every_file_of_torchvision():
    kinds = torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST
    assert set(data.UNPACKED) == {md5 for kind in kinds for _, md5 in kind.resources}
    for path in (PROJECT / "data").glob("*MNIST/raw/*.gz"):  # those that are here
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        inside = hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest()
        assert data.UNPACKED[md5] == inside


def test_missing_files_are_downloaded_and_leftovers_cleared(course, archives, asked):
    expected, content = data.load(full(course), announce=False), archives[2].read_bytes()
    for path in archives[2:]:
        path.unlink()
    unpack(archives[1])
    # What a run that was killed while it downloaded has left.
    (archives[2].parent / f"{archives[2].name}.99999999.tmp").write_bytes(b"half of an arch")
    found = data.load(full(course, "mnist"), announce=False)
    assert torch.equal(found.test_images, expected.test_images)
    assert archives[1].name not in asked
    assert archives[2].read_bytes() == content
    assert not list(archives[0].parent.glob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told_and_is_no_fallback(course, archives, asked, monkeypatch):
    fake = torchvision.datasets.MNIST
    monkeypatch.setattr(fake, "mirrors", fake.mirrors[1:])
    archives[2].unlink()
    (archives[2].parent / f"{archives[2].name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"t10k-images.*No space left.*COURSE_HOME"):
        data.load(full(course), announce=False)
    assert not archives[2].exists()
    with pytest.raises(WriteError, match=r"not permitted.* COURSE_HOME"):  # a read-only project
        data.load(replace(full(course), home=Path("/sys/kernel")), announce=False)


# No network


def test_no_network_falls_back_and_says_so_or_is_an_error(course, archives, capsys):
    archives[3].unlink()
    chosen = data.load(full(course), announce=False)
    assert (chosen.source, archives[0].exists()) == (data.DIGITS, True)
    note = f"NOTE: MNIST is not in data/ and no network answers. Falling back to the {data.DIGITS}"
    assert capsys.readouterr().out.startswith(note)
    with pytest.raises(DataError, match=r"COURSE_DATA=mnist forbids.*four \.gz files"):
        data.load(full(course, "mnist"))


def test_a_download_that_breaks_off_falls_back(course, archives, monkeypatch, capsys):
    archives[0].unlink()
    monkeypatch.setattr(data, "_reachable", lambda _: True)  # and then the mirror is gone
    before = socket.getdefaulttimeout()
    assert data.load(full(course), announce=False).is_fallback
    assert f"downloading {archives[0].name} failed" in capsys.readouterr().out
    assert socket.getdefaulttimeout() == before


def test_addresses_that_never_answer_or_resolve_are_given_up(archives, monkeypatch):
    def hang(*_, **__):
        time.sleep(60)
        raise OSError("no such host")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(data, "PROBE_SECONDS", 1)
        start = time.monotonic()
        assert not data._reachable("mnist")
        monkeypatch.setattr(socket, "getaddrinfo", hang)  # looking up has no limit of its own
        assert not data._reachable("mnist")
        assert time.monotonic() - start < 20
    assert data.PROBE_SECONDS + data.DOWNLOAD_SECONDS < 20


@pytest.mark.parametrize(
    ("wanted", "network", "missing", "expected"),
    [
        ("auto", False, False, (True, "present")),
        ("auto", True, True, (True, "downloaded")),  # one of two mirrors is enough
        ("auto", False, True, (True, "embedded")),
        ("mnist", False, True, (False, "unset COURSE_DATA")),
    ],
)
def test_availability(course, archives, asked, monkeypatch, wanted, network, missing, expected):
    if missing:
        archives[0].unlink()
    if not network:
        fake = torchvision.datasets.MNIST
        monkeypatch.setattr(fake, "mirrors", fake.mirrors[:1])
    ok, detail = data.availability(full(course, wanted))
    assert ok == expected[0]
    assert expected[1] in detail


# Dataset and helpers


def test_the_normalizer_is_made_from_the_training_split_alone(digits):
    x = digits.normalizer()(digits.train_images)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-4)
    changed = replace(digits, test_images=255 - digits.test_images)
    assert changed.normalizer() == digits.normalizer()


def test_head_and_to(digits):
    few = digits.head(10).to("meta")
    assert (len(few.train_images), len(few.train_labels), len(few.test_images)) == (10, 10, 1000)
    assert {t.device.type for t in vars(few).values() if isinstance(t, torch.Tensor)} == {"meta"}
    assert torch.equal(digits.head(10).train_images, digits.train_images[:10])


def test_batches_cover_everything_once_and_refuse_what_makes_no_sense():
    x, y = torch.arange(7), torch.arange(7) + 10
    assert [b.tolist() for b in data.batches(x, size=3)] == [[0, 1, 2], [3, 4, 5], [6]]
    pairs = list(data.batches(x, y, size=4))
    assert torch.equal(torch.cat([a for a, _ in pairs]), x)
    assert torch.equal(torch.cat([b for _, b in pairs]), y)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        next(data.batches(x, size=0))
    with pytest.raises(ValueError, match=r"lengths differ: \[7, 2\]"):
        next(data.batches(x, y[:2]))


def test_calibration_images_are_a_fixed_shuffled_part_of_the_training_split(digits):
    chosen = data.calibration_images(digits, 50)
    assert chosen.shape == (50, 1, 28, 28)
    assert chosen.dtype == torch.float32
    assert torch.equal(chosen, data.calibration_images(digits, 50))
    assert not torch.equal(chosen, data.calibration_images(digits, 50, seed=1))
    everything = digits.normalizer()(digits.train_images)
    matches = (chosen.flatten(1)[:, None] == everything.flatten(1)[None]).all(2)
    assert (matches.sum(1) == 1).all()  # each is one training image ...
    assert matches.sum(0).max() == 1  # ... none is drawn twice ...
    assert not matches[:, :50].diagonal().all()  # ... and they are not simply the first
    for count in (0, 4001):
        with pytest.raises(ValueError, match=rf"count={count}: choose 1 to 4,000"):
            data.calibration_images(digits, count)


# Augmentation


@pytest.mark.parametrize(
    ("drawn", "amounts", "expected"),
    [
        # The grid says where a pixel comes from: a positive amount moves the image left and up.
        ((0, 0, 1, 0), (2, 0, 0), lambda x: torch.roll(x, -2, 3)),
        ((0, 0, -1, 0.5), (2, 0, 0), lambda x: torch.roll(x, (-1, 2), (2, 3))),
        ((1, 0, 0, 0), (0, 90, 0), lambda x: torch.rot90(x, 1, (2, 3))),
        ((-1, 0, 0, 0), (0, 90, 0), lambda x: torch.rot90(x, -1, (2, 3))),
        ((0, 1, 0, 0), (0, 0, 0), lambda x: x),
    ],
)
def test_random_affine_shifts_and_rotates(monkeypatch, drawn, amounts, expected):
    cross = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    cross[..., 2:5, 4] = 200  # a bar above the center
    cross[..., 4, 5] = 100  # and a short one to its right
    draws = (torch.tensor(drawn, dtype=torch.float32).view(4, 1) + 1) / 2
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    found = data.random_affine(cross, *amounts)
    torch.testing.assert_close(found, expected(cross).float(), atol=1e-2, rtol=0)


def test_random_affine_changes_the_size_and_fills_with_black(monkeypatch):
    square = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    square[..., 10:18, 10:18] = 1
    for sign, side in ((1, 12), (-1, 4)):
        draws = torch.tensor([[0.5], [0.5 + sign / 2], [0.5], [0.5]])
        monkeypatch.setattr(torch, "rand", lambda *_, draws=draws, **__: draws)
        area = data.random_affine(square, 0, 0, 0.5).sum()  # bilinear edges are soft
        assert area.sqrt().item() == pytest.approx(side, rel=0.05)
        corner = data.random_affine(torch.ones_like(square), 0, 0, 0.5)[0, 0, 0, 0].item()
        assert corner == pytest.approx(1 if sign > 0 else 0, abs=0.01)


def test_random_affine_draws_for_each_image_and_from_its_generator(digits):
    images = digits.train_images[:1].expand(50, -1, -1, -1)
    one, same, other = (
        data.random_affine(images, 2, 10, 0.1, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert len(one.flatten(1).unique(dim=0)) == 50
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 255


# CIFAR-10


def test_cifar10_is_read_from_disk_checked_and_never_downloaded(course, monkeypatch):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    assert not data.has_cifar10(full(course))
    with pytest.raises(DataError, match=r"CIFAR-10 is not in data/.*never downloaded"):
        data.load(full(course), "cifar10")
    folder = course.data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    pixels = torch.arange(10 * 3072).remainder(251).to(torch.uint8).reshape(10, 3072)
    batch = {"data": pixels.numpy(), "labels": list(range(10))}
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(kind, "test_list", [write("test_batch", batch)])
    name, md5 = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(kind, "meta", {"filename": name, "key": "label_names", "md5": md5})
    assert data.has_cifar10(full(course)) and not data.has_cifar10(course)
    dataset = data.load(full(course), "cifar10", announce=False)
    assert dataset.train_images.shape == (10, 3, 32, 32)
    assert torch.equal(dataset.train_images.flatten(1), pixels)
    assert dataset.test_labels.tolist() == list(range(10))
    assert dataset.classes[3] == "class 3" and not dataset.is_fallback
    (folder / "test_batch").write_bytes(b"hello")
    with pytest.raises(DataError, match="damaged"):
        data.load(full(course), "cifar10")


# Shifted test data


@pytest.mark.parametrize("kind", corruptions.SHIFTS)
def test_a_shift_grows_with_its_strength_and_its_seed_decides(digits, kind):
    images = digits.test_images[:200]
    assert torch.equal(corruptions.shift(images, kind, 0), images)
    apart = []
    for strength in corruptions.STRENGTHS:
        found = corruptions.shift(images, kind, strength, seed=1)
        assert (found.dtype, found.shape) == (torch.uint8, images.shape)
        assert torch.equal(found, corruptions.shift(images, kind, strength, seed=1))
        apart.append((found.float() - images.float()).abs().mean().item())
    assert apart == sorted(apart) and apart[0] > 0
    other = corruptions.shift(images, kind, 5, seed=2)
    assert torch.equal(found, other) == (kind in ("inverted from left", "low contrast"))


def test_shifts_by_hand():
    images = torch.tensor([[0, 100, 200, 250, 10]], dtype=torch.uint8).expand(1, 1, 5, 5)
    for kind, strength, expected in (
        ("inverted from left", 2, [255, 155, 200, 250, 10]),
        ("inverted from left", 5, [255, 155, 55, 5, 245]),
        ("low contrast", 5, [101, 111, 121, 126, 102]),  # a tenth is left, mean 112
    ):
        assert corruptions.shift(images, kind, strength)[0, 0, 0].tolist() == expected
    assert images[0, 0, 0, 0] == 0  # not changed
    grey = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    noise = corruptions.shift(grey, "noisy", 1).float() - 128
    assert noise.std().item() == pytest.approx(25, rel=0.03)
    point = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    point[:, 0, 4, 14] = 255  # above the center: counterclockwise is left of it, then below it
    turned = data.rotate(point, torch.tensor([90.0, 180.0]))
    assert turned.nonzero().tolist() == [[0, 0, 13, 4], [1, 0, 23, 13]]


@pytest.mark.parametrize(("kind", "strength"), [("blurred", 1), ("noisy", 6), ("noisy", -1)])
def test_unknown_shifts(digits, kind, strength):
    with pytest.raises(ValueError, match=f"kind '{kind}', strength {strength}: known are rotated"):
        corruptions.shift(digits.test_images, kind, strength)
