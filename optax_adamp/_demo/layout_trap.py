"""The wrong-layout trap: the same gradients, tested along right and wrong axes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_adamp import adamp, measure
from optax_adamp._demo.layout_networks import (
    LEARNING_RATE,
    Network,
    axis_0,
    from_modules,
    init,
    train,
)
from optax_adamp._trees import format_path, named_leaves

STEPS = 300


class Shares(NamedTuple):
    """How often a parameter is projected in each view, from 0 to 1."""

    channel: Any
    layer: Any

    @property
    def none(self) -> Any:
        return 1 - self.channel - self.layer


class Leaf(NamedTuple):
    """What the test says of one parameter, and what it should say."""

    path: str
    shape: tuple[int, ...]
    from_modules: Shares
    axis_0: Shares
    known: str  # "channel", "layer" or "none".


# The fields of `Leaf` that hold shares, and what they are called.
COMPARED = {"from_modules": "axes from modules", "axis_0": "axis 0"}


def compare(network: Network) -> list[Leaf]:
    """Asks at every step of a training which parameters the test would project.

    Returns:
      All parameters with two or more axes: the others are projected in no layout.
    """
    layouts = from_modules(network), axis_0(network)
    tx = adamp(LEARNING_RATE, dimension_numbers=layouts[0])
    shapes = _shapes(init(network)["params"])

    def observe(grads: Any, params: Any, updates: Any) -> list[dict[str, Any]]:
        del updates
        return [_projected(grads, params, layout, shapes) for layout in layouts]

    observed = train(network, tx, observe, STEPS)

    def over_steps(share: jax.Array) -> float:
        return float(jnp.mean(share))

    right, naive = jax.tree.map(over_steps, observed)
    return [
        Leaf(
            path=path,
            shape=shape,
            from_modules=right[path],
            axis_0=naive[path],
            known=network.invariant.get(path, "none"),
        )
        for path, shape in shapes.items()
        if len(shape) > 1
    ]


def _projected(
    grads: Any, params: Any, dimension_numbers: Any, paths: Any
) -> dict[str, Shares]:
    """The share of batch elements that each view projects, by path."""
    scalars = measure(grads, params, dimension_numbers=dimension_numbers).scalars()
    # What is never projected has no such figures.
    return {
        path: Shares(
            channel=scalars.get(f"{path}/channel_projected", jnp.zeros(())),
            layer=scalars.get(f"{path}/layer_projected", jnp.zeros(())),
        )
        for path in paths
    }


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {format_path(names): leaf.shape for names, leaf in named_leaves(params)}


def mean_shares(leaves: list[Leaf], field: str) -> Shares:
    """The shares of all parameters and steps, under one of `COMPARED`."""
    shares = [getattr(leaf, field) for leaf in leaves]
    return Shares(*np.mean(shares, axis=0))


def known_shares(leaves: list[Leaf]) -> Shares:
    """The shares of parameters that are scale-invariant by construction."""
    known = [leaf.known for leaf in leaves]
    channel, layer = (known.count(view) / len(known) for view in ("channel", "layer"))
    return Shares(channel, layer)


def table(name: str, leaves: list[Leaf]) -> str:
    """One row a parameter, and one for all of them: percent of the steps."""
    width = max(len(leaf.path) for leaf in leaves) + 2
    columns = f"{'channel':>9}{'layer':>6}{'none':>5}"
    rows = [
        f"{name:{width + 14}}"
        + "".join(f"{title + ', %':>20}" for title in COMPARED.values()),
        f"{'parameter':{width}}{'shape':14}{columns * len(COMPARED)}  invariant",
    ]
    rows += [
        f"{leaf.path:{width}}{leaf.shape!s:14}"
        + "".join(_cells(getattr(leaf, field)) for field in COMPARED)
        + f"  {leaf.known}"
        for leaf in leaves
    ]
    rows.append(
        f"{'all':{width + 14}}"
        + "".join(_cells(mean_shares(leaves, field)) for field in COMPARED)
    )
    return "\n".join(rows)


def _cells(shares: Shares) -> str:
    percent = [abs(100 * share) for share in (*shares, shares.none)]
    return "{:9.0f}{:6.0f}{:5.0f}".format(*percent)
