"""Haiku: other names, and vectors that batch normalization gives two axes."""

import haiku as hk
import jax
import numpy as np

import training
from optax_adamp.layouts import from_function
from training import with_adamp_nightly


def predict(inputs):
    epsilon = training.NORMALIZATION_EPS
    hidden = hk.Linear(training.HIDDEN, with_bias=False, name="first")(inputs)
    hidden = hk.BatchNorm(True, True, decay_rate=0.9, eps=epsilon, name="norm")(
        hidden, is_training=True
    )
    features = hk.Linear(training.FEATURES, with_bias=False, name="second")(
        jax.nn.relu(hidden)
    )
    features = hk.LayerNorm(-1, False, False, eps=epsilon)(features)
    return hk.Linear(training.CLASSES, name="head")(features)


network = hk.transform_with_state(predict)


def to_haiku(params):
    rows = jax.tree.map(lambda leaf: leaf[None], params["norm"])
    return {
        "first": {"w": params["first"]["kernel"]},
        "norm": {"scale": rows["scale"], "offset": rows["bias"]},
        "second": {"w": params["second"]["kernel"]},
        "head": {"w": params["head"]["kernel"], "b": params["head"]["bias"]},
    }


def to_plain(params):
    return {
        "first": {"kernel": params["first"]["w"]},
        "norm": {
            "scale": params["norm"]["scale"][0],
            "bias": params["norm"]["offset"][0],
        },
        "second": {"kernel": params["second"]["w"]},
        "head": {"kernel": params["head"]["w"], "bias": params["head"]["b"]},
    }


def loss_fn(params, state, batch):
    inputs, labels = batch
    logits, _ = network.apply(params, state, None, inputs)
    return training.cross_entropy(logits, labels)


@with_adamp_nightly
def test_training(optimizer):
    _, shapes = jax.eval_shape(
        network.init, jax.random.key(0), training.all_batches()[0][0]
    )
    # Before the first step all statistics are zero: to draw params for them takes long.
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    gradient = jax.jit(lambda params, batch: jax.grad(loss_fn)(params, state, batch))
    params = to_haiku(training.initial_params())
    # The offset of hk.BatchNorm has the shape (1, channels), like a kernel.
    batch = jax.tree.map(lambda array: array[0], training.all_batches())
    layout = from_function(loss_fn, params, state, batch)
    tx = training.make(optimizer, dimension_numbers=layout)

    trained = training.train(tx, params, gradient=gradient)

    training.assert_trained_as_plainly(to_plain(jax.device_get(trained)), optimizer)
