"""The browser's engine computes the integers of the integer network, code for code."""

import json
import shutil
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.lab import integer, playground
from utils.lab.integer import Arithmetic, IntegerResNet18, Layer, Quantized

NODE = shutil.which("node")
COUNT = 200
RUN = """
import { readFileSync, writeFileSync } from "fs";
import { parse, run, explain, FBGEMM } from "./int8.mjs";
const model = parse(readFileSync("model.bin")), pixels = readFileSync("pixels.bin"), codes = [];
const choice = { ...FBGEMM, ...JSON.parse(process.argv[2]) };
for (let n = 0; n < Math.min(pixels.length, 784 * process.argv[3]); n += 784) {
  const out = run(model, pixels.subarray(n, n + 784), choice);
  for (const x of Object.values(out)) codes.push(Buffer.from(x.q));
  const name = "layer2.0.conv1", y = out[name], place = n % y.q.length;
  const { code } = explain(model.layers[name], y.from, place, choice);
  if (code !== y.q[place]) throw new Error(`explained ${code}, computed ${y.q[place]}`);
}
writeFileSync("codes.bin", Buffer.concat(codes));
"""


@pytest.fixture(scope="module")
def network(int8_model):
    return IntegerResNet18.from_quantized(int8_model)


@pytest.fixture(scope="module")
def model(network, digits):
    pixels, labels = digits.test_images[:COUNT].numpy(), digits.test_labels.numpy()
    return playground.pack(network, *vars(digits.normalizer()).values(), pixels[:5], labels[:5])


@pytest.fixture(scope="module")
def folder(model, digits, tmp_path_factory):
    """What Node needs: the engine, the model and the digits."""
    folder = tmp_path_factory.mktemp("playground")
    shutil.copy(playground.FOLDER / "int8.js", folder / "int8.mjs")
    (folder / "run.mjs").write_text(RUN)
    (folder / "model.bin").write_bytes(model)
    (folder / "pixels.bin").write_bytes(digits.test_images[:COUNT].numpy().tobytes())
    return folder


