"""What the factories do with each of their arguments, on the smallest of trees."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from messages import only
from optax_adamp import adamp, scale_by_projection, sgdp

PARAMS = {"w": np.array([[3.0, 0.0], [4.0, 1.0]], "f4"), "b": np.array([2.0], "f4")}
GRADS = {"w": np.array([[1.0, 2.0], [1.0, 1.0]], "f4"), "b": np.array([1.0], "f4")}


def first_update(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)


def unprojected(**arguments):
    """Arguments with which only the base optimizer and the decay remain."""
    return {"delta": 0.0, "learning_rate": 1.0, **arguments}


@pytest.mark.parametrize("dampening", [0.0, 0.25])
def test_dampening_scales_the_gradient(dampening):
    tx = sgdp(**unprojected(dampening=dampening))
    updates, state = first_update(tx)
    chex.assert_trees_all_close(
        updates, jax.tree.map(lambda g: -(1 - dampening) * g, GRADS)
    )
    updates, _ = tx.update(GRADS, state, PARAMS)
    chex.assert_trees_all_close(
        updates, jax.tree.map(lambda g: -1.9 * (1 - dampening) * g, GRADS)
    )


def test_decay_of_sgdp_is_that_of_its_stationary_step():
    """Divided by what the momentum multiplies a constant gradient with."""
    for momentum, factor in ((0.5, 2.0), (0.0, 1.0), (None, 1.0)):
        for decay in (0.1, lambda count: 0.1 + 0 * count):
            tx = sgdp(**unprojected(momentum=momentum, weight_decay=decay))
            updates, _ = first_update(tx)
            decayed = 0.1 * factor
            expected = jax.tree.map(lambda g, w, d=decayed: -g - d * w, GRADS, PARAMS)
            chex.assert_trees_all_close(updates, expected, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_dtypes_of_what_is_kept(nesterov):
    state = adamp(1.0, mu_dtype=jnp.bfloat16, nesterov=nesterov).init(PARAMS)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state[0].mu))
    state = sgdp(1.0, nesterov=nesterov, accumulator_dtype=jnp.bfloat16).init(PARAMS)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state[1]))


def test_nesterov():
    """The momentum with the gradient in it once more; Adam's moments as they are."""
    updates, _ = first_update(sgdp(**unprojected(nesterov=True)))
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -1.9 * g, GRADS))
    tx = adamp(**unprojected(b1=0.5, b2=0.5, eps=0.0, nesterov=True))
    updates, state = first_update(tx)
    # (0.5 * 0.5 g + 0.5 g) / (1 - 0.5), by the root of 0.5 g ** 2 / (1 - 0.5).
    chex.assert_trees_all_close(
        updates, jax.tree.map(lambda g: -1.5 * np.sign(g), GRADS)
    )
    assert state[0].count == 1
    chex.assert_trees_all_close(state[0].mu, jax.tree.map(lambda g: g / 2, GRADS))
    chex.assert_trees_all_close(state[0].nu, jax.tree.map(lambda g: g**2 / 2, GRADS))


@pytest.mark.parametrize("factory", [adamp, sgdp])
@pytest.mark.parametrize("argument", ["dimension_numbers", "partition_specs", "mask"])
def test_trees_reach_the_projection(factory, argument):
    """One that does not fit is refused by its own name."""
    entry = P() if argument == "partition_specs" else None
    tx = factory(1.0, **{argument: {"w": entry}})
    with pytest.raises(ValueError, match=rf"^{argument} does not fit .* entry for b"):
        first_update(tx)


