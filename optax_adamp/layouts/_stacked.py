"""Rules for layers that are stacked in one array, from rules for a single layer."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

from optax_adamp._rules import Reading, Rule, Shape, without_channels
from optax_adamp._specs import ProjectionDimensionNumbers, count_from_front, is_spec
from optax_adamp._trees import Names, format_path, path_matches


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
        _ReadStacked(rule.read, axis, None if where is None else patterns),
        patterns + rule.patterns,
    )


def read_stacked(
    read: Callable[[Names, Shape], Reading], axis: int, names: Names, shape: Shape
) -> Reading:
    """What `read` says of one layer, for a stack of them."""
    place = f"{format_path(names)}, an array of shape {shape}"
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"layouts.stacked: {place}, has no axis {axis} that layers could be "
            "stacked along. Tell the paths of what is stacked by `where`."
        )
    axis %= len(shape)
    layer = shape[:axis] + shape[axis + 1 :]
    reading = read(names, layer)
    if reading.spec is None:
        return reading
    place = f"layouts.stacked: {place}, without axis {axis}"
    reduction, output, view, *_ = count_from_front(reading.spec, layer, place)

    def shift(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a + (a >= axis) for a in axes)

    spec = ProjectionDimensionNumbers(shift(reduction), shift(output), view)
    return reading._replace(spec=spec, why=f"{reading.why}, stacked along axis {axis}")


# Classes rather than closures: equal arguments make equal rules, which can be pickled.
@dataclasses.dataclass(frozen=True)
class _ReadStacked:
    read: Callable[[Names, Shape], Reading]
    axis: int
    where: tuple[str, ...] | None

    def __call__(self, names: Names, shape: Shape) -> Reading:
        path = "/".join(names)
        if self.where is not None and not any(
            path_matches(path, pattern) for pattern in self.where
        ):
            return self.read(names, shape)
        return read_stacked(self.read, self.axis, names, shape)


@dataclasses.dataclass(frozen=True)
class _ReadSpec:
    spec: ProjectionDimensionNumbers

    def __call__(self, names: Names, shape: Shape) -> Reading:
        # As with any spec that covers many parameters.
        if absence := without_channels(names, shape):
            return Reading(None, absence)
        return Reading(self.spec, "spec")


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
