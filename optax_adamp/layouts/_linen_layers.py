"""What the layers of Flax Linen say of the parameters that they hold."""

from collections.abc import Callable, Sized
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from flax import linen as nn

from optax_adamp._rules import Reading
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names
from optax_adamp.layouts import _kernels


class Call(NamedTuple):
    """The arguments of a method, less `self`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Claim(NamedTuple):
    """What a layer says of a parameter."""

    reading: Reading | None
    problem: str = ""  # Why there is no reading.


# From a layer, the number of axes of its kernel, without stacked ones, and the call
# that used it; None if that many axes do not fit the layer.
Kernel = Callable[[Any, int, Call], ProjectionDimensionNumbers | None]


def claim(layer: nn.Module, names: Names, axes: int, call: Call) -> Claim | None:
    """What a layer says of a parameter; None if it is not a parameter of that layer.

    Args:
      layer: Any module.
      names: The path of the parameter from there.
      axes: How many axes the parameter has for the layer.
      call: How the layer was called.
    """
    layer_type = next((known for known in _LAYERS if isinstance(layer, known)), None)
    if layer_type is None:
        return None
    parameters = _LAYERS[layer_type]
    pattern = next((glob for glob in parameters if _matches(names, glob)), None)
    if pattern is None:
        return None
    kernel = parameters[pattern]
    name = names[-1].rpartition("/")[-1]
    why = f"{layer_type.__name__}.{name}"
    if kernel is None:
        return Claim(Reading(None, why))
    spec = kernel(layer, axes, call)
    if spec is None:
        return Claim(None, f"this is not a {name} as {layer_type.__name__} has it")
    if not (spec.reduction_axis or spec.output_axis):
        return Claim(Reading(None, f"{why} without sums or channels"))
    return Claim(Reading(spec, why))


def _matches(names: Names, pattern: Names) -> bool:
    return len(names) == len(pattern) and all(map(fnmatchcase, names, pattern))


def _count(sizes: int | Sized) -> int:
    return len(sizes) if isinstance(sizes, Sized) else 1


def _dense(layer: nn.Module, axes: int, call: Call) -> Any:
    return _kernels.dense_general(0, 1, 1) if axes == 2 else None


def _dense_general(layer: nn.DenseGeneral, axes: int, call: Call) -> Any:
    numbers = (_count(layer.batch_dims), _count(layer.axis), _count(layer.features))
    return _kernels.dense_general(*numbers) if axes == sum(numbers) else None


def _einsum(layer: nn.Einsum, axes: int, call: Call) -> Any:
    given = [layer.einsum_str, call.kwargs.get("einsum_str"), *call.args[1:]]
    equations = [equation for equation in given if isinstance(equation, str)]
    return _kernels.einsum(equations[0], axes) if equations else None


def _convolution(layer: nn.Conv, axes: int, call: Call) -> Any:
    spatial = _count(layer.kernel_size)
    return _kernels.convolution(spatial) if axes == spatial + 2 else None


def _transposed_convolution(layer: nn.ConvTranspose, axes: int, call: Call) -> Any:
    spatial, transposed = _count(layer.kernel_size), layer.transpose_kernel
    fits = axes == spatial + 2
    return _kernels.convolution(spatial, transposed=transposed) if fits else None


def _local_convolution(layer: nn.ConvLocal, axes: int, call: Call) -> Any:
    spatial = _count(layer.kernel_size)
    return _kernels.local_convolution(spatial) if axes == spatial + 2 else None


def _embedding(layer: nn.Embed, axes: int, call: Call) -> Any:
    return _kernels.embedding() if axes == 2 else None


# Globs of the names on the path of a parameter from its layer; None: never projected.
_Parameters = dict[Names, Kernel | None]


def _with_bias(kernel: Kernel) -> _Parameters:
    return {("kernel",): kernel, ("bias",): None}


_NORM: _Parameters = {("scale",): None, ("bias",): None}

# Attention and recurrent cells are made of these layers.
_LAYERS: dict[type[nn.Module], _Parameters] = {
    nn.Dense: _with_bias(_dense),
    nn.DenseGeneral: _with_bias(_dense_general),
    nn.Einsum: _with_bias(_einsum),
    nn.Conv: _with_bias(_convolution),
    nn.ConvTranspose: _with_bias(_transposed_convolution),
    nn.ConvLocal: _with_bias(_local_convolution),
    nn.Embed: {("embedding",): _embedding},
    # Its gates are held by modules of a type that Flax does not export.
    nn.OptimizedLSTMCell: {
        ("[ih][ifgo]", "kernel"): _dense,
        ("[ih][ifgo]", "bias"): None,
    },
    nn.BatchNorm: _NORM,
    nn.LayerNorm: _NORM,
    nn.RMSNorm: _NORM,
    nn.GroupNorm: _NORM,
    nn.InstanceNorm: _NORM,
    # One name that holds the path of the kernel that it scales.
    nn.WeightNorm: {("*/scale",): None},
    nn.PReLU: {("negative_slope",): None},
}
