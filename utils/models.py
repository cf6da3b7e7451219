"""ResNet-18, in float32 and ready for quantization, with torchvision's parameter names.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (CVPR 2016), section 3 and
table 1. Submodules carry torchvision's names, so that a ``state_dict`` fits either way.
"""

import contextlib
import functools
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

# Known, explained in notebook 03 and bounded by the pins: the package, its observers' reduce_range
# (the default qconfig sets it itself), the quantized dtypes, the storage class of their pickles.
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

    The first convolution has the stride. The shortcut is a 1x1 convolution where shapes differ.
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
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.add(self.bn2(self.conv2(y)), shortcut)

    def add(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """Return ``relu(y + shortcut)``."""
        return self.relu(y + shortcut)


class ResNet18(nn.Module):
    """The float32 network: images with this many channels, logits for this many classes.

    Raises ValueError if either number is smaller than 1.
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

    def add(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """Return ``relu(y + shortcut)``, float32 or quint8."""
        return self.add_relu.add_relu(y, shortcut)

    def fuse(self) -> None:
        """Merge batch norms and ReLUs into the convolutions, in place; needs eval mode."""
        tq.fuse_modules(self, [["conv1", "bn1", "relu"], ["conv2", "bn2"]], inplace=True)
        if self.downsample is not None:
            tq.fuse_modules(self.downsample, ["0", "1"], inplace=True)


class QuantizableResNet18(ResNet18):
    """ResNet-18 that eager-mode quantization can convert: same weights, same ``state_dict`` keys.

    ``quant`` and ``dequant`` mark where the integers begin and end, and every addition is a
    ``FloatFunctional``.
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

        Raises RuntimeError in train mode, where each batch norm would stay a module of its own.
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

    ``before(name, module, inputs)`` is called at the start of each forward, and
    ``after(name, module, inputs, output)`` at its end, before any other hook.
    """
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                hook = functools.partial(before, name)
                stack.callback(module.register_forward_pre_hook(hook).remove)
            if after is not None:
                hook = functools.partial(after, name)
                stack.callback(module.register_forward_hook(hook, prepend=True).remove)
        yield


def weights_hash(model: nn.Module) -> str:
    """Return twelve characters that stand for every value in a float32 or int8 state_dict.

    Where the tensors lie, and in which memory layout, makes no difference.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        for part in value if isinstance(value, tuple) else (value,):  # an int8 linear layer packs
            if not isinstance(part, Tensor):
                digest.update(f"{name}={part}".encode())
                continue
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            if part.is_quantized:
                if part.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
                    digest.update(part.q_per_channel_scales().numpy().tobytes())
                    digest.update(part.q_per_channel_zero_points().numpy().tobytes())
                else:
                    digest.update(f"{part.q_scale()!r} {part.q_zero_point()}".encode())
                part = part.int_repr()
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
