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

from utils import data, settings
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
    paths, listed = [], []
    for file, count in zip(FILES, (30, 30, 20, 20), strict=True):
        if "images" in file:
            content = struct.pack(">4i", 2051, count, 28, 28) + bytes(
                (7 * i) % 256 for i in range(count * 28 * 28)
            )
        else:
            content = struct.pack(">2i", 2049, count) + bytes(i % 10 for i in range(count))
        path = folder / f"{file}-ubyte.gz"
        path.write_bytes(gzip.compress(content))
        paths.append(path)
        listed.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    fake = type(
        "MNIST",
        (torchvision.datasets.MNIST,),
        {"resources": listed, "mirrors": [closed_address]},
    )
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    inside = {
        md5: hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest()
        for path, (_, md5) in zip(paths, listed, strict=True)
    }
    monkeypatch.setattr(data, "UNPACKED", inside)
    return paths


def unpack(archive):
    """Leave only the unpacked file of an archive."""
    unpacked = archive.with_suffix("")
    unpacked.write_bytes(gzip.decompress(archive.read_bytes()))
    archive.unlink()
    return unpacked


def full(course, wanted="auto"):
    return replace(course, profile="full", data=wanted)


# The embedded digits


def test_digits_are_split_stratified(digits):
    assert digits.train_images.shape == (4000, 1, 28, 28)
    assert digits.test_images.shape == (1000, 1, 28, 28)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10


def test_digits_train_and_test_are_disjoint_and_complete(digits):
    def pictures(images):
        return {bytes(image.flatten().tolist()) for image in images}

    train, test = pictures(digits.train_images), pictures(digits.test_images)
    assert not train & test
    assert len(train) + len(test) == 5000


def test_digits_are_shuffled_and_the_same_every_time(digits, course):
    assert len(digits.train_labels[:100].unique()) == 10
    again = data.load(course, announce=False)
    assert torch.equal(again.train_images, digits.train_images)
    assert torch.equal(again.test_labels, digits.test_labels)


def test_digits_carry_their_own_labels(digits):
    """A classifier by nearest class mean is right far more often than chance."""
    means = torch.stack(
        [digits.train_images[digits.train_labels == d].float().mean(0) for d in range(10)]
    )
    distance = torch.cdist(digits.test_images.flatten(1).float(), means.flatten(1))
    assert (distance.argmin(1) == digits.test_labels).double().mean() > 0.7


@pytest.mark.parametrize(
    ("profile", "wanted"), [("quick", "auto"), ("quick", "digits"), ("full", "digits")]
)
def test_when_digits_are_asked_for_no_network_is_needed(course, monkeypatch, profile, wanted):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    chosen = data.load(replace(course, profile=profile, data=wanted), announce=False)
    assert chosen.is_fallback
    assert chosen.source == data.DIGITS


def test_load_says_where_the_data_came_from(course, capsys):
    data.load(course)
    out = capsys.readouterr().out
    assert data.DIGITS in out
    assert "4,000 training and 1,000 test" in out


def test_an_unknown_name(course):
    with pytest.raises(ValueError, match="unknown dataset 'cifar'; known: mnist, fashion, cifar10"):
        data.load(course, "cifar")


# torchvision's files


def test_torchvision_files_are_read_without_a_network(course, archives, monkeypatch):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    mnist = data.load(full(course, "mnist"), announce=False)
    assert mnist.source == "MNIST (torchvision)"
    assert not mnist.is_fallback
    assert mnist.train_images.shape == (30, 1, 28, 28)
    assert mnist.test_images.shape == (20, 1, 28, 28)
    assert mnist.train_images[0, 0, 0, :3].tolist() == [0, 7, 14]
    assert mnist.test_labels.tolist() == [*range(10)] * 2
    assert mnist.classes == tuple("0123456789")


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_archive_is_named(course, archives, number):
    content = bytearray(archives[number].read_bytes())
    content[-1] ^= 1
    archives[number].write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{archives[number].name} in MNIST/raw/ is damaged.*delete it"
    ):
        data.load(full(course))


