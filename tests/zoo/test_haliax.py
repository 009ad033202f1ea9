"""Haliax: named axes in any order, and blocks stacked over an axis of layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

# Haliax asks JAX for a name that has moved.
pytestmark = pytest.mark.filterwarnings("ignore:jax:DeprecationWarning")
hax = pytest.importorskip("haliax", reason='needs `pip install -e ".[zoo]"`')

Vocab, Embed, Mlp = hax.make_axes(vocab=13, embed=12, mlp=20)
Heads, Size, Layers = hax.make_axes(heads=3, size=4, layers=2)
Batch, Pos = hax.make_axes(batch=2, position=5)


class Block(eqx.Module):
    norm: hax.nn.LayerNorm
    query: hax.nn.Linear
    key: hax.nn.Linear
    value: hax.nn.Linear
    out: hax.nn.Linear
    mlp_norm: hax.nn.RmsNorm
    up: hax.nn.Linear
    down: hax.nn.Linear

    @staticmethod
    def init(key):
        keys = iter(jax.random.split(key, 6))

        def linear(inputs, outputs, **kwargs):
            return hax.nn.Linear.init(inputs, outputs, key=next(keys), **kwargs)

        return Block(
            norm=hax.nn.LayerNorm.init(Embed),
            query=linear(Embed, (Heads, Size)),
            key=linear(Embed, (Heads, Size), use_bias=False),
            value=linear(Embed, (Heads, Size), out_first=False),
            out=linear((Heads, Size), Embed),
            mlp_norm=hax.nn.RmsNorm.init(Embed, use_bias=False),
            up=linear(Embed, Mlp),
            down=linear(Mlp, Embed, out_first=False),
        )

    def __call__(self, x):
        y = self.norm(x)
        key, value = (f(y).rename({"position": "key"}) for f in (self.key, self.value))
        mask = hax.nn.attention.causal_mask(Pos, Pos.alias("key"))
        y = hax.nn.attention.dot_product_attention(
            "key", Size, self.query(y), key, value, mask=mask
        )
        x = x + self.out(y)
        return x + self.down(hax.nn.gelu(self.up(self.mlp_norm(x))))


class Decoder(eqx.Module):
    tokens: hax.nn.Embedding
    positions: hax.NamedArray
    blocks: hax.nn.Stacked
    norm: hax.nn.LayerNorm

    @staticmethod
    def init(key, *, remat):
        tokens, positions, blocks = jax.random.split(key, 3)
        return Decoder(
            hax.nn.Embedding.init(Vocab, Embed, key=tokens),
            0.1 * hax.random.normal(positions, (Pos, Embed)),
            hax.nn.Stacked.init(Layers, Block, gradient_checkpointing=remat)(
                key=jax.random.split(blocks, Layers.size)
            ),
            hax.nn.LayerNorm.init(Embed),
        )

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions
        return self.tokens.unembed(self.norm(self.blocks.fold(x)))


# The layers come first; what follows is counted from the end.
DECODER = {
    "tokens/weight/*": ((1,), (0,)),  # looked up, and contracted over the features
    "positions/*": None,
    "blocks/stacked/norm/*": None,
    "blocks/stacked/mlp_norm/*": None,
    "blocks/stacked/[!nm]*/bias/*": None,
    "blocks/stacked/query/weight/*": ((3,), (1, 2)),
    "blocks/stacked/key/weight/*": ((3,), (1, 2)),
    "blocks/stacked/value/weight/*": ((1,), (2, 3)),
    "blocks/stacked/out/weight/*": ((2, 3), (1,)),
    "blocks/stacked/up/weight/*": ((2,), (1,)),
    "blocks/stacked/down/weight/*": ((1,), (2,)),
    "norm/*": None,
}


@pytest.mark.parametrize("remat", [False, True])
def test_decoder_of_stacked_blocks(remat):
    model = drawn(Decoder.init, jax.random.key(0), remat=remat)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tokens = hax.named(integers(Vocab.size, 2, 5), (Batch, Pos))
    targets = hax.nn.one_hot(hax.roll(tokens, -1, Pos), Vocab)

    def loss(params, tokens):
        logits = eqx.combine(params, static)(tokens)
        return hax.nn.cross_entropy_loss(logits, Vocab, targets).scalar()

    layout = layouts.from_function(loss, params, tokens)
    check_axes(layout, params, DECODER)
    check_loss_falls(lambda p: loss(p, tokens), params, layout)


Height, Width, Channels = hax.make_axes(H=6, W=6, C=4)
Inner, Outer, Experts = hax.make_axes(inner=6, outer=4, experts=3)


class Net(eqx.Module):
    conv: hax.nn.Conv
    depthwise: hax.nn.Conv
    up: hax.nn.ConvTranspose
    norm: hax.nn.LayerNorm
    head: hax.nn.Linear

    @staticmethod
    def init(key):
        space = (Height, Width)
        pixels = (Outer, Height.resize(12), Width.resize(15))
        return Net(
            hax.nn.Conv.init(space, Channels, Inner, (3, 2), padding=1, key=key),
            hax.nn.Conv.init(
                space, Inner, Inner.alias("depth"), 3, groups=6, padding=1, key=key
            ),
            hax.nn.ConvTranspose.init(space, Inner, Outer, (2, 3), stride=2, key=key),
            hax.nn.LayerNorm.init(pixels),
            hax.nn.Linear.init(pixels, hax.Axis("k", 2), key=key),
        )

    def __call__(self, x):
        x = hax.nn.relu(self.conv(x))
        x = self.up(self.depthwise(x).rename({"depth": "inner"}))
        return self.head(self.norm(x))


def test_convolutions_and_a_norm_over_three_axes():
    params, static = eqx.partition(
        drawn(Net.init, jax.random.key(0)), eqx.is_inexact_array
    )
    images = hax.named(normal(2, 6, 6, 4), (Batch, Height, Width, Channels))

    def loss(params, images):
        logits = eqx.combine(params, static)(images)
        return hax.mean((logits - 1) ** 2).scalar()

    layout = layouts.from_function(loss, params, images)
    check_axes(
        layout,
        params,
        {
            "conv/weight/*": ((1, 2, 3), (0,)),  # (out, in, height, width)
            "depthwise/weight/*": ((1, 2, 3), (0,)),  # (out, 1, height, width)
            "up/weight/*": ((1, 2, 3), (0,)),
            "norm/*": None,
            "head/weight/*": ((1, 2, 3), (0,)),
            "[!n]*/bias/*": None,
        },
    )
    check_loss_falls(lambda p: loss(p, images), params, layout)


@pytest.mark.parametrize("out_first", [False, True])
def test_experts_by_ragged_dot(out_first):
    model = drawn(
        hax.nn.MoELinear.init,
        Experts,
        Inner,
        Outer,
        key=jax.random.key(0),
        out_first=out_first,
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    inputs = hax.named(normal(9, 6), (Batch.resize(9), Inner))
    sizes = hax.named(jnp.array([2, 4, 3]), Experts)

    def loss(params, inputs):
        outputs = eqx.combine(params, static)(inputs, sizes)
        return hax.mean((outputs - 1) ** 2).scalar()

    layout = layouts.from_function(loss, params, inputs)
    # Each expert is a kernel of its own.
    weight = ((2,), (1,)) if out_first else ((1,), (2,))
    check_axes(layout, params, {"weight/*": weight, "bias/*": None})
    check_loss_falls(lambda p: loss(p, inputs), params, layout)
