"""The shapes of parameters, and those of networks in use, without values."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_adamp import ProjectionDimensionNumbers, layouts
from optax_adamp._mesh_axes import OWN
from optax_adamp._parameters import resolve_parameters
from optax_adamp._trees import format_path, named_leaves


class Spec(ProjectionDimensionNumbers):
    """A spec that has a single axis as a number, as the functions of layouts do."""

    def __new__(cls, reduction_axis, output_axis, view="auto"):
        def axes(several):
            is_single = isinstance(several, tuple) and len(several) == 1
            return several[0] if is_single else several

        return super().__new__(cls, axes(reduction_axis), axes(output_axis), view)


def matrices(*shapes: tuple[int, ...], dtype: Any = jnp.float32) -> list[Any]:
    """Parameters of the given shapes."""
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by path."""
    return {format_path(names): leaf.shape for names, leaf in named_leaves(tree)}


def resnet50() -> dict[str, Any]:
    """The 161 parameters of ResNet-50, 25.6 million numbers, in Flax's layout."""

    def convolution(size: int, inputs: int, outputs: int) -> dict[str, Any]:
        return {
            **_dict(kernel=(size, size, inputs, outputs)),
            # Of the normalization that follows
            **_dict(scale=(outputs,), bias=(outputs,)),
        }

    tree: dict[str, Any] = {"stem": convolution(7, 3, 64)}
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            convolutions = {
                "conv0": convolution(1, inputs, width),
                "conv1": convolution(3, width, width),
                "conv2": convolution(1, width, 4 * width),
            }
            if block == 0:
                convolutions["shortcut"] = convolution(1, inputs, 4 * width)
            tree[f"stage{stage}_block{block}"] = convolutions
            inputs = 4 * width
    return {**tree, "head": _dict(kernel=(inputs, 1000), bias=(1000,))}


def gpt2(
    *,
    scanned: bool,
    layers: int = 12,
    width: int = 768,
    vocabulary: int = 50257,
    context: int = 1024,
) -> dict[str, Any]:
    """The parameters of GPT-2 small, 124 million numbers.

    Scanned, every array of its blocks has all layers along the first axis. Otherwise
    each layer has arrays of its own.
    """

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return _dict(kernel=(inputs, outputs), bias=(outputs,))

    def norm() -> dict[str, Any]:
        return _dict(scale=(width,), bias=(width,))

    block = {
        "norm0": norm(),
        "qkv": dense(width, 3 * width),
        "out": dense(width, width),
        "norm1": norm(),
        "up": dense(width, 4 * width),
        "down": dense(4 * width, width),
    }
    if scanned:
        blocks: Any = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((layers, *leaf.shape), leaf.dtype), block
        )
    else:
        blocks = {f"{layer}": block for layer in range(layers)}
    return {
        **_dict(tokens=(vocabulary, width), positions=(context, width)),
        "blocks": blocks,
        "norm": norm(),
    }


def gpt2_dimension_numbers(*, scanned: bool) -> dict[str, Any]:
    """The axes of GPT-2's parameters."""
    of_embedding = ProjectionDimensionNumbers(reduction_axis=1, output_axis=0)
    plain = layouts.output_last
    return {
        "tokens": of_embedding,
        "positions": of_embedding,
        "blocks": layouts.stacked(plain, axis=0) if scanned else plain,
        "norm": plain,
    }


def fixed_views(dimension_numbers: Any) -> Callable[[Any], Any]:
    """What detection gives where all kernels are scale-invariant: the channel view."""

    def specs(params: Any) -> Any:
        parameters = resolve_parameters({"params": params}, dimension_numbers, OWN)
        return jax.tree.structure(params).unflatten(
            axes and axes.spec()._replace(view="channel")
            for axes in (parameter.axes for parameter in parameters)
        )

    return specs


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _dict(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
