"""What the notebooks share: a fair comparison of optimizers, its table, two pictures.

A notebook brings `train(make, learning_rate, weight_decay, seed)`, which trains once
and returns a dict of arrays. `tune` runs it on a grid and looks at its `validation`
score; `repeat` runs it from fresh seeds, and `compare` looks at their `test` scores.
"""

import datetime
import functools
import math
import operator
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import scipy.stats
from IPython import get_ipython
from IPython.display import display
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from summary import RESULT_TYPE

# A short look at the code: far too little training for a result.
QUICK = os.environ.get("OPTAX_ADAMP_QUICK") == "1"

# A colour for each optimizer, the same everywhere; a baseline and its projected
# counterpart share one. The first of them are Okabe and Ito's, the rest Tol's and a
# brown: colour-blind readers can tell all apart. Black is for what is none of these.
COLORS = {
    "SGD": "#D55E00",
    "SGDP": "#D55E00",
    "Adam": "#009E73",
    "AdamW": "#0072B2",
    "AdamP": "#0072B2",
    "Decay on v": "#E69F00",
    "Fixed norms": "#CC79A7",
    "Lion": "#56B4E9",
    "Muon": "#661100",
    "AdaBelief": "#332288",
    "Yogi": "#882255",
    "Schedule-free": "#DDCC77",
}

_STARTED = time.monotonic()

Make = Callable[[Any, Any], optax.GradientTransformation]
Train = Callable[..., dict[str, Any]]


class Candidate(NamedTuple):
    """An optimizer, and the grid that its tuning may search."""

    make: Make  # from learning rate and weight decay, both of them traced arrays
    learning_rates: Sequence[float]
    weight_decays: Sequence[float]


class Choice(NamedTuple):
    """What tuning found."""

    learning_rate: float
    weight_decay: float


def setup() -> None:
    """Says what this notebook runs on, and makes figures sharp and readable."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )
    mode = "quick mode: nothing here is a result" if QUICK else "full mode"
    print(f"{hardware()}; jax {jax.__version__}; {datetime.date.today()}; {mode}")


def hardware() -> str:
    """The device that JAX uses, by name."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} {device.device_kind}"
    return f"{os.cpu_count()} CPU cores, {_cpu_name()}"


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


class Split(NamedTuple):
    """Images of shape (count, 8, 8, 1) with values from 0 to 1, and their digits."""

    images: np.ndarray
    labels: np.ndarray


def digits() -> tuple[Split, Split, Split]:
    """Scikit-learn's handwritten digits: 1000 to train, 297 to validate, 500 to test.

    The same split for every notebook, with all digits in every part.
    """
    pixels, targets = load_digits(return_X_y=True)
    images = np.asarray(pixels / 16, np.float32).reshape(-1, 8, 8, 1)
    labels = np.asarray(targets, np.int32)
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=500, stratify=labels, random_state=0
    )
    train, validation = train_test_split(
        rest, test_size=297, stratify=labels[rest], random_state=0
    )
    parts = [Split(images[part], labels[part]) for part in (train, validation, test)]
    return parts[0], parts[1], parts[2]


def convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, as a matrix product where that is faster.

    Inside `scan` and under `vmap` XLA's convolutions are some twenty times slower on a
    CPU than the product of the windows with the kernel. For `nnx.Conv` and `nn.Conv`:
    pass it as `conv_general_dilated`.
    """
    plain = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if jax.default_backend() != "cpu" or feature_group_count != 1 or not plain:
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            **options,
        )
    window = kernel.shape[:-2]
    if isinstance(padding, str):
        space = inputs.shape[1:-1]
        padding = jax.lax.padtype_to_pads(space, window, window_strides, padding)
    inputs = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    sizes = [
        (size - width) // stride + 1
        for size, width, stride in zip(
            inputs.shape[1:-1], window, window_strides, strict=True
        )
    ]

    def shifted(offsets: tuple[int, ...]) -> jax.Array:
        where = tuple(
            slice(offset, offset + stride * (size - 1) + 1, stride)
            for offset, stride, size in zip(offsets, window_strides, sizes, strict=True)
        )
        return inputs[(slice(None), *where)]

    windows = jnp.concatenate([shifted(at) for at in np.ndindex(*window)], axis=-1)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def tune(
    train: Train,
    candidates: Mapping[str, Candidate],
    *,
    seeds: Iterable[int] = (1000,),
    at_once: int | None = None,
    score: Callable[[dict[str, Any]], Any] = operator.itemgetter("validation"),
    data: Any = None,
    climb: bool = False,
) -> dict[str, Choice]:
    """The setting of each candidate's grid with the best mean `validation` score.

    Args:
      train: Trains once; higher scores are better. It must not look at test data for
        anything but its `test` score, which is not read here.
      candidates: The optimizers by name.
      seeds: Every setting runs from each of them. `repeat` needs others.
      at_once: How many runs share a program, by `vmap`. By default one on a CPU, and
        all elsewhere.
      score: From what `train` returned, as NumPy arrays, to the validation score; for
        one that JAX cannot compute.
      data: Arrays that `train` gets as a last argument, if any. Those of some megabytes
        that it takes from around it become constants, which are slow to compile.
      climb: Whether to begin with the middle of the grid and its four neighbours, and
        go on to those of the best until none is better, rather than to try all.

    Returns:
      The choices. What was tried is shown as a table, with a mark where the best lies
      on an edge of three or more values.
    """
    seeds = list(seeds)
    choices, rows = {}, []
    for name, candidate in candidates.items():
        means: dict[tuple[int, int], float] = {}  # by the places in the two lists
        new = _first(candidate, climb=climb)
        while new:
            runs = [(*_setting(candidate, at), seed) for at in new for seed in seeds]
            results = _run(train, candidate.make, runs, f"Tuning {name}", at_once, data)
            each = (
                jax.tree.map(operator.itemgetter(run), results)
                for run in range(len(runs))
            )
            scores = np.array([score(result) for result in each])
            # A run that diverged is worse than any other.
            scores = np.nan_to_num(scores, nan=-np.inf).reshape(len(new), len(seeds))
            means |= dict(zip(new, scores.mean(axis=1), strict=True))
            around = _neighbours(candidate, max(means, key=means.__getitem__))
            new = [at for at in around if at not in means] if climb else []
        best = _setting(candidate, max(means, key=means.__getitem__))
        choices[name] = best
        finite = [mean for mean in means.values() if math.isfinite(mean)]
        edge = [
            label
            for label, value, values in (
                ("rate", best.learning_rate, candidate.learning_rates),
                ("decay", best.weight_decay, candidate.weight_decays),
            )
            if len(values) > 2 and value in (min(values), max(values))
        ]
        rows.append(
            {
                "optimizer": name,
                "learning rates": _listed(candidate.learning_rates),
                "weight decays": _listed(candidate.weight_decays),
                "best rate": f"{best.learning_rate:g}",
                "best decay": f"{best.weight_decay:g}",
                "validation": f"{max(finite):.2f}",
                "settings tried": len(means),
                "their range": f"{min(finite):.2f} to {max(finite):.2f}",
                "at the edge": ", ".join(edge),
            }
        )
    _show(pd.DataFrame(rows))
    return choices


def _setting(candidate: Candidate, at: tuple[int, int]) -> Choice:
    rate, decay = at
    return Choice(candidate.learning_rates[rate], candidate.weight_decays[decay])


def _first(candidate: Candidate, *, climb: bool) -> list[tuple[int, int]]:
    """The places in the grid that tuning begins with."""
    rates, decays = len(candidate.learning_rates), len(candidate.weight_decays)
    if not climb:
        return [(rate, decay) for rate in range(rates) for decay in range(decays)]
    middle = (rates // 2, decays // 2)
    return [middle, *_neighbours(candidate, middle)]


def _neighbours(candidate: Candidate, at: tuple[int, int]) -> list[tuple[int, int]]:
    rate, decay = at
    around = [
        (rate - 1, decay),
        (rate + 1, decay),
        (rate, decay - 1),
        (rate, decay + 1),
    ]
    rates, decays = len(candidate.learning_rates), len(candidate.weight_decays)
    return [(r, d) for r, d in around if 0 <= r < rates and 0 <= d < decays]


def repeat(
    train: Train,
    candidates: Mapping[str, Candidate],
    choices: Mapping[str, Choice],
    *,
    seeds: Iterable[int],
    at_once: int | None = None,
    data: Any = None,
) -> dict[str, dict[str, Any]]:
    """Trains every candidate with its choice, from each of the seeds, as `tune` does.

    Returns:
      What `train` returned, as NumPy arrays with the seeds along the first axis.
    """
    seeds = list(seeds)
    return {
        name: _run(
            train,
            candidates[name].make,
            [(*choice, seed) for seed in seeds],
            name,
            at_once,
            data,
        )
        for name, choice in choices.items()
    }


@functools.cache
def _program(train: Train, make: Make) -> Callable[..., dict[str, Any]]:
    """One program serves tuning and testing: to compile it takes longer than a run."""
    # LLVM's further passes take three times as long and gain nothing here. A quick
    # look has not even enough steps for the first of them.
    options = {"xla_backend_optimization_level": 0 if QUICK else 1}

    def run(rate: jax.Array, decay: jax.Array, seed: jax.Array, data: Any) -> Any:
        return train(make, rate, decay, seed, *(() if data is None else (data,)))

    return jax.jit(
        jax.vmap(run, in_axes=(0, 0, 0, None)),
        compiler_options=options if jax.default_backend() == "cpu" else None,
    )


def _run(
    train: Train,
    make: Make,
    runs: Sequence[tuple[float, float, int]],
    label: str,
    at_once: int | None,
    data: Any,
) -> dict[str, Any]:
    """All runs, some at once: by `vmap`, and on a CPU in two threads."""
    on_cpu = jax.default_backend() == "cpu"
    size = at_once or (1 if on_cpu else len(runs))
    padded = list(runs) + [runs[-1]] * (-len(runs) % size)
    chunks = [padded[at : at + size] for at in range(0, len(padded), size)]
    program = _program(train, make)
    data = jax.device_put(data)

    def call(chunk: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
        rates, decays, seeds = zip(*chunk, strict=True)
        return jax.device_get(
            program(
                jnp.asarray(rates, jnp.float32),
                jnp.asarray(decays, jnp.float32),
                jnp.asarray(seeds, jnp.int32),
                data,
            )
        )

    def results() -> Iterable[dict[str, Any]]:
        yield call(chunks[0])  # It compiles, once.
        with ThreadPoolExecutor(2 if on_cpu else 1) as threads:
            yield from threads.map(call, chunks[1:])

    parts = list(tqdm(results(), desc=label, total=len(chunks), mininterval=1))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[: len(runs)], *parts)


def compare(
    results: Mapping[str, Mapping[str, np.ndarray]],
    pairs: Mapping[tuple[str, str], str],
    *,
    experiment: str,
    task: str,
    metric: str,
    budget: str,
    higher_is_better: bool = True,
    score: str = "test",
) -> pd.DataFrame:
    """The table of an experiment: each optimizer beside its baseline, seed by seed.

    Args:
      results: Of `repeat`.
      pairs: The paper's figures by (baseline, optimizer).
      experiment: The notebook's name.
      task: What was learned, in a few words.
      metric: What `score` is, with its unit.
      budget: How much tuning every optimizer got.
      higher_is_better: Whether a positive difference is a gain.
      score: Which entry of the results is compared.

    Returns:
      The table, which is also shown, and kept in the output for `summary.py`.
    """
    comparisons = []
    for (baseline, ours), paper in pairs.items():
        before = np.asarray(results[baseline][score], np.float64)
        after = np.asarray(results[ours][score], np.float64)
        comparisons.append(
            {"baseline": baseline, "ours": ours, "paper": paper}
            | paired(before, after, higher_is_better=higher_is_better)
        )
    result = {
        "experiment": experiment,
        "task": task,
        "metric": metric,
        "budget": budget,
        "mode": "quick" if QUICK else "full",
        "hardware": hardware(),
        "date": str(datetime.date.today()),
        "minutes": round((time.monotonic() - _STARTED) / 60, 1),
        "comparisons": comparisons,
    }
    table = pd.DataFrame(
        [
            {
                "comparison": f"{row['baseline']} → {row['ours']}",
                metric: f"{row['baseline_mean']:.2f} ± {row['baseline_std']:.2f} → "
                f"{row['mean']:.2f} ± {row['std']:.2f}",
                "paired difference [95 %]": f"{row['difference']:+.2f} "
                f"[{row['interval'][0]:+.2f}, {row['interval'][1]:+.2f}]",
                "wins": f"{row['wins']} of {row['seeds']}",
                "verdict": row["verdict"],
                "the paper's, at full size": row["paper"],
            }
            for row in comparisons
        ]
    )
    _show(table, {RESULT_TYPE: result})
    return table


def paired(
    before: np.ndarray, after: np.ndarray, *, higher_is_better: bool = True
) -> dict[str, Any]:
    """Mean, standard deviation, paired difference with its 95 % interval, and wins.

    Args:
      before: The baseline's scores, shape (seeds,).
      after: The scores from the same seeds, shape (seeds,).
      higher_is_better: Whether a positive difference is a gain.
    """
    differences = after - before
    count = len(differences)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    half = float(scipy.stats.t.ppf(0.975, count - 1)) * error
    sign = 1 if higher_is_better else -1
    if not math.isfinite(half):
        verdict = "not comparable: a run diverged"
    elif mean - half <= 0 <= mean + half:
        verdict = "no difference seen"
    else:
        verdict = "better" if sign * mean > 0 else "worse"
    return {
        "seeds": count,
        "baseline_mean": float(np.mean(before)),
        "baseline_std": float(np.std(before, ddof=1)),
        "mean": float(np.mean(after)),
        "std": float(np.std(after, ddof=1)),
        "difference": mean,
        "interval": [mean - half, mean + half],
        "wins": int(np.sum(sign * differences > 0)),
        "verdict": verdict,
    }


def plot_curves(
    results: Mapping[str, Mapping[str, np.ndarray]],
    panels: Mapping[str, tuple[str, str]],
    *,
    title: str,
    x_label: str = "epoch",
    log: Sequence[str] = (),
) -> None:
    """Mean over seeds in a band of one standard deviation, a line per optimizer.

    Args:
      results: Of `repeat`.
      panels: Title and unit by the key of a result of shape (seeds, times). Where one
        way is better, the unit says which.
      title: Of the whole figure.
      x_label: What a time is.
      log: Keys of panels with a logarithmic axis.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.4), squeeze=False
    )
    for panel, (key, (name, unit)) in zip(axes[0], panels.items(), strict=True):
        for optimizer, result in results.items():
            values = np.asarray(result[key])
            mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
            times = np.arange(1, len(mean) + 1)
            panel.plot(times, mean, label=optimizer, **style(optimizer))
            panel.fill_between(
                times,
                mean - std,
                mean + std,
                color=style(optimizer)["color"],
                alpha=0.12,
                linewidth=0,
            )
        panel.set(title=name, xlabel=x_label, ylabel=unit)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if key in log:
            panel.set_yscale("log")
            # A band that reaches zero has no lower end on such an axis.
            lowest = min(line.get_ydata().min() for line in panel.lines)
            if lowest > 0:
                panel.set_ylim(bottom=max(panel.get_ylim()[0], lowest / 2))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{title} (band: one standard deviation over seeds)", fontsize=10)
    plt.show()


