"""A checkpoint that is damaged, or another optimizer's, raises: none is half read."""

import json
import os
import re
import shutil
import subprocess
import sys

import optax
import pytest

import restore_worker as worker
from optax_adamp import adamp, sgdp

pytestmark = pytest.mark.nightly


def cut_in_half(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


# Truncated, not altered: Orbax has no checksum of arrays, and reads a flipped bit.
DAMAGES = [cut_in_half, empty, delete]
OTHER_SHAPES = [(24, 32), (48, 33), (48,), (1, 48, 32)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "whole"
    worker.save(path, worker.after_a_step(adamp(0.1)))
    return path


def files_of(checkpoint):
    return sorted(
        path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()
    )


@pytest.fixture(scope="module")
def outcomes(whole):
    """What comes of each file being damaged, and of each shape being another."""
    wanted = {}
    for damage in DAMAGES:
        for number, file in enumerate(files_of(whole)):
            path = whole.with_name(f"{damage.__name__} {number}")
            shutil.copytree(whole, path)
            damage(path / file)
            wanted[damage, file] = str(path), worker.SHAPE
    for shape in OTHER_SHAPES:
        wanted[shape] = str(whole), shape
    done = subprocess.run(
        [sys.executable, worker.__file__],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        input=json.dumps(list(wanted.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(wanted, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_raises_unless_all_is_restored_without_it(
    damage, whole, outcomes
):
    """The worker has compared what it restored with what was saved."""
    sizes = {file: (whole / file).stat().st_size for file in files_of(whole)}
    # Random numbers: no compression makes them much smaller.
    hold_arrays = {file for file, size in sizes.items() if size > worker.BYTES / 2}
    assert sum(sizes[file] for file in hold_arrays) > 2 * worker.BYTES
    raised = {file: outcomes[damage, file] for file in sizes if outcomes[damage, file]}
    assert hold_arrays < raised.keys()
    for file in hold_arrays:
        assert f"{whole.parent}/{damage.__name__}" in raised[file]


REFUSAL = "(?is)structure.*match|not compatible"


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_another_shape_is_refused(shape, outcomes):
    assert re.search(REFUSAL, outcomes[shape])
    assert str(shape) in outcomes[shape]


def constant(count):
    return 0.1


# Who saved, and who restores.
OTHERS = {
    "AdamP to SGDP": (adamp(0.1), sgdp(0.1)),
    "SGDP to AdamP": (sgdp(0.1), adamp(0.1)),
    "AdamW to SGDP": (optax.adamw(0.1), sgdp(0.1)),
    "SGD to AdamP": (optax.sgd(0.1, 0.9), adamp(0.1)),
    "Lion to AdamP": (optax.lion(0.1), adamp(0.1)),
    "AdamP to Lion": (adamp(0.1), optax.lion(0.1)),
    # The same numbers, but the trace is another part of a chain.
    "SGD to SGDP": (optax.sgd(0.1, 0.9), sgdp(0.1)),
    "SGDP to SGD": (sgdp(0.1), optax.sgd(0.1, 0.9)),
    "rate to schedule": (adamp(0.1), adamp(constant)),
    "schedule to rate": (adamp(constant), adamp(0.1)),
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_state_is_refused(change, tmp_path):
    saver, restorer = OTHERS[change]
    worker.save(tmp_path / "saved", worker.after_a_step(saver))

    with pytest.raises(ValueError, match=REFUSAL):
        worker.restore(tmp_path / "saved", worker.after_a_step(restorer))
