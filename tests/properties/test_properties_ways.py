"""However a drawn problem is run: the same steps, one compilation, no copies."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn import NAMED_LAYOUTS, Layout, is_long_run
from drawn_runs import (
    HYPERPARAMETERS,
    gradient,
    problems,
    train,
    without_dampening,
)
from optax_adamp import adamp, sgdp
from precision import float64
from training import with_both_optimizers, with_sgdp_nightly

# Where each case compiles there is time for a tenth of them.
compiling = settings(max_examples=max(2, settings().max_examples // 10))

# Every axis can be cut in eight.
LAYOUT = Layout((8, 16, 8), (1,), (2,))


def loop(optimizer, problem, hyperparameters):
    tx = optimizer(**hyperparameters, dimension_numbers=LAYOUT.spec())
    weight = problem.weight
    state = tx.init(weight)
    for raw in problem.raw:
        updates, state = tx.update(
            gradient(LAYOUT, problem, raw, weight), state, weight
        )
        weight = optax.apply_updates(weight, updates)
    return weight


compiled_loop = jax.jit(loop, static_argnums=0)


def scan(optimizer, problem, hyperparameters):
    return train(optimizer, False, LAYOUT, problem, hyperparameters)[-1]


@functools.partial(jax.jit, static_argnums=0)
def beside_another(optimizer, problem, hyperparameters):
    """And under other hyperparameters."""
    pairs = jax.tree.map(
        lambda x: jnp.stack([jnp.asarray(x), 0.7 * jnp.asarray(x)]),
        (problem, hyperparameters),
    )
    return jax.vmap(functools.partial(loop, optimizer))(*pairs)[0]


def sharded(kind, axis, optimizer, problem, hyperparameters):
    """Over eight devices along one axis of the weight."""
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(kind,))

    def cut(array):
        names = [None] * array.ndim
        position = axis + array.ndim - 3  # The gradients have steps before.
        if array.shape[position] > 1:
            names[position] = "devices"
        return jax.device_put(
            array,
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names)),
        )

    problem = jax.tree.map(cut, problem)
    weight = compiled_loop(optimizer, problem, hyperparameters)
    assert weight.sharding.is_equivalent_to(problem.weight.sharding, 3)
    return weight


AXIS_TYPES = jax.sharding.AxisType
WAYS = {
    "op by op": loop,
    "scan": scan,
    "vmap": beside_another,
    **{
        f"{kind.name} sharding of axis {axis}": functools.partial(sharded, kind, axis)
        for kind in (AXIS_TYPES.Auto, AXIS_TYPES.Explicit)
        for axis in range(3)
    },
}


# `tests/scale` cuts arrays every day.
WAYS_DRAWN = list(WAYS) if is_long_run() else list(WAYS)[:3]


@with_sgdp_nightly
@given(
    problem=problems(lambda: st.just(LAYOUT)),
    way=st.sampled_from(WAYS_DRAWN),
    data=st.data(),
)
def test_every_way_is_the_compiled_loop(optimizer, problem, way, data):
    drawn = data.draw(HYPERPARAMETERS[optimizer])
    with float64():
        # Two steps: each is compiled by itself where the loop is unrolled.
        problem = problem[1]._replace(raw=problem[1].raw[:2])
        problem = jax.tree.map(jnp.asarray, problem)
        expected = np.asarray(compiled_loop(optimizer, problem, drawn))
        actual = np.asarray(WAYS[way](optimizer, problem, drawn))
    atol = 1e-10 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=atol)


SMALL = Layout((3, 4, 2), (1,), (2,))


@functools.cache
def counted_update(optimizer):
    """A compiled update of what `inject_hyperparams` injects; counts its traces."""
    tx = optax.inject_hyperparams(optimizer)(
        0.1, weight_decay=0.1, dimension_numbers=SMALL.spec()
    )
    traces = []

    @jax.jit
    def update(grads, state, params):
        traces.append(None)
        return tx.update(grads, state, params)

    return tx, update, traces


@with_both_optimizers
@given(
    seed=st.integers(0, 2**32 - 1),
    intruder=st.sampled_from([0.0, np.nan, np.inf, 1e38, 1e-45]),
    data=st.data(),
)
def test_new_values_never_compile_anew(optimizer, seed, intruder, data):
    """Nor new hyperparameters, under `inject_hyperparams`."""
    tx, update, traces = counted_update(optimizer)
    drawn = data.draw(HYPERPARAMETERS[optimizer])
    rng = np.random.default_rng(seed)
    weight, grad, next_grad = rng.normal(size=(3, *SMALL.shape)).astype("f4")
    grad[0, 0, 0] = intruder
    _, state = update(grad, tx.init(weight), weight)
    for name, value in drawn.items():
        assert name in state.hyperparams
        state.hyperparams[name] = jnp.asarray(value, jnp.float32)
    update(next_grad, state, weight)
    assert len(traces) == 1


@pytest.mark.nightly
@compiling
@with_both_optimizers
@given(problem=problems(), nesterov=st.booleans(), data=st.data())
def test_no_tracer_leaks(optimizer, problem, nesterov, data):
    layout, problem = problem
    drawn = without_dampening(nesterov, data.draw(HYPERPARAMETERS[optimizer]))

    def last_norm(problem, hyperparameters):
        weights = train(optimizer, nesterov, layout, problem, hyperparameters)
        return jnp.sum(weights[-1] ** 2)

    pair = jax.tree.map(lambda x: np.stack([x, x]), problem)
    with jax.checking_leaks():
        jax.make_jaxpr(last_norm)(problem, drawn)
        jax.make_jaxpr(jax.grad(last_norm, argnums=(0, 1)))(problem, drawn)
        jax.make_jaxpr(jax.vmap(last_norm, in_axes=(0, None)))(pair, drawn)


@with_both_optimizers
@given(seed=st.integers(0, 2**32 - 1))
def test_no_array_stays_behind(optimizer, seed):
    """After steps whose results are dropped, as many arrays live as before.

    At once, without waiting for cycles to be collected.
    """
    tx = optimizer(0.1, weight_decay=0.1)
    weight, grad = (
        jnp.asarray(array, jnp.float32)
        for array in np.random.default_rng(seed).normal(size=(2, 3, 2))
    )
    state = tx.init(weight)
    tx.update(grad, state, weight)  # Constants of the first call may stay.
    before = len(jax.live_arrays())
    for _ in range(3):
        tx.update(grad, state, weight)
    assert len(jax.live_arrays()) <= before


def compile_donated(tx, params):
    """The text of a compiled training step that may reuse params and state."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)
    return compiled.compile().as_text()


