"""Weights near the given ones: the same for one seed, other ones for each draw."""

import functools
import math
from typing import Any

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
      draw: The number of this one.
    """
    words = [
        np.random.SeedSequence((int(seed) % 2**64, draw, index)).generate_state(2)
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
    """One weight, with noise that two words of 32 bits determine."""
    dtype = dtype_of_sums(weight)
    w = weight.astype(dtype)
    factors = 0.5 + _uniform(w, words[0])
    noise = math.sqrt(12) * (factors - 1)
    if jnp.iscomplexobj(w):
        imaginary = math.sqrt(12) * (_uniform(w, words[1]) - 0.5)
        noise = math.sqrt(0.5) * jax.lax.complex(noise, imaginary)
    if axes is None:
        # Numbers that must be positive, such as a temperature, stay so.
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


def _uniform(like: jax.Array, word: jax.Array) -> jax.Array:
    """Numbers from 0 to below 1, one for each place of an array.

    A counter with its bits mixed as at the end of MurmurHash3, which is noise enough.
    Compilers take longer over the generators of JAX.
    """
    # Place by place, so that an array in parts needs no counter as a whole.
    counter = jnp.zeros(like.shape, jnp.uint32)
    for axis in range(like.ndim):
        stride = np.uint32(math.prod(like.shape[axis + 1 :]) % 2**32)
        places = jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis)
        counter += stride * places
    bits = _mix(_mix(counter) ^ word)
    # As many bits as float32 holds.
    return (bits >> 8).astype(jnp.real(like).dtype) * 2.0**-24


def _mix(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
