"""Each method on a case that was worked out by hand, and packed files that were tampered with."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from utils import quantization as ptq
from utils import specialization
from utils.lab import integer, lowbit
from utils.models import QuantizableBasicBlock, tq


def linear(*rows, bias=0.0):
    layer = nn.Linear(len(rows[0]), len(rows)).eval()
    layer.weight.data, layer.bias.data = torch.tensor(rows), torch.full((len(rows),), bias)
    return layer


def start(layer, scale, bits=3):
    codes = (layer.weight.detach() / scale).round().to(torch.int8)
    return lowbit.Quantized(codes, torch.tensor([scale]), bits)


@pytest.fixture(scope="module")
def fused(float_model):
    return ptq.fuse(float_model)


def test_three_bits_of_four_weights():
    """Largest 3.5 on 7 steps: S = 1; 3.5 would round to 4, beyond the largest code 3."""
    model = nn.Sequential(linear([3.5, -3.5, 0.4, 0.6]))
    made = lowbit.quantize(model, 3)["0"]
    assert made.scale.tolist() == [1] and made.codes.tolist() == [[3, -4, 0, 1]]
    assert made.weight.tolist() == [[3, -4, 0, 1]]


def test_one_scale_per_channel_or_for_all():
    weight = torch.tensor([[1.5, 0.1], [0.3, -0.15]])
    assert_close(lowbit.scales(weight, 2), torch.tensor([1.0, 0.2]))
    assert_close(lowbit.scales(weight, 2, per="tensor"), torch.tensor([1.0]))


def test_a_group_has_a_scale_of_its_own():
    """Groups of two: 1.5 and 0.3 are the largest; three weights cannot be divided by two."""
    model = nn.Sequential(linear([1.5, -0.6, 0.3, -0.15]), linear([1.5, 0.1, 0.2]))
    made = lowbit.quantize(model, 2, per=2)
    assert_close(made["0"].scale, torch.tensor([1.0, 0.2]))
    assert made["0"].codes.tolist() == [[1, -1, 1, -1]]  # 1.5 rounds to 2, beyond the largest
    assert_close(made["0"].weight, torch.tensor([[1, -1, 0.2, -0.2]]))
    assert made["1"].scale.tolist() == [1]
    for size in (4, 100):  # more than a channel has: groups cross no channels
        assert_close(
            lowbit.scales(torch.tensor([[1.5, 0], [0.3, 0]]), 2, per=size), torch.tensor([1.0, 0.2])
        )


def test_least_squared_error_cuts_what_minmax_keeps():
    """Fifteen weights of 0.5 vanish at S = 1, and one of 1.5 costs less when it is cut."""
    weight = torch.tensor([[1.5] + [0.5] * 15])
    wide = lowbit.scales(weight, 2)
    tight = lowbit.scales(weight, 2, "least squared error")
    assert wide == 1 and 0.5 <= tight < 0.6


def test_the_percentile_is_that_of_absolute_weights():
    weight = -torch.arange(101.0)[None]
    assert_close(lowbit.scales(weight, 2, "percentile"), torch.tensor([99 / 1.5]))


def test_unknown_choices_are_refused():
    for choice in ({"bits": 1}, {"bits": 9}, {"bits": 4, "ranges": "best"}):
        with pytest.raises(ValueError, match=r"bits=|best"):
            lowbit.scales(torch.ones(1, 1), **choice)


def test_at_eight_bits_the_codes_are_fbgemms(fused, int8_model):
    made = lowbit.quantize(fused, 8)
    for name, layer in made.items():
        real = int8_model.get_submodule(name).weight()
        if real.qscheme() == torch.per_channel_affine:  # qnnpack has one scale for each layer
            assert_close(layer.scale, real.q_per_channel_scales().float())
            assert torch.equal(layer.codes, real.int_repr()), name


def test_eight_bit_activations_have_the_observers_scale(fused, images):
    coarse = lowbit.with_activations(fused, images, 8)
    observer = tq.MinMaxObserver(quant_min=0, quant_max=255)
    observer(images)
    scale, zero_point = observer.calculate_qparams()
    found = coarse.quant(images)
    real = torch.quantize_per_tensor(images, scale.item(), int(zero_point), torch.quint8)
    assert_close(found, real.dequantize())
    two = lowbit.with_activations(fused, images, 2)
    assert len(two.conv1(two.quant(images)).unique()) <= 4
    assert len(two(images).unique()) > 100  # logits are not rounded


@pytest.mark.parametrize("bits", [2, 4])
def test_integer_kernels_run_the_stored_codes(fused, images, bits):
    """fbgemm, and the network in NumPy: the same codes as weights, and as activations."""
    if ptq.default_engine() != "fbgemm":
        pytest.skip("the integer network is that of fbgemm")
    small, _ = specialization.specialize(fused, tuple(images.shape[1:]))
    made = lowbit.quantize(small, bits)
    name = "layer1.0.conv1"
    codes = torch.randint(-1, 2, made[name].codes.shape, dtype=torch.int8)  # ternary, no rounding
    codes[0], scale = 0, torch.full((len(codes),), 0.01)
    scale[0] = 0  # a channel that training has emptied
    made[name] = lowbit.Quantized(codes, scale, 2)
    int8 = lowbit.to_int8(small, made, images)
    for name, layer in made.items():
        real = int8.get_submodule(name).weight()
        assert torch.equal(real.int_repr(), layer.codes), name
        assert_close(real.dequantize(), layer.weight)
    real = ptq.layer_outputs(int8, images[:8], integers=True)
    with np.errstate(all="raise"):
        ours = integer.IntegerResNet18.from_quantized(int8).activations(images[:8])
    for name, found in real.items():
        theirs = found.int_repr().numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        assert (ours[name.removesuffix(".1")].q.squeeze() == theirs.squeeze()).all(), name


def test_rounded_activations_have_the_kernels_codes(fused, images):
    """With 7 bits, so that no processor's kernels saturate; a float32 sum may round elsewhere."""
    fewer = tq.MinMaxObserver.with_args(quant_min=0, quant_max=127, dtype=torch.quint8)
    made = lowbit.quantize(fused, 8)
    qconfig = tq.QConfig(fewer, tq.default_weight_observer)
    int8 = lowbit.to_int8(fused, made, images, qconfig)
    fake = lowbit.with_activations(lowbit.with_weights(fused, made), images, 7)
    ours = ptq.layer_outputs(fake, images[:8])
    theirs = ptq.layer_outputs(int8, images[:8], integers=True)
    for name in ("quant", "conv1", "layer1.0.conv1"):
        codes = theirs[name]
        gap = ours[name] / codes.q_scale() + codes.q_zero_point() - codes.int_repr()
        assert gap.abs().max() < 1.1 and (gap.abs() > 0.5).float().mean() < 1e-3, name


