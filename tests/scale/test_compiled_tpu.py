"""The memory traffic of one step in the programs that XLA makes for TPUs."""

import jax.numpy as jnp
import optax
import pytest

import compiled
import trees
from optax_adamp import ProjectionDimensionNumbers, adamp, sgdp

pytest.importorskip("libtpu", reason='needs pip install -e ".[tpu-compile]"')

# Large, so that nothing stays in the chip's own memory between two passes.
FOUR = trees.matrices(*[(8192, 8192)] * 4)
STACKED = trees.matrices((8, 4096, 4096))
BFLOAT16 = trees.matrices((8192, 8192), dtype=jnp.bfloat16)
OF_STACK = ProjectionDimensionNumbers(1, 2)
CHANNEL = ProjectionDimensionNumbers(0, 1, view="channel")

# The arrays that a step must move. The radial part is known only after all of a weight
# and its update were seen, so two passes are the least: the first reads the gradient,
# the weight and the moments and writes the moments; the second reads the weight and the
# moments, or the update, and writes the weight.
STEPS = {
    "adamw": (optax.adamw(1e-3, weight_decay=0.1), FOUR, 7),
    "adamp": (adamp(1e-3, weight_decay=0.1), FOUR, 10),
    "adamp, Nesterov": (adamp(1e-3, nesterov=True), FOUR, 10),
    "adamp, stacked": (adamp(1e-3, dimension_numbers=OF_STACK), STACKED, 10),
    "adamp, fixed view": (adamp(1e-3, dimension_numbers=CHANNEL), FOUR, 10),
    "adamp, bfloat16": (adamp(1e-3, weight_decay=0.1), BFLOAT16, 10),
    "sgd": (optax.sgd(0.1, momentum=0.9), FOUR, 5),
    "sgdp": (sgdp(0.1, weight_decay=1e-4), FOUR, 7),
    # The update is neither the gradient nor the momentum: both are read again.
    "sgdp, Nesterov": (sgdp(0.1, nesterov=True), FOUR, 8),
    "sgdp, stacked": (sgdp(0.1, dimension_numbers=OF_STACK), STACKED, 7),
    "sgdp, fixed view": (sgdp(0.1, dimension_numbers=CHANNEL), FOUR, 7),
    "sgdp, bfloat16": (sgdp(0.1, weight_decay=1e-4), BFLOAT16, 7),
}


@pytest.mark.parametrize("step", STEPS)
def test_moves_no_more_than_two_passes_must(step):
    tx, params, arrays = STEPS[step]
    program = compiled.compile_step(tx, params, compiled.tpus("v5e:2x4")[0])
    moved = compiled.arrays_moved(compiled.bytes_accessed(program), params)
    # The sums of the channels come on top.
    assert moved == pytest.approx(arrays, abs=0.005)


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2"])
def test_other_chips(topology):
    tx, params, arrays = STEPS["adamp"]
    program = compiled.compile_step(tx, params, compiled.tpus(topology)[0])
    moved = compiled.arrays_moved(compiled.bytes_accessed(program), params)
    assert moved == pytest.approx(arrays, abs=0.005)


@pytest.mark.parametrize(
    ("step", "leaves"), [("adamp", 0), ("adamp, Nesterov", 1), ("sgdp", 0)]
)
def test_scratch_memory(step, leaves):
    """At most the update of one parameter is kept, and that only with Nesterov."""
    tx, params, _ = STEPS[step]
    program = compiled.compile_step(tx, params, compiled.tpus("v5e:2x4")[0])
    assert compiled.scratch(program, params) < leaves + 0.01