@pytest.mark.parametrize("number", range(4))
def test_unpacked_files_are_checked_when_their_archive_is_absent(course, archives, number):
    expected = data.load(full(course), announce=False)
    unpacked = unpack(archives[number])
    found = data.load(full(course), announce=False)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(found, field), getattr(expected, field))
    content = bytearray(unpacked.read_bytes())
    content[-1] ^= 1
    unpacked.write_bytes(content)
    with pytest.raises(DataError, match=rf"{unpacked.name} in MNIST/raw/ is damaged.*delete it"):
        data.load(full(course))


def test_a_damaged_unpacked_file_beside_its_archive_does_no_harm(course, archives):
    archives[0].with_suffix("").write_bytes(b"half of a fi")
    assert data.load(full(course), announce=False).train_images.shape == (30, 1, 28, 28)


def test_the_table_of_unpacked_files_knows_every_file_of_torchvision():
    kinds = torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST
    assert set(data.UNPACKED) == {md5 for kind in kinds for _, md5 in kind.resources}
    assert len(set(data.UNPACKED.values())) == len(data.UNPACKED)


@pytest.mark.skipif(
    not (PROJECT / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists(),
    reason="MNIST is not in data/",
)
@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_real_files_unpacked_are_what_the_table_says(tmp_path, name):
    for path, md5 in data._archives(settings.load({}), name):
        assert hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() == data.UNPACKED[md5]


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


def test_half_of_the_files_are_completed_by_downloading_the_others(course, archives, asked):
    expected, content = data.load(full(course), announce=False), archives[2].read_bytes()
    for path in archives[2:]:
        path.unlink()
    unpack(archives[1])
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
    with pytest.raises(WriteError, match=r"t10k-images.*the disk is full.*COURSE_HOME"):
        data.load(full(course), announce=False)
    assert not archives[2].exists()


def test_a_run_killed_while_downloading_leaves_no_half_archive(course, archives, asked):
    """What it leaves is a temporary file, which is neither read nor in the way."""
    archives[2].unlink()
    (archives[2].parent / f"{archives[2].name}.99999999.tmp").write_bytes(b"half of an arch")
    assert not data.load(full(course), announce=False).is_fallback
    assert not list(archives[2].parent.glob("*.tmp"))


def test_half_of_the_files_and_no_network_falls_back(course, archives, capsys):
    archives[3].unlink()
    assert data.load(full(course), announce=False).is_fallback
    assert "MNIST is not in data/ and no network answers" in capsys.readouterr().out
    assert archives[0].exists()


def test_a_read_only_project_without_data_is_told(course, archives, monkeypatch):
    monkeypatch.setattr(data, "_reachable", lambda _: True)
    with pytest.raises(WriteError, match=r"may not be written to.* COURSE_HOME"):
        data.load(replace(full(course), home=Path("/sys/kernel")), announce=False)


# No network


def test_no_network_falls_back_and_says_so(course, archives, monkeypatch, capsys):
    archives[0].unlink()
    monkeypatch.setattr(data, "_reachable", lambda _: False)
    chosen = data.load(full(course), announce=False)
    assert chosen.is_fallback
    out = capsys.readouterr().out
    assert out.startswith("NOTE: ")
    assert "no network" in out
    assert data.DIGITS in out


def test_no_network_is_an_error_if_falling_back_is_forbidden(course, archives, monkeypatch):
    archives[0].unlink()
    monkeypatch.setattr(data, "_reachable", lambda _: False)
    with pytest.raises(DataError, match=r"COURSE_DATA=mnist forbids.*four \.gz files"):
        data.load(full(course, "mnist"))


def test_a_download_that_breaks_off_falls_back(course, archives, monkeypatch, capsys):
    archives[0].unlink()
    monkeypatch.setattr(data, "_reachable", lambda _: True)  # and then the mirror is gone
    before = socket.getdefaulttimeout()
    assert data.load(full(course), announce=False).is_fallback
    assert f"downloading {archives[0].name} failed" in capsys.readouterr().out
    assert socket.getdefaulttimeout() == before


def test_giving_up_takes_less_than_twenty_seconds_in_all():
    assert data.PROBE_SECONDS + data.DOWNLOAD_SECONDS < 20


def mirrors(*addresses):
    return type("Kind", (), {"mirrors": list(addresses), "resources": [("file.gz", "")]})


def test_closed_and_unresolvable_addresses_are_not_reachable(monkeypatch, closed_address):
    monkeypatch.setenv("no_proxy", "*")
    start = time.monotonic()
    assert not data._reachable(mirrors(closed_address, "http://no-such-host.invalid/"))
    assert time.monotonic() - start < 20


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(data, "PROBE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.monotonic()
        assert not data._reachable(mirrors(address))
        assert time.monotonic() - start < 20


@pytest.fixture
def answering(monkeypatch):
    """The address of a server that answers with one byte."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_one_answering_mirror_is_enough(answering, closed_address):
    assert data._reachable(mirrors(closed_address, answering))


def test_names_that_are_never_resolved_do_not_hold_up_the_fallback(course, archives, monkeypatch):
    """A network whose DNS hangs: looking up a name has no time limit of its own."""
    archives[0].unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://mirror.invalid/"])

    def hang(*_, **__):
        time.sleep(60)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(data, "PROBE_SECONDS", 1)
    start = time.monotonic()
    assert data.load(full(course), announce=False).is_fallback
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("wanted", "present", "network", "expected"),
    [
        ("digits", False, False, (True, "embedded")),
        ("auto", True, False, (True, "present")),
        ("auto", False, True, (True, "downloaded")),
        ("auto", False, False, (True, "embedded")),
        ("mnist", False, False, (False, "COURSE_DATA")),
    ],
)
def test_availability(course, archives, answering, monkeypatch, wanted, present, network, expected):
    if not present:
        archives[0].unlink()
    if network:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [answering])
    ok, detail = data.availability(full(course, wanted))
    assert ok == expected[0]
    assert expected[1] in detail


def test_availability_of_the_quick_profile(course):
    assert data.availability(course) == (True, data.DIGITS)


# Dataset and helpers


def test_normalizing_the_training_split_gives_mean_0_and_deviation_1(digits):
    x = digits.normalizer()(digits.train_images)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-4)


def test_normalizer_by_hand():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert data.Normalizer(0.5, 0.25)(pixels).flatten().tolist() == [-2, 2]


def test_the_constants_ignore_the_test_split(digits):
    changed = replace(digits, test_images=255 - digits.test_images)
    assert changed.normalizer() == digits.normalizer()


def test_head_and_to(digits):
    few = digits.head(10)
    assert torch.equal(few.train_images, digits.train_images[:10])
    assert torch.equal(few.train_labels, digits.train_labels[:10])
    assert len(few.test_images) == 1000
    moved = few.to("meta")
    assert {t.device.type for t in vars(moved).values() if isinstance(t, torch.Tensor)} == {"meta"}


def test_batches_cover_everything_once():
    x, y = torch.arange(7), torch.arange(7) + 10
    assert [b.tolist() for b in data.batches(x, size=3)] == [[0, 1, 2], [3, 4, 5], [6]]
    pairs = list(data.batches(x, y, size=4))
    assert torch.equal(torch.cat([a for a, _ in pairs]), x)
    assert torch.equal(torch.cat([b for _, b in pairs]), y)


def test_batches_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        next(data.batches(torch.zeros(3), size=0))
    with pytest.raises(ValueError, match=r"lengths differ: \[3, 2\]"):
        next(data.batches(torch.zeros(3), torch.zeros(2)))


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


@pytest.mark.parametrize("count", [0, -1, 4001])
def test_calibration_images_needs_a_possible_count(digits, count):
    with pytest.raises(ValueError, match=rf"count={count}: choose 1 to 4,000"):
        data.calibration_images(digits, count)


# Augmentation


@pytest.fixture
def cross():
    """A vertical bar above the center of a 9x9 image and a short one to its right."""
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[..., 2:5, 4] = 200
    image[..., 4, 5] = 100
    return image


def draws(monkeypatch, *values):
    """Let the next draw of angle, size, right and down be these, from -1 to 1."""
    drawn = (torch.tensor(values, dtype=torch.float32).view(4, 1) + 1) / 2
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)


def test_random_affine_by_nothing(digits):
    images = digits.train_images[:20]
    found = data.random_affine(images, 0, 0, 0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, images.float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (-1, 0.5)])
def test_random_affine_shifts_by_whole_pixels(cross, monkeypatch, right, down):
    draws(monkeypatch, 0, 0, right, down)
    found = data.random_affine(cross, 2, 0, 0)
    # The grid says where a pixel comes from: a positive amount moves the image left and up.
    expected = torch.roll(cross, (int(-2 * down), int(-2 * right)), dims=(2, 3)).float()
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_random_affine_fills_with_black_from_outside(monkeypatch):
    draws(monkeypatch, 0, 0, 1, 0)
    found = data.random_affine(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), 1, 0, 0)
    assert found[0, 0, 0].tolist() == pytest.approx([255, 255, 255, 0], abs=0.1)


@pytest.mark.parametrize(("side", "turns"), [(1, 1), (-1, -1)])
def test_random_affine_rotates_by_a_quarter_turn(cross, monkeypatch, side, turns):
    draws(monkeypatch, side, 0, 0, 0)
    found = data.random_affine(cross, 0, 90, 0)
    expected = torch.rot90(cross, turns, dims=(2, 3)).float()
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_random_affine_changes_the_size(monkeypatch):
    square = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    square[..., 10:18, 10:18] = 1
    for sign, side in ((1, 12), (-1, 4)):
        draws(monkeypatch, 0, sign, 0, 0)
        found = data.random_affine(square, 0, 0, 0.5)
        # Bilinear edges are soft: the area tells the size.
        assert found.sum().sqrt().item() == pytest.approx(side, rel=0.05)


def test_random_affine_draws_for_each_image_and_from_its_generator(digits):
    images = digits.train_images[:1].expand(50, -1, -1, -1)

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return data.random_affine(images, 2, 10, 0.1, generator)

    first = drawn(1)
    assert len(first.flatten(1).unique(dim=0)) == 50
    assert torch.equal(first, drawn(1))
    assert not torch.equal(first, drawn(2))
    assert first.min() >= 0
    assert first.max() <= 255


# Harder digits


@pytest.fixture(scope="module")
def harder():
    environ = {"COURSE_PROFILE": "quick", "COURSE_DATA": "digits", "COURSE_DEVICE": "cpu"}
    return data.load(settings.load(environ), "fashion", announce=False)


def test_harder_digits_say_so_and_keep_their_labels(harder, digits):
    assert harder.source == data.HARDER != data.DIGITS
    assert harder.is_fallback
    assert torch.equal(harder.train_labels, digits.train_labels)
    assert harder.train_images.shape == digits.train_images.shape
    assert harder.train_images.dtype == torch.uint8
    assert not torch.equal(harder.test_images, digits.test_images)


def test_harder_digits_are_the_same_every_time(harder, course):
    again = data.load(course, "fashion", announce=False)
    assert torch.equal(again.train_images, harder.train_images)
    assert torch.equal(again.test_images, harder.test_images)


def test_harder_digits_are_harder_but_not_hopeless(harder):
    """A classifier by nearest class mean: better than chance, far worse than on plain digits."""
    means = torch.stack(
        [harder.train_images[harder.train_labels == d].float().mean(0) for d in range(10)]
    )
    distance = torch.cdist(harder.test_images.flatten(1).float(), means.flatten(1))
    share = (distance.argmin(1) == harder.test_labels).double().mean()
    assert 0.2 < share < 0.7


# CIFAR-10


@pytest.fixture
def cifar(course, monkeypatch):
    """Ten tiny pictures in CIFAR-10's format, with checksums to match."""
    folder = course.data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    classes = [f"class {i}" for i in range(10)]

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    pixels = torch.arange(10 * 3072).remainder(251).to(torch.uint8).reshape(10, 3072).numpy()
    batch = {"data": pixels, "labels": list(range(10))}
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(kind, "test_list", [write("test_batch", batch)])
    name, md5 = write("batches.meta", {"label_names": classes})
    meta = {"filename": name, "key": "label_names", "md5": md5}
    monkeypatch.setattr(kind, "meta", meta)
    return pixels


def test_cifar10_is_read_from_disk(course, cifar):
    dataset = data.load(full(course), "cifar10", announce=False)
    assert dataset.source == "CIFAR-10 (torchvision)"
    assert dataset.train_images.shape == (10, 3, 32, 32)
    assert dataset.train_images.flatten(1).tolist() == cifar.tolist()
    assert dataset.test_labels.tolist() == list(range(10))
    assert dataset.classes[3] == "class 3"
    assert not dataset.is_fallback


def test_cifar10_is_an_option_of_the_full_profile(course, cifar):
    assert data.has_cifar10(full(course))
    assert not data.has_cifar10(course)


def test_cifar10_is_never_downloaded(course, monkeypatch):
    monkeypatch.setattr(data, "_reachable", lambda _: pytest.fail("network"))
    assert not data.has_cifar10(full(course))
    with pytest.raises(DataError, match=r"CIFAR-10 is not in data/.*never downloaded"):
        data.load(full(course), "cifar10")


def test_a_damaged_cifar10_is_an_error(course, cifar):
    (course.data_dir / "cifar-10-batches-py" / "test_batch").write_bytes(b"hello")
    with pytest.raises(DataError, match="damaged"):
        data.load(full(course), "cifar10")


# Shifted test data


@pytest.mark.parametrize("kind", corruptions.SHIFTS)
def test_a_shift_grows_with_its_strength(digits, kind):
    images = digits.test_images[:200]
    assert torch.equal(corruptions.shift(images, kind, 0), images)
    apart = []
    for strength in corruptions.STRENGTHS:
        found = corruptions.shift(images, kind, strength, seed=1)
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
        assert torch.equal(found, corruptions.shift(images, kind, strength, seed=1))
        apart.append((found.float() - images.float()).abs().mean().item())
    assert apart == sorted(apart)
    assert apart[0] > 0


@pytest.mark.parametrize("kind", ["rotated", "noisy"])
def test_the_seed_decides_what_is_random(digits, kind):
    images = digits.test_images[:20]
    one, other = (corruptions.shift(images, kind, 3, seed) for seed in (1, 2))
    assert not torch.equal(one, other)


def test_shifts_by_hand():
    images = torch.tensor([[0, 100, 200, 250, 10]], dtype=torch.uint8).expand(1, 1, 5, 5)
    inverted = corruptions.shift(images, "inverted", 2)
    assert inverted[0, 0, 0].tolist() == [255, 155, 200, 250, 10]
    assert images[0, 0, 0, 0] == 0  # not changed
    assert corruptions.shift(images, "inverted", 5)[0, 0, 0].tolist() == [255, 155, 55, 5, 245]
    lowered = corruptions.shift(images, "low contrast", 5)  # a tenth is left, mean 112
    assert lowered[0, 0, 0].tolist() == [101, 111, 121, 126, 102]


def test_noise_has_the_deviation_it_says():
    grey = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    noise = corruptions.shift(grey, "noisy", 1).float() - 128
    assert noise.std().item() == pytest.approx(25, rel=0.03)


def test_rotation_is_counterclockwise_about_the_center():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 4, 14] = 255  # above the center
    turned = data.rotate(images, torch.tensor([90.0, 180.0]))
    assert turned[0].nonzero().tolist() == [[0, 13, 4]]  # left of it
    assert turned[1].nonzero().tolist() == [[0, 23, 13]]  # below it
    assert torch.equal(data.rotate(images, torch.zeros(2)), images)


@pytest.mark.parametrize(("kind", "strength"), [("blurred", 1), ("noisy", 6), ("noisy", -1)])
def test_unknown_shifts(digits, kind, strength):
    with pytest.raises(ValueError, match=f"kind '{kind}', strength {strength}: known are rotated"):
        corruptions.shift(digits.test_images, kind, strength)
