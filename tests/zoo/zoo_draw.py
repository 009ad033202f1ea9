"""Numbers for tiny models, drawn without compiling the models' initializers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, scale=1.0, seed=0, dtype=np.float32):
    draw = np.random.default_rng([seed, *shape])
    values = draw.normal(0, scale, shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * draw.normal(0, scale, shape)
    return jnp.asarray(values, dtype)


def integers(below, *shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape))


def drawn(init, *args, scale=0.1, **kwargs) -> Any:
    """Returns what `init` would, its floating numbers drawn by NumPy.

    Some models' own initializers take half a minute to compile.
    """
    count = iter(range(10_000))

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return normal(*leaf.shape, scale=scale, seed=next(count), dtype=leaf.dtype)

    return jax.tree.map(fill, eqx.filter_eval_shape(init, *args, **kwargs))
