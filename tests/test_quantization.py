import copy
import math
import os

import pytest
import torch
import torchvision
from torch import nn

from utils import quantization
from utils.models import QuantizableResNet18, tq
from utils.quantization import QuantizationError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # those that utils.models silences
ENGINES = [e for e in torch.backends.quantized.supported_engines if e in ("fbgemm", "x86")]


@pytest.fixture(autouse=True)
def engine_restored():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module")
def fused(float_model):
    return quantization.fuse(float_model)


@pytest.fixture
def prepared(fused):
    return quantization.prepare(fused)


def logits(model, images):
    with torch.inference_mode():
        return model(images)


# Equality with torchvision


@pytest.mark.parametrize("engine", ENGINES or ["qnnpack"])
@pytest.mark.parametrize("channels", [1, 3])
def test_int8_equals_torchvision_bit_for_bit(float_model, images, engine, channels):
    weights = dict(float_model.state_dict())
    if channels == 3:
        weights["conv1.weight"] = torch.cat([weights["conv1.weight"] * s for s in (0.5, 1, -1)], 1)
        images = torch.cat([images, -images, images.flip(2)], 1)
    theirs = torchvision.models.quantization.resnet18(weights=None, num_classes=10)
    theirs.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(weights)
    theirs.eval().fuse_model(is_qat=False)
    quantization.set_engine(engine)
    theirs.qconfig = tq.get_default_qconfig(engine)
    tq.prepare(theirs, inplace=True)
    for batch in images.split(64):
        logits(theirs, batch)
    tq.convert(theirs, inplace=True)

    model = QuantizableResNet18(channels=channels).eval()
    model.load_state_dict(weights)
    ours = quantization.quantize(model, images, engine)
    assert torch.equal(logits(ours, images), logits(theirs, images))


# The four steps


def test_the_steps_leave_their_input_alone(float_model, images):
    before = copy.deepcopy(float_model.state_dict())
    fused = quantization.fuse(float_model)
    prepared = quantization.prepare(fused)
    assert not quantization.observers(fused)
    quantization.calibrate(prepared, images)
    quantization.convert(prepared)
    assert not quantization.is_quantized(prepared)
    after = float_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_fused_equals_float(float_model, fused, images):
    expected = logits(float_model, images)
    torch.testing.assert_close(logits(fused, images), expected, rtol=1e-4, atol=1e-4)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]


def test_int8_stays_close_to_float(float_model, int8_model, images):
    ratio = quantization.sqnr(logits(float_model, images), logits(int8_model, images))
    assert 20 < ratio < math.inf


def test_fuse_takes_a_quantizable_model_too(float_model, fused, images):
    model = QuantizableResNet18().eval()
    model.load_state_dict(float_model.state_dict())
    assert torch.equal(logits(quantization.fuse(model), images), logits(fused, images))


def test_observers_sit_behind_every_quantized_output(prepared):
    names = quantization.observers(prepared)
    assert {"quant", "conv1", "layer1.0.conv1", "layer1.0.add_relu", "fc"} <= names.keys()
    assert {"layer2.0.downsample.0", "layer4.1.add_relu"} <= names.keys()
    assert all(isinstance(o, tq.ObserverBase) for o in names.values())
    assert len(names) == 1 + 20 + 8 + 1  # input, convolutions, additions, fc


def test_calibrate_counts_and_takes_batches(fused, images):
    whole, parts = quantization.prepare(fused), quantization.prepare(fused)
    assert quantization.calibrate(whole, images, batch_size=32) == 64
    assert quantization.calibrate(parts, iter(images.split(32))) == 64
    for name, observer in quantization.observers(whole).items():
        other = quantization.observers(parts)[name]
        assert observer.min_val == other.min_val, name
        assert observer.max_val == other.max_val, name


def test_calibrate_removes_its_hooks(prepared, images):
    before = sum(len(m._forward_hooks) for m in prepared.modules())
    quantization.calibrate(prepared, images[:4])
    with pytest.raises(QuantizationError):
        quantization.calibrate(prepared, images * math.nan)
    assert sum(len(m._forward_hooks) for m in prepared.modules()) == before


def test_a_qconfig_of_ones_own_is_used(fused):
    qconfig = tq.QConfig(tq.MinMaxObserver, tq.default_weight_observer)
    prepared = quantization.prepare(fused, qconfig=qconfig)
    found = {type(o) for o in quantization.observers(prepared).values()}
    assert found == {tq.MinMaxObserver}


# Engines


