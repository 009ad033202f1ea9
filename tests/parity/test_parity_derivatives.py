"""Derivatives through a step: those of PyTorch through the published formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import scale_by_projection
from precision import float64

torch = pytest.importorskip(
    "torch", reason='needs torch: pip install -e ".[parity]"', exc_type=ImportError
)

EPS, DECAY, RATIO = 0.1, 0.3, 0.1


def published(update, weight, view):
    """As in the package `adamp`, with the view given; the first axis is the output."""
    axes = {"channel": (1,), "layer": (0, 1)}
    if view == "none":
        return update + DECAY * weight
    unit = weight / (weight.norm(dim=axes[view], keepdim=True) + EPS)
    radial = (unit * update).sum(dim=axes[view], keepdim=True)
    return update - unit * radial + DECAY * RATIO * weight


@pytest.mark.parametrize("zeros", ["nothing", "a channel", "all"])
@pytest.mark.parametrize("view", ["channel", "layer", "none"])
def test_derivatives(view, zeros):
    rng = np.random.default_rng(0)
    update, weight, cotangent = rng.normal(size=(3, 4, 3))
    if zeros != "nothing":
        weight[0 if zeros == "a channel" else slice(None)] = 0

    theirs = [torch.tensor(array, requires_grad=True) for array in (update, weight)]
    (published(*theirs, view) * torch.tensor(cotangent)).sum().backward()

    tx = scale_by_projection(
        0.0,
        RATIO,
        EPS,
        DECAY,
        dimension_numbers=Spec(1, 0, "auto" if view == "none" else view),
    )

    def step(update, weight):
        stepped, _ = tx.update(update, tx.init(weight), weight, grad=update)
        return jnp.sum(stepped * cotangent)

    with float64():
        ours = jax.grad(step, (0, 1))(jnp.asarray(update), jnp.asarray(weight))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other.grad.numpy(), rtol=1e-10, atol=1e-12)
