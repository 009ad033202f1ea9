"""What the demo measures on the parameters of one network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_adamp._demo.model import scale_invariant_kernels
from optax_adamp._demo.optimizers import DELTA, EPS
from optax_adamp._dimension_numbers import resolve_dimension_numbers
from optax_adamp._projection import choose_view, view_sums
from optax_adamp._trees import format_path, named_leaves


class Shares(NamedTuple):
    """How often a parameter was projected in each view, from 0 to 1."""

    channel: Any
    layer: Any


def kernel_norms(params: Any) -> jax.Array:
    """The norm of each scale-invariant kernel."""
    kernels = scale_invariant_kernels(params)
    return jnp.stack([jnp.linalg.norm(kernel) for kernel in kernels])


def effective_step(before: Any, after: Any) -> jax.Array:
    """How far a step moved the directions of the weights, all that the loss sees.

    The distance between the unit vectors of a channel before and after, averaged over
    channels and then over the scale-invariant kernels.
    """

    def directions(kernel: jax.Array) -> jax.Array:
        return kernel / jnp.linalg.norm(kernel, axis=0)

    distances = [
        jnp.linalg.norm(directions(new) - directions(old), axis=0)
        for old, new in zip(
            scale_invariant_kernels(before), scale_invariant_kernels(after), strict=True
        )
    ]
    return jnp.mean(jnp.stack([jnp.mean(distance) for distance in distances]))


def views_of_step(params: Any, grads: Any) -> dict[str, Shares]:
    """The view that a projection takes at this step; never projected ones left out.

    The package tells nobody which view it took, so its own test is applied again.
    """
    weights = named_leaves(params)
    resolutions = resolve_dimension_numbers(None, params, weights)
    views = {}
    for (names, weight), grad, (axes, *_) in zip(
        weights, jax.tree.leaves(grads), resolutions, strict=True
    ):
        if axes is None:
            continue
        # The choice does not look at the update: the gradient can stand for it.
        channel, layer = view_sums(grad, grad, weight, axes)
        view = choose_view(channel, layer, axes, delta=DELTA, eps=EPS)
        views[format_path(names)] = Shares(jnp.mean(view.channel), jnp.mean(view.layer))
    return views
