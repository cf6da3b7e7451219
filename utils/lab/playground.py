"""Pack the integer network for the browser, and build the page that runs it.

The engine is ``utils/playground/int8.js``; it computes the same integers as
:mod:`utils.lab.integer`, which computes the same as fbgemm's kernels.
"""

import base64
import json
import shutil
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from torch import Tensor, nn

from utils import files, quantization
from utils.data import Dataset
from utils.lab.integer import IntegerResNet18, Layer
from utils.training import predict

if TYPE_CHECKING:
    import anywidget
    from selenium import webdriver

FOLDER = Path(__file__).resolve().parents[1] / "playground"
MAGIC, VERSION = b"INT8NET", 1
SIZE = 28  # pixels of an image, in each direction


def pack(
    network: IntegerResNet18,
    mean: float,
    std: float,
    samples: ndarray,
    labels: ndarray,
    notes: list[str] | None = None,
) -> bytes:
    """Return the model file: everything that the page needs to classify 28x28 digits.

    Kernel taps that only ever meet padding at this size are left out: they multiply zeros.

    Parameters
    ----------
    network : IntegerResNet18
    mean, std : float
        Of the normalizer, on the scale 0 to 1.
    samples : ndarray
        uint8, shape (N, 1, 28, 28): digits to choose from.
    labels : ndarray
        int, shape (N,).
    notes : list of str, optional
        What is special about a sample, for each of them.

    Returns
    -------
    bytes
        ``INT8NET``, version, CRC-32 of what follows, length of the header, header (JSON), arrays.
    """
    blob, layers, shape = bytearray(), {}, {}

    def stored(array: ndarray) -> tuple[int, int]:
        blob.extend(b"\0" * (-len(blob) % 4))
        blob.extend(np.ascontiguousarray(array).tobytes())
        return len(blob) - array.nbytes, array.size

    def add(name: str, size: int) -> int:
        layer = network.layers[name]
        kernel, padding, out = cropped(layer, size)
        layers[name] = {
            "shape": kernel.shape,
            "stride": int(np.max(layer.stride)),
            "padding": padding,
            "output": (out, out),
            "relu": layer.relu,
            "scale": float(layer.scale),
            "zeroPoint": layer.zero_point,
            "weight": stored(kernel.astype(np.int8)),
            "weightScale": stored(layer.weight_scale.astype(np.float32)),
            "bias": stored(layer.bias.astype(np.float32)),
        }
        return out

    shape = (add("conv1", SIZE) - 1) // 2 + 1
    for name in network.sums:
        block = name.removesuffix("add_relu")
        if f"{block}downsample.0" in network.layers:
            add(f"{block}downsample.0", shape)
        shape = add(f"{block}conv2", add(f"{block}conv1", shape))
    add("fc", 1)
    header = {
        "scale": float(network.scale),
        "zeroPoint": network.zero_point,
        "mean": float(np.float32(mean)),
        "std": float(np.float32(std)),
        "layers": layers,
        "sums": {name: (float(scale), zero) for name, (scale, zero) in network.sums.items()},
        "samples": stored(np.asarray(samples, dtype=np.uint8)),
        "labels": [int(label) for label in labels],
        "notes": notes or [""] * len(labels),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = len(text).to_bytes(4, "little") + text + bytes(blob)
    return MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "little") + body


def cropped(layer: Layer, size: int) -> tuple[ndarray, tuple[int, int], int]:
    """Return a layer's kernel without idle taps, its padding above and left, and its output size.

    Parameters
    ----------
    layer : Layer
    size : int
        Height and width of the input.

    Returns
    -------
    kernel : ndarray
        int8, shape (outputs, height, width, inputs).
    padding : (int, int)
    output : int

    Raises
    ------
    ValueError
        If the kernel is not square, or the paddings above and left differ.
    """
    taps, stride = layer.weight.shape[1], int(np.max(layer.stride))
    left, _, top, bottom = (int(side) for side in np.broadcast_to(layer.padding, 4))
    if left != top or layer.weight.shape[2] != taps:
        raise ValueError("the page takes square kernels with equal paddings above and left")
    out = (size + top + bottom - taps) // stride + 1
    first = np.arange(out) * stride - top  # where each window begins
    used = [tap for tap in range(taps) if np.any((first + tap >= 0) & (first + tap < size))]
    start, end = min(used), max(used) + 1
    return layer.weight[:, start:end, start:end], (top - start, left - start), out


