"""`layouts.output_first`: Equinox, and whatever else is in PyTorch's order.

The first axis is the output and all others are reduced. That is right for `Linear`,
`Conv` (grouped ones as well), `ConvTranspose`, `LSTMCell`, `GRUCell`,
`MultiheadAttention`, `MLP` and `Embedding` of `eqx.nn`, alone or in `WeightNorm` or
`SpectralNorm`. What has fewer than two axes is not projected, nor are biases, those of
convolutions, (out, 1, 1), included.

Neither shape nor, often, name tells the `weight` of a `LayerNorm` or `RMSNorm` over
several axes from that of a `Linear`: give it None in a tree. For layers stacked by
`eqx.filter_vmap` there is `layouts.stacked`. Where a name or a shape speaks for either,
`describe` warns. PyTorch's own transposed convolutions, (in, out / groups, *k), are
read by their first axis too, as the published package does.

Read off the layers of Equinox 0.13 (https://docs.kidger.site/equinox/api/nn/linear/).

Example:
  >>> import optax_adamp
  >>> from optax_adamp import layouts
  >>> layouts.output_first.read(("conv", "weight"), (16, 3, 5, 5)).spec
  ProjectionDimensionNumbers(reduction_axis=(1, 2, 3), output_axis=0, view='auto')
  >>> layouts.output_first.read(("conv", "bias"), (16, 1, 1))
  Reading(spec=None, why='named bias', warning='')
  >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layouts.output_first)
"""

import math

from optax_adamp._rules import (
    Doubt,
    Reading,
    Rule,
    Shape,
    doubt_in_channels,
    doubt_in_convolution,
    plain_name,
    without_channels,
)
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names


def _read_output_first(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    # `WeightNorm` holds the lengths of the channels: (out, 1, ...), or with another
    # axis than the first (1, in, ...).
    if plain_name(names) == "g" and sum(size != 1 for size in shape) < 2:
        return Reading(None, "named g, one number per channel")
    axes = tuple(range(len(shape)))
    spec = ProjectionDimensionNumbers(axes[1:], axes[0])
    return Reading(spec, "first axis", Doubt(_doubt_in_output_first, names, shape))


def _doubt_in_output_first(names: Names, shape: Shape) -> str:
    """Why the first axis may not be the output; changes no step."""
    # A layer with one input has such a weight, too.
    weights = ("weight", "weights") if len(shape) == 2 else ()
    return doubt_in_channels(
        names, math.prod(shape[1:]), weights
    ) or doubt_in_convolution(names, shape[1], shape[2:], channels="the first")


output_first = Rule("layouts.output_first", _read_output_first)
