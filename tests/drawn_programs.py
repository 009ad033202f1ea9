"""Products of data and a kernel with drawn roles, and other ways to write each.

An axis of a kernel is a letter: `r` and `s` are contracted with the data, `o` and `p`
are kept, and `a` and `b` are batch axes, which data, kernel and outputs share. Axes are
all of size four, so that no size tells one from another, and each can be halved.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from hypothesis import strategies as st
from jax import lax

SIZE = 4
REDUCTION, OUTPUT, BATCH = "rs", "op", "ab"
EXAMPLES = "z"  # The axis of the data that no kernel has.

# Of the data and the kernel, outputs with the axes (examples, batch, output).
Product = Callable[[jax.Array, jax.Array], jax.Array]


def inputs_of(letters):
    return EXAMPLES + _only(letters, BATCH + REDUCTION)


def outputs_of(letters):
    return EXAMPLES + _only(letters, BATCH + OUTPUT)


def axes_of(letters):
    """The axes of a kernel as `describe` shows them."""
    return tuple(
        tuple(index for index, letter in enumerate(letters) if letter in role)
        for role in (REDUCTION, OUTPUT)
    )


def _only(letters, kept):
    return "".join(letter for letter in kept if letter in letters)


# What a kernel's axes are in: at least one of each of the roles that make a product.
kernels = (
    st.tuples(
        st.sampled_from(["r", "rs"]),
        st.sampled_from(["o", "op"]),
        st.sampled_from(["", "a", "ab"]),
    )
    .map("".join)
    .flatmap(st.permutations)
    .map("".join)
)


class Way(NamedTuple):
    """How a product is written: the same numbers, whatever is chosen."""

    name: str
    axis: int  # Which one, for the ways that take an axis: it counts from the first on.

    def write(self, letters) -> Product:
        return WAYS[self.name](letters, letters[self.axis % len(letters)])


def ways(*names):
    return st.builds(Way, st.sampled_from(names or tuple(WAYS)), st.integers(0, 5))


def plain(letters, _=""):
    equation = f"{inputs_of(letters)},{letters}->{outputs_of(letters)}"
    return lambda x, w: jnp.einsum(equation, x, w)


def operands_swapped(letters, _):
    equation = f"{letters},{inputs_of(letters)}->{outputs_of(letters)}"
    return lambda x, w: jnp.einsum(equation, w, x)


def outputs_transposed(letters, _):
    outputs = outputs_of(letters)
    equation = f"{inputs_of(letters)},{letters}->{outputs[::-1]}"
    return lambda x, w: jnp.einsum(equation, x, w).T


def kernel_transposed(letters, letter):
    axis = letters.index(letter)
    moved = letter + letters.replace(letter, "")
    product = plain(moved)
    return lambda x, w: product(x, jnp.moveaxis(w, axis, 0))


def kernel_cut(letters, letter):
    """Halves of the kernel: their outputs are added, or else joined."""
    product = plain(letters)
    axis = letters.index(letter)
    of_inputs = inputs_of(letters).find(letter)
    of_outputs = outputs_of(letters).find(letter)

    def cut_product(x, w):
        kernels = jnp.split(w, 2, axis)
        inputs = [x, x] if of_inputs < 0 else jnp.split(x, 2, of_inputs)
        halves = list(map(product, inputs, kernels))
        return sum(halves) if of_outputs < 0 else jnp.concatenate(halves, of_outputs)

    return cut_product


def kernel_joined(letters, letter):
    """The kernel is taken apart and put together before its use."""
    product, axis = plain(letters), letters.index(letter)
    return lambda x, w: product(x, jnp.concatenate(jnp.split(w, 2, axis), axis))


def axis_split(letters, letter):
    """An axis is two axes for the product: heads, and numbers of a head."""
    pair = letter + letter.upper()
    inputs, outputs = inputs_of(letters), outputs_of(letters)
    equation = f"{inputs},{letters}->{outputs}".replace(letter, pair)

    def split(array, letters):
        sizes = [(2, 2) if one == letter else (SIZE,) for one in letters[1:]]
        return array.reshape(-1, *(size for both in sizes for size in both))

    def split_product(x, w):
        w = split(w[None], EXAMPLES + letters)[0]
        y = jnp.einsum(equation, split(x, inputs), w)
        return y.reshape(-1, *[SIZE] * len(outputs[1:]))

    return split_product


def axes_merged(letters, _):
    """All axes of a role are one: a stack of plain kernels."""
    order = [
        letters.index(letter)
        for letter in _only(letters, BATCH) + _only(letters, REDUCTION + OUTPUT)
    ]
    batch, reduction, output = (
        SIZE ** len(_only(letters, role)) for role in (BATCH, REDUCTION, OUTPUT)
    )

    def merged_product(x, w):
        w = jnp.transpose(w, order).reshape(batch, reduction, output)
        y = jnp.einsum("zbr,bro->zbo", x.reshape(-1, batch, reduction), w)
        return y.reshape(-1, *[SIZE] * len(outputs_of(letters)[1:]))

    return merged_product


def weight_doubled(letters, _):
    product = plain(letters)
    return lambda x, w: product(x, w + w) / 2


def weight_cast(letters, _):
    product = plain(letters)
    return lambda x, w: product(x, w.astype(jnp.bfloat16).astype(w.dtype))


def in_jit(letters, _):
    return jax.jit(plain(letters))


def in_remat(letters, _):
    return jax.checkpoint(plain(letters))


def in_cond(letters, _):
    product, other = plain(letters), operands_swapped(letters, "")
    return lambda x, w: lax.cond(jnp.sum(x) > 0, product, other, x, w)


def in_vmap(letters, _):
    """Over the examples: the kernel is shared."""
    product = plain(letters)
    return jax.vmap(lambda x, w: product(x[None], w)[0], (0, None))


def in_scan(letters, _):
    """Over the examples."""
    product = plain(letters)

    def scan_product(x, w):
        def step(count, x):
            return count + 1, product(x[None], w)[0]

        return lax.scan(step, 0, x)[1]

    return scan_product


def in_while(letters, _):
    """One round of a loop, whose length depends on the data."""
    product = plain(letters)

    def while_product(x, w):
        shape = jax.eval_shape(product, x, w)
        start = jnp.zeros(shape.shape, shape.dtype)
        count = jnp.where(jnp.sum(x) > 0, 1, 2)
        return lax.fori_loop(0, count, lambda _, total: product(x, w), start)

    return while_product


def scanned_over_batch(letters, _):
    """Each kernel of the stack is a step; without a stack, there is one step."""
    stacked = _only(letters, BATCH)[:1]
    if not stacked:
        product = plain(letters)
        return lambda x, w: lax.scan(lambda n, w: (n, product(x, w)), 0, w[None])[1][0]
    product = plain(letters.replace(stacked, ""))
    axis = letters.index(stacked)

    def scan_product(x, w):
        def step(count, pair):
            return count + 1, product(*pair)

        layers = jnp.moveaxis(x, 1, 0), jnp.moveaxis(w, axis, 0)
        return jnp.moveaxis(lax.scan(step, 0, layers)[1], 0, 1)

    return scan_product


def mapped_over_batch(letters, _):
    stacked = _only(letters, BATCH)[:1]
    if not stacked:
        return plain(letters)
    product = plain(letters.replace(stacked, ""))
    return jax.vmap(product, (1, letters.index(stacked)), 1)


WAYS = {
    way.__name__: way
    for way in (
        plain,
        operands_swapped,
        outputs_transposed,
        kernel_transposed,
        kernel_cut,
        kernel_joined,
        axis_split,
        axes_merged,
        weight_doubled,
        weight_cast,
        in_jit,
        in_remat,
        in_cond,
        in_vmap,
        in_scan,
        in_while,
        scanned_over_batch,
        mapped_over_batch,
    )
}
