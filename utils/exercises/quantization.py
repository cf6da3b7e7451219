"""Checks of notebook 03's exercises."""

import torch
import torch.ao.quantization as tq
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from utils.exercises import Hint, answered, asks, correct, expect
from utils.models import layers_of


def check_scale(scale: float, zero_point: int) -> None:
    """Check S and Z of the range from -0.42 to 2.82 on the codes 0 to 255."""
    if answered(scale, zero_point):
        hints = {3.24 / 256: "256 codes have only 255 steps between them."}
        hints |= {2.82 / 255: "The range begins at -0.42; take its whole length."}
        expect(scale, 3.24 / 255, hints, "S = (r_max - r_min) / (q_max - q_min).")
        hints = {-33: "Watch the sign: Z is a code, 0 to 255.", 33.0556: "Z is a whole number."}
        expect(zero_point, 33, hints, "Z = q_min - round(r_min / S).")
        correct("Zero has a code of its own; the range moved by less than a step for it.")


@asks("a model")
def check_float_layer(model: nn.Module, images: Tensor) -> None:
    """Check that the last layer computes in float32 and all others in int8."""
    if answered(model):
        if layers_of(model, nn.Conv2d):
            raise Hint("The convolutions are float32: prepare, calibrate and convert the model.")
        if not layers_of(model, nn.Linear):
            raise Hint("The linear layer is int8: set its own qconfig to None before prepare.")
        try:
            model(images)
        except RuntimeError as error:
            stub = "put a DeQuantStub before the linear layer, and set None on that layer alone"
            raise Hint(f"{error}: {stub}.") from None
        correct("Only the last layer computes in float32.")


@asks("a class with the layers of Bottleneck and a method fuse()")
def check_bottleneck(block: type[nn.Module]) -> None:
    """Check a quantizable version of torchvision's Bottleneck, with a method ``fuse()``."""
    if not answered(block):
        return
    for channels, stride in ((64, 1), (32, 2)):
        plain = Bottleneck(channels, 16, stride, _shortcut(channels, stride))
        x = torch.randn(16, channels, 7, 7)
        for _ in range(4):  # batch norms as after training, which change what passes them
            plain.train()(x)
        own = block(channels, 16, stride, _shortcut(channels, stride))
        own.load_state_dict(plain.eval().state_dict())
        if not torch.allclose(own.eval()(x), plain(x), atol=1e-3):
            raise Hint("Before fuse() the output is wrong already: compare forward with theirs.")
        own.fuse()
        if left := [name for name, m in own.named_modules() if isinstance(m, nn.BatchNorm2d)]:
            raise Hint(
                f"After fuse(), {', '.join(left)} is still there: fuse it, with inplace=True."
            )
        if not torch.allclose(own(x), plain(x), atol=1e-3):
            raise Hint("After fuse() the output is wrong: does each ReLU serve in one place?")
        model = tq.QuantWrapper(own)
        model.qconfig = tq.get_default_qconfig(torch.backends.quantized.engine)
        tq.prepare(model, inplace=True)(x)
        try:
            tq.convert(model)(x)
        except RuntimeError as error:
            raise Hint(f"{str(error).split('. ')[0]}: make the addition a module.") from None
    correct("Fused, calibrated and converted, the block runs in int8.")


def _shortcut(channels: int, stride: int) -> nn.Module | None:
    """What a Bottleneck(channels, 16, stride) needs to change the shape of its input."""
    if stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(channels, 64, 1, stride, bias=False), nn.BatchNorm2d(64))
