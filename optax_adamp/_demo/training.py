"""Training of several seeds at once: one `vmap` around a plain Flax NNX step."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optax_adamp._demo.data import Data
from optax_adamp._demo.measures import (
    Shares,
    effective_step,
    kernel_norms,
    views_of_step,
)
from optax_adamp._demo.model import Perceptron

BATCH_SIZE = 64
TIMED_EPOCHS = 10


class State(NamedTuple):
    """What a step changes; the first axis of each array indexes the seeds."""

    params: Any
    batch_stats: Any
    opt_state: Any


class Observation(NamedTuple):
    """What is seen of an epoch: its end, or the mean over its steps."""

    accuracy: Any
    kernel_norms: Any
    effective_step: Any
    views: dict[str, Shares]


class History(NamedTuple):
    """The training of one optimizer, as NumPy arrays."""

    accuracy: np.ndarray  # (epochs, seeds), from 0 to 1
    norm_growth: np.ndarray  # (1 + epochs, seeds), relative to the start
    effective_step: np.ndarray  # (epochs, seeds)
    views: dict[str, Shares]  # means over all steps and seeds


class Start(NamedTuple):
    """Where every optimizer starts from: the same weights, and the same batches."""

    graphdef: Any
    params: Any
    batch_stats: Any
    batch_keys: jax.Array  # (seeds,)


def start(data: Data, seeds: int) -> Start:
    """Initializes one network per seed."""

    def init(seed: jax.Array) -> tuple[Any, ...]:
        init_key, batch_key = jax.random.split(jax.random.key(seed))
        model = Perceptron(data.train_images.shape[1], rngs=nnx.Rngs(init_key))
        return *nnx.split(model, nnx.Param, nnx.BatchStat), batch_key

    return Start(*jax.vmap(init)(jnp.arange(seeds)))


def steps_per_epoch(data: Data) -> int:
    """Whole batches only: the rest of an epoch's images wait for the next one."""
    return len(data.train_images) // BATCH_SIZE


def train(
    tx: optax.GradientTransformation,
    start: Start,
    data: Data,
    epochs: Iterable[int],
) -> History:
    """Trains all seeds, and looks at them after each of the `epochs`."""
    step = _make_step(tx, start.graphdef, data)

    def epoch(state: State, key: jax.Array) -> tuple[State, Observation]:
        def observed_step(before: State, batch: jax.Array):
            after, grads = step(before, batch)
            moved = effective_step(before.params, after.params)
            return after, (moved, views_of_step(before.params, grads))

        state, per_step = jax.lax.scan(observed_step, state, _batches(data, key))
        moved, views = jax.tree.map(jnp.mean, per_step)
        model = nnx.merge(start.graphdef, state.params, state.batch_stats)
        predictions = jnp.argmax(model(data.test_images, train=False), axis=-1)
        accuracy = jnp.mean(predictions == data.test_labels)
        return state, Observation(accuracy, kernel_norms(state.params), moved, views)

    run_epoch: Callable[..., tuple[State, Observation]] = jax.jit(jax.vmap(epoch))
    state = _initial_state(tx, start)
    observations: list[Observation] = []
    for index in epochs:
        state, observation = run_epoch(state, _epoch_keys(start, index))
        # Waits for the device, so that a progress bar over the epochs tells the truth.
        observations.append(jax.device_get(observation))
    return _history(jax.vmap(kernel_norms)(start.params), observations)


def time_steps(
    optimizers: dict[str, optax.GradientTransformation],
    start: Start,
    data: Data,
    rounds: Iterable[int],
) -> dict[str, float]:
    """Seconds that one training step of all seeds takes, with nothing measured in it.

    In each round every optimizer trains for one epoch, so that a busy moment of the
    machine hits all alike. The median counts.
    """

    def make_epoch(tx: optax.GradientTransformation) -> Callable[[], State]:
        step = _make_step(tx, start.graphdef, data)

        def epoch(state: State, key: jax.Array) -> State:
            def bare_step(state: State, batch: jax.Array):
                return step(state, batch)[0], None

            return jax.lax.scan(bare_step, state, _batches(data, key))[0]

        arguments = _initial_state(tx, start), _epoch_keys(start, 0)
        compiled = jax.jit(jax.vmap(epoch)).lower(*arguments).compile()

        def run() -> State:
            return jax.block_until_ready(compiled(*arguments))

        return run

    epochs = {name: make_epoch(tx) for name, tx in optimizers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in rounds:
        for name, run in epochs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: statistics.median(values) / steps_per_epoch(data)
        for name, values in seconds.items()
    }


def _make_step(tx: optax.GradientTransformation, graphdef: Any, data: Data):
    """One training step of one seed, on the images with the given indices."""

    def loss_fn(
        params: Any, batch_stats: Any, batch: jax.Array
    ) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        logits = model(jnp.asarray(data.train_images)[batch], train=True)
        labels = jnp.asarray(data.train_labels)[batch]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, nnx.state(model, nnx.BatchStat)

    gradient: Callable[..., tuple[Any, Any]] = jax.grad(loss_fn, has_aux=True)

    def step(state: State, batch: jax.Array) -> tuple[State, Any]:
        grads, batch_stats = gradient(state.params, state.batch_stats, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, batch_stats, opt_state), grads

    return step


def _initial_state(tx: optax.GradientTransformation, start: Start) -> State:
    opt_state = jax.vmap(tx.init)(start.params)
    return State(start.params, start.batch_stats, opt_state)


def _epoch_keys(start: Start, epoch: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(start.batch_keys, epoch)


def _batches(data: Data, key: jax.Array) -> jax.Array:
    """The indices of an epoch's images, shuffled, of shape (steps, batch size)."""
    steps = steps_per_epoch(data)
    shuffled = jax.random.permutation(key, len(data.train_images))
    return shuffled[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE)


def _history(initial_norms: jax.Array, observations: list[Observation]) -> History:
    def over_all(share: np.ndarray) -> float:
        return float(np.mean(share))

    epochs = jax.tree.map(lambda *leaves: np.stack(leaves), *observations)
    start_norms = np.asarray(initial_norms)[None]
    norms = np.concatenate([start_norms, epochs.kernel_norms])
    return History(
        accuracy=epochs.accuracy,
        norm_growth=np.mean(norms / start_norms, axis=-1),
        effective_step=epochs.effective_step,
        views=jax.tree.map(over_all, epochs.views),
    )
