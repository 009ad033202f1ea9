"""Steps on the layers of real libraries, replayed by references in PyTorch's layout.

AdamP trains a layer with real gradients. Each weight and its gradients are then laid
out as PyTorch would have them, channels first, one array per stacked layer, and go
through AdamP again: in float64 NumPy and, where it is installed, in the published
PyTorch package, both of which know but that one layout.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import reference
from optax_adamp import adamp

LEARNING_RATE, WEIGHT_DECAY, WD_RATIO, DELTA, EPS = 0.02, 0.5, 0.2, 0.1, 1e-8
B1, B2 = 0.9, 0.999
STEPS = 3


class History(NamedTuple):
    """Weights before each step and after the last, and the gradients; by path."""

    weights: dict[str, list[np.ndarray]]
    grads: dict[str, list[np.ndarray]]


def train(
    loss_fn: Callable[[Any], jax.Array], params: Any, dimension_numbers: Any
) -> History:
    """A few steps of AdamP with the gradients of a loss."""
    tx = adamp(
        LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        wd_ratio=WD_RATIO,
        delta=DELTA,
        dimension_numbers=dimension_numbers,
    )

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    state, weights, grads = tx.init(params), [params], []
    for _ in range(STEPS):
        params, state, grad = step(params, state)
        weights.append(params)
        grads.append(grad)
    return History(_by_path(weights), _by_path(grads))


def assert_steps_are_those_of_pytorch(
    history: History,
    layouts: dict[str, Callable[[np.ndarray], list[np.ndarray]]],
    views: dict[str, str],
) -> None:
    """Ours agree with the references' on the equivalent PyTorch weights.

    Args:
      history: What our optimizer did.
      layouts: By path, how an array is cut into PyTorch weights, (out, in, *spatial)
        each. All other parameters must be treated as vectors: never projected.
      views: By path, the view that every piece must take at every step, "channel",
        "layer" or "none"; to see that the test is about what it says.
    """
    assert layouts.keys() == views.keys() <= history.weights.keys()
    for path, weights in history.weights.items():
        cut = layouts.get(path, lambda array: [array.reshape(-1)])
        first, *_, last = weights
        pieces = zip(
            cut(first),
            zip(*map(cut, history.grads[path]), strict=True),
            cut(last),
            strict=True,
        )
        for start, grads, end in pieces:
            expected, taken = _replay_numpy(start, grads)
            assert set(taken) == {views.get(path, "none")}, (path, taken)
            np.testing.assert_allclose(end, expected, rtol=2e-5, atol=2e-6)
            if importlib.util.find_spec("torch"):
                expected = _replay_torch(start, grads)
                np.testing.assert_allclose(end, expected, rtol=2e-5, atol=2e-6)


def _by_path(trees: list[Any]) -> dict[str, list[np.ndarray]]:
    def path_of(keys):
        names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        return "/".join(names).removesuffix("/value")

    leaves = [
        {path_of(keys): np.asarray(leaf) for keys, leaf in jax.tree.leaves_with_path(t)}
        for t in trees
    ]
    return {path: [tree[path] for tree in leaves] for path in leaves[0]}


def _replay_numpy(weight, grads):
    """AdamP in float64; arrays with fewer than two axes are not projected."""
    weight, views = np.asarray(weight, np.float64), []
    first = second = np.zeros_like(weight)
    for count, grad in enumerate(np.asarray(grads, np.float64), start=1):
        first = B1 * first + (1 - B1) * grad
        second = B2 * second + (1 - B2) * grad**2
        update = first / (1 - B1**count)
        update = update / (np.sqrt(second / (1 - B2**count)) + EPS)
        ratio, view = 1.0, "none"
        if weight.ndim > 1:
            update, ratio, view = reference.projection(
                update,
                grad,
                weight,
                tuple(range(1, weight.ndim)),
                (0,),
                delta=DELTA,
                wd_ratio=WD_RATIO,
                eps=EPS,
            )
        views.append(view)
        weight = weight - LEARNING_RATE * (update + WEIGHT_DECAY * ratio * weight)
    return weight, views


def _replay_torch(weight, grads):
    import adamp as published
    import torch

    parameter = torch.nn.Parameter(torch.from_numpy(np.array(weight, order="C")))
    optimizer = published.AdamP(
        [parameter],
        lr=LEARNING_RATE,
        betas=(B1, B2),
        eps=EPS,
        weight_decay=WEIGHT_DECAY,
        delta=DELTA,
        wd_ratio=WD_RATIO,
    )
    for grad in grads:
        parameter.grad = torch.from_numpy(np.array(grad, order="C"))
        optimizer.step()
    return parameter.detach().numpy()
