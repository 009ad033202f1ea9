"""Names along paths, and describing trees matched by them, one case at a time."""

import collections
import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.tree_util import register_dataclass

from messages import only
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import layouts
from optax_adamp._axes import Axes
from optax_adamp._checks import dtype_of, refuse_model
from optax_adamp._trees import (
    Entry,
    call_if_function,
    format_path,
    is_absent,
    leaves_like,
    match_prefix,
    named_leaves,
    path_matches,
)
from optax_adamp.layouts._dimension_numbers import resolve_dimension_numbers
from optax_adamp.layouts._rules import Reading, Rule

MASKED = optax.MaskedNode()


@register_dataclass
@dataclasses.dataclass
class Box:
    """As Flax puts one around a parameter."""

    value: object


@register_dataclass
@dataclasses.dataclass
class Module:
    """Has a parameter named value beside another."""

    value: object
    scale: object


@register_dataclass
@dataclasses.dataclass
class Holder:
    """Its only child is named otherwise."""

    kernel: object


def array(*shape):
    return np.zeros(shape, "f4")


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (1.0, [()]),
        ({"a": [1.0, 2.0]}, [("a", "0"), ("a", "1")]),
        ({"a": Box(1.0)}, [("a",)]),
        (Box(1.0), [()]),
        ({"a": Box([1.0])}, [("a", "value", "0")]),
        ({"a": Box({"b": 1.0})}, [("a", "value", "b")]),
        (Module(1.0, 2.0), [("value",), ("scale",)]),
        (Holder(1.0), [("kernel",)]),
        ({"value": 1.0}, [("value",)]),
        ({"a": Module(Box(1.0), Box(2.0))}, [("a", "value"), ("a", "scale")]),
        # Each box is told by what it holds itself, not by what its neighbors hold.
        ([Box(1.0), Box(2.0)], [("0",), ("1",)]),
        ([Box(1.0), Module(2.0, 3.0)], [("0",), ("1", "value"), ("1", "scale")]),
    ],
)
def test_names_of_leaves(tree, names):
    leaves = named_leaves(tree)

    assert [name for name, _ in leaves] == names
    assert [leaf for _, leaf in leaves] == jax.tree.leaves(tree)


def test_leaves_may_be_absent_or_anything():
    tree = {"a": None, "b": MASKED, "c": [1.0]}

    assert named_leaves(tree) == [(("c", "0"), 1.0)]
    assert named_leaves(tree, is_leaf=is_absent) == [
        (("a",), None),
        (("b",), MASKED),
        (("c", "0"), 1.0),
    ]
    assert named_leaves(tree, is_leaf=lambda node: isinstance(node, list)) == [
        (("c",), [1.0])
    ]
    assert [is_absent(node) for node in (None, MASKED, 0.0, (), {})] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_paths_in_messages():
    assert format_path(("encoder", "0", "kernel")) == "encoder/0/kernel"
    assert format_path(()) == "(root)"


def like(updates, tree, **arguments):
    treedef = jax.tree.structure(updates, is_leaf=is_absent)
    named = named_leaves(updates, is_leaf=is_absent)
    return leaves_like(named, treedef, tree, **{"argument": "grad", **arguments})


def test_leaves_in_the_order_of_the_updates():
    first, second = array(2), array(3, 1)

    # Absent ones have no array, whatever the other tree has in their place.
    updates = {"a": array(2), "b": None, "c": MASKED, "d": array(3, 1)}
    others = {"a": first, "b": array(5), "c": {"anything": 1}, "d": second}
    leaves = like(updates, others)

    assert [leaves[0] is first, leaves[3] is second] == [True, True]
    assert leaves[1:3] == [None, None]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"a": array(2)},
            "grad must have the tree structure of the updates, but lacks b.",
        ),
        (
            {"a": array(2), "b": array(2), "c": array(2), "d": array(2)},
            "grad must have the tree structure of the updates, but has c.",
        ),
        (
            {"x": array(2), "y": array(2)},
            "grad must have the tree structure of the updates, but lacks a and has x.",
        ),
        (
            {"a": array(2), "c": None},
            "grad must have the tree structure of the updates, but lacks b and has c.",
        ),
        (
            {"a": array(2), "b": [array(2)]},
            "grad has no array at b, where the updates have shape (2,), but "
            f"{[array(2)]!r}.",
        ),
        (
            {"a": array(2, 1), "b": array(2)},
            "grad has shape (2, 1) at a, where the updates have shape (2,).",
        ),
    ],
)
def test_trees_unlike_the_updates(tree, message):
    with pytest.raises(ValueError, match=only(message)):
        like({"a": array(2), "b": array(2)}, tree)


