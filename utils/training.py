"""Train the float32 network: a plain loop, checkpoints after every epoch, resume bit for bit."""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from utils.data import Dataset, batches, random_shift
from utils.environment import cpu
from utils.models import ResNet18
from utils.settings import Settings, seed_everything


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, apart from the machine.

    One-cycle SGD after Smith and Topin: Super-Convergence (2019); label smoothing after Szegedy
    et al.: Rethinking the Inception Architecture (CVPR 2016), section 7.

    Attributes
    ----------
    data_source : str
    train_images : int
    epochs, batch_size : int
    peak_lr : float
        Highest learning rate of the cycle.
    warmup : float
        Share of the steps in which the learning rate rises.
    base_momentum, max_momentum : float
        The momentum falls from the higher to the lower while the learning rate rises.
    weight_decay, label_smoothing : float
    max_shift : int
        Largest random shift of an image, in pixels.
    seed : int
    """

    data_source: str
    train_images: int
    epochs: int
    batch_size: int = 128
    peak_lr: float = 0.04
    warmup: float = 0.25
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    max_shift: int = 2
    seed: int = 0

    @property
    def key(self) -> str:
        """Eight characters that stand for these values, for file names."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def recipe_for(settings: Settings, dataset: Dataset, *, short: bool = False) -> Recipe:
    """Return the course's recipe for a profile and a dataset.

    Parameters
    ----------
    settings : Settings
    dataset : Dataset
    short : bool
        The quickstart's: part of the images, once. The embedded digits are few enough to need
        no shorter one.
    """
    images = len(dataset.train_images)
    epochs = 6 if dataset.name == "mnist" else 12  # clothes and photographs are harder than digits
    if dataset.is_fallback:
        epochs = 3 if settings.quick else 8
    elif settings.quick or short:
        images, epochs = (4_000 if settings.quick else 24_000), 1
    return Recipe(dataset.source, images, epochs, seed=settings.seed)


def bf16_helps(device: str) -> bool:
    """Whether bfloat16 autocast is worth it: only where the hardware multiplies bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(
        {"avx512_bf16", "amx_bf16", "arm_bf16"} & set(cpu()["instruction_sets"])
    )


@contextlib.contextmanager
def without_padding_work(model: nn.Module) -> Iterator[None]:
    """Let convolutions on tiny maps leave out the multiplications by padding, in this block.

    On a 28x28 digit the maps of ``layer4`` are 1x1. A 3x3 kernel with padding 1 then multiplies
    one pixel and eight zeros, and its weight gradient, the slowest operation of the whole step
    on a CPU, is zero in eight of nine taps. Where every window covers the whole map, as there and
    on the 2x2 maps of ``layer3``, the convolution is a matrix product with the taps that meet
    data: the same sums and the same gradients, to rounding, without that work.
    """
    convolutions = [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
        and (m.groups, m.dilation, m.padding_mode) == (1, (1, 1), "zeros")
        and isinstance(m.padding, tuple)
    ]
    for conv in convolutions:
        conv.forward = functools.partial(_dense_conv2d, conv)
    try:
        yield
    finally:
        for conv in convolutions:
            del conv.forward


def _dense_conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    (n, _, height, width), (kernel_h, kernel_w) = x.shape, conv.kernel_size
    (stride_h, stride_w), (padding_h, padding_w) = conv.stride, conv.padding
    out_h = (height + 2 * padding_h - kernel_h) // stride_h + 1
    out_w = (width + 2 * padding_w - kernel_w) // stride_w + 1
    # The kernel row that meets the map's first row, for each output row; likewise for columns.
    rows = [padding_h - i * stride_h for i in range(out_h)]
    columns = [padding_w - i * stride_w for i in range(out_w)]
    covered = max(rows) + height <= kernel_h and max(columns) + width <= kernel_w
    if not covered or min(*rows, *columns) < 0 or conv.bias is not None:
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    kernel = conv.weight.permute(0, 2, 3, 1)  # channels last, as the data lies in memory
    parts = [kernel[:, r : r + height, c : c + width].flatten(1) for r in rows for c in columns]
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), torch.cat(parts))
    return y.view(n, out_h, out_w, -1).permute(0, 3, 1, 2)


def train(
    dataset: Dataset,
    recipe: Recipe,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    model: nn.Module | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train by ``recipe``, going on from ``checkpoint`` if that file exists.

    Parameters
    ----------
    dataset : Dataset
        The first ``recipe.train_images`` images of its training split are used.
    recipe : Recipe
    device : {"cpu", "cuda", "mps"}
        Data and model both live there for the whole run.
    checkpoint : Path, optional
        Written after every epoch, under a temporary name first.
    model : nn.Module, optional
        Instead of a freshly seeded :class:`~utils.models.ResNet18`.

    Returns
    -------
    model : nn.Module
        On the CPU, in eval mode.
    history : DataFrame
        A row an epoch: epoch, train_loss, test_loss, test_accuracy (fraction), seconds,
        images_per_second, learning_rate (at its end).

    Raises
    ------
    ValueError
        If the dataset is smaller than the recipe, or smaller than one batch.
    CheckpointError
        If the checkpoint is damaged or was made by another recipe.
    FloatingPointError
        If the loss stops being a number.
    """
    if not recipe.batch_size <= recipe.train_images <= len(dataset.train_images):
        raise ValueError(
            f"recipe wants {recipe.train_images} images in batches of {recipe.batch_size}, "
            f"the dataset has {len(dataset.train_images)}"
        )
    seed_everything(recipe.seed)
    if model is None:
        model = ResNet18(len(dataset.classes), dataset.train_images.shape[1])
    model = model.to(device, memory_format=torch.channels_last)
    # The test split stays out of the choice of weights: it is only watched.
    data = dataset.head(recipe.train_images).to(device)
    normalize = dataset.normalizer()
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.peak_lr,
        recipe.max_momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=device != "mps",
    )
    steps = recipe.train_images // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.peak_lr,
        total_steps=recipe.epochs * steps,
        pct_start=recipe.warmup,
        base_momentum=recipe.base_momentum,
        max_momentum=recipe.max_momentum,
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    history = []
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, recipe)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        history = state["history"]
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        loss = _train_epoch(model, data, recipe, normalize, optimizer, schedule, generator, epoch)
        seconds = time.perf_counter() - start
        logits = predict(model, normalize(data.test_images))
        history.append(
            {
                "epoch": epoch,
                "train_loss": loss,
                "test_loss": F.cross_entropy(logits, data.test_labels).item(),
                "test_accuracy": accuracy(logits, data.test_labels),
                "seconds": seconds,
                "images_per_second": steps * recipe.batch_size / seconds,
                "learning_rate": schedule.get_last_lr()[0],
            }
        )
        if checkpoint is not None:
            save_atomically(
                {
                    "recipe": asdict(recipe),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "generator": generator.get_state(),
                    "torch_rng": torch.get_rng_state(),
                    "history": history,
                    "trained_on": device,
                },
                checkpoint,
            )
    model = model.to("cpu", memory_format=torch.contiguous_format).eval()
    return model, pd.DataFrame(history)


