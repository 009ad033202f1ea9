"""AdamP and SGDP in float64 NumPy, one parameter and one step at a time.

Written from the paper and `torch.nn.functional.cosine_similarity`, not from the
package: channels are gathered as rows of a matrix and the two views are tried in turn.
"""

import math

import numpy as np


def projection(update, grad, weight, reduction, output, *, delta, wd_ratio, eps):
    """The projected update of one batch element, its decay ratio and its view."""
    order = (*output, *reduction)
    if len(order) != weight.ndim:
        raise ValueError("gather one batch element first")
    channels = math.prod(weight.shape[axis] for axis in output)

    def rows(array):
        return np.transpose(array, order).reshape(channels, -1)

    def restore(matrix):
        shape = [weight.shape[axis] for axis in order]
        return np.transpose(matrix.reshape(shape), np.argsort(order))

    for view, rearrange in (
        ("channel", rows),
        ("layer", lambda array: rows(array).reshape(1, -1)),
    ):
        u, g, w = (rearrange(array) for array in (update, grad, weight))
        cosines = [abs(cosine(g_row, w_row, eps)) for g_row, w_row in zip(g, w)]
        if max(cosines) < delta / math.sqrt(w.shape[1]):
            projected = []
            for u_row, w_row in zip(u, w):
                direction = w_row / (np.linalg.norm(w_row) + eps)
                projected.append(u_row - direction * (direction @ u_row))
            return restore(np.stack(projected)), wd_ratio, view
    return update, 1.0, "none"


def cosine(a, b, eps):
    return (a / max(np.linalg.norm(a), eps)) @ (b / max(np.linalg.norm(b), eps))
