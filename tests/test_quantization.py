import copy
import math
import os

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import quantization as quantizable

from utils import comparison, quantization, timing
from utils.lab import diagnosis
from utils.models import QuantizableResNet18, ResNet18, tq, weights_hash
from utils.quantization import QuantizationError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # those that utils.models silences
ENGINES = [e for e in torch.backends.quantized.supported_engines if e in ("fbgemm", "x86")]
MINMAX = tq.QConfig(tq.MinMaxObserver, tq.default_weight_observer)


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
    return quantization.prepare(fused, qconfig=MINMAX)


def logits(model, images):
    with torch.inference_mode():
        return model(images)


# ResNet-18


@pytest.mark.parametrize(("engine", "channels"), zip(ENGINES or ["qnnpack"], (1, 3), strict=False))
def test_int8_equals_torchvision_bit_for_bit(float_model, images, engine, channels):
    weights = dict(float_model.state_dict())
    weights["conv1.weight"] = torch.cat([weights["conv1.weight"]] * channels, 1)
    images = torch.cat([images[:8], -images[:8], images[:8].flip(2)][:channels], 1)
    theirs = quantizable.resnet18(weights=None, num_classes=10)
    theirs.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(weights)
    theirs.eval().fuse_model(is_qat=False)
    quantization.set_engine(engine)
    theirs.qconfig = tq.get_default_qconfig(engine)
    tq.prepare(theirs, inplace=True)
    logits(theirs, images)
    tq.convert(theirs, inplace=True)

    model = QuantizableResNet18(channels=channels).eval()
    model.load_state_dict(weights)
    ours = quantization.quantize(model, images, engine)
    assert torch.equal(logits(ours, images), logits(theirs, images))


def test_the_steps_leave_their_input_alone(float_model, images):
    before = weights_hash(float_model)
    fused = quantization.fuse(float_model)
    prepared = quantization.prepare(fused, qconfig=MINMAX)
    assert not quantization.observers(fused)
    quantization.calibrate(prepared, images[:4])
    assert quantization.is_quantized(quantization.convert(prepared))
    assert not any(map(quantization.is_quantized, (float_model, fused, prepared)))
    assert weights_hash(float_model) == before


@pytest.mark.parametrize(("classes", "channels"), [(3, 1), (7, 3)])
def test_fuse_takes_the_courses_and_torchvisions_network(classes, channels):
    ours = ResNet18(classes, channels)
    theirs = torchvision.models.resnet18(num_classes=classes)
    theirs.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    x = torch.randn(4, channels, 28, 28)
    ours(x)  # the batch norms see data
    theirs.load_state_dict(ours.state_dict())
    expected, fused = logits(ours.eval(), x), quantization.fuse(theirs.eval())
    torch.testing.assert_close(logits(fused, x), expected, rtol=1e-4, atol=1e-4)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert weights_hash(fused) == weights_hash(quantization.fuse(ours)) != weights_hash(ours)


def altered(change):
    model = torchvision.models.resnet18(num_classes=3)
    change(model)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.mobilenet_v2(),
        lambda: torchvision.models.resnet34(),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        lambda: altered(lambda m: setattr(m, "maxpool", nn.Identity())),  # of the same weights
        lambda: altered(lambda m: setattr(m.layer2[0].conv2, "dilation", (2, 2))),
        lambda: altered(lambda m: setattr(m, "fc", nn.Identity())),
    ],
)
def test_fuse_refuses_every_other_network_and_says_how_to_go_on(make):
    with pytest.raises(QuantizationError, match=r"^fuse\(\) knows.*notebook 03.*tq\.fuse_modules"):
        quantization.fuse(make().eval())


def test_observers_sit_behind_every_quantized_output(prepared):
    names = quantization.observers(prepared)
    assert {"quant", "conv1", "layer1.0.conv1", "layer1.0.add_relu", "fc"} <= names.keys()
    assert {"layer2.0.downsample.0", "layer4.1.add_relu"} <= names.keys()
    assert len(names) == 1 + 20 + 8 + 1  # input, convolutions, additions, fc
    assert {type(o) for o in names.values()} == {tq.MinMaxObserver}


def test_calibrate_counts_takes_batches_and_removes_its_hooks(fused, images):
    whole, parts = (quantization.prepare(fused, qconfig=MINMAX) for _ in range(2))
    before = sum(len(m._forward_hooks) for m in whole.modules())
    assert quantization.calibrate(whole, images[:12], batch_size=8) == 12
    assert quantization.calibrate(parts, iter(images[:12].split(5))) == 12
    for name, observer in quantization.observers(whole).items():
        other = quantization.observers(parts)[name]
        torch.testing.assert_close(observer.min_val, other.min_val)
        torch.testing.assert_close(observer.max_val, other.max_val)
    with pytest.raises(QuantizationError):
        quantization.calibrate(whole, images * math.nan)
    assert sum(len(m._forward_hooks) for m in whole.modules()) == before


