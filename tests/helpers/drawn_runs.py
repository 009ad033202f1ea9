"""Drawn problems for whole runs, and runs of the optimizers on them."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from hypothesis import strategies as st

from drawn import DELTAS, layouts
from optax_adamp import adamp, sgdp

STEPS = 5
OUTCOMES = ("channel", "layer", "none", "zero", "chance")


class Problem(NamedTuple):
    """A weight, and gradients that depend on it as those of real layers do.

    Attributes:
      weight: The weight before the first step.
      raw: What gradients (steps, ...) are made of.
      noise: What turns single channels, but not the layer, along their weights.
      along: The shares of the gradient that are removed, per channel and per layer,
        and the multiple of the weight that is added; one per batch element.
    """

    weight: Any
    raw: Any
    noise: Any
    along: tuple[Any, Any, Any]


def gradient(layout, problem, raw, weight):
    """The gradient at a weight; for arrays of NumPy and of jax."""
    per_channel, per_layer, added = problem.along

    def radial_part(grad, axes):
        ww = (weight * weight).sum(axes, keepdims=True)
        return weight * (grad * weight).sum(axes, keepdims=True) / (ww + (ww == 0))

    grad = raw + per_layer * problem.noise * weight
    grad = grad - per_channel * radial_part(grad, layout.reduction)
    grad = grad - per_layer * radial_part(grad, layout.reduction + layout.output)
    return grad + added * weight


@st.composite
def problems(draw, layouts=layouts):
    layout = draw(layouts())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = layout.shape
    one_per_element = [
        size if axis in layout.batch else 1 for axis, size in enumerate(shape)
    ]
    outcome = rng.choice(
        OUTCOMES if draw(st.booleans()) else [draw(st.sampled_from(OUTCOMES))],
        size=one_per_element,
    )
    raw = rng.normal(size=(STEPS, *shape)) * (outcome != "zero")
    problem = Problem(
        weight=rng.normal(size=shape) * 10.0 ** draw(st.integers(-2, 2)),
        raw=raw,
        noise=3 * rng.normal(size=shape),
        along=(
            1.0 * ((outcome == "channel") | (outcome == "none")),
            1.0 * (outcome == "layer"),
            -1.0 * (outcome == "none"),
        ),
    )
    return layout, problem


# A large eps: where a gradient is rounding noise, Adam must not scale it up.
SHARED = {
    "learning_rate": st.floats(1e-3, 0.3),
    "delta": DELTAS,
    "wd_ratio": st.floats(0, 1),
    "weight_decay": st.sampled_from([0.0, 0.1]) | st.floats(0, 1),
    "eps": st.sampled_from([1e-4, 1e-2]),
}
HYPERPARAMETERS = {
    adamp: st.fixed_dictionaries(
        {**SHARED, "b1": st.floats(0, 0.99), "b2": st.floats(0.5, 0.9999)}
    ),
    sgdp: st.fixed_dictionaries(
        {**SHARED, "momentum": st.floats(0, 0.99), "dampening": st.floats(0, 1)}
    ),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def train(optimizer, nesterov, layout, problem, hyperparameters):
    """The weights after each step."""
    tx = optimizer(
        **hyperparameters, nesterov=nesterov, dimension_numbers=layout.spec()
    )

    def step(carry, raw):
        weight, state = carry
        grad = gradient(layout, problem, raw, weight)
        updates, state = tx.update(grad, state, weight)
        weight = optax.apply_updates(weight, updates)
        return (weight, state), weight

    carry = problem.weight, tx.init(problem.weight)
    return jax.lax.scan(step, carry, problem.raw)[1]


def without_dampening(nesterov, hyperparameters):
    """Nesterov momentum has none."""
    zero = {"dampening": 0.0} if nesterov and "dampening" in hyperparameters else {}
    return {**hyperparameters, **zero}
