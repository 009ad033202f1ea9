"""One architecture in Linen and in NNX: both are read alike, and as written here.

The models are of the kinds that Flax's documentation shows: a convolutional network
with batch normalization, attention, an LSTM in `RNN`, layers in a scan, an ensemble.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict

from optax_adamp.layouts import from_linen, from_nnx
from trees import Spec

LAYERS = 4
MEMBERS = 3
DENSE = Spec((0,), (1,))
STACKED_DENSE = Spec((1,), (2,))
HEADS, OUT = Spec((0,), (1, 2)), Spec((0, 1), (2,))


class Architecture(NamedTuple):
    linen: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    nnx: Callable[[nnx.Rngs], nnx.Module]
    specs: dict[str, Spec | None]  # All parameters, by path.


def layer(name, kernel, *vectors):
    """A layer with a kernel and with vectors."""
    specs = {f"{name}/kernel": kernel} if kernel else {}
    return specs | {f"{name}/{vector}": None for vector in vectors}


def norm(name):
    return layer(name, None, "scale", "bias")


def attention(name, heads, out):
    return {
        **layer(f"{name}/query", heads, "bias"),
        **layer(f"{name}/key", heads, "bias"),
        **layer(f"{name}/value", heads, "bias"),
        **layer(f"{name}/out", out, "bias"),
    }


class LinenConvNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        values = nn.Conv(8, (3, 3), use_bias=False, name="conv")(images)
        values = nn.relu(nn.BatchNorm(True, name="norm")(values))
        values = nn.Conv(8, (3, 3), feature_group_count=4, name="grouped")(values)
        values = nn.PReLU(name="slope")(values)
        values = nn.ConvTranspose(6, (2,), transpose_kernel=True, name="up")(
            values.mean(1)
        )
        return nn.Dense(10, name="head")(values.mean(1))


class NNXConvNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.grouped = nnx.Conv(8, 8, (3, 3), feature_group_count=4, rngs=rngs)
        self.slope = nnx.PReLU()
        self.up = nnx.ConvTranspose(8, 6, 2, transpose_kernel=True, rngs=rngs)
        self.head = nnx.Linear(6, 10, rngs=rngs)


CONV_NET = {
    **layer("conv", Spec((0, 1, 2), (3,))),
    **norm("norm"),
    **layer("grouped", Spec((0, 1, 2), (3,)), "bias"),
    "slope/negative_slope": None,
    **layer("up", Spec((0, 2), (1,)), "bias"),
    **layer("head", DENSE, "bias"),
}


class LinenBlock(nn.Module):
    """A transformer block, as a step of a scan."""

    @nn.compact
    def __call__(self, values, _=None):
        normed = nn.LayerNorm(name="norm")(values)
        values += nn.MultiHeadDotProductAttention(2, name="attention")(normed)
        hidden = nn.gelu(nn.Dense(16, name="up")(values))
        return values + nn.Dense(8, name="down")(hidden), None


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)


BLOCK = {
    **norm("norm"),
    **attention("attention", HEADS, OUT),
    **layer("up", DENSE, "bias"),
    **layer("down", DENSE, "bias"),
}


class LinenRNN(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        values = nn.Embed(20, 6, name="embed")(tokens.astype(int))
        values = nn.RNN(nn.LSTMCell(4, name="lstm"), name="rnn")(values)
        return nn.Dense(2, name="head")(values[:, -1])


class NNXRNN(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 6, rngs=rngs)
        self.lstm = nnx.LSTMCell(6, 4, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)
        self.rnn = nnx.RNN(self.lstm, rngs=rngs)


LSTM = {
    "embed/embedding": Spec((1,), (0,)),
    **{
        path: spec
        for gate in "ifgo"
        for path, spec in (
            layer(f"lstm/i{gate}", DENSE) | layer(f"lstm/h{gate}", DENSE, "bias")
        ).items()
    },
    **layer("head", DENSE, "bias"),
}


def scanned(axis):
    """Blocks that Linen's scan, and NNX's vmap, stack along an axis."""

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, values):
            scan = nn.scan(
                LinenBlock,
                variable_axes={"params": axis},
                split_rngs={"params": True},
                length=LAYERS,
            )
            return nn.Dense(3, name="head")(scan(name="layers")(values, None)[0])

    class NNX(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=LAYERS)
            @nnx.vmap(in_axes=0, out_axes=axis)
            def make(rngs):
                return NNXBlock(rngs)

            self.layers = make(rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

    return Linen, NNX


def scanned_specs(dense, heads, out):
    block = {
        **norm("norm"),
        **attention("attention", heads, out),
        **layer("up", dense, "bias"),
        **layer("down", dense, "bias"),
    }
    return {
        **{f"layers/{path}": spec for path, spec in block.items()},
        **layer("head", DENSE, "bias"),
    }


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, values):
        values = nn.relu(nn.Dense(6, name="hidden")(values))
        return nn.Dense(2, name="head")(values)


class NNXMLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(8, 6, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)


def linen_ensemble():
    return nn.vmap(
        LinenMLP,
        in_axes=None,
        axis_size=MEMBERS,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )()


def nnx_ensemble(rngs):
    make = nnx.vmap(NNXMLP, in_axes=0, out_axes=0)
    return nnx.split_rngs(splits=MEMBERS)(make)(rngs)


ENSEMBLE = {
    **layer("hidden", STACKED_DENSE, "bias"),
    **layer("head", STACKED_DENSE, "bias"),
}

LINEN_SCAN, NNX_SCAN = scanned(0)
LINEN_SCAN_1, NNX_SCAN_1 = scanned(1)
ARCHITECTURES = {
    "convolutions": Architecture(LinenConvNet, (2, 8, 8, 3), NNXConvNet, CONV_NET),
    "attention": Architecture(LinenBlock, (2, 5, 8), NNXBlock, BLOCK),
    "LSTM": Architecture(LinenRNN, (2, 5), NNXRNN, LSTM),
    "scan": Architecture(
        LINEN_SCAN,
        (2, 5, 8),
        NNX_SCAN,
        scanned_specs(STACKED_DENSE, Spec((1,), (2, 3)), Spec((1, 2), (3,))),
    ),
    "scan along axis 1": Architecture(
        LINEN_SCAN_1,
        (2, 5, 8),
        NNX_SCAN_1,
        scanned_specs(Spec((0,), (2,)), Spec((0,), (2, 3)), Spec((0, 2), (3,))),
    ),
    "ensemble": Architecture(linen_ensemble, (5, 8), nnx_ensemble, ENSEMBLE),
}


def specs_of(layout):
    """By path, with all axes in tuples."""

    def in_tuples(spec):
        return spec and Spec(*(tuple(np.ravel(axes)) for axes in spec[:2]))

    flat = flatten_dict(layout, sep="/")
    # Python's keyword leaves NNX but one name for the gate that Linen calls `if`.
    return {path.replace("if_/", "if/"): in_tuples(spec) for path, spec in flat.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name):
    architecture = ARCHITECTURES[name]
    inputs = jax.ShapeDtypeStruct(architecture.inputs, jnp.float32)

    of_linen = from_linen(architecture.linen(), inputs)
    of_nnx = from_nnx(nnx.eval_shape(lambda: architecture.nnx(nnx.Rngs(0))))

    assert specs_of(of_nnx) == architecture.specs
    assert specs_of(of_linen) == architecture.specs


class ScannedInItself(nnx.Module):
    """A module whose constructor is vmapped, with a parameter of its own."""

    @nnx.split_rngs(splits=5)
    @nnx.vmap(in_axes=(0, 0))
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.own = nnx.Param(jnp.ones(2))


def test_vmapped_constructor():
    model = nnx.eval_shape(lambda: ScannedInItself(nnx.Rngs(0)))

    with pytest.raises(ValueError, match=r"own: .*\(5, 2\) of .*Scanned"):
        from_nnx(model)
    layout = from_nnx(model, overrides={"own": None})

    assert specs_of(layout) == {
        **layer("linear", STACKED_DENSE, "bias"),
        **norm("norm"),
        "own": None,
    }
