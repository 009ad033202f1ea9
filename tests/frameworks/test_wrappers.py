"""Trainings under Optax's wrappers, against plain loops or the same done by hand."""

import jax
import numpy as np
import optax
import pytest

import training
from optax_adamp import (
    ProjectionDimensionNumbers,
    adamp,
    sgdp,
    with_gradient,
)
from training import KERNEL_MASKS, KERNELS, SETTINGS, with_adamp_nightly

NOT_KERNELS = jax.tree.map(lambda is_kernel: not is_kernel, KERNELS)


def label_kernels(params):
    return jax.tree.map(lambda leaf: "kernel" if leaf.ndim > 1 else "other", params)


TRANSPARENT = {
    "chain": optax.chain,
    "named_chain": lambda tx: optax.named_chain(("optimizer", tx)),
    "with_extra_args_support": optax.with_extra_args_support,
    "with_gradient again": with_gradient,
    "masked": lambda tx: optax.masked(tx, True),
    "masked by layers": lambda tx: optax.masked(tx, dict.fromkeys(KERNELS, True)),
    "partition in one": lambda tx: optax.partition({"all": tx}, "all"),
    "partition in two": lambda tx: optax.partition(
        {"kernel": tx, "other": tx}, label_kernels
    ),
    "partition in layers": lambda tx: optax.partition(
        {layer: tx for layer in KERNELS}, {layer: layer for layer in KERNELS}
    ),
    "partition with masked arguments": lambda tx: with_gradient(
        optax.partition(
            {"kernel": tx, "other": tx}, label_kernels, mask_compatible_extra_args=True
        )
    ),
}


@with_adamp_nightly
@pytest.mark.parametrize("wrapper", TRANSPARENT)
def test_wrapper_that_should_change_nothing(wrapper, optimizer):
    trained = training.train(TRANSPARENT[wrapper](training.make(optimizer)))

    training.assert_trained_as_plainly(trained, optimizer)


@with_adamp_nightly
def test_multi_steps(optimizer):
    """Micro-batches come to one step on the mean of their gradients.

    What may be skipped is evaluated all the same, in shapes, with `params` by keyword.
    """
    micro_batches, steps = 2, training.STEPS
    batches = training.all_batches(steps * micro_batches)
    grouped = [leaf.reshape(steps, micro_batches, *leaf.shape[1:]) for leaf in batches]

    def mean_gradient(params, group):
        grads = [training.gradient(params, batch) for batch in zip(*group, strict=True)]
        return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *grads)

    accumulated = optax.MultiSteps(
        training.make(optimizer),
        micro_batches,
        # Never, but jax does not know.
        should_skip_update_fn=lambda updates, step, params: (step < 0, ()),
    )
    trained = training.train(
        accumulated.gradient_transformation(), batches=batches, jit=True
    )
    in_one_step, unprojected = (
        training.train(
            training.make(optimizer, delta=delta),
            batches=grouped,
            gradient=mean_gradient,
        )
        for delta in (training.DELTA, 0.0)
    )

    training.assert_close(trained, in_one_step)
    training.assert_kernels_differ(trained, unprojected)


@with_adamp_nightly
def test_apply_if_finite(optimizer):
    """A gradient that is not finite leaves no trace."""
    inputs, labels = training.all_batches()
    spoiled = np.insert(inputs, [2, 7], np.nan, axis=0)
    batches = spoiled, np.insert(labels, [2, 7], 0, axis=0)
    tx = optax.apply_if_finite(training.make(optimizer), max_consecutive_errors=3)

    trained = training.train(tx, batches=batches, jit=True)

    training.assert_trained_as_plainly(trained, optimizer)


