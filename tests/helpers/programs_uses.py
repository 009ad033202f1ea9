"""Axes read from lookups; and what only scales, shifts or joins data has none."""

import jax
import jax.numpy as jnp
from jax import lax

from programs import (
    floats,
    indices,
    program,
)

TOKENS = indices(8, 5)
X = floats(8, 5, 4)
IMAGES = floats(8, 9, 9, 6)
TABLE = "o9 r4"  # Its rows are vectors.


def rows_by_slices(tokens, table):
    row = jax.vmap(lambda token: lax.dynamic_slice(table, (token, 0), (1, 4))[0])
    return row(tokens)


def rows_of_layers(x, token, table):
    def add(layer, x):
        return jnp.tanh(x + lax.dynamic_slice(table, (token, layer, 0), (1, 1, 4))[0])

    return lax.fori_loop(0, 3, add, x)


def tied(tokens, table, w):
    return jnp.tanh(table[tokens] @ w) @ table.T


def one_expert_a_token(x, experts, w):
    return jnp.einsum("ti,tio->to", x, w[experts])


def one_hot_expert(x, which, w):
    kernels = jnp.einsum("te,eio->tio", jax.nn.one_hot(which, 9), w)
    return jnp.einsum("ti,tio->to", x, kernels)


def smoothed(tokens, table):
    """A constant filter along the text."""
    return lax.conv_general_dilated(
        table[tokens],
        jnp.full((3, 1, 4), 1 / 3),
        (1,),
        "SAME",
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=4,
    )


