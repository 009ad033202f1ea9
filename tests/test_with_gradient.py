"""What `with_gradient` hands to the transformations inside."""

import chex
import numpy as np
import optax

from optax_adamp import with_gradient

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
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0, grad="somebody else's")
    (call,) = calls
    negated = {"kernel": np.full((3, 2), -2.0, "f4")}
    chex.assert_trees_all_equal(
        call,
        {"updates": negated, "params": PARAMS, "value": 3.0, "grad": GRADS},
    )


def test_each_wrapper_has_its_own_gradient():
    inner, inside = recorder()
    outer, outside = recorder()
    tx = with_gradient(optax.chain(optax.scale(-1.0), with_gradient(inner), outer))
    tx.update(GRADS, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(
        inside[0]["grad"], {"kernel": np.full((3, 2), -2.0, "f4")}
    )
    chex.assert_trees_all_equal(outside[0]["grad"], GRADS)


def test_state_is_that_of_the_wrapped():
    adam = optax.scale_by_adam()
    chex.assert_trees_all_equal(with_gradient(adam).init(PARAMS), adam.init(PARAMS))


def test_transformation_without_extra_arguments():
    tx = with_gradient(optax.GradientTransformation(*optax.scale(0.5)))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    chex.assert_trees_all_equal(updates, {"kernel": np.ones((3, 2), "f4")})
