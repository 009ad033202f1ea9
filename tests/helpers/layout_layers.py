"""What the tests of single layers share: arrays, losses and PyTorch's order."""

import jax
import jax.numpy as jnp
import numpy as np

import layout_steps

# How an array becomes PyTorch weights, the output axis first.


def first(array):
    return [array]


def last(array):
    return [np.moveaxis(array, -1, 0)]


def second_to_last(array):
    return [np.moveaxis(array, -2, 0)]


def per_layer(cut, axis=0):
    """The same for each of the layers that are stacked along an axis."""

    def cut_all(array):
        return [piece for layer in np.moveaxis(array, axis, 0) for piece in cut(layer)]

    return cut_all


def draw(*shape, seed=1):
    return jnp.asarray(numbers(*shape, seed=seed))


def numbers(*shape, seed=1):
    """The same, not on a device: for what is made while tests are imported."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def standardize(outputs, channels=(-1,)):
    """Outputs of mean 0 and variance 1, each channel by itself: a batch normalization.

    What feeds it is scale-invariant, by channel.

    Args:
      outputs: What a layer returned for a batch.
      channels: The axes that index the channels, and stacked layers if there are any.
    """
    kept = {axis % outputs.ndim for axis in channels}
    axis = tuple(axis for axis in range(outputs.ndim) if axis not in kept)
    centered = outputs - jnp.mean(outputs, axis, keepdims=True)
    return centered / jnp.sqrt(jnp.mean(centered**2, axis, keepdims=True))


def fit(outputs):
    """A loss of outputs that are normalized already."""
    return jnp.mean(jnp.square(jnp.tanh(outputs) - draw(*outputs.shape, seed=5)))


def assert_layer_steps_as_in_pytorch(
    loss_fn, params, dimension_numbers, cuts, view="channel"
):
    """A layer's kernels are projected as in PyTorch, and nothing else is.

    Args:
      loss_fn: In which the kernels are scale-invariant.
      params: What it is a function of; only their shapes are used.
      dimension_numbers: For the params.
      cuts: How each kernel becomes PyTorch weights, by path.
      view: The view that all kernels take.
    """
    # Biases would start at zero, where a projection has no effect.
    leaves, treedef = jax.tree.flatten(params)
    params = jax.tree.unflatten(
        treedef, [draw(*leaf.shape, seed=seed) for seed, leaf in enumerate(leaves)]
    )

    def loss_of_all(params):
        vectors = [
            leaf
            for path, leaf in jax.tree.leaves_with_path(params)
            if jax.tree_util.keystr(path, simple=True, separator="/") not in cuts
        ]
        return loss_fn(params) + sum(map(_scale_invariant, vectors))

    history = layout_steps.train(loss_of_all, params, dimension_numbers)
    layout_steps.assert_steps_are_those_of_pytorch(
        history, cuts, dict.fromkeys(cuts, view)
    )


def _scale_invariant(vector):
    """A loss by which whatever takes a vector for a kernel would project it."""
    axis = -1 if vector.ndim and vector.shape[-1] > 1 else None
    unit = vector / jnp.sqrt(jnp.sum(vector**2, axis, keepdims=True))
    return fit(unit)
