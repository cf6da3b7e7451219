"""ResNet-18, in float32 and ready for quantization, with torchvision's parameter names.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (CVPR 2016), section 3 and
table 1. Submodules carry torchvision's names, so that a ``state_dict`` fits either way.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

try:
    import torch.ao.quantization as tq
    from torch.ao.nn.intrinsic import _FusedModule
    from torch.ao.nn.quantized import FloatFunctional
except ImportError as error:
    raise ImportError(
        "This torch has no torch.ao.quantization, which the whole course stands on; PyTorch has "
        "announced its removal. Install the pinned release: pip install -r requirements.txt"
    ) from error

# All known, explained in notebook 03 and bounded by the pins: silenced here, in one place, instead
# of in every output. In order: the package, its observers' reduce_range (the default qconfig sets
# it itself), the quantized dtypes (a C++ warning), and the storage class their pickles use.
for message in (
    "torch.ao.quantization is deprecated",
    "Please use quant_min and quant_max to specify the range",
    "torch.quantize_per_tensor, torch.quantize_per_channel and other",
    "TypedStorage is deprecated",
):
    warnings.filterwarnings("ignore", message=message)

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of layer1 to layer4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``relu(F(x) + x)`` (He et al. 2016, figure 2).

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
        Of the first convolution; the shortcut follows with a 1x1 convolution where shapes differ.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + shortcut)


class ResNet18(nn.Module):
    """The float32 network.

    Parameters
    ----------
    classes : int
        Number of logits.
    channels : int
        Of the input image: 1 for digits, 3 for photographs.

    Raises
    ------
    ValueError
        If either is smaller than 1.
    """

    block: type[nn.Module] = BasicBlock

    def __init__(self, classes: int = 10, channels: int = 1):
        super().__init__()
        if classes < 1 or channels < 1:
            raise ValueError(f"classes={classes}, channels={channels}: both must be at least 1")
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for number, (outputs, stride) in enumerate(STAGES, start=1):
            blocks = self.block(inputs, outputs, stride), self.block(outputs, outputs)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        for module in self.modules():  # He et al.: Delving Deep into Rectifiers (2015), section 2.2
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 images (N, channels, H, W) to logits (N, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class QuantizableBasicBlock(BasicBlock):
    """The same block with a module where the plain ``+`` was, so that an observer can sit there."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(inputs, outputs, stride)
        self.relu = nn.ReLU()  # serves once: the second ReLU is part of add_relu
        self.add_relu = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride), float32 or quint8."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.add_relu.add_relu(y, shortcut)

    def fuse(self) -> None:
        """Merge batch norms and ReLUs into the convolutions, in place; needs eval mode."""
        tq.fuse_modules(self, [["conv1", "bn1", "relu"], ["conv2", "bn2"]], inplace=True)
        if self.downsample is not None:
            tq.fuse_modules(self.downsample, ["0", "1"], inplace=True)


class QuantizableResNet18(ResNet18):
    """ResNet-18 that eager-mode quantization can convert: same weights, same ``state_dict`` keys.

    Differs from :class:`ResNet18` in three places: ``quant`` and ``dequant`` mark where the
    integers begin and end, and every addition is a ``FloatFunctional``.
    """

    block = QuantizableBasicBlock

    def __init__(self, classes: int = 10, channels: int = 1):
        super().__init__(classes, channels)
        self.relu = nn.ReLU()
        self.quant = tq.QuantStub()
        self.dequant = tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 images (N, channels, H, W) to float32 logits (N, classes)."""
        return self.dequant(super().forward(self.quant(x)))

    def fuse(self) -> None:
        """Fuse the stem and every block in place.

        Raises
        ------
        RuntimeError
            If the model is in train mode: batch norm would be kept as a separate training module.
        """
        if self.training:
            raise RuntimeError("fuse() needs eval mode, the model is in train mode: call .eval()")
        tq.fuse_modules(self, ["conv1", "bn1", "relu"], inplace=True)
        for module in self.modules():
            if isinstance(module, QuantizableBasicBlock):
                module.fuse()


def layers_of(model: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Return the layers of these types by name, in order; parts of a fused layer are left out."""
    parts = {id(m) for f in model.modules() if isinstance(f, _FusedModule) for m in f.children()}
    named = {name: module for name, module in model.named_modules() if id(module) not in parts}
    return {name: module for name, module in named.items() if isinstance(module, kinds)}


@contextlib.contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    after: Callable[[str, nn.Module, tuple, object], None] | None = None,
    *,
    before: Callable[[str, nn.Module, tuple], None] | None = None,
) -> Iterator[None]:
    """Watch modules in this block; the hooks are removed when it ends, also by an error.

    Parameters
    ----------
    modules : mapping of str to nn.Module
    after : callable, optional
        Called as ``after(name, module, inputs, output)`` at the end of each forward, before any
        other hook.
    before : callable, optional
        Called as ``before(name, module, inputs)`` at the start of each forward.
    """
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                hook = module.register_forward_pre_hook(lambda m, x, name=name: before(name, m, x))
                stack.callback(hook.remove)
            if after is not None:
                handle = module.register_forward_hook(
                    lambda m, x, y, name=name: after(name, m, x, y), prepend=True
                )
                stack.callback(handle.remove)
        yield


def weights_hash(model: nn.Module) -> str:
    """Return twelve characters that stand for every value in a model's state_dict.

    Results and kept tables carry it, so that figures of different weights cannot be mixed up.

    Parameters
    ----------
    model : nn.Module
        float32 or int8; where its tensors lie, and in which memory layout, makes no difference.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        for part in value if isinstance(value, tuple) else (value,):  # an int8 linear layer packs
            if isinstance(part, Tensor):
                _digest(name, part, digest)
            else:
                digest.update(f"{name}={part}".encode())
    return digest.hexdigest()[:12]


def _digest(name: str, value: Tensor, digest) -> None:
    value = value.detach()
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    if value.is_quantized:
        if value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
            digest.update(value.q_per_channel_scales().numpy().tobytes())
            digest.update(value.q_per_channel_zero_points().numpy().tobytes())
        else:
            digest.update(f"{value.q_scale()!r} {value.q_zero_point()}".encode())
        value = value.int_repr()
    digest.update(value.cpu().contiguous().numpy().tobytes())
