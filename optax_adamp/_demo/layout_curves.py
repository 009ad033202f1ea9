"""What `measure` shows of a training that is healthy, and of others that are not."""

from typing import Any

import numpy as np
import optax

from optax_adamp import adamp, measure
from optax_adamp._demo.layout_networks import (
    LEARNING_RATE,
    Network,
    axis_0,
    from_modules,
    train,
)

STEPS = 300
METRICS = {
    "channel_cosine": "largest channel cosine / threshold",
    "weight_norm": "norm of the weight",
    "channel_step": "effective step of its channels",
}


def curves(network: Network, path: str) -> dict[str, dict[str, np.ndarray]]:
    """The metrics of one parameter at every step, as who trains would see them.

    Args:
      network: The network.
      path: The parameter.

    Returns:
      For each optimizer, and each of `METRICS`, an array of shape (steps,).
    """

    def observed(
        tx: optax.GradientTransformation, dimension_numbers: Any
    ) -> dict[str, np.ndarray]:
        def observe(grads: Any, params: Any, updates: Any) -> dict[str, Any]:
            scalars = measure(
                grads, params, updates=updates, dimension_numbers=dimension_numbers
            ).scalars()
            return {metric: scalars[f"{path}/{metric}"] for metric in METRICS}

        values = train(network, tx, observe, STEPS)
        return {metric: np.asarray(values[metric]) for metric in METRICS}

    def by_adamp(dimension_numbers: Any) -> dict[str, np.ndarray]:
        tx = adamp(LEARNING_RATE, dimension_numbers=dimension_numbers)
        return observed(tx, dimension_numbers)

    right, wrong = from_modules(network), axis_0(network)
    return {
        "AdamP, axes from modules": by_adamp(right),
        "AdamP, axis 0": by_adamp(wrong),
        "AdamW": observed(optax.adamw(LEARNING_RATE, weight_decay=0.0), right),
    }