LOOKUPS = {
    "a table for each entry of a batch": program(
        lambda tokens, w: jax.vmap(lambda table, i: table[i])(w, tokens),
        indices(3, 5),
        w="b3 o9 r4",
    ),
    "segments, of which the second was set": program(
        lambda x, table: jnp.tanh(x + table[jnp.zeros(5, int).at[3:].set(1)]),
        floats(8, 5, 4),
        table=TABLE,
    ),
    "rows scaled": program(
        lambda tokens, table, w: (2.0 * table[tokens]) @ w,
        TOKENS,
        table=TABLE,
        w="r4 o6",
    ),
    "rows times a scale": program(
        lambda tokens, table, scale, w: (table[tokens] * scale) @ w,
        TOKENS,
        table=TABLE,
        scale="-4",
        w="r4 o6",
    ),
    "rows in another order": program(
        lambda tokens, order, table, w: jnp.take(table[tokens], order, axis=1) @ w,
        TOKENS,
        indices(5),
        table=TABLE,
        w="r4 o6",
    ),
    "rows sorted": program(
        lambda tokens, table, w: jnp.sort(table[tokens], axis=1) @ w,
        TOKENS,
        table=TABLE,
        w="r4 o6",
    ),
    "rows one later": program(
        lambda tokens, table, w: jnp.pad(table[tokens], ((0, 0), (1, 0), (0, 0))) @ w,
        TOKENS,
        table=TABLE,
        w="r4 o6",
    ),
    "sum of rows": program(
        lambda tokens, table, w: table[tokens].sum(axis=1) @ w,
        TOKENS,
        table=TABLE,
        w="r4 o6",
    ),
    "rows chosen by weights": program(
        lambda x, table, v: x + table[jnp.round(v).astype(int)[0]],
        X,
        table=TABLE,
        v="-1 -5",
    ),
    "a row before a product": program(
        lambda token, table, w: lax.dynamic_slice(table, (token, 0), (1, 4)) @ w,
        indices(),
        table=TABLE,
        w="r4 o6",
    ),
    "a row of each layer": program(rows_of_layers, X, indices(), table="o9 b3 r4"),
    "part of a kernel, cut into heads": program(
        lambda x, w: jnp.einsum(
            "bi,ihs->bhs", x, lax.dynamic_slice(w, (1, 0), (2, 6)).reshape(2, 2, 3)
        ),
        floats(8, 2),
        w="r4 o6",
    ),
    "part of a kernel that a weight tells": program(
        lambda x, w, v: x @ lax.dynamic_slice(w, (v[0, 0].astype(int), 0), (4, 6)),
        floats(8, 4),
        w="r9 o6",
        v="-5 -1",
    ),
    "windows of a kernel": program(
        lambda x, w: jnp.einsum(
            "nk,nko->no",
            x,
            jax.vmap(lambda i: lax.dynamic_slice(w, (i, 0), (2, 6)))(jnp.arange(3)),
        ),
        floats(3, 2),
        w="r4 o6",
    ),
    "one entry of each of a batch": program(
        lambda x, w: jax.vmap(lambda x, w, i: x @ w[i])(x, w, jnp.zeros(3, int)),
        floats(3, 8, 4),
        w="b3 b2 r4 o6",
    ),
    "rows before a constant filter": program(smoothed, TOKENS, table=TABLE),
    "indexing": program(lambda tokens, table: table[tokens], TOKENS, table=TABLE),
    "take": program(
        lambda tokens, table: jnp.take(table, tokens, axis=0), TOKENS, table=TABLE
    ),
    "take along the last axis": program(
        lambda tokens, table: jnp.take(table, tokens, axis=1), TOKENS, table="r4 o9"
    ),
    "vmapped slices": program(rows_by_slices, indices(8), table=TABLE),
    "vmapped indexing": program(
        lambda tokens, table: jax.vmap(lambda token: table[token])(tokens),
        indices(8),
        table=TABLE,
    ),
    "one row": program(lambda token, table: table[token], indices(), table=TABLE),
    "rows of several axes": program(
        lambda tokens, table: table[tokens], TOKENS, table="o9 r2 r3"
    ),
    "weighted sum of rows": program(
        lambda tokens, weights, table: jnp.einsum("bt,btd->bd", weights, table[tokens]),
        TOKENS,
        floats(8, 5),
        table=TABLE,
    ),
    "kernel chosen by one-hot data": program(
        one_hot_expert, floats(8, 4), indices(8), w="b9 r4 o6"
    ),
    "positions counted in a loop": program(
        lambda x, table: (
            x
            + table[
                lax.fori_loop(0, 2, lambda _, n: n + jnp.arange(5), jnp.zeros(5, int))
            ]
        ),
        X,
        table=TABLE,
    ),
    "positions counted by a scan": program(
        lambda x, table: x + table[lax.scan(lambda n, _: (n + 1, n), 0, length=5)[1]],
        X,
        table=TABLE,
    ),
    "positions cumulated": program(
        lambda x, table: x + table[jnp.cumsum(jnp.ones(5, int)) - 1], X, table=TABLE
    ),
    "positions on a grid": program(
        lambda x, table: x + table[jnp.indices((5, 3))[0, :, :1][:, 0]], X, table=TABLE
    ),
    "segments of a half each": program(
        lambda x, table: (
            x + table[jnp.concatenate([jnp.zeros(2, int), jnp.ones(3, int)])]
        ),
        X,
        table=TABLE,
    ),
    "positions by number": program(
        lambda x, table: x + table[jnp.arange(5)], X, table=TABLE
    ),
    "embedding and logits": program(tied, TOKENS, table=TABLE, w="r4 o4"),
    # By convention: the same numbers as those of a lookup, hence the same vectors.
    "one-hot": program(
        lambda tokens, table: jax.nn.one_hot(tokens, 9) @ table, TOKENS, table=TABLE
    ),
    "one-hot by hand": program(
        lambda tokens, table: (
            (tokens[..., None] == jnp.arange(9)).astype(float) @ table
        ),
        TOKENS,
        table=TABLE,
    ),
    "one-hot by numbers reshaped": program(
        lambda tokens, table: (
            (tokens[..., None] == jnp.arange(9).reshape(1, 1, 9)).astype(float) @ table
        ),
        TOKENS,
        table=TABLE,
    ),
    "one-hot by numbers behind a barrier": program(
        lambda tokens, table: (
            (tokens[..., None] == lax.optimization_barrier(jnp.arange(9))).astype(float)
            @ table
        ),
        TOKENS,
        table=TABLE,
    ),
    "signs of numbers, which are no one-hot": program(
        lambda tokens, table: (
            (tokens[..., None] == jnp.sign(jnp.arange(9))).astype(float) @ table
        ),
        TOKENS,
        table="r9 o4",
    ),
    "numbers repeated, which are no one-hot": program(
        lambda tokens, table: (
            (tokens[..., None] == jnp.tile(jnp.arange(3), 3)).astype(float) @ table
        ),
        TOKENS,
        table="r9 o4",
    ),
    "one-hot, one at a time": program(
        lambda tokens, table: lax.map(lambda x: x @ table, jax.nn.one_hot(tokens, 9)),
        TOKENS,
        table=TABLE,
    ),
    # As T5X's Embed does.
    "one-hot, and logits": program(
        lambda tokens, table: (jax.nn.one_hot(tokens, 9) @ table) @ table.T,
        TOKENS,
        table=TABLE,
    ),
    "logits in chunks": program(
        lambda tokens, table: lax.map(
            lambda rows: jnp.tanh(table[tokens]) @ rows.T, table.reshape(3, 3, 4)
        ),
        TOKENS,
        table=TABLE,
    ),
    "one expert a token, scaled": program(
        lambda x, experts, gate, w: jnp.einsum(
            "ti,tio->to", x, w[experts] * gate[:, None, None]
        ),
        *(floats(8, 4), indices(8), floats(8)),
        w="b3 r4 o6",
    ),
    "one expert a token": program(
        one_expert_a_token, floats(8, 4), indices(8), w="b3 r4 o6"
    ),
}
# Those of a single number.
ONE_ROW = ["one row", "a row before a product", "a row of each layer"]