def test_equalization_makes_ranges_even():
    """Written by at most 8 and read by at most 2: s = 2, and both become 4."""
    block = nn.Module()
    block.conv1 = torch.ao.nn.intrinsic.ConvReLU2d(nn.Conv2d(1, 2, 1), nn.ReLU())
    block.conv2 = nn.Conv2d(2, 1, 1)
    block.conv1[0].weight.data[:, 0, 0, 0] = torch.tensor([-8.0, 0.0])
    block.conv1[0].bias.data[:] = 6
    block.conv2.weight.data[0, :, 0, 0] = torch.tensor([2.0, 3.0])
    even = lowbit.equalize(block)
    assert even.conv1[0].weight.flatten().tolist() == [-4, 0]
    assert even.conv1[0].bias.tolist() == [3, 6]
    assert even.conv2.weight.flatten().tolist() == [4, 3]  # zeros write the second channel


def test_equalization_keeps_the_function(fused, images):
    for whole in (fused, specialization.specialize(fused, tuple(images.shape[1:]))[0]):
        even = lowbit.equalize(whole)
        blocks = [name for name in lowbit.layers(whole) if "conv2" in name]
        assert len(blocks) == 8
        for name in blocks:
            assert not torch.equal(lowbit.weight_of(even, name), lowbit.weight_of(whole, name))
        assert ptq.sqnr(whole(images), even(images)) > 100


def test_the_rectified_sigmoid_and_its_penalty():
    """h(0) = 1.2 / 2 - 0.1; for h = 0.75 and beta = 2 the penalty is 1 - 0.5^2."""
    h = lowbit.rectified_sigmoid(torch.tensor([0.0, 9.0, -9.0]))
    assert_close(h, torch.tensor([0.5, 1.0, 0.0]))
    assert lowbit.rounding_penalty(torch.tensor([0.0, 1.0, 0.75]), 2.0) == 0.75


