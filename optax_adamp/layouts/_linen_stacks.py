"""Which axes lifted transforms add to the parameters of a Flax Linen module.

A program cannot tell an ensemble under `nn.vmap` from heads: its axis is kept. The
transforms know. `init` runs on shapes, and every module is asked for the shapes of its
parameters when one of its methods returns. Where the whole array has more axes, `init`
runs once more, with a witness beside the array: a second one with sizes of our choice,
which goes the same way, and whose shape tells where each axis is.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from optax_adamp._axes import Shape
from optax_adamp._trees import Names, named_leaves, take_out
from optax_adamp.layouts._uncovered import full_name


class Made(NamedTuple):
    """A parameter as the module that holds it made it."""

    shape: Shape  # Without the axes that lifted transforms add.
    owner: str


# Which axis of the whole array each axis of the unstacked one has become.
_Places = tuple[int, ...]

_runs = itertools.count()


class Init(NamedTuple):
    """A call of `init`, to be run on shapes."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, visit: "_Visit") -> Any:
        """The shapes of the variables, after visits to all modules."""
        shapes, with_arrays = take_out((self.args, self.kwargs), _is_shape)
        ran: set[Names] = set()

        def interceptor(
            next_fun: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: Any,
        ) -> Any:
            result = next_fun(*args, **kwargs)
            module = context.module
            # Flax tries the methods of some modules out, with nothing there.
            if module.scope is not None and module.is_initializing():
                ran.add(module.path)
                visit(module, lambda path: not _is_inside(path, module, ran))
            return result

        def init(*arrays: Any) -> Any:
            args, kwargs = with_arrays(arrays)
            key = jax.random.key(0)
            # nn.jit would not run a module again that it has traced before. A stream
            # of random numbers with a new name keeps it from finding its old trace.
            rngs = {"params": key, f"optax_adamp_{next(_runs)}": key}
            with nn.intercept_methods(interceptor):
                return self.module.init(rngs, *args, **kwargs)

        return jax.eval_shape(init, *shapes)


# Called with a module when one of its methods returns, and with what tells whether the
# parameter at a path is its own, rather than one of a module inside.
_Visit = Callable[[nn.Module, Callable[[Names], bool]], None]


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def observe(init: Init) -> tuple[dict[Names, Made], Any]:
    """Runs `init` as it is: what each module makes, and the variables in the end."""
    made: dict[Names, Made] = {}

    def visit(module: nn.Module, is_own: Callable[[Names], bool]) -> None:
        params = nn.meta.unbox(module.variables.get("params"))
        for names, value in named_leaves(params):
            # What was not seen further inside is this module's own, unless a transform
            # made it of a parameter of a module inside.
            path = (*module.path, *names)
            if is_own(path):
                made.setdefault(path, Made(jnp.shape(value), _owner(module)))

    return made, nn.meta.unbox(init.run(visit))


def _is_inside(path: Names, module: nn.Module, ran: set[Names]) -> bool:
    """Whether a parameter is that of a module inside of this one, which ran before."""
    depths = range(len(module.path) + 1, len(path))
    return any(path[:depth] in ran for depth in depths)


def _owner(module: nn.Module) -> str:
    """The class of a module, not the one that a lifted transform made of it."""
    lifted = nn.vmap.__module__
    cls = next(cls for cls in type(module).__mro__ if cls.__module__ != lifted)
    return full_name(cls)


def stacked_axes(
    init: Init, shapes: dict[Names, Shape]
) -> tuple[dict[Names, frozenset[int]], dict[Names, str]]:
    """The axes that were added to some parameters; of others, why that is not known.

    Args:
      init: The call of `init`.
      shapes: Those of the whole arrays.
    """
    found: dict[Names, frozenset[int]] = {}
    lost: dict[Names, str] = {}
    for path, places in _follow(init, shapes).items():
        if isinstance(places, str):
            lost[path] = f"its axes were lost in a lifted transform ({places})"
        else:
            found[path] = frozenset(range(len(shapes[path]))).difference(places)
    return found, lost


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


def _follow(init: Init, shapes: dict[Names, Shape]) -> dict[Names, _Places | str]:
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
    init: Init, shapes: dict[Names, Shape]
) -> dict[Names, _Places | str]:
    def is_box(node: Any) -> bool:
        return isinstance(node, nn.meta.AxisMetadata)

    def visit(module: nn.Module, is_own: Callable[[Names], bool]) -> None:
        def witness(names: Names, leaf: Any) -> Any:
            path = (*module.path, *names)
            shape = shapes.get(path)
            if shape is None or isinstance(leaf, _Witnessed) or not is_own(path):
                return leaf
            sizes = _witness_sizes(jnp.ndim(nn.meta.unbox(leaf)), shape)
            return _Witnessed(leaf, jnp.zeros(sizes))

        for name, value in module.variables.get("params", {}).items():
            leaves = named_leaves({name: value}, is_leaf=is_box)
            after = [witness(names, leaf) for names, leaf in leaves]
            if any(new is not old for new, (_, old) in zip(after, leaves, strict=True)):
                treedef: Any = jax.tree.structure(value, is_leaf=is_box)
                module.put_variable("params", name, jax.tree.unflatten(treedef, after))

    boxes = dict(named_leaves(init.run(visit)["params"], is_leaf=is_box))
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
