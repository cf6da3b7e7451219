"""Train the float32 network: a plain loop, checkpoints after every epoch, resume bit for bit.

``python -m utils.training`` trains the course's model in one process;
``torchrun --nproc-per-node N -m utils.training`` in N, to the same weights but for rounding.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from utils import settings as settings_module
from utils.data import Dataset, batches, load, random_affine
from utils.files import locked, save_atomically
from utils.models import ResNet18
from utils.settings import Settings, SettingsError, seed_everything


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, apart from the machine.

    One-cycle SGD after Smith and Topin: Super-Convergence (2019); label smoothing after Szegedy
    et al.: Rethinking the Inception Architecture (CVPR 2016), section 7.
    """

    data_source: str
    train_images: int
    epochs: int
    batch_size: int = 128
    peak_lr: float = 0.1  # the highest learning rate of the cycle
    warmup: float = 0.25  # the share of the steps in which the learning rate rises ...
    base_momentum: float = 0.85  # ... while the momentum falls to this value ...
    max_momentum: float = 0.95  # ... from this one
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    max_shift: float = 2.0  # the amounts of data.random_affine: pixels,
    max_degrees: float = 10.0  # degrees
    max_scale: float = 0.1  # and the relative change of size
    seed: int = 0

    @property
    def key(self) -> str:
        """Eight characters that stand for these values, for file names."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def recipe_for(settings: Settings, dataset: Dataset, *, short: bool = False) -> Recipe:
    """Return the course's recipe for a profile and a dataset.

    ``short`` asks for the quickstart's: part of the images, once, unless they are few anyway.
    """
    images, epochs = len(dataset.train_images), 10
    if dataset.is_fallback:
        images, epochs = (min(images, 3_000), 2) if settings.quick else (images, 8)
    elif settings.quick or short:
        images, epochs = (4_000 if settings.quick else 24_000), 1
    changes = {}
    if dataset.name != "mnist":  # clothes and photographs stand upright, at one size
        changes = {"max_degrees": 0.0, "max_scale": 0.0}
    if changes or images * epochs < 50_000:  # harder images, or so few steps, want smaller ones
        changes["peak_lr"] = 0.04
    return Recipe(dataset.source, images, epochs, seed=settings.seed, **changes)


@functools.cache
def _bf16_gain() -> float:
    """How many times faster this CPU multiplies matrices in bfloat16 than in float32, just now."""
    pair = torch.ones(256, 256), torch.ones(256, 256).bfloat16()
    wide, half = (min(timeit.repeat(lambda a=a: a @ a, number=1, repeat=9)) for a in pair)
    return wide / half


def bf16_helps(device: str) -> bool:
    """Whether bfloat16 autocast is worth it: only where the hardware multiplies bfloat16 faster.

    A CPU is asked by a measurement, since its instructions do not tell: on an Intel processor with
    AVX-512 for bfloat16 but without AMX, products in float32 took only half as long.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and _bf16_gain() > 1.3  # casting takes part of the gain


@functools.lru_cache(maxsize=1)  # counted anew every half a minute
def _idle_cores(_half_minute: int) -> int:
    return round((os.cpu_count() or 1) * (1 - psutil.cpu_percent(0.1) / 100))


