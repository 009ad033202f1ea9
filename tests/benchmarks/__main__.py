"""What a step costs, measured side by side with what it replaces.

    python tests/benchmarks             # some 25 minutes on two cores
    python tests/benchmarks --quick     # a look at the code, in a minute: no result
    python tests/benchmarks --only step train

Prints a table, and writes benchmarks.json and benchmarks.png. PyTorch takes part where
it is installed: `pip install -e ".[parity]"`. On a GPU or TPU the training steps are
larger, in bfloat16.
"""

import argparse
import datetime
import functools
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import optax_adamp
import problems
import report
import timing
import training_steps
import trees
from contenders import (
    GPU_CONTENDERS,
    JAX_CONTENDERS,
    RATIOS,
    TORCH_CONTENDERS,
    run_program,
    torch_is_here,
)


class Options(NamedTuple):
    """How much is done."""

    quick: bool
    torch: bool
    rounds: int  # At least
    seconds: float  # For further rounds of a problem


# The arrays that a step of AdamP moves at least, see tests/scale/test_compiled_tpu.py.
TWO_PASSES = 10


def compare_steps(options: Options) -> tuple[list[Any], list[str]]:
    """The optimizer's step alone."""
    ratios, notes = [], []
    cases = problems.QUICK if options.quick else problems.FULL
    for name, (shapes, dimension_numbers) in cases.items():
        problem = problems.make_problem(shapes(), dimension_numbers)
        contenders = dict(JAX_CONTENDERS)
        if jax.default_backend() == "gpu":
            contenders |= GPU_CONTENDERS
        # The reference knows no stacked layers.
        if options.torch and "scanned" not in name:
            contenders |= TORCH_CONTENDERS
        runs = {
            contender: prepare(problem)
            for contender, prepare in tqdm(contenders.items(), desc=name)
        }
        times = timing.interleave(runs, rounds=options.rounds, seconds=options.seconds)
        ratios += _ratios(name, times)
        gigabytes = TWO_PASSES * 4 * trees.size(problem.params) / 1e9
        rate = _rate(gigabytes / statistics.median(times["adamp"]))
        notes.append(f"{name}: adamp at {TWO_PASSES} arrays a step moves {rate}.")
        del problem, runs
    best = _rate(_bandwidth(options.quick))
    notes.append(f"Negating an array in place moves {best}.")
    return ratios, notes


def tiny_task() -> training_steps.Task:
    """For a look at the code."""
    return training_steps.gpt2(
        sequences=2, length=8, layers=2, width=24, vocabulary=64, context=8
    )


def compare_training(options: Options) -> tuple[list[Any], list[str]]:
    """Whole training steps of two networks."""
    if options.quick:
        tasks = [tiny_task()]
    elif jax.default_backend() == "cpu":
        tasks = [
            training_steps.resnet50(images=32, size=64),
            training_steps.gpt2(sequences=2, length=256),
            training_steps.gpt2(sequences=4, length=256),
        ]
    else:
        tasks = [
            training_steps.resnet50(images=128, size=224, dtype=jnp.bfloat16),
            training_steps.gpt2(sequences=16, length=1024, dtype=jnp.bfloat16),
        ]
    ratios = []
    for task in tasks:
        axes = task.dimension_numbers
        adamp = functools.partial(optax_adamp.adamp, 1e-4, weight_decay=1e-2)
        optimizers = {
            "adamw": optax.adamw(1e-4, weight_decay=1e-2),
            "adamp": adamp(dimension_numbers=axes),
            "adamp, fixed": adamp(dimension_numbers=trees.fixed_views(axes)),
        }
        runs = {
            name: run_program(*training_steps.training_step(task, tx), task.batch)
            for name, tx in tqdm(optimizers.items(), desc=task.name)
        }
        times = timing.interleave(runs, rounds=options.rounds, seconds=options.seconds)
        ratios += _ratios(f"training: {task.name}", times)
    return ratios, []


def compare_compilation(options: Options) -> tuple[list[Any], list[str]]:
    """From Python to the program, for a tree of 300 parameters."""
    shapes = [(256, 256), (256,), (256,), (256, 1024), (1024,), (3, 3, 64, 64)]
    repeats, rounds = (1, 1) if options.quick else (50, 5)
    problem = problems.make_problem(trees.matrices(*shapes * repeats), None)
    names = ("adamw", "adamp", "adamp, fixed", "sgd", "sgdp", "sgdp, fixed")
    seconds_of = {name: [] for name in names}
    for _ in tqdm(range(rounds), desc="compilation"):
        for name, measured in seconds_of.items():
            measured.append(JAX_CONTENDERS[name](problem).compile_seconds)
    times = {name: np.array(measured) for name, measured in seconds_of.items()}
    return _ratios(f"compilation, {len(shapes) * repeats} arrays", times), []


