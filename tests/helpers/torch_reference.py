"""The published PyTorch package over the trajectories of `parity_cases`."""

from typing import Any

import numpy as np
import pytest

from parity_cases import (
    DEFAULTS,
    LEARNING_RATE,
    OUTCOMES,
    PROJECTED,
    STEPS,
    Family,
    Problem,
    cast,
    gradient,
)
from parity_runs import Run

_REASON = 'needs torch and adamp: pip install -e ".[parity]"'
torch = pytest.importorskip("torch", reason=_REASON)
adamp = pytest.importorskip("adamp", reason=_REASON)


class _Recorded:
    """Notes what the reference decides, and keeps its momentum from being projected.

    Without Nesterov, SGDP hands its momentum buffer to the projection, which works in
    place: the next momentum then builds on the projected one. The algorithm as
    published keeps the momentum as it is, and so do we, hence the projection gets a
    copy. It makes no difference to the other optimizers, whose update is a temporary.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.outcomes: list[str] = []
        self.closest_call = np.inf

    def _projection(self, p, grad, perturb, delta, wd_ratio, eps):
        self._tests = []
        perturb, ratio = super()._projection(
            p, grad, perturb.clone(), delta, wd_ratio, eps
        )
        view = "none" if ratio == 1 else ("channel", "layer")[len(self._tests) - 1]
        self.outcomes.append(view if grad.any() else "zero")
        calls = [abs(test / delta - 1) for test in self._tests]
        self.closest_call = min(self.closest_call, *calls)
        return perturb, ratio

    def _cosine_similarity(self, x, y, eps, view_func):
        cosines = super()._cosine_similarity(x, y, eps, view_func)
        # In units in which the threshold is delta.
        self._tests.append(cosines.max().item() * view_func(x).size(1) ** 0.5)
        return cosines


class _AdamP(_Recorded, adamp.AdamP):
    pass


class _SGDP(_Recorded, adamp.SGDP):
    pass


def run_reference(
    family: Family, hyperparameters: dict[str, Any], problem: Problem, dtype: str
) -> Run:
    """Trains a copy of the parameters for each configuration.

    Args:
      family: The optimizer.
      hyperparameters: For each one an array with a value per configuration, or one
        plain number each. Those left out take the defaults of the package.
      problem: Initial weights and plans.
      dtype: The dtype of weights and arithmetic.

    Returns:
      The weights after every step, and how they came about.
    """
    hyperparameters = {
        name: np.atleast_1d(values) for name, values in hyperparameters.items()
    }
    count = len(next(iter(hyperparameters.values())))
    problem = cast(problem, dtype)
    # One array per parameter holds the copies of all configurations. Torch trains its
    # slices, one parameter group per configuration; numpy finds all gradients at once.
    weights = {
        name: _to_torch(np.stack([weight] * count))
        for name, weight in problem.weights.items()
    }
    grads = {name: np.zeros_like(weight) for name, weight in weights.items()}
    optimizer = _make_optimizer(family, hyperparameters, weights, grads)

    test = cast(
        {
            name: hyperparameters.get(name, np.full(count, default))
            for name, default in DEFAULTS.items()
        },
        dtype,
    )
    trajectories = {name: [] for name in weights}
    for t in range(STEPS):
        for name, plan in problem.plans.items():
            plan = plan._make(x[t] for x in plan)
            grads[name][...] = _to_torch(
                gradient(_to_jax(weights[name]), plan, xp=np, **test)
            )
        optimizer.step()
        for name, weight in weights.items():
            trajectories[name].append(_to_jax(weight).copy())

    outcomes = np.reshape(optimizer.outcomes, (STEPS, count, len(PROJECTED)))
    return Run(
        weights={name: np.stack(w, axis=1) for name, w in trajectories.items()},
        counts=np.stack([np.sum(outcomes == o, axis=(0, 1)) for o in OUTCOMES], -1),
        closest_call=optimizer.closest_call,
    )


def _make_optimizer(family, hyperparameters, weights, grads):
    def parameter(name, index):
        p = torch.from_numpy(weights[name])[index]
        p.grad = torch.from_numpy(grads[name])[index]
        return p

    def group(index):
        settings = {name: x[index].item() for name, x in hyperparameters.items()}
        if "b1" in settings:
            settings["betas"] = (settings.pop("b1"), settings.pop("b2"))
        return {"params": [parameter(name, index) for name in weights], **settings}

    count = len(next(iter(hyperparameters.values())))
    return {"adamp": _AdamP, "sgdp": _SGDP}[family.algorithm](
        [group(index) for index in range(count)],
        lr=LEARNING_RATE,
        nesterov=family.nesterov,
    )


def _to_torch(weights: np.ndarray) -> np.ndarray:
    """From (copies, *spatial, in, out) to (copies, out, in, *spatial)."""
    if weights.ndim < 3:
        return weights
    copies, *spatial, n_in, n_out = range(weights.ndim)
    return np.ascontiguousarray(weights.transpose(copies, n_out, n_in, *spatial))


def _to_jax(weights: np.ndarray) -> np.ndarray:
    """From (copies, out, in, *spatial) to (copies, *spatial, in, out), a view."""
    if weights.ndim < 3:
        return weights
    copies, n_out, n_in, *spatial = range(weights.ndim)
    return weights.transpose(copies, *spatial, n_in, n_out)
