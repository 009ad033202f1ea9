"""The projection of one parameter: pure functions of arrays.

Section 3.2 of the paper, for a weight `w`, its raw gradient `g` and the update `u` that
the base optimizer proposes. A *view* cuts a parameter into vectors: one per output
channel, or one for the whole layer. All that the algorithm needs of a vector is four
inner products, and those of the layer are the sums of those of its channels.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_adamp._axes import Axes


class Sums(NamedTuple):
    """Inner products of the vectors of one view; summed axes stay, with size one."""

    gw: jax.Array
    gg: jax.Array
    ww: jax.Array
    uw: jax.Array
    length: int  # Real numbers in each vector.


class Chosen(NamedTuple):
    """Whether each batch element takes the channel or the layer view; or neither.

    Booleans with the axes of the parameter, all of size one but for batch axes.
    """

    channel: jax.Array
    layer: jax.Array


# Traced once for all parameters of one shape, and compiled where the caller is not.
@functools.partial(jax.jit, static_argnames="axes")
def project(
    update: jax.Array,
    grad: jax.Array,
    weight: jax.Array,
    axes: Axes | None,
    *,
    delta: jax.typing.ArrayLike,
    wd_ratio: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
) -> jax.Array:
    """Removes the radial part of an update and adds decay: both move along the weight.

    Args:
      update: The update of the base optimizer, before the learning rate.
      grad: The raw gradient of this step, of the same shape.
      weight: The parameter before this step, of the same shape.
      axes: The axes that form a channel; None for a parameter never projected.
      delta: Threshold of the cosine test, times the square root of a vector's length.
      wd_ratio: Factor on the weight decay of what is projected.
      eps: Lower bound of the norms in the test, added to the norm in the projection.
      weight_decay: Strength of the weight decay.

    Returns:
      The new update, with the shape and dtype of `update`.
    """
    dtype = dtype_of_sums(update, grad, weight)
    u, g, w = (jnp.asarray(x, dtype) for x in (update, grad, weight))
    # The gradient decides, and does nothing else: no derivative leads to it.
    g = jax.lax.stop_gradient(g)
    delta, wd_ratio, eps, weight_decay = (
        real_like(w, number) for number in (delta, wd_ratio, eps, weight_decay)
    )
    if axes is None or w.size == 0:
        along_w = weight_decay
    else:
        radial, is_projected = (
            _radial_if_it_passes(u, g, w, axes, delta=delta, eps=eps)
            if axes.view == "auto"
            else _radial_of_fixed_view(u, w, axes, eps)
        )
        along_w = weight_decay * jnp.where(is_projected, wd_ratio, 1.0) - radial
    projected = (u + along_w * w).astype(jnp.result_type(update))
    # Near the largest number, what moves along w can push an entry out of range. Such
    # an entry keeps the update of the base optimizer.
    return jnp.where(jnp.isfinite(projected), projected, update)


def dtype_of_sums(*arrays: jax.typing.ArrayLike) -> Any:
    """The dtype of the arithmetic: at least float32, complex if an array is.

    JAX has no promotion of an 8-bit float to another, and in its strict mode none of
    arrays at all.
    """
    kinds = [jax.typeof(array) for array in arrays]
    # A number of Python's takes the precision of the arrays beside it.
    kinds = [kind for kind in kinds if not kind.weak_type] or kinds
    is_complex = any(jnp.iscomplexobj(array) for array in arrays)
    is_wide = any(kind.dtype in (jnp.float64, jnp.complex128) for kind in kinds)
    if is_complex:
        return jnp.dtype(jnp.complex128 if is_wide else jnp.complex64)
    return jnp.dtype(jnp.float64 if is_wide else jnp.float32)


def real_like(array: jax.Array, number: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """A hyperparameter in the precision of an array; a number of Python's has any."""
    if jax.typeof(number).weak_type:
        return number
    return jnp.asarray(number, jnp.real(array).dtype)


