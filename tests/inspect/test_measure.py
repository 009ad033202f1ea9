"""`measure`: its figures against float64 NumPy, and its views against the optimizer."""

import math
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import reference
import training
from optax_adamp import (
    ProjectionDimensionNumbers,
    measure,
    scale_by_projection,
    sgdp,
)

DELTA, EPS = 0.2, 1e-6
METRICS = [
    "weight_norm",
    "channel_cosine",
    "layer_cosine",
    "channel_projected",
    "layer_projected",
    "channel_radial",
    "layer_radial",
    "channel_step",
    "layer_step",
]


class Case(NamedTuple):
    """A parameter whose batch elements take these views, as one axis or more."""

    shape: tuple[int, ...]
    reduction: tuple[int, ...]
    output: tuple[int, ...]
    views: tuple[str, ...]
    dtype: Any = np.float32
    fixed: str = "auto"


CASES = {
    "convolution": Case((3, 2, 4, 5), (0, 1, 2), (3,), ("channel",)),
    "stacked": Case((6, 3, 2, 2), (0,), (2, 3), ("none", "layer", "channel")),
    "experts": Case((2, 2, 5, 4), (2,), (3,), ("none", "layer", "layer", "channel")),
    "without outputs": Case((2, 6), (1,), (), ("channel", "none")),
    # Output first
    "complex": Case((4, 6), (1,), (0,), ("channel",), np.complex64),
    "fixed channel": Case(
        (2, 6, 5), (1,), (2,), ("none", "layer"), np.float32, "channel"
    ),
    "fixed layer": Case(
        (2, 6, 5), (1,), (2,), ("none", "channel"), np.float32, "layer"
    ),
}
SPECS = {
    name: ProjectionDimensionNumbers(case.reduction, case.output, case.fixed)
    for name, case in CASES.items()
}


# The trees: gradients that are orthogonal to each channel, to the layer, or to neither


def gather(case, array):
    """As (batch, channels, length) in float64, a complex number as two."""
    batch = [
        axis
        for axis in range(len(case.shape))
        if axis not in case.reduction + case.output
    ]
    channels = math.prod(case.shape[axis] for axis in case.output)
    order = (*batch, *case.output, *case.reduction)
    rows = np.transpose(np.asarray(array), order).reshape(len(case.views), channels, -1)
    if np.iscomplexobj(rows):
        rows = np.concatenate([rows.real, rows.imag], axis=-1)
    return rows.astype(np.float64)


def scatter(case, rows):
    """The inverse of `gather`."""
    if np.issubdtype(case.dtype, np.complexfloating):
        real, imaginary = np.split(rows, 2, axis=-1)
        rows = real + 1j * imaginary
    batch = [
        axis
        for axis in range(len(case.shape))
        if axis not in case.reduction + case.output
    ]
    order = (*batch, *case.output, *case.reduction)
    array = rows.reshape([case.shape[axis] for axis in order])
    return np.transpose(array, np.argsort(order)).astype(case.dtype)


def gradient_for(view, weight, rng):
    """A gradient that takes a view of a weight (channels, length)."""
    gradient = rng.normal(size=weight.shape)
    axis = {"channel": -1, "layer": None, "none": None}[view]
    radial = np.sum(gradient * weight, axis, keepdims=True) / np.sum(
        weight**2, axis, keepdims=True
    )
    # "none" gets back a radial part that no test lets pass.
    return gradient - radial * weight + (view == "none") * weight


def draw(seed=0):
    """Gradients, params and updates of the cases."""
    rng = np.random.default_rng(seed)
    grads, params, updates = {}, {}, {}
    for name, case in CASES.items():
        shape = gather(case, np.zeros(case.shape, case.dtype)).shape
        weight = rng.normal(size=shape)
        gradient = np.stack(
            [
                gradient_for(view, w, rng)
                for view, w in zip(case.views, weight, strict=True)
            ]
        )
        grads[name] = scatter(case, gradient)
        params[name] = scatter(case, weight)
        updates[name] = scatter(case, rng.normal(size=shape))
    return grads, params, updates


