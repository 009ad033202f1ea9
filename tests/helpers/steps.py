"""Steps of the package on drawn cases, compiled once per layout and dtype."""

import functools
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_adamp import scale_by_projection
from precision import float64


@functools.partial(jax.jit, static_argnums=0)
def _step(spec, update, grad, weight, hyperparameters):
    tx = scale_by_projection(**hyperparameters, dimension_numbers=spec)
    # Bare arrays: a spec at a vector's own place is used, one above would pass it over.
    return tx.update(update, tx.init(weight), weight, grad=grad)[0]


def in_precision_of(dtype):
    return float64() if jnp.dtype(dtype) == jnp.float64 else nullcontext()


def step(layout, update, grad, weight, *, dtype="float64", view="auto", **settings):
    """The projected update with its decay; hyperparameters are traced."""
    with in_precision_of(dtype):
        arrays = [jnp.asarray(array, dtype) for array in (update, grad, weight)]
        return np.asarray(_step(layout.spec(view), *arrays, settings))


def step_case(case, **changes):
    return step(case.layout, *case.arrays, **{**case.hyperparameters, **changes})


def sgdw(learning_rate, momentum, nesterov, weight_decay):
    """The decay is decoupled, unlike that of `optax.sgd`."""
    return optax.chain(
        optax.trace(momentum, nesterov),
        optax.add_decayed_weights(weight_decay / (1 - momentum)),
        optax.scale_by_learning_rate(learning_rate),
    )
