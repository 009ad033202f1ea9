"""Rules and layouts wherever dimension numbers go, with the steps of plain training.

The network of `training.py` is stored in other orders here, in which the default rule
would find other channels: a rule that is lost shows in the trained params.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
import pytest
from flax import linen as nn
from flax import nnx
from test_wrappers import TRANSPARENT

import training
from optax_adamp import ProjectionDimensionNumbers, layouts, sgdp
from optax_adamp.layouts import Layout

OUTPUT_FIRST = ProjectionDimensionNumbers(reduction_axis=1, output_axis=0)


def transpose(params):
    """Kernels (out, in) to (in, out), and back."""
    return {
        layer: {name: leaf.T for name, leaf in leaves.items()}
        for layer, leaves in params.items()
    }


def stack(params):
    """One layer, stacked along the last axis."""
    return jax.tree.map(lambda leaf: leaf[..., None], params)


def unstack(params):
    return jax.tree.map(lambda leaf: leaf[..., 0], params)


def make_layout():
    def layer(reason, **specs):
        return Layout(specs, dict.fromkeys(specs, reason))

    return Layout(
        {
            "first": layer("Linear", kernel=OUTPUT_FIRST),
            "norm": layer("BatchNorm", scale=None, bias=None),
            "second": layer("Linear", kernel=OUTPUT_FIRST),
            "head": layer("Linear", kernel=OUTPUT_FIRST, bias=None),
        }
    )


class Form(NamedTuple):
    """Dimension numbers, and the order of the params that they are for."""

    dimension_numbers: Any
    store: Callable[[Any], Any] = transpose
    restore: Callable[[Any], Any] = transpose


FORMS = {
    "rule": Form(layouts.output_first),
    "stacked rule": Form(layouts.stacked(layouts.output_last, axis=-1), stack, unstack),
    "layout": Form(make_layout()),
}


def with_forms(*every_day):
    """Some for every day, and the others for the patient."""
    return pytest.mark.parametrize(
        "form",
        [
            pytest.param(
                form, id=name, marks=() if name in every_day else pytest.mark.nightly
            )
            for name, form in FORMS.items()
        ],
    )


def train(tx, form, wrap=lambda params: params, unwrap=lambda params: params, **jit):
    """Trains the network in the order of a form, in containers of another library."""

    def gradient(params, batch):
        return dress(training.gradient(undress(params), batch))

    def dress(params):
        return wrap(form.store(params))

    def undress(params):
        return form.restore(unwrap(params))

    params = dress(training.initial_params())
    return undress(training.train(tx, params, gradient=gradient, **jit))


def make(form):
    return training.make(sgdp, dimension_numbers=form.dimension_numbers)


@pytest.mark.parametrize(
    "store", [transpose, pytest.param(stack, marks=pytest.mark.nightly)]
)
def test_the_default_would_not_do(store):
    form = Form(None, store, {transpose: transpose, stack: unstack}[store])
    trained = train(make(form), form)
    training.assert_kernels_differ(trained, training.plainly_trained(sgdp), ["first"])


@with_forms("layout")
@pytest.mark.parametrize("wrapper", TRANSPARENT)
def test_wrapper(wrapper, form):
    trained = train(TRANSPARENT[wrapper](make(form)), form)

    training.assert_trained_as_plainly(trained, sgdp)


@with_forms("rule", "layout")
def test_inject_hyperparams(form):
    """It calls what is callable as a schedule, and keeps numbers as arrays."""
    arguments = training.settings(sgdp, dimension_numbers=form.dimension_numbers)
    tx = optax.inject_hyperparams(sgdp)(**arguments)

    state = tx.init(form.store(training.initial_params()))

    assert "learning_rate" in state.hyperparams
    assert "dimension_numbers" not in state.hyperparams
    training.assert_trained_as_plainly(train(tx, form), sgdp)


def box(params):
    return jax.tree.map(lambda leaf: nn.Partitioned(leaf, (None,) * leaf.ndim), params)


class Leaves(eqx.Module):
    kernel: Any = None
    scale: Any = None
    bias: Any = None


class Network(eqx.Module):
    """A tree that can be called, as any Equinox model."""

    first: Leaves
    norm: Leaves
    second: Leaves
    head: Leaves

    def __call__(self, inputs):
        return training.predict(to_dict(self), inputs)


def to_module(tree):
    return Network(**{layer: Leaves(**leaves) for layer, leaves in tree.items()})


def to_dict(network):
    layers = {layer: vars(getattr(network, layer)) for layer in training.KERNELS}
    return {
        layer: {name: leaf for name, leaf in leaves.items() if leaf is not None}
        for layer, leaves in layers.items()
    }


CONTAINERS = {"Linen boxes": (box, nn.unbox), "Equinox module": (to_module, to_dict)}


@with_forms("rule", "layout")
@pytest.mark.parametrize("container", CONTAINERS)
def test_container_of_params(container, form):
    trained = train(make(form), form, *CONTAINERS[container])

    training.assert_trained_as_plainly(trained, sgdp)


TREES = {
    "prefix of rules": dict.fromkeys(training.KERNELS, layouts.output_first),
    "rules": jax.tree.map(lambda _: layouts.output_first, training.KERNELS),
    "nested rules": {
        **dict.fromkeys(training.KERNELS, layouts.output_first),
        "first": {"kernel": layouts.output_first},
        "head": {"kernel": OUTPUT_FIRST, "bias": None},
    },
    "layout with a rule": Layout({**make_layout(), "head": layouts.output_first}),
    "module of rules": to_module(
        jax.tree.map(lambda _: layouts.output_first, training.KERNELS)
    ),
    "module of specs": to_module(make_layout()),
    "copied layout": copy.deepcopy(make_layout()),
    "pickled layout": pickle.loads(pickle.dumps(make_layout())),
    "State": nnx.State(make_layout()),
}


@pytest.mark.parametrize("tree", TREES)
def test_tree(tree):
    form = Form(TREES[tree])
    is_module = isinstance(TREES[tree], eqx.Module)
    containers = CONTAINERS["Equinox module"] if is_module else ()

    trained = train(make(form), form, *containers)

    training.assert_trained_as_plainly(trained, sgdp)


class Variables(nnx.Module):
    def __init__(self, params):
        for name, leaf in params.items():
            is_array = isinstance(leaf, jax.Array)
            setattr(self, name, nnx.Param(leaf) if is_array else Variables(leaf))


@with_forms("rule", "layout")
def test_nnx_optimizer(form):
    network = Variables(form.store(training.initial_params()))
    optimizer = nnx.Optimizer(network, make(form), wrt=nnx.Param)

    def params():
        return form.restore(nnx.to_pure_dict(nnx.state(network, nnx.Param)))

    for batch in zip(*training.all_batches(), strict=True):
        grads = Variables(form.store(training.gradient(params(), batch)))
        optimizer.update(network, nnx.state(grads, nnx.Param))

    training.assert_trained_as_plainly(params(), sgdp)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy(make_layout()), pickle.loads(pickle.dumps(make_layout()))],
    ids=["deepcopy", "pickle"],
)
def test_copy_of_a_layout_keeps_its_reasons(copied):
    assert copied == make_layout()
    assert isinstance(copied["head"], Layout)
    assert copied["head"].reasons == {"kernel": "Linear", "bias": "Linear"}


def is_entry(node):
    return node is None or isinstance(node, ProjectionDimensionNumbers)


def test_mapped_layout():
    """A map over the specs makes a layout of new ones, for which no reason is known."""
    mapped = jax.tree.map(
        lambda spec: spec and spec._replace(view="layer"),
        make_layout(),
        is_leaf=is_entry,
    )

    assert isinstance(mapped, Layout)
    assert mapped["first"] == {"kernel": OUTPUT_FIRST._replace(view="layer")}
    assert mapped["norm"] == {"scale": None, "bias": None}
    assert not mapped["first"].reasons
    assert jax.tree.map(lambda spec: spec, make_layout(), is_leaf=is_entry) == (
        make_layout()
    )
