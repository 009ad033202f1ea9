"""Steps on Equinox's layers under `layouts.output_first`, as on PyTorch's."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from layout_layers import (
    assert_layer_steps_as_in_pytorch,
    draw,
    first,
    fit,
    per_layer,
    standardize,
)
from optax_adamp import ProjectionDimensionNumbers, layouts

pytestmark = pytest.mark.nightly

BATCH = 16


def key():
    return jax.random.key(0)


def check(module, loss_fn, cuts, dimension_numbers=layouts.output_first, **view):
    params, static = eqx.partition(module, eqx.is_inexact_array)
    assert_layer_steps_as_in_pytorch(
        lambda params: loss_fn(eqx.combine(params, static)),
        params,
        dimension_numbers,
        cuts,
        **view,
    )


LAYERS = {
    "Linear": (partial(eqx.nn.Linear, 5, 4), (5,)),
    "Conv1d": (partial(eqx.nn.Conv1d, 3, 4, 3), (3, 6)),
    "Conv2d": (partial(eqx.nn.Conv2d, 3, 4, (3, 2)), (3, 5, 6)),
    "Conv2d, grouped": (partial(eqx.nn.Conv2d, 4, 6, 3, groups=2), (4, 5, 5)),
    "Conv2d, depthwise": (partial(eqx.nn.Conv2d, 4, 4, 3, groups=4), (4, 5, 5)),
    "ConvTranspose2d": (partial(eqx.nn.ConvTranspose2d, 3, 4, 3), (3, 4, 5)),
    "ConvTranspose2d, grouped": (
        partial(eqx.nn.ConvTranspose2d, 4, 6, 3, groups=2),
        (4, 4, 5),
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer):
    make, shape = LAYERS[layer]
    module = make(key=key())
    inputs = draw(BATCH, *shape)

    def loss_fn(module):
        return fit(standardize(jax.vmap(module)(inputs), channels=(1,)))

    check(module, loss_fn, {"weight": first})


def test_embedding():
    """Each row is normalized by itself."""

    def loss_fn(module):
        return fit(standardize(jax.vmap(module)(jnp.arange(7)), channels=(0,)))

    check(eqx.nn.Embedding(7, 5, key=key()), loss_fn, {"weight": first})


def unit_rows(weight):
    return weight / jnp.linalg.norm(weight, axis=1, keepdims=True)


CELLS = {
    "LSTMCell": (eqx.nn.LSTMCell, 2),
    "GRUCell": (eqx.nn.GRUCell, 1),
}


@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell):
    """A row of the fused weights belongs to one gate of one unit."""
    make, states = CELLS[cell]
    module = make(5, 3, key=key())
    state = draw(BATCH, 3) if states == 1 else (draw(BATCH, 3), draw(BATCH, 3))

    def loss_fn(module):
        normed = eqx.tree_at(
            lambda cell: (cell.weight_ih, cell.weight_hh), module, replace_fn=unit_rows
        )
        return fit(jnp.stack(jax.tree.leaves(jax.vmap(normed)(draw(BATCH, 5), state))))

    check(module, loss_fn, {"weight_ih": first, "weight_hh": first})


def test_multihead_attention():
    """In- and out-projections, under weight normalization as in the paper."""
    projections = ["query_proj", "key_proj", "value_proj", "output_proj"]
    module = eqx.nn.MultiheadAttention(
        2,
        6,
        use_query_bias=True,
        use_key_bias=True,
        use_value_bias=True,
        use_output_bias=True,
        key=key(),
    )
    module = eqx.tree_at(
        lambda module: [getattr(module, name) for name in projections],
        module,
        replace_fn=eqx.nn.WeightNorm,
        is_leaf=lambda node: isinstance(node, eqx.nn.Linear),
    )
    sequence = draw(5, 6)

    def loss_fn(module):
        return fit(module(sequence, sequence, sequence))

    check(module, loss_fn, {f"{name}/layer/weight": first for name in projections})


WEIGHT_NORMED = {
    "Linear": (partial(eqx.nn.Linear, 5, 4), (5,)),
    "Conv2d": (partial(eqx.nn.Conv2d, 3, 4, 3), (3, 5, 5)),
}


@pytest.mark.parametrize("layer", WEIGHT_NORMED)
def test_weight_norm(layer):
    """The lengths of the channels, `g`, (out, 1, ...), are never projected."""
    make, shape = WEIGHT_NORMED[layer]
    module = make(key=key())
    inputs = draw(BATCH, *shape)

    def loss_fn(module):
        return fit(standardize(jax.vmap(module)(inputs), channels=(1,)))

    check(eqx.nn.WeightNorm(module), loss_fn, {"layer/weight": first})


def test_spectral_norm():
    """One number normalizes the whole weight."""
    linear = eqx.nn.Linear(5, 4, key=key())
    module, state = eqx.nn.make_with_state(eqx.nn.SpectralNorm)(
        linear, "weight", inference=True, key=key()
    )
    inputs = draw(BATCH, 5)

    def loss_fn(module):
        return fit(jax.vmap(lambda x: module(x, state)[0])(inputs))

    check(module, loss_fn, {"layer/weight": first}, view="layer")


class Block(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    activation: eqx.nn.PReLU

    def __init__(self, key):
        self.linear = eqx.nn.Linear(6, 6, key=key)
        self.norm = eqx.nn.LayerNorm(6)
        self.activation = eqx.nn.PReLU()

    def __call__(self, inputs):
        hidden = standardize(jax.vmap(self.linear)(inputs))
        return self.activation(jax.vmap(self.norm)(hidden))


def test_filter_vmap_of_layers():
    """Stacked biases and norms have two axes, and slopes one."""
    blocks = eqx.filter_vmap(Block)(jax.random.split(key(), 3))
    arrays, static = eqx.partition(blocks, eqx.is_array)

    def loss_fn(blocks):
        def apply(hidden, arrays):
            return eqx.combine(arrays, static)(hidden), None

        arrays = eqx.filter(blocks, eqx.is_array)
        return fit(jax.lax.scan(apply, draw(BATCH, 6), arrays)[0])

    assert arrays.norm.weight.shape == (3, 6)
    check(
        blocks,
        loss_fn,
        {"linear/weight": per_layer(first)},
        layouts.stacked(layouts.output_first),
    )


def test_norm_over_several_axes_needs_none():
    """Its weight looks like that of a linear layer."""
    module = eqx.nn.LayerNorm((4, 5))
    nowhere = jax.tree.map(lambda _: None, eqx.filter(module, eqx.is_array))

    read = layouts.output_first.read(("weight",), module.weight.shape)
    assert read.spec == ProjectionDimensionNumbers((1,), 0)
    check(module, lambda module: 0.0, {}, nowhere)
