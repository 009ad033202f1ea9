"""What an optimizer is given: parameters and gradients of a size, with values."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import trees


class Problem(NamedTuple):
    """Parameters as an optimizer finds them in training."""

    params: Any  # float32
    grads: Any
    dimension_numbers: Any


# Name to shapes and axes, small enough for a look in a second.
QUICK = {"2 × 64²": (lambda: trees.matrices(*[(64, 64)] * 2), None)}
FULL = {
    "ResNet-50": (trees.resnet50, None),
    "GPT-2 small": (
        lambda: trees.gpt2(scanned=False),
        trees.gpt2_dimension_numbers(scanned=False),
    ),
    "GPT-2 small, scanned": (
        lambda: trees.gpt2(scanned=True),
        trees.gpt2_dimension_numbers(scanned=True),
    ),
    "50 × 256²": (lambda: trees.matrices(*[(256, 256)] * 50), None),
    "8192²": (lambda: trees.matrices((8192, 8192)), None),
}


def make_problem(shapes: Any, dimension_numbers: Any) -> Problem:
    """Random weights, and gradients as behind a normalization: orthogonal to them.

    So the projection has something to do in every channel. What `optax_adamp` does is
    the same for any gradient; ports that branch take their shortest way here.
    """
    leaves, treedef = jax.tree.flatten(shapes)

    @functools.partial(jax.jit, static_argnums=1)
    def make(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        weight, grad = 0.02 * jax.random.normal(key, (2, *shape))
        if weight.ndim > 1:
            inner = functools.partial(jnp.sum, axis=-2, keepdims=True)
            grad -= weight * inner(weight * grad) / inner(weight**2)
        return weight, grad

    keys = jax.random.split(jax.random.key(0), len(leaves))
    made = [make(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params, grads = zip(*made, strict=True)
    return Problem(
        jax.tree.unflatten(treedef, params),
        jax.tree.unflatten(treedef, grads),
        dimension_numbers,
    )
