"""Without projection, AdamP is AdamW to the last digits."""

import contextlib
import os

import chex
import jax
import numpy as np
import optax
import pytest

from optax_adamp import adamp
from precision import float64


def compile_as_users_do(function):
    """With XLA's own choice of a code generator, which conftest changes for speed."""
    is_changed = "fusion_emitters=false" in os.environ["XLA_FLAGS"]
    options = {"xla_cpu_use_fusion_emitters": True} if is_changed else None
    return jax.jit(function, compiler_options=options)


STEPS = 8

# Precision and compilation.
WAYS = {
    "float32": (np.float32, contextlib.nullcontext, lambda update: update),
    "float32, jit": (np.float32, contextlib.nullcontext, compile_as_users_do),
    "float64, jit": (np.float64, float64, compile_as_users_do),
}
ARGUMENTS = {
    "numbers": {
        "learning_rate": 0.01,
        "b1": 0.8,
        "b2": 0.99,
        "eps": 1e-3,
        "eps_root": 1e-6,
        "weight_decay": 0.4,
    },
    "schedules and mask": {
        "learning_rate": optax.linear_schedule(0.05, 0.0, STEPS),
        "weight_decay": optax.linear_schedule(0.0, 0.4, STEPS),
        "mask": {"first": True, "second": False, "scale": True},
    },
}
SHAPES = {"first": (5, 3), "second": (5, 3), "scale": (3,)}


def gradient(rng, weight):
    """As that of a scale-invariant loss, which a projection would find."""
    g = rng.normal(size=weight.shape)
    w = np.asarray(weight, np.float64)
    g -= w * np.sum(g * w, axis=0) / np.sum(w * w, axis=0)
    return g.astype(weight.dtype)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("way", WAYS)
def test_without_projection_is_adamw(way, arguments):
    """Each step starts where AdamW has left the params and the state."""
    dtype, precision, compile_update = WAYS[way]
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=shape).astype(dtype) for k, shape in SHAPES.items()}
    with precision():
        reference = optax.adamw(**ARGUMENTS[arguments])
        ours = compile_update(adamp(**ARGUMENTS[arguments], delta=0.0).update)
        adamws = compile_update(reference.update)
        state = reference.init(params)
        for _ in range(STEPS):
            grads = {k: gradient(rng, weight) for k, weight in params.items()}
            updates, our_state = ours(grads, state, params)
            expected, state = adamws(grads, state, params)

            chex.assert_trees_all_equal_dtypes(params, updates, expected)
            chex.assert_trees_all_equal(our_state, state)
            jax.tree.map(assert_within_2_ulp, updates, expected)
            params = optax.apply_updates(params, expected)


def assert_within_2_ulp(actual, expected):
    np.testing.assert_array_max_ulp(actual, expected, maxulp=2)
