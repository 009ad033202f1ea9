"""Bad input gets an error that says where and what to do, or stays in its leaf."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_adamp
from optax_adamp import ProjectionDimensionNumbers as Spec

PARAMS = {"dense": {"kernel": np.ones((3, 2), "f4"), "bias": np.zeros(2, "f4")}}
GRADS = jax.tree.map(np.ones_like, PARAMS)


def update(tx, params=PARAMS, grads=GRADS, **extra_args):
    return tx.update(grads, tx.init(params), params, **extra_args)


def matches(*words):
    """A pattern for messages in which all the words appear in this order."""
    return "(?s)" + ".*".join(map(re.escape, words))


@pytest.mark.parametrize("factory", [optax_adamp.adamp, optax_adamp.sgdp])
def test_missing_params(factory):
    tx = factory(0.1)
    with pytest.raises(ValueError, match=matches("params", "update(grads, state, p")):
        tx.update(GRADS, tx.init(PARAMS))


def test_missing_grad():
    tx = optax.chain(optax.scale_by_adam(), optax_adamp.scale_by_projection())
    with pytest.raises(ValueError, match=matches("with_gradient", "grad=grads")):
        update(tx)


@pytest.mark.parametrize(
    ("tree", "value", "words"),
    [
        ("grad", {"dense": {"kernel": np.ones((3, 2))}}, ["grad", "bias"]),
        (
            "grad",
            {"dense": {"kernel": np.ones((2, 3)), "bias": np.ones(2)}},
            ["grad has shape (2, 3)", "dense/kernel", "(3, 2)"],
        ),
        (
            "grad",
            {"dense": {"kernel": optax.MaskedNode(), "bias": np.ones(2)}},
            ["grad has no array", "dense/kernel", "(3, 2)"],
        ),
        (
            "params",
            {"dense": {"kernel": np.ones((3, 1)), "bias": np.ones(2)}},
            ["params has shape (3, 1)", "dense/kernel", "(3, 2)"],
        ),
    ],
)
def test_trees_that_do_not_match(tree, value, words):
    tx = optax_adamp.scale_by_projection()
    arguments = {"params": PARAMS, "grad": GRADS, tree: value}
    with pytest.raises(ValueError, match=matches(*words)):
        tx.update(GRADS, tx.init(PARAMS), **arguments)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (Spec(0, 0), "more than once"),
        (Spec(0, -2), "more than once"),
        (Spec((0, 0), 1), "more than once"),
        (Spec((0, 1), (1,)), "more than once"),
        (Spec(0, 2), "out of range"),
        (Spec(-3, 1), "out of range"),
        (Spec(0, "out"), "not an integer"),
        (Spec(0.0, 1), "not an integer"),
        (Spec(0, 1, view="row"), "auto, channel, layer"),
    ],
)
def test_spec_that_does_not_fit_its_leaf(spec, complaint):
    for dimension_numbers in (spec, {"dense": {"kernel": spec, "bias": None}}):
        tx = optax_adamp.adamp(0.1, dimension_numbers=dimension_numbers)
        words = ["dense/kernel", "(3, 2)", str(spec), complaint]
        with pytest.raises(ValueError, match="dimension_numbers") as error:
            update(tx)
        assert all(word in str(error.value) for word in words)


def test_spec_at_the_place_of_a_vector_must_fit():
    tx = optax_adamp.adamp(
        0.1, dimension_numbers={"dense": {"kernel": Spec(0, 1), "bias": Spec(0, 1)}}
    )
    with pytest.raises(ValueError, match=matches("dense/bias", "(2,)", "out of range")):
        update(tx)


class OneAxis:
    """A spec has both."""

    reduction_axis = 0


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"dense": {"kernel": Spec(0, 1)}}, ["no entry for dense/bias", "(2,)"]),
        ({"dens": Spec(0, 1)}, ["no entry for dense/bias", "(2,)"]),
        (
            {"dense": Spec(0, 1), "norm": None},
            ["entry for norm", "params hold nothing"],
        ),
        (
            {"dense": {"kernel": {"w": Spec(0, 1)}, "bias": None}},
            ["no entry for dense/kernel", "(3, 2)"],
        ),
        ({"dense": "channel"}, ["dense/bias", "must be a Proj", "'channel'"]),
        ({"dense": (0, 1)}, ["no entry for dense/bias"]),
        ({"dense": OneAxis()}, ["dense/bias", "must be a Proj", "OneAxis"]),
        (lambda params: {"dense": 1}, ["dense/bias", "must be a Proj", "got 1"]),
    ],
)
def test_spec_tree_that_does_not_fit_the_params(tree, words):
    tx = optax_adamp.sgdp(0.1, dimension_numbers=tree)
    with pytest.raises(ValueError, match=matches("dimension_numbers", *words)):
        update(tx)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"dense": {"kernel": True}}, ["no entry for dense/bias"]),
        ({"dense": True, "norm": False}, ["entry for norm"]),
        (lambda params: {"kernel": True}, ["no entry for dense/bias"]),
    ],
)
def test_mask_that_does_not_fit_the_params(mask, words):
    tx = optax_adamp.adamp(0.1, weight_decay=0.1, mask=mask)
    with pytest.raises(ValueError, match=matches("mask", *words)):
        update(tx)


@pytest.mark.parametrize("name", ["delta", "eps", "wd_ratio"])
@pytest.mark.parametrize("value", [-0.1, -1, float("nan"), np.float64(-0.1)])
@pytest.mark.parametrize("factory", [optax_adamp.adamp, optax_adamp.sgdp])
def test_negative_hyperparameter(factory, name, value):
    with pytest.raises(ValueError, match=f"{name} must not be negative, but got"):
        factory(0.1, **{name: value})


@pytest.mark.parametrize("momentum", [1, 1.0, 1.5, float("nan")])
def test_momentum_of_one_or_more(momentum):
    with pytest.raises(ValueError, match="momentum must be less than 1, but got"):
        optax_adamp.sgdp(0.1, momentum)


def test_nesterov_with_dampening():
    with pytest.raises(ValueError, match=r"no dampening, but got dampening=0\.1"):
        optax_adamp.sgdp(0.1, nesterov=True, dampening=0.1)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("factory", [optax_adamp.adamp, optax_adamp.sgdp])
def test_bad_gradient_stays_in_its_leaf(factory, bad):
    """One bad entry of a projected leaf shows, and changes no other leaf."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 4, 3)).astype("f4")
    params = dict(zip(("one", "two"), weights, strict=True))

    def orthogonal(w):  # A gradient that makes the weight look scale-invariant.
        g = np.roll(w, 1, axis=0)
        return g - w * np.sum(g * w, axis=0) / np.sum(w * w, axis=0)

    grads = jax.tree.map(orthogonal, params)
    tx = factory(0.1, weight_decay=0.1)
    good, _ = update(tx, params, grads)
    grads["one"][1, 2] = bad
    spoiled, _ = update(tx, params, grads)
    chex.assert_trees_all_equal(spoiled["two"], good["two"])
    is_finite = np.isfinite(spoiled["one"])
    assert not is_finite[1, 2]
    assert is_finite.sum() == 11


