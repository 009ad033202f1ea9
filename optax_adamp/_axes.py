"""Which axes of one parameter form a channel: the spec, and its check on a shape."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

Shape = tuple[int, ...]

View = Literal["auto", "channel", "layer"]

_VIEWS = get_args(View)


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
        without a test, for a weight known to be scale-invariant; a step then takes
        two sums of each vector in the place of four, and compiles sooner.

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
    view: View = "auto"


class Spec(Protocol):
    """Anything that says the same, such as Optax's `MuonDimensionNumbers`."""

    @property
    def reduction_axis(self) -> Sequence[int] | int: ...

    @property
    def output_axis(self) -> Sequence[int] | int: ...


class Axes(NamedTuple):
    """A spec that was checked against a shape: axes are sorted and not negative."""

    reduction: tuple[int, ...]
    output: tuple[int, ...]
    view: View
    # The mesh axes of an enclosing shard_map that cut the axes above into parts.
    reduction_mesh: tuple[str, ...] = ()
    output_mesh: tuple[str, ...] = ()

    def batch(self, shape: Shape) -> tuple[int, ...]:
        """All other axes of an array of this shape."""
        inside = {*self.reduction, *self.output}
        return tuple(axis for axis in range(len(shape)) if axis not in inside)

    def length(self, shape: Shape) -> int:
        """How many numbers of an array of this shape a channel has."""
        return math.prod(shape[axis] for axis in self.reduction)

    def channels(self, shape: Shape) -> int:
        """How many channels a batch element of an array of this shape has."""
        return math.prod(shape[axis] for axis in self.output)

    def moved(self, places: Sequence[int]) -> "Axes":
        """The axes of an array in which axis `i` of this one is axis `places[i]`."""
        return self._replace(
            reduction=tuple(places[axis] for axis in self.reduction),
            output=tuple(places[axis] for axis in self.output),
        )

    def spec(self) -> ProjectionDimensionNumbers:
        """The spec as one would write it: a single axis is a number."""

        def short(axes: tuple[int, ...]) -> tuple[int, ...] | int:
            return axes[0] if len(axes) == 1 else axes

        return ProjectionDimensionNumbers(
            short(self.reduction), short(self.output), self.view
        )


def is_spec(node: Any) -> bool:
    """Whether a node of a tree is a spec, one of another library included."""
    return hasattr(node, "reduction_axis") and hasattr(node, "output_axis")


def count_from_front(spec: Any, shape: Shape, place: Callable[[], str]) -> Axes:
    """The axes of a spec, checked against the shape, without negative numbers.

    Args:
      spec: The spec of one parameter.
      shape: The shape of the parameter.
      place: Gives what errors start with: where the spec came from and what it is for.

    Raises:
      ValueError: If the spec does not fit the shape, or contradicts itself.
    """

    def count(axes: Sequence[Any] | int) -> tuple[int, ...]:
        axes = axes if isinstance(axes, Sequence) else (axes,)
        for axis in axes:
            if not hasattr(axis, "__index__"):
                raise ValueError(
                    f"{place()}: axis {axis!r} of {spec} is not an integer."
                )
            if not -len(shape) <= operator.index(axis) < len(shape):
                raise ValueError(
                    f"{place()}: axis {axis} of {spec} is out of range for "
                    f"{len(shape)} axes."
                )
        return tuple(sorted(operator.index(axis) % len(shape) for axis in axes))

    reduction = count(spec.reduction_axis)
    output = count(spec.output_axis)
    if len({*reduction, *output}) < len(reduction) + len(output):
        raise ValueError(
            f"{place()}: {spec} names an axis more than once. Each axis is a reduction "
            "axis, an output axis or, if left out, a batch axis."
        )
    view: Any = getattr(spec, "view", "auto")
    if view not in _VIEWS:
        raise ValueError(
            f"{place()}: the view of {spec} must be one of {', '.join(_VIEWS)}."
        )
    return Axes(reduction, output, view)