def test_containers_unlike_those_of_the_updates():
    with pytest.raises(ValueError, match=r"^tree must .* of the params, but .*[^.]\.$"):
        like([array(2)], (array(2),), argument="tree", like="params")


def test_functions_are_called_and_trees_are_not():
    class Callable(dict):
        def __call__(self, params):
            raise AssertionError

    jax.tree_util.register_pytree_node(
        Callable, lambda tree: (tuple(tree.values()), None), lambda _, children: None
    )
    for tree in (Callable(a=1.0), Callable(), {"f": len}, 3, None):
        assert call_if_function(tree, "params") is tree
    assert call_if_function(lambda params: [params], "params") == ["params"]


PARAMS = [
    (("a", "kernel"), array(2, 3)),
    (("a", "bias"), None),
    (("b", "c", "kernel"), array(3)),
]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (1.0, [Entry(1.0, False), Entry(None, False), Entry(1.0, False)]),
        (
            {"a": {"kernel": 1.0}, "b": 2.0},
            [Entry(1.0, True), Entry(None, False), Entry(2.0, False)],
        ),
        (
            {"a": 1.0, "b": {"c": {"kernel": 2.0}}},
            [Entry(1.0, False), Entry(None, False), Entry(2.0, True)],
        ),
        # Where the params have nothing, and below, there may be an entry.
        (
            {"a": {"kernel": 1.0, "bias": {"deeper": 3.0}}, "b": {"c": 2.0}},
            [Entry(1.0, True), Entry(None, False), Entry(2.0, False)],
        ),
        (
            {"a": {"kernel": 1.0, "bias": 3.0}, "b": 2.0},
            [Entry(1.0, True), Entry(None, False), Entry(2.0, False)],
        ),
    ],
)
def test_nearest_entry_above(description, expected):
    assert match_prefix(description, PARAMS, argument="mask") == expected


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            {"a": 1.0},
            "mask does not fit the params: it has no entry for b/c/kernel, an array "
            "of shape (3,). Give every parameter an entry, at its path or above it.",
        ),
        (
            {"a": 1.0, "b": 2.0, "d": 3.0},
            "mask does not fit the params: it has an entry for d, where the params "
            "hold nothing. Remove the entry or correct its path. Or so.",
        ),
        (
            {"a": {"kernel": {"deeper": 0.0}}, "b": 2.0},
            "mask does not fit the params: it has no entry for a/kernel, an array of "
            "shape (2, 3). Give every parameter an entry, at its path or above it.",
        ),
        (
            {"a": 1.0, "b": {"c": {"kernel": 2.0, "bias": 3.0}}},
            "mask does not fit the params: it has an entry for b/c/bias, where the "
            "params hold nothing. Remove the entry or correct its path. Or so.",
        ),
    ],
)
def test_entries_that_do_not_fit(description, message):
    with pytest.raises(ValueError, match=only(message)):
        match_prefix(description, PARAMS, argument="mask", way_out=" Or so.")


def test_entries_are_told_by_is_leaf():
    entries = match_prefix(
        {"a": None, "b": [1, 2]},
        PARAMS,
        argument="mask",
        is_leaf=lambda node: node is None or isinstance(node, list),
    )

    assert entries == [Entry(None, False), Entry(None, False), Entry([1, 2], False)]


class Told(NamedTuple):
    axes: Axes | None
    why: str
    warning: str = ""


def resolve(dimension_numbers, params):
    named = named_leaves(params, is_leaf=is_absent)
    found = resolve_dimension_numbers(dimension_numbers, params, named)
    return [Told(axes, *reason()) for axes, reason in found]


