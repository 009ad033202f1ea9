"""Jraph: graph networks, whose kernels see nodes, edges and what is gathered."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from optax_adamp import layouts
from zoo_axes import check_axes, check_loss_falls
from zoo_draw import drawn, integers, normal

jraph = pytest.importorskip("jraph", reason='needs `pip install -e ".[zoo]"`')

EDGES, NODES = 7, 5
DENSE = ((0,), (1,))


def graph():
    return jraph.GraphsTuple(
        nodes=normal(NODES, 3),
        edges=normal(EDGES, 2),
        senders=integers(NODES, EDGES, seed=1),
        receivers=integers(NODES, EDGES, seed=2),
        n_node=jnp.array([2, 3]),
        n_edge=jnp.array([3, 4]),
        globals=normal(2, 4),
    )


def network(graph):
    def update(name):
        def concatenated(*features):
            parts = jax.tree.leaves(features)
            return hk.nets.MLP([6, 4], name=name)(jnp.concatenate(parts, axis=-1))

        return concatenated

    net = jraph.GraphNetwork(update("edge"), update("node"), update("global"))
    return net(graph).globals


def attention(graph):
    def logits(sent, received, edges):
        features = jnp.concatenate([sent, received, edges], axis=-1)
        return jax.nn.leaky_relu(hk.Linear(2, name="logit")(features))

    query = hk.Linear(4, name="query")
    update = hk.Linear(3, name="update")
    net = jraph.GAT(query, lambda *x: jnp.mean(logits(*x), -1, keepdims=True), update)
    return net(graph).nodes


def convolution(graph):
    net = jraph.GraphConvolution(hk.Linear(4, name="update"), add_self_edges=True)
    return net(graph).nodes


@pytest.mark.parametrize("net", [network, attention, convolution])
def test_graphs(net):
    net = hk.without_apply_rng(hk.transform(net))
    params = drawn(net.init, jax.random.key(0), graph())

    def loss(params, graph):
        return jnp.mean((net.apply(params, graph) - 1) ** 2)

    layout = layouts.from_function(loss, params, graph())
    check_axes(layout, params, {"*/w": DENSE, "*/b": None})
    check_loss_falls(lambda p: loss(p, graph()), params, layout)
