"""Fewer than eight bits: rounding, repairs, mixed precision, packed files and integer kernels.

Weights are symmetric, ``r-hat = S q`` with q from -2^(b-1) to 2^(b-1) - 1; activations are affine,
``r-hat = S (q - Z)`` with q from 0 to 2^b - 1. The arithmetic itself stays float32.
"""

import copy
import io
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from torch.func import functional_call
from torch.nn import functional as F

from utils import files, training
from utils import quantization as ptq
from utils.models import BasicBlock, hooked, layers_of, tq

RANGES = ("min-max", "least squared error", "percentile")
MAGIC, VERSION, HEADER = b"LOWBIT", 1, struct.Struct("<6sBxI")  # the last: CRC-32


class PackedError(ValueError):
    """A packed file is not one, is damaged, or has another version; the message says which."""


@dataclass(frozen=True)
class Quantized:
    """A layer's weight: int8 codes in the weight's shape, float32 scales of shape (n,).

    n is 1, or the number of output channels, or of groups; each has an equal part of the codes.
    """

    codes: Tensor
    scale: Tensor
    bits: int

    @property
    def weight(self) -> Tensor:
        """Return ``S q``, float32."""
        return self.codes * _steps(self.scale, self.codes)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the fused layers that have weights, by name; a fused pair is one layer."""
    return layers_of(model, ConvReLU2d, nn.Conv2d, nn.Linear)


def core(layer: nn.Module) -> nn.Module:
    """Return the convolution or linear layer of a layer that may be fused with a ReLU."""
    return layer[0] if isinstance(layer, ConvReLU2d) else layer


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer that may be fused with a ReLU, without gradients."""
    return core(model.get_submodule(name)).weight.data


