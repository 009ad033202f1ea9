"""Haiku: its networks and recurrent cores, and attention that keeps its heads apart."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

pytest.importorskip("haliax", reason='needs `pip install -e ".[zoo]"`')
CONV = ((0, 1, 2), (3,))  # (height, width, in, out)
DENSE = ((0,), (1,))  # (in, out)


def check(f, x, expected):
    """`f` gives the outputs, and beside them what it adds to the loss."""
    net = hk.transform_with_state(f)
    params, state = drawn(net.init, jax.random.key(0), x)

    def loss(params, state, x):
        (outputs, more), _ = net.apply(params, state, jax.random.key(1), x)
        return jnp.mean((outputs - 1) ** 2) + more

    layout = layouts.from_function(loss, params, state, x)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, state, x), params, layout)


def test_mlp():
    check(
        lambda x: (hk.nets.MLP([6, 5, 3])(x), 0),
        normal(4, 7),
        {"mlp/~/linear_*/w": DENSE, "mlp/~/linear_*/b": None},
    )


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnet(bottleneck):
    def f(x):
        net = hk.nets.ResNet(
            blocks_per_group=(1, 1, 1, 1),
            num_classes=3,
            bottleneck=bottleneck,
            resnet_v2=bottleneck,
            channels_per_group=(4, 4, 8, 8),
            use_projection=(True, True, True, True),
        )
        return net(x, is_training=True), 0

    check(
        f,
        normal(2, 8, 8, 3),
        {
            "*conv*/w": CONV,
            "*batchnorm*/*": None,  # (1, 1, 1, channels)
            "*logits/w": DENSE,
            "*logits/b": None,
        },
    )


def test_mobilenet():
    def f(x):
        net = hk.nets.MobileNetV1(strides=(1, 2), channels=(4, 6), num_classes=3)
        return net(x, is_training=True), 0

    check(
        f,
        normal(2, 8, 8, 3),
        {
            "*conv*/w": CONV,  # depthwise, too: (height, width, 1, channels)
            "*batch_norm*/*": None,
            "*logits/w": DENSE,
            "*logits/b": None,
        },
    )


def test_vector_quantizer():
    def f(x):
        x = hk.Linear(5)(x)
        codes = hk.nets.VectorQuantizer(5, 7, commitment_cost=0.25)(x, True)
        return hk.Linear(2, name="decode")(codes["quantize"]), codes["loss"]

    check(
        f,
        normal(4, 6),
        {
            "vector_quantizer/embeddings": ((0,), (1,)),  # (features, entries)
            "*/w": DENSE,
            "*/b": None,
        },
    )


def attention_by_heads(x):
    """Attention as AlphaFold writes it."""
    init = hk.initializers.VarianceScaling()
    q = jnp.einsum(
        "bqa,ahc->bqhc", x, hk.get_parameter("query_w", (6, 2, 3), init=init)
    )
    k = jnp.einsum("bka,ahc->bkhc", x, hk.get_parameter("key_w", (6, 2, 3), init=init))
    v = jnp.einsum(
        "bka,ahc->bkhc", x, hk.get_parameter("value_w", (6, 2, 4), init=init)
    )
    logits = jnp.einsum("bqhc,bkhc->bhqk", q * 3**-0.5, k)
    y = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits), v)
    gate = hk.get_parameter("gating_w", (6, 2, 4), init=jnp.zeros)
    bias = hk.get_parameter("gating_b", (2, 4), init=jnp.ones)
    y *= jax.nn.sigmoid(jnp.einsum("bqc,chv->bqhv", x, gate) + bias)
    out = hk.get_parameter("output_w", (2, 4, 6), init=init)
    bias = hk.get_parameter("output_b", (6,), init=jnp.zeros)
    return jnp.einsum("bqhc,hco->bqo", y, out) + bias


def test_attention():
    def f(x):
        attention = hk.MultiHeadAttention(2, 3, w_init=hk.initializers.RandomNormal())
        x = hk.LayerNorm(-1, True, True)(x + attention(x, x, x))
        return attention_by_heads(x), 0

    heads = ((0,), (1, 2))  # (in, heads, size)
    check(
        f,
        normal(2, 5, 6),
        {
            "multi_head_attention/*/w": DENSE,
            "multi_head_attention/*/b": None,
            "layer_norm/*": None,
            "~/query_w": heads,
            "~/key_w": heads,
            "~/value_w": heads,
            "~/gating_w": heads,
            "~/gating_b": None,
            "~/output_w": ((0, 1), (2,)),  # (heads, size, out)
            "~/output_b": None,
        },
    )


@pytest.mark.parametrize("unroll", [1, 3])
def test_stacked_layers_over_an_embedding(unroll):
    def block(x):
        return x + hk.Linear(6)(jax.nn.relu(hk.LayerNorm(-1, True, True)(x)))

    def f(tokens):
        x = hk.Embed(11, 6)(tokens)
        x = hk.experimental.layer_stack(3, unroll=unroll)(block)(x)
        return x, 0

    check(
        f,
        integers(11, 2, 5),
        {
            "embed/embeddings": ((1,), (0,)),  # (entries, features)
            "*/linear/w": ((1,), (2,)),  # (layers, in, out)
            "*/linear/b": None,
            "*/layer_norm/*": None,
        },
    )


@pytest.mark.parametrize("core", ["LSTM", "GRU", "VanillaRNN"])
def test_recurrent_cores(core):
    def f(x):
        cell = getattr(hk, core)(4)
        outputs, _ = hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))
        return outputs, 0

    cores = {
        "LSTM": {"lstm/linear/w": DENSE, "lstm/linear/b": None},  # all gates at once
        # The gates of what comes in, and of what was: (in, 3 * size), (size, 3 * size)
        "GRU": {"gru/w_i": DENSE, "gru/w_h": DENSE, "gru/b": None},
        "VanillaRNN": {"vanilla_rnn/*/w": DENSE, "vanilla_rnn/*/b": None},
    }
    check(f, normal(5, 2, 3), cores[core])


def test_convolutions():
    def f(x):
        x = hk.Conv2DTranspose(5, 3, stride=2)(x)
        x = hk.GroupNorm(5)(x)
        x = hk.DepthwiseConv2D(2, 3)(x)
        x = hk.SeparableDepthwiseConv2D(1, (3, 2))(x)
        x = hk.Conv2D(6, 3, feature_group_count=2, with_bias=False)(x)
        x = hk.Conv1D(4, 3, data_format="NCW")(x.reshape(2, 48, -1))
        return x, 0

    check(
        f,
        normal(2, 4, 4, 3),
        {
            "conv2_d_transpose/w": ((0, 1, 3), (2,)),  # (height, width, out, in)
            "depthwise_conv2_d/w": CONV,  # (height, width, 1, channels)
            "separable_*/w": CONV,
            "conv2_d/w": CONV,  # (height, width, in of a group, out)
            "conv1_d/w": ((0, 1), (2,)),  # (width, in, out)
            "group_norm/*": None,
            "*/b": None,
        },
    )