@jax.jit
def measure_cases(grads, params, updates, delta=DELTA):
    """With `delta` as a tracer, as under `inject_hyperparams`."""
    return measure(
        grads, params, updates=updates, delta=delta, eps=EPS, dimension_numbers=SPECS
    )


# Most tests compile what they measure: operations one by one take longer.
measure_compiled = jax.jit(measure, static_argnames="dimension_numbers")


# Against float64 NumPy


def radial_fraction(u, w):
    return abs(u @ w) / np.linalg.norm(u) / np.linalg.norm(w)


def effective_step(u, w):
    after = w + u
    return np.linalg.norm(after / np.linalg.norm(after) - w / np.linalg.norm(w))


def expected_of_element(case, g, w, u):
    """All metrics of one batch element (channels, length), by their definitions."""
    layer = g.ravel(), w.ravel(), u.ravel()
    channels = list(zip(g, w, u, strict=True))

    def over_threshold(g, w):
        return abs(reference.cosine(g, w, EPS)) * math.sqrt(w.size) / DELTA

    view = case.fixed
    if view == "auto":
        constants = {"delta": DELTA, "wd_ratio": 1.0, "eps": EPS}
        _, _, view = reference.projection(u, g, w, (1,), (0,), **constants)
    return {
        "weight_norm": np.linalg.norm(layer[1]),
        "channel_cosine": max(over_threshold(g, w) for g, w, _ in channels),
        "layer_cosine": over_threshold(*layer[:2]),
        "channel_projected": view == "channel",
        "layer_projected": view == "layer",
        "channel_radial": np.mean([radial_fraction(u, w) for _, w, u in channels]),
        "layer_radial": radial_fraction(layer[2], layer[1]),
        "channel_step": np.mean([effective_step(u, w) for _, w, u in channels]),
        "layer_step": effective_step(layer[2], layer[1]),
    }


def expected_of(case, grad, weight, update):
    arrays = [gather(case, array) for array in (grad, weight, update)]
    elements = [
        expected_of_element(case, *element) for element in zip(*arrays, strict=True)
    ]
    return {
        metric: np.array([element[metric] for element in elements])
        for metric in METRICS
    }


def sizes_of_batch_axes(case):
    return tuple(
        size
        for axis, size in enumerate(case.shape)
        if axis not in case.reduction + case.output
    )


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 100.0])
def test_metrics_are_those_of_float64_numpy(scale):
    grads, params, updates = draw()
    updates = jax.tree.map(lambda update: scale * update, updates)

    measured = measure_cases(grads, params, updates).leaves

    assert measured.keys() == CASES.keys()
    for name, case in CASES.items():
        expected = expected_of(case, grads[name], params[name], updates[name])
        if case.fixed == "auto":
            views = {"channel": (1, 0), "layer": (0, 1), "none": (0, 0)}
            taken = (expected["channel_projected"], expected["layer_projected"])
            assert list(zip(*taken, strict=True)) == [views[v] for v in case.views]
        for metric in METRICS:
            actual = getattr(measured[name], metric)
            assert actual.shape == sizes_of_batch_axes(case)
            np.testing.assert_allclose(
                np.ravel(actual),
                expected[metric],
                rtol=1e-5,
                # A cosine or fraction near zero is as exact as its terms.
                atol=1e-5 if "cosine" in metric else 3e-7 * ("radial" in metric),
                err_msg=f"{name} {metric}",
            )


