"""Write files so that a reader never meets half of one, and say plainly when writing fails."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

# The disk or the quota is full, or the folder may not be written to.
EXPLAINED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class WriteError(OSError):
    """A file could not be written; the message says why and what to do. Nothing was changed."""


@contextlib.contextmanager
def _in_folder_of(path: Path) -> Iterator[None]:
    """Make the folder, and turn an operating system's error in this block into a WriteError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in EXPLAINED:
            raise
        raise WriteError(
            f"cannot write {path.name} in {path.parent.name}/: {os.strerror(error.errno)}. Free "
            "space, or set COURSE_HOME to a folder elsewhere that can be written to, and run again."
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` write under a temporary name beside ``path``, then rename; return ``path``.

    A reader finds the old file or the new one, even after a kill at any moment. A missing folder is
    made. Raises WriteError if the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with _in_folder_of(path):
            for leftover in path.parent.glob(f"{path.name}.*.tmp"):  # of runs that were killed
                pid = leftover.name.removeprefix(f"{path.name}.").removesuffix(".tmp")
                if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                    leftover.unlink(missing_ok=True)
            write(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a read-only folder holds no temporary file either
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text; see :func:`write_atomically`."""
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def save_atomically(state: object, path: Path) -> None:
    """Write with ``torch.save``; see :func:`write_atomically`."""
    import torch  # takes seconds

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, torch hides why writing failed
            torch.save(state, file)

    write_atomically(path, write)


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time make ``path``; a second one prints ``doing``, and waits for it.

    The operating system holds the lock, so that a run that is killed leaves none behind. Raises
    WriteError if the folder cannot be written to.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with _in_folder_of(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another run is {doing}: waiting for it", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
