"""Steps on kernels with MaxText's names and shapes, as on PyTorch's.

MaxText itself pins other versions of JAX and Flax. Flax's layers stand in for its own:
they hold the same arrays under the same names, and are scanned as MaxText scans them.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from layout_layers import (
    assert_layer_steps_as_in_pytorch,
    draw,
    first,
    fit,
    last,
    per_layer,
    standardize,
)
from optax_adamp import ProjectionDimensionNumbers, layouts

LAYERS, EMBED, HEADS, SIZE, MLP, EXPERTS = 2, 6, 2, 5, 4, 3
BATCH = 12


def project(features, name, *inputs):
    """The loss of a projection, behind which every feature is normalized."""
    axes = tuple(range(1, 1 + len(inputs)))
    outputs = nn.DenseGeneral(features, axes, name=name)(draw(BATCH, *inputs))
    return fit(standardize(outputs, channels=range(1, outputs.ndim)))


class Attention(nn.Module):
    @nn.compact
    def __call__(self):
        norm = nn.RMSNorm(name="query_norm")(draw(BATCH, SIZE))
        losses = [project((HEADS, SIZE), n, EMBED) for n in ("query", "key", "value")]
        return sum(losses) + project(EMBED, "out", HEADS, SIZE) + fit(norm)


class FusedAttention(nn.Module):
    @nn.compact
    def __call__(self):
        return project((3, HEADS, SIZE), "qkv_proj", EMBED)


class LatentAttention(nn.Module):
    @nn.compact
    def __call__(self):
        down = [project(SIZE, name, EMBED) for name in ("wq_a", "wkv_a")]
        up = [project((HEADS, SIZE), name, SIZE) for name in ("wq_b", "wkv_b")]
        return sum(down) + sum(up)


class AttentionOfQwen3Next(nn.Module):
    @nn.compact
    def __call__(self):
        return project(EMBED, "out", HEADS * SIZE)


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self):
        losses = [project(MLP, name, EMBED) for name in ("wi_0", "wi_1")]
        return sum(losses) + project(EMBED, "wo", MLP)


class FusedMlpBlock(nn.Module):
    @nn.compact
    def __call__(self):
        return project((2, MLP), "wi", EMBED)


class RoutedMoE(nn.Module):
    """All experts in one array, (experts, in, out), in no module of its own."""

    @nn.compact
    def __call__(self):
        loss, init = project(EXPERTS, "gate", EMBED), nn.initializers.normal()
        for name, inputs, outputs in (("wi_0", EMBED, MLP), ("wo", MLP, EMBED)):
            weight = self.param(name, init, (EXPERTS, inputs, outputs))
            bias = self.param(f"{name}_bias", init, (EXPERTS, outputs))
            result = jnp.einsum("bi,xio->bxo", draw(BATCH, inputs), weight) + bias
            loss += fit(standardize(result, channels=(1, 2)))
        return loss


class Layer(nn.Module):
    block: type[nn.Module]
    block_name: str

    @nn.compact
    def __call__(self, loss):
        return loss + self.block(name=self.block_name)(), None


class Decoder(nn.Module):
    block: type[nn.Module]
    block_name: str
    scan_layers: bool

    @nn.compact
    def __call__(self):
        if not self.scan_layers:
            return Layer(self.block, self.block_name, name="layers_0")(0.0)[0]
        scan = nn.scan(
            Layer,
            variable_axes={"params": 1},
            split_rngs={"params": True},
            length=LAYERS,
        )
        return scan(self.block, self.block_name, name="layers")(0.0)[0]


def check(module, cuts):
    params = jax.eval_shape(module.init, jax.random.key(0))
    assert_layer_steps_as_in_pytorch(module.apply, params, layouts.maxtext, cuts)


def to_outputs(array):
    """(in, *outputs): all but the first axis index channels."""
    return [array.reshape(array.shape[0], -1).T]


def from_heads(array):
    """(heads, size, out)."""
    return [array.reshape(-1, array.shape[-1]).T]


BLOCKS = {
    "attention": (
        Attention,
        "self_attention",
        {
            "query/kernel": to_outputs,
            "key/kernel": to_outputs,
            "value/kernel": to_outputs,
            "out/kernel": from_heads,
        },
    ),
    "fused attention": (
        FusedAttention,
        "self_attention",
        {"qkv_proj/kernel": to_outputs},
    ),
    "latent attention": (
        LatentAttention,
        "self_attention",
        {f"{n}/kernel": to_outputs for n in ("wq_a", "wkv_a", "wq_b", "wkv_b")},
    ),
    "attention of Qwen3-Next": (
        AttentionOfQwen3Next,
        "attention",
        {"out/kernel": last},
    ),
    "mlp": (MlpBlock, "mlp", {f"{n}/kernel": last for n in ("wi_0", "wi_1", "wo")}),
    "experts": (
        RoutedMoE,
        "MoeBlock_0",
        {"gate/kernel": last, "wi_0": per_layer(last), "wo": per_layer(last)},
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_scanned(block):
    """Biases and scales of all layers have two or three axes."""
    module, name, cuts = BLOCKS[block]
    check(
        Decoder(module, name, scan_layers=True),
        {
            f"params/layers/{name}/{path}": per_layer(cut, axis=1)
            for path, cut in cuts.items()
        },
    )


@pytest.mark.parametrize("block", ["attention", "experts"])
def test_not_scanned(block):
    module, name, cuts = BLOCKS[block]
    check(
        Decoder(module, name, scan_layers=False),
        {f"params/layers_0/{name}/{path}": cut for path, cut in cuts.items()},
    )


class Ends(nn.Module):
    @nn.compact
    def __call__(self):
        rows = nn.Embed(7, EMBED, name="token_embedder")(jnp.arange(7))
        norm = nn.RMSNorm(name="decoder_norm")(draw(BATCH, EMBED))
        loss = fit(standardize(rows, channels=(0,))) + fit(norm)
        return loss + project(7, "logits_dense", EMBED)


def test_embedding_and_logits():
    check(
        Ends(),
        {
            "params/token_embedder/embedding": first,
            "params/logits_dense/kernel": last,
        },
    )


def spec_of(path, shape):
    return layouts.maxtext.read(tuple(path.split("/")), shape).spec


def test_fused_mlp():
    """(in, activations, out) or, with one activation, (in, out)."""
    assert spec_of("mlp/wi/kernel", (6, 4)) == ((0,), (1,), "auto")
    assert spec_of("mlp/wi/kernel", (6, 3, 2, 4)) == ((0,), (2, 3), "auto")


REFUSED = {
    "fused mlp or scanned": ("decoder/layers/mlp/wi/kernel", (6, 2, 4)),
    "out of unknown attention": ("vision/attention_1/out/kernel", (2, 5, 6)),
    "unknown module": ("decoder/layers/engram/kernel", (6, 3, 4)),
    "unknown array": ("decoder/layers/mhc/res_beta", (6, 3)),
    "stacked twice": ("pipeline/layers/mlp/wo/kernel", (4, 2, 3, 6)),
    "too few axes": ("self_attention/query/kernel", (6, 10)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_error_for_what_is_not_known(case):
    path, shape = REFUSED[case]
    with pytest.raises(
        ValueError, match=rf"know {path}, an array of shape \({shape[0]}"
    ):
        layouts.maxtext.read(tuple(path.split("/")), shape)


def test_unknown_parameter_in_a_tree_of_rules():
    """What the error advises: a tree of the rule, and one entry replaced."""
    params = {
        "layers": {"mlp": {"wo": {"kernel": jnp.ones((MLP, LAYERS, EMBED))}}},
        "engram": jnp.ones((EMBED, LAYERS, SIZE)),
    }
    spec = ProjectionDimensionNumbers(0, 2)
    tree = {**jax.tree.map(lambda _: layouts.maxtext, params), "engram": spec}

    def loss_fn(params):
        """Both have the order (in, layers, out)."""
        outputs = [
            jnp.einsum("bi,ilo->blo", draw(BATCH, leaf.shape[0]), leaf)
            for leaf in jax.tree.leaves(params)
        ]
        return sum(fit(standardize(array, channels=(1, 2))) for array in outputs)

    cuts = dict.fromkeys(["layers/mlp/wo/kernel", "engram"], per_layer(last, axis=1))
    assert_layer_steps_as_in_pytorch(loss_fn, params, tree, cuts)