@pytest.mark.parametrize("radial", [-0.9, 0.0, 3.0])
@pytest.mark.parametrize("across", [1e-6, 1e-3, 1.0])
def test_steps_of_nearly_radial_updates(radial, across):
    """Their norm nearly is that of the radial part, so that a difference would lose."""
    rng = np.random.default_rng(1)
    w, u = rng.normal(size=(2, 300, 1))
    u -= w * np.sum(u * w) / np.sum(w * w)
    w, u = np.float32(w), np.float32(across * u + radial * w)

    measured = measure_compiled(w, w, updates=u).leaves["(root)"]

    expected = effective_step(u.ravel().astype(float), w.ravel().astype(float))
    # The rounding of the update itself is known, that of its radial part is not.
    atol = 2e-7 * abs(radial)
    np.testing.assert_allclose(measured.channel_step, expected, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(measured.layer_step, expected, rtol=1e-5, atol=atol)


def test_update_that_turns_around():
    values = special(update=(-4.5, -6.0), rest=False)

    assert values["channel_step"] == pytest.approx(2.0)
    assert values["channel_radial"] == pytest.approx(1.0)


# Against the optimizer


def test_views_are_those_that_the_projection_takes():
    """Seen from the radial part that it leaves of an update, and from the decay."""
    grads, params, updates = draw(seed=2)

    @jax.jit
    def project(updates, weight_decay):
        tx = scale_by_projection(
            DELTA, 0.25, EPS, weight_decay, dimension_numbers=SPECS
        )
        return tx.update(updates, tx.init(params), params, grad=grads)[0]

    projected = project(updates, 0.0)
    decayed = project(jax.tree.map(np.zeros_like, updates), 1.0)

    measured = measure_cases(grads, params, updates).leaves
    taken = set()
    for name, case in CASES.items():
        rows = (
            gather(case, tree[name]) for tree in (params, updates, projected, decayed)
        )
        leaf = measured[name]
        for w, before, after, decay_part, channel, layer in zip(
            *rows,
            np.ravel(leaf.channel_projected),
            np.ravel(leaf.layer_projected),
            strict=True,
        ):
            radial = np.sum(w * after, axis=-1)
            by_channel = np.all(np.abs(radial) < 1e-4)
            changed = np.any(np.abs(after - before) > 1e-4)
            assert channel == by_channel
            assert layer == (changed and not by_channel)
            if layer:
                assert abs(np.sum(radial)) < 1e-4
            ratio = 0.25 if channel or layer else 1.0
            np.testing.assert_allclose(decay_part, ratio * w, rtol=1e-5)
            taken.add((bool(channel), bool(layer)))
    assert len(taken) == 3


def test_below_one_is_what_passes():
    """On a border of float32: the cosine is over its threshold when the test fails."""
    w = np.ones((64, 1), np.float32)
    across = np.where(np.arange(64) % 2 == 0, 1, -1).astype(np.float32)[:, None]
    border = 0.5 / math.sqrt(1 - 0.5**2)  # A cosine of 4 / sqrt(64)
    passed = set()
    for radial in np.linspace(border * (1 - 1e-6), border * (1 + 1e-6), 41, dtype="f4"):
        leaf = measure_compiled(across + radial * w, w, delta=4.0).leaves["(root)"]
        assert (leaf.channel_cosine < 1) == leaf.channel_projected
        passed.add(bool(leaf.channel_projected))
    assert passed == {False, True}


# In programs


def measure_stacked(grads, params, updates=None):
    """Of one parameter, which costs less to compile than all."""
    return measure_compiled(
        grads, params, updates=updates, delta=DELTA, dimension_numbers=SPECS["stacked"]
    )


def test_compiled_and_plain_agree():
    arrays = np.random.default_rng(0).normal(size=(3, 2, 2)).astype("f4")

    plain = measure(*arrays[:2], updates=arrays[2])

    numbers = {"delta": 0.1, "eps": 1e-8}  # As by default, but traced.
    compiled = measure_compiled(*arrays[:2], updates=arrays[2], **numbers)
    chex.assert_trees_all_close(compiled, plain, rtol=1e-5, atol=1e-5)


def test_sharded_along_every_axis():
    mesh = jax.make_mesh((2, 2, 2), ("a", "b", "c"))
    case = Case((4, 6, 8), (1,), (2,), ("channel", "layer", "none", "layer"))
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 8, 6))
    g = np.stack([gradient_for(v, x, rng) for v, x in zip(case.views, w, strict=True)])
    arrays = [scatter(case, rows) for rows in (g, w, rng.normal(size=w.shape))]
    spec = ProjectionDimensionNumbers(1, 2)

    def run(grads, params, updates):
        measured = measure(grads, params, updates=updates, dimension_numbers=spec)
        return measured, measured.scalars()

    run = jax.jit(run)
    alone = run(*arrays)
    with jax.set_mesh(mesh):
        sharding = jax.NamedSharding(mesh, jax.P("a", "b", "c"))
        sharded = run(*jax.device_put(arrays, sharding))
    chex.assert_trees_all_close(
        jax.device_get(sharded), jax.device_get(alone), rtol=1e-5, atol=1e-5
    )


