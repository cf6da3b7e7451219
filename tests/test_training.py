import dataclasses
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
    return dataclasses.replace(
        few, test_images=few.test_images[:64], test_labels=few.test_labels[:64]
    )


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
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() != 0
    so_far = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 1 <= so_far < 4, "killed too late to prove anything"
    assert not weights.exists()

    assert start(tmp_path, checkpoint.name, weights.name).wait(timeout=120) == 0
    assert undisturbed.wait(timeout=120) == 0
    expected, epochs = torch.load(tmp_path / "expected", weights_only=True)
    found, resumed_epochs = torch.load(weights, weights_only=True)
    assert epochs == resumed_epochs == [1, 2, 3, 4]
    assert same(found, expected)


SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from utils import data, files, training
path, moment = Path(sys.argv[1]), sys.argv[2]
training.save_atomically({"weights": torch.zeros(10)}, path)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dies:  # is pickled after some bytes have been written
    def __reduce__(self):
        die()

if moment == "before the rename":
    files.os.replace = die
training.save_atomically(
    {"weights": torch.ones(10), "last": Dies()} if moment == "writing" else {"w": torch.ones(10)},
    path,
)
"""


@pytest.mark.parametrize("moment", ["writing", "before the rename"])
def test_killed_while_saving_keeps_the_old_checkpoint(tmp_path, moment):
    path = tmp_path / "model.pt"
    command = [sys.executable, "-c", SAVING, str(path), moment]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == -signal.SIGKILL
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.zeros(10))
    assert len(list(tmp_path.glob("*.tmp"))) == 1  # what was being written ...
    training.save_atomically({"weights": torch.ones(10)}, path)
    assert not list(tmp_path.glob("*.tmp"))  # ... is cleared away by the next run


# Checkpoints


def test_a_checkpoint_of_another_recipe_is_refused_and_kept(few, recipe, tmp_path):
    path = tmp_path / "model.pt"
    training.train(few, recipe, checkpoint=path, model=tiny())
    before = path.read_bytes()
    other = dataclasses.replace(recipe, epochs=5, seed=1)
    with pytest.raises(CheckpointError) as error:
        training.train(few, other, checkpoint=path, model=tiny())
    for part in (
        "model.pt",
        "another recipe",
        "epochs: 2, wanted 5",
        "seed: 0, wanted 1",
        "delete",
    ):
        assert part in str(error.value)
    assert "batch_size" not in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "no checkpoint"])
def test_a_damaged_checkpoint_is_refused_and_kept(few, recipe, tmp_path, damage):
    path = tmp_path / "model.pt"
    training.train(few, recipe, checkpoint=path, model=tiny())
    if damage == "no checkpoint":
        torch.save({"weights": torch.zeros(1)}, path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 1000])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"model\.pt .*not a readable checkpoint.*delete it"):
        training.train(few, recipe, checkpoint=path, model=tiny())
    assert path.read_bytes() == before


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_cannot_run_code(recipe, tmp_path):
    torch.save({"recipe": Payload(tmp_path / "owned")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt .*UnpicklingError.*delete it and train"):
        training.read_checkpoint(tmp_path / "evil.pt", recipe)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_holds_recipe_and_history(few, recipe, tmp_path):
    path = tmp_path / "below" / "model.pt"
    _, history = training.train(few, recipe, checkpoint=path, model=tiny())
    state = training.read_checkpoint(path, recipe)
    assert state["recipe"] == dataclasses.asdict(recipe)
    assert state["history"] == history.to_dict("records")
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_a_finished_checkpoint_is_not_trained_again(few, recipe, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    first, history = training.train(few, recipe, checkpoint=path, model=tiny())
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained again"))
    again, same_history = training.train(few, recipe, checkpoint=path, model=tiny())
    assert same(again.state_dict(), first.state_dict())
    assert same_history.equals(history)


def test_a_checkpoint_of_another_network_is_refused_and_kept(few, recipe, tmp_path):
    path = tmp_path / "model.pt"
    training.train(few, recipe, checkpoint=path, model=tiny())
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"model\.pt .*another network.*delete it and train"):
        training.train(few, recipe, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["optimizer", "generator", "history"])
def test_a_checkpoint_without_a_part_of_the_run_is_refused(few, recipe, tmp_path, part):
    path = tmp_path / "model.pt"
    training.train(few, recipe, checkpoint=path, model=tiny())
    state = torch.load(path, weights_only=True)
    del state[part]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"only a part of a run \(KeyError\): delete it"):
        training.train(few, recipe, checkpoint=path, model=tiny())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_stops_the_run_in_words_and_loses_nothing(few, recipe, tmp_path):
    """In the second epoch the file that is written first is /dev/full: the real error, no mock."""
    path, model = tmp_path / "model.pt", tiny()
    link = tmp_path / f"model.pt.{os.getpid()}.tmp"

    def fill(*_):
        if path.exists() and not link.is_symlink():
            link.symlink_to("/dev/full")

    hook = model.register_forward_pre_hook(fill)
    with pytest.raises(WriteError, match=r"model\.pt .*disk is full.* COURSE_HOME"):
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
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert list(history.columns) == [
        "epoch",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "seconds",
        "images_per_second",
        "learning_rate",
    ]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert history["test_accuracy"].iloc[-1] > 0.3
    logits = training.predict(model, few.normalizer()(few.test_images))
    assert history["test_accuracy"].iloc[-1] == training.accuracy(logits, few.test_labels)
    assert history["learning_rate"].iloc[-1] < 0.01 * recipe.peak_lr


def test_the_same_seed_gives_the_same_weights(few, recipe):
    def weights(**changes):
        changed = dataclasses.replace(recipe, **changes)
        return training.train(few, changed, model=tiny())[0].state_dict()

    first = weights()
    assert same(first, weights())
    assert not same(first, weights(seed=1))


def test_the_test_split_does_not_touch_the_weights(few, recipe):
    changed = dataclasses.replace(few, test_images=255 - few.test_images)
    one, _ = training.train(few, recipe, model=tiny())
    other, _ = training.train(changed, recipe, model=tiny())
    assert same(one.state_dict(), other.state_dict())


def test_by_default_a_freshly_seeded_resnet18_is_trained(few, recipe, monkeypatch):
    seen = []

    def look(model, *_):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        raise StopIteration

    monkeypatch.setattr(training, "_train_epoch", look)
    with pytest.raises(StopIteration):
        training.train(few, recipe)
    torch.manual_seed(recipe.seed)
    assert same(seen[0], ResNet18().state_dict())


@pytest.mark.parametrize(("train_images", "batch_size"), [(257, 64), (32, 64)])
def test_too_few_images(few, recipe, train_images, batch_size):
    recipe = dataclasses.replace(recipe, train_images=train_images, batch_size=batch_size)
    with pytest.raises(ValueError, match=f"{train_images} images in batches of 64.* has 256"):
        training.train(few, recipe, model=tiny())


def test_a_loss_that_is_no_number_stops_the_run(few, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, peak_lr=1e30)
    with pytest.raises(FloatingPointError, match=r"loss is .* in epoch 1.*lower peak_lr"):
        training.train(few, recipe, model=tiny(), checkpoint=tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


# Recipe, prediction, loading


def test_the_key_stands_for_every_value(recipe):
    assert recipe.key == dataclasses.replace(recipe).key
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        other = dataclasses.replace(recipe, **{field.name: value + type(value)(1)})
        assert other.key != recipe.key, field.name


@pytest.mark.parametrize(
    ("profile", "fallback", "short", "images"),
    [
        ("quick", True, False, 4_000),
        ("full", True, True, 4_000),
        ("quick", False, False, 4_000),
        ("full", False, True, 24_000),
        ("full", False, False, 60_000),
    ],
)
def test_recipe_for(course, digits, profile, fallback, short, images):
    dataset = digits
    if not fallback:
        pixels = torch.zeros((), dtype=torch.uint8).expand(60_000, 1, 28, 28)
        dataset = dataclasses.replace(digits, source="MNIST (torchvision)", train_images=pixels)
    course = dataclasses.replace(course, profile=profile, seed=3)
    recipe = training.recipe_for(course, dataset, short=short)
    assert recipe.train_images == images
    assert (recipe.epochs == 1) == (not fallback and images < 60_000)
    assert (recipe.data_source, recipe.seed) == (dataset.source, 3)


def test_each_data_set_gets_its_recipe(course, digits):
    full = dataclasses.replace(course, profile="full")
    pixels = torch.zeros((), dtype=torch.uint8).expand(60_000, 1, 28, 28)
    mnist = dataclasses.replace(digits, source="MNIST (torchvision)", train_images=pixels)
    fashion = dataclasses.replace(mnist, name="fashion", source="Fashion-MNIST (torchvision)")
    digit, clothes = (training.recipe_for(full, dataset) for dataset in (mnist, fashion))
    assert digit.epochs == clothes.epochs == 10
    assert digit.max_degrees > 0 == clothes.max_degrees  # clothes stand upright
    few = training.recipe_for(full, digits)
    assert few.peak_lr == clothes.peak_lr < digit.peak_lr


def test_the_network_takes_the_channels_of_the_data(few, recipe):
    colour = dataclasses.replace(
        few,
        train_images=few.train_images.expand(-1, 3, -1, -1),
        test_images=few.test_images.expand(-1, 3, -1, -1),
    )
    model, _ = training.train(colour, recipe)
    assert model.conv1.in_channels == 3


def test_predict_equals_one_big_batch(float_model, images):
    with torch.inference_mode():
        expected = float_model(images)
    found = training.predict(float_model, images, batch_size=24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_predict_uses_eval_mode():
    model = tiny().train()
    running = model[1].running_mean.clone()
    training.predict(model, torch.randn(8, 1, 28, 28))
    assert not model.training
    assert torch.equal(model[1].running_mean, running)


def test_accuracy_by_hand():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    assert training.accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


def test_load_or_train_trains_once(course, few, recipe, monkeypatch):
    monkeypatch.setattr(training, "ResNet18", lambda *_: tiny())
    monkeypatch.setattr(training, "recipe_for", lambda *_, **__: recipe)
    model, history = training.load_or_train(course, few)
    path = training.checkpoint_path(course, recipe)
    assert path.exists()
    assert path.parent == course.artifacts_dir
    assert recipe.key in path.name
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained again"))
    again, same_history = training.load_or_train(course, few)
    assert same(again.state_dict(), model.state_dict())
    assert same_history.equals(history)


def test_of_two_checkpoints_only_the_missing_one_is_trained(course, few, recipe, monkeypatch):
    monkeypatch.setattr(training, "ResNet18", lambda *_: tiny())
    monkeypatch.setattr(
        training, "recipe_for", lambda _, d, **__: dataclasses.replace(recipe, data_source=d.source)
    )
    fashion = dataclasses.replace(few, name="fashion", source="clothes")
    training.load_or_train(course, few)
    kept = training.checkpoint_path(course, recipe)
    before = kept.read_bytes()
    training.load_or_train(course, fashion)
    assert kept.read_bytes() == before
    assert len(list(course.artifacts_dir.glob("*.pt"))) == 2


ONE_CORE = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.cpu_count = lambda: 1
import torch
from utils import data, quantization, training
from utils.data import Dataset
dataset = Dataset(**torch.load(sys.argv[1]))
assert torch.get_num_threads() == 1
recipe = training.Recipe(dataset.source, 128, epochs=1, batch_size=64)
model, history = training.train(dataset, recipe)
images = dataset.normalizer()(dataset.test_images)
print(len(training.predict(quantization.quantize(model, images), images)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_one_core_is_enough(few, tmp_path):
    write(few, tmp_path / "data.pt")
    command = [sys.executable, "-c", ONE_CORE, str(tmp_path / "data.pt")]
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    run = subprocess.run(command, cwd=PROJECT, env=environ, stdout=-1, text=True, check=True)
    assert run.stdout.strip() == "64"


SECOND = """
import sys
from pathlib import Path
import torch
from utils import data, settings, training
from utils.data import Dataset
from utils.training import Recipe
torch.set_num_threads(1)
dataset = Dataset(**torch.load(sys.argv[1]))
training.recipe_for = lambda *_, **__: Recipe(dataset.source, 256, epochs=3, batch_size=64)
_, history = training.load_or_train(settings.load(), dataset)
print(history["seconds"].tolist(), flush=True)
"""


def test_the_second_of_two_runs_waits_and_takes_what_the_first_made(course, few, recipe, tmp_path):
    write(few, tmp_path / "data.pt")
    recipe = dataclasses.replace(recipe, epochs=3)  # SECOND's
    path = training.checkpoint_path(course, recipe)
    with files.locked(path, "training this model"):
        second = subprocess.Popen(
            [sys.executable, "-c", SECOND, str(tmp_path / "data.pt")],
            cwd=PROJECT,
            env={**os.environ, "COURSE_HOME": str(tmp_path), "COURSE_PROFILE": "quick"},
            stdout=subprocess.PIPE,
            text=True,
        )
        line = second.stdout.readline()
        assert line == "another run is training this model: waiting for it\n"
        _, history = training.train(few, recipe, checkpoint=path)
        assert second.poll() is None
    output, _ = second.communicate(timeout=120)
    assert output.strip() == str(history["seconds"].tolist())  # to the last digit: not its own


def test_a_finished_model_is_read_without_waiting(course, few, recipe, monkeypatch, capsys):
    monkeypatch.setattr(training, "ResNet18", lambda *_: tiny())
    monkeypatch.setattr(training, "recipe_for", lambda *_, **__: recipe)
    training.load_or_train(course, few)
    with files.locked(training.checkpoint_path(course, recipe), "training this model"):
        training.load_or_train(course, few)
    assert "waiting" not in capsys.readouterr().out


def test_main_trains_and_prints_the_accuracy(course, few, recipe, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_HOME", str(course.home))
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(training, "ResNet18", lambda *_: tiny())
    monkeypatch.setattr(training, "recipe_for", lambda *_, **__: recipe)
    monkeypatch.setattr(training, "load", lambda *_, **__: few)
    training.main()
    _, history = training.load_or_train(course, few)
    expected = f"float model: {history['test_accuracy'].iloc[-1]:.2%} after 2 epochs"
    assert capsys.readouterr().out.splitlines() == [expected]


def test_more_processes_than_gpus_are_refused(course, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = dataclasses.replace(course, device="cuda")
    message = r"4 processes, but this machine has 2 GPUs.*--nproc-per-node 2, or .*=cpu"
    with pytest.raises(SettingsError, match=message), training.processes_of_torchrun(settings):
        pass


@pytest.mark.parametrize(
    ("device", "sets", "expected"),
    [
        ("cpu", ["avx512_bf16"], True),
        ("cpu", ["amx_bf16", "avx2"], True),
        ("cpu", ["avx2"], False),
        ("mps", ["avx512_bf16"], False),
    ],
)
def test_bf16_only_where_the_hardware_has_it(monkeypatch, device, sets, expected):
    monkeypatch.setattr(training, "cpu", lambda: {"instruction_sets": sets})
    assert training.bf16_helps(device) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_on_a_gpu_is_asked_of_torch(monkeypatch, supported):
    def is_bf16_supported(including_emulation=True):
        return supported or including_emulation

    monkeypatch.setattr(training.torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert training.bf16_helps("cuda") is supported


# Convolutions without the work on padding

GEOMETRIES = {
    "3x3 on 1x1": (dict(kernel_size=3, padding=1), (1, 1)),
    "3x3 stride 2 on 2x2": (dict(kernel_size=3, stride=2, padding=1), (2, 2)),
    "3x3 stride 2 on 1x1": (dict(kernel_size=3, stride=2, padding=1), (1, 1)),
    "3x3 on 2x2": (dict(kernel_size=3, padding=1), (2, 2)),
    "7x7 stride 2 on 28x28": (dict(kernel_size=7, stride=2, padding=3), (28, 28)),
    "7x7 stride 2 on 2x2": (dict(kernel_size=7, stride=2, padding=3), (2, 2)),
    "7x7 stride 2 on 3x3": (dict(kernel_size=7, stride=2, padding=3), (3, 3)),
    "1x1 stride 2 on 2x2": (dict(kernel_size=1, stride=2), (2, 2)),
    "3x3 on 1x5": (dict(kernel_size=3, padding=1), (1, 5)),
    "3x3 stride 2 on 4x1": (dict(kernel_size=3, stride=2, padding=1), (4, 1)),
    "3x5 on 2x1": (dict(kernel_size=(3, 5), stride=(1, 2), padding=(1, 2)), (2, 1)),
    "with bias": (dict(kernel_size=3, padding=1, bias=True), (1, 1)),
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


def test_the_whole_network_is_equal_without_padding_work(float_model, images):
    with torch.inference_mode():
        expected = float_model(images)
        with training.without_padding_work(float_model):
            found = float_model(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_work_is_really_left_out(monkeypatch):
    calls = []

    def spy(name):
        def call(x, weight, *rest):
            calls.append((name, tuple(weight.shape)))
            return getattr(F, name)(x, weight, *rest)

        return call

    monkeypatch.setattr(training, "F", SimpleNamespace(conv2d=spy("conv2d"), linear=spy("linear")))
    conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    with training.without_padding_work(conv):
        for size in (1, 2, 5):
            conv(torch.zeros(1, 8, size, size))
    # On one pixel one tap of nine; on 2x2 pixels every output sees every input.
    assert calls == [("linear", (16, 8)), ("linear", (64, 32)), ("conv2d", (16, 8, 3, 3))]


def test_the_forward_comes_back_even_after_an_error():
    model = tiny()
    with pytest.raises(KeyError), training.without_padding_work(model):
        assert "forward" in vars(model[0])
        raise KeyError
    assert "forward" not in vars(model[0])


def test_augmentation_is_applied_in_training(few, recipe, monkeypatch):
    calls = []

    def spy(images, *amounts):
        calls.append((len(images), *amounts[:3]))
        return data.random_affine(images, *amounts)

    monkeypatch.setattr(training, "random_affine", spy)
    recipe = dataclasses.replace(recipe, max_shift=1, max_degrees=5, max_scale=0.2)
    training.train(few, recipe, model=tiny())
    assert calls == [(64, 1, 5, 0.2)] * 8


@pytest.mark.parametrize(
    "keywords",
    [dict(padding=1, groups=2), dict(padding=2, dilation=2), dict(padding="same")],
    ids=["groups", "dilation", "same"],
)
def test_convolutions_it_does_not_know_are_left_as_they_are(keywords):
    conv = nn.Conv2d(4, 4, 3, bias=False, **keywords)
    x = torch.randn(2, 4, 1, 1)
    with training.without_padding_work(conv):
        found = conv(x)
    assert torch.equal(found, conv(x))


@pytest.mark.parametrize(("busy", "threads"), [(0, 4), (24, 3), (50, 2), (100, 1)])
def test_threads_are_no_more_than_the_idle_cores(monkeypatch, busy, threads):
    monkeypatch.setattr(training.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(training.psutil, "cpu_percent", lambda _: busy)
    training._idle_cores.cache_clear()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with training.threads_for_idle_cores():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
        training._idle_cores.cache_clear()