def _train_epoch(model, data, recipe, normalize, optimizer, schedule, generator, epoch) -> float:
    """One pass over the shuffled data; returns the mean loss."""
    device = data.train_images.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16_helps(device.type))
    order = torch.randperm(len(data.train_images), generator=generator).to(device)
    steps = recipe.train_images // recipe.batch_size
    total = torch.zeros((), device=device)
    model.train()
    bar = tqdm(
        order[: steps * recipe.batch_size].split(recipe.batch_size),
        desc=f"epoch {epoch}/{recipe.epochs}",
        unit="img",
        unit_scale=recipe.batch_size,
        leave=False,
    )
    with without_padding_work(model):
        for step, chosen in enumerate(bar, start=1):
            images = random_shift(data.train_images[chosen], recipe.max_shift, generator)
            with autocast:
                logits = model(normalize(images))
                loss = F.cross_entropy(
                    logits, data.train_labels[chosen], label_smoothing=recipe.label_smoothing
                )
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
    return total.item() / steps


def predict(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Return the logits of normalised images, in eval mode and without gradients.

    Parameters
    ----------
    model : nn.Module
        Left in eval mode.
    images : Tensor
        float32, shape (N, C, H, W).

    Returns
    -------
    Tensor
        float32, shape (N, classes).

    Raises
    ------
    ValueError
        If there are no images.
    """
    if not len(images):
        raise ValueError("no images to classify: the slice or the data set is empty")
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch).float() for batch in batches(images, size=batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share (0 to 1) of rows whose largest logit is at the label."""
    return (logits.argmax(1) == labels).double().mean().item()


def save_atomically(state: object, path: Path) -> None:
    """``torch.save`` under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, recipe: Recipe) -> dict:
    """Read a checkpoint with ``weights_only=True`` and compare its recipe.

    Raises
    ------
    CheckpointError
        If it cannot be read, or was made by another recipe; the message lists the differences.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        made_by = state["recipe"]
    except Exception as error:
        raise CheckpointError(
            f"{path.name} in {path.parent.name}/ is not a readable checkpoint "
            f"({type(error).__name__}): delete it and train again."
        ) from error
    wanted = asdict(recipe)
    different = {
        name: (made_by.get(name), wanted.get(name))
        for name in sorted(made_by.keys() | wanted.keys())
        if made_by.get(name) != wanted.get(name)
    }
    if different:
        listed = "; ".join(f"{k}: {was!r}, wanted {now!r}" for k, (was, now) in different.items())
        raise CheckpointError(
            f"{path.name} was made by another recipe ({listed}): delete it and train again, or ask "
            f"for the recipe that made it."
        )
    return state


def checkpoint_path(settings: Settings, recipe: Recipe) -> Path:
    """Return where the model of this recipe is kept."""
    return settings.artifacts_dir / f"resnet18-{recipe.key}.pt"


def load_or_train(
    settings: Settings, dataset: Dataset, *, short: bool = False
) -> tuple[nn.Module, pd.DataFrame]:
    """Return the course's float model, trained now if it was not before.

    Parameters
    ----------
    settings : Settings
    dataset : Dataset
    short : bool
        See :func:`recipe_for`.

    Returns
    -------
    model : nn.Module
        On the CPU, in eval mode.
    history : DataFrame
        As :func:`train` returns it.
    """
    recipe = recipe_for(settings, dataset, short=short)
    return train(
        dataset, recipe, device=settings.device, checkpoint=checkpoint_path(settings, recipe)
    )