def test_fixed_numbers_reach_the_projection():
    """With delta = inf all is projected, and eps and wd_ratio show."""
    w, g = np.array([[3.0], [4.0]], "f4"), np.array([[1.0], [1.0]], "f4")
    arguments = {"delta": np.inf, "wd_ratio": 0.5, "eps": 5.0, "weight_decay": 0.125}
    radial = 7 / 10**2

    tx = optax.chain(scale_by_projection(**arguments))
    updates, _ = tx.update(g, tx.init(w), w, grad=g)
    np.testing.assert_allclose(updates, g - radial * w + 0.0625 * w, rtol=1e-6)
    updates, _ = first_update(sgdp(1.0, momentum=None, **arguments), g, w)
    np.testing.assert_allclose(updates, -g + radial * w - 0.0625 * w, rtol=1e-6)
    updates, _ = first_update(adamp(1.0, **arguments), g, w)
    adam = 1 / 6  # g / (|g| + eps)
    np.testing.assert_allclose(
        updates, -adam * g + adam * radial * w - 0.0625 * w, rtol=1e-6
    )


@pytest.mark.parametrize("factory", [adamp, sgdp, scale_by_projection])
@pytest.mark.parametrize("name", ["delta", "wd_ratio", "eps"])
@pytest.mark.parametrize("value", [-0.5, float("nan"), -1])
def test_negative_numbers(factory, name, value):
    rate = {} if factory is scale_by_projection else {"learning_rate": 0.1}
    with pytest.raises(
        ValueError, match=only(f"{name} must not be negative, but got {value}.")
    ):
        factory(**rate, **{name: value})
    for allowed in (0.0, 0, 2, jnp.float32(-0.5)):
        factory(**rate, **{name: allowed})


def test_numbers_may_be_traced():
    @jax.jit
    def step(momentum, dampening, delta):
        # Nesterov's momentum has no dampening; what is traced is not looked at.
        tx = sgdp(1.0, momentum, True, dampening=dampening, delta=delta)
        return first_update(tx)[0]

    chex.assert_trees_all_close(
        step(0.5, 0.0, 0.0), jax.tree.map(lambda g: -1.5 * g, GRADS)
    )
    for momentum in (1, 1.5, 1.0):
        with pytest.raises(ValueError, match=r"^momentum must be less than 1, but got"):
            sgdp(0.1, momentum)
    for dampening in (0.5, 1):
        with pytest.raises(ValueError, match=f"but got dampening={dampening}"):
            sgdp(0.1, nesterov=True, dampening=dampening)


def test_absent_updates_stay_what_they_are():
    masked = optax.MaskedNode()
    updates = {"a": None, "b": masked, "w": GRADS["w"]}
    params = {"a": PARAMS["b"], "b": PARAMS["b"], "w": PARAMS["w"]}
    tx = scale_by_projection()
    new, _ = tx.update(updates, tx.init(params), params, grad=updates)
    assert new["a"] is None
    assert isinstance(new["b"], optax.MaskedNode)


def test_states_are_those_of_add_decayed_weights():
    def schedule(count):
        return 0.5 * count

    for decay in (0.1, schedule):
        state = optax.add_decayed_weights(decay).init(PARAMS)
        for mask, expected in ((None, state), (True, optax.MaskedState(state))):
            tx = scale_by_projection(weight_decay=decay, mask=mask)
            assert jax.tree.structure(tx.init(PARAMS)) == jax.tree.structure(expected)
    for mask, decayed in (
        (None, True),
        (True, True),
        (False, False),
        (lambda params: {name: name == "w" for name in params}, {"w": 1, "b": 0}),
    ):
        tx = scale_by_projection(delta=0.0, weight_decay=schedule, mask=mask)
        state = tx.init(PARAMS)
        for count in range(3):
            updates, state = tx.update(GRADS, state, PARAMS, grad=GRADS)
            ratios = (
                decayed if isinstance(decayed, dict) else {"w": decayed, "b": decayed}
            )
            expected = jax.tree.map(
                lambda g, w, ratio, c=count: g + 0.5 * c * ratio * w,
                GRADS,
                PARAMS,
                ratios,
            )
            chex.assert_trees_all_close(updates, expected, rtol=1e-6)
