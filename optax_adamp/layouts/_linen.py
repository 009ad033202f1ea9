"""The axes of a Flax Linen model: from its program, and from its lifted transforms."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from optax_adamp._trees import Names, named_leaves
from optax_adamp.layouts._build import Overrides, build_layout
from optax_adamp.layouts._from_function import read_program
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._linen_stacks import Init, Made, observe, stacked_axes
from optax_adamp.layouts._rules import Reading
from optax_adamp.layouts._stacked import stacked_along
from optax_adamp.layouts._uncovered import ModelParameter


def from_linen(
    module: nn.Module,
    *init_args: Any,
    overrides: Overrides | None = None,
    **init_kwargs: Any,
) -> Layout:
    """Which axes form a channel in the parameters of a Flax Linen module.

    They come from the program, whatever modules it is made of, as :func:`from_function`
    reads them: `module.apply` is traced with the arguments of `init`. What a program
    cannot tell is which axes lifted transforms stack (`nn.scan`, `nn.vmap`,
    `nn.remat_scan`), so parameters are followed through those as well, along whichever
    axis. A stacked axis is never a part of a channel.

    Nothing is computed: the module runs on shapes.

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
      ValueError: If the module is bound, has no parameters, or fails when it is called
        after `init`; if a parameter is used in ways that do not agree, or goes into an
        operation that is not known, and no override covers it; and if an override does
        not fit or matches nothing. What `module.init` raises is passed on.

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
      (1, 2)
      >>> print(layout["layers"]["LayerNorm_0"]["scale"])
      None
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=layout)

    .. seealso::
      :func:`from_function`, :func:`from_nnx`, :func:`optax_adamp.describe`
    """
    _check_module(module)
    # These choose what is returned, but all variables are needed.
    kwargs = {
        name: value
        for name, value in init_kwargs.items()
        if name not in ("mutable", "capture_intermediates")
    }
    init = Init(module, init_args, kwargs)
    made, variables = observe(init)
    params = variables.pop("params", {})
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError(
            f"from_linen: {type(module).__name__} has no parameters when it is "
            "initialized with these arguments. Pass the module that holds them."
        )
    grown = {
        path: leaf.shape
        for path, leaf in leaves
        if path in made and 2 <= len(made[path].shape) < len(leaf.shape)
    }
    stacked, lost = stacked_axes(init, grown)
    batch_axes = [stacked.get(path, frozenset[int]()) for path, _ in leaves]
    readings = read_program(
        _call(module), params, (variables, *init_args), kwargs, batch_axes=batch_axes
    )
    parameters = [
        _parameter(path, leaf, made.get(path), batch, lost.get(path), reading)
        for (path, leaf), batch, reading in zip(
            leaves, batch_axes, readings, strict=True
        )
    ]
    return build_layout(parameters, overrides, function="from_linen")


def _call(module: nn.Module) -> Callable[..., Any]:
    """The module as a function of its params, its other variables and arguments."""

    def apply(params: Any, variables: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return module.apply(
                {**variables, "params": params},
                *args,
                rngs={"params": jax.random.key(0)},
                # As batch statistics are, in training.
                mutable=list(variables),
                **kwargs,
            )
        except Exception as error:
            message = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"from_linen: {type(module).__name__} can be initialized with these "
                "arguments, but calling it with them afterwards failed "
                f"({type(error).__name__}: {message}). Pass a module and arguments as "
                "in training, without a cache for decoding."
            ) from error

    return apply


def _parameter(
    path: Names,
    leaf: Any,
    made: Made | None,
    stacked: frozenset[int],
    lost: str | None,
    reading: Reading | str,
) -> ModelParameter:
    """What comes of all that is known of a parameter."""
    axes = tuple(sorted(stacked))
    owner = made.owner if made else "an unknown module"
    if len(made.shape if made else leaf.shape) < 2:
        stacking = " before stacking" if len(leaf.shape) > 1 else ""
        reading = Reading(None, f"fewer than two axes{stacking}")
    elif lost or not made:
        reading = lost or "a lifted transform made it, which may have stacked it"
    if isinstance(reading, str):
        return ModelParameter(
            path, leaf.shape, None, owner, problem=reading, stacked=axes
        )
    if axes:
        reading = reading._replace(why=f"{reading.why}, {stacked_along(axes)}")
    return ModelParameter(path, leaf.shape, reading, owner)


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
