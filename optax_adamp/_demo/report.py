"""What the demo prints, for a terminal of 80 columns."""

import math
import textwrap

import jax
import numpy as np
from scipy.special import stdtrit

from optax_adamp._demo.data import Data
from optax_adamp._demo.optimizers import MOMENTUM, OPTIMIZERS
from optax_adamp._demo.training import History

WIDTH = 79
NEAR = 5  # Points of accuracy below the best that a learning rate may be to be counted.


def introduction(names: list[str], data: Data, *, epochs: int, seeds: int) -> str:
    """What is going to happen, and where: a few lines."""
    labels = ", ".join(OPTIMIZERS[name].label for name in names)
    rates = len(OPTIMIZERS[names[0]].rates)
    plan = _wrap(
        f"Learning {len(data.train.labels):,} images of digits in clutter with {labels}"
        f": {rates} learning rates, {_count(seeds, 'seed')}, "
        f"{_count(epochs, 'epoch')}. Each rate falls to 0 on a cosine; momentum "
        f"{MOMENTUM:g}, no weight decay. Momentum lengthens weights before a "
        "BatchNorm, so that steps turn them less. AdamP and SGDP remove from each step "
        "what only lengthens them."
    )
    device = jax.devices()[0]
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return f"{plan}\nDevice: {device.platform}{kind}"


def table(histories: dict[str, History], data: Data) -> str:
    """One row per optimizer and learning rate, and what the columns mean."""
    rows = [
        f"{'':10}{'learning':>8}{'test accuracy':>16}{'negative':>17}{'norm':>9}"
        f"{'effective':>12}",
        f"{'optimizer':10}{'rate':>8}{'%':>16}{'log-likelihood':>17}{'growth':>9}"
        f"{'step':>12}",
        "-" * 72,
    ]
    for name, history in histories.items():
        for index, rate in enumerate(OPTIMIZERS[name].rates):
            rows.append(
                f"{OPTIMIZERS[name].label:10}{rate:8g}"
                f"{'*' if index == best_rate(history) else ' '}"
                f"{_interval(100 * history.test.accuracy[index], 1):>15}"
                f"{_interval(history.test.loss[index], 3):>17}"
                f"{history.norm_growth[-1, index].mean():>9.2f}"
                f"{history.effective_step[:, index].mean():>12.5f}"
            )
        rows.append("")
    seeds = next(iter(histories.values())).test.accuracy.shape[1]
    over_seeds = (
        "of a single seed"
        if seeds == 1
        else f"mean and 95 % interval over {seeds} seeds"
    )
    notes = [
        f"*: the rate with the best accuracy on {len(data.validation.labels):,} "
        "validation images, which are neither trained nor tested on",
        f"test accuracy, negative log-likelihood: on {len(data.test.labels):,} images; "
        f"{over_seeds}",
        "norm growth: of the kernels before a BatchNorm, whose norm does not change "
        "what the network computes; end over start",
        "effective step: how far a step turns these kernels, |w'/|w'| - w/|w|| per "
        "channel; mean over channels, kernels and all steps",
    ]
    return "\n".join([*rows, *(_wrap(note, indent=2) for note in notes)])


def comparisons(histories: dict[str, History]) -> str:
    """Pair by pair, whether test accuracies differ by more than the seeds' noise."""
    parts: list[str] = []
    for name, history in histories.items():
        optimizer = OPTIMIZERS[name]
        if optimizer.baseline not in histories:
            continue
        baseline = histories[optimizer.baseline]
        label = OPTIMIZERS[optimizer.baseline].label
        ours, theirs = (100 * run.test.accuracy for run in (history, baseline))
        mine, other = best_rate(history), best_rate(baseline)
        rates = optimizer.rates
        bar = max(ours.mean(axis=1).max(), theirs.mean(axis=1).max()) - NEAR
        lines = [
            f"{optimizer.label} - {label}, points of test accuracy, paired by seed:",
            f"  each at its rate *, {rates[mine]:g} and {rates[other]:g}: "
            f"{verdict(ours[mine] - theirs[other])}",
            *(
                f"  both at {rate:g}: {verdict(ours[index] - theirs[index])}"
                for index, rate in enumerate(rates)
            ),
            f"  rates within {NEAR} points of the best of both: {optimizer.label} "
            f"{_near(ours, bar)} of {len(rates)}, {label} {_near(theirs, bar)}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def best_rate(history: History) -> int:
    """The place of the rate with the best accuracy on the validation images."""
    return int(np.argmax(history.validation.accuracy.mean(axis=1)))


def verdict(differences: np.ndarray) -> str:
    """The mean of paired differences, its interval, and what they say."""
    mean, half_width = interval(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}: one seed tells nothing, take more"
    words = "no difference seen"
    if abs(mean) > half_width:
        words = "better" if mean > 0 else "worse"
    return f"{mean:+.1f} \N{PLUS-MINUS SIGN} {half_width:.1f}, {words}"


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean of one value per seed, and half the width of its 95 % t-interval."""
    n = len(values)
    if n == 1:
        return float(values[0]), math.nan
    standard_error = np.std(values, ddof=1) / math.sqrt(n)
    return float(np.mean(values)), float(stdtrit(n - 1, 0.975) * standard_error)


def _interval(values: np.ndarray, digits: int) -> str:
    mean, half_width = interval(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} \N{PLUS-MINUS SIGN} {half_width:.{digits}f}"


def _near(accuracies: np.ndarray, bar: float) -> int:
    return int(np.sum(accuracies.mean(axis=1) >= bar))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _wrap(text: str, *, indent: int = 0) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent)
