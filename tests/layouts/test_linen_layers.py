"""Layers of Linen: AdamP takes the steps that PyTorch's layout of the weights takes."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from layout_layers import draw, fit, last, numbers, second_to_last, standardize
from layout_steps import assert_steps_are_those_of_pytorch, train
from optax_adamp.layouts import from_function, from_linen
from trees import Spec

BATCH = 16
EPSILON = 1e-12  # Of norms: a larger one would leave them sensitive to scale.


class Weight(NamedTuple):
    """What is known of a parameter that may be projected.

    The view is "channel" or "layer" because the loss makes the weight scale-invariant
    so: with other axes the view, or the projection, would be another.
    """

    spec: Spec
    cut: Callable[[np.ndarray], list[np.ndarray]]  # Into PyTorch weights.
    view: str = "channel"


class Row(NamedTuple):
    module: nn.Module
    inputs: tuple[Any, ...]
    loss: Callable[[jax.Array], jax.Array]  # Of the outputs.
    weights: dict[str, Weight]  # By path; everything else is never projected.
    kwargs: Mapping[str, Any] = MappingProxyType({})


def normalized(*channels):
    """A loss in which a layer whose outputs have these channels is scale-invariant."""
    return lambda outputs: fit(standardize(outputs, channels))


def as_matrix(inputs, outputs):
    """Axes of the inputs, then of the outputs, each seen as one."""
    return lambda array: [array.reshape(math.prod(inputs), math.prod(outputs)).T]


def each_transposed(array):
    return [matrix.T for matrix in array.reshape(-1, *array.shape[-2:])]


DENSE = Weight(Spec((0,), (1,)), last)


def dense(**kwargs):
    return nn.Dense(8, use_bias=False, **kwargs)


def before(norm, view, shape=(BATCH, 6), **kwargs):
    """A dense layer whose outputs go through another one."""
    return Row(
        nn.Sequential([dense(), norm]),
        (numbers(*shape),),
        fit,
        {"layers_0/kernel": DENSE._replace(view=view)},
        kwargs,
    )


def convolution(layer, cut, spec, spatial=2):
    return Row(
        layer,
        (numbers(4, *[6] * spatial, 4),),
        normalized(-1),
        {"kernel": Weight(spec, cut)},
    )


class Normalized(nn.Module):
    """Normalizes what each layer inside returns, as norms at these places would.

    What a layer adds to others or multiplies with them is then scale-invariant, with
    the bias that it may have.
    """

    inner: nn.Module

    @nn.compact
    def __call__(self, *inputs):
        def normalize(next_fun, args, kwargs, context):
            outputs = next_fun(*args, **kwargs)
            if context.method_name != "__call__":
                return outputs
            features = context.module
            if isinstance(features, nn.Dense | nn.Conv):
                channels = 1
            elif isinstance(features, nn.DenseGeneral):
                channels = np.size(features.features)
            else:
                return outputs
            return jax.nn.standardize(
                outputs, range(outputs.ndim - channels), epsilon=EPSILON
            )

        with nn.intercept_methods(normalize):
            return self.inner(*inputs)


def attention(module, inputs):
    projections = {
        f"inner/{name}/kernel": Weight(Spec((0,), (1, 2)), as_matrix((6,), (2, 4)))
        for name in ("query", "key", "value")
    }
    out = {"inner/out/kernel": Weight(Spec((0, 1), (2,)), as_matrix((2, 4), (5,)))}
    return Row(Normalized(module), inputs, fit, projections | out)


ATTENTION = {"num_heads": 2, "qkv_features": 8, "out_features": 5}
SEQUENCES = numbers(4, 5, 6)


def carry(*shape):
    """The state of an LSTM: memory and output."""
    return numbers(*shape, seed=2), numbers(*shape, seed=3)


def cell(module, state, paths, inputs=(BATCH, 3), weight=DENSE):
    return Row(
        Normalized(module),
        (state, numbers(*inputs)),
        lambda outputs: fit(outputs[1]),
        {f"inner/{path}/kernel": weight for path in paths},
    )


class OneOfTwo(nn.Module):
    """Runs a cell on inputs alone and on its state alone.

    The kernels of a fused gate share one scale where both enter it.
    """

    inner: nn.Module

    def __call__(self, state, inputs):
        memory, hidden = state
        empty = jnp.zeros_like
        from_inputs = self.inner((memory, empty(hidden)), inputs)
        from_state = self.inner((memory, hidden), empty(inputs))
        return from_inputs[1] + from_state[1]


def standardized_gate(activation):
    return lambda gate: activation(standardize(gate))


LSTM_PATHS = ("ii", "if", "ig", "io", "hi", "hf", "hg", "ho")
GRU_PATHS = ("ir", "iz", "in", "hr", "hz", "hn")

ROWS = {
    "linen-Dense": Row(
        nn.Dense(5), (numbers(BATCH, 6),), normalized(-1), {"kernel": DENSE}
    ),
    "linen-DenseGeneral": Row(
        nn.DenseGeneral((4, 5), axis=(-2, -1)),
        (numbers(BATCH, 2, 3),),
        normalized(-2, -1),
        {"kernel": Weight(Spec((0, 1), (2, 3)), as_matrix((2, 3), (4, 5)))},
    ),
    "linen-DenseGeneral-batch_dims": Row(
        nn.DenseGeneral(5, batch_dims=(0,)),
        (numbers(3, BATCH, 6),),
        normalized(0, -1),
        {"kernel": Weight(Spec((1,), (2,)), each_transposed)},
    ),
    "linen-Einsum": Row(
        nn.Einsum((2, 6, 3), "nti,hid->nthd"),
        (numbers(BATCH, 4, 6),),
        normalized(-2, -1),
        {
            "kernel": Weight(
                Spec((1,), (0, 2)),
                lambda kernel: [np.moveaxis(kernel, 1, 2).reshape(6, 6)],
            )
        },
    ),
    "linen-Einsum-batch": Row(
        nn.Einsum((5, 3, 6)),
        (numbers(BATCH, 3, 6), "nti,oti->nto"),
        normalized(1, 2),
        {
            "kernel": Weight(
                Spec((2,), (0,)), lambda kernel: list(np.moveaxis(kernel, 1, 0))
            )
        },
    ),
    "linen-Einsum-ellipsis": Row(
        nn.Einsum((2, 3, 6, 5), "n...i,...io->n...o"),
        (numbers(BATCH, 2, 3, 6),),
        normalized(1, 2, 3),
        {"kernel": Weight(Spec((2,), (3,)), each_transposed)},
    ),
    "linen-Conv-1d": convolution(nn.Conv(6, 3), last, Spec((0, 1), 2), 1),
    "linen-Conv-2d": convolution(nn.Conv(6, (3, 2)), last, Spec((0, 1, 2), 3)),
    "linen-Conv-grouped": convolution(
        nn.Conv(6, (3, 2), feature_group_count=2), last, Spec((0, 1, 2), 3)
    ),
    "linen-Conv-depthwise": convolution(
        nn.Conv(8, (3, 2), feature_group_count=4), last, Spec((0, 1, 2), 3)
    ),
    "linen-ConvTranspose": convolution(
        nn.ConvTranspose(6, (3, 2)), last, Spec((0, 1, 2), 3)
    ),
    "linen-ConvTranspose-transpose_kernel": convolution(
        nn.ConvTranspose(6, (3, 2), transpose_kernel=True),
        second_to_last,
        Spec((0, 1, 3), 2),
    ),
    "linen-ConvLocal": Row(
        nn.ConvLocal(5, (2, 2), padding="VALID"),
        (numbers(BATCH, 3, 4, 2),),
        normalized(1, 2, 3),
        {"kernel": Weight(Spec(2, 3), each_transposed)},
    ),
    "linen-Embed": Row(
        nn.Embed(7, 5),
        (np.arange(7),),
        normalized(0),
        {"embedding": Weight(Spec(1, 0), lambda table: [table])},
    ),
    "linen-MultiHeadDotProductAttention": attention(
        nn.MultiHeadDotProductAttention(**ATTENTION),
        (SEQUENCES, numbers(4, 3, 6, seed=2)),
    ),
    "linen-SelfAttention": attention(nn.SelfAttention(**ATTENTION), (SEQUENCES,)),
    # Queries and keys are normalized over a head: a channel has no scale to itself.
    "linen-MultiHeadAttention": Row(
        nn.MultiHeadAttention(**ATTENTION, normalize_qk=True, use_bias=False),
        (SEQUENCES,),
        normalized(),
        {
            path.removeprefix("inner/"): weight._replace(view="layer")
            for path, weight in attention(None, ()).weights.items()
        },
    ),
    "linen-BatchNorm": before(
        nn.BatchNorm(use_running_average=False, epsilon=EPSILON), "channel"
    ),
    "linen-LayerNorm": before(nn.LayerNorm(epsilon=EPSILON), "layer"),
    "linen-RMSNorm": before(nn.RMSNorm(epsilon=EPSILON), "layer"),
    "linen-GroupNorm": before(nn.GroupNorm(2, epsilon=EPSILON), "layer"),
    "linen-InstanceNorm": before(
        nn.InstanceNorm(epsilon=EPSILON), "channel", (4, 5, 6)
    ),
    "linen-PReLU": before(
        nn.Sequential([nn.PReLU(), nn.BatchNorm(False, epsilon=EPSILON)]), "channel"
    ),
    "linen-WeightNorm": Row(
        nn.WeightNorm(nn.Dense(5)),
        (numbers(BATCH, 6),),
        fit,
        {"layer_instance/kernel": DENSE},
    ),
    "linen-SpectralNorm": Row(
        nn.SpectralNorm(nn.Conv(5, (3,))),
        (numbers(4, 6, 4),),
        fit,
        {"layer_instance/kernel": Weight(Spec((0, 1), 2), last, "layer")},
        {"update_stats": False},
    ),
    "linen-LSTMCell": cell(nn.LSTMCell(4), carry(BATCH, 4), LSTM_PATHS),
    "linen-OptimizedLSTMCell": Row(
        OneOfTwo(
            nn.OptimizedLSTMCell(
                4,
                gate_fn=standardized_gate(jax.nn.sigmoid),
                activation_fn=standardized_gate(jnp.tanh),
            )
        ),
        (carry(BATCH, 4), numbers(BATCH, 3)),
        fit,
        {f"inner/{path}/kernel": DENSE for path in LSTM_PATHS},
    ),
    "linen-GRUCell": cell(nn.GRUCell(4), numbers(BATCH, 4, seed=2), GRU_PATHS),
    "linen-MGUCell": cell(
        nn.MGUCell(4), numbers(BATCH, 4, seed=2), ("if", "in", "hf", "hn")
    ),
    "linen-SimpleCell": cell(nn.SimpleCell(4), numbers(BATCH, 4, seed=2), "ih"),
    "linen-ConvLSTMCell": cell(
        nn.ConvLSTMCell(4, (3,)),
        carry(4, 5, 4),
        ("ih", "hh"),
        (4, 5, 3),
        Weight(Spec((0, 1), 2), last),
    ),
    "linen-RNN": Row(
        Normalized(nn.RNN(nn.SimpleCell(4))),
        (numbers(BATCH, 3, 5),),
        fit,
        {f"inner/cell/{path}/kernel": DENSE for path in "ih"},
    ),
    "linen-Bidirectional": Row(
        Normalized(
            nn.Bidirectional(nn.RNN(nn.SimpleCell(4)), nn.RNN(nn.SimpleCell(4)))
        ),
        (numbers(BATCH, 3, 5),),
        fit,
        {
            f"inner/{direction}_rnn/cell/{path}/kernel": DENSE
            for direction in ("forward", "backward")
            for path in "ih"
        },
    ),
}


def flat(layout):
    """By path; kept apart from what train and compare, which know no layouts."""
    return flatten_dict(layout, sep="/")


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
@pytest.mark.nightly
@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    module, inputs, loss, weights, kwargs = ROWS[name]
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), *inputs, **kwargs),
    )
    leaves, treedef = jax.tree.flatten(shapes)
    # Biases would start at zero, where a projection has no effect.
    variables = jax.tree.unflatten(
        treedef, [draw(*leaf.shape, seed=seed) for seed, leaf in enumerate(leaves)]
    )
    params = variables.pop("params")

    layout = from_linen(module, *inputs, **kwargs)
    assert flat(layout).keys() == flat(params).keys()
    specs = {path: weight.spec for path, weight in weights.items()}
    assert {path: spec for path, spec in flat(layout).items() if spec} == specs

    def loss_of_params(params):
        outputs, _ = module.apply(
            {"params": params, **variables}, *inputs, **kwargs, mutable=["batch_stats"]
        )
        return loss(outputs)

    # Nothing is stacked here, so that the program says it all.
    assert flat(from_function(loss_of_params, params)) == flat(layout)

    assert_steps_are_those_of_pytorch(
        train(loss_of_params, params, layout),
        {path: weight.cut for path, weight in weights.items()},
        {path: weight.view for path, weight in weights.items()},
    )
