"""The demo behind `python -m optax_adamp`: its numbers and its claims, of one run."""

import contextlib
import io
import itertools
import statistics
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from optax_adamp._demo import cli, data, demo, picture, training
from optax_adamp._demo.model import Perceptron
from optax_adamp._demo.optimizers import OPTIMIZERS

pytestmark = pytest.mark.nightly

EPOCHS, SEEDS = 3, 2
STEPS = 21  # In an epoch.
KERNELS = [f"blocks/{block}/linear/kernel" for block in range(3)]
PROJECTED = ["adamp", "sgdp"]


def clock():
    """By it, a step of the first optimizer takes 1 ms, of the second 2 ms, and so on.

    In four of the ten rounds the machine is busy.
    """
    now = 100.0
    for number in itertools.count():
        round_, optimizer = divmod(number, len(OPTIMIZERS))
        yield now
        now += 1e-3 * STEPS * (optimizer + 1) * (50 if round_ < 4 else 1)
        yield now


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a short run of all four optimizers prints, finds and draws."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    histories = {}
    run = demo.run

    def recorded_run(*args, **kwargs):
        histories.update(run(*args, **kwargs))
        return histories

    stdout, stderr = io.StringIO(), io.StringIO()
    readings = clock()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(demo, "run", recorded_run)
        timer = types.SimpleNamespace(perf_counter=lambda: next(readings))
        patch.setattr(training, "time", timer)
        options = ["--epochs", str(EPOCHS), "--seeds", str(SEEDS)]
        status = cli.main([*options, "--output", str(folder)])
    assert status == 0
    assert stderr.getvalue() == ""  # No bars where nobody watches, and no warnings.
    return stdout.getvalue(), histories, folder / cli.PICTURE


# What it prints


def test_begins_with_a_plan_ends_with_the_picture_and_fits_a_terminal(finished):
    stdout, _, path = finished
    plan = " ".join(stdout.split("\n\n")[0].split())
    for words in ("AdamW, AdamP, SGD, SGDP", "3 epochs", "2 seeds", "Device: "):
        assert words in plan
    *lines, last = stdout.splitlines()
    assert last == f"Picture: {path}"
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_table_agrees_with_the_history(finished, name):
    stdout, histories, _ = finished
    label = OPTIMIZERS[name].label
    (row,) = [
        line.split()
        for line in stdout.splitlines()
        if line.startswith(f"{label} ") and line.endswith("ms")
    ]
    accuracies = [100 * float(value) for value in histories[name].accuracy[-1]]
    growths = [float(value) for value in histories[name].norm_growth[-1]]
    steps = histories[name].effective_step
    assert row[1:] == [
        f"{statistics.mean(accuracies):.1f}",
        "±",
        f"{statistics.stdev(accuracies):.1f}",
        f"{statistics.mean(growths):.2f}",
        "±",
        f"{statistics.stdev(growths):.2f}",
        f"{steps.sum() / steps.size:.5f}",
        f"{list(OPTIMIZERS).index(name) + 1}.00",
        "ms",
    ]


@pytest.mark.parametrize("name", PROJECTED)
def test_prints_how_often_each_parameter_was_projected(finished, name):
    stdout, histories, _ = finished
    table = stdout[stdout.index("projected, % of steps") :].splitlines()
    cells = {line.split()[0]: line for line in table if "/" in line.split(" ")[0]}
    column = 3 * PROJECTED.index(name)
    for path, shares in histories[name].views.items():
        words = cells[path][34:].split()[column : column + 3]
        none = 1 - shares.channel - shares.layer
        assert words == [f"{100 * x:.1f}" for x in (shares.channel, shares.layer, none)]
    for path in cells.keys() - histories[name].views.keys():
        assert path.split("/")[-1] in ("bias", "scale")
        assert cells[path].endswith("never: fewer than two axes")


# What it measures


