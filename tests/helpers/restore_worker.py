"""Restores checkpoints and says what came of it; for `test_damaged_checkpoints.py`.

In a process of its own: where the read of one array fails, Orbax drops those of the
others, which end in threads at any time later, with errors of their own.
"""

import json
import sys

import chex
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from optax_adamp import adamp

# Large enough for files of their own, as the weights of real models are.
SHAPE = (48, 32)
BYTES = 4 * 48 * 32


def after_a_step(tx, shape=SHAPE):
    """Params and state, none of them zero."""
    arrays = np.random.default_rng(0).normal(size=(2, *shape))
    params, grads = ({"kernel": jnp.asarray(array, jnp.float32)} for array in arrays)
    updates, state = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates), state


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def restore(path, like):
    """As a job does that has params and a state already."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, like)


def try_to_restore(path, shape):
    """An error, or nothing if all is as it was saved."""
    expected = after_a_step(adamp(0.1), shape)
    try:
        restored = restore(path, expected)
    except Exception as error:
        return str(error)
    chex.assert_trees_all_equal(restored, expected)
    return None


if __name__ == "__main__":
    json.dump([try_to_restore(*wanted) for wanted in json.load(sys.stdin)], sys.stdout)
