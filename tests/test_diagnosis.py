import copy
import math

import pandas as pd
import pytest
import torch
from torch import nn

from utils import quantization as ptq
from utils.lab import corruptions, diagnosis, observers
from utils.models import hooked, tq

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # those that utils.models silences


@pytest.fixture(scope="module")
def fused(float_model):
    return ptq.fuse(float_model)


@pytest.fixture(scope="module")
def raw(digits):
    """The calibration images of conftest before normalization, float32, 0 to 255."""
    chosen = torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:64]
    return digits.train_images[chosen].float()


def logits(model, images):
    with torch.inference_mode():
        return model(images)


def prepared(fused, images, *choices, **named):
    """Calibrated, with these choices of a qconfig."""
    model = ptq.prepare(fused, qconfig=observers.qconfig(*choices, **named))
    ptq.calibrate(model, images)
    return model


def int8(model, images, *choices, **named):
    return ptq.quantize(model, images, qconfig=observers.qconfig(*choices, **named))


# Observers and qconfigs


def test_percentile_observer_cuts_both_ends():
    values = torch.randn(100_000, generator=torch.manual_seed(0))
    observer = observers.PercentileObserver(97.725)  # two deviations
    observer(values)
    scale, zero_point = (v.item() for v in observer.calculate_qparams())
    assert -scale * zero_point == pytest.approx(-2, abs=0.05)
    assert scale * (255 - zero_point) == pytest.approx(2, abs=0.05)


def test_the_hundredth_percentile_is_min_max():
    values = torch.randn(1000, generator=torch.manual_seed(0))
    both = observers.PercentileObserver(100), tq.MinMaxObserver()
    (ours, _), (theirs, _) = (o(values) is None or o.calculate_qparams() for o in both)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("percentile", [50, 100.1])
def test_impossible_percentiles(percentile):
    with pytest.raises(ValueError, match=f"percentile={percentile}: choose more than 50"):
        observers.PercentileObserver(percentile)


def test_the_default_qconfig_is_that_of_fbgemm(float_model, images):
    if ptq.default_engine() != "fbgemm":
        pytest.skip("another engine has another default")
    theirs, ours = ptq.quantize(float_model, images), int8(float_model, images)
    assert torch.equal(logits(ours, images), logits(theirs, images))


def test_qconfig_keeps_its_choices():
    made = observers.qconfig("min-max", weights="per tensor", activations="symmetric", bits=5)
    activation, weight = made.activation(), made.weight()
    assert type(activation) is tq.MinMaxObserver
    assert (activation.quant_min, activation.quant_max) == (0, 31)
    assert weight.qscheme == torch.per_tensor_symmetric
    activation(torch.tensor([0.0, 3.1]))
    scale, zero_point = activation.calculate_qparams()
    assert zero_point.item() == 15
    assert scale.item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    "choice", [{"observer": "x"}, {"weights": "x"}, {"activations": "x"}, {"bits": 9}]
)
def test_unknown_choices(choice):
    with pytest.raises(ValueError, match=r"unknown choice (?:'x'|9); known: "):
        observers.qconfig(**choice)


# Single layers


def test_one_layer_alone_is_int8(fused, images):
    exact = logits(fused, images)
    layer = diagnosis.alone(fused, images)["layer2.0.conv1"]
    with diagnosis.replaced(fused, "layer2.0.conv1", layer) as model:
        integer = [n for n, m in model.named_modules() if hasattr(m, "scale")]
        assert integer == ["layer2.0.conv1.quant", "layer2.0.conv1.module"]
        assert 20 < ptq.sqnr(exact, logits(model, images)) < math.inf
    assert torch.equal(logits(fused, images), exact)  # as before


def test_every_layer_alone_has_the_ranges_of_its_own_calibration(fused, images):
    """One pass for all gives what a pass for each would."""
    found, inputs = diagnosis.alone(fused, images), []
    assert len(found) == 21
    assert list(found) == observers.weighted_layers(fused)
    assert {"conv1", "layer2.0.downsample.0", "fc"} < set(found)
    with hooked({"": fused.layer3[0].conv1}, before=lambda *seen: inputs.append(seen[2][0])):
        logits(fused, images)
    expected = tq.get_default_qconfig(ptq.set_engine()).activation()
    expected(inputs[0])
    assert found["layer3.0.conv1"].quant.scale == expected.calculate_qparams()[0]


