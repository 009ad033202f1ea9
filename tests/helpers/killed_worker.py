"""Trains in processes that it kills until the last may finish; for `test_killed.py`.

Each process is forked after the slow imports and before jax starts. It takes one step
for each byte that it gets, so that it can be killed in a chosen one, at any moment.
"""

import argparse
import itertools
import json
import os
import pathlib
import signal
import sys
import time
import traceback

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

import training
from optax_adamp import adamp, sgdp


def train(folder, steps, wait, report):
    """Goes on from the last checkpoint, and saves each step, as a user's script does.

    Args:
      folder: For the checkpoints and the result.
      steps: How many there are in all.
      wait: Called before each step.
      report: Called with the number of steps done, at first and after each.
    """
    # Schedules: their steps must be counted on from where they were.
    schedules = {
        name: optax.cosine_decay_schedule(value, steps)
        for name, value in (("learning_rate", 0.1), ("weight_decay", 0.1))
    }
    txs = {"adamp": adamp(**schedules), "sgdp": sgdp(**schedules, nesterov=True)}

    @jax.jit
    def step(runs, batch):
        def step_one(tx, params, state):
            grads = jax.grad(training.loss_fn)(params, batch)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return {name: step_one(tx, *runs[name]) for name, tx in txs.items()}

    batches = list(zip(*training.all_batches(steps), strict=True))
    params = training.initial_params()
    runs = {name: (params, tx.init(params)) for name, tx in txs.items()}
    options = ocp.CheckpointManagerOptions(max_to_keep=3)
    with ocp.CheckpointManager(folder / "checkpoints", options=options) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start:
            runs = checkpoints.restore(start, args=ocp.args.StandardRestore(runs))
        report(start)
        for done in range(start + 1, steps + 1):
            wait()
            runs = step(runs, batches[done - 1])
            # In the background, while training goes on.
            checkpoints.save(done, args=ocp.args.StandardSave(runs))
            report(done)
    leaves, _ = jax.tree.flatten_with_path(runs)
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    np.savez(folder / "result.npz", **arrays)


class Process:
    """A forked process that trains."""

    def __init__(self, folder, steps):
        permits, self._permits = os.pipe()
        self._reports, reports = os.pipe()
        self._id = os.fork()
        if self._id == 0:
            os.close(self._permits)
            os.close(self._reports)
            train_and_exit(folder, steps, permits, reports)
        os.close(permits)
        os.close(reports)

    def permit(self, steps=1):
        os.write(self._permits, bytes(steps))

    def next_report(self):
        """The number of steps done; waits for it."""
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._reports, 1) or sys.exit("A process has failed.")
        return int(line)

    def stop(self):
        """Until it goes on or is killed; waits for it."""
        os.kill(self._id, signal.SIGSTOP)
        os.waitpid(self._id, os.WUNTRACED)

    def go_on(self):
        os.kill(self._id, signal.SIGCONT)

    def kill(self):
        os.kill(self._id, signal.SIGKILL)

    def end(self):
        """Waits for the end, and returns the exit code, or minus the signal."""
        _, status = os.waitpid(self._id, 0)
        os.close(self._permits)
        os.close(self._reports)
        return os.waitstatus_to_exitcode(status)


def train_and_exit(folder, steps, permits, reports):
    def wait():
        if not os.read(permits, 1):  # The parent has died.
            os._exit(1)

    status = 1
    try:
        train(folder, steps, wait, lambda done: os.write(reports, b"%d\n" % done))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait_in_step(process, checkpoints, steps, rng):
    """Until a step is computed, saved, or over."""
    start = process.next_report()
    for _ in range(min(rng.integers(4), steps - 1 - start)):
        process.permit()
        process.next_report()
    process.permit()
    time.sleep(rng.uniform(0, 0.3))


def wait_in_writing(process, checkpoints, steps, rng):
    """Until a checkpoint is written in part."""
    start = process.next_report()
    delay = 0.1
    for done in range(start + 1, steps):
        process.permit()
        process.next_report()
        if done == start + 1:  # An earlier process may have left this one unfinished.
            continue
        time.sleep(rng.uniform(0, delay))
        process.stop()
        # Orbax writes to a folder with a longer name, and then renames it.
        if any(checkpoints.glob(f"{done}.*")):
            return
        process.go_on()
        delay /= 2  # It was too late.


def wait_in_start(process, checkpoints, steps, rng):
    """Until jax has started, or the last checkpoint is restored, in part or whole."""
    time.sleep(rng.uniform(0, 1))


MOMENTS = {
    "step": wait_in_step,
    "writing": wait_in_writing,
    "start": wait_in_start,
}


def train_and_kill(folder, steps, kills):
    """Trains to the end, through so many kills.

    Returns:
      For each process when and how it ended, and the checkpoints that it left: the last
      of those that are complete, and whether there are others.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    checkpoints = folder / "checkpoints"
    history = []
    for moment in [*itertools.islice(itertools.cycle(MOMENTS), kills), "end"]:
        process = Process(folder, steps)
        if moment == "end":
            process.permit(steps)
        else:
            MOMENTS[moment](process, checkpoints, steps, rng)
            process.kill()
        code = process.end()
        names = [path.name for path in checkpoints.glob("*")]
        complete = [int(name) for name in names if name.isdecimal()]
        history.append(
            {
                "moment": moment,
                "code": code,
                "last": max(complete, default=0),
                "unfinished": len(complete) < len(names),
            }
        )
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kills", type=int)
    arguments = parser.parse_args()
    for name, kills in (("uninterrupted", 0), ("killed", arguments.kills)):
        history = train_and_kill(arguments.folder / name, arguments.steps, kills)
    print(json.dumps(history))
