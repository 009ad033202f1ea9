"""The paper's own figures and identities (Heo et al., 2021)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_adamp
from precision import float64

# In float64, eps is the only thing between the identities of the paper and the code.
EPS = 1e-30


def run(tx, loss, w, steps):
    """Losses before each step, weights after it, raw gradients and the tx's states."""

    def step(carry, _):
        w, state = carry
        value, grad = jax.value_and_grad(loss)(w)
        updates, state = tx.update(grad, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (value, w, grad, state)

    _, history = jax.lax.scan(step, (w, tx.init(w)), length=steps)
    return history


def toy(w):
    """The 2-D toy of the project page: one channel, the optimum at (0, -1)."""
    return (1 + w[1, 0] / jnp.linalg.norm(w)) ** 2


# Momentum: (GDM, SGDP) at step 50, 75 and 499, then their norms after the last step.
TOY = {
    0.90: ("1.7578 1.3491", "0.1320 0.0057", "0.0018 0.0000", "2.93 1.12"),
    0.95: ("0.8556 0.3072", "0.1070 0.0035", "0.0043 0.0000", "5.67 1.14"),
    0.99: ("0.5291 0.0976", "0.1098 0.0097", "0.0153 0.0000", "27.87 1.15"),
}


def run_toy(tx):
    with float64():
        w0 = jnp.array([[1e-3], [1.0]])
        losses, weights, *_ = jax.jit(lambda: run(tx, toy, w0, 500))()
        return losses, np.linalg.norm(weights[-1])


@pytest.mark.parametrize("momentum", TOY)
def test_two_dimensional_toy(momentum):
    columns = [
        run_toy(tx)
        for tx in (
            optax.sgd(0.01, momentum=momentum),
            optax_adamp.sgdp(0.01, momentum=momentum),
        )
    ]
    rows = [" ".join(f"{loss[t]:.4f}" for loss, _ in columns) for t in (50, 75, 499)]
    rows.append(" ".join(f"{norm:.2f}" for _, norm in columns))
    assert tuple(rows) == TOY[momentum]


def test_two_dimensional_toy_without_momentum():
    for tx in (optax.sgd(0.01), optax_adamp.sgdp(0.01, momentum=None)):
        losses, norm = run_toy(tx)
        assert f"{losses[499]:.4f} {norm:.2f}" == "0.0086 1.02"


def batch_norm_loss(w):
    """A layer before batch normalization: each column of w is scale-invariant."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(32, w.shape[0])))
    targets = jnp.asarray(rng.normal(size=(32, w.shape[1])))
    outputs = inputs @ w
    normalized = (outputs - outputs.mean(0)) / outputs.std(0)
    return jnp.mean((jax.nn.gelu(normalized) - targets) ** 2)


RATE, STEPS = 0.3, 60


def run_layer(tx):
    with float64():
        w0 = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))
        _, weights, grads, states = jax.jit(
            lambda: run(tx, batch_norm_loss, w0, STEPS)
        )()
        trace = optax.tree.get(states, "trace", default=grads)
        weights = np.concatenate([w0[None], weights])
        return weights, np.asarray(grads), np.asarray(trace)


def squared(array):
    """Squared norms of the channels."""
    return np.sum(array**2, axis=-2)


def assert_identity(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "tx", [optax.sgd(RATE), optax_adamp.sgdp(RATE, None, eps=EPS)], ids=["sgd", "sgdp"]
)
def test_lemma_2_1_growth_under_gradient_descent(tx):
    w, g, _ = run_layer(tx)
    assert_identity(squared(w[1:]), squared(w[:-1]) + RATE**2 * squared(g))


@pytest.mark.parametrize(
    "momentum", [pytest.param(0.5, marks=pytest.mark.nightly), 0.9]
)
@pytest.mark.parametrize(
    "make",
    [optax.sgd, lambda rate, momentum: optax_adamp.sgdp(rate, momentum, delta=0)],
    ids=["sgd", "sgdp that projects nothing"],
)
def test_lemma_2_2_growth_under_momentum(make, momentum):
    w, _, p = run_layer(make(RATE, momentum))
    past = np.zeros(p.shape[2])  # The sum over k < t of momentum^(t-k) ||p_k||^2.
    for t in range(STEPS):
        growth = RATE**2 * (squared(p[t]) + 2 * past)
        assert_identity(squared(w[t + 1]), squared(w[t]) + growth)
        past = momentum * (past + squared(p[t]))


@pytest.mark.parametrize(
    "momentum", [pytest.param(0.5, marks=pytest.mark.nightly), 0.9]
)
def test_projection_restores_lemma_2_1(momentum):
    w, _, p = run_layer(optax_adamp.sgdp(RATE, momentum, eps=EPS))
    projected = p - along(w[:-1], p)
    assert_identity(squared(w[1:]), squared(w[:-1]) + RATE**2 * squared(projected))
    # Without the projection the weights grow by more: the identity is its doing.
    plain, *_ = run_layer(optax.sgd(RATE, momentum))
    growth, plain_growth = (squared(end[-1]) - squared(w[0]) for end in (w, plain))
    assert np.all(plain_growth > 2 * growth)


def along(w, u):
    """The part of each channel of u along that of w."""
    return w * np.sum(w * u, axis=-2, keepdims=True) / squared(w)[..., None, :]


@pytest.mark.parametrize("make", [optax_adamp.adamp, optax_adamp.sgdp])
def test_proposition_3_1_same_geodesic(make):
    """From any state, the plain step is on the great circle of w and our step.

    So both turn the weight in the same direction, by different angles.
    """
    weights, *_ = run_layer(make(RATE, eps=EPS))
    plain, projecting = make(RATE, eps=EPS, delta=0), make(RATE, eps=EPS)

    @jax.jit
    def steps_of_both(state, w):
        grad = jax.grad(batch_norm_loss)(w)
        plain_step, _ = plain.update(grad, state, w)
        return plain_step, *projecting.update(grad, state, w)

    with float64():
        state = projecting.init(weights[0])
        for w in weights[:20]:
            *both_steps, state = steps_of_both(state, w)
            plain_step, our_step = map(np.asarray, both_steps)
            tangent = our_step - along(w, our_step)
            outside = plain_step - along(w, plain_step) - along(tangent, plain_step)
            assert np.all(squared(outside) <= (1e-10) ** 2 * squared(plain_step))
            assert np.all(np.sum(tangent * plain_step, axis=-2) > 0)
        # The momentum of the last step had a radial part, and ours has none.
        assert np.max(abs(along(w, plain_step))) > 1e-3 * np.max(abs(plain_step))
        assert np.max(abs(along(w, our_step))) < 1e-12 * np.max(abs(our_step))
