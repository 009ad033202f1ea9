"""A small network to train, its data, and what its training must come to.

The kernel of `first` feeds a batch normalization, so that each of its channels is
scale-invariant, and that of `second` a layer normalization, so that it is as a whole:
the two views of the projection. `head` and `norm` are not scale-invariant. No layer has
a bias that the normalization behind it removes: its gradient would be rounding noise,
which Adam would scale up to whole steps.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_adamp
from nightly import nightly_but

INPUTS, HIDDEN, FEATURES, CLASSES = 5, 8, 6, 3
STEPS, BATCH_SIZE = 8, 16
NORMALIZATION_EPS = 1e-5

# None of the defaults, so that an argument that gets lost shows in the result. The
# large eps keeps Adam from making whole steps of rounding errors.
DELTA, WD_RATIO, EPS = 0.2, 0.3, 1e-3
SETTINGS = {
    optax_adamp.adamp: {"learning_rate": 0.05, "weight_decay": 1.0, "eps": EPS},
    optax_adamp.sgdp: {
        "learning_rate": 0.3,
        "weight_decay": 0.02,
        "eps": EPS,
        "nesterov": True,
    },
}

with_both_optimizers = pytest.mark.parametrize("optimizer", SETTINGS)
# For questions about what is around an optimizer: both have the same projection. SGDP
# takes half as long to compile.
with_adamp_nightly = pytest.mark.parametrize(
    "optimizer", nightly_but([optax_adamp.sgdp], SETTINGS)
)
with_sgdp_nightly = pytest.mark.parametrize(
    "optimizer", nightly_but([optax_adamp.adamp], SETTINGS)
)


def settings(optimizer, **changes):
    """The arguments that the tests share."""
    shared = {"delta": DELTA, "wd_ratio": WD_RATIO}
    return {**shared, **SETTINGS[optimizer], **changes}


def make(optimizer, **changes):
    return optimizer(**settings(optimizer, **changes))


def initial_params(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)

    return {
        "first": {"kernel": draw(INPUTS, HIDDEN)},
        "norm": {"scale": 1 + draw(HIDDEN), "bias": draw(HIDDEN)},
        "second": {"kernel": draw(HIDDEN, FEATURES)},
        "head": {"kernel": draw(FEATURES, CLASSES), "bias": draw(CLASSES)},
    }


def all_batches(steps=STEPS, seed=1):
    """Inputs (steps, batch, inputs) and labels (steps, batch)."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(steps, BATCH_SIZE, INPUTS)).astype(np.float32)
    return inputs, rng.integers(CLASSES, size=(steps, BATCH_SIZE))


def standardize(values, axis):
    centered = values - jnp.mean(values, axis, keepdims=True)
    variance = jnp.mean(centered**2, axis, keepdims=True)
    return centered / jnp.sqrt(variance + NORMALIZATION_EPS)


def predict(params, inputs):
    hidden = standardize(inputs @ params["first"]["kernel"], axis=0)
    hidden = jax.nn.relu(hidden * params["norm"]["scale"] + params["norm"]["bias"])
    features = standardize(hidden @ params["second"]["kernel"], axis=-1)
    return features @ params["head"]["kernel"] + params["head"]["bias"]


