"""Each road where its package is installed, and the folder that is shipped."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.ao.nn.intrinsic import ConvReLU2d

from utils import quantization as ptq
from utils import timing
from utils.figures import deployment
from utils.lab import classify, shipping
from utils.lab.shipping import ROADS, Network
from utils.models import hooked, layers_of

COMPILED = ("int8_pt2e", "int8_executorch")


@pytest.fixture(scope="module")
def network(float_model, int8_model, images):
    return Network(ptq.fuse(float_model), int8_model, images[:16]).specialized()


@pytest.fixture(scope="module")
def shipments(network, tmp_path_factory):
    """Every road but those that compile for minutes."""
    folder = tmp_path_factory.mktemp("roads")
    return {
        name: road.prepare(network, folder / "new" / name)
        for name, road in ROADS.items()
        if not road.missing() and name not in COMPILED
    }


@pytest.mark.parametrize("name", [name for name in ROADS if name not in COMPILED])
def test_a_road_keeps_the_answers_and_the_bytes(name, shipments, network, images):
    if name not in shipments:
        pytest.skip(ROADS[name].missing())
    ship = shipments[name]
    with torch.inference_mode():
        want = network.fused(images[:8])
        found = ship.load(8)(images[:8])
    error = ((found - want).norm() / want.norm()).item()
    assert error < (0.3 if name.startswith("int8") else 1e-4)
    limit = 4_500_000 if name.startswith("int8") else 17_200_000
    assert limit - 600_000 < ship.bytes < limit


def test_pt2e_quantizes_the_exported_graph(network, images):
    pytest.importorskip("torchao")
    graph = shipping.pt2e(network)
    with torch.inference_mode():
        want, found = network.fused(images[:1]), graph(images[:1])
    assert 0 < ((found - want).norm() / want.norm()).item() < 0.3
    assert tops(graph) == {255}
    targets = [str(node.target) for node in graph.graph.nodes]
    assert sum("dequantize_per_channel" in target for target in targets) == 21
    ours, theirs = shipping.scales(network.int8, images[:1]), shipping.graph_scales(graph)
    assert ours.index[0] == "conv1" and ours.index[-1] == "fc" and len(ours) == len(theirs) == 21
    weight = network.fused.conv1[0].weight.detach().abs().amax((1, 2, 3)) / 127.5
    for table in (ours, theirs):
        assert table["weights"].iloc[0] == pytest.approx(weight.mean().item(), rel=1e-3)


def tops(graph):
    """The largest codes of the activations."""
    nodes = [n for n in graph.graph.nodes if "quantize_per_tensor" in str(n.target)]
    return {node.args[4] for node in nodes}


def test_activations_get_half_the_codes_where_sums_may_saturate(network, monkeypatch):
    for sets, needed in {("avx2",): True, ("avx2", "avx_vnni"): False}.items():
        monkeypatch.setattr(shipping.environment, "cpu", lambda s=sets: {"instruction_sets": s})
        assert shipping.saturates() == needed
    pytest.importorskip("torchao")
    assert tops(shipping.pt2e(network, reduce_range=True)) == {127}


def test_compiling_packs_for_one_thread_and_for_the_codes_of_this_processor(
    network, monkeypatch, tmp_path
):
    pytest.importorskip("torchao")
    seen = {}

    def compiler(program, package_path, inductor_configs):  # it takes a minute, and packs by these
        seen["codes"], seen["threads"] = tops(program), torch.get_num_threads()

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiler)
    few = replace(network, images=network.images[:2])
    for saturates, codes in ((True, {127}), (False, {255})):
        monkeypatch.setattr(shipping, "saturates", lambda s=saturates: s)
        with timing.fixed_threads(2):
            shipping.ROADS["int8_pt2e"].write(few, tmp_path / "file.pt2")
        assert seen == {"codes": codes, "threads": 1}


@pytest.mark.parametrize("name", ["int8_onnxruntime", "int8_openvino"])
def test_the_scales_in_a_file_are_those_of_their_layers(name, shipments, network, images):
    if name not in shipments:
        pytest.skip(ROADS[name].missing())
    found = shipping.file_scales(shipments[name].path, network.int8, images[:1])
    largest, width = {}, {}

    def look(layer, module, inputs):
        weight = getattr(module, "0", module).weight  # a fused layer begins with its convolution
        largest[layer] = weight.abs().flatten(1).amax(1).mean().item()
        width[layer] = inputs[0].max().item() - min(inputs[0].min().item(), 0)

    with hooked(layers_of(network.fused, nn.Conv2d, ConvReLU2d, nn.Linear), before=look):
        network.fused(network.images)
    # The largest weight of each channel has the largest code, or lies half a step below it.
    short = found["largest_code"] - pd.Series(largest) / found["weights"]
    assert len(found) == 21 and ((short.abs() < 0.01) | ((short - 0.5).abs() < 0.01)).all()
    steps = pd.Series(width) / found["activations"]
    if name == "int8_onnxruntime":  # which takes the whole range, as PyTorch saw it
        assert np.allclose(steps, 255, rtol=1e-3)
    else:
        assert found["symmetric"].all() and steps.iloc[1:].between(200, 500).all()


def test_scales_of_another_network_are_refused(shipments, int8_model, images):
    name = "int8_onnxruntime"
    if name not in shipments:
        pytest.skip(ROADS[name].missing())
    with pytest.raises(ValueError, match=r"no weights of \(512, 256, 3, 3\).*layer4.0.conv1"):
        shipping.file_scales(shipments[name].path, int8_model, images[:1])


def test_executorch_keeps_the_answers_and_is_quiet(network, images, digits, tmp_path, capfd):
    """Needs requirements-phone.txt, and about a minute."""
    runtime = pytest.importorskip("executorch.extension.pybindings._C")
    ship = ROADS["int8_executorch"].prepare(network, tmp_path / "phone")
    model = ship.load()
    assert runtime._threadpool_get_thread_count() == 1
    with torch.inference_mode():
        want = network.fused(images[:8])
        found = torch.cat([model(image) for image in images[:8].split(1)])
    assert 0 < ((found - want).norm() / want.norm()).item() < 0.3
    assert ship.bytes < 4_500_000 and capfd.readouterr().err == ""
    Image.fromarray(digits.test_images[0, 0].numpy()).save(tmp_path / "digit.png")
    code, said = shipping.run_shipped(ship.pack(tmp_path / "a", digits), tmp_path / "digit.png")
    assert code == 0 and said.splitlines()[-1] == "imported: torch executorch"


@pytest.mark.parametrize("name", ["int8_onnxruntime", "int8_openvino", "int8_traced"])
def test_a_shipped_folder_runs_without_the_course(name, shipments, digits, tmp_path):
    if name not in shipments:
        pytest.skip(ROADS[name].missing())
    folder = shipments[name].pack(tmp_path / "shipped", digits)
    Image.fromarray(digits.test_images[0, 0].numpy()).save(tmp_path / "digit.png")
    Image.new("L", (90, 90), 180).save(tmp_path / "blank.png")
    code, said = shipping.run_shipped(folder, tmp_path / "digit.png")
    assert (code, said.splitlines()[0][:11]) == (0, "digit.png: ")
    assert said.splitlines()[-1].split()[1:] == ["torch" if "traced" in name else name[5:]]
    code, said = shipping.run_shipped(folder, tmp_path / "blank.png", tmp_path / "none.png")
    assert code == 1
    assert "blank.png: no digit: nothing stands out" in said and "none.png: no digit" in said
    weights = folder / shipments[name].files[-1].name
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, said = shipping.run_shipped(folder, tmp_path / "digit.png")
    assert code == 1 and f"{weights.name} is missing or damaged" in said


def test_the_card_says_how_to_prepare_a_picture(shipments, digits, tmp_path):
    card = json.loads((shipments["int8_traced"].pack(tmp_path, digits) / "model.json").read_text())
    assert (card["mean"], card["std"]) == tuple(vars(digits.normalizer()).values())
    assert card["labels"] == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("name", ["int8_eager", "int8_onnxruntime"])
def test_a_fresh_process_loads_any_file(name, shipments):
    if name not in shipments:
        pytest.skip(ROADS[name].missing())
    found = shipping.startup(shipments[name], threads=2)
    assert list(found) == ["load_ms", "first_ms", "memory_mb"]
    assert min(found.values()) > 0 and found["memory_mb"] < 4000


def test_a_file_that_cannot_be_loaded_is_named(shipments, tmp_path):
    gone = replace(shipments["int8_eager"], path=tmp_path / "gone.pt")
    with pytest.raises(RuntimeError, match=r"gone.pt does not load in a fresh process"):
        shipping.startup(gone)


def test_one_export_serves_every_road_that_begins_with_it(network):
    pytest.importorskip("onnxscript")
    assert shipping._onnx(network) is shipping._onnx(network)


def cross(size: int, ink: int, paper: int, left: int, top: int) -> np.ndarray:
    """A picture with a plus of 20 strokes' width, somewhere."""
    pixels = np.full((size, size), paper, np.uint8)
    pixels[top + 20 : top + 30, left : left + 50] = ink
    pixels[top : top + 50, left + 20 : left + 30] = ink
    return pixels


