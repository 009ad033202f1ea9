"""Steps on Haiku's modules, read from their programs, as on PyTorch's layers."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from layout_layers import (
    assert_layer_steps_as_in_pytorch,
    draw,
    first,
    fit,
    last,
    per_layer,
    second_to_last,
    standardize,
)
from optax_adamp import describe
from optax_adamp.layouts import from_function

pytestmark = pytest.mark.nightly

BATCH = 8
FEATURES = (BATCH, 5)
SEQUENCE = (BATCH, 6, 4)
IMAGE = (BATCH, 4, 5, 4)


LAYERS_TO_NORMALIZE = hk.Linear, hk.ConvND, hk.ConvNDTranspose, hk.DepthwiseConv2D


def normalize_outputs(next_method, args, kwargs, context):
    """Puts a batch normalization behind every linear layer and every convolution."""
    outputs = next_method(*args, **kwargs)
    is_layer = isinstance(context.module, LAYERS_TO_NORMALIZE)
    if is_layer and context.method_name == "__call__":
        return standardize(outputs)
    return outputs


def initialize(function, *inputs):
    """A function that `hk.transform` takes, with the shapes of params and state."""
    network = hk.transform_with_state(function)
    return network, *jax.eval_shape(network.init, jax.random.key(0), *inputs)


def check(function, inputs, cuts):
    """The kernels of a function that `hk.transform` takes step as PyTorch's."""

    def forward(inputs):
        with hk.intercept_methods(normalize_outputs):
            return function(inputs)

    plain, params, state = initialize(function, inputs)
    layout = from_function(plain.apply, params, state, None, inputs)
    network = hk.transform_with_state(forward)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

    def loss_fn(params):
        return fit(network.apply(params, state, None, inputs)[0])

    assert_layer_steps_as_in_pytorch(loss_fn, params, layout, cuts)


def call(module, *args, **kwargs):
    return lambda inputs: module(*args, **kwargs)(inputs)


LAYERS = {
    "Linear": (call(hk.Linear, 3), FEATURES, {"linear/w": last}),
    "Conv1D": (call(hk.Conv1D, 3, 2), SEQUENCE, {"conv1_d/w": last}),
    "Conv2D": (call(hk.Conv2D, 3, (3, 2)), IMAGE, {"conv2_d/w": last}),
    "Conv2D, grouped": (
        call(hk.Conv2D, 6, 2, feature_group_count=2),
        IMAGE,
        {"conv2_d/w": last},
    ),
    "Conv1DTranspose": (
        call(hk.Conv1DTranspose, 3, 2),
        SEQUENCE,
        {"conv1_d_transpose/w": second_to_last},
    ),
    "Conv2DTranspose": (
        call(hk.Conv2DTranspose, 3, (3, 2)),
        IMAGE,
        {"conv2_d_transpose/w": second_to_last},
    ),
    "DepthwiseConv2D": (
        call(hk.DepthwiseConv2D, 2, 3, data_format="NHWC"),
        IMAGE,
        {"depthwise_conv2_d/w": last},
    ),
    "SeparableDepthwiseConv2D": (
        call(hk.SeparableDepthwiseConv2D, 2, 3, data_format="NHWC"),
        IMAGE,
        {
            "separable_depthwise_conv2_d/~/depthwise_conv2_d/w": last,
            "separable_depthwise_conv2_d/~/depthwise_conv2_d_1/w": last,
        },
    ),
    "MLP": (
        call(hk.nets.MLP, [4, 3]),
        FEATURES,
        {"mlp/~/linear_0/w": last, "mlp/~/linear_1/w": last},
    ),
    "MultiHeadAttention": (
        lambda inputs: hk.MultiHeadAttention(2, 3, w_init=jnp.zeros)(*3 * [inputs]),
        SEQUENCE,
        {
            f"multi_head_attention/{name}/w": last
            for name in ("query", "key", "value", "linear")
        },
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer):
    function, shape, cuts = LAYERS[layer]
    check(function, draw(*shape), cuts)


def normalize_columns(next_getter, value, context):
    return next_getter(value / jnp.linalg.norm(value, axis=0, keepdims=True))


def one_step(core, inputs):
    state = jax.tree.map(lambda leaf: draw(*leaf.shape), core.initial_state(BATCH))
    return core(inputs, state)[0]


def gru(inputs):
    """Its matrices are in no layer of their own, hence weight normalization."""

    def normed(next_getter, value, context):
        is_kernel = context.name in ("w_i", "w_h")
        return normalize_columns(next_getter, value, context) if is_kernel else value

    with hk.custom_getter(normed):
        return one_step(hk.GRU(3), inputs)


CORES = {
    "LSTM": (
        lambda inputs: one_step(hk.LSTM(3), inputs),
        FEATURES,
        {"lstm/linear/w": last},
    ),
    "GRU": (gru, FEATURES, {"gru/w_i": last, "gru/w_h": last}),
    "VanillaRNN": (
        lambda inputs: one_step(hk.VanillaRNN(3), inputs),
        FEATURES,
        {"vanilla_rnn/linear/w": last, "vanilla_rnn/linear_1/w": last},
    ),
    "Conv1DLSTM": (
        lambda inputs: one_step(hk.Conv1DLSTM((6,), 2, 3), inputs),
        SEQUENCE,
        {"conv1_dlstm/input_to_hidden/w": last, "conv1_dlstm/hidden_to_hidden/w": last},
    ),
}


@pytest.mark.parametrize("core", CORES)
def test_recurrent_core(core):
    """A column of fused gates belongs to one gate of one unit."""
    function, shape, cuts = CORES[core]
    check(function, draw(*shape), cuts)


def embed(inputs):
    return standardize(hk.Embed(7, 5)(inputs), channels=(0,))


def quantize(inputs):
    codebook = hk.nets.VectorQuantizer(5, 7, commitment_cost=0.25)
    return standardize(codebook.quantize(inputs), channels=(0,))


EMBEDDINGS = {
    "Embed": (embed, {"embed/embeddings": first}),
    "VectorQuantizer": (quantize, {"vector_quantizer/embeddings": last}),
}


@pytest.mark.parametrize("module", EMBEDDINGS)
def test_embedding(module):
    """The vectors of one table are rows, those of the other columns."""
    function, cuts = EMBEDDINGS[module]
    check(function, jnp.arange(7), cuts)


NORMS = {
    "BatchNorm": lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=True),
    "LayerNorm": call(hk.LayerNorm, -1, True, True),
    "GroupNorm": call(hk.GroupNorm, 2),
    "InstanceNorm": call(hk.InstanceNorm, True, True),
    "RMSNorm": call(hk.RMSNorm, -1),
    "Bias": call(hk.Bias),
}


