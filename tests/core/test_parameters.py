"""The records that all functions share: one parameter each, whatever stands beside."""

import jax.numpy as jnp
import optax
import pytest

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp._axes import Axes
from optax_adamp._mesh_axes import OWN
from optax_adamp._parameters import resolve_parameters

MASKED = optax.MaskedNode()


def test_one_record_per_parameter():
    first, second = jnp.ones((2, 3)), jnp.ones(4)
    trees = {
        "updates": {"a": 2 * first, "b": MASKED, "c": None, "d": 2 * second},
        "grad": {"a": 3 * first, "b": MASKED, "c": 5.0, "d": 3 * second},
        "params": {"a": first, "b": MASKED, "c": jnp.ones(7), "d": second},
    }

    a, b, c, d = resolve_parameters(trees, Spec(1, 0), None)

    assert [p.names for p in (a, b, c, d)] == [("a",), ("b",), ("c",), ("d",)]
    assert [p.axes for p in (a, b, c, d)] == [Axes((1,), (0,), "auto"), *[None] * 3]
    assert [p.reason().why for p in (a, b, c, d)] == [
        "spec",
        "absent",
        "absent",
        "fewer than two axes",
    ]
    assert a.array is first
    assert d.array is second
    assert a.beside == {name: trees[name]["a"] for name in ("updates", "grad")}
    # What the optimizer hands back as it was, and what it does not look at.
    assert b == (("b",), None, {"updates": MASKED, "grad": None}, *b[3:])
    assert c == (("c",), None, {"updates": None, "grad": None}, *c[3:])


def test_trees_are_checked_in_order_and_before_the_axes():
    seen = []

    def check(names, leaf, *, argument):
        seen.append((argument, *names, leaf))
        if leaf == 4.0:
            raise ValueError("four")

    with pytest.raises(ValueError, match="four"):
        resolve_parameters(
            {"grads": {"a": 1.0, "b": None}, "params": {"a": 4.0, "b": 2.0}},
            {"missing": None},
            OWN,
            check=check,
        )
    assert seen == [("grads", "a", 1.0), ("params", "a", 4.0)]

    with pytest.raises(ValueError, match=r"of the grads, but lacks b"):
        resolve_parameters({"grads": {"b": 1.0}, "params": {"a": 1.0}}, None, None)
