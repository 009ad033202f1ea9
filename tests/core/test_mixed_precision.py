"""Half-precision arrays: what is projected is what float64 would project.

Thousands of random leaves, stacked, so that each is decided by itself: some are
scale-invariant by channel, some as a layer, some not, most by more than a little.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from optax_adamp import (
    ProjectionDimensionNumbers,
    measure,
    scale_by_projection,
    sgdp,
)

LEAVES, INPUTS, OUTPUTS = 256, 2048, 4
DELTA, EPS = 0.1, 1e-8
# Leaves whose cosine is so near the threshold are left out. float32 sums need far less.
NEAR = 0.01
TX = scale_by_projection(
    delta=DELTA, eps=EPS, dimension_numbers=ProjectionDimensionNumbers(1, 2)
)


class Precision(NamedTuple):
    """The dtypes that meet in one step."""

    weight: Any
    grad: Any
    update: Any
    loss_scale: float = 1.0  # Left in the gradient.


PRECISIONS = {
    "bfloat16": Precision(jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
    "float16": Precision(jnp.float16, jnp.float16, jnp.float16),
    "bfloat16 gradients": Precision(jnp.float32, jnp.bfloat16, jnp.float32),
    "bfloat16 momentum": Precision(jnp.float32, jnp.float32, jnp.bfloat16),
    "loss scaling": Precision(jnp.float32, jnp.float16, jnp.float32, loss_scale=2**10),
}


class Drawn(NamedTuple):
    """Arrays (leaves, inputs, outputs), rounded; and what float64 makes of them."""

    weight: np.ndarray
    grad: np.ndarray
    update: np.ndarray
    views: np.ndarray  # Of the leaves, by the reference
    is_clear: np.ndarray  # Of the leaves: no cosine is near its threshold.


@functools.cache
def exact_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, gradient and update in float64."""
    rng = np.random.default_rng(0)
    w, g, u = rng.normal(size=(3, LEAVES, INPUTS, OUTPUTS))

    def remove(g, axes):
        inner = functools.partial(np.sum, axis=axes, keepdims=True)
        return g - w * inner(w * g) / inner(w * w)

    # Cosines from a tenth of the threshold to ten times it; of every other
    # leaf only those of the channels, which cancel out in the layer.
    sizes = 10 ** rng.uniform(-1, 1, size=(LEAVES, 1, 1))
    signs = rng.choice([-1, 1], size=(LEAVES, 1, OUTPUTS))
    g = remove(g, 1) + DELTA / INPUTS**0.5 * sizes * signs * w
    g[::2] = remove(g, (1, 2))[::2]
    u += w * rng.uniform(0.5, 2, size=(LEAVES, 1, OUTPUTS))
    return w, g, u


@functools.cache
def drawn(precision: Precision) -> Drawn:
    w, g, u = exact_arrays()
    w, g, u = (
        array.astype(dtype)
        for array, dtype in zip(
            (w, g * precision.loss_scale, u), precision[:3], strict=True
        )
    )
    exact = [array.astype(np.float64) for array in (u, g, w)]
    _, views = reference.decayed_projection(
        *exact, (1,), (2,), delta=DELTA, wd_ratio=1.0, eps=EPS, weight_decay=0.0
    )
    channel, layer = (over_threshold(*exact[1:], axes) for axes in ((1,), (1, 2)))
    near = np.abs(np.stack([channel.max(axis=1), layer[:, 0]]) - 1).min(axis=0) < NEAR
    return Drawn(w, g, u, np.array(views), ~near)


def over_threshold(g, w, axes):
    """|cos(g, w)| over its threshold, shape (leaves, vectors of a leaf)."""
    inner = functools.partial(np.sum, axis=axes)
    cosine = np.abs(inner(g * w)) / np.sqrt(inner(g * g) * inner(w * w))
    length = np.prod([w.shape[axis] for axis in axes])
    return cosine.reshape(len(w), -1) * length**0.5 / DELTA


@functools.cache
def step(precision: Precision) -> np.ndarray:
    case = drawn(precision)
    project = jax.jit(lambda u, g, w: TX.update(u, TX.init(w), w, grad=g)[0])
    return np.asarray(project(case.update, case.grad, case.weight))


def without_radial(u, w, axes):
    inner = functools.partial(np.sum, axis=axes, keepdims=True)
    return u - w * inner(w * u) / inner(w * w)


