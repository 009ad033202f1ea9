"""Two networks whose scale-invariant weights are known, and how they are trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from optax_adamp import ProjectionDimensionNumbers, layouts
from optax_adamp._demo import data

BATCH_SIZE, LEARNING_RATE = 64, 3e-3
SIDE, CLASSES = 8, 10  # Images are SIDE x SIDE pixels.


class ConvNet(nn.Module):
    """Three convolutions before BatchNorm, and a head whose scale matters."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for channels in (16, 32, 32):
            x = nn.Conv(channels, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Layer(nn.Module):
    """A pre-norm transformer layer that normalizes queries and keys."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        attend = nn.MultiHeadDotProductAttention(
            num_heads=4, normalize_qk=True, use_bias=False, name="attn"
        )
        features = x.shape[-1]
        x = x + attend(nn.LayerNorm(name="norm_1")(x))
        hidden = nn.Dense(64, name="in")(nn.LayerNorm(name="norm_2")(x))
        return x + nn.Dense(features, name="out")(nn.gelu(hidden)), None


class Transformer(nn.Module):
    """Reads an image row by row. Its four layers are one, scanned."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Dense(32, name="embed")(images)
        init = nn.initializers.normal(0.02)
        x = x + self.param("position", init, x.shape[1:])
        scanned = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        x, _ = scanned(name="layers")(x, None)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


class Network(NamedTuple):
    """A network, and what is known of it."""

    module: nn.Module
    # The view in which parameters are scale-invariant by construction; no others are.
    invariant: dict[str, str]
    overrides: dict[str, ProjectionDimensionNumbers | None]


NETWORKS = {
    "BatchNorm ConvNet": Network(
        ConvNet(), {f"Conv_{index}/kernel": "channel" for index in range(3)}, {}
    ),
    "scanned transformer": Network(
        Transformer(),
        {
            "layers/attn/query/kernel": "layer",
            "layers/attn/key/kernel": "layer",
        },
        {"position": None},
    ),
}


def init(network: Network) -> Any:
    """The initial variables, always the same."""
    return network.module.init(jax.random.key(0), _images()[:1])


def from_modules(network: Network) -> layouts.Layout:
    """The axes that the modules tell."""
    image = _images()[:1]
    return layouts.from_linen(network.module, image, overrides=network.overrides)


def axis_0(network: Network) -> Any:
    """As PyTorch has it: axis 0 is the channel of whatever has two axes or more."""

    def spec(weight: jax.Array) -> ProjectionDimensionNumbers | None:
        if weight.ndim < 2:
            return None
        return ProjectionDimensionNumbers(tuple(range(1, weight.ndim)), 0)

    return jax.tree.map(spec, init(network)["params"])


def train(
    network: Network,
    tx: optax.GradientTransformation,
    observe: Callable[..., Any],
    steps: int,
) -> Any:
    """Trains, and observes every step.

    Args:
      network: The network.
      tx: The optimizer.
      observe: From grads, params and updates to a tree of arrays.
      steps: How many.

    Returns:
      What was observed; the first axis of each array is the step.
    """
    images, labels = _images(), jnp.asarray(data.load().train_labels)
    variables = init(network)
    params, others = variables.pop("params"), variables

    def loss_fn(params: Any, batch: jax.Array) -> jax.Array:
        logits, _ = network.module.apply(
            {"params": params, **others}, images[batch], mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
        return losses.mean()

    gradient: Callable[..., Any] = jax.grad(loss_fn)

    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        batch = jax.random.choice(key, len(labels), (BATCH_SIZE,))
        grads = gradient(params, batch)
        updates, state = tx.update(grads, state, params)
        observed = observe(grads, params, updates)
        return optax.apply_updates(params, updates), state, observed

    run_step: Callable[..., tuple[Any, Any, Any]] = jax.jit(step)
    state = tx.init(params)
    every_step: list[Any] = []
    for key in jax.random.split(jax.random.key(1), steps):
        params, state, observed = run_step(params, state, key)
        every_step.append(observed)
    return jax.tree.map(lambda *values: jnp.stack(values), *every_step)


def _images() -> jax.Array:
    return jnp.asarray(data.load().train_images).reshape(-1, SIDE, SIDE)
