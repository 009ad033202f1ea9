"""One process of a job that trains together; `test_processes.py` starts them."""

import argparse
import os
import pathlib
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import sharded_steps as steps
from optax_adamp import adamp

SPECS = {
    "dense to channel": P("x", "y"),
    "dense to layer": P(("y", "x")),
    "dense to none": P(None, ("x", "y")),
    "stack": P("x", None, "y"),
    "bias": P("x"),
}


def main(job):
    jax.distributed.initialize(
        job.address,
        job.processes,
        job.index,
        coordinator_bind_address=job.address,
        initialization_timeout=60,
    )
    mesh = steps.make_mesh((2, 2))
    assert len(jax.local_devices()) == 4 // job.processes
    data = np.load(job.data)

    def read(prefix):
        return {
            name: jax.make_array_from_callback(
                data[f"{prefix} {name}"].shape,
                NamedSharding(mesh, spec),
                data[f"{prefix} {name}"].__getitem__,
            )
            for name, spec in SPECS.items()
        }

    numbers = {name: steps.LEAVES[name].spec for name in SPECS}
    tx = steps.make_optimizer(adamp, numbers)
    step = steps.make_step(tx)
    everywhere = NamedSharding(mesh, P())
    options = ocp.CheckpointManagerOptions(save_interval_steps=2)
    with ocp.CheckpointManager(job.checkpoints, options=options) as checkpoints:
        params = read("params")
        # The step count, which is made here, belongs to all devices as well.
        state = jax.tree.map(
            lambda leaf: leaf if leaf.ndim else jax.device_put(leaf, everywhere),
            tx.init(params),
        )
        start = checkpoints.latest_step() or 0
        if start:
            described = ocp.args.StandardRestore((params, state))
            params, state = checkpoints.restore(start, args=described)
        for number in range(start, steps.STEPS):
            if (number, job.index) == (job.killed_at_step, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            params, state, _ = step(params, state, read(f"grads {number}"))
            checkpoints.save(number + 1, args=ocp.args.StandardSave((params, state)))
            checkpoints.wait_until_finished()
        gather = jax.jit(lambda tree: tree, out_shardings=everywhere)
        leaves, _ = jax.tree.flatten_with_path(gather((params, state)))
    if job.index == 0:
        arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        np.savez(job.result, start=start, **arrays)
    jax.distributed.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--index", type=int)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--checkpoints", type=pathlib.Path)
    parser.add_argument("--result", type=pathlib.Path)
    parser.add_argument("--killed-at-step", type=int)
    main(parser.parse_args())
