"""Call functions in a child process, so that one that hangs or crashes costs only itself."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from unittest import mock

START_SECONDS = 120  # a child first imports torch, on a cold disk
GRACE_SECONDS = 5  # for a child that is asked to end


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its value, or the problem in words.

    Attributes
    ----------
    value : object
        What the function returned; None if it did not.
    problem : str or None
        ``not done after 5 s``, ``ended by SIGSEGV``, ``ValueError: ...``; None if it returned.
    """

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
    """Call a function once for each tuple of arguments, in a child process.

    A child that overruns the limit is killed, one that crashes is noticed; either way a new child
    goes on with the next call.

    Parameters
    ----------
    function : callable
        Of a module, so that a new process can import it; arguments and value must be picklable.
    calls : iterable of tuple
        Arguments of each call.
    seconds : float
        Limit of each call; the start of a child does not count.
    fresh : bool
        Whether each call gets a child of its own.
    environ : mapping, optional
        Environment variables that the children get in addition.

    Returns
    -------
    list of Outcome
        In the order of ``calls``.

    Raises
    ------
    ValueError
        If ``seconds`` is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"seconds={seconds}: the limit must be positive")
    outcomes, child = [], None
    try:
        for arguments in calls:
            if child is None:
                child = _Child(function, environ or {})
            outcomes.append(child.call(arguments, seconds))
            if fresh or not child.usable:
                child.end()
                child = None
    finally:
        if child is not None:
            child.end()
    return outcomes


class _Child:
    def __init__(self, function: Callable, environ: Mapping[str, str]):
        # spawn, never fork: a fork would inherit torch's thread pools in an unusable state, and
        # the parent's memory.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        with mock.patch.dict(os.environ, environ):  # of which a child starts with a copy
            self.process.start()
        theirs.close()
        self.usable = self.started = False

    def call(self, arguments: tuple, seconds: float) -> Outcome:
        self.usable = False
        try:
            if not self.started:
                if not self.pipe.poll(START_SECONDS):
                    return Outcome(problem=f"the process did not start in {START_SECONDS} s")
                self.pipe.recv()
                self.started = True
            self.pipe.send(arguments)
            if not self.pipe.poll(seconds):
                return Outcome(problem=f"not done after {seconds:g} s")
            outcome = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return Outcome(problem=_exit(self.process.exitcode))
        self.usable = True
        return outcome

    def end(self) -> None:
        self.pipe.close()  # which an idle child takes for the end
        if self.usable:
            self.process.join(GRACE_SECONDS)
        self.process.kill()
        self.process.join()


def _serve(function: Callable, pipe) -> None:
    # What a dying kernel writes to stderr would end up in a notebook; its exit says enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(Outcome(function(*arguments)))
        except Exception as error:  # reported to the parent, whatever it is
            pipe.send(Outcome(problem=f"{type(error).__name__}: {error}"))


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            pass
    return f"ended with exit code {code}"