# Any other network


@pytest.mark.parametrize(
    ("name", "narrow"),
    [("mobilenet_v2", {"width_mult": 0.25}), ("resnet50", {"width_per_group": 8})],
)
def test_every_step_after_fusion_takes_any_fused_model(name, narrow, tmp_path):
    torch.manual_seed(0)
    model = getattr(quantizable, name)(weights=None, quantize=False, num_classes=4, **narrow)
    x = torch.randn(6, 3, 32, 32)
    logits(model.train(), x)  # the batch norms see data
    model.eval().fuse_model(is_qat=False)
    prepared = quantization.prepare(model, qconfig=MINMAX)
    assert quantization.calibrate(prepared, x) == 6
    int8 = quantization.convert(prepared)
    names = [n for n, m in int8.named_modules() if hasattr(m, "scale")]
    table = quantization.layer_sqnr(model, int8, x)
    assert set(table["layer"]) <= set(names)
    assert {n for n in names if "skip_add" not in n} <= set(table["layer"])  # some add nothing
    assert (table["sqnr_db"] > 5).all()
    found = diagnosis.diagnose(model, int8, x, bits=8)
    assert found["layer"].tolist() == table["layer"].tolist()
    labels = logits(model, x).argmax(1)
    assert comparison.compare(logits(model, x), logits(int8, x), labels).accuracy_a == 1
    rows = timing.latency({"float": model, "int8": int8}, x[:1], rounds=1)
    assert set(rows["variant"]) == {"float", "int8"}
    quantization.save_int8(int8, tmp_path / "int8.pt")
    loaded = quantization.load_int8(tmp_path / "int8.pt", like=model)
    assert torch.equal(logits(loaded, x), logits(int8, x))
    with pytest.raises(QuantizationError, match=r"int8\.pt is not an int8 ResNet-18"):
        quantization.load_int8(tmp_path / "int8.pt")


# Engines


def test_every_supported_engine_can_be_set_and_no_other():
    supported = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    for name in supported:
        assert quantization.set_engine(name) == name == torch.backends.quantized.engine
    with pytest.raises(QuantizationError) as error:
        quantization.set_engine("abacus")
    assert "'abacus' is not supported here" in str(error.value)
    assert ", ".join(supported) in str(error.value)
    assert torch.backends.quantized.engine == supported[-1]


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
    for engine in torch.backends.quantized.supported_engines:
        if engine != "none":
            prepared = quantization.prepare(fused, engine)
            assert torch.backends.quantized.engine == engine
            expected = tq.get_default_qconfig(engine).activation().reduce_range
            assert quantization.observers(prepared)["conv1"].reduce_range == expected


# Mistakes


@pytest.mark.parametrize("step", [quantization.fuse, quantization.prepare])
def test_train_mode_and_int8_models_are_refused(step, int8_model):
    with pytest.raises(QuantizationError, match=r"train mode: call model\.eval\(\)"):
        step(QuantizableResNet18().train())
    with pytest.raises(QuantizationError, match=r"quantized already: start again from the float"):
        step(int8_model)


def test_steps_out_of_order_are_refused(fused, prepared, images):
    with pytest.raises(QuantizationError, match="fused already"):
        quantization.fuse(fused)
    with pytest.raises(QuantizationError, match="prepared already: go on with calibrate"):
        quantization.prepare(prepared)
    with pytest.raises(QuantizationError, match="no observers"):
        quantization.calibrate(fused, images)
    with pytest.raises(QuantizationError, match="was not prepared"):
        quantization.convert(fused)
    with pytest.raises(QuantizationError, match=r"train mode: call model\.eval\(\)"):
        quantization.calibrate(prepared.train(), images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:0], "set is empty"),
        (lambda x: [], "set is empty"),
        (lambda x: x[0], r"shape \(1, 28, 28\): expected \(N, channels, H, W\)"),
        (lambda x: x.expand(-1, 3, -1, -1), r"shape \(2, 3, 28, 28\) do not fit.* 1 channels"),
        (lambda x: [x, x.flatten(1)], r"shape \(2, 784\)"),
        (lambda x: x.to(torch.uint8), r"are torch\.uint8: normalize"),
        (lambda x: x.double(), r"are torch\.float64: normalize"),
        (lambda x: x * math.nan, "NaN or infinity in the output of 'quant'"),
        (lambda x: x + math.inf, "NaN or infinity in the output of 'quant'"),
    ],
)
def test_unusable_calibration_images(prepared, images, spoil, message):
    with pytest.raises(QuantizationError, match=message):
        quantization.calibrate(prepared, spoil(images[:2]))


