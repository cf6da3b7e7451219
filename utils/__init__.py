"""The library behind the notebooks; see README.md for what each module is for."""

import logging
import os

# Before any part of torch says so on stderr: that it finds no CUDA toolkit when its timers or its
# compiler are imported, and that its profiler starts, stops and finds no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# Threads of OpenMP that wait for one another keep their cores busy by default. Beside a second busy
# process the others then wait for a thread that cannot run: benchmarks/busy.py measures the cost.
# Read when torch is first imported, so a notebook needs it from the process that starts its kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