@pytest.mark.parametrize("mask", KERNEL_MASKS)
def test_masked(mask):
    """Kernels are trained, all else is frozen."""
    # These describe all parameters, though the optimizer sees the kernels only.
    spec = ProjectionDimensionNumbers(0, 1)
    described = training.make(
        sgdp,
        mask=dict.fromkeys(KERNELS, True),
        dimension_numbers=jax.tree.map(lambda is_kernel: spec, KERNELS),
    )
    tx = optax.chain(
        optax.masked(described, KERNEL_MASKS[mask]),
        optax.masked(optax.set_to_zero(), NOT_KERNELS),
    )

    def train_kernels_by_hand(**changes):
        plain = training.initial_params()
        layers = "first", "second", "head"

        def complete(kernels):
            trained = {
                layer: {**plain[layer], "kernel": kernels[layer]} for layer in layers
            }
            return {**plain, **trained}

        def gradient(kernels, batch):
            grads = training.gradient(complete(kernels), batch)
            return {layer: grads[layer]["kernel"] for layer in layers}

        kernels = {layer: plain[layer]["kernel"] for layer in layers}
        tx = training.make(sgdp, **changes)
        return complete(training.train(tx, kernels, gradient=gradient))

    trained = training.train(tx)

    training.assert_close(trained, train_kernels_by_hand())
    training.assert_kernels_differ(trained, train_kernels_by_hand(delta=0.0))


@pytest.mark.nightly
def test_partition_into_adamp_and_adamw():
    """Vectors are never projected: AdamW serves them as well."""
    others = optax.adamw(**SETTINGS[adamp])
    tx = optax.partition(
        {"kernel": training.make(adamp), "other": others}, label_kernels
    )

    training.assert_trained_as_plainly(training.train(tx), adamp)


def test_partition_into_adamp_and_sgdp():
    labels = {"first": "p", "norm": "s", "second": "s", "head": "p"}
    transforms = {"p": training.make(adamp), "s": training.make(sgdp)}

    trained = training.train(optax.partition(transforms, labels))

    is_adamp = {
        layer: jax.tree.map(lambda _, layer=layer: labels[layer] == "p", leaves)
        for layer, leaves in KERNELS.items()
    }
    side_by_side = training.choose(is_adamp, transforms["p"], transforms["s"])
    training.assert_close(trained, training.train(side_by_side))
    unprojected = training.choose(
        is_adamp, training.make(adamp, delta=0.0), training.make(sgdp, delta=0.0)
    )
    training.assert_kernels_differ(trained, training.train(unprojected))


@with_adamp_nightly
def test_flatten_leaves_nothing_to_project(optimizer):
    """All parameters become one vector with one axis."""
    flattened = training.train(optax.flatten(training.make(optimizer)))

    training.assert_close(flattened, training.plainly_trained(optimizer, delta=0.0))
    training.assert_kernels_differ(training.plainly_trained(optimizer), flattened)


@with_adamp_nightly
def test_schedule_free(optimizer):
    """Gradient and projection are both taken at the point between the averages."""
    learning_rate, beta = 0.05, 0.9
    momentum = {adamp: {"b1": 0.0}, sgdp: {"momentum": 0.5}}[optimizer]
    tx = training.make(optimizer, learning_rate=learning_rate, **momentum)

    def train_by_hand(tx):
        z = x = y = jax.device_get(training.initial_params())
        state = tx.init(y)
        for step, batch in enumerate(zip(*training.all_batches(), strict=True), 1):
            updates, state = tx.update(training.gradient(y, batch), state, y)
            z = jax.tree.map(np.add, z, jax.device_get(updates))
            x = jax.tree.map(lambda x, z, k=step: x + (z - x) / k, x, z)
            y = jax.tree.map(lambda x, z: beta * x + (1 - beta) * z, x, z)
        return y

    trained = training.train(optax.contrib.schedule_free(tx, learning_rate, beta))

    training.assert_close(trained, train_by_hand(tx))
    unprojected = training.make(
        optimizer, learning_rate=learning_rate, delta=0.0, **momentum
    )
    training.assert_kernels_differ(trained, train_by_hand(unprojected))
