"""What the projection does at one step, in figures to log."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_adamp._axes import Axes
from optax_adamp._checks import check_array, dtype_of, has_gradient, refuse_model
from optax_adamp._mesh_axes import PartitionSpecs
from optax_adamp._parameters import resolve_parameters
from optax_adamp._projection import (
    Sums,
    choose_view,
    cosine_of_gradient,
    dtype_of_sums,
    real_like,
    root,
    threshold,
    view_sums,
)
from optax_adamp._trees import Names, format_path, is_absent
from optax_adamp.layouts._dimension_numbers import DimensionNumbers


class Measurement(NamedTuple):
    """What :func:`measure` finds of one parameter, which says what each value means.

    Each is an array with one value a batch element, of the sizes of the batch axes; a
    scalar without batch axes. None: does not apply.
    """

    weight_norm: jax.Array
    channel_cosine: jax.Array | None = None
    layer_cosine: jax.Array | None = None
    channel_projected: jax.Array | None = None
    layer_projected: jax.Array | None = None
    channel_radial: jax.Array | None = None
    layer_radial: jax.Array | None = None
    channel_step: jax.Array | None = None
    layer_step: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Measurements:
    """What :func:`measure` finds: a tree of arrays that any JAX function can return.

    Attributes:
      leaves: A :class:`Measurement` for the path of each parameter.
      batch_axes: How many axes of each measurement are batch axes of the parameter, the
        last ones.
    """

    leaves: dict[str, Measurement]
    batch_axes: tuple[tuple[str, int], ...] = dataclasses.field(
        metadata={"static": True}
    )

    def scalars(self) -> dict[str, jax.Array]:
        """All values as scalars, `{"path/metric": value}`, to be logged.

        Of a scan over steps, or of :func:`jax.vmap` over models, there is an array of
        them: axes that come before the batch axes stay.

        Over batch elements, cosines are the largest and all others are means: of
        `channel_projected` and `layer_projected` that is the share of batch elements
        which are projected. All are NaN if any is. What does not apply to a parameter
        is left out.
        """
        batch_axes = dict(self.batch_axes)

        def over_batch(path: str) -> tuple[int, ...]:
            return tuple(range(-batch_axes[path], 0))

        return {
            f"{path}/{metric}": reduce(getattr(leaf, metric), over_batch(path))
            for path, leaf in self.leaves.items()
            for metric, reduce in _REDUCTIONS.items()
            if getattr(leaf, metric) is not None
        }


_REDUCTIONS = {
    "weight_norm": jnp.mean,
    "channel_cosine": jnp.max,
    "layer_cosine": jnp.max,
    "channel_projected": jnp.mean,
    "layer_projected": jnp.mean,
    "channel_radial": jnp.mean,
    "layer_radial": jnp.mean,
    "channel_step": jnp.mean,
    "layer_step": jnp.mean,
}


def measure(
    grads: Any,
    params: Any,
    *,
    updates: Any | None = None,
    delta: jax.typing.ArrayLike = 0.1,
    eps: jax.typing.ArrayLike = 1e-8,
    dimension_numbers: DimensionNumbers = None,
    partition_specs: PartitionSpecs = None,
) -> Measurements:
    r"""Measures how a step meets the projection: who passes, and what it does to them.

    A pure function of a step's arrays, to be called inside or outside of `jit`, at
    every step or at every hundredth. The optimizer's state stays as it is, and what is
    not measured costs nothing.

    With the raw gradient :math:`g` and the weight :math:`w` of a channel or a layer of
    :math:`n` numbers, and the update :math:`u`, the metrics of a parameter are these,
    numbers without a unit but for the norm, which has that of the weight:

    - `weight_norm`: :math:`\|w\|` of the whole layer.
    - `channel_cosine`, `layer_cosine`: :math:`|\cos(g, w)|` over its threshold
      :math:`\delta / \sqrt{n}`, for the channel in which it is largest and for the
      layer. Below 1 the test passes. For a random gradient that of the layer is about
      :math:`1 / \delta`, 10 by default, and that of the channels a few times as large.
    - `channel_projected`, `layer_projected`: whether the update is projected channel
      by channel, or as one layer. This is the optimizer's own decision, a fixed view
      included.
    - `channel_radial`, `layer_radial`: the radial fraction of the update, from 0 to 1,
      :math:`|\langle u, w \rangle| / (\|u\| \|w\|)`; of the channels, the mean. What is
      projected keeps but its weight decay.
    - `channel_step`, `layer_step`: the effective step, the distance from 0 to 2
      between :math:`w / \|w\|` before the update and after it; of the channels, the
      mean. A small one is an angle in radians. It is all that the loss sees of a step
      of a scale-invariant weight.

    The last four need `updates`, and what is never projected has but the norm. Batch
    elements are measured one by one.

    Cosines follow the test in all that is special: they are 0 for a gradient or a
    weight of zeros, and NaN, which does not pass, where a norm is not finite or, with
    an `eps` of zero, where one is zero. What has no direction has no radial part and
    does not turn: the fraction is 0 for an update of zeros, and fraction and step are 0
    for a weight of zeros, from which any step would lead to a first direction, not to
    another. Such channels count in the mean as well. Where the update is not finite,
    fraction and step are NaN.

    Args:
      grads: The raw gradient of the step.
      params: The params before the step.
      updates: What :func:`optax.apply_updates` is given at this step, with learning
        rate and weight decay.
      delta: As for the optimizer.
      eps: As for the optimizer.
      dimension_numbers: As for the optimizer.
      partition_specs: As for the optimizer: inside :func:`jax.shard_map`, how the
        parameters are cut into the parts that a device sees. Here also what is never
        projected needs its spec, for its norm. What is measured is whole along each
        axis but the batch axes, and these are cut as those of the parameter.

    Returns:
      `Measurements`, a tree of arrays. Its `leaves` maps the path of each parameter
      to a named tuple of the metrics above, with one value a batch element or None, and
      `scalars()` gives a flat dict, `{"path/metric": scalar}`, for TensorBoard, W&B or
      any other writer.

    Raises:
      ValueError: If the trees do not fit each other, hold other things than real or
        complex arrays, or have the same path twice, and as
        :func:`scale_by_projection` does for `dimension_numbers` and
        `partition_specs`.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> def loss_fn(params): return params["w"][0, 0] / jnp.linalg.norm(params["w"])
      >>> params = {"w": jnp.array([[3.0], [4.0]])}
      >>> tx = optax_adamp.adamp(0.1)
      >>> @jax.jit
      ... def step(params, state):
      ...   grads = jax.grad(loss_fn)(params)
      ...   updates, state = tx.update(grads, state, params)
      ...   measured = optax_adamp.measure(grads, params, updates=updates)
      ...   return optax.apply_updates(params, updates), state, measured
      >>> params, state, measured = step(params, tx.init(params))
      >>> for name, value in measured.scalars().items():
      ...   if name.startswith("w/channel") or name == "w/weight_norm":
      ...     print(f"{name}: {value:.3f}")
      w/weight_norm: 5.000
      w/channel_cosine: 0.000
      w/channel_projected: 1.000
      w/channel_radial: 0.000
      w/channel_step: 0.028

    .. seealso::
      :func:`describe`
    """
    refuse_model(params, function="measure")
    trees = {"grads": grads, "params": params}
    if updates is not None:
        trees["updates"] = updates
    parameters = resolve_parameters(
        trees, dimension_numbers, partition_specs, check=_check_weight
    )
    measured: dict[str, Measurement] = {}
    batch_axes: dict[str, int] = {}
    for parameter in parameters:
        weight = parameter.array
        if is_absent(weight):
            continue
        path = format_path(parameter.names)
        if path in measured:
            raise ValueError(
                f"measure: two parameters have the path {path}, and their measurements "
                "would have the same names. Rename one."
            )
        axes = parameter.axes if jnp.size(weight) else None
        is_projected = axes is not None
        if axes is None:
            # What is never projected has a norm all the same, over all of its axes.
            every_axis = tuple(range(jnp.ndim(weight)))
            axes = parameter.cut(Axes(every_axis, (), "auto"))
        measured[path] = _measure_leaf(
            parameter.beside["grads"],
            weight,
            parameter.beside.get("updates"),
            axes,
            is_projected=is_projected,
            delta=delta,
            eps=eps,
        )
        batch_axes[path] = len(axes.batch(jnp.shape(weight)))
    return Measurements(measured, tuple(batch_axes.items()))


def _check_weight(names: Names, leaf: Any, *, argument: str) -> None:
    check_array(names, leaf, argument=argument)
    if not has_gradient(leaf):
        raise ValueError(
            f"{argument} has an array of {dtype_of(leaf)} at "
            f"{format_path(names)}: only real and complex numbers have a gradient. "
            "Leave it out."
        )


class _Along(NamedTuple):
    """Axes, and the manual mesh axes that cut them; reduced ones stay with size one."""

    axes: tuple[int, ...]
    mesh_axes: tuple[str, ...]

    def sum(self, array: jax.Array) -> jax.Array:
        part = jnp.sum(array, axis=self.axes, keepdims=True)
        return jax.lax.psum(part, self.mesh_axes) if self.mesh_axes else part

    def max(self, array: jax.Array) -> jax.Array:
        part = jnp.max(array, axis=self.axes, keepdims=True)
        return jax.lax.pmax(part, self.mesh_axes) if self.mesh_axes else part

    def mean(self, array: jax.Array) -> jax.Array:
        # The parts on the devices of a mesh are of one size.
        part = jnp.mean(array, axis=self.axes, keepdims=True)
        return jax.lax.pmean(part, self.mesh_axes) if self.mesh_axes else part


def _measure_leaf(
    grad: jax.Array,
    weight: jax.Array,
    update: jax.Array | None,
    axes: Axes,
    *,
    is_projected: bool,
    delta: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> Measurement:
    # The choice of a view looks at the update only to see whether its numbers are
    # finite: the gradient can stand for it.
    arrays = (grad, weight, grad if update is None else update)
    dtype = dtype_of_sums(*arrays)
    g, w, u = (jnp.asarray(array, dtype) for array in arrays)
    delta, eps = real_like(w, delta), real_like(w, eps)
    along_channel = _Along(axes.reduction, axes.reduction_mesh)
    over_channels = _Along(axes.output, axes.output_mesh)
    if not is_projected:
        return Measurement(weight_norm=jnp.squeeze(_norm(w, along_channel)))
    channel, layer = view_sums(u, g, w, axes)
    chosen = choose_view(channel, layer, axes, delta=delta, eps=eps)
    channel_cosine = _cosine_over_threshold(channel, delta, eps)
    measurement = Measurement(
        weight_norm=root(layer.ww),
        channel_cosine=over_channels.max(channel_cosine),
        layer_cosine=_cosine_over_threshold(layer, delta, eps),
        channel_projected=chosen.channel,
        layer_projected=chosen.layer,
    )
    if update is not None:
        along_layer = _Along(
            along_channel.axes + over_channels.axes,
            along_channel.mesh_axes + over_channels.mesh_axes,
        )
        by_channel = _turns(u, w, channel, along_channel, over=over_channels)
        by_layer = _turns(u, w, layer, along_layer, over=_Along((), ()))
        measurement = measurement._replace(
            channel_radial=by_channel.radial,
            layer_radial=by_layer.radial,
            channel_step=by_channel.step,
            layer_step=by_layer.step,
        )
    # What is left are the batch axes.
    return jax.tree.map(
        functools.partial(jnp.squeeze, axis=axes.reduction + axes.output),
        measurement,
    )


def _cosine_over_threshold(
    sums: Sums, delta: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
) -> jax.Array:
    cosine, known = cosine_of_gradient(sums, eps)
    bound = jnp.asarray(threshold(sums, delta), cosine.dtype)
    # Nothing is below a bound of zero.
    over = cosine / jnp.where(bound > 0, bound, 1)
    over = jnp.where(bound > 0, over, jnp.inf)
    return jnp.where(known, over, jnp.nan)


class _Turn(NamedTuple):
    radial: jax.Array
    step: jax.Array


def _turns(
    u: jax.Array,
    w: jax.Array,
    sums: Sums,
    along: _Along,
    *,
    over: _Along,
) -> _Turn:
    """Radial fraction and effective step of vectors; means over some axes.

    Args:
      u: The update that is applied.
      w: The weight before it.
      sums: The inner products of the vectors.
      along: The axes along a vector.
      over: The axes over which means are taken.
    """
    w_norm, u_norm = root(sums.ww), _norm(u, along)
    # Without a direction there is no radial part. NaN is not zero, and shows.
    has_direction = sums.ww != 0
    along_w = _quotient(sums.uw, w_norm, where=has_direction)
    # Not from the norms of u and of its radial part: their difference cancels where u
    # is nearly radial. And for small steps so does that of the directions, but not the
    # angle between them, of which they make the legs of an isosceles triangle.
    radial_part = _quotient(sums.uw, sums.ww, where=has_direction)
    across_w = _norm(u - radial_part * w, along)
    angle = jnp.where(has_direction, jnp.arctan2(across_w, w_norm + along_w), 0)
    fraction = _quotient(jnp.abs(along_w), u_norm, where=u_norm != 0)
    return _Turn(radial=over.mean(fraction), step=over.mean(2 * jnp.sin(angle / 2)))


def _quotient(a: jax.Array, b: jax.Array, *, where: jax.Array) -> jax.Array:
    """The quotient, or zero; what is not divided makes no NaN on the way either."""
    return jnp.where(where, a, 0) / jnp.where(where, b, 1)


def _norm(array: jax.Array, along: _Along) -> jax.Array:
    """Norms along some axes, which stay with size one."""
    return root(along.sum(jnp.real(jnp.conj(array) * array)))
