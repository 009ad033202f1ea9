"""The picture: test accuracy, weight norm and effective step over training."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from optax_adamp._demo import figures
from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp._demo.training import History

COLORS = {"Adam": figures.BLUE, "SGD": figures.VERMILION}
BAND_ALPHA = 0.15
HEIGHT = 10 / 3  # inches


def save(histories: dict[str, History], path: Path) -> None:
    """Draws one line per optimizer, the mean over seeds, in a band of one std."""
    figures.save(path, HEIGHT, lambda figure: draw(figure, histories))


def draw(figure: Figure, histories: dict[str, History]) -> None:
    """Draws it on a figure."""
    accuracy, norm, step = figure.subplots(1, 3)
    for name, history in histories.items():
        _draw(accuracy, name, 100 * history.accuracy, first_epoch=1)
        _draw(norm, name, history.norm_growth, first_epoch=0)
        _draw(step, name, history.effective_step, first_epoch=1)
    _label(accuracy, "Test accuracy", "% of the test images")
    _label(norm, "Norm of scale-invariant weights", "relative to the start")
    _label(step, "Effective step", "radians per step")
    _scale(step, [history.effective_step for history in histories.values()])
    _add_legend(figure, accuracy)


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
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()


def _scale(axes: Axes, values: list[np.ndarray]) -> None:
    """Takes logarithms, if there is anything to take them of.

    Leaves out the very end, where the learning rate takes all steps to zero.
    """
    largest = np.max(values, where=np.isfinite(values), initial=0)
    if largest > 0:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-4 * largest))


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if axes.collections:
        handles.append(Patch(color="black", alpha=BAND_ALPHA, linewidth=0))
        labels.append("± one standard deviation over seeds")
    figures.add_legend(figure, handles, labels)
