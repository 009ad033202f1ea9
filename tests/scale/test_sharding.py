"""Under jit the steps of sharded parameters are those of one device."""

import functools
import itertools

import chex
import jax
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import reference
import sharded_steps as steps
from nightly import nightly_but
from optax_adamp import adamp, sgdp


def assert_sharded(tree, expected):
    """Every device holds the part that it should, whatever the spec is written as."""

    def check(leaf, sharding):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), leaf.sharding

    jax.tree.map(check, tree, expected)


CASES = [
    *itertools.product([adamp], steps.MESHES, [AxisType.Auto, AxisType.Explicit]),
    # What differs from AdamP knows nothing of axes.
    (sgdp, (4, 2), AxisType.Auto),
    (sgdp, (2, 2, 2), AxisType.Explicit),
]
EVERY_DAY = [(adamp, (8,), AxisType.Explicit)]


@pytest.mark.parametrize(
    ("optimizer", "mesh_shape", "axis_type"),
    nightly_but(EVERY_DAY, CASES),
)
def test_steps(optimizer, mesh_shape, axis_type):
    whole = steps.whole(optimizer)
    mesh = steps.make_mesh(mesh_shape, axis_type)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), steps.partition_specs(mesh_shape)
    )

    def place(tree):
        return jax.device_put(steps.copies(tree, mesh_shape), shardings)

    specs = steps.copies(steps.dimension_numbers(), mesh_shape)
    tx = steps.make_optimizer(optimizer, specs)
    with jax.set_mesh(mesh):
        params, step = place(whole.params[0]), steps.make_step(tx)
        state = tx.init(params)
        for grads, expected in zip(whole.grads, whole.params[1:], strict=True):
            params, state, updates = step(params, state, place(grads))

            chex.assert_trees_all_close(
                steps.to_numpy(params),
                steps.copies(expected, mesh_shape),
                **steps.TOLERANCE,
            )
            assert_sharded((params, updates), (shardings, shardings))
            for name in ("mu", "nu", "trace"):
                for _, moments in optax.tree.get_all_with_path(state, name):
                    assert_sharded(moments, shardings)


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ("uneven", ("3,3", "4,2", "2,4,3")),
        pytest.param(
            "uneven at night",
            ("3,3", "4,2", "2,4,3", "5,2", "2,7"),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_uneven_parts(tree, parts):
    """An array that enters or leaves jit must be cut evenly, but not one inside."""
    whole = steps.whole(adamp, tree)
    mesh = steps.make_mesh((4, 2))
    shardings = {
        name: NamedSharding(mesh, steps.UNEVEN_SPECS[name])
        for name in steps.TREES[tree]
    }
    tx = steps.make_optimizer(adamp, steps.dimension_numbers(steps.TREES[tree]))

    whole_array = NamedSharding(mesh, P())

    @functools.partial(jax.jit, in_shardings=whole_array, out_shardings=whole_array)
    def step(params, state, grads):
        params, grads = (
            jax.lax.with_sharding_constraint(tree, shardings)
            for tree in (params, grads)
        )
        updates, state = tx.update(grads, state, params)
        updates = jax.lax.with_sharding_constraint(updates, shardings)
        return optax.apply_updates(params, updates), state

    params = whole.params[0]
    state = tx.init(params)
    program = step.lower(params, state, whole.grads[0]).compile()
    for grads, expected in zip(whole.grads, whole.params[1:], strict=True):
        params, state = program(params, state, grads)
        chex.assert_trees_all_close(params, expected, **steps.TOLERANCE)
    # The largest part of each: it has what the remainder leaves out elsewhere.
    for part in parts:
        assert f"f32[{part}]" in program.as_text()


@pytest.mark.parametrize(
    ("optimizer", "tree"),
    [
        (adamp, "even"),
        (adamp, "uneven"),
        pytest.param(adamp, "uneven at night", marks=pytest.mark.nightly),
        pytest.param(sgdp, "even", marks=pytest.mark.nightly),
    ],
)
def test_outcomes(optimizer, tree):
    """What the tests above rest on: each leaf takes its view, at every step."""
    run = steps.whole(optimizer, tree)
    taken = set()
    for name, (_, spec, outcome) in steps.TREES[tree].items():
        if spec is None:
            continue
        for params, grads in zip(run.params[:-1], run.grads, strict=True):
            vectors = (steps.to_vectors(t[name], spec) for t in (params, grads))
            for element, (w, g) in enumerate(zip(*vectors, strict=True)):
                *_, view = reference.projection(
                    g, g, w, (1,), (0,), delta=steps.DELTA, wd_ratio=1.0, eps=1e-8
                )
                assert view == steps.outcome_of(outcome, element), (name, element)
                taken.add(view)
    assert taken == set(steps.OUTCOMES)