@contextlib.contextmanager
def threads_for_idle_cores() -> Iterator[None]:
    """Use no more threads in this block than there are idle cores, but at least one.

    All threads wait for the one that shares its core with another busy program: two threads on two
    cores of which one is taken are slower than one (``benchmarks/busy.py`` measures it).
    """
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(min(before, max(1, _idle_cores(int(time.monotonic() / 30)))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _forward_by(function: Callable, modules: list[nn.Module]) -> Iterator[None]:
    """Let ``function(module, x)`` take the place of these modules' forward in this block."""
    for module in modules:
        module.forward = functools.partial(function, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def without_padding_work(model: nn.Module) -> AbstractContextManager:
    """Let convolutions on tiny maps leave out the multiplications by padding, in this block.

    On a 28x28 digit the maps of ``layer4`` are 1x1. A 3x3 kernel with padding 1 then multiplies
    one pixel and eight zeros, and its weight gradient, the slowest operation of the whole step
    on a CPU, is zero in eight of nine taps. Where every window covers the whole map, as there and
    on the 2x2 maps of ``layer3``, the convolution is a matrix product with the taps that meet
    data: the same sums and the same gradients, to rounding, without that work.
    """
    return _forward_by(_dense_conv2d, [m for m in model.modules() if isinstance(m, nn.Conv2d)])


def _dense_conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    known = (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1), "zeros")
    if not known or isinstance(conv.padding, str):
        return nn.Conv2d.forward(conv, x)
    height, width = x.shape[2:]
    # The kernel's row that meets the map's first row, for each output row; likewise for columns.
    rows, columns = (
        [padding - i * stride for i in range((size + 2 * padding - kernel) // stride + 1)]
        for size, kernel, stride, padding in zip(
            x.shape[2:], conv.kernel_size, conv.stride, conv.padding, strict=True
        )
    )
    spare_rows, spare_columns = conv.kernel_size[0] - height, conv.kernel_size[1] - width
    if min(*rows, *columns) < 0 or max(rows) > spare_rows or max(columns) > spare_columns:
        return nn.Conv2d.forward(conv, x)  # some window does not cover the whole map
    kernel = conv.weight.permute(0, 2, 3, 1)  # channels last, as the data lies in memory
    parts = [kernel[:, r : r + height, c : c + width].flatten(1) for r in rows for c in columns]
    bias = None if conv.bias is None else conv.bias.repeat(len(parts))
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), torch.cat(parts), bias)
    return y.view(len(x), len(rows), len(columns), -1).permute(0, 3, 1, 2)


def _channels_last_conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return _dense_conv2d(conv, x.contiguous(memory_format=torch.channels_last))


def place() -> tuple[int, int]:
    """Return this process's rank, and how many processes train together: (0, 1) for one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _batch_norm_of_all(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalize by all processes' batch, which torch's SyncBatchNorm does on GPUs only."""
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    from torch.distributed.nn.functional import all_reduce  # whose gradients are summed as well

    real = x.float()
    count = all_reduce(torch.tensor(float(x[:, 0].numel()), device=x.device))
    mean = all_reduce(real.sum((0, 2, 3))) / count
    centered = real - mean.view(-1, 1, 1)
    variance = all_reduce(centered.square().sum((0, 2, 3))) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centered * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).to(x.dtype)


def train(
    dataset: Dataset,
    recipe: Recipe,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    model: nn.Module | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train by ``recipe`` on the first training images, going on from ``checkpoint`` if it exists.

    Where torch.distributed has been initialized, each process computes its part of every batch, and
    the first one reads and writes the checkpoint, after every epoch. Without ``model``, a freshly
    seeded :class:`~utils.models.ResNet18` is trained.

    Returns the model, on the CPU and in eval mode, and one row per epoch: epoch, train_loss,
    test_loss, test_accuracy (fraction), seconds, images_per_second, learning_rate (at its end).

    Raises ValueError if the dataset is smaller than the recipe or than one batch, or if processes
    that train together have different recipes; CheckpointError if the checkpoint is damaged, was
    made by another recipe, or holds another network; WriteError if it cannot be written (an older
    one stays); FloatingPointError if the loss stops being a number.
    """
    size, images, there = recipe.batch_size, recipe.train_images, len(dataset.train_images)
    if not size <= images <= there:
        raise ValueError(f"recipe wants {images} images in batches of {size}, there are {there}")
    seed_everything(recipe.seed)
    if model is None:
        model = ResNet18(len(dataset.classes), dataset.train_images.shape[1])
    model = model.to(device, memory_format=torch.channels_last)
    # The test split stays out of the choice of weights: it is only watched.
    data = dataset.head(recipe.train_images).to(device)
    normalize = dataset.normalizer()
    steps, total = images // size, images // size * recipe.epochs
    rate, low, high = recipe.peak_lr, recipe.base_momentum, recipe.max_momentum
    decay, rising, fused = recipe.weight_decay, recipe.warmup, device != "mps"
    rising += 0.01 * (rising * total == 1)  # torch divides by zero where just one step rises
    optimizer = SGD(model.parameters(), rate, high, weight_decay=decay, nesterov=True, fused=fused)
    schedule = OneCycleLR(
        optimizer, rate, total, pct_start=rising, base_momentum=low, max_momentum=high
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    rank, processes = place()
    state, history = None, []
    if rank == 0 and checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, recipe)
    if processes > 1:
        shared = [recipe, state]  # the other machines have no checkpoint
        dist.broadcast_object_list(shared)
        if shared[0] != recipe:
            raise ValueError(f"the first process trains by {shared[0]}, this one by {recipe}")
        state = shared[1]
    if state is not None:
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            generator.set_state(state["generator"])
            torch.set_rng_state(state["torch_rng"])
            history = state["history"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.name} in {checkpoint.parent.name}/ holds another network or only a "
                f"part of a run ({type(error).__name__}): delete it and train again."
            ) from error
    # Averages the gradients over all processes.
    net = DistributedDataParallel(model) if processes > 1 else model
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        loss = _train_epoch(net, data, recipe, normalize, optimizer, schedule, generator, epoch)
        seconds = time.perf_counter() - start
        logits = predict(model, normalize(data.test_images))
        row = {"epoch": epoch, "train_loss": loss}
        row["test_loss"] = F.cross_entropy(logits, data.test_labels).item()
        row["test_accuracy"] = accuracy(logits, data.test_labels)
        row |= {"seconds": seconds, "images_per_second": steps * size / seconds}
        row["learning_rate"] = schedule.get_last_lr()[0]
        history.append(row)
        if checkpoint is not None and rank == 0:
            state = {"recipe": asdict(recipe)}
            state |= {name: part.state_dict() for name, part in parts.items()}
            state |= {"generator": generator.get_state(), "torch_rng": torch.get_rng_state()}
            save_atomically(state | {"history": history, "trained_on": device}, checkpoint)
    model = model.to("cpu", memory_format=torch.contiguous_format).eval()
    return model, pd.DataFrame(history)


def _train_epoch(model, data, recipe, normalize, optimizer, schedule, generator, epoch) -> float:
    """One pass over the shuffled data; returns the mean loss."""
    device = data.train_images.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16_helps(device.type))
    order = torch.randperm(len(data.train_images), generator=generator).to(device)
    steps = recipe.train_images // recipe.batch_size
    rank, processes = place()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and processes > 1]
    total = torch.zeros((), device=device)
    model.train()
    chunks = order[: steps * recipe.batch_size].split(recipe.batch_size)
    looks = {"leave": False, "unit": "img", "unit_scale": recipe.batch_size}
    looks |= {"disable": True} if rank else {}
    bar = tqdm(chunks, f"epoch {epoch}/{recipe.epochs}", **looks)
    amounts = recipe.max_shift, recipe.max_degrees, recipe.max_scale
    collective = _forward_by(_batch_norm_of_all, norms)
    with threads_for_idle_cores(), without_padding_work(model), collective:
        for step, chosen in enumerate(bar, start=1):
            # Drawn for the whole batch, so that any number of processes sees the same images.
            images = random_affine(data.train_images[chosen], *amounts, generator)
            images = images.tensor_split(processes)[rank]
            labels = data.train_labels[chosen].tensor_split(processes)[rank]
            with autocast:
                logits = model(normalize(images))
                loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            loss = loss * (len(labels) * processes / len(chosen))  # 1 where all parts are equal
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
            if step % 20 == 0 or step == steps:  # reading the loss makes a GPU wait
                if not torch.isfinite(total):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} in epoch {epoch}, step {step}: "
                        f"lower peak_lr (now {recipe.peak_lr})"
                    )
                bar.set_postfix(loss=f"{total.item() / step:.3f}")
    if processes > 1:
        dist.all_reduce(total)
    return total.item() / processes / steps


def predict(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Return the float32 logits (N, classes) of normalized images (N, C, H, W).

    The model is left in eval mode. Float convolutions of the course's network run on channels last
    and :func:`without_padding_work`: the same to rounding, about twice as fast on CPUs. Raises
    ValueError if there are no images.
    """
    if not len(images):
        raise ValueError("no images to classify: the slice or the data set is empty")
    model.eval()
    modules = model.modules() if isinstance(model, ResNet18) else ()  # others may count on layouts
    plain = nn.Conv2d.forward  # and not that of a subclass, or one that took its place
    convs = [m for m in modules if getattr(m.forward, "__func__", None) is plain]
    faster = _forward_by(_channels_last_conv2d, convs)
    with torch.inference_mode(), threads_for_idle_cores(), faster:
        return torch.cat([model(batch).float() for batch in batches(images, size=batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share (0 to 1) of rows whose largest logit is at the label."""
    return (logits.argmax(1) == labels).double().mean().item()


def read_checkpoint(path: Path, recipe: Recipe) -> dict:
    """Read a checkpoint, which can run no code; one that does not fit is a CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        made_by = state["recipe"]
    except Exception as error:
        where, kind = f"{path.name} in {path.parent.name}/", type(error).__name__
        message = f"{where} is not a readable checkpoint ({kind}): delete it and train again."
        raise CheckpointError(message) from error
    wanted = asdict(recipe)
    pairs = {k: (made_by.get(k), wanted.get(k)) for k in sorted(made_by.keys() | wanted.keys())}
    listed = "; ".join(f"{k}: {a!r}, wanted {b!r}" for k, (a, b) in pairs.items() if a != b)
    if listed:
        raise CheckpointError(
            f"{path.name} was made by another recipe ({listed}): delete it and train again, or ask "
            "for the recipe that made it."
        )
    return state


def checkpoint_path(settings: Settings, recipe: Recipe) -> Path:
    """Return where the model of this recipe is kept."""
    return settings.artifacts_dir / f"resnet18-{recipe.key}.pt"


def load_or_train(
    settings: Settings, dataset: Dataset, *, short: bool = False
) -> tuple[nn.Module, pd.DataFrame]:
    """Return what :func:`train` returns for the course's recipe, trained now or before."""
    recipe = recipe_for(settings, dataset, short=short)
    path = checkpoint_path(settings, recipe)
    lock = contextlib.nullcontext()
    if place()[0] == 0:  # a finished model can be read by any number of runs
        made = read_checkpoint(path, recipe).get("history", ()) if path.exists() else ()
        lock = lock if len(made) == recipe.epochs else locked(path, "training this model")
    with lock:
        return train(dataset, recipe, device=settings.device, checkpoint=path)


@contextlib.contextmanager
def processes_of_torchrun(settings: Settings) -> Iterator[Settings]:
    """Join the other processes in this block if torchrun started this one; yield its settings.

    More processes on this machine than GPUs are a SettingsError.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield settings
        return
    if settings.device == "cuda":
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise SettingsError(
                f"{here} processes, but this machine has {gpus} GPUs: ask torchrun for "
                f"--nproc-per-node {gpus}, or set COURSE_DEVICE=cpu"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        settings = replace(settings, device="cpu")  # gloo knows no other
    dist.init_process_group("nccl" if settings.device == "cuda" else "gloo")
    try:
        yield settings
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Train the course's model, or go on with it; print its accuracy."""
    with processes_of_torchrun(settings_module.load()) as config:
        first = place()[0] == 0
        dataset = load(config, announce=first)
        _, history = load_or_train(config, dataset)
        if first:
            last = history.iloc[-1]
            print(f"float model: {last.test_accuracy:.2%} after {len(history)} epochs")


if __name__ == "__main__":
    main()
