"""NumPyro: networks as parts of a model, trained by a variational bound."""

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import pytest
from jax.example_libraries import stax

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, normal

numpyro = pytest.importorskip("numpyro", reason='needs `pip install -e ".[zoo]"`')
dist = pytest.importorskip("numpyro.distributions")
modules = pytest.importorskip("numpyro.contrib.module")

DATA, HIDDEN, LATENT = 6, 5, 2
KEY = jax.random.key(0)


def stax_module(name, net, input_shape):
    init, apply = net
    weights = numpyro.param(f"{name}$params", lambda key: init(key, input_shape)[1])
    return lambda x: apply(weights, x)


def linen(name, sizes):
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.tanh(flax.linen.Dense(sizes[1])(x))
            return flax.linen.Dense(sizes[2])(x)

    return modules.flax_module(name, Net(), input_shape=(1, sizes[0]))


def equinox(name, sizes):
    inputs, width, outputs = sizes
    net = eqx.nn.MLP(inputs, outputs, width, 1, activation=jnp.tanh, key=KEY)
    return jax.vmap(modules.eqx_module(name, net))


def plain(name, sizes):
    net = stax.serial(stax.Dense(sizes[1]), stax.Tanh, stax.Dense(sizes[2]))
    return stax_module(name, net, (1, sizes[0]))


AXES = ((0,), (1,))
EXPECTED = {
    linen: {"*/kernel": AXES, "*/bias": None},
    equinox: {"*/weight": ((1,), (0,)), "*/bias": None},
    plain: {"*$params/*/0": AXES, "*$params/*/1": None},
}


@pytest.mark.parametrize("module", list(EXPECTED), ids=lambda module: module.__name__)
def test_variational_autoencoder(module):
    def model(x):
        decode = module("decoder", (LATENT, HIDDEN, DATA))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT]).to_event(1))
            scale = numpyro.param("scale", jnp.ones(()))
            noise = dist.Normal(decode(z), jnp.exp(scale)).to_event(1)
            numpyro.sample("x", noise, obs=x)

    def guide(x):
        encode = module("encoder", (DATA, HIDDEN, 2 * LATENT))
        with numpyro.plate("batch", len(x)):
            mean, scale = jnp.split(encode(x), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(scale)).to_event(1))

    x = normal(4, DATA)

    def init(key):
        svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1), bound)
        return svi.get_params(svi.init(key, x))

    bound = numpyro.infer.Trace_ELBO()
    params = drawn(init, KEY)

    def loss(params, x):
        return bound.loss(KEY, params, model, guide, x)

    layout = layouts.from_function(loss, params, x)
    check_axes(layout, params, EXPECTED[module] | {"scale": None})
    check_loss_falls(lambda p: loss(p, x), params, layout)