def node(folder, choice="{}", count=COUNT):
    """Run the engine; return its standard error, empty where all went well."""
    if NODE is None:
        pytest.skip("Node is not installed")
    command = [NODE, "run.mjs", choice, str(count)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


CHOICES = {
    "fbgemm": ("{}", Arithmetic(), COUNT),
    "half away": ('{"rounding": "half away"}', Arithmetic(rounding="half away"), 20),
    "code 0 around": ('{"padding": "zero"}', Arithmetic(padding="zero"), 20),
    "int16": ('{"accumulator": "int16 pairs"}', Arithmetic(accumulator="int16 pairs"), 20),
}


@pytest.mark.parametrize(("choice", "arithmetic", "count"), CHOICES.values(), ids=CHOICES)
def test_every_code_of_every_layer_is_equal(folder, network, digits, choice, arithmetic, count):
    assert node(folder, choice, count) == ""
    images = digits.normalizer()(digits.test_images[:count])
    expected = [y.q.reshape(count, -1) for y in network.activations(images, arithmetic).values()]
    expected = np.concatenate(expected, axis=1)
    found = np.fromfile(folder / "codes.bin", np.uint8).reshape(count, -1)
    assert found.shape == expected.shape
    assert int((found != expected).sum()) == 0


EDGES = """
import { readFileSync, writeFileSync } from "fs";
import { addRelu, averagePool, constants, normalize, quantize, requantize } from "./int8.mjs";
const given = JSON.parse(readFileSync("edges.json")), found = {};
found.requantize = given.layers.map(({ layer, inputScale, sums }) => {
  for (const name of ["weight", "weightScale", "bias"])
    layer[name] = (name === "weight" ? Int8Array : Float32Array).from(layer[name]);
  const { bias, multiplier } = constants(layer, inputScale), outputs = bias.length;
  return sums.map((sum, n) => {
    const o = n % outputs;
    return requantize(sum, bias[o], multiplier[o], layer, "half even");
  });
});
const { reals, scale } = given.quantize;
found.quantize = Array.from(quantize(reals, [], scale, 31).q);
const q = (f) => Uint8Array.from({ length: 65536 }, (_, n) => f(n));
const [a, b] = [{ ...given.add.a, q: q((n) => n >> 8) }, { ...given.add.b, q: q((n) => n & 255) }];
found.add = Array.from(addRelu(a, b, given.add.scale, 9).q);
const pool = { q: Uint8Array.from(given.pool), shape: [2, 2, given.pool.length / 4], zeroPoint: 3 };
found.pool = Array.from(averagePool(pool).q);
found.normalize = Array.from(normalize(given, Array.from({ length: 256 }, (_, n) => n)));
writeFileSync("found.json", JSON.stringify(found));
"""


def test_rounding_and_every_step_of_float32_at_its_edges(folder, digits):
    """Ties and last bits are rare in digits, so each formula is fed with them."""
    if NODE is None:
        pytest.skip("Node is not installed")
    draw = np.random.default_rng(0)
    single = lambda *shape: draw.uniform(0.001, 0.02, shape).astype(np.float32)  # noqa: E731
    layers, sums, scales = [], [], []
    for relu, zero in ((False, 0), (False, 77), (True, 0), (True, 41)):
        weight = np.ones((64, 1, 1, 1), np.int8)
        bias = draw.normal(0, 0.1, 64).astype(np.float32)
        layer = Layer(weight, single(64), bias, np.float32(0.013), zero, relu)
        half = replace(
            layer, weight_scale=np.full(64, 0.5, np.float32), scale=np.float32(1), bias=0 * bias
        )  # odd sums times one half are ties
        # Ties only after rounding to float32: of the product; then of the sum with the bias, too.
        ties = (np.arange(64) + 0.5).astype(np.float32) * np.float32(0.013)
        near = replace(layer, weight_scale=ties / np.float32(1001), bias=0 * bias)
        far = ties / np.float32(8_000_001)
        lost = replace(layer, weight_scale=far, bias=np.float32(0.3) * far)
        for one, scale, total in (
            (layer, single(1)[0], draw.integers(-700, 20_000, (500, 64), dtype=np.int32)),
            (half, np.float32(1), draw.integers(-700, 700, (500, 64), dtype=np.int32)),
            (near, np.float32(1), np.full((1, 64), 1001, np.int32)),
            (lost, np.float32(1), np.full((1, 64), 8_000_001, np.int32)),
        ):
            layers.append(one)
            scales.append(scale)
            sums.append(total.reshape(-1, 64))
    step = np.float32(0.03)
    reals = (draw.integers(-40, 300, 20_000) + 0.5).astype(np.float32) * step
    a, b = Quantized(None, np.float32(0.021), 17), Quantized(None, np.float32(0.037), 4)
    pool = draw.integers(0, 256, (2, 2, 4_000), dtype=np.uint8)
    mean, std = (float(np.float32(value)) for value in vars(digits.normalizer()).values())
    given = {
        "layers": [
            {
                "layer": {
                    "shape": [64, 1, 1, 1],
                    "weight": layer.weight.ravel().tolist(),
                    "weightScale": layer.weight_scale.tolist(),
                    "bias": layer.bias.tolist(),
                    "scale": float(layer.scale),
                    "zeroPoint": layer.zero_point,
                    "relu": layer.relu,
                },
                "inputScale": float(scale),
                "sums": total.ravel().tolist(),
            }
            for layer, scale, total in zip(layers, scales, sums, strict=True)
        ],
        "quantize": {"reals": reals.tolist(), "scale": float(step)},
        "add": {
            "a": {"scale": float(a.scale), "zeroPoint": 17},
            "b": {"scale": float(b.scale), "zeroPoint": 4},
            "scale": float(step),
        },
        "pool": pool.ravel().tolist(),
        "mean": mean,
        "std": std,
    }
    (folder / "edges.json").write_text(json.dumps(given))
    (folder / "edges.mjs").write_text(EDGES)
    run = subprocess.run([NODE, "edges.mjs"], cwd=folder, capture_output=True, text=True)
    assert run.stderr == ""
    found = json.loads((folder / "found.json").read_text())
    for layer, scale, total, codes in zip(layers, scales, sums, found["requantize"], strict=True):
        assert np.array_equal(layer.requantize(total, scale).ravel(), codes)
    assert np.array_equal(integer.quantize(reals, step, 31).q, found["quantize"])
    grid = np.mgrid[:256, :256].astype(np.uint8).reshape(2, 1, 1, 1, -1)
    total = integer.add_relu(replace(a, q=grid[0]), replace(b, q=grid[1]), step, 9)
    assert np.array_equal(total.q.ravel(), found["add"])
    mean_code = integer.global_average_pool(Quantized(pool[None], np.float32(1), 3))
    assert np.array_equal(mean_code.q.ravel(), found["pool"])
    pixels = torch.arange(256, dtype=torch.uint8)
    assert digits.normalizer()(pixels).tolist() == found["normalize"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b"PK" + b[2:], "not a model"),
        (lambda b: b[:7] + b"\x63" + b[8:], "version 99"),
        (lambda b: b[:-1], "damaged or incomplete"),
        (lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:], "damaged or incomplete"),
        (lambda b: b[:10], "damaged or incomplete"),
    ],
)
def test_a_damaged_or_newer_model_is_refused_in_words(folder, model, damage, said):
    (folder / "model.bin").write_bytes(damage(model))
    try:
        assert said in node(folder, count=1)
    finally:
        (folder / "model.bin").write_bytes(model)


