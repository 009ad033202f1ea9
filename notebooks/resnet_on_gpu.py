"""A ResNet-18 on images of CIFAR's size, with and without weight decay, on one GPU.

    pip install -e ".[notebooks]"
    python notebooks/resnet_on_gpu.py               # images made of digits, no download
    python notebooks/resnet_on_gpu.py uoft-cs/cifar10  # or a folder with its files

It is made to take about ten minutes. `image_classification` asks the same of a network
small enough for a CPU, and more besides.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import experiments
import optax_adamp
from experiments import QUICK, Candidate, Split

SIZE = 32  # pixels of an image's side; a digit has 16
WIDTHS = (8, 16) if QUICK else (64, 128, 256, 512)
BLOCKS = 1 if QUICK else 2  # of each width
STEPS = 2 if QUICK else 2000
BATCH_SIZE = 4 if QUICK else 128
SEEDS = range(2 if QUICK else 3)


def made_of_digits(split: Split, copies: int, rng: np.random.Generator) -> Split:
    """Each digit so many times, in some colour, among two darker ones, and noise."""
    digits = split.images[..., 0].repeat(2, axis=1).repeat(2, axis=2)
    count = copies * len(digits)
    own = np.tile(np.arange(len(digits)), copies)
    images = rng.normal(0, 0.2, (count, SIZE, SIZE, 3))
    for brightness in (0.6, 0.6, 1.0):
        which = own if brightness == 1 else rng.integers(len(digits), size=count)
        colors = rng.uniform(0.3, 1, (count, 3))
        colors *= brightness / colors.max(axis=1, keepdims=True)
        rows, columns = rng.integers(SIZE - 15, size=(2, count))
        for image, digit, color, row, column in zip(
            images, digits[which], colors, rows, columns, strict=True
        ):
            place = image[row : row + 16, column : column + 16]
            np.maximum(place, digit[..., None] * color, out=place)
    return Split(images.astype(np.float32), split.labels[own])


class ConvNorm(nnx.Module):
    """A scale-invariant kernel: products in bfloat16, weights in float32."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, *, rngs: nnx.Rngs
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel_size=(size, size),
            strides=stride,
            use_bias=False,
            dtype=jnp.bfloat16,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), use_running_average=not train)


