"""Rules for layers that are stacked in one array, from rules for a single layer."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

from optax_adamp._axes import (
    ProjectionDimensionNumbers,
    Shape,
    count_from_front,
    is_spec,
)
from optax_adamp._trees import Names, format_array, path_matches
from optax_adamp.layouts._names import doubt_without_name, without_channels
from optax_adamp.layouts._rules import Doubt, Reading, Rule


def stacked(rule: Any, axis: int = 0, where: str | Sequence[str] | None = None) -> Rule:
    """A rule for parameters of several layers that are stacked along a new axis.

    `rule` reads each parameter without that axis, as if it belonged to one layer. The
    axis then is a batch axis: every layer is decided, projected and decayed by itself.
    This is for layers made under :func:`jax.vmap` or for :func:`jax.lax.scan`, such as
    an Equinox module of `eqx.filter_vmap`, ensembles, or experts. Stacks of stacks are
    `stacked(stacked(rule))`, where the outer axis is the one that was added last.

    Args:
      rule: A rule of `optax_adamp.layouts`, or one
        :class:`~optax_adamp.ProjectionDimensionNumbers` for all kernels of a layer.
      axis: The axis that the layers are stacked along; negative ones count from the
        end.
      where: A glob, or several, of the paths of what is stacked, as in
        `"blocks/*"`, where `*` stands for any characters, slashes included. All other
        parameters are read by `rule` as they are. By default everything is stacked.

    Returns:
      A rule, for `dimension_numbers` alone or in a tree. It raises a `ValueError` for
      a parameter without the axis, and if a glob matches no parameter.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_adamp
      >>> from optax_adamp import layouts
      >>> params = {
      ...     "blocks": {"weight": jnp.ones((12, 64, 32)), "bias": jnp.ones((12, 64))},
      ...     "head": {"weight": jnp.ones((10, 64))},
      ... }
      >>> rule = layouts.stacked(layouts.output_first, where="blocks/*")
      >>> rule.read(("blocks", "weight"), (12, 64, 32)).spec
      ProjectionDimensionNumbers(reduction_axis=(2,), output_axis=(1,), view='auto')
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=rule)
    """
    if not isinstance(rule, Rule):
        rule = _rule_of_spec(rule)
    axis = operator.index(axis)
    patterns = (where,) if isinstance(where, str) else tuple(where or ())
    told = f", where={list(patterns)}" if patterns else ""
    return Rule(
        f"layouts.stacked({rule}, axis={axis}{told})",
        _Stacked(rule.read, axis, None if where is None else patterns),
        patterns + rule.patterns,
    )


def stacked_along(axes: Sequence[int]) -> str:
    """What tables say of an array with layers along these axes of it.

    Example:
      >>> stacked_along([1, 0])
      'stacked along axes 0, 1'
    """
    number = "axis" if len(axes) == 1 else "axes"
    return f"stacked along {number} {', '.join(map(str, sorted(axes)))}"


# Classes rather than closures: equal arguments make equal rules, which can be pickled.
@dataclasses.dataclass(frozen=True)
class _Stacked:
    read: Callable[[Names, Shape], Reading]
    axis: int
    where: tuple[str, ...] | None

    def __call__(self, names: Names, shape: Shape) -> Reading:
        reading, axes = self.read_with_axes(names, shape)
        if reading.spec is None or not axes:
            return reading
        return reading._replace(why=f"{reading.why}, {stacked_along(axes)}")

    def read_with_axes(
        self, names: Names, shape: Shape
    ) -> tuple[Reading, tuple[int, ...]]:
        """The reading, and all axes that layers are stacked along."""
        if not self.covers(names):
            return self.read_layer(names, shape)

        def place() -> str:
            return f"layouts.stacked: {format_array(names, shape)}"

        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(
                f"{place()}, has no axis {self.axis} that layers could be stacked "
                "along. Tell the paths of what is stacked by `where`."
            )
        axis = self.axis % len(shape)
        layer = shape[:axis] + shape[axis + 1 :]
        reading, inner = self.read_layer(names, layer)
        places = [a + (a >= axis) for a in range(len(layer))]
        stacked_axes = (axis, *(places[a] for a in inner))
        if reading.spec is None:
            return reading, stacked_axes
        axes = count_from_front(
            reading.spec, layer, lambda: f"{place()}, without axis {axis}"
        ).moved(places)
        spec = ProjectionDimensionNumbers(axes.reduction, axes.output, axes.view)
        return reading._replace(spec=spec), stacked_axes

    def covers(self, names: Names) -> bool:
        path = "/".join(names)
        return self.where is None or any(
            path_matches(path, pattern) for pattern in self.where
        )

    def read_layer(self, names: Names, shape: Shape) -> tuple[Reading, tuple[int, ...]]:
        if isinstance(self.read, _Stacked):
            return self.read.read_with_axes(names, shape)
        return self.read(names, shape), ()


@dataclasses.dataclass(frozen=True)
class _ReadSpec:
    spec: ProjectionDimensionNumbers

    def __call__(self, names: Names, shape: Shape) -> Reading:
        # As with any spec that covers many parameters.
        if absence := without_channels(names, shape):
            return Reading(None, absence)
        return Reading(self.spec, "spec", Doubt(doubt_without_name, (names,)))


def _rule_of_spec(spec: Any) -> Rule:
    if not is_spec(spec):
        raise ValueError(
            "layouts.stacked: rule must be a rule of optax_adamp.layouts or a "
            f"ProjectionDimensionNumbers, but got {spec!r}."
        )

    # Lists cannot be hashed.
    def as_tuple(axes: Sequence[int] | int) -> tuple[int, ...]:
        return tuple(axes) if isinstance(axes, Sequence) else (axes,)

    spec = ProjectionDimensionNumbers(
        as_tuple(spec.reduction_axis),
        as_tuple(spec.output_axis),
        getattr(spec, "view", "auto"),
    )
    return Rule(repr(spec), _ReadSpec(spec))