def test_norms_and_biases():
    """Those of `hk.BatchNorm` and `hk.Bias` have as many axes as the images."""

    def apply_all(inputs):
        return jnp.stack([norm(inputs) for norm in NORMS.values()])

    check(apply_all, draw(*IMAGE), {})


def block(inputs):
    return hk.LayerNorm(-1, True, True)(hk.Linear(4)(inputs))


def nested_stacks(inputs):
    @hk.layer_stack(2)
    def outer(hidden):
        return hk.layer_stack(3)(block)(hk.Linear(4)(hidden))

    return outer(inputs)


def named_stack(inputs):
    return hk.layer_stack(3, name="blocks")(block)(hk.Linear(4)(inputs))


STACKS = {
    "Linear": (
        hk.layer_stack(3)(block),
        (BATCH, 4),
        {"__layer_stack_no_per_layer/linear/w": per_layer(last)},
    ),
    "Conv2DTranspose": (
        hk.layer_stack(2)(lambda inputs: hk.Conv2DTranspose(4, 2)(inputs)),
        IMAGE,
        {
            "__layer_stack_no_per_layer/conv2_d_transpose/w": per_layer(second_to_last),
        },
    ),
    "nested": (
        nested_stacks,
        (BATCH, 4),
        {
            f"{'__layer_stack_no_per_layer/' * depth}linear/w": cut
            for depth, cut in [(1, per_layer(last)), (2, per_layer(per_layer(last)))]
        },
    ),
    "with a name": (
        named_stack,
        (BATCH, 4),
        {"linear/w": last, "blocks/linear/w": per_layer(last)},
    ),
}


@pytest.mark.parametrize("stack", STACKS)
def test_layer_stack(stack):
    function, shape, cuts = STACKS[stack]
    check(function, draw(*shape), cuts)


def test_names_play_no_part():
    """Each module has the default name of another class."""

    def function(inputs):
        hidden = hk.Conv1DTranspose(3, 2, name="conv1_d")(inputs)
        hidden = hk.Linear(5, name="conv1_d_transpose")(hidden)
        return hk.Conv1D(2, 2, name="linear")(hidden)

    check(
        function,
        draw(*SEQUENCE),
        {"conv1_d/w": second_to_last, "conv1_d_transpose/w": last, "linear/w": last},
    )


NETS = {
    "ResNet18": lambda x: hk.nets.ResNet18(10)(x, is_training=True),
    "ResNet50": lambda x: hk.nets.ResNet50(10, resnet_v2=True)(x, is_training=True),
    "MobileNetV1": lambda x: hk.nets.MobileNetV1()(x, is_training=True),
}


@pytest.mark.parametrize("net", NETS)
def test_nets(net):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    network, params, state = initialize(NETS[net], images)

    table = describe(params, from_function(network.apply, params, state, None, images))

    for row in table:
        axes = tuple(range(len(row.shape)))
        is_kernel = row.path.endswith("/w")
        expected = (axes[:-1], axes[-1:], "auto") if is_kernel else (None, None, None)
        assert (row.reduction_axis, row.output_axis, row.view) == expected
