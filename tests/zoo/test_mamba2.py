"""Mamba 2 in Flax NNX, which slices a depthwise convolution's kernel by hand."""

import jax.numpy as jnp
import pytest
from flax import nnx

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers

mamba2 = pytest.importorskip("mamba2_jax", reason='needs `pip install -e ".[zoo]"`')


@pytest.mark.parametrize("tied", [False, True])
def test_language_model(tied):
    config = mamba2.Mamba2Config(
        vocab_size=11,
        hidden_size=6,
        state_size=3,
        head_dim=4,
        chunk_size=4,
        num_hidden_layers=2,
        tie_word_embeddings=tied,
    )

    def build():
        return mamba2.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))

    graphdef = nnx.graphdef(nnx.eval_shape(build))
    params = drawn(lambda: nnx.state(build(), nnx.Param))
    tokens = integers(11, 2, 8)

    def loss(params, tokens):
        return nnx.merge(graphdef, params)(tokens, labels=tokens)["loss"]

    dense = ((0,), (1,))  # (in, out)
    expected = {
        "backbone/embedder/embedding": ((1,), (0,)),  # (entries, features)
        "backbone/layers/*/mixer/*_proj/kernel": dense,
        # (width, 1, channels), one number of each channel at a time times the inputs
        "backbone/layers/*/mixer/conv1d/conv/kernel": None,
        "backbone/layers/*/mixer/conv1d/conv/bias": None,
        "backbone/layers/*/mixer/[AD]*": None,
        "backbone/layers/*/mixer/dt_bias": None,
        "backbone/*norm/weight": None,
    }
    if not tied:
        expected["lm_head/kernel"] = dense
    layout = layouts.from_function(loss, params, tokens)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, tokens), params, layout)
    assert jnp.isfinite(loss(params, tokens))