def test_history_is_that_of_a_plain_training_loop(finished):
    _, histories, _ = finished
    seed, measured = 1, histories["adamp"]
    digits = data.load()
    count, size = len(digits.train_images), len(digits.train_images) // STEPS
    schedule = optax.cosine_decay_schedule(1e-2, EPOCHS * STEPS)
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    model = Perceptron(64, rngs=nnx.Rngs(init_key))
    tx = OPTIMIZERS["adamp"].make(schedule, 0.0)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, images, labels):
        def loss_fn(model):
            logits = model(images, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        optimizer.update(model, nnx.grad(loss_fn)(model))

    def kernels():
        blocks = model.blocks
        return [np.asarray(block.linear.kernel[...], np.float64) for block in blocks]

    def directions():
        return [kernel / np.sqrt(np.sum(kernel**2, axis=0)) for kernel in kernels()]

    start = kernels()
    moved = []
    order = jax.random.permutation(jax.random.fold_in(batch_key, 0), count)
    for batch in np.split(np.asarray(order[: STEPS * size]), STEPS):
        before = directions()
        train_step(
            model, optimizer, digits.train_images[batch], digits.train_labels[batch]
        )
        moved += [
            np.mean(np.sqrt(np.sum((new - old) ** 2, axis=0)))
            for old, new in zip(before, directions(), strict=True)
        ]
    growth = [
        np.sqrt(np.sum(new**2) / np.sum(old**2))
        for old, new in zip(start, kernels(), strict=True)
    ]
    predicted = np.argmax(model(digits.test_images, train=False), axis=1)
    correct = np.sum(predicted == digits.test_labels)

    assert measured.norm_growth[0, seed] == 1
    assert measured.norm_growth[1, seed] == pytest.approx(np.mean(growth), rel=1e-4)
    assert measured.effective_step[0, seed] == pytest.approx(np.mean(moved), rel=1e-3)
    # One image may fall on the other side of a border by rounding.
    assert abs(measured.accuracy[0, seed] * len(predicted) - correct) < 1.5


@pytest.mark.parametrize(
    ("baseline", "projected"), [("adamw", "adamp"), ("sgd", "sgdp")]
)
def test_projection_holds_norms_and_steps(finished, baseline, projected):
    _, histories, _ = finished
    plain, held = histories[baseline], histories[projected]
    np.testing.assert_array_equal(plain.norm_growth[0], 1)
    assert np.all(plain.norm_growth[-1] - 1 > 2 * (held.norm_growth[-1] - 1))
    assert np.all(held.norm_growth[-1] > 1)
    assert np.all(plain.effective_step[-1] < held.effective_step[-1])


@pytest.mark.parametrize("name", PROJECTED)
def test_kernels_before_a_batchnorm_are_projected(finished, name):
    _, histories, _ = finished
    views = histories[name].views
    assert list(views) == [*KERNELS, "head/kernel"]
    assert all(views[path].channel > 0.95 for path in KERNELS)
    assert views["head/kernel"].channel + views["head/kernel"].layer < 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_learn_and_no_two_seeds_are_the_same(finished, name):
    _, histories, _ = finished
    history = histories[name]
    assert history.accuracy.shape == history.effective_step.shape == (EPOCHS, SEEDS)
    assert np.all(history.accuracy[-1] > 0.85)
    assert np.all(history.effective_step[:, 0] != history.effective_step[:, 1])


def test_no_test_image_is_learned():
    digits = data.load()
    images = np.concatenate([digits.train_images, digits.test_images])
    assert images.shape == (1797, 64)
    assert len(np.unique(images, axis=0)) == 1797
    assert (images.min(), images.max()) == (0, 1)
    shares = [
        np.bincount(labels) / len(labels)
        for labels in (digits.train_labels, digits.test_labels)
    ]
    np.testing.assert_allclose(*shares, atol=2e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_both_sgds_mean_the_same_by_weight_decay(weight_decay):
    params = {"bias": jnp.array([1.0, -2.0])}  # Never projected.
    grads = {"bias": jnp.array([0.5, 0.25])}
    stepped = []
    for name in ("sgd", "sgdp"):
        tx = OPTIMIZERS[name].make(lambda count: 0.1, weight_decay)
        state, current = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(grads, state, current)
            current = optax.apply_updates(current, updates)
        stepped.append(current["bias"])
    np.testing.assert_allclose(*stepped, rtol=1e-6)


# What it draws


def test_picture_has_both_families_in_all_panels(finished):
    *_, path = finished
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), np.int32)
    assert pixels.shape == (500, 1500, 3)
    panels = np.split(pixels[:400], 3, axis=1)  # The legend lies below.
    for color in picture.COLORS.values():
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        for panel in panels:
            # The palette of the file may move a color a little.
            assert np.sum(np.max(np.abs(panel - rgb), axis=-1) < 16) > 200
