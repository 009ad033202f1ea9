"""`layouts.haiku`: the modules of Haiku, told by the names that Haiku gives them.

The last axis is the output: of `w` in `hk.Linear` (hence of `hk.nets.MLP`, of
`hk.MultiHeadAttention`, and of the fused gates of `hk.LSTM` and `hk.VanillaRNN`), in
convolutions, grouped, depthwise and separable ones included, and of `w_i` and `w_h` in
`hk.GRU`. Otherwise,

- in `hk.Conv1DTranspose` and its kin `w` is (*k, out, in);
- in `hk.Embed` the rows of `embeddings` are vectors of their own, and in
  `hk.nets.VectorQuantizer` its columns;
- `b`, `scale` and `offset` are never projected, whatever their shape: `hk.BatchNorm`
  gives them the axes of its input, `hk.Bias` may have several;
- under `hk.layer_stack` each layer of the stack is one by itself, in nested stacks too.

A module that was given a name of its own does not show its class. A `w` with three axes
or more is then read as a convolution's, with a warning in the table of the axes, for it
might be transposed: give such a module a spec in a tree. Where `layer_stack` itself was
given a name, and for parameters that `jax.vmap` stacked, use `layouts.stacked`. A
module with its default name but too many axes raises an error that says so. Names that
no module of Haiku uses are read by their last axis, with a warning.

Read off the modules of Haiku 0.0.17 (https://dm-haiku.readthedocs.io/en/latest/api.html).

Example:
  >>> import optax_adamp
  >>> from optax_adamp import layouts
  >>> layouts.haiku.read(("decoder/~/conv2_d_transpose_1", "w"), (4, 4, 8, 16)).spec
  ProjectionDimensionNumbers(reduction_axis=(0, 1, 3), output_axis=2, view='auto')
  >>> layouts.haiku.read(("batch_norm", "scale"), (1, 8))
  Reading(spec=None, why='named scale', warning='')
  >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layouts.haiku)

  A transposed convolution with a name of its own, in an autoencoder:

  >>> tree = {
  ...     "encoder": layouts.haiku,
  ...     "upsample": optax_adamp.ProjectionDimensionNumbers((0, 1, 3), 2),
  ... }
"""

import functools
import re

from optax_adamp._rules import Reading, Rule, Shape, output_last, without_channels
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names, format_path
from optax_adamp.layouts._kernels import convolution, embedding
from optax_adamp.layouts._stacked import read_stacked

# Beside those that no library projects.
_UNPROJECTED_NAMES = ("b", "offset")

# Classes that show in a default name, and what the axes of their `w` then are.
_CONVOLUTION = re.compile(r"(depthwise_)?conv([123])_d(_transpose)?")
# Names in `hk.ConvND`, `hk.nets.ResNet`, `hk.nets.MobileNetV1` and `hk.Conv2DLSTM`.
_CONVOLUTION_OF_ANY_RANK = re.compile(
    r"conv_nd(_transpose)?|((initial|shortcut|depthwise|pointwise)_)?conv"
    r"|(input|hidden)_to_hidden"
)


def _read_haiku(names: Names, shape: Shape) -> Reading:
    modules = "/".join(names[:-1]).split("/")
    stacks = sum(module.startswith("__layer_stack_") for module in modules)
    read = _read_layer
    for _ in range(stacks):
        read = functools.partial(read_stacked, read, 0)
    return read(names, shape)


def _read_layer(names: Names, shape: Shape) -> Reading:
    """A parameter of one layer, without the axes of the stacks around it."""
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    *modules, name = "/".join(names).split("/")
    if name in _UNPROJECTED_NAMES:
        return Reading(None, f"named {name}")
    # Haiku numbers modules of one name.
    module = re.sub(r"_\d+$", "", modules[-1]) if modules else ""
    if name == "w":
        return _read_w(module, names, shape)
    if name in ("w_i", "w_h") and len(shape) == 2:
        return Reading(ProjectionDimensionNumbers(0, 1), "fused gates")
    if name == "embeddings" and len(shape) == 2:
        return _read_embeddings(module)
    return output_last.read(names, shape)._replace(
        warning=f"Haiku has no parameter {name!r}; its last axis was taken as output."
    )


def _read_w(module: str, names: Names, shape: Shape) -> Reading:
    axes, warning = len(shape), ""
    if match := _CONVOLUTION.fullmatch(module):
        _check_axes(names, shape, expected=int(match[2]) + 2)
    elif module == "linear":
        _check_axes(names, shape, expected=2)
    if axes == 2:
        return Reading(ProjectionDimensionNumbers(0, 1), "w (in, out)")
    transposed = module.endswith("_transpose")
    order = "w (*k, out, in)" if transposed else "w (*k, in, out)"
    if not match and not _CONVOLUTION_OF_ANY_RANK.fullmatch(module):
        warning = (
            f"{module!r} is no default name of a convolution; read as {order}. Give it "
            "a spec if it is of another kind, and see layouts.stacked for layers that "
            "are stacked."
        )
    return Reading(convolution(axes - 2, transposed=transposed), order, warning)


def _read_embeddings(module: str) -> Reading:
    if module == "vector_quantizer":
        return Reading(ProjectionDimensionNumbers(0, 1), "codebook (features, entries)")
    warning = (
        ""
        if "embed" in module
        else f"{module!r} is no default name of an embedding; read as (entries, "
        "features). hk.nets.VectorQuantizer has (features, entries)."
    )
    return Reading(embedding(), "embeddings (entries, features)", warning)


def _check_axes(names: Names, shape: Shape, expected: int) -> None:
    """A default name that contradicts the shape: to go on would be wrong for sure."""
    if len(shape) != expected:
        raise ValueError(
            f"layouts.haiku: {format_path(names)}, an array of shape {shape}, should "
            f"have {expected} axes by the default name of its module. If its layers "
            "are stacked, use layouts.stacked(layouts.haiku, where=...); otherwise "
            "give it a spec in a tree of dimension numbers."
        )


haiku = Rule("layouts.haiku", _read_haiku)
