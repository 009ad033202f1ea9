"""The four optimizers of the demo: two baselines and their projected counterparts."""

from collections.abc import Callable
from typing import NamedTuple

import optax

import optax_adamp

MOMENTUM = 0.9

# A step apart is half a power of ten. Chosen, like the network and the length of the
# training, with other seeds than the demo's and on validation images.
ADAM_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SGD_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


class Optimizer(NamedTuple):
    """One line of the demo's picture."""

    label: str
    rates: tuple[float, ...]  # The learning rates it is tried with.
    baseline: str | None  # What it is compared with; only projected ones have one.
    make: Callable[[optax.Schedule, float], optax.GradientTransformation]


def _adamw(learning_rate: optax.Schedule, weight_decay: float):
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def _adamp(learning_rate: optax.Schedule, weight_decay: float):
    return optax_adamp.adamp(learning_rate, weight_decay=weight_decay)


def _sgd(learning_rate: optax.Schedule, weight_decay: float):
    # optax.sgd has no weight decay. This is the one of SGDP, so that both mean the same
    # by it: apart from the gradient, and over one minus the momentum.
    return optax.chain(
        optax.trace(MOMENTUM),
        optax.add_decayed_weights(weight_decay / (1 - MOMENTUM)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _sgdp(learning_rate: optax.Schedule, weight_decay: float):
    return optax_adamp.sgdp(learning_rate, MOMENTUM, weight_decay=weight_decay)


OPTIMIZERS = {
    "adamw": Optimizer("AdamW", ADAM_RATES, None, _adamw),
    "adamp": Optimizer("AdamP", ADAM_RATES, "adamw", _adamp),
    "sgd": Optimizer("SGD", SGD_RATES, None, _sgd),
    "sgdp": Optimizer("SGDP", SGD_RATES, "sgd", _sgdp),
}
