import copy
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils import data, files, training
from utils.files import WriteError
from utils.models import ResNet18
from utils.settings import PROJECT, SettingsError
from utils.training import CheckpointError, Recipe


@pytest.fixture(scope="module")
def few(digits):
    """256 digits to train, 64 to test."""
    few = digits.head(256)
    changes = {"test_images": few.test_images[:64], "test_labels": few.test_labels[:64]}
    return dataclasses.replace(few, **changes)


@pytest.fixture
def recipe(few):
    return Recipe(few.source, train_images=256, epochs=2, batch_size=64)


def tiny():
    """A network that trains in no time, always from the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(676, 10)
    )


def same(one, other):
    """Whether two state_dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def write(dataset, path):
    """Save a dataset for another process."""
    torch.save({f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset)}, path)


# Killed and resumed, in real processes

CHILD = """
import sys
from pathlib import Path
import torch
from utils.data import Dataset
from utils.training import Recipe, train
torch.set_num_threads(1)
folder = Path(sys.argv[1])
dataset = Dataset(**torch.load(folder / "data.pt"))
recipe = Recipe(dataset.source, 256, epochs=4, batch_size=64)
model, history = train(dataset, recipe, checkpoint=folder / sys.argv[2])
torch.save((model.state_dict(), history["epoch"].tolist()), folder / sys.argv[3])
"""


def start(folder, checkpoint, weights):
    """Train in another process; ``weights`` is written at the very end."""
    command = [sys.executable, "-c", CHILD, str(folder), checkpoint, weights]
    return subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "TQDM_DISABLE": "1"})


def test_killed_and_resumed_equals_undisturbed_bit_for_bit(few, tmp_path):
    write(few, tmp_path / "data.pt")
    undisturbed = start(tmp_path, "undisturbed.pt", "expected")
    checkpoint, weights = tmp_path / "killed.pt", tmp_path / "found"
    killed = start(tmp_path, checkpoint.name, weights.name)
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() != 0
    so_far = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 1 <= so_far < 4, "killed too late to prove anything"
    assert not weights.exists()

    assert start(tmp_path, checkpoint.name, weights.name).wait(timeout=300) == 0
    assert undisturbed.wait(timeout=300) == 0
    expected, epochs = torch.load(tmp_path / "expected", weights_only=True)
    found, resumed_epochs = torch.load(weights, weights_only=True)
    assert epochs == resumed_epochs == [1, 2, 3, 4]
    assert same(found, expected)


SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from utils import files
path, moment = Path(sys.argv[1]), sys.argv[2]
files.save_atomically({"weights": torch.zeros(10)}, path)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dies:  # is pickled after some bytes have been written
    def __reduce__(self):
        die()

if moment == "before the rename":
    files.os.replace = die
