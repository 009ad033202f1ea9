"""Steps do not depend on how the same numbers are laid out, or on other leaves."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import drawn
import training
from drawn import Layout, assert_equal_to_rounding, few_layouts
from steps import step, step_case
from training import with_both_optimizers


def cases(layouts=few_layouts):
    return drawn.cases(layouts=layouts)


def step_as(case, layout, change):
    """A step in another layout."""
    return step(layout, *map(change, case.arrays), **case.hyperparameters)


@given(cases(), st.data())
def test_transposing_a_weight_with_its_axes_transposes_the_step(case, data):
    shape, reduction, output = case.layout
    order = data.draw(st.permutations(range(len(shape))))
    transposed = Layout(
        tuple(shape[axis] for axis in order),
        tuple(order.index(axis) for axis in reduction),
        tuple(order.index(axis) for axis in output),
    )
    actual = step_as(case, transposed, lambda array: np.transpose(array, order))
    assert_equal_to_rounding(actual, np.transpose(step_case(case), order), case)


@given(cases(), st.data())
def test_axes_may_be_counted_from_the_end_and_in_any_order(case, data):
    shape, *groups = case.layout
    counted = [
        tuple(axis - len(shape) for axis in data.draw(st.permutations(axes)))
        for axes in groups
    ]
    actual = step_as(case, Layout(shape, *counted), lambda array: array)
    np.testing.assert_array_equal(actual, step_case(case))


@given(cases(lambda: few_layouts().filter(lambda layout: layout.batch)), st.data())
def test_stacked_elements_step_as_they_do_alone(case, data):
    axis = data.draw(st.sampled_from(case.layout.batch))
    index = data.draw(st.integers(0, case.layout.shape[axis] - 1))
    shape, *groups = case.layout
    alone = Layout(
        shape[:axis] + shape[axis + 1 :],
        *(tuple(other - (other > axis) for other in group) for group in groups),
    )
    actual = step_as(case, alone, lambda array: np.take(array, index, axis))
    assert_equal_to_rounding(actual, np.take(step_case(case), index, axis), case)


@given(cases(), st.data())
def test_permuting_elements_channels_and_inputs_permutes_the_step(case, data):
    layout = case.layout
    seed = data.draw(st.integers(0, 2**32 - 1))

    def permute(array):
        rng, gathered = np.random.default_rng(seed), layout.gather(array)
        for axis, size in enumerate(gathered.shape):
            gathered = np.take(gathered, rng.permutation(size), axis)
        return layout.scatter(gathered)

    actual = step_as(case, layout, permute)
    assert_equal_to_rounding(actual, permute(step_case(case)), case)


@given(cases())
def test_merging_axes_of_a_kind_merges_the_step(case):
    """Read the other way round, splitting them."""
    shape = case.layout.gather(case.weight).shape
    actual = step_as(case, Layout(shape, (2,), (1,)), case.layout.gather)
    assert_equal_to_rounding(actual, case.layout.gather(step_case(case)), case)


@given(cases(), st.data())
def test_batch_elements_do_not_influence_each_other(case, data):
    """Even if they hold NaN or infinity."""
    kept = data.draw(st.integers(0, len(case.layout.gather(case.weight)) - 1))
    intruder = data.draw(st.sampled_from([np.nan, np.inf, 0.0, 1e200]))

    def spoil(array):
        gathered = np.full_like(case.layout.gather(array), intruder)
        gathered[kept] = case.layout.gather(array)[kept]
        return case.layout.scatter(gathered)

    actual = case.layout.gather(step_as(case, case.layout, spoil))
    expected = case.layout.gather(step_case(case))
    np.testing.assert_array_equal(actual[kept], expected[kept])


# Op by op, shapes are compiled once, whatever tree they stand in.
LEAVES = cases(lambda: st.just(Layout((3, 2), (0,), (1,))))
NAMES = st.text(max_size=5).filter(lambda name: name not in ("bias", "scale"))


def first_updates(optimizer, grads, params, **changes):
    tx = training.make(optimizer, **changes)
    return tx.update(grads, tx.init(params), params)[0]


def as_float32(array):
    return jnp.asarray(array, "float32")


@with_both_optimizers
@given(
    leaves=st.lists(LEAVES, min_size=1, max_size=4),
    names=st.lists(NAMES, min_size=4, max_size=4, unique=True),
    outer=st.lists(NAMES, max_size=3),
)
def test_renaming_and_reordering_leaves_changes_nothing(
    optimizer, leaves, names, outer
):
    grads = [as_float32(leaf.grad) for leaf in leaves]
    params = [as_float32(leaf.weight) for leaf in leaves]
    spec = leaves[0].layout.spec()

    def rename(values):
        """Dicts are ordered by their names; and leaves lie at several depths."""
        tree = dict(zip(names, values, strict=False))
        for name in outer:
            tree = {name: tree}
        return tree

    specs = [spec] * len(leaves)
    plain = first_updates(optimizer, grads, params, dimension_numbers=specs)
    renamed = first_updates(
        optimizer, rename(grads), rename(params), dimension_numbers=rename(specs)
    )
    jax.tree.map(np.testing.assert_array_equal, renamed, rename(plain))


@with_both_optimizers
@given(leaf=LEAVES, other=LEAVES, intruder=st.sampled_from([np.nan, np.inf, 0, 1e30]))
def test_leaves_do_not_influence_each_other(optimizer, leaf, other, intruder):
    """The trees are alike: Optax's bias correction rounds as its compiler fuses it."""
    grad, weight = map(as_float32, (leaf.grad, leaf.weight))
    beside_other, beside_intruder = (
        first_updates(optimizer, {"a": g, "b": grad}, {"a": w, "b": weight})["b"]
        for g, w in (
            map(as_float32, (other.grad, other.weight)),
            [jnp.full((3, 2), intruder, "float32")] * 2,
        )
    )
    np.testing.assert_array_equal(beside_other, beside_intruder)
