"""int8 inference in integers: NumPy alone, and the same bits as PyTorch's fbgemm kernels.

Symbols are those of Jacob et al.: Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference (CVPR 2018), section 2.1: a real number r is stored as the code
q, ``r = S (q - Z)``, with scale S and zero point Z. Indices x, w and y stand for input, weight and
output of a layer. Images are channels last, (N, H, W, C), as the kernels see them: then a patch of
an image is a row of a matrix, and a convolution is one matrix product.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.ao.nn.intrinsic.quantized as nniq
import torch.ao.nn.quantized as nnq
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from utils import quantization as ptq
from utils.data import batches

CHOICES = {
    "rounding": ("half even", "half away"),
    "padding": ("zero point", "zero"),
    "bias": ("float32", "int32"),
    "multiplier": ("float32", "fixed point"),
    "accumulator": ("int32", "int16 pairs"),
}
INT16 = np.iinfo(np.int16)
BATCH = 250  # images at a time: their patches take some hundred megabytes
ADD_SHIFT = 20  # bits by which codes move left before two of them are added in fixed point
Stride = int | tuple[int, int]  # of both axes, or of rows and columns
Padding = int | tuple[int, ...]  # of every side, or left, right, top, bottom; negative: cut off


@dataclass(frozen=True)
class Arithmetic:
    """Every choice that decides the bits, out of :data:`CHOICES`. The default is fbgemm's."""

    rounding: str = "half even"  # where a real number halfway between two codes goes
    padding: str = "zero point"  # the code around an image; Z_x stands for the real number 0
    bias: str = "float32"  # added as a fraction to the accumulator, or rounded before
    multiplier: str = "float32"  # or an int32 and a shift, which round by a rule of their own
    # Or every two neighboring products saturate an int16 first, as in the instruction vpmaddubsw of
    # processors without VNNI.
    accumulator: str = "int32"

    def __post_init__(self):
        for name, value in vars(self).items():
            if value not in CHOICES[name]:
                known = ", ".join(CHOICES[name])
                raise ValueError(f"{name}={value!r} is unknown; known: {known}")
        if self.multiplier == "fixed point" and self.bias != "int32":
            raise ValueError("multiplier='fixed point' leaves no fractions: choose bias='int32'")


FBGEMM = Arithmetic()
FIXED_POINT = Arithmetic(bias="int32", multiplier="fixed point")