def compare_once(options: Options) -> tuple[list[Any], list[str]]:
    """What is done once, before training, beside the least that it could take."""
    count = 100 if options.quick else 10_000
    shapes = trees.matrices(*[(8, 8)] * count)
    params = {f"w{index}": shape for index, shape in enumerate(shapes)}
    few = dict(list(params.items())[: count // 10])
    task = tiny_task() if options.quick else training_steps.resnet50(images=32, size=64)

    def trace(tx: optax.GradientTransformationExtraArgs) -> None:
        state = jax.eval_shape(tx.init, params)
        jax.make_jaxpr(lambda *arguments: tx.update(*arguments))(params, state, params)

    def gradients() -> None:
        gradient = jax.jit(jax.grad(lambda *arguments: task.loss(*arguments)))
        for _ in range(8):
            jax.block_until_ready(gradient(task.params, task.batch))

    def loss(params: Any, batch: Any) -> jax.Array:
        return task.loss(params, batch)

    done = {
        f"tracing a step, {count} arrays": {
            "adamw": lambda: trace(optax.adamw(1e-3)),
            "adamp": lambda: trace(optax_adamp.adamp(1e-3)),
        },
        f"describing, {count} arrays": {
            "describe, of a tenth": lambda: optax_adamp.describe(few),
            "describe": lambda: optax_adamp.describe(params),
        },
        f"reading, {task.name}": {
            "tracing": lambda: jax.make_jaxpr(loss)(task.params, task.batch),
            "from_function": lambda: optax_adamp.layouts.from_function(
                loss, task.params, task.batch
            ),
        },
        f"detecting, {task.name}": {
            "8 gradients": gradients,
            "detect": lambda: optax_adamp.detect_scale_invariance(
                loss, task.params, [task.batch] * 8
            ),
        },
    }
    ratios = []
    for name, looks in done.items():
        seconds_of: dict[str, list[float]] = {look: [] for look in looks}
        for _ in tqdm(range(1 if options.quick else 3), desc=name):
            for look, run in looks.items():
                jax.clear_caches()
                started = time.perf_counter()
                run()
                seconds_of[look].append(time.perf_counter() - started)
        ratios += _ratios(name, {look: np.array(s) for look, s in seconds_of.items()})
    return ratios, []


PARTS = {
    "step": compare_steps,
    "train": compare_training,
    "compile": compare_compilation,
    "once": compare_once,
}


def hardware() -> str:
    """The device by name, the versions, and the date."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        listing = Path("/proc/cpuinfo")
        lines = listing.read_text().splitlines() if listing.exists() else []
        models = [line.split(": ")[1] for line in lines if "model name" in line]
        name = f"{os.cpu_count()} cores of {(models or [platform.machine()])[0]}"
    versions = [f"jax {jax.__version__}"]
    if torch_is_here():
        import torch

        versions.append(f"torch {torch.__version__}")
    return f"{name}, {', '.join(versions)}, {datetime.date.today()}"


def _ratios(problem: str, times: timing.Times) -> list[Any]:
    rows = []
    for name, baseline in RATIOS:
        if name in times and baseline in times:
            median, low, high = timing.median_ratio(times, name, baseline)
            rows.append(
                {
                    "problem": problem,
                    "name": name,
                    "baseline": baseline,
                    "baseline_seconds": float(statistics.median(times[baseline])),
                    "ratio": median,
                    "quartiles": [low, high],
                    "rounds": len(times[name]),
                }
            )
    return rows


def _bandwidth(quick: bool) -> float:
    """What memory can do at best: GB/s of reading and writing an array."""
    array = jnp.ones(2**20 if quick else 2**27)
    run = run_program(lambda x, _: -x, array, None)
    times = timing.interleave({"negate": run}, rounds=10, seconds=0)
    return 2 * array.nbytes / 1e9 / statistics.median(times["negate"])


def _rate(gigabytes: float) -> str:
    """What is moved in a second, to three digits."""
    return f"{float(f'{gigabytes:.3g}'):g} GB/s"


def main() -> None:
    """Runs the parts, and reports."""
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="some of the parts"
    )
    parser.add_argument("--quick", action="store_true", help="only a look at the code")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument(
        "--seconds", type=float, default=30, help="for the rounds of a problem"
    )
    parser.add_argument("--output", type=Path, default=Path(), help="a folder")
    arguments = parser.parse_args()
    options = Options(
        quick=arguments.quick,
        torch=torch_is_here() and not arguments.no_torch,
        rounds=3 if arguments.quick else 10,
        seconds=0 if arguments.quick else arguments.seconds,
    )
    measured: dict[str, Any] = {"hardware": hardware(), "ratios": [], "notes": []}
    if options.quick:
        measured["notes"].append("Quick mode: nothing here is a result.")
    for part in arguments.only:
        ratios, notes = PARTS[part](options)
        measured["ratios"] += ratios
        measured["notes"] += notes
    print(report.markdown(measured))
    for path in report.write(measured, arguments.output):
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
