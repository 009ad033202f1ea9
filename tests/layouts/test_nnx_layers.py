"""Layers of NNX: AdamP takes the steps that PyTorch's layout of the weights takes."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import layout_steps
from layout_layers import draw, fit, last, second_to_last, standardize
from layout_steps import assert_steps_are_those_of_pytorch, train
from optax_adamp import adamp
from optax_adamp.layouts import from_nnx, output_last
from trees import Spec

BATCH = 16


class Weight(NamedTuple):
    """What is known of a parameter that may be projected.

    The view is "channel" where the loss makes it so by construction: with other axes
    the steps would differ.
    """

    spec: Spec
    cut: Callable[[np.ndarray], list[np.ndarray]]  # Into PyTorch weights.
    view: str = "channel"


class Row(NamedTuple):
    make: Callable[[nnx.Rngs], nnx.Module]
    loss: Callable[[Any], jax.Array]
    weights: dict[str, Weight]  # By path; everything else is never projected.


def normalized(channel_axes, *shape):
    return lambda layer: fit(standardize(layer(draw(*shape)), channel_axes))


def matrix(inputs, outputs):
    """Axes of the inputs, then of the outputs, each seen as one."""
    return lambda array: [array.reshape(np.prod(inputs), np.prod(outputs)).T]


def each_transposed(array):
    return [matrix.T for matrix in array]


LINEAR = Weight(Spec((0,), (1,)), last)


def sequential(*layers):
    return lambda rngs: nnx.Sequential(*(layer(rngs) for layer in layers))


def linear(rngs):
    return nnx.Linear(6, 8, use_bias=False, rngs=rngs)


def plain_loss(*shape):
    return lambda layer: fit(layer(draw(*shape)))


def before(norm, view="channel"):
    """A linear layer whose outputs are normalized by the layer under test."""
    return Row(
        sequential(linear, norm),
        plain_loss(BATCH, 6),
        {"layers/0/kernel": LINEAR._replace(view=view)},
    )


def convolution(make, channels, spec, spatial=2, cut=last):
    return Row(
        make,
        normalized((-1,), 4, *[6] * spatial, channels),
        {"kernel": Weight(spec, cut)},
    )


def attend(query, key, value, **_):
    """Stands for attention: each projection is scale-invariant per channel."""
    query, key, value = (standardize(array, (-2, -1)) for array in (query, key, value))
    return query * key + value


def attention(rngs):
    return nnx.MultiHeadAttention(
        2, 6, 8, 5, attention_fn=attend, decode=False, rngs=rngs
    )


def gates(activation):
    return lambda gate: activation(standardize(gate))


GATES = {"activation_fn": gates(jnp.tanh)}
GATES_AND_CELL = {**GATES, "gate_fn": gates(jax.nn.sigmoid)}


def recurrent_loss(step, carry_of=lambda hidden: hidden):
    """Inputs and state enter separately, or their kernels would share one scale."""

    def loss(cell):
        hidden, seen = draw(BATCH, 4, seed=4), draw(BATCH, 3)
        from_inputs = step(cell, carry_of(jnp.zeros_like(hidden)), seen)
        from_state = step(cell, carry_of(hidden), jnp.zeros_like(seen))
        return fit(standardize(from_inputs)) + fit(standardize(from_state))

    return loss


def lstm_carry(hidden):
    return jnp.ones_like(hidden), hidden


def cell(make, paths, carry_of=lambda hidden: hidden):
    return Row(
        make,
        recurrent_loss(lambda cell, carry, seen: cell(carry, seen)[1], carry_of),
        {f"{path}/kernel": LINEAR for path in paths},
    )


def run_once(rnn, carry, seen):
    return rnn(seen[:, None], initial_carry=carry)[:, 0]


def run_both_ways(bidirectional, carry, seen):
    carries = carry, jax.tree.map(jnp.copy, carry)
    return bidirectional(seen[:, None], initial_carry=carries)[:, 0]


def lstm(rngs):
    return nnx.OptimizedLSTMCell(3, 4, **GATES_AND_CELL, rngs=rngs)


def lora_linear(rngs):
    return nnx.LoRALinear(6, 5, lora_rank=2, rngs=rngs)


def squares_of(layer):
    """Lets no weight look scale-invariant by chance."""
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(layer)))


class Containers(nnx.Module):
    def __init__(self, rngs):
        self.listed = nnx.List([linear(rngs), nnx.Dict(inner=linear(rngs))])

    def __call__(self, values):
        first, second = self.listed
        return jnp.concatenate([first(values), second.inner(values)], axis=-1)


ROWS = {
    "nnx-Linear": Row(
        lambda rngs: nnx.Linear(6, 5, rngs=rngs),
        normalized((-1,), BATCH, 6),
        {"kernel": LINEAR},
    ),
    "nnx-LinearGeneral": Row(
        lambda rngs: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=rngs),
        normalized((-2, -1), BATCH, 2, 3),
        {"kernel": Weight(Spec((0, 1), (2, 3)), matrix((2, 3), (4, 5)))},
    ),
    "nnx-LinearGeneral-batch_axis": Row(
        lambda rngs: nnx.LinearGeneral(6, 5, batch_axis={0: 3}, rngs=rngs),
        normalized((0, -1), 3, BATCH, 6),
        {"kernel": Weight(Spec((1,), (2,)), each_transposed)},
    ),
    "nnx-Einsum": Row(
        lambda rngs: nnx.Einsum("nti,hid->nthd", (2, 6, 3), (2, 3), rngs=rngs),
        normalized((-2, -1), BATCH, 4, 6),
        {
            "kernel": Weight(
                Spec((1,), (0, 2)),
                lambda kernel: [kernel.transpose(0, 2, 1).reshape(6, 6)],
            )
        },
    ),
    "nnx-Einsum-batch": Row(
        lambda rngs: nnx.Einsum("nti,oti->nto", (5, 3, 6), rngs=rngs),
        normalized((1, 2), BATCH, 3, 6),
        {
            "kernel": Weight(
                Spec((2,), (0,)), lambda kernel: list(np.moveaxis(kernel, 1, 0))
            )
        },
    ),
    "nnx-Conv-1d": convolution(
        lambda rngs: nnx.Conv(4, 6, 3, rngs=rngs), 4, Spec((0, 1), 2), 1
    ),
    "nnx-Conv-2d": convolution(
        lambda rngs: nnx.Conv(4, 6, (3, 2), rngs=rngs),
        4,
        Spec((0, 1, 2), 3),
    ),
    "nnx-Conv-grouped": convolution(
        lambda rngs: nnx.Conv(4, 6, (3, 2), feature_group_count=2, rngs=rngs),
        4,
        Spec((0, 1, 2), 3),
    ),
    "nnx-Conv-depthwise": convolution(
        lambda rngs: nnx.Conv(4, 8, (3, 2), feature_group_count=4, rngs=rngs),
        4,
        Spec((0, 1, 2), 3),
    ),
    "nnx-ConvTranspose": convolution(
        lambda rngs: nnx.ConvTranspose(4, 6, (3, 2), rngs=rngs),
        4,
        Spec((0, 1, 2), 3),
    ),
    "nnx-ConvTranspose-transpose_kernel": convolution(
        lambda rngs: nnx.ConvTranspose(4, 6, (3, 2), transpose_kernel=True, rngs=rngs),
        4,
        Spec((0, 1, 3), 2),
        cut=second_to_last,
    ),
    "nnx-Embed": Row(
        lambda rngs: nnx.Embed(7, 5, rngs=rngs),
        lambda layer: fit(standardize(layer(jnp.arange(7)), (0,))),
        {"embedding": Weight(Spec(1, 0), lambda table: [table])},
    ),
    "nnx-MultiHeadAttention": Row(
        attention,
        lambda layer: fit(standardize(layer(draw(4, 5, 6)))),
        {
            **{
                f"{name}/kernel": Weight(Spec((0,), (1, 2)), matrix(6, (2, 4)))
                for name in ("query", "key", "value")
            },
            "out/kernel": Weight(Spec((0, 1), (2,)), matrix((2, 4), 5)),
        },
    ),
    "nnx-LSTMCell": cell(
        lambda rngs: nnx.LSTMCell(3, 4, **GATES_AND_CELL, rngs=rngs),
        ("ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"),
        lstm_carry,
    ),
    "nnx-OptimizedLSTMCell": cell(lstm, ("dense_i", "dense_h"), lstm_carry),
    "nnx-GRUCell": cell(
        lambda rngs: nnx.GRUCell(3, 4, **GATES_AND_CELL, rngs=rngs),
        ("dense_i", "dense_h"),
    ),
    "nnx-SimpleCell": cell(
        lambda rngs: nnx.SimpleCell(3, 4, **GATES, rngs=rngs),
        ("dense_i", "dense_h"),
    ),
    "nnx-RNN": Row(
        lambda rngs: nnx.RNN(lstm(rngs), rngs=rngs),
        recurrent_loss(run_once, lstm_carry),
        {f"cell/dense_{name}/kernel": LINEAR for name in "ih"},
    ),
    "nnx-Bidirectional": Row(
        lambda rngs: nnx.Bidirectional(
            nnx.RNN(lstm(rngs), rngs=rngs), nnx.RNN(lstm(rngs), rngs=rngs), rngs=rngs
        ),
        recurrent_loss(run_both_ways, lstm_carry),
        {
            f"{direction}_rnn/cell/dense_{name}/kernel": LINEAR
            for direction in ("forward", "backward")
            for name in "ih"
        },
    ),
    # The columns of `a` meet in `b`, so that only `a` as a whole is scale-invariant.
    "nnx-LoRA": Row(
        lambda rngs: nnx.LoRA(6, 4, 5, rngs=rngs),
        normalized((-1,), BATCH, 6),
        {"lora_a": LINEAR._replace(view="layer"), "lora_b": LINEAR},
    ),
    # Kernel and adapter are added, so that none has a scale to itself.
    "nnx-LoRALinear": Row(
        lora_linear,
        lambda layer: fit(standardize(layer(draw(BATCH, 6)))) + squares_of(layer),
        {
            name: LINEAR._replace(view="none")
            for name in ("kernel", "lora/lora_a", "lora/lora_b")
        },
    ),
    "nnx-BatchNorm": before(lambda rngs: nnx.BatchNorm(8, epsilon=1e-12, rngs=rngs)),
    "nnx-LayerNorm": before(
        lambda rngs: nnx.LayerNorm(8, epsilon=1e-12, rngs=rngs), "layer"
    ),
    "nnx-RMSNorm": before(
        lambda rngs: nnx.RMSNorm(8, epsilon=1e-12, rngs=rngs), "layer"
    ),
    "nnx-GroupNorm": before(
        lambda rngs: nnx.GroupNorm(8, 2, epsilon=1e-12, rngs=rngs), "layer"
    ),
    "nnx-InstanceNorm": Row(
        sequential(linear, lambda rngs: nnx.InstanceNorm(8, epsilon=1e-12, rngs=rngs)),
        plain_loss(4, 5, 6),
        {"layers/0/kernel": LINEAR},
    ),
    "nnx-PReLU": Row(
        sequential(linear, lambda rngs: nnx.PReLU()),
        normalized((-1,), BATCH, 6),
        {"layers/0/kernel": LINEAR},
    ),
    "nnx-List-Dict": Row(
        Containers,
        normalized((-1,), BATCH, 6),
        {"listed/0/kernel": LINEAR, "listed/1/inner/kernel": LINEAR},
    ),
    "nnx-WeightNorm": Row(
        # Its scale would be a plain array, which no optimizer sees.
        lambda rngs: nnx.WeightNorm(
            nnx.Linear(6, 5, rngs=rngs), use_scale=False, rngs=rngs
        ),
        plain_loss(BATCH, 6),
        {"layer_instance/kernel": LINEAR},
    ),
    "nnx-SpectralNorm": Row(
        lambda rngs: nnx.SpectralNorm(nnx.Linear(6, 5, rngs=rngs), rngs=rngs),
        plain_loss(BATCH, 6),
        {"layer_instance/kernel": LINEAR._replace(view="layer")},
    ),
}


def build(make):
    """The model with weights that need no compilation; biases start at zero."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def fill(keys, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        path = jax.tree_util.keystr(keys)
        if "bias" in path:
            return jnp.zeros_like(leaf)
        seed = zlib.crc32(path.encode())  # As hash(), but the same in every run.
        return draw(*leaf.shape, seed=seed).astype(leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map_with_path(fill, state))