def test_nan_names_the_first_layer_where_it_appeared(float_model, images):
    broken = copy.deepcopy(float_model)
    with torch.no_grad():
        broken.layer2[0].conv2.weight[3] = math.nan
    prepared = quantization.prepare(quantization.fuse(broken), qconfig=MINMAX)
    with pytest.raises(QuantizationError, match=r"output of 'layer2\.0\.conv2'"):
        quantization.calibrate(prepared, images[:2])


def test_blind_observers_are_named(prepared, images):
    with pytest.raises(
        QuantizationError, match=r"30 of 30 observers saw no data \(conv1, .* \.\.\."
    ):
        quantization.convert(prepared)
    quantization.calibrate(prepared, images[:2])
    prepared.fc.activation_post_process = prepared.qconfig.activation()
    with pytest.raises(QuantizationError, match=r"1 of 30 observers saw no data \(fc\): calibrate"):
        quantization.convert(prepared)


# Saving and loading


def test_a_round_trip_keeps_every_bit(tmp_path, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(4, 2, 28, 28)
    model = quantization.quantize(QuantizableResNet18(classes=3, channels=2).eval(), x)
    path = tmp_path / "below" / "int8.pt"
    assert quantization.save_int8(model, path) == path.stat().st_size
    loads, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loads.append(k) or real(*a, **k))
    loaded = quantization.load_int8(path)
    assert [k["weights_only"] for k in loads] == [True]
    assert torch.equal(logits(loaded, x), logits(model, x))
    for engine in ENGINES:
        quantization.load_int8(path, engine)
        assert torch.backends.quantized.engine == engine


def test_only_int8_models_are_saved(float_model, tmp_path):
    with pytest.raises(QuantizationError, match="this one is float32"):
        quantization.save_int8(float_model, tmp_path / "int8.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"int8\.pt does not exist"):
        quantization.load_int8(tmp_path / "int8.pt")


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("content", ["float", "foreign", "code", "truncated", "text"])
def test_loading_something_else(float_model, int8_model, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "int8.pt"
    path.write_text("hello")
    if content == "float":
        torch.save(float_model.state_dict(), path)
    elif content == "foreign":  # int8, but of a network with fewer layers
        state = int8_model.state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("layer4")}, path)
    elif content == "code":
        torch.save({"conv1.weight": Payload()}, path)
    elif content == "truncated":
        quantization.save_int8(int8_model, path)
        path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(
        QuantizationError, match=r"int8\.pt is not an int8 ResNet-18.*make it again"
    ):
        quantization.load_int8(path)
    assert list(tmp_path.iterdir()) == [path]


# Error measures


def test_sqnr_by_hand():
    signal, noisy = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert quantization.sqnr(signal, noisy) == pytest.approx(10 * math.log10(25 / 0.25))
    assert quantization.sqnr(signal, signal) == quantization.sqnr(noisy * 0, noisy * 0) == math.inf
    with pytest.raises(ValueError, match="shapes differ"):
        quantization.sqnr(torch.zeros(2), torch.zeros(3))


def test_layers_of_both_models_fit_together(float_model, fused, int8_model, images):
    exact, coarse = (quantization.layer_outputs(m, images[:8]) for m in (fused, int8_model))
    assert list(exact) == list(coarse)
    assert list(exact)[:3] == ["quant", "conv1", "layer1.0.conv1"]
    assert list(exact)[-1] == "fc"
    assert len(exact) == 1 + 20 + 8 + 1
    for name in exact:
        assert exact[name].shape == coarse[name].shape, name
        assert coarse[name].dtype == torch.float32
    assert torch.equal(exact["fc"], logits(fused, images[:8]))
    assert torch.equal(coarse["fc"], logits(int8_model, images[:8]))
    assert not [m for m in fused.modules() if m._forward_hooks]
    codes = quantization.layer_outputs(int8_model, images[:8], integers=True)
    assert codes.keys() - coarse.keys() == {"maxpool", "avgpool"}
    assert torch.equal(codes["conv1"].dequantize(), coarse["conv1"])

    table = quantization.layer_sqnr(fused, int8_model, images[:8])
    assert list(table.columns) == ["layer", "sqnr_db"]
    assert table["layer"].tolist() == list(exact)
    assert table["sqnr_db"].between(10, 80).all()
    assert table["sqnr_db"].iloc[-1] == quantization.sqnr(exact["fc"], coarse["fc"])
    assert quantization.sqnr(logits(float_model, images[:8]), coarse["fc"]) > 20
