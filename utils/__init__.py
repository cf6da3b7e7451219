"""The library behind the notebooks; see README.md for what each module is for."""

import logging
import os

# Before any part of torch says so on stderr: that it finds no CUDA toolkit when its timers or its
# compiler are imported, and that its profiler starts, stops and finds no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
