"""What drawn cases found, in the package or in its tests, by name."""

import jax.numpy as jnp
import numpy as np

import reference
from drawn import Layout
from optax_adamp import ProjectionDimensionNumbers, sgdp
from steps import step

DENSE = Layout((3, 2), (0,), (1,))
SETTINGS = {"delta": 0.5, "wd_ratio": 0.0, "eps": 0.0, "weight_decay": 1.0}


def test_a_channel_without_direction_rejects_the_channel_view():
    """Its cosine is NaN, which the maximum over channels hid in the reference.

    As a whole the layer has a direction: it is orthogonal to its gradient.
    """
    u = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    g = np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
    w = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    with np.errstate(invalid="ignore"):
        expected, views = reference.decayed_projection(
            u, g, w, DENSE.reduction, DENSE.output, **SETTINGS
        )
    assert views == ["layer"]
    np.testing.assert_allclose(step(DENSE, u, g, w, **SETTINGS), expected)


def test_a_signaling_nan_stays_in_its_place():
    """NumPy warns of those of bfloat16; the entries beside it are finite."""
    u = np.ones((3, 2), jnp.bfloat16)
    u.view(np.uint16)[0, 0] = 0x7F81
    g, w = np.zeros((3, 2)), np.ones((3, 2))
    actual = step(DENSE, u, g, w, dtype="bfloat16", **SETTINGS).astype("float32")
    assert np.isnan(actual[0, 0])
    assert np.isfinite(actual.ravel()[1:]).all()


def test_a_spec_above_a_vector_passes_it_over():
    """One at its own place makes a channel of it."""
    spec = ProjectionDimensionNumbers(0, ())
    params, grads = [jnp.array([2.0, -1.0])], [jnp.array([1.0, 2.0])]
    for specs, ratio in ((spec, 1.0), ([spec], 0.5)):
        tx = sgdp(1.0, 0.0, weight_decay=1.0, wd_ratio=0.5, dimension_numbers=specs)
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates[0], -grads[0] - ratio * params[0])