def train_functionally(model, loss):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_of_params(params):
        return loss(nnx.merge(graphdef, params, rest, copy=True))

    return train(loss_of_params, params, from_nnx(model))


def specs_of(layout, above=()):
    """By path, as a flat dict."""
    specs = {}
    for key, value in layout.items():
        path = (*above, str(key))
        is_layout = isinstance(value, dict)
        specs |= specs_of(value, path) if is_layout else {"/".join(path): value}
    return specs


@pytest.mark.nightly
@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    layer = name.removeprefix("nnx-")
    if layer in ("WeightNorm", "SpectralNorm") and not hasattr(nnx, layer):
        pytest.skip(f"nnx.{layer} came with a later Flax than this")
    make, loss, weights = ROWS[name]

    layout = from_nnx(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    assert {path: spec for path, spec in specs_of(layout).items() if spec} == {
        path: weight.spec for path, weight in weights.items()
    }

    model = build(make)
    assert from_nnx(model) == layout
    history = train_functionally(model, loss)
    assert_steps_are_those_of_pytorch(
        history,
        {path: weight.cut for path, weight in weights.items()},
        {path: weight.view for path, weight in weights.items()},
    )


def test_optimizer_of_nnx():
    """`nnx.Optimizer` takes the steps that the functional loop takes."""
    make, loss, _ = ROWS["nnx-List-Dict"]
    model = build(make)
    layout = from_nnx(model)
    history = train_functionally(model, loss)

    tx = adamp(
        layout_steps.LEARNING_RATE,
        weight_decay=layout_steps.WEIGHT_DECAY,
        wd_ratio=layout_steps.WD_RATIO,
        dimension_numbers=layout,
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    gradient = nnx.jit(nnx.grad(loss))
    for _ in range(layout_steps.STEPS):
        optimizer.update(model, gradient(model))

    expected = history.weights["listed/0/kernel"][-1]
    np.testing.assert_allclose(model.listed[0].kernel[...], expected, rtol=1e-5)
    assert not np.allclose(history.weights["listed/0/kernel"][0], expected, rtol=1e-2)


class Own(nnx.Module):
    """A module of a user, with parameters that only the user knows."""

    def __init__(self, rngs):
        self.hidden = WithExtra(6, 5, rngs=rngs)
        self.norm = nnx.LayerNorm(5, rngs=rngs)
        self.vector = nnx.Param(jnp.ones(5))
        self.table = nnx.Param(jnp.ones((4, 5)))
        self.weights = nnx.List([nnx.Param(jnp.ones((2, 3, 5)))])


class WithExtra(nnx.Linear):
    """A subclass is read as its base is, but for what it adds."""

    def __init__(self, *sizes, rngs):
        super().__init__(*sizes, rngs=rngs)
        self.extra = nnx.Param(jnp.ones((5, 5)))


def own_model():
    return build(Own)


OVERRIDES = {
    "table": None,
    "weights/*": Spec((0, 1), 2),
    "hidden/extra": output_last,
}


def test_reasons_and_overrides():
    layout = from_nnx(own_model(), overrides=OVERRIDES)

    expected = {
        "hidden/bias": (None, "WithExtra.bias"),
        "hidden/extra": (((0,), 1, "auto"), "override 'hidden/extra': last axis"),
        "hidden/kernel": (Spec((0,), (1,)), "WithExtra.kernel"),
        "norm/bias": (None, "LayerNorm.bias"),
        "norm/scale": (None, "LayerNorm.scale"),
        "table": (None, "override 'table'"),
        "vector": (None, "fewer than two axes"),
        "weights/0": (Spec((0, 1), 2), "override 'weights/*'"),
    }
    assert specs_of(layout) == {path: spec for path, (spec, _) in expected.items()}
    for path, (_, reason) in expected.items():
        *above, name = path.split("/")
        holder = functools.reduce(dict.get, above, layout)
        assert {str(key): why for key, why in holder.reasons.items()}[name] == reason


def test_override_beats_the_module():
    layout = from_nnx(own_model(), overrides={**OVERRIDES, "hidden/kernel": None})

    assert layout["hidden"]["kernel"] is None


def test_uncovered_parameters():
    """The error lists all of them, and what it says to add works."""
    with pytest.raises(ValueError, match="does not know which axes") as caught:
        from_nnx(own_model())

    message = str(caught.value)
    untold = "pass from_nnx what the model is called with, and its program tells\n"
    for told in (
        "hidden/extra: an array of shape (5, 5) of test_nnx_layers.WithExtra",
        "table: an array of shape (4, 5) of test_nnx_layers.Own",
        "weights/0: an array of shape (2, 3, 5) of test_nnx_layers.Own",
    ):
        assert f"{told}: {untold}" in message
    assert "kernel" not in message
    _, _, lines = message.partition("overrides=")
    suggested = eval(lines, {"ProjectionDimensionNumbers": Spec})
    layout = from_nnx(own_model(), overrides=suggested)
    assert layout["table"] == Spec(0, 1)


class Custom(nnx.Module):
    """Its own kernels are used as those of Flax are, its own vectors as biases."""

    def __init__(self, rngs):
        self.hidden = WithExtra(5, 5, rngs=rngs)
        self.queries = nnx.Param(jnp.zeros((5, 2, 3)))
        self.positions = nnx.Param(jnp.zeros((4, 5)))
        self.statistics = nnx.BatchNorm(5, rngs=rngs)

    def __call__(self, inputs, *, scale):
        values = self.statistics(inputs + self.positions[...])
        values = self.hidden(values) @ self.hidden.extra[...]
        return scale * jnp.einsum("btd,dhk->bthk", values, self.queries[...])


@pytest.mark.parametrize("is_abstract", [False, True])
def test_program_of_what_modules_leave_open(is_abstract):
    """Flax's classes are asked first, and the program for the rest."""

    def build():
        return Custom(nnx.Rngs(0))

    model = nnx.eval_shape(build) if is_abstract else build()
    inputs = jax.ShapeDtypeStruct((2, 4, 5), jnp.float32)

    layout = from_nnx(model, inputs, scale=2.0)

    assert specs_of(layout) == {
        "hidden/bias": None,
        "hidden/extra": Spec(0, 1),
        "hidden/kernel": Spec(0, 1),
        "positions": None,
        "queries": Spec(0, (1, 2)),
        "statistics/bias": None,
        "statistics/scale": None,
    }
    assert layout["hidden"].reasons["kernel"] == "WithExtra.kernel"
    assert "test_nnx_layers.py" in layout["hidden"].reasons["extra"]
    with pytest.raises(ValueError, match=r"positions: .* pass from_nnx what the"):
        from_nnx(model)


class SharedArray(nnx.Module):
    """An array that two layers hold, under the name that comes first."""

    def __init__(self, rngs, *, is_tied):
        self.embed = nnx.Embed(6, 6, rngs=rngs)
        self.out = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.out.kernel = self.embed.embedding
        self.is_tied = is_tied

    def __call__(self, tokens):
        values = self.embed(tokens)
        return self.embed.attend(values) if self.is_tied else self.out(values)


def test_an_array_that_layers_of_different_classes_share():
    """Which class comes first in the alphabet must not decide."""
    tokens = np.zeros(3, np.int32)

    def shared(is_tied):
        return build(lambda rngs: SharedArray(rngs, is_tied=is_tied))

    for_rows = from_nnx(shared(is_tied=True), tokens)
    assert specs_of(for_rows) == {"embed/embedding": Spec(1, 0)}
    with pytest.raises(ValueError, match=r"embedding: .* used in two ways, .*"):
        from_nnx(shared(is_tied=False), tokens)
    with pytest.raises(ValueError, match=r"it is shared by Embed and Linear"):
        from_nnx(shared(is_tied=False))


class Shared(nnx.Module):
    """Two layers under three names, in an order that shows which one counts."""

    def __init__(self, rngs):
        self.tied = nnx.Linear(5, 6, rngs=rngs)
        self.inner = nnx.Dict(same=self.tied, other=nnx.Embed(4, 5, rngs=rngs))
        self.parent = self  # A cycle.


def test_shared_modules():
    layout = from_nnx(build(Shared))

    assert specs_of(layout) == {
        "inner/other/embedding": Spec(1, 0),
        "inner/same/bias": None,
        "inner/same/kernel": Spec((0,), (1,)),
    }


@pytest.mark.parametrize(
    ("wrt", "paths"),
    [
        (nnx.LoRAParam, {"lora/lora_a", "lora/lora_b"}),
        (nnx.All(nnx.Param, nnx.PathContains("kernel")), {"kernel"}),
    ],
)
def test_wrt(wrt, paths):
    model = build(lora_linear)

    specs = specs_of(from_nnx(model, wrt=wrt))

    assert specs == dict.fromkeys(paths, Spec((0,), (1,)))


class Statistics(nnx.Module):
    def __init__(self, value):
        self.mean = nnx.BatchStat(value)


class Forgetful(nnx.Linear):
    """A subclass that keeps nothing of what its base class keeps."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((3, 2)))


def resized():
    model = build(lambda rngs: nnx.Linear(3, 4, rngs=rngs))
    model.kernel = nnx.Param(jnp.ones((3, 5)))
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nnx.Linear, "Linear is a class, a model that was never built.*eval_"),
        (lambda: own_model, "instance of nnx.Module; got function.*called first"),
        (lambda: nnx.state(own_model()), "got State. Parameters alone do not say"),
        (lambda: {"kernel": jnp.ones((2, 2))}, "got dict. Parameters alone"),
        (lambda: linen.Dense(3), "Dense is a module of Flax Linen: use from_linen"),
        (lambda: linen.Dense, "Dense is a module of Flax Linen: use from_linen"),
    ],
)
def test_no_module(make, words):
    with pytest.raises(TypeError, match=words):
        from_nnx(make())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Statistics(jnp.ones(2)), r"Statistics has no parameters \(nnx.Param"),
        (Forgetful, r"kernel: an array of shape \(3, 2\) of .*Forgetful"),
        (resized, r"\(3, 5\) of .*Linear: it would have made \(3, 4\) or a stack of"),
    ],
)
def test_modules_that_do_not_tell(make, words):
    with pytest.raises(ValueError, match=words):
        from_nnx(make())


def test_nothing_selected():
    with pytest.raises(ValueError, match=r"Own has no Variables for wrt=.*LoRAParam"):
        from_nnx(own_model(), wrt=nnx.LoRAParam)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({**OVERRIDES, "tabel": None}, "overrides 'tabel' match no parameter"),
        ({**OVERRIDES, "h*kernel": Spec(0, 1), "*kernel": None}, "both match hidden/k"),
        ({**OVERRIDES, "norm/scale": Spec(0, 1)}, "norm/scale, .* out of range"),
        (
            {**OVERRIDES, "table": "last"},
            "'table' must be a ProjectionDimensionNumbers",
        ),
    ],
)
def test_overrides_that_do_not_fit(overrides, words):
    with pytest.raises(ValueError, match=words):
        from_nnx(own_model(), overrides=overrides)


def test_trees_inside_variables():
    """A Variable may hold a tree of arrays, or nothing."""
    model = Statistics(None)
    model.none = nnx.Param(None)
    model.tree = nnx.Param({"vector": jnp.ones(3), "matrix": jnp.ones((3, 2))})

    layout = from_nnx(model, overrides={"tree/matrix": Spec(0, 1)})

    assert specs_of(layout) == {"tree/matrix": Spec(0, 1), "tree/vector": None}
