"""Which axes of a parameter form a channel: the one door for `dimension_numbers`."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

import jax.numpy as jnp

from optax_adamp._trees import (
    Entry,
    Names,
    call_if_function,
    format_path,
    is_absent,
    match_prefix,
)

# Leaves with these names have one number per channel, never a vector. When layers are
# stacked they have two axes or more, so that their shape does not show it.
_UNPROJECTED_NAMES = ("bias", "scale")

_VIEWS = ("auto", "channel", "layer")


class ProjectionDimensionNumbers(NamedTuple):
    """Which axes of a parameter form a channel.

    A channel is the set of weights that produce one output: the vector whose direction
    counts when normalization follows. Output axes index the channels and reduction
    axes run along one. All other axes are batch axes, such as stacked layers or
    experts: every batch element is decided, projected and decayed by itself.

    Attributes:
      reduction_axis: The axis or axes along a channel; negative ones count from the
        end. The input axes of a kernel, with the spatial ones.
      output_axis: The axis or axes that index the channels.
      view: `"auto"` tests at every step whether the channels, or else the whole layer,
        look scale-invariant, as published. `"channel"` and `"layer"` fix the view
        without a test, for a weight known to be scale-invariant.

    Example:
      Kernels of Flax's attention have the shape (features, heads, head size):

      >>> import optax_adamp
      >>> query = optax_adamp.ProjectionDimensionNumbers(0, (1, 2))
      >>> query.view
      'auto'

      The same, stacked over layers along the first axis:

      >>> stacked = optax_adamp.ProjectionDimensionNumbers(1, (2, 3))
    """

    reduction_axis: Sequence[int] | int
    output_axis: Sequence[int] | int
    view: Literal["auto", "channel", "layer"] = "auto"


# One spec, a tree or prefix tree of specs and None, or a function from params to one.
DimensionNumbers = Any | Callable[[Any], Any]


class Axes(NamedTuple):
    """A spec that was checked against a shape: axes are sorted and not negative."""

    reduction: tuple[int, ...]
    output: tuple[int, ...]
    view: str


def resolve_axes(
    dimension_numbers: DimensionNumbers | None,
    params: Any,
    leaves: list[tuple[Names, Any]],
) -> list[Axes | None]:
    """The axes of each leaf; None for those that are not projected.

    Args:
      dimension_numbers: The argument of `scale_by_projection`.
      params: What a function is called with.
      leaves: Names and leaves of the params, with None where one is absent.

    Raises:
      ValueError: If a spec does not fit its parameter, or a tree the params.
    """
    if dimension_numbers is None:
        return [_default_axes(names, leaf) for names, leaf in leaves]
    specs = match_prefix(
        call_if_function(dimension_numbers, params, is_leaf=_is_entry),
        leaves,
        argument="dimension_numbers",
        is_leaf=_is_entry,
    )
    return [
        _spec_axes(entry, names, leaf)
        for (names, leaf), entry in zip(leaves, specs, strict=True)
    ]


def _is_spec(node: Any) -> bool:
    return hasattr(node, "reduction_axis") and hasattr(node, "output_axis")


def _is_entry(node: Any) -> bool:
    return node is None or _is_spec(node)


def _has_no_channels(names: Names, leaf: Any) -> bool:
    return (
        is_absent(leaf)
        or jnp.ndim(leaf) < 2
        or (bool(names) and names[-1] in _UNPROJECTED_NAMES)
    )


def _default_axes(names: Names, leaf: Any) -> Axes | None:
    """The layout of Flax and Haiku: the last axis is the output."""
    if _has_no_channels(names, leaf):
        return None
    last = jnp.ndim(leaf) - 1
    return Axes(reduction=tuple(range(last)), output=(last,), view="auto")


def _spec_axes(entry: Entry, names: Names, leaf: Any) -> Axes | None:
    """What the entry for a leaf says of it."""
    spec = entry.value
    if spec is None:
        return None
    shape = jnp.shape(leaf)
    place = f"dimension_numbers of {format_path(names)}, an array of shape {shape}"
    if not _is_spec(spec):
        raise ValueError(
            f"{place}, must be a ProjectionDimensionNumbers, or None for a parameter "
            f"that is not projected, but got {spec!r}."
        )
    if not entry.exact and _has_no_channels(names, leaf):
        # What covers many parameters tells how those with channels are laid out. What
        # stands at a parameter's own place is meant for it, and must fit.
        return None
    return _count_from_front(spec, shape, place)


def _count_from_front(spec: Any, shape: tuple[int, ...], place: str) -> Axes:
    """The axes of a spec, checked against the shape, without negative numbers."""

    def count(axes: Sequence[int] | int) -> tuple[int, ...]:
        axes = tuple(axes) if isinstance(axes, Sequence) else (axes,)
        for axis in axes:
            if not isinstance(axis, SupportsIndex):
                raise ValueError(f"{place}: axis {axis!r} of {spec} is not an integer.")
            if not -len(shape) <= operator.index(axis) < len(shape):
                raise ValueError(
                    f"{place}: axis {axis} of {spec} is out of range for {len(shape)} "
                    "axes."
                )
        return tuple(sorted(operator.index(axis) % len(shape) for axis in axes))

    reduction = count(spec.reduction_axis)
    output = count(spec.output_axis)
    if len({*reduction, *output}) < len(reduction) + len(output):
        raise ValueError(
            f"{place}: {spec} names an axis more than once. Each axis is a reduction "
            "axis, an output axis or, if left out, a batch axis."
        )
    view = getattr(spec, "view", "auto")
    if view not in _VIEWS:
        raise ValueError(
            f"{place}: the view of {spec} must be one of {', '.join(_VIEWS)}."
        )
    return Axes(reduction, output, view)
