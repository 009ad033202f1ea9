"""A port of the reference as one would write it first: what the package is beside."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def adamp_port(
    learning_rate: float, weight_decay: float, dimension_numbers: Any
) -> optax.GradientTransformation:
    """AdamP with both views written out, one after the other, as in the reference.

    Like the reference it knows one layout, here that of Flax: the last axis is the
    output. Batch axes are beyond it, so that it mixes stacked layers.
    """
    del dimension_numbers
    adam = optax.scale_by_adam()

    def update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = adam.update(grads, state, params)

        def leaf(update: jax.Array, grad: jax.Array, weight: jax.Array) -> jax.Array:
            update, ratio = jnp.asarray(update), 1.0
            if weight.ndim > 1:
                update, ratio = project(update, grad, weight)
            return -learning_rate * (update + weight_decay * ratio * weight)

        return jax.tree.map(leaf, updates, grads, params), state

    return optax.GradientTransformation(adam.init, update)


def project(
    update: jax.Array,
    grad: jax.Array,
    weight: jax.Array,
    *,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    eps: float = 1e-8,
) -> tuple[jax.Array, jax.Array]:
    """The projected update, and the factor on its decay."""

    def channels(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, -1, 0).reshape(x.shape[-1], -1)

    def layer(x: jax.Array) -> jax.Array:
        return x.reshape(1, -1)

    def is_orthogonal(view: Any) -> jax.Array:
        g, w = view(grad), view(weight)
        norms = jnp.linalg.norm(g, axis=1) + eps, jnp.linalg.norm(w, axis=1) + eps
        cosine = jnp.abs(jnp.sum(g * w, axis=1)) / (norms[0] * norms[1])
        return jnp.max(cosine) < delta / math.sqrt(w.shape[1])

    def without_radial(view: Any) -> tuple[jax.Array, jax.Array]:
        u, w = view(update), view(weight)
        w = w / (jnp.linalg.norm(w, axis=1, keepdims=True) + eps)
        u = u - w * jnp.sum(w * u, axis=1, keepdims=True)
        if view is channels:
            u = jnp.moveaxis(u.reshape(weight.shape[-1], *weight.shape[:-1]), 0, -1)
        return u.reshape(weight.shape), jnp.asarray(wd_ratio)

    return jax.lax.cond(
        is_orthogonal(channels),
        functools.partial(without_radial, channels),
        lambda: jax.lax.cond(
            is_orthogonal(layer),
            functools.partial(without_radial, layer),
            lambda: (update, jnp.asarray(1.0)),
        ),
    )
