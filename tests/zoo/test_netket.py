"""NetKet: wave functions with complex kernels, and with kernels shared by symmetry."""

import os

import jax
import jax.numpy as jnp
import pytest

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, normal

# Else importing NetKet would turn on double precision for all that runs after it.
os.environ["NETKET_ENABLE_X64"] = "0"
nk = pytest.importorskip("netket", reason='needs `pip install -e ".[zoo]"`')

SITES = 4
DENSE = ((0,), (1,))


def check(model, expected, *, falls=True, overrides=None):
    spins = jnp.sign(normal(6, SITES))
    params = drawn(model.init, jax.random.key(0), spins)["params"]

    def loss(params, spins):
        return jnp.mean(jnp.abs(model.apply({"params": params}, spins) - 1) ** 2)

    layout = layouts.from_function(loss, params, spins, overrides=overrides)
    check_axes(layout, params, expected)
    if falls:
        check_loss_falls(lambda p: loss(p, spins), params, layout)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_restricted_boltzmann_machine(dtype):
    check(
        nk.models.RBM(alpha=2, param_dtype=dtype),
        {"Dense/kernel": DENSE, "Dense/bias": None, "visible_bias": None},
        # JAX's gradient of complex numbers points uphill unless it is conjugated.
        falls=dtype == jnp.float32,
    )


def test_symmetric_machine():
    shifts = jnp.stack([jnp.roll(jnp.arange(SITES), i) for i in range(SITES)])
    symmetries = nk.utils.HashableArray(shifts)
    # (features, in, sites), spread over all shifts and then contracted
    check(
        nk.models.RBMSymm(symmetries=symmetries, alpha=2, param_dtype=jnp.float32),
        {"Dense/kernel": ((1, 2), (0,)), "Dense/bias": None, "visible_bias": None},
    )


def test_deep_symmetric_network():
    graph = nk.graph.Chain(SITES)
    net = nk.models.GCNN(
        symmetries=graph,
        layers=2,
        features=3,
        mode="irreps",
        param_dtype=jnp.float32,
        output_activation=jnp.tanh,
    )
    check(
        net,
        {
            "dense_symm/kernel": ((1, 2), (0,)),  # (features, in, sites)
            # (out, in, symmetries)
            "equivariant_layers_*/kernel": ((1, 2), (0,)),
            "*bias": None,
        },
        # They meet a basis that the module holds, a captured array as data may be.
        overrides={"equivariant_layers_*/kernel": Spec((1, 2), 0)},
    )


def test_autoregressive_network():
    hilbert = nk.hilbert.Spin(0.5, SITES)
    net = nk.models.ARNNDense(
        hilbert=hilbert, layers=2, features=3, param_dtype=jnp.float32
    )
    # Masked, then (sites * in, sites * out)
    check(net, {"*/kernel": DENSE, "*/bias": None})
