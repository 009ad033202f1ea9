"""Arguments, their order and their defaults: Optax's own, and the paper's."""

import inspect
from inspect import Parameter

import optax
import pytest

import optax_adamp

# Of the published implementation; it decays nothing unless it is told to.
PAPER = {"delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8, "weight_decay": 0.0}


def defaults(factory, kind=None):
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if kind in (None, p.kind)}


@pytest.mark.parametrize(
    ("ours", "theirs", "different"),
    [
        (optax_adamp.adamp, optax.adamw, {"weight_decay": 0.0}),
        # The paper's momentum; optax.sgd has none.
        (optax_adamp.sgdp, optax.sgd, {"momentum": 0.9}),
    ],
)
def test_arguments_of_the_base_optimizer(ours, theirs, different):
    expected = {**defaults(theirs), **different}
    assert {k: v for k, v in defaults(ours).items() if k in expected} == expected
    # What both take by place stands at the same place.
    by_place = list(defaults(theirs, Parameter.POSITIONAL_OR_KEYWORD))
    assert list(defaults(ours))[: len(by_place)] == by_place


@pytest.mark.parametrize(
    "factory",
    [optax_adamp.adamp, optax_adamp.sgdp, optax_adamp.scale_by_projection],
)
def test_defaults_of_the_paper(factory):
    own = {"mask": None, "dimension_numbers": None, "partition_specs": None}
    expected = {**PAPER, **own}
    actual = {k: v for k, v in defaults(factory).items() if k in expected}
    assert actual == expected


def test_dampening_is_that_of_pytorch():
    assert defaults(optax_adamp.sgdp)["dampening"] == 0.0


def test_defaults_of_what_looks_at_a_model():
    numbers = {"delta": 0.1, "eps": 1e-8, "dimension_numbers": None}
    assert defaults(optax_adamp.measure, Parameter.KEYWORD_ONLY) == {
        "updates": None,
        **numbers,
        "partition_specs": None,
    }
    assert defaults(optax_adamp.detect_scale_invariance, Parameter.KEYWORD_ONLY) == {
        "num_batches": 8,
        **numbers,
        "verify": False,
        "seed": 0,
    }
