"""The demo behind `python -m optax_adamp`: its numbers, its claims, its refusals."""

import contextlib
import io
import os
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx
from PIL import Image

import reference
from optax_adamp._demo import (
    cli,
    data,
    demo,
    measures,
    picture,
    report,
    terminal,
    training,
)
from optax_adamp._demo.model import Perceptron
from optax_adamp._demo.optimizers import DELTA, EPS, OPTIMIZERS

EPOCHS, SEEDS = 3, 2
KERNELS = [f"blocks/{block}/linear/kernel" for block in range(3)]
PROJECTED = ["adamp", "sgdp"]


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
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(demo, "run", recorded_run)
        options = ["--epochs", str(EPOCHS), "--seeds", str(SEEDS)]
        status = cli.main([*options, "--output", str(folder)])
    assert status == 0
    assert stderr.getvalue() == ""  # No bars where nobody watches, and no warnings.
    return stdout.getvalue(), histories, folder / cli.PICTURE


@pytest.fixture
def no_training(monkeypatch):
    """What must be refused, must be so before any training."""

    def run(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(demo, "run", run)


def refusal(capsys, *arguments):
    """The one line that the demo ends with."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert captured.err.endswith("\n")
    return line


def history(accuracy, norm_growth=1.0, effective_step=0.01):
    """Made up: final accuracies by seed, all else the same for all epochs and seeds."""
    final = np.asarray(accuracy, np.float64)
    epochs = np.ones((3, 1))
    return training.History(
        accuracy=epochs * final,
        norm_growth=norm_growth * np.ones((4, len(final))),
        effective_step=effective_step * np.ones((3, len(final))),
        views={},
    )


# What it prints


def test_begins_with_what_will_happen_and_where(finished):
    stdout, _, _ = finished
    introduction = stdout.split("\n\n")[0]
    assert len(introduction.splitlines()) <= 5
    for words in ("AdamW, AdamP, SGD, SGDP", "3 epochs", "2 seeds", "0.01 (Adam)"):
        assert words in " ".join(introduction.split())
    device = introduction.splitlines()[-1]
    assert device.startswith(f"Device: {jax.devices()[0].platform}")


def test_ends_with_the_picture_and_fits_a_terminal(finished):
    stdout, _, path = finished
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
    assert row[1:7] == [
        f"{statistics.mean(accuracies):.1f}",
        "±",
        f"{statistics.stdev(accuracies):.1f}",
        f"{statistics.mean(growths):.2f}",
        "±",
        f"{statistics.stdev(growths):.2f}",
    ]
    steps = histories[name].effective_step
    assert float(row[7]) == pytest.approx(steps.sum() / steps.size, abs=1e-5)
    assert float(row[8]) > 0


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


@pytest.mark.parametrize(
    ("accuracies", "baseline", "verdict"),
    [
        ([0.98, 0.97, 0.99, 0.98], [0.99, 0.98, 0.97, 0.98], "no difference seen"),
        ([0.97, 0.97, 0.97], [0.97, 0.97, 0.97], "no difference seen"),
        ([0.96, 0.95, 0.97, 0.96], [0.98, 0.98, 0.98, 0.98], "more than the seeds'"),
        ([0.99], [0.90], "one seed tells nothing"),
    ],
)
def test_accuracies_differ_only_beyond_the_noise(accuracies, baseline, verdict):
    histories = {"adamw": history(baseline), "adamp": history(accuracies)}
    *_, line = report.comparisons(histories, data.load()).splitlines()
    difference = 100 * (np.mean(accuracies) - np.mean(baseline))
    assert f"AdamP - AdamW  {difference:+.1f}" in line
    assert verdict in line


def test_the_interval_is_the_paired_t_interval():
    a, b = [0.971, 0.984, 0.962, 0.990, 0.977], [0.979, 0.981, 0.975, 0.991, 0.986]
    mean, half_width = report.paired_interval(np.subtract(a, b))
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half_width, mean + half_width], interval)


def test_no_comparison_without_a_pair():
    histories = {"adamw": history([0.9, 0.8]), "sgdp": history([0.8, 0.9])}
    assert report.comparisons(histories, data.load()) == ""


def test_one_seed_of_one_optimizer(capsys, tmp_path):
    options = ["--optimizers", "sgd", "sgd", "--seeds", "1", "--epochs", "1"]
    assert cli.main([*options, "--output", str(tmp_path)]) == 0
    stdout = capsys.readouterr().out
    assert stdout.count("± n/a") == 2
    assert "with SGD: 1 epoch, 1 seed," in stdout
    assert "SGD project nothing" in stdout
    assert "points" not in stdout  # There is nothing to compare with.
    with Image.open(tmp_path / cli.PICTURE) as image:
        assert image.format == "PNG"


def test_says_when_an_optimizer_diverged():
    histories = {"adamw": history([0.1]), "sgd": history([0.1], norm_growth=np.nan)}
    text = report.table(histories, dict.fromkeys(histories, 1e-3), data.load())
    assert "Diverged: SGD. Try a smaller learning rate." in text


# What it measures


def test_history_is_that_of_a_plain_training_loop(finished):
    _, histories, _ = finished
    seed, measured = 1, histories["adamp"]
    digits = data.load()
    count, size = len(digits.train_images), training.BATCH_SIZE
    schedule = optax.cosine_decay_schedule(1e-2, EPOCHS * (count // size))
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
    for batch in np.split(np.asarray(order[: count // size * size]), count // size):
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


def test_views_are_those_that_the_algorithm_takes():
    rng = np.random.default_rng(0)
    weight, gradient = rng.normal(size=(2, 6, 5))
    radial = weight / np.linalg.norm(weight, axis=0)
    across = gradient - radial * np.sum(gradient * radial, axis=0)
    across /= np.linalg.norm(across, axis=0)
    grads = {
        "channel": across,
        "channel, only just": across + 0.9 * DELTA / np.sqrt(6) * radial,
        "none, only just": across + 1.1 * DELTA / np.sqrt(6) * radial,
        "layer": gradient - weight * np.sum(gradient * weight) / np.sum(weight**2),
        "none": weight + 0.1 * gradient,
    }
    params = dict.fromkeys(grads, jnp.asarray(weight))
    views = measures.views_of_step(params, jax.tree.map(jnp.asarray, grads))
    for name, grad in grads.items():
        _, _, view = reference.projection(
            grad, grad, weight, (0,), (1,), delta=DELTA, wd_ratio=0.1, eps=EPS
        )
        assert view == name.split(",")[0]
        assert views[name] == (view == "channel", view == "layer")


def test_seeds_differ_and_do_not_depend_on_their_number():
    digits = data.load()
    two, three = training.start(digits, 2), training.start(digits, 3)
    for a, b in zip(
        jax.tree.leaves(two.params), jax.tree.leaves(three.params), strict=True
    ):
        np.testing.assert_array_equal(a, b[:2])
    kernel = three.params["head"]["kernel"][...]
    assert len(np.unique(np.asarray(kernel[:, 0, 0]))) == 3
    assert len(np.unique(jax.random.key_data(three.batch_keys), axis=0)) == 3


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
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    assert pixels.shape == (500, 1500, 3)
    panels = np.split(pixels[:400], 3, axis=1)  # The legend lies below.
    for color in picture.COLORS.values():
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        for panel in panels:
            # The palette of the file may move a color a little.
            assert np.sum(np.max(np.abs(panel - rgb), axis=-1) < 16) > 200


def test_drawing_and_the_settings_of_matplotlib_leave_each_other_alone(tmp_path):
    histories = {"sgd": history([0.9, 0.8])}
    picture.save(histories, tmp_path / "before.png")
    with matplotlib.rc_context({"lines.linewidth": 20, "font.size": 4}):
        settings = matplotlib.rcParams.copy()
        picture.save(histories, tmp_path / "picture.png")
        assert matplotlib.rcParams.copy() == settings
    before = (tmp_path / "before.png").read_bytes()
    assert (tmp_path / "picture.png").read_bytes() == before


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adam"], ["--optimizers", "'adam'", "adamw"]),
        (["--optimizers"], ["--optimizers"]),
        (["--epochs", "0"], ["--epochs", "from 1 to 10000", "'0'"]),
        (["--epochs", "2.5"], ["--epochs", "whole number", "'2.5'"]),
        (["--epochs", "9" * 5000], ["--epochs"]),
        (["--seeds", "-1"], ["--seeds", "from 1 to 256", "'-1'"]),
        (["--seeds", "300"], ["--seeds", "from 1 to 256", "'300'"]),
        (["--adam-learning-rate", "0"], ["--adam-learning-rate", "above 0", "'0'"]),
        (["--adam-learning-rate", "nan"], ["--adam-learning-rate", "'nan'"]),
        (["--sgd-learning-rate", "inf"], ["--sgd-learning-rate", "1000", "'inf'"]),
        (["--sgd-learning-rate", "fast"], ["--sgd-learning-rate", "'fast'"]),
        (["--weight-decay", "-0.1"], ["--weight-decay", "from 0", "'-0.1'"]),
        (["--weight-decay", "nan"], ["--weight-decay", "'nan'"]),
        (["--output"], ["--output"]),
        (["--epoch", "3"], ["--epoch"]),
        (["--momentum\n0.5"], ["--momentum 0.5"]),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_bad_option(capsys, arguments, words):
    line = refusal(capsys, *arguments)
    assert line.startswith("python -m optax_adamp: error: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("module", terminal.EXTRA_MODULES)
@pytest.mark.usefixtures("no_training")
def test_missing_extra(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # As if not installed.
    line = refusal(capsys)
    assert f"cannot import {module}." in line
    assert "pip install -e '.[demo]'" in line
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--help"])
    assert exit_info.value.code == 0


def test_package_does_without_the_extra():
    code = f"""
import sys
for module in {terminal.EXTRA_MODULES}:
    sys.modules[module] = None
import optax_adamp
assert not [name for name in sys.modules if name.startswith("optax_adamp._demo")]
from optax_adamp._demo import cli
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot import tqdm, matplotlib, sklearn, flax." in line


@pytest.mark.parametrize("place", ["a file", "below a file", "picture is a folder"])
@pytest.mark.usefixtures("no_training")
def test_folder_that_cannot_be_written(capsys, tmp_path, place):
    file = tmp_path / "file"
    file.write_text("not a folder")
    folder = {"a file": file, "below a file": file / "deep" / "down"}.get(
        place, tmp_path
    )
    (tmp_path / cli.PICTURE).mkdir()
    line = refusal(capsys, "--output", str(folder))
    assert f"cannot write {folder / cli.PICTURE}: " in line
    assert file.read_text() == "not a folder"


@pytest.mark.usefixtures("no_training")
def test_folder_without_permission(capsys, monkeypatch, tmp_path):
    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # Permissions do not hold back a superuser, who may run the tests.
    monkeypatch.setattr(Path, "open", forbidden)
    assert refusal(capsys, "--output", str(tmp_path)).endswith(": Permission denied")


def test_folder_that_vanishes_in_the_meantime(capsys, monkeypatch, tmp_path):
    def run(*args, **kwargs):
        os.rmdir(tmp_path)
        return {"sgd": history([0.9, 0.8])}

    monkeypatch.setattr(demo, "run", run)
    assert "cannot write" in refusal(capsys, "--output", str(tmp_path))


@pytest.mark.parametrize("earlier", [None, b"an earlier picture"])
def test_interruption_leaves_the_folder_as_it_was(
    capsys, monkeypatch, tmp_path, earlier
):
    def run(*args, **kwargs):
        raise KeyboardInterrupt

    path = tmp_path / cli.PICTURE
    if earlier:
        path.write_bytes(earlier)
    monkeypatch.setattr(demo, "run", run)
    assert cli.main(["--output", str(tmp_path)]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (path.read_bytes() if path.exists() else None) == earlier


def test_help_tells_all_options():
    done = subprocess.run(
        [sys.executable, "-m", "optax_adamp", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    for option, default in {
        "--optimizers": "all of them",
        "--epochs": "40",
        "--seeds": "5",
        "--adam-learning-rate": "0.01",
        "--sgd-learning-rate": "0.5",
        "--weight-decay": "0.0",
        "--output": "the current folder",
    }.items():
        told = done.stdout.split("\noptions:")[1].split(f"\n  {option} ")[1]
        assert f"(default: {default})" in " ".join(told.split("\n  --")[0].split())
    assert max(map(len, done.stdout.splitlines())) < 80
