"""What the demo prints, for a terminal of 80 columns."""

import math
import textwrap
from typing import Any

import jax
import numpy as np
from scipy.special import stdtrit

from optax_adamp._demo.data import Data
from optax_adamp._demo.measures import Shares
from optax_adamp._demo.model import DEPTH
from optax_adamp._demo.optimizers import DELTA, MOMENTUM, OPTIMIZERS
from optax_adamp._demo.training import TIMED_EPOCHS, History
from optax_adamp._trees import format_path, named_leaves

WIDTH = 79


def introduction(
    names: list[str],
    data: Data,
    *,
    epochs: int,
    seeds: int,
    learning_rates: dict[str, float],
    weight_decay: float,
) -> str:
    """What is going to happen, and where: five lines for the usual options."""
    labels = ", ".join(OPTIMIZERS[name].label for name in names)
    families = dict.fromkeys(OPTIMIZERS[name].family for name in names)
    rates = " and ".join(
        f"{learning_rates[family]:g} ({family})" for family in families
    )
    plan = _wrap(
        f"Learning {len(data.train_images):,} images of digits with {labels}: "
        f"{_count(epochs, 'epoch')}, {_count(seeds, 'seed')}, learning rate {rates} "
        f"to 0 on a cosine, momentum {MOMENTUM:g}, weight decay {weight_decay:g}. "
        "Momentum lengthens weights before a BatchNorm, so that steps turn them less. "
        "AdamP and SGDP remove from each step what only lengthens them."
    )
    device = jax.devices()[0]
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return f"{plan}\nDevice: {device.platform}{kind}"


def table(histories: dict[str, History], seconds: dict[str, float], data: Data) -> str:
    """One row per optimizer, and what the columns mean."""
    rows = [
        f"{'':10}{'test accuracy':>16}{'weight norm':>18}{'effective':>14}{'time':>13}",
        f"{'optimizer':10}{'%':>16}{'end / start':>18}{'step':>14}{'per step':>13}",
        "-" * 71,
    ]
    for name, history in histories.items():
        rows.append(
            f"{OPTIMIZERS[name].label:10}"
            f"{_mean_and_std(100 * history.accuracy[-1], 1):>16}"
            f"{_mean_and_std(history.norm_growth[-1], 2):>18}"
            f"{history.effective_step.mean():>14.5f}"
            f"{1e3 * seconds[name]:>10.2f} ms"
        )
    seeds = _seeds(histories)
    diverged = [
        OPTIMIZERS[name].label
        for name, history in histories.items()
        if not np.all(np.isfinite(history.norm_growth))
    ]
    if diverged:
        rows.append(f"Diverged: {', '.join(diverged)}. Try a smaller learning rate.")
    notes = [
        f"test accuracy: after the last epoch, on {len(data.test_images)} images; "
        f"{_over_seeds(seeds)}",
        f"weight norm: of the {DEPTH} kernels before a BatchNorm, whose norm does not "
        f"change what the network computes; mean of their ratios, {_over_seeds(seeds)}",
        "effective step: how far a step turns these weights, |w'/|w'| - w/|w|| per "
        "channel; mean over channels, kernels and all steps",
        f"time per step: one step of training {_count(seeds, 'seed')}, without the "
        f"measurements; median of {TIMED_EPOCHS} epochs after compilation",
    ]
    return "\n".join([*rows, "", *(_wrap(note, indent=2) for note in notes)])


def comparisons(histories: dict[str, History], data: Data) -> str:
    """Whether the accuracies of a pair differ by more than the noise of the seeds."""
    lines: list[str] = []
    for name, history in histories.items():
        optimizer = OPTIMIZERS[name]
        if optimizer.baseline in histories:
            baseline = histories[optimizer.baseline]
            pair = f"{optimizer.label} - {OPTIMIZERS[optimizer.baseline].label}"
            differences = 100 * (history.accuracy[-1] - baseline.accuracy[-1])
            lines.append(f"  {pair:15}{_verdict(differences)}")
    if not lines:
        return ""
    return "\n".join(
        [
            _wrap(
                "Accuracies closer than their standard deviations are no difference. "
                "Pair by pair, in points (one test image is "
                f"{100 / len(data.test_images):.2f}), with the 95 % interval over "
                f"{_count(_seeds(histories), 'seed')}:"
            ),
            *lines,
        ]
    )


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """The mean of paired differences and half the width of its 95 % t-interval."""
    n = len(differences)
    standard_error = np.std(differences, ddof=1) / math.sqrt(n)
    return float(np.mean(differences)), float(stdtrit(n - 1, 0.975) * standard_error)


def projections(histories: dict[str, History], params: Any) -> str:
    """The share of steps at which each parameter was projected, by view."""
    projected = {
        OPTIMIZERS[name].label: history.views
        for name, history in histories.items()
        if OPTIMIZERS[name].baseline
    }
    if not projected:
        return "Projected parameters: none, AdamW and SGD project nothing."
    columns = f"{'channel':>8}{'layer':>7}{'none':>7}"
    rows = [
        f"{'projected, % of steps':34}"
        + "".join(f"{label:^22}" for label in projected).rstrip(),
        f"{'parameter':23}{'shape':11}" + columns * len(projected),
        "-" * (34 + 22 * len(projected)),
    ]
    for names, leaf in named_leaves(params):
        name, shape = format_path(names), leaf.shape[1:]  # The first axis is the seeds.
        row = f"{name:23}{shape!s:11}"
        if len(shape) < 2:
            rows.append(row + "  never: fewer than two axes")
        else:
            rows.append(
                row + "".join(_shares(views[name]) for views in projected.values())
            )
    by_chance = math.erf(DELTA / math.sqrt(2))
    note = _wrap(
        "The last kernel feeds no BatchNorm, and its norm matters. The test passes "
        f"there by chance, as it does for {by_chance:.0%} of random gradients."
    )
    return "\n".join([*rows, "", note])


def _shares(shares: Shares) -> str:
    none = 1 - shares.channel - shares.layer
    return f"{100 * shares.channel:8.1f}{100 * shares.layer:7.1f}{100 * none:7.1f}"


def _verdict(differences: np.ndarray) -> str:
    if len(differences) < 2:
        return f"{differences[0]:+.1f}: one seed tells nothing, take more"
    mean, half_width = paired_interval(differences)
    verdict = (
        "no difference seen"
        if abs(mean) <= half_width
        else "more than the seeds' noise, on one small test set"
    )
    return f"{mean:+.1f} \N{PLUS-MINUS SIGN} {half_width:.1f}: {verdict}"


def _mean_and_std(values: np.ndarray, digits: int) -> str:
    std = f"{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "n/a"
    return f"{np.mean(values):.{digits}f} \N{PLUS-MINUS SIGN} {std}"


def _seeds(histories: dict[str, History]) -> int:
    return next(iter(histories.values())).accuracy.shape[1]


def _over_seeds(seeds: int) -> str:
    if seeds == 1:
        return "of a single seed"
    return f"mean \N{PLUS-MINUS SIGN} standard deviation over {seeds} seeds"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _wrap(text: str, *, indent: int = 0) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent)