last = Dies() if moment == "writing" else None
files.save_atomically({"weights": torch.ones(10), "last": last}, path)
"""


@pytest.mark.parametrize("moment", ["writing", "before the rename"])
def test_killed_while_saving_keeps_the_old_checkpoint(tmp_path, moment):
    path = tmp_path / "model.pt"
    command = [sys.executable, "-c", SAVING, str(path), moment]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == -signal.SIGKILL
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.zeros(10))
    assert len(list(tmp_path.glob("*.tmp"))) == 1  # what was being written ...
    files.save_atomically({"weights": torch.ones(10)}, path)
    assert not list(tmp_path.glob("*.tmp"))  # ... is cleared away by the next run


# Checkpoints


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


UNREADABLE = r"model\.pt in .*/ is not a readable checkpoint \({}\): delete it"
PARTIAL = r"model\.pt .*another network or only a part of a run \({}\): delete it and train"
REFUSED = {
    "truncated": (lambda path, state: path.read_bytes()[:1000], UNREADABLE.format("RuntimeError")),
    "empty": (lambda path, state: b"", UNREADABLE.format("EOFError")),
    "no checkpoint": (lambda path, state: {"weights": 1}, UNREADABLE.format("KeyError")),
    "running code": (
        lambda path, state: {"recipe": Payload(path.with_name("owned"))},
        UNREADABLE.format("UnpicklingError"),
    ),
    "another recipe": (
        lambda path, state: state | {"recipe": state["recipe"] | {"epochs": 5, "seed": 1}},
        r"another recipe \(epochs: 5, wanted 2; seed: 1, wanted 0\): delete it",
    ),
    "another network": (
        lambda path, state: state | {"model": ResNet18().state_dict()},
        PARTIAL.format("RuntimeError"),
    ),
} | {
    f"no {part}": (
        lambda path, state, part=part: {k: v for k, v in state.items() if k != part},
        PARTIAL.format("KeyError"),
    )
    for part in ("optimizer", "generator", "history")
}


@pytest.mark.parametrize(("damage", "message"), REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_that_cannot_be_used_is_refused_and_kept(
    few, recipe, tmp_path, damage, message
):
    path = tmp_path / "below" / "model.pt"
    _, history = training.train(few, recipe, checkpoint=path, model=tiny())
    state = training.read_checkpoint(path, recipe)
    assert state["history"] == history.to_dict("records")
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]
    content = damage(path, state)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        training.train(few, recipe, checkpoint=path, model=tiny())
    assert path.read_bytes() == before
    assert not path.with_name("owned").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_stops_the_run_in_words_and_loses_nothing(few, recipe, tmp_path):
    """In the second epoch the file that is written first is /dev/full: the real error, no mock."""
    path, model = tmp_path / "model.pt", tiny()
    link = tmp_path / f"model.pt.{os.getpid()}.tmp"

    def fill(*_):
        if path.exists() and not link.is_symlink():
            link.symlink_to("/dev/full")

    hook = model.register_forward_pre_hook(fill)
    with pytest.raises(WriteError, match=r"model\.pt .*No space left.* COURSE_HOME"):
        training.train(few, recipe, checkpoint=path, model=model)
    hook.remove()
    assert list(tmp_path.iterdir()) == [path]
    assert len(training.read_checkpoint(path, recipe)["history"]) == 1
    again, history = training.train(few, recipe, checkpoint=path, model=tiny())
    undisturbed, _ = training.train(few, recipe, model=tiny())
    assert history["epoch"].tolist() == [1, 2]
    assert same(again.state_dict(), undisturbed.state_dict())


# The loop


def test_train_learns_and_reports(few, recipe):
    recipe = dataclasses.replace(recipe, epochs=6)
    model, history = training.train(few, recipe, model=tiny())
    assert not model.training
    assert " ".join(history.columns) == (
        "epoch train_loss test_loss test_accuracy seconds images_per_second learning_rate"
    )
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    last = history.iloc[-1]
    assert last.train_loss < history["train_loss"].iloc[0]
    assert last.learning_rate < 0.01 * recipe.peak_lr
    logits = training.predict(model, few.normalizer()(few.test_images))
    assert 0.3 < last.test_accuracy == training.accuracy(logits, few.test_labels)
    smooth = training.train(few, dataclasses.replace(recipe, label_smoothing=0.9), model=tiny())[1]
    floor = -(0.19 * math.log(0.19) + 9 * 0.09 * math.log(0.09))  # entropy of these targets
    assert last.train_loss < floor < smooth.iloc[-1].train_loss


@pytest.mark.parametrize("images", [64, 256])  # one step, and one in which the rate rises
def test_very_few_steps_can_be_trained(few, recipe, images):
    short = dataclasses.replace(recipe, epochs=1, train_images=images)
    assert len(training.train(few, short, model=tiny())[1]) == 1


def test_the_seed_decides_the_weights_and_the_test_split_does_not(few, recipe):
    def weights(dataset=few, **changes):
        changed = dataclasses.replace(recipe, **changes)
        return training.train(dataset, changed, model=tiny())[0].state_dict()

    first = weights()
    assert same(first, weights(dataclasses.replace(few, test_images=255 - few.test_images)))
    assert not same(first, weights(seed=1))


def test_by_default_a_seeded_resnet18_with_the_channels_of_the_data_is_trained(
    few, recipe, monkeypatch
):
    seen = []

    def look(model, *_):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        raise StopIteration

    monkeypatch.setattr(training, "_train_epoch", look)
    pictures = few.train_images.expand(-1, 3, -1, -1)
    with pytest.raises(StopIteration):
        training.train(dataclasses.replace(few, train_images=pictures), recipe)
    torch.manual_seed(recipe.seed)
    assert same(seen[0], ResNet18(channels=3).state_dict())


@pytest.mark.parametrize(("train_images", "batch_size"), [(257, 64), (32, 64)])
def test_too_few_images(few, recipe, train_images, batch_size):
    recipe = dataclasses.replace(recipe, train_images=train_images, batch_size=batch_size)
    with pytest.raises(ValueError, match=f"{train_images} images in batches of 64.* are 256"):
        training.train(few, recipe, model=tiny())


def test_a_loss_that_is_no_number_stops_the_run(few, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, peak_lr=1e30)
    with pytest.raises(FloatingPointError, match=r"loss is .* in epoch 1.*lower peak_lr"):
        training.train(few, recipe, model=tiny(), checkpoint=tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_augmentation_is_applied_in_training(few, recipe, monkeypatch):
    calls = []

    def spy(images, *amounts):
        calls.append((len(images), *amounts[:3]))
        return data.random_affine(images, *amounts)

    monkeypatch.setattr(training, "random_affine", spy)
    recipe = dataclasses.replace(recipe, max_shift=1, max_degrees=5, max_scale=0.2)
    training.train(few, recipe, model=tiny())
    assert calls == [(64, 1, 5, 0.2)] * 8


# Recipe, prediction, loading


def test_the_key_stands_for_every_value(recipe):
    assert recipe.key == dataclasses.replace(recipe).key
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        other = dataclasses.replace(recipe, **{field.name: value + type(value)(1)})
        assert other.key != recipe.key, field.name


@pytest.mark.parametrize(
    ("profile", "name", "source", "short", "expected"),
    [
        ("quick", "mnist", data.DIGITS, False, (3_000, 2, 0.04, 10)),
        ("full", "mnist", data.DIGITS, True, (4_000, 8, 0.04, 10)),
        ("quick", "mnist", "MNIST", False, (4_000, 1, 0.04, 10)),
        ("full", "mnist", "MNIST", True, (24_000, 1, 0.04, 10)),
        ("full", "mnist", "MNIST", False, (60_000, 10, 0.1, 10)),
        ("full", "fashion", "Fashion", False, (60_000, 10, 0.04, 0)),  # clothes stand upright
    ],
)
def test_each_profile_and_data_set_gets_its_recipe(
    course, digits, profile, name, source, short, expected
):
    dataset = dataclasses.replace(digits, name=name, source=source)
    if source != data.DIGITS:
        pixels = torch.zeros((), dtype=torch.uint8).expand(60_000, 1, 28, 28)
        dataset = dataclasses.replace(dataset, train_images=pixels)
    course = dataclasses.replace(course, profile=profile, seed=3)
    r = training.recipe_for(course, dataset, short=short)
    assert (r.train_images, r.epochs, r.peak_lr, r.max_degrees) == expected
    assert (r.data_source, r.seed) == (source, 3)


def test_predict_changes_the_layout_of_plain_convolutions_of_the_course_only(float_model, images):
    """As before afterwards; a subclass knows better, and another network may flatten by view()."""
    model, strides = copy.deepcopy(float_model), []
    look = lambda _module, _inputs, y: strides.append(y.stride(1))  # noqa: E731
    model.layer1[0].conv1.register_forward_hook(look)
    training.predict(model, images)
    model(images)
    with training.without_padding_work(model):
        training.predict(model, images)
    assert strides == [1, 49, 49]
    assert not any("forward" in vars(module) for module in model.modules())

    class Zero(nn.Conv2d):
        def forward(self, x):
            return 0 * super().forward(x)

    model.conv1.__class__ = Zero
    flat = training.predict(model, images)
    assert torch.equal(flat, flat[:1].expand_as(flat))

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    assert training.predict(Other(), images.expand(-1, 2, -1, -1)).shape == (64, 2 * 26 * 26)


def test_predict_equals_one_big_batch_and_uses_eval_mode(float_model, images):
    with torch.inference_mode():
        expected = float_model(images)
    found = training.predict(float_model, images, batch_size=24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    model = tiny().train()
    running = model[1].running_mean.clone()
    assert not training.predict(model, images).requires_grad
    assert not model.training
    assert torch.equal(model[1].running_mean, running)
    with pytest.raises(ValueError, match="no images"):
        training.predict(model, images[:0])
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    assert training.accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


def test_each_model_is_trained_once_and_read_without_waiting(
    course, few, recipe, monkeypatch, capsys
):
    small = type("ResNet18", (), {"__new__": lambda *_: tiny()})
    monkeypatch.setattr(training, "ResNet18", small)
    monkeypatch.setattr(
        training, "recipe_for", lambda _, d, **__: dataclasses.replace(recipe, data_source=d.source)
    )
    model, history = training.load_or_train(course, few)
    training.load_or_train(course, dataclasses.replace(few, source="clothes"))
    path = training.checkpoint_path(course, recipe)
    assert path.parent == course.artifacts_dir and recipe.key in path.name
    assert path.exists() and len(list(course.artifacts_dir.glob("*.pt"))) == 2
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained again"))
    with files.locked(path, "training this model"):
        again, same_history = training.load_or_train(course, few)
    assert same(again.state_dict(), model.state_dict())
    assert same_history.equals(history)
    monkeypatch.setattr(training, "load", lambda *_, **__: few)
    monkeypatch.setattr(training.settings_module, "load", lambda: course)
    training.main()
    accuracy = history["test_accuracy"].iloc[-1]
    assert capsys.readouterr().out == f"float model: {accuracy:.2%} after 2 epochs\n"
    torch.save({"recipe": dataclasses.asdict(recipe)}, path)
    with pytest.raises(CheckpointError, match="part of a run"):
        training.load_or_train(course, few)


SECOND = """
import sys
import torch
from utils import settings, training
from utils.data import Dataset
torch.set_num_threads(1)
dataset = Dataset(**torch.load(sys.argv[1]))
training.recipe_for = lambda *_, **__: training.Recipe(dataset.source, 256, 2, batch_size=64)
_, history = training.load_or_train(settings.load(), dataset)
print(history["seconds"].tolist(), flush=True)
"""


def test_the_second_of_two_runs_waits_and_takes_what_the_first_made(course, few, recipe, tmp_path):
    write(few, tmp_path / "data.pt")
    path = training.checkpoint_path(course, recipe)
    environ = {**os.environ, "COURSE_HOME": str(tmp_path), "COURSE_PROFILE": "quick"}
    command = [sys.executable, "-c", SECOND, str(tmp_path / "data.pt")]
    with files.locked(path, "training this model"):
        second = subprocess.Popen(
            command, cwd=PROJECT, env=environ, stdout=subprocess.PIPE, text=True
        )
        line = second.stdout.readline()
        assert line == "another run is training this model: waiting for it\n"
        _, history = training.train(few, recipe, checkpoint=path)
        assert second.poll() is None
    output, _ = second.communicate(timeout=300)
    assert output.strip() == str(history["seconds"].tolist())  # to the last digit: not its own


def test_more_processes_than_gpus_are_refused(course, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = dataclasses.replace(course, device="cuda")
    message = r"4 processes, but this machine has 2 GPUs.*--nproc-per-node 2, or .*=cpu"
    with pytest.raises(SettingsError, match=message), training.processes_of_torchrun(settings):
        pass


@pytest.mark.parametrize(
    ("device", "gain", "expected"),
    [
        ("cpu", 1.7, True),
        ("cpu", 0.5, False),  # as measured on a processor that has the instructions, but no AMX
        ("cpu", 0.1, False),  # emulated
        ("mps", 5.0, False),
        ("cuda", 5.0, False),  # emulated there
    ],
)
def test_bf16_only_where_the_hardware_gains_by_it(monkeypatch, device, gain, expected):
    monkeypatch.setattr(training, "_bf16_gain", lambda: gain)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert training.bf16_helps(device) is expected


def test_the_gain_of_bf16_is_measured_without_a_trace():
    torch.manual_seed(0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0.001 < training._bf16_gain() < 1_000
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


# Convolutions without the work on padding

GEOMETRIES = {
    "3x3 on 1x1": (dict(kernel_size=3, padding=1), (1, 1)),
    "3x3 stride 2 on 2x2": (dict(kernel_size=3, stride=2, padding=1), (2, 2)),
    "3x3 on 2x2": (dict(kernel_size=3, padding=1), (2, 2)),
    "7x7 stride 2 on 28x28": (dict(kernel_size=7, stride=2, padding=3), (28, 28)),
    "7x7 stride 2 on 3x3": (dict(kernel_size=7, stride=2, padding=3), (3, 3)),
    "1x1 stride 2 on 2x2": (dict(kernel_size=1, stride=2), (2, 2)),
    "3x3 on 1x5": (dict(kernel_size=3, padding=1), (1, 5)),
    "3x3 stride 2 on 4x1": (dict(kernel_size=3, stride=2, padding=1), (4, 1)),
    "3x5 on 2x1": (dict(kernel_size=(3, 5), stride=(1, 2), padding=(1, 2)), (2, 1)),
    "with bias": (dict(kernel_size=3, padding=1, bias=True), (1, 1)),
    "with bias on 2x2": (dict(kernel_size=3, padding=1, bias=True), (2, 2)),
    "groups": (dict(kernel_size=3, padding=1, groups=2), (1, 1)),
    "dilation": (dict(kernel_size=3, padding=2, dilation=2), (1, 1)),
    "same": (dict(kernel_size=3, padding="same"), (1, 1)),
    "reflected": (dict(kernel_size=3, padding=1, padding_mode="reflect"), (2, 2)),
}


@pytest.mark.parametrize(("keywords", "size"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolutions_without_padding_work_are_equal_forward_and_backward(keywords, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, **{"bias": False, **keywords}).double()
    x = torch.randn(4, 8, *size, dtype=torch.double, requires_grad=True)

    def run():
        y = conv(x)
        weights = torch.arange(y.numel(), dtype=torch.double).reshape(y.shape).cos()
        return y, *torch.autograd.grad((y * weights).sum(), [x, *conv.parameters()])

    plain = run()
    with training.without_padding_work(conv):
        cropped = run()
    for a, b in zip(plain, cropped, strict=True):
        torch.testing.assert_close(b, a)


def test_the_work_is_really_left_out_and_the_forward_comes_back_after_an_error(monkeypatch):
    shapes = []

    def linear(x, weight, bias):
        shapes.append(tuple(weight.shape))
        return F.linear(x, weight, bias)

    monkeypatch.setattr(training, "F", SimpleNamespace(linear=linear))
    conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    with pytest.raises(KeyError), training.without_padding_work(conv):
        for size in (1, 2, 5):
            conv(torch.zeros(1, 8, size, size))
        raise KeyError
    # On one pixel one tap of nine; on 2x2 pixels every output sees every input; 5x5 is too large.
    assert shapes == [(16, 8), (64, 32)]
    assert "forward" not in vars(conv)


@pytest.mark.parametrize(("busy", "threads"), [(0, 4), (24, 3), (50, 2), (100, 1)])
def test_threads_are_no_more_than_the_idle_cores(monkeypatch, busy, threads):
    monkeypatch.setattr(training.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(training.psutil, "cpu_percent", lambda _: busy)
    training._idle_cores.cache_clear()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with pytest.raises(KeyError), training.threads_for_idle_cores():
            assert torch.get_num_threads() == threads
            raise KeyError
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
        training._idle_cores.cache_clear()
