"""Specs against shapes, and layouts with their reasons, one case at a time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp, describe
from optax_adamp._axes import Axes, count_from_front, is_spec
from optax_adamp.layouts._layout import Layout, reasons_of


class OfAnotherLibrary:
    """As the dimension numbers of Optax's Muon."""

    reduction_axis, output_axis = 1, 0


class WithoutOutput:
    reduction_axis = 1


class WithoutReduction:
    output_axis = 1


class First:
    """Stands for an integer, and cannot be compared with one."""

    def __index__(self):
        return 0


def test_what_is_a_spec():
    assert is_spec(Spec(0, 1))
    assert is_spec(OfAnotherLibrary())
    assert not is_spec(WithoutOutput())
    assert not is_spec(WithoutReduction())
    assert not is_spec((0, 1))


@pytest.mark.parametrize(
    ("spec", "axes"),
    [
        (Spec(0, 1), Axes((0,), (1,), "auto")),
        (Spec(-1, 0), Axes((2,), (0,), "auto")),
        (Spec((2, 0), -2), Axes((0, 2), (1,), "auto")),
        (Spec([-1, 0], (), "layer"), Axes((0, 2), (), "layer")),
        (Spec(np.int64(0), [np.int8(-3 + 1)], "channel"), Axes((0,), (1,), "channel")),
        (Spec(np.array([0, 1])[1], 0), Axes((1,), (0,), "auto")),
        (Spec(-3, 2), Axes((0,), (2,), "auto")),
        (OfAnotherLibrary(), Axes((1,), (0,), "auto")),
        (Spec(First(), 1), Axes((0,), (1,), "auto")),
    ],
)
def test_axes_counted_from_the_front(spec, axes):
    actual = count_from_front(spec, (2, 3, 4), lambda: "kernel")

    assert actual == axes
    assert {type(axis) for axis in (*actual.reduction, *actual.output)} == {int}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (Spec(0, 0), "more than once"),
        (Spec((0, 0), 1), "more than once"),
        (Spec((), (1, -2)), "more than once"),
        (Spec((0, 1), (2, 0)), "more than once"),
        (Spec(0, 3), "out of range"),
        (Spec(-4, 1), "out of range"),
        (Spec(0, "out"), "not an integer"),
        (Spec(0.0, 1), "not an integer"),
        (Spec(0, 1, "row"), "view"),
    ],
)
def test_specs_that_do_not_fit(spec, complaint):
    with pytest.raises(ValueError, match=rf"kernel.*{complaint}"):
        count_from_front(spec, (2, 3, 4), lambda: "kernel")


FIRST, SECOND = Spec(0, 1), Spec(1, 0)


def layout():
    made = Layout()
    made.put(("b", 1, "w"), FIRST, "why first")
    made.put(("b", "a"), None, "why none")
    made.put(("a",), SECOND, "why second")
    return made


def test_a_layout_is_a_dict_with_reasons():
    made = layout()

    assert made == {"b": {1: {"w": FIRST}, "a": None}, "a": SECOND}
    assert [made.reasons, made["b"].reasons, made["b"][1].reasons] == [
        {"a": "why second"},
        {"a": "why none"},
        {"w": "why first"},
    ]
    assert Layout({"a": 1}, {"a": "why"}).reasons == {"a": "why"}
    assert Layout({"a": 1}) == {"a": 1}
    assert Layout().reasons == {}
    # Nobody else's reasons.
    given = {"a": "why"}
    Layout({}, given).put(("b",), None, "also")
    assert given == {"a": "why"}


def test_a_layout_is_a_tree_like_a_dict():
    made = Layout({"b": 1.0, 3: 2.0, "a": {"c": 3.0}}, {"b": "why"})
    leaves, treedef = jax.tree.flatten(made)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(made)]

    assert leaves == [2.0, 3.0, 1.0]
    assert paths == ["[3]", "['a']['c']", "['b']"]
    again = jax.tree.unflatten(treedef, leaves)
    assert isinstance(again, Layout)
    assert (again, again.reasons) == (made, {})
    assert jax.tree.structure(again) == treedef
    # JAX asks for it, and does not always look.
    assert isinstance(hash(made.tree_flatten()[1]), int)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a",), "why second"),
        (("b", "a"), "why none"),
        (("b", "1", "w"), "why first"),
        ((), None),
        (("b",), None),
        (("c",), None),
        (("a", "w"), None),
        (("b", "1"), None),
        (("b", "1", "w", "v"), None),
        (("b", "2", "w"), None),
    ],
)
def test_reasons_by_path(names, reason):
    assert reasons_of(layout()).get(names) == reason
    # Also where dicts stand around it, or nothing that has reasons.
    assert reasons_of({"x": layout()}).get(("x", *names)) == reason
    assert reasons_of(dict(layout())).get(("a",)) is None
    assert reasons_of(None).get(names) is None
    assert reasons_of([layout()]).get(("0", *names)) is None