def test_idle_taps_are_left_out(network, model):
    weights = sum(layer.weight.size for layer in network.layers.values())
    assert len(model) < 0.4 * weights
    kernel, padding, out = playground.cropped(network.layers["layer4.0.conv1"], 2)
    assert (kernel.shape[1:3], padding, out) == ((2, 2), (0, 0), 1)
    kernel, padding, out = playground.cropped(network.layers["conv1"], 28)
    assert (kernel.shape[1:3], padding, out) == ((7, 7), (3, 3), 14)


def test_the_page_weighs_under_seven_megabytes_and_loads_nothing(model):
    page = playground.page(model)
    assert len(page) < 7_000_000
    assert "http://" not in page and "https://" not in page and "/*" + "MODEL*/" not in page


def test_chromium_draws_a_digit_and_agrees_with_the_integer_network(
    browser, model, network, digits, tmp_path
):
    from selenium.webdriver import ActionChains

    browser.get(playground.write_page(tmp_path / "playground.html", model).as_uri())

    def find(css):
        return browser.find_element("css selector", css)

    draw = ActionChains(browser).move_to_element_with_offset(find(".pad"), -60, -80)
    draw.click_and_hold().move_by_offset(120, 0).move_by_offset(-70, 170).release().perform()
    shown = """const c = Object.assign(document.createElement("canvas"), { width: 28, height: 28 })
          .getContext("2d", { willReadFrequently: true });
        c.drawImage(document.querySelector(".int8 .small"), 0, 0);
        const text = (css) => [...document.querySelectorAll(css)].map((e) => e.innerText);
        return [Array.from(c.getImageData(0, 0, 28, 28).data).filter((_, n) => n % 4 == 0),
          text(".logits td:nth-child(2)"), text(".answer"), text(".source"), text(".sum")]"""

    def equal():
        pixels, logits, answer, source, _ = browser.execute_script(shown)  # of one moment
        image = torch.tensor(pixels, dtype=torch.uint8).reshape(1, 1, 28, 28)
        expected = network.activations(digits.normalizer()(image))["fc"].q[0].tolist()
        same = (list(map(int, logits)), answer) == (expected, [str(int(np.argmax(expected)))])
        return same and "Your drawing" in source[0]

    wait(equal)
    browser.find_elements("css selector", ".maps canvas")[1].click()
    wait(lambda: "accumulator (int32)" in browser.execute_script(shown)[-1][0])
    assert not browser.get_log("browser")


def wait(ready):
    end = time.monotonic() + 180
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_passes_the_accessibility_check(browser, model, tmp_path, scheme):
    axe = pytest.importorskip("axe_core_python.selenium")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.set_window_size(390, 844)
    browser.get(playground.write_page(tmp_path / "playground.html", model).as_uri())
    assert axe.Axe().run(browser)["violations"] == []
    wide, seen = browser.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide <= seen


def test_the_widget_carries_engine_interface_and_model(model):
    pytest.importorskip("anywidget")
    made = playground.widget(model)
    assert made.network == model
    assert "function mount" in made._esm and "function convolve" in made._esm
