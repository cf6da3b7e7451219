"""Specialized networks: equal to the whole ones, smaller, and only for images of their shape."""

import copy
import random

import pytest
import torch
import torch.ao.quantization as tq
from torch import nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils.specialization import SpecializationError, load_specialized, specialize

# Seven bits: pairs of products cannot saturate, whatever the processor, so integers stay exact.
SEVEN_BITS = tq.QConfig(
    activation=tq.MinMaxObserver.with_args(reduce_range=True),
    weight=tq.default_per_channel_weight_observer,
)


def random_network(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """Two or three convolutions of any geometry that have an output, and images for them."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    size = [draw.randint(1, 6), draw.randint(1, 6)]
    images = torch.randn(5, 2, *size)
    layers, channels = [tq.QuantStub()], 2
    while len(layers) < draw.choice((3, 4)):
        pair = lambda low, high: (draw.randint(low, high), draw.randint(low, high))  # noqa: E731
        kernel, stride, padding, dilation = pair(1, 5), pair(1, 3), pair(0, 4), pair(1, 2)
        whole = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if any(s + 2 * p < w for s, p, w in zip(size, padding, whole, strict=True)):
            continue
        outputs, groups = draw.choice((2, 4)), draw.choice((1, 2))
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        conv = nn.Conv2d(channels, outputs, kernel, **geometry)
        layers.append(ConvReLU2d(conv, nn.ReLU()) if draw.random() < 0.5 else conv)
        axes = zip(size, padding, whole, stride, strict=True)
        size = [(s + 2 * p - w) // by + 1 for s, p, w, by in axes]
        channels = outputs
    return nn.Sequential(*layers, tq.DeQuantStub()).eval(), images


def in_int8(network: nn.Module, images: torch.Tensor, qconfig=SEVEN_BITS) -> nn.Module:
    prepared = ptq.prepare(network, qconfig=qconfig)
    prepared(images)
    return ptq.convert(prepared)


@pytest.mark.parametrize("seed", range(60))
def test_outputs_are_equal_whatever_the_geometry(seed):
    network, images = random_network(seed)
    whole = copy.deepcopy(network).double()
    small, cut = specialize(whole, images.shape[1:])
    torch.testing.assert_close(
        small(images.double()), whole(images.double()), rtol=1e-12, atol=1e-12
    )
    int8 = in_int8(network, images)
    small, also = specialize(int8, images.shape[1:])
    assert torch.equal(small(images), int8(images))
    assert cut.equals(also)


def test_the_random_networks_have_kernels_to_crop_and_uneven_padding():
    cropped = [specialize(net, x.shape[1:]) for net, x in map(random_network, range(60))]
    assert sum((cut["kept"] < cut["weights"]).any() for _, cut in cropped) > 30
    pads = [m.padding for net, _ in cropped for m in net.modules() if type(m) is nn.ConstantPad2d]
    assert len(pads) > 15
    assert any(min(pad) < 0 for pad in pads) and any(max(pad) > 0 for pad in pads)


def test_no_idle_row_or_column_is_left_at_the_edge_of_a_kernel():
    for network, images in map(random_network, range(60)):
        small, _ = specialize(network, images.shape[1:])
        assert not specialize(small, images.shape[1:])[1].eval("kept < weights").any()


def test_a_kernel_worked_out_by_hand():
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    conv.weight.data = torch.arange(9.0).reshape(1, 1, 3, 3)
    small, cut = specialize(nn.Sequential(conv).eval(), (1, 2, 1))  # 2 rows, 1 column
    assert small[0].weight.tolist() == [[[[4.0], [7.0]]]]
    assert small[0].padding == (0, 0)
    assert cut.to_dict("records") == [
        {"layer": "0", "image": (2, 1), "kernel": (3, 3), "cropped": (2, 1)}
        | {"weights": 9, "kept": 2}
    ]


def test_per_tensor_weights_and_same_padding_are_cropped_as_well():
    network, images = random_network(3)
    int8 = in_int8(network, images, tq.QConfig(SEVEN_BITS.activation, tq.default_weight_observer))
    assert torch.equal(specialize(int8, images.shape[1:])[0](images), int8(images))
    same = nn.Sequential(nn.Conv2d(1, 2, (4, 5), padding="same")).eval().double()
    images = torch.randn(2, 1, 2, 2).double()
    small, cut = specialize(same, (1, 2, 2))
    assert cut["cropped"][0] == (3, 3)
    torch.testing.assert_close(small(images), same(images))


class Twice(nn.Module):
    """One convolution in two places, for images of one shape or of two."""

    def __init__(self, stride: int, **geometry):
        super().__init__()
        self.conv = self.again = nn.Conv2d(1, 1, 5, stride, **geometry)

    def forward(self, x):
        return self.again(self.conv(x))


@pytest.mark.parametrize(
    ("size", "stride", "geometry", "left"),
    [(2, 1, {"padding": 2}, 9), (3, 3, {"padding": 3}, 25), (2, 1, {"padding": "same"}, 9)]
    + [(3, 1, {"padding": 2, "padding_mode": "circular"}, 25)],
)
def test_a_layer_that_serves_twice(size, stride, geometry, left):
    network = Twice(stride, **geometry).eval().double()
    images = torch.randn(3, 1, size, size).double()
    small, cut = specialize(network, images.shape[1:])
    assert cut["kept"].tolist() == [left]
    torch.testing.assert_close(small(images), network(images))


def test_resnet18_loses_its_idle_taps_and_keeps_its_bits(int8_model, images, tmp_path):
    small, cut = specialize(int8_model, (1, 28, 28))
    assert torch.equal(small(images), int8_model(images))
    table = cut.set_index("layer")["cropped"]
    assert table["layer4.0.conv1"] == (2, 2)
    assert (table[["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]] == (1, 1)).all()
    assert round(1 - cut["kept"].sum() / cut["weights"].sum(), 3) == 0.622
    assert ptq.save_int8(small, tmp_path / "small.pt") < 4_400_000
    loaded = load_specialized(tmp_path / "small.pt")
    assert torch.equal(loaded(images), small(images))
    with pytest.raises(SpecializationError, match=r"\(1, 32, 32\).*\(1, 28, 28\)"):
        loaded(torch.zeros(2, 1, 32, 32))


def test_large_images_leave_nothing_to_cut(float_model):
    small, cut = specialize(float_model, (1, 224, 224))
    assert (cut["kernel"] == cut["cropped"]).all()
    assert small.layer4[1].conv2.padding == (1, 1)


def test_what_cannot_be_specialized_or_loaded_is_refused(float_model, int8_model, tmp_path):
    with pytest.raises(SpecializationError, match=r"no images of \(3, 28, 28\)"):
        specialize(float_model, (3, 28, 28))
    with pytest.raises(SpecializationError, match="eval mode"):
        specialize(nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 28, 28))
    with pytest.raises(SpecializationError, match="before prepare"):
        specialize(ptq.prepare(ptq.fuse(float_model)), (1, 28, 28))
    ptq.save_int8(int8_model, tmp_path / "whole.pt")
    with pytest.raises(SpecializationError, match=r"whole.pt .*image_shape"):
        load_specialized(tmp_path / "whole.pt")
    state = ptq.fuse(float_model).state_dict() | {"image_shape": torch.tensor([1, 28, 28])}
    torch.save(state, tmp_path / "wrong.pt")  # with kernels that are not cropped
    with pytest.raises(SpecializationError, match=r"layer4.0.conv1.0.weight"):
        load_specialized(tmp_path / "wrong.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(SpecializationError, match=r"text.pt"):
        load_specialized(tmp_path / "text.pt")


def test_a_float_file_and_another_network_are_loaded_as_well(float_model, images, tmp_path):
    small, _ = specialize(ptq.fuse(float_model), (1, 28, 28))
    torch.save(small.state_dict(), tmp_path / "float.pt")
    assert torch.equal(load_specialized(tmp_path / "float.pt")(images[:2]), small(images[:2]))
    network, pictures = random_network(4)
    int8, _ = specialize(in_int8(network, pictures), pictures.shape[1:])
    torch.save(int8.state_dict(), tmp_path / "int8.pt")
    loaded = load_specialized(tmp_path / "int8.pt", network)
    assert torch.equal(loaded(pictures), int8(pictures))