def plot_pairs(
    results: Mapping[str, Mapping[str, np.ndarray]],
    pairs: Iterable[tuple[str, str]],
    *,
    title: str,
    unit: str,
    score: str = "test",
    higher_is_better: bool | None = None,
) -> None:
    """Each seed's scores, joined between baseline and optimizer; and the differences.

    Args:
      results: Of `repeat`.
      pairs: (baseline, optimizer).
      title: Of the scores.
      unit: Of the scores.
      score: Which entry of the results is drawn.
      higher_is_better: Which way is better, which the axes then say.
    """
    if higher_is_better is not None:
        unit += f"\n({'higher' if higher_is_better else 'lower'} is better)"
    pairs = list(pairs)
    _, (scores, gains) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.6, 1))
    ticks, names = [], []
    for place, (baseline, ours) in enumerate(pairs):
        before = np.asarray(results[baseline][score], np.float64)
        after = np.asarray(results[ours][score], np.float64)
        color = style(ours)["color"]
        left, right = 2.6 * place, 2.6 * place + 1
        scores.plot([left, right], [before, after], color="0.7", linewidth=0.8)
        of_baseline = style(baseline)["color"]
        scores.plot([left] * len(before), before, "o", color=of_baseline, mfc="none")
        scores.plot([right] * len(after), after, "o", color=color)
        ticks += [left, right]
        names += [baseline, ours]
        row = paired(before, after)
        low, high = row["interval"]
        gains.plot([low, high], [place, place], color=color, linewidth=2)
        gains.plot(row["difference"], place, "o", color=color)
    scores.set_xticks(ticks, names)
    if max(map(len, names)) > 6:
        plt.setp(
            scores.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor"
        )
    scores.set(title=title, ylabel=unit, xlabel="optimizer; a line joins one seed's")
    scores.margins(x=0.1)
    gains.axvline(0, color="0.3", linewidth=1)
    arrow = " →\n" if max(map(len, names)) > 12 else " → "
    gains.set_yticks(range(len(pairs)), [f"{a}{arrow}{b}" for a, b in pairs])
    gains.set_ylim(len(pairs) - 0.5, -0.5)
    gains.xaxis.set_major_locator(MaxNLocator(5))
    gains.set(title="Paired difference, 95 % interval", xlabel=unit)
    plt.show()


