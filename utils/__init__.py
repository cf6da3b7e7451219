"""The library behind the notebooks; see README.md for what each module is for."""

import logging
import os

# Before any part of torch says so on stderr: that it finds no CUDA toolkit when its timers or its
# compiler are imported, and that its profiler starts, stops and finds no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# A thread of OpenMP that waits for the others keeps its core busy for a while. Without a limit,
# two processes on the same cores can slow each other down thirty times; waiting passively costs a
# quiet machine a quarter of its speed. This limit costs it nothing (benchmarks/busy.py measures
# it). Read when torch is first imported, so a notebook needs it from what starts its kernel.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