def whole_layout():
    made = Layout()
    made.put(("dense", "kernel"), FIRST, "why")
    made.put(("dense", "bias"), None, "why")
    return made


class Net(eqx.Module):
    """Its leaves are not in the order of their names."""

    kernel: jax.Array
    bias: jax.Array


def in_containers():
    kernel, bias = jnp.ones((3, 2)), jnp.ones(2)
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    box = nn.Partitioned(kernel, ("a", "b"))
    trees = {
        "dict": {"dense": {"kernel": kernel, "bias": bias}},
        "FrozenDict": FrozenDict({"dense": {"kernel": kernel, "bias": bias}}),
        "State": nnx.state(nnx.Dict(dense=module), nnx.Param),
        "Equinox": {"dense": Net(kernel, bias)},
        "boxes": {"dense": {"kernel": box, "bias": bias}},
    }
    return jax.tree.map(jnp.ones_like, trees)


@pytest.mark.parametrize(
    "container", ["dict", "FrozenDict", "State", "Equinox", "boxes"]
)
def test_a_layout_like_the_params(container):
    """As labels, masks and the specs of Muon, in the containers of the params."""
    params, made = in_containers()[container], whole_layout()

    labels = made.like(params, lambda spec: "rest" if spec is None else "adamp")
    mask = made.like(params, lambda spec: spec is not None)

    assert jax.tree.structure(labels) == jax.tree.structure(params)
    sizes = jax.tree.map(lambda label, w: (label, w.ndim), labels, params)
    pairs = jax.tree.leaves(sizes, is_leaf=lambda node: isinstance(node, tuple))
    assert sorted(pairs) == [("adamp", 2), ("rest", 1)]
    zeros = optax.set_to_zero()
    parted = optax.partition({"adamp": adamp(0.1), "rest": zeros}, labels)
    for tx, zero in ((parted, 1), (optax.masked(zeros, mask), 2)):
        updates, _ = tx.update(params, tx.init(params), params)
        for update in jax.tree.leaves(updates):
            assert bool(jnp.any(update != 0)) == (update.ndim != zero)


def test_a_layout_for_muon():
    params = in_containers()["dict"]
    muons = optax.contrib.MuonDimensionNumbers

    def spec_of(spec):
        return spec and muons(spec.reduction_axis, spec.output_axis)

    specs = whole_layout().like(params, spec_of)

    assert specs == {"dense": {"kernel": muons(0, 1), "bias": None}}
    tx = optax.contrib.muon(0.1, muon_weight_dimension_numbers=specs)
    updates, _ = tx.update(params, tx.init(params), params)
    plain = optax.contrib.muon(0.1)
    expected, _ = plain.update(params, plain.init(params), params)
    np.testing.assert_allclose(
        updates["dense"]["kernel"], expected["dense"]["kernel"], rtol=1e-5
    )


def test_a_layout_like_other_params():
    absent = {"dense": {"kernel": None, "bias": jnp.ones(2)}}
    assert whole_layout().like(absent, str) == {
        "dense": {"kernel": None, "bias": "None"}
    }
    with pytest.raises(
        ValueError, match="the layout does not fit the params: it has no"
    ):
        whole_layout().like({"dense": {"kernel": jnp.ones((3, 2)), "w": jnp.ones(2)}})


@pytest.mark.parametrize("kind", [str, int])
def test_reasons_of_many_leaves_are_looked_up_not_searched(kind):
    class Key(kind):
        """Counts how often it is asked for its text, as a search does."""

        asked = 0
        __hash__ = kind.__hash__

        def __str__(self):
            type(self).asked += 1
            return super().__str__()

    def asked_for(number):
        keys = [Key(index) for index in range(number)]
        layout = Layout(dict.fromkeys(keys), {key: f"why {key}" for key in keys})
        params = dict.fromkeys(keys, np.float32(0))
        Key.asked = 0
        assert {row.why for row in describe(params, layout)} == {
            f"why {index}" for index in range(number)
        }
        return Key.asked

    assert asked_for(200) <= 2.2 * asked_for(100)
