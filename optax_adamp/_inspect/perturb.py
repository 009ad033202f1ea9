"""Weights near the given ones: the same for one seed, other ones for each draw."""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from optax_adamp._axes import Axes
from optax_adamp._projection import dtype_of_sums

# Of the variance of a perturbed weight, the part that is noise.
_NOISE = 0.5


def perturb(
    weights: list[jax.Array], axes: list[Axes | None], *, seed: int, draw: int
) -> list[jax.Array]:
    """Weights of which some of the variance is noise.

    Args:
      weights: The parameters.
      axes: Those of each: half the variance of each channel becomes noise. None: its
        numbers are scaled by random factors.
      seed: Of all draws.
      draw: The number of this one. Draw 0 are the given weights.
    """
    if draw == 0:
        return weights
    words = [
        np.random.SeedSequence((int(seed) % 2**64, draw, index)).generate_state(4)
        for index in range(len(weights))
    ]
    return _perturb_all(weights, words, axes=tuple(axes))


# One program for all of them: to compile one for each shape takes longer.
@functools.partial(jax.jit, static_argnames="axes")
def _perturb_all(
    weights: list[jax.Array], words: list[Any], *, axes: tuple[Axes | None, ...]
) -> list[jax.Array]:
    return [
        perturb_leaf(weight, word, axes=some)
        for weight, word, some in zip(weights, words, axes, strict=True)
    ]


# Traced once for all leaves of one shape.
@functools.partial(jax.jit, static_argnames="axes")
def perturb_leaf(
    weight: jax.Array, words: jax.Array, *, axes: Axes | None
) -> jax.Array:
    """One weight, with noise that four words of 32 bits determine."""
    # Compilers take long over JAX's default generator.
    key = cast("jax.Array", jax.random.wrap_key_data(words, impl="rbg"))
    dtype = dtype_of_sums(weight)
    w = weight.astype(dtype)
    noise = _noise(key, w)
    if axes is None:
        # Numbers that must be positive, such as a temperature, stay so.
        factors = jax.random.uniform(key, w.shape, minval=0.5, maxval=1.5)
        moved = jnp.where(jnp.any(w != 0), w * factors.astype(dtype), noise)
    else:
        squares = jnp.real(jnp.conj(w) * w)
        channel = jnp.mean(squares, axis=axes.reduction, keepdims=True)
        layer = jnp.mean(channel, axis=axes.output, keepdims=True)
        variance = jnp.where(layer > 0, layer, 1 / axes.length(w.shape))
        variance = jnp.where(channel > 0, channel, variance)
        size = jnp.sqrt(_NOISE * variance).astype(dtype)
        moved = math.sqrt(1 - _NOISE) * w + size * noise
    return moved.astype(weight.dtype)


def _noise(key: jax.Array, like: jax.Array) -> jax.Array:
    """Of variance one, and uniform: what makes it normal takes long to compile."""
    bound = math.sqrt(3)
    if jnp.iscomplexobj(like):
        shape = (2, *like.shape)
        parts = jax.random.uniform(key, shape, like.real.dtype, -bound, bound)
        return math.sqrt(0.5) * jax.lax.complex(*parts)
    return jax.random.uniform(key, like.shape, like.dtype, -bound, bound)