def test_what_dimension_numbers_say_of_each_parameter():
    params = {"gone": None, "kernel": array(2, 3), "scale": array(2), "v": array(1, 4)}
    warning = (
        "May be a bias or a scale, with one number a channel: give it None if so, or "
        "let layouts.from_function read the axes from your program."
    )
    absent = Told(None, "absent", "")
    last = Axes(reduction=(0,), output=(1,), view="auto")

    assert resolve(None, params) == [
        absent,
        Told(last, "default: last axis", ""),
        Told(None, "fewer than two axes", ""),
        Told(last, "default: last axis", warning),
    ]
    # A spec covers what may have channels; at its own place it must fit.
    first = Axes(reduction=(1,), output=(0,), view="auto")
    assert resolve(Spec(1, 0), params) == [
        absent,
        Told(first, "spec", ""),
        Told(None, "fewer than two axes", ""),
        Told(first, "spec", ""),
    ]
    specs = {"kernel": None, "scale": Spec(0, ()), "v": Spec(1, 0)}
    assert resolve(specs, params) == [
        absent,
        Told(None, "spec: None", ""),
        Told(Axes((0,), (), "auto"), "spec", ""),
        Told(first, "spec", ""),
    ]
    assert resolve(
        lambda tree: {key: specs[key] for key in list(tree)[1:]}, params
    ) == (resolve(specs, params))


def test_messages_name_the_argument():
    params = {"a": {"kernel": array(2, 3)}}
    with pytest.raises(ValueError, match=r"^dimension_numbers does not fit .* for a/k"):
        resolve({"b": None}, params)
    with pytest.raises(
        ValueError, match=r"^dimension_numbers of a/kernel, an array of"
    ):
        resolve({"a": "channel"}, params)


def test_a_rule_of_a_user():
    params = {"a": {"kernel": array(2, 3)}}
    never = Rule("never", lambda names, shape: Reading(None, "told so", "in doubt"))
    once = Rule("once(0, (1, 2))", lambda names, shape: Reading(Spec(0, 1), "told so"))

    assert resolve(never, params) == [Told(None, "told so", "in doubt")]
    assert resolve(once, params) == [
        Told(Axes((0,), (1,), "auto"), "once: told so", "")
    ]


def test_a_rule_must_cover_its_patterns():
    rule = layouts.stacked(layouts.output_last, where="b/*")
    inner = {"kernel": array(4, 2, 3)}
    params = {"a": inner, "b": inner, "c": None}

    a, b, c = (resolution.axes for resolution in resolve(rule, params))
    assert (a.reduction, a.output) == ((0, 1), (2,))
    assert (b.reduction, b.output, c) == ((1,), (2,), None)
    with pytest.raises(
        ValueError,
        match=only(
            f"dimension_numbers: the pattern 'b/*' of {rule} matches no parameter. The "
            "paths are: a/kernel. If the optimizer has a part of a Flax model only, "
            "make the layout of that part: layouts.from_nnx(model, wrt=...) with the "
            "filter that nnx.Optimizer has as wrt."
        ),
    ):
        resolve({"a": rule, "b": None}, params)


@pytest.mark.parametrize("absent", [None, MASKED])
@pytest.mark.parametrize(
    ("gone", "pattern", "is_covered"),
    [
        ("blocks/kernel", "blocks/*", True),
        ("blocks/kernel", "blocks/kernel", True),
        ("blocks/kernel", "*/kernel", True),
        ("blocks/kernel", "blocks", False),
        ("blocks/kernel", "block/*", False),
        ("blocks/kernel", "blocks/bias", False),
        # All of a branch is gone, and nobody knows what it held.
        ("blocks", "blocks/*", True),
        ("blocks", "blocks/kernel", True),
        ("blocks", "b*s/k*", True),
        ("blocks", "blocks[0]/kernel", False),
        ("blocks", "block/*", False),
        ("blocks", "blocksx*", False),
        ("blocks", "head/kernels", False),
        ("[0]", "[0]/*", True),
    ],
)
def test_an_absent_parameter_covers_a_pattern(absent, gone, pattern, is_covered):
    """As where optax.masked or a partition has taken it, or a branch, away."""
    rule = layouts.stacked(layouts.output_last, where=pattern)
    tree = absent
    for name in reversed(gone.split("/")):
        tree = {name: tree}
    params = {**tree, "head": {"weight": array(2, 3)}}

    if is_covered:
        assert [found.why for found in resolve(rule, params)] == [
            "absent",
            "layouts.stacked: last axis",
        ]
    else:
        with pytest.raises(ValueError, match="matches no parameter"):
            resolve(rule, params)


