"""Which weights are scale-invariant, decided once, before training."""

import functools
import itertools
import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from optax_adamp._axes import Axes, ProjectionDimensionNumbers, View
from optax_adamp._checks import (
    check_array,
    dtype_of,
    has_gradient,
    refuse_empty,
    refuse_model,
    refuse_shared_paths,
)
from optax_adamp._inspect.evidence import (
    Evidence,
    change_at_threshold,
    evidence_table,
    second_opinion,
    weigh,
)
from optax_adamp._inspect.grouping import merge, stack
from optax_adamp._inspect.perturb import perturb
from optax_adamp._inspect.table import Table
from optax_adamp._mesh_axes import OWN
from optax_adamp._parameters import Parameter, resolve_parameters
from optax_adamp._projection import dtype_of_sums, view_sums
from optax_adamp._trees import Names, format_path, is_absent, named_leaves
from optax_adamp.layouts import from_function
from optax_adamp.layouts._dimension_numbers import DimensionNumbers, Reason
from optax_adamp.layouts._layout import Layout

# Doubling and halving round nothing, whatever the dtype; what follows may.
_ROUNDINGS = 4

Loss = Callable[[Any, Any], jax.Array]


@jax.tree_util.register_pytree_with_keys_class
class DetectedLayout(Layout):
    """What :func:`detect_scale_invariance` found: a layout with its evidence.

    A tree of specs for `dimension_numbers`. Like the reasons, the evidence is lost
    where :func:`jax.tree.map` makes new leaves.

    Attributes:
      evidence: A table with one row a parameter.
    """

    evidence: Table[Evidence] = Table((), {})


