"""Masks and dimension numbers in all their forms, in training."""

import collections
import functools

import jax
import numpy as np
import optax
import pytest

import training
from optax_adamp import ProjectionDimensionNumbers, adamp, layouts
from training import with_adamp_nightly

MASKED = {
    "first": {"kernel": True},
    "norm": {"scale": False, "bias": False},
    "second": {"kernel": False},
    "head": {"kernel": True, "bias": False},
}
MASKS = {
    "tree": MASKED,
    "prefix": {**MASKED, "first": True, "norm": False, "second": False},
    "function to a tree": lambda params: jax.tree.map(
        lambda decays, leaf: decays and leaf.ndim > 1, MASKED, params
    ),
    "function to a prefix": lambda params: {**MASKED, "norm": False},
}


@functools.cache
def masked_by_hand(optimizer, **changes):
    return training.train(
        training.choose(
            MASKED,
            training.make(optimizer, **changes),
            training.make(optimizer, **changes, weight_decay=0.0),
        )
    )


@with_adamp_nightly
@pytest.mark.parametrize("form", MASKS)
def test_mask_of_the_decay(form, optimizer):
    """It takes away decay and leaves the projection as it is."""
    trained = training.train(training.make(optimizer, mask=MASKS[form]))

    training.assert_close(trained, masked_by_hand(optimizer))
    training.assert_kernels_differ(trained, training.plainly_trained(optimizer))
    training.assert_kernels_differ(trained, masked_by_hand(optimizer, delta=0.0))


@with_adamp_nightly
def test_mask_without_a_tree(optimizer):
    everything = training.train(training.make(optimizer, mask=True))
    nothing = training.train(training.make(optimizer, mask=lambda params: False))

    training.assert_trained_as_plainly(everything, optimizer)
    undecayed = training.train(training.make(optimizer, weight_decay=0.0))
    training.assert_close(nothing, undecayed)
    training.assert_kernels_differ(nothing, everything)


def transpose(params):
    """Kernels to the layout (out, in) and back, which shows lost dimension numbers."""
    return jax.tree.map(lambda leaf: leaf.T, params)


@jax.jit
def gradient_of_transposed(params, batch):
    return transpose(training.gradient(transpose(params), batch))


def train_transposed(tx):
    params = transpose(training.initial_params())
    return transpose(training.train(tx, params, gradient=gradient_of_transposed))


OUTPUT_FIRST = ProjectionDimensionNumbers(reduction_axis=1, output_axis=0)
SPEC_TREE = {
    "first": {"kernel": OUTPUT_FIRST},
    "norm": {"scale": None, "bias": None},
    "second": {"kernel": OUTPUT_FIRST},
    "head": {"kernel": OUTPUT_FIRST, "bias": None},
}
DIMENSION_NUMBERS = {
    "one spec": OUTPUT_FIRST,
    "negative axes": ProjectionDimensionNumbers((-1,), (-2,)),
    "Muon's": optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0),
    "tree": SPEC_TREE,
    "tree of Muon's": jax.tree.map(
        lambda spec: optax.contrib.MuonDimensionNumbers(*spec[:2]),
        SPEC_TREE,
        is_leaf=lambda node: isinstance(node, ProjectionDimensionNumbers),
    ),
    "prefix": {layer: OUTPUT_FIRST for layer in SPEC_TREE},
    "prefix with None": {**SPEC_TREE, "norm": None, "head": OUTPUT_FIRST},
    "function to one spec": lambda params: OUTPUT_FIRST,
    "function to a tree": lambda params: jax.tree.map(
        lambda leaf: OUTPUT_FIRST if leaf.ndim > 1 else None, params
    ),
}


@with_adamp_nightly
@pytest.mark.parametrize("form", DIMENSION_NUMBERS)
def test_form_of_dimension_numbers(form, optimizer):
    tx = training.make(optimizer, dimension_numbers=DIMENSION_NUMBERS[form])

    training.assert_trained_as_plainly(train_transposed(tx), optimizer)


@with_adamp_nightly
@pytest.mark.parametrize("form", DIMENSION_NUMBERS)
def test_form_of_dimension_numbers_under_masked(form, optimizer):
    """The optimizer then sees `optax.MaskedNode` for what others train."""
    tx = training.make(optimizer, dimension_numbers=DIMENSION_NUMBERS[form])
    others = {"first": True, "norm": False, "second": True, "head": False}
    split = optax.chain(
        optax.masked(tx, others),
        optax.masked(tx, jax.tree.map(lambda trains: not trains, others)),
    )

    training.assert_trained_as_plainly(train_transposed(split), optimizer)


