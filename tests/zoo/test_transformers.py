"""Transformers' models in Flax: built from tiny configurations, nothing downloaded."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # It reports what Flax's classes await.
transformers = pytest.importorskip(
    "transformers", reason='needs `pip install -e ".[zoo]"`'
)

TOKENS = 40
LENGTH = 6
CLASSES = 5
DENSE = (0, 1)  # (in, out)
TABLE = (1, 0)  # (entries, features)
CONV_1D = ((0, 1), 2)  # (width, in, out)
CONV_2D = ((0, 1, 2), 3)  # (height, width, in, out)
SMALL = {
    "vocab_size": TOKENS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


class Zoo(NamedTuple):
    name: str  # Of the class.
    config: Any
    inputs: tuple[Any, ...]  # Of the module.
    expected: dict[str, Any]  # By glob of a parameter's path.


def tokens(seed=0):
    ids = np.random.default_rng(seed).integers(3, TOKENS, (2, LENGTH))
    return jnp.asarray(ids, "int32")


def places():
    return jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH))


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")


def seen():
    """The mask of a sequence without padding."""
    return jnp.ones((2, LENGTH), "int32")


def bert():
    return Zoo(
        "FlaxBertForMaskedLM",
        transformers.BertConfig(**SMALL, max_position_embeddings=LENGTH),
        (tokens(), seen(), jnp.zeros_like(seen()), places(), None),
        {
            # The words' embedding also makes the logits.
            "bert/embeddings/*/embedding": TABLE,
            "bert/encoder/layer/*/kernel": DENSE,
            "cls/predictions/transform/dense/kernel": DENSE,
            "*/scale": None,
            "*/bias": None,
        },
    )


def gpt2():
    return Zoo(
        "FlaxGPT2LMHeadModel",
        transformers.GPT2Config(
            vocab_size=TOKENS, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=4
        ),
        (tokens(), seen(), places()),
        {
            # The embedding also makes the logits.
            "transformer/w[pt]e/embedding": TABLE,
            # (out, in); queries, keys and values are one kernel.
            "transformer/h/*/kernel": (1, 0),
            "*/scale": None,
            "*/bias": None,
        },
    )


def t5():
    return Zoo(
        "FlaxT5ForConditionalGeneration",
        transformers.T5Config(
            vocab_size=TOKENS,
            d_model=16,
            d_kv=5,
            d_ff=24,
            num_layers=1,
            num_heads=4,
            relative_attention_num_buckets=8,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        (tokens(), seen(), tokens(1), seen()),
        {
            # Used by the encoder and the decoder.
            "shared/embedding": TABLE,
            # For each distance, a number for each head.
            "*/relative_attention_bias/embedding": TABLE,
            "*/kernel": DENSE,
            "*norm/weight": None,
        },
    )


def llama():
    return Zoo(
        "FlaxLlamaForCausalLM",
        transformers.LlamaConfig(
            **SMALL, num_key_value_heads=2, max_position_embeddings=16
        ),
        (tokens(), seen(), places()),
        {
            "model/embed_tokens/embedding": TABLE,
            "*/kernel": DENSE,
            "*norm/weight": None,
        },
    )


def vit():
    config = {key: size for key, size in SMALL.items() if key != "vocab_size"}
    return Zoo(
        "FlaxViTForImageClassification",
        transformers.ViTConfig(
            **config, image_size=8, patch_size=4, num_labels=CLASSES
        ),
        (numbers(2, 8, 8, 3),),
        {
            "vit/embeddings/patch_embeddings/projection/kernel": CONV_2D,
            # Put before the patches, and added to them.
            "vit/embeddings/cls_token": None,
            "vit/embeddings/position_embeddings": None,
            "vit/encoder/layer/*/kernel": DENSE,
            "classifier/kernel": DENSE,
            "*/scale": None,
            "*/bias": None,
        },
    )


def resnet():
    return Zoo(
        "FlaxResNetForImageClassification",
        transformers.ResNetConfig(
            embedding_size=6, hidden_sizes=[8], depths=[2], num_labels=CLASSES
        ),
        (numbers(2, 16, 16, 3),),
        {
            "*/convolution/kernel": CONV_2D,
            "classifier/1/kernel": DENSE,
            "*/scale": None,
            "*/bias": None,
        },
    )


def whisper():
    return Zoo(
        "FlaxWhisperForConditionalGeneration",
        transformers.WhisperConfig(
            vocab_size=TOKENS,
            num_mel_bins=7,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            d_model=16,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_source_positions=8,
            max_target_positions=LENGTH,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        ),
        (numbers(2, 7, 16), tokens(), seen(), places()),
        {
            # The decoder's words also make the logits. The encoder's positions are
            # looked up, too, all in their order.
            "model/*/embedding": TABLE,
            "model/encoder/conv[12]/kernel": CONV_1D,
            "model/*coder/layers/*/kernel": DENSE,
            "*/scale": None,
            "*/bias": None,
        },
    )


MODELS = {
    maker.__name__: maker for maker in (bert, gpt2, t5, llama, vit, resnet, whisper)
}


@pytest.fixture(scope="module", autouse=True)
def old_clip():
    """Brings back the name of an argument by which T5 calls `jnp.clip`."""
    clip = jnp.clip

    def old(*args, **kwargs):
        if "a_max" in kwargs:
            kwargs["max"] = kwargs.pop("a_max")
        return clip(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp, "clip", old)
        yield


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """What the zoo holds, the module, and its variables."""
    zoo = MODELS[request.param]()
    module = getattr(transformers, zoo.name)(zoo.config, _do_init=False).module
    shapes = jax.eval_shape(module.init, jax.random.key(0), *zoo.inputs)
    return zoo, module, jax.tree.map(draw, shapes)


def draw(shape):
    """Fit for kernels and norms alike, and sooner there than a compiled `init`."""
    if len(shape.shape) == 1:
        return jnp.ones(shape.shape)
    return numbers(*shape.shape) / 8


def apply(module, variables):
    """The module as a function of its params and inputs."""
    rest = {name: variables[name] for name in variables if name != "params"}

    def logits(params, *inputs):
        return module.apply({"params": params, **rest}, *inputs, return_dict=True)[0]

    return logits


def test_axes_from_the_program(model):
    zoo, module, variables = model
    params = variables["params"]
    layout = layouts.from_function(apply(module, variables), params, *zoo.inputs)
    check_axes(layout, params, zoo.expected)


def test_axes_from_the_modules(model):
    zoo, module, variables = model
    layout = layouts.from_linen(module, *zoo.inputs)
    check_axes(layout, variables["params"], zoo.expected)


def test_loss_falls(model):
    zoo, module, variables = model
    logits = apply(module, variables)

    def loss(params):
        return -jax.nn.log_softmax(logits(params, *zoo.inputs))[..., 1].mean()

    layout = layouts.from_function(loss, variables["params"])
    check_loss_falls(loss, variables["params"], layout)
