"""The file of golden trajectories: what the published PyTorch package did.

`make_golden.py` writes it, so that exactness is checked where torch is not installed.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from parity_cases import FAMILIES, SHAPES, Plan, Problem
from parity_runs import Run

PATH = Path(__file__).with_name("golden.npz")


class Golden(NamedTuple):
    """A problem and, by the name of the family, the runs of the reference over it."""

    problem: Problem
    runs: dict[str, Run]  # with the recorded steps only


def save(golden: Golden) -> None:
    weights, plans = golden.problem
    arrays = {f"initial/{name}": weight for name, weight in weights.items()}
    for name, plan in plans.items():
        arrays |= {f"{field}/{name}": x for field, x in plan._asdict().items()}
    for family, run in golden.runs.items():
        arrays |= {f"{family}/{name}": weight for name, weight in run.weights.items()}
        arrays[f"{family}/counts"] = run.counts
        arrays[f"{family}/closest_call"] = np.asarray(run.closest_call)
    np.savez_compressed(PATH, **arrays)


@functools.cache
def load() -> Golden:
    with np.load(PATH) as arrays:
        problem = Problem(
            weights={name: arrays[f"initial/{name}"] for name in SHAPES},
            plans={
                name: Plan(*(arrays[f"{field}/{name}"] for field in Plan._fields))
                for name in SHAPES
            },
        )
        runs = {
            str(family): Run(
                weights={name: arrays[f"{family}/{name}"] for name in SHAPES},
                counts=arrays[f"{family}/counts"],
                closest_call=arrays[f"{family}/closest_call"].item(),
            )
            for family in FAMILIES
        }
    return Golden(problem, runs)
