import copy
import importlib.util
import platform
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization
from utils.catalog import VARIANTS
from utils.lab import runtimes
from utils.lab.runtimes import VariantError
from utils.models import hooked, layers_of

SHAPE = (2, 1, 28, 28)
READY = [name for name in runtimes.names() if name != "float_compiled"]
FLOAT = [name for name in READY if VARIANTS[name].dtype == "float32"]
INT8 = [name for name in READY if VARIANTS[name].dtype == "int8"]


@pytest.fixture(autouse=True)
def engine_restored():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory, float_model, images):
    """What export() writes, in a folder that did not exist."""
    engine = torch.backends.quantized.engine
    folder = tmp_path_factory.mktemp("variants") / "new" / "folder"
    runtimes.export(folder, float_model, images)
    torch.backends.quantized.engine = engine
    return folder


@pytest.fixture
def without(monkeypatch):
    """Pretend that packages are not installed."""

    def pretend(*packages):
        real = importlib.util.find_spec
        fake = lambda name: None if name in packages else real(name)  # noqa: E731
        monkeypatch.setattr(runtimes.importlib.util, "find_spec", fake)

    return pretend


@pytest.fixture
def engines(monkeypatch):
    """Pretend that torch was built with these engines, for a processor that uses the first."""

    def pretend(*names):
        fake = SimpleNamespace(quantized=SimpleNamespace(supported_engines=list(names)))
        monkeypatch.setattr(runtimes, "torch", SimpleNamespace(backends=fake))
        monkeypatch.setattr(runtimes.ptq, "default_engine", lambda: names[0])

    return pretend


def logits(model, x):
    with torch.inference_mode():
        return model(x)


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_names_are_variants_float_first():
    names = runtimes.names()
    assert set(names) == set(VARIANTS) - set(runtimes.missing())
    dtypes = [VARIANTS[name].dtype for name in names]
    assert dtypes == sorted(dtypes)  # "float32" < "int8"
    assert {"float_eager", "float_fused", "float_channels_last"} <= set(names)
    assert "int8" in dtypes


def test_a_variant_s_name_and_label_begin_with_its_dtype():
    for name, variant in VARIANTS.items():
        assert variant.name == name
        assert variant.dtype in ("float32", "int8")
        assert name.startswith(variant.dtype.removesuffix("32"))
        assert variant.label.startswith(variant.dtype)


@pytest.mark.parametrize("packages", [("onnxruntime", "openvino"), ("onnxscript",)])
def test_missing_packages_are_named(without, packages):
    without(*packages)
    absent = runtimes.missing()
    for runtime in ("onnxruntime", "openvino"):
        assert "not installed" in absent[f"float_{runtime}"]
        assert f"float_{runtime}" not in runtimes.names()
        if runtime in packages:
            assert absent[f"float_{runtime}"] == (
                f"{runtime} is not installed: pip install -r requirements-runtimes.txt"
            )
    assert "float_eager" not in absent


def test_without_runtimes_no_onnx_file_is_written(without, float_model, images, tmp_path):
    without("onnxruntime", "openvino")
    runtimes.export(tmp_path, float_model, images[:8])
    assert {path.name for path in tmp_path.iterdir()} == {"float.pt", "int8.pt"}


def test_an_arm_processor_has_qnnpack_only(engines):
    engines("qnnpack", "fbgemm", "x86", "onednn")
    absent = runtimes.missing()
    for engine in ("fbgemm", "x86", "onednn"):
        assert absent[f"int8_{engine}"] == "not meant for this processor, which uses qnnpack"
    assert "int8_qnnpack" not in absent


def test_an_x86_processor_has_the_engines_of_this_build(engines):
    engines("fbgemm", "x86", "qnnpack")
    absent = runtimes.missing()
    assert absent["int8_onednn"] == "this build of torch has no engine onednn"
    assert absent["int8_qnnpack"] == "not meant for this processor, which uses fbgemm"
    assert not {"int8_fbgemm", "int8_x86"} & set(absent)


