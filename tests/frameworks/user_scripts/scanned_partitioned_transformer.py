"""A transformer in Flax Linen as in MaxText: layers scanned, parameters partitioned."""

import os

# A CPU stands in for eight TPUs. jax reads this when it starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import AxisType

from optax_adamp import adamp, describe, layouts

VOCABULARY, EMBED, HEADS, HEAD_SIZE, MLP, LAYERS = 16, 32, 4, 8, 64, 2
RULES = [("batch", "data"), ("embed", "data"), ("heads", "tensor"), ("mlp", "tensor")]


class Dense(nn.Module):
    """Contracts the last axes of its input, as MaxText's own layer does."""

    outputs: tuple[int, ...]
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        inputs, outputs = len(self.axes) - len(self.outputs), len(self.outputs)
        init = nn.initializers.lecun_normal(range(inputs), range(-outputs, 0))
        init = nn.with_logical_partitioning(init, self.axes)
        kernel = self.param("kernel", init, x.shape[-inputs:] + self.outputs)
        return jnp.tensordot(x, kernel, inputs)


def norm(name):
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    return nn.RMSNorm(scale_init=ones, name=name)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        def to_heads(name):
            axes = ("embed", "heads", "kv")
            return Dense((HEADS, HEAD_SIZE), axes, name=name)(x)

        query = norm("query_norm")(to_heads("query"))
        key = norm("key_norm")(to_heads("key"))
        mask = nn.make_causal_mask(x[..., 0])
        x = nn.dot_product_attention(query, key, to_heads("value"), mask=mask)
        return Dense((EMBED,), ("heads", "kv", "embed"), name="out")(x)


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        gate = Dense((MLP,), ("embed", "mlp"), name="wi_0")(x)
        x = Dense((MLP,), ("embed", "mlp"), name="wi_1")(x)
        return Dense((EMBED,), ("mlp", "embed"), name="wo")(nn.silu(gate) * x)


class DecoderLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        x += Attention(name="self_attention")(norm("pre_self_attention_norm")(x))
        x += MlpBlock(name="mlp")(norm("post_self_attention_norm")(x))
        return x, None


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        normal = nn.initializers.normal()
        init = nn.with_logical_partitioning(normal, ("vocab", "embed"))
        embed = nn.Embed(VOCABULARY, EMBED, embedding_init=init, name="token_embedder")
        layers = nn.scan(
            nn.remat(DecoderLayer),
            variable_axes={"params": 1},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = layers(name="layers")(embed(tokens), None)
        return embed.attend(norm("decoder_norm")(x))


def train_step(state, tokens):
    def loss_fn(params):
        logits = state.apply_fn({"params": params}, tokens[:, :-1])
        targets = tokens[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    # The loss is for what guards against its spikes.
    updates, opt_state = state.tx.update(
        grads, state.opt_state, state.params, loss=loss
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, opt_state=opt_state, step=state.step + 1), loss


def main():
    rng = np.random.default_rng(0)
    model = Transformer()
    layout = layouts.from_linen(model, jax.ShapeDtypeStruct((8, 16), jnp.int32))
    tx = adamp(1e-2, weight_decay=1e-2, dimension_numbers=layout)

    def init_state(key):
        params = model.init(key, jnp.zeros((8, 16), int))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    losses, norms = [], []
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        abstract_state = jax.eval_shape(init_state, jax.random.key(0))
        table = describe(abstract_state.params, layout)
        specs = nn.get_partition_spec(abstract_state)
        shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
        init = jax.jit(init_state, out_shardings=shardings)
        state = nn.unbox(init(jax.random.key(0)))
        step = jax.jit(train_step, out_shardings=(shardings, None), donate_argnums=0)
        for _ in range(25):
            starts = rng.integers(VOCABULARY, size=(8, 1))
            tokens = (starts + 5 * np.arange(17)) % VOCABULARY
            query = state.params["layers"]["self_attention"]["query"]["kernel"]
            norms.append(float(jnp.linalg.norm(query)))
            state, loss = step(state, tokens)
            losses.append(float(loss))
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"norm of the queries' kernel: {norms[0]:.4f} to {norms[-1]:.4f}")
    print(f"a device has {query.sharding.shard_shape(query.shape)} of it")
    print(table)
    return losses, norms, table


if __name__ == "__main__":
    main()