def resized_positions(images, positions):
    """Those of a smaller picture: a product with an array that no data enter."""
    return images + jax.image.resize(positions, (9, 9, 6), "bilinear")


def layer_norm(x, scale, bias):
    x = x - jnp.mean(x, (-2, -1), keepdims=True)
    return x * lax.rsqrt(jnp.mean(x**2, (-2, -1), keepdims=True) + 1e-6) * scale + bias


def with_class_token(x, token, positions, w):
    x = jnp.concatenate([jnp.broadcast_to(token, (8, 1, 4)), x], 1)
    return (x + positions) @ w


def learned_queries(x, queries, q, k):
    """Queries of a perceiver, of which each example gets a copy."""
    queries = jnp.broadcast_to(queries, (8, 3, 4)) @ q
    return jnp.einsum("bqd,btd->bqt", queries, x @ k)


def gated_recurrent(x, state, w, u, bias):
    """Keras's GRU, whose inputs and states have a bias each."""
    inputs = jnp.split(x @ w + bias[0], 3, -1)
    states = jnp.split(state @ u + bias[1], 3, -1)
    update, reset = (jax.nn.sigmoid(inputs[i] + states[i]) for i in range(2))
    return update * state + (1 - update) * jnp.tanh(inputs[2] + reset * states[2])


def attention_bias(x, q, bias, k):
    """The bias meets the queries before the keys: it is added to data first."""
    queries = jnp.einsum("bti,ihs->bths", x, q) + bias
    keys = jnp.einsum("bti,ihs->bths", x, k)
    return jnp.einsum("bths,buhs->bhtu", queries, keys)


