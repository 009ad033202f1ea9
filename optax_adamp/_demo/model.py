"""A perceptron with BatchNorm, in Flax NNX."""

from itertools import pairwise
from typing import Any

import jax
from flax import nnx

WIDTH = 128
DEPTH = 3
CLASSES = 10


class Block(nnx.Module):
    """A scale-invariant layer: BatchNorm undoes any change of the kernel's norm."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        # BatchNorm brings a bias of its own.
        self.linear = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
        # An epoch has some twenty steps: the default of 0.99 would lag behind for long.
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nnx.relu(self.norm(self.linear(x), use_running_average=not train))


class Perceptron(nnx.Module):
    """`DEPTH` blocks, then a linear layer whose scale does matter."""

    def __init__(self, pixels: int, *, rngs: nnx.Rngs):
        widths = [pixels] + [WIDTH] * DEPTH
        self.blocks = nnx.List(
            [Block(inputs, outputs, rngs=rngs) for inputs, outputs in pairwise(widths)]
        )
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for block in self.blocks:
            x = block(x, train=train)
        return self.head(x)


def scale_invariant_kernels(params: Any) -> list[jax.Array]:
    """The kernels that feed a BatchNorm, each of shape (inputs, channels)."""
    return [block["linear"]["kernel"][...] for block in params["blocks"].values()]
