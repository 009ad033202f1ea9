"""Runs of our optimizers over the cases, and what is compared with the reference."""

import functools
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_adamp
from parity_cases import (
    DEFAULTS,
    LEARNING_RATE,
    OUTCOMES,
    PROJECTED,
    Family,
    Problem,
    cast,
    gradient,
)
from precision import float64

# Largest difference from the reference, relative to the largest weight. What remains
# is the order of sums, some 1e-14 and 1e-5.
TOLERANCES = {"float64": 1e-9, "float32": 2e-4}

# The golden file keeps the weights after the 20th step, the 40th and so on.
RECORDED = slice(19, None, 20)


def trajectories(
    family: Family, hyperparameters: dict[str, Any], problem: Problem, dtype: str
) -> dict[str, np.ndarray]:
    """The weights after every step, under our optimizer.

    Args:
      family: The optimizer.
      hyperparameters: For each one an array with a value per configuration; or one
        plain number each, which then reaches the optimizer as it is.
      problem: Initial weights and plans.
      dtype: The dtype of weights and arithmetic.

    Returns:
      For each parameter an array (configurations, steps, *shape).
    """
    plain = not any(isinstance(x, np.ndarray) for x in hyperparameters.values())
    with float64() if dtype == "float64" else nullcontext():
        problem = cast(problem, dtype)
        if plain:
            train = jax.jit(lambda: _train(family, hyperparameters, problem))
            weights = jax.tree.map(lambda x: x[None], train())
        else:
            weights = _train_many(family, cast(hyperparameters, dtype), problem)
        return jax.tree.map(np.asarray, weights)


@functools.partial(jax.jit, static_argnums=0)
def _train_many(family, hyperparameters, problem):
    return jax.vmap(lambda h: _train(family, h, problem))(hyperparameters)


def _train(family, hyperparameters, problem):
    make = {"adamp": optax_adamp.adamp, "sgdp": optax_adamp.sgdp}[family.algorithm]
    optimizer = make(LEARNING_RATE, nesterov=family.nesterov, **hyperparameters)
    delta, eps = (hyperparameters.get(name, DEFAULTS[name]) for name in DEFAULTS)

    def step(carry, plans):
        weights, state = carry
        grads = {
            name: gradient(weights[name], plan, delta=delta, eps=eps, xp=jnp)
            for name, plan in plans.items()
        }
        updates, state = optimizer.update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), weights

    start = (problem.weights, optimizer.init(problem.weights))
    return jax.lax.scan(step, start, problem.plans)[1]


class Run(NamedTuple):
    """What the reference did with a problem."""

    weights: dict[str, np.ndarray]  # (configurations, steps, *shape), in JAX layout
    counts: np.ndarray  # of each outcome, (projected parameters, outcomes)
    closest_call: float  # least |cosine / threshold - 1| of all tests


def record(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights at the recorded steps."""
    return {name: weight[:, RECORDED] for name, weight in weights.items()}


def assert_decisive(run: Run) -> None:
    """Every outcome happened often, and none was left to rounding."""
    frequencies = run.counts / run.counts.sum(axis=1, keepdims=True)
    for name, row in zip(PROJECTED, frequencies, strict=True):
        for outcome, frequency in zip(OUTCOMES, row, strict=True):
            # A single channel is the layer, and the channel view is tried first.
            possible = (name, outcome) != ("one_channel", "layer")
            assert frequency >= (0.1 if possible else 0), (name, outcome)
    assert run.closest_call > 1e-3


class Difference(NamedTuple):
    """The largest difference between trajectories, and where it is."""

    relative: float
    name: str
    configuration: int


def largest_difference(
    ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> Difference:
    """The largest difference over steps and entries, over the largest weight.

    Both are taken within one parameter of one configuration.
    """

    def of_parameter(name):
        def largest(x):
            return np.max(np.abs(x), axis=tuple(range(1, x.ndim)))

        assert ours[name].shape == reference[name].shape
        relative = largest(ours[name] - reference[name]) / largest(reference[name])
        worst = int(np.argmax(relative))  # NaN counts as the largest.
        return Difference(float(relative[worst]), name, worst)

    differences = [of_parameter(name) for name in reference]
    return differences[np.argmax([difference.relative for difference in differences])]
