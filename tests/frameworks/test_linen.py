"""Flax Linen: `TrainState`, and params in boxes that add `.value` to their paths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import FrozenDict
from flax.training.train_state import TrainState

import training
from optax_adamp import ProjectionDimensionNumbers, sgdp
from training import (
    DESCRIPTIONS_OF_FIRST,
    FIRST_ONLY,
    SPEC_OF_FIRST,
    is_first,
    spec_of_first,
    with_adamp_nightly,
)


class Network(nn.Module):
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs):
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init)
        epsilon = training.NORMALIZATION_EPS
        hidden = dense(training.HIDDEN, use_bias=False, name="first")(inputs)
        hidden = nn.BatchNorm(use_running_average=False, epsilon=epsilon, name="norm")(
            hidden
        )
        features = dense(training.FEATURES, use_bias=False, name="second")(
            nn.relu(hidden)
        )
        standardize = nn.LayerNorm(epsilon=epsilon, use_bias=False, use_scale=False)
        return dense(training.CLASSES, name="head")(standardize(features))


class StateWithStatistics(TrainState):
    batch_stats: Any


def loss_fn(params, batch_stats, batch):
    inputs, labels = batch
    variables = {"params": params, "batch_stats": batch_stats}
    logits, changed = Network().apply(variables, inputs, mutable=["batch_stats"])
    return training.cross_entropy(logits, labels), changed["batch_stats"]


def initial_statistics():
    size = training.HIDDEN
    return {"norm": {"mean": jnp.zeros(size), "var": jnp.ones(size)}}


def train_state(tx, params):
    """Trains as the documentation of Flax does."""
    state = StateWithStatistics.create(
        apply_fn=Network().apply,
        params=params,
        tx=tx,
        batch_stats=initial_statistics(),
    )

    @jax.jit
    def step(state, batch):
        grad = jax.grad(loss_fn, has_aux=True)
        grads, batch_stats = grad(state.params, state.batch_stats, batch)
        return state.apply_gradients(grads=grads, batch_stats=batch_stats)

    for batch in zip(*training.all_batches(), strict=True):
        state = step(state, batch)
    return state.params


@with_adamp_nightly
def test_train_state(optimizer):
    trained = train_state(training.make(optimizer), training.initial_params())

    training.assert_trained_as_plainly(trained, optimizer)


def test_frozen_dict_described_by_dict():
    tx = training.make(sgdp, mask=FIRST_ONLY, dimension_numbers=SPEC_OF_FIRST)

    def gradient(params, batch):
        return FrozenDict(training.gradient(params.unfreeze(), batch))

    frozen = FrozenDict(training.initial_params())
    trained = training.train(tx, frozen, gradient=gradient)

    assert isinstance(trained, FrozenDict)
    expected = training.train_first_only(sgdp, weight_decay=0.0, delta=0.0)
    training.assert_close(trained.unfreeze(), expected)
    training.assert_kernels_differ(trained, training.plainly_trained(sgdp))


def box(params):
    """Kernels in boxes, as the module makes them; vectors are left bare."""
    boxed = nn.with_partitioning(nn.initializers.ones, ("input", "output"))
    inputs = training.all_batches()[0][0]
    variables = jax.eval_shape(Network(boxed).init, jax.random.key(0), inputs)
    return nn.meta.replace_boxed(variables["params"], params)


@jax.jit
def boxed_gradient(params, batch):
    return jax.grad(loss_fn, has_aux=True)(params, initial_statistics(), batch)[0]


def train_boxed(tx):
    params = box(training.initial_params())
    trained = training.train(tx, params, gradient=boxed_gradient)
    assert isinstance(trained["first"]["kernel"], nn.Partitioned)
    return nn.meta.unbox(trained)


@with_adamp_nightly
def test_boxes(optimizer):
    trained = train_boxed(training.make(optimizer))

    training.assert_trained_as_plainly(trained, optimizer)


def like_boxes(function):
    # In shapes, as this file is imported: mutation forks before there are any arrays.
    boxes = jax.eval_shape(lambda: box(training.initial_params()))
    return jax.tree.map_with_path(function, boxes)


DESCRIPTIONS = {
    **DESCRIPTIONS_OF_FIRST,
    "in boxes": (like_boxes(is_first), like_boxes(spec_of_first)),
}


@pytest.mark.parametrize("form", DESCRIPTIONS)
def test_mask_and_dimension_numbers_of_boxes(form):
    training.assert_only_first_described(train_boxed, *DESCRIPTIONS[form])


def test_stacked_vectors_in_boxes():
    """The name of a leaf is not `value`: stacked scales are told from kernels."""
    each = [training.initial_params(seed) for seed in range(2)]
    params = jax.tree.map(
        lambda *leaves: nn.Partitioned(np.stack(leaves), ("seeds",)), *each
    )

    def split(params):
        unboxed = jax.device_get(nn.meta.unbox(params))
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i], unboxed) for i in range(len(each))
        ]

    def gradient(params, batch):
        grads = [training.gradient(one, batch) for one in split(params)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *grads)
        return nn.meta.replace_boxed(params, stacked)

    tx = training.make(sgdp, dimension_numbers=ProjectionDimensionNumbers(-2, -1))

    first, second = split(training.train(tx, params, gradient=gradient, jit=True))

    training.assert_trained_as_plainly(first, sgdp)
    alone = training.train(training.make(sgdp), each[1])
    training.assert_close(second, alone)