def cross_entropy(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


def loss_fn(params, batch):
    inputs, labels = batch
    return cross_entropy(predict(params, inputs), labels)


# Compiled once for all tests: it takes longer than a whole training.
gradient = jax.jit(jax.grad(loss_fn))


def train(tx, params=None, batches=None, gradient=gradient, *, jit=False):
    """Trains in a plain loop, from the initial params unless others are given.

    To compile an update takes longer than all its steps, once the shapes of the network
    are known op by op. Other shapes, and whatever has a `lax.cond`, need `jit`.
    """
    params = initial_params() if params is None else params
    batches = all_batches() if batches is None else batches
    update = jax.jit(tx.update) if jit else tx.update
    state = tx.init(params)
    for batch in zip(*batches, strict=True):
        updates, state = update(gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    return params


@functools.cache
def plainly_trained(optimizer, delta=DELTA):
    return train(make(optimizer, delta=delta))


def assert_close(actual, expected, rtol=2e-5):
    """Equal but for the rounding that compilers differ in, over a whole training."""
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=rtol / 10)


def assert_kernels_differ(actual, other, layers=("first", "second")):
    """Scale-invariant kernels differ by far more than by rounding."""
    for layer in layers:
        a, b = (np.asarray(tree[layer]["kernel"]) for tree in (actual, other))
        assert np.linalg.norm(a - b) > 3e-3 * np.linalg.norm(b)


def assert_trained_as_plainly(actual, optimizer, rtol=2e-5):
    """As in the plain loop on plain arrays; and the projection took place."""
    assert_close(actual, plainly_trained(optimizer), rtol)
    assert_kernels_differ(actual, plainly_trained(optimizer, delta=0.0))


def choose(mask, chosen, otherwise):
    """Where the mask is true the updates of one optimizer, elsewhere of the other."""

    def init(params):
        return chosen.init(params), otherwise.init(params)

    def update(updates, state, params=None):
        one, one_state = chosen.update(updates, state[0], params)
        other, other_state = otherwise.update(updates, state[1], params)
        updates = jax.tree.map(lambda m, a, b: a if m else b, mask, one, other)
        return updates, (one_state, other_state)

    return optax.GradientTransformation(init, update)


FIRST_ONLY = {
    "first": {"kernel": True},
    "norm": {"scale": False, "bias": False},
    "second": {"kernel": False},
    "head": {"kernel": False, "bias": False},
}


def is_first(path, leaf):
    """`FIRST_ONLY` for `jax.tree.map_with_path` over any tree with these names."""
    return "first" in jax.tree_util.keystr(path)


KERNEL = optax_adamp.ProjectionDimensionNumbers(reduction_axis=0, output_axis=1)
SPEC_OF_FIRST = {**dict.fromkeys(FIRST_ONLY), "first": {"kernel": KERNEL}}


def spec_of_first(path, leaf):
    """`SPEC_OF_FIRST` for `jax.tree.map_with_path`."""
    return KERNEL if is_first(path, leaf) else None


# A mask and specs that leave out all but the first kernel, in forms for any framework.
DESCRIPTIONS_OF_FIRST = {
    "dict": (FIRST_ONLY, SPEC_OF_FIRST),
    "dict as prefix": (
        {**dict.fromkeys(FIRST_ONLY, False), "first": True},
        {**dict.fromkeys(FIRST_ONLY), "first": KERNEL},
    ),
    "function": (
        lambda params: jax.tree.map_with_path(is_first, params),
        lambda params: jax.tree.map_with_path(spec_of_first, params),
    ),
}


def assert_only_first_described(train, mask, specs):
    """Under the mask only the first kernel decays, and with the specs it projects.

    Args:
      train: Trains with a transformation, and returns plain params.
      mask: Of the decay.
      specs: The dimension numbers.
    """
    masked = train(make(optax_adamp.sgdp, mask=mask))
    described = train(make(optax_adamp.sgdp, dimension_numbers=specs))

    usual = plainly_trained(optax_adamp.sgdp)
    assert_close(masked, train_first_only(optax_adamp.sgdp, weight_decay=0.0))
    assert_kernels_differ(masked, usual, ["second"])
    assert_close(described, train_first_only(optax_adamp.sgdp, delta=0.0))
    assert_kernels_differ(described, usual, ["second"])


@functools.cache
def train_first_only(optimizer, **otherwise):
    """Plain training in which all but the first kernel get other arguments."""
    return train(choose(FIRST_ONLY, make(optimizer), make(optimizer, **otherwise)))


KERNELS = {
    "first": {"kernel": True},
    "norm": {"scale": False, "bias": False},
    "second": {"kernel": True},
    "head": {"kernel": True, "bias": False},
}
KERNEL_MASKS = {
    "tree": KERNELS,
    "prefix": {**KERNELS, "first": True, "norm": False, "second": True},
    "function": lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params),
}
