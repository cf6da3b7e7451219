"""Drawing: one style, general charts, and a file of special figures for each notebook."""

from utils.figures.charts import bars, dots, gallery, heat_map, histograms, lines
from utils.figures.explore import explore
from utils.figures.style import FLOAT, GREY, INT8, STYLE, figure, show

__all__ = [
    "FLOAT",
    "GREY",
    "INT8",
    "STYLE",
    "bars",
    "dots",
    "explore",
    "figure",
    "gallery",
    "heat_map",
    "histograms",
    "lines",
    "show",
]
