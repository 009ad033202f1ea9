"""One record per parameter: what all that look at parameters have to know of them.

The optimizer, `measure`, `describe` and `detect_scale_invariance` differ in what they
do, not in which parameters they see nor in how these are laid out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from optax_adamp._axes import Axes
from optax_adamp._mesh_axes import PartitionSpecs, resolve_partition_specs
from optax_adamp._trees import Names, is_absent, leaves_like, named_leaves
from optax_adamp.layouts._dimension_numbers import (
    DimensionNumbers,
    Reason,
    resolve_dimension_numbers,
)


class Parameter(NamedTuple):
    """A parameter, or the place of an absent one."""

    names: Names
    array: Any  # None: absent.
    beside: dict[str, Any]  # The leaves of the other trees, by argument.
    axes: Axes | None  # With the mesh axes that cut them; None: not projected.
    # Adds the mesh axes to other axes of the array than those above.
    cut: Callable[[Axes], Axes]
    reason: Callable[[], Reason]  # For people: no step needs it.


class Check(Protocol):
    """Raises an error for a leaf that is not as a function needs it."""

    def __call__(self, names: Names, leaf: Any, *, argument: str) -> None: ...


def resolve_parameters(
    trees: dict[str, Any],
    dimension_numbers: DimensionNumbers,
    partition_specs: PartitionSpecs,
    *,
    check: Check | None = None,
) -> list[Parameter]:
    """The parameters, in the order of the leaves of the first tree.

    Args:
      trees: By argument: `params`, and what else has a leaf for each parameter. The
        first tells which parameters are absent, and the others must be like it.
      dimension_numbers: The argument of `scale_by_projection`.
      partition_specs: Likewise; `OWN` for a function that takes arrays as they are.
      check: What each leaf but absent ones must pass, before the axes are looked up.

    Raises:
      ValueError: If the trees do not fit each other, or `dimension_numbers` or
        `partition_specs` the params.
    """
    first, *others = trees
    named = named_leaves(trees[first], is_leaf=is_absent)
    treedef: Any = jax.tree.structure(trees[first], is_leaf=is_absent)

    def checked(leaves: list[Any], argument: str) -> list[Any]:
        for (names, _), leaf in zip(named, leaves, strict=True):
            if check is not None and not is_absent(leaf):
                check(names, leaf, argument=argument)
        return leaves

    columns = {first: checked([leaf for _, leaf in named], first)}
    for argument in others:
        leaves = leaves_like(
            named, treedef, trees[argument], argument=argument, like=first
        )
        columns[argument] = checked(leaves, argument)

    params = trees["params"]
    arrays = [None if is_absent(leaf) else leaf for leaf in columns.pop("params")]
    weights = [(names, array) for (names, _), array in zip(named, arrays, strict=True)]
    resolved = resolve_dimension_numbers(dimension_numbers, params, weights)
    cuts = resolve_partition_specs(partition_specs, params, weights)
    return [
        Parameter(
            names,
            array,
            {argument: leaves[index] for argument, leaves in columns.items()},
            axes and cut(axes),
            cut,
            reason,
        )
        for index, ((names, array), (axes, reason), cut) in enumerate(
            zip(weights, resolved, cuts, strict=True)
        )
    ]
