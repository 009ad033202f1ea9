"""The pictures of right and wrong axes: who is projected, and what becomes of it."""

from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from optax_adamp._demo.layout_curves import METRICS
from optax_adamp._demo.layout_trap import (
    COMPARED,
    Leaf,
    known_shares,
    mean_shares,
)

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {"channel": "#0072B2", "layer": "#E69F00", "none": "#DDDDDD"}
LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-"))
LABELS = {
    "channel": "projected channel by channel",
    "layer": "projected as one layer",
    "none": "not projected",
}


def save_shares(trained: dict[str, list[Leaf]], path: Path) -> None:
    """Draws one panel a network: a bar for each way to take the axes."""
    # Neither pyplot nor the user's style: their settings stay as they are.
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 2.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(trained), sharey=True)
        for axes, (name, leaves) in zip(panels, trained.items(), strict=True):
            _draw(axes, name, leaves)
        panels[0].invert_yaxis()  # The panels share it.
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False
        )
        figure.savefig(path, format="png")


def save_curves(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draws one panel a metric, with a line for each optimizer."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 2.8), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        panels = dict(zip(METRICS, figure.subplots(1, len(METRICS)), strict=True))
        for (title, metrics), (color, style) in zip(curves.items(), LINES, strict=True):
            for metric, values in metrics.items():
                panels[metric].plot(
                    values, color=color, linestyle=style, label=title, linewidth=1.5
                )
        for metric, axes in panels.items():
            axes.set_title(METRICS[metric], loc="left", fontsize="medium")
            axes.set_xlabel("step")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        panels["channel_cosine"].set_yscale("log")
        panels["channel_cosine"].axhline(1, color="black", linewidth=0.8)
        panels["channel_step"].set_yscale("log")
        handles, labels = panels["weight_norm"].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False
        )
        figure.savefig(path, format="png")


def _draw(axes: Axes, name: str, leaves: list[Leaf]) -> None:
    shares = {title: mean_shares(leaves, field) for field, title in COMPARED.items()}
    shares["scale-invariant by construction"] = known_shares(leaves)
    left = [0.0] * len(shares)
    for view, color in COLORS.items():
        widths = [100 * getattr(share, view) for share in shares.values()]
        bars = axes.barh(
            list(shares), widths, left=left, color=color, label=LABELS[view]
        )
        texts = [f"{width:.0f} %" if width >= 4 else "" for width in widths]
        axes.bar_label(bars, texts, label_type="center", fontsize="small")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_title(name, loc="left", fontsize="medium", fontweight="bold")
    axes.set_xlabel(f"% of {len(leaves)} parameters with two axes or more, all steps")
    axes.spines[["top", "right"]].set_visible(False)