def test_a_replaced_layer_comes_back_after_an_error(fused):
    before = fused.fc
    with pytest.raises(ZeroDivisionError), diagnosis.replaced(fused, "fc", nn.Identity()) as model:
        assert isinstance(model.fc, nn.Identity)
        1 / 0  # noqa: B018
    assert fused.fc is before


def test_one_layer_in_float_which_diagnose_leaves_out(fused, int8_model, images):
    mixed = diagnosis.in_float(fused, int8_model, "layer2.0.conv1")
    assert mixed[1] is fused.layer2[0].conv1
    before = int8_model.layer2[0].conv1
    assert (mixed[2].scale, mixed[2].zero_point) == (before.scale, before.zero_point)
    with diagnosis.replaced(int8_model, "layer2.0.conv1", mixed):
        found = logits(int8_model, images)
        layers = diagnosis.diagnose(fused, int8_model, images)["layer"]
    assert found.shape == (64, 10)
    assert not torch.equal(found, logits(int8_model, images))
    assert "layer2.0.conv1" not in set(layers)
    assert len(layers) == 29


@pytest.mark.parametrize("choices", [("per tensor", "symmetric", 8), ("per channel", "affine", 5)])
def test_one_calibration_serves_every_choice(fused, images, choices):
    expected = logits(ptq.convert(prepared(fused, images, "min-max", *choices)), images)
    model = prepared(fused, images, "min-max")
    observers.reconvert(model)  # an earlier choice leaves nothing behind
    assert torch.equal(logits(observers.reconvert(model, *choices), images), expected)


@pytest.mark.parametrize("changed", ["nothing", "weight", "bias"])
def test_weights_packed_before_serve_equal_weights_only(fused, images, changed):
    other = copy.deepcopy(fused)
    with torch.no_grad():
        conv = other.layer1[0].conv1[0]
        if changed == "weight":  # of the same sum
            conv.weight[3], conv.weight[4] = conv.weight[4].clone(), conv.weight[3].clone()
        if changed == "bias":
            conv.bias += 1
    before = observers.reconvert(prepared(fused, images))
    first = logits(before, images)
    seen = []
    before.layer1[0].conv1.register_forward_hook(lambda *_: seen.append(1))
    model = prepared(other, images[:32])  # other ranges
    found, expected = observers.reconvert(model, bits=8), ptq.convert(model)
    assert torch.equal(logits(found, images), logits(expected, images))
    shared = found.layer1[0].conv1._packed_params is before.layer1[0].conv1._packed_params
    assert shared is (changed == "nothing")
    assert not seen and torch.equal(logits(before, images), first)


@pytest.mark.parametrize("engine", ["fbgemm", "x86", "onednn", "qnnpack"])
def test_each_conversion_has_its_own_ranges_on_every_engine(fused, images, monkeypatch, engine):
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this build of torch has no engine {engine}")
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    model = ptq.prepare(fused, engine, observers.qconfig("min-max"))
    ptq.calibrate(model, images)
    for factor in (1, 2, 0.25):  # the input stays, so the first layer meets the same scale
        for name, observer in ptq.observers(model).items():
            observer.max_val *= 1 if name == "quant" else factor
        found, expected = observers.reconvert(model), ptq.convert(model)
        assert torch.equal(logits(found, images), logits(expected, images))


def test_symmetric_codes_are_in_the_middle_also_after_the_default_qconfig(fused, images):
    model = ptq.prepare(fused)
    ptq.calibrate(model, images)
    assert observers.reconvert(model, activations="symmetric", bits=7).quant.zero_point in (63, 64)


def test_a_channel_whose_code_is_the_lowest_is_not_the_weakest():
    layer = torch.ao.nn.quantized.Linear(2, 2)
    codes = torch.tensor([[-128, 2], [64, 0]], dtype=torch.int8)  # int8 has no 128
    layer.set_weight_bias(torch._make_per_tensor_quantized_tensor(codes, 1.0, 0), None)
    layer.scale, layer.zero_point = 0.5, 0
    row = {"saturated": 0, "seen_low": 0, "seen_high": 127, "own_db": 40, "weight_db": 40}
    said = diagnosis._verdict(row, torch.ones(1, 2), layer, 8, False)
    assert said == "note: per-tensor weights: channel 1 is left with 7.0 of 8 bits"