def test_every_supported_engine_can_be_set():
    for name in torch.backends.quantized.supported_engines:
        if name != "none":
            assert quantization.set_engine(name) == name
            assert torch.backends.quantized.engine == name


def test_an_unsupported_engine_is_answered_with_the_supported_ones():
    before = torch.backends.quantized.engine
    with pytest.raises(QuantizationError) as error:
        quantization.set_engine("abacus")
    assert "'abacus' is not supported here" in str(error.value)
    assert before in str(error.value)
    assert torch.backends.quantized.engine == before


@pytest.mark.parametrize(
    ("machine", "engine"), [("x86_64", "fbgemm"), ("AMD64", "fbgemm"), ("arm64", "qnnpack")]
)
def test_the_engine_follows_the_processor(monkeypatch, capsys, machine, engine):
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this torch has no {engine}")
    monkeypatch.setattr(quantization.platform, "machine", lambda: machine)
    assert quantization.set_engine() == engine
    assert ("qnnpack" in capsys.readouterr().out) == (machine == "arm64")


def test_engine_and_qconfig_are_set_together(fused):
    for engine in ENGINES:
        prepared = quantization.prepare(fused, engine)
        assert torch.backends.quantized.engine == engine
        expected = tq.get_default_qconfig(engine).activation().reduce_range
        assert quantization.observers(prepared)["conv1"].reduce_range == expected


# Mistakes


@pytest.mark.parametrize("step", [quantization.fuse, quantization.prepare])
def test_train_mode_is_refused(step):
    with pytest.raises(QuantizationError, match=r"train mode: call model\.eval\(\)"):
        step(QuantizableResNet18().train())


def test_calibrating_in_train_mode_is_refused(prepared, images):
    with pytest.raises(QuantizationError, match=r"train mode: call model\.eval\(\)"):
        quantization.calibrate(prepared.train(), images)


@pytest.mark.parametrize("step", [quantization.fuse, quantization.prepare])
def test_quantizing_twice_is_refused(step, int8_model):
    with pytest.raises(QuantizationError, match=r"quantized already: start again from the float"):
        step(int8_model)


def test_quantize_refuses_an_int8_model(int8_model, images):
    with pytest.raises(QuantizationError, match="quantized already"):
        quantization.quantize(int8_model, images)


def test_fusing_twice_and_preparing_twice_are_refused(fused, prepared):
    with pytest.raises(QuantizationError, match="fused already"):
        quantization.fuse(fused)
    with pytest.raises(QuantizationError, match="prepared already: go on with calibrate"):
        quantization.prepare(prepared)


@pytest.mark.parametrize("step", [quantization.calibrate, lambda m, _: quantization.convert(m)])
def test_an_unprepared_model_is_refused(step, fused, images):
    with pytest.raises(QuantizationError, match=r"no observers|was not prepared"):
        step(fused, images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:0], "set is empty"),
        (lambda x: [], "set is empty"),
        (lambda x: [x[:0]], "set is empty"),
        (lambda x: x[0], r"shape \(1, 28, 28\); expected \(N, 1, H, W\)"),
        (lambda x: x.expand(-1, 3, -1, -1), r"shape \(64, 3, 28, 28\); expected \(N, 1, H, W\)"),
        (lambda x: [x, x.flatten(1)], r"shape \(64, 784\)"),
        (lambda x: x.to(torch.uint8), r"are torch\.uint8; normalise"),
        (lambda x: x.double(), r"are torch\.float64; normalise"),
        (lambda x: x * math.nan, "NaN or infinity in the output of 'quant'"),
        (lambda x: x + math.inf, "NaN or infinity in the output of 'quant'"),
    ],
)
def test_unusable_calibration_images(prepared, images, spoil, message):
    with pytest.raises(QuantizationError, match=message):
        quantization.calibrate(prepared, spoil(images))


def test_nan_names_the_first_layer_where_it_appeared(float_model, images):
    broken = copy.deepcopy(float_model)
    with torch.no_grad():
        broken.layer2[0].conv2.weight[3] = math.nan
    prepared = quantization.prepare(quantization.fuse(broken))
    with pytest.raises(QuantizationError, match=r"output of 'layer2\.0\.conv2'"):
        quantization.calibrate(prepared, images)


def test_converting_without_calibration_is_refused(prepared):
    with pytest.raises(
        QuantizationError, match=r"30 of 30 observers saw no data \(conv1, .*calibr"
    ):
        quantization.convert(prepared)


def test_a_single_blind_observer_is_named(prepared, images):
    quantization.calibrate(prepared, images[:8])
    prepared.fc.activation_post_process = prepared.qconfig.activation()
    with pytest.raises(QuantizationError, match=r"1 of 30 observers saw no data \(fc\)"):
        quantization.convert(prepared)