def test_in_a_training_loop():
    tx = training.make(sgdp)
    fixed = training.initial_params()
    params = {layer: fixed.pop(layer) for layer in ("first", "second")}
    state = tx.init(params)

    def loss_fn(params, batch):
        return training.loss_fn({**fixed, **params}, batch)

    @jax.jit
    def measured_step(params, state, batch):
        grads = jax.grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        measured = measure(
            grads, params, updates=updates, delta=training.DELTA, eps=training.EPS
        )
        return optax.apply_updates(params, updates), state, measured.scalars()

    for batch in zip(*training.all_batches(), strict=True):
        before = params
        params, state, scalars = measured_step(params, state, batch)
        for layer in ("first", "second"):
            old, new = (np.float64(p[layer]["kernel"]) for p in (before, params))
            directions = [
                kernel / np.sqrt(np.sum(kernel**2, axis=0)) for kernel in (old, new)
            ]
            moved = np.mean(np.sqrt(np.sum((directions[1] - directions[0]) ** 2, 0)))
            step = float(scalars[f"{layer}/kernel/channel_step"])
            assert step == pytest.approx(moved, rel=1e-4)
        # A batch normalization follows the first kernel, a layer normalization the
        # second.
        assert scalars["first/kernel/channel_projected"] == 1
        assert scalars["second/kernel/layer_projected"] == 1
        assert scalars["second/kernel/channel_cosine"] > 1


def test_in_a_branch_of_a_compiled_loop():
    grad, param, update = (tree["stacked"] for tree in draw())

    def log(grad):
        return measure_stacked(grad, param, update).scalars()

    nothing = {name: np.nan for name in jax.eval_shape(log, grad)}

    @jax.jit
    def loop(grad):
        def body(_, step):
            scaled = (1 + step) * grad
            return None, jax.lax.cond(step % 2 == 0, log, lambda _: nothing, scaled)

        return jax.lax.scan(body, None, jnp.arange(3.0))[1]

    plain = log(grad)
    for name, values in loop(grad).items():
        # The length of a gradient does not matter.
        expected = [plain[name], np.nan, plain[name]]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


# Scalars


def test_scalars_over_batch_elements():
    grads, params, updates = draw()
    measured = measure_cases(grads, params, updates)

    scalars = measured.scalars()

    assert list(scalars)[: len(METRICS)] == [f"complex/{m}" for m in METRICS]
    assert len(scalars) == len(CASES) * len(METRICS)
    assert {np.shape(value) for value in scalars.values()} == {()}
    for name, case in CASES.items():
        leaf = measured.leaves[name]
        for metric in METRICS:
            reduce = np.max if "cosine" in metric else np.mean
            expected = reduce(np.float64(getattr(leaf, metric)))
            actual = float(scalars[f"{name}/{metric}"])
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
        if case.fixed == "auto":
            for view in ("channel", "layer"):
                share = case.views.count(view) / len(case.views)
                projected = float(scalars[f"{name}/{view}_projected"])
                assert projected == pytest.approx(share)


