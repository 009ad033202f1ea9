"""Trainings under Optax's wrappers, against plain loops or the same done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from optax_adamp import (
    ProjectionDimensionNumbers,
    adamp,
    scale_by_projection,
    sgdp,
    with_gradient,
)
from training import SETTINGS, with_both_optimizers

KERNELS = {
    "first": {"kernel": True},
    "norm": {"scale": False, "bias": False},
    "second": {"kernel": True},
    "head": {"kernel": True, "bias": False},
}
NOT_KERNELS = jax.tree.map(lambda is_kernel: not is_kernel, KERNELS)


def find_kernels(params):
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


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
    # What is skipped is evaluated all the same, in shapes, with `params` by keyword.
    "MultiSteps that may skip": lambda tx: optax.MultiSteps(
        tx, 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}
HAVE_COND = {"MultiSteps that may skip", "apply_if_finite"}


@with_both_optimizers
@pytest.mark.parametrize("wrapper", TRANSPARENT)
def test_wrapper_that_should_change_nothing(wrapper, optimizer):
    tx = TRANSPARENT[wrapper](training.make(optimizer))

    trained = training.train(tx, jit=wrapper in HAVE_COND)

    training.assert_trained_as_plainly(trained, optimizer)


def projection(weight_decay):
    return scale_by_projection(
        training.DELTA, training.WD_RATIO, training.EPS, weight_decay
    )


BY_HAND = {
    adamp: (
        optax.scale_by_adam(eps=SETTINGS[adamp]["eps"]),
        SETTINGS[adamp]["weight_decay"],
    ),
    # The reference divides the decay by one minus the momentum.
    sgdp: (optax.trace(0.9, nesterov=True), SETTINGS[sgdp]["weight_decay"] / (1 - 0.9)),
}


@with_both_optimizers
def test_chained_by_hand(optimizer):
    base, weight_decay = BY_HAND[optimizer]
    learning_rate = SETTINGS[optimizer]["learning_rate"]

    tx = with_gradient(
        optax.chain(
            base,
            projection(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )

    training.assert_trained_as_plainly(training.train(tx), optimizer)


@with_both_optimizers
def test_gradient_passed_by_hand(optimizer):
    """Without `with_gradient`, in a loop that knows the gradient."""
    base, weight_decay = BY_HAND[optimizer]
    learning_rate = SETTINGS[optimizer]["learning_rate"]
    tx = optax.chain(
        base, projection(weight_decay), optax.scale_by_learning_rate(learning_rate)
    )

    def update(grads, state, params):
        return tx.update(grads, state, params, grad=grads)

    trained = training.train(optax.GradientTransformation(tx.init, update))

    training.assert_trained_as_plainly(trained, optimizer)


@with_both_optimizers
def test_with_gradient_passes_other_arguments_on(optimizer):
    base, weight_decay = BY_HAND[optimizer]
    learning_rate = SETTINGS[optimizer]["learning_rate"]

    def scale_by_value(updates, state, params, *, value, **extra):
        return optax.tree.scale(value, updates), state

    tx = with_gradient(
        optax.chain(
            base,
            projection(weight_decay),
            optax.GradientTransformationExtraArgs(
                optax.init_empty_state, scale_by_value
            ),
        )
    )

    def update(grads, state, params):
        return tx.update(grads, state, params, value=-learning_rate)

    trained = training.train(optax.GradientTransformation(tx.init, update))

    training.assert_trained_as_plainly(trained, optimizer)


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


@with_both_optimizers
def test_multi_steps(optimizer):
    """Micro-batches come to one step on the mean of their gradients."""
    micro_batches, steps = 2, training.STEPS
    batches = training.all_batches(steps * micro_batches)
    grouped = [leaf.reshape(steps, micro_batches, *leaf.shape[1:]) for leaf in batches]

    def mean_gradient(params, group):
        grads = [training.gradient(params, batch) for batch in zip(*group, strict=True)]
        return jax.tree.map(lambda *leaves: sum(leaves) / micro_batches, *grads)

    def accumulate(tx):
        return optax.MultiSteps(tx, micro_batches).gradient_transformation()

    trained = training.train(
        accumulate(training.make(optimizer)), batches=batches, jit=True
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


@with_both_optimizers
def test_apply_if_finite(optimizer):
    """A gradient that is not finite leaves no trace."""
    inputs, labels = training.all_batches()
    spoiled = np.insert(inputs, [2, 7], np.nan, axis=0)
    batches = spoiled, np.insert(labels, [2, 7], 0, axis=0)
    tx = optax.apply_if_finite(training.make(optimizer), max_consecutive_errors=3)

    trained = training.train(tx, batches=batches, jit=True)

    training.assert_trained_as_plainly(trained, optimizer)


MASKS = {
    "tree": KERNELS,
    "prefix": {
        "first": True,
        "norm": False,
        "second": True,
        "head": {"kernel": True, "bias": False},
    },
    "function": find_kernels,
}


@pytest.mark.parametrize("mask", MASKS)
def test_masked(mask):
    """Outside: kernels are trained, all else is frozen."""
    plain = training.initial_params()
    tx = optax.chain(
        optax.masked(
            # Described in full, though adamp itself sees the kernels only.
            training.make(
                adamp,
                mask=dict.fromkeys(KERNELS, True),
                dimension_numbers=jax.tree.map(
                    lambda is_kernel: (
                        ProjectionDimensionNumbers(0, 1) if is_kernel else None
                    ),
                    KERNELS,
                ),
            ),
            MASKS[mask],
        ),
        optax.masked(optax.set_to_zero(), NOT_KERNELS),
    )

    def gradient_of_kernels(kernels, batch):
        grads = training.gradient({**plain, **kernels, "head": head(kernels)}, batch)
        return {layer: {"kernel": grads[layer]["kernel"]} for layer in kernels}

    def head(kernels):
        return {**plain["head"], **kernels["head"]}

    kernels = {
        layer: {"kernel": plain[layer]["kernel"]}
        for layer in ("first", "second", "head")
    }
    only_kernels, unprojected = (
        training.train(
            training.make(adamp, delta=delta), kernels, gradient=gradient_of_kernels
        )
        for delta in (training.DELTA, 0.0)
    )

    trained = training.train(tx)

    training.assert_close(
        trained, {**plain, **only_kernels, "head": head(only_kernels)}
    )
    training.assert_kernels_differ(trained, unprojected)


@pytest.mark.parametrize("mask_compatible_extra_args", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_masked_inside_the_chain(mask, mask_compatible_extra_args):
    """The gradient may hold arrays where the mask has removed the updates."""
    settings = SETTINGS[adamp]
    inside = optax.masked(
        projection(settings["weight_decay"]),
        MASKS[mask],
        mask_compatible_extra_args=mask_compatible_extra_args,
    )

    trained = training.train(
        with_gradient(
            optax.chain(
                optax.scale_by_adam(eps=SETTINGS[adamp]["eps"]),
                inside,
                optax.scale_by_learning_rate(settings["learning_rate"]),
            )
        )
    )

    training.assert_close(
        trained,
        training.train(
            training.choose(
                KERNELS,
                training.make(adamp),
                training.make(adamp, weight_decay=0.0),
            )
        ),
    )
    training.assert_kernels_differ(trained, training.plainly_trained(adamp, 0.0))


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


def test_flatten_leaves_nothing_to_project():
    """All parameters become one vector with one axis: this is AdamW."""
    flattened = training.train(optax.flatten(training.make(adamp)))

    training.assert_close(flattened, training.train(optax.adamw(**SETTINGS[adamp])))
    training.assert_kernels_differ(training.plainly_trained(adamp), flattened)


@with_both_optimizers
def test_schedule_free(optimizer):
    """Gradient and projection are both taken at the point between the averages."""
    learning_rate, beta = 0.05, 0.9
    momentum = {adamp: {"b1": 0.0}, sgdp: {"momentum": 0.5}}[optimizer]
    tx = training.make(optimizer, learning_rate=learning_rate, **momentum)

    def train_by_hand(tx):
        z = x = y = training.initial_params()
        state = tx.init(y)
        for step, batch in enumerate(zip(*training.all_batches(), strict=True), 1):
            updates, state = tx.update(training.gradient(y, batch), state, y)
            z = optax.apply_updates(z, updates)
            x = jax.tree.map(lambda x, z, k=step: x + (z - x) / k, x, z)
            y = jax.tree.map(lambda x, z: beta * x + (1 - beta) * z, x, z)
        return y

    trained = training.train(optax.contrib.schedule_free(tx, learning_rate, beta))

    training.assert_close(trained, train_by_hand(tx))
    unprojected = training.make(
        optimizer, learning_rate=learning_rate, delta=0.0, **momentum
    )
    training.assert_kernels_differ(trained, train_by_hand(unprojected))


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