@with_adamp_nightly
def test_none_among_dimension_numbers(optimizer):
    """What has no axes is not projected and decays in full."""
    trained = train_transposed(
        training.make(
            optimizer, dimension_numbers={**SPEC_TREE, "second": None, "head": None}
        )
    )

    expected = training.train_first_only(optimizer, delta=0.0)
    training.assert_close(trained, expected)
    training.assert_kernels_differ(trained, training.plainly_trained(optimizer))


NAMES = {
    ("first", "kernel"): "first",
    ("norm", "scale"): "scale",
    ("norm", "bias"): "bias",
    ("second", "kernel"): "second",
    ("head", "kernel"): "head",
    ("head", "bias"): "shift",
}


@functools.cache  # Another class would be another tree, and be compiled anew.
def fields_of(renamed):
    names = ["value" if name == renamed else name for name in NAMES.values()]
    return collections.namedtuple("Fields", names)


@pytest.mark.parametrize("form", ["one spec", "dict", "named tuple"])
@pytest.mark.parametrize("renamed", ["second", "scale"])
def test_field_with_the_name_of_a_box(renamed, form):
    """A field `value`, as attention may have, beside others is no box of Flax."""
    fields = fields_of(renamed)

    def flatten(params):
        return fields._make(params[layer][name] for layer, name in NAMES)

    def unflatten(params):
        plain = {layer: {} for layer, _ in NAMES}
        for (layer, name), leaf in zip(NAMES, params, strict=True):
            plain[layer][name] = leaf
        return plain

    def gradient(params, batch):
        return flatten(gradient_of_transposed(unflatten(params), batch))

    specs = {
        "one spec": OUTPUT_FIRST,
        "dict": flatten(SPEC_TREE)._asdict(),
        "named tuple": flatten(SPEC_TREE),
    }
    params = flatten(transpose(training.initial_params()))
    tx = training.make(adamp, dimension_numbers=specs[form])

    trained = training.train(tx, params, gradient=gradient)

    training.assert_trained_as_plainly(transpose(unflatten(trained)), adamp)


def wrapped(name, *inside):
    """A function that puts an array under a name and what stands inside of it."""

    def wrap(array):
        for key in reversed((name, *inside)):
            array = {key: array}
        return array

    return wrap


# A norm of stacked layers in the trees of libraries, with its bias or scale.
UNPROJECTED = {
    "joined by a slash": wrapped("layers/norm/scale"),
    "joined by a dot": wrapped("layers.0.norm.bias"),
    "tuple as a key": wrapped(("layers", "norm", "scale")),
    "Keras's path": wrapped("model/layer_normalization/gamma"),
    "Haliax": wrapped("bias", "0"),
    "Penzai": wrapped("bias", "data_array"),
    "a list": lambda array: {"bias": [array]},
}
LAYOUTS = {
    "default": None,
    "output_first": layouts.output_first,
    "stacked": layouts.stacked(layouts.output_last),
    "one spec": ProjectionDimensionNumbers((0, 1), 2),
}


KERNELS = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("f4")


def step(layout, params, wrap=lambda tx: tx):
    """One whose gradient is orthogonal to all channels, so that kernels decay less."""
    tx = wrap(
        adamp(1.0, weight_decay=0.5, wd_ratio=0, dimension_numbers=LAYOUTS[layout])
    )
    gradient = jax.tree.map(np.zeros_like, params)
    return tx.update(gradient, tx.init(params), params)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", UNPROJECTED)
def test_joined_or_wrapped_biases_and_scales_step_as_without_projection(form, layout):
    """They decay in full, which kernels do not."""
    updates = step(layout, UNPROJECTED[form](KERNELS))
    training.assert_close(updates, UNPROJECTED[form](-0.5 * KERNELS))


@pytest.mark.parametrize("name", ["kernel", "scale_factor", "Scale"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_in_these_layouts_are_projected(name, layout):
    """Those with names that are almost those of others, too."""
    assert not np.any(step(layout, {name: KERNELS})[name])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_biases_of_complex_numbers_step_as_without_projection(layout):
    params = {"bias": KERNELS + 1j, "kernel": KERNELS + 1j}

    updates = step(layout, params, wrap=optax.contrib.split_real_and_imaginary)

    training.assert_close(updates["bias"], -0.5 * params["bias"])
    assert not np.any(updates["kernel"])
