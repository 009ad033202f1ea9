"""What one step of an optimizer costs, in the compiler's own words.

XLA compiles for chips that are not there, and its program says how many bytes it moves,
how many kernels it runs, how much scratch memory it takes and what it sends between
devices: without a clock, and so without noise.
"""

import functools
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Both compilers look for the machine's own chips, unless told that there are none.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# A chip is for one process; to compile, several may load its library.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

# XLA's GpuTargetConfigProto.
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150000000000
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H200"
"""


@functools.cache
def tpus(topology: str) -> list[Any]:
    """The chips of a TPU slice, such as "v5e:2x4"."""
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


@functools.cache
def h200s(topology: str = "1x1x1") -> list[Any]:
    """NVIDIA H200s; "2x8x1" are two hosts with eight."""
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", topology=topology, target_config=_H200
    ).devices


def compile_step(tx: Any, params: Any, sharding: Any) -> jax.stages.Compiled:
    """A training step without the model: it takes gradients and replaces its inputs.

    Args:
      tx: The optimizer.
      params: A tree of `jax.ShapeDtypeStruct`.
      sharding: How the parameters, and what belongs to them, lie on the devices: a tree
        of `NamedSharding`, one for all, or one device.
    """
    if isinstance(sharding, jax.Device):
        sharding = NamedSharding(Mesh(np.array([sharding]), "x"), PartitionSpec())
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, params)
    mesh = jax.tree.leaves(sharding)[0].mesh
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(array: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optax.tree.map_params(
        tx,
        place,
        jax.eval_shape(tx.init, params),
        sharding,
        transform_non_params=lambda array: place(array, replicated),
    )
    params = jax.tree.map(place, params, sharding)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    with jax.set_mesh(mesh):
        return jitted.lower(params, state, params).compile()


def device_mesh(shape: tuple[int, ...], axis_type: AxisType = AxisType.Auto) -> Any:
    """The devices that tests/conftest.py asks for, on axes x, y, ..."""
    names = tuple("xyz"[: len(shape)])
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))


def arrays_moved(moved: float, params: Any) -> float:
    """Bytes moved over the bytes of all parameters."""
    arrays = jax.tree.leaves(params)
    return moved / sum(array.size * array.dtype.itemsize for array in arrays)


def scratch(compiled: jax.stages.Compiled, params: Any) -> float:
    """Scratch memory over the bytes of the largest parameter."""
    arrays = jax.tree.leaves(params)
    largest = max(array.size * array.dtype.itemsize for array in arrays)
    return compiled.memory_analysis().temp_size_in_bytes / largest


def bytes_accessed(compiled: jax.stages.Compiled) -> float:
    """What a TPU moves. Exact only for arrays too large for its on-chip memory."""
    return compiled.cost_analysis()["bytes accessed"]


class Operation(NamedTuple):
    """One line of a compiled program."""

    name: str
    opcode: str
    operands: list[str]
    result_bytes: int


def gpu_kernels(compiled: jax.stages.Compiled) -> dict[str, int]:
    """What a GPU launches, one kernel each, and the bytes that it reads and writes."""
    no_kernel = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
    # Other computations are the insides of kernels.
    entry = compiled.as_text().split("\nENTRY ")[1]
    operations = {operation.name: operation for operation in _operations(entry)}
    return {
        name: operation.result_bytes
        + sum(operations[operand].result_bytes for operand in operation.operands)
        for name, operation in operations.items()
        if operation.opcode not in no_kernel
    }


class Collective(NamedTuple):
    """A message between devices."""

    kind: str
    result_bytes: int  # That arrive at each of them.


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """What devices send each other in a step."""
    # %name = (f32[8]{0:T(8,128)}, f32[]) all-reduce-start(%operand), more
    kinds = r"(?:all|collective|ragged|send|recv|reduce-scatter)\b[\w-]*"
    return [
        Collective(kind.removesuffix("-start"), _bytes_of(result))
        for result, kind in re.findall(rf" = (.+?) ({kinds})\(", compiled.as_text())
        if not kind.endswith("-done")
    ]


def _operations(text: str) -> Iterator[Operation]:
    """The operations in the text of a program for a GPU."""
    for line in text.splitlines():
        # %name = f32[8,16]{1,0} opcode(%operand, %operand), more
        match = re.match(r"\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)", line)
        if match:
            name, result, opcode, operands = match.groups()
            yield Operation(
                name,
                opcode,
                re.findall(r"%([\w.-]+)", operands),
                _bytes_of(result),
            )


def _bytes_of(result: str) -> int:
    """Bytes of a result, for "(f32[8,16]{1,0}, f32[])" and the like."""
    return sum(
        math.prod(int(size) for size in shape.split(",") if size) * _itemsize(dtype)
        for dtype, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", result)
    )


def _itemsize(dtype: str) -> int:
    """Bytes of a number, for "f32" and the like."""
    bits = re.search(r"\d+$", dtype)
    return int(bits[0]) // 8 if bits else 1  # pred
