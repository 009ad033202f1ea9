"""Flax NNX: paths of `init` and `update` differ, and trees are `nnx.State`."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import training
from optax_adamp import ProjectionDimensionNumbers, layouts, sgdp
from training import (
    DESCRIPTIONS_OF_FIRST,
    FIRST_ONLY,
    KERNEL,
    SPEC_OF_FIRST,
    is_first,
    spec_of_first,
    with_adamp_nightly,
)

SIZES = training.INPUTS, training.HIDDEN, training.FEATURES, training.CLASSES


class Network(nnx.Module):
    def __init__(self, rngs):
        inputs, hidden, features, classes = SIZES
        epsilon = training.NORMALIZATION_EPS
        # Nothing is drawn: the params come from elsewhere.
        linear = functools.partial(
            nnx.Linear, kernel_init=nnx.initializers.zeros, rngs=rngs
        )
        self.first = linear(inputs, hidden, use_bias=False)
        self.norm = nnx.BatchNorm(hidden, epsilon=epsilon, rngs=rngs)
        self.second = linear(hidden, features, use_bias=False)
        self.standardize = nnx.LayerNorm(
            features, epsilon=epsilon, use_bias=False, use_scale=False, rngs=rngs
        )
        self.head = linear(features, classes)

    def __call__(self, inputs):
        hidden = jax.nn.relu(self.norm(self.first(inputs)))
        return self.head(self.standardize(self.second(hidden)))


def network_with(params):
    network = Network(nnx.Rngs(0))
    nnx.update(network, nnx.State(params))
    return network


def params_of(network):
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def loss_fn(network, batch):
    inputs, labels = batch
    return training.cross_entropy(network(inputs), labels)


gradient = nnx.jit(nnx.grad(loss_fn))


def train(tx, network=None, gradient=gradient, wrt=nnx.Param):
    """Trains as the documentation of Flax does, with a jitted gradient only."""
    network = network or network_with(training.initial_params())
    optimizer = nnx.Optimizer(network, tx, wrt=wrt)
    for batch in zip(*training.all_batches(), strict=True):
        optimizer.update(network, gradient(network, batch))
    return params_of(network)


def label_kernels(params):
    return jax.tree.map(lambda leaf: "kernel" if leaf.ndim > 1 else "other", params)


WRAPPERS = {
    "nothing": lambda tx: tx,
    "partition": lambda tx: optax.partition({"kernel": tx, "other": tx}, label_kernels),
}


@with_adamp_nightly
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_optimizer(wrapper, optimizer):
    trained = train(WRAPPERS[wrapper](training.make(optimizer)))

    training.assert_trained_as_plainly(trained, optimizer)


def test_jitted_step():
    network = network_with(training.initial_params())
    tx = optax.MultiSteps(training.make(sgdp), 1)
    state = nnx.Optimizer(network, tx, wrt=nnx.Param)

    @nnx.jit
    def step(network, state, batch):
        state.update(network, nnx.grad(loss_fn)(network, batch))

    for batch in zip(*training.all_batches(), strict=True):
        step(network, state, batch)

    training.assert_trained_as_plainly(params_of(network), sgdp)


def state_like_params(function):
    """An `nnx.State` of boxes, as `jax.tree.map` over the params makes it."""
    network = nnx.eval_shape(lambda: network_with(training.initial_params()))
    return jax.tree.map_with_path(function, nnx.state(network, nnx.Param))


DESCRIPTIONS = {
    **DESCRIPTIONS_OF_FIRST,
    "State of boxes": (
        state_like_params(is_first),
        state_like_params(spec_of_first),
    ),
    "State of values": (nnx.State(FIRST_ONLY), nnx.State(SPEC_OF_FIRST)),
}


@pytest.mark.parametrize("form", DESCRIPTIONS)
def test_mask_and_dimension_numbers(form):
    """A description by names fits, boxed or not."""
    training.assert_only_first_described(train, *DESCRIPTIONS[form])


def test_the_layout_of_the_whole_model_for_a_part_of_it():
    """The error names the way to the layout of the part, which then trains it."""
    head = nnx.All(nnx.Param, nnx.PathContains("head"))
    network = network_with(training.initial_params())
    batch = jax.tree.map(lambda array: array[0], training.all_batches())
    grads = nnx.filter_state(gradient(network, batch), head)

    def update(layout):
        tx = training.make(sgdp, dimension_numbers=layout)
        nnx.Optimizer(network, tx, wrt=head).update(network, grads)

    with pytest.raises(
        ValueError, match=r"layouts\.from_nnx\(model, wrt=\.\.\.\) with"
    ):
        update(layouts.from_nnx(network))
    elsewhere = layouts.stacked(layouts.output_last, where="second/*")
    with pytest.raises(
        ValueError, match=r"layouts\.from_nnx\(model, wrt=\.\.\.\) with"
    ):
        update(elsewhere)

    before = params_of(network)
    update(layouts.from_nnx(network, wrt=head))
    after = params_of(network)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert changed == {
        name: dict.fromkeys(leaves, name == "head") for name, leaves in before.items()
    }


def test_filter_of_kernels():
    """With kernels alone, every leaf of the tree of specs is a box around a spec."""
    kernels = nnx.All(nnx.Param, nnx.PathContains("kernel"))
    state = nnx.state(network_with(training.initial_params()), kernels)
    specs = jax.tree.map(lambda leaf: KERNEL, state)

    trained = train(
        training.make(sgdp, dimension_numbers=specs),
        gradient=nnx.jit(nnx.grad(loss_fn, argnums=nnx.DiffState(0, kernels))),
        wrt=kernels,
    )

    def train_plainly(**changes):
        frozen = jax.tree.map(lambda leaf: leaf.ndim < 2, training.initial_params())
        return training.train(
            training.choose(frozen, optax.set_to_zero(), training.make(sgdp, **changes))
        )

    training.assert_close(trained, train_plainly())
    training.assert_kernels_differ(trained, train_plainly(delta=0.0))


class Blocks(nnx.Module):
    """The same network with its layers in a list."""

    def __init__(self, network):
        self.layers = nnx.List([network.first, network.second, network.head])
        self.norm = network.norm
        self.standardize = network.standardize

    def __call__(self, inputs):
        first, second, head = self.layers
        hidden = jax.nn.relu(self.norm(first(inputs)))
        return head(self.standardize(second(hidden)))


@pytest.mark.parametrize("as_container", [list, lambda specs: dict(enumerate(specs))])
def test_layers_in_a_list(as_container):
    specs = {"layers": as_container([KERNEL, None, None]), "norm": None}

    trained = train(
        training.make(sgdp, dimension_numbers=specs),
        Blocks(network_with(training.initial_params())),
    )

    first, second, head = (trained["layers"][index] for index in range(3))
    training.assert_close(
        {"first": first, "norm": trained["norm"], "second": second, "head": head},
        training.train_first_only(sgdp, delta=0.0),
    )


def test_stacked_networks_in_a_functional_loop():
    """Here params and gradients are boxes in `update` too, also of stacked vectors."""
    seeds = range(2)
    graphdef, _, statistics = nnx.split(
        network_with(training.initial_params()), nnx.Param, ...
    )
    params = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(
            nnx.state(network_with(training.initial_params(seed)), nnx.Param)
            for seed in seeds
        ),
    )

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            return loss_fn(nnx.merge(graphdef, params, statistics, copy=True), batch)

        return jax.vmap(jax.grad(loss))(params)

    tx = training.make(sgdp, dimension_numbers=ProjectionDimensionNumbers(-2, -1))
    trained = jax.device_get(training.train(tx, params, gradient=gradient, jit=True))

    for seed in seeds:
        network = jax.tree.map(lambda leaf, seed=seed: leaf[seed], trained)
        alone = training.train(training.make(sgdp), training.initial_params(seed))
        training.assert_close(nnx.to_pure_dict(network), alone)
    first_network = jax.tree.map(lambda leaf: leaf[0], trained)
    training.assert_trained_as_plainly(nnx.to_pure_dict(first_network), sgdp)
