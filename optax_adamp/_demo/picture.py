"""The picture: test accuracy, weight norm and effective step over training."""

from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp._demo.training import History

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {"Adam": "#0072B2", "SGD": "#D55E00"}
BAND_ALPHA = 0.15
DOTS_PER_INCH = 150


def save(histories: dict[str, History], path: Path) -> None:
    """Draws one line per optimizer, the mean over seeds, in a band of one std."""
    # Neither pyplot nor the user's style: their settings stay as they are, and the
    # picture is the same for all.
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 10 / 3), dpi=DOTS_PER_INCH, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        accuracy, norm, step = figure.subplots(1, 3)
        for name, history in histories.items():
            _draw(accuracy, name, 100 * history.accuracy, first_epoch=1)
            _draw(norm, name, history.norm_growth, first_epoch=0)
            _draw(step, name, history.effective_step, first_epoch=1)
        _label(accuracy, "Test accuracy", "% of the test images")
        _label(norm, "Norm of scale-invariant weights", "relative to the start")
        _label(step, "Effective step", "radians per step")
        step.set_yscale("log")
        _crop(step, [history.effective_step for history in histories.values()])
        _add_legend(figure, accuracy)
        canvas.draw()
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # So few colors need no more than a palette: a third of the bytes.
    pixels.quantize(64).save(
        path, format="png", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH)
    )


def _draw(axes: Axes, name: str, values: np.ndarray, *, first_epoch: int) -> None:
    optimizer = OPTIMIZERS[name]
    color = COLORS[optimizer.family]
    epochs = np.arange(first_epoch, first_epoch + len(values))
    mean = np.mean(values, axis=1)
    axes.plot(
        epochs,
        mean,
        color=color,
        linestyle="-" if optimizer.baseline else "--",
        marker="o" if len(epochs) == 1 else None,  # A line needs two points.
        label=optimizer.label,
    )
    if values.shape[1] > 1:
        std = np.std(values, axis=1, ddof=1)
        axes.fill_between(
            epochs, mean - std, mean + std, color=color, alpha=BAND_ALPHA, linewidth=0
        )


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _crop(axes: Axes, values: list[np.ndarray]) -> None:
    """Leaves out the very end, where the learning rate takes all steps to zero."""
    largest = np.max(values)
    if 0 < largest < np.inf:  # Neither stuck nor diverged.
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-4 * largest))


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if axes.collections:
        handles.append(Patch(color="black", alpha=BAND_ALPHA, linewidth=0))
        labels.append("± one standard deviation over seeds")
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False
    )
