"""Axes read through loops, branches, calls, vmap and gradients."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from programs import (
    floats,
    indices,
    program,
)

LAYERS, SIZE = 3, 4
X = floats(8, 4)
SEQUENCE = floats(5, 8, 4)  # Steps come first.
STACK = "b3 r4 o4"


def layer(hidden, w):
    return jnp.tanh(hidden @ w)


# Loops


def scanned(x, w, scale, bias):
    def step(hidden, layer):
        w, scale, bias = layer
        return jnp.tanh(hidden @ w) * scale + bias, None

    return lax.scan(step, x, (w, scale, bias))[0]


def scanned_in_pairs(x, w):
    """A scan over groups of layers, and a scan over the layers of a group."""

    def group(hidden, w):
        return lax.scan(lambda hidden, w: (layer(hidden, w), None), hidden, w)

    return lax.scan(group, x, w)[0]


def loop_by_number(x, w):
    def step(index, hidden):
        return layer(hidden, lax.dynamic_index_in_dim(w, index, keepdims=False))

    return lax.fori_loop(0, LAYERS, step, x)


def loop_by_indexing(x, w):
    return lax.fori_loop(0, LAYERS, lambda index, hidden: layer(hidden, w[index]), x)


def loop_of_unknown_length(x, count, w):
    return lax.fori_loop(0, count, lambda index, hidden: layer(hidden, w[index]), x)


def loop_over_the_layers_numbers(x, w):
    def step(hidden, index):
        return layer(hidden, w[index]), None

    return lax.scan(step, x, jnp.arange(LAYERS))[0]


def iterated(x, w):
    """A fixed point, as in deep equilibrium models."""
    return lax.while_loop(
        lambda hidden: jnp.max(hidden) > 1, lambda hidden: layer(hidden, w), x
    )


def carried(x, w):
    """The loop returns its kernels at every turn as they were."""
    return lax.fori_loop(
        0, LAYERS, lambda index, both: (layer(both[0], both[1][index]), both[1]), (x, w)
    )


def recurrent(inputs, w, u, bias, start):
    """Its first state is learned: the carry is a parameter once, and then data."""

    def step(state, x):
        state = jnp.tanh(x @ w + state @ u + bias)
        return state, state

    return lax.scan(step, jnp.broadcast_to(start, (8, 6)), inputs)


def decoder(tokens, table, u):
    def step(state, token):
        state = jnp.tanh(table[token] + state @ u)
        return state, state @ table.T

    return lax.scan(step, jnp.zeros((8, 6)), tokens)


def recurrent_over_rows(tokens, table, w, u):
    def step(state, x):
        return jnp.tanh(x @ w + state @ u), None

    return lax.scan(step, jnp.zeros((8, 6)), table[tokens])[0]


def adapted_layers(x, w, a, b):
    def step(index, hidden):
        w_, a_, b_ = (
            lax.dynamic_index_in_dim(stack, index, keepdims=False)
            for stack in (w, a, b)
        )
        return layer(hidden, w_ + a_ @ b_)

    return lax.fori_loop(0, LAYERS, step, x)


def iterated_from_a_learned_state(x, w, v, start):
    """Until another kernel says that it is enough."""
    return lax.while_loop(
        lambda hidden: jnp.max(hidden @ v) > 1,
        lambda hidden: layer(hidden, w) + x,
        jnp.broadcast_to(start, (8, 4)),
    )


def recurrent_from_states(inputs, w, u, start):
    def step(state, x):
        return jnp.tanh(x @ w + state @ u), None

    return lax.scan(step, start, inputs)[0]


LOOPS = {
    "while, from a learned state": program(
        iterated_from_a_learned_state, X, w="r4 o4", v="r4 o2", start="-1 -4"
    ),
    "recurrent from a learned state for each example": program(
        recurrent_from_states, SEQUENCE, w="r4 o6", u="r6 o6", start="-8 -6"
    ),
    "LoRA in a loop by number": program(
        adapted_layers, X, w=STACK, a="b3 r4 o2", b="b3 r2 o4"
    ),
    "recurrent over rows": program(
        recurrent_over_rows, indices(5, 8), table="o9 r4", w="r4 o6", u="r6 o6"
    ),
    "scan over layers": program(scanned, X, w=STACK, scale="-3 -4", bias="-3 -4"),
    "scan in a scan": program(scanned_in_pairs, X, w="b3 b2 r4 o4"),
    "loop by number": program(loop_by_number, X, w=STACK),
    "loop by indexing": program(loop_by_indexing, X, w=STACK),
    "loop of unknown length": program(loop_of_unknown_length, X, indices(), w=STACK),
    "loop over the layers' numbers": program(loop_over_the_layers_numbers, X, w=STACK),
    "while": program(iterated, X, w="r4 o4"),
    "kernels carried along": program(carried, X, w=STACK),
    "recurrent": program(
        recurrent, SEQUENCE, w="r4 o6", u="r6 o6", bias="-6", start="-6"
    ),
    "decoder": program(decoder, indices(5, 8), table="o9 r6", u="r6 o6"),
}


# Calls


@jax.custom_jvp
def swish(x, w):
    return jax.nn.sigmoid(x @ w) * (x @ w)


@swish.defjvp
def _swish_jvp(primals, tangents):
    return jax.jvp(lambda x, w: jax.nn.silu(x @ w), primals, tangents)


@jax.custom_vjp
def product(x, w):
    return x @ w


product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, grad: (grad @ saved[1].T, 0))


def on_a_mesh(x, w):
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(split, whole), out_specs=split
    )(x, w)


def gathered(x, w):
    """Each device holds some rows of the kernel, and collects the others."""
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    split = PartitionSpec("data")
    return jax.shard_map(
        lambda x, w: x @ lax.all_gather(w, "data", tiled=True),
        mesh=mesh,
        in_specs=split,
        out_specs=split,
    )(x, w)


def gathered_inputs(x, w):
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    split = PartitionSpec("data")
    return jax.shard_map(
        lambda x: (1 + lax.all_gather(x, "data")) @ w,
        mesh=mesh,
        in_specs=split,
        out_specs=split,
    )(x)


CALLS = {
    "jit": program(jax.jit(lambda x, w: x @ w), X, w="r4 o6"),
    "remat": program(jax.checkpoint(layer), X, w="r4 o6"),
    "cond": program(
        lambda flag, x, w: lax.cond(
            flag > 0, lambda: x @ w, lambda: jnp.tanh(x) @ (2 * w)
        ),
        indices(),
        X,
        w="r4 o6",
    ),
    "switch": program(
        lambda which, x, w, v: lax.switch(which, [lambda: x @ w, lambda: x @ v.T]),
        indices(),
        X,
        w="r4 o6",
        v="o6 r4",
    ),
    "kernel chosen by cond": program(
        lambda flag, x, w, v: x @ lax.cond(flag > 0, lambda: w, lambda: v.T),
        indices(),
        X,
        w="r4 o6",
        v="o6 r4",
    ),
    "custom_jvp": program(swish, X, w="r4 o6"),
    "custom_vjp": program(product, X, w="r4 o6"),
    "shard_map": program(on_a_mesh, X, w="r4 o6"),
    "gathered in shard_map": program(gathered, X, w="r4 o6"),
    "inputs gathered in shard_map": program(gathered_inputs, X, w="r4 o6"),
    "call without a gradient": program(
        lambda x, w: (x @ w, lax.stop_gradient(jax.jit(lambda w: x @ w.T)(w))),
        X,
        w="r4 o4",
    ),
    "branch chosen by a weight": program(
        lambda x, w: lax.cond(w[0, 0] > 0, jnp.tanh, jnp.sin, x), X, w="-4 -6"
    ),
}


# vmap


def branch_by_example(x, w):
    """Both branches run, and every example chooses."""

    def one(x):
        return lax.cond(jnp.sum(x) > 0, lambda: x @ w, lambda: jnp.tanh(x) @ w)

    return jax.vmap(one)(x)


VMAPS = {
    "over the batch": program(
        lambda x, w, scale, bias: jax.vmap(lambda x: (x @ w) * scale + bias)(x),
        X,
        w="r4 o6",
        scale="-6",
        bias="-6",
    ),
    "over the batch twice": program(
        lambda x, w: jax.vmap(jax.vmap(lambda x: w @ x))(x), SEQUENCE, w="o6 r4"
    ),
    "over members with inputs of their own": program(
        lambda x, w: jax.vmap(jnp.matmul)(x, w), floats(3, 8, 4), w="b3 r4 o6"
    ),
    "over a choice of kernels": program(
        lambda flags, x, w, v: jax.vmap(
            lambda flag, x: x @ (2 * jnp.where(flag > 0, w, v))
        )(flags, x),
        indices(8),
        X,
        w="r4 o6",
        v="r4 o6",
    ),
    "over a cond": program(branch_by_example, X, w="r4 o6"),
    "over the batch of a recurrent network": program(
        lambda x, **params: jax.vmap(functools.partial(one_sequence, **params))(x),
        floats(8, 5, 4),
        w="r4 o6",
        u="r6 o6",
        start="-6",
    ),
}


def one_sequence(inputs, w, u, start):
    def step(state, x):
        return jnp.tanh(x @ w + state @ u), None

    return lax.scan(step, start, inputs)[0]


# Gradients: a backward pass contracts a kernel's outputs, and says nothing new of it.


def energy(x, w, v):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ v))


def descent_on_energy(x, w, v):
    return x - jax.grad(energy)(x, w, v)


def gradient_penalty(x, w, v):
    value, grad = jax.value_and_grad(energy)(x, w, v)
    return value + jnp.mean((jnp.sqrt(jnp.sum(grad**2, -1)) - 1) ** 2)


def gradient_through_layers(x, w):
    def energy(x):
        return jnp.sum(lax.scan(lambda x, w: (layer(x, w), None), x, w)[0])

    return x - jax.grad(energy)(x)


def gradient_of_images(images, kernel):
    def energy(images):
        outputs = lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.tanh(outputs))

    return images - jax.grad(energy)(images)


GRADIENTS = {
    "backward alone": program(
        lambda y, w: jax.linear_transpose(lambda x: x @ w, X)(y)[0],
        floats(8, 6),
        w="r4 o6",
    ),
    "backward alone, and a penalty": program(
        lambda y, w: (
            jax.linear_transpose(lambda x: x @ w, X)(y)[0] + 1e-4 * jnp.sum(w**2)
        ),
        floats(8, 6),
        w="r4 o6",
    ),
    "descent on an energy": program(descent_on_energy, X, w="r4 o6", v="r6 o5"),
    "gradient penalty": program(gradient_penalty, X, w="r4 o6", v="r6 o5"),
    "through scanned layers": program(gradient_through_layers, X, w=STACK),
    "of images": program(gradient_of_images, floats(8, 9, 9, 4), kernel="r3 r3 r4 o6"),
}

TABLES = {
    "loops": LOOPS,
    "calls": CALLS,
    "vmap": VMAPS,
    "gradients": GRADIENTS,
}
