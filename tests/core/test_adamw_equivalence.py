"""Without projection, AdamP is AdamW to the last digits."""

import contextlib
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from optax_adamp import adamp
from precision import float64


def compile_as_users_do(function):
    """With XLA's own choice of a code generator, which conftest changes for speed."""
    is_changed = "fusion_emitters=false" in os.environ["XLA_FLAGS"]
    options = {"xla_cpu_use_fusion_emitters": True} if is_changed else None
    return jax.jit(function, compiler_options=options)


# Precision and compilation.
WAYS = {
    "float32": (jnp.float32, contextlib.nullcontext, lambda update: update),
    "float32, jit": (jnp.float32, contextlib.nullcontext, compile_as_users_do),
    "float64, jit": (jnp.float64, float64, compile_as_users_do),
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
        "learning_rate": optax.linear_schedule(0.05, 0.0, training.STEPS),
        "weight_decay": optax.linear_schedule(0.0, 0.4, training.STEPS),
        "mask": {"first": True, "norm": False, "second": True, "head": False},
    },
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("way", WAYS)
def test_without_projection_is_adamw(way, arguments):
    """Each step starts where AdamW has left the params and the state."""
    dtype, precision, compile_update = WAYS[way]
    with precision():
        reference = optax.adamw(**ARGUMENTS[arguments])
        ours = compile_update(adamp(**ARGUMENTS[arguments], delta=0.0).update)
        adamws = compile_update(reference.update)
        params = optax.tree.cast(training.initial_params(), dtype)
        state = reference.init(params)
        for batch in zip(*training.all_batches(), strict=True):
            grads = training.gradient(params, batch)
            updates, our_state = ours(grads, state, params)
            expected, state = adamws(grads, state, params)

            chex.assert_trees_all_equal_dtypes(params, updates, expected)
            chex.assert_trees_all_equal(our_state, state)
            jax.tree.map(assert_within_2_ulp, updates, expected)
            params = optax.apply_updates(params, expected)


def assert_within_2_ulp(actual, expected):
    np.testing.assert_array_max_ulp(actual, expected, maxulp=2)
