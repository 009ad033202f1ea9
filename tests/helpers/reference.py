"""The algorithm in float64 NumPy, for one parameter.

Written from the paper and the definition of cosine similarity, not from the package:
channels are gathered as rows of a matrix, and the two views are tried in turn.
"""

import math

import numpy as np


def projection(update, grad, weight, reduction, output, *, delta, wd_ratio, eps):
    """The projected update, the ratio of its weight decay, and the view it took.

    For one batch element: every axis is a reduction or an output axis.
    """
    order = (*output, *reduction)
    channels = math.prod(weight.shape[axis] for axis in output)

    def rows(array):
        return np.transpose(array, order).reshape(channels, -1)

    def restore(matrix):
        gathered = matrix.reshape([weight.shape[axis] for axis in order])
        return np.transpose(gathered, np.argsort(order))

    for view, gather in (
        ("channel", rows),
        ("layer", lambda array: rows(array).reshape(1, -1)),
    ):
        vectors = list(zip(*map(gather, (update, grad, weight)), strict=True))
        length = vectors[0][0].size
        # Each by itself: the maximum of numbers with a NaN among them need not be NaN.
        if all(abs(cosine(g, w, eps)) < delta / length**0.5 for _, g, w in vectors):
            projected = [u - radial_part(u, w, eps) for u, _, w in vectors]
            return restore(np.stack(projected)), wd_ratio, view
    return update, 1.0, "none"


def decayed_projection(
    update, grad, weight, reduction, output, *, weight_decay, **hyperparameters
):
    """The update with its decay, and the views of the batch elements in their order."""
    batch = [axis for axis in range(weight.ndim) if axis not in (*reduction, *output)]
    # Where the axes of one batch element lie once the batch axes are gone.
    kept = [axis for axis in range(weight.ndim) if axis not in batch]
    axes = [tuple(kept.index(axis) for axis in group) for group in (reduction, output)]

    def move(array):
        return np.moveaxis(array, batch, range(len(batch)))

    result, views = np.empty(weight.shape), []
    for index in np.ndindex(*(weight.shape[axis] for axis in batch)):
        arrays = [move(array)[index] for array in (update, grad, weight)]
        projected, ratio, view = projection(*arrays, *axes, **hyperparameters)
        move(result)[index] = projected + weight_decay * ratio * arrays[2]
        views.append(view)
    return result, views


def adamp(weight, gradient, steps, project, *, lr, b1, b2, eps, nesterov):
    """The weights after each step of AdamP.

    Args:
      weight: The weight before the first step.
      gradient: From the number of a step, from 0, and the weight to the gradient.
      steps: The number of steps.
      project: From update, gradient and weight to the projected update with its decay.
      lr, b1, b2, eps, nesterov: As in the paper and its code.
    """
    first = second = np.zeros_like(weight)
    weights = []
    for step in range(steps):
        grad = gradient(step, weight)
        first = b1 * first + (1 - b1) * grad
        second = b2 * second + (1 - b2) * grad**2
        momentum = b1 * first + (1 - b1) * grad if nesterov else first
        update = momentum / (1 - b1 ** (step + 1))
        update = update / (np.sqrt(second / (1 - b2 ** (step + 1))) + eps)
        weight = weight - lr * project(update, grad, weight)
        weights.append(weight)
    return weights


def sgdp(weight, gradient, steps, project, *, lr, momentum, dampening, nesterov):
    """The weights after each step of SGDP; the decay in `project` is the paper's wd.

    For the other arguments see `adamp`.
    """
    buffer = np.zeros_like(weight)
    weights = []
    for step in range(steps):
        grad = gradient(step, weight)
        buffer = momentum * buffer + (1 - dampening) * grad
        update = grad + momentum * buffer if nesterov else buffer
        weight = weight - lr * project(update, grad, weight)
        weights.append(weight)
    return weights


def cosine(a, b, eps):
    return (a / max(np.linalg.norm(a), eps)) @ (b / max(np.linalg.norm(b), eps))


def radial_part(u, w, eps):
    direction = w / (np.linalg.norm(w) + eps)
    return direction * (direction @ u)