def detect_scale_invariance(
    loss_fn: Loss,
    params: Any,
    batches: Iterable[Any],
    *,
    num_batches: int = 8,
    delta: float = 0.1,
    eps: float = 1e-8,
    dimension_numbers: DimensionNumbers = None,
    verify: bool = False,
    seed: int = 0,
) -> DetectedLayout:
    r"""Finds out once which weights are scale-invariant, to train without the test.

    The published test, :math:`|\cos(g, w)| < \delta / \sqrt{n}`, is taken anew at every
    step, and a weight that is not scale-invariant passes it by chance in some 8 % of
    them. This takes it on several batches and fixes the view of each parameter:
    "channel", "layer", something between the two, or None, which leaves it to the base
    optimizer. Pass the result as `dimension_numbers`, and no step tests again.

    Which axes form a channel is read from the program, see
    :func:`layouts.from_function <optax_adamp.layouts.from_function>`: one call does for
    any model in JAX.

    Gradients of different batches at the same weights resemble each other, so that
    eight of them may be no more evidence than one. But scale invariance holds at all
    weights. So the first batch is taken at the given weights, and each further one at
    weights of its own: half the variance of every channel that is tested is replaced
    with random noise, which keeps its norm on average, all other numbers are scaled by
    random factors from 1/2 to 3/2, and zeros become noise of the size
    :math:`1 / \sqrt{n}` (1 for a bias). Scale-invariant weights stay so, and all others
    have a chance of some 8 % each time.

    A view is found if it passes in *every* batch in which it has a gradient, and each
    of its vectors has one in half of the batches, and in at least four. With the
    default of eight batches, at most one in 10,000 weights that are not scale-invariant
    is found by chance, and far fewer if all batches have a gradient. With fewer than
    four batches there is no such promise. The channel view goes before the layer view,
    and in stacked weights a view must be found in every batch element.

    Between the two, vectors may run along the reduction axes and some of the output
    axes: those of a query kernel (features, heads, size) along features and size, if
    each head is normalized by itself. All such groupings are tested, and the finest
    that passes is the verdict "group": the one along the fewest axes, then the one with
    the most vectors, then the one along later axes. Its spec has axes of its own, here
    `ProjectionDimensionNumbers((0, 2), 1, view="channel")`. To make up for the number
    of groupings, each of its vectors needs a gradient in one batch more, or in two for
    more than twelve of them.

    A penalty in the loss, such as `0.5 * 1e-4 * sum(w**2)`, adds a constant multiple of
    the weight to its gradient, which fails the test unless it is small. And since it
    grows with the weight, the loss is not scale-invariant by definition either: the
    verdict is "mixed". Where the ratio
    :math:`\langle g, w \rangle / \langle w, w \rangle` is the same in all batches, six
    at least, and what is left of the gradient passes, a remark tells the ratio and what
    the verdict would be. A fixed view would work, but it would project the penalty away
    and leave the weight without the decay that it was for. Hence None: use
    `weight_decay` instead of the penalty, and detect again. A view that passes all the
    same is kept, with the remark; there the penalty has no effect.

    What is left over is "neither", unless it is not as clear as that: "unknown" if the
    gradient is zero in too many batches, and "mixed" if it is not finite, if some
    channels have no gradient (units that are dead, tokens that do not occur), or if
    channels or batches pass in part but more often than one time in a thousand by
    chance. A norm's eps beside tiny weights, a low precision, or a bias before a norm
    that is zero only at first look like that. All of these stay with the base optimizer
    (None), and the table says why.

    Args:
      loss_fn: A function of params and a batch to a scalar: a loss as it is in
        training, with batch statistics if there are any. It is traced by
        :func:`jax.jit`, once if all batches have the same shapes.
      params: The params. Integers among them are constants and get None.
      batches: Batches, of which the first `num_batches` are taken. They should be as in
        training: a unit that no batch reaches cannot be judged.
      num_batches: The number of gradients.
      delta: As for the optimizer.
      eps: Gradients and weights with a norm up to this count as zero.
      dimension_numbers: Which axes form a channel, as for the optimizer. What is not
        projected there is not tested here; if the view is fixed, it is tested
        nevertheless. By default they come from the program, read with the first batch;
        where it cannot tell, the error names what to override. Pass
        `layouts.from_function(loss_fn, params, batch, overrides=...)` then, or any
        other layout, such as :data:`layouts.output_last
        <optax_adamp.layouts.output_last>`.
      verify: Whether to ask the definition for a second opinion: at weights perturbed
        once more, the vectors of each weight that was found are doubled or halved at
        random. If the loss changes by more than the test's threshold and
        rounding allow, the verdict is "mixed". It costs a gradient, one loss for every
        weight that was found, and one more compilation.
      seed: Of the random perturbations. The same seed gives the same result on the same
        kind of device.

    Returns:
      A :class:`layouts.Layout <optax_adamp.layouts.Layout>` with the paths of the
      params, to be given as `dimension_numbers`. Its attribute `evidence` is a table
      with one row a parameter; a row is a named tuple with the attributes `path`,
      `shape`, `verdict`, `channel_passed`, `channel_informative`, `channel_cosine`,
      `layer_passed`, `layer_informative`, `layer_cosine`, `along`, `group_passed`,
      `group_informative`, `group_cosine`, `loss_change` and `remark`.

    Raises:
      ValueError: If there are too few batches, if `params` is no tree of arrays or
        `loss_fn` gives no real scalar, for a `num_batches` below 1 and a `delta` or
        `eps` out of range, inside of :func:`jax.jit` or :func:`jax.shard_map`, where
        there are no numbers or only parts of arrays, and as :func:`scale_by_projection`
        does for `dimension_numbers`, or
        :func:`layouts.from_function <optax_adamp.layouts.from_function>` without.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax_adamp
      >>> def loss_fn(params, batch):
      ...   x = batch @ params["first"]["kernel"]
      ...   x = jax.nn.relu(jax.nn.standardize(x, axis=0))  # as BatchNorm
      ...   x = jax.nn.standardize(x @ params["second"]["kernel"])  # as LayerNorm
      ...   return jnp.mean((x @ params["head"]["kernel"] - batch) ** 2)
      >>> def normal(seed, *shape):
      ...   return jax.random.normal(jax.random.key(seed), shape)
      >>> params = {
      ...   "first": {"kernel": normal(0, 4, 16)},
      ...   "second": {"kernel": normal(1, 16, 8)},
      ...   "head": {"kernel": normal(2, 8, 4)},
      ... }
      >>> batches = (normal(seed, 32, 4) for seed in range(3, 11))
      >>> specs = optax_adamp.detect_scale_invariance(loss_fn, params, batches)
      >>> for row in specs.evidence:
      ...   print(f"{row.path}: {row.verdict}; passes by channel in {row.channel} "
      ...         f"batches, as a layer in {row.layer}")
      first/kernel: channel; passes by channel in 8 of 8 batches, as a layer in 8 of 8
      head/kernel: neither; passes by channel in 0 of 8 batches, as a layer in 0 of 8
      second/kernel: layer; passes by channel in 0 of 8 batches, as a layer in 8 of 8
      >>> specs["first"]["kernel"].view
      'channel'
      >>> tx = optax_adamp.adamp(1e-3, dimension_numbers=specs)

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights <https://arxiv.org/abs/2006.08217>`_, 2021, section 3.2

    .. seealso::
      :func:`describe`, :func:`measure`
    """
    _check_numbers(num_batches, delta, eps)
    named = _named_arrays(params)
    loss = _loss(loss_fn, params, named)
    remaining = itertools.islice(batches, num_batches)
    first = list(itertools.islice(remaining, 1))
    if not first:
        raise _too_few(0, num_batches)
    if dimension_numbers is None:
        dimension_numbers = _axes_of_program(loss, params, *first)
    parameters = resolve_parameters({"params": params}, dimension_numbers, OWN)
    leaves = list(map(_testable, parameters))
    trained = list(filter(_is_trained, leaves))
    arrays, axes = [leaf.array for leaf in trained], [leaf.axes for leaf in trained]
    problem = _problem(loss, axes)
    batch: Any = None
    taken: list[Any] = []
    for count, batch in enumerate(itertools.chain(first, remaining)):
        weights = perturb(arrays, axes, seed=seed, draw=count)
        taken.append(jax.device_get(problem.gradient_sums(weights, batch)))
    if len(taken) < num_batches:
        raise _too_few(len(taken), num_batches)
    rows = {leaf.names: _untested(leaf) for leaf in leaves if not is_absent(leaf.array)}
    for leaf, sums in zip(trained, zip(*taken, strict=True), strict=True):
        if leaf.axes is not None:
            of_channels = stack(sums, leaf.array, leaf.axes)
            rows[leaf.names] = weigh(
                rows[leaf.names], of_channels, delta=delta, eps=eps
            )
    if verify:
        at = (perturb(arrays, axes, seed=seed, draw=num_batches), batch)
        rows = _verify(problem, at, trained, rows, delta=delta, seed=seed)
    return _layout(leaves, rows)