def plot_differences(
    results: Mapping[str, Mapping[str, np.ndarray]],
    baseline: str,
    others: Mapping[str, str],
    *,
    title: str,
    unit: str,
    score: str = "test",
) -> None:
    """Each seed's difference from the baseline, a row an optimizer, and the intervals.

    Args:
      results: Of `repeat`.
      baseline: Whose scores are taken away.
      others: What a row is called by optimizer. What is projected has full marks.
      title: Of the figure.
      unit: Of the difference, and which way is better.
      score: Which entry of the results is drawn.
    """
    _, axis = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(others)))
    before = np.asarray(results[baseline][score], np.float64)
    for place, name in enumerate(others):
        after = np.asarray(results[name][score], np.float64)
        row = paired(before, after)
        color = style(name)["color"]
        inner = "white" if style(name)["linestyle"] == "--" else color
        seeds = np.full(len(before), place + 0.22)
        axis.plot(after - before, seeds, "|", color=color, alpha=0.6)
        axis.plot(row["interval"], [place, place], color=color, linewidth=2)
        axis.plot(row["difference"], place, "o", color=color, markerfacecolor=inner)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(others)), list(others.values()))
    axis.set_ylim(len(others) - 0.5, -0.5)
    axis.set(
        title=title,
        xlabel=f"{unit}\n(line: 95 % interval of the mean; strokes: the seeds)",
    )
    plt.show()


def style(optimizer: str) -> dict[str, Any]:
    """Colour and line of an optimizer; a label may go on: `SGD, no decay`.

    `Lion + projection` has the colour of `Lion`. A baseline's line is dashed, and lies
    above the solid and paler one of what is projected, so that neither hides the other.
    """
    name, plus, _ = optimizer.split(",")[0].partition(" + projection")
    color = COLORS.get(name, "#555555")
    if plus or name.endswith("P"):
        return {"color": color, "linestyle": "-", "linewidth": 2.5, "alpha": 0.6}
    return {"color": color, "linestyle": "--", "linewidth": 1.3, "zorder": 3}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _show(table: pd.DataFrame, kept: Mapping[str, Any] | None = None) -> None:
    if get_ipython() is None:  # so this is a script
        print(table.to_string(index=False))
        return
    bundle = {"text/html": table.to_html(index=False), "text/plain": str(table)}
    display({**bundle, **(kept or {})}, raw=True)
