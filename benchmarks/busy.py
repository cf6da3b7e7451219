"""How much does another busy process slow down training and inference?

``python benchmarks/busy.py`` measures, in fresh processes and in turn, one training step and one
call of ``predict``: alone, beside a busy Python loop, and beside a copy of itself; for several ways
in which the threads of torch can wait for one another. Run it on a machine that does nothing else.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

SETTINGS = {  # of libgomp, which serves torch's loops, oneDNN and MKL on Linux
    "default": {},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "the course's": {"GOMP_SPINCOUNT": "10000", "BUSY_IDLE_CORES": "1"},  # as training does it
}
CLEARED = ("BUSY_IDLE_CORES", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
# Ends with the process that started it, however that ended.
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
LOADS = ("alone", "busy loop", "copy")


def work(batch: int, calls: int | None):
    """Yield the milliseconds of a step and of a prediction; until the parent ends for ``None``."""
    import torch  # before utils, which may set what is to be measured
    import torch.nn.functional as F

    from utils import models, training

    net = models.ResNet18().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, fused=True)
    x, y = torch.randn(batch, 1, 28, 28), torch.arange(batch) % 10
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=training.bf16_helps("cpu"))
    idle_cores = "BUSY_IDLE_CORES" in os.environ
    threads = training.threads_for_idle_cores if idle_cores else contextlib.nullcontext
    parent = os.getppid()
    for _ in range(calls) if calls else iter(lambda: os.getppid() == parent, False):
        marks = [time.perf_counter()]
        net.train()
        with threads(), training.without_padding_work(net):
            with autocast:
                loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        marks.append(time.perf_counter())
        net.eval()
        with threads(), training.without_padding_work(net), torch.inference_mode():
            net(x)
        marks.append(time.perf_counter())
        yield [1e3 * (b - a) for a, b in itertools.pairwise(marks)]


def measure(setting: str, load: str, batch: int, calls: int) -> pd.Series:
    """Return the median milliseconds of a fresh process, beside the load that is asked for."""
    environ = {k: v for k, v in os.environ.items() if k not in CLEARED} | SETTINGS[setting]
    environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    me = [sys.executable, __file__, "--batch", str(batch), "--worker"]
    other = {"busy loop": [sys.executable, "-c", LOOP], "copy": [*me, "0"]}.get(load)
    beside = subprocess.Popen(other, env=environ) if other else None
    try:
        run = subprocess.run([*me, str(calls)], env=environ, stdout=-1, text=True, check=True)
    finally:
        if beside:
            beside.kill()
            beside.wait()
    return pd.DataFrame(json.loads(run.stdout), columns=["step", "predict"]).median()


def main() -> None:
    """Measure every setting under every load, round after round, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images in a step and in a call")
    parser.add_argument("--calls", type=int, default=15, help="of each process; 3 warm up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:  # 0: the copy, which works until it is killed
        timed = work(given.batch, given.worker or None)
        print(json.dumps(list(timed)[3:] if given.worker else [ms for ms in timed if not ms]))
        return
    rows = []
    for number in range(given.rounds):
        for setting, load in itertools.product(given.settings, given.loads):
            ms = measure(setting, load, given.batch, given.calls)
            rows.append({"setting": setting, "load": load, **ms})
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    table = pd.DataFrame(rows)
    for what in ("step", "predict"):
        shown = table.pivot_table(what, "setting", "load", aggfunc="median", sort=False)
        shown[f"alone / {given.settings[0]}"] = shown["alone"] / shown["alone"].iloc[0]
        for load in given.loads[1:]:
            shown[f"{load} / alone"] = shown[load] / shown["alone"]
        print(f"\n{what}, {given.batch} images: milliseconds, and ratios of medians")
        print(shown.round(2).to_string())


if __name__ == "__main__":
    main()
