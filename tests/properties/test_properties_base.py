"""With delta zero, the optimizers are those that they build on."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optax_adamp import adamp, sgdp
from steps import in_precision_of, sgdw

SHAPE, STEPS = (3, 2), 3
DECAY_RATES = st.floats(0, 0.99)
DTYPES = st.sampled_from(["float16", "bfloat16", "float32", "float64"])


OPTIMIZERS = {
    "adamp": (
        adamp,
        optax.adamw,
        {"b1": st.floats(0, 0.99), "b2": st.floats(0, 0.999)},
    ),
    "sgdp": (sgdp, sgdw, {"momentum": st.floats(0, 0.99), "nesterov": st.booleans()}),
}


def ulp(array, dtype):
    """The distance between numbers of a dtype at the size of those in an array."""
    info = jnp.finfo(dtype)
    size = np.maximum(np.abs(array), float(info.tiny))
    return 2.0 ** np.floor(np.log2(size)) * float(info.eps)


def updates_of(tx, grads, weights):
    """For given weights, so that all optimizers see the same."""
    state, steps = tx.init(weights[0]), []
    for grad, weight in zip(grads, weights, strict=True):
        updates, state = tx.update(grad, state, weight)
        steps.append(np.asarray(updates))
    return np.stack(steps)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(
    dtype=DTYPES,
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(*[st.integers(-3, 3)] * 2),
    lr=st.floats(1e-3, 1),
    decay=st.just(0.0) | st.floats(1e-3, 1),
    data=st.data(),
)
def test_without_delta_it_is_the_base_optimizer(
    optimizer, dtype, seed, exponents, lr, decay, data
):
    """To two units in the last place of the largest of update, decay and their sum.

    Update and decay may cancel, and each is rounded by itself in the base optimizer:
    hence not of their sum alone. Without decay to the last bit.
    """
    ours, bases, arguments = OPTIMIZERS[optimizer]
    drawn = data.draw(st.fixed_dictionaries(arguments))
    rng = np.random.default_rng(seed)
    with in_precision_of(dtype):
        grads, weights = (
            jnp.asarray(rng.normal(size=(STEPS, *SHAPE)) * 10.0**exponent, dtype)
            for exponent in exponents
        )
        actual, expected, undecayed = (
            updates_of(tx, grads, weights)
            for tx in (
                ours(lr, weight_decay=decay, delta=0.0, **drawn),
                bases(lr, weight_decay=decay, **drawn),
                bases(lr, weight_decay=0.0, **drawn),
            )
        )
    assert actual.dtype == expected.dtype == jnp.dtype(dtype)
    # The squares of small and large gradients leave the range of float16.
    finite = np.isfinite(expected.astype(np.float64))
    finite &= np.isfinite(undecayed.astype(np.float64))
    actual, expected, undecayed = (
        array[finite].astype(np.float64) for array in (actual, expected, undecayed)
    )
    if decay == 0:
        np.testing.assert_array_equal(actual, expected)
    terms = np.abs([undecayed, expected - undecayed, expected])
    assert np.all(np.abs(actual - expected) <= 2 * ulp(terms.max(axis=0), dtype))
