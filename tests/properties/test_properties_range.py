"""Any bit pattern of four dtypes: from subnormals to the largest float, and beyond."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from drawn import Layout, is_long_run
from optax_adamp import adamp, sgdp
from steps import in_precision_of, sgdw, step

DTYPES = ("float16", "bfloat16", "float32", "float64")
with_every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Two batch elements: what one of them holds does not hide the other.
LAYOUT = Layout((2, 3, 2), (1,), (2,))
STEPS = 3


def is_finite(array):
    # NumPy's bfloat16 warns of signaling NaNs.
    with np.errstate(invalid="ignore"):
        return np.isfinite(array)


def numbers(dtype, *, finite=False, shape=LAYOUT.shape):
    """Arrays of bit patterns, which are spread evenly over the exponents."""
    dtype = jnp.dtype(dtype)
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"uint{bits}")
    info = jnp.finfo(dtype)
    special = [0.0, 1.0, info.max, info.tiny, info.smallest_subnormal]
    special = [int(np.array(x, dtype).view(unsigned)) for x in special]
    sign = 1 << (bits - 1)
    pattern = st.one_of(
        st.sampled_from([*special, *(sign | x for x in special)]),
        st.integers(0, 2 * sign - 1),
    )

    def to_number(patterns):
        array = patterns.view(dtype)
        return np.where(is_finite(array), array, info.max) if finite else array

    return npst.arrays(unsigned, shape, elements=pattern).map(to_number)


HYPERPARAMETERS = st.fixed_dictionaries(
    {
        "delta": st.sampled_from([0.1, 0.0, 3.0, np.inf]),
        "wd_ratio": st.sampled_from([0.1, 0.0, 1.0, 2.0]),
        "eps": st.sampled_from([1e-8, 0.0, 1e-30, 1.0]),
        "weight_decay": st.sampled_from([0.0, 0.1, 1.0, 1e3]),
    }
)


@with_every_dtype
@given(st.data(), HYPERPARAMETERS, st.sampled_from(["auto", "channel", "layer"]))
def test_a_step_is_finite_where_the_base_update_is(dtype, data, hyperparameters, view):
    """And only there, whatever gradient and weight hold, NaN and infinity included."""
    u, g, w = (data.draw(numbers(dtype)) for _ in range(3))
    actual = step(LAYOUT, u, g, w, dtype=dtype, view=view, **hyperparameters)
    assert actual.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(is_finite(actual), is_finite(u))


OPTIMIZERS = {
    "adamp": (
        functools.partial(adamp, dimension_numbers=LAYOUT.spec()),
        lambda delta, wd_ratio, **shared: optax.adamw(**shared),
    ),
    "sgdp": (
        functools.partial(sgdp, dimension_numbers=LAYOUT.spec()),
        lambda delta, wd_ratio, eps, **shared: sgdw(**shared, momentum=0.9),
    ),
}
# With it each is compiled once more.
NESTEROV = st.booleans() if is_long_run() else st.just(False)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(make, nesterov, hyperparameters, grads, weights):
    """The updates for given gradients and weights (steps, ...)."""
    tx = make(**hyperparameters, nesterov=nesterov)

    def update(state, grad_and_weight):
        grad, weight = grad_and_weight
        updates, state = tx.update(grad, state, weight)
        return state, updates

    return jax.lax.scan(update, tx.init(weights[0]), (grads, weights))[1]


@with_every_dtype
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(data=st.data(), drawn=HYPERPARAMETERS, lr=st.floats(0, 1), nesterov=NESTEROV)
def test_updates_are_finite_where_the_base_optimizers_are(
    optimizer, dtype, data, drawn, lr, nesterov
):
    """For learning rates to 1, which cannot push what is finite out of range."""
    shape = (STEPS, *LAYOUT.shape)
    with in_precision_of(dtype):
        arrays = [
            jnp.asarray(data.draw(numbers(dtype, finite=True, shape=shape)))
            for _ in range(2)
        ]
        drawn = {**drawn, "learning_rate": lr}
        ours, bases = (
            np.asarray(run(make, nesterov, drawn, *arrays))
            for make in OPTIMIZERS[optimizer]
        )
    assert ours.dtype == bases.dtype
    assert np.all(is_finite(ours) | ~is_finite(bases))


@given(
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
    st.integers(-50, 50),
    st.sampled_from([0.1, 0.5, 1.0, 2.0]),
)
def test_scaling_a_gradient_in_range_changes_no_decision(dtype, seed, exponent, delta):
    """Powers of two move no digit, as long as squares stay in the range of the sums."""
    exponent = max(min(exponent, 5), -5) if dtype == "float16" else exponent
    rng = np.random.default_rng(seed)
    u, g, w = rng.normal(size=(3, *LAYOUT.shape))
    u, g, w = (np.asarray(x, jnp.dtype(dtype)) for x in (u, np.rint(4 * g) / 4, w))
    fixed = {"delta": delta, "wd_ratio": 0.3, "eps": 0.0, "weight_decay": 0.5}
    plain, scaled = (
        step(LAYOUT, u, grad, w, dtype=dtype, **fixed)
        for grad in (g, g * np.asarray(2.0**exponent, g.dtype))
    )
    np.testing.assert_array_equal(plain, scaled)
