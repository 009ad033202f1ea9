"""Scale invariance is found where the architecture says that it is, and only there.

What is true follows from what a weight feeds. Before a batch normalization each channel
is scale-invariant, with a bias or without; before a layer or group normalization, the
weight as a whole; under weight normalization, each channel. Queries and keys are
normalized head by head, so that each head's part of a kernel is scale-invariant.
Everything else adds to something before it is normalized. Axes come from the program.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

from nightly import nightly_but
from optax_adamp import ProjectionDimensionNumbers, detect_scale_invariance

CLASSES, TOKENS, LENGTH, FEATURES, HEADS = 5, 11, 6, 16, 2

# What the parameters are stored in, and what the model computes in.
PRECISIONS = {
    "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.float32, jnp.bfloat16),
    "bfloat16 params": (jnp.bfloat16, jnp.bfloat16),
}


class LinenConvNet(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images):
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        norm = functools.partial(nn.BatchNorm, False, dtype=self.dtype)
        x = nn.relu(norm(name="norm1")(conv(8, use_bias=False, name="conv1")(images)))
        x = nn.relu(norm(name="norm2")(conv(12, name="conv2")(x)))
        return nn.Dense(CLASSES, name="head", dtype=self.dtype)(x.mean((1, 2)))


class LinenResNet(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images):
        conv = functools.partial(
            nn.Conv, kernel_size=(3, 3), use_bias=False, dtype=self.dtype
        )
        norm = functools.partial(nn.GroupNorm, num_groups=2, dtype=self.dtype)
        # The last scale of a residual branch often starts from zero.
        zeros = nn.initializers.zeros
        x = nn.relu(norm(name="norm0")(conv(8, name="stem")(images)))
        y = nn.relu(norm(name="norm1")(conv(8, name="conv1")(x)))
        y = norm(name="norm2", scale_init=zeros)(conv(8, name="conv2")(y))
        x = nn.relu(x + y)
        return nn.Dense(CLASSES, name="head", dtype=self.dtype)(x.mean((1, 2)))


class LinenTransformer(nn.Module):
    dtype: jnp.dtype = jnp.float32
    normalize_qk: bool = False
    weight_norm: bool = False

    @nn.compact
    def __call__(self, tokens):
        def dense(size, name):
            layer = nn.Dense(size, dtype=self.dtype, name=name)
            return nn.WeightNorm(layer) if self.weight_norm else layer

        embed = functools.partial(nn.Embed, features=FEATURES, dtype=self.dtype)
        x = embed(TOKENS, name="embed")(tokens)
        x = x + embed(LENGTH, name="position")(jnp.arange(LENGTH))
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x)
        attention = nn.MultiHeadDotProductAttention(
            HEADS,
            use_bias=False,
            normalize_qk=self.normalize_qk,
            dtype=self.dtype,
            name="attention",
        )
        x = x + attention(y)
        y = nn.LayerNorm(dtype=self.dtype, name="norm2")(x)
        x = x + dense(FEATURES, "down")(nn.gelu(dense(2 * FEATURES, "up")(y)))
        x = nn.LayerNorm(dtype=self.dtype, name="norm3")(x)
        return dense(CLASSES, "head")(x[:, 0])


class NnxConvNet(nnx.Module):
    def __init__(self, rngs, **dtypes):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs, **dtypes)
        self.conv1 = conv(3, 8, use_bias=False)
        self.norm1 = nnx.BatchNorm(8, rngs=rngs, **dtypes)
        self.conv2 = conv(8, 12)
        self.norm2 = nnx.BatchNorm(12, rngs=rngs, **dtypes)
        self.head = nnx.Linear(12, CLASSES, rngs=rngs, **dtypes)

    def __call__(self, images):
        x = nnx.relu(self.norm1(self.conv1(images)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((1, 2)))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs, *, normalize_qk=False, **dtypes):
        norm = functools.partial(nnx.LayerNorm, FEATURES, rngs=rngs, **dtypes)
        linear = functools.partial(nnx.Linear, rngs=rngs, **dtypes)
        self.embed = nnx.Embed(TOKENS, FEATURES, rngs=rngs, **dtypes)
        self.position = nnx.Embed(LENGTH, FEATURES, rngs=rngs, **dtypes)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attention = nnx.MultiHeadAttention(
            HEADS,
            FEATURES,
            use_bias=False,
            normalize_qk=normalize_qk,
            decode=False,
            rngs=rngs,
            **dtypes,
        )
        self.up = linear(FEATURES, 2 * FEATURES)
        self.down = linear(2 * FEATURES, FEATURES)
        self.head = linear(FEATURES, CLASSES)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.position(jnp.arange(LENGTH))
        x = x + self.attention(self.norm1(x))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


def inputs(model, seed, size=32):
    key = jax.random.key(seed)
    if "Transformer" in model.__name__:
        return jax.random.randint(key, (size, LENGTH), 0, TOKENS)
    return jax.random.normal(key, (size, 6, 6, 3))


def batches(model, count=8):
    for seed in range(count):
        examples = inputs(model, seed)
        yield examples, jax.random.randint(jax.random.key(seed), (32,), 0, CLASSES)


def cross_entropy(logits, labels):
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def detect_linen(model, precision, **options):
    param_dtype, dtype = PRECISIONS[precision]
    module = model(dtype=dtype, **options)
    variables = module.init(jax.random.key(0), inputs(model, 0))
    params = jax.tree.map(lambda p: p.astype(param_dtype), variables["params"])

    def loss_fn(params, batch):
        examples, labels = batch
        logits, _ = module.apply(
            {**variables, "params": params}, examples, mutable=["batch_stats"]
        )
        return cross_entropy(logits, labels)

    return detect_scale_invariance(
        loss_fn, params, batches(model), verify=precision != "float32"
    )


def detect_nnx(model, precision, **options):
    param_dtype, dtype = PRECISIONS[precision]
    built = model(nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype, **options)
    graph, params, rest = nnx.split(built, nnx.Param, ...)

    def loss_fn(params, batch):
        examples, labels = batch
        return cross_entropy(
            nnx.merge(graph, params, rest, copy=True)(examples), labels
        )

    return detect_scale_invariance(
        loss_fn, params, batches(model), verify=precision != "float32"
    )


class EquinoxConvNet(eqx.Module):
    """Channels are the first axis of all that it holds."""

    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, keys):
        self.conv1 = eqx.nn.Conv2d(3, 8, 3, key=keys[0])
        self.conv2 = eqx.nn.Conv2d(8, 12, 3, key=keys[1])
        self.head = eqx.nn.Linear(12, CLASSES, key=keys[2])

    def __call__(self, images):
        x = jnp.moveaxis(images, -1, 1)
        for conv in (self.conv1, self.conv2):
            x = jax.nn.relu(jax.nn.standardize(jax.vmap(conv)(x), axis=(0, 2, 3)))
        return jax.vmap(self.head)(x.mean((2, 3)))


def detect_equinox(model, precision):
    dtype, _ = PRECISIONS[precision]
    built = model(jax.random.split(jax.random.key(0), 3))
    params, static = eqx.partition(built, eqx.is_inexact_array)
    params = jax.tree.map(lambda p: p.astype(dtype), params)

    def loss_fn(params, batch):
        examples, labels = batch
        return cross_entropy(eqx.combine(params, static)(examples), labels)

    return detect_scale_invariance(loss_fn, params, batches(model))


QK = dict.fromkeys(("attention/query/kernel", "attention/key/kernel"), "group")
CONVOLUTIONS = {"conv1/kernel": "channel", "conv2/kernel": "channel"}
RESIDUAL = dict.fromkeys(("stem/kernel", "conv1/kernel", "conv2/kernel"), "layer")
WEIGHT_NORMED = dict.fromkeys(("up/kernel", "down/kernel", "head/kernel"), "channel")

MODELS = {
    "Linen, BatchNorm": (detect_linen, LinenConvNet, {}, CONVOLUTIONS),
    "Linen, GroupNorm": (detect_linen, LinenResNet, {}, RESIDUAL),
    "Linen, transformer": (detect_linen, LinenTransformer, {}, {}),
    "Linen, q and k": (detect_linen, LinenTransformer, {"normalize_qk": True}, QK),
    "Linen, WeightNorm": (
        detect_linen,
        LinenTransformer,
        {"weight_norm": True},
        WEIGHT_NORMED,
    ),
    "Equinox, BatchNorm": (
        detect_equinox,
        EquinoxConvNet,
        {},
        {"conv1/weight": "channel", "conv2/weight": "channel"},
    ),
    "NNX, BatchNorm": (detect_nnx, NnxConvNet, {}, CONVOLUTIONS),
    "NNX, transformer": (detect_nnx, NnxTransformer, {}, {}),
    "NNX, q and k": (detect_nnx, NnxTransformer, {"normalize_qk": True}, QK),
}


CASES = [
    ("Equinox, BatchNorm", "float32"),
    ("Linen, BatchNorm", "bfloat16 params"),
    ("Linen, GroupNorm", "float32"),
    ("Linen, q and k", "float32"),
    ("Linen, WeightNorm", "bfloat16"),
    ("NNX, BatchNorm", "float32"),
    ("NNX, transformer", "bfloat16 params"),
    ("NNX, q and k", "bfloat16"),
]


EVERY_DAY = [("NNX, BatchNorm", "float32")]


@pytest.mark.parametrize(
    ("name", "precision"),
    nightly_but(EVERY_DAY, CASES),
)
def test_what_is_known_of_a_model(name, precision):
    detect, model, options, truth = MODELS[name]
    found = detect(model, precision, **options)
    views = {row.path: row.verdict for row in found.evidence if row.along is not None}
    assert views == truth, found.evidence
    assert "penalty" not in str(found.evidence)
    if truth is QK:
        # Of a kernel (features, heads, size), a vector for each head.
        expected = ProjectionDimensionNumbers((0, 2), (1,), view="channel")
        assert found["attention"]["query"]["kernel"] == expected


@pytest.mark.nightly
@pytest.mark.parametrize("is_penalized", [lambda w: w.ndim > 1, lambda w: True])
def test_a_penalty_in_the_loss_of_a_network(is_penalized):
    """As in Flax's example for ImageNet, on kernels alone or on all parameters."""
    model = LinenConvNet()
    variables = model.init(jax.random.key(0), inputs(LinenConvNet, 0))

    def loss_fn(params, batch):
        images, labels = batch
        logits, _ = model.apply(
            {**variables, "params": params}, images, mutable=["batch_stats"]
        )
        weights = filter(is_penalized, jax.tree.leaves(params))
        penalty = sum(jnp.sum(w**2) for w in weights)
        return cross_entropy(logits, labels) + 0.5 * 1e-2 * penalty

    found = detect_scale_invariance(loss_fn, variables["params"], batches(LinenConvNet))
    remarks = {row.path: row.remark for row in found.evidence if row.remark}
    said = "in all batches <g, w> is 0.01 <w, w>"
    assert remarks.keys() == CONVOLUTIONS.keys()
    assert all(said in remark for remark in remarks.values()), found.evidence
    assert {row.path: row.verdict for row in found.evidence}["conv1/kernel"] == "mixed"
    assert found["conv1"]["kernel"] is None
