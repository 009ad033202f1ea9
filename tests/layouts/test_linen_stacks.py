"""Linen modules that are stacked, shared or written by users; and what is refused."""

import functools
import itertools
import linecache
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from layout_layers import draw, fit, last, numbers, per_layer, standardize
from layout_steps import assert_steps_are_those_of_pytorch, train
from nightly import nightly_but
from optax_adamp.layouts import from_linen, output_last
from trees import Spec

SIZE = 4  # Of every axis, and the number of layers: no size tells one from another.


def flat(layout):
    return flatten_dict(layout, sep="/")


def specs(layout):
    """By path, for what may be projected."""
    return {path: spec for path, spec in flat(layout).items() if spec is not None}


def stacked(lift, target, axis=0, **kwargs):
    """The target lifted by `nn.scan` or `nn.vmap`, with parameters of its own each."""
    return lift(
        target, variable_axes={"params": axis}, split_rngs={"params": True}, **kwargs
    )


# A transformer, scanned and not.

PENALIZED = ("attention/value/kernel", "attention/out/kernel", "narrow/kernel")
VIEWS = {
    "attention/query/kernel": "layer",
    "attention/key/kernel": "layer",
    "wide/kernel": "channel",
    **dict.fromkeys(PENALIZED, "none"),
}
CUTS = {
    **dict.fromkeys(VIEWS, last),
    **{
        f"attention/{name}/kernel": lambda kernel: [kernel.reshape(SIZE, -1).T]
        for name in ("query", "key", "value")
    },
}


class Block(nn.Module):
    """Queries and keys are normalized by head, the wide layer by channel."""

    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, hidden, _=None):
        dense = functools.partial(
            nn.Dense, SIZE, use_bias=False, kernel_init=self.kernel_init
        )
        attention = nn.MultiHeadDotProductAttention(
            SIZE,
            qkv_features=SIZE**2,
            normalize_qk=True,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="attention",
        )
        hidden = hidden + attention(nn.LayerNorm(name="norm")(hidden))
        wide = dense(name="wide")(hidden)
        wide = wide / jnp.sqrt(jnp.mean(wide**2, (0, 1)))
        return hidden + dense(name="narrow")(nn.relu(wide)), None


class Unscanned(nn.Module):
    @nn.compact
    def __call__(self, hidden):
        for index in range(SIZE):
            hidden, _ = Block(name=str(index))(hidden)
        return hidden


