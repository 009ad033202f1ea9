"""How a picture is saved: in one style, whatever pyplot or the user has set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, VERMILION = "#0072B2", "#D55E00"

WIDTH = 10  # inches
DOTS_PER_INCH = 150
PALETTE = 64  # colors

STYLE: dict[str, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def save(path: Path, height: float, draw: Callable[[Figure], None]) -> None:
    """Draws on a figure of so many inches, and saves it.

    Args:
      path: The file, a PNG whatever its name.
      height: That of the figure, in inches.
      draw: What draws.
    """
    with matplotlib.style.context(["default", STYLE]):
        size = (WIDTH, height)
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        draw(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # So few colors need no more than a palette: a third of the bytes.
    dots_per_inch = (DOTS_PER_INCH, DOTS_PER_INCH)
    pixels.quantize(PALETTE).save(path, format="png", dpi=dots_per_inch)


def add_legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Adds one row below the panels."""
    place = "outside lower center"
    figure.legend(handles, labels, loc=place, ncols=len(labels))
