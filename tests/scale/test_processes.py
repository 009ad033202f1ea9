"""Several processes train as one, also after one of them was killed."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import sharded_steps as steps
from optax_adamp import adamp

pytestmark = pytest.mark.nightly

WORKER = pathlib.Path(__file__).parents[1] / "helpers/process_worker.py"
TIMEOUT = 180  # Seconds for a job that takes ten: it must end, not hang.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first params and all gradients, as a file for the processes."""
    whole = steps.whole(adamp)
    arrays = {f"params {name}": leaf for name, leaf in whole.params[0].items()}
    for number, grads in enumerate(whole.grads):
        arrays |= {f"grads {number} {name}": leaf for name, leaf in grads.items()}
    path = tmp_path_factory.mktemp("data") / "run.npz"
    np.savez(path, **arrays)
    return path


def run_job(folder, processes, data, *options):
    """Runs a job to its end, or until one of its processes has died.

    Returns:
      The exit codes and what the processes wrote.
    """
    for _ in range(3):
        codes, text = try_job(folder, processes, data, *options)
        # Between the choice of a free port and its use another program may take it.
        if "address already in use" not in text.lower():
            break
    return codes, text


def try_job(folder, processes, data, *options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    devices = f"--xla_force_host_platform_device_count={4 // processes}"
    common = [
        *(sys.executable, str(WORKER), "--address", address),
        *("--processes", str(processes), "--data", str(data), *options),
        *("--checkpoints", str(folder / "checkpoints")),
        *("--result", str(folder / "result.npz")),
    ]
    logs = [folder / f"{index}.log" for index in range(processes)]
    workers = []
    try:
        for index, log in enumerate(logs):
            with log.open("w") as output:
                worker = subprocess.Popen(
                    [*common, "--index", str(index)],
                    env={**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            workers.append(worker)
        codes = wait_for_any_failure(workers)
    finally:
        # The others would wait for the dead one: a scheduler ends them as well.
        for worker in workers:
            worker.kill()
            worker.wait()
    return codes, "\n".join(log.read_text() for log in logs)


def wait_for_any_failure(workers):
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        codes = [worker.poll() for worker in workers]
        if any(codes) or None not in codes:
            return codes
        time.sleep(0.1)
    return [worker.poll() for worker in workers]


def read_result(folder):
    with np.load(folder / "result.npz") as arrays:
        return dict(arrays)


def finish(folder, processes, data):
    """Runs a job that must succeed."""
    codes, text = run_job(folder, processes, data)
    assert codes == [0] * processes, text
    return read_result(folder)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    return finish(tmp_path_factory.mktemp("uninterrupted"), 2, data)


def assert_as_one_process(result):
    expected = steps.whole(adamp).params[-1]
    compared = [name for name in expected if f"[0]['{name}']" in result]
    assert len(compared) == 5
    for name in compared:
        np.testing.assert_allclose(
            result[f"[0]['{name}']"], expected[name], **steps.TOLERANCE
        )


def test_two_processes(uninterrupted):
    assert_as_one_process(uninterrupted)


def test_four_processes(data, tmp_path):
    assert_as_one_process(finish(tmp_path, 4, data))


def test_restart_after_a_kill(uninterrupted, data, tmp_path):
    """A process dies in the middle; from the last checkpoint all ends bitwise equal."""
    codes, text = run_job(tmp_path, 2, data, "--killed-at-step", "3")
    assert codes[1] == -signal.SIGKILL, text
    assert not (tmp_path / "result.npz").exists()

    resumed = finish(tmp_path, 2, data)

    assert resumed.pop("start") == 2
    assert len(resumed) == 16  # Params, both moments, and the step count.
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, uninterrupted[name], strict=True)
