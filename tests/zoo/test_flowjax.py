"""FlowJAX: flows run by a scan, their kernels masked and normalized first."""

import equinox as eqx
import jax
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import normal

NEEDS = 'needs `pip install -e ".[zoo]"`'
paramax = pytest.importorskip("paramax", reason=NEEDS)
distributions = pytest.importorskip("flowjax.distributions", reason=NEEDS)
flows = pytest.importorskip("flowjax.flows", reason=NEEDS)

KERNEL = ((2,), (1,))  # (flows, out, in)


def check(flow, **kwargs):
    base = paramax.non_trainable(distributions.StandardNormal((3,)))
    model = flow(jax.random.key(0), base_dist=base, flow_layers=2, **kwargs)
    params, static = eqx.partition(
        model,
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )
    x = normal(4, 3)

    def loss(params, x):
        return -paramax.unwrap(eqx.combine(params, static)).log_prob(x).mean()

    layout = layouts.from_function(loss, params, x)
    return layout, params, lambda p: loss(p, x)


def test_coupling():
    layout, params, loss = check(flows.coupling_flow, nn_width=5)
    check_axes(layout, params, {"*/layers/*/weight": KERNEL, "*/layers/*/bias": None})
    check_loss_falls(loss, params, layout)


def test_masked_autoregressive():
    layout, params, loss = check(flows.masked_autoregressive_flow, nn_width=5)
    kernels = (
        "*/masked_autoregressive_mlp/layers/*/weight/args/1"  # where(mask, this, 0)
    )
    check_axes(layout, params, {kernels: KERNEL, "*/layers/*/bias": None})
    check_loss_falls(loss, params, layout)


def test_block_neural_autoregressive():
    layout, params, loss = check(flows.block_neural_autoregressive_flow, nn_block_dim=2)
    # The log-determinant takes the blocks on the diagonal out of the same kernels.
    expected = {
        "*/weight/weight/args/0": KERNEL,
        "*/weight/scale/args/0": None,  # (flows, out, 1)
        "*/bias": None,
    }
    check_axes(layout, params, expected)
    check_loss_falls(loss, params, layout)
