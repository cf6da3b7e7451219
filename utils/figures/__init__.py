"""Drawing: one style, general charts, and a file of special figures for each notebook."""

from utils.figures.charts import bars, dots, gallery, heat_map, histograms, lines
from utils.figures.explore import explore
from utils.figures.style import (
    ACCENT,
    FLOAT,
    GREY,
    INT8,
    STYLE,
    figure,
    image,
    label,
    legend_below,
    show,
)

__all__ = [
    "ACCENT",
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
    "image",
    "label",
    "legend_below",
    "lines",
    "show",
]
