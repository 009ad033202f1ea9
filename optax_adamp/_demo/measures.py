"""What the demo measures on the parameters of one network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_adamp import measure
from optax_adamp._demo.model import scale_invariant_kernels
from optax_adamp._demo.optimizers import DELTA, EPS


class Shares(NamedTuple):
    """How often a parameter was projected in each view, from 0 to 1."""

    channel: Any
    layer: Any


def kernel_norms(params: Any) -> jax.Array:
    """The norm of each scale-invariant kernel."""
    kernels = scale_invariant_kernels(params)
    norms: list[jax.Array] = [jnp.linalg.norm(kernel) for kernel in kernels]
    return jnp.stack(norms)


def effective_step(before: Any, after: Any) -> jax.Array:
    """How far a step moved the directions of the weights, all that the loss sees.

    The distance between the unit vectors of a channel before and after, averaged over
    channels and then over the scale-invariant kernels.
    """

    def directions(kernel: jax.Array) -> jax.Array:
        return kernel / jnp.linalg.norm(kernel, axis=0)

    distances: list[jax.Array] = [
        jnp.linalg.norm(directions(new) - directions(old), axis=0)
        for old, new in zip(
            scale_invariant_kernels(before), scale_invariant_kernels(after), strict=True
        )
    ]
    return jnp.mean(jnp.stack([jnp.mean(distance) for distance in distances]))


def views_of_step(params: Any, grads: Any) -> dict[str, Shares]:
    """The view that a projection takes at this step; never projected ones left out."""
    measured = measure(grads, params, delta=DELTA, eps=EPS)
    return {
        path: Shares(leaf.channel_projected, leaf.layer_projected)
        for path, leaf in measured.leaves.items()
        if leaf.channel_projected is not None
    }
