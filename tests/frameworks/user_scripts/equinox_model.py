"""A convolutional network in Equinox that tells the frequency of noisy waves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_adamp import adamp, describe, layouts


class CNN(eqx.Module):
    conv: eqx.nn.Conv1d
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        conv_key, head_key = jax.random.split(key)
        self.conv = eqx.nn.Conv1d(1, 16, 9, use_bias=False, key=conv_key)
        self.norm = eqx.nn.BatchNorm(16, axis_name="batch", mode="batch")
        self.head = eqx.nn.Linear(16, 4, key=head_key)

    def __call__(self, wave, state):
        x, state = self.norm(self.conv(wave), state)
        return self.head(jax.nn.relu(x).mean(axis=-1)), state


def loss_fn(model, state, waves, labels):
    in_batch = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    logits, state = in_batch(waves, state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), state


def make_waves(rng, count):
    labels = rng.integers(4, size=count)
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    angles = 0.3 * (1 + labels[:, None, None]) * np.arange(32) + phases
    return np.float32(np.sin(angles) + 0.3 * rng.normal(size=angles.shape)), labels


def main():
    rng = np.random.default_rng(0)
    model, state = eqx.nn.make_with_state(CNN)(jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    tx = adamp(2e-2, weight_decay=1e-2, dimension_numbers=layouts.output_first)
    opt_state = tx.init(params)
    table = describe(params, layouts.output_first)

    @eqx.filter_jit
    def train_step(model, state, opt_state, waves, labels):
        grad_fn = eqx.filter_value_and_grad(loss_fn, has_aux=True)
        (loss, state), grads = grad_fn(model, state, waves, labels)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = tx.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), state, opt_state, loss

    losses, norms = [], []
    for _ in range(50):
        norms.append(float(jnp.linalg.norm(model.conv.weight)))
        model, state, opt_state, loss = train_step(
            model, state, opt_state, *make_waves(rng, 128)
        )
        losses.append(float(loss))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the convolution's weight: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
