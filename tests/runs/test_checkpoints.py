"""A state that Orbax saved under one mesh continues under another."""

import chex
import jax
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import sharded_steps as steps
from nightly import nightly_but
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp

LEAF = "dense to layer"
SAVED_AFTER = 2

# A mesh and how the kernel lies on it; None: one device, no mesh.
PLACES = {
    "8 devices": ((8,), P("x", None)),
    "4 x 2 devices": ((4, 2), P("y", "x")),
    "2 x 2 x 2 devices": ((2, 2, 2), P(None, ("z", "x"))),
    "one device": None,
}


def sharding(place, ndim):
    """Of a kernel, or of a scalar, which is whole everywhere."""
    if PLACES[place] is None:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape, spec = PLACES[place]
    return NamedSharding(steps.make_mesh(shape), spec if ndim else P())


def put(tree, place):
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, sharding(place, leaf.ndim)), tree
    )


def train(tx, params, state, all_grads, place):
    step = steps.make_step(tx)
    for grads in all_grads:
        params, state, _ = step(params, state, put({"kernel": grads[LEAF]}, place))
    return params, state


def initial(tx, place):
    params = put({"kernel": whole().params[0][LEAF]}, place)
    return params, put(tx.init(params), place)


def whole():
    """The same training in one piece."""
    return steps.whole(adamp, only=LEAF)


@pytest.fixture(
    scope="module",
    params=nightly_but(["4 x 2 devices"], ["4 x 2 devices", "one device"]),
)
def saved(request, tmp_path_factory):
    """The path of a checkpoint and the state in it."""
    grads = whole().grads
    path = tmp_path_factory.mktemp("checkpoints") / "saved"
    tx = steps.make_optimizer(adamp, Spec(0, 1))
    trained = train(tx, *initial(tx, request.param), grads[:SAVED_AFTER], request.param)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, trained)
    return path, steps.to_numpy(trained)


def restore(path, tx, place):
    """As a job does that starts under a mesh of its own: it knows shapes alone."""

    def describe(leaf):
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding(place, leaf.ndim)
        )

    params = {"kernel": whole().params[0][LEAF]}
    target = (params, jax.eval_shape(tx.init, params))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, jax.tree.map(describe, target))


@pytest.mark.parametrize("place", nightly_but(["8 devices", "one device"], PLACES))
def test_continues_elsewhere(saved, place):
    path, (saved_params, saved_state) = saved
    tx = steps.make_optimizer(adamp, Spec(0, 1))

    params, state = restore(path, tx, place)

    chex.assert_trees_all_equal(steps.to_numpy(state), saved_state)
    chex.assert_trees_all_equal(steps.to_numpy(params), saved_params)
    expected = sharding(place, 2)
    for leaf in (params["kernel"], optax.tree.get(state, "mu")["kernel"]):
        assert leaf.sharding.is_equivalent_to(expected, 2)
    params, _ = train(tx, params, state, whole().grads[SAVED_AFTER:], place)
    chex.assert_trees_all_close(
        steps.to_numpy(params)["kernel"], whole().params[-1][LEAF], **steps.TOLERANCE
    )
