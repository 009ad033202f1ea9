"""Hyperparameters and gradients for the comparison with the PyTorch package.

Each trajectory is a closed loop: the gradient of a step is a function of the weight at
that step, of stored noise and of the cosines that the step is meant to have. These are
stated as multiples of the threshold, so that every outcome of the test happens often
and none is left to rounding.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

# Name and shape of the parameters: the last axis is the output, as in Flax and Haiku.
# The vector is a bias under a name that does not say so, for only its shape to count.
SHAPES = {
    "dense": (6, 4),
    "conv_1d": (3, 2, 4),
    "conv_2d": (2, 2, 2, 3),
    "one_channel": (7, 1),
    "one_weight_per_channel": (1, 7),
    "vector": (4,),
    "scalar": (),
}
PROJECTED = [name for name, shape in SHAPES.items() if len(shape) > 1]
# Weights and gradients of this size are below the larger eps, which then matters.
SCALES = {"conv_1d": 0.15}

STEPS = 100

OUTCOMES = ("channel", "layer", "none", "zero")
# How often a step is meant to end in each outcome; "zero" is a gradient of zeros.
FREQUENCIES = (0.3, 0.25, 0.3, 0.15)
# Cosines that are meant to pass or fail, as multiples of the threshold. Near enough to
# it that other readings of the algorithm decide differently, yet far beyond rounding.
PASSES, FAILS, FAILS_CLEARLY = 0.85, 1.15, 6.0
# The norm of a faint gradient, as a multiple of eps.
FAINT = 0.4

LEARNING_RATE = 1e-2
# What both packages take for these when they are not given.
DEFAULTS = {"delta": 0.1, "eps": 1e-8}


class Family(NamedTuple):
    """Configurations that differ in numbers only, and so share one compilation."""

    algorithm: str
    nesterov: bool

    def __str__(self) -> str:
        return self.algorithm + ("_nesterov" if self.nesterov else "")


FAMILIES = [
    Family(*family) for family in itertools.product(("adamp", "sgdp"), (False, True))
]


def product_of_hyperparameters(family: Family) -> dict[str, np.ndarray]:
    """Every combination: for each hyperparameter the values that it takes in turn."""
    values = {
        "weight_decay": (0.0, 1e-2, 0.3),
        "eps": (1e-8, 0.1),
        "delta": (0.02, 0.1, 0.5, 2.0),
        "wd_ratio": (0.1, 0.5),
    }
    if family.algorithm == "sgdp":
        values["momentum"] = (0.9,)
        if not family.nesterov:
            values["dampening"] = (0.0, 0.3)
    columns = zip(*itertools.product(*values.values()), strict=True)
    return {
        name: np.array(column) for name, column in zip(values, columns, strict=True)
    }


class Plan(NamedTuple):
    """What the gradients of one parameter are made of; the first axis is the step."""

    noise: Any  # gives the norms, and the direction orthogonal to the weight
    aim: Any  # cosine of each channel, as a multiple of the channel's threshold
    balances: Any  # channels that have no aim, but bring the layer to its own
    layer_aim: Any  # cosine of the layer, as a multiple of the layer's threshold
    faint: Any  # whether the norms are a fraction of eps instead
    zero: Any  # whether the gradient is zero


class Problem(NamedTuple):
    """The initial weights and the plans, by the names in `SHAPES`."""

    weights: dict[str, Any]
    plans: dict[str, Plan]


def draw_problem(seed: int) -> Problem:
    """Random weights and plans in float16, and so the same in every wider dtype."""
    rng = np.random.default_rng(seed)
    weights, plans = {}, {}
    for name, shape in SHAPES.items():
        n, channels = _vectors(shape)
        scale = SCALES.get(name, 1.0) / math.sqrt(n)
        weights[name] = (scale * rng.normal(size=shape)).astype(np.float16)
        noise = (0.3 * scale * rng.normal(size=(STEPS, *shape))).astype(np.float16)
        plans[name] = _draw_plan(rng, noise, channels)
    return Problem(weights, plans)


def _draw_plan(rng: np.random.Generator, noise: np.ndarray, channels: int) -> Plan:
    outcome = rng.choice(OUTCOMES, p=FREQUENCIES, size=STEPS)
    fails = rng.choice([FAILS, FAILS_CLEARLY], p=[0.7, 0.3], size=STEPS)
    layer_aim = np.where(outcome == "none", fails, PASSES)
    if channels == 1:
        aim = layer_aim[:, None]
        balances = np.zeros([STEPS, 1], bool)
    else:
        # One channel that fails is enough: it is the largest cosine that counts.
        failing = rng.integers(channels, size=STEPS)[:, None] == np.arange(channels)
        failing &= np.isin(outcome, ["layer", "none"])[:, None]
        aim = np.where(failing, fails[:, None], PASSES)
        balances = ~failing & failing.any(axis=1, keepdims=True)
    return Plan(
        noise=noise,
        aim=(aim * rng.choice([-1, 1], size=aim.shape)).astype(np.float16),
        balances=balances,
        layer_aim=(layer_aim * rng.choice([-1, 1], size=STEPS)).astype(np.float16),
        faint=rng.random(STEPS) < 0.3,
        zero=outcome == "zero",
    )


def _vectors(shape: tuple[int, ...]) -> tuple[int, int]:
    """Length and number of the vectors whose cosines can be chosen.

    In a channel of one weight every cosine is one, so only that of the layer is free.
    """
    size = math.prod(shape)
    channels = shape[-1] if len(shape) > 1 and size > shape[-1] else 1
    return size // channels, channels


def gradient(weight: Any, plan: Plan, *, delta: Any, eps: Any, xp: Any) -> Any:
    """The gradient of one step, with the cosines that the plan asks for.

    Args:
      weight: A parameter, of one configuration or with a leading axis of many.
      plan: The plan of this step, without the axis of steps.
      delta: The threshold of the optimizer, one per configuration.
      eps: The eps of the optimizer, one per configuration.
      xp: `numpy` or `jax.numpy`.
    """
    n, channels = _vectors(plan.noise.shape)
    if plan.noise.ndim == 0:  # A single number has no direction to choose.
        return xp.broadcast_to(xp.where(plan.zero, 0, plan.noise), weight.shape)

    def norm(vectors, axis=-2):
        return xp.sqrt(xp.sum(vectors**2, axis=axis, keepdims=True))

    def bound(g_norm, w_norm):
        # The denominator of the cosine test.
        return xp.maximum(g_norm, eps) * xp.maximum(w_norm, eps)

    delta, eps = (xp.asarray(x)[..., None, None] for x in (delta, eps))
    w = weight.reshape(*weight.shape[: -plan.noise.ndim], n, channels)
    z = plan.noise.reshape(n, channels)
    w_norm = norm(w)
    radial = w / w_norm
    tangent = z - radial * xp.sum(radial * z, axis=-2, keepdims=True)
    tangent = tangent / norm(tangent)
    g_norm = xp.where(plan.faint, FAINT * eps, norm(z))

    # The inner products with the weight: those aimed at, then those that balance.
    channel_bound = bound(g_norm, w_norm)
    layer_bound = bound(norm(g_norm, axis=-1), norm(w_norm, axis=-1))
    largest = 0.98 * g_norm * w_norm
    inner = plan.aim * delta / math.sqrt(n) * channel_bound
    inner = xp.where(plan.balances, 0, xp.clip(inner, -largest, largest))
    missing = plan.layer_aim * delta / math.sqrt(n * channels) * layer_bound
    missing = missing - xp.sum(inner, axis=-1, keepdims=True)
    share = xp.where(plan.balances, channel_bound, 0)
    total = xp.sum(share, axis=-1, keepdims=True)
    inner = inner + share * missing / xp.where(total > 0, total, 1)
    cosine = xp.clip(inner, -largest, largest) / (g_norm * w_norm)

    g = g_norm * (cosine * radial + xp.sqrt(1 - cosine**2) * tangent)
    return xp.where(plan.zero, 0, g).reshape(weight.shape)


def cast(tree: Any, dtype: str) -> Any:
    """Floating-point arrays in `dtype`; the rest as it is."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x, tree
    )
