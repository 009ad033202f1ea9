"""The pictures of right and wrong axes: who is projected, and what becomes of it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optax_adamp._demo import figures
from optax_adamp._demo.figures import BLUE, GREEN, ORANGE, VERMILION
from optax_adamp._demo.layout_curves import METRICS
from optax_adamp._demo.layout_trap import (
    COMPARED,
    Leaf,
    known_shares,
    mean_shares,
)

HEIGHT = 2.8  # inches
COLORS = {"channel": BLUE, "layer": ORANGE, "none": "#DDDDDD"}
LABELS = {
    "channel": "projected channel by channel",
    "layer": "projected as one layer",
    "none": "not projected",
}
LEGIBLE = 4  # %: into a shorter bar goes no text.
LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-"))


def save_shares(trained: dict[str, list[Leaf]], path: Path) -> None:
    """Draws one panel a network: a bar for each way to take the axes."""
    figures.save(path, HEIGHT, lambda figure: draw_shares(figure, trained))


def save_curves(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draws one panel a metric, with a line for each optimizer."""
    figures.save(path, HEIGHT, lambda figure: draw_curves(figure, curves))


def draw_shares(figure: Figure, trained: dict[str, list[Leaf]]) -> None:
    """Draws the shares on a figure."""
    panels = figure.subplots(1, len(trained), sharey=True)
    for axes, (name, leaves) in zip(panels, trained.items(), strict=True):
        _draw_bars(axes, name, leaves)
    panels[0].invert_yaxis()  # The panels share it.
    figures.add_legend(figure, *panels[0].get_legend_handles_labels())


def draw_curves(figure: Figure, curves: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws the curves on a figure."""
    panels = dict(zip(METRICS, figure.subplots(1, len(METRICS)), strict=True))
    for (title, metrics), (color, style) in zip(curves.items(), LINES, strict=True):
        for metric, values in metrics.items():
            panels[metric].plot(values, color=color, linestyle=style, label=title)
    for metric, axes in panels.items():
        axes.set_title(METRICS[metric])
        axes.set_xlabel("step")
        axes.grid()
    panels["channel_cosine"].set_yscale("log")
    panels["channel_cosine"].axhline(1, color="black", linewidth=0.8)
    panels["channel_step"].set_yscale("log")
    figures.add_legend(figure, *panels["weight_norm"].get_legend_handles_labels())


def _draw_bars(axes: Axes, name: str, leaves: list[Leaf]) -> None:
    shares = {title: mean_shares(leaves, field) for field, title in COMPARED.items()}
    shares["scale-invariant by construction"] = known_shares(leaves)
    left = [0.0] * len(shares)
    for view, color in COLORS.items():
        widths = [100 * getattr(share, view) for share in shares.values()]
        bars = axes.barh(
            list(shares), widths, left=left, color=color, label=LABELS[view]
        )
        texts = [f"{width:.0f} %" if width >= LEGIBLE else "" for width in widths]
        axes.bar_label(bars, texts, label_type="center", fontsize="small")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_title(name)
    axes.set_xlabel(f"% of {len(leaves)} parameters with two axes or more, all steps")
