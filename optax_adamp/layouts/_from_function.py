"""The axes of the parameters of any JAX function, from what it does with them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from optax_adamp._checks import (
    check_array,
    dtype_of,
    has_gradient,
    refuse_model,
    refuse_shared_paths,
)
from optax_adamp._trees import named_leaves, take_out
from optax_adamp.layouts._build import Overrides, build_layout
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._program import uses
from optax_adamp.layouts._program.elementwise import ELEMENTWISE
from optax_adamp.layouts._program.lookups import LOOKUPS
from optax_adamp.layouts._program.loops import LOOPS
from optax_adamp.layouts._program.moves import MOVES
from optax_adamp.layouts._program.products import PRODUCTS
from optax_adamp.layouts._program.tracks import of_parameter, plain
from optax_adamp.layouts._program.uses import Use, read
from optax_adamp.layouts._program.walk import Operations, Program, shape_of
from optax_adamp.layouts._rules import Reading
from optax_adamp.layouts._uncovered import ModelParameter


def from_function(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    overrides: Overrides | None = None,
    **kwargs: Any,
) -> Layout:
    """Which axes form a channel in the parameters of any JAX function.

    Axes come from the program: `fn` is traced on shapes, and each parameter is followed
    to the operations that use it, whatever library, names or sizes it has. Nothing is
    computed, and nothing is guessed.

    - In a product or a convolution with data, the axes that are summed over are
      reduction axes, those that the result keeps are output axes, and those that the
      data have as well are batch axes, as are those that :func:`jax.lax.scan` runs over
      or of which one entry is taken at a time: stacked layers, experts.
    - In a table of which rows are looked up, by index or by a product with one-hot
      data, the indexed axis is the output, and the rest of a row is reduced.
    - What meets data entry by entry, such as a bias, a scale or a position embedding,
      is not projected, unless it is used in one of these ways as well.

    Parameters are followed through casts, transposes, reshapes, slices, joins and
    arithmetic among themselves (weight norm, weight standardization, low-rank updates,
    masks), through calls and loops. Uses in derivatives inside of `fn` and those that
    :func:`jax.lax.stop_gradient` cuts off count only where there is no other. In a
    product of two parameters, `a @ b`, that then meets data, `a` is a kernel where the
    data are summed with it, and an input that is learned otherwise.

    Arrays that `fn` closes over count as data in a product with a parameter; those that
    the program makes from numbers, as an interpolation does, map its axes. Indices of
    either kind reorder an axis that a product then sums over, unless each example has
    indices of its own.

    An ensemble under :func:`jax.vmap` whose members share their input looks like heads:
    its axis is kept. Say that it is stacked by `overrides`, or use :func:`from_linen`,
    :func:`from_nnx` or :func:`stacked`.

    Args:
      fn: Any function of the params: a loss, an `apply`, a step of a decoder. Only what
        it does with them is read off.
      params: The params, a tree of arrays or :class:`jax.ShapeDtypeStruct`.
      *args: What else `fn` is called with. Arrays may be given by their shapes; what is
        no array reaches `fn` as it is.
      overrides: What is to be used for parameters by their paths, such as
        `{"encoder/rel_pos": None, "moe/*": ProjectionDimensionNumbers(-2, -1)}`: a
        spec, a rule of `optax_adamp.layouts`, or None for what is not projected. Keys
        are exact paths or glob patterns.
      **kwargs: The same by keyword.

    Returns:
      The specs, for `dimension_numbers`. The reasons that
      :func:`optax_adamp.describe` shows tell what the program does with a parameter, in
      which modules, file and line.

    Raises:
      ValueError: If there are no params, if a parameter is used in ways that do not
        agree, or goes into an operation that is not known, and no override covers it;
        and if an override does not fit or matches nothing. What `fn` raises is passed
        on.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax_adamp
      >>> def model(params, tokens):
      ...   x = params["embed"][tokens]
      ...   heads = jnp.einsum("td,dhk->thk", x, params["query"]) + params["bias"]
      ...   x = jnp.einsum("thk,hkd->td", heads, params["out"])
      ...   return x @ params["embed"].T
      >>> def shape(*sizes):
      ...   return jax.ShapeDtypeStruct(sizes, jnp.float32)
      >>> params = {
      ...   "embed": shape(100, 16),
      ...   "query": shape(16, 4, 8),
      ...   "bias": shape(4, 8),
      ...   "out": shape(4, 8, 16),
      ... }
      >>> tokens = jax.ShapeDtypeStruct((7,), jnp.int32)
      >>> layout = optax_adamp.layouts.from_function(model, params, tokens)
      >>> for path, spec in layout.items():
      ...   print(path, spec and spec[:2])
      bias None
      embed (1, 0)
      out ((0, 1), 2)
      query (0, (1, 2))
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layout)

    .. seealso::
      :func:`from_linen`, :func:`from_nnx`, :func:`optax_adamp.describe`
    """
    refuse_model(params, function="from_function")
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError(
            "from_function needs the params, but got a tree without arrays. Pass what "
            f"is trained, as {_name(fn)} takes it first."
        )
    for names, leaf in leaves:
        check_array(names, leaf, argument="params")
    refuse_shared_paths(leaves, function="from_function")
    readings = read_program(fn, params, args, kwargs)
    parameters = [
        ModelParameter(names, jnp.shape(leaf), None, owner="", problem=reading)
        if isinstance(reading, str)
        else ModelParameter(names, jnp.shape(leaf), reading, owner="")
        for (names, leaf), reading in zip(leaves, readings, strict=True)
    ]
    return build_layout(parameters, overrides, function="from_function")


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
    arrays, with_arrays = take_out((args, kwargs), _is_array)

    def flat(weights: list[Any], arrays: list[Any]) -> list[Any]:
        args, kwargs = with_arrays(arrays)
        result = fn(jax.tree.unflatten(treedef, weights), *args, **kwargs)
        return [x for x in jax.tree.leaves(result) if hasattr(x, "dtype")]

    traced = jax.make_jaxpr(flat)(leaves, arrays)
    is_parameter = [has_gradient(leaf) for leaf in leaves]
    uses = iter(_uses_of(traced, is_parameter + [False] * len(arrays)))
    if batch_axes is None:
        batch_axes = [frozenset[int]()] * len(leaves)
    return [
        read(next(uses), jnp.shape(leaf), batch)
        if hit
        else Reading(None, f"no gradient reaches arrays of {dtype_of(leaf)}")
        for leaf, hit, batch in zip(leaves, is_parameter, batch_axes, strict=True)
    ]


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _uses_of(traced: core.ClosedJaxpr, is_parameter: Sequence[bool]) -> list[list[Use]]:
    """The uses of each parameter of a program.

    Args:
      traced: The program.
      is_parameter: Of each of its arguments, of which the others are data.
    """
    operations = Operations({**ELEMENTWISE, **MOVES, **LOOKUPS, **PRODUCTS, **LOOPS})
    program = Program(sum(is_parameter), operations)
    parameters = iter(range(sum(is_parameter)))
    arguments = [
        of_parameter(next(parameters), shape_of(var))
        if hit
        else plain(shape_of(var), is_data=True)
        for var, hit in zip(traced.jaxpr.invars, is_parameter, strict=True)
    ]
    for value in program.walk(traced.jaxpr, arguments):
        for track in value.tracks:
            use = uses.elementwise(track, "at its end")
            if use is not None and use.kind == uses.ELEMENTWISE:
                use = use._replace(kind=uses.RETURNED)
            program.record(track.parameter, use)
    return program.uses


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", "the function")
