"""A convolutional network in Flax Linen, with a `TrainState` that keeps statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training import train_state
from sklearn.datasets import load_digits

from optax_adamp import adamp, describe


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        for features in (16, 32):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class TrainState(train_state.TrainState):
    batch_stats: Any


@jax.jit
def train_step(state, images, labels):
    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = state.apply_fn(
            variables, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed["batch_stats"]

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, batch_stats), grads = grad_fn(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss


def main():
    pixels, labels = load_digits(return_X_y=True)
    images = np.float32(pixels / 16).reshape(-1, 8, 8, 1)
    model = CNN()
    init = jax.jit(model.init, static_argnames="train")
    variables = init(jax.random.key(0), images[:1], train=False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=adamp(1e-2, weight_decay=1e-2),
    )
    table = describe(state.params)

    losses, norms = [], []
    for _ in range(2):
        for start in range(0, 1792, 128):
            batch = slice(start, start + 128)
            norms.append(float(jnp.linalg.norm(state.params["Conv_1"]["kernel"])))
            state, loss = train_step(state, images[batch], labels[batch])
            losses.append(float(loss))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the second kernel: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
