"""Training with several rates and seeds at once: `vmap` around a plain NNX step."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optax_adamp._demo.data import Data, Split
from optax_adamp._demo.model import ConvNet, scale_invariant_kernels

BATCH_SIZE = 32


class State(NamedTuple):
    """What a step changes; its arrays begin with the axes (rates, seeds)."""

    params: Any
    batch_stats: Any
    opt_state: Any


class Score(NamedTuple):
    """How well the images of one split are told, of shape (rates, seeds)."""

    accuracy: Any  # from 0 to 1
    loss: Any  # the mean negative log-likelihood


class History(NamedTuple):
    """The training with one optimizer, as NumPy arrays."""

    validation: Score
    test: Score
    norm_growth: np.ndarray  # (1 + epochs, rates, seeds), relative to the start
    effective_step: np.ndarray  # (epochs, rates, seeds), means over an epoch's steps


class Start(NamedTuple):
    """Where every optimizer starts from: the same weights, and the same batches."""

    graphdef: Any
    params: Any
    batch_stats: Any
    batch_keys: jax.Array  # (seeds,)


def start(seeds: Iterable[int]) -> Start:
    """Initializes one network per seed."""

    def init(seed: jax.Array) -> tuple[Any, ...]:
        init_key, batch_key = jax.random.split(jax.random.key(seed))
        model = ConvNet(rngs=nnx.Rngs(init_key))
        return *nnx.split(model, nnx.Param, nnx.BatchStat), batch_key

    return Start(*jax.jit(jax.vmap(init))(jnp.array([*seeds])))


def steps_per_epoch(data: Data) -> int:
    """Whole batches only: the rest of an epoch's images wait for the next one."""
    return len(data.train.labels) // BATCH_SIZE


def train(
    make: Callable[[jax.Array], optax.GradientTransformation],
    rates: Iterable[float],
    start: Start,
    data: Data,
    epochs: Iterable[int],
) -> History:
    """Trains from all seeds with all learning rates, as one program.

    Args:
      make: An optimizer from its learning rate, which is traced.
      rates: The learning rates.
      start: The networks.
      data: The images.
      epochs: Numbers of epochs; the first of them includes the compilation.
    """
    graphdef, params, batch_stats, batch_keys = start

    def loss_fn(
        params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        logits = model(images, train=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return loss.mean(), nnx.state(model, nnx.BatchStat)

    gradient: Callable[..., tuple[Any, Any]] = jax.grad(loss_fn, has_aux=True)

    def epoch(state: State, rate: jax.Array, key: jax.Array) -> tuple[State, Any]:
        tx = make(rate)

        def step(before: State, indices: jax.Array):
            params, batch_stats, opt_state = before
            images = jnp.asarray(data.train.images)[indices]
            labels = jnp.asarray(data.train.labels)[indices]
            grads, batch_stats = gradient(params, batch_stats, images, labels)
            updates, opt_state = tx.update(grads, opt_state, params)
            after = optax.apply_updates(params, updates)
            return State(after, batch_stats, opt_state), effective_step(params, after)

        state, moved = jax.lax.scan(step, state, _batches(data, key))
        return state, (kernel_norms(state.params), jnp.mean(moved))

    def begin(rate: jax.Array, params: Any, batch_stats: Any) -> State:
        return State(params, batch_stats, make(rate).init(params))

    # The seeds are the inner axis: all rates then share the batches of a seed.
    over_seeds = jax.vmap(begin, in_axes=(None, 0, 0))
    begin_all = jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None)))
    every_rate = jnp.array([*rates])
    state: State = begin_all(every_rate, params, batch_stats)
    over_seeds = jax.vmap(epoch, in_axes=(0, None, 0))
    run_epoch: Callable[..., tuple[State, Any]] = jax.jit(
        jax.vmap(over_seeds, in_axes=(0, 0, None))
    )
    start_norms = np.asarray(jax.vmap(jax.vmap(kernel_norms))(state.params))
    norms: list[np.ndarray] = [start_norms]
    steps: list[np.ndarray] = []
    for index in epochs:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(batch_keys, index)
        state, observed = run_epoch(state, every_rate, keys)
        # Waits for the device, so that a progress bar over the epochs tells the truth.
        norm, moved = jax.device_get(observed)
        norms.append(norm)
        steps.append(moved)
    networks = state.params, state.batch_stats
    return History(
        validation=jax.device_get(_score(graphdef, networks, data.validation)),
        test=jax.device_get(_score(graphdef, networks, data.test)),
        norm_growth=np.mean(np.stack(norms) / start_norms, axis=-1),
        effective_step=np.stack(steps),
    )


def kernel_norms(params: Any) -> jax.Array:
    """The norm of each scale-invariant kernel of one network."""
    norms: list[jax.Array] = [
        jnp.linalg.norm(kernel) for kernel in scale_invariant_kernels(params)
    ]
    return jnp.stack(norms)


def effective_step(before: Any, after: Any) -> jax.Array:
    """How far a step moved the directions of the weights, all that the loss sees.

    The distance between the unit vectors of a channel before and after, averaged over
    channels and then over the scale-invariant kernels.
    """

    def directions(kernel: jax.Array) -> jax.Array:
        return kernel / jnp.linalg.norm(kernel, axis=0)

    distances: list[jax.Array] = [
        jnp.linalg.norm(directions(new) - directions(old), axis=0)
        for old, new in zip(
            scale_invariant_kernels(before), scale_invariant_kernels(after), strict=True
        )
    ]
    return jnp.mean(jnp.stack([jnp.mean(distance) for distance in distances]))


def _batches(data: Data, key: jax.Array) -> jax.Array:
    """The indices of an epoch's images, shuffled, of shape (steps, batch size)."""
    steps = steps_per_epoch(data)
    shuffled = jax.random.permutation(key, len(data.train.labels))
    return shuffled[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE)


@functools.partial(jax.jit, static_argnums=0)  # Compiled once for all optimizers.
def _score(graphdef: Any, networks: tuple[Any, Any], split: Split) -> Score:
    def of_one(params: Any, batch_stats: Any) -> Score:
        model = nnx.merge(graphdef, params, batch_stats)
        logits = model(jnp.asarray(split.images), train=False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)
        right = jnp.argmax(logits, axis=-1) == split.labels
        return Score(jnp.mean(right), jnp.mean(loss))

    def of_a_rate(networks: tuple[Any, Any]) -> Score:
        return jax.vmap(of_one)(*networks)

    return jax.lax.map(of_a_rate, networks)  # Rate by rate, to spare memory.