MAGNITUDES = {
    "zero": lambda limits: 0.0,
    "smallest subnormal": lambda limits: float(limits.smallest_subnormal),
    "smallest normal": lambda limits: float(limits.smallest_normal),
    "one": lambda limits: 1.0,
    "root of the largest": lambda limits: float(limits.max) ** 0.5,
    "largest": lambda limits: float(limits.max),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("view", ["auto", "channel", "layer"])
def test_finite_where_the_base_optimizer_is(dtype, view):
    """Every pair of magnitudes of weight and update, for directions drawn at random."""
    limits = jnp.finfo(dtype)
    rng = np.random.default_rng(0)

    def vectors(size):
        signs = rng.uniform(-1, 1, (8, 5, 3))
        return signs / np.abs(signs).max() * size

    sizes = [size(limits) for size in MAGNITUDES.values()]
    updates, weights = (
        np.stack(arrays).astype(limits.dtype)
        for arrays in zip(
            *((vectors(u), vectors(w)) for u in sizes for w in sizes), strict=True
        )
    )
    assert jnp.isfinite(updates).all()
    for eps in (1e-8, 0.0):
        tx = optax_adamp.scale_by_projection(
            0.5, eps=eps, weight_decay=0.1, dimension_numbers=Spec(2, 3, view)
        )
        for grad in (updates, np.ones_like(updates), np.zeros_like(updates)):
            result, _ = tx.update(updates, tx.init(weights), weights, grad=grad)
            assert result.dtype == jnp.dtype(dtype)
            assert jnp.isfinite(result).all()


@pytest.mark.parametrize("view", ["channel", "layer"])
def test_vectors_out_of_range_keep_the_update_under_a_fixed_view(view):
    """The norm of the second channel, and so that of the layer, is beyond float32."""
    weight = np.float32([[1.0, 1e20], [1.0, 1e20]])
    update = np.float32([[3.0, 3.0], [1.0, 1.0]])
    tx = optax_adamp.scale_by_projection(
        dimension_numbers=Spec(0, 1, view), weight_decay=0.0
    )
    result, _ = tx.update(update, tx.init(weight), weight, grad=np.ones_like(weight))
    first = [1.0, -1.0] if view == "channel" else [3.0, 1.0]
    np.testing.assert_allclose(result, np.transpose([first, [3.0, 1.0]]), rtol=1e-6)


def test_norm_that_overflows_is_not_scale_invariant():
    """A gradient orthogonal to the weight, whose norm is too large for float32."""
    weight = np.float32([[1.0], [1.0]])
    grad = np.float32([[1.0], [-1.0]])
    update = np.float32([[3.0], [1.0]])
    tx = optax_adamp.scale_by_projection()
    for scale, projected in ((1e18, True), (1e20, False)):
        for g, w in ((grad * scale, weight), (grad, weight * scale)):
            result, _ = tx.update(update, tx.init(w), w, grad=g)
            expected = grad if projected else update
            chex.assert_trees_all_close(result, expected, atol=1e-6)


def test_arrays_without_channels():
    """Empty arrays, scalars and axes of size one get the step of the reference."""
    params = {
        "empty": np.zeros((0, 3), "f4"),
        "no channels": np.zeros((3, 0), "f4"),
        "scalar": np.float32(2.0),
        "number": 2.0,
        "one by one": np.float32([[2.0]]),
        "none": None,
    }
    grads = jax.tree.map(lambda w: np.ones(np.shape(w), "f4"), params)
    tx = optax_adamp.scale_by_projection(weight_decay=0.5)
    updates, _ = tx.update(grads, tx.init(params), params, grad=grads)
    expected = jax.tree.map(lambda g, w: g + 0.5 * w, grads, params)
    chex.assert_trees_all_close(updates, expected)
    # With a threshold above one even parallel vectors pass, and nothing is left.
    tx = optax_adamp.scale_by_projection(2.0, eps=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, grad=grads)
    nothing = np.zeros((1, 1), "f4")
    chex.assert_trees_all_close(updates, {**grads, "one by one": nothing})


def integers_and_a_kernel():
    table = np.arange(6, dtype="i4").reshape(3, 2)
    return {"table": table, "kernel": np.ones((3, 2), "f4")}


def test_integer_params_move_as_under_adamw():
    params = integers_and_a_kernel()
    grads = jax.tree.map(lambda w: np.ones(w.shape, "f4"), params)
    ours = optax_adamp.adamp(0.1, weight_decay=0.1, delta=0.0)
    optaxs = optax.adamw(0.1, weight_decay=0.1)
    chex.assert_trees_all_close(
        update(ours, params, grads)[0], update(optaxs, params, grads)[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("ours", "optaxs"),
    [
        (optax_adamp.adamp(0.1), optax.adamw(0.1)),
        (optax_adamp.sgdp(0.1), optax.sgd(0.1, momentum=0.9)),
    ],
)
def test_float0_gradients_raise_what_optax_raises(ours, optaxs):
    params = integers_and_a_kernel()
    grads = jax.grad(lambda p: jnp.sum(p["kernel"]), allow_int=True)(params)
    with pytest.raises(TypeError):
        update(optaxs, params, grads)
    with pytest.raises(TypeError):
        update(ours, params, grads)