def test_an_unknown_or_unavailable_variant_says_why(without, tmp_path):
    with pytest.raises(VariantError, match=r"variant 'abacus' is unknown; .*float_eager.*int8_x86"):
        runtimes.load("abacus", tmp_path, SHAPE)
    without("openvino")
    with pytest.raises(VariantError, match="float_openvino: openvino is not installed: pip"):
        runtimes.load("float_openvino", tmp_path, SHAPE)


@pytest.mark.parametrize("name", READY)
def test_a_variant_that_cannot_be_built_says_why(name, tmp_path):
    """Whatever exception its runtime raises."""
    (tmp_path / "float.pt").write_bytes(b"damaged")
    (tmp_path / "int8.pt").write_bytes(b"damaged")
    with pytest.raises(VariantError, match=rf"^{name}: \w+: .*\w") as caught:
        runtimes.load(name, tmp_path, SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.parametrize("threads", [1, 2])
def test_float_variants_agree_with_the_model(folder, float_model, images, name, threads):
    before = torch.get_num_threads()
    model = runtimes.load(name, folder, SHAPE, threads)
    assert torch.get_num_threads() == before
    expected = logits(float_model, images[:2])
    found = logits(model, images[:2])
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 1e-4
    assert relative_error(logits(model, images[2:4]), expected) > 1e-2  # it does look at its input


def test_int8_variants_agree_with_the_int8_model_bit_for_bit(folder, int8_model, images):
    before = torch.get_num_threads()
    default = torch.backends.quantized.engine
    expected, path = logits(int8_model, images[:2]), folder / "int8.pt"
    for name in INT8:
        model = runtimes.load(name, folder, SHAPE)
        assert torch.backends.quantized.engine == default  # only what is packed keeps its own
        found = logits(model, images[:2])
        other = quantization.load_int8(path, name.removeprefix("int8_"))
        assert torch.equal(found, logits(other, images[:2]))
        torch.backends.quantized.engine = default
        if name in ("int8_fbgemm", "int8_x86", f"int8_{default}"):
            assert torch.equal(found, expected)
        assert relative_error(found, expected) < 0.05
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "batch_norms", "channels_last"),
    [("float_eager", 20, False), ("float_fused", 0, False), ("float_channels_last", 0, True)],
)
def test_variants_are_fused_and_channels_last_where_the_name_says_so(
    folder, name, batch_norms, channels_last
):
    model = runtimes.load(name, folder, SHAPE)
    assert len(layers_of(model, nn.BatchNorm2d)) == batch_norms
    weight = model.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


@pytest.mark.parametrize("name", [name for name in FLOAT if VARIANTS[name].file == "float.onnx"])
def test_the_onnx_file_takes_any_batch_and_size(folder, float_model, name):
    x = torch.randn(3, 1, 40, 36, generator=torch.Generator().manual_seed(0))
    found = logits(runtimes.load(name, folder, tuple(x.shape)), x)
    assert relative_error(found, logits(float_model, x)) < 1e-4


@pytest.mark.skipif("float_onnxruntime" not in FLOAT, reason="not on this machine")
def test_onnx_runtime_gets_the_threads(folder, monkeypatch):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession
    spy = lambda path, options, **kw: seen.append(options) or real(path, options, **kw)  # noqa: E731
    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    runtimes.load("float_onnxruntime", folder, SHAPE, 2)
    assert [(o.intra_op_num_threads, o.inter_op_num_threads) for o in seen] == [(2, 1)]


