"""PDEquinox: emulators, one of which has a complex kernel for each frequency."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, normal

pdeqx = pytest.importorskip("pdequinox", reason='needs `pip install -e ".[zoo]"`')


def check(arch, dims, size, expected, **kwargs):
    model = drawn(arch, dims, 2, 3, key=jax.random.key(0), **kwargs)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    x = normal(2, 2, *[size] * dims)

    def loss(params, x):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - 1) ** 2)

    layout = layouts.from_function(loss, params, x)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, x), params, layout)


@pytest.mark.parametrize("dims", [1, 2])
def test_fourier_neural_operator(dims):
    # (parts of the spectrum, out, in, frequencies): a kernel for each frequency
    spectral = ((2,), (1,))
    convolution = (tuple(range(1, 2 + dims)), (0,))
    check(
        pdeqx.arch.ClassicFNO,
        dims,
        8,
        {
            "*/weights_real": spectral,
            "*/weights_imag": spectral,
            "*/weight": convolution,
            "*/bias": None,
        },
        hidden_channels=4,
        num_modes=3,
        num_blocks=2,
    )


def test_unet():
    check(
        pdeqx.arch.ClassicUNet,
        2,
        4,
        {
            "*conv*/weight": ((1, 2, 3), (0,)),  # (out, in, height, width)
            "*_sampling_blocks/*/weight": ((1, 2, 3), (0,)),  # transposed, too
            "*_sampling_blocks/*/bias": None,
            "projection/weight": ((1, 2, 3), (0,)),
            "projection/bias": None,
            "*norm*/*": None,
            "*conv*/bias": None,
        },
        hidden_channels=2,
        num_levels=1,
    )
