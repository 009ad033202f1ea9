"""E3NN: kernels that mix copies of one representation, and products of two."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

# Importing sympy, of which e3nn asks only Clebsch-Gordan coefficients, is noisy.
e3nn = pytest.importorskip("e3nn_jax", reason='needs `pip install -e ".[zoo]"`')

IRREPS = "4x0e + 3x1o"
KERNEL = ((0,), (1,))  # (copies in, copies out)


def check(init, apply, data, expected):
    params = drawn(init, jax.random.key(0), *data)

    def loss(params, *data):
        return jnp.mean((apply(params, *data).array - 1) ** 2)

    layout = layouts.from_function(loss, params, *data)
    check_axes(layout, params, expected)
    check_loss_falls(lambda p: loss(p, *data), params, layout)


def test_linear_layers_and_a_gate():
    import flax.linen

    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = e3nn.IrrepsArray(IRREPS, x)
            x = e3nn.gate(e3nn.flax.Linear("7x0e + 2x1o", biases=True)(x))
            x = e3nn.flax.Linear("3x0e + 2x1o")(x)
            scalars = e3nn.flax.MultiLayerPerceptron((5, 3), jnp.tanh)(x.filter("0e"))
            return e3nn.concatenate([scalars, x.filter("1o")])

    net = Net()
    check(
        net.init,
        net.apply,
        [normal(4, 13)],
        {"*/w[[]*": KERNEL, "*/b[[]*": None, "*/kernel": KERNEL},
    )


def test_kernels_chosen_by_an_index():
    net = e3nn.flax.Linear("3x0e + 2x1o", num_indexed_weights=5)

    def apply(params, kinds, x):
        return net.apply(params, kinds, e3nn.IrrepsArray(IRREPS, x))

    def init(key, kinds, x):
        return net.init(key, kinds, e3nn.IrrepsArray(IRREPS, x))

    # An atom's kind has a kernel of its own: (kinds, copies in, copies out).
    data = [integers(5, 6), normal(6, 13)]
    check(init, apply, data, {"params/w*": ((1,), (2,))})


def test_fully_connected_product():
    @hk.without_apply_rng
    @hk.transform
    def net(x, y):
        product = e3nn.haiku.FullyConnectedTensorProduct("2x0e + 5x1o")
        return product(e3nn.IrrepsArray(IRREPS, x), e3nn.IrrepsArray("2x0e + 1o", y))

    # Bilinear: an output sums over the copies of both, (first, second, out).
    data = [normal(6, 13), normal(6, 5)]
    check(net.init, net.apply, data, {"*": ((0, 1), (2,))})
