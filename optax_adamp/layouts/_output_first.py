"""`layouts.output_first`: Equinox, and whatever else is in PyTorch's order.

The first axis is the output and all others are reduced. That is right for `Linear`,
`Conv` (grouped ones as well), `ConvTranspose`, `LSTMCell`, `GRUCell`,
`MultiheadAttention`, `MLP` and `Embedding` of `eqx.nn`, alone or in `WeightNorm` or
`SpectralNorm`. What has fewer than two axes is not projected, nor are biases, those of
convolutions, (out, 1, 1), included.

Neither name nor shape tells the `weight` of a `LayerNorm` or `RMSNorm` over several
axes from that of a `Linear`: give it None in a tree. For layers stacked by
`eqx.filter_vmap` there is `layouts.stacked`. PyTorch's own transposed convolutions,
(in, out / groups, *k), are read by their first axis too, as the published package does.

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

from optax_adamp._rules import Reading, Rule, Shape, without_channels
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names, own_name

# The second bias of `GRUCell` and the slope of `PReLU`.
_UNPROJECTED_NAMES = ("bias_n", "negative_slope")


def _read_output_first(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    name = own_name(names)
    if name in _UNPROJECTED_NAMES:
        return Reading(None, f"named {name}")
    # `WeightNorm` holds the lengths of the channels: (out, 1, ...), or with another
    # axis than the first (1, in, ...).
    if name == "g" and sum(size > 1 for size in shape) < 2:
        return Reading(None, "named g, one number per channel")
    axes = tuple(range(len(shape)))
    return Reading(ProjectionDimensionNumbers(axes[1:], axes[0]), "first axis")


output_first = Rule("layouts.output_first", _read_output_first)
