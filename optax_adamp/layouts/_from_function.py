"""The axes of the parameters of any JAX function, from what it does with them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_adamp._checks import check_array, dtype_of, has_gradient, refuse_model
from optax_adamp._layout import Layout
from optax_adamp._rules import Reading
from optax_adamp._trees import Names, named_leaves
from optax_adamp.layouts._build import Overrides, Parameter, build_layout
from optax_adamp.layouts._program import uses_of
from optax_adamp.layouts._uses import read


def from_function(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    overrides: Overrides | None = None,
    **kwargs: Any,
) -> Layout:
    """Doc."""
    refuse_model(params, function="from_function")
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError(
            "from_function needs the params, but got a tree without arrays. Pass what "
            f"is trained, as {_name(fn)} takes it first."
        )
    for names, leaf in leaves:
        check_array(names, leaf, argument="params")
    readings = read_program(fn, params, args, kwargs)
    parameters = [
        parameter_of(names, leaf, reading)
        for (names, leaf), reading in zip(leaves, readings, strict=True)
    ]
    return build_layout(parameters, overrides, function="from_function")


def parameter_of(names: Names, leaf: Any, reading: Reading | str) -> Parameter:
    shape = jnp.shape(leaf)
    if isinstance(reading, str):
        return Parameter(names, shape, None, "", problem=reading)
    return Parameter(names, shape, reading, "")


def read_program(
    fn: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    batch_axes: Sequence[frozenset[int]] | None = None,
) -> list[Reading | str]:
    """What a program does with its parameters.

    Args:
      fn: A function of the params and more.
      params: A tree of arrays or their shapes.
      args: What else it is called with; arrays may be given by their shapes.
      kwargs: By keyword.
      batch_axes: Of each leaf of the params, axes that are known to be stacked.

    Returns:
      For each leaf of the params its reading, or the problem with it.
    """
    leaves = jax.tree.leaves(params)
    treedef: Any = jax.tree.structure(params)
    data = jax.tree.leaves((args, kwargs))
    data_treedef: Any = jax.tree.structure((args, kwargs))
    is_array = [hasattr(x, "shape") and hasattr(x, "dtype") for x in data]

    def flat(weights: list[Any], arrays: list[Any]) -> list[Any]:
        given = iter(arrays)
        filled = [
            next(given) if hit else x for x, hit in zip(data, is_array, strict=True)
        ]
        args, kwargs = jax.tree.unflatten(data_treedef, filled)
        result = fn(jax.tree.unflatten(treedef, weights), *args, **kwargs)
        return [x for x in jax.tree.leaves(result) if hasattr(x, "dtype")]

    arrays = [x for x, hit in zip(data, is_array, strict=True) if hit]
    traced = jax.make_jaxpr(flat)(leaves, arrays)
    is_parameter = [has_gradient(leaf) for leaf in leaves]
    uses = iter(uses_of(traced, is_parameter + [False] * len(arrays)))
    return [
        read(next(uses), jnp.shape(leaf), batch)
        if hit
        else Reading(None, f"no gradient reaches arrays of {dtype_of(leaf)}")
        for leaf, hit, batch in zip(
            leaves, is_parameter, batch_axes or [frozenset()] * len(leaves), strict=True
        )
    ]


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", "the function")
