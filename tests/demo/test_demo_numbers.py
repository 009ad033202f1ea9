"""The data, network, optimizers and training of the demo, on a small scale."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from flax import nnx
from sklearn.model_selection import train_test_split

import optax_adamp
from optax_adamp._demo import data, measures, model, optimizers, training
from optax_adamp._demo.measures import Shares
from optax_adamp._demo.training import Observation
from trees import shapes_of

PIXELS, SEEDS = 5, 2
DECAY = 0.1


def arrays_of(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_all_close(actual, expected):
    for a, b in zip(arrays_of(actual), arrays_of(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# The images


def test_a_quarter_of_the_digits_is_held_out():
    pixels, digits = sklearn.datasets.load_digits(return_X_y=True)
    train_pixels, test_pixels, train_digits, test_digits = train_test_split(
        pixels, digits, test_size=450, stratify=digits, random_state=0
    )
    loaded = data.load()

    np.testing.assert_array_equal(16 * loaded.train_images, train_pixels)
    np.testing.assert_array_equal(16 * loaded.test_images, test_pixels)
    np.testing.assert_array_equal(loaded.train_labels, train_digits)
    np.testing.assert_array_equal(loaded.test_labels, test_digits)
    dtypes = [array.dtype for array in loaded]
    assert dtypes == [np.float32, np.int32, np.float32, np.int32]


# The network


def test_parameters_of_the_perceptron():
    perceptron = model.Perceptron(64, rngs=nnx.Rngs(0))

    assert shapes_of(nnx.state(perceptron, nnx.Param)) == {
        "blocks/0/linear/kernel": (64, 128),
        "blocks/0/norm/bias": (128,),
        "blocks/0/norm/scale": (128,),
        "blocks/1/linear/kernel": (128, 128),
        "blocks/1/norm/bias": (128,),
        "blocks/1/norm/scale": (128,),
        "blocks/2/linear/kernel": (128, 128),
        "blocks/2/norm/bias": (128,),
        "blocks/2/norm/scale": (128,),
        "head/bias": (10,),
        "head/kernel": (128, 10),
    }


def test_the_perceptron_is_what_numpy_says(small):
    rng = np.random.default_rng(1)
    network = model.Perceptron(PIXELS, rngs=nnx.Rngs(0))
    params, stats = nnx.state(network, nnx.Param), nnx.state(network, nnx.BatchStat)
    # Also where scales, biases, means and variances start at zero or one.
    moved = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.5, x.shape), (params, stats))
    nnx.update(network, *moved)
    images = rng.normal(size=(6, PIXELS))

    def forward(x, normalized):
        for block in network.blocks:
            x = x @ np.asarray(block.linear.kernel[...])
            x = normalized(x, block.norm) * np.asarray(block.norm.scale[...])
            x = np.maximum(x + np.asarray(block.norm.bias[...]), 0)
        return x @ np.asarray(network.head.kernel[...]) + network.head.bias[...]

    def by_running_average(x, norm):
        return (x - norm.mean[...]) / np.sqrt(norm.var[...] + norm.epsilon)

    means = []

    def by_batch(x, norm):
        means.append(0.9 * norm.mean[...] + 0.1 * x.mean(axis=0))
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + norm.epsilon)

    expected = forward(images, by_running_average)
    assert_all_close(network(jnp.asarray(images), train=False), expected)
    expected = forward(images, by_batch)
    assert_all_close(network(jnp.asarray(images), train=True), expected)
    assert_all_close([block.norm.mean[...] for block in network.blocks], means)


# The measures


def params_with(*kernels):
    blocks = {
        index: {"linear": {"kernel": jnp.asarray(kernel)}, "norm": {"scale": 7.0}}
        for index, kernel in enumerate(kernels)
    }
    return {"blocks": blocks, "head": {"kernel": jnp.full((2, 2), 9.0)}}


def test_norms_are_those_of_the_kernels_in_the_blocks():
    params = params_with([[3.0, 0.0], [0.0, 4.0]], [[2.0, 2.0, 2.0], [2.0, 0.0, 0.0]])

    np.testing.assert_allclose(measures.kernel_norms(params), [5, 4], rtol=1e-6)


def test_an_effective_step_is_a_distance_of_unit_vectors():
    # Of two columns one turns back, one by a right angle; of three two do, one grows.
    before = params_with([[3.0, 0.0], [0.0, 2.0]], [[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]])
    after = params_with([[-1.0, 8.0], [0.0, 0.0]], [[4.0, 2.0, 5.0], [0.0, 0.0, -5.0]])
    first, second = (2 + math.sqrt(2)) / 2, (0 + 2 * math.sqrt(2)) / 3

    step = measures.effective_step(before, after)
    assert step.shape == ()
    assert step == pytest.approx((first + second) / 2, rel=1e-6)


def test_views_of_what_is_projected_channel_by_channel_as_a_layer_or_never():
    params = {name: jnp.ones((2, 2)) for name in ("channel", "layer", "none")}
    grads = {
        "channel": jnp.array([[1.0, 2.0], [-1.0, -2.0]]),
        "layer": jnp.array([[1.0, -1.0], [1.0, -1.0]]),
        "none": jnp.ones((2, 2)),
    }
    params["bias"] = grads["bias"] = jnp.ones(2)

    assert measures.views_of_step(params, grads) == {
        "channel": Shares(True, False),
        "layer": Shares(False, True),
        "none": Shares(False, False),
    }


@pytest.mark.parametrize(("constant", "value"), [("DELTA", 100.0), ("EPS", 1e6)])
def test_views_follow_the_constants_of_the_optimizers(monkeypatch, constant, value):
    weight = {"kernel": jnp.ones((2, 2))}
    assert not measures.views_of_step(weight, weight)["kernel"].channel

    monkeypatch.setattr(measures, constant, value)
    assert measures.views_of_step(weight, weight)["kernel"].channel


# The optimizers


def rate(count):
    return 0.1 / (1 + count)


def stepped(tx, params, grads):
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_labels_families_and_baselines():
    rows = {name: row[:3] for name, row in optimizers.OPTIMIZERS.items()}
    assert rows == {
        "adamw": ("AdamW", "Adam", None),
        "adamp": ("AdamP", "Adam", "adamw"),
        "sgd": ("SGD", "SGD", None),
        "sgdp": ("SGDP", "SGD", "sgd"),
    }


def test_adamw_is_that_of_optax():
    params, grads = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.25])
    tx = optimizers.OPTIMIZERS["adamw"].make(rate, DECAY)
    optaxs = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=DECAY)

    assert_all_close(stepped(tx, params, grads), stepped(optaxs, params, grads))


def test_sgd_with_momentum_and_a_decay_over_one_minus_the_momentum():
    params, grads = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    tx = optimizers.OPTIMIZERS["sgd"].make(rate, DECAY)
    actual = stepped(tx, jnp.asarray(params), jnp.asarray(grads))

    momentum = 0.0
    for count in range(3):
        momentum = 0.9 * momentum + grads
        params = params - rate(count) * (momentum + 10 * DECAY * params)
    assert_all_close(actual, params)


@pytest.mark.parametrize(("name", "settings"), [("adamp", ()), ("sgdp", (0.9,))])
def test_projected_optimizers_have_the_published_constants(monkeypatch, name, settings):
    # The defaults are the same today: what counts is what the demo asks for.
    monkeypatch.setattr(optax_adamp, name, lambda *args, **kwargs: (args, kwargs))
    args, kwargs = optimizers.OPTIMIZERS[name].make(rate, DECAY)

    assert args == (rate, *settings)
    assert kwargs == {"weight_decay": DECAY, "delta": 0.1, "eps": 1e-8}


# The training


@pytest.fixture
def small(monkeypatch):
    """Fourteen images, of which an epoch has three batches of four; few parameters."""
    monkeypatch.setattr(model, "WIDTH", 4)
    monkeypatch.setattr(model, "DEPTH", 2)
    monkeypatch.setattr(model, "CLASSES", 3)
    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    rng = np.random.default_rng(0)

    def images(count):
        return rng.uniform(size=(count, PIXELS)).astype(np.float32)

    def labels(count):
        return np.arange(count, dtype=np.int32) % 3

    return data.Data(images(14), labels(14), images(8), labels(8))


def small_tx():
    # Its steps are long enough to turn kernels, and depend on params, state and time.
    schedule = optax.cosine_decay_schedule(0.5, decay_steps=20)
    return optax_adamp.sgdp(schedule, 0.9, weight_decay=DECAY)


class ByHand:
    """Trains the network of one seed, a step at a time."""

    def __init__(self, digits, seed):
        self.digits = digits
        init_key, self.batch_key = jax.random.split(jax.random.key(seed))
        self.model = model.Perceptron(PIXELS, rngs=nnx.Rngs(init_key))
        self.optimizer = nnx.Optimizer(self.model, small_tx(), wrt=nnx.Param)

    @property
    def params(self):
        return jax.tree.map(jnp.copy, nnx.state(self.model, nnx.Param))

    @property
    def batch_stats(self):
        return nnx.state(self.model, nnx.BatchStat)

    def epoch(self, number):
        """Trains; gives the means over its steps: effective steps, and views."""
        key = jax.random.fold_in(self.batch_key, number)
        order = np.asarray(jax.random.permutation(key, 14))
        return jax.tree.map(
            lambda *values: np.mean(values), *map(self.step, np.split(order[:12], 3))
        )

    def step(self, batch):
        images, labels = self.digits.train_images, self.digits.train_labels
        before = self.params
        grads = _gradient(self.model, images[batch], labels[batch])
        self.optimizer.update(self.model, grads)
        moved = measures.effective_step(before, self.params)
        return moved, measures.views_of_step(before, grads)

    def accuracy(self):
        logits = self.model(jnp.asarray(self.digits.test_images), train=False)
        return np.mean(np.argmax(logits, axis=1) == self.digits.test_labels)


@nnx.jit
def _gradient(network, images, labels):
    def loss_fn(network):
        logs = jax.nn.log_softmax(network(images, train=True))
        return -jnp.mean(logs[jnp.arange(len(labels)), labels])

    return nnx.grad(loss_fn)(network)


def test_settings():
    assert (training.BATCH_SIZE, training.TIMED_EPOCHS) == (64, 10)
    # The remaining three of the 1347 images wait for the next epoch.
    assert training.steps_per_epoch(data.load()) == 21


def test_each_seed_starts_with_a_network_and_batches_of_its_own(small):
    start = training.start(small, SEEDS)

    networks = [ByHand(small, seed) for seed in range(SEEDS)]
    for field in ("params", "batch_stats"):
        ours = [getattr(network, field) for network in networks]
        stacked = jax.tree.map(lambda *values: np.stack(values), *ours)
        assert_all_close(getattr(start, field), stacked)
    keys = jnp.stack([network.batch_key for network in networks])
    assert (start.batch_keys == keys).all()


def test_history_is_that_of_seeds_trained_one_by_one(small):
    start = training.start(small, SEEDS)
    history = training.train(small_tx(), start, small, iter([0, 3]))

    views = []
    for seed in range(SEEDS):
        network = ByHand(small, seed)
        norms = [measures.kernel_norms(network.params)]
        for row, number in enumerate([0, 3]):
            moved, shares = network.epoch(number)
            views.append(shares)
            assert history.effective_step[row, seed] == pytest.approx(moved, rel=1e-3)
            assert history.accuracy[row, seed] == network.accuracy()
            norms.append(measures.kernel_norms(network.params))
        growth = np.mean(np.stack(norms) / norms[0], axis=1)
        np.testing.assert_allclose(history.norm_growth[:, seed], growth, rtol=1e-4)
    expected = jax.tree.map(lambda *shares: np.mean(shares), *views)
    assert history.views.keys() == expected.keys()
    assert_all_close(history.views, expected)
    # Else the networks would show too little.
    assert 0 < history.accuracy.mean() < 1


def test_an_epoch_is_traced_once_and_over_when_it_is_said_to_be(small, monkeypatch):
    traced, fetched = [], []
    batches, device_get = training._batches, jax.device_get

    def traced_batches(*args):
        traced.append(args)
        return batches(*args)

    def recorded_get(tree):
        fetched.append(tree)
        return device_get(tree)

    monkeypatch.setattr(training, "_batches", traced_batches)
    monkeypatch.setattr(jax, "device_get", recorded_get)

    def epochs():
        for number in range(3):
            yield number
            # What counts epochs here, as a progress bar does, must not run ahead.
            assert len(fetched) == number + 1

    start = training.start(small, SEEDS)
    training.train(small_tx(), start, small, epochs())
    assert len(traced) == 1


def test_seconds_of_a_step_are_medians_over_rounds(small, monkeypatch):
    # By round: those of the first optimizer, and of the second. The clock stands still
    # between them, but not at zero.
    seconds = [(6.0, 30.0), (9.0, 3.0), (900.0, 21.0)]
    readings = [100.0]
    for first, second in seconds:
        readings += [readings[-1] + first] * 2
        readings += [readings[-1] + second] * 2
    clock = iter(readings)
    states = []
    monkeypatch.setattr(
        training, "time", types.SimpleNamespace(perf_counter=lambda: next(clock))
    )
    monkeypatch.setattr(jax, "block_until_ready", states.append)
    txs = {"first": small_tx(), "second": optax.sgd(0.0)}
    start = training.start(small, SEEDS)

    # Three steps in an epoch.
    assert training.time_steps(txs, start, small, iter("abc")) == {
        "first": 3.0,
        "second": 7.0,
    }
    # It waits for an epoch of training, each time the first.
    networks = [ByHand(small, seed) for seed in range(SEEDS)]
    for network in networks:
        network.epoch(0)
    trained = jax.tree.map(
        lambda *values: np.stack(values), *(network.params for network in networks)
    )
    assert len(states) == 6
    for state in states[::2]:
        assert_all_close(state.params, trained)
    for state in states[1::2]:
        assert_all_close(state.params, start.params)


def test_an_epoch_has_whole_batches_and_no_image_twice(small):
    first, second = (
        np.asarray(training._batches(small, jax.random.key(seed))) for seed in (0, 1)
    )
    for batches in (first, second):
        assert batches.shape == (3, 4)
        assert len(set(batches.flat) & set(range(14))) == 12
    assert not np.array_equal(first, second)


def test_history_of_made_up_observations():
    def observation(epoch):
        at = np.float32(epoch)
        return Observation(
            accuracy=np.array([0.25, 0.5]) + at / 4,
            kernel_norms=np.array([[2, 4, 8], [1, 1, 1]]) * (1 + at),
            effective_step=np.array([0.5, 0.25]) * at,
            views={"w": Shares(np.array([0, at]), np.array([1, at]))},
        )

    norms = jnp.array([[1.0, 4.0, 2.0], [0.5, 1.0, 0.25]])
    history = training._history(norms, [observation(epoch) for epoch in range(2)])

    np.testing.assert_array_equal(history.accuracy, [[0.25, 0.5], [0.5, 0.75]])
    np.testing.assert_array_equal(history.effective_step, [[0, 0], [0.5, 0.25]])
    means = [[1, 1], [7 / 3, 7 / 3], [14 / 3, 14 / 3]]
    np.testing.assert_allclose(history.norm_growth, means, rtol=1e-6)
    assert history.views == {"w": Shares(0.25, 0.75)}
    # For JAX's numbers and arrays, those of Python and NumPy.
    assert {type(share) for share in history.views["w"]} == {float}
    assert all(type(array) is np.ndarray for array in history[:3])