def gain_in_the_kernel(images, kernel, gain):
    return lax.conv_general_dilated(
        images,
        kernel * gain,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def penalized(x, w, bias, scale):
    loss = jnp.mean(((x @ w) * scale + bias) ** 2)
    return loss + 1e-4 * sum(jnp.sum(leaf**2) for leaf in (w, bias, scale))


VECTORS = {
    "bias": program(lambda x, w, bias: x @ w + bias, X, w="r4 o6", bias="-6"),
    "scale": program(lambda x, scale: jnp.tanh(x * scale), X, scale="-4"),
    "scale before a product": program(
        lambda x, w, scale: (x * scale) @ w, X, w="r4 o6", scale="-4"
    ),
    "positions": program(
        lambda x, w, positions: (x + positions) @ w, X, w="r4 o6", positions="-1 -5 -4"
    ),
    "first positions of more": program(
        lambda x, w, positions: (x + positions[:5]) @ w, X, w="r4 o6", positions="-7 -4"
    ),
    "positions of a smaller picture": program(
        resized_positions, IMAGES, positions="-5 -5 -6"
    ),
    "class token": program(
        with_class_token, X, token="-1 -1 -4", positions="-6 -4", w="r4 o6"
    ),
    "learned queries": program(
        learned_queries, X, queries="-3 -4", q="r4 o6", k="r4 o6"
    ),
    "group normalization": program(
        lambda images, scale: jnp.tanh(images * scale), IMAGES, scale="-1 -1 -1 -6"
    ),
    "layer normalization over two axes": program(
        layer_norm, X, scale="-5 -4", bias="-5 -4"
    ),
    "slopes": program(
        lambda images, slope: jnp.where(images > 0, images, slope * images),
        IMAGES,
        slope="-9 -9 -6",
    ),
    "bias of heads": program(
        attention_bias, X, q="r4 o2 o3", bias="-2 -3", k="r4 o2 o3"
    ),
    "bias of a GRU": program(
        gated_recurrent,
        floats(8, 4),
        floats(8, 6),
        w="r4 o18",
        u="r6 o18",
        bias="-2 -18",
    ),
    "gain in the kernel": program(
        gain_in_the_kernel, IMAGES, kernel="r3 r3 r6 o5", gain="-1 -1 -1 -5"
    ),
    "the same row everywhere": program(
        lambda x, table: x + table[jnp.zeros((5, 1), int).reshape(5)],
        X,
        table="-9 -4",
    ),
    "inputs cut at a place that a weight tells": program(
        lambda x, w, v: lax.dynamic_slice(x[0], (v[0, 0].astype(int), 0), (1, 4)) @ w,
        X,
        w="r4 o6",
        v="-5 -1",
    ),
    "learned frequencies": program(
        lambda t, frequencies, w: jnp.sin(t[:, None] * frequencies) @ w,
        floats(8),
        frequencies="-1 -6",
        w="r6 o5",
    ),
    "learned slopes": program(
        lambda t, slopes, w: (t[:, None] * slopes) @ w,
        floats(8),
        slopes="-1 -6",
        w="r6 o5",
    ),
    "gains of heads": program(
        lambda x, q, gain, k: jnp.einsum(
            "bths,buhs->bhtu",
            jnp.einsum("bti,ihs->bths", x, q) * gain,
            jnp.einsum("bti,ihs->bths", x, k),
        ),
        X,
        q="r4 o2 o3",
        gain="-2 -3",
        k="r4 o2 o3",
    ),
    "scales before a maximum": program(
        lambda x, w: (x[:, :, None] * w).max(axis=1), floats(8, 4), w="-4 -6"
    ),
    "scales before a sum of something else": program(
        lambda x, w: jnp.tanh(x[:, :, None] * w).sum(axis=1), floats(8, 4), w="-4 -6"
    ),
    "penalty on everything": program(
        penalized, X, w="r4 o6", bias="-1 -6", scale="-5 -6"
    ),
    "not used": program(lambda x, w, unused: x @ w, X, w="r4 o6", unused="-4 -6"),
}

TABLES = {"lookups": LOOKUPS, "vectors": VECTORS}