@functools.cache
def views_of(precision: Precision) -> np.ndarray:
    """The view that each leaf took: of the three results the nearest."""
    case, result = drawn(precision), step(precision).astype(np.float64)
    u, w = case.update.astype(np.float64), case.weight.astype(np.float64)
    candidates = np.stack([without_radial(u, w, 1), without_radial(u, w, (1, 2)), u])
    distances = np.linalg.norm((candidates - result).reshape(3, LEAVES, -1), axis=2)
    return np.array(["channel", "layer", "none"])[distances.argmin(axis=0)]


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_view_is_that_of_float64(name):
    case = drawn(PRECISIONS[name])
    assert case.is_clear.mean() > 0.95
    for view in ("channel", "layer", "none"):
        assert np.mean(case.views == view) > 0.15
    agrees = views_of(PRECISIONS[name]) == case.views
    wrong = np.flatnonzero(~agrees & case.is_clear)
    taken = list(zip(wrong, views_of(PRECISIONS[name])[wrong], strict=True))
    assert agrees[case.is_clear].mean() > 0.999, (
        f"{len(wrong)} of {LEAVES} leaves differ from float64; the first of them and "
        f"their views: {taken[:5]}, not {case.views[wrong[:5]]}"
    )


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_projected_update_is_orthogonal_to_the_rounding_of_its_dtype(name):
    precision = PRECISIONS[name]
    case, result = drawn(precision), step(precision)
    views = views_of(precision)
    # Each entry is off by half an eps of its size at most, and a sum in float32 by the
    # square root of its length, in eps.
    eps_of_sum = (INPUTS * OUTPUTS) ** 0.5 * jnp.finfo(jnp.float32).eps
    bound = 0.5 * jnp.finfo(result.dtype).eps + eps_of_sum
    for view, axes in (("channel", (1,)), ("layer", (1, 2))):
        u, w = (
            array[views == view].astype(np.float64) for array in (result, case.weight)
        )
        inner = functools.partial(np.sum, axis=axes)
        cosines = np.abs(inner(u * w)) / np.sqrt(inner(u * u) * inner(w * w))
        assert cosines.max() < bound


def test_sums_in_bfloat16_would_have_decided_otherwise():
    """Hence the arithmetic in float32: the inputs are the same."""
    case = drawn(PRECISIONS["bfloat16"])

    def inner(a, b):
        total = np.zeros((LEAVES, OUTPUTS), a.dtype)
        for products in np.moveaxis(a * b, 1, 0):
            total = total + products
        return total

    g, w = case.grad, case.weight
    norms = np.sqrt(inner(g, g)) * np.sqrt(inner(w, w))
    cosines = np.abs(inner(g, w)) / norms
    passes = cosines.max(axis=1).astype(np.float64) < DELTA / INPUTS**0.5
    agrees = passes == (case.views == "channel")
    share = agrees[case.is_clear].mean()
    assert share < 0.9


# JAX's strict mode, and floats that have no promotion


@jax.jit
def project_and_measure(grads, params, hyperparameters):
    tx = scale_by_projection(**hyperparameters)
    updates, _ = tx.update(grads, tx.init(params), params, grad=grads)
    delta = hyperparameters["delta"]
    return updates, measure(grads, params, updates=grads, delta=delta)


@pytest.mark.parametrize(
    "mode", ["strict", pytest.param("standard", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_without_implicit_promotion(dtype, mode):
    """Steps and figures are those of float32 on the same numbers, rounded once."""
    rng = np.random.default_rng(0)
    low = [
        {"k": array.astype(dtype), "b": array[0].astype(dtype)}
        for array in rng.normal(size=(2, 8, 4))
    ]
    # Arrays, as under inject_hyperparams.
    hyperparameters = {
        "delta": jnp.asarray(3.0, jnp.bfloat16),
        "weight_decay": jnp.asarray(0.25, jnp.bfloat16),
    }

    def step(grads, params):
        tx = sgdp(0.5, weight_decay=0.25)
        return tx.update(grads, tx.init(params), params)[0]

    with jax.numpy_dtype_promotion(mode):
        stepped = jax.eval_shape(step, *low)
        updates, measured = project_and_measure(*low, hyperparameters)

    high = jax.tree.map(lambda array: array.astype(np.float32), low)
    expected, expected_measured = project_and_measure(*high, hyperparameters)
    assert not np.allclose(expected["k"], high[0]["k"])
    for name, update in updates.items():
        assert update.dtype == stepped[name].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(
            np.float32(update), np.float32(np.asarray(expected[name]).astype(dtype))
        )
    chex.assert_trees_all_equal(measured, expected_measured)
    assert measured.leaves["k"].channel_cosine.dtype == jnp.float32
