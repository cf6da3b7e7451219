"""Crop kernels to the taps that meet data, for images of one shape: the same output, smaller.

Near the end of a network the image is often smaller than the kernel that slides over it, and a tap
that only ever meets padding multiplies zeros: its weights can be left out.
"""

import copy
from functools import partial
from pathlib import Path

import torch
import torch.ao.nn.quantized as nnq
from pandas import DataFrame
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils.models import QuantizableResNet18, hooked, layers_of, tq


class SpecializationError(ValueError):
    """Images have a shape that a network is not, or cannot be, specialized to."""


def specialize(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[nn.Module, DataFrame]:
    """Return an equal network for images (channels, height, width), and what was cut from it.

    Equal means: bit for bit in int8, to the rounding of another order of summation in float. The
    batch size stays free. A Conv2d stays whole if it meets images of several shapes, or pads with
    anything but zeros. int8 layers are packed for the engine that is set.

    The model is float, fused or int8, in eval mode, and not changed. The new one has a buffer
    ``image_shape``, so that its file says what it is for, and raises :class:`SpecializationError`
    for other images. The table has a row for each Conv2d: layer, image (height and width of its
    input), kernel, cropped (the new kernel), weights and kept (how many).
    """
    if model.training or ptq.observers(model):
        raise SpecializationError("specialize() before prepare() or after convert(), in eval mode")
    small, met, rows = copy.deepcopy(model), {}, []
    layers = layers_of(small, ConvReLU2d, nn.Conv2d, nnq.Conv2d)
    seen = hooked(layers, before=lambda name, _, x: met.setdefault(name, set()).add(x[0].shape[2:]))
    like = next(small.parameters(), torch.empty(0))  # int8 models have none, and take float32
    try:
        with torch.inference_mode(), seen:
            small(like.new_zeros(1, *image_shape))
    except Exception as error:  # of whichever layer the images do not fit
        raise SpecializationError(f"no images of {image_shape} for this model: {error}") from error
    for name, images in met.items():
        layer, image = layers[name], next(iter(images))
        conv = layer[0] if isinstance(layer, ConvReLU2d) else layer
        kernel, weights = conv.kernel_size, _weight(conv).numel()
        if len(images) == 1 and conv.padding_mode == "zeros" and any(around := _crop(conv, image)):
            padded = nn.Sequential(nn.ConstantPad2d(around, 0.0), layer).eval()
            for place, found in list(small.named_modules(remove_duplicate=False)):
                if found is layer:
                    small.set_submodule(place, padded)
        kept = conv.kernel_size, weights, _weight(conv).numel()
        rows.append((name, tuple(image), kernel, *kept))
    small.register_buffer("image_shape", torch.tensor(image_shape))
    small.register_forward_pre_hook(partial(_refuse_other_images, tuple(image_shape)))
    columns = ["layer", "image", "kernel", "cropped", "weights", "kept"]
    return small, DataFrame(rows, columns=columns)


def load_specialized(path: Path, like: nn.Module | None = None) -> nn.Module:
    """Load a specialized model's ``state_dict``, float or int8; int8 is packed for the engine set.

    ``like`` is the whole network, fused and float; by default the course's ResNet-18. Raises
    :class:`SpecializationError` if the file does not fit it.
    """
    try:
        state = torch.load(path, weights_only=True)
        shape = tuple(state["image_shape"].tolist())
        if like is None:
            packed = state.get("fc._packed_params._packed_params")
            classes = len(packed[0] if packed else state["fc.bias"])
            like = QuantizableResNet18(classes, shape[0]).eval()
            like.fuse()
        model, _ = specialize(like, shape)
        if any(name.endswith("zero_point") for name in state):
            unknown = tq.FixedQParamsObserver.with_args(scale=1.0, zero_point=0)  # the file knows
            qconfig = tq.QConfig(unknown, tq.default_weight_observer)
            model = tq.convert(ptq.prepare(model, torch.backends.quantized.engine, qconfig))
        model.load_state_dict(state)
    except Exception as error:  # whatever a foreign file makes torch raise
        raise SpecializationError(f"{path.name} does not fit this network: {error}") from error
    return model


def _crop(conv: nn.Module, image: torch.Size) -> tuple[int, ...]:
    """Cut idle rows and columns off a kernel, in place; return what to pad before, as F.pad does.

    Output i meets with tap k the row ``stride i + dilation k - padding`` of the image.
    """
    kept, own, around = [], [], ()
    for axis, size in enumerate(image):
        kernel, stride, step = (x[axis] for x in (conv.kernel_size, conv.stride, conv.dilation))
        whole = step * (kernel - 1)
        left, right = {"same": (whole // 2, whole - whole // 2), "valid": (0, 0)}.get(
            conv.padding, (conv.padding[axis],) * 2
        )
        last = (size + left + right - whole - 1) // stride  # output
        rows = [stride * i - left for i in range(last + 1)]  # that tap 0 meets
        taps = [k for k in range(kernel) if any(0 <= r + step * k < size for r in rows)]
        taps = taps or range(kernel)  # nothing but padding: stays whole
        first, reach = rows[0] + step * taps[0], rows[-1] + step * taps[-1] + 1
        even = (size - 2 * first - step * (taps[-1] - taps[0]) - 1) // stride == last
        kept.append(slice(taps[0], taps[-1] + 1))  # padding on both sides alike is the layer's own
        own.append(-first if even and first <= 0 else 0)
        around = ((0, 0) if even and first <= 0 else (-first, reach - size)) + around
    conv.kernel_size, conv.padding = tuple(k.stop - k.start for k in kept), tuple(own)
    weight, cut = _weight(conv), (slice(None), slice(None), *kept)
    if not weight.is_quantized:
        conv.weight = nn.Parameter(weight.detach()[cut].clone(), weight.requires_grad)
        return around
    codes = weight.int_repr()[cut].contiguous()
    if weight.qscheme() == torch.per_tensor_affine:
        scale, zero = weight.q_scale(), weight.q_zero_point()
        small = torch._make_per_tensor_quantized_tensor(codes, scale, zero)
    else:
        scale, zero = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        small = torch._make_per_channel_quantized_tensor(codes, scale, zero, 0)
    conv.set_weight_bias(small, conv.bias())
    return around


def _weight(conv: nn.Module) -> Tensor:
    return conv.weight() if isinstance(conv, nnq.Conv2d) else conv.weight


def _refuse_other_images(shape: tuple[int, ...], _model: nn.Module, inputs: tuple[Tensor]) -> None:
    if (found := tuple(inputs[0].shape[1:])) != shape:
        raise SpecializationError(
            f"images of {found}, but the network is specialized to {shape}: use the whole one"
        )