class _Problem(NamedTuple):
    """Two functions of the weights that have a gradient, and a batch."""

    gradient_sums: Callable[..., list[tuple[jax.Array, ...] | None]]
    scaled_loss: Callable[..., jax.Array]  # Its last argument are factors.


def _check_numbers(num_batches: int, delta: float, eps: float) -> None:
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, but got {num_batches}.")
    if not delta > 0:
        raise ValueError(f"delta must be positive, but got {delta}.")
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, but got {eps}.")


def _too_few(number: int, num_batches: int) -> ValueError:
    return ValueError(
        f"detect_scale_invariance needs {num_batches} batches, but got {number}. Give "
        "it more, or a smaller num_batches."
    )


def _named_arrays(params: Any) -> list[tuple[Names, Any]]:
    """The params by their paths, after it has been checked that they can be tested."""
    refuse_model(params, function="detect_scale_invariance")
    refuse_empty(params, function="detect_scale_invariance")
    named = named_leaves(params, is_leaf=is_absent)
    refuse_shared_paths(named, function="detect_scale_invariance")
    for names, node in named:
        if is_absent(node):
            continue
        check_array(names, node, argument="params")
        if isinstance(node, jax.ShapeDtypeStruct):
            raise ValueError(
                f"detect_scale_invariance needs numbers, but {format_path(names)} has "
                f"only a shape, {node.shape}. Initialize the model."
            )
    is_traced = any(isinstance(node, Tracer) for _, node in named)
    if is_traced or jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(
            "detect_scale_invariance decides by numbers, those of whole arrays, once "
            "before training. Call it outside of jax.jit, jax.vmap and jax.shard_map; "
            "loss_fn may use them."
        )
    return named


