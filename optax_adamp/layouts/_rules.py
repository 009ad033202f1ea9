"""Rules: how all parameters of a library are laid out, told by path and shape."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from optax_adamp._axes import ProjectionDimensionNumbers, Shape
from optax_adamp._trees import Names
from optax_adamp.layouts._names import (
    ASK,
    doubt_in_channels,
    doubt_in_convolution,
    looks_like_embedding,
    plain_name,
    without_channels,
)


class Reading(NamedTuple):
    """How one parameter is read, and what a table says of it."""

    spec: Any | None  # None: not projected.
    why: str
    # Why the reading may be wrong; empty if there is no doubt. A function where that
    # takes a look at the sizes: no step needs it, and sizes may be symbolic.
    warning: str | Callable[[], str] = ""


# A class rather than a closure: equal arguments make equal readings.
@dataclasses.dataclass(frozen=True)
class Doubt:
    """A warning about a parameter that is worked out when it is asked for."""

    look: Callable[..., str]
    arguments: tuple[Any, ...]

    def __call__(self) -> str:
        return self.look(*self.arguments)


@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """Tells the axes of parameters from their paths and shapes.

    A rule is no function of the params and not callable, or
    :func:`optax.inject_hyperparams` would take it for a schedule. It stands wherever a
    :class:`~optax_adamp.ProjectionDimensionNumbers` may: alone, or in a tree above the
    parameters that it is for.

    Attributes:
      name: What tables call it.
      read: From the names along a path and a shape to a reading.
      patterns: Globs of paths; each must match a parameter that the rule is used on.

    Example:
      >>> from optax_adamp import layouts
      >>> layouts.output_first.read(("conv", "weight"), (16, 3, 5, 5)).spec
      ProjectionDimensionNumbers(reduction_axis=(1, 2, 3), output_axis=0, view='auto')
      >>> layouts.output_first.read(("conv", "bias"), (16, 1, 1))
      Reading(spec=None, why='named bias', warning='')
    """

    name: str
    read: Callable[[Names, Shape], Reading]
    patterns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name


def _read_output_last(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    axes = tuple(range(len(shape)))
    spec = ProjectionDimensionNumbers(axes[:-1], axes[-1])
    return Reading(spec, "last axis", Doubt(_doubt_in_output_last, (names, shape)))


def _doubt_in_output_last(names: Names, shape: Shape) -> str:
    """Why the last axis may not be the output; empty if there is no reason to think so.

    Neither names nor shapes prove anything: what is said here changes no step.
    """
    if doubt := doubt_in_channels(names, math.prod(shape[:-1])):
        return doubt
    if len(shape) == 2 and looks_like_embedding(names, shape):
        return (
            "May be an embedding, whose rows are its vectors: give it "
            f"ProjectionDimensionNumbers(1, 0), or {ASK}"
        )
    return doubt_in_convolution(names, shape[-2], shape[:-2], channels="the last")


def _read_output_first(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    # `WeightNorm` holds the lengths of the channels: (out, 1, ...), or with another
    # axis than the first (1, in, ...).
    if plain_name(names) == "g" and sum(size != 1 for size in shape) < 2:
        return Reading(None, "named g, one number per channel")
    axes = tuple(range(len(shape)))
    spec = ProjectionDimensionNumbers(axes[1:], axes[0])
    return Reading(spec, "first axis", Doubt(_doubt_in_output_first, (names, shape)))


def _doubt_in_output_first(names: Names, shape: Shape) -> str:
    """Why the first axis may not be the output; changes no step."""
    # A layer with one input has such a weight, too.
    weights = ("weight", "weights") if len(shape) == 2 else ()
    return doubt_in_channels(
        names, math.prod(shape[1:]), weights
    ) or doubt_in_convolution(names, shape[1], shape[2:], channels="the first")


output_last = Rule("layouts.output_last", _read_output_last)
"""The last axis is the output and all others are reduced: the default.

That is right for dense layers and convolutions of Flax and Haiku. What has fewer than
two axes is not projected, nor are biases and scales, told by their names.
"""

output_first = Rule("layouts.output_first", _read_output_first)
"""The first axis is the output and all others are reduced, as in PyTorch and Equinox.

That is right for `Linear`, `Conv` (grouped ones as well), `ConvTranspose`, `LSTMCell`,
`GRUCell`, `MultiheadAttention`, `MLP` and `Embedding` of `eqx.nn`
(https://docs.kidger.site/equinox/api/nn/linear/), alone or in `WeightNorm` or
`SpectralNorm`. What has fewer than two axes is not projected, nor are biases, those of
convolutions, (out, 1, 1), included.

Neither shape nor, often, name tells the `weight` of a `LayerNorm` or `RMSNorm` over
several axes from that of a `Linear`: give it None in a tree. For layers stacked by
`eqx.filter_vmap` there is :func:`stacked`. Where a name or a shape speaks for either,
:func:`optax_adamp.describe` warns. PyTorch's own transposed convolutions, `(in, out /
groups, *k)`, are read by their first axis too, as the published package does.
"""
