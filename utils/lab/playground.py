"""Pack the integer network for the browser, and build the page that runs it.

The engine is ``utils/playground/int8.js``; it computes the same integers as
:mod:`utils.lab.integer`, which computes the same as fbgemm's kernels.
"""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
from numpy import ndarray

from utils import files
from utils.lab.integer import IntegerResNet18, Layer

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
            "stride": layer.stride,
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
    """
    taps, padding = layer.weight.shape[1], int(np.max(layer.padding))
    out = (size + 2 * padding - taps) // layer.stride + 1
    first = np.arange(out) * layer.stride - padding  # where each window begins
    used = [tap for tap in range(taps) if np.any((first + tap >= 0) & (first + tap < size))]
    start, end = min(used), max(used) + 1
    return layer.weight[:, start:end, start:end], (padding - start, padding - start), out


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


def write_page(path: Path, model: bytes) -> Path:
    """Write the page; see :func:`page` and :func:`utils.files.write_atomically`."""
    return files.write_text(path, page(model))
