"""Hyperparameters that change while training: schedules and `inject_hyperparams`."""

import optax
import pytest

import training
from optax_adamp import ProjectionDimensionNumbers, adamp, sgdp
from training import SETTINGS, with_both_optimizers, with_sgdp_nightly


def rising(optimizer, *names):
    """Schedules from half of the usual values to three halves of them."""
    return {
        name: optax.linear_schedule(
            SETTINGS[optimizer][name] / 2,
            SETTINGS[optimizer][name] * 3 / 2,
            training.STEPS - 1,
        )
        for name in names
    }


def train_by_hand(optimizer, schedules, **changes):
    """Each step with an optimizer of its own, on the state that the last one left."""
    params = training.initial_params()
    state = training.make(optimizer).init(params)
    for step, batch in enumerate(zip(*training.all_batches(), strict=True)):
        values = {name: float(schedule(step)) for name, schedule in schedules.items()}
        tx = training.make(optimizer, **values, **changes)
        updates, state = tx.update(training.gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    return params


SCHEDULED = [("learning_rate",), ("weight_decay",), ("learning_rate", "weight_decay")]


@with_both_optimizers
@pytest.mark.parametrize("names", SCHEDULED, ids=" and ".join)
def test_schedule(names, optimizer):
    schedules = rising(optimizer, *names)

    trained = training.train(training.make(optimizer, **schedules))

    training.assert_close(trained, train_by_hand(optimizer, schedules))
    unprojected = train_by_hand(optimizer, schedules, delta=0.0)
    training.assert_kernels_differ(trained, unprojected)


@with_sgdp_nightly
def test_schedule_of_masked_decay(optimizer):
    """Under a mask the state holds the count of the steps one level deeper."""
    schedules = rising(optimizer, "weight_decay")
    mask = {"first": True, "norm": False, "second": False, "head": True}

    trained = training.train(training.make(optimizer, **schedules, mask=mask))

    training.assert_close(trained, train_by_hand(optimizer, schedules, mask=mask))
    unprojected = train_by_hand(optimizer, schedules, mask=mask, delta=0.0)
    training.assert_kernels_differ(trained, unprojected)


# `inject_hyperparams` rounds 0.999 to float32, of which one minus it keeps 5 digits.
INJECTED = 1e-4


def inject(optimizer, static_args=(), **changes):
    factory = optax.inject_hyperparams(optimizer, static_args)
    return factory(**training.settings(optimizer, **changes))


@with_sgdp_nightly
def test_injected_constants(optimizer):
    """Every number is a tracer then, and `jit` shows what branches on one."""
    trained = training.train(inject(optimizer), jit=True)

    training.assert_trained_as_plainly(trained, optimizer, INJECTED)


@with_sgdp_nightly
def test_injected_schedules(optimizer):
    """Any number can follow a schedule, not only those that take one by themselves."""
    schedules = {
        **rising(optimizer, "learning_rate", "weight_decay"),
        "delta": optax.linear_schedule(0.3, 0.1, training.STEPS - 1),
        "wd_ratio": optax.linear_schedule(1.0, 0.0, training.STEPS - 1),
    }

    trained = training.train(inject(optimizer, **schedules))

    training.assert_close(trained, train_by_hand(optimizer, schedules), INJECTED)
    without_projection = {**schedules, "delta": lambda step: 0.0}
    unprojected = train_by_hand(optimizer, without_projection)
    training.assert_kernels_differ(trained, unprojected)


CHANGES = [
    (adamp, {"learning_rate": 0.01}),
    (adamp, {"weight_decay": 2.0}),
    (adamp, {"wd_ratio": 1.0}),
    (adamp, {"delta": 0.0}),
    (adamp, {"b1": 0.5, "b2": 0.99}),
    (sgdp, {"momentum": 0.5}),
    (sgdp, {"wd_ratio": 1.0, "learning_rate": 0.2}),
]


@pytest.mark.parametrize(("optimizer", "change"), CHANGES)
def test_hyperparameter_changed_in_the_state(optimizer, change):
    tx = inject(optimizer)
    change_at = 4

    def update(grads, state, params):
        count, state = state
        if count == change_at:
            state = state._replace(hyperparams={**state.hyperparams, **change})
        updates, state = tx.update(grads, state, params)
        return updates, (count + 1, state)

    trained = training.train(
        optax.GradientTransformation(lambda params: (0, tx.init(params)), update)
    )

    usual = training.settings(optimizer, b1=0.9, b2=0.999, momentum=0.9)
    schedules = {
        name: lambda step, usual=usual[name], value=value: (
            usual if step < change_at else value
        )
        for name, value in change.items()
    }
    training.assert_close(trained, train_by_hand(optimizer, schedules), INJECTED)
    unchanged = training.plainly_trained(optimizer)
    training.assert_kernels_differ(trained, unchanged)


def only_first(params):
    kernel = ProjectionDimensionNumbers(0, 1)
    return {**dict.fromkeys(params), "first": {"kernel": kernel}}


@with_sgdp_nightly
def test_injected_with_functions_of_the_params(optimizer):
    """`inject_hyperparams` takes functions for schedules unless told otherwise."""
    described = {
        "dimension_numbers": only_first,
        "mask": lambda params: {**dict.fromkeys(params, False), "first": True},
    }

    tx = inject(optimizer, static_args=("dimension_numbers", "mask"), **described)

    trained = training.train(tx)
    expected = training.train_first_only(optimizer, delta=0.0, weight_decay=0.0)
    training.assert_close(trained, expected, INJECTED)
    unprojected = training.train(training.make(optimizer, delta=0.0))
    training.assert_kernels_differ(trained, unprojected)
