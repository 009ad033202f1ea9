"""Keras on JAX: the axes of its layers, whose variables are a list without names."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls, expected_of

os.environ["KERAS_BACKEND"] = "jax"
# Else Keras would write its settings into the user's home when it is imported.
os.environ.setdefault("KERAS_HOME", os.devnull)
keras = pytest.importorskip("keras", reason='needs `pip install -e ".[zoo]"`')
layers = keras.layers

TOKENS = 11
LENGTH = 5
DENSE = (0, 1)  # (in, out)
HEADS = (0, (1, 2))  # (in, heads, size)
FROM_HEADS = ((0, 1), 2)  # (heads, size, out)
TABLE = (1, 0)  # (entries, features)


class Zoo(NamedTuple):
    model: Any
    inputs: np.ndarray
    expected: dict[str, Any]  # By glob of a variable's path.


def tokens():
    return np.random.default_rng(0).integers(0, TOKENS, (3, LENGTH)).astype("int32")


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def attention():
    """A decoder whose table is also its last layer."""
    ids = keras.Input((LENGTH,), dtype="int32")
    table = layers.ReversibleEmbedding(TOKENS, 6, name="table")
    places = layers.Embedding(LENGTH, 6, name="places")
    place = keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1
    x = table(ids) + places(place)
    x = layers.LayerNormalization(name="norm")(x)
    x += layers.MultiHeadAttention(2, 3, name="attend")(x, x, use_causal_mask=True)
    x = layers.RMSNormalization(name="rms")(x)
    x += layers.GroupQueryAttention(4, 4, 2, name="groups")(x, x)
    x = layers.LayerNormalization(axis=[1, 2], name="norm_of_two_axes")(x)
    dense = layers.Dense(6, activation="relu", name="dense")
    x = layers.TimeDistributed(dense, name="timed")(x)
    return Zoo(
        keras.Model(ids, table(x, reverse=True)),
        tokens(),
        {
            "table/embeddings": TABLE,
            "places/embeddings": TABLE,
            "norm/*": None,
            "rms/*": None,
            "norm_of_two_axes/*": None,
            "attend/query/kernel": HEADS,
            "attend/key/kernel": HEADS,
            "attend/value/kernel": HEADS,
            "attend/attention_output/kernel": FROM_HEADS,
            "attend/*/bias": None,
            "groups/query/kernel": HEADS,
            "groups/key/kernel": HEADS,
            "groups/value/kernel": HEADS,
            "groups/attention_output/kernel": FROM_HEADS,
            "groups/*/bias": None,
            "timed/dense/kernel": DENSE,
            "timed/dense/bias": None,
        },
    )


def einsums():
    """One EinsumDense of each kind, and a Dense."""

    def einsum(equation, shape, bias_axes, name):
        return layers.EinsumDense(
            equation, shape, bias_axes=bias_axes, activation="tanh", name=name
        )

    model = keras.Sequential(
        [
            keras.Input((LENGTH, 6)),
            einsum("abc,cd->abd", (LENGTH, 7), "d", "plain"),
            einsum("abc,cde->abde", (LENGTH, 2, 3), "de", "to_heads"),
            einsum("abcd,cde->abe", (LENGTH, 4), "e", "from_heads"),
            # A kernel for each position, which the inputs have, too.
            einsum("abc,bcd->abd", (LENGTH, 6), "bd", "per_position"),
            einsum("abc,dc->abd", (LENGTH, 4), "d", "output_first"),
            einsum("abc,bd->adc", (3, 4), None, "mix_positions"),
            layers.Flatten(),
            layers.Dense(TOKENS, name="dense"),
        ],
        name="model",
    )
    return Zoo(
        model,
        numbers(3, LENGTH, 6),
        {
            "model/plain/kernel": DENSE,
            "model/to_heads/kernel": HEADS,
            "model/from_heads/kernel": FROM_HEADS,
            "model/per_position/kernel": (1, 2),
            "model/output_first/kernel": (1, 0),
            "model/mix_positions/kernel": DENSE,
            "model/dense/kernel": DENSE,
            "model/*/bias": None,
        },
    )


def recurrent():
    """Each kernel has its gates side by side, some cut apart before they are used."""

    def sequences(cell, name, **kwargs):
        return cell(4, return_sequences=True, name=name, **kwargs)

    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(TOKENS, 6, name="table"),
            sequences(layers.SimpleRNN, "simple"),
            sequences(layers.LSTM, "lstm"),
            sequences(layers.GRU, "gru"),
            sequences(layers.GRU, "gru_reset_before", reset_after=False),
            sequences(layers.LSTM, "unrolled", unroll=True),
            layers.Bidirectional(sequences(layers.GRU, "both"), name="both_ways"),
            layers.Reshape((LENGTH, 4, 2)),
            layers.ConvLSTM1D(3, 2, name="conv_lstm"),
            layers.Flatten(),
            layers.Dense(TOKENS, name="dense"),
        ],
        name="model",
    )
    return Zoo(
        model,
        tokens(),
        {
            "model/table/embeddings": TABLE,
            "model/*_cell/kernel": DENSE,
            "model/*_cell/recurrent_kernel": DENSE,
            # A path itself goes before a glob.
            "model/conv_lstm/conv_lstm_cell/kernel": ((0, 1), 2),
            "model/conv_lstm/conv_lstm_cell/recurrent_kernel": ((0, 1), 2),
            "model/*bias": None,  # A GRU's is (2, 3 * units).
            "model/dense/kernel": DENSE,
        },
    )


def convolutions(dimensions):
    """Every convolution that there is for as many axes, and the layers around them."""
    n = dimensions
    size = (10, 6, 5)[n - 1]

    def layer(name):
        return getattr(layers, name.format(f"{n}D"))

    stack = [
        keras.Input((*[size] * n, 4)),
        layer("Conv{}")(6, 2, dilation_rate=2, name="conv"),
        layers.BatchNormalization(name="batch_norm"),
        layers.PReLU(name="slope_each"),
        layer("Conv{}")(8, 2, padding="same", groups=2, name="grouped"),
        layers.GroupNormalization(2, name="group_norm"),
        layers.PReLU(shared_axes=[*range(1, n + 1)], name="slope_shared"),
        layer("Conv{}Transpose")(3, 2, strides=2, padding="same", name="transposed"),
        layers.Activation("relu"),
    ]
    if n < 3:
        stack += [
            layer("DepthwiseConv{}")(3, depth_multiplier=2, name="depthwise"),
            layers.LayerNormalization(axis=[*range(1, n + 2)], name="norm"),
            layer("SeparableConv{}")(5, 3, depth_multiplier=2, name="separable"),
        ]
    model = keras.Sequential(
        [*stack, layers.Flatten(), layers.Dense(TOKENS, name="dense")], name="model"
    )
    spatial = tuple(range(n))
    kernel = ((*spatial, n), n + 1)  # (spatial, in, out)
    expected = {
        "model/conv/kernel": kernel,
        "model/grouped/kernel": kernel,
        # (spatial, out, in)
        "model/transposed/kernel": ((*spatial, n + 1), n),
        "model/slope_*/alpha": None,
        "model/*norm/gamma": None,
        "model/*norm/beta": None,
        "model/*/bias": None,
        "model/dense/kernel": DENSE,
    }
    if n < 3:
        expected |= {
            # (spatial, in, multiplier), one filter for each pair of these.
            "model/depthwise/kernel": (spatial, (n, n + 1)),
            "model/separable/depthwise_kernel": (spatial, (n, n + 1)),
            "model/separable/pointwise_kernel": kernel,
        }
    return Zoo(model, numbers(3, *[size] * n, 4), expected)


def low_rank():
    """x @ (kernel + a @ b): of LoRA only a and b are trained."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(7, name="dense"),
            layers.EinsumDense("ab,bcd->acd", (2, 3), bias_axes="cd", name="heads"),
            layers.Flatten(),
            layers.Dense(TOKENS, name="last"),
        ],
        name="model",
    )
    model.get_layer("dense").enable_lora(2)
    model.get_layer("heads").enable_lora(2)
    return Zoo(
        model,
        numbers(3, 6),
        {
            "model/dense/lora_kernel_a": DENSE,
            "model/dense/lora_kernel_b": DENSE,
            "model/heads/lora_kernel_a": HEADS,  # (in, heads, rank)
            "model/heads/lora_kernel_b": DENSE,
            "model/*/bias": None,
            "model/last/kernel": DENSE,
        },
    )