def test_adaround_rounds_the_sum_and_not_the_weights():
    """0.3 and 0.45 on equal inputs: codes 0 and 0 miss 0.75 by 0.75, 0 and 1 by only 0.25."""
    layer, x = linear([0.3, 0.45]), torch.ones(64, 2)
    codes = lowbit.adaround(layer, x, layer(x).detach(), start(layer, 1.0), steps=200)
    assert codes.tolist() == [[0, 1]]


def test_adaround_looks_behind_the_relu():
    """Where ReLU hides the output, no rounding is better: 0.4 goes to its nearest code."""
    layer = torch.ao.nn.intrinsic.ConvReLU2d(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    layer[0].weight.data[:], layer[0].bias.data[:] = 0.4, -100
    x = torch.rand(8, 1, 2, 2)
    codes = lowbit.adaround(layer, x, layer(x).detach(), start(layer[0], 1.0))
    assert codes.item() == 0


def test_adaround_learns_only_the_taps_that_meet_data():
    """On a 1x1 map with padding 1 only the center does; it learns as it would alone."""
    torch.manual_seed(0)
    whole, alone = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
    alone.weight.data, alone.bias.data = whole.weight.data[..., 1:2, 1:2].clone(), whole.bias.data
    x = torch.randn(64, 8, 1, 1)
    begun = start(whole, 0.1)
    begun.codes[..., 0, 0] += 1  # not the nearest
    codes = lowbit.adaround(whole, x, whole(x).detach(), begun)
    center = lowbit.adaround(alone, x, alone(x).detach(), start(alone, 0.1))
    kept = begun.codes.clone()
    assert not torch.equal(center, kept[..., 1:2, 1:2])
    kept[..., 1:2, 1:2] = center
    assert torch.equal(codes, kept)
    whole.padding_mode = "circular"  # the padding holds data, too
    assert (lowbit.adaround(whole, x, whole(x).detach(), begun) != kept)[..., 0, 0].any()
    whole.padding, whole.padding_mode = "same", "zeros"
    assert lowbit.adaround(whole, x, whole(x).detach(), begun).shape == kept.shape


def test_gptq_lets_the_next_column_make_up_for_an_error():
    """Equal inputs: the first 0.4 becomes 0, so the second has to carry nearly 0.8: code 1."""
    layer, x = linear([0.4, 0.4]), torch.ones(64, 2)
    assert lowbit.gptq(layer, x, None, start(layer, 1.0)).tolist() == [[0, 1]]
    wide = linear([4.8, 1.0])  # S = 4: the first is 0.8 too small, and 1.8 is nearer to 0 than to 4
    assert lowbit.gptq(wide, x, None, start(wide, 4.0)).tolist() == [[1, 0]]


def test_gptq_rounds_to_nearest_where_inputs_are_unrelated():
    layer, x = linear([0.4, 0.6, 2.0]), torch.eye(3) * torch.tensor([1.0, 1.0, 0.0])
    assert lowbit.gptq(layer, x, None, start(layer, 1.0)).tolist() == [
        [0, 1, 0]
    ]  # the last is idle


def test_gptq_meets_a_convolutions_patches():
    """Stride 2: the two taps always meet equal pixels, so the second makes up for the first."""
    layer = nn.Conv2d(1, 1, (1, 2), (1, 2), bias=False)
    layer.weight.data[:] = 0.4
    x = torch.randn(64, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    codes = lowbit.gptq(layer, x.repeat_interleave(2, 3), None, start(layer, 1.0))
    assert codes.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("method", [lowbit.gptq, lowbit.adaround])
def test_a_repair_sees_what_the_repaired_layers_hand_on(method):
    """0.4 becomes 0 in the first layer; the second layer then meets nothing but zeros."""
    model = nn.Sequential(linear([0.4]), linear([1.4], bias=1.0)).eval()
    met = {}

    def spy(layer, x, target, made):
        met[layer] = x.clone(), target.clone()
        return method(layer, x, target, made)

    ones = torch.ones(4, 1)
    lowbit.repair(model, ones, {n: start(m, 1.0) for n, m in model.named_children()}, spy)
    assert_close(met[model[0]], (ones, 0.4 * ones))
    assert_close(met[model[1]], (0 * ones, 1.56 * ones))  # 1 + 1.4 * 0.4 in the float network


def test_bias_correction_restores_the_means_of_all_layers_in_order():
    model = nn.Sequential(linear([0.4]), linear([2.0], bias=1.0)).eval()
    coarse = lowbit.with_weights(model, {"0": start(model[0], 1.0)})
    corrected = lowbit.correct_bias(model, coarse, torch.tensor([[1.0], [3.0]]))
    assert_close(corrected[0].bias.data, torch.tensor([0.8]))  # 0.4 times the mean input 2
    assert_close(corrected[1].bias.data, torch.tensor([1.0]))  # its input is right already
    assert coarse[0].bias.item() == 0


def center(layer):
    """Return the central tap of a kernel with one input and one output."""
    weight = lowbit.core(layer).weight.data
    return weight[0, 0, weight.shape[2] // 2, weight.shape[3] // 2]


@pytest.mark.parametrize(
    ("stem", "bias", "alone", "together"),
    [(1.0, 0, [0, 0], [0, 1]), (0.6, 0, [0, 0], [0, 0]), (1.0, -100, [0, 0], [0, 0])],
)
def test_a_block_rounds_the_sum_of_its_branches(stem, bias, alone, together):
    """The branches give 0.3 and 0.45; codes 0 and 0 miss the sum by 0.75, codes 0 and 1 by 0.25.

    Where the layer before turns 0.6 into 1, the sum of the codes has to meet 0.6 * 0.75: 0 is
    nearer than 1. Where the last ReLU hides the sum, each branch goes to its nearest code.
    """
    block, x = QuantizableBasicBlock(1, 1, stride=2).eval(), torch.ones(64, 1, 1, 1)
    block.fuse()
    model, branches = nn.Sequential(nn.Conv2d(1, 1, 1), block), ["1.conv2", "1.downsample.0"]
    inner = lowbit.layers(model)
    for (name, layer), value in zip(inner.items(), (stem, 1, 0.3, 0.45), strict=True):
        lowbit.core(layer).weight.data.zero_()
        lowbit.core(layer).bias.data[:] = bias if name == "1.conv2" else 0
        center(layer).fill_(value)
    made = {name: start(lowbit.core(layer), 1.0) for name, layer in inner.items()}
    layered = lowbit.repair(model, x, made, lowbit.adaround, steps=100)
    blocked = lowbit.repair_blocks(model, x, made, steps=100)
    for found, codes in ((layered, alone), (blocked, together)):
        coarse = lowbit.with_weights(model, found)
        assert center(coarse[0]) == center(coarse[1].conv1) == 1
        assert [center(coarse.get_submodule(name)).item() for name in branches] == codes


def test_a_specialized_network_is_rounded_block_by_block(fused, images):
    small, _ = specialization.specialize(fused, tuple(images.shape[1:]))
    made = lowbit.quantize(small, 2)
    del made["fc"], made["layer1.0.conv1"]
    found = lowbit.repair_blocks(small, images[:8], made, steps=2)
    assert found.keys() == made.keys()
    for name, layer in found.items():
        exact = lowbit.weight_of(small, name) / lowbit._steps(layer.scale, layer.codes)
        assert ((exact.clamp(-2, 1) - layer.codes).abs() <= 1).all(), name
        assert (layer.codes != made[name].codes).any(), name


def test_the_mean_behind_a_relu_is_that_of_a_large_sample():
    norm = nn.BatchNorm2d(6)
    norm.weight.data = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 0.0])
    norm.bias.data = torch.tensor([0.0, 0.0, -1.0, 3.0, 2.0, -2.0])
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(200_000, 6, generator=generator) * norm.weight.data + norm.bias.data
    found = lowbit.mean_behind_relu(norm)
    assert_close(found, sample.relu().mean(0), atol=0.02, rtol=0)
    assert_close(found[:2], torch.full((2,), (2 * torch.pi) ** -0.5))  # E|z| / 2
    assert found[4:].tolist() == [2, 0]


def test_analytic_bias_correction_restores_the_mean_of_a_convolution():
    """Its input is drawn as batch norm leaves it; at the border, taps meet padding."""
    torch.manual_seed(0)
    block = QuantizableBasicBlock(2, 2).eval()
    gamma, beta = torch.tensor([1.5, -0.5]), torch.tensor([0.3, 1.0])
    block.bn1.weight.data, block.bn1.bias.data = gamma, beta
    unfused, model = nn.Sequential(copy.deepcopy(block)), nn.Sequential(block)
    block.fuse()
    coarse = lowbit.with_weights(model, lowbit.quantize(model, 2))
    corrected = lowbit.correct_bias_analytically(model, coarse, unfused, (2, 3, 3))
    x = (torch.randn(50_000, 3, 3, 2) * gamma + beta).relu().permute(0, 3, 1, 2)
    networks = (model, coarse, corrected)
    exact, before, after = (m[0].conv2(x).mean((0, 2, 3)).detach() for m in networks)
    assert (before - exact).abs().min() > 0.02
    assert_close(after, exact, atol=0.004, rtol=0)


def test_analytic_bias_correction_counts_the_taps_that_exist(float_model, fused, images):
    """Whole or specialized, with the same codes: idle taps meet only padding and add nothing."""
    shape = tuple(images.shape[1:])
    coarse = lowbit.with_weights(fused, lowbit.quantize(fused, 2))
    pairs = [(fused, coarse), [specialization.specialize(m, shape)[0] for m in (fused, coarse)]]
    one, two = (lowbit.correct_bias_analytically(*p, float_model, shape) for p in pairs)
    for number, name in enumerate(lowbit.layers(two)):
        plain, bias = (lowbit.core(m.get_submodule(name)).bias for m in (pairs[1][1], two))
        assert torch.equal(bias, plain) != ("conv2" in name), name
        whole = list(lowbit.layers(one).values())[number]
        assert_close(bias, lowbit.core(whole).bias, atol=1e-5, rtol=1e-5)


def test_sensitivity_is_the_squared_move_of_the_logits():
    """At 2 bits S = 1 for the row (1.5, 0.4): the output on (1, 1) moves from 1.9 to 1."""
    table = lowbit.sensitivity(nn.Sequential(linear([1.5, 0.4])), torch.ones(1, 2), [2])
    assert table.loc["0", 2] == pytest.approx(0.81)


def test_the_allocation_is_the_best_that_fits():
    """With 7 bytes only one layer can have more bits; b gains 8, a gains 4."""
    loss = pd.DataFrame({2: [5.0, 9.0], 8: [1.0, 1.0]}, index=["a", "b"])
    size = pd.DataFrame({2: [1, 1], 8: [4, 6]}, index=["a", "b"])
    assert lowbit.allocate(loss, size, 7) == {"a": 2, "b": 8}
    assert lowbit.allocate(loss, size, 5) == {"a": 8, "b": 2}
    assert lowbit.allocate(loss, size.iloc[::-1, ::-1], 5) == {"a": 8, "b": 2}
    with pytest.raises(ValueError, match="at least 2 bytes"):
        lowbit.allocate(loss, size, 1)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_packed_weights_come_back_and_take_their_bits(tmp_path, fused, bits):
    made, path = lowbit.quantize(fused, bits), tmp_path / "model.bin"
    biases = {name: layer.bias for name, layer in fused.named_modules() if name == "fc"}
    size = lowbit.pack(path, {"fc": made["fc"]}, biases)
    assert size < 5120 * bits / 8 + 1300  # 80 bytes of scales and biases, the rest are headers
    again, restored = lowbit.unpack(path)
    assert torch.equal(again["fc"].codes, made["fc"].codes) and again["fc"].bits == bits
    assert torch.equal(again["fc"].weight, made["fc"].weight)
    assert torch.equal(restored["fc"], biases["fc"])


def test_a_damaged_file_is_refused_in_words(tmp_path):
    layer, path = linear([1.5, 0.1]), tmp_path / "model.bin"
    lowbit.pack(path, {"fc": start(layer, 1.0, 2)}, {"fc": layer.bias})
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    later = whole[:6] + b"\x09" + whole[7:]
    cases = {"truncated": [whole[:-5], whole[:300], flipped], "version 9": [later]}
    for said, contents in (
        cases | {"not a packed": [b"", whole[:8], np.ones(9).tobytes()]}
    ).items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(lowbit.PackedError, match=said):
                lowbit.unpack(path)