class Scanned(nn.Module):
    axis: int
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, hidden):
        layers = stacked(
            nn.scan,
            Block,
            self.axis,
            length=SIZE,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return layers(self.kernel_init, name="layers")(hidden, None)[0]


HIDDEN = numbers(SIZE, SIZE, SIZE)


def train_transformer(model, params):
    def loss(params):
        outputs = model.apply({"params": params}, HIDDEN)
        # What nothing normalizes should not look scale-invariant by chance.
        penalized = [
            leaf
            for path, leaf in flat(nn.unbox(params)).items()
            if path.endswith(PENALIZED)
        ]
        return fit(outputs) + sum(jnp.sum(leaf**2) for leaf in penalized)

    return train(loss, params, from_linen(model, HIDDEN))


@functools.cache
def unscanned_params():
    shapes = jax.eval_shape(Unscanned().init, jax.random.key(0), HIDDEN)["params"]
    leaves, treedef = jax.tree.flatten(shapes)
    arrays = [draw(*leaf.shape, seed=seed) for seed, leaf in enumerate(leaves)]
    return jax.tree.unflatten(treedef, arrays)


@functools.cache
def unscanned_history():
    return train_transformer(Unscanned(), unscanned_params())


@pytest.mark.nightly
def test_unscanned_layers():
    """They are projected by channel, by layer and not at all, as in PyTorch."""

    def of_each_layer(table):
        return {f"{i}/{path}": x for path, x in table.items() for i in range(SIZE)}

    assert_steps_are_those_of_pytorch(
        unscanned_history(), of_each_layer(CUTS), of_each_layer(VIEWS)
    )


def stack(arrays, axis):
    """By path in a layer, from arrays by path in the model."""
    paths = {path.partition("/")[2] for path in arrays}
    return {
        path: np.stack([arrays[f"{index}/{path}"] for index in range(SIZE)], axis)
        for path in paths
    }


along_every_axis = pytest.mark.parametrize(
    ("axis", "boxed"),
    [
        (1, True),
        pytest.param(0, False, marks=pytest.mark.nightly),
        pytest.param(-1, False, marks=pytest.mark.nightly),
    ],
)


@functools.cache
def scanned_history(axis, boxed):
    init = nn.initializers.lecun_normal()
    if boxed:
        init = nn.with_partitioning(init, ("in", "out"))
    model = Scanned(axis, init)
    start = unflatten_dict(stack(flat(unscanned_params()), axis), sep="/")
    shapes = jax.eval_shape(model.init, jax.random.key(0), HIDDEN)["params"]
    params = nn.meta.replace_boxed(shapes, {"layers": start})
    assert isinstance(params["layers"]["wide"]["kernel"], nn.Partitioned) == boxed
    return train_transformer(model, params)


@along_every_axis
def test_scanned_layers(axis, boxed):
    """Each is projected by itself, as in PyTorch."""
    assert_steps_are_those_of_pytorch(
        scanned_history(axis, boxed),
        {f"layers/{path}": per_layer(cut, axis) for path, cut in CUTS.items()},
        {f"layers/{path}": view for path, view in VIEWS.items()},
    )


@pytest.mark.nightly
@along_every_axis
def test_scanned_layers_train_as_unscanned_ones(axis, boxed):
    ends = {path: arrays[-1] for path, arrays in unscanned_history().weights.items()}
    expected = {f"layers/{path}": end for path, end in stack(ends, axis).items()}
    weights = scanned_history(axis, boxed).weights
    trained = {path: arrays[-1] for path, arrays in weights.items()}
    # Adam makes full steps of gradients near zero, where rounding shows. With another
    # layout the decay alone would differ: by 8e-3 a step for a weight of 1.
    chex.assert_trees_all_close(trained, expected, rtol=1e-3, atol=1e-3)


# Experts in layers: a stack in a stack.


class Experts(nn.Module):
    axis: int
    experts: int
    features: int

    @nn.compact
    def __call__(self, carry, inputs):
        dense = stacked(
            nn.vmap, nn.Dense, self.axis, in_axes=None, axis_size=self.experts
        )
        return carry, dense(self.features, name="experts")(inputs)


def layers_of_experts(axes, layers, experts, features):
    scan_axis, vmap_axis = axes
    scan = stacked(nn.scan, Experts, scan_axis, in_axes=nn.broadcast, length=layers)
    return scan(vmap_axis, experts, features)


EVERY_DAY = [(0, 1), (1, -1), (2, 0), (-1, -1)]


@pytest.mark.parametrize(
    ("scan_axis", "vmap_axis"),
    nightly_but(EVERY_DAY, itertools.product([0, 1, 2, -1], [0, 1, -1])),
)
def test_axes_of_nested_stacks(scan_axis, vmap_axis):
    """They are those that have the sizes, and the same if all sizes are equal."""
    axes, sizes = (scan_axis, vmap_axis), (2, 3, 5)
    model, inputs = layers_of_experts(axes, *sizes), jnp.zeros((1, 7))
    shapes = jax.eval_shape(model.init, jax.random.key(0), 0.0, inputs)["params"]
    shape = shapes["experts"]["kernel"].shape
    expected = {"experts/kernel": Spec((shape.index(7),), (shape.index(5),))}

    assert specs(from_linen(model, 0.0, inputs)) == expected

    square = layers_of_experts(axes, SIZE, SIZE, SIZE)
    assert specs(from_linen(square, 0.0, jnp.zeros((1, SIZE)))) == expected


def test_steps_of_nested_stacks():
    """Every expert of every layer is projected by itself."""
    model, inputs = layers_of_experts((1, -1), 2, 3, 5), draw(16, 7)
    params = {"experts": {"kernel": draw(7, 2, 5, 3), "bias": draw(5, 2, 3)}}

    def loss(params):
        _, outputs = model.apply({"params": params}, 0.0, inputs)
        return fit(standardize(outputs, (0, 1, -1)))

    history = train(loss, params, from_linen(model, 0.0, inputs))

    cut = per_layer(per_layer(last, axis=-1), axis=1)
    assert_steps_are_those_of_pytorch(
        history, {"experts/kernel": cut}, {"experts/kernel": "channel"}
    )


# Other lifted, shared and user-written modules, all square.

SQUARE = np.zeros((SIZE, SIZE), "f4")
SQUARES = np.zeros((SIZE, SIZE, SIZE), "f4")
DENSE = Spec((0,), (1,))


class InSetup(nn.Module):
    def setup(self):
        self.dense = nn.Dense(SIZE)
        self.embed = nn.Embed(SIZE, SIZE)
        self.gain = self.param("gain", nn.initializers.ones, (SIZE,))

    def __call__(self, inputs):
        return self.embed.attend(self.dense(inputs) * self.gain)

    def encode(self, inputs):
        return self.dense(inputs)


def transpose(variables):
    return jax.tree.map(lambda x: x.T, variables)


def kept_transposed(module, **kwargs):
    return nn.map_variables(module, "params", transpose, transpose, init=True, **kwargs)


class Transposed(nn.Module):
    """Keeps the kernel of a layer the other way around."""

    @nn.compact
    def __call__(self, inputs):
        dense = kept_transposed(nn.Dense)
        return dense(SIZE, use_bias=False, name="dense")(inputs)


class Masked(nn.Module):
    """Takes its kernel for an array, whatever is around it, as no other layer does."""

    @nn.compact
    def __call__(self, inputs):
        def mask(variables):
            if variables:
                dense = variables["params"]["dense"]
                dense["kernel"] = jnp.triu(dense["kernel"])
            return variables

        def apply(module):
            return nn.Dense(SIZE, use_bias=False, name="dense")(inputs)

        masked = nn.map_variables(apply, "params", mask, init=True)(self)
        scan = stacked(nn.scan, Pair, length=SIZE)
        return scan(name="layers")(masked, None)[0]


class Pair(nn.Module):
    """For `nn.scan`, with a vector of its own and a layer called twice."""

    @nn.compact
    def __call__(self, inputs, _=None):
        gain = self.param("gain", nn.initializers.ones, (SIZE,))
        dense = nn.Dense(SIZE, name="dense")
        return dense(dense(inputs)) * gain, None


def refuse_boxes(variables):
    if not isinstance(variables["params"]["kernel"], jax.Array):
        raise ValueError("No boxes, please.\nThey are heavy.")
    return jax.tree.map(jnp.negative, variables)


class Picky(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        dense = nn.map_variables(nn.Dense, "params", refuse_boxes, init=True)
        return dense(SIZE, name="dense")(inputs)


def rename(old, new):
    def rename_all(variables):
        named = variables.get("params", {}).items()
        return {"params": {new if name == old else name: x for name, x in named}}

    return rename_all


class Renamed(nn.Module):
    """Keeps the kernel of a layer under another name."""

    dense: Any = nn.Dense

    @nn.compact
    def __call__(self, inputs):
        there, back = rename("kernel", "stored"), rename("stored", "kernel")
        dense = nn.map_variables(self.dense, "params", back, there, init=True)
        return dense(SIZE, name="dense")(inputs)


class Replaced(nn.Module):
    """Its kernel is not the one that the layer makes, nor the one that it uses."""

    @nn.compact
    def __call__(self, inputs):
        def replace(variables):
            return {"params": {"kernel": jnp.ones((SIZE, SIZE))}}

        dense = nn.map_variables(nn.Dense, "params", replace, replace, init=True)
        return dense(SIZE, use_bias=False, name="dense")(inputs)


class InWeightNorm(nn.Module):
    @nn.compact
    def __call__(self, inputs, _=None):
        return nn.WeightNorm(nn.Dense(SIZE, name="dense"), name="norm")(inputs), None


class Adapter(nn.Module):
    """Puts parameters of its own beside those of the layer that it wraps."""

    base: nn.Module

    def setup(self):
        nn.share_scope(self, self.base)

    @nn.compact
    def __call__(self, inputs):
        down = self.param("down", nn.initializers.ones, (SIZE, SIZE))
        return self.base(inputs) + inputs @ down


class Network(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return Adapter(nn.Dense(SIZE, name="base"))(inputs)


class Sub(nn.Dense):
    """Counts as the layer that it derives from."""


class SubWithMore(nn.Dense):
    @nn.compact
    def __call__(self, inputs):
        more = self.param("more", nn.initializers.ones, (SIZE, SIZE))
        return super().__call__(inputs) + inputs @ more.T


class SubWithOther(nn.Dense):
    """Has another kernel than the layer that it derives from."""

    @nn.compact
    def __call__(self, inputs):
        kernel = self.param("kernel", nn.initializers.ones, (SIZE,) * 3)
        return jnp.einsum("...i,hik->...hk", inputs, kernel)


class InATree(nn.Module):
    """One parameter is a tree of arrays."""

    @nn.compact
    def __call__(self, inputs):
        square, bias = jnp.ones((SIZE, SIZE)), jnp.ones(SIZE)
        own = self.param("own", lambda _: {"w": {"1": square, "2": square}, "b": bias})
        return inputs @ own["w"]["1"] @ own["w"]["2"].T + own["b"]


class Orthogonal(nn.Module):
    """Goes through an operation that no axis can be followed through."""

    @nn.compact
    def __call__(self, inputs):
        free = self.param("free", nn.initializers.orthogonal(), (SIZE, SIZE))
        orthogonal, _ = jnp.linalg.qr(free)
        return inputs @ orthogonal


class Autoencoder(nn.Module):
    """Uses one kernel in both directions."""

    def setup(self):
        self.tied = self.param("tied", nn.initializers.lecun_normal(), (SIZE, SIZE))

    def encode(self, inputs):
        return nn.relu(inputs @ self.tied)

    def decode(self, hidden):
        return hidden @ self.tied.T

    def __call__(self, inputs):
        return self.decode(self.encode(inputs))


class Shared(nn.Module):
    """One layer in two places."""

    def setup(self):
        dense = nn.Dense(SIZE, use_bias=False)
        self.both = nn.Sequential([dense, nn.relu, dense])

    def __call__(self, inputs):
        return self.both(inputs)


def ensemble(target, axis, *args):
    """Two members that share their input, as heads do: a program does not tell."""
    return stacked(nn.vmap, target, axis, in_axes=None, axis_size=2)(*args)


jitted = nn.jit(Pair)

ON_LAST_TWO = Spec((1,), (2,))
CASES = {
    "vmap": (stacked(nn.vmap, nn.Dense)(SIZE), SQUARES, {"kernel": ON_LAST_TWO}),
    "vmap of one parameter": (
        nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})(
            SIZE
        ),
        SQUARES,
        {"kernel": DENSE},
    ),
    "vmap of setup": (
        stacked(nn.vmap, InSetup, 1)(),
        SQUARES,
        {"dense/kernel": Spec((0,), (2,)), "embed/embedding": Spec(2, 0)},
    ),
    "scan": (
        stacked(nn.scan, Pair, length=SIZE)(),
        SQUARE,
        {"dense/kernel": ON_LAST_TWO},
    ),
    "scan of remat": (
        stacked(nn.scan, nn.remat(Pair), -1, length=SIZE)(),
        SQUARE,
        {"dense/kernel": DENSE},
    ),
    "scan of jit": (
        stacked(nn.scan, jitted, 1, length=SIZE)(),
        SQUARE,
        {"dense/kernel": Spec((0,), (2,))},
    ),
    "remat_scan": (
        nn.remat_scan(nn.Dense, lengths=(SIZE, SIZE))(SIZE),
        SQUARE,
        {"kernel": Spec((2,), (3,))},
    ),
    "scan of WeightNorm": (
        stacked(nn.scan, InWeightNorm, length=SIZE)(),
        SQUARE,
        {"dense/kernel": ON_LAST_TWO},
    ),
    "RNN with a cell per step": (
        nn.RNN(
            nn.SimpleCell(SIZE),
            variable_axes={"params": 0},
            variable_broadcast=(),
            split_rngs={"params": True},
        ),
        SQUARES,
        {"cell/h/kernel": ON_LAST_TWO, "cell/i/kernel": ON_LAST_TWO},
    ),
    "transposed later": (Transposed(), SQUARE, {"dense/kernel": Spec((1,), (0,))}),
    "stack of transposed": (
        stacked(nn.vmap, Transposed)(),
        SQUARES,
        {"dense/kernel": Spec((2,), (1,))},
    ),
    "transposed stack": (
        kept_transposed(stacked(nn.vmap, nn.Dense))(SIZE, use_bias=False),
        SQUARES,
        {"kernel": Spec((1,), (0,))},
    ),
    "masked": (
        Masked(),
        SQUARE,
        {"dense/kernel": DENSE, "layers/dense/kernel": ON_LAST_TWO},
    ),
    "nothing stacked, and no boxes": (Picky(), SQUARE, {"dense/kernel": DENSE}),
    "not used": (Replaced(), SQUARE, {}),
    "shared": (Shared(), SQUARE, {"both/layers_0/kernel": DENSE}),
    "subclass": (Sub(SIZE), SQUARE, {"kernel": DENSE}),
    "shapes": (
        nn.Dense(2),
        jax.ShapeDtypeStruct((1, 3), jnp.float32),
        {"kernel": DENSE},
    ),
    "LayerNorm of two axes": (nn.LayerNorm(feature_axes=(-2, -1)), SQUARES, {}),
    "Einsum without channels": (
        nn.Einsum((SIZE, SIZE), "bij,ij->bij"),
        SQUARES,
        {},
    ),
    "tree of parameters": (
        InATree(),
        SQUARE,
        {"own/w/1": DENSE, "own/w/2": Spec((1,), (0,))},
    ),
    "tree of parameters, stacked": (
        ensemble(InATree, 1),
        SQUARE,
        {"own/w/1": Spec((0,), (2,)), "own/w/2": Spec((2,), (0,))},
    ),
    "own parameter": (Network(), SQUARE, {"base/down": DENSE, "base/kernel": DENSE}),
    "own parameter, stacked": (
        ensemble(Network, 1),
        SQUARE,
        {"base/down": Spec((0,), (2,)), "base/kernel": Spec((0,), (2,))},
    ),
    "more than the layer has": (
        SubWithMore(SIZE),
        SQUARE,
        {"more": Spec((1,), (0,)), "kernel": DENSE},
    ),
    "more than the layer has, stacked": (
        ensemble(SubWithMore, 1, SIZE),
        SQUARE,
        {"more": Spec((2,), (0,)), "kernel": Spec((0,), (2,))},
    ),
    "other than the layer has": (
        SubWithOther(SIZE),
        SQUARE,
        {"kernel": Spec((1,), (0, 2))},
    ),
    "other than the layer has, stacked": (
        ensemble(SubWithOther, 1, SIZE),
        SQUARE,
        {"kernel": Spec((2,), (0, 3))},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_lifted(case):
    model, inputs, expected = CASES[case]

    layout = from_linen(model, inputs)

    assert specs(layout) == expected
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    assert flat(layout).keys() == flat(shapes).keys()


def test_jit_is_traced_again():
    """Neither does an earlier trace hide the layers, nor ours the plain arrays."""
    layouts = [from_linen(jitted(), SQUARE) for _ in range(2)]
    stack_of_it = stacked(nn.scan, jitted, length=SIZE)
    from_linen(stack_of_it(), SQUARE, None)

    assert [specs(layout) for layout in layouts] == [{"dense/kernel": DENSE}] * 2
    for model in (jitted(), stack_of_it()):
        variables = jax.eval_shape(model.init, jax.random.key(0), SQUARE, None)
        assert all(
            isinstance(leaf, jax.ShapeDtypeStruct)
            for leaf in flat(variables["params"]).values()
        )


def test_another_method():
    layout = from_linen(InSetup(), SQUARE, method="encode")

    assert specs(layout) == {"dense/kernel": DENSE}


def test_fp8_operators_add_nothing():
    """Their scales are no parameters."""
    model = nn.Dense(SIZE, dot_general_cls=nn.Fp8DirectDotGeneralOp)

    assert flat(from_linen(model, SQUARE)) == flat(from_linen(nn.Dense(SIZE), SQUARE))


def test_reasons():
    """They name modules and places, not the classes that lifting makes of them."""
    vector = "fewer than two axes before stacking"
    kernel = r"contracted and kept, {} \(linear\.py:\d+\), stacked along axis 0"

    scanned = from_linen(stacked(nn.scan, Pair, length=SIZE)(), SQUARE)
    assert scanned.reasons == {"gain": vector}
    assert scanned["dense"].reasons["bias"] == vector
    assert re.fullmatch(kernel.format("Pair/dense"), scanned["dense"].reasons["kernel"])

    mapped = from_linen(stacked(nn.vmap, nn.Dense)(SIZE), SQUARES).reasons
    assert mapped["bias"] == vector
    assert re.fullmatch(kernel.format("Dense"), mapped["kernel"])

    own = from_linen(Network(), SQUARE)["base"].reasons["down"]
    place = re.fullmatch(r"contracted and kept, Network/Adapter_0 \((.+)\)", own)
    assert "inputs @ down" in line_of(place[1])


def line_of(place):
    """What stands in this file at a place such as `name.py:12`."""
    name, number = place.split(":")
    assert __file__.endswith(name)
    return linecache.getline(__file__, int(number))


# What a call needs beyond the parameters.


class InTraining(nn.Module):
    @nn.compact
    def __call__(self, inputs, mode):
        noise = jax.random.normal(self.make_rng("noise"), inputs.shape)
        hidden = nn.Dense(SIZE, name="dense")(inputs + noise)
        norm = nn.BatchNorm(use_running_average=mode == "evaluate", name="norm")
        hidden = nn.Dropout(0.5, deterministic=mode == "evaluate")(norm(hidden))
        self.sow("intermediates", "hidden", hidden)
        calls = self.variable("cache", "calls", jnp.zeros, ())
        calls.value += 1
        return hidden


@pytest.mark.parametrize(
    "kwargs",
    [
        {"mode": "train"},
        {"mode": "evaluate"},
        {"mode": "train", "mutable": ["params"]},
        {"mode": "train", "capture_intermediates": True},
        {"mode": "train", "method": InTraining.__call__},
    ],
)
def test_state_and_randomness(kwargs):
    assert flat(from_linen(InTraining(), SQUARE, **kwargs)) == {
        "dense/kernel": DENSE,
        "dense/bias": None,
        "norm/scale": None,
        "norm/bias": None,
    }


def test_decoding():
    """A call that a cache does not fit is told from one that it does."""
    attention = nn.MultiHeadDotProductAttention(2, decode=True, use_bias=False)
    token = jnp.zeros((1, 1, SIZE))

    message = refusal(attention, SQUARES)
    layout = from_linen(attention, token)

    assert message.startswith(
        "from_linen: MultiHeadDotProductAttention can be initialized with these "
        "arguments, but calling it with them afterwards failed (ValueError: "
        "Autoregressive cache shape error"
    )
    assert message.endswith("as in training, without a cache for decoding.")
    heads = dict.fromkeys(("query", "key", "value"), Spec((0,), (1, 2)))
    assert specs(layout) == {
        f"{name}/kernel": spec
        for name, spec in (heads | {"out": Spec((0, 1), (2,))}).items()
    }


# Overrides and errors.


def refusal(module, *args, error=ValueError, **kwargs):
    with pytest.raises(error) as caught:
        from_linen(module, *args, **kwargs)
    return str(caught.value)


THIS = re.escape(__name__)
PLACE = rf"\({THIS}\.py:\d+\)"
UNKNOWN = {
    "operation": (
        Orthogonal(),
        "free",
        (SIZE, SIZE),
        Spec(0, 1),
        rf"{THIS}\.Orthogonal: it goes into the operation '\w+', Orthogonal {PLACE}",
    ),
    "operation, stacked": (
        ensemble(Orthogonal, 1),
        "free",
        (SIZE, 2, SIZE),
        Spec(0, 2),
        rf"{THIS}\.Orthogonal: it goes into the operation '\w+', Orthogonal {PLACE}",
    ),
    "two ways": (
        Autoencoder(),
        "tied",
        (SIZE, SIZE),
        Spec(0, 1),
        rf"{THIS}\.Autoencoder: it is used in two ways, axis 0 reduction, axis 1 "
        rf"output, .*Autoencoder\.encode {PLACE}, and axis 0 output, axis 1 "
        rf"reduction, .*Autoencoder\.decode {PLACE}",
    ),
    # Of an error only the first line is shown.
    "stack in a function that takes no boxes": (
        ensemble(Picky, 0),
        "dense/kernel",
        (2, SIZE, SIZE),
        Spec((0, 1), 2),
        r"flax\.linen\.linear\.Dense: its axes were lost in a lifted transform "
        r"\(ValueError: No boxes, please\.\)",
    ),
    "stack of what a function makes": (
        ensemble(Replaced, 0),
        "dense/kernel",
        (2, SIZE, SIZE),
        Spec((0, 1), 2),
        r"flax\.linen\.linear\.Dense: its axes were lost in a lifted transform "
        r"\(it was replaced\)",
    ),
    "renamed": (
        Renamed(),
        "dense/stored",
        (SIZE, SIZE),
        Spec(0, 1),
        "an unknown module: a lifted transform made it, which may have stacked it",
    ),
    "renamed stack": (
        Renamed(stacked(nn.vmap, nn.Dense, in_axes=None, axis_size=2)),
        "dense/stored",
        (2, SIZE, SIZE),
        Spec((0, 1), 2),
        "an unknown module: a lifted transform made it, which may have stacked it",
    ),
    "stack of renamed": (
        ensemble(Renamed, 0),
        "dense/stored",
        (2, SIZE, SIZE),
        Spec((0, 1), 2),
        "an unknown module: a lifted transform made it, which may have stacked it",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_parameter(case):
    """Only that one is asked for, and the line that is shown can be pasted."""
    model, path, shape, suggested, said = UNKNOWN[case]

    message = refusal(model, SQUARE)

    told = message.splitlines()[1]
    what = rf"  {path}: an array of shape {re.escape(str(shape))} of {said}"
    assert re.fullmatch(what, told), told
    assert message.count("an array of shape") == 1
    line = message[message.index("overrides=") :].removeprefix("overrides=")
    overrides = eval(line, {"ProjectionDimensionNumbers": Spec})
    assert overrides == {path: suggested}
    for override in (suggested, None):
        layout = flat(from_linen(model, SQUARE, overrides={path: override}))
        assert layout[path] == override


def test_lines_of_two_ways():
    """They are those of the user, each with its own use."""
    places = re.findall(r"Autoencoder\.\w+ \((.+?)\)", refusal(Autoencoder(), SQUARE))

    first, second = map(line_of, places)
    assert "inputs @ self.tied)" in first
    assert "hidden @ self.tied.T" in second


def test_overrides():
    """They are for the array as it stands, and go before what modules say."""
    model = stacked(nn.vmap, Network, 1, in_axes=None, axis_size=2)()
    overrides = {"*/down": Spec(-3, -1), "base/kernel": None, "base/bias": output_last}

    layout = from_linen(model, SQUARE, overrides=overrides)

    assert specs(layout) == {"base/down": Spec(-3, -1)}
    assert layout["base"].reasons == {
        "down": "override '*/down'",
        "kernel": "override 'base/kernel'",
        "bias": "override 'base/bias': named bias",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kernal": None}, "'kernal' match no parameter"),
        ({"kernel": Spec(0, 2)}, "kernel, an array of shape (4, 4): axis 2"),
        ({"kernel": 3}, "'kernel' must be a ProjectionDimensionNumbers"),
    ],
)
def test_bad_overrides(overrides, message):
    assert message in refusal(nn.Dense(SIZE), SQUARE, overrides=overrides)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Dense, "got the class Dense: pass an instance"),
        (
            nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
            "Linear is an nnx.Module: use from_nnx",
        ),
        ({"kernel": SQUARE}, "got an object of type dict"),
    ],
)
def test_not_a_module(model, message):
    assert message in refusal(model, SQUARE, error=TypeError)


def test_bound_module():
    bound = nn.Dense(SIZE).bind({"params": {"kernel": SQUARE, "bias": SQUARE[0]}})

    assert "bound to variables" in refusal(bound, SQUARE)
    assert specs(from_linen(bound.unbind()[0], SQUARE)) == {"kernel": DENSE}


def test_no_parameters():
    assert "Dropout has no parameters" in refusal(
        nn.Dropout(0.5), SQUARE, deterministic=True
    )


def test_errors_of_flax_are_passed_on():
    missing = "required positional argument: 'inputs'"
    assert missing in refusal(nn.Dense(SIZE), error=TypeError)


# Boxes of users, and calls in which a parameter is there already


class CountedAxes(nn.meta.AxisMetadata):
    """A box that knows how many axes its array has, and has another name for it."""

    def __init__(self, array, axes):
        self.array = array
        self.axes = axes

    def unbox(self):
        assert jnp.ndim(self.array) == self.axes
        return self.array

    def replace_boxed(self, val):
        return CountedAxes(val, self.axes)

    def add_axis(self, index, params):
        assert params[nn.PARTITION_NAME] == "layers"
        return CountedAxes(self.array, self.axes + 1)

    def remove_axis(self, index, params):
        assert params[nn.PARTITION_NAME] == "layers"
        return CountedAxes(self.array, self.axes - 1)


jax.tree_util.register_pytree_with_keys(
    CountedAxes,
    lambda box: ([(jax.tree_util.GetAttrKey("array"), box.array)], box.axes),
    lambda axes, children: CountedAxes(*children, axes),
)


def counted(*args):
    return CountedAxes(nn.initializers.lecun_normal()(*args), 2)


class CalledTwice(nn.Module):
    """The second call finds the parameters of the first."""

    def setup(self):
        self.layers = stacked(
            nn.vmap, nn.Dense, 1, metadata_params={nn.PARTITION_NAME: "layers"}
        )(SIZE, kernel_init=counted)
        self.single = nn.Dense(SIZE, kernel_init=counted)

    def __call__(self, hidden, *, scale):
        hidden = self.layers(self.layers(hidden))
        return scale * self.single(inputs=self.single(inputs=hidden))


def test_boxes_of_users_are_told_of_new_axes():
    layout = from_linen(CalledTwice(), SQUARES, scale=2.0)

    assert flat(layout) == {
        "layers/kernel": Spec((0,), (2,)),
        "layers/bias": None,
        "single/kernel": DENSE,
        "single/bias": None,
    }


def test_other_classes_than_modules():
    assert "got an object of type type" in refusal(dict, SQUARE, error=TypeError)


class Helper(nn.Module):
    """Has methods, but no variables and no parent."""

    def size(self, inputs):
        return inputs.shape[-1]


class Helped(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        size = Helper(parent=None).size(inputs)
        return stacked(nn.vmap, nn.Dense)(size, name="layers")(inputs)


def test_modules_that_are_never_bound():
    layout = from_linen(Helped(), SQUARES)
    assert flat(layout) == {"layers/kernel": ON_LAST_TWO, "layers/bias": None}


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        dense = nn.Dense(SIZE, name="dense")
        return nn.SpectralNorm(dense)(inputs, update_stats=False)


def test_stacked_spectral_norms():
    """They keep statistics by the names on the paths of what they normalize."""
    model = nn.vmap(
        Spectral,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
    )()
    layout = from_linen(model, SQUARES)
    assert flat(layout) == {"dense/kernel": ON_LAST_TWO, "dense/bias": None}
