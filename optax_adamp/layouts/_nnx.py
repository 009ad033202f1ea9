"""The axes of an NNX model's parameters, from its modules and its program.

A module of Flax knows the shape that it gave its parameters. A transform that stacks
layers adds axes behind its back: what an array has beyond its module's shape is
stacked. A program cannot tell this where the layers share their input, as an ensemble
does, which is why Flax's own classes are asked before it.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, cast

import jax
from flax import linen, nnx

from optax_adamp._axes import ProjectionDimensionNumbers, Shape, count_from_front
from optax_adamp._trees import Names, named_leaves
from optax_adamp.layouts import _kernels
from optax_adamp.layouts._build import Overrides, build_layout
from optax_adamp.layouts._from_function import read_program
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._rules import Reading
from optax_adamp.layouts._stacked import stacked_along
from optax_adamp.layouts._uncovered import ModelParameter, full_name


def from_nnx(
    model: nnx.Module,
    *call_args: Any,
    overrides: Overrides | None = None,
    wrt: Any = None,
    **call_kwargs: Any,
) -> Layout:
    """The axes of a Flax NNX model's parameters, for `dimension_numbers`.

    What the layers of Flax hold, subclasses included, is read from their class and from
    the sizes that they were built with. All other parameters with two axes or more are
    read from the program, as :func:`from_function` does, if it is said what the model
    is called with. No array is read, and an abstract model, `nnx.eval_shape(lambda:
    Model(...))`, does as well.

    Layers stacked by `nnx.vmap` or `nnx.scan`, along any axis and nested, have more
    axes than their module gave them: these are batch axes. Where equal sizes leave open
    which axis was added, the parameters around settle it: a module all of whose
    parameters, of one type of Variable, have been given the same number of axes counts
    as stacked by one transform. If this leaves several readings, that is an error.

    Args:
      model: The model, or an abstract one.
      *call_args: What the model is called with; arrays may be given by their shapes.
        Needed for parameters of modules that are not Flax's own.
      overrides: By path, such as `"layers/0/kernel"`, or by glob pattern, what is to be
        used instead: a :class:`~optax_adamp.ProjectionDimensionNumbers`, a rule of
        :mod:`optax_adamp.layouts`, or None for what is not projected.
      wrt: A filter for the Variables that are trained, as in `nnx.Optimizer`. By
        default those of type `nnx.Param`.
      **call_kwargs: The same as `call_args` by keyword.

    Returns:
      A :class:`Layout`: for the parameter at each path of `nnx.state(model, wrt)` its
      :class:`~optax_adamp.ProjectionDimensionNumbers`, or None.

    Raises:
      TypeError: If the model is not an instance of `nnx.Module`.
      ValueError: If the model has no such Variables, if the axes of a parameter are not
        known, or if overrides match no parameter, contradict each other or do not fit.

    Examples:
      >>> from flax import nnx
      >>> import optax_adamp
      >>> class Model(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
      ...         self.norm = nnx.LayerNorm(8, rngs=rngs)
      >>> model = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
      >>> layout = optax_adamp.layouts.from_nnx(model)
      >>> layout["attention"]["query"]["kernel"]  # (features, heads, head size)
      ProjectionDimensionNumbers(reduction_axis=0, output_axis=(1, 2), view='auto')
      >>> layout["attention"]["query"].reasons["kernel"]
      'LinearGeneral.kernel'
      >>> print(layout["norm"]["scale"])
      None
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layout)

    .. seealso::
      :func:`from_function`, :func:`from_linen`
    """
    _check_model(model)
    filter_ = nnx.Param if wrt is None else wrt
    leaves = _leaves(model, filter_)
    if not leaves:
        filtered = "parameters (nnx.Param)" if wrt is None else f"Variables for {wrt=}"
        raise ValueError(
            f"from_nnx: {type(model).__name__} has no {filtered}. Pass the module that "
            "holds them, or say by `wrt` which Variables are trained."
        )
    parameters = [_describe(leaf, leaves) for leaf in leaves]
    is_called = bool(call_args or call_kwargs)
    if is_called and any(parameter.reading is None for parameter in parameters):
        program = _read_program(model, filter_, call_args, call_kwargs)
        parameters = [
            _settle(parameter, program[tuple(map(str, parameter.path))])
            for parameter in parameters
        ]
    return build_layout(parameters, overrides, function="from_nnx")


def _read_program(
    model: nnx.Module, wrt: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Names, Reading | str]:
    """What the program of a model does with its parameters."""
    parts: Any = nnx.split(model, wrt, ...)
    graphdef, params, rest = parts

    def call(params: Any, rest: Any, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(graphdef, params, rest, copy=True)(*args, **kwargs)

    readings = read_program(call, params, (rest, *args), kwargs)
    named = named_leaves(params)
    return {names: reading for (names, _), reading in zip(named, readings, strict=True)}


def _settle(parameter: ModelParameter, reading: Reading | str) -> ModelParameter:
    """The parameter with what the program does with it, if its module left it open."""
    if parameter.reading is not None:
        return parameter
    if isinstance(reading, Reading):
        return parameter._replace(reading=reading, problem="")
    return parameter._replace(problem=reading)


def _check_model(model: Any) -> None:
    if isinstance(model, nnx.Module):
        return
    cls = model if isinstance(model, type) else type(model)
    name = cls.__name__
    if issubclass(cls, linen.Module):
        advice = f"{name} is a module of Flax Linen: use from_linen."
    elif isinstance(model, type):
        advice = (
            f"{name} is a class, a model that was never built. Build it, or its shapes "
            f"alone: `nnx.eval_shape(lambda: {name}(..., rngs=nnx.Rngs(0)))`."
        )
    else:
        advice = (
            f"got {name}. Parameters alone do not say what their axes are, and a "
            "function must be called first: pass the module that holds them."
        )
    raise TypeError(f"from_nnx needs an instance of nnx.Module; {advice}")


# What modules know.


class _Plain(NamedTuple):
    """A parameter as its module made it, before a transform stacks it."""

    shape: tuple[int | None, ...]  # None: a size that the module does not keep.
    spec: ProjectionDimensionNumbers | None = None


def _linear(layer: nnx.Linear) -> dict[str, _Plain]:
    shape = layer.in_features, layer.out_features
    return {
        "kernel": _Plain(shape, _kernels.dense_general(0, 1, 1)),
        "bias": _Plain(shape[1:]),
    }


def _linear_general(layer: nnx.LinearGeneral) -> dict[str, _Plain]:
    batch: Collection[int] = layer.batch_axis.values()
    inputs, outputs = layer.in_features, layer.out_features
    spec = _kernels.dense_general(len(batch), len(inputs), len(outputs))
    return {
        "kernel": _Plain((*batch, *inputs, *outputs), spec),
        "bias": _Plain((*batch, *outputs)),
    }


def _convolution(layer: nnx.Conv | nnx.ConvTranspose) -> dict[str, _Plain]:
    transposed = isinstance(layer, nnx.ConvTranspose) and layer.transpose_kernel
    spec = _kernels.convolution(len(layer.kernel_size), transposed=transposed)
    return {
        "kernel": _Plain(layer.kernel_shape, spec),
        "bias": _Plain((layer.out_features,)),
    }


def _einsum(layer: nnx.Einsum) -> dict[str, _Plain]:
    shape = tuple(layer.kernel_shape)
    kernel = _Plain(shape, _kernels.einsum(layer.einsum_str, len(shape)))
    return {"kernel": kernel, "bias": _Plain(tuple(layer.bias_shape or ()))}


def _embedding(layer: nnx.Embed) -> dict[str, _Plain]:
    shape = layer.num_embeddings, layer.features
    return {"embedding": _Plain(shape, _kernels.embedding())}


def _low_rank(layer: nnx.LoRA) -> dict[str, _Plain]:
    spec = _kernels.dense_general(0, 1, 1)
    return {
        "lora_a": _Plain((layer.in_features, None), spec),
        "lora_b": _Plain((None, layer.out_features), spec),
    }


def _norm(layer: Any) -> dict[str, _Plain]:
    if isinstance(layer, nnx.GroupNorm):
        features = layer.num_groups * layer.group_size
    else:
        features = layer.num_features
    return dict.fromkeys(("scale", "bias"), _Plain((features,)))


def _slope(layer: nnx.PReLU) -> dict[str, _Plain]:
    del layer
    return {"negative_slope": _Plain(())}


# Modules that are made of these, such as attention and recurrent cells, need no entry.
_PARAMETERS_OF: dict[type[nnx.Module], Callable[[Any], dict[str, _Plain]]] = {
    nnx.Linear: _linear,
    nnx.LinearGeneral: _linear_general,
    nnx.Conv: _convolution,
    nnx.ConvTranspose: _convolution,
    nnx.Einsum: _einsum,
    nnx.Embed: _embedding,
    nnx.LoRA: _low_rank,
    nnx.BatchNorm: _norm,
    nnx.LayerNorm: _norm,
    nnx.RMSNorm: _norm,
    nnx.GroupNorm: _norm,
    nnx.InstanceNorm: _norm,
    nnx.PReLU: _slope,
}


def _plain(owner: Any, attribute: tuple[Any, ...]) -> _Plain | None:
    """What a module says of one of its attributes; None if nothing."""
    known = next((cls for cls in type(owner).__mro__ if cls in _PARAMETERS_OF), None)
    if known is None or len(attribute) != 1:
        return None
    try:
        return _PARAMETERS_OF[known](owner).get(attribute[0])
    except AttributeError:  # A subclass need not keep what its base class does.
        return None


class _Leaf(NamedTuple):
    """A parameter of the model, as it is and as its module made it."""

    path: tuple[Any, ...]
    shape: Shape
    variable: type  # The type of the Variable that holds it.
    owner: type
    attribute: str
    plain: _Plain | None
    problem: str = ""  # Why there is no plain one, if there is more to say.


def _leaves(model: nnx.Module, wrt: Any) -> list[_Leaf]:
    graph: Any = nnx.iter_graph(model)
    nodes: dict[Any, Any] = dict(graph)
    owners: dict[Any, Any] = {
        path: node
        for path, node in nodes.items()
        if isinstance(node, nnx.Pytree) and not isinstance(node, nnx.List | nnx.Dict)
    }
    # A Variable has one path in the state, however many modules hold it.
    sharing: dict[int, list[Any]] = defaultdict(list)
    for owner in owners.values():
        for name, value in vars(owner).items():
            if isinstance(value, nnx.Variable):
                sharing[id(cast(Any, value))].append((owner, (name,)))
    leaves: list[_Leaf] = []
    state = nnx.to_flat_state(nnx.state(model, wrt))
    for variable_path, variable in cast(Iterable[tuple[Any, Any]], state):
        is_box = isinstance(variable, nnx.Variable)
        # A Variable may hold a tree of arrays, or none.
        for keys, array in jax.tree.leaves_with_path(variable):
            inside = [jax.tree_util.keystr((key,), simple=True) for key in keys]
            path = (*variable_path, *inside[is_box:])
            depth = max(d for d in range(len(path)) if path[:d] in owners)
            owner, attribute = owners[path[:depth]], path[depth:]
            plain, problem = _plain(owner, attribute), ""
            others = sharing[id(nodes.get(variable_path))]
            if any(_plain(*other) != plain for other in others):
                names = sorted({type(other).__name__ for other, _ in others})
                plain, problem = None, f"it is shared by {' and '.join(names)}"
            leaf = _Leaf(
                path=path,
                shape=array.shape,
                variable=type(variable),
                owner=type(owner),
                attribute="/".join(map(str, attribute)),
                plain=plain,
                problem=problem,
            )
            leaves.append(leaf)
    return leaves


def _describe(leaf: _Leaf, leaves: list[_Leaf]) -> ModelParameter:
    def parameter(reading: Reading | None = None, problem: str = "") -> ModelParameter:
        owner = full_name(leaf.owner)
        return ModelParameter(leaf.path, leaf.shape, reading, owner, problem)

    why = f"{leaf.owner.__name__}.{leaf.attribute}"
    if leaf.plain is not None and leaf.plain.spec is None:
        return parameter(Reading(None, why))
    if len(leaf.shape) < 2:
        return parameter(Reading(None, "fewer than two axes"))
    if leaf.plain is None:
        return parameter(problem=leaf.problem or _NOT_CALLED)
    readings = _possible_readings(leaf, leaves)
    if not readings:
        made = ", ".join("any" if n is None else str(n) for n in leaf.plain.shape)
        return parameter(problem=f"it would have made ({made}) or a stack of these")
    if len(readings) > 1:
        alternatives = " or ".join(
            f"{stacking}, ProjectionDimensionNumbers({spec.reduction_axis}, "
            f"{spec.output_axis})"
            for spec, stacking in readings.items()
        )
        return parameter(problem=f"its sizes leave open whether it is {alternatives}")
    [(spec, stacking)] = readings.items()
    return parameter(Reading(spec, f"{why}, {stacking}" if stacking else why))


_NOT_CALLED = "pass from_nnx what the model is called with, and its program tells"


# What transforms added.


class _Stacking(NamedTuple):
    """How transforms stacked an array, the innermost first."""

    out_axes: tuple[int, ...]  # As given to the transforms: negative from the end.
    sizes: tuple[int, ...]


def _possible_readings(
    leaf: _Leaf, leaves: list[_Leaf]
) -> dict[ProjectionDimensionNumbers, str]:
    """The specs that a parameter may have, and how it is stacked with each."""
    assert leaf.plain is not None
    stackings = _stackings(leaf.plain.shape, leaf.shape)
    readings = _readings(leaf.plain, stackings)
    for depth in reversed(range(len(leaf.path))):
        if len(readings) <= 1:
            break
        alike = [
            _stackings(other.plain.shape, other.shape)
            for other in leaves
            if other.path[:depth] == leaf.path[:depth]
            and other.variable is leaf.variable
            and other.plain is not None
        ]
        stackings = stackings.intersection(*alike)
        if not stackings:  # No single transform made all of these.
            break
        readings = _readings(leaf.plain, stackings)
    return readings


@functools.cache
def _stackings(plain: tuple[int | None, ...], shape: Shape) -> frozenset[_Stacking]:
    """All ways in which transforms can have made one shape of another."""
    levels = range(len(plain), len(shape))
    choices = [range(-axes - 1, axes + 1) for axes in levels]
    found: set[_Stacking] = set()
    for out_axes in itertools.product(*choices):
        order = _order(len(plain), out_axes)
        if len(order) == len(shape) and all(
            axis < 0 or plain[axis] in (None, size)
            for axis, size in zip(order, shape, strict=True)
        ):
            sizes = (shape[order.index(~level)] for level in range(len(out_axes)))
            found.add(_Stacking(out_axes, tuple(sizes)))
    return frozenset(found)


def _order(axes: int, out_axes: tuple[int, ...]) -> list[int]:
    """Each axis of a stacked array by its number before; ~0, ~1, … are stacked."""
    order = list(range(axes))
    for level, axis in enumerate(out_axes):
        order.insert(axis % (len(order) + 1), ~level)
    return order


def _readings(
    plain: _Plain, stackings: frozenset[_Stacking]
) -> dict[ProjectionDimensionNumbers, str]:
    assert plain.spec is not None
    # Sizes do not matter to a spec that is known to fit.
    axes = count_from_front(plain.spec, (1,) * len(plain.shape), str)
    readings: dict[ProjectionDimensionNumbers, str] = {}
    # First those that add axes in front.
    for stacking in sorted(
        stackings, key=lambda s: _order(len(plain.shape), s.out_axes)
    ):
        order = _order(len(plain.shape), stacking.out_axes)
        kept = [order.index(axis) for axis in range(len(plain.shape))]
        stacked = [axis for axis in range(len(order)) if axis not in kept]
        spec = axes.moved(kept).spec()
        where = stacked_along(stacked) if stacked else ""
        # Two places among a layer's own batch axes make no difference.
        readings[spec] = where if readings.get(spec, where) == where else "stacked"
    return readings
