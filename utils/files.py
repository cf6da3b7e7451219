"""Write files so that a reader never meets half of one, and say plainly when writing fails."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "the folder may not be written to",
    errno.EPERM: "the folder may not be written to",
}


class WriteError(OSError):
    """A file could not be written; the message says why and what to do. Nothing was changed."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Write under a temporary name beside ``path``, then rename.

    Whoever reads ``path`` finds the old file or the new one, also after a kill at any moment.

    Parameters
    ----------
    path : Path
        Its folder is made if missing.
    write : callable
        Writes the file whose path it is given.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    WriteError
        If the disk is full or the folder cannot be written to; a file that was there stays.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            write(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a read-only folder holds no temporary file either
            temporary.unlink(missing_ok=True)
    return path


def _remove_leftovers(path: Path) -> None:
    """Delete what runs that were killed while they wrote this file have left behind."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        pid = leftover.name.removeprefix(f"{path.name}.").removesuffix(".tmp")
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = REASONS.get(error.errno)
        if reason is None:
            raise
        raise WriteError(
            f"cannot write {path.name} in {path.parent.name}/: {reason}. Free some space, or set "
            f"COURSE_HOME to a folder elsewhere that can be written to, and run again."
        ) from error


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time make ``path``; a second one says so, waits, and goes on after it.

    The operating system holds the lock, so that a run that is killed leaves none behind.

    Parameters
    ----------
    path : Path
        What is made; the lock is an empty file beside it.
    doing : str
        What the other run does, for the line that a waiting one prints.

    Raises
    ------
    WriteError
        If the folder cannot be written to.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another run is {doing}: waiting for it", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text; see :func:`write_atomically`."""
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
