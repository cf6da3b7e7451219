"""Tests run in the quick profile unless the environment says otherwise; notebooks inherit it."""

import os

os.environ.setdefault("COURSE_PROFILE", "quick")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read once, when torch is imported
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if workers > 1:  # the cores are for all of them
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))
os.environ["TQDM_DISABLE"] = "1"  # bars are for people; nbval would compare them
os.environ["COURSE_WIDGETS"] = "off"  # sliders, too: a notebook shows its figures without them