@pytest.mark.skipif("float_openvino" not in FLOAT, reason="not on this machine")
def test_openvino_gets_the_threads_and_stays_in_float32(folder, monkeypatch):
    import openvino

    seen = []
    real = openvino.Core.compile_model

    def spy(core, model, device, settings):
        seen.append((list(model.inputs[0].shape), device, settings))
        return real(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    runtimes.load("float_openvino", folder, SHAPE, 2)
    [(shape, device, settings)] = seen
    assert (shape, device) == (list(SHAPE), "CPU")
    assert settings["INFERENCE_NUM_THREADS"] == 2
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.fixture
def compiled(folder):
    try:
        return runtimes.load("float_compiled", folder, SHAPE, 1)
    except VariantError as error:
        if "compiler" not in str(error):
            raise
        pytest.skip(f"no compiler: {error}")


def test_the_compiled_variant_is_frozen_and_compiled_once(compiled, float_model, images):
    """What is timed is what was built: nothing is compiled later, without freezing."""
    from torch._dynamo.utils import counters

    assert torch.get_num_threads() == 1
    x, before = images[:2].clone(), counters["stats"]["unique_graphs"]
    found = logits(compiled, x)
    assert relative_error(found, logits(float_model, x)) < 1e-4
    assert counters["stats"]["unique_graphs"] == before
    if platform.machine().lower() in ("x86_64", "amd64"):
        with torch.no_grad():
            compiled.layer1[0].conv2.weight.zero_()  # which a frozen model has packed elsewhere
        assert torch.equal(logits(compiled, x), found)


def test_a_failure_to_compile_is_a_variant_error(folder, monkeypatch):
    def fail(model, **_):
        def call(x):
            assert torch.get_num_threads() == 2
            raise RuntimeError("no compiler\nfound\n\nsome advice")

        return call

    monkeypatch.setattr(runtimes.torch, "compile", fail)
    with pytest.raises(VariantError, match=r"^float_compiled: RuntimeError: no compiler found$"):
        runtimes.load("float_compiled", folder, SHAPE, 2)
    assert torch.get_num_threads() == 1


@pytest.fixture(scope="module")
def fused(float_model):
    return quantization.fuse(float_model)


def keep(conv, shape, has_relu):
    return nn.Sequential(conv, nn.ReLU()) if has_relu else nn.Sequential(conv)


@pytest.mark.parametrize("fuse", [False, True])
def test_every_convolution_can_be_replaced(float_model, fused, images, fuse):
    model, made = (fused if fuse else float_model), []

    def make(conv, shape, has_relu):
        assert type(conv) is nn.Conv2d
        made.append((keep(conv, shape, has_relu), tuple(shape), has_relu))
        return made[-1][0]

    replaced = runtimes.replace_convolutions(model, make, images[:3])
    found = {name: how for name, m in replaced.named_modules() for r, *how in made if r is m}
    assert len(found) == len(made) == 20
    assert len([m for m in replaced.modules() if isinstance(m, nn.Conv2d)]) == 20
    assert not layers_of(replaced, ConvReLU2d)
    torch.testing.assert_close(logits(replaced, images[:3]), logits(model, images[:3]))
    # The stem and the first of every block are followed by a ReLU.
    first = {name for name in found if name.endswith("conv1")}
    assert {name for name, (_, relu) in found.items() if relu} == (first if fuse else set())
    shapes = {}
    with hooked(
        layers_of(model, nn.Conv2d, ConvReLU2d),
        before=lambda n, _, x: shapes.update({n: tuple(x[0].shape)}),
    ):
        logits(model, images[:3])
    assert {name: shape for name, (shape, _) in found.items()} == shapes
    # No hook is left to be timed.
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in replaced.modules())


def test_replacing_leaves_the_original_alone(fused, images):
    before, expected = copy.deepcopy(fused.state_dict()), logits(fused, images[:2])

    def zero(conv, shape, has_relu):
        with torch.no_grad():
            conv.weight.zero_()
        return keep(conv, shape, has_relu)

    replaced = runtimes.replace_convolutions(fused, zero, images[:2])
    assert not torch.equal(logits(replaced, images[:2]), expected)
    assert torch.equal(logits(fused, images[:2]), expected)
    after = fused.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
