"""Stacked layers take exactly the steps that they take one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from nightly import nightly_but
from optax_adamp import ProjectionDimensionNumbers, scale_by_projection
from training import with_sgdp_nightly

IN, OUT = 7, 5

# What follows each layer: it decides which view the layer takes.
NORMALIZATIONS = {
    "channel": lambda values: training.standardize(values, axis=0),
    "layer": lambda values: training.standardize(values, axis=-1),
    # The gradient has a large part along the weight: outputs are larger than targets.
    "none": lambda values: values,
}


def layer_loss(view, layer, batch):
    inputs, targets = batch
    outputs = NORMALIZATIONS[view](inputs @ layer["kernel"])
    return jnp.mean((outputs * layer["scale"] + layer["bias"] - targets) ** 2)


def initial_layers():
    rng = np.random.default_rng(0)
    return [
        {
            "kernel": rng.normal(size=(IN, OUT)).astype(np.float32),
            "scale": rng.normal(size=OUT).astype(np.float32),
            "bias": rng.normal(size=OUT).astype(np.float32),
        }
        for _ in NORMALIZATIONS
    ]


def batches():
    rng = np.random.default_rng(1)
    shape = training.STEPS, training.BATCH_SIZE
    return [rng.normal(size=(*shape, size)).astype(np.float32) for size in (IN, OUT)]


GRADIENTS = {
    view: jax.jit(jax.grad(functools.partial(layer_loss, view)))
    for view in NORMALIZATIONS
}


def train_one_by_one(optimizer, **changes):
    tx = training.make(optimizer, **changes)
    return [
        training.train(tx, layer, batches(), gradient)
        for gradient, layer in zip(GRADIENTS.values(), initial_layers(), strict=True)
    ]


def stack(layers, axis):
    """Vectors have fewer axes than kernels: there the last one is as near as can be."""
    return jax.tree.map(
        lambda *leaves: np.stack(leaves, min(axis, leaves[0].ndim)), *layers
    )


def unstack(layers, axis):
    return [
        jax.tree.map(
            lambda leaf, index=index: np.take(
                np.asarray(leaf), index, min(axis, leaf.ndim - 1)
            ),
            layers,
        )
        for index in range(len(NORMALIZATIONS))
    ]


STACKED = {
    "first axis": (0, ProjectionDimensionNumbers(1, 2)),
    "first axis, counted from the end": (0, ProjectionDimensionNumbers(-2, -1)),
    "middle axis": (1, ProjectionDimensionNumbers(0, 2)),
    "first axis, by name": (
        0,
        {"kernel": ProjectionDimensionNumbers(1, 2), "scale": None, "bias": None},
    ),
}


@with_sgdp_nightly
@pytest.mark.parametrize(
    "layout",
    # Other ways to write the first are for test_axes.py and test_trees.py.
    nightly_but(["first axis", "middle axis"], STACKED),
)
def test_stacked_layers(layout, optimizer):
    """Every layer finds its own view, and stacked vectors are no kernels."""
    axis, specs = STACKED[layout]

    def gradient(layers, batch):
        each = zip(GRADIENTS.values(), unstack(layers, axis), strict=True)
        return stack([gradient(layer, batch) for gradient, layer in each], axis)

    trained = training.train(
        training.make(optimizer, dimension_numbers=specs),
        stack(initial_layers(), axis),
        batches(),
        gradient,
        jit=True,
    )

    one_by_one = train_one_by_one(optimizer)
    training.assert_close(unstack(trained, axis), one_by_one, rtol=5e-5)


@with_sgdp_nightly
def test_layers_take_different_views(optimizer):
    """What the test above rests on."""
    as_tested = train_one_by_one(optimizer)
    in_channels, in_layers = (
        train_one_by_one(
            optimizer,
            dimension_numbers={
                "kernel": ProjectionDimensionNumbers(0, 1, view),
                "scale": None,
                "bias": None,
            },
        )
        for view in ("channel", "layer")
    )
    unprojected = train_one_by_one(optimizer, delta=0.0)

    training.assert_close(
        as_tested, [in_channels[0], in_layers[1], unprojected[2]], rtol=1e-5
    )
    for one, other in itertools.combinations([in_channels, in_layers, unprojected], 2):
        for layer, same in zip(one[:2], other[:2], strict=True):
            difference = layer["kernel"] - same["kernel"]
            assert np.linalg.norm(difference) > 3e-3 * np.linalg.norm(same["kernel"])


@pytest.mark.parametrize("view", ["auto", "channel", "layer"])
def test_batch_elements_without_output_axes(view):
    """Each is one channel, and the sums of the layer are its own as well."""
    rng = np.random.default_rng(0)
    update, grad, weight = rng.normal(size=(3, 4, 6)).astype(np.float32)
    # The first and the third pass the test.
    radial = np.sum(grad * weight, axis=1, keepdims=True)
    radial /= np.sum(weight**2, axis=1, keepdims=True)
    grad += weight * (np.float32([[0], [1], [0], [1]]) - radial)

    def step(reduction, *arrays):
        spec = ProjectionDimensionNumbers(reduction, (), view)
        tx = scale_by_projection(weight_decay=0.5, dimension_numbers=spec)
        u, g, w = arrays
        return tx.update(u, tx.init(w), w, grad=g)[0]

    stacked = step(1, update, grad, weight)
    alone = [step(0, *arrays) for arrays in zip(update, grad, weight, strict=True)]
    np.testing.assert_allclose(stacked, alone, rtol=1e-5, atol=1e-6)
