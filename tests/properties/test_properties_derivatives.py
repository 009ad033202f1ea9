"""Derivatives through a step are those of finite differences, zeros included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drawn
from nightly import nightly_but
from optax_adamp import adamp, scale_by_projection, sgdp
from precision import float64
from steps import sgdw

VIEWS = "auto", "channel", "layer"
ZEROS = st.sampled_from(["nothing", "weight", "channel", "gradient", "all"])
# Large beside the distance of finite differences, which would jump over a small one.
EPS = st.sampled_from([0.3, 1.0])
DISTANCE = 1e-6


def derivatives(function, arrays, directions):
    """A value with its first two derivatives along a direction, by JAX.

    In forward mode and in reverse mode, and forward mode over both.
    """

    def total(*arrays):
        out = function(*arrays)
        # Entries of different weight, so that no two derivatives cancel.
        return jnp.sum(out * (1 + jnp.arange(out.size)).reshape(out.shape) / out.size)

    def slopes(*arrays):
        value, slope = jax.jvp(total, arrays, directions)
        gradients = jax.grad(total, range(len(arrays)))(*arrays)
        return value, (slope, sum(map(jnp.vdot, gradients, directions)))

    (value, first), (_, second) = jax.jvp(slopes, arrays, directions)
    return value, first, second


def assert_those_of_differences(derivatives_at, arrays, directions):
    """Of values for the first ones, of the first ones for the second ones."""

    def along(distance):
        moved = [a + distance * d for a, d in zip(arrays, directions, strict=True)]
        return jax.tree.map(np.asarray, derivatives_at(*moved))

    _, slopes, bends = along(0)
    value, (slope, _) = (
        jax.tree.map(lambda a, b: (a - b) / (2 * DISTANCE), ahead, behind)
        for ahead, behind in zip(along(DISTANCE)[:2], along(-DISTANCE)[:2], strict=True)
    )
    for found, expected in ((slopes, value), (bends, slope)):
        for one in found:
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def of_projection(spec, arrays, directions, hyperparameters):
    tx = scale_by_projection(**hyperparameters, dimension_numbers=spec)

    def function(update, grad, weight):
        return tx.update(update, tx.init(weight), weight, grad=grad)[0]

    return derivatives(function, arrays, directions)


def with_zeros(layout, zeros, update, grad, weight):
    if zeros in ("weight", "all"):
        weight = 0 * weight
    if zeros == "channel":
        rows = np.array(layout.gather(weight))
        rows[:, 0] = 0
        weight = layout.scatter(rows)
    if zeros in ("gradient", "all"):
        grad = 0 * grad
    return update, grad, weight


# Each with each view is a program, which takes longer than all else.
LAYOUTS = drawn.Layout((3, 4, 2), (1,), (2,)), drawn.Layout((6,), (0,), ())


@given(
    drawn.cases(eps=EPS, layouts=functools.partial(drawn.layouts, LAYOUTS)),
    st.sampled_from(VIEWS),
    ZEROS,
    st.integers(0, 2**32 - 1),
)
def test_of_the_projection(case, view, zeros, seed):
    """Of generic cases, and of those in which a norm has no derivative."""
    # Of one order of magnitude, which finite differences need.
    arrays = [a / max(np.abs(a).max(), 1e-9) for a in case.arrays]
    arrays = with_zeros(case.layout, zeros, *arrays)
    case = case._replace(**dict(zip(("update", "grad", "weight"), arrays, strict=True)))
    if view == "auto" and not case.is_clear(margin=1e-3):
        view = "channel"
    directions = np.random.default_rng(seed).normal(size=(3, *case.layout.shape))
    with float64():
        assert_those_of_differences(
            lambda *arrays: of_projection(
                case.layout.spec(view), arrays, (*directions,), case.hyperparameters
            ),
            arrays,
            directions,
        )


OPTIMIZERS = {
    "adamp": (adamp, {"eps_root": 1e-2}),
    "adamp nesterov": (adamp, {"eps_root": 1e-2, "nesterov": True}),
    "sgdp": (sgdp, {}),
    "sgdp nesterov": (sgdp, {"nesterov": True}),
}
PARAMS = ("all zeros", "a column of zeros", "projected", "unprojected")


def draw(kind):
    """A gradient and a weight, which takes the channel view unless it is unprojected.

    In the unprojected one a column of zeros hides as well.
    """
    rng = np.random.default_rng(0)
    grad, weight = rng.normal(size=(2, 4, 3))
    weight[:, 0] *= kind == "projected"
    if kind == "unprojected":
        return grad, weight + 2 * grad * [0, 1, 1]
    weight *= kind != "all zeros"
    squares = np.sum(weight**2, axis=0)
    radial = np.sum(grad * weight, axis=0) / np.where(squares == 0, 1, squares)
    return grad - radial * weight, weight


def step_of(tx):
    """One step, from a gradient and a weight to its updates."""

    def step(grad, weight):
        # A first step, so that the state depends on the gradient as well.
        state = tx.update(0.5 * grad + 0.1, tx.init(weight), weight)[1]
        return tx.update(grad, state, weight)[0]

    return step


def draw_all():
    """The gradients and the weights of all kinds, stacked."""
    return map(np.stack, zip(*map(draw, PARAMS), strict=True))


@pytest.mark.parametrize("name", nightly_but(["adamp"], OPTIMIZERS))
def test_of_the_optimizers(name):
    """All kinds of params, with decay and without."""
    optimizer, arguments = OPTIMIZERS[name]
    directions = np.random.default_rng(1).normal(size=(2, 4, 3))

    def of_one(decay, grad, weight):
        tx = optimizer(1.0, eps=0.3, weight_decay=decay, **arguments)
        return derivatives(step_of(tx), (grad, weight), (*directions,))

    of_all = jax.jit(jax.vmap(jax.vmap(of_one, (None, 0, 0)), (0, None, None)))
    with float64():
        assert_those_of_differences(
            functools.partial(of_all, np.array([0.0, 0.3])), [*draw_all()], directions
        )


@pytest.mark.parametrize(
    ("ours", "base"),
    [
        (
            functools.partial(adamp, 0.1, eps_root=1e-8, weight_decay=0.3),
            optax.adamw(0.1, eps_root=1e-8, weight_decay=0.3),
        ),
        (
            functools.partial(sgdp, 0.1, weight_decay=0.3),
            sgdw(0.1, 0.9, False, 0.3),
        ),
    ],
)
def test_those_of_the_base_where_nothing_is_projected(ours, base):
    """In float32, with the usual eps; zeros may be in weights and gradients."""
    grads, weights = map(np.float32, draw_all())
    grads[:, 0] = 0
    deltas = np.array([0.1 if kind == "unprojected" else 0 for kind in PARAMS], "f4")

    def jacobians(make):
        def of_one(delta, grad, weight):
            return jax.jacrev(step_of(make(delta)), (0, 1))(grad, weight)

        return jax.jit(jax.vmap(of_one))(deltas, grads, weights)

    bases = jacobians(lambda _: base)
    for one, other in zip(
        jacobians(lambda delta: ours(delta=delta)), bases, strict=True
    ):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("view", nightly_but(["auto"], VIEWS))
def test_finite_with_any_eps(view):
    """In float32, with the usual eps and with none."""
    spec = drawn.Layout((4, 3), (0,), (1,)).spec(view)

    def jacobians(eps, grad, weight):
        def step(update, grad, weight):
            tx = scale_by_projection(eps=eps, dimension_numbers=spec)
            return tx.update(update, tx.init(weight), weight, grad=grad)[0]

        arrays = grad + 1, grad, weight
        return [make(step, (0, 1, 2))(*arrays) for make in (jax.jacfwd, jax.jacrev)]

    of_all = jax.vmap(jax.vmap(jacobians, (None, 0, 0)), (0, None, None))
    forward, reverse = jax.jit(of_all)(
        np.array([1e-8, 0], "f4"), *map(np.float32, draw_all())
    )
    for one, other in zip(forward, reverse, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # The gradient decides, and nothing depends on it beside the decision.
    assert not np.any(forward[1])