@pytest.mark.parametrize("weights", observers.WEIGHTS)
def test_rounded_weights_are_those_of_the_int8_layer(fused, images, weights):
    before = fused.layer1[0].conv2.weight.detach().clone()
    layer = diagnosis.round_weights(fused, "layer1.0.conv2", weights)
    model = ptq.convert(prepared(fused, images, weights=weights))
    expected = model.layer1[0].conv2.weight().dequantize()
    torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(fused.layer1[0].conv2.weight, before)
    assert not torch.equal(before, layer.weight)


def test_only_some_channels_are_rounded(fused):
    before = fused.layer1[0].conv2.weight.detach()
    chosen = torch.tensor([3, 60])
    every = diagnosis.round_weights(fused, "layer1.0.conv2").weight
    some = diagnosis.round_weights(fused, "layer1.0.conv2", channels=chosen).weight
    assert torch.equal(some[chosen], every[chosen])
    changed = (some != before).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 60]


def test_bits_lost_by_hand(float_model):
    model = ptq.fuse(float_model)
    with torch.no_grad():
        model.fc.weight.clamp_(-1, 1)
        model.fc.weight[0, 0] = 4
        model.fc.weight[1] = 0.5
    lost = diagnosis.bits_lost(model, "fc")
    assert lost[0] == 0
    assert lost[1] == 3
    assert lost.shape == (10,)


@pytest.mark.parametrize("call", ["in_float", "round_weights", "bits_lost"])
def test_unknown_layers(fused, int8_model, call):
    arguments = (fused, int8_model, "layer9") if call == "in_float" else (fused, "layer9")
    with pytest.raises(ValueError, match=r"no layer with weights 'layer9'; there are: conv1, "):
        getattr(diagnosis, call)(*arguments)


# The planted outlier


def test_a_planted_outlier_leaves_the_float_function_alone(float_model, images):
    planted = diagnosis.plant_outlier(float_model, channel=3, factor=32)
    torch.testing.assert_close(
        logits(planted, images), logits(float_model, images), rtol=1e-3, atol=1e-3
    )
    before, after = (
        ptq.layer_outputs(ptq.fuse(m), images)["layer1.0.conv1"] for m in (float_model, planted)
    )
    torch.testing.assert_close(after[:, 3], 32 * before[:, 3], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after[:, 4], before[:, 4], rtol=1e-3, atol=1e-3)


def test_an_outlier_can_be_planted_in_any_block_also_of_a_fused_model(float_model, fused, images):
    one = diagnosis.plant_outlier(fused, 200, 32, "layer3.1")
    two = ptq.fuse(diagnosis.plant_outlier(float_model, 200, 32, "layer3.1"))
    torch.testing.assert_close(logits(one, images), logits(fused, images), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.layer3[1].conv1[0].weight, two.layer3[1].conv1[0].weight)
    assert not torch.equal(one.layer3[1].conv1[0].weight, fused.layer3[1].conv1[0].weight)


@pytest.mark.parametrize(("channel", "factor"), [(64, 2), (-1, 2), (0, 0), (0, -3)])
def test_impossible_outliers(float_model, channel, factor):
    with pytest.raises(ValueError, match=f"channel={channel}, factor={factor}: choose 0 to 63"):
        diagnosis.plant_outlier(float_model, channel, factor)


# Diagnose: faults are planted, the culprit is named


def guilty(float_model, int8_model, images):
    return diagnosis.culprit(diagnosis.diagnose(float_model, int8_model, images))


def test_a_healthy_model_has_no_fault(float_model, int8_model, images):
    table = diagnosis.diagnose(float_model, int8_model, images)
    assert (table["verdict"] == "ok").all(), table[table["verdict"] != "ok"].to_string()
    assert diagnosis.culprit(table) is None
    assert table["layer"].tolist() == list(ptq.layer_outputs(int8_model, images[:1]))


@pytest.mark.parametrize("observer", observers.OBSERVERS)
def test_no_observer_is_a_fault_in_itself(float_model, images, observer):
    assert guilty(float_model, int8(float_model, images, observer), images) is None


@pytest.mark.parametrize(("channel", "factor"), [(0, 100), (63, 100), (5, 1000)])
def test_an_outlier_channel_is_named(float_model, images, channel, factor):
    """The SQNR of the whole layer would not have found it."""
    planted = diagnosis.plant_outlier(float_model, channel, factor)
    row = guilty(planted, int8(planted, images, "min-max"), images)
    assert row["layer"] == "layer1.0.conv1"
    assert row["verdict"].startswith(f"outlier: channel {channel} takes the range")
    assert row["own_db"] < 20 < row["weight_db"]
    if factor == 1000:
        assert row["own_db"] < 5 < 20 < row["sqnr_db"]


