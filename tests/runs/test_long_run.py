"""100,000 steps: norms stay what the paper says, and neither memory nor programs grow.

Lemma 2.1, for a weight w that is projected and decays: its update p loses the radial
part, which leaves the tangent q, orthogonal to w and so to the decay along it:

    ||w_{t+1}||^2 = (1 - rate * decay * wd_ratio)^2 ||w_t||^2 + rate^2 ||q_t||^2.

Whatever a step leaves or rounds along w would add up.
"""

import functools
import pathlib
import resource
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_adamp import adamp, sgdp
from training import standardize

pytestmark = pytest.mark.nightly

CHUNKS, CHUNK_STEPS, BATCH_SIZE = 100, 1000, 8
STEPS = CHUNKS * CHUNK_STEPS
WARM = 10  # Chunks after which nothing may grow.
WD_RATIO = 0.1

# With u, half the spacing of float32 at one, each number w_i of a new weight is off by
# a d_i of at most u |w_i|, as often up as down. That changes ||w||^2 by 2 sum(w_i d_i),
# with a standard deviation of at most 2 u ||w||^2 / sqrt(3), and sqrt(STEPS) times as
# much after all steps. The rounding of the step itself counts for less, as the step is
# that much shorter than the weight. Five standard deviations are 1.1e-4; if all steps
# erred in one direction, it would be 1.2e-2.
UNIT_ROUNDOFF = float(jnp.finfo(jnp.float32).eps) / 2
TOLERANCE = 5 * 2 * UNIT_ROUNDOFF * (STEPS / 3) ** 0.5


class Setting(NamedTuple):
    """What makes the updates of an optimizer, and its hyperparameters."""

    base: optax.GradientTransformation
    rate: float
    weight_decay: float
    decay: float  # What becomes of `weight_decay` in the formula.


# Without decay the norms grow severalfold, with it they level off.
SETTINGS = {
    adamp: Setting(optax.scale_by_adam(), 0.02, 0.02, decay=0.02),
    sgdp: Setting(optax.trace(0.9), 0.05, 0.002, decay=0.002 / (1 - 0.9)),
}
with_both_optimizers = pytest.mark.parametrize("optimizer", SETTINGS)

SHAPES = {"channels": (5, 8), "layer": (8, 6), "head": (6, 3)}
# The axes along one vector of what is projected: all but the head feed a normalization.
VECTORS = {"channels": (-2,), "layer": (-2, -1)}


def loss_fn(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(standardize(inputs @ params["channels"], axis=0))
    features = standardize(hidden @ params["layer"], axis=-1)
    return jnp.mean((features @ params["head"] - targets) ** 2)


def make_problem():
    """Params, and the batches of a chunk, so noisy that no gradient vanishes."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(CHUNK_STEPS, BATCH_SIZE, SHAPES["channels"][0]))
    targets = rng.normal(size=(CHUNK_STEPS, BATCH_SIZE, SHAPES["head"][1]))
    targets += np.tanh(inputs[..., : targets.shape[-1]])
    params = {name: rng.normal(size=shape) / 2 for name, shape in SHAPES.items()}
    return optax.tree.cast((params, (inputs, targets)), jnp.float32)


def projected(tree):
    return {name: tree[name] for name in VECTORS}


def squared_length(array, axes):
    return (array**2).sum(axes, keepdims=True)


def squared_norms(params):
    return {
        name: squared_length(np.asarray(params[name], np.float64), axes)
        for name, axes in VECTORS.items()
    }


def tangent(weight, update, axes):
    """The update without its radial part."""
    along = (weight * update).sum(axes, keepdims=True)
    return update - weight * along / squared_length(weight, axes)


class History(NamedTuple):
    """Two runs, without decay and with it: what there was before and after each chunk.

    Attributes:
      norms: Squared norms of the vectors, each (2, ...).
      expected: The same by the lemma.
      finite: Whether all losses of the chunk were.
      arrays: How many live.
      memory: The resident set, in bytes.
      carry: Params and state in the end.
      programs: How many were compiled.
    """

    norms: list[Any]
    expected: list[Any]
    finite: list[bool]
    arrays: list[int]
    memory: list[int]
    carry: Any
    programs: int


@functools.cache
def run(optimizer):
    base, rate, weight_decay, decay = SETTINGS[optimizer]

    def step(weight_decay, carry, batch):
        params, state, base_state = carry
        tx = optimizer(rate, weight_decay=weight_decay, wd_ratio=WD_RATIO)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        plain, base_state = base.update(projected(grads), base_state)
        growth = {
            name: squared_length(rate * tangent(params[name], plain[name], axes), axes)
            for name, axes in VECTORS.items()
        }
        carry = optax.apply_updates(params, updates), state, base_state
        return carry, (loss, growth)

    @jax.jit
    def run_chunk(carry, weight_decays, batches):
        return jax.vmap(
            lambda carry, weight_decay: jax.lax.scan(
                functools.partial(step, weight_decay), carry, batches
            )
        )(carry, weight_decays)

    weight_decays = jnp.array([0.0, weight_decay])
    kept = (1 - rate * np.array([0.0, decay]) * WD_RATIO) ** 2
    # What of a step's growth is left at the end of its chunk.
    left = kept[:, None] ** np.arange(CHUNK_STEPS)[::-1]
    params, batches = make_problem()
    carry = params, optimizer(rate).init(params), base.init(projected(params))
    carry = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), carry)
    norms = [squared_norms(carry[0])]
    expected, finite, arrays, memory = [*norms], [], [], []
    for _ in range(CHUNKS):
        carry, (loss, growth) = run_chunk(carry, weight_decays, batches)
        finite.append(bool(jnp.isfinite(loss).all()))
        norms.append(squared_norms(carry[0]))
        expected.append(
            {
                name: kept[:, None, None] ** CHUNK_STEPS * before
                + np.einsum("ds,ds...->d...", left, np.asarray(growth[name]))
                for name, before in expected[-1].items()
            }
        )
        del loss, growth
        arrays.append(len(jax.live_arrays()))
        memory.append(resident_memory())
    programs = run_chunk._cache_size()
    return History(norms, expected, finite, arrays, memory, carry, programs)


def resident_memory():
    """In bytes; zero where it cannot be told."""
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * resource.getpagesize()


@with_both_optimizers
@pytest.mark.parametrize("name", VECTORS)
def test_norms_grow_by_the_lengths_of_the_projected_updates(name, optimizer):
    history = run(optimizer)
    norms, expected = (
        np.stack([squares[name] for squares in list_of_squares])
        for list_of_squares in (history.norms, history.expected)
    )
    largest = np.maximum.accumulate(norms)
    assert np.all(np.abs(norms - expected) <= TOLERANCE * largest)
    # There was something to get wrong: growth without decay, and with it an end of it.
    undecayed, decayed = np.moveaxis(norms, 1, 0)
    assert np.all(undecayed[-1] > 3 * undecayed[0])
    assert np.all(decayed[-1] < undecayed[-1] / 2)


@with_both_optimizers
def test_all_stays_finite(optimizer):
    history = run(optimizer)
    assert all(history.finite)
    chex.assert_tree_all_finite(history.carry)


@with_both_optimizers
def test_memory_does_not_grow(optimizer):
    history = run(optimizer)
    assert history.arrays[-1] <= history.arrays[WARM]
    # The allocator takes a few MiB at times; 190 bytes lost in each step would be more.
    assert history.memory[-1] - history.memory[WARM] < 2**24


@with_both_optimizers
def test_one_program_for_all_steps(optimizer):
    assert run(optimizer).programs == 1
