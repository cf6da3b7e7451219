"""Sliders over a figure in a notebook that a person has open, the figure alone anywhere else."""

from collections.abc import Callable

import ipywidgets

from utils import settings
from utils.figures.style import show


def explore(draw: Callable, **choices: list | tuple) -> ipywidgets.VBox | None:
    """Let the reader choose a figure's arguments; this is the last expression of a cell.

    It returns sliders above the figure in a live notebook (see :class:`utils.settings.Settings`).
    Anywhere else it shows the figure as it starts, and returns None.

    Parameters
    ----------
    draw : callable
        Takes one keyword argument for each choice, and returns a figure and its alt text.
    **choices : list, or (start, lowest, highest, step)
        The values of an argument, of which the first is the start; or the numbers of a slider,
        which has two ends if its start is a pair.
    """
    if not settings.load().live:
        return show(*draw(**{name: choice[0] for name, choice in choices.items()}))
    sliders = {name: _slider(name, choice) for name, choice in choices.items()}
    figure = ipywidgets.interactive_output(lambda **chosen: show(*draw(**chosen)), sliders)
    return ipywidgets.VBox([*sliders.values(), figure])


def _slider(name: str, choice: list | tuple) -> ipywidgets.Widget:
    look = {"description": name.replace("_", " "), "continuous_update": False}
    if isinstance(choice, list):
        return ipywidgets.SelectionSlider(options=choice, **look)
    start, low, high, step = choice
    kind = "Int" if isinstance(step, int) else "Float"
    made = getattr(ipywidgets, f"{kind}{'Range' * isinstance(start, tuple)}Slider")
    return made(value=start, min=low, max=high, step=step, **look)
