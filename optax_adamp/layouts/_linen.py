"""The axes of a Flax Linen model, told by its modules.

Parameters are arrays in a dict and do not know their module. Hence `init` runs on
shapes, and every module is asked for its own when one of its methods returns. Flax's
lifted transforms may then stack an array along new axes, or a user transpose it. Where
that happened, `init` runs once more, with a witness beside the array: a second one with
sizes of our choice, which goes the same way, and whose shape tells where each axis is.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from optax_adamp._layout import Layout
from optax_adamp._rules import Reading, Shape
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names, named_leaves
from optax_adamp.layouts._build import Overrides, Parameter, build_layout
from optax_adamp.layouts._linen_layers import Call, claim


def from_linen(
    module: nn.Module,
    *init_args: Any,
    overrides: Overrides | None = None,
    **init_kwargs: Any,
) -> Layout:
    """Which axes form a channel in the parameters of a Flax Linen module.

    The axes come from the modules that hold the parameters, not from names or sizes,
    and are followed through lifted transforms (`nn.scan`, `nn.vmap`, `nn.remat`,
    `nn.jit`, `nn.map_variables`) whichever axis they stack along. Layers of Flax and
    their subclasses are known. In modules of your own, parameters with fewer than two
    axes are not projected, and any other needs an override.

    Nothing is computed: `module.init` runs on shapes.

    Args:
      module: The module, not bound to variables.
      *init_args: What `module.init` is called with after the random key; arrays or
        :class:`jax.ShapeDtypeStruct`.
      overrides: What is to be used for parameters by their paths, such as
        `{"encoder/rel_pos": None, "moe/*": ProjectionDimensionNumbers(-2, -1)}`: a
        spec, a rule of `optax_adamp.layouts`, or None for what is not projected. Keys
        are exact paths or glob patterns. Axes are those of the whole array, stacked
        ones included.
      **init_kwargs: Keyword arguments of `module.init`.

    Returns:
      The specs, for `dimension_numbers`: a nested dict like `variables["params"]`. An
      optimizer of all variables takes `{"params": layout}`.

    Raises:
      TypeError: If `module` is not an instance of :class:`flax.linen.Module`.
      ValueError: If the module is bound or has no parameters, if neither a module nor
        an override covers a parameter, and if an override does not fit or matches
        nothing. What `module.init` raises is passed on.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_adamp
      >>> from flax import linen as nn
      >>> class Layer(nn.Module):
      ...   @nn.compact
      ...   def __call__(self, x, _):
      ...     return nn.relu(nn.Dense(8, use_bias=False)(nn.LayerNorm()(x))), None
      >>> class Network(nn.Module):
      ...   @nn.compact
      ...   def __call__(self, images):
      ...     x = nn.Conv(8, (3, 3), use_bias=False)(images).mean((1, 2))
      ...     axes, rngs = {"params": 0}, {"params": True}
      ...     layers = nn.scan(Layer, variable_axes=axes, split_rngs=rngs, length=4)
      ...     return layers(name="layers")(x, None)[0]
      >>> layout = optax_adamp.layouts.from_linen(Network(), jnp.zeros((1, 28, 28, 3)))
      >>> layout["Conv_0"]["kernel"][:2]
      ((0, 1, 2), 3)
      >>> layout["layers"]["Dense_0"]["kernel"][:2]  # Axis 0 stacks the layers.
      ((1,), (2,))
      >>> print(layout["layers"]["LayerNorm_0"]["scale"])
      None
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layout)
    """
    _check_module(module)
    init = _Init(module, init_args, init_kwargs)
    params = _observe(init)
    if not params:
        raise ValueError(
            f"from_linen: {type(module).__name__} has no parameters when it is "
            "initialized with these arguments. Pass the module that holds them."
        )
    to_follow = {
        path: seen.shape
        for path, seen in params.items()
        if seen.moved and seen.has_channels
    }
    places = _follow(init, to_follow)
    parameters = [
        _parameter(path, seen, places.get(path)) for path, seen in params.items()
    ]
    return build_layout(parameters, overrides, function="from_linen")


def _check_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"from_linen takes a flax.linen.Module, but {_describe(module)}"
        )
    if module.scope is not None:
        raise ValueError(
            "from_linen initializes the module itself, but got one that is bound to "
            "variables. Pass it unbound: `module.unbind()[0]`."
        )


def _describe(other: Any) -> str:
    """What was passed instead of a module, and what to do."""
    # Imported only now: whoever uses Linen need not have loaded NNX.
    from flax import nnx

    name = type(other).__name__
    if isinstance(other, nnx.Module):
        return f"{name} is an nnx.Module: use from_nnx."
    if isinstance(other, type) and issubclass(other, nn.Module):
        return f"got the class {other.__name__}: pass an instance."
    return f"got an object of type {name}: pass the module that holds the parameters."


class _Sighting(NamedTuple):
    """A parameter as one module sees it."""

    value: jax.Array
    shape: Shape  # Without the axes that lifted transforms add further out.
    owner: str
    reading: Reading | None
    problem: str


class _Seen(NamedTuple):
    """All that is known of one parameter."""

    shape: Shape
    sightings: list[_Sighting]
    moved: bool  # It is no longer the array that its module made.

    @property
    def known(self) -> list[tuple[Shape, Reading]]:
        """The shapes and readings of the layers that know it."""
        return [(seen.shape, seen.reading) for seen in self.sightings if seen.reading]

    @property
    def has_channels(self) -> bool:
        return any(reading.spec is not None for _, reading in self.known)


# Which axis of the whole array each axis of the unstacked one has become.
_Places = tuple[int, ...]

_runs = itertools.count()


class _Init(NamedTuple):
    """A call of `init`, to be run on shapes."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(
        self,
        interceptor: Callable[..., Any],
        finish: Callable[[Any], Any] = lambda params: params,
    ) -> Any:
        """The shapes of what `finish` makes of the params."""
        arguments = self.args, self.kwargs
        leaves = jax.tree.leaves(arguments)
        treedef: Any = jax.tree.structure(arguments)
        is_shape = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]
        shapes = [leaf for leaf, hit in zip(leaves, is_shape, strict=True) if hit]

        def init(*arrays: Any) -> Any:
            given = iter(arrays)
            filled = [
                next(given) if hit else leaf
                for leaf, hit in zip(leaves, is_shape, strict=True)
            ]
            args, kwargs = jax.tree.unflatten(treedef, filled)
            key = jax.random.key(0)
            # nn.jit would not run a module again that it has traced before. A stream
            # of random numbers with a new name keeps it from finding its old trace.
            rngs = {"params": key, f"optax_adamp_{next(_runs)}": key}
            with nn.intercept_methods(interceptor):
                variables = self.module.init(rngs, *args, **kwargs)
            return finish(variables.get("params"))

        return jax.eval_shape(init, *shapes)


