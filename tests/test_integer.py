"""The integer network against PyTorch's kernels, bit for bit, and what breaks the equality."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.ao.quantization as tq
from torch import nn

from utils import quantization as ptq
from utils.lab import agreement, integer, observers
from utils.lab.integer import FBGEMM, FIXED_POINT, Arithmetic, IntegerResNet18, Layer, Quantized
from utils.models import ResNet18

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="needs fbgemm (x86)"
)


@pytest.fixture(scope="module")
def test_digits(digits):
    return digits.normalizer()(digits.test_images)


@pytest.fixture(scope="module")
def network(int8_model):
    return IntegerResNet18.from_quantized(int8_model)


@pytest.fixture(scope="module")
def kernel(int8_model):
    return partial(agreement.kernel_activations, int8_model)


def codes(generator, *shape):
    return generator.integers(0, 256, shape, dtype=np.uint8)


def as_torch(x: Quantized) -> torch.Tensor:
    """Channels first, channels-last in memory, as the kernels get it."""
    q = torch.from_numpy(x.q.transpose(0, 3, 1, 2) if x.q.ndim == 4 else x.q)
    return torch._make_per_tensor_quantized_tensor(q, float(x.scale), x.zero_point)


def random_layer(generator, outputs=8, inputs=6, size=3, *, relu=False, **where) -> Layer:
    return Layer(
        weight=generator.integers(-128, 128, (outputs, size, size, inputs), dtype=np.int8),
        weight_scale=generator.uniform(0.001, 0.01, outputs).astype(np.float32),
        bias=generator.normal(size=outputs).astype(np.float32),
        scale=np.float32(0.13),
        zero_point=61,
        relu=relu,
        **where,
    )


def torch_layer(layer: Layer, x: Quantized) -> np.ndarray:
    """The same layer by torch.ops.quantized, channels last."""
    flat = x.q.ndim == 2
    weight = layer.weight[:, 0, 0] if flat else layer.weight.transpose(0, 3, 1, 2)
    scales = torch.from_numpy(layer.weight_scale).double()
    weight = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(np.ascontiguousarray(weight)), scales, torch.zeros_like(scales).long(), 0
    )
    ops, name = torch.ops.quantized, ("linear" if flat else "conv2d") + "_relu" * layer.relu
    where = () if flat else ([layer.stride] * 2, [layer.padding] * 2, [1, 1], 1)
    prepack = ops.linear_prepack if flat else ops.conv2d_prepack
    packed = prepack(weight, torch.from_numpy(layer.bias), *where)
    y = getattr(ops, name)(as_torch(x), packed, float(layer.scale), layer.zero_point).int_repr()
    return y.numpy() if flat else y.permute(0, 2, 3, 1).numpy()


# Numbers worked out by hand.


def test_a_layer_by_hand():
    """(20 - 10) 50 - (30 - 10) 10 = 300; M = 0.1 x 0.02 / 0.05 = 0.04; 4 + 12 = 16."""
    layer = Layer(
        weight=np.array([[[[50, -10]]]], dtype=np.int8),
        weight_scale=np.array([0.02], dtype=np.float32),
        bias=np.zeros(1, np.float32),
        scale=np.float32(0.05),
        zero_point=4,
    )
    x = Quantized(np.array([[20, 30]], dtype=np.uint8), np.float32(0.1), 10)
    assert layer.accumulate(x).tolist() == [[300]]
    assert layer(x).q.tolist() == [[16]]
    assert layer(x).dequantize().item() == pytest.approx(0.6)


def test_rounding_rules():
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.4, -0.6], dtype=np.float32)
    assert integer.round_to(halves, "half even").tolist() == [0, 2, 2, 0, -2, 0, -1]
    assert integer.round_to(halves, "half away").tolist() == [1, 2, 3, -1, -2, 0, -1]
    assert integer.round_to(np.float32([0.49999997]), "half away").tolist() == [0]


def test_a_patch_is_ordered_by_row_column_and_channel():
    q = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(1, 2, 2, 2)
    rows = integer.patches(q, (2, 2), stride=1, padding=0, fill=9)
    assert rows.tolist() == [[[list(range(8))]]]
    padded = integer.patches(q, (2, 2), stride=2, padding=1, fill=9)
    assert padded.shape == (1, 2, 2, 8)
    assert padded[0, 0, 0].tolist() == [9, 9, 9, 9, 9, 9, 0, 1]


def test_every_side_has_a_padding_of_its_own_and_a_negative_one_cuts_off():
    q = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    (rows,) = integer.patches(q, (1, 7), stride=1, padding=(1, 3, 2, 0), fill=9)
    assert rows.reshape(4, 7).tolist() == [
        *[[9] * 7] * 2,
        [9, 0, 1, 2, 9, 9, 9],
        [9, 3, 4, 5, 9, 9, 9],
    ]
    (rows,) = integer.patches(q, (1, 1), stride=(1, 2), padding=(-1, 1, 0, -1), fill=9)
    assert rows.tolist() == [[[1], [9]]]


@pytest.mark.parametrize(
    ("products", "weight"), [(4608, -128), (517, 127), (519, 127), (4609, 127)]
)
def test_the_product_is_exact_on_both_sides_of_what_float32_holds(products, weight):
    """Odd sums: 517 products stay below 2**24, 519 do not, and a float32 would round theirs."""
    rows = np.full((1, products), 255, dtype=np.uint8)
    columns = np.full((1, products), weight, dtype=np.int8)
    assert integer.integer_product(rows, columns).item() == 255 * weight * products


def test_cancelling_products_are_exact_as_well():
    """The sum is 1, but on the way to it there are sums that no float32 holds."""
    rows = np.full((1, 4609), 255, dtype=np.uint8)
    weight = np.concatenate([np.full(2304, 127), [1], np.full(2304, -127)]).astype(np.int8)
    rows[0, 2304] = 1
    assert integer.integer_product(rows, weight[None]).item() == 1


@pytest.mark.parametrize(
    ("multiplier", "m0", "shift"),
    [(0.25, 2**30, -1), (0.75, 3 * 2**29, 0), (1.0, 2**30, 1), (np.nextafter(1.0, 0), 2**30, 1)],
)
def test_fixed_point_by_hand(multiplier, m0, shift):
    """The last one is rounded up to a power of two, which carries."""
    found = integer.fixed_point(np.array([multiplier]))
    assert [int(part[0]) for part in found] == [m0, shift]


@pytest.mark.parametrize("bad", [0.0, -0.1, np.inf, np.nan])
def test_fixed_point_refuses_what_is_no_multiplier(bad):
    with pytest.raises(ValueError, match="positive"):
        integer.fixed_point(np.array([bad]))


def test_multiply_rounds_the_shift_away_from_zero():
    half = integer.fixed_point(np.array(0.25))  # M0 = 2**30 halves, then a shift by one
    total = np.array([4, 2, -2, 6, -6, 1, -4], dtype=np.int32)
    assert integer.multiply(total, *half).tolist() == [1, 1, -1, 2, -2, 1, -1]


def test_multiply_is_the_product_to_one_unit(rng):
    total = rng.integers(-(2**24), 2**24, 10_000).astype(np.int32)
    multiplier = rng.uniform(1e-5, 2, 10_000)
    real = total * multiplier
    assert np.abs(integer.multiply(total, *integer.fixed_point(multiplier)) - real).max() <= 1


# Every operator against PyTorch's.


def compare(run, reference, images):
    return agreement.compare_codes(reference, {"run": run}, images)["run"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def fbgemm():
    ptq.set_engine("fbgemm")


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize(
    ("shape", "where"),
    [
        ((3, 7, 7, 6), {"padding": 1}),
        ((3, 7, 7, 6), {"padding": 1, "stride": 2}),
        ((3, 7, 7, 6), {"size": 2, "padding": 2}),
        ((50, 33), {"inputs": 33, "outputs": 10, "size": 1}),
    ],
)
def test_a_layer_equals_the_kernel(rng, shape, where, relu):
    layer = random_layer(rng, relu=relu, **where)
    # Seven bits, so that kernels without VNNI do not saturate.
    x = Quantized(codes(rng, *shape) // 2, np.float32(0.02), 37)
    assert np.array_equal(layer(x).q, torch_layer(layer, x))


def test_quantize_equals_torch(rng):
    r = rng.normal(0, 3, (64, 32)).astype(np.float32)
    theirs = torch.quantize_per_tensor(torch.from_numpy(r), 0.017, 93, torch.quint8)
    ours = integer.quantize(r, np.float32(0.017), 93)
    assert np.array_equal(ours.q, theirs.int_repr().numpy())
    assert np.array_equal(ours.dequantize(), theirs.dequantize().numpy())


def test_add_relu_equals_torch_for_every_pair_of_codes(rng):
    grid = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for _ in range(4):
        scales = rng.uniform(0.005, 0.2, 3).astype(np.float32)
        zeros = rng.integers(0, 256, 3)
        a, b = (
            Quantized(q, s, int(z)) for q, s, z in zip(grid, scales[:2], zeros[:2], strict=True)
        )
        ours = integer.add_relu(a, b, scales[2], int(zeros[2]))
        out = float(scales[2]), int(zeros[2])
        theirs = torch.ops.quantized.add_relu(as_torch(a), as_torch(b), *out)
        assert np.array_equal(ours.q, theirs.int_repr().numpy())


def test_pooling_equals_torch(rng):
    x = Quantized(codes(rng, 2, 7, 7, 64), np.float32(0.05), 11)
    theirs = torch.nn.functional.max_pool2d(as_torch(x), 3, 2, 1)
    assert np.array_equal(
        integer.max_pool(x, 3, 2, 1).q, theirs.int_repr().permute(0, 2, 3, 1).numpy()
    )
    theirs = torch.nn.functional.adaptive_avg_pool2d(as_torch(x), 1).flatten(1)
    assert np.array_equal(integer.global_average_pool(x).q, theirs.int_repr().numpy())


# The whole network.


def test_every_layer_of_every_test_digit_equals_fbgemm(network, kernel, int8_model, test_digits):
    found = compare(network.activations, kernel, test_digits)
    assert found.different == 0, found.layers[found.layers["different"] > 0]
    assert found.predictions_changed == 0
    assert len(found.layers) == 32  # 21 with weights, 8 additions, 2 pools, and the input
    assert found.activations > 40_000_000
    few = test_digits[:300]  # more than one batch
    assert np.array_equal(network.logits(few), int8_model(few).numpy())


def test_larger_images_of_three_channels_and_weights_per_tensor_equal_fbgemm_too():
    """With maps of more than one pixel at the end, the average pool has work to do."""
    torch.manual_seed(3)
    images = torch.randn(4, 3, 64, 64)
    model = ResNet18(7, 3)
    with torch.no_grad():
        model(images)
    int8 = ptq.quantize(model.eval(), images, qconfig=observers.qconfig(weights="per tensor"))
    network = IntegerResNet18.from_quantized(int8)
    found = compare(network.activations, partial(agreement.kernel_activations, int8), images)
    assert found.different == 0, found.layers[found.layers["different"] > 0]


@pytest.mark.parametrize(
    "choice", [{"rounding": "half away"}, {"padding": "zero"}, {"bias": "int32"}, vars(FIXED_POINT)]
)
def test_every_ingredient_matters(network, kernel, test_digits, choice):
    broken = partial(network.activations, arithmetic=Arithmetic(**choice))
    found = compare(broken, kernel, test_digits[:250])
    assert 0 < found.different < found.activations


def test_cropped_kernels_equal_fbgemm(int8_model, test_digits):
    """One pixel meets 2x2 taps of the first convolution of layer4, and one tap of the others."""
    small = copy.deepcopy(int8_model)
    for name, taps, around in (
        ("layer4.0.conv1", slice(1, 3), (0, 1, 1, 0)),
        ("layer4.0.conv2", slice(1, 2), None),
    ):
        conv = small.get_submodule(name)
        weight = conv.weight()
        codes = weight.int_repr()[:, :, taps, taps].contiguous()
        how = weight.q_per_channel_scales(), weight.q_per_channel_zero_points(), 0
        conv.kernel_size, conv.padding = codes.shape[2:], (0, 0)
        conv.set_weight_bias(torch._make_per_channel_quantized_tensor(codes, *how), conv.bias())
        if around:
            small.set_submodule(name, nn.Sequential(nn.ConstantPad2d(around, 0.0), conv))
    network = IntegerResNet18.from_quantized(small)
    assert network.layers["layer4.0.conv1"].padding == (0, 1, 1, 0)
    kernel = partial(agreement.kernel_activations, small)
    assert compare(network.activations, kernel, test_digits[:50]).different == 0


def test_counts_add_up_over_batches_and_the_largest_gap_does_not():
    def run(code, images):
        return {"fc": Quantized(np.full((len(images), 10), code, np.uint8), np.float32(1), 0)}

    images = torch.zeros(2 * integer.BATCH + 1, 1, 1, 1)
    found = compare(partial(run, 200), partial(run, 203), images)
    assert found.layers.values.tolist() == [["fc", 10 * len(images), 10 * len(images), 3]]


def test_what_fixed_point_adds_in_one_layer_is_small(network, kernel, test_digits):
    def fixed(images):
        return network.activations(images, FIXED_POINT, follow=kernel(images))

    found = compare(fixed, kernel, test_digits[:250])
    assert found.layers["largest"].max() == 1
    assert 0 < found.different < 0.005 * found.activations


def test_following_hands_no_difference_down(network, kernel, test_digits):
    """With the first layer alone broken, only what follows its own output goes on to differ."""
    first, images = "conv1", test_digits[:20]
    layer = network.layers[first]
    broken = replace(layer, bias=layer.bias + 10 * layer.scale)
    other = replace(network, layers=network.layers | {first: broken})
    runs = {"alone": lambda x: other.activations(x, follow=kernel(x)), "all": other.activations}
    found = agreement.compare_codes(kernel, runs, images)
    alone, through = (one.layers.set_index("layer")["different"] for one in found.values())
    assert alone[first] > 0
    assert alone.drop(first).sum() == 0
    assert through.drop(first).sum() > 0


# Saturation.


def test_saturation_of_one_pair():
    rows = np.array([[211, 171, 5]], dtype=np.uint8)
    weight = np.array([[71, 107, 1], [-71, -107, 1], [71, -107, 1]], dtype=np.int8)
    lost = 211 * 71 + 171 * 107 - 32767
    assert integer.saturation_loss(rows, weight).tolist() == [[lost, -(lost - 1), 0]]


def test_saturation_loss_equals_a_loop_over_pairs(rng):
    rows, weight = codes(rng, 20, 41), rng.integers(-128, 128, (7, 41), dtype=np.int8)
    products = rows[:, None, :].astype(int) * weight
    pairs = products[..., :40].reshape(20, 7, 20, 2).sum(-1)
    expected = products.sum(-1) - np.clip(pairs, -32768, 32767).sum(-1) - products[..., 40]
    assert (expected != 0).any()
    assert np.array_equal(integer.saturation_loss(rows, weight), expected)


def test_codes_of_eight_bits_saturate_and_those_of_seven_never(rng):
    rows = np.full((1, 8), 127, dtype=np.uint8)
    weight = np.array([[127] * 8, [-128] * 8], dtype=np.int8)
    assert not integer.saturation_loss(rows, weight).any()
    assert integer.saturation_loss(rows + np.uint8(3), weight).any()
    layer, pairs = random_layer(rng, padding=1), Arithmetic(accumulator="int16 pairs")
    x = Quantized(codes(rng, 2, 7, 7, 6), np.float32(0.02), 0)
    assert not np.array_equal(layer.accumulate(x), layer.accumulate(x, pairs))


# What is refused, and what is watched.


def test_watch_sees_every_accumulator(network, test_digits):
    seen = {}
    network.activations(test_digits[:2], watch=seen.__setitem__)
    assert list(seen) == [n for n in network.activations(test_digits[:2]) if n in network.layers]
    assert all(total.dtype == np.int32 for total in seen.values())


@pytest.mark.parametrize("field", integer.CHOICES)
def test_unknown_arithmetic_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}='nonsense' is unknown; known: "):
        Arithmetic(**{field: "nonsense"})
    with pytest.raises(ValueError, match="bias='int32'"):
        Arithmetic(multiplier="fixed point")


def test_float_models_and_affine_weights_are_refused(float_model, images):
    with pytest.raises(ValueError, match="convert"):
        IntegerResNet18.from_quantized(float_model)
    affine = tq.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_affine)
    qconfig = observers.qconfig()._replace(weight=affine)
    with pytest.raises(ValueError, match="zero points must be 0"):
        IntegerResNet18.from_quantized(ptq.quantize(float_model, images, qconfig=qconfig))


def test_wrong_channels_and_shapes_are_refused(rng):
    layer, x = random_layer(rng), Quantized(codes(rng, 1, 4, 4, 5), np.float32(1), 0)
    with pytest.raises(ValueError, match="takes 6 channels, the input has 5"):
        layer.accumulate(x)
    with pytest.raises(ValueError, match="shapes differ"):
        integer.add_relu(x, Quantized(x.q[:, :2], x.scale, 0), np.float32(1), 0)


def test_compare_refuses_other_layers(network, test_digits):
    def without_pool(images):
        return {k: v for k, v in network.activations(images).items() if k != "avgpool"}

    def other_shape(images):
        out = network.activations(images)
        return out | {"avgpool": out["layer4.1.add_relu"]}

    with pytest.raises(ValueError, match=r"only one of the two.*avgpool"):
        compare(without_pool, network.activations, test_digits[:2])
    with pytest.raises(ValueError, match="avgpool: the shapes"):
        compare(other_shape, network.activations, test_digits[:2])


def test_compare_counts_differences_and_predictions(network, test_digits):
    def other(images):
        out = network.activations(images)
        q = out["fc"].q.copy()
        q[0] = np.roll(q[0], 1)
        return out | {"fc": Quantized(q, out["fc"].scale, out["fc"].zero_point)}

    found = compare(other, network.activations, test_digits[:3])
    assert found.predictions_changed == 1
    assert 0 < found.different <= 10
    assert str(found).startswith(f"{found.different} of {found.activations:,} codes differ, by at ")
    assert str(found).endswith("; 1 predictions change")
    assert found.layers.set_index("layer")["different"].drop("fc").sum() == 0
    assert Arithmetic() == FBGEMM