@pytest.mark.parametrize("layer", ["quant", "layer3.1.add_relu", "fc"])
def test_an_uncalibrated_observer_is_named(float_model, fused, images, layer):
    blind = prepared(fused, images)
    blind.set_submodule(f"{layer}.activation_post_process", blind.qconfig.activation())
    model = tq.convert(blind)  # the course's convert() would refuse
    row = guilty(float_model, model, images)
    assert row["layer"] == layer
    assert row["verdict"].startswith("never calibrated")


@pytest.mark.parametrize("layer", ["layer1.1", "layer4.0"])
def test_per_tensor_weights_are_named_where_they_hurt_most(float_model, images, layer):
    spread = copy.deepcopy(float_model)
    block = spread.get_submodule(layer)
    with torch.no_grad():  # as if batch norm had left channels of very different range
        factors = torch.logspace(0, -3, len(block.bn1.weight))
        block.bn1.weight *= factors
        block.bn1.bias *= factors
        block.conv2.weight /= factors[None, :, None, None]
    table = diagnosis.diagnose(spread, int8(spread, images, weights="per tensor"), images)
    row = diagnosis.culprit(table)
    assert row["layer"] in (f"{layer}.conv1", f"{layer}.conv2")
    assert "per-tensor weights: channel" in row["verdict"] or "outlier" in row["verdict"]
    weighted = table.dropna(subset="weight_db")
    assert weighted["weight_db"].idxmin() == table[table["layer"] == f"{layer}.conv1"].index[0]


def test_per_tensor_weights_alone_are_a_note(float_model, images):
    """On ARM they are the default of the engine, qnnpack: a healthy model has no fault."""
    model = int8(float_model, images, weights="per tensor", bits=8)
    table = diagnosis.diagnose(float_model, model, images, bits=8)
    weighted = table[table["weight_db"].notna()]
    assert weighted["verdict"].str.startswith("note: per-tensor weights: channel").all()
    assert not diagnosis.has_fault(table).any()
    assert diagnosis.culprit(table) is None


def test_weights_that_one_scale_ruins_are_a_fault(float_model, images):
    model = copy.deepcopy(float_model)
    with torch.no_grad():
        model.layer2[0].bn2.weight[0] = 500  # folding makes one channel's weights huge
        model.layer2[0].bn2.weight[0] *= model.layer2[0].bn2.running_var[0].sqrt()
    for weights, expected in (("per tensor", "per-tensor weights: channel"), ("per channel", "")):
        coarse = int8(model, images, weights=weights)
        table = diagnosis.diagnose(model, coarse, images).set_index("layer")
        row = table.loc["layer2.0.conv2"]
        assert (row["weight_db"] < 20) == (weights == "per tensor")
        assert row["verdict"].startswith((expected, "outlier: channel 0"))


def test_the_bits_left_are_right(float_model, images):
    model = copy.deepcopy(float_model)
    with torch.no_grad():
        model.fc.weight.clamp_(-0.03, 0.03)
        model.fc.weight[2, 0] = 0.12  # the others reach a quarter of it: 32 of 127 steps
    coarse = int8(model, images, weights="per tensor")
    table = diagnosis.diagnose(model, coarse, images).set_index("layer")
    assert "left with 6.0 of 8 bits" in table.loc["fc", "verdict"]


@pytest.mark.parametrize("wrong", ["only divided by 255", "raw pixels"])
def test_wrong_normalization_is_named(float_model, images, raw, wrong):
    calibration = raw / 255 if wrong == "only divided by 255" else raw
    model = ptq.quantize(float_model, calibration)
    row = guilty(float_model, model, images)
    assert row["layer"] == "quant"
    kind = "range too narrow" if wrong == "only divided by 255" else "range too wide"
    assert row["verdict"].startswith(kind)
    assert "normalized as for the calibration?" in row["verdict"]


def test_columns_by_hand(float_model, int8_model, images):
    table = diagnosis.diagnose(float_model, int8_model, images).set_index("layer")
    scale = float(int8_model.quant.scale)
    zero_point = int(int8_model.quant.zero_point)
    row = table.loc["quant"]
    assert row["low"] == pytest.approx(-scale * zero_point)
    assert row["high"] == pytest.approx(scale * (255 - zero_point))
    assert row["seen_high"] == images.max()
    codes = torch.quantize_per_tensor(images, scale, zero_point, torch.quint8).int_repr()
    assert row["unused"] == pytest.approx(1 - len(codes.unique()) / 256)
    assert row["sqnr_db"] == pytest.approx(row["own_db"])  # one channel, nothing before it
    assert math.isnan(row["weight_db"])


