"""Equinox: models partitioned into arrays and the rest, outputs before inputs."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from equinox import nn

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

pytest.importorskip("haliax", reason='needs `pip install -e ".[zoo]"`')
KEY = jax.random.key(0)
LINEAR = ((1,), (0,))  # (out, in)
CONV = ((1, 2, 3), (0,))  # (out, in, height, width)


def check(build, apply, x, expected):
    """`apply(model, x)` has the outputs of one batch."""
    model = drawn(build)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x):
        return jnp.mean((apply(eqx.combine(params, static), x) - 1) ** 2)

    layout = layouts.from_function(loss, params, x)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, x), params, layout)


def each(model, x):
    return jax.vmap(model)(x)


def test_mlp():
    check(
        lambda: nn.MLP(5, 3, 7, 2, key=KEY),
        each,
        normal(4, 5),
        {"layers/*/weight": LINEAR, "layers/*/bias": None},
    )


def test_convolutions():
    def build():
        return nn.Sequential(
            [
                nn.Conv2d(3, 4, (3, 2), key=KEY),
                nn.GroupNorm(2, 4),
                nn.Lambda(nn.PReLU(0.25)),
                nn.Conv2d(4, 8, 3, groups=4, padding=1, key=KEY),
                nn.ConvTranspose2d(8, 5, (2, 3), stride=2, key=KEY),
                nn.AvgPool2d(2, 2),
                nn.Lambda(jnp.ravel),
                nn.Linear(5 * 6 * 7, 2, key=KEY),
            ]
        )

    check(
        build,
        each,
        normal(2, 3, 8, 8),
        {
            "layers/0/weight": CONV,
            "layers/0/bias": None,  # (out, 1, 1)
            "layers/1/*": None,
            "layers/2/*": None,
            "layers/3/weight": CONV,  # (out, in of a group, height, width)
            "layers/3/bias": None,
            "layers/4/weight": CONV,  # outputs first here, too
            "layers/4/bias": None,
            "layers/7/weight": LINEAR,
            "layers/7/bias": None,
        },
    )


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells(cell):
    def apply(model, x):
        start = jnp.zeros(4)
        if cell is nn.LSTMCell:
            start = (start, start)

        def step(state, x):
            state = model(x, state)
            return state, state

        return jax.vmap(lambda x: jax.lax.scan(step, start, x)[1])(x)

    def loss(model, x):
        states = apply(model, x)
        return states[0] if cell is nn.LSTMCell else states

    check(
        lambda: cell(3, 4, key=KEY),
        loss,
        normal(2, 5, 3),
        # All gates at once: (gates * size, in)
        {"weight_ih": LINEAR, "weight_hh": LINEAR, "bias*": None},
    )


class Block(eqx.Module):
    norm: nn.LayerNorm
    attention: nn.MultiheadAttention
    mlp_norm: nn.RMSNorm
    mlp: nn.MLP
    rotate: nn.RotaryPositionalEmbedding

    def __init__(self, key):
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(
            2, 6, qk_size=4, use_query_bias=True, key=key
        )
        self.mlp_norm = nn.RMSNorm(6)
        self.mlp = nn.MLP(6, 6, 9, 1, activation=jax.nn.gelu, key=key)
        self.rotate = nn.RotaryPositionalEmbedding(4)

    def __call__(self, x):
        y = jax.vmap(self.norm)(x)

        def heads(query, key, value):
            rotate = jax.vmap(self.rotate, in_axes=1, out_axes=1)
            return rotate(query), rotate(key), value

        x = x + self.attention(y, y, y, process_heads=heads)
        return x + jax.vmap(lambda y: self.mlp(self.mlp_norm(y)))(x)


class Decoder(eqx.Module):
    tokens: nn.Embedding
    blocks: Block
    head: nn.Linear

    def __init__(self):
        self.tokens = nn.Embedding(11, 6, key=KEY)
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(KEY, 3))
        self.head = nn.Linear(6, 4, use_bias=False, key=KEY)

    def __call__(self, tokens):
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def step(x, arrays):
            return eqx.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(step, jax.vmap(self.tokens)(tokens), arrays)
        return jax.vmap(self.head)(x)


def test_blocks_stacked_by_vmap_and_run_by_scan():
    stacked = ((2,), (1,))  # (layers, out, in)
    check(
        Decoder,
        each,
        integers(11, 2, 5),
        {
            "tokens/weight": ((1,), (0,)),  # (entries, features)
            "blocks/*norm/*": None,
            "blocks/attention/*_proj/weight": stacked,
            "blocks/attention/*_proj/bias": None,
            "blocks/mlp/layers/*/weight": stacked,
            "blocks/mlp/layers/*/bias": None,
            "head/weight": LINEAR,
        },
    )


def test_norm_over_two_axes():
    def build():
        return nn.Sequential([nn.LayerNorm((4, 6)), nn.Lambda(jnp.ravel)])

    check(build, each, normal(3, 4, 6), {"layers/0/*": None})


@pytest.mark.parametrize("axis", [0, None])
def test_weight_norm(axis):
    def build():
        return nn.WeightNorm(nn.Linear(5, 4, key=KEY), "weight", axis=axis)

    # The gain, (4, 1) or (1, 1), has no direction that a step could change.
    check(
        build,
        each,
        normal(3, 5),
        {"layer/weight": LINEAR, "layer/bias": None, "g": None},
    )


def test_spectral_norm():
    @functools.partial(drawn, scale=1.0)
    def built():
        return nn.make_with_state(nn.SpectralNorm)(
            nn.Linear(5, 4, key=KEY), "weight", key=KEY
        )

    model, state = built
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, state, x):
        model = eqx.combine(params, static)
        outputs, _ = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(x, state)
        return jnp.mean((outputs - 1) ** 2)

    x = normal(3, 5)
    layout = layouts.from_function(loss, params, state, x)
    # The largest singular value scales the kernel. It is no use of its own.
    check_axes(layout, params, {"layer/weight": LINEAR, "layer/bias": None})
    check_loss_falls(lambda p: loss(p, state, x), params, layout)
