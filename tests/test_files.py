import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from utils import files
from utils.files import WriteError
from utils.settings import PROJECT


def test_write_text_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "below" / "file.txt"
    assert files.write_text(path, "one") == path
    files.write_text(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.EIO, "broken disk")])
def test_a_failed_write_keeps_the_old_file_and_its_own_error(tmp_path, error):
    path = files.write_text(tmp_path / "file.txt", "old")

    def half(temporary):
        temporary.write_text("ha")
        raise error

    with pytest.raises(type(error)) as caught:
        files.write_atomically(path, half)
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and /sys")


@linux
def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path):
    path = files.write_text(tmp_path / "file.txt", "old")
    (tmp_path / f"file.txt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"file\.txt .*No space left.*Free space.*COURSE_HOME"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@linux
def test_a_folder_that_cannot_be_written_to_is_told():
    path = files.Path("/sys/kernel/course/file.txt")  # refused to root as well
    with pytest.raises(WriteError, match=r"file\.txt in course/.*not permitted.*COURSE_HOME"):
        files.write_text(path, "text")
    with pytest.raises(WriteError, match=r"COURSE_HOME"), files.locked(path, "writing"):
        pass


def test_leftovers_of_killed_runs_are_removed_and_those_of_living_ones_kept(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    names = [f"file.txt.{pid}.tmp" for pid in (int(gone.stdout), os.getppid(), "my")]
    for name in names:
        (tmp_path / name).touch()
    files.write_text(tmp_path / "file.txt", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", *names[1:]}


HOLDER = """
import sys, time
from pathlib import Path
from utils import files
path = Path(sys.argv[1])
with files.locked(path, "holding"):
    print("holds", path.exists(), flush=True)
    time.sleep(600)
"""


def test_a_lock_is_waited_for_and_a_killed_run_leaves_none(tmp_path):
    path = tmp_path / "file.txt"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with files.locked(path, "holding"):
        second = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "another run is holding: waiting for it\n"
        time.sleep(0.3)  # in which a run that does not wait would go on
        path.touch()
    assert second.stdout.readline() == "holds True\n"
    second.send_signal(signal.SIGKILL)
    second.communicate()
    with pytest.raises(KeyError), files.locked(path, "holding"):
        raise KeyError
    with files.locked(path, "holding"):  # an error gives it back as well
        pass