def limits(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest code of a weight; ValueError for bits not in 2 to 8."""
    if bits not in range(2, 9):
        raise ValueError(f"bits={bits}: weights have 2 to 8 bits")
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def scales(
    weight: Tensor, bits: int, ranges: str = "min-max", per: str | int = "channel"
) -> Tensor:
    """Return ``S = 2 max|r| / (2^b - 1)`` of every channel or group, or one for all: shape (n,).

    ``per`` is "channel", "tensor", or the size of a group: so many neighboring weights of one
    channel, as they lie in memory. A channel that cannot be divided by it stays one group.

    The largest absolute weight is replaced by its 99th percentile (Wu et al.: Integer Quantization
    for Deep Learning Inference, 2020, section 3.4), or by the part of it that has the least squared
    error (Nagel et al.: A White Paper on Neural Network Quantization, 2021, section 3.1).
    ValueError for a choice that is not in ``RANGES``, or another ``per``.
    """
    if ranges not in RANGES or not (per in ("channel", "tensor") or isinstance(per, int)):
        raise ValueError(f"{ranges!r} per {per!r}: choose one of {RANGES}, per channel or tensor")
    low, high = limits(bits)
    channel = weight[0].numel()
    size = {"tensor": weight.numel(), "channel": channel}.get(per, per)
    rows = weight.detach().reshape(-1, channel if per != "tensor" and channel % size else size)
    largest = rows.abs().amax(1)
    if ranges == "percentile":
        largest = torch.from_numpy(np.quantile(rows.abs().numpy(), 0.99, axis=1)).float()
    step = (largest / ((high - low) / 2)).clamp(min=torch.finfo(torch.float32).eps)
    if ranges == "least squared error":
        tried = [step * part for part in torch.linspace(1, 0.2, 41)]
        errors = [
            (rows - _codes(rows, _steps(s, rows), bits) * s[:, None]).square().sum(1) for s in tried
        ]
        step = torch.stack(tried)[torch.stack(errors).argmin(0), torch.arange(len(rows))]
    return step


def quantize(
    model: nn.Module,
    bits: int | Mapping[str, int],
    ranges: str = "min-max",
    per: str | int = "channel",
) -> dict[str, Quantized]:
    """Round every weight of a fused model to the nearest code (Jacob et al. 2018, section 2.1).

    ``bits`` may differ by layer; layers that the mapping does not name are left out. Ranges and
    errors as for :func:`scales`.
    """
    made = {}
    for name, layer in layers(model).items():
        if width := bits.get(name) if isinstance(bits, Mapping) else bits:
            weight = core(layer).weight.detach()
            step = scales(weight, width, ranges, per)
            codes = _codes(weight, _steps(step, weight), width).to(torch.int8)
            made[name] = Quantized(codes, step, width)
    return made


def with_weights(model: nn.Module, quantized: Mapping[str, Quantized]) -> nn.Module:
    """Return a copy of a fused float model that computes with these weights."""
    coarse = copy.deepcopy(model)
    for name, layer in layers(coarse).items():
        if name in quantized:
            core(layer).weight.data = quantized[name].weight
    return coarse


def with_activations(model: nn.Module, images: Tensor, bits: int) -> nn.Module:
    """Return a copy of a fused model whose activations are rounded to 2^bits affine codes.

    Ranges are the minimum and maximum on ``images`` (Krishnamoorthi: Quantizing Deep Convolutional
    Networks for Efficient Inference, 2018, sections 2.5 and 3.1.2). Logits stay float32: no layer
    computes with them.
    """
    fake = tq.FakeQuantize.with_args(
        observer=tq.MinMaxObserver, quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8
    )
    prepared = ptq.prepare(model, qconfig=tq.QConfig(fake, tq.default_weight_observer))
    prepared.apply(tq.disable_fake_quant)
    ptq.calibrate(prepared, images)
    for linear in layers_of(prepared, nn.Linear).values():
        linear.activation_post_process = nn.Identity()
    return prepared.apply(tq.disable_observer).apply(tq.enable_fake_quant)


def to_int8(
    model: nn.Module, quantized: Mapping[str, Quantized], images: Tensor, qconfig=None
) -> nn.Module:
    """Return the int8 network whose weights are exactly these codes and scales.

    int8 kernels compute with any codes of 2 to 8 bits. ``model`` is the fused float network that
    the codes stand for, with its biases; activations are calibrated on ``images`` with the
    engine's observers, or the qconfig's. Every layer needs codes, with one scale for each channel,
    or one for all.
    """
    prepared = ptq.prepare(with_weights(model, quantized), qconfig=qconfig)
    ptq.calibrate(prepared, images)
    int8 = ptq.convert(prepared)
    for name, made in quantized.items():
        layer, scale = int8.get_submodule(name), made.scale.double().expand(len(made.codes))
        scale = scale.clamp(min=torch.finfo(torch.float32).eps)  # of a channel without weights
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(made.codes, scale, zeros, 0)
        layer.set_weight_bias(weight, layer.bias())
    return int8


def equalize(model: nn.Module) -> nn.Module:
    """Return a copy of a fused ResNet with evenly large weights inside its blocks.

    Behind a block's first convolution stands a ReLU, and ``relu(x / s) = relu(x) / s``: what writes
    channel c is divided by ``s = sqrt(r1 r2) / r2``, and what reads it is multiplied by s, so that
    the network computes the same. r1 and r2 are the largest absolute weights that write and read
    the channel (Nagel et al.: Data-Free Quantization, ICCV 2019, section 4.1). Channels that only
    zeros write or read stay as they are.
    """
    even = copy.deepcopy(model)
    for (first, one), (second, two) in itertools.pairwise(layers(even).items()):
        if second.startswith(first.split("conv1")[0] + "conv2"):
            writes, reads = core(one), core(two).weight.data
            r1 = writes.weight.detach().abs().flatten(1).amax(1)
            r2 = reads.abs().transpose(0, 1).flatten(1).amax(1)
            s = torch.where(r1 * r2 > 0, (r1 * r2).sqrt() / r2, 1)
            writes.weight.data /= s.view(-1, 1, 1, 1)
            writes.bias.data /= s
            reads *= s.view(1, -1, 1, 1)
    return even


def inputs_of(
    model: nn.Module, images: Tensor, modules: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Return what every layer, or every one of the modules, receives when the model sees images."""
    found, met = {}, layers(model) if modules is None else modules
    with torch.no_grad(), hooked(met, before=lambda n, _, x: found.update({n: x[0]})):
        model(images)
    return found


def adaround(
    layer: nn.Module, x: Tensor, target: Tensor, start: Quantized, steps: int = 100, rate=0.05
) -> Tensor:
    """Learn for the weights of a layer whether to round down or up; return int8 codes.

    Nagel et al.: Up or Down? Adaptive Rounding for Post-Training Quantization (ICML 2020), eqs.
    22 to 25: ``S clip(floor(W/S) + h(V), n, p)``, the error behind the activation function,
    ``|f(W x) - f(W-hat x-hat)|^2``, and the regularizer with beta from 20 to 2. ``x`` is x-hat,
    ``target`` is f(W x). Adam; 64 inputs per step, drawn with a fixed seed. Weights that meet only
    padding in ``x`` keep the codes of ``start``.
    """
    return _learn_rounding(layer, x, target, {"": start}, steps, rate)[""]


@torch.enable_grad()
def _learn_rounding(
    module: nn.Module,
    x: Tensor,
    target: Tensor,
    start: Mapping[str, Quantized],
    steps: int,
    rate: float,
) -> dict[str, Tensor]:
    """Learn the rounding of these layers of a module together, so that its output is the target."""
    place = {id(parameter): name for name, parameter in module.named_parameters()}
    inner, met = layers(module), inputs_of(module, x[:1])
    roundings = {
        name: _Rounding(core(inner[name]), met[name], made) for name, made in start.items()
    }
    optimizer = torch.optim.Adam([one.v for one in roundings.values()], rate, fused=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(steps):
        chosen = torch.randint(len(x), (min(64, len(x)),), generator=generator)
        rounded, penalty, beta = {}, 0, 20 - 18 * (number / steps - 0.2) / 0.8
        for one in roundings.values():
            h = rectified_sigmoid(one.v)
            rounded[place[id(one.layer.weight)]] = one.weight(h)
            if number >= steps // 5:  # the first fifth is without the regularizer
                penalty = penalty + 0.01 * rounding_penalty(h, beta)
        with training.without_padding_work(module):
            wrong = functional_call(module, rounded, (x[chosen],)) - target[chosen]
        loss = wrong.square().sum(1).mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: one.codes() for name, one in roundings.items()}


class _Rounding:
    """What is learned of one layer: V, for the taps of its kernel that meet data.

    A weight that meets nothing but zeros of the padding has no gradient but the regularizer's,
    which would push it to the nearest code: it keeps the code of ``start``, which is this one if
    the start is :func:`quantize`'s. On tiny maps these are most weights.
    """

    def __init__(self, layer: nn.Module, x: Tensor, start: Quantized):
        self.layer, self.start = layer, start
        self.taps = torch.arange(layer.weight[0, 0].numel())
        if getattr(layer, "padding_mode", "") == "zeros" and not isinstance(layer.padding, str):
            self.taps = _patches(layer, torch.ones_like(x[:1, :1])).amax((0, 2)).nonzero()[:, 0]
        self.step = self._met(_steps(start.scale, layer.weight))
        real = self._met(layer.weight.detach()) / self.step
        self.down = real.floor()
        self.v = torch.logit((real - self.down + 0.1) / 1.2).requires_grad_()

    def weight(self, h: Tensor) -> Tensor:
        """Return ``S clip(floor(W/S) + h, n, p)`` where V is learned, else the start's weight."""
        return self._put(self.start.weight, self.step * self._clipped(h))

    def codes(self) -> Tensor:
        """Return the codes, int8, with every weight rounded to the side that V chooses."""
        return self._put(self.start.codes, self._clipped(self.v.detach() >= 0).to(torch.int8))

    def _clipped(self, up: Tensor) -> Tensor:
        return (self.down + up).clamp(*limits(self.start.bits))

    def _met(self, whole: Tensor) -> Tensor:
        return whole.flatten(2)[..., self.taps] if whole.ndim > 2 else whole

    def _put(self, whole: Tensor, met: Tensor) -> Tensor:
        if whole.ndim < 3:
            return met
        return whole.flatten(2).index_copy(2, self.taps, met).view(whole.shape)


def rectified_sigmoid(v: Tensor) -> Tensor:
    """Return ``h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)`` (Nagel et al. 2020, eq. 23)."""
    return (1.2 * v.sigmoid() - 0.1).clamp(0, 1)


def rounding_penalty(h: Tensor, beta: float) -> Tensor:
    """Return ``sum 1 - |2 h - 1|^beta``: 0 if every h is 0 or 1 (Nagel et al. 2020, eq. 24)."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def gptq(layer: nn.Module, x: Tensor, _target: Tensor | None, start: Quantized) -> Tensor:
    """Round column after column, and let the columns to come make up for the error; int8 codes.

    Frantar et al.: GPTQ (ICLR 2023), section 4, algorithm 1, with ``H = 2 X X^T`` over the patches
    of a convolution, damped by 1 % of its mean diagonal. A column that meets only zeros gets the
    code 0, as in the authors' program.
    """
    module = core(layer)
    if isinstance(module, nn.Conv2d):
        x = _patches(module, x).transpose(1, 2)
    patches = x.flatten(0, -2)
    hessian = 2 * patches.T @ patches
    live = hessian.diagonal() > 0
    hessian = hessian[live][:, live]
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    columns = module.weight.detach().flatten(1).T
    steps = _steps(start.scale, module.weight).flatten(1).T
    rest, codes = columns[live].clone(), torch.zeros_like(columns)
    for number, place in enumerate(live.nonzero().flatten()):
        codes[place] = _codes(rest[number], steps[place], start.bits)
        error = (rest[number] - codes[place] * steps[place]) / upper[number, number]
        rest[number + 1 :] -= upper[number, number + 1 :, None] * error
    return codes.T.reshape(module.weight.shape).to(torch.int8)


def repair(
    model: nn.Module, images: Tensor, start: Mapping[str, Quantized], method: Callable, **options
) -> dict[str, Quantized]:
    """Round layer by layer with :func:`adaround` or :func:`gptq`, in one pass over the images.

    When a layer's turn comes, the layers before it are repaired already: its input is x-hat. Its
    target is the float layer's output in the float network (Nagel et al. 2020, eq. 25).
    ``options`` go to the method. Layers that ``start`` does not name stay float32.
    """

    def learn(layer: nn.Module, x: Tensor, target: Tensor, made: dict) -> dict[str, Tensor]:
        return {"": method(layer, x, target, made[""], **options)}

    return _repair(model, images, start, layers(model), learn)


def repair_blocks(
    model: nn.Module, images: Tensor, start: Mapping[str, Quantized], steps: int = 100, rate=0.05
) -> dict[str, Quantized]:
    """Round block by block: all layers of a residual block learn together to meet its output.

    Li et al.: BRECQ (ICLR 2021). Rounding and regularizer are those of :func:`adaround`, the input
    is what the repaired network hands on, and the target is the block's output behind its last ReLU
    in the float network. The paper weighs the squared error by the Fisher information of that
    output; this function leaves the weights out. Layers outside the blocks are rounded one by one.
    """
    blocks = layers_of(model, BasicBlock)
    inside = {f"{block}.{name}" for block, module in blocks.items() for name in layers(module)}
    single = {name: layer for name, layer in layers(model).items() if name not in inside}
    learn = partial(_learn_rounding, steps=steps, rate=rate)
    return _repair(model, images, start, blocks | single, learn)


def _repair(
    model: nn.Module,
    images: Tensor,
    start: Mapping[str, Quantized],
    units: Mapping[str, nn.Module],
    learn: Callable,
) -> dict[str, Quantized]:
    exact, done, coarse = inputs_of(model, images, units), {}, copy.deepcopy(model)

    def round_now(unit: str, module: nn.Module, inputs: tuple) -> None:
        inner = layers(module)
        full = {part: f"{unit}.{part}".removesuffix(".") for part in inner}
        made = {part: start[name] for part, name in full.items() if name in start}
        if made:
            target = units[unit](exact.pop(unit))
            for part, codes in learn(units[unit], inputs[0], target, made).items():
                done[full[part]] = replace(made[part], codes=codes)
                core(inner[part]).weight.data = done[full[part]].weight

    chosen = {name: coarse.get_submodule(name) for name in units}
    with torch.no_grad(), hooked(chosen, before=round_now):
        coarse(images)
    return done


def correct_bias(model: nn.Module, coarse: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of ``coarse`` whose layers have the float model's mean outputs.

    ``b - (E[W-hat x-hat] - E[W x])`` for every channel, before the activation function, from data
    and in order (Nagel et al.: Data-Free Quantization, ICCV 2019, section 4.2 and appendix D).
    """
    exact, corrected = {}, copy.deepcopy(coarse)

    def keep(name: str, _module: nn.Module, _inputs: tuple, y: Tensor) -> None:
        exact[name] = y.transpose(0, 1).flatten(1).mean(1)

    def correct(name: str, module: nn.Module, _inputs: tuple, y: Tensor) -> None:
        shift = y.transpose(0, 1).flatten(1).mean(1) - exact[name]
        module.bias.data -= shift
        y -= shift.view(-1, *[1] * (y.ndim - 2))  # so that the next layers see it, too

    for network, look in ((model, keep), (corrected, correct)):
        watched = {name: core(layer) for name, layer in layers(network).items()}
        with torch.no_grad(), hooked(watched, look):
            network(images)
    return corrected


def correct_bias_analytically(
    model: nn.Module, coarse: nn.Module, unfused: nn.Module, image_shape: tuple[int, int, int]
) -> nn.Module:
    """Return a copy of ``coarse`` with corrected biases, from batch norms instead of images.

    ``b - (W-hat - W) E[x]``, summed over the taps (Nagel et al.: Data-Free Quantization, ICCV 2019,
    section 4.2 and appendices B and C). E[x] is :func:`mean_behind_relu` of the layer's input, so
    only a layer that reads a convolution, batch norm and ReLU directly can be corrected: in
    ResNet-18, the second convolution of each block. (The first one of all blocks reads an addition,
    or a max-pooling, which changes the mean.) The formula takes the input of the coarse network to
    have the float network's mean.

    ``unfused`` is the trained network that still has its batch norms; ``model`` is the same one,
    fused, and perhaps specialized, as ``coarse`` is. The shape (channels, height, width) tells how
    often each tap meets padding, where it adds nothing.
    """
    corrected, blocks = copy.deepcopy(coarse), layers_of(model, BasicBlock)
    second = {name: block.conv2 for name, block in blocks.items()}
    met = inputs_of(model, torch.zeros(1, *image_shape), second)
    for name, exact in second.items():
        rounded = corrected.get_submodule(name).conv2
        mean = mean_behind_relu(unfused.get_submodule(name).bn1)
        mean = mean.view(1, -1, 1, 1).expand_as(met[name])
        with torch.no_grad():
            shift = (rounded(mean) - exact(mean)).mean((0, 2, 3))
        (layer,) = layers(rounded).values()
        layer.bias.data -= shift
    return corrected


def mean_behind_relu(norm: nn.BatchNorm2d) -> Tensor:
    """Return the mean of each channel behind a batch norm and a ReLU.

    A channel behind the norm has the mean beta and the standard deviation |gamma|. If it is normal,
    the ReLU's output has the mean ``|gamma| N(beta / |gamma|) + beta Phi(beta / |gamma|)``, with
    the density N and the distribution function Phi of the standard normal distribution (Nagel et
    al. 2019, appendix C).
    """
    mean, deviation = norm.bias.detach(), norm.weight.detach().abs()
    ratio = mean / deviation.clamp(min=torch.finfo(torch.float32).tiny)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    return deviation * density + mean * torch.special.ndtr(ratio)


def sensitivity(
    model: nn.Module, images: Tensor, widths: Iterable[int], ranges: str = "min-max"
) -> pd.DataFrame:
    """Return how far the logits move when one layer alone has few bits: layers by bits.

    The mean squared distance per image, as in Hubara et al.: Accurate Post Training Quantization
    With Small Calibration Sets (ICML 2021), section 4.
    """
    table = {}
    with torch.no_grad():
        exact = model(images)
        for bits in widths:
            for name, made in quantize(model, bits, ranges).items():
                moved = with_weights(model, {name: made})(images) - exact
                table.setdefault(bits, {})[name] = moved.square().sum(1).mean().item()
    return pd.DataFrame(table)


def allocate(loss: pd.DataFrame, size: pd.DataFrame, budget: float) -> dict[str, int]:
    """Choose each layer's bits: the least total loss within ``budget`` bytes, exactly.

    The knapsack problem of Yao et al.: HAWQ-V3 (ICML 2021), solved by dynamic programming instead
    of an integer program. ``loss`` and ``size`` (bytes) are layers by bits.
    ValueError if even the smallest choice is over the budget.
    """
    in_bits = (8 * size.loc[loss.index, loss.columns]).round().astype(int)
    unit = int(np.gcd.reduce(in_bits.to_numpy().ravel()))
    steps = in_bits.to_numpy() // unit
    best = np.zeros(int(8 * budget / unit + 1e-9) + 1)  # least loss of the layers so far, by size
    chosen = np.zeros((len(loss), len(best)), np.int8)
    for layer, (losses, weights) in enumerate(zip(loss.to_numpy(float), steps, strict=True)):
        found = np.full((len(losses), len(best)), np.inf)
        for choice, (extra, step) in enumerate(zip(losses, weights, strict=True)):
            found[choice, step:] = best[: max(0, len(best) - step)] + extra
        chosen[layer], best = found.argmin(0), found.min(0)
    if not np.isfinite(best[-1]):
        least = int(np.ceil(size.min(axis=1).sum()))
        raise ValueError(f"budget={budget}: at least {least} bytes are needed")
    left, bits = len(best) - 1, {}
    for layer in reversed(range(len(loss))):
        choice = chosen[layer, left]
        bits[loss.index[layer]] = int(loss.columns[choice])
        left -= steps[layer, choice]
    return {name: bits[name] for name in loss.index}


def pack(path: Path, quantized: Mapping[str, Quantized], biases: Mapping[str, Tensor]) -> int:
    """Store each code in its bits, scales and biases in float32; return the file's size in bytes.

    A header (magic, version, CRC-32), then NumPy's .npz format. Written atomically.
    """
    arrays = {}
    for name, layer in quantized.items():
        unsigned = (layer.codes.numpy().reshape(-1, 1) - limits(layer.bits)[0]).astype(np.uint8)
        digits = np.unpackbits(unsigned, axis=1)[:, 8 - layer.bits :]
        arrays[f"{name}/shape"] = np.array([layer.bits, *layer.codes.shape])
        arrays[f"{name}/codes"] = np.packbits(digits)
        arrays[f"{name}/scale"] = layer.scale.numpy()
        arrays[f"{name}/bias"] = biases[name].detach().numpy()
    np.savez(body := io.BytesIO(), **arrays)
    head = HEADER.pack(MAGIC, VERSION, zlib.crc32(body.getvalue()))
    write = partial(Path.write_bytes, data=head + body.getvalue())
    return files.write_atomically(path, write).stat().st_size


def unpack(path: Path) -> tuple[dict[str, Quantized], dict[str, Tensor]]:
    """Return what :func:`pack` stored: the same integers, scales and biases.

    Raises PackedError if the file is of another kind or version, truncated or damaged.
    """
    content = path.read_bytes()
    if not content.startswith(MAGIC) or len(content) < HEADER.size:
        raise PackedError(f"{path.name} is not a packed model: pack() the weights again")
    _, version, checksum = HEADER.unpack_from(content)
    if version != VERSION:
        raise PackedError(f"{path.name} has version {version}; this program reads {VERSION}")
    if zlib.crc32(content[HEADER.size :]) != checksum:
        raise PackedError(f"{path.name} is damaged or truncated: copy it or pack() it again")
    arrays = np.load(io.BytesIO(content[HEADER.size :]))
    quantized, biases = {}, {}
    for name in dict.fromkeys(key.partition("/")[0] for key in arrays):
        bits, *shape = arrays[f"{name}/shape"].tolist()
        digits = np.unpackbits(arrays[f"{name}/codes"], count=bits * math.prod(shape))
        padded = np.pad(digits.reshape(-1, bits), ((0, 0), (8 - bits, 0)))
        codes = np.packbits(padded, axis=1).astype(np.int16).reshape(shape) + limits(bits)[0]
        scale = torch.from_numpy(arrays[f"{name}/scale"])
        quantized[name] = Quantized(torch.from_numpy(codes.astype(np.int8)), scale, bits)
        biases[name] = torch.from_numpy(arrays[f"{name}/bias"])
    return quantized, biases


def _patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what each weight of an output channel meets: (N, weights, positions)."""
    return F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)


def _steps(scale: Tensor, like: Tensor) -> Tensor:
    return scale.repeat_interleave(like.numel() // len(scale)).view(like.shape)


def _codes(weight: Tensor, steps: Tensor, bits: int) -> Tensor:
    # PyTorch's kernels multiply by the reciprocal; so do we, to get their codes.
    return (weight * (1 / steps)).round().clamp(*limits(bits))