def _testable(parameter: Parameter) -> Parameter:
    """The parameter as it is tested, an array; without axes it is not."""
    if is_absent(parameter.array):
        return parameter
    if not _is_trained(parameter):
        why = f"no gradient reaches arrays of {dtype_of(parameter.array)}"
        return parameter._replace(axes=None, reason=functools.partial(Reason, why))
    array = jnp.asarray(parameter.array)
    if not array.size:
        reason = functools.partial(Reason, "empty")
        return parameter._replace(array=array, axes=None, reason=reason)
    return parameter._replace(array=array)


def _is_trained(parameter: Parameter) -> bool:
    return not is_absent(parameter.array) and has_gradient(parameter.array)


def _axes_of_program(loss: Loss, params: Any, batch: Any) -> Layout:
    """What the loss, of the weights that a gradient reaches, does with the params."""

    def of_params(params: Any, batch: Any) -> jax.Array:
        leaves = jax.tree.leaves(params)
        return loss([leaf for leaf in leaves if has_gradient(leaf)], batch)

    return from_function(of_params, params, batch)


def _loss(loss_fn: Loss, params: Any, named: list[tuple[Names, Any]]) -> Loss:
    """The loss as a function of the weights that a gradient reaches, and a batch."""
    treedef: Any = jax.tree.structure(params, is_leaf=is_absent)

    # Traced once for all that is asked of it.
    @jax.jit
    def loss(weights: Iterable[jax.Array], batch: Any) -> jax.Array:
        remaining = iter(weights)
        arrays = [
            node if is_absent(node) or not has_gradient(node) else next(remaining)
            for _, node in named
        ]
        return _check_scalar(loss_fn(jax.tree.unflatten(treedef, arrays), batch))

    return loss


def _problem(loss: Loss, axes: list[Axes | None]) -> _Problem:
    gradient: Callable[..., list[jax.Array]] = jax.grad(loss)

    @jax.jit
    def gradient_sums(
        weights: list[jax.Array], batch: Any
    ) -> list[tuple[jax.Array, ...] | None]:
        return list(map(_sums, gradient(weights, batch), weights, axes))

    @jax.jit
    def scaled_loss(
        weights: list[jax.Array], batch: Any, factors: list[Any]
    ) -> jax.Array:
        return loss(list(map(operator.mul, weights, factors)), batch)

    return _Problem(gradient_sums, scaled_loss)


def _check_scalar(value: Any) -> jax.Array:
    is_scalar = isinstance(value, jax.Array | float) and jnp.shape(value) == ()
    if is_scalar and jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return jnp.asarray(value)
    if isinstance(value, jax.Array):
        value = f"an array of {value.dtype} with shape {value.shape}"
    else:
        value = f"a {type(value).__name__}"
    raise ValueError(
        f"loss_fn must return one real number, but returned {value}. Take the mean of "
        "losses, and leave out what else it returns."
    )


def _sums(
    grad: jax.Array, weight: jax.Array, axes: Axes | None
) -> tuple[jax.Array, ...] | None:
    """Inner products of one batch, per channel; None for what is not tested."""
    if axes is None:
        return None
    dtype = dtype_of_sums(weight)
    # In JAX the gradient by a complex number is conjugate to the direction of ascent.
    g, w = jnp.conj(grad.astype(dtype)), weight.astype(dtype)
    channel, _ = view_sums(g, g, w, axes)
    return channel.gw, channel.gg, channel.ww