class Block(nnx.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.first = ConvNorm(inputs, outputs, 3, stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, 3, rngs=rngs)
        changes = inputs != outputs or stride != 1
        self.shortcut = (
            ConvNorm(inputs, outputs, 1, stride, rngs=rngs) if changes else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.second(nnx.relu(self.first(x, train=train)), train=train)
        return nnx.relu(y + (self.shortcut(x, train=train) if self.shortcut else x))


class ResNet(nnx.Module):
    """For images of 32 x 32: a stem that keeps the size, and no pooling after it."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, WIDTHS[0], 3, rngs=rngs)
        self.blocks = nnx.List([])
        inputs = WIDTHS[0]
        for stage, outputs in enumerate(WIDTHS):
            for block in range(BLOCKS):
                stride = 2 if stage and not block else 1
                self.blocks.append(Block(inputs, outputs, stride, rngs=rngs))
                inputs = outputs
        self.head = nnx.Linear(inputs, 10, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nnx.relu(self.stem(images, train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return self.head(x.mean(axis=(1, 2)))


def train_model(
    make: experiments.Make, learning_rate: Any, weight_decay: Any, seed: Any, data: Any
) -> dict[str, Any]:
    """Accuracies in %, and the norm of the convolutions relative to their start."""
    train, validation, test = data
    init_key, data_key = jax.random.split(jax.random.key(seed))
    graphdef, params, batch_stats = nnx.split(
        ResNet(rngs=nnx.Rngs(init_key)), nnx.Param, nnx.BatchStat
    )
    tx = make(optax.cosine_decay_schedule(learning_rate, STEPS), weight_decay)

    def loss_fn(params: Any, batch_stats: Any, batch: Any) -> Any:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        logits = model(train.images[batch], train=True)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, train.labels[batch]
        )
        return loss.mean(), nnx.state(model, nnx.BatchStat)

    def step(state: Any, key: jax.Array) -> Any:
        params, batch_stats, opt_state = state
        batch = jax.random.randint(key, (BATCH_SIZE,), 0, len(train.labels))
        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params, batch_stats, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), None

    state = params, batch_stats, tx.init(params)
    (trained, batch_stats, _), _ = jax.lax.scan(
        step, state, jax.random.split(data_key, STEPS)
    )

    def accuracy(split: Split) -> jax.Array:
        model = nnx.merge(graphdef, trained, batch_stats, copy=True)
        logits = jax.lax.map(
            lambda image: model(image[None], train=False)[0],
            split.images,
            batch_size=500,
        )
        return 100 * (logits.argmax(axis=-1) == split.labels).mean()

    def norm(params: Any) -> jax.Array:
        return optax.tree.norm([p for p in jax.tree.leaves(params) if p.ndim == 4])

    return {
        "validation": accuracy(validation),
        "test": accuracy(test),
        "norm": norm(trained) / norm(params),
    }


OPTIMIZERS: dict[str, experiments.Make] = {
    "SGD": lambda schedule, weight_decay: optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=0.9)
    ),
    "SGDP": lambda schedule, weight_decay: optax_adamp.sgdp(
        schedule, momentum=0.9, weight_decay=weight_decay
    ),
    "AdamW": lambda schedule, weight_decay: optax.adamw(
        schedule, weight_decay=weight_decay
    ),
    "AdamP": lambda schedule, weight_decay: optax_adamp.adamp(
        schedule, weight_decay=weight_decay
    ),
}


def candidates() -> dict[str, Candidate]:
    """Four settings each: two rates and two decays, or four rates without decay."""
    found = {}
    for name, make in OPTIMIZERS.items():
        if name.startswith("SGD"):
            rates, decays = [0.02, 0.05, 0.1, 0.3], [1e-4, 1e-3]
        else:
            rates, decays = [5e-4, 1e-3, 3e-3, 1e-2], [1e-2, 1e-1]
        found[name] = Candidate(make, rates[1:3], decays)
        found[f"{name}, no decay"] = Candidate(make, rates, [0.0])
    if QUICK:
        return {name: Candidate(c.make, [0.01], [0.0]) for name, c in found.items()}
    return found


def main() -> None:
    """Tunes each optimizer on validation images, and compares them on the test's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cifar10", nargs="?", help="a repository on the Hub, or folder")
    source = parser.parse_args().cifar10
    experiments.setup()
    if source:
        import public_data

        data = public_data.cifar10(source)
    else:
        rng = np.random.default_rng(0)
        copies = (1, 1, 1) if QUICK else (20, 5, 10)
        data = tuple(
            made_of_digits(split, times, rng)
            for split, times in zip(experiments.digits(), copies, strict=True)
        )
    if QUICK:
        data = jax.tree.map(lambda x: x[:20], data)
    counts = "{:,} images to train, {:,} to validate, {:,} to test"
    print(counts.format(*(len(split.labels) for split in data)))

    tried = candidates()
    # This network fills a GPU alone.
    choices = experiments.tune(train_model, tried, data=data, at_once=1)
    results = experiments.repeat(
        train_model, tried, choices, seeds=SEEDS, data=data, at_once=1
    )
    for name, result in results.items():
        print(f"{name}: the norm of the convolutions × {result['norm'].mean():.2f}")
    experiments.compare(
        results,
        {
            ("SGD", "SGDP"): "70.28 → 70.73",
            ("SGD, no decay", "SGDP, no decay"): "lost −2.38 → −0.52",
            ("AdamW", "AdamP"): "70.41 (Adam) → 70.81",
            ("AdamW, no decay", "AdamP, no decay"): "lost −1.89 (Adam) → −0.31",
        },
        experiment="resnet_on_gpu",
        task=f"{source or 'coloured digits in clutter'}, ResNet-18",
        metric="accuracy, %",
        budget="4 settings, 1 run each",
    )


if __name__ == "__main__":
    main()