@pytest.mark.parametrize(
    ("shrink", "said"), [(1.0, "note: range too narrow"), (0.2, "range too narrow")]
)
def test_a_range_too_narrow_is_a_fault_where_it_costs(
    float_model, fused, int8_model, images, shrink, said
):
    narrow = copy.deepcopy(int8_model)
    exact = ptq.layer_outputs(fused, images)["fc"]
    bottom, top = exact.min().item(), max(exact.quantile(0.98).item(), 0)
    narrow.fc.scale = (top - bottom) / 255
    narrow.fc.zero_point = round(-bottom / narrow.fc.scale)
    narrow.fc.scale *= shrink
    row = diagnosis.diagnose(float_model, narrow, images).iloc[-1]
    assert row["saturated"] > 0.01
    assert row["verdict"].startswith(said)


def test_saturation_is_counted(float_model, int8_model, images):
    narrow = copy.deepcopy(int8_model)
    narrow.quant.scale = narrow.quant.scale / 4
    row = diagnosis.diagnose(float_model, narrow, images).iloc[0]
    half = narrow.quant.scale.item() / 2
    beyond = (images < row["low"] - half) | (images > row["high"] + half)
    assert row["saturated"] == pytest.approx(beyond.double().mean().item())
    assert row["saturated"] > 0.05


def test_diagnose_refuses_what_makes_no_sense(float_model, int8_model, images):
    with pytest.raises(ValueError, match="the second model is float32"):
        diagnosis.diagnose(float_model, float_model, images)
    with pytest.raises(ValueError, match="no images: take a few hundred"):
        diagnosis.diagnose(float_model, int8_model, images[:0])
    with pytest.raises(ValueError, match="NaN or infinity in the float32 output of 'quant'"):
        diagnosis.diagnose(float_model, int8_model, images[:8] * float("nan"))
    other = nn.Sequential(nn.Conv2d(1, 1, 3)).eval()
    with pytest.raises(ValueError, match="layers that the int8 model lacks: 0"):
        diagnosis.diagnose(other, int8_model, images[:8])


def test_shifted_digits_are_no_fault_of_quantization(float_model, int8_model, digits):
    lowered = corruptions.shift(digits.test_images[:64], "low contrast", 3)
    assert guilty(float_model, int8_model, digits.normalizer()(lowered)) is None


def test_pixels_that_were_not_normalized_are_a_finding(float_model, int8_model, raw):
    row = guilty(float_model, int8_model, raw / 255)
    assert row["layer"] == "quant"
    assert row["verdict"].startswith("range too wide: the input uses 3")
    assert "normalized as for the calibration?" in row["verdict"]


def test_codes_of_eight_bits_have_to_be_told(float_model, fused, images, raw):
    model = observers.reconvert(prepared(fused, images), bits=8)
    healthy = diagnosis.diagnose(float_model, model, images, bits=8)
    assert diagnosis.culprit(healthy) is None
    wrong = diagnosis.diagnose(float_model, model, raw / 255, bits=8)
    assert diagnosis.culprit(wrong)["layer"] == "quant"


def test_every_generated_fault_is_found_and_no_healthy_model_is_blamed(fused, digits):
    training_set = digits.train_images, digits.train_labels
    found = []
    for case in diagnosis.cases(fused, *training_set, digits.normalizer(), draw=1):
        kind, expected = case.pop("kind"), case.pop("guilty")
        row = diagnosis.culprit(diagnosis.diagnose(**case))
        found.append((kind, expected, "" if row is None else row["layer"]))
    table = pd.DataFrame(found, columns=["kind", "guilty", "named"])
    assert (table["guilty"] == "").sum() == (table["guilty"] != "").sum() == 8
    assert (table["guilty"] == table["named"]).all(), table.to_string()


def test_among_per_tensor_weights_the_worst_weights_are_named():
    verdict = "per-tensor weights: channel 0 is left with 2.0 of 8 bits"
    table = pd.DataFrame(
        {
            "layer": ["conv1", "layer1.0.conv1"],
            "own_db": [25.0, 30.0],
            "weight_db": [30.0, 12.0],
            "verdict": verdict,
        }
    )
    assert diagnosis.culprit(table)["layer"] == "layer1.0.conv1"