def _untested(leaf: Parameter) -> Evidence:
    remark = "" if _is_trained(leaf) else leaf.reason().why
    return Evidence(
        format_path(leaf.names), jnp.shape(leaf.array), "not tested", remark=remark
    )


def _verify(
    problem: _Problem,
    at: tuple[list[jax.Array], Any],
    trained: list[Parameter],
    rows: dict[Names, Evidence],
    *,
    delta: float,
    seed: int,
) -> dict[Names, Evidence]:
    """The rows after each weight that was found has been scaled.

    Args:
      problem: The loss.
      at: Where it is taken: weights and batch.
      trained: The leaves of the weights.
      rows: By path.
      delta: Threshold of the test.
      seed: Of the choice between doubling and halving.
    """
    rng = np.random.default_rng(seed)
    # Arrays of NumPy's: nothing is compiled to make them.
    unscaled = [np.ones(_shape_of_channels(leaf), leaf.array.dtype) for leaf in trained]
    sums = problem.gradient_sums(*at)
    before = problem.scaled_loss(*at, unscaled)
    precisions: list[Any] = [jnp.finfo(x.dtype).eps for x in (before, *unscaled)]
    rounding = _ROUNDINGS * max(map(float, precisions)) * abs(float(before))
    verified = dict(rows)
    for index, leaf in enumerate(trained):
        row = rows[leaf.names]
        if leaf.axes is None or row.along is None:
            continue
        shape = _shape_of_vectors(leaf.array, row.along)
        factors = rng.choice([0.5, 2.0], size=shape)
        scaled = [*unscaled]
        # One shape for all views: the loss is compiled once.
        factors = np.broadcast_to(factors, unscaled[index].shape)
        scaled[index] = factors.astype(leaf.array.dtype)
        change = abs(float(problem.scaled_loss(*at, scaled)) - float(before))
        at_point = stack([sums[index]], leaf.array, leaf.axes)
        limit = change_at_threshold(merge(at_point, row.along), delta)
        verified[leaf.names] = second_opinion(
            row, change, rounding + limit, abs(float(before))
        )
    return verified


def _shape_of_channels(leaf: Parameter) -> tuple[int, ...]:
    """One number a channel, or one for all of what is not tested."""
    axes = leaf.axes
    along = range(leaf.array.ndim) if axes is None else axes.reduction
    return _shape_of_vectors(leaf.array, along)


def _shape_of_vectors(array: Any, along: Collection[int]) -> tuple[int, ...]:
    """The shape of the array, with size one along its vectors."""
    shape = jnp.shape(array)
    return tuple(1 if axis in along else size for axis, size in enumerate(shape))


def _layout(leaves: list[Parameter], rows: dict[Names, Evidence]) -> DetectedLayout:
    """The specs with their reasons, and the evidence."""
    layout = DetectedLayout()
    layout.evidence = evidence_table(list(rows.values()))
    for leaf in leaves:
        if leaf.names not in rows:
            continue
        row = rows[leaf.names]
        if leaf.axes is None:
            layout.put(leaf.names, None, leaf.reason().why)
            continue
        layout.put(leaf.names, _spec(row, leaf.axes), f"detected: {row.summary}")
    return layout


def _spec(row: Evidence, axes: Axes) -> ProjectionDimensionNumbers | None:
    """What was found, in the axes that were given; a group has axes of its own."""
    if row.along is None:
        return None
    if row.verdict == "group":
        by = tuple(axis for axis in axes.output if axis not in row.along)
        return ProjectionDimensionNumbers(row.along, by, view="channel")
    view = cast(View, row.verdict)
    return ProjectionDimensionNumbers(axes.reduction, axes.output, view=view)
