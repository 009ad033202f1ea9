"""Products of data and a kernel with drawn roles, and other ways to write each.

An axis of a kernel is a letter: `r` and `s` are contracted with the data, `o` and `p`
are kept, and `a` and `b` are batch axes, which data, kernel and outputs share. Axes are
all of size four, so that no size tells one from another, and each can be halved.
"""

import math
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


# The axes of a kernel in any order: at least one of both roles that make a product.
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

    names: tuple[str, ...]  # From the outside in.
    axis: int  # Which one, for the ways that take an axis: it counts from the first on.

    def write(self, letters) -> Product:
        if not self.names:
            equation = f"{inputs_of(letters)},{letters}->{outputs_of(letters)}"
            return lambda x, w: jnp.einsum(equation, x, w)
        name, *others = self.names
        inner = Way(tuple(others), self.axis)
        return WAYS[name](inner, letters, letters[self.axis % len(letters)])


def ways(without=()):
    """Up to three ways, one in the other."""
    names = st.sampled_from([name for name in WAYS if name not in without])
    several = st.lists(names, max_size=3).map(tuple)
    return st.builds(Way, several, st.integers(0, 5))


# The kernel is moved, or cut and put together.


def operands_swapped(_, letters, __):
    equation = f"{letters},{inputs_of(letters)}->{outputs_of(letters)}"
    return lambda x, w: jnp.einsum(equation, w, x)


def outputs_transposed(_, letters, __):
    equation = f"{inputs_of(letters)},{letters}->{outputs_of(letters)[::-1]}"
    return lambda x, w: jnp.einsum(equation, x, w).T


def kernel_transposed(inner, letters, letter):
    axis = letters.index(letter)
    product = inner.write(letter + letters.replace(letter, ""))
    return lambda x, w: product(x, jnp.moveaxis(w, axis, 0))


def kernel_cut(inner, letters, letter):
    """Halves of the kernel: their outputs are added, or else joined."""
    product = inner.write(letters)
    axis = letters.index(letter)
    of_inputs = inputs_of(letters).find(letter)
    of_outputs = outputs_of(letters).find(letter)

    def cut_product(x, w):
        parts = 2 if w.shape[axis] > 2 else 1  # What is left has no axis of one entry.
        kernels = jnp.split(w, parts, axis)
        inputs = [x] * parts if of_inputs < 0 else jnp.split(x, parts, of_inputs)
        outputs = list(map(product, inputs, kernels))
        return sum(outputs) if of_outputs < 0 else jnp.concatenate(outputs, of_outputs)

    return cut_product


def kernel_joined(inner, letters, letter):
    """The kernel is taken apart and put together before its use."""
    product, axis = inner.write(letters), letters.index(letter)

    def joined_product(x, w):
        parts = math.gcd(w.shape[axis], 2)
        return product(x, jnp.concatenate(jnp.split(w, parts, axis), axis))

    return joined_product


def kernel_stacked(inner, letters, letter):
    """The same with all entries of an axis."""
    product, axis = inner.write(letters), letters.index(letter)

    def stacked_product(x, w):
        entries = [lax.index_in_dim(w, i, axis, False) for i in range(w.shape[axis])]
        return product(x, jnp.stack(entries, axis))

    return stacked_product


def axis_split(_, letters, letter):
    """An axis is two axes for the product: heads, and numbers of a head."""
    inputs, outputs = inputs_of(letters), outputs_of(letters)
    pair = letter + letter.upper()
    equation = f"{inputs},{letters}->{outputs}".replace(letter, pair)

    def split(array, letters):
        place = letters.find(letter)
        if place < 0:
            return array
        before, size, after = (
            array.shape[:place],
            array.shape[place],
            array.shape[place + 1 :],
        )
        heads = math.gcd(size, 2)
        return array.reshape(*before, heads, size // heads, *after)

    def split_product(x, w):
        y = jnp.einsum(equation, split(x, inputs), split(w, letters))
        place = outputs.find(letter)
        return y if place < 0 else lax.collapse(y, place, place + 2)

    return split_product


def axes_merged(_, letters, __):
    """All axes of a role are one: a stack of plain kernels."""
    groups = [_only(letters, role) for role in (BATCH, REDUCTION, OUTPUT)]
    order = [letters.index(letter) for group in groups for letter in group]

    def merged_product(x, w):
        size = dict(zip(letters, w.shape, strict=True))
        merged = [math.prod(size[letter] for letter in group) for group in groups]
        w = jnp.transpose(w, order).reshape(merged)
        y = jnp.einsum("zbr,bro->zbo", x.reshape(-1, *merged[:2]), w)
        return y.reshape(-1, *(size[letter] for letter in outputs_of(letters)[1:]))

    return merged_product


def weight_doubled(inner, letters, _):
    product = inner.write(letters)
    return lambda x, w: product(x, w + w) / 2


def weight_cast(inner, letters, _):
    product = inner.write(letters)
    return lambda x, w: product(x, w.astype(jnp.bfloat16).astype(w.dtype))


# The product is computed elsewhere.


def in_jit(inner, letters, _):
    return jax.jit(inner.write(letters))


def in_remat(inner, letters, _):
    return jax.checkpoint(inner.write(letters))


def in_cond(inner, letters, letter):
    product, other = inner.write(letters), operands_swapped(inner, letters, letter)
    return lambda x, w: lax.cond(jnp.sum(x) > 0, product, other, x, w)


def in_vmap(inner, letters, _):
    """Over the examples: the kernel is shared."""
    product = inner.write(letters)
    return jax.vmap(lambda x, w: product(x[None], w)[0], (0, None))


def in_scan(inner, letters, _):
    """Over the examples."""
    product = inner.write(letters)

    def scan_product(x, w):
        def step(count, x):
            return count + 1, product(x[None], w)[0]

        return lax.scan(step, 0, x)[1]

    return scan_product


def in_while(inner, letters, _):
    """A loop whose length depends on the data; all its rounds are alike."""
    product = inner.write(letters)

    def while_product(x, w):
        outputs = jax.eval_shape(product, x, w)
        start = jnp.zeros(outputs.shape, outputs.dtype)
        count = jnp.where(jnp.sum(x) > 0, 1, 2)
        return lax.fori_loop(0, count, lambda _, __: product(x, w), start)

    return while_product


def scanned_over_batch(inner, letters, _):
    """Each kernel of a stack is a step; without a stack, there is one step."""
    stacked = _only(letters, BATCH)[:1]
    if not stacked:
        product = inner.write(letters)
        return lambda x, w: lax.scan(lambda n, w: (n, product(x, w)), 0, w[None])[1][0]
    product = inner.write(letters.replace(stacked, ""))
    axis = letters.index(stacked)

    def scan_product(x, w):
        def step(count, pair):
            return count + 1, product(*pair)

        layers = jnp.moveaxis(x, 1, 0), jnp.moveaxis(w, axis, 0)
        return jnp.moveaxis(lax.scan(step, 0, layers)[1], 0, 1)

    return scan_product


def mapped_over_batch(inner, letters, _):
    stacked = _only(letters, BATCH)[:1]
    if not stacked:
        return inner.write(letters)
    product = inner.write(letters.replace(stacked, ""))
    return jax.vmap(product, (1, letters.index(stacked)), 1)


WAYS = {
    way.__name__: way
    for way in (
        operands_swapped,
        outputs_transposed,
        kernel_transposed,
        kernel_cut,
        kernel_joined,
        kernel_stacked,
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