@pytest.mark.parametrize(("ink", "paper"), [(255, 0), (30, 210)])
def test_a_picture_becomes_white_on_black_and_centered(ink, paper, tmp_path):
    Image.fromarray(cross(120, ink, paper, 12, 48)).save(tmp_path / "plus.png")
    pixels = classify.digit(tmp_path / "plus.png")
    assert pixels.shape == (28, 28) and pixels.dtype == np.uint8
    assert pixels[14, 14] > 200 and pixels[0].max() == 0
    rows, columns = np.nonzero(pixels > 100)
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == 20
    assert abs(rows.mean() - 13.5) < 0.6 and abs(columns.mean() - 13.5) < 0.6


def test_ink_on_nothing_is_ink_on_white_paper(tmp_path):
    ink = cross(120, 255, 0, 12, 48)
    Image.merge("LA", [Image.new("L", (120, 120)), Image.fromarray(ink)]).save(tmp_path / "a.png")
    Image.fromarray(255 - ink).save(tmp_path / "b.png")
    a, b = (classify.digit(tmp_path / name) for name in ("a.png", "b.png"))
    assert np.array_equal(a, b)


def test_a_shadow_on_the_paper_is_no_ink(tmp_path):
    shadow = np.add.outer(np.arange(120), np.arange(120)) * 0.5
    Image.fromarray(np.uint8(cross(120, 60, 240, 40, 40) - shadow * 0.5)).save(tmp_path / "a.png")
    Image.fromarray(cross(120, 60, 240, 40, 40)).save(tmp_path / "b.png")
    a, b = (classify.digit(tmp_path / name).astype(int) for name in ("a.png", "b.png"))
    assert (np.abs(a - b) > 90).sum() < 10


