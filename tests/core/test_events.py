"""What befalls a run: NaN, a layer that comes or goes, numbers that become zero."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from test_optimizer_state import run

import training
from optax_adamp import adamp, sgdp
from steps import sgdw
from training import SETTINGS, with_both_optimizers, with_sgdp_nightly

BATCHES = list(zip(*training.all_batches(), strict=True))
HALF = training.STEPS // 2

RATE, DECAY = "learning_rate", "weight_decay"
BASES = {
    adamp: optax.adamw(**SETTINGS[adamp]),
    sgdp: sgdw(SETTINGS[sgdp][RATE], 0.9, True, SETTINGS[sgdp][DECAY]),
}


@pytest.mark.parametrize("layer", ["first", "second", "head", "norm"])
@with_sgdp_nightly
def test_nan_spreads_no_further_than_under_the_base_optimizer(optimizer, layer):
    """One in the gradient, of a step in the middle, and none from then on."""
    gradients = []

    def record(params, batch):
        gradients.append(training.gradient(params, batch))
        return gradients[-1]

    def replay(tx):
        return training.train(
            tx,
            batches=(range(training.STEPS),),
            gradient=lambda params, batch: gradients[batch[0]],
        )

    tx = training.make(optimizer)
    plain = training.train(tx, gradient=record)
    name = "scale" if layer == "norm" else "kernel"
    grad = gradients[3][layer][name]
    spoiled = grad.at[(0,) * grad.ndim].set(jnp.nan)
    gradients[3] = {**gradients[3], layer: {**gradients[3][layer], name: spoiled}}

    trained = replay(tx)

    where = jax.tree.map(jnp.isnan, trained)
    assert optax.tree.sum(where) == 1
    chex.assert_trees_all_equal(
        where, jax.tree.map(jnp.isnan, replay(BASES[optimizer]))
    )
    for tree in (trained, plain):
        tree[layer].pop(name)
    chex.assert_trees_all_equal(trained, plain)


LATE = "second"
WITHOUT_LATE = {layer: layer != LATE for layer in training.KERNELS}


def masked(tx, trained):
    rest = {layer: not is_trained for layer, is_trained in trained.items()}
    return optax.chain(
        optax.masked(tx, trained), optax.masked(optax.set_to_zero(), rest)
    )


def partitioned(tx, trained):
    labels = {layer: str(is_trained) for layer, is_trained in trained.items()}
    return optax.partition({"True": tx, "False": optax.set_to_zero()}, labels)


def absent(tx, trained):
    """The transformation never sees what is not trained."""

    def pick(tree):
        return {layer: tree[layer] for layer in tree if trained[layer]}

    def update(updates, state, params):
        picked, state = tx.update(pick(updates), state, pick(params))
        return {**optax.tree.zeros_like(updates), **picked}, state

    return optax.GradientTransformation(lambda params: tx.init(pick(params)), update)


def carry_over(state, fresh):
    """A fresh state with all that the state of the run so far has for it."""
    known = dict(jax.tree.flatten_with_path(state)[0])
    return jax.tree.map_with_path(lambda path, leaf: known.get(path, leaf), fresh)


# What is trained, and on which batches.
PHASES = [
    (WITHOUT_LATE, BATCHES[:3]),
    (dict.fromkeys(WITHOUT_LATE, True), BATCHES[3:6]),
    (WITHOUT_LATE, BATCHES[6:]),
]


def train_with_late_layer(way, tx):
    """The params before all phases and after each."""
    history, state = [training.initial_params()], {}
    for trained, batches in PHASES:
        phase = way(tx, trained)
        state = carry_over(state, phase.init(history[-1]))
        params, state = run(phase, history[-1], state, batches)
        history.append(params)
    return history


def train_with_held_layer(tx):
    """The same by gradients of zero, and by undoing what is done in spite of them."""

    def hold(tx, trained):
        def without(tree):
            zeros = optax.tree.zeros_like(tree)
            return {layer: (tree if trained[layer] else zeros)[layer] for layer in tree}

        def update(updates, state, params):
            updates, state = tx.update(without(updates), state, params)
            return without(updates), state

        return optax.GradientTransformation(tx.init, update)

    history = [training.initial_params()]
    state = tx.init(history[0])
    for trained, batches in PHASES:
        params, state = run(hold(tx, trained), history[-1], state, batches)
        history.append(params)
    return history


@pytest.mark.parametrize("way", [masked, partitioned, absent])
@with_sgdp_nightly
def test_a_layer_that_is_thawed_or_added_joins_the_others(optimizer, way):
    """Its moments begin with zero; the others go on, bitwise; frozen, it stays put."""
    tx = training.make(optimizer)

    history = train_with_late_layer(way, tx)

    chex.assert_trees_all_equal(history, train_with_held_layer(tx))
    initial, before, thawed, after = history
    chex.assert_trees_all_equal(initial[LATE], before[LATE])
    chex.assert_trees_all_equal(thawed[LATE], after[LATE])
    unprojected = train_with_late_layer(way, training.make(optimizer, delta=0.0))
    training.assert_kernels_differ(after, unprojected[-1])


@with_both_optimizers
def test_nothing_moves_at_a_learning_rate_of_zero(optimizer):
    """Nor decays."""
    trained = training.train(training.make(optimizer, learning_rate=0.0))

    chex.assert_trees_all_equal(trained, training.initial_params())


def run_in_halves(optimizer, params, **changes):
    """The params and state after the first half of the batches, and after all."""
    tx = training.make(optimizer, **changes)
    half = run(tx, params, tx.init(params), BATCHES[:HALF])
    return half, run(tx, *half, BATCHES[HALF:])


def falling_to_zero(optimizer, name):
    return {name: optax.linear_schedule(SETTINGS[optimizer][name], 0.0, HALF)}


@with_both_optimizers
def test_nothing_moves_once_the_learning_rate_has_fallen_to_zero(optimizer):
    schedule = falling_to_zero(optimizer, RATE)
    initial = training.initial_params()

    half, end = run_in_halves(optimizer, initial, **schedule)

    training.assert_kernels_differ(half[0], initial)
    chex.assert_trees_all_equal(end[0], half[0])
    chex.assert_tree_all_finite(end[1])


@with_both_optimizers
def test_no_decay_once_it_has_fallen_to_zero(optimizer):
    schedule = falling_to_zero(optimizer, DECAY)
    half, end = run_in_halves(optimizer, training.initial_params(), **schedule)

    undecayed = training.make(optimizer, weight_decay=0.0)
    state = carry_over(half[1], undecayed.init(half[0]))
    chex.assert_trees_all_equal(
        end[0], run(undecayed, half[0], state, BATCHES[HALF:])[0]
    )


WITHOUT_DECAY = {
    "number": {"weight_decay": 0.0},
    "schedule": {"weight_decay": optax.constant_schedule(0.0)},
    "mask": {"weight_decay": 1.0, "mask": False},
}
UNDECAYED_BASES = {
    adamp: optax.adam(SETTINGS[adamp][RATE], eps=training.EPS),
    sgdp: optax.sgd(SETTINGS[sgdp][RATE], momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("way", WITHOUT_DECAY)
@with_both_optimizers
def test_a_decay_of_zero_is_no_decay(optimizer, way):
    """To the last bit, with the projection or without."""
    trained, unprojected = (
        training.train(training.make(optimizer, delta=delta, **WITHOUT_DECAY[way]))
        for delta in (training.DELTA, 0.0)
    )

    by_number = training.make(optimizer, weight_decay=0.0)
    chex.assert_trees_all_equal(trained, training.train(by_number))
    chex.assert_trees_all_equal(unprojected, training.train(UNDECAYED_BASES[optimizer]))
    training.assert_kernels_differ(trained, unprojected)
    training.assert_kernels_differ(trained, training.plainly_trained(optimizer))
