"""Call functions in a child process, so that one that hangs or crashes costs only itself."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from unittest import mock

from pebble import ProcessExpired, ProcessPool


class Outcome(NamedTuple):
    """What became of one call: the value, or the problem in words (``ended by SIGSEGV``)."""

    value: object = None
    problem: str | None = None


def call_each(
    function: Callable,
    calls: Iterable[tuple],
    *,
    seconds: float,
    fresh: bool = False,
    environ: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Call a function that can be pickled once for each tuple of arguments, in a child process.

    A child that overruns ``seconds`` is killed (its start does not count), and a crash is noticed.
    The next call then gets a new child, and so does every call if ``fresh``. ``environ`` is added
    to the environment of the children.
    """
    # A forked child would inherit torch's thread pools in an unusable state, so it is spawned.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(1, max_tasks=int(fresh), initializer=_silence, context=context)
    try:
        with mock.patch.dict(os.environ, environ or {}):  # each child starts with a copy
            futures = [pool.schedule(function, args=call, timeout=seconds) for call in calls]
            errors = [future.exception() for future in futures]
    finally:
        pool.stop()
        pool.join()
    return [
        Outcome(future.result()) if error is None else Outcome(problem=_words(error, seconds))
        for future, error in zip(futures, errors, strict=True)
    ]


def _silence() -> None:
    """Keep what a dying kernel writes to stderr out of a notebook; the outcome says enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _words(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"not done after {seconds:g} s"
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        return f"ended {f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'}"
    return f"{type(error).__name__}: {error}"