def test_a_picture_with_too_many_pixels_is_told_like_any_other(tmp_path, monkeypatch, capsys):
    Image.fromarray(cross(120, 255, 0, 12, 48)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "model.json").write_text('{"sha256": {}, "model": ""}')
    monkeypatch.setattr(classify, "__file__", str(tmp_path / "classify.py"))
    monkeypatch.setattr(classify, "load", lambda _: None)
    assert classify.main([str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().out == "a.png: no digit: it cannot be read as a picture\n"


def test_what_is_not_one_digit_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80)).astype(np.uint8)
    wide = np.zeros((60, 150), np.uint8)
    wide[20:40, 20:130] = 255
    for pixels in (noise, wide, cross(70, 0, 255, 0, 10)):
        Image.fromarray(pixels).save(tmp_path / "odd.png")
        with pytest.raises(ValueError, match="one digit with a margin"):
            classify.digit(tmp_path / "odd.png")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(shipping.importlib.util, "find_spec", lambda name: None)
    assert "nncf" in ROADS["int8_openvino"].missing()
    assert ROADS["int8_eager"].missing() == ""


def test_the_front_keeps_what_nothing_beats():
    table = pd.DataFrame(
        {"label": list("abcd"), "dtype": ["float32", "int8", "int8", "int8"], "specialized": True}
        | {"file_mb": [40.0, 10, 4, 4], "ms": [5.0, 1, 2, 3]}
    )
    assert deployment.front(table) == ["c", "b"]
    fig, alt = deployment.pareto(table, "Bytes against latency")
    assert len(fig.axes[0].texts) == 4
    assert "Not beaten in both: c, b" in alt
