"""AdamP and SGDP: the base optimizers with the projection behind them."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optax_adamp._mesh_axes import PartitionSpecs
from optax_adamp._transform import scale_by_projection, with_gradient
from optax_adamp.layouts._dimension_numbers import DimensionNumbers


def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    nesterov: bool = False,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    dimension_numbers: DimensionNumbers = None,
    partition_specs: PartitionSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamP: AdamW with the radial part of updates to scale-invariant weights removed.

    The norm of a weight that feeds a normalization layer does not matter to the loss,
    but momentum lets it grow, and a larger norm makes each step turn the weight less.
    AdamP finds such weights by their gradient, which is orthogonal to them, and removes
    the part of Adam's update along the weight. Everywhere else it is AdamW.

    With Adam's update :math:`u_t = \hat{m}_t / (\sqrt{\hat{v}_t + \bar{\varepsilon}} +
    \varepsilon)`, the step is

    .. math::
      \theta_{t+1} = \theta_t - \alpha_t (\Pi_t u_t + \lambda r_t \theta_t),

    where the projection :math:`\Pi_t` and the decay ratio :math:`r_t` are those of
    :func:`scale_by_projection`: the identity and 1 for what is not projected.

    The arguments stand in the order of :func:`optax.adamw`, and the state has the same
    structure: a saved AdamW state continues under AdamP.

    Args:
      learning_rate: A global scaling factor, either fixed or evolving along iterations
        with a scheduler, see :func:`optax.scale_by_learning_rate`.
      b1: Exponential decay rate to track the first moment of past gradients.
      b2: Exponential decay rate to track the second moment of past gradients.
      eps: A small constant applied to denominator outside of the square root (as in
        the Adam paper) to avoid dividing by zero when rescaling. The projection uses
        the same constant for the norms, as the reference implementation does.
      eps_root: A small constant applied to denominator inside the square root (as in
        RMSProp), to avoid dividing by zero when rescaling. This is needed for instance
        when computing (meta-)gradients through Adam.
      mu_dtype: Optional `dtype` to be used for the first order accumulator; if `None`
        then the `dtype` is inferred from `params` and `updates`.
      weight_decay: Strength of the weight decay regularization, a number or a schedule.
        It is multiplied with the learning rate, as in PyTorch and :func:`optax.adamw`.
        The paper writes the product with the learning rate: its 1e-4 is
        `learning_rate=1e-3, weight_decay=0.1` here.
      mask: A tree with same structure as (or a prefix of) the params PyTree, or a
        Callable that returns such a pytree given the params. The leaves should be
        booleans, `True` for leaves/subtrees you want to apply the weight decay to, and
        `False` for those you want to skip. Adam and the projection are applied to all
        parameters.
      nesterov: Whether to use Nesterov momentum as the reference implementation does:
        :math:`\hat{m}_t = (\beta_1 m_t + (1 - \beta_1) g_t) / (1 - \beta_1^t)`.
        :func:`optax.nadamw` corrects the bias differently.
      delta: Threshold of the cosine test. 0 projects nothing, which is AdamW.
      wd_ratio: Factor on the weight decay of projected parameters.
      dimension_numbers: Which axes of a parameter form a channel, see
        :func:`scale_by_projection` and :mod:`optax_adamp.layouts`. By default the last
        axis is the output, as in Flax and Haiku.
      partition_specs: For use inside :func:`jax.shard_map`: how the parameters are cut
        into the parts that a device sees, see :func:`scale_by_projection`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: For a negative `delta`, `wd_ratio` or `eps`, and as
        :func:`scale_by_projection` does.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> def f(x): return 1 - x[0, 0] / jnp.linalg.norm(x)  # scale-invariant
      >>> solver = optax_adamp.adamp(learning_rate=0.3)
      >>> params = jnp.array([[1.], [2.]])
      >>> opt_state = solver.init(params)
      >>> for _ in range(5):
      ...  grad = jax.grad(f)(params)
      ...  updates, opt_state = solver.update(grad, opt_state, params)
      ...  params = optax.apply_updates(params, updates)
      ...  print('Objective function: {:.2E}'.format(f(params)))
      Objective function: 4.01E-01
      Objective function: 2.67E-01
      Objective function: 1.58E-01
      Objective function: 7.95E-02
      Objective function: 3.06E-02

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights <https://arxiv.org/abs/2006.08217>`_, 2021, algorithm 2

    .. seealso::
      :func:`optax.adamw`, :func:`sgdp`
    """
    return with_gradient(
        optax.chain(
            _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
            scale_by_projection(
                delta,
                wd_ratio,
                eps,
                weight_decay,
                mask,
                dimension_numbers=dimension_numbers,
                partition_specs=partition_specs,
            ),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    dampening: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    dimension_numbers: DimensionNumbers = None,
    partition_specs: PartitionSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDP: SGD with the radial part of updates to scale-invariant weights removed.

    The norm of a weight that feeds a normalization layer does not matter to the loss,
    but momentum lets it grow, and a larger norm makes each step turn the weight less.
    SGDP finds such weights by their gradient, which is orthogonal to them, and removes
    the part of the update along the weight. Everywhere else it is SGD with momentum.

    With the dampening :math:`\tau`, the momentum is
    :math:`m_t = \mu m_{t-1} + (1 - \tau) g_t`, the update is :math:`u_t = m_t`, or
    :math:`u_t = g_t + \mu m_t` with Nesterov, and the step is

    .. math::
      \theta_{t+1} =
        \theta_t - \alpha_t \left(\Pi_t u_t + \frac{\lambda r_t}{1 - \mu} \theta_t
        \right),

    where the projection :math:`\Pi_t` and the decay ratio :math:`r_t` are those of
    :func:`scale_by_projection`: the identity and 1 for what is not projected. The
    momentum itself is never projected.

    The first arguments stand in the order of :func:`optax.sgd`, and the state has the
    same structure but for empty states.

    Args:
      learning_rate: A global scaling factor, either fixed or evolving along iterations
        with a scheduler, see :func:`optax.scale_by_learning_rate`.
      momentum: Decay rate used by the momentum term, less than 1. When it is set to
        `None`, then momentum is not used at all.
      nesterov: Whether Nesterov momentum is used.
      accumulator_dtype: Optional `dtype` to be used for the accumulator; if `None` then
        the `dtype` is inferred from `params` and `updates`.
      weight_decay: Strength of the weight decay regularization, a number or a schedule.
        It is decoupled from the gradient, and multiplied with the learning rate over
        one minus the momentum.
      mask: A tree with same structure as (or a prefix of) the params PyTree, or a
        Callable that returns such a pytree given the params. The leaves should be
        booleans, `True` for leaves/subtrees you want to apply the weight decay to, and
        `False` for those you want to skip. Momentum and the projection are applied to
        all parameters.
      dampening: The share of the gradient that the momentum leaves out, as in PyTorch.
        Not to be combined with Nesterov.
      eps: A small constant: the least norm in the cosine test, and added to the norm of
        the weight in the projection.
      delta: Threshold of the cosine test. 0 projects nothing.
      wd_ratio: Factor on the weight decay of projected parameters.
      dimension_numbers: Which axes of a parameter form a channel, see
        :func:`scale_by_projection` and :mod:`optax_adamp.layouts`. By default the last
        axis is the output, as in Flax and Haiku.
      partition_specs: For use inside :func:`jax.shard_map`: how the parameters are cut
        into the parts that a device sees, see :func:`scale_by_projection`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: For a momentum of 1 or more, for Nesterov together with dampening, for
        a negative `delta`, `wd_ratio` or `eps`, and as :func:`scale_by_projection`
        does.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> def f(x): return 1 - x[0, 0] / jnp.linalg.norm(x)  # scale-invariant
      >>> solver = optax_adamp.sgdp(learning_rate=0.3)
      >>> params = jnp.array([[1.], [2.]])
      >>> opt_state = solver.init(params)
      >>> for _ in range(5):
      ...  grad = jax.grad(f)(params)
      ...  updates, opt_state = solver.update(grad, opt_state, params)
      ...  params = optax.apply_updates(params, updates)
      ...  print('Objective function: {:.2E}'.format(f(params)))
      Objective function: 5.05E-01
      Objective function: 4.21E-01
      Objective function: 3.16E-01
      Objective function: 2.08E-01
      Objective function: 1.15E-01

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights <https://arxiv.org/abs/2006.08217>`_, 2021, algorithm 1

    .. seealso::
      :func:`optax.sgd`, :func:`adamp`
    """
    if isinstance(momentum, int | float) and not momentum < 1:
        raise ValueError(f"momentum must be less than 1, but got {momentum}.")
    if nesterov and isinstance(dampening, int | float) and dampening != 0:
        raise ValueError(
            f"Nesterov momentum has no dampening, but got dampening={dampening}. Set "
            "one of them to zero or False."
        )
    if momentum is None:
        momentum, accumulate = 0.0, optax.identity()
    else:
        accumulate = optax.trace(momentum, nesterov, accumulator_dtype)
    return with_gradient(
        optax.chain(
            optax.scale(1 - dampening),
            accumulate,
            scale_by_projection(
                delta,
                wd_ratio,
                eps,
                _divide_decay(weight_decay, 1 - momentum),
                mask,
                dimension_numbers=dimension_numbers,
                partition_specs=partition_specs,
            ),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def _scale_by_adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike,
    mu_dtype: Any | None,
    *,
    nesterov: bool,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, but with the Nesterov momentum of the reference."""
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype)
    if not nesterov:
        return adam

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        del params
        new_state: Any
        _, new_state = adam.update(updates, state)
        # The momentum looks one step ahead: the gradient enters it a second time. The
        # second moment and the step count are those of a single step.
        ahead = state._replace(mu=new_state.mu)
        new_updates, _ = adam.update(updates, ahead)
        return new_updates, new_state

    return optax.GradientTransformation(adam.init, update_fn)


def _divide_decay(
    weight_decay: optax.ScalarOrSchedule, divisor: Any
) -> optax.ScalarOrSchedule:
    if callable(weight_decay):
        return lambda count: weight_decay(count) / divisor
    return weight_decay / divisor
