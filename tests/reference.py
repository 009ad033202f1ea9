"""The projection in float64 NumPy, for one parameter without batch axes.

Written from the paper and the definition of cosine similarity, not from the package:
channels are gathered as rows of a matrix, and the two views are tried in turn.
"""

import math

import numpy as np


def projection(update, grad, weight, reduction, output, *, delta, wd_ratio, eps):
    """The projected update, the ratio of its weight decay, and the view it took."""
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
        if max(abs(cosine(g, w, eps)) for _, g, w in vectors) < delta / length**0.5:
            projected = [u - radial_part(u, w, eps) for u, _, w in vectors]
            return restore(np.stack(projected)), wd_ratio, view
    return update, 1.0, "none"


def cosine(a, b, eps):
    return (a / max(np.linalg.norm(a), eps)) @ (b / max(np.linalg.norm(b), eps))


def radial_part(u, w, eps):
    direction = w / (np.linalg.norm(w) + eps)
    return direction * (direction @ u)