def build(model: nn.Module, calibration: Tensor, dataset: Dataset, count: int = 50) -> bytes:
    """Quantize a float32 model and pack it with test digits, the difficult ones at the end.

    Parameters
    ----------
    model : nn.Module
        The course's float32 ResNet-18.
    calibration : Tensor
        Normalized images, shape (N, 1, 28, 28).
    dataset : Dataset
    count : int
        Number of digits to choose from; a fifth of them, if there are so many, are misread by one
        of the two models.
    """
    int8 = quantization.quantize(model, calibration)
    images, labels = dataset.test_images[:2_000], dataset.test_labels[:2_000]
    normalize = dataset.normalizer()
    a, b = (predict(m, normalize(images)).argmax(1) for m in (model, int8))
    said = {
        "int8 and float32 disagree on this one.": a != b,
        "Both models misread this one.": (a == b) & (b != labels),
    }
    special = [
        (int(i), note) for note, which in said.items() for i in which.nonzero()[: count // 5]
    ]
    special = special[: count // 5]
    plain = ((a == labels) & (b == labels)).nonzero().flatten()[: count - len(special)]
    chosen = [(int(i), "") for i in plain] + special
    order = [i for i, _ in chosen]
    network = IntegerResNet18.from_quantized(int8)
    pixels, right = images[order].numpy(), labels[order].numpy()
    return pack(network, normalize.mean, normalize.std, pixels, right, [note for _, note in chosen])


def page(model: bytes) -> str:
    """Return the playground as one HTML page that works from disk, without a network."""
    parts = {
        "/*STYLE*/": (FOLDER / "playground.css").read_text(encoding="utf-8"),
        "/*ENGINE*/": engine(),
        "/*INTERFACE*/": (FOLDER / "playground.js").read_text(encoding="utf-8"),
        "/*MODEL*/": base64.b64encode(model).decode(),
    }
    html = (FOLDER / "playground.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        html = html.replace(mark, text)
    return html


def engine() -> str:
    """Return the engine as a classic script, which a page opened from disk may load."""
    text = (FOLDER / "int8.js").read_text(encoding="utf-8")
    return text.replace("export ", "")


def widget(model: bytes) -> "anywidget.AnyWidget":
    """Return the playground as a widget for the output of a cell.

    Raises
    ------
    ImportError
        If anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "the widget needs anywidget: pip install -r requirements-class.txt, or open "
            "report/playground.html, which make report writes"
        ) from error
    interface = (FOLDER / "playground.js").read_text(encoding="utf-8")
    start = """export default { render({ model, el }) {
        const view = model.get("network"), root = document.createElement("div");
        el.append(root);
        mount(root, new Uint8Array(view.buffer, view.byteOffset, view.byteLength), ENGINE);
    } };"""
    text = f"{engine()}\nconst ENGINE = {json.dumps(engine())};\n{interface}\n{start}"
    body = {
        "_esm": text,
        "_css": (FOLDER / "playground.css").read_text(encoding="utf-8"),
        "network": traitlets.Bytes(model).tag(sync=True),
    }
    return type("Playground", (anywidget.AnyWidget,), body)()


def chromium(size: tuple[int, int] = (1100, 1600)) -> "webdriver.Chrome":
    """Start Debian's Chromium without a window, through selenium.

    Raises
    ------
    ImportError, FileNotFoundError
        If selenium, Chromium or its driver is not installed.
    """
    from selenium import webdriver

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise FileNotFoundError("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    quiet = ("background-networking", "component-update", "sync", "gpu")
    for flag in ("headless=new", "no-sandbox", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))


def write_page(path: Path, model: bytes) -> Path:
    """Write the page; see :func:`page` and :func:`utils.files.write_atomically`."""
    return files.write_text(path, page(model))


def take_picture(page: Path, path: Path, seconds: float = 60) -> Path:
    """Photograph the page, once the network has read its first digit.

    Raises
    ------
    TimeoutError
        If there is no answer in time.
    ImportError, FileNotFoundError
        See :func:`chromium`.
    """
    browser = chromium((1100, 1250))
    try:
        browser.get(page.resolve().as_uri())
        end = time.monotonic() + seconds
        while browser.find_element("css selector", ".answer").text == "?":
            if time.monotonic() > end:
                raise TimeoutError(f"{page.name} gave no answer within {seconds:g} s")
            time.sleep(0.1)
        picture = browser.get_screenshot_as_png()
    finally:
        browser.quit()
    return files.write_atomically(path, lambda temporary: temporary.write_bytes(picture))
