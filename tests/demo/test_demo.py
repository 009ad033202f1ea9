"""The demo behind `python -m optax_adamp`: its numbers and its claims, of one run."""

import contextlib
import io
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx
from PIL import Image

from optax_adamp._demo import cli, data, demo, model, picture
from optax_adamp._demo.optimizers import OPTIMIZERS

PAIR = ["adamw", "adamp"]
SEEDS = 2
RATE = 2  # The place of one that both train well with.
CHANNELS = (1, 16, 16)  # Compiles sooner than what users see.
STEPS = 7  # The first of an epoch.


def few_images(load=data.load):
    train, *held_out = load()
    few = train.images[: 32 * STEPS + 1], train.labels[: 32 * STEPS + 1]
    rest = [data.Split(split.images[:60], split.labels[:60]) for split in held_out]
    return data.Data(data.Split(*few), *rest)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a few steps of a pair print, find and draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", few_images)
        return run_demo(tmp_path_factory.mktemp("demo") / "made" / "by the demo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same of a whole epoch, in which they learn."""
    return run_demo(tmp_path_factory.mktemp("trained"))


def run_demo(folder):
    histories = {}
    run = demo.run

    def recorded_run(*args, **kwargs):
        histories.update(run(*args, **kwargs))
        return histories

    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(demo, "run", recorded_run)
        patch.setattr(model, "CHANNELS", CHANNELS)
        options = ["--optimizers", *PAIR, "--epochs", "1", "--seeds", str(SEEDS)]
        status = cli.main([*options, "--output", str(folder)])
    assert status == 0
    assert stderr.getvalue() == ""  # No bars where nobody watches, and no warnings.
    return stdout.getvalue(), histories, folder / cli.PICTURE


# What it prints


def test_begins_with_a_plan_ends_with_the_picture_and_fits_a_terminal(finished):
    stdout, _, path = finished
    plan = " ".join(stdout.split("\n\n")[0].split())
    for words in ("AdamW, AdamP", "1 epoch", "2 seeds", "5 learning rates", "Device: "):
        assert words in plan
    *lines, last = stdout.splitlines()
    assert last == f"Picture: {path}"
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize("name", PAIR)
def test_table_agrees_with_the_history(finished, name):
    stdout, histories, _ = finished
    rows = [
        line.split()
        for line in stdout.splitlines()
        if line.startswith(f"{OPTIMIZERS[name].label}   ")
    ]
    history = histories[name]
    validation = history.validation.accuracy.mean(axis=1)
    for place, (row, rate) in enumerate(zip(rows, OPTIMIZERS[name].rates, strict=True)):
        star = "*" if place == list(validation).index(max(validation)) else ""
        expected = [f"{rate:g}{star}"]
        for values, digits in (
            (100 * history.test.accuracy[place], 1),
            (history.test.loss[place], 3),
        ):
            half = scipy.stats.t.ppf(0.975, SEEDS - 1) * scipy.stats.sem(values)
            expected += [f"{statistics.mean(map(float, values)):.{digits}f}", "±"]
            expected += [f"{half:.{digits}f}"]
        expected += [f"{history.norm_growth[-1, place].sum() / SEEDS:.2f}"]
        expected += [f"{history.effective_step[0, place].sum() / SEEDS:.5f}"]
        assert row[1:] == expected


# What it measures


def test_history_is_that_of_a_plain_training_loop(finished, monkeypatch):
    _, histories, _ = finished
    monkeypatch.setattr(model, "CHANNELS", CHANNELS)
    seed, rate = 1, OPTIMIZERS["adamp"].rates[RATE]
    images, labels = few_images().train
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    network = nnx.jit(lambda key: model.ConvNet(rngs=nnx.Rngs(key)))(init_key)
    tx = OPTIMIZERS["adamp"].make(optax.cosine_decay_schedule(rate, STEPS))
    optimizer = nnx.Optimizer(network, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(network, optimizer, images, labels):
        def loss_fn(network):
            logits = network(images, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        optimizer.update(network, nnx.grad(loss_fn)(network))

    def kernels():
        return [np.asarray(block.conv.kernel[...], float) for block in network.blocks]

    def directions():
        return [kernel / np.sqrt(np.sum(kernel**2, axis=0)) for kernel in kernels()]

    start = kernels()
    moved = []
    order = jax.random.permutation(jax.random.fold_in(batch_key, 0), len(labels))
    for batch in np.split(np.asarray(order[:-1]), STEPS):
        before = directions()
        train_step(network, optimizer, images[batch], labels[batch])
        moved += [
            np.mean(np.sqrt(np.sum((new - old) ** 2, axis=0)))
            for old, new in zip(before, directions(), strict=True)
        ]
    growth = [
        np.sqrt(np.sum(new**2) / np.sum(old**2))
        for old, new in zip(start, kernels(), strict=True)
    ]
    test = few_images().test
    logits = nnx.jit(lambda network: network(test.images, train=False))(network)
    right = np.argmax(logits, axis=1) == test.labels

    history = histories["adamp"]
    assert history.norm_growth[0, RATE, seed] == 1
    assert history.norm_growth[1, RATE, seed] == pytest.approx(np.mean(growth), 1e-3)
    assert history.effective_step[0, RATE, seed] == pytest.approx(np.mean(moved), 1e-2)
    # Rounding leads trainings apart.
    assert history.test.accuracy[RATE, seed] == pytest.approx(
        float(right.mean()), abs=0.02
    )


@pytest.mark.nightly
def test_projection_holds_norms_and_steps(trained):
    _, histories, _ = trained
    plain, held = (histories[name] for name in PAIR)
    assert np.all(plain.norm_growth[0] == 1)
    assert np.all(held.norm_growth[1] > 1)
    assert np.all(plain.norm_growth[1] - 1 > 2 * (held.norm_growth[1] - 1))
    assert np.all(plain.effective_step[:, RATE] < held.effective_step[:, RATE])


@pytest.mark.nightly
@pytest.mark.parametrize("name", PAIR)
def test_all_learn_and_no_two_seeds_or_rates_are_the_same(trained, name):
    _, histories, _ = trained
    history = histories[name]
    shape = (len(OPTIMIZERS[name].rates), SEEDS)
    for split in (history.validation, history.test):
        assert split.accuracy.shape == split.loss.shape == shape
        assert np.all(split.accuracy[RATE] > 0.15)
        assert np.all(split.loss[RATE] < np.log(10))
    assert len(np.unique(history.effective_step)) == history.effective_step.size


def test_in_training_the_scale_of_a_block_does_not_matter():
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)
    block = model.Block(2, 3, rngs=nnx.Rngs(0))
    output_of = nnx.jit(
        lambda block, train: block(images, train=train), static_argnames="train"
    )
    before = output_of(block, train=True)
    block.conv.kernel[...] *= 3
    np.testing.assert_allclose(output_of(block, train=True), before, atol=1e-3)
    assert not np.allclose(output_of(block, train=False), before, atol=0.1)


def test_windows_make_a_linear_layer_a_convolution():
    rng = np.random.default_rng(0)
    images, kernel = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((2, 7, 6, 3), (3, 3, 3, 4))
    )
    of_jax = jax.lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    ours = model.windows(images) @ kernel.reshape(27, 4)
    np.testing.assert_allclose(ours, of_jax, atol=1e-5)


# What it learns


def test_no_held_out_digit_is_learned(monkeypatch):
    # Where there is room for the digit alone, it fills the image.
    for name, value in {"SIZE": 8, "PIECE": 0, "NOISE": 0}.items():
        monkeypatch.setattr(data, name, value)
    splits = data.load()
    parts = [np.unique(split.images, axis=0) for split in splits]
    assert [len(part) for part in parts] == [898, 449, 450]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 1797
    assert [part.max() for part in parts] == [1, 1, 1]
    shares = [np.bincount(split.labels) / len(split.labels) for split in splits]
    np.testing.assert_allclose(shares[1:], [shares[0]] * 2, atol=4e-3)


def test_a_digit_moves_from_copy_to_copy_and_is_all_there(monkeypatch):
    splits = data.load()
    assert splits.test.images.shape == (1800, data.SIZE, data.SIZE, 1)
    for split in splits:
        assert (split.images.min(), split.images.max()) == (0, 1)
        assert abs(np.std(split.images[:, 0, 0]) - data.NOISE) < data.NOISE
    digits = {"SIZE": 8, "PIECE": 0, "NOISE": 0}
    cluttered = {"SIZE": data.SIZE, "PIECE": data.PIECE, "NOISE": 0}
    alone, among = (load_with(monkeypatch, sizes) for sizes in (digits, cluttered))
    first, second = among.train.images[[0, 898], ..., 0]
    assert np.any(first != second)
    for image in (first, second):
        places = np.lib.stride_tricks.sliding_window_view(image, (8, 8))
        covered = np.all(places >= alone.train.images[0, ..., 0], axis=(2, 3))
        assert covered.any()
        assert np.sum(image > 0) > np.sum(alone.train.images[0] > 0)


def load_with(monkeypatch, sizes):
    for name, value in sizes.items():
        monkeypatch.setattr(data, name, value)
    return data.load()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_decays_weights_and_sgds_have_momentum(name):
    params = {"bias": jnp.array([1.0, -2.0])}  # Never projected.
    tx = OPTIMIZERS[name].make(lambda count: 0.5)
    updates, state = tx.update({"bias": jnp.array([1.0, 0])}, tx.init(params), params)
    assert updates["bias"][1] == 0
    again, _ = tx.update({"bias": jnp.array([1.0, 0])}, state, params)
    expected = [-0.5, -0.5] if name.startswith("adam") else [-0.5, -0.95]
    first, second = updates["bias"][0], again["bias"][0]
    np.testing.assert_allclose([first, second], expected, rtol=1e-4)


# What it draws


def on_white(name):
    """The color of its line: that of what is projected is pale."""
    style = picture._style(name, marker="")
    rgb = [int(style["color"][i : i + 2], 16) for i in (1, 3, 5)]
    return style["alpha"] * np.array(rgb) + (1 - style["alpha"]) * 255


def test_picture_has_both_optimizers_in_all_panels(finished):
    *_, path = finished
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), np.int32)
    height, width = pixels.shape[0] * 9 // 10, pixels.shape[1]  # Below: the legend.
    for name in PAIR:
        rgb = on_white(name)
        for rows in (slice(height // 2), slice(height // 2, height)):
            for columns in (slice(width // 2), slice(width // 2, width)):
                # The palette of the file may move a color a little.
                near = np.max(np.abs(pixels[rows, columns] - rgb), axis=-1) < 16
                assert np.sum(near) > 20
