"""What the functions that look at params refuse, and what they say of it."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from optax_adamp._trees import Names, format_path, is_absent


def refuse_model(params: Any, *, function: str) -> None:
    """Raises an error for a Flax model, which holds more than its params.

    It is known by the names of its classes, so that Flax need not be imported.
    """
    for cls in type(params).__mro__:
        library = cls.__module__.split(".")[:2]
        if cls.__name__ == "Module" and library in (["flax", "nnx"], ["flax", "linen"]):
            way = {
                "nnx": "nnx.state(model, nnx.Param)",
                "linen": 'module.init(...)["params"]',
            }[library[1]]
            raise ValueError(
                f"{function} needs the params, but got a model, "
                f"{type(params).__name__}. Pass {way}."
            )


def refuse_empty(params: Any, *, function: str) -> None:
    """Raises an error for a tree without arrays."""
    if all(is_absent(leaf) for leaf in jax.tree.leaves(params, is_leaf=is_absent)):
        raise ValueError(
            f"{function} needs the params, but got a tree without arrays. A Flax model "
            "that was never initialized has none."
        )


def refuse_shared_paths(named: list[tuple[Names, Any]], *, function: str) -> None:
    """Raises an error if a parameter has no path, or the same as another."""
    for names, count in Counter(names for names, _ in named).items():
        if count > 1 or not names:
            what = f"{count} at {format_path(names)}" if names else "a lone array"
            raise ValueError(
                f"{function} needs a path of its own for each parameter, but got "
                f"{what}. Put them into a dict."
            )


def check_array(names: Names, leaf: Any, *, argument: str) -> None:
    """Raises an error for a leaf that has neither a shape nor is a number."""
    if not hasattr(leaf, "shape") and not isinstance(leaf, int | float | complex):
        raise ValueError(
            f"{argument} has no array at {format_path(names)}, but a "
            f"{type(leaf).__name__}. Keep arrays only; for Equinox, "
            "eqx.filter(model, eqx.is_inexact_array)."
        )


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array, of what stands for one, or of a number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def has_gradient(leaf: Any) -> bool:
    """Whether an array is real or complex: integers and keys are no weights."""
    return jnp.issubdtype(dtype_of(leaf), jnp.inexact)
