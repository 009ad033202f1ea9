"""The four optimizers of the demo: two baselines and their projected counterparts."""

from collections.abc import Callable
from typing import NamedTuple

import optax

import optax_adamp

MOMENTUM = 0.9

# The published constants of the cosine test. The demo applies the same test itself, to
# count how often it passes.
DELTA = 0.1
EPS = 1e-8


class Optimizer(NamedTuple):
    """One row of the demo's table."""

    label: str
    family: str  # "Adam" or "SGD": whose learning rate it takes
    baseline: str | None  # What it is compared with; only projected ones have one.
    make: Callable[[optax.Schedule, float], optax.GradientTransformation]


def _adamw(learning_rate: optax.Schedule, weight_decay: float):
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def _adamp(learning_rate: optax.Schedule, weight_decay: float):
    return optax_adamp.adamp(
        learning_rate, weight_decay=weight_decay, delta=DELTA, eps=EPS
    )


def _sgd(learning_rate: optax.Schedule, weight_decay: float):
    # optax.sgd has no weight decay. This is the one of SGDP, so that both mean the same
    # by it: apart from the gradient, and over one minus the momentum.
    return optax.chain(
        optax.trace(MOMENTUM),
        optax.add_decayed_weights(weight_decay / (1 - MOMENTUM)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _sgdp(learning_rate: optax.Schedule, weight_decay: float):
    return optax_adamp.sgdp(
        learning_rate, MOMENTUM, weight_decay=weight_decay, delta=DELTA, eps=EPS
    )


OPTIMIZERS = {
    "adamw": Optimizer("AdamW", "Adam", None, _adamw),
    "adamp": Optimizer("AdamP", "Adam", "adamw", _adamp),
    "sgd": Optimizer("SGD", "SGD", None, _sgd),
    "sgdp": Optimizer("SGDP", "SGD", "sgd", _sgdp),
}
