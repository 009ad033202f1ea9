"""ESM2 in Equinox: layers stacked by vmap, a head that is also the embedding."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn

esm2quinox = pytest.importorskip("esm2quinox", reason='needs `pip install -e ".[zoo]"`')


def test_protein_model():
    model = drawn(
        esm2quinox.ESM2,
        num_layers=2,
        embed_size=8,
        num_heads=2,
        token_dropout=True,
        key=jax.random.key(0),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tokens = jnp.asarray(esm2quinox.tokenise(["SP#DE", "SPUDM"]))

    def loss(params, tokens):
        logits = jax.vmap(eqx.combine(params, static))(tokens).logits
        scores = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(scores, tokens[..., None], axis=-1))

    stacked = ((2,), (1,))  # (layers, out, in)
    layout = layouts.from_function(loss, params, tokens)
    check_axes(
        layout,
        params,
        {
            "layers/attn/*/weight": stacked,
            "layers/attn/*/bias": None,
            "layers/linear*/weight": stacked,
            "layers/linear*/bias": None,
            "layers/layer_norm*/*": None,
            "layer_norm/*": None,
            "logit_head/layer_norm/*": None,
            # The second is looked up as (tokens, features), too.
            "logit_head/linear*/weight": ((1,), (0,)),
            "logit_head/linear*/bias": None,
        },
    )
    check_loss_falls(lambda p: loss(p, tokens), params, layout)
