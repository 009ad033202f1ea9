"""Equinox: modules as trees, which can be called and hold None; kernels (out, in)."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from optax_adamp import ProjectionDimensionNumbers, layouts, sgdp
from training import is_first, with_adamp_nightly

OUTPUT_FIRST = ProjectionDimensionNumbers(reduction_axis=1, output_axis=0)


class Affine(eqx.Module):
    scale: jax.Array
    bias: jax.Array


class Network(eqx.Module):
    first: eqx.nn.Linear
    norm: Affine
    second: eqx.nn.Linear
    head: eqx.nn.Linear
    activation: Callable
    version: jax.Array

    def __init__(self, params):
        sizes = training.INPUTS, training.HIDDEN, training.FEATURES, training.CLASSES
        inputs, hidden, features, classes = sizes
        key = jax.random.key(0)

        def linear(inputs, outputs, kernel, bias=None):
            layer = eqx.filter_eval_shape(
                eqx.nn.Linear, inputs, outputs, use_bias=bias is not None, key=key
            )
            return eqx.tree_at(
                lambda layer: (layer.weight, layer.bias),
                layer,
                (kernel.T, bias),
                is_leaf=lambda leaf: leaf is None,
            )

        self.first = linear(inputs, hidden, **params["first"])
        self.norm = Affine(**params["norm"])
        self.second = linear(hidden, features, **params["second"])
        self.head = linear(features, classes, **params["head"])
        self.activation = jax.nn.relu
        self.version = jnp.array([[1, 2], [3, 4]])

    def __call__(self, inputs):
        hidden = training.standardize(jax.vmap(self.first)(inputs), axis=0)
        hidden = self.activation(hidden * self.norm.scale + self.norm.bias)
        features = training.standardize(jax.vmap(self.second)(hidden), axis=-1)
        return jax.vmap(self.head)(features)

    def as_plain_params(self):
        return {
            "first": {"kernel": np.asarray(self.first.weight).T},
            "norm": {"scale": self.norm.scale, "bias": self.norm.bias},
            "second": {"kernel": np.asarray(self.second.weight).T},
            "head": {"kernel": np.asarray(self.head.weight).T, "bias": self.head.bias},
        }


@eqx.filter_jit
@eqx.filter_grad
def gradient(network, batch):
    inputs, labels = batch
    return training.cross_entropy(network(inputs), labels)


def train(tx, is_trained=eqx.is_inexact_array):
    """Trains as the documentation of Equinox does."""
    network = Network(training.initial_params())
    state = tx.init(eqx.filter(network, is_trained))
    for batch in zip(*training.all_batches(), strict=True):
        params = eqx.filter(network, is_trained)
        updates, state = tx.update(gradient(network, batch), state, params)
        network = eqx.apply_updates(network, updates)
    return network.as_plain_params()


def spec_of_kernels(params):
    return jax.tree.map(lambda leaf: OUTPUT_FIRST if leaf.ndim > 1 else None, params)


NETWORK = eqx.filter_eval_shape(lambda: Network(training.initial_params()))
ARRAYS = eqx.filter_eval_shape(
    lambda: eqx.filter(Network(training.initial_params()), eqx.is_inexact_array)
)
SPECS = {
    "rule": layouts.output_first,
    "one spec": OUTPUT_FIRST,
    "function": spec_of_kernels,
    "module, which is a function too": spec_of_kernels(ARRAYS),
}


@with_adamp_nightly
@pytest.mark.parametrize("form", SPECS)
def test_dimension_numbers(form, optimizer):
    tx = training.make(optimizer, dimension_numbers=SPECS[form])

    training.assert_trained_as_plainly(train(tx), optimizer)


def test_arrays_without_gradient():
    """A filter of the params may keep integers; Optax's Adam then raises an error."""
    tx = training.make(sgdp, dimension_numbers=OUTPUT_FIRST)

    training.assert_trained_as_plainly(train(tx, eqx.is_array), sgdp)


def test_jitted_step():
    tx = training.make(sgdp, dimension_numbers=spec_of_kernels(ARRAYS))

    @eqx.filter_jit
    def step(network, state, batch):
        params = eqx.filter(network, eqx.is_inexact_array)
        updates, state = tx.update(gradient(network, batch), state, params)
        return eqx.apply_updates(network, updates), state

    network = Network(training.initial_params())
    state = tx.init(eqx.filter(network, eqx.is_inexact_array))
    for batch in zip(*training.all_batches(), strict=True):
        network, state = step(network, state, batch)

    training.assert_trained_as_plainly(network.as_plain_params(), sgdp)


MASKS = {
    "module of the params": jax.tree.map_with_path(is_first, ARRAYS),
    "module of all leaves": jax.tree.map_with_path(is_first, NETWORK),
    "function": lambda params: jax.tree.map_with_path(is_first, params),
}


@pytest.mark.parametrize("form", MASKS)
def test_mask(form):
    tx = training.make(sgdp, mask=MASKS[form], dimension_numbers=OUTPUT_FIRST)

    trained = train(tx)
    training.assert_close(trained, training.train_first_only(sgdp, weight_decay=0.0))
    training.assert_kernels_differ(trained, training.plainly_trained(sgdp), ["second"])


def test_masked():
    """`optax.masked` puts its nodes beside the None of Equinox."""
    in_parts = optax.chain(
        *(
            optax.masked(
                training.make(sgdp, dimension_numbers=spec_of_kernels(ARRAYS)),
                jax.tree.map_with_path(
                    lambda path, leaf, part=part: is_first(path, leaf) == part, ARRAYS
                ),
            )
            for part in (True, False)
        )
    )

    training.assert_trained_as_plainly(train(in_parts), sgdp)
