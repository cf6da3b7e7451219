import copy
import warnings

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
    tq,
)


def theirs(channels=1):
    """torchvision's resnet18 with ten classes and this many input channels."""
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64)])
@pytest.mark.parametrize("ours", [ResNet18, QuantizableResNet18])
@pytest.mark.parametrize("direction", ["from torchvision", "to torchvision"])
def test_equal_to_torchvision_bit_for_bit(channels, size, ours, direction):
    torch.manual_seed(1)
    mine, other = ours(channels=channels), theirs(channels)
    if direction == "from torchvision":
        mine.load_state_dict(other.state_dict())
    else:
        other.load_state_dict(mine.state_dict())
    x = torch.randn(4, channels, size, size)
    with torch.no_grad():
        for train in (True, False):  # the first moves the running statistics of both
            expected = other.train(train)(x)
            assert torch.equal(mine.train(train)(x), expected)
    for name, value in other.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name


def test_gradients_equal_torchvision():
    torch.manual_seed(1)
    mine, other = ResNet18(), theirs()
    mine.load_state_dict(other.state_dict())
    x, y = torch.randn(4, 1, 28, 28), torch.arange(4)
    for model in (mine, other):
        nn.functional.cross_entropy(model(x), y).backward()
    gradients = dict(mine.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name


@pytest.mark.parametrize("ours", [ResNet18, QuantizableResNet18])
def test_same_keys_in_the_same_order_as_torchvision(ours):
    assert list(ours().state_dict()) == list(theirs().state_dict())


def test_parameter_count():
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_175_370


def test_convolutions_start_with_the_spread_of_he():
    model = ResNet18()
    for conv in (model.layer2[0].conv1, model.layer4[0].downsample[0]):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


@pytest.mark.parametrize("ours", [ResNet18, QuantizableResNet18])
@pytest.mark.parametrize("wrong", [{"classes": 0}, {"channels": 0}])
def test_sizes_must_be_positive(ours, wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name}=0.*at least 1"):
        ours(**wrong)


@pytest.mark.parametrize("block", [BasicBlock, QuantizableBasicBlock])
@pytest.mark.parametrize(
    ("arguments", "shape", "shortcut"),
    [((8, 8), (2, 8, 6, 6), False), ((8, 16, 2), (2, 16, 3, 3), True)],
)
def test_block(block, arguments, shape, shortcut):
    made = block(*arguments).eval()
    assert (made.downsample is not None) == shortcut
    y = made(torch.randn(2, 8, 6, 6))
    assert y.shape == shape
    assert y.min() >= 0


def test_every_relu_and_addition_of_the_quantizable_network_serves_once():
    model = QuantizableResNet18().eval()
    calls = dict.fromkeys((n for n, m in model.named_modules() if isinstance(m, nn.ReLU)), 0)

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    for name in calls:
        model.get_submodule(name).register_forward_hook(count(name))
    model(torch.randn(1, 1, 28, 28))
    assert set(calls.values()) == {1}


def test_fuse_merges_every_batch_norm_and_keeps_the_function(float_model, images):
    model = QuantizableResNet18().eval()
    model.load_state_dict(float_model.state_dict())
    fused = copy.deepcopy(model)
    fused.fuse()
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), float_model(images), rtol=1e-4, atol=1e-4)


def test_block_fuse_keeps_the_function():
    block = QuantizableBasicBlock(8, 16, 2)
    x = torch.randn(4, 8, 6, 6)
    block(x)
    block.eval()
    with torch.inference_mode():
        expected = block(x)
        block.fuse()
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert not [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]


def test_fuse_refuses_train_mode():
    with pytest.raises(RuntimeError, match=r"train mode: call \.eval\(\)"):
        QuantizableResNet18().fuse()


def test_quantizing_the_plain_network_fails(float_model, images):
    """Why the quantizable one exists: the plain + has no kernel for integers."""
    model = nn.Sequential(tq.QuantStub(), copy.deepcopy(float_model), tq.DeQuantStub()).eval()
    model.qconfig = tq.get_default_qconfig("fbgemm")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = tq.prepare(model)
        prepared(images[:8])
        with pytest.raises(NotImplementedError, match="Quantized"):
            tq.convert(prepared)(images[:1])


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