def test_a_part_of_the_params_needs_no_other_entries():
    """Below and beside what is absent, exact entries and prefixes alike."""
    blocks = layouts.stacked(layouts.output_last, where="blocks/*")
    head = layouts.stacked(layouts.output_last, where="*head/k*")
    params = {"blocks": None, "head": {"kernel": array(4, 2, 3)}, "norm": MASKED}
    inner = (1,), (2,)

    for specs in (
        {"blocks": blocks, "head": head, "norm": None},
        {"blocks": {"kernel": blocks, "bias": None}, "head": head, "norm": blocks},
        {"blocks": {"a": {"b": Spec(7, 8)}}, "head": Spec(1, 2), "norm": {}},
    ):
        _, (axes, *_), _ = resolve(specs, params)
        assert axes is not None
        assert (axes.reduction, axes.output) == inner
    with pytest.raises(ValueError, match="an entry for normal, where the params"):
        resolve({"blocks": None, "head": None, "normal": None}, params)


def test_a_pattern_is_for_all_of_a_path():
    for pattern in ("w", "blocks/w", "a/blocks", "A/blocks/w", "a/*/v", "[a]"):
        assert not path_matches("a/blocks/w", pattern)
    for pattern in ("a/blocks/w", "a/*", "*/w", "a/blocks/[w]"):
        assert path_matches("a/blocks/w", pattern)


TWICE = collections.OrderedDict({1: array(2, 3), "1": array(2, 3)})


def test_two_parameters_with_one_path():
    """An entry at their path would be taken for both, or the last one would."""
    assert [axes for axes, *_ in resolve(Spec(1, 0), {"a": TWICE})] == [
        Axes((1,), (0,), "auto")
    ] * 2
    with pytest.raises(
        ValueError, match=r"^mask has two entries with the path a/1\. R"
    ):
        match_prefix(
            {"a": collections.OrderedDict({1: True, "1": False})},
            named_leaves({"a": TWICE}),
            argument="mask",
        )
    with pytest.raises(
        ValueError,
        match=only(
            "dimension_numbers does not fit the params: two parameters have the path "
            "a/1, and one entry cannot be for both. Rename one, or give an entry above "
            "them."
        ),
    ):
        resolve({"a": {"1": Spec(0, 1)}}, {"a": TWICE})


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (array(2), np.float32),
        (jax.ShapeDtypeStruct((), np.int8), np.int8),
        (2, np.int32),
        (1.5, np.float32),
        (1j, np.complex64),
        # Not what jax would make of it.
        (np.zeros(2, np.float64), np.float64),
    ],
)
def test_dtypes_of_what_stands_for_an_array(leaf, dtype):
    assert dtype_of(leaf) == dtype


def test_other_modules_than_those_of_flax_are_trees():
    for library, name in (
        ("flax.linen.module", "Sequential"),
        ("flax.core.scope", "Module"),
        ("torch.nn", "Module"),
        ("flax", "Module"),
    ):
        refuse_model(type(name, (), {"__module__": library})(), function="describe")
    for library, way in (
        ("flax.nnx.module", "nnx.state(model, nnx.Param)"),
        ("flax.linen.module", 'module.init(...)["params"]'),
    ):
        base = type("Module", (), {"__module__": library})
        model = type("Net", (base,), {"__module__": "users"})()
        with pytest.raises(
            ValueError,
            match=only(f"describe needs the params, but got a model, Net. Pass {way}."),
        ):
            refuse_model(model, function="describe")
