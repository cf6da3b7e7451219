import errno
import os
import signal
import subprocess
import sys
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient

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
    with pytest.raises(WriteError, match=r"file\.txt .*the disk is full.*space.*COURSE_HOME"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@linux
def test_a_folder_that_cannot_be_written_to_is_told():
    path = files.Path("/sys/kernel/course/file.txt")  # refused to root as well
    with pytest.raises(WriteError, match=r"file\.txt in course/.*written to.*COURSE_HOME"):
        files.write_text(path, "text")
    with pytest.raises(WriteError, match=r"COURSE_HOME"), files.locked(path, "writing"):
        pass


def test_leftovers_of_killed_runs_are_removed_and_those_of_living_ones_kept(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    dead = tmp_path / f"file.txt.{int(gone.stdout)}.tmp"
    alive, foreign = tmp_path / f"file.txt.{os.getppid()}.tmp", tmp_path / "file.txt.my.tmp"
    for path in (dead, alive, foreign):
        path.touch()
    files.write_text(tmp_path / "file.txt", "text")
    assert not dead.exists()
    assert alive.exists()
    assert foreign.exists()


HOLDER = """
import sys, time
from pathlib import Path
from utils import files
with files.locked(Path(sys.argv[1]), "holding"):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_waited_for_and_a_killed_run_leaves_none(tmp_path):
    path = tmp_path / "file.txt"
    command = [sys.executable, "-c", HOLDER, str(path)]
    options = dict(cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **options) as one:
        assert one.stdout.readline() == "holds\n"
        with subprocess.Popen(command, **options) as two:
            assert two.stdout.readline() == "another run is holding: waiting for it\n"
            one.send_signal(signal.SIGKILL)
            assert two.stdout.readline() == "holds\n"
            two.kill()
    with files.locked(path, "holding"):
        pass


def test_a_lock_is_given_back_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), files.locked(tmp_path / "file.txt", "failing"):
            raise KeyError


def test_a_notebook_opened_from_a_copy_elsewhere_finds_library_and_folders(tmp_path):
    source = textwrap.dedent("""
        from pathlib import Path
        from utils import settings
        print(Path.cwd().name, settings.load({}).data_dir, settings.load({}).artifacts_dir)
        """)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    text = notebook.cells[0].outputs[0].text.strip()
    assert text == f"elsewhere {PROJECT / 'data'} {PROJECT / 'artifacts' / 'full'}"
