"""Training that is killed again and again, at any moment, and resumed from Orbax."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

WORKER = pathlib.Path(__file__).parents[1] / "helpers/killed_worker.py"
KILLS = 50
# A killed process completes fewer than three on average: the last begins in the middle.
STEPS = 3 * KILLS


def read_result(folder):
    with np.load(folder / "result.npz") as arrays:
        return dict(arrays)


@pytest.mark.nightly
def test_killed_training_ends_bitwise_where_uninterrupted_training_ends(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, str(WORKER), "--folder", str(tmp_path)),
            *("--steps", str(STEPS), "--kills", str(KILLS)),
        ],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300 + 60 * KILLS,  # It takes a tenth: it must end, not hang.
        check=False,
    )

    assert done.returncode == 0, done.stderr
    *killed, last = json.loads(done.stdout)
    assert [process["code"] for process in killed] == [-signal.SIGKILL] * KILLS
    assert (last["code"], last["last"]) == (0, STEPS), done.stderr
    # The last began in the middle, and some checkpoints had been left half-written.
    assert 0 < killed[-1]["last"] < STEPS
    in_writing = [each for each in killed if each["moment"] == "writing"]
    assert in_writing
    assert all(each["unfinished"] for each in in_writing)
    expected, actual = (
        read_result(tmp_path / name) for name in ("uninterrupted", "killed")
    )
    assert len(actual) == 35  # Params, both moments and the trace, the step counts.
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_array_equal(actual[name], expected[name], strict=True)
