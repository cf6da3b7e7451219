import pytest
import torch
import torchvision
from torch import nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization
from utils.models import (
    BasicBlock,
    QuantizableBasicBlock,
    QuantizableResNet18,
    ResNet18,
    hooked,
    layers_of,
    weights_hash,
)


def theirs(channels=1):
    """torchvision's resnet18 with ten classes and this many input channels."""
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64)])
@pytest.mark.parametrize("ours", [ResNet18, QuantizableResNet18])
def test_equal_to_torchvision_bit_for_bit(channels, size, ours):
    torch.manual_seed(1)
    mine, other = ours(channels=channels), theirs(channels)
    assert list(mine.state_dict()) == list(other.state_dict())
    mine.load_state_dict(other.state_dict())
    x, y = torch.randn(4, channels, size, size), torch.arange(4)
    for model in (mine, other):
        nn.functional.cross_entropy(model(x), y).backward()  # moves the running statistics too
    gradients = dict(mine.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name
    for name, value in other.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name
    with torch.no_grad():
        assert torch.equal(mine.eval()(x), other.eval()(x))


def test_convolutions_start_with_the_spread_of_he():
    model = ResNet18()
    for conv in (model.layer2[0].conv1, model.layer4[0].downsample[0]):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


@pytest.mark.parametrize("wrong", ["classes", "channels"])
def test_sizes_must_be_positive(wrong):
    with pytest.raises(ValueError, match=f"{wrong}=0.*at least 1"):
        QuantizableResNet18(**{wrong: 0})


@pytest.mark.parametrize("kind", [BasicBlock, QuantizableBasicBlock])
@pytest.mark.parametrize(
    ("arguments", "shape", "shortcut"),
    [((8, 8), (4, 8, 6, 6), False), ((8, 16, 2), (4, 16, 3, 3), True)],
)
def test_a_block_has_a_shortcut_and_keeps_its_function_when_fused(kind, arguments, shape, shortcut):
    block, x = kind(*arguments), torch.randn(4, 8, 6, 6)
    assert (block.downsample is not None) == shortcut
    block(x)
    y = block.eval()(x)
    assert y.shape == shape
    assert y.min() >= 0
    if kind is QuantizableBasicBlock:
        block.fuse()
        torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)
        assert not [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]


def test_fuse_keeps_the_function_and_every_relu_serves_once(float_model, images):
    model = QuantizableResNet18()
    model.load_state_dict(float_model.state_dict())
    with pytest.raises(RuntimeError, match=r"train mode: call \.eval\(\)"):
        model.fuse()
    calls = []
    relus = layers_of(model.eval(), nn.ReLU)
    with torch.inference_mode(), hooked(relus, lambda name, *_: calls.append(name)):
        model(images[:1])
    assert sorted(calls) == sorted(relus)
    model.fuse()
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(model(images), float_model(images), rtol=1e-4, atol=1e-4)


def test_hooks_see_fused_layers_and_are_gone_after_an_error(float_model, images):
    fused = quantization.fuse(float_model)
    layers = layers_of(fused, nn.Conv2d, nn.Linear, ConvReLU2d)
    assert len(layers) == 21 and "conv1" in layers and "conv1.0" not in layers
    seen = []
    with (
        pytest.raises(ZeroDivisionError),
        hooked(
            layers,
            lambda name, module, inputs, output: seen.append(("after", name)),
            before=lambda name, module, inputs: seen.append(("before", name)),
        ),
    ):
        fused(images[:1])
        raise ZeroDivisionError
    assert seen[:2] == [("before", "conv1"), ("after", "conv1")]
    assert len(seen) == 42
    fused(images[:1])
    assert len(seen) == 42


class Holder(nn.Module):
    """A model whose state is one value."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value)


def test_the_hash_stands_for_every_value_and_not_for_its_place_in_memory():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    zeros = torch.zeros(2, dtype=torch.long)
    made, each = torch._make_per_tensor_quantized_tensor, torch._make_per_channel_quantized_tensor
    tensors = [x, x.double(), x.flatten(), x + (x == 23)]
    tensors += [made(x.byte(), *q) for q in ((1, 0), (2, 0), (1, 1))]  # the same codes
    for scales, points in (([1.0, 1], zeros), ([1.0, 2], zeros), ([1.0, 1], zeros + 1)):
        tensors.append(each(x.char(), torch.tensor(scales), points, 1))
    hashes = [weights_hash(Holder(tensor)) for tensor in tensors]
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(Holder(x.to(memory_format=torch.channels_last))) == hashes[0]
