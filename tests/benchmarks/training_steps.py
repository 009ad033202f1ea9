"""Whole training steps, where the optimizer is a part of the cost: two networks.

They are as plain as they can be, on the same trees of parameters as the step alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trees


class Task(NamedTuple):
    """A network, and one batch for it."""

    name: str
    params: Any
    loss: Callable[[Any, Any], jax.Array]  # Of params and batch
    batch: Any
    dimension_numbers: Any


def resnet50(*, images: int, size: int, dtype: Any = jnp.float32) -> Task:
    """ResNet-50 on images of ImageNet's kind."""
    key = jax.random.key(0)
    batch = (
        jax.random.normal(key, (images, size, size, 3), dtype),
        jax.random.randint(key, (images,), 0, 1000),
    )
    name = f"ResNet-50, {images} images of {size}²"
    return Task(name, _initial(trees.resnet50()), resnet_loss, batch, None)


def gpt2(
    *, sequences: int, length: int, dtype: Any = jnp.float32, **sizes: int
) -> Task:
    """GPT-2 small, its layers scanned."""
    params = _initial(trees.gpt2(scanned=True, **sizes))
    vocabulary = len(params["tokens"])
    tokens = jax.random.randint(
        jax.random.key(0), (sequences, length + 1), 0, vocabulary
    )

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        return _gpt2_loss(jax.tree.map(lambda x: x.astype(dtype), params), tokens)

    millions = trees.size(params) / 1e6
    name = f"GPT-2 of {millions:.3g} million, {sequences} × {length} tokens"
    axes = trees.gpt2_dimension_numbers(scanned=True)
    return Task(name, params, loss, tokens, axes)


def resnet_loss(params: Any, batch: Any) -> jax.Array:
    """The cross-entropy of images and labels."""
    images, labels = batch
    x = jax.nn.relu(_convolve(images, params["stem"], stride=2))
    lowest = np.array(-np.inf, x.dtype)  # Concrete, or it has no gradient.
    x = jax.lax.reduce_window(
        x, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            layers = params[f"stage{stage}_block{block}"]
            stride = 2 if stage > 0 and block == 0 else 1
            y = jax.nn.relu(_convolve(x, layers["conv0"]))
            y = jax.nn.relu(_convolve(y, layers["conv1"], stride=stride))
            y = _convolve(y, layers["conv2"])
            if "shortcut" in layers:
                x = _convolve(x, layers["shortcut"], stride=stride)
            x = jax.nn.relu(x + y)
    features = x.mean((1, 2)).astype(jnp.float32)
    logits = features @ params["head"]["kernel"] + params["head"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def training_step(task: Task, tx: optax.GradientTransformation) -> tuple[Any, Any]:
    """The step from (params, state) and a batch, and what it starts from."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        grads = jax.grad(task.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda x: x.copy(), task.params)
    return step, (params, jax.jit(tx.init)(params))


def _initial(shapes: Any) -> Any:
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return treedef.unflatten(
        0.02 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    )


def _convolve(x: jax.Array, layer: Any, *, stride: int = 1) -> jax.Array:
    """A convolution and the BatchNorm that follows."""
    x = jax.lax.conv_general_dilated(
        x,
        layer["kernel"].astype(x.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    wide = x.astype(jnp.float32)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    scale = (1 + layer["scale"]) * jax.lax.rsqrt(variance + 1e-5)
    return ((wide - mean) * scale + layer["bias"]).astype(x.dtype)


def _gpt2_loss(params: Any, tokens: jax.Array) -> jax.Array:
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    count, length = inputs.shape
    x = params["tokens"][inputs] + params["positions"][:length]

    def norm(x: jax.Array, layer: Any) -> jax.Array:
        return jax.nn.standardize(x) * (1 + layer["scale"]) + layer["bias"]

    def dense(x: jax.Array, layer: Any) -> jax.Array:
        return x @ layer["kernel"] + layer["bias"]

    def block(x: jax.Array, layers: Any) -> tuple[jax.Array, None]:
        width = x.shape[-1]
        heads = dense(norm(x, layers["norm0"]), layers["qkv"])
        q, k, v = jnp.split(heads.reshape(count, length, -1, width // 12), 3, axis=2)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x += dense(attended.reshape(x.shape), layers["out"])
        hidden = jax.nn.gelu(dense(norm(x, layers["norm1"]), layers["up"]))
        return x + dense(hidden, layers["down"]), None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    logits = norm(x, params["norm"]) @ params["tokens"].T
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )
    return losses.mean()
