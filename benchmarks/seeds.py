"""Are the course's accuracies luck? Train, quantize and compare once more for every seed.

``python benchmarks/seeds.py 1 2`` trains the float32 network of notebook 02 with these seeds (up to
an hour each without a GPU, once), quantizes it as notebooks 03 and 07 do, and compares every result
with the float32 network of its own seed, on all test images. The rows go to seeds.json in the
results folder, in place of older ones of the same seeds. Notebook 09 shows results/seeds.json;
``COURSE_RESULTS=results python benchmarks/seeds.py 0 1 2`` makes it anew.
"""

import argparse
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pandas as pd

from utils import comparison, data, environment, files, results, settings, training
from utils import quantization as ptq
from utils.lab import lowbit, qat
from utils.models import weights_hash
from utils.specialization import specialize

CODING = {"id": lzma.FILTER_LZMA2, "preset": 1, "mode": lzma.MODE_NORMAL, "dict_size": 4096}
CODING |= {"lc": 0, "lp": 0, "pb": 0}  # as in notebook 07


def rows_of(config: settings.Settings, dataset: data.Dataset) -> list[dict]:
    """Return one row per network of this seed: what it is, its bytes, and how it compares."""
    float_model, _ = training.load_or_train(config, dataset)
    fused, weights = ptq.fuse(float_model), weights_hash(float_model)
    small, _ = specialize(fused, tuple(dataset.test_images.shape[1:]))
    images = dataset.normalizer()(dataset.test_images)
    calibration = data.calibration_images(dataset, 64 if config.quick else 256)
    many = data.calibration_images(dataset, config.calibration_images)
    exact = training.predict(fused, images)
    rows = []

    def add(method, model, kept=0):
        found = comparison.compare(exact, training.predict(model, images), dataset.test_labels)
        row = {"seed": config.seed, "method": method, "weights": weights, "bytes": kept}
        rows.append(row | vars(found))
        print(f"seed {config.seed}, {method}: {found.accuracy_b:.2%}, p = {found.mcnemar_p:.2g}")

    def compressed(network, made):
        path = config.artifacts_dir / "seeds" / f"{config.seed}.bin"
        biases = {n: lowbit.core(layer).bias for n, layer in lowbit.layers(network).items()}
        lowbit.pack(path, made, biases)
        content = path.read_bytes()
        path.unlink()
        return len(lzma.compress(content, filters=[CODING]))

    add("float32", fused)
    add("int8", ptq.quantize(float_model, many))
    for bits in (4, 3):
        coarse = lowbit.with_weights(fused, lowbit.quantize(fused, bits))
        coarse = lowbit.with_activations(coarse, calibration, 8)
        add(f"{bits}-bit weights, 8-bit activations", coarse)
    made = lowbit.quantize(fused, 2)
    add("2-bit weights", lowbit.with_weights(fused, made))
    steps = 20 if config.quick else 100
    made = lowbit.repair(fused, calibration, made, lowbit.adaround, steps=steps)
    coarse = lowbit.with_weights(fused, made)
    corrected = lowbit.correct_bias(fused, coarse, calibration)
    add("2-bit weights, AdaRound, bias corrected", corrected)
    trained, made, _ = qat.load_or_train(config, dataset, small)
    kept = compressed(trained, made)
    add("ternary weights, trained", trained, kept)
    add("ternary weights, trained, in integers", lowbit.to_int8(trained, made, calibration), kept)
    return rows


def others(path: Path, seed: int, images: int) -> list[dict]:
    """Read the rows of all other seeds; those of other test images end the program."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = pd.DataFrame(record.get("table", {})).to_dict("records")
    rows = [row for row in rows if row["seed"] != seed]
    if any(row["images"] != images for row in rows):
        raise SystemExit(f"{path.name} has other test images: set COURSE_RESULTS anew")
    return rows


def main() -> None:
    """Make the rows of the seeds asked for, and put them into the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int, nargs="+", help="seeds, for instance 0 1 2")
    config = settings.load()
    for seed in parser.parse_args().seeds:
        chosen = replace(config, seed=seed)
        dataset = data.load(chosen)
        path, images = config.results_dir / "seeds.json", len(dataset.test_labels)
        others(path, seed, images)  # before hours of training
        rows = rows_of(chosen, dataset)
        with files.locked(config.artifacts_dir / "seeds.json", "writing the seeds"):
            table = pd.DataFrame(others(path, seed, images) + rows)
            table = table.sort_values("seed", kind="stable")
            record = {"table": table}
            record["environment"] = environment.describe(chosen, dataset.source)
            results.save(path, record)
    print(table.groupby("method", sort=False)["accuracy_b"].agg(["mean", "min", "max"]).round(4))


if __name__ == "__main__":
    main()