MODELS = {
    "attention": attention,
    "einsums": einsums,
    "recurrent": recurrent,
    "convolutions_1d": lambda: convolutions(1),
    "convolutions_2d": lambda: convolutions(2),
    "convolutions_3d": lambda: convolutions(3),
    "low_rank": low_rank,
}


@pytest.fixture(scope="module", params=MODELS)
def zoo(request):
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    return MODELS[request.param]()


def apply(zoo):
    """The model as a function of the list of its variables' values."""
    rest = [variable.value for variable in zoo.model.non_trainable_variables]

    def outputs(params, inputs):
        return zoo.model.stateless_call(params, rest, inputs, training=True)[0]

    return outputs


def values(zoo):
    return [variable.value for variable in zoo.model.trainable_variables]


def paths(zoo):
    return [variable.path for variable in zoo.model.trainable_variables]


def test_axes_of_a_list_of_variables(zoo):
    params = values(zoo)
    layout = layouts.from_function(apply(zoo), params, zoo.inputs)
    by_place = {
        str(place): expected_of(path, zoo.expected)
        for place, path in enumerate(paths(zoo))
    }
    check_axes(layout, params, by_place)


def test_axes_of_variables_by_path(zoo):
    names, outputs = paths(zoo), apply(zoo)

    def by_path(params, inputs):
        return outputs([params[name] for name in names], inputs)

    params = dict(zip(names, values(zoo), strict=True))
    assert len(params) == len(names)
    layout = layouts.from_function(by_path, params, zoo.inputs)
    check_axes(layout, params, zoo.expected)


def test_loss_falls(zoo):
    outputs = apply(zoo)

    def loss(params):
        logits = outputs(params, zoo.inputs)
        return -jax.nn.log_softmax(logits)[..., 1].mean()

    layout = layouts.from_function(loss, values(zoo))
    check_loss_falls(loss, values(zoo), layout)
