"""A network in Flax NNX, trained by `nnx.Optimizer` to tell the most frequent token."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optax_adamp import adamp, describe, layouts


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, 32, rngs=rngs)
        self.position = nnx.Param(jnp.zeros((12, 32)))
        self.hidden = nnx.Linear(32, 64, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.position
        x = nnx.relu(self.norm(self.hidden(x)))
        return self.head(x.mean(axis=1))


def loss_fn(model, tokens, labels):
    logits = model(tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def create_model():
    return Classifier(nnx.Rngs(0))


@nnx.jit
def train_step(model, optimizer, tokens, labels):
    loss, grads = nnx.value_and_grad(loss_fn)(model, tokens, labels)
    optimizer.update(model, grads)
    return loss


def main():
    rng = np.random.default_rng(0)
    model = create_model()
    layout = layouts.from_nnx(model, overrides={"position": None})
    tx = adamp(1e-2, weight_decay=1e-2, dimension_numbers=layout)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    table = describe(nnx.state(model, nnx.Param), layout)

    losses, norms = [], []
    for _ in range(40):
        labels = rng.integers(10, size=128)
        random = rng.integers(10, size=(128, 12))
        tokens = np.where(rng.random((128, 12)) < 0.6, labels[:, None], random)
        norms.append(float(jnp.linalg.norm(model.hidden.kernel[...])))
        losses.append(float(train_step(model, optimizer, tokens, labels)))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the hidden kernel: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
