"""Steps on layers written like MaxText's, read from their programs, as on PyTorch's.

MaxText itself pins other versions of JAX and Flax. Shapes and scans are those of its
models, in which layers, heads and experts have no fixed place among the axes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from layout_layers import (
    assert_layer_steps_as_in_pytorch,
    first,
    fit,
    last,
    per_layer,
    standardize,
)
from optax_adamp.layouts import from_function, from_linen

pytestmark = pytest.mark.nightly

LAYERS, EMBED, HEADS, SIZE, MLP, EXPERTS, VOCABULARY = 2, 6, 2, 5, 4, 3, 7
TOKENS = np.arange(8 * 7).reshape(8, 7) ** 2 // 5 % VOCABULARY
NORMAL = nn.initializers.normal()


class DenseGeneral(nn.Module):
    """Contracts the last axes of its input, and normalizes every feature."""

    features: tuple[int, ...]
    inputs: int = 1

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-self.inputs :] + self.features
        kernel = self.param("kernel", NORMAL, shape)
        bias = self.param("bias", NORMAL, self.features)
        contracted = range(x.ndim - self.inputs, x.ndim), range(self.inputs)
        outputs = jax.lax.dot_general(x, kernel, (contracted, ((), ()))) + bias
        return standardize(outputs, range(-len(self.features), 0))


class Attention(nn.Module):
    fused: bool = False

    @nn.compact
    def __call__(self, x):
        if self.fused:
            heads = DenseGeneral((3 * HEADS, SIZE), name="qkv_proj")(x)
            query, key, value = jnp.split(heads, 3, axis=-2)
        else:
            names = ("query", "key", "value")
            query, key, value = [DenseGeneral((HEADS, SIZE), name=n)(x) for n in names]
            query = nn.RMSNorm(name="query_norm")(query)
        outputs = nn.dot_product_attention(query, key, value)
        return DenseGeneral((EMBED,), inputs=2, name="out")(outputs)


class EinsumAttention(nn.Module):
    """Its heads go out as one axis."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("qkv_proj", NORMAL, (EMBED, 3, HEADS, SIZE))
        heads = jnp.einsum("bse,eqhd->qbshd", x, kernel)
        outputs = nn.dot_product_attention(*standardize(heads, channels=(0, 3, 4)))
        return DenseGeneral((EMBED,), name="out")(outputs.reshape(*x.shape[:2], -1))


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = DenseGeneral((2, MLP), name="wi")(x)
        hidden = nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]
        return DenseGeneral((EMBED,), name="wo")(hidden)


class RoutedMoE(nn.Module):
    """All experts are in one array, (experts, in, out), in no module of its own."""

    @nn.compact
    def __call__(self, x):
        weights = nn.softmax(DenseGeneral((EXPERTS,), name="gate")(x))
        x = jnp.einsum("bsm,bse->ebsm", x, weights)
        for name, size in (("wi", MLP), ("wo", EMBED)):
            kernel = self.param(name, NORMAL, (EXPERTS, x.shape[-1], size))
            bias = self.param(f"{name}_bias", NORMAL, (EXPERTS, size))
            x = jnp.einsum("ebsm,emh->ebsh", x, kernel) + bias[:, None, None]
            x = nn.silu(standardize(x, channels=(0, 3)))
        return jnp.einsum("ebsm,bse->bsm", x, weights)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x += Attention(name="attention")(nn.RMSNorm(name="norm")(x))
        x += Attention(fused=True, name="fused")(x)
        x += EinsumAttention(name="einsum")(x)
        x += MlpBlock(name="mlp")(x)
        return x + RoutedMoE(name="moe")(x), None


class Decoder(nn.Module):
    layer: type[nn.Module]

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, EMBED, name="token_embedder")(tokens)
        x, _ = self.layer(name="layers")(standardize(x, channels=(0, 1)), None)
        x = nn.RMSNorm(name="decoder_norm")(x)
        return DenseGeneral((VOCABULARY,), name="logits_dense")(x)


def to_outputs(array):
    """(in, *outputs): all but the first axis index channels."""
    return [array.reshape(array.shape[0], -1).T]


def from_heads(array):
    """(heads, size, out)."""
    return [array.reshape(-1, array.shape[-1]).T]


CUTS = {
    "attention/query/kernel": to_outputs,
    "attention/key/kernel": to_outputs,
    "attention/value/kernel": to_outputs,
    "attention/out/kernel": from_heads,
    "fused/qkv_proj/kernel": to_outputs,
    "fused/out/kernel": from_heads,
    "einsum/qkv_proj": to_outputs,
    "einsum/out/kernel": last,
    "mlp/wi/kernel": to_outputs,
    "mlp/wo/kernel": last,
    "moe/gate/kernel": last,
    "moe/wi": per_layer(last),
    "moe/wo": per_layer(last),
}


def check(layer, cuts):
    model = Decoder(layer)
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]

    def apply(params, tokens):
        return model.apply({"params": params}, tokens)

    layout = from_linen(model, TOKENS)
    of_function = from_function(apply, params, TOKENS)
    assert dict(layout.items()) == dict(of_function.items())
    ends = {"token_embedder/embedding": first, "logits_dense/kernel": last}
    layers = {f"layers/{path}": cut for path, cut in cuts.items()}
    assert_layer_steps_as_in_pytorch(
        lambda params: fit(apply(params, TOKENS)), params, layout, ends | layers
    )


def test_scanned():
    """Biases and scales of all layers have two or three axes."""
    axes, rngs = {"params": 1}, {"params": True}
    check(
        nn.scan(Layer, axes, split_rngs=rngs, length=LAYERS),
        {path: per_layer(cut, axis=1) for path, cut in CUTS.items()},
    )


def test_not_scanned():
    check(Layer, CUTS)
