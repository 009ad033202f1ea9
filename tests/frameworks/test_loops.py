"""The ways a training loop in plain JAX may call an optimizer, and hold its params."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from optax_adamp import ProjectionDimensionNumbers, sgdp
from training import with_adamp_nightly


def take_step(tx, params, state, batch):
    grads = training.gradient(params, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def loop(call):
    """A training loop out of a way to call `tx.update`."""

    def train(tx):
        return training.train(optax.GradientTransformation(tx.init, call(tx)))

    return train


def scan(tx, params=None):
    def step(carry, batch):
        return take_step(tx, *carry, batch), None

    params = training.initial_params() if params is None else params
    carry, _ = jax.lax.scan(step, (params, tx.init(params)), training.all_batches())
    return carry[0]


def donate_buffers(tx):
    step = jax.jit(
        lambda params, state, batch: take_step(tx, params, state, batch),
        donate_argnums=(0, 1),
    )
    params = training.initial_params()
    state = tx.init(params)
    for batch in zip(*training.all_batches(), strict=True):
        given = jax.tree.leaves((params, state))
        params, state = step(params, state, batch)
        assert all(buffer.is_deleted() for buffer in given)
    return params


def pass_params_by_keyword(tx):
    return lambda grads, state, params: tx.update(grads, state, params=params)


def pass_all_by_keyword(tx):
    return lambda grads, state, params: tx.update(
        updates=grads, state=state, params=params
    )


def pass_unexpected_arguments(tx):
    return lambda grads, state, params: tx.update(
        grads,
        state,
        params,
        value=jnp.float32(1),
        grad_norm=jnp.float32(2),
        value_fn=lambda params: 3.0,
        batch={"image": jnp.ones((2, 2))},
    )


LOOPS = {
    "scan": scan,
    "donated buffers": donate_buffers,
    "params by keyword": loop(pass_params_by_keyword),
    "all by keyword": loop(pass_all_by_keyword),
    "unexpected arguments": loop(pass_unexpected_arguments),
}


@with_adamp_nightly
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_trains_alike(loop, optimizer):
    trained = LOOPS[loop](training.make(optimizer))

    training.assert_trained_as_plainly(trained, optimizer)


@with_adamp_nightly
def test_views_of_the_trained_network(optimizer):
    """What the other tests rest on: both views occur in the network."""

    def train(view_of_first, view_of_second):
        specs = {
            "first": ProjectionDimensionNumbers(0, 1, view_of_first),
            "norm": None,
            "second": ProjectionDimensionNumbers(0, 1, view_of_second),
            "head": None,
        }
        return training.train(training.make(optimizer, dimension_numbers=specs))

    tested, fixed = train("auto", "auto"), train("channel", "layer")

    training.assert_close(tested, fixed)
    training.assert_kernels_differ(tested, train("layer", "channel"))


def test_vmap():
    """A sweep over seeds and hyperparameters hands tracers to the optimizer."""
    params = [training.initial_params(seed) for seed in (0, 1, 1)]
    learning_rates = 0.3, 0.3, 0.1
    deltas = training.DELTA, training.DELTA, 0.0

    def train(loop, params, learning_rate, delta):
        tx = training.make(sgdp, learning_rate=learning_rate, delta=delta)
        return loop(tx, params)

    swept = jax.device_get(
        jax.jit(jax.vmap(functools.partial(train, scan)))(
            jax.tree.map(lambda *leaves: np.stack(leaves), *params),
            np.float32(learning_rates),
            np.float32(deltas),
        )
    )

    alone = functools.partial(train, training.train)
    for i, values in enumerate(zip(params, learning_rates, deltas, strict=True)):
        trained = jax.tree.map(lambda leaf, i=i: leaf[i], swept)
        training.assert_close(trained, alone(*values))
        if deltas[i] > 0:
            unprojected = alone(params[i], learning_rates[i], 0.0)
            training.assert_kernels_differ(trained, unprojected)


class Layers(NamedTuple):
    first: Any
    norm: Any
    second: Any
    head: Any


CONTAINERS = {
    "tuple": tuple,
    "list": list,
    "named tuple": Layers._make,
    "dict with integer keys": lambda leaves: dict(enumerate(leaves)),
    "nested": lambda leaves: (leaves[0], [leaves[1], {"second": leaves[2:]}]),
    "with None": lambda leaves: (None, *leaves, {"nothing": None}),
}


@with_adamp_nightly
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_trains_alike(container, optimizer):
    """Where paths carry no names, shapes alone tell kernels from vectors."""
    plain = training.initial_params()
    layers = ["first", "norm", "second", "head"]
    params = CONTAINERS[container]([tuple(plain[layer].values()) for layer in layers])
    treedef = jax.tree.structure(params)

    def as_plain(params):
        leaves = iter(jax.tree.leaves(params))
        return {
            layer: {name: next(leaves) for name in plain[layer]} for layer in layers
        }

    def gradient(params, batch):
        grads = training.gradient(as_plain(params), batch)
        leaves = [grads[layer][name] for layer in layers for name in plain[layer]]
        return jax.tree.unflatten(treedef, leaves)

    trained = training.train(training.make(optimizer), params, gradient=gradient)

    assert jax.tree.structure(trained) == treedef
    training.assert_trained_as_plainly(as_plain(trained), optimizer)


BARE_ARRAY_ARGUMENTS = {
    "defaults": ({}, {}),
    "spec and mask": (
        {"dimension_numbers": ProjectionDimensionNumbers(0, 1), "mask": True},
        {},
    ),
    "mask": ({"mask": False}, {"weight_decay": 0.0}),
    "functions": (
        {
            "dimension_numbers": lambda kernel: ProjectionDimensionNumbers(1, 0),
            "mask": lambda kernel: kernel.ndim == 1,
        },
        {
            "dimension_numbers": {"kernel": ProjectionDimensionNumbers(1, 0)},
            "weight_decay": 0.0,
        },
    ),
}


@with_adamp_nightly
@pytest.mark.parametrize("arguments", BARE_ARRAY_ARGUMENTS)
def test_bare_array(arguments, optimizer):
    """One array has the empty path."""
    bare_arguments, dict_arguments = BARE_ARRAY_ARGUMENTS[arguments]
    plain = training.initial_params()
    kernel = plain.pop("first")["kernel"]

    def gradient(kernel, batch):
        params = {**plain, "first": {"kernel": kernel}}
        return training.gradient(params, batch)["first"]["kernel"]

    def train_dict(**changes):
        trained = training.train(
            training.make(optimizer, **changes),
            {"kernel": kernel},
            gradient=lambda params, batch: {
                "kernel": gradient(params["kernel"], batch)
            },
        )
        return trained["kernel"]

    trained = training.train(
        training.make(optimizer, **bare_arguments), kernel, gradient=gradient
    )

    training.assert_close(trained, train_dict(**dict_arguments))
    unprojected = train_dict(**dict_arguments, delta=0.0)
    assert np.linalg.norm(trained - unprojected) > 0.01 * np.linalg.norm(trained)