@dataclass(frozen=True)
class Quantized:
    """Codes, uint8 of shape (N, H, W, C) or (N, C), and what they stand for."""

    q: ndarray
    scale: np.float32
    zero_point: int

    def dequantize(self) -> ndarray:
        """Return ``S (q - Z)``, float32 (Jacob et al. 2018, equation 1)."""
        return self.scale * (self.q.astype(np.int32) - self.zero_point).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, with the batch norm folded in."""

    weight: ndarray  # int8, (outputs, kernel height, kernel width, inputs); symmetric, Z_w = 0
    weight_scale: ndarray  # float32, (outputs,): one S_w for each output channel
    bias: ndarray  # float32, (outputs,), in real units
    scale: np.float32  # S_y
    zero_point: int  # Z_y
    relu: bool = False  # whether one is fused in
    stride: Stride = 1
    padding: Padding = 0

    def accumulate(self, x: Quantized, arithmetic: Arithmetic = FBGEMM) -> ndarray:
        """Return the int32 sums ``sum (q_x - Z_x) q_w``, before bias and requantization.

        Expanded, this is ``sum q_x q_w - Z_x sum q_w`` (Jacob et al. 2018, equation 7, with
        Z_w = 0); the second sum is a constant of the layer. From the shape (N, H, W, inputs) to
        (N, H', W', outputs), or (N, inputs) to (N, outputs) for a linear layer. A ValueError says
        if the number of input channels does not fit.
        """
        outputs, height, width, inputs = self.weight.shape
        if x.q.shape[-1] != inputs:
            raise ValueError(f"the layer takes {inputs} channels, the input has {x.q.shape[-1]}")
        weight, rows = self.weight.reshape(outputs, -1), x.q
        if x.q.ndim == 4:
            fill = x.zero_point if arithmetic.padding == "zero point" else 0
            rows = patches(x.q, (height, width), self.stride, self.padding, fill)
        total = integer_product(rows, weight)
        if arithmetic.accumulator == "int16 pairs":
            total -= saturation_loss(rows, weight)
        return total - x.zero_point * weight.sum(1, dtype=np.int32)

    def requantize(self, total: ndarray, input_scale: np.float32, arithmetic=FBGEMM) -> ndarray:
        """Turn int32 sums, whose last axis is the channels, into the uint8 codes of the output.

        ``q_y = Z_y + round(M (sum + b / (S_x S_w)))`` with ``M = S_x S_w / S_y`` (Jacob et al.
        2018, equations 4 and 5), clamped to 0 to 255, or to Z_y to 255 after a ReLU: code Z_y is
        the real number 0. fbgemm computes each factor, product and sum in float32, in this order.
        """
        unit = input_scale * self.weight_scale  # what an accumulator's 1 is worth
        bias = self.bias / unit
        if arithmetic.bias == "int32":
            bias = np.rint(bias).astype(np.int32)
        if arithmetic.multiplier == "fixed point":
            codes = multiply(total + bias, *fixed_point(unit.astype(float) / float(self.scale)))
        else:
            real = total.astype(np.float32) + bias.astype(np.float32)
            codes = round_to(real * (unit / self.scale), arithmetic.rounding)
        return _codes(codes, self.zero_point, self.zero_point if self.relu else 0)

    def __call__(self, x: Quantized, arithmetic: Arithmetic = FBGEMM) -> Quantized:
        """Map codes to codes; shapes as for :meth:`accumulate`."""
        q = self.requantize(self.accumulate(x, arithmetic), x.scale, arithmetic)
        return Quantized(q, self.scale, self.zero_point)


def quantize(r: ndarray, scale: np.float32, zero_point: int) -> Quantized:
    """Return the codes ``clamp(round(r / S) + Z, 0, 255)`` (Jacob et al. 2018, equation 12).

    As the kernels do, by a product with float32(1 / S), rounding half to even.
    """
    scale = np.float32(scale)
    return Quantized(_codes(np.rint(r * (np.float32(1) / scale)), zero_point), scale, zero_point)


def patches(
    q: ndarray, kernel: tuple[int, int], stride: Stride, padding: Padding, fill: int
) -> ndarray:
    """Lay every patch that a kernel meets in a row ("im2col").

    From codes of shape (N, H, W, C) to (N, H', W', height * width * C), in the order of the
    kernel's rows, columns and channels. ``kernel`` is (height, width), ``fill`` the code of the
    padding.
    """
    rows = _windows(q, kernel, stride, padding, fill).transpose(0, 1, 2, 4, 5, 3)
    return rows.reshape(*rows.shape[:3], -1)


def integer_product(rows: ndarray, weight: ndarray) -> ndarray:
    """Return the exact integer products ``rows @ weight.T``.

    They are carried out in floating point, for which NumPy has much faster code than for integers.
    A float32 holds every integer up to 2**24 exactly, a float64 up to 2**53. No partial sum, in
    whatever order, can exceed ``max(rows) max_c sum_k |w_ck|``: where this bound is below 2**24,
    float32 rounds nothing; elsewhere float64 is used.

    From uint8 rows (..., K) and int8 weights (outputs, K) to int32 (..., outputs), which does not
    overflow for K below 2**31 / (255 * 128) = 65,793.
    """
    largest = int(rows.max(initial=0)) * int(np.abs(weight.astype(np.int32)).sum(1).max(initial=0))
    real = np.float32 if largest < 2**24 else np.float64
    product = rows.reshape(-1, rows.shape[-1]).astype(real) @ weight.T.astype(real)
    return product.astype(np.int32).reshape(*rows.shape[:-1], -1)


def saturation_loss(rows: ndarray, weight: ndarray) -> ndarray:
    """Return what the sums lose when neighboring products are added in a saturating int16.

    ``vpmaddubsw`` multiplies uint8 by int8 and adds pairs of products, in int16. Such a pair can
    leave the int16 only if both weights have one sign and ``max(q_x) |w1 + w2| > 32767``: the few
    pairs for which that holds are looked at one by one. Columns 2k and 2k + 1 are a pair, an odd
    last one stands alone. The result, exact sum minus saturated sum, has the shape of
    :func:`integer_product`.
    """
    even = rows.shape[-1] // 2 * 2
    columns = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]).T)
    first, second = (weight[:, start:even:2].astype(np.int32) for start in (0, 1))
    most = int(rows.max(initial=0))
    risky = (first * second > 0) & (most * np.abs(first + second) > INT16.max)
    loss = np.zeros((len(weight), columns.shape[1]), dtype=np.int32)
    for channel, k in zip(*np.nonzero(risky), strict=True):
        pair = columns[2 * k] * first[channel, k] + columns[2 * k + 1] * second[channel, k]
        loss[channel] += pair - np.clip(pair, INT16.min, INT16.max)
    return loss.T.reshape(*rows.shape[:-1], -1)


def round_to(real: ndarray, rounding: str) -> ndarray:
    """Round to whole numbers, int32: ties to the even neighbor, or away from zero."""
    if rounding == "half even":
        return np.rint(real).astype(np.int32)
    return np.trunc(real + np.copysign(np.float64(0.5), real)).astype(np.int32)


def fixed_point(multiplier: ndarray) -> tuple[ndarray, ndarray]:
    """Write positive float64 multipliers as ``M0 2**-31 2**shift`` with 2**30 <= M0 < 2**31.

    Jacob et al. 2018, section 2.2, equation 6. Returns M0, which fits in an int32, and the shift,
    negative to the right; both int64, of the input's shape. A ValueError names multipliers that
    are not positive and finite.
    """
    if not (np.isfinite(multiplier).all() and np.all(multiplier > 0)):
        raise ValueError(f"multipliers must be positive and finite, not {multiplier}")
    fraction, shift = np.frexp(multiplier)  # fraction in [0.5, 1)
    m0 = np.rint(fraction * 2**31).astype(np.int64)
    carried = m0 == 2**31
    return np.where(carried, 2**30, m0), shift.astype(np.int64) + carried


def multiply(total: ndarray, m0: ndarray, shift: ndarray) -> ndarray:
    """Return ``round(total * M0 * 2**-31 * 2**shift)``, int32, with integers alone.

    As gemmlowp does (Jacob et al. 2018, section 2.2 and appendix B): a doubling high product, which
    rounds halves up, then a right shift, which rounds them away from zero. Rounding twice may
    differ from rounding once. ``M0`` and ``shift`` are as :func:`fixed_point` returns them.
    """
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    product = (total.astype(np.int64) << left) * m0
    high = (product + 2**30) >> 31
    half = (np.int64(1) << right) >> 1
    return np.where(high >= 0, (high + half) >> right, -((half - high) >> right)).astype(np.int32)


def add_relu(
    a: Quantized, b: Quantized, scale: np.float32, zero_point: int, arithmetic: Arithmetic = FBGEMM
) -> Quantized:
    """Add two tensors of different scales, with a ReLU.

    ``q_y = max(Z_y, Z_y + round((S_a (q_a - Z_a) + S_b (q_b - Z_b)) / S_y))`` (Jacob et al. 2018,
    appendix A.2). PyTorch's kernel computes ``S q - S Z`` by one fused multiply-add in float32; in
    fixed point, both inputs are brought to twice the larger scale first. A ValueError says if the
    shapes differ.
    """
    if a.q.shape != b.q.shape:
        raise ValueError(f"shapes differ: {a.q.shape} and {b.q.shape}")
    if arithmetic.multiplier == "fixed point":
        common, total = 2 * max(float(a.scale), float(b.scale)), 0
        for x in (a, b):
            wide = (x.q.astype(np.int32) - x.zero_point) << ADD_SHIFT
            total = total + multiply(wide, *fixed_point(np.float64(x.scale) / common))
        back = np.float64(common / 2**ADD_SHIFT / float(scale))
        codes = multiply(total, *fixed_point(back))
    else:
        total = _fused_dequantize(a) + _fused_dequantize(b)
        codes = round_to(total * (np.float32(1) / scale), arithmetic.rounding)
    return Quantized(_codes(codes, zero_point, lowest=zero_point), scale, zero_point)


def max_pool(x: Quantized, kernel: int, stride: int, padding: int) -> Quantized:
    """Return the largest code of every window; scale and zero point stay.

    The order of codes is that of the real numbers, and padding with code 0 never wins.
    """
    windows = _windows(x.q, (kernel, kernel), stride, padding, 0)
    return Quantized(windows.max(axis=(4, 5)), x.scale, x.zero_point)


def global_average_pool(x: Quantized) -> Quantized:
    """Return the mean code of every channel, (N, C); scale and zero point stay.

    ``q = Z + round(sum (q - Z) / n)``, by a product with float32(1 / n), rounding half to even.
    """
    pixels = x.q.shape[1] * x.q.shape[2]
    total = x.q.sum((1, 2), dtype=np.int32) - pixels * x.zero_point
    mean = np.rint(total.astype(np.float32) * np.float32(1 / pixels))
    return Quantized(_codes(mean, x.zero_point), x.scale, x.zero_point)


@dataclass(frozen=True)
class IntegerResNet18:
    """The quantized network, ready to run without PyTorch; names are those of the int8 model."""

    scale: np.float32  # of the input
    zero_point: int
    layers: dict[str, Layer]
    sums: dict[str, tuple[np.float32, int]]  # scale and zero point after each residual addition

    @classmethod
    def from_quantized(cls, model: nn.Module) -> "IntegerResNet18":
        """Read weights, scales, zero points, strides and paddings of a converted model.

        A ValueError says if the model is not int8, or a weight has a zero point other than 0.
        """
        if not ptq.is_quantized(model):
            raise ValueError("from_quantized() takes the int8 model that convert() returns")
        around, layers, sums = (0, 0, 0, 0), {}, {}
        for name, module in model.named_modules():
            if isinstance(module, nn.ConstantPad2d):
                around = module.padding  # of the layer that follows, in one Sequential with it
            elif isinstance(module, nnq.Conv2d | nnq.Linear):
                layers[name.removesuffix(".1")] = _read_layer(name, module, around)
                around = (0, 0, 0, 0)
            elif isinstance(module, nnq.QFunctional):
                sums[name] = np.float32(module.scale), int(module.zero_point)
        scale, zero_point = model.quant.scale.item(), model.quant.zero_point.item()
        return cls(np.float32(scale), zero_point, layers, sums)

    def activations(
        self,
        images: ndarray | Tensor,
        arithmetic: Arithmetic = FBGEMM,
        watch: Callable[[str, ndarray], None] | None = None,
        follow: Mapping[str, Quantized] | None = None,
    ) -> dict[str, Quantized]:
        """Run the network and return the output of every layer, in the order of execution.

        Parameters
        ----------
        images : ndarray or Tensor
            float32, normalized, shape (N, channels, H, W).
        arithmetic : Arithmetic
        watch : callable, optional
            Is given every layer's name and int32 accumulators.
        follow : mapping of str to Quantized, optional
            The outputs of another run on the same images. Every layer then takes its inputs from
            there, so that a difference is its own and was not handed down.
        """
        out: dict[str, Quantized] = {}

        def put(name: str, y: Quantized) -> Quantized:
            out[name] = y
            return y if follow is None else follow[name]

        def run(name: str, x: Quantized) -> Quantized:
            layer = self.layers[name]
            total = layer.accumulate(x, arithmetic)
            if watch is not None:
                watch(name, total)
            q = layer.requantize(total, x.scale, arithmetic)
            return put(name, Quantized(q, layer.scale, layer.zero_point))

        pixels = np.asarray(images, dtype=np.float32).transpose(0, 2, 3, 1)
        x = put("quant", quantize(pixels, self.scale, self.zero_point))
        x = put("maxpool", max_pool(run("conv1", x), 3, 2, 1))
        for name, (scale, zero_point) in self.sums.items():
            block = name.removesuffix("add_relu")
            y = run(block + "conv2", run(block + "conv1", x))
            shortcut = block + "downsample.0"
            x = run(shortcut, x) if shortcut in self.layers else x
            x = put(name, add_relu(y, x, scale, zero_point, arithmetic))
        run("fc", put("avgpool", global_average_pool(x)))
        return out

    def logits(self, images: ndarray | Tensor, arithmetic: Arithmetic = FBGEMM) -> ndarray:
        """Return float32 logits, shape (N, classes), of normalized images (N, channels, H, W)."""
        parts = (self.activations(batch, arithmetic) for batch in batches(images, size=BATCH))
        return np.concatenate([part["fc"].dequantize() for part in parts])


def _codes(rounded: ndarray, zero_point: int, lowest: int = 0) -> ndarray:
    return np.clip(rounded + zero_point, lowest, 255).astype(np.uint8)


def _windows(q: ndarray, kernel, stride: Stride, padding: Padding, fill: int) -> ndarray:
    """View an image, (N, H, W, C), as windows: (N, H', W', C, kernel height, kernel width)."""
    sides, (down, across) = np.broadcast_to(padding, 4), np.broadcast_to(stride, 2)
    left, right, top, bottom = np.maximum(sides, 0)
    q = np.pad(q, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    left, right, top, bottom = np.minimum(sides, 0)  # what is cut off
    q = q[:, -top : q.shape[1] + bottom, -left : q.shape[2] + right]
    return sliding_window_view(q, kernel, axis=(1, 2))[:, ::down, ::across]


def _fused_dequantize(x: Quantized) -> ndarray:
    # S q + float32(-S Z), rounded once: exact in float64, where 53 bits hold product and sum.
    offset = np.float32(x.scale * np.float32(-x.zero_point))
    return (np.float64(x.scale) * x.q + np.float64(offset)).astype(np.float32)


def _read_layer(name: str, module: nn.Module, around: tuple[int, ...]) -> Layer:
    weight, bias = module.weight(), module.bias()
    if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        scales, zeros = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    else:
        scales = torch.full((len(weight),), weight.q_scale())
        zeros = torch.tensor(weight.q_zero_point())
    if zeros.any():
        raise ValueError(f"{name}: the weights' zero points must be 0 (a symmetric qconfig)")
    codes, where = weight.int_repr().numpy(), {}
    if codes.ndim == 2:
        codes = codes[:, None, None, :]
    else:
        down, across = module.padding
        sides = zip(around, (across, across, down, down), strict=True)
        where = {"stride": module.stride, "padding": tuple(map(sum, sides))}
        codes = codes.transpose(0, 2, 3, 1)
    return Layer(
        weight=np.ascontiguousarray(codes),
        weight_scale=scales.numpy().astype(np.float32),
        bias=np.zeros(len(codes), np.float32) if bias is None else bias.detach().numpy(),
        scale=np.float32(module.scale),
        zero_point=int(module.zero_point),
        relu=isinstance(module, nniq.ConvReLU2d | nniq.LinearReLU),
        **where,
    )
