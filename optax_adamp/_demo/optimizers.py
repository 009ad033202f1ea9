"""The four optimizers of the demo: two baselines and their projected counterparts."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import optax

import optax_adamp

MOMENTUM = 0.9

# Half a power of ten apart. Chosen, like the network and the length of the training, on
# validation images and with other seeds than the demo's; there SGD had no rate of 1.
ADAM_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SGD_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


class Optimizer(NamedTuple):
    """One line of the demo's picture."""

    label: str
    rates: tuple[float, ...]  # The learning rates it is tried with.
    baseline: str | None  # What it is compared with; only projected ones have one.
    make: Callable[[optax.Schedule], optax.GradientTransformation]


# Without weight decay, which holds norms as well, and of which AdamP and SGDP apply a
# tenth to what they project: the comparison would be one of decays.
OPTIMIZERS = {
    "adamw": Optimizer(
        "AdamW", ADAM_RATES, None, functools.partial(optax.adamw, weight_decay=0)
    ),
    "adamp": Optimizer("AdamP", ADAM_RATES, "adamw", optax_adamp.adamp),
    "sgd": Optimizer(
        "SGD", SGD_RATES, None, functools.partial(optax.sgd, momentum=MOMENTUM)
    ),
    "sgdp": Optimizer(
        "SGDP", SGD_RATES, "sgd", functools.partial(optax_adamp.sgdp, momentum=MOMENTUM)
    ),
}
