"""Parameters cut along any of their axes, and the steps that they take in one piece.

Each gradient leads to a known outcome, but only to who sees whole vectors and knows
their length: it is nearly orthogonal to the weight in no part of a channel, one channel
decides for all, and no cosine is far from its threshold.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import optax_adamp
from optax_adamp import ProjectionDimensionNumbers as Spec

STEPS = 5
DELTA = 0.1
SETTINGS = {
    optax_adamp.adamp: {"learning_rate": 0.03, "weight_decay": 0.5},
    optax_adamp.sgdp: {"learning_rate": 0.03, "weight_decay": 0.05, "nesterov": True},
}
TOLERANCE = {"atol": 2e-6, "rtol": 0}  # On weights of order one, after all steps.

OUTCOMES = ("channel", "layer", "none")


class Leaf(NamedTuple):
    """A parameter; the axes that its spec leaves out are batch axes."""

    shape: tuple[int, ...]
    spec: Spec | None
    outcome: str  # Of a stack: that of the first element; the others come in turn.


LEAVES = {
    "dense to channel": Leaf((16, 8), Spec(0, 1), "channel"),
    "dense to layer": Leaf((16, 8), Spec(0, 1), "layer"),
    "dense to none": Leaf((16, 8), Spec(0, 1), "none"),
    "convolution": Leaf((2, 1, 8, 8), Spec((0, 1, 2), 3), "layer"),
    "query": Leaf((8, 8, 2), Spec(0, (1, 2)), "channel"),
    "stack": Leaf((8, 8, 8), Spec(1, 2), "none"),
    "channels always": Leaf((16, 8), Spec(0, 1, "channel"), "none"),
    "layer always": Leaf((16, 8), Spec(0, 1, "layer"), "none"),
    "bias": Leaf((8,), None, "none"),
}
# The parts of these differ in size: the specs stand in `UNEVEN_SPECS`.
UNEVEN = {
    "both": Leaf((10, 5), Spec(0, 1), "channel"),
    "output": Leaf((4, 11), Spec(0, 1), "layer"),
    "stack": Leaf((6, 4, 5), Spec(1, 2), "channel"),
}
UNEVEN_AT_NIGHT = {
    **UNEVEN,
    "both turned": Leaf((9, 7), Spec(0, 1), "layer"),
    "reduction": Leaf((13, 7), Spec(0, 1), "none"),
}
TREES = {"even": LEAVES, "uneven": UNEVEN, "uneven at night": UNEVEN_AT_NIGHT}
UNEVEN_SPECS = {
    "both": P("x", "y"),
    "both turned": P("y", "x"),
    "output": P(None, ("x", "y")),
    "reduction": P(("y", "x")),
    "stack": P("x", None, "y"),
}
# How each leaf is cut. Of each there are as many copies as ways to cut it.
MESHES = {
    # Few, for every day. The elements of the stack have all outcomes.
    (8,): {
        "convolution": [P(None, None, "x")],
        "query": [P()],
        "stack": [P("x"), P(None, "x"), P(None, None, "x")],
        "channels": [P("x")],
        "layer": [P(None, "x")],
        "bias": [P("x")],
    },
    (4, 2): {
        "dense": [P("x", "y"), P("y", "x"), P(("x", "y")), P(None, ("y", "x"))],
        "convolution": [P("y", None, None, "x"), P(None, None, "x", "y")],
        "query": [P("x", "y"), P(None, "x", "y")],
        "stack": [P("x", None, "y"), P("y", "x"), P(None, "x", "y"), P(("x", "y"))],
        "channels": [P(None, "y")],
        "layer": [P("y", "x")],
        "bias": [P("y")],
    },
    (2, 2, 2): {
        "dense": [P(("x", "y"), "z"), P("x", ("z", "y")), P(("z", "x", "y"))],
        "convolution": [P("x", None, "y", "z")],
        "query": [P("x", "y", "z")],
        "stack": [P("x", "y", "z"), P(("x", "z"), None, "y"), P(None, None, "z")],
        "channels": [P("x", "y")],
        "layer": [P(("x", "z"))],
        "bias": [P(("x", "y"))],
    },
}


def make_mesh(shape, axis_type=AxisType.Auto, names=("x", "y", "z")):
    types = (axis_type,) * len(shape)
    return jax.make_mesh(shape, names[: len(shape)], axis_types=types)


def partition_specs(mesh_shape, names=LEAVES):
    """A tree with a spec for each copy of a leaf."""
    return {f"{name} {spec}": spec for name, spec in _cuts(mesh_shape, names)}


def copies(tree, mesh_shape):
    """From a tree like `LEAVES`, or some of it, to one like `partition_specs`."""
    return {f"{name} {spec}": tree[name] for name, spec in _cuts(mesh_shape, tree)}


def _cuts(mesh_shape, names):
    specs = MESHES[mesh_shape]
    return [(name, spec) for name in names for spec in specs.get(name.split()[0], [])]


def dimension_numbers(leaves=LEAVES):
    return {name: leaf.spec for name, leaf in leaves.items()}


def make_optimizer(optimizer, dimension_numbers, **arguments):
    return optimizer(
        **SETTINGS[optimizer],
        delta=DELTA,
        dimension_numbers=dimension_numbers,
        **arguments,
    )


def make_step(tx):
    """A compiled step: new params, new state, updates."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, updates

    return step


