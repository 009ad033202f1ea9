"""What `measure` shows of a training, under right and wrong axes."""

from typing import Any

import numpy as np

from optax_adamp import measure
from optax_adamp._demo.layout_networks import Network, axis_0, from_modules, train

STEPS = 300
METRICS = {
    "channel_cosine": "largest channel cosine / threshold",
    "weight_norm": "norm of the weight",
    "channel_step": "effective step of its channels",
}
LAYOUTS = {"axes from modules": from_modules, "axis 0": axis_0}


def curves(network: Network, path: str) -> dict[str, dict[str, np.ndarray]]:
    """The metrics of one parameter at every step, as who trains would see them.

    Args:
      network: The network.
      path: The parameter.

    Returns:
      For each of `LAYOUTS`, with which the network is both trained and measured, and
      each of `METRICS`, an array of shape (steps,).
    """

    def observed(dimension_numbers: Any) -> dict[str, np.ndarray]:
        def observe(grads: Any, params: Any, updates: Any) -> dict[str, Any]:
            scalars = measure(
                grads, params, updates=updates, dimension_numbers=dimension_numbers
            ).scalars()
            return {metric: scalars[f"{path}/{metric}"] for metric in METRICS}

        values = train(network, dimension_numbers, observe, STEPS)
        return {metric: np.asarray(values[metric]) for metric in METRICS}

    return {title: observed(layout(network)) for title, layout in LAYOUTS.items()}
