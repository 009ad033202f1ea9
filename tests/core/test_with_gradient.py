"""What `with_gradient` hands to the transformations inside."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nightly import nightly_but
from optax_adamp import adamp, sgdp, with_gradient

PARAMS = {"kernel": np.ones((3, 2), "f4")}
GRADS = {"kernel": np.full((3, 2), 2.0, "f4")}


def recorder():
    """A transformation that keeps what its update was called with."""
    calls = []

    def update(updates, state, params=None, **extra_args):
        calls.append({"updates": updates, "params": params, **extra_args})
        return updates, state

    init = optax.identity().init
    return optax.GradientTransformationExtraArgs(init, update), calls


def test_gradient_and_other_arguments_arrive():
    inner, calls = recorder()
    tx = with_gradient(optax.chain(optax.scale(-1.0), inner))
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0)
    (call,) = calls
    negated = {"kernel": np.full((3, 2), -2.0, "f4")}
    chex.assert_trees_all_equal(
        call,
        {"updates": negated, "params": PARAMS, "value": 3.0, "grad": GRADS},
    )


def test_a_gradient_that_was_given_wins():
    inner, calls = recorder()
    tx = with_gradient(inner)
    for given in (PARAMS, None):
        tx.update(GRADS, tx.init(PARAMS), PARAMS, grad=given)
    chex.assert_trees_all_equal([call["grad"] for call in calls], [PARAMS, GRADS])


def test_the_outer_wrapper_wins():
    inner, inside = recorder()
    outer, outside = recorder()
    tx = with_gradient(optax.chain(optax.scale(-1.0), with_gradient(inner), outer))
    tx.update(GRADS, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(inside[0]["grad"], GRADS)
    chex.assert_trees_all_equal(outside[0]["grad"], GRADS)


# Against what the optimizer alone does with the right gradient


WEIGHT = {"kernel": np.float32([[3.3, 1.2], [4.1, -2.3], [1.7, 0.3]])}


def orthogonal(seed):
    """A gradient as that of a scale-invariant loss, with a large mean."""
    w = np.asarray(WEIGHT["kernel"], "f8")
    g = np.random.default_rng(seed).normal(size=w.shape) + 3
    g -= w * np.sum(g * w, axis=0) / np.sum(w * w, axis=0)
    return {"kernel": g.astype("float32")}


def radial_parts(updates):
    return np.abs(np.sum(np.asarray(updates["kernel"]) * WEIGHT["kernel"], axis=0))


@pytest.mark.parametrize("optimizer", [adamp, sgdp])
@pytest.mark.parametrize(
    "before",
    [
        optax.centralize(),
        optax.clip(0.5),
        optax.add_decayed_weights(0.1),
    ],
    ids=["centralize", "clip", "L2"],
)
def test_what_changes_the_direction_of_the_gradient(optimizer, before):
    grads = orthogonal(0)
    chain = optax.chain(before, optimizer(0.1))
    alone, wrapped, given = [
        tx.update(grads, tx.init(WEIGHT), WEIGHT, **extra_args)[0]
        for tx, extra_args in (
            (chain, {}),
            (with_gradient(chain), {}),
            (chain, {"grad": grads}),
        )
    ]
    assert radial_parts(alone).max() > 1e-2
    for updates in (wrapped, given):
        assert radial_parts(updates).max() < 1e-6
    chex.assert_trees_all_equal(wrapped, given)


@pytest.mark.parametrize("optimizer", [adamp, sgdp])
def test_clipping_by_norm_is_harmless(optimizer):
    grads = orthogonal(0)
    tx = optax.chain(optax.clip_by_global_norm(0.5), optimizer(0.1))
    updates, _ = tx.update(grads, tx.init(WEIGHT), WEIGHT)
    assert radial_parts(updates).max() < 1e-6


def accumulate(tx, steps=2):
    return optax.MultiSteps(tx, steps).gradient_transformation()


# The gradients of the parts are no gradients of a scale-invariant loss; their sum is.
PARTS = [
    jax.tree.map(lambda g, w, sign=sign: g + sign * w, orthogonal(0), WEIGHT)
    for sign in (10.0, -10.0)
]
NESTINGS = {
    "outside": accumulate(adamp(0.1)),
    "between": accumulate(with_gradient(optax.chain(optax.identity(), adamp(0.1)))),
    "inside": with_gradient(accumulate(adamp(0.1))),
    # Of its own `gradient_transformation` drops extra arguments, such as a gradient.
    "inside a chain, with arguments": with_gradient(
        optax.chain(
            optax.identity(),
            optax.GradientTransformationExtraArgs(*accumulate(adamp(0.1))),
        )
    ),
}


@pytest.mark.parametrize(
    "nesting", nightly_but(["outside", "inside a chain, with arguments"], NESTINGS)
)
def test_accumulated_gradients(nesting):
    tx = NESTINGS[nesting]
    state = tx.init(WEIGHT)
    for part in PARTS:
        updates, state = tx.update(part, state, WEIGHT)

    alone = adamp(0.1)
    expected, _ = alone.update(orthogonal(0), alone.init(WEIGHT), WEIGHT)
    chex.assert_trees_all_close(updates, expected, rtol=1e-3, atol=1e-6)
    assert radial_parts(updates).max() < 1e-4


SEARCHES = {
    "backtracking": lambda: optax.scale_by_backtracking_linesearch(5),
    "zoom": lambda: optax.scale_by_zoom_linesearch(5),
}


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("search", SEARCHES)
def test_line_searches(search, is_wrapped):
    """After the optimizer, in its chain: what it finds is a multiple of the step."""
    w = WEIGHT["kernel"]

    def loss_fn(params):
        kernel = params["kernel"]
        return -jnp.sum(jnp.sum(kernel * orthogonal(0)["kernel"], 0)) / jnp.linalg.norm(
            kernel
        )

    value, grads = jax.jit(jax.value_and_grad(loss_fn))(WEIGHT)
    optimizer = sgdp(0.1, momentum=None)
    chain = optax.chain(optax.clip(0.05), optimizer, SEARCHES[search]())
    tx = with_gradient(chain) if is_wrapped else chain

    updates, _ = tx.update(
        grads, tx.init(WEIGHT), WEIGHT, value=value, grad=grads, value_fn=loss_fn
    )

    clipped = jax.tree.map(lambda g: np.clip(np.asarray(g), -0.05, 0.05), grads)
    direction, _ = optimizer.update(clipped, optimizer.init(WEIGHT), WEIGHT, grad=grads)
    ratio = np.asarray(updates["kernel"]) / direction["kernel"]
    assert float(loss_fn(optax.apply_updates(WEIGHT, updates))) < value
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    # The layer as a whole is scale-invariant.
    assert abs(np.sum(direction["kernel"] * w)) < 1e-6


def test_state_is_that_of_the_wrapped():
    adam = optax.scale_by_adam()
    chex.assert_trees_all_equal(with_gradient(adam).init(PARAMS), adam.init(PARAMS))


def test_transformation_without_extra_arguments():
    tx = with_gradient(optax.GradientTransformation(*optax.scale(0.5)))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    chex.assert_trees_all_equal(updates, {"kernel": np.ones((3, 2), "f4")})
