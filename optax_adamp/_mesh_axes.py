"""Which mesh axes hold parts of each parameter: the one door for `partition_specs`.

Under `jax.jit` arrays are global, and sums over them are right however they are
sharded. Inside `jax.shard_map` a device sees its part alone, and what the parts add up
to must be asked for by the names of the mesh axes that cut the parameter.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from optax_adamp._axes import Axes
from optax_adamp._trees import Names, call_if_function, format_array, match_prefix

# In place of a spec: each device has a parameter of its own, or a copy of the whole.
OWN = "own"

# A spec, a tree or prefix tree of specs, None and OWN, or a function from params to
# one of these.
Partition = PartitionSpec | Literal["own"] | None
Partitions = Partition | Mapping[Any, Any] | list[Any] | tuple[Any, ...]
PartitionSpecs = Partitions | Callable[[Any], Partitions]


def resolve_partition_specs(
    partition_specs: PartitionSpecs,
    params: Any,
    leaves: list[tuple[Names, Any]],
) -> list[Callable[[Axes], Axes]]:
    """For each leaf a function that adds the manual mesh axes that cut some axes of it.

    What is not summed over needs no mesh axes, and its spec is not looked at.

    Args:
      partition_specs: The argument of `scale_by_projection`.
      params: What a function is called with.
      leaves: Names and leaves of the params, with None where one is absent.

    Raises:
      ValueError: If a tree does not fit the params. From a function, if its spec does
        not fit the parameter, or if it can be seen that the devices along a mesh axis
        hold different parts and the spec does not say so, or the other way round.
    """
    description = call_if_function(partition_specs, params)
    entries = match_prefix(
        description, leaves, argument="partition_specs", is_leaf=_is_entry
    )
    manual = frozenset(jax.sharding.get_abstract_mesh().manual_axes)

    def cut(names: Names, weight: Any, partition: Any, axes: Axes) -> Axes:
        if partition == OWN:
            return axes
        place = functools.partial(format_array, names, jnp.shape(weight))
        mesh_axes = _mesh_axes(partition, jnp.ndim(weight), manual, place)
        if manual:
            named = frozenset[str]().union(*mesh_axes)
            _check_variation(weight, partition, named, place)
        return axes._replace(
            reduction_mesh=sum((mesh_axes[axis] for axis in axes.reduction), ()),
            output_mesh=sum((mesh_axes[axis] for axis in axes.output), ()),
        )

    return [
        functools.partial(cut, names, weight, entry.value)
        for (names, weight), entry in zip(leaves, entries, strict=True)
    ]


def _is_entry(node: Any) -> bool:
    return node is None or isinstance(node, PartitionSpec)


def _mesh_axes(
    partition: Any, ndim: int, manual: frozenset[str], place: Callable[[], str]
) -> list[tuple[str, ...]]:
    """The manual mesh axes that cut each axis of an array.

    Over the other axes of the mesh, if any, the compiler takes the sums.
    """
    if not _is_entry(partition):
        raise ValueError(
            f"partition_specs of {place()}, must be a jax.sharding.PartitionSpec, "
            f"None for a parameter that is whole on every device, or {OWN!r} for one "
            f"that each device has for itself, but got {partition!r}."
        )
    parts: tuple[Any, ...] = () if partition is None else tuple(partition)
    if len(parts) > ndim:
        raise ValueError(
            f"partition_specs of {place()}: {partition} has {len(parts)} entries for "
            f"{ndim} axes."
        )
    named: list[Any] = [part if isinstance(part, tuple) else (part,) for part in parts]
    named += [()] * (ndim - len(named))
    return [tuple(name for name in part if name in manual) for part in named]


def _check_variation(
    weight: Any, partition: Any, named: frozenset[str], place: Callable[[], str]
) -> None:
    """Compares a spec with what shard_map knows, unless called with check_vma=False."""
    varying = _varying_axes(weight)
    if unnamed := sorted(varying - named):
        raise ValueError(
            f"Inside shard_map {place()}, differs along the mesh axes "
            f"{', '.join(unnamed)}, but partition_specs says {partition}: sums over "
            "this part would be taken for those of the whole parameter. Pass the specs "
            "of the parameters, `partition_specs=` what shard_map has as in_specs for "
            "them. If every device has a parameter of its own, as a part of an "
            "ensemble under jax.vmap, or a whole one marked as varying by "
            f"jax.lax.pcast, say {OWN!r} in place of its spec: sums are then taken "
            "over what each device has."
        )
    # With check_vma=False nothing varies, not even the position in the mesh.
    unvarying = sorted(
        name
        for name in named - varying
        if name in _varying_axes(jax.lax.axis_index(name))
    )
    if unvarying:
        raise ValueError(
            f"Inside shard_map {place()}, is the same all along the mesh axes "
            f"{', '.join(unvarying)}, but partition_specs says {partition}: whole "
            "arrays would be taken for parts. Pass what shard_map has as in_specs for "
            "the parameters."
        )


def _varying_axes(array: Any) -> frozenset[str]:
    """The manual mesh axes along which shard_map knows that an array differs."""
    kind = jax.typeof(array)
    if hasattr(kind, "vma"):
        return frozenset(kind.vma)
    return frozenset(kind.manual_axis_type.varying)  # jax >= 0.10
