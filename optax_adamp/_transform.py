"""The projection as an Optax gradient transformation."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optax_adamp._mesh_axes import PartitionSpecs
from optax_adamp._parameters import Parameter, resolve_parameters
from optax_adamp._projection import project
from optax_adamp._trees import call_if_function, is_absent, match_prefix
from optax_adamp.layouts._dimension_numbers import DimensionNumbers

_NO_PARAMS = (
    "scale_by_projection needs the current params, to project updates on them: call "
    "`tx.update(grads, state, params)`."
)
_NO_GRAD = (
    "scale_by_projection needs the raw gradient of this step, which transformations "
    "before it in a chain have replaced. Wrap the whole chain, "
    "`tx = optax_adamp.with_gradient(optax.chain(...))`, or pass it yourself, "
    "`tx.update(updates, state, params, grad=grads)`."
)


def scale_by_projection(
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    dimension_numbers: DimensionNumbers = None,
    partition_specs: PartitionSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Removes the radial part of updates to scale-invariant weights; adds decay.

    Momentum lets the norm of a weight :math:`w` that feeds a normalization layer grow,
    and so shrinks the step that its direction takes. For each channel, or else for the
    whole layer, whose gradient :math:`g` is nearly orthogonal to it,

    .. math::
      |\cos(g, w)| < \delta / \sqrt{n},

    with :math:`n` weights in the vector, the update loses the part along :math:`w`:

    .. math::
      u \leftarrow u - \hat{w} \langle \hat{w}, u \rangle + \lambda r w, \qquad
      \hat{w} = w / (\|w\| + \varepsilon),

    where the weight decay :math:`\lambda` is scaled by :math:`r` = `wd_ratio` for what
    is projected, and by 1 elsewhere. All channels must pass for a layer to be projected
    channel by channel. Parameters with fewer than two axes, such as biases and norm
    scales, are not projected.

    The test looks at the raw gradient of the step, which arrives as the extra argument
    `grad` of `update`: :func:`with_gradient` provides it. Sums are taken in float32 at
    least; the result has the dtype of the update. What cannot be represented is left
    alone: a vector whose norm overflows counts as not scale-invariant, and an entry
    that projection or decay would push out of its dtype's range keeps its value.

    Place it after the base optimizer and before the learning rate. Apply no further
    weight decay: it would not be scaled by `wd_ratio`.

    Args:
      delta: Threshold of the cosine test. 0 projects nothing.
      wd_ratio: Factor on the weight decay of projected parameters.
      eps: A small constant: the least norm in the cosine test, and added to the norm of
        the weight in the projection.
      weight_decay: Strength of the weight decay, a number or a schedule. It is
        multiplied with the learning rate that follows, as in :func:`optax.adamw`.
      mask: A tree with same structure as (or a prefix of) the params PyTree, or a
        Callable that returns such a pytree given the params. The leaves should be
        booleans, `True` for leaves/subtrees you want to apply the weight decay to, and
        `False` for those you want to skip. It does not affect the projection.
      dimension_numbers: Which axes of a parameter form a channel: one
        :class:`ProjectionDimensionNumbers`, a rule or a tree of
        :mod:`optax_adamp.layouts`, a tree (or prefix tree) of specs and rules in which
        `None` means not projected, or a Callable that returns one of these given the
        params. Anything with the attributes `reduction_axis` and `output_axis` is
        taken for a spec, such as Optax's `MuonDimensionNumbers`. By default the last
        axis is the output, as in Flax and Haiku, and all others are reduced. Both the
        default and a spec above a parameter in the tree pass over what has fewer than
        two axes, or by its own name holds one number a channel: `bias`, `scale`,
        `offset`, `gamma`, `beta`, `bias_n` or `negative_slope`, also as the last part
        of a joined key, or above a position or the array in a wrapper. A spec at a
        parameter's own place is always used. :func:`describe` shows what comes of it.
      partition_specs: For use inside :func:`jax.shard_map`, where a device sees only
        its part of a parameter: how the parts were cut. One
        :class:`jax.sharding.PartitionSpec`, a tree (or prefix tree) of them in which
        `None` means not cut, or a Callable that returns such a tree given the params;
        what `shard_map` has as `in_specs` for the params. The sums of a vector are then
        taken over the mesh axes that cut it. Specs of batch axes cause no
        communication: a parameter that each device has for itself, such as that of its
        stage of a pipeline, is one with a batch axis cut along the mesh. Where that
        axis is gone, as in :func:`jax.vmap` over the members of an ensemble that a
        device has, the string `"own"` in place of a spec says the same, also of whole
        parameters that :func:`jax.lax.pcast` marks as varying. Only mesh axes
        that are manual count, so that the specs do no harm elsewhere. A projected
        parameter whose spec contradicts what `shard_map` knows of it is an error; with
        `check_vma=False` `shard_map` knows nothing, and a wrong or missing spec gives a
        wrong result.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state is
      that of :func:`optax.add_decayed_weights`: empty, or a step count for a schedule.

    Raises:
      ValueError: At once for a negative `delta`, `wd_ratio` or `eps`; from `update` if
        `params` or `grad` are missing or do not fit the updates, or if `mask`,
        `dimension_numbers` or `partition_specs` do not fit the params.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> tx = optax_adamp.with_gradient(
      ...     optax.chain(
      ...         optax.scale_by_lion(),
      ...         optax_adamp.scale_by_projection(weight_decay=0.1),
      ...         optax.scale_by_learning_rate(1e-3),
      ...     )
      ... )
      >>> params = {"kernel": jnp.array([[3.0], [4.0]])}
      >>> grads = {"kernel": jnp.array([[4.0], [-3.0]])}  # orthogonal to the kernel
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> radial = jnp.vdot(updates["kernel"], params["kernel"]) / 25
      >>> print(f"{radial:.6f}")  # Only the decay: -1e-3 * 0.1 * 0.1
      -0.000010

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights <https://arxiv.org/abs/2006.08217>`_, 2021, section 3.2
    """
    for name, value in (("delta", delta), ("wd_ratio", wd_ratio), ("eps", eps)):
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"{name} must not be negative, but got {value}.")

    decay_state = optax.add_decayed_weights(weight_decay).init

    def init_fn(params: optax.Params) -> optax.OptState:
        # The state of add_decayed_weights, so that an AdamW checkpoint fits.
        state = decay_state(params)
        return state if mask is None else optax.MaskedState(inner_state=state)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        grad: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        if params is None:
            raise ValueError(_NO_PARAMS)
        if grad is None:
            raise ValueError(_NO_GRAD)
        decay, state = _decay_of_step(weight_decay, state)

        def update_leaf(parameter: Parameter, is_decayed: bool) -> Any:
            update = parameter.beside["updates"]
            if is_absent(update):
                return update
            return project(
                update,
                parameter.beside["grad"],
                parameter.array,
                parameter.axes,
                delta=delta,
                wd_ratio=wd_ratio,
                eps=eps,
                weight_decay=decay if is_decayed else 0.0,
            )

        parameters = resolve_parameters(
            {"updates": updates, "grad": grad, "params": params},
            dimension_numbers,
            partition_specs,
        )
        decayed = _resolve_mask(mask, params, parameters)
        treedef: Any = jax.tree.structure(updates, is_leaf=is_absent)
        return jax.tree.unflatten(treedef, map(update_leaf, parameters, decayed)), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def with_gradient(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Passes the raw gradient to every transformation in a chain.

    Calls `tx.update` with the extra argument `grad` set to the updates that it was
    given. In a chain each transformation sees only what the one before it returned;
    wrapped in this, :func:`scale_by_projection` sees the gradient as well.

    A `grad` that comes as an extra argument already is passed on as it is: from whoever
    calls `update`, or from another `with_gradient` around this one, such as that in
    :func:`adamp` and :func:`sgdp`. Hence wrap whatever stands between the gradient and
    the projection. What it is decides whether that is needed:

    ==================================  ==========================================
    before the optimizer                the test of the cosine
    ==================================  ==========================================
    clipping by global norm, scaling    does not change: no wrapper is needed
    clipping by value or block          needs the raw gradient: wrap the chain, or
                                        call `update(..., grad=grads)`
    centralization, L2 regularization   the same
    :class:`optax.MultiSteps`           needs the accumulated gradient: wrap what
                                        stands inside, and give no `grad` to `update`
    ==================================  ==========================================

    A line search may stand in the same chain, after the optimizer: the `grad` that it
    is given is the raw gradient too. To a chain with :class:`optax.MultiSteps` inside,
    this passes no gradient of a part.

    Args:
      tx: The transformation to wrap, usually an :func:`optax.chain`.

    Returns:
      A :class:`optax.GradientTransformationExtraArgs` with the state of `tx`. Other
      extra arguments are passed on.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> tx = optax_adamp.with_gradient(
      ...     optax.chain(
      ...         optax.trace(decay=0.9),
      ...         optax_adamp.scale_by_projection(),
      ...         optax.scale_by_learning_rate(0.1),
      ...     )
      ... )
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
      >>> grads = {"kernel": jnp.eye(3, 2), "bias": jnp.ones(2)}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> print(updates["bias"])
      [-0.1 -0.1]
    """
    tx = optax.with_extra_args_support(tx)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if extra_args.get("grad") is None and not _holds_accumulator(state):
            extra_args = {**extra_args, "grad": updates}
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def _holds_accumulator(state: Any) -> bool:
    """Whether `optax.MultiSteps` stands inside, which makes a gradient of its own."""

    def is_accumulator(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    return any(map(is_accumulator, jax.tree.leaves(state, is_leaf=is_accumulator)))


def _decay_of_step(
    weight_decay: optax.ScalarOrSchedule, state: Any
) -> tuple[jax.typing.ArrayLike, Any]:
    """The weight decay of this step, and the state after it."""
    if not callable(weight_decay):
        return weight_decay, state
    if isinstance(state, optax.MaskedState):
        decay, inner_state = _decay_of_step(weight_decay, state.inner_state)
        return decay, state._replace(inner_state=inner_state)
    next_count = optax.safe_increment(state.count)
    return weight_decay(state.count), state._replace(count=next_count)


def _resolve_mask(mask: Any, params: Any, parameters: list[Parameter]) -> list[bool]:
    """Whether the weight decay applies to each parameter."""
    if mask is None:
        return [True] * len(parameters)
    leaves = [(parameter.names, parameter.array) for parameter in parameters]
    entries = match_prefix(call_if_function(mask, params), leaves, argument="mask")
    return [entry.value for entry in entries]
