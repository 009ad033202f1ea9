"""Stax, JAX's own example: params in nested tuples, without a single name."""

import jax
import jax.numpy as jnp
import pytest
from jax.example_libraries import stax

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, normal

pytest.importorskip("haliax", reason='needs `pip install -e ".[zoo]"`')


def test_residual_network():
    block = stax.serial(
        stax.Conv(6, (3, 3), padding="SAME"),
        stax.BatchNorm(),
        stax.Relu,
        stax.Conv(4, (3, 3), padding="SAME"),
    )
    init, apply = stax.serial(
        stax.Conv(4, (3, 2)),
        stax.FanOut(2),
        stax.parallel(block, stax.Identity),
        stax.FanInSum,
        stax.ConvTranspose(5, (2, 2), strides=(2, 2)),
        stax.AvgPool((2, 2)),
        stax.Flatten,
        stax.Dense(3),
        stax.LogSoftmax,
    )
    _, params = drawn(lambda key: init(key, (2, 8, 8, 3)), jax.random.key(0))
    x = normal(2, 8, 8, 3)

    def loss(params, x):
        return -jnp.mean(apply(params, x)[:, 0])

    conv = ((0, 1, 2), (3,))  # (height, width, in, out)
    layout = layouts.from_function(loss, params, x)
    check_axes(
        layout,
        params,
        {
            "0/0": conv,
            "0/1": None,  # (1, 1, 1, out)
            "2/0/0/0": conv,
            "2/0/0/1": None,
            "2/0/1/*": None,
            "2/0/3/0": conv,
            "2/0/3/1": None,
            "4/0": conv,  # transposed, but by name alone: the inputs come first
            "4/1": None,
            "7/0": ((0,), (1,)),
            "7/1": None,
        },
    )
    check_loss_falls(lambda p: loss(p, x), params, layout)
