"""Steps exported once for all sizes: `jax.export` with symbolic shapes."""

import jax
import numpy as np
import optax
import pytest
from jax import export

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp, layouts, measure, scale_by_projection, sgdp

DIMENSION_NUMBERS = {
    "default": None,
    "output first": layouts.output_first,
    "spec for all": Spec(0, -1),
    "stacked": layouts.stacked(layouts.output_last, axis=1),
    "exact spec": {"w": Spec((0, 1), 2), "table": Spec(1, 0)},
}
NIGHTLY = pytest.mark.nightly


def draw(rows, columns):
    """A table large enough for an embedding, and gradients that pass in part."""
    rng = np.random.default_rng(0)
    shapes = {"w": (rows, 3, columns), "table": (rows, columns)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = jax.tree.map(lambda w: w * rng.normal(size=w.shape), params)
    return jax.tree.map(np.float32, (grads, params))


def symbolic(*trees):
    """The same trees of any number of rows and columns."""
    rows, columns = export.symbolic_shape("rows, columns")

    def shape(leaf):
        inner = leaf.shape[1:-1]
        return jax.ShapeDtypeStruct((rows, *inner, columns), leaf.dtype)

    return jax.tree.map(shape, trees)


@pytest.mark.parametrize("name", DIMENSION_NUMBERS)
@pytest.mark.parametrize("sizes", [(5, 4), pytest.param((2, 7), marks=NIGHTLY)])
def test_a_step_of_any_size(sizes, name):
    tx = scale_by_projection(
        1.5, weight_decay=0.1, dimension_numbers=DIMENSION_NUMBERS[name]
    )

    def update(grads, params):
        return tx.update(grads, tx.init(params), params, grad=grads)[0]

    arrays = draw(*sizes)
    exported = export.export(jax.jit(update))(*symbolic(*arrays))

    assert_close(exported.call(*arrays), update(*arrays))


def test_a_convolution_in_the_order_of_pytorch_with_a_window_of_any_size():
    """Its size speaks for or against stacked layers, in a table that no step reads."""
    tx = scale_by_projection(1.5, dimension_numbers=layouts.output_first)

    def update(grad, weight):
        return tx.update(grad, tx.init(weight), weight, grad=grad)[0]

    (size,) = export.symbolic_shape("size")
    kernel = jax.ShapeDtypeStruct((4, 3, size, size), np.float32)
    exported = export.export(jax.jit(update))(kernel, kernel)

    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(2, 4, 3, 5, 5)).astype(np.float32)
    assert_close(exported.call(*arrays), update(*arrays))


def assert_close(tree, expected):
    for leaf, other in zip(
        jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)


@NIGHTLY
@pytest.mark.parametrize("optimizer", [adamp, sgdp])
def test_the_optimizers_and_what_is_measured(optimizer):
    tx = optimizer(0.1, weight_decay=0.1)

    def step(grads, params):
        updates, _ = tx.update(grads, tx.init(params), params)
        measured = measure(grads, params, updates=updates)
        return optax.apply_updates(params, updates), measured.scalars()

    exported = export.export(jax.jit(step))(*symbolic(*draw(5, 4)))

    arrays = draw(6, 3)
    assert_close(exported.call(*arrays), step(*arrays))
