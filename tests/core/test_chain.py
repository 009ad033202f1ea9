"""Chains of the parts by hand, and what may stand before and behind the optimizers.

Clipping and line searches are asked every day by test_with_gradient.py, of one step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from optax_adamp import adamp, scale_by_projection, sgdp, with_gradient
from training import (
    KERNEL_MASKS,
    KERNELS,
    SETTINGS,
    with_both_optimizers,
    with_sgdp_nightly,
)

BASE_AND_DECAY = {
    adamp: (optax.scale_by_adam(eps=training.EPS), SETTINGS[adamp]["weight_decay"]),
    # The reference divides the decay by one minus the momentum.
    sgdp: (optax.trace(0.9, nesterov=True), SETTINGS[sgdp]["weight_decay"] / (1 - 0.9)),
}


def chain_by_hand(optimizer, wrap_projection=lambda tx: tx, scale=None):
    base, weight_decay = BASE_AND_DECAY[optimizer]
    projection = scale_by_projection(
        training.DELTA, training.WD_RATIO, training.EPS, weight_decay
    )
    if scale is None:
        scale = optax.scale_by_learning_rate(SETTINGS[optimizer]["learning_rate"])
    return optax.chain(base, wrap_projection(projection), scale)


def train_with_arguments(tx, arguments):
    """Passes extra arguments, made from the gradient, to every update."""

    def update(grads, state, params):
        return tx.update(grads, state, params, **arguments(grads))

    return training.train(optax.GradientTransformation(tx.init, update))


@with_sgdp_nightly
def test_chained_by_hand(optimizer):
    trained = training.train(with_gradient(chain_by_hand(optimizer)))

    training.assert_trained_as_plainly(trained, optimizer)


@with_sgdp_nightly
def test_gradient_passed_by_hand(optimizer):
    """Without `with_gradient`, in a loop that knows the gradient."""
    trained = train_with_arguments(
        chain_by_hand(optimizer), lambda grads: {"grad": grads}
    )

    training.assert_trained_as_plainly(trained, optimizer)


@with_sgdp_nightly
def test_with_gradient_passes_other_arguments_on(optimizer):
    def update(updates, state, params, *, value, **extra):
        return optax.tree.scale(value, updates), state

    scale_by_value = optax.GradientTransformationExtraArgs(
        optax.init_empty_state, update
    )

    trained = train_with_arguments(
        with_gradient(chain_by_hand(optimizer, scale=scale_by_value)),
        lambda grads: {"value": -SETTINGS[optimizer]["learning_rate"]},
    )

    training.assert_trained_as_plainly(trained, optimizer)


@with_sgdp_nightly
@pytest.mark.parametrize("mask_compatible_extra_args", [False, True])
@pytest.mark.parametrize("mask", KERNEL_MASKS)
def test_masked_inside(mask, mask_compatible_extra_args, optimizer):
    """The gradient may hold arrays where the mask has removed the updates."""

    def mask_projection(projection):
        return optax.masked(
            projection,
            KERNEL_MASKS[mask],
            mask_compatible_extra_args=mask_compatible_extra_args,
        )

    trained = training.train(with_gradient(chain_by_hand(optimizer, mask_projection)))

    without_decay = training.make(optimizer, weight_decay=0.0)
    expected = training.choose(KERNELS, training.make(optimizer), without_decay)
    training.assert_close(trained, training.train(expected))
    training.assert_kernels_differ(trained, training.plainly_trained(optimizer, 0.0))


@pytest.mark.nightly
@with_both_optimizers
def test_after_clipping(optimizer):
    max_norm = 0.2

    def clipped_gradient(params, batch):
        grads = training.gradient(params, batch)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        assert norm > max_norm
        return jax.tree.map(lambda leaf: leaf * max_norm / norm, grads)

    clip = optax.clip_by_global_norm(max_norm)
    trained = training.train(optax.chain(clip, training.make(optimizer)))
    clipped_by_hand = training.train(
        training.make(optimizer), gradient=clipped_gradient
    )
    unprojected = training.train(optax.chain(clip, training.make(optimizer, delta=0)))

    training.assert_close(trained, clipped_by_hand)
    training.assert_kernels_differ(trained, unprojected)


@pytest.mark.nightly
def test_line_search():
    """A line search behind the optimizer gets its arguments past `with_gradient`."""
    longest = {"learning_rate": 0.5}
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=20)
    tx = optax.chain(training.make(adamp, **longest), search)
    value_and_grad = jax.jit(jax.value_and_grad(training.loss_fn))

    @jax.jit
    def update(grads, state, params, batch, value):
        return tx.update(
            grads,
            state,
            params,
            value=value,
            grad=grads,
            value_fn=lambda params: training.loss_fn(params, batch),
        )

    def search_with_optax(batches):
        params = training.initial_params()
        state = tx.init(params)
        for batch in batches:
            value, grads = value_and_grad(params, batch)
            updates, state = update(grads, state, params, batch, value)
            params = optax.apply_updates(params, updates)
            yield params, optax.tree.get(state, "learning_rate")

    def search_by_hand(tx, batches):
        """Backtracking by the rule of Armijo."""
        params = training.initial_params()
        state, rate = tx.init(params), 1.0
        for batch in batches:
            value, grads = value_and_grad(params, batch)
            updates, state = tx.update(grads, state, params)
            slope = optax.tree.vdot(updates, grads)
            rate = min(1.0, rate * 1.5)
            moved = optax.tree.add_scale(params, rate, updates)
            while value_and_grad(moved, batch)[0] > value + 1e-4 * rate * slope:
                rate *= 0.8
                moved = optax.tree.add_scale(params, rate, updates)
            params = moved
            yield params, rate

    def last_of(steps):
        params, rates = zip(*steps, strict=True)
        return params[-1], rates

    batches = list(zip(*training.all_batches(), strict=True))
    trained, rates = last_of(search_with_optax(batches))
    by_hand, rates_by_hand = last_of(
        search_by_hand(training.make(adamp, **longest), batches)
    )
    unprojected, _ = last_of(
        search_by_hand(training.make(adamp, delta=0.0, **longest), batches)
    )

    assert min(rates) < 1
    np.testing.assert_allclose(rates, rates_by_hand, rtol=1e-5)
    training.assert_close(trained, by_hand)
    training.assert_kernels_differ(trained, unprojected)