def _observe(init: _Init) -> dict[Names, _Seen]:
    """Runs `init` as it is, and asks the modules for their parameters."""
    sightings: dict[Names, list[_Sighting]] = defaultdict(list)
    moved: dict[Names, bool] = {}

    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Any,
    ) -> Any:
        module = context.module
        before = {names for names, _ in _leaves_of(module)}
        result = next_fun(*args, **kwargs)
        for names, value in _leaves_of(module):
            path = (*module.path, *names)
            shape = jnp.shape(value)
            claimed = claim(module, names, len(shape), Call(args, kwargs))
            # What is new and was not seen further inside is this module's own.
            if claimed or (names not in before and not sightings[path]):
                reading, problem = claimed or (None, "")
                owner = _owner(module)
                _add(sightings[path], _Sighting(value, shape, owner, reading, problem))
        return result

    def finish(params: Any) -> Any:
        params = nn.meta.unbox(params)
        for path, value in named_leaves(params):
            moved[path] = all(value is not seen.value for seen in sightings[path])
        return params

    shapes = named_leaves(init.run(interceptor, finish))
    return {
        path: _Seen(leaf.shape, sightings[path], moved[path]) for path, leaf in shapes
    }


def _leaves_of(module: nn.Module) -> list[tuple[Names, Any]]:
    """The parameters of a module that is being initialized, and of those in it."""
    # Flax tries the methods of some modules out beforehand, with nothing initialized.
    if module.scope is None or not module.is_initializing():
        return []
    return named_leaves(nn.meta.unbox(module.variables.get("params")))


def _owner(module: nn.Module) -> str:
    """The class of a module, not the one that a lifted transform made of it."""
    lifted = nn.vmap.__module__
    return next(
        cls.__name__ for cls in type(module).__mro__ if cls.__module__ != lifted
    )


def _add(sightings: list[_Sighting], new: _Sighting) -> None:
    # A transform may run its function twice.
    if all(new[1:] != old[1:] for old in sightings):
        sightings.append(new)


class _Witnessed(nn.meta.AxisMetadata[Any]):
    """An array with a witness of what happens to it; a box, as Flax calls it."""

    def __init__(self, value: Any, witness: Any):
        self.value = value
        self.witness = witness

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Witnessed":
        return _Witnessed(val, self.witness)

    # A box of the user, which may be inside, wants to know of new axes.
    def add_axis(self, index: int, params: dict[Any, Any]) -> "_Witnessed":
        return self.replace_boxed(nn.meta.add_axis(self.value, index, params))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "_Witnessed":
        return self.replace_boxed(nn.meta.remove_axis(self.value, index, params))