def test_steps_of_a_scan_and_models_of_a_vmap_stay_apart():
    grad, param, update = (tree["stacked"] for tree in draw())
    scales = np.arange(1, 7, dtype="f4").reshape(2, 3)

    def measure_scaled(scale):
        return measure_stacked(grad + 0.1 * scale * param, scale * param, update)

    @jax.jit
    @jax.vmap
    def models(scales):
        return jax.lax.scan(lambda _, x: (None, measure_scaled(x)), None, scales)[1]

    values = models(scales).scalars()

    one_by_one = [measure_scaled(scale).scalars() for scale in scales.ravel()]
    for name, value in values.items():
        expected = np.reshape([scalars[name] for scalars in one_by_one], scales.shape)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert len({*np.ravel(values["(root)/weight_norm"])}) == 6


def test_without_updates_there_is_no_radial_part_and_no_step():
    arrays = [tree["stacked"] for tree in draw()]
    full = measure_stacked(*arrays)

    measured = measure_stacked(*arrays[:2])

    rest = {
        path: leaf._replace(**dict.fromkeys(METRICS[-4:]))
        for path, leaf in full.leaves.items()
    }
    chex.assert_trees_all_close(measured.leaves, rest, rtol=1e-5, atol=1e-5)
    assert len(measured.scalars()) == len(METRICS) - 4


def test_what_is_never_projected_has_a_norm():
    params = {
        "kernel": np.ones((3, 3), "f4"),
        "bias": np.full((4, 4), 2, "f4"),
        "none": np.array([3, 4], "f4"),
        "empty": np.ones((0, 3), "f4"),
        "number": np.array(-5j, "c8"),
    }

    measured = measure_compiled(params, params, updates=params)

    scalars = measured.scalars()
    assert len(scalars) == len(METRICS) + 4
    norms = {name: float(scalars[f"{name}/weight_norm"]) for name in params}
    assert norms == {"kernel": 3, "bias": 8, "none": 5, "empty": 0, "number": 5}
    assert set(measured.leaves["none"][1:]) == {None}


# Values that are special


def special(
    grad=(1.0, 1.0),
    weight=(3.0, 4.0),
    update=(1.0, 0.0),
    rest=True,
    delta=0.1,
    eps=1e-8,
):
    """One channel of these numbers, and an ordinary one, or else once more the same.

    The ordinary one is orthogonal to its gradient and moves by a right angle.
    """
    columns = [
        (column, other if rest else column)
        for column, other in zip(
            (grad, weight, update),
            [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)],
            strict=True,
        )
    ]
    g, w, u = (np.array(column, "f4").T for column in columns)
    leaf = measure_compiled(g, w, updates=u, delta=delta, eps=eps).leaves["(root)"]
    return {metric: float(getattr(leaf, metric)) for metric in METRICS}


ZERO = (0.0, 0.0)
ORDINARY_RADIAL, ORDINARY_STEP = math.sqrt(0.5), math.sqrt(2)


def test_zero_gradient_counts_as_scale_invariant():
    values = special(grad=ZERO)

    assert values["channel_cosine"] == values["layer_cosine"] == 0
    assert values["channel_projected"] == 1


def test_zero_weight_has_no_direction():
    values = special(weight=ZERO)
    alone = special(weight=ZERO, rest=False)

    assert values["channel_projected"] == alone["channel_projected"] == 1
    assert values["channel_cosine"] == alone["channel_cosine"] == 0
    # A channel without a direction counts in the mean.
    assert values["channel_radial"] == pytest.approx(ORDINARY_RADIAL / 2)
    assert values["channel_step"] == pytest.approx(ORDINARY_STEP / 2)
    for metric in METRICS[-4:]:
        assert alone[metric] == 0
    assert alone["weight_norm"] == 0


def test_zero_update_has_no_radial_part_and_turns_nothing():
    values = special(update=ZERO)
    alone = special(update=ZERO, rest=False)

    assert values["channel_radial"] == pytest.approx(ORDINARY_RADIAL / 2)
    assert values["channel_step"] == pytest.approx(ORDINARY_STEP / 2)
    for metric in METRICS[-4:]:
        assert alone[metric] == 0


