"""An autoencoder of waves in Haiku, with `hk.transform_with_state`."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_adamp import adamp, describe, layouts


def autoencode(waves, *, is_training):
    def normalize(x):
        norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
        return jax.nn.relu(norm(x, is_training))

    x = normalize(hk.Conv1D(16, 5, stride=2, with_bias=False)(waves))
    code = hk.Linear(8, name="code")(hk.Flatten()(x))
    x = hk.Linear(256, with_bias=False, name="expand")(code)
    x = normalize(x.reshape(-1, 16, 16))
    return hk.Conv1DTranspose(1, 5, stride=2)(x)


network = hk.transform_with_state(autoencode)


def loss_fn(params, state, waves):
    decoded, state = network.apply(params, state, None, waves, is_training=True)
    return optax.l2_loss(decoded, waves).mean(), state


def make_waves(rng, count):
    frequencies = rng.uniform(0.1, 0.4, (count, 1, 1))
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    return np.float32(np.sin(frequencies * np.arange(32)[:, None] + phases))


def main():
    rng = np.random.default_rng(0)
    init = jax.jit(network.init, static_argnames="is_training")
    params, state = init(jax.random.key(0), make_waves(rng, 1), is_training=True)
    layout = layouts.from_function(loss_fn, params, state, make_waves(rng, 1))
    tx = adamp(1e-2, weight_decay=1e-2, dimension_numbers=layout)
    opt_state = tx.init(params)
    table = describe(params, layout)

    @jax.jit
    def train_step(params, state, opt_state, waves):
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, state), grads = grad_fn(params, state, waves)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    losses, norms = [], []
    for _ in range(60):
        norms.append(float(jnp.linalg.norm(params["expand"]["w"])))
        params, state, opt_state, loss = train_step(
            params, state, opt_state, make_waves(rng, 128)
        )
        losses.append(float(loss))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the weight of `expand`: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
