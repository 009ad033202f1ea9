"""Whole scripts in the style of each library's users, run as they would run them."""

import functools
import importlib
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import optax
import pytest

SCRIPTS = pathlib.Path(__file__).with_name("user_scripts")

# What `describe` must show of each: path, shape, output axes, channels x length, batch
# and view. A parameter with no more than a shape is not projected.
TABLES = {
    "linen_train_state": """
        BatchNorm_0/bias (16,)
        BatchNorm_0/scale (16,)
        BatchNorm_1/bias (32,)
        BatchNorm_1/scale (32,)
        Conv_0/kernel (3, 3, 1, 16) 3 16 x 9 auto
        Conv_1/kernel (3, 3, 16, 32) 3 32 x 144 auto
        Dense_0/bias (10,)
        Dense_0/kernel (128, 10) 1 10 x 128 auto
        3 of 8 arrays can be projected, with 6,032 of 6,138 parameters.
        """,
    "nnx_optimizer": """
        embed/embedding (10, 32) 0 10 x 32 auto
        head/bias (10,)
        head/kernel (64, 10) 1 10 x 64 auto
        hidden/kernel (32, 64) 1 64 x 32 auto
        norm/bias (64,)
        norm/scale (64,)
        position (12, 32)
        3 of 7 arrays can be projected, with 3,008 of 3,530 parameters.
        """,
    "equinox_model": """
        conv/weight (16, 1, 9) 0 16 x 9 auto
        norm/weight (16,)
        norm/bias (16,)
        head/weight (4, 16) 0 4 x 16 auto
        head/bias (4,)
        2 of 5 arrays can be projected, with 208 of 244 parameters.
        """,
    "haiku_model": """
        batch_norm/offset (1, 1, 16)
        batch_norm/scale (1, 1, 16)
        batch_norm_1/offset (1, 1, 16)
        batch_norm_1/scale (1, 1, 16)
        code/b (8,)
        code/w (256, 8) 1 8 x 256 auto
        conv1_d/w (5, 1, 16) 2 16 x 5 auto
        conv1_d_transpose/b (1,)
        conv1_d_transpose/w (5, 1, 16) 1 1 x 80 auto
        expand/w (8, 256) 1 256 x 8 auto
        4 of 10 arrays can be projected, with 4,256 of 4,329 parameters.
        """,
    "scanned_partitioned_transformer": """
        decoder_norm/scale (32,)
        layers/mlp/wi_0/kernel (32, 2, 64) 2 64 x 32 2 (axis 1) auto
        layers/mlp/wi_1/kernel (32, 2, 64) 2 64 x 32 2 (axis 1) auto
        layers/mlp/wo/kernel (64, 2, 32) 2 32 x 64 2 (axis 1) auto
        layers/post_self_attention_norm/scale (32, 2)
        layers/pre_self_attention_norm/scale (32, 2)
        layers/self_attention/key/kernel (32, 2, 4, 8) 2, 3 32 x 32 2 (axis 1) auto
        layers/self_attention/key_norm/scale (8, 2)
        layers/self_attention/out/kernel (4, 2, 8, 32) 3 32 x 32 2 (axis 1) auto
        layers/self_attention/query/kernel (32, 2, 4, 8) 2, 3 32 x 32 2 (axis 1) auto
        layers/self_attention/query_norm/scale (8, 2)
        layers/self_attention/value/kernel (32, 2, 4, 8) 2, 3 32 x 32 2 (axis 1) auto
        token_embedder/embedding (16, 32) 0 16 x 32 auto
        8 of 13 arrays can be projected, with 20,992 of 21,184 parameters.
        """,
    "keyword_config": """
        embed/weight (16, 4) 0 16 x 4 auto
        embed/bias (16,)
        blocks/linear/weight (3, 16, 16) 1 16 x 16 3 (axis 0) auto
        blocks/norm/weight (3, 16)
        blocks/norm/bias (3, 16)
        head/weight (1, 16) 0 1 x 16 auto
        head/bias (1,)
        3 of 7 arrays can be projected, with 848 of 961 parameters.
        """,
}

pytestmark = pytest.mark.nightly  # Each takes its time.
with_every_script = pytest.mark.parametrize("name", TABLES)


class Run(NamedTuple):
    """What a script printed."""

    output: str
    loss: tuple[float, float]  # At the first and at the last step.
    norm: tuple[float, float]  # Of a scale-invariant weight, likewise.


@functools.cache
def run(name):
    """Runs a script in a process of its own, where a warning is an error."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    # What needs several devices has to say so itself.
    environment.pop("XLA_FLAGS", None)
    process = subprocess.run(
        [sys.executable, "-W", "error", SCRIPTS / f"{name}.py"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    pairs = re.findall(r"^(?:loss|norm).*: (.*) to (.*)$", process.stdout, re.MULTILINE)
    loss, norm = (tuple(map(float, pair)) for pair in pairs)
    return Run(process.stdout, loss, norm)


@with_every_script
def test_loss_falls(name):
    first, last = run(name).loss

    assert last < first / 5


@with_every_script
def test_description(name):
    """Nothing stands below the total: there are no warnings."""
    output = run(name).output
    heading, *rows, total = output[output.index("path ") :].splitlines()
    shown = [" ".join(row[: heading.index("why")].split()) for row in rows]

    expected = [line.strip() for line in TABLES[name].strip().splitlines()]
    times = "\N{MULTIPLICATION SIGN}"
    assert [line.replace(times, "x") for line in [*shown, total]] == expected


def test_parameters_are_partitioned():
    output = run("scanned_partitioned_transformer").output

    # Of (32, 2, 4, 8): features over two devices, heads over four.
    assert "a device has (16, 2, 1, 8) of it" in output


def test_learning_rate_follows_its_schedule():
    # One step before a cosine of 90 steps from 0.01 reaches zero.
    assert "learning rate: 3.05e-06" in run("keyword_config").output


def adamw(*arguments, dimension_numbers, **keywords):
    """Where the script says which axes form a channel, two words go."""
    return optax.adamw(*arguments, **keywords)


def add_decay(*, dimension_numbers, **keywords):
    return optax.add_decayed_weights(**keywords)


SWAPS = {
    "linen_train_state": ("adamp", optax.adamw),
    "nnx_optimizer": ("adamp", adamw),
    "equinox_model": ("adamp", adamw),
    "haiku_model": ("adamp", adamw),
    "scanned_partitioned_transformer": ("adamp", adamw),
    "keyword_config": ("scale_by_projection", add_decay),
}


@pytest.mark.parametrize("name", SWAPS)
def test_adamw_by_a_swap_of_one_word(name, monkeypatch):
    """It trains too, but lets the norm of a weight grow that AdamP holds."""
    script = importlib.import_module(f"user_scripts.{name}")
    monkeypatch.setattr(script, *SWAPS[name])

    losses, norms, _ = script.main()

    assert losses[-1] < losses[0] / 5
    first, last = run(name).norm
    assert norms[0] == pytest.approx(first, rel=1e-4)
    assert norms[-1] - first > 5 * abs(last - first)