def test_is_quantized(float_model, fused, prepared, int8_model):
    assert quantization.is_quantized(int8_model)
    assert not any(map(quantization.is_quantized, (float_model, fused, prepared)))


# Saving and loading


def test_a_round_trip_keeps_every_bit(int8_model, images, tmp_path, monkeypatch):
    path = tmp_path / "below" / "int8.pt"
    assert quantization.save_int8(int8_model, path) == path.stat().st_size
    loads, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loads.append(k) or real(*a, **k))
    loaded = quantization.load_int8(path)
    assert [k["weights_only"] for k in loads] == [True]
    assert torch.equal(logits(loaded, images), logits(int8_model, images))


def test_loading_restores_classes_and_channels(tmp_path):
    torch.manual_seed(0)
    model = QuantizableResNet18(classes=3, channels=2).eval()
    x = torch.randn(8, 2, 28, 28)
    int8 = quantization.quantize(model, x)
    quantization.save_int8(int8, tmp_path / "int8.pt")
    loaded = quantization.load_int8(tmp_path / "int8.pt")
    assert torch.equal(logits(loaded, x), logits(int8, x))


def test_only_int8_models_are_saved(float_model, tmp_path):
    with pytest.raises(QuantizationError, match="this one is float32"):
        quantization.save_int8(float_model, tmp_path / "int8.pt")
    assert not list(tmp_path.iterdir())


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"int8\.pt does not exist"):
        quantization.load_int8(tmp_path / "int8.pt")


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("content", ["float", "foreign", "code", "empty", "truncated", "text"])
def test_loading_something_else(float_model, int8_model, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "int8.pt"
    if content == "float":
        torch.save(float_model.state_dict(), path)
    elif content == "foreign":  # int8, but of a network with fewer layers
        state = int8_model.state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("layer4")}, path)
    elif content == "code":
        torch.save({"conv1.weight": Payload()}, path)
    elif content == "empty":
        path.touch()
    elif content == "truncated":
        quantization.save_int8(int8_model, path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path.write_text("hello")
    with pytest.raises(
        QuantizationError, match=r"int8\.pt is not an int8 ResNet-18.*delete it and make it again"
    ):
        quantization.load_int8(path)
    assert list(tmp_path.iterdir()) == [path]


# Error measures


def test_sqnr_by_hand():
    signal, noisy = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert quantization.sqnr(signal, noisy) == pytest.approx(10 * math.log10(25 / 0.25))
    assert quantization.sqnr(signal, 1.1 * signal) == pytest.approx(20, abs=1e-4)
    assert quantization.sqnr(signal, signal) == math.inf


def test_sqnr_of_different_shapes():
    with pytest.raises(ValueError, match="shapes differ"):
        quantization.sqnr(torch.zeros(2), torch.zeros(3))


def test_layer_outputs_of_both_models_fit_together(fused, int8_model, images):
    exact = quantization.layer_outputs(fused, images)
    coarse = quantization.layer_outputs(int8_model, images)
    assert list(exact) == list(coarse)
    assert list(exact)[:3] == ["quant", "conv1", "layer1.0.conv1"]
    assert list(exact)[-1] == "fc"
    assert len(exact) == 1 + 20 + 8 + 1
    for name in exact:
        assert exact[name].shape == coarse[name].shape, name
        assert coarse[name].dtype == torch.float32
    assert torch.equal(exact["fc"], logits(fused, images))
    assert torch.equal(coarse["fc"], logits(int8_model, images))


def test_layer_outputs_removes_its_hooks(fused, images):
    quantization.layer_outputs(fused, images[:2])
    own = (nn.Conv2d, nn.Linear, tq.QuantStub)
    assert not [m for m in fused.modules() if isinstance(m, own) and m._forward_hooks]


def test_layer_sqnr(fused, int8_model, images):
    table = quantization.layer_sqnr(fused, int8_model, images)
    assert list(table.columns) == ["layer", "sqnr_db"]
    assert table["layer"].tolist() == list(quantization.layer_outputs(fused, images[:1]))
    assert table["sqnr_db"].between(10, 80).all()
    expected = quantization.sqnr(logits(fused, images), logits(int8_model, images))
    assert table["sqnr_db"].iloc[-1] == pytest.approx(expected)


def test_sqnr_of_two_silent_signals_is_infinite():
    assert quantization.sqnr(torch.zeros(3), torch.zeros(3)) == float("inf")
