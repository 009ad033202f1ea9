"""Axes are those by which a program was made, however its operations are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jax import lax

from drawn_programs import (
    SIZE,
    WAYS,
    Way,
    axes_of,
    inputs_of,
    kernels,
    outputs_of,
    ways,
)
from programs import floats, read

EXAMPLES = 3


def kernel_of(letters):
    return floats(*[SIZE] * len(letters))


def data_of(letters):
    return floats(EXAMPLES, *[SIZE] * len(inputs_of(letters)[1:]))


@pytest.mark.nightly
@pytest.mark.parametrize("name", WAYS)
@given(letters=st.sampled_from(["ro", "spaorb"]), axis=st.integers(0, 5))
def test_ways_mean_the_same(name, letters, axis):
    """What the other tests take for granted."""
    rng = np.random.default_rng(0)
    x, w = (
        # Of few digits, so that a sum is exact in any order, in half precision too.
        jnp.asarray(rng.integers(-4, 5, one.shape), jnp.float32)
        for one in (data_of(letters), kernel_of(letters))
    )
    actual = Way((name,), axis).write(letters)(x, w)
    np.testing.assert_array_equal(actual, Way((), 0).write(letters)(x, w))


def assert_one_kernel(letters, fn):
    params = {"w": kernel_of(letters)}
    actual = read(lambda params, x: fn(x, params["w"]), params, data_of(letters))
    assert actual == {"w": axes_of(letters)}


@pytest.mark.parametrize("name", WAYS)
@given(letters=kernels, axis=st.integers(0, 5))
def test_a_product_written_in_any_way(name, letters, axis):
    assert_one_kernel(letters, Way((name,), axis).write(letters))


@given(letters=kernels, way=ways())
def test_ways_in_one_another(letters, way):
    assert_one_kernel(letters, way.write(letters))


# Programs of several layers

VECTORS = ("scale", "bias")

layers = st.lists(st.tuples(kernels, ways()), min_size=1, max_size=4)


def resized(hidden, letters):
    """The hidden numbers as the data of a layer, whatever their axes were."""
    inputs = data_of(letters).shape
    flat = hidden.reshape(EXAMPLES, -1)
    return jnp.resize(flat[0], inputs) + jnp.mean(flat)


def scaled(hidden, scale, bias):
    return jnp.tanh(hidden * scale + bias)


def vectors_of(letters, axes):
    """A scale and a bias that fit the last axes of the outputs, and no examples."""
    return floats(*[SIZE] * min(axes, len(outputs_of(letters)[1:])))


@given(layers=layers, vector_axes=st.integers(1, 3), data=st.data())
def test_layers_one_after_the_other(layers, vector_axes, data):
    params = {
        str(index): {
            "kernel": kernel_of(letters),
            **dict.fromkeys(VECTORS, vectors_of(letters, vector_axes)),
        }
        for index, (letters, _) in enumerate(layers)
    }
    expected = {f"{name}/{vector}": None for name in params for vector in VECTORS}
    for index, (letters, _) in enumerate(layers):
        expected[f"{index}/kernel"] = axes_of(letters)
    order = data.draw(st.permutations(range(len(layers))))
    wrap = data.draw(st.sampled_from([lambda fn: fn, jax.jit, jax.checkpoint]))

    def fn(params, hidden):
        for index in order:
            letters, way = layers[index]
            layer = params[str(index)]
            hidden = way.write(letters)(resized(hidden, letters), layer["kernel"])
            hidden = scaled(hidden, layer["scale"], layer["bias"])
        return hidden

    assert read(wrap(fn), params, floats(EXAMPLES, 5)) == expected


@given(letters=kernels, both=st.tuples(ways(), ways()))
@example(letters="ro", both=(Way((), 0), Way(("axes_merged",), 0)))
def test_uses_that_agree_are_one(letters, both):
    """A layer used twice, each time written in another way."""

    products = [way.write(letters) for way in both]
    assert_one_kernel(letters, lambda x, w: [product(x, w) for product in products])


@given(letters=kernels, way=ways(), axis=st.integers(0, 4))
def test_layers_in_a_scan_add_a_batch_axis(letters, way, axis):
    axis = min(axis, len(letters))
    stacked = letters[:axis] + "l" + letters[axis:]
    scale_axes = len(outputs_of(letters)[1:])
    params = {"kernel": kernel_of(stacked), "scale": kernel_of("l" + "o" * scale_axes)}
    product = way.write(letters)

    def fn(params, hidden):
        def layer(hidden, layer):
            kernel, scale = layer
            outputs = jnp.tanh(product(hidden, kernel)) * scale
            return resized(outputs, letters), None

        kernels = jnp.moveaxis(params["kernel"], axis, 0)
        return lax.scan(layer, hidden, (kernels, params["scale"]))[0]

    assert read(fn, params, data_of(letters)) == {
        "kernel": axes_of(stacked),
        "scale": None,
    }


@given(
    letters=kernels.filter(lambda letters: not {*"ab"} & {*letters}),
    row_axes=st.integers(1, 2),
    way=ways(),
    data=st.data(),
)
def test_lookups_before_layers(letters, row_axes, way, data):
    """Rows are vectors, wherever the axis stands that the tokens index."""
    axis = data.draw(st.integers(0, row_axes))
    params = {"table": floats(*[SIZE] * (row_axes + 1)), "kernel": kernel_of(letters)}
    product = way.write(letters)

    def fn(params, tokens):
        rows = jnp.take(params["table"], tokens, axis=axis)
        rows = jnp.moveaxis(rows, axis, 0)
        return product(resized(rows, letters), params["kernel"])

    tokens = jax.ShapeDtypeStruct((EXAMPLES,), jnp.int32)
    rows = tuple(one for one in range(row_axes + 1) if one != axis)
    assert read(fn, params, tokens) == {
        "table": (rows, (axis,)),
        "kernel": axes_of(letters),
    }


# JAX cannot differentiate a loop of unknown length.
differentiable = ways(without=["in_while"])


@given(letters=kernels, way=differentiable)
def test_gradients_within_say_nothing_else(letters, way):
    product = way.write(letters)

    def descend(x, w):
        return x - jax.grad(lambda x: jnp.sum(jnp.tanh(product(x, w))))(x)

    assert_one_kernel(letters, descend)
