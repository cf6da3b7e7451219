"""Write files so that a reader never meets half of one, and say plainly when writing fails."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

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
        Writes the file whose path it is given, for instance ``lambda p: torch.save(state, p)``.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = REASONS.get(getattr(error, "errno", None))
        if reason is None and "inline_container" in str(error):  # how torch.save says it
            reason = REASONS[errno.ENOSPC]
        if reason is None:
            raise
        raise WriteError(
            f"cannot write {path.name} in {path.parent.name}/: {reason}. Free some space, or set "
            f"COURSE_HOME to a folder elsewhere that can be written to, and run again."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only folder holds no temporary file either
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text; see :func:`write_atomically`."""
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