class Run(NamedTuple):
    """A training in one piece: trees of NumPy arrays for each step."""

    params: list[dict]  # Before the first step, after it, and so on.
    grads: list[dict]


def whole(optimizer, tree="even", only=None):
    """Trains on one device, with gradients that lead each leaf to its outcome.

    Args:
      optimizer: AdamP or SGDP.
      tree: A name in `TREES`.
      only: The name of the leaf that is wanted; all, if None.
    """
    return _whole(optimizer, tree, only)


@functools.cache  # It would take a default for another call.
def _whole(optimizer, tree, only):
    leaves = TREES[tree] if only is None else {only: TREES[tree][only]}
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        for name, leaf in leaves.items()
    }
    tx = make_optimizer(optimizer, dimension_numbers(leaves))
    step, state = make_step(tx), tx.init(params)
    run = Run([to_numpy(params)], [])
    for _ in range(STEPS):
        grads = {
            name: draw_gradient(rng, run.params[-1][name], *leaf[1:])
            for name, leaf in leaves.items()
        }
        params, state, _ = step(params, state, grads)
        run.params.append(to_numpy(params))
        run.grads.append(grads)
    return run


def draw_gradient(rng, weight, spec, outcome):
    """A gradient whose cosines are a fifth below or a fourth above the thresholds."""
    noise = rng.normal(size=weight.shape)
    if spec is None:
        return noise.astype(np.float32)
    g, w = (to_vectors(array, spec) for array in (noise, weight.astype(np.float64)))
    g -= w * np.sum(g * w, axis=-1, keepdims=True) / np.sum(w * w, -1, keepdims=True)
    for element in range(len(g)):
        products = radial_products(g[element], w[element], outcome_of(outcome, element))
        g[element] += (
            w[element] * (products / np.sum(w[element] ** 2, axis=-1))[:, None]
        )
    return from_vectors(g, weight.shape, spec).astype(np.float32)


def radial_products(g, w, outcome):
    """What the inner product of each channel must be, given that it is zero."""
    channels, length = w.shape
    of_channel = np.linalg.norm(g, axis=-1) * np.linalg.norm(w, axis=-1)
    of_channel *= DELTA / np.sqrt(length)
    of_layer = np.linalg.norm(g) * np.linalg.norm(w) * DELTA / np.sqrt(w.size)
    if outcome == "channel":
        return 0.8 * of_channel
    products = np.zeros(channels)
    if outcome == "layer":
        products[0] = 1.25 * of_channel[0]
        products[1:] = (0.8 * of_layer - products[0]) / (channels - 1)
    else:
        products[0] = 1.25 * of_layer
    return products


def outcome_of(first, element):
    """The outcome of an element of a stack."""
    return OUTCOMES[(OUTCOMES.index(first) + element) % len(OUTCOMES)]


def to_vectors(array, spec):
    """The axes of an array as three: batch elements, channels, weights of a channel."""
    batch, output, reduction = _axes(array.ndim, spec)
    sizes = [np.prod([array.shape[axis] for axis in axes]) for axes in (batch, output)]
    ordered = np.transpose(array, (*batch, *output, *reduction))
    return ordered.reshape(*map(int, sizes), -1)


def from_vectors(vectors, shape, spec):
    batch, output, reduction = _axes(len(shape), spec)
    order = (*batch, *output, *reduction)
    ordered = vectors.reshape([shape[axis] for axis in order])
    return np.transpose(ordered, np.argsort(order))


def _axes(ndim, spec):
    reduction, output = (
        np.atleast_1d(spec.reduction_axis),
        np.atleast_1d(spec.output_axis),
    )
    batch = [axis for axis in range(ndim) if axis not in (*reduction, *output)]
    return batch, output, reduction


def to_numpy(tree):
    return jax.tree.map(np.asarray, tree)
