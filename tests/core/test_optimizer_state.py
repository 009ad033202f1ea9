"""The state is that of Optax's AdamW and SGD: checkpoints and Optax's tools fit it."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import training
from optax_adamp import ProjectionDimensionNumbers, _projection, adamp, sgdp
from training import SETTINGS


def falling(count):
    return 0.1 / (count + 1)


VARIANTS = {
    "plain": {},
    "Nesterov": {"nesterov": True},
    "mask": {"mask": {"first": True, "norm": False, "second": True, "head": False}},
    "function as mask": {
        "mask": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    },
    "rate by schedule": {"learning_rate": falling},
    "decay by schedule": {"weight_decay": falling},
    "both by schedule, and a mask": {
        "learning_rate": falling,
        "weight_decay": falling,
        "mask": True,
    },
    "momentum in bfloat16": {"mu_dtype": "bfloat16"},
}


# With the layers of the network of `training`, which the masks name.
KERNEL = np.ones((3, 2), "f4")
SMALL = {"first": KERNEL, "norm": np.ones(2, "f4"), "second": KERNEL, "head": KERNEL}


def run(tx, params, state, batches):
    for batch in batches:
        updates, state = tx.update(training.gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("variant", VARIANTS)
def test_structure_is_that_of_adamw(variant):
    arguments = {**SETTINGS[adamp], **VARIANTS[variant]}
    params = grads = SMALL
    ours, adamw = adamp(**arguments), optax.adamw(**arguments)

    initial, adamws_initial = ours.init(params), adamw.init(params)
    chex.assert_trees_all_equal_structs(initial, adamws_initial)
    chex.assert_trees_all_equal_shapes_and_dtypes(initial, adamws_initial)

    _, state = ours.update(grads, initial, params)
    _, adamws_state = adamw.update(grads, adamws_initial, params)
    # All that is counted or averaged is the same, projected or not.
    chex.assert_trees_all_equal(state, adamws_state)


def through_flax(state, target):
    return serialization.from_bytes(target, serialization.to_bytes(state))


def through_numpy(state, target):
    del target
    return pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))


@pytest.mark.parametrize("checkpoint", [through_flax, through_numpy])
@pytest.mark.parametrize("variant", ["plain", "both by schedule, and a mask"])
def test_saved_adamw_continues_under_adamp(variant, checkpoint):
    batches = list(zip(*training.all_batches(), strict=True))
    arguments = {**SETTINGS[adamp], **VARIANTS[variant]}
    adamw = optax.adamw(**arguments)
    tx = adamp(**arguments, delta=training.DELTA, wd_ratio=training.WD_RATIO)

    initial = training.initial_params()
    params, saved = run(adamw, initial, adamw.init(initial), batches[:4])
    restored = checkpoint(saved, tx.init(params))
    trained, state = run(tx, params, restored, batches[4:])

    chex.assert_trees_all_equal_structs(state, saved)
    # The same within one optimizer, whose projection is switched on after a while.
    unprojected = adamp(**arguments, delta=0.0)
    params, state = run(unprojected, initial, unprojected.init(initial), batches[:4])
    expected, _ = run(tx, params, state, batches[4:])
    training.assert_close(trained, expected)
    anew, _ = run(tx, params, tx.init(params), batches[4:])
    training.assert_kernels_differ(trained, anew)
    still_adamw, _ = run(adamw, params, state, batches[4:])
    training.assert_kernels_differ(trained, still_adamw)


@pytest.mark.parametrize("nesterov", [False, True])
def test_trace_of_sgd_continues_under_sgdp(nesterov):
    batches = list(zip(*training.all_batches(), strict=True))
    sgd = optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    arguments = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
    tx = sgdp(**arguments, weight_decay=0.04, delta=training.DELTA)

    initial = training.initial_params()
    params, saved = run(sgd, initial, sgd.init(initial), batches[:4])
    trace = optax.tree.get(saved, "trace")
    restored = optax.tree.set(tx.init(params), trace=trace)
    trained, _ = run(tx, params, restored, batches[4:])

    undecayed = sgdp(**arguments, delta=0.0)
    params, state = run(undecayed, initial, undecayed.init(initial), batches[:4])
    expected, _ = run(tx, params, state, batches[4:])
    training.assert_close(trained, expected)
    anew, _ = run(tx, params, tx.init(params), batches[4:])
    training.assert_kernels_differ(trained, anew)


@pytest.mark.parametrize("variant", VARIANTS)
def test_map_params(variant):
    """Optax tells what has the shape of the params from what counts steps."""
    arguments = {**SETTINGS[adamp], **VARIANTS[variant]}
    state = adamp(**arguments).init(SMALL)

    def describe(tx):
        return optax.tree.map_params(
            tx,
            lambda leaf, param: (leaf.dtype.name, param.shape),
            state,
            SMALL,
            transform_non_params=lambda leaf: "count",
        )

    described = describe(adamp(**arguments))

    assert described == describe(optax.adamw(**arguments))
    mu = optax.tree.get(described, "mu")
    assert mu["first"][1] == (3, 2)


def test_map_params_of_sgdp():
    params = SMALL
    tx = sgdp(falling, 0.9, weight_decay=falling)

    mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(params))

    chex.assert_trees_all_equal(
        optax.tree.get(mapped, "trace"), jax.tree.map(jnp.ones_like, params)
    )
    counts = [count for _, count in optax.tree.get_all_with_path(mapped, "count")]
    assert counts == [0, 0]


def structure(tree):
    """Without empty states, which hold nothing."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]


