"""Steps on Haiku's modules under `layouts.haiku`, as on PyTorch's layers."""

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
from optax_adamp import ProjectionDimensionNumbers, layouts

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


def check(function, inputs, cuts, dimension_numbers=layouts.haiku):
    """The kernels of a function that `hk.transform` takes step as PyTorch's."""

    def forward(inputs):
        with hk.intercept_methods(normalize_outputs):
            return function(inputs)

    network = hk.transform_with_state(forward)
    params, state = jax.eval_shape(network.init, jax.random.key(0), inputs)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

    def loss_fn(params):
        return fit(network.apply(params, state, None, inputs)[0])

    assert_layer_steps_as_in_pytorch(loss_fn, params, dimension_numbers, cuts)


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
        layouts.haiku,
    ),
    "Conv2DTranspose": (
        hk.layer_stack(2)(lambda inputs: hk.Conv2DTranspose(4, 2)(inputs)),
        IMAGE,
        {
            "__layer_stack_no_per_layer/conv2_d_transpose/w": per_layer(second_to_last),
        },
        layouts.haiku,
    ),
    "nested": (
        nested_stacks,
        (BATCH, 4),
        {
            f"{'__layer_stack_no_per_layer/' * depth}linear/w": cut
            for depth, cut in [(1, per_layer(last)), (2, per_layer(per_layer(last)))]
        },
        layouts.haiku,
    ),
    "with a name": (
        named_stack,
        (BATCH, 4),
        {"linear/w": last, "blocks/linear/w": per_layer(last)},
        layouts.stacked(layouts.haiku, where="blocks/*"),
    ),
}


@pytest.mark.parametrize("stack", STACKS)
def test_layer_stack(stack):
    function, shape, cuts, dimension_numbers = STACKS[stack]
    check(function, draw(*shape), cuts, dimension_numbers)


def test_renamed_transposed_convolution_takes_a_spec():
    dimension_numbers = {
        "upsample": ProjectionDimensionNumbers((0, 2), 1),
        "head": layouts.haiku,
    }

    def function(inputs):
        hidden = hk.Conv1DTranspose(3, 2, name="upsample")(inputs)
        return hk.Linear(2, name="head")(hidden)

    check(
        function,
        draw(*SEQUENCE),
        {"upsample/w": second_to_last, "head/w": last},
        dimension_numbers,
    )


def readings(function, *shape):
    network = hk.transform_with_state(function)
    params, _ = jax.eval_shape(network.init, jax.random.key(0), jnp.ones(shape))
    return [
        (name, leaf.shape, layouts.haiku.read((module, name), leaf.shape))
        for module, leaves in params.items()
        for name, leaf in leaves.items()
    ]


NETS = {
    "ResNet18": lambda x: hk.nets.ResNet18(10)(x, is_training=True),
    "ResNet50": lambda x: hk.nets.ResNet50(10, resnet_v2=True)(x, is_training=True),
    "MobileNetV1": lambda x: hk.nets.MobileNetV1()(x, is_training=True),
}


@pytest.mark.parametrize("net", NETS)
def test_nets(net):
    """Their convolutions have names of their own, all of them known."""
    for name, shape, reading in readings(NETS[net], 1, 32, 32, 3):
        assert not reading.warning
        assert (reading.spec is not None) == (name == "w")
        assert name != "w" or reading.spec.output_axis == len(shape) - 1


UNKNOWN = {
    "convolution with a name": ("upsample", "w", (3, 3, 4, 2), 3, "'upsample' is no"),
    "transposed, with a name": ("my_transpose", "w", (3, 3, 4, 2), 2, "out, in"),
    "codebook with a name": ("codes", "embeddings", (9, 4), 0, "VectorQuantizer"),
    "own parameter": ("mixture", "theta", (3, 4), 1, "no parameter 'theta'"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_warning_where_names_do_not_tell(case):
    module, name, shape, output, warning = UNKNOWN[case]

    reading = layouts.haiku.read((module, name), shape)

    assert reading.spec.output_axis == output
    assert warning in reading.warning


@pytest.mark.parametrize(
    ("module", "shape"), [("linear_1", (3, 4, 5)), ("net/~/conv2_d", (6, 3, 3, 4, 5))]
)
def test_error_where_shape_contradicts_a_default_name(module, shape):
    """Layers stacked by `jax.vmap` would be read as one convolution."""
    with pytest.raises(ValueError, match=rf"{module}/w, an .*stacked\(layouts\.haiku"):
        layouts.haiku.read((module, "w"), shape)