def _radial_if_it_passes(
    u: jax.Array,
    g: jax.Array,
    w: jax.Array,
    axes: Axes,
    *,
    delta: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """What to remove, as a multiple of the weight, and where something is removed."""
    channel, layer = view_sums(u, g, w, axes)
    chosen = choose_view(channel, layer, axes, delta=delta, eps=eps)
    radial = jnp.where(
        chosen.channel,
        # One number for each channel. Without the barrier XLA takes it into the loop
        # over all weights, and divides once for each of them.
        jax.lax.optimization_barrier(_radial_part(channel.uw, channel.ww, eps)),
        jnp.where(chosen.layer, _radial_part(layer.uw, layer.ww, eps), 0.0),
    )
    return radial, chosen.channel | chosen.layer


def _radial_of_fixed_view(
    u: jax.Array, w: jax.Array, axes: Axes, eps: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """The same where nothing is tested: two sums of each vector, and no gradient.

    A vector whose sums are out of range keeps its update. The others need not know,
    which spares a GPU one more kernel and devices a message.
    """
    along, mesh_axes = axes.reduction, axes.reduction_mesh
    if axes.view == "layer":
        along, mesh_axes = along + axes.output, mesh_axes + axes.output_mesh
    uw, ww = _over_mesh((_inner(u, w, along), _inner(w, w, along)), mesh_axes)
    radial = _radial_part(uw, ww, eps)
    is_known = jnp.isfinite(radial)
    return jnp.where(is_known, radial, 0.0), is_known


def _inner(a: jax.Array, b: jax.Array, along: tuple[int, ...]) -> jax.Array:
    """Inner products along some axes; a complex number counts as two real ones."""
    return jnp.sum(jnp.real(jnp.conj(a) * b), axis=along, keepdims=True)


def view_sums(
    u: jax.Array, g: jax.Array, w: jax.Array, axes: Axes
) -> tuple[Sums, Sums]:
    """The sums of the channel view and, from them, those of the layer view."""

    def inner(a: jax.Array, b: jax.Array) -> jax.Array:
        # The sums of the layer are made of these, see below. Without the barrier XLA
        # sums over both axes at once instead, and reads all arrays a second time.
        return jax.lax.optimization_barrier(_inner(a, b, axes.reduction))

    # Without a sign: XLA for CPUs would see that Adam squares the gradient as well, and
    # keep all the squares in memory for both.
    abs_g = jnp.abs(g)
    channel_sums = _over_mesh(
        (inner(g, w), inner(abs_g, abs_g), inner(w, w), inner(u, w)),
        axes.reduction_mesh,
    )
    length = axes.length(w.shape) * (2 if jnp.iscomplexobj(w) else 1)
    length *= _parts(axes.reduction_mesh)
    layer_sums = _over_mesh(
        tuple(jnp.sum(s, axis=axes.output, keepdims=True) for s in channel_sums),
        axes.output_mesh,
    )
    layer_length = length * axes.channels(w.shape) * _parts(axes.output_mesh)
    return (
        Sums(*channel_sums, length=length),
        Sums(*layer_sums, length=layer_length),
    )


def choose_view(
    channel: Sums,
    layer: Sums,
    axes: Axes,
    *,
    delta: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> Chosen:
    """The first view all of whose vectors look scale-invariant.

    Of a fixed view it tells whether all vectors are in range, and so projected.
    """

    def passes(view: str, sums: Sums) -> jax.Array:
        projectable = jnp.isfinite(_radial_part(sums.uw, sums.ww, eps))
        if axes.view == "auto":
            return projectable & _looks_scale_invariant(sums, delta, eps)
        return projectable & (axes.view == view)

    # One channel that fails is enough to reject the view. Failures are added up, not
    # combined with `jnp.all`, so that sharded channels send them and the sums of the
    # layer in one message.
    fails = ~passes("channel", channel)
    failures = _over_mesh(
        jnp.sum(fails, axis=axes.output, keepdims=True, dtype=channel.ww.dtype),
        axes.output_mesh,
    )
    channel_passes = failures == 0
    layer_passes = passes("layer", layer)
    return Chosen(channel=channel_passes, layer=layer_passes & ~channel_passes)


def _looks_scale_invariant(
    sums: Sums, delta: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
) -> jax.Array:
    """Whether |cos(g, w)| < delta / sqrt(n); false where it cannot be known."""
    norms, known = _norms(sums, eps)
    # Without a division the test of a layer is cheap enough for a GPU to repeat it at
    # every weight, which spares the launch of one more kernel.
    return known & (jnp.abs(sums.gw) < threshold(sums, delta) * norms)


def cosine_of_gradient(
    sums: Sums, eps: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """The size of cos(g, w), and whether it can be known; if not, it is zero."""
    norms, known = _norms(sums, eps)
    known = known & (norms != 0)
    return jnp.where(known, jnp.abs(sums.gw), 0) / jnp.where(known, norms, 1), known


def _norms(sums: Sums, eps: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The divisor of the cosine, and whether it can be known."""
    norms = jnp.maximum(root(sums.gg), eps) * jnp.maximum(root(sums.ww), eps)
    # A norm that overflows would make any cosine zero.
    return norms, jnp.isfinite(norms)


def threshold(sums: Sums, delta: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """What the cosine must stay below."""
    length: Any = sums.length
    if not isinstance(length, int):  # A symbolic size, under jax.export.
        return delta / jnp.sqrt(jnp.asarray(length, sums.ww.dtype))
    return delta / math.sqrt(length)


def _radial_part(uw: jax.Array, ww: jax.Array, eps: jax.typing.ArrayLike) -> jax.Array:
    """The radial part of the update as a multiple of the weight."""
    return _divide(uw, (root(ww) + eps) ** 2)


# A derivative that is infinite is NaN once it is multiplied by zero, also where another
# value is chosen afterwards. These two have one of zero in its place, by a rule of
# their own, which leaves the program of a step as it is.


@jax.custom_jvp
def root(squares: jax.Array) -> jax.Array:
    """The square root, with a derivative of zero where it has none."""
    return jnp.sqrt(squares)


@root.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (squares,), (tangent,) = primals, tangents
    is_smooth = (squares > 0) & (squares < jnp.inf)
    divisor = 2 * root(jnp.where(is_smooth, squares, 1))
    return root(squares), jnp.where(is_smooth, tangent / divisor, 0)


@jax.custom_jvp
def _divide(a: jax.Array, b: jax.Array) -> jax.Array:
    return a / b


@_divide.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (a, b), (tangent_of_a, tangent_of_b) = primals, tangents
    divides = b != 0
    divisor = jnp.where(divides, b, 1)
    quotient = _divide(jnp.where(divides, a, 0), divisor)
    tangent = (tangent_of_a - quotient * tangent_of_b) / divisor
    return _divide(a, b), jnp.where(divides, tangent, 0)


def _over_mesh(sums: Any, mesh_axes: tuple[str, ...]) -> Any:
    """Adds up the parts that the mesh axes of a shard_map cut a parameter into."""
    return jax.lax.psum(sums, mesh_axes) if mesh_axes else sums


def _parts(mesh_axes: tuple[str, ...]) -> int:
    return math.prod(jax.lax.axis_size(name) for name in mesh_axes)
