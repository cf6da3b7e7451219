"""Self-checks of the exercises, a file for each notebook: they say what is wrong and where to look.

A check prints one line for a right answer, and raises :class:`Hint` for a wrong one, which Jupyter
shows as one line as well. A cell that was not filled in is not wrong yet, except to a grader.
"""

import functools
import os
from collections.abc import Callable
from math import isclose


class Hint(AssertionError):
    """What is wrong with an answer and what to look at; shown without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


def answered(*answers: object) -> bool:
    """Say whether all answers were filled in; remind of those that are still ``...`` or None.

    Raises
    ------
    Hint
        Instead of the reminder, where nbgrader grades.
    """
    if not any(answer is ... or answer is None for answer in answers):
        return True
    message = "There is no answer yet: replace the ... in the cell above and run it again."
    if not any(answer is ... for answer in answers):
        message = "The answer is None: is it missing, or is a return missing?"
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        raise Hint(message)
    print(message)
    return False


def expect(answer: float, right: float, hints: dict, other: str, within: float = 1e-3) -> None:
    """Compare numbers, ``within`` this relative difference.

    Raises
    ------
    Hint
        The one that ``hints`` has for this wrong number, or ``other``; also for no number.
    """
    try:
        wrong = not isclose(answer, right, rel_tol=within)
    except (TypeError, ValueError, RuntimeError):
        problem = f"{answer!r} is not a number: write it without quotation marks, unit or brackets."
        raise Hint(problem) from None
    if wrong:
        known = (hint for wrong, hint in hints.items() if isclose(answer, wrong, rel_tol=within))
        raise Hint(next(known, other))


def choice(answer: object, *known: str) -> str:
    """Return the known text that is meant; capitals and spaces around it do not matter.

    Raises
    ------
    Hint
        If it is none of them.
    """
    for text in known:
        if str(answer).strip().lower() == text.lower():
            return text
    raise Hint(f"{answer!r} is none of these: {', '.join(known)}.")


def asks(kind: str) -> Callable:
    """Let a check answer whatever is not of this kind with a hint, not with a traceback."""

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def asked(*answers: object) -> None:
            try:
                check(*answers)
            except Hint:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise Hint(f"The answer should be {kind} ({reason}).") from error

        return asked

    return decorate


def correct(message: str) -> None:
    """Print that the answer is right, and what follows from it."""
    print(f"Correct. {message}")