@pytest.mark.parametrize("delta", [0.1, 0.0])
@pytest.mark.parametrize("zero", ["grad", "weight", "update", "all"])
def test_no_nan_where_something_is_zero(zero, delta):
    """Neither in the result nor on the way, where JAX would stop at it."""
    names = ("grad", "weight", "update")
    zeros = names if zero == "all" else {zero}
    arrays = {name: np.full((2, 2), name not in zeros, np.float32) for name in names}

    with jax.debug_nans(True):
        measured = measure(
            arrays["grad"], arrays["weight"], updates=arrays["update"], delta=delta
        )
        scalars = {name: float(value) for name, value in measured.scalars().items()}

    assert all(not math.isnan(value) for value in scalars.values())
    assert scalars["(root)/layer_radial"] == pytest.approx(float(zero == "grad"))
    assert scalars["(root)/channel_step"] == 0
    passes = zero != "update" and delta > 0
    assert (scalars["(root)/channel_cosine"] == 0) == passes
    assert scalars["(root)/channel_projected"] == passes


def test_without_eps_a_norm_of_zero_does_not_pass():
    values = special(weight=ZERO, eps=0.0)

    assert math.isnan(values["channel_cosine"])
    assert values["channel_projected"] == 0
    assert values["channel_step"] == pytest.approx(ORDINARY_STEP / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_gradient_whose_norm_is_not_finite_does_not_pass(bad):
    values = special(grad=(bad, 1.0))

    assert math.isnan(values["channel_cosine"])
    assert math.isnan(values["layer_cosine"])
    assert values["channel_projected"] == values["layer_projected"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_update_that_is_not_finite_shows(bad):
    values = special(update=(bad, 1.0))

    assert math.isnan(values["channel_step"])
    assert math.isnan(values["layer_step"])
    assert math.isnan(values["channel_radial"])


def test_delta_of_zero_projects_nothing():
    values = special(rest=False, delta=0.0)

    assert values["channel_cosine"] == values["layer_cosine"] == math.inf
    assert values["channel_projected"] == values["layer_projected"] == 0


def test_batch_elements_without_a_direction_count_in_means():
    w = np.array([[[3], [4]], [[0], [0]]], "f4")
    u = np.array([[[4], [-3]], [[1], [1]]], "f4")
    spec = ProjectionDimensionNumbers(1, 2)

    scalars = measure_compiled(
        {"w": u}, {"w": w}, updates={"w": u}, dimension_numbers=spec
    )
    scalars = {name: float(value) for name, value in scalars.scalars().items()}

    assert scalars["w/weight_norm"] == 2.5
    assert scalars["w/channel_radial"] == pytest.approx(0, abs=1e-7)
    step = math.sqrt(2 - math.sqrt(2))
    assert scalars["w/channel_step"] == pytest.approx(step / 2)


def test_eps_is_that_of_the_optimizer():
    """Where a weight is shorter than eps, the cosine is smaller, and passes."""
    for eps, over in ((1e-8, 10.0), (0.1, 0.1)):
        values = special(weight=(1e-3, 0.0), delta=0.1, eps=eps)

        assert values["channel_cosine"] == pytest.approx(over)
        assert values["channel_projected"] == (over < 1)


def test_bfloat16_is_measured_in_float32():
    rng = np.random.default_rng(0)
    g, w, u = rng.normal(size=(3, 300, 1)).astype(jnp.bfloat16)

    low = measure_compiled(g, w, updates=u).leaves["(root)"]

    g, w, u = (array.astype(np.float32) for array in (g, w, u))
    high = measure_compiled(g, w, updates=u).leaves["(root)"]
    chex.assert_trees_all_close(low, high)
    assert low.channel_step.dtype == jnp.float32


# Trees of the libraries


def test_equinox_module_with_what_is_no_parameter():
    model = eqx.nn.MLP(4, 3, 8, 0, key=jax.random.key(0))
    gradient = eqx.filter_grad(lambda model: jnp.sum(model(jnp.ones(4)) ** 2))
    spec = ProjectionDimensionNumbers(1, 0)

    measured = jax.jit(
        lambda: measure(gradient(model), model, dimension_numbers=spec)
    )()

    first = model.layers[0].weight
    norm = measured.leaves["layers/0/weight"].weight_norm
    assert float(norm) == pytest.approx(np.linalg.norm(first))
    assert measured.leaves.keys() == {"layers/0/weight", "layers/0/bias"}


def test_masked_leaves_are_left_out():
    ones = np.ones((2, 2), "f4")
    params = {"a": ones, "b": ones, "c": None}
    grads = {"a": ones, "b": optax.MaskedNode(), "c": None}

    assert list(jax.eval_shape(measure, grads, params).leaves) == ["a"]


def test_nnx_state():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    gradient = nnx.grad(lambda model: jnp.sum(model(jnp.ones((2, 4))) ** 2))

    @nnx.jit
    def run(model):
        return measure(gradient(model), nnx.state(model, nnx.Param))

    assert sorted(run(model).leaves) == ["bias", "kernel"]
    with pytest.raises(ValueError, match=r"measure needs the params, .*nnx\.Param"):
        measure(nnx.state(model, nnx.Param), model)


# Bad input


@pytest.mark.parametrize("argument", ["params", "updates"])
def test_trees_that_do_not_fit(argument):
    good = {"layer": {"kernel": jnp.ones((2, 3))}}
    trees = {"params": good, "updates": good}

    wrong = {"layer": {"kernel": jnp.ones((3, 2))}}
    with pytest.raises(ValueError, match=rf"{argument} has shape \(3, 2\) at layer/k"):
        measure(good, **(trees | {argument: wrong}))
    with pytest.raises(ValueError, match=f"{argument} must have the tree structure"):
        measure(good, **(trees | {argument: {"layer": jnp.ones((2, 3))}}))


@pytest.mark.parametrize("argument", ["grads", "params", "updates"])
def test_integers(argument):
    trees = {name: {"a": jnp.ones((2, 3))} for name in ("grads", "params", "updates")}
    trees[argument] = {"a": jnp.ones((2, 3), jnp.int32)}

    with pytest.raises(ValueError, match=f"{argument} has an array of int32 at a: "):
        measure(trees.pop("grads"), trees.pop("params"), **trees)


def test_other_things_than_arrays():
    with pytest.raises(ValueError, match="grads has no array at a, but a str"):
        measure({"a": "b"}, {"a": "b"})


def test_dimension_numbers_that_do_not_fit():
    params = {"a": jnp.ones((2, 3))}

    with pytest.raises(ValueError, match=r"of a, an array of shape .*out of range"):
        measure(params, params, dimension_numbers=ProjectionDimensionNumbers(2, 0))


def test_shapes_are_those_of_the_batch_axes():
    """Also where a batch axis has size one; and none where nothing is projected."""
    params = {
        "w": np.ones((1, 3, 2), "f4"),
        "bias": np.ones((1, 1), "f4"),
        "empty": np.ones((2, 0), "f4"),
    }
    specs = {
        "w": ProjectionDimensionNumbers(1, 2),
        "bias": None,
        "empty": ProjectionDimensionNumbers(0, 1),
    }

    measured = jax.eval_shape(
        lambda: measure(params, params, updates=params, dimension_numbers=specs).leaves
    )

    for value in measured["w"]:
        assert value.shape == (1,)
    assert measured["bias"].weight_norm.shape == ()
    assert measured["empty"].weight_norm.shape == ()


def test_updates_that_do_not_fit():
    params = {"w": jnp.ones((3, 2))}
    with pytest.raises(
        ValueError, match=r"^updates has shape \(2, 3\) at w, where the gr"
    ):
        measure(params, params, updates={"w": jnp.ones((2, 3))})