BASES = {
    adamp: optax.adamw(0.1, weight_decay=0.1),
    sgdp: optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(1.0), optax.scale(-0.1)
    ),
}


@compiling
@with_sgdp_nightly
@given(leaves=st.lists(st.sampled_from(NAMED_LAYOUTS), min_size=1, max_size=3))
def test_donated_buffers_are_reused_as_by_the_base_optimizer(optimizer, leaves):
    """As many inputs become outputs, and no more of them are copied."""
    params = [np.ones(leaf.shape, "f4") for leaf in leaves]
    specs = [leaf.spec() for leaf in leaves]
    ours, bases = (
        compile_donated(tx, params)
        for tx in (
            optimizer(0.1, weight_decay=0.1, dimension_numbers=specs),
            BASES[optimizer],
        )
    )
    aliases = r"\{[\d, ]*\}: \(\d+, \{\}, (?:may|must)-alias\)"
    reused = len(re.findall(aliases, ours))
    assert reused == len(re.findall(aliases, bases)) >= 2 * len(leaves)
    assert count_copies(ours, params) <= count_copies(bases, params)


def count_copies(program, params):
    """Of whole leaves: XLA may copy sums, of which a batch element has a few."""
    shapes = {",".join(map(str, leaf.shape)) for leaf in params}
    copied = re.findall(r"= \w+\[([\d,]*)\]\S* copy(?:-start)?\(", program)
    return sum(shape in shapes for shape in copied)
