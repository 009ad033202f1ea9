"""The picture: accuracy by learning rate and step, and what norms and steps become."""

from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from optax_adamp._demo import report
from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp._demo.training import History

# Of Okabe and Ito's palette, which colour-blind readers can tell apart. A baseline has
# the color of its projected counterpart, a dashed line and open marks.
COLORS = {"adamw": "#0072B2", "adamp": "#0072B2", "sgd": "#D55E00", "sgdp": "#D55E00"}

SIZE = (10, 6.5)  # inches
DOTS_PER_INCH = 150
PALETTE = 128  # colors

STYLE: dict[str, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def save(histories: dict[str, History], path: Path) -> None:
    """Draws in one style, whatever pyplot or the user has set, and saves a PNG."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained")
        draw(figure, histories)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # So few colors need no more than a palette: a third of the bytes.
    dots_per_inch = (DOTS_PER_INCH, DOTS_PER_INCH)
    pixels.quantize(PALETTE).save(path, format="png", dpi=dots_per_inch)


def draw(figure: Figure, histories: dict[str, History]) -> None:
    """Draws one line per optimizer in each of four panels."""
    (by_rate, by_step), (norm, step) = figure.subplots(2, 2)
    by_step.sharey(by_rate)
    at_rate: dict[float, list[str]] = {}
    for place, (name, history) in enumerate(histories.items()):
        label, rates = OPTIMIZERS[name].label, OPTIMIZERS[name].rates
        # Not quite at the rate, so that no interval hides another.
        beside = 1.03 ** (2 * place - len(histories) + 1)
        _draw_accuracy(by_rate, name, beside * np.array(rates), history)
        _draw_accuracy(by_step, name, history.effective_step.mean(axis=(0, 2)), history)
        middle = len(rates) // 2
        at_rate.setdefault(rates[middle], []).append(label)
        _draw_training(norm, name, history.norm_growth[:, middle], first_epoch=0)
        _draw_training(step, name, history.effective_step[:, middle], first_epoch=1)
    accuracy = "% of test images, 95 % intervals"
    who = [f"{' and '.join(who)} at {rate:g}" for rate, who in at_rate.items()]
    epoch = f"epoch ({', '.join(who)})"
    _label(by_rate, "Test accuracy by learning rate", "learning rate", accuracy)
    _label(
        by_step, "Test accuracy by effective step", "mean over the training", accuracy
    )
    _label(norm, "Norm of weights before BatchNorm", epoch, "relative to the start")
    _label(step, "Effective step", epoch, "distance on the unit sphere")
    handles, labels = norm.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_accuracy(axes: Axes, name: str, x: np.ndarray, history: History) -> None:
    means, half_widths = np.transpose(
        [report.interval(100 * seeds) for seeds in history.test.accuracy]
    )
    seen = np.isfinite(x)  # There is no effective step once weights are no numbers.
    axes.errorbar(
        x[seen], means[seen], half_widths[seen], capsize=2, **_style(name, marker="o")
    )
    if np.any(x[seen] > 0):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_training(
    axes: Axes, name: str, values: np.ndarray, *, first_epoch: int
) -> None:
    epochs = np.arange(first_epoch, first_epoch + len(values))
    means = values.mean(axis=1)
    # A line needs two points.
    axes.plot(epochs, means, **_style(name, marker="o" if len(epochs) == 1 else ""))
    if first_epoch and np.any(means > 0):  # A step, which falls with the rate.
        axes.set_yscale("log")


def _style(name: str, *, marker: str) -> dict[str, Any]:
    projected = OPTIMIZERS[name].baseline is not None
    return {
        "label": OPTIMIZERS[name].label,
        "color": COLORS[name],
        "linestyle": "-" if projected else "--",
        # Neither hides the other: the dashed line lies above the solid and paler one.
        "linewidth": 2.5 if projected else 1.5,
        "alpha": 0.6 if projected else 1,
        "zorder": 2 if projected else 3,
        "marker": marker,
        "markerfacecolor": COLORS[name] if projected else "white",
    }


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid()
