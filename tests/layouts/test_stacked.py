"""Steps on stacked layers under `layouts.stacked`, as on each layer in PyTorch."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layout_layers import (
    assert_layer_steps_as_in_pytorch,
    draw,
    first,
    fit,
    last,
    numbers,
    per_layer,
    standardize,
)
from nightly import nightly_but
from optax_adamp import ProjectionDimensionNumbers, adamp, layouts

BATCH, LAYERS, INPUTS, OUTPUTS = 12, 3, 5, 4

# Where `a` is the layers' axis, by the equation of a dense layer for inputs `bi`.
STACKS = {
    "axis 0": ("aio", layouts.output_last, 0, per_layer(last)),
    "axis 1": ("iao", layouts.output_last, 1, per_layer(last, axis=1)),
    "last axis": ("ioa", layouts.output_last, -1, per_layer(last, axis=-1)),
    "last but one": ("oai", layouts.output_first, -2, per_layer(first, axis=1)),
    "spec": (
        "oia",
        ProjectionDimensionNumbers([-1], -2),
        -1,
        per_layer(first, axis=-1),
    ),
    "spec of another library": (
        "aoi",
        optax.contrib.MuonDimensionNumbers(1, 0),
        0,
        per_layer(first),
    ),
}
# `test_rules.py` reads the rules along every axis.
EVERY_DAY = {"last but one", "spec", "globs"}

SIZES = {"a": LAYERS, "i": INPUTS, "o": OUTPUTS}


def dense_loss(weight, letters):
    outputs = jnp.einsum(f"bi,{letters}->bao", draw(BATCH, INPUTS), weight)
    return fit(standardize(outputs, channels=(1, 2)))


@pytest.mark.parametrize("stack", nightly_but(EVERY_DAY, STACKS))
def test_axis(stack):
    """Biases of one axis have two in a stack."""
    letters, rule, axis, cut = STACKS[stack]
    params = {
        "weight": np.ones([SIZES[letter] for letter in letters]),
        "gain": np.ones([SIZES[letter] for letter in letters if letter != "i"]),
    }
    assert_layer_steps_as_in_pytorch(
        lambda params: dense_loss(params["weight"], letters),
        params,
        layouts.stacked(rule, axis),
        {"weight": cut},
    )


def test_each_layer_is_decided_by_itself():
    """One layer is normalized by channel, one as a whole, and one not at all."""
    inputs = draw(BATCH, INPUTS)

    @jax.jit
    @jax.grad
    def gradient(weight):
        by_channel, as_whole, plain = (inputs @ layer for layer in weight)
        unit = as_whole / jnp.sqrt(jnp.mean(as_whole**2))
        return fit(standardize(by_channel)) + fit(unit) + jnp.mean(plain**2)

    weight = numbers(3, INPUTS, OUTPUTS)
    grad = np.asarray(gradient(weight))

    def step_of(optimizer, **changes):
        return first_update(optimizer(0.1, weight_decay=1.0, **changes))

    rule = layouts.stacked(layouts.output_last)
    stacked = step_of(adamp, dimension_numbers=rule)(grad, weight)

    to_rounding = {"rtol": 1e-6, "atol": 1e-7}
    alone = list(map(step_of(adamp), grad, weight))
    np.testing.assert_allclose(stacked, alone, **to_rounding)
    unprojected = step_of(optax.adamw)(grad, weight)
    assert [
        np.allclose(*steps, **to_rounding)
        for steps in zip(stacked, unprojected, strict=True)
    ] == [False, False, True]


def first_update(tx):
    return jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])


def test_view_is_kept():
    """Fixed views project what no test would find."""
    rule = layouts.stacked(ProjectionDimensionNumbers(0, 1, view="channel"))
    weight = numbers(2, INPUTS, OUTPUTS)

    updates = first_update(adamp(0.1, dimension_numbers=rule))(weight, weight)

    radial = np.sum(updates * weight, axis=1)
    np.testing.assert_allclose(radial, 0, atol=1e-6)


WHERE = {
    "glob": "blocks/*",
    "globs": ["blocks/linear/*", "blocks/out*"],
    "exact paths": ("blocks/linear/weight", "blocks/out"),
}


@pytest.mark.parametrize("form", nightly_but(EVERY_DAY, WHERE))
def test_where(form):
    """Layers of experts, of which only the blocks are stacked once more."""
    params = {
        "blocks": {
            "linear": {"weight": np.ones((LAYERS, INPUTS, OUTPUTS))},
            "out": np.ones((LAYERS, INPUTS, OUTPUTS)),
        },
        "conv": np.ones((LAYERS, INPUTS, OUTPUTS)),
        "temperature": np.ones(()),
    }

    def loss_fn(params):
        inputs = draw(BATCH, LAYERS, INPUTS)
        conv = jnp.einsum("bki,kio->bo", inputs, params["conv"])
        return fit(standardize(conv)) + sum(
            dense_loss(weight, "aio") for weight in jax.tree.leaves(params["blocks"])
        )

    assert_layer_steps_as_in_pytorch(
        loss_fn,
        params,
        layouts.stacked(layouts.output_last, where=WHERE[form]),
        {
            "blocks/linear/weight": per_layer(last),
            "blocks/out": per_layer(last),
            "conv": last,
        },
    )


def test_stack_of_stacks():
    """Layers of experts, along axes 0 and 2."""
    rule = layouts.stacked(layouts.stacked(layouts.output_last, where="*moe"), axis=-2)

    def loss_fn(params):
        outputs = jnp.einsum("bi,xilo->bxlo", draw(BATCH, INPUTS), params["moe"])
        loss = fit(standardize(outputs, channels=(1, 2, 3)))
        return loss + dense_loss(params["mlp"], "iao")

    assert_layer_steps_as_in_pytorch(
        loss_fn,
        {
            "moe": np.ones((2, INPUTS, LAYERS, OUTPUTS)),
            "mlp": np.ones((INPUTS, LAYERS, OUTPUTS)),
        },
        rule,
        {
            "moe": per_layer(per_layer(last), axis=2),
            "mlp": per_layer(last, axis=1),
        },
    )


TRANSFORMS = {
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": optax.set_to_zero()}, {"blocks": "b", "head": "a"}
    ),
    "masked": lambda tx: optax.masked(tx, {"blocks": False, "head": True}),
    "selective": lambda tx: optax.selective_transform(
        tx, freeze_mask={"blocks": {"w": True}, "head": False}
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_where_what_is_stacked_is_frozen(transform):
    """The optimizer of the head never sees the blocks that the pattern is for."""
    rule = layouts.stacked(layouts.output_last, where="blocks/*")
    head = draw(INPUTS, OUTPUTS)
    params = {"blocks": {"w": draw(LAYERS, INPUTS, OUTPUTS)}, "head": head}
    tx = TRANSFORMS[transform](adamp(0.1, delta=10.0, dimension_numbers=rule))

    updates, _ = tx.update(params, tx.init(params), params)

    alone = adamp(0.1, delta=10.0)
    expected, _ = alone.update(head, alone.init(head), head)
    np.testing.assert_allclose(updates["head"], expected, rtol=1e-6, atol=1e-7)


ERRORS = {
    "scalar": (
        layouts.stacked(layouts.output_last),
        r"blocks/t, an array of shape \(\), has no axis 0 .*`where`",
    ),
    "axis out of range": (
        layouts.stacked(layouts.output_last, axis=3, where="blocks/w"),
        r"blocks/w, an array of shape \(3, 5, 4\), has no axis 3",
    ),
    "negative axis out of range": (
        layouts.stacked(layouts.output_last, axis=-4, where="blocks/w"),
        r"blocks/w, an array of shape \(3, 5, 4\), has no axis -4",
    ),
    "spec that does not fit a layer": (
        layouts.stacked(ProjectionDimensionNumbers(0, 2), where="blocks/w"),
        r"blocks/w, .* \(3, 5, 4\), without axis 0: axis 2 of .* 2 axes",
    ),
    "pattern that matches nothing": (
        layouts.stacked(layouts.output_last, where=["blocks/w", "block/*"]),
        r"'block/\*' of layouts\.stacked.* matches no parameter.* blocks/w",
    ),
    "inner pattern that matches nothing": (
        layouts.stacked(
            layouts.stacked(layouts.output_last, where="moe"), where="blocks/w"
        ),
        r"'moe' of layouts\.stacked.* matches no parameter",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_that_names_the_parameter(case):
    rule, message = ERRORS[case]
    params = {"blocks": {"w": np.ones((3, 5, 4), "f4"), "t": np.ones((), "f4")}}
    with pytest.raises(ValueError, match=message):
        first_update(adamp(0.1, dimension_numbers=rule))(params, params)


@pytest.mark.parametrize("rule", [lambda params: params, None, (0, 1), {"w": 0}])
def test_error_for_what_is_no_rule(rule):
    with pytest.raises(ValueError, match="must be a rule of optax_adamp"):
        layouts.stacked(rule)


def make_rule(axis=1):
    spec = ProjectionDimensionNumbers([0], [1])
    return layouts.stacked(layouts.stacked(spec, axis), where=["blocks/*"])


def test_equal_calls_make_equal_rules():
    """As keys too; and none is callable, or would pass for a schedule."""
    assert make_rule() == make_rule()
    assert {make_rule(): 1}[make_rule()] == 1
    assert make_rule() != make_rule(axis=0)
    assert not callable(make_rule())


@pytest.mark.parametrize(
    "rule",
    [
        layouts.output_first,
        layouts.output_last,
        make_rule(),
    ],
    ids=repr,
)
def test_rules_can_be_copied_and_pickled(rule):
    parameter = ("blocks", "query", "kernel"), (2, 3, 4, 5)
    for copied in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        assert copied == rule
        assert copied.read(*parameter) == rule.read(*parameter)
