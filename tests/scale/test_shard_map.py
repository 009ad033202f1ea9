"""Inside shard_map parts of parameters take the steps of the whole ones."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import sharded_steps as steps
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp, measure, scale_by_projection, sgdp


def specs_of_state(tx, params, specs):
    return optax.tree.map_params(
        tx,
        lambda _, spec: spec,
        jax.eval_shape(tx.init, params),
        specs,
        transform_non_params=lambda _: P(),
    )


def step_of_parts(tx, params, specs, mesh, **arguments):
    """One shard_map around the optimizer."""
    state_specs = specs_of_state(tx, params, specs)

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(
        jax.shard_map(
            update,
            mesh=mesh,
            in_specs=(specs, state_specs, specs),
            out_specs=(specs, state_specs),
            **arguments,
        )
    )


def run_parts(tx, params, grads, specs, mesh, **arguments):
    """The params after each step."""
    step = step_of_parts(tx, params, specs, mesh, **arguments)
    # Placed as what comes out, or the second step would be compiled anew.
    params, state = jax.device_put(
        (params, tx.init(params)),
        jax.tree.map(
            functools.partial(NamedSharding, mesh),
            (specs, specs_of_state(tx, params, specs)),
        ),
    )
    for of_step in grads:
        params, state = step(params, state, of_step)
        yield params


@pytest.mark.parametrize(
    ("optimizer", "mesh_shape", "check_vma"),
    [
        (sgdp, (8,), True),
        pytest.param(adamp, (4, 2), False, marks=pytest.mark.nightly),
        pytest.param(adamp, (2, 2, 2), True, marks=pytest.mark.nightly),
    ],
)
def test_steps(optimizer, mesh_shape, check_vma):
    """All views, in a tree with replicated and sharded leaves."""
    whole = steps.whole(optimizer)
    specs = steps.partition_specs(mesh_shape)
    tx = steps.make_optimizer(
        optimizer,
        steps.copies(steps.dimension_numbers(), mesh_shape),
        partition_specs=specs,
    )

    run = run_parts(
        tx,
        steps.copies(whole.params[0], mesh_shape),
        [steps.copies(grads, mesh_shape) for grads in whole.grads],
        specs,
        steps.make_mesh(mesh_shape),
        check_vma=check_vma,
    )

    for params, expected in zip(run, whole.params[1:], strict=True):
        chex.assert_trees_all_close(
            steps.to_numpy(params),
            steps.copies(expected, mesh_shape),
            **steps.TOLERANCE,
        )


KERNEL = "dense to layer"


def run_kernel(params_spec, *, partition_specs, **arguments):
    """One kernel through shard_map, with the distance from its whole steps."""
    whole = steps.whole(adamp)
    tx = steps.make_optimizer(adamp, Spec(0, 1), partition_specs=partition_specs)
    grads = [{"kernel": grads[KERNEL]} for grads in whole.grads]
    params = {"kernel": jnp.asarray(whole.params[0][KERNEL])}
    *_, last = run_parts(
        tx,
        params,
        grads,
        {"kernel": params_spec},
        steps.make_mesh((4, 2)),
        **arguments,
    )
    return np.max(np.abs(last["kernel"] - whole.params[-1][KERNEL]))


def test_forms_of_specs():
    """All lead to the same program, and its steps are right."""
    spec = P("data", "model")
    forms = [
        {"kernel": spec},
        spec,
        P(("data",), "model"),
        lambda params: jax.tree.map(lambda _: spec, params),
    ]
    mesh = steps.make_mesh((4, 2), names=("data", "model"))
    params = {"kernel": np.ones((16, 8), "f4")}

    def program(form):
        tx = steps.make_optimizer(adamp, Spec(0, 1), partition_specs=form)
        step = step_of_parts(tx, params, forms[0], mesh)
        return step.lower(params, tx.init(params), params).as_text()

    assert len({program(form) for form in forms}) == 1
    distance = run_kernel(P("x", "y"), partition_specs=P("x", "y"))
    assert distance < steps.TOLERANCE["atol"]


def test_axes_that_stay_automatic():
    """The compiler sums over x, and the specs over y; they may name both."""
    distance = run_kernel(P(None, "y"), partition_specs=P("x", "y"), axis_names={"y"})
    assert distance < steps.TOLERANCE["atol"]


def test_without_knowledge_a_missing_spec_goes_wrong():
    """What the errors below prevent."""
    distance = run_kernel(P("x", "y"), partition_specs=None, check_vma=False)
    assert distance > 1e-3


@pytest.mark.parametrize(
    ("params_spec", "partition_specs", "words"),
    [
        (P("x", "y"), None, ["(4, 4)", "mesh axes x, y", "in_specs", "'own'"]),
        (P("x"), None, ["(4, 8)", "axes x,", "jax.vmap", "jax.lax.pcast", "'own'"]),
        (P("x", "y"), P("x"), ["mesh axes y,", f"says {P('x')}"]),
        (P("x", "y"), {"kernel": None}, ["mesh axes x, y,"]),
        (P("x"), P("x", "y"), ["the same", "mesh axes y,"]),
        (P(), P("x"), ["the same", "mesh axes x,"]),
        (P("x"), P(None, None, "x"), ["3 entries for 2 axes"]),
        (P("x"), "x", ["PartitionSpec", "'x'"]),
        (P("x"), {"bias": P("x")}, ["partition_specs", "no entry"]),
    ],
)
def test_specs_that_contradict_the_params(params_spec, partition_specs, words):
    with pytest.raises(ValueError, match="kernel, an array of shape") as error:
        run_kernel(params_spec, partition_specs=partition_specs)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unprojected_parameters_need_no_specs():
    params = {"bias": np.arange(8, dtype="f4"), "kernel": np.ones((8, 2), "f4")}
    specs = {"bias": P("x"), "kernel": P()}
    tx = adamp(0.1, weight_decay=0.1)

    (updated,) = run_parts(tx, params, [params], specs, steps.make_mesh((8,)))

    expected, *_ = steps.make_step(tx)(params, tx.init(params), params)
    chex.assert_trees_all_close(updated, expected, rtol=1e-6)


def test_stages_with_parameters_of_their_own():
    """Each device has one element of a stack, and no device asks another."""
    whole = steps.whole(adamp)
    spec = P("x")
    tx = steps.make_optimizer(adamp, Spec(1, 2), partition_specs=spec)
    mesh = steps.make_mesh((8,))
    params = jnp.asarray(whole.params[0]["stack"])

    run = run_parts(tx, params, [g["stack"] for g in whole.grads], spec, mesh)

    for stack, expected in zip(run, whole.params[1:], strict=True):
        np.testing.assert_allclose(stack, expected["stack"], **steps.TOLERANCE)
    assert count_collectives(Spec(1, 2), (8, 8, 8), spec, mesh) == 0


@pytest.mark.parametrize("form", ["own", {"kernel": "own", "bias": None}])
def test_an_ensemble_cut_over_devices(form):
    """Under `jax.vmap` a device sees a member without the axis that is cut."""
    whole = steps.whole(adamp)
    mesh, ones = steps.make_mesh((8,)), np.ones((8, 3), "f4")
    params = {"kernel": whole.params[0]["stack"], "bias": ones}
    grads = {"kernel": whole.grads[0]["stack"], "bias": ones}

    def update(tx):
        def of_member(grads, params):
            return tx.update(grads, tx.init(params), params)[0]

        return jax.vmap(of_member)

    tx = steps.make_optimizer(adamp, Spec(0, 1), partition_specs=form)
    mapped = jax.shard_map(update(tx), mesh=mesh, in_specs=P("x"), out_specs=P("x"))

    plain = update(steps.make_optimizer(adamp, Spec(0, 1)))
    program = jax.jit(mapped).lower(grads, params).compile()
    chex.assert_trees_all_close(
        program(grads, params), jax.jit(plain)(grads, params), rtol=1e-5, atol=1e-6
    )
    assert "all-reduce(" not in program.as_text()


def test_whole_parameters_that_are_marked_as_varying():
    whole = steps.whole(adamp)
    params, grads = (
        {"kernel": tree[KERNEL]} for tree in (whole.params[0], whole.grads[0])
    )
    tx = steps.make_optimizer(adamp, Spec(0, 1), partition_specs="own")
    mark = getattr(jax.lax, "pcast", None)

    def vary(array):
        if mark is None:  # jax < 0.8
            return jax.lax.pvary(array, "x")
        return mark(array, "x", to="varying")

    def update(grads, params):
        params = jax.tree.map(vary, params)
        updates, _ = tx.update(grads, tx.init(params), params)
        return jax.tree.map(lambda update: update[None], updates)

    mapped = jax.shard_map(
        update, mesh=steps.make_mesh((8,)), in_specs=P(), out_specs=P("x")
    )
    expected, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    for update in jax.jit(mapped)(grads, params)["kernel"]:
        np.testing.assert_allclose(update, expected["kernel"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("mesh_shape", "names"),
    [
        ((8,), ("convolution", "stack", "bias")),
        pytest.param((4, 2), tuple(steps.LEAVES), marks=pytest.mark.nightly),
    ],
)
def test_what_is_measured_of_parts(mesh_shape, names):
    """Norms, cosines and turns are those of the whole vectors."""
    whole = steps.whole(adamp)
    specs = steps.partition_specs(mesh_shape, names)
    numbers, *trees = (
        {name: tree[name] for name in names}
        for tree in (
            steps.dimension_numbers(),
            whole.grads[0],
            whole.params[0],
            whole.grads[1],
        )
    )

    def measured(grads, params, updates, numbers, specs=None):
        return measure(
            grads,
            params,
            updates=updates,
            delta=steps.DELTA,
            dimension_numbers=numbers,
            partition_specs=specs,
        ).leaves

    def copies(tree):
        return steps.copies(tree, mesh_shape)

    out_specs = {
        path: P(*(part for axis, part in enumerate(spec) if axis == 0))
        if path.startswith("stack")
        else P()
        for path, spec in specs.items()
    }
    mapped = jax.shard_map(
        functools.partial(measured, numbers=copies(numbers), specs=specs),
        mesh=steps.make_mesh(mesh_shape),
        in_specs=(specs, specs, specs),
        out_specs=out_specs,
    )

    expected = jax.jit(functools.partial(measured, numbers=numbers))(*trees)
    assert np.any(expected["stack"].channel_projected)
    chex.assert_trees_all_close(
        jax.device_get(jax.jit(mapped)(*map(copies, trees))),
        jax.device_get(copies(expected)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_measuring_parts_without_their_specs(name):
    """Also of what is never projected, as it has a norm."""
    params = {name: jnp.ones((8, 8))}

    def norms(params, specs):
        mapped = jax.shard_map(
            lambda params: measure(params, params, partition_specs=specs).scalars(),
            mesh=steps.make_mesh((8,)),
            in_specs=P("x"),
            out_specs=P(),
        )
        return jax.jit(mapped)(params)

    assert float(norms(params, P("x"))[f"{name}/weight_norm"]) == pytest.approx(8)
    with pytest.raises(ValueError, match=f"{name}, an array of .* mesh axes x, but"):
        norms(params, None)
    with pytest.raises(ValueError, match="the same all along the mesh axes x"):
        jax.shard_map(
            lambda params: measure(params, params, partition_specs=P("x")).scalars(),
            mesh=steps.make_mesh((8,)),
            in_specs=P(),
            out_specs=P(),
        )(params)


@pytest.mark.parametrize(
    ("spec", "at_most"),
    [
        (P(), 0),
        (P("x"), 1),
        (P(None, ("x", "y")), 1),
        (P("y", "x"), 2),
    ],
)
def test_collectives(spec, at_most):
    """One for the channels that are cut, one for the layer, whatever the depth."""
    mesh = steps.make_mesh((4, 2))
    assert count_collectives(Spec(0, 1), (16, 8), spec, mesh) == at_most


def count_collectives(dimension_numbers, shape, spec, mesh, leaves=3):
    """In the compiled projection of some leaves."""
    tx = scale_by_projection(
        weight_decay=0.1, dimension_numbers=dimension_numbers, partition_specs=spec
    )
    tree = [jnp.ones(shape)] * leaves

    def update(updates, grad, params):
        return tx.update(updates, tx.init(params), params, grad=grad)[0]

    mapped = jax.shard_map(update, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec)
    program = jax.jit(mapped).lower(tree, tree, tree).compile().as_text()
    return sum(" all-reduce(" in line for line in program.splitlines())


def test_outside_of_shard_map_specs_do_nothing():
    """The same optimizer is used on whole parameters, for example to test it."""
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    plain = adamp(0.1)
    specified = adamp(0.1, partition_specs={"kernel": P("x", "y"), "bias": None})

    programs = [
        jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
        for tx in (plain, specified)
    ]

    assert programs[0] == programs[1]


def test_accumulated_gradients():
    """`MultiSteps` traces the update once more, and must see the same parts."""
    whole = steps.whole(adamp)
    spec = {"kernel": P("x", "y")}
    tx = optax.MultiSteps(
        steps.make_optimizer(adamp, Spec(0, 1), partition_specs=spec), 2
    ).gradient_transformation()
    params = {"kernel": jnp.asarray(whole.params[0][KERNEL])}
    grads = [{"kernel": grads[KERNEL]} for grads in whole.grads for _ in range(2)]

    run = run_parts(tx, params, grads, spec, steps.make_mesh((4, 2)))

    for updated, expected in zip(list(run)[1::2], whole.params[1:], strict=True):
        np.testing.assert_allclose(
            updated["kernel"], expected[KERNEL], **steps.TOLERANCE
        )


def test_arrays_of_numpy_are_whole_on_every_device():
    """They may be constants of the mapped function, which shard_map does not see."""
    kernel = np.ones((4, 3), "f4")
    tx = scale_by_projection(dimension_numbers=Spec(0, 1), partition_specs=P())

    def update(grad):
        updates, _ = tx.update(grad, tx.init(kernel), kernel, grad=grad)
        return updates

    mapped = jax.shard_map(
        update, mesh=steps.make_mesh((8,)), in_specs=P(), out_specs=P()
    )
    grad = np.arange(12, dtype="f4").reshape(4, 3)
    chex.assert_trees_all_close(jax.jit(mapped)(grad), update(grad), rtol=1e-6)