@pytest.mark.parametrize("momentum", [0.9, 0.0, None])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_the_state_of_sgdp_is_the_trace_of_sgd(momentum, dampening):
    """A momentum of zero is one; what dampening leaves out never enters it."""
    params = {"kernel": KERNEL, "bias": np.ones(2, "f4")}
    grads = jax.tree.map(lambda w: 2 * w, params)
    tx = sgdp(0.1, momentum, dampening=dampening)
    base = optax.sgd(0.1, momentum)

    state = tx.update(grads, tx.init(params), params)[1]

    traces = [optax.tree.get(tree, "trace") for tree in (state, base.init(params))]
    if momentum is None:
        assert traces == [None, None]
        assert jax.tree.leaves(state) == []
    else:
        expected = jax.tree.map(lambda g: (1 - dampening) * g, grads)
        chex.assert_trees_all_close(traces[0], expected)
        chex.assert_trees_all_equal_structs(*traces)
        assert len(structure(state)) == len(structure(base.init(params)))


def test_functions_of_the_params_see_the_params():
    """And not the updates, of which a shape or a dtype may be read as well."""
    params = {"kernel": KERNEL, "bias": np.ones(2, "f4")}
    grads = jax.tree.map(jnp.zeros_like, params)
    seen = []

    def remember(result):
        return lambda tree: seen.append(tree) or result

    tx = sgdp(
        0.1,
        weight_decay=0.1,
        mask=remember(True),
        dimension_numbers=remember(ProjectionDimensionNumbers(0, 1)),
        partition_specs=remember(None),
    )
    state = tx.init(params)
    seen.clear()
    tx.update(grads, state, params)

    assert len(seen) == 3
    assert all(tree is params for tree in seen)


def test_leaves_of_one_shape_are_traced_once(monkeypatch):
    """In one step and in all that follow, with jit and without."""
    traces = []
    sums = _projection.view_sums

    def count(u, *rest):
        traces.append(u.shape)
        return sums(u, *rest)

    monkeypatch.setattr(_projection, "view_sums", count)
    shapes = [(17, 3)] * 3 + [(3, 17)] * 2
    params = [np.ones(shape, "f4") for shape in shapes]
    tx = sgdp(0.1)
    state = tx.init(params)
    compiled = jax.jit(tx.update)
    for update in (tx.update, tx.update, compiled.lower, compiled.lower):
        update(params, state, params)
        assert sorted(traces[:2]) == [(3, 17), (17, 3)]
        # Once more inside of jit, where a hyperparameter may be traced too.
        assert len(traces) <= 4
    tx.update(params, state, params)
    assert len(traces) <= 4
