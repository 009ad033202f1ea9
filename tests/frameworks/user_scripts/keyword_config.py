"""An optimizer built from a config as in Levanter, for stacked layers in Equinox."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_adamp import describe, layouts, scale_by_projection, with_gradient

LAYOUT = layouts.stacked(layouts.output_first, where="blocks/*")


@dataclasses.dataclass(frozen=True)
class AdamPConfig:
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    warmup: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def build(self, num_train_steps):
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.learning_rate,
            warmup_steps=int(self.warmup * num_train_steps),
            decay_steps=num_train_steps,
        )
        return optax.inject_hyperparams(self.chain)(learning_rate=schedule)

    def chain(self, learning_rate):
        return with_gradient(
            optax.chain(
                optax.clip_by_global_norm(max_norm=self.max_grad_norm),
                optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon),
                scale_by_projection(
                    weight_decay=self.weight_decay,
                    mask=decay_mask,
                    dimension_numbers=LAYOUT,
                ),
                optax.scale_by_learning_rate(learning_rate=learning_rate),
            )
        )


def decay_mask(params):
    def decays(path, _):
        name = jax.tree_util.keystr(path)
        return name.endswith("weight") and "norm" not in name

    return jax.tree.map_with_path(decays, params)


class Block(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(16, 16, use_bias=False, key=key)
        self.norm = eqx.nn.LayerNorm(16)

    def __call__(self, x):
        return x + jax.nn.gelu(self.norm(self.linear(x)))


class Model(eqx.Module):
    embed: eqx.nn.Linear
    blocks: Block
    head: eqx.nn.Linear

    def __init__(self, key):
        embed_key, blocks_key, head_key = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(4, 16, key=embed_key)
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(blocks_key, 3))
        self.head = eqx.nn.Linear(16, 1, key=head_key)

    def __call__(self, x):
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def apply(x, arrays):
            return eqx.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(apply, self.embed(x), arrays)
        return self.head(x)[0]


def main():
    rng = np.random.default_rng(0)
    model = Model(jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    optimizer = AdamPConfig().build(num_train_steps=100)
    opt_state = optimizer.init(params)
    table = describe(params, LAYOUT)

    @eqx.filter_jit
    def train_step(model, opt_state, inputs, targets):
        def loss_fn(model):
            return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(
            grads, opt_state, params=params, obj_fn=loss_fn, loss=loss
        )
        return eqx.apply_updates(model, updates), opt_state, loss

    losses, norms = [], []
    for _ in range(100):
        inputs = np.float32(rng.normal(size=(128, 4)))
        targets = inputs[:, 0] * inputs[:, 1] + inputs[:, 2]
        norms.append(float(jnp.linalg.norm(model.blocks.linear.weight)))
        model, opt_state, loss = train_step(model, opt_state, inputs, targets)
        losses.append(float(loss))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the stacked weights: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(f"learning rate: {opt_state.hyperparams['learning_rate']:.3g}")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
