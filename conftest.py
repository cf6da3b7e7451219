"""Tests run in the quick profile unless the environment says otherwise; notebooks inherit it."""

import os

os.environ.setdefault("COURSE_PROFILE", "quick")
os.environ["TQDM_DISABLE"] = "1"  # bars are for people; nbval would compare them
