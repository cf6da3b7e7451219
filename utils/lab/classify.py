"""Classify digits: python classify.py picture ...  Needs Pillow, NumPy and the model's runtime."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def load(path: Path, batch: int = 1, threads: int = 1):
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"images": x})[0]
    if path.suffix == ".xml":
        import openvino

        model = openvino.Core().read_model(path)
        model.reshape([batch, *model.input().partial_shape[1:]])  # a fixed shape is faster
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        return lambda x: request.infer([x], share_inputs=True)[0]
    import torch

    if path.suffix == ".pte":
        from executorch.extension.pybindings import _C as runtime  # without the exporter

        runtime._unsafe_reset_threadpool(threads)
        program = runtime._load_for_executorch(str(path))
        return lambda x: program.forward([torch.from_numpy(x)])[0].numpy()
    compiled = path.suffix == ".pt2"
    model = torch._inductor.aoti_load_package(str(path)) if compiled else torch.jit.load(path)
    return lambda x: model(torch.from_numpy(x)).numpy()


def digit(file: str) -> np.ndarray:
    """Bring a picture to MNIST's form: white ink, cropped, 20 pixels high, centered in 28 x 28."""
    picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("L")
    picture.thumbnail((160, 160))
    gray = np.asarray(picture, float)
    edge = np.pad(np.zeros(np.subtract(gray.shape, 2), bool), 1, constant_values=True)
    place = np.stack([*np.indices(gray.shape), np.ones(gray.shape)], axis=2)
    paper = place @ np.linalg.lstsq(place[edge], gray[edge], rcond=None)[0]  # even in a shadow
    white = (gray - paper).max() >= (paper - gray).max()
    ink = gray - paper if white else paper - gray
    if ink.max() < 40:
        raise ValueError("nothing stands out from the background")
    ink = np.clip(1.5 * ink / ink.max() - 0.25, 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    if (ink[edge] > 0.3).any() or np.ptp(columns) > 1.5 * np.ptp(rows):
        raise ValueError("it must show one digit with a margin around it")
    if gray.shape == (28, 28):  # in this form already
        return np.uint8(gray if white else 255 - gray)
    box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    cut = ImageOps.contain(Image.fromarray(np.uint8(255 * ink)).crop(box), (20, 20))
    mass = np.asarray(cut, float) / np.sum(cut)
    down, right = (14 - (mass * (axis + 0.5)).sum() for axis in np.indices(mass.shape))
    page = Image.new("L", (28, 28))
    page.paste(cut, (round(right), round(down)))
    return np.asarray(page)


def main(files: list[str]) -> int:
    here, refused = Path(__file__).resolve().parent, 0
    card = json.loads((here / "model.json").read_text(encoding="utf-8"))
    for name, expected in card["sha256"].items():
        found = (here / name).read_bytes() if (here / name).exists() else b""
        if hashlib.sha256(found).hexdigest() != expected:
            sys.exit(f"{name} is missing or damaged (its SHA-256 differs): copy this folder again")
    model = load(here / card["model"])
    for file in files:
        try:
            pixels = digit(file)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            reason = error if isinstance(error, ValueError) else "it cannot be read as a picture"
            print(f"{Path(file).name}: no digit: {reason}")
            refused += 1
            continue
        x = ((pixels / 255 - card["mean"]) / card["std"]).astype(np.float32)[None, None]
        logits = model(x)[0]
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        sure = "" if share.max() > card["sure"] else ", unsure"
        print(f"{Path(file).name}: {card['labels'][share.argmax()]} ({share.max():.0%}{sure})")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
