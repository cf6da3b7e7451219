"""Self-checks of the exercises, a file for each notebook: they say what is wrong and where to look.

A check prints one line for a right answer, and raises :class:`Hint` for a wrong one, which Jupyter
shows as one line as well. A cell that was not filled in is not wrong yet, except to a grader.
"""

import os
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
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        raise Hint(message)
    print(message)
    return False


def expect(answer: float, right: float, hints: dict, other: str, within: float = 1e-3) -> None:
    """Compare numbers, ``within`` this relative difference.

    Raises
    ------
    Hint
        The one that ``hints`` has for this wrong number, or ``other``; also for a text.
    """
    if isinstance(answer, str):
        raise Hint(f"{answer!r} is a text: write the number without quotation marks or unit.")
    if not isclose(answer, right, rel_tol=within):
        known = (hint for wrong, hint in hints.items() if isclose(answer, wrong, rel_tol=within))
        raise Hint(next(known, other))


def correct(message: str) -> None:
    """Print that the answer is right, and what follows from it."""
    print(f"Correct. {message}")