jax.tree_util.register_pytree_with_keys(
    _Witnessed,
    # SpectralNorm reads paths, and knows but this type of key.
    lambda box: (
        [
            (jax.tree_util.DictKey("value"), box.value),
            (jax.tree_util.DictKey("witness"), box.witness),
        ],
        None,
    ),
    lambda _, children: _Witnessed(*children),
)


def _follow(init: _Init, shapes: dict[Names, Shape]) -> dict[Names, _Places | str]:
    """Where the axes of some parameters have gone, or why that is not known."""
    if not shapes:
        return {}
    try:
        return _run_with_witnesses(init, shapes)
    except Exception as error:
        # The same call went through before, but some function that transforms the
        # variables takes no boxes. It must not spoil what others can tell.
        if len(shapes) > 1:
            each = [_follow(init, {path: shape}) for path, shape in shapes.items()]
            return {path: places for one in each for path, places in one.items()}
        message = str(error).partition("\n")[0]
        return dict.fromkeys(shapes, f"{type(error).__name__}: {message}")


def _run_with_witnesses(
    init: _Init, shapes: dict[Names, Shape]
) -> dict[Names, _Places | str]:
    def interceptor(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Any,
    ) -> Any:
        result = next_fun(*args, **kwargs)
        module = context.module
        if module.scope is None or not module.is_initializing():
            return result
        for name, value in module.variables.get("params", {}).items():
            shape = shapes.get((*module.path, name))
            if shape is not None and not isinstance(value, _Witnessed):
                axes = jnp.ndim(nn.meta.unbox(value))
                witness = jnp.zeros(_witness_sizes(axes, shape))
                module.put_variable("params", name, _Witnessed(value, witness))
        return result

    def is_witnessed(node: Any) -> bool:
        return isinstance(node, _Witnessed)

    boxes = dict(named_leaves(init.run(interceptor), is_leaf=is_witnessed))
    return {path: _places(boxes.get(path), shape) for path, shape in shapes.items()}


def _witness_sizes(axes: int, shape: Shape) -> Shape:
    """A size for each axis that no axis of the whole array has."""
    sizes = (size for size in itertools.count(2) if size not in shape)
    return tuple(itertools.islice(sizes, axes))


def _places(box: Any, shape: Shape) -> _Places | str:
    """Where each axis of the unstacked array is in the whole one."""
    witness = jnp.shape(box.witness) if isinstance(box, _Witnessed) else ()
    axes = sum(size not in shape for size in witness)
    sizes = _witness_sizes(axes, shape)
    if len(witness) != len(shape) or not {*sizes} <= {*witness}:
        return "it was replaced"
    return tuple(map(witness.index, sizes))


def _parameter(path: Names, seen: _Seen, places: _Places | str | None) -> Parameter:
    """What comes of all that was seen of a parameter.

    Args:
      path: The path of the parameter.
      seen: What was seen of it.
      places: Where its axes have gone, or why that is not known; None if the array is
        still the one that its module made.
    """
    reading = _read(seen, places)
    owners = [sighting.owner for sighting in seen.sightings]
    owner = owners[0] if owners else "an unknown module"
    if isinstance(reading, str):
        return Parameter(path, seen.shape, None, owner, problem=reading)
    return Parameter(path, seen.shape, reading, owner)


def _read(seen: _Seen, places: _Places | str | None) -> Reading | str:
    """The reading of a parameter, or the problem with it."""
    if not seen.known:
        return _read_unknown(seen)
    if not seen.has_channels:
        return seen.known[0][1]
    if isinstance(places, str):
        return f"its axes were lost in a lifted transform ({places})"
    if places is None:
        places = tuple(range(len(seen.shape)))
    unstacked = tuple(seen.shape[place] for place in places)
    readings = [reading for shape, reading in seen.known if shape == unstacked]
    if not readings:
        return "its shape was changed by a lifted transform"
    first, *others = readings
    if first.spec is None or any(other.spec != first.spec for other in others):
        return "it is used in different ways"
    return first._replace(spec=_place(first.spec, places))


def _read_unknown(seen: _Seen) -> Reading | str:
    """The same for a parameter that no layer of Flax knows."""
    if len(seen.shape) < 2:
        return Reading(None, "fewer than two axes")
    if not seen.sightings:
        return ""
    if all(len(sighting.shape) < 2 for sighting in seen.sightings):
        return Reading(None, "fewer than two axes before stacking")
    return seen.sightings[0].problem


def _place(
    spec: ProjectionDimensionNumbers, places: _Places
) -> ProjectionDimensionNumbers:
    """The spec of the whole array from that of the unstacked one."""

    def place(axes: Sequence[int] | int) -> tuple[int, ...] | int:
        return places[axes] if isinstance(axes, int) else tuple(places[a] for a in axes)

    return spec._replace(
        reduction_axis=place(spec.reduction_axis), output_axis=place(spec.output_axis)
    )
