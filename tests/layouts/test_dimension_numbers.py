"""Which axes each parameter gets, for every form that the argument may take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp._axes import Axes
from optax_adamp._trees import format_path, named_leaves
from optax_adamp.layouts._dimension_numbers import resolve_dimension_numbers

PARAMS = {
    "attention": {"query": {"kernel": (8, 2, 4), "bias": (2, 4)}},
    "mlp": [{"kernel": (8, 16), "bias": (16,)}, {"kernel": (3, 16, 8)}],
    "norm": {"scale": (3, 8), "offset": (8,)},
    "temperature": (),
}


def is_shape(node):
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def resolve(dimension_numbers, shapes=PARAMS):
    """The resolved axes by path, for zeros of the shapes."""
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape)
    leaves = named_leaves(params)
    axes = [
        axes for axes, _ in resolve_dimension_numbers(dimension_numbers, params, leaves)
    ]
    return {
        format_path(names): leaf_axes
        for (names, _), leaf_axes in zip(leaves, axes, strict=True)
    }


def test_default_is_output_last():
    assert resolve(None) == {
        "attention/query/kernel": Axes((0, 1), (2,), "auto"),
        "attention/query/bias": None,  # Two axes, but known by its name.
        "mlp/0/kernel": Axes((0,), (1,), "auto"),
        "mlp/0/bias": None,
        "mlp/1/kernel": Axes((0, 1), (2,), "auto"),
        "norm/scale": None,
        "norm/offset": None,
        "temperature": None,
    }


def test_names_count_only_at_the_end():
    shapes = {"bias": {"kernel": (4, 2)}, "rescale": (4, 2), "scale": [(4, 2)]}
    assert [path for path, axes in resolve(None, shapes).items() if axes] == [
        "bias/kernel",
        "rescale",
    ]


def test_names_count_as_a_whole_and_with_their_case():
    names = ("scale_factor", "Scale", "BIAS", "bias_hh", "rescale", "debias")
    shapes = dict.fromkeys(names, (4, 2))
    assert all(resolve(None, shapes).values())
    assert all(resolve(Spec(0, 1), shapes).values())


EXPLICIT = {
    "attention": {"query": {"kernel": Spec(0, (1, 2)), "bias": None}},
    "mlp": [Spec(-2, -1, "channel"), Spec(1, 2, "layer")],
    "norm": None,
    "temperature": None,
}
EXPLICIT_AXES = {
    "attention/query/kernel": Axes((0,), (1, 2), "auto"),
    "attention/query/bias": None,
    "mlp/0/kernel": Axes((0,), (1,), "channel"),
    "mlp/0/bias": None,
    "mlp/1/kernel": Axes((1,), (2,), "layer"),
    "norm/scale": None,
    "norm/offset": None,
    "temperature": None,
}


def test_tree_of_specs():
    assert resolve(EXPLICIT) == EXPLICIT_AXES


def test_function_of_the_params():
    seen = []

    def specs(params):
        seen.append(jax.tree.map(jnp.shape, params))
        return EXPLICIT

    assert resolve(specs) == EXPLICIT_AXES
    assert seen == [PARAMS]


def test_one_spec_passes_over_what_has_no_channels():
    axes = resolve(Spec(-2, -1))
    assert {path: found for path, found in axes.items() if found} == {
        "attention/query/kernel": Axes((1,), (2,), "auto"),
        "mlp/0/kernel": Axes((0,), (1,), "auto"),
        "mlp/1/kernel": Axes((1,), (2,), "auto"),
    }


def test_spec_at_its_own_place_is_used_whatever_the_name():
    shapes = {"scale": (3, 8), "vector": (8,)}
    assert resolve({"scale": Spec(1, 0), "vector": Spec(0, ())}, shapes) == {
        "scale": Axes((1,), (0,), "auto"),
        "vector": Axes((0,), (), "auto"),
    }


def test_bare_array():
    assert resolve(None, (4, 2)) == {"(root)": Axes((0,), (1,), "auto")}
    assert resolve(Spec(1, 0), (4, 2)) == {"(root)": Axes((1,), (0,), "auto")}


def test_any_object_with_the_two_attributes_is_a_spec():
    spec = contrib.MuonDimensionNumbers(reduction_axis=(1,), output_axis=0)
    assert resolve({"w": spec}, {"w": (4, 2)}) == {"w": Axes((1,), (0,), "auto")}


def test_axes_may_be_integers_of_any_kind():
    class Integer:
        def __index__(self):
            return -1

    axes = resolve(Spec(np.int64(0), Integer()), (4, 2))
    assert axes == {"(root)": Axes((0,), (1,), "auto")}


def test_axes_are_sorted_and_counted_from_the_front():
    axes = resolve(Spec([-1, 0], (2,)), (4, 3, 2, 5))
    assert axes == {"(root)": Axes((0, 3), (2,), "auto")}


@pytest.mark.parametrize("absent", [None, optax.MaskedNode()])
def test_specs_of_absent_params_are_not_missed(absent):
    params = {"a": jnp.zeros((4, 2)), "b": absent, "c": {"d": absent}}
    leaves = [
        (names, None if leaf is absent else leaf)
        for names, leaf in named_leaves(params, is_leaf=lambda node: node is absent)
    ]
    specs = {"a": Spec(0, 1), "b": {"below": Spec(0, 1)}, "c": Spec(5, 5)}
    found = resolve_dimension_numbers(specs, params, leaves)
    assert [axes for axes, _ in found] == [Axes((0,), (1,), "auto"), None, None]
