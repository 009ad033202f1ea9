"""One step at the scale of a pod, in the programs of chips that are not there.

A language model of 6.6 billion parameters, its layers scanned, under FSDP and tensor
parallelism: the mesh axis `data` cuts the width of the model, `model` cuts heads,
hidden units and the vocabulary.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import compiled
import optax_adamp
import trees

PAGE = (Path(__file__).parents[1] / "benchmarks" / "README.md").read_text()

LAYERS, WIDTH, VOCABULARY, CONTEXT = 32, 4096, 32768, 4096
FLOAT32 = 4
SPECS = {
    "tokens": PartitionSpec("model", "data"),
    "positions": PartitionSpec(None, "data"),
    "qkv": PartitionSpec(None, "data", "model"),
    "out": PartitionSpec(None, "model", "data"),
    "up": PartitionSpec(None, "data", "model"),
    "down": PartitionSpec(None, "model", "data"),
}


class Pod(NamedTuple):
    """Chips, and how the mesh lies on them."""

    platform: str
    topology: str
    data: int
    model: int


PODS = {
    "v5e 16x16": Pod("tpu", "v5e:16x16", 32, 8),
    "v5p 4x4x4": Pod("tpu", "v5p:4x4x4", 16, 4),
    "v6e 4x4": Pod("tpu", "v6e:4x4", 4, 4),
    "2x8 H200": Pod("gpu", "2x8x1", 2, 8),
}
OPTIMIZERS = {"AdamP": optax_adamp.adamp, "SGDP": optax_adamp.sgdp}


def spec_of(path: Any, leaf: Any) -> PartitionSpec:
    names = [entry.key for entry in path]
    key = names[-2] if names[-1] == "kernel" else names[-1]
    return SPECS.get(key, PartitionSpec())


def bytes_of_sums(pod: Pod) -> int:
    """Four sums a channel; five numbers a layer, where its channels are cut."""
    width, hidden = WIDTH // pod.data, 4 * WIDTH // pod.model
    of_kernels = 3 * WIDTH // pod.model + width + hidden + width
    channels = LAYERS * of_kernels + VOCABULARY // pod.model + CONTEXT
    cut = 4 * LAYERS + 1  # All kernels, and the tokens
    return FLOAT32 * (4 * channels + 5 * cut)


@functools.cache
def program(name: str, optimizer: str) -> jax.stages.Compiled:
    pod = PODS[name]
    if pod.platform == "tpu":
        pytest.importorskip("libtpu", reason='needs pip install -e ".[tpu-compile]"')
        devices = compiled.tpus(pod.topology)
    else:
        for part in ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc"):
            pytest.importorskip(part, reason='needs pip install -e ".[gpu-compile]"')
        devices = compiled.h200s(pod.topology)
    params = trees.gpt2(
        scanned=True,
        layers=LAYERS,
        width=WIDTH,
        vocabulary=VOCABULARY,
        context=CONTEXT,
    )
    mesh = Mesh(np.array(devices).reshape(pod.data, pod.model), ("data", "model"))
    shardings = jax.tree.map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_of(path, leaf)), params
    )
    tx = OPTIMIZERS[optimizer](
        1e-3,
        weight_decay=0.1,
        dimension_numbers=trees.gpt2_dimension_numbers(scanned=True),
    )
    return compiled.compile_step(tx, params, shardings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PODS)
def test_sends_sums_alone(name, optimizer):
    messages = compiled.collectives(program(name, optimizer))
    # `data` cuts the inputs of some kernels and the outputs of others, and so does
    # `model`: sums over one, over the other, and over the first again.
    assert [message.kind for message in messages] == ["all-reduce"] * 3
    sent = sum(message.result_bytes for message in messages)
    assert sent == bytes_of_sums(PODS[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PODS)
def test_scratch_memory(name, optimizer):
    """At most a chip's part of the largest parameter, the kernels up or down."""
    largest = LAYERS * WIDTH * 4 * WIDTH * FLOAT32
    chips = PODS[name].data * PODS[name].model
    assert scratch(program(name, optimizer)) < largest / chips


@pytest.mark.parametrize("name", PODS)
def test_page_shows_what_was_counted(name):
    pod, step = PODS[name], program(name, "AdamP")
    cells = (
        name,
        f"{pod.data} x {pod.model}",
        f"{len(compiled.collectives(step))}",
        f"{bytes_of_sums(pod) / 1e6:.1f} MB",
        f"{scratch(step) / 1e6:.1f} MB",
    )
    assert f"| {' | '.join(cells)} |\n" in PAGE


def scratch(program: jax.stages.Compiled) -> int:
    return program.memory_analysis().temp_size_in_bytes
