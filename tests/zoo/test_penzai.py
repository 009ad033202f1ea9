"""Penzai: named axes, parameters by name in a dict or in the model's own tree."""

import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

pz = pytest.importorskip("penzai.pz", reason='needs `pip install -e ".[zoo]"`')


def bind(unbound, values):
    return pz.bind_variables(
        unbound, [pz.ParameterValue(label=k, value=v) for k, v in values.items()]
    )


def check(build, apply, x, expected):
    """`build` makes a model from a key, or from None one without its values."""

    def init(key):
        return {p.label: p.value for p in pz.unbind_params(build(key))[1]}

    params = drawn(init, jax.random.key(0))
    unbound = build(None)

    def loss(params, x):
        return jnp.mean((apply(bind(unbound, params), x) - 1) ** 2)

    layout = layouts.from_function(loss, params, x)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, x), params, layout)


@pytest.mark.parametrize("stacked", [False, True])
def test_llama(stacked):
    from penzai.models.transformer.variants import llamalike_common as llama

    config = llama.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=3,
        embedding_dim=12,
        projection_dim=4,
        mlp_hidden_dim=10,
        num_decoder_blocks=2,
        vocab_size=11,
        mlp_variant="swiglu",
        tie_embedder_and_logits=stacked,
        use_layer_stack=stacked,
    )

    def build(key):
        return llama.build_llamalike_transformer(config, key)

    def apply(model, tokens):
        tokens = pz.nx.wrap(tokens).tag("batch", "seq")
        positions = pz.nx.arange("seq", 5)
        logits = model(tokens, token_positions=positions)
        return logits.unwrap("batch", "seq", "vocabulary")

    kernel = {
        "attention/query": ((0,), (1, 2, 3)),  # (in, kv heads, queries of each, size)
        "attention/key": ((0,), (1, 2)),  # (in, kv heads, size)
        "attention/value": ((0,), (1, 2)),
        "attention/output": ((0, 1, 2), (3,)),  # (kv heads, queries of each, size, out)
        "mlp/gating_linear": ((0,), (1,)),
        "mlp/value_linear": ((0,), (1,)),
        "mlp/out_linear": ((0,), (1,)),
    }
    expected = {
        f"*/block*/{k}.weights*": tuple(tuple(a + stacked for a in x) for x in axes)
        for k, axes in kernel.items()
    }
    expected |= {
        "transformer/embedder.embeddings*": ((1,), (0,)),  # (entries, features)
        "*norm*": None,
    }
    if not stacked:  # else the table is the head
        expected["transformer/lm_head.weights*"] = ((0,), (1,))
    check(build, apply, integers(11, 2, 5), expected)


def test_mlp_in_the_tree_of_the_model():
    from penzai.models.simple_mlp import MLP

    model = MLP.from_config(jax.random.key(0), [5, 7, 3])
    model = pz.freeze_params(model)
    params, static = pz.select(model).at_instances_of(pz.nx.NamedArray).partition()
    x = pz.nx.wrap(normal(4, 5)).tag("batch", "features")

    def loss(params, x):
        y = pz.combine(params, static)(x)
        return jnp.mean((y.unwrap("batch", "features") - 1) ** 2)

    layout = layouts.from_function(loss, params, x)
    check_axes(layout, params, {"*weights*": ((0,), (1,)), "*bias*": None})
    check_loss_falls(lambda p: loss(p, x), params, layout)
