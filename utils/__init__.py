"""The library behind the notebooks; see CONTRIBUTING.md for what each module is for."""

import logging
import os

# Keep torch from writing to stderr that it finds no CUDA toolkit, and what its profiler does.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# A thread of OpenMP that waits keeps its core busy for a while: without a limit, two processes on
# the same cores can slow each other down thirty times (benchmarks/busy.py measures it). With a
# tenth of this limit, one process alone loses a fifth where waking a thread takes long. The
# variable is read when torch is first imported, so a notebook's kernel must be started with it.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
