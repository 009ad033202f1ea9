"""What devices send each other in one step, in the compiled program."""

import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import compiled
import optax_adamp
import trees

INPUTS, OUTPUTS = 16, 32
FLOAT32 = 4

# What the sums of one channel, and of one layer with its count of failures, come to.
CHANNEL, LAYER = 4 * FLOAT32, 5 * FLOAT32

# For weights (stack, inputs, outputs) on a mesh of 4 x 2: how they are sharded, the
# all-reduces of a step, and the bytes of one layer that arrive at each device.
SHARDINGS = {
    "replicated": (PartitionSpec(), 0, 0),
    "reduction axis": (PartitionSpec(None, "x"), 1, OUTPUTS * CHANNEL),
    "output axis": (PartitionSpec(None, None, "x"), 1, LAYER),
    "both": (PartitionSpec(None, "x", "y"), 2, OUTPUTS // 2 * CHANNEL + LAYER),
    "two mesh axes on one": (PartitionSpec(None, ("x", "y")), 1, OUTPUTS * CHANNEL),
    "batch axis": (PartitionSpec("x"), 0, 0),
    "batch and output": (PartitionSpec("x", None, "y"), 1, LAYER),
}
OPTIMIZERS = {"adamp": optax_adamp.adamp, "sgdp": optax_adamp.sgdp}


def sent(
    optimizer, partition, layers, *, stack=1, axis_type=AxisType.Auto, view="auto"
):
    """The kinds of collectives in a step, and their bytes."""
    mesh = compiled.device_mesh((4, 2), axis_type)
    params = trees.matrices(*[(stack, INPUTS, OUTPUTS)] * layers)
    spec = optax_adamp.ProjectionDimensionNumbers(1, 2, view)
    tx = OPTIMIZERS[optimizer](1e-3, weight_decay=0.1, dimension_numbers=spec)
    program = compiled.compile_step(tx, params, NamedSharding(mesh, partition))
    operations = compiled.collectives(program)
    kinds = [operation.kind for operation in operations]
    return kinds, sum(operation.result_bytes for operation in operations)


@pytest.mark.parametrize("case", SHARDINGS)
@pytest.mark.parametrize("layers", [2, pytest.param(48, marks=pytest.mark.nightly)])
def test_all_reduces_at_any_depth(case, layers):
    """One for sums along the reduction axis, one along the output axis."""
    partition, all_reduces, layer_bytes = SHARDINGS[case]
    # A sharded batch axis leaves one of its four elements to each device.
    kinds, sent_bytes = sent(
        "adamp", partition, layers, stack=4 if "batch" in case else 1
    )
    assert kinds == ["all-reduce"] * all_reduces
    assert sent_bytes == layers * layer_bytes


@pytest.mark.parametrize(
    ("optimizer", "axis_type"), [("adamp", AxisType.Explicit), ("sgdp", AxisType.Auto)]
)
def test_the_same_for_explicit_axes_and_sgdp(optimizer, axis_type):
    partition, all_reduces, layer_bytes = SHARDINGS["both"]
    kinds, sent_bytes = sent(optimizer, partition, 2, axis_type=axis_type)
    assert kinds == ["all-reduce"] * all_reduces
    assert sent_bytes == 2 * layer_bytes


@pytest.mark.parametrize(
    ("view", "case", "all_reduces", "layer_bytes"),
    [
        # Two sums of a channel; nobody asks about the channels of other devices.
        ("channel", "both", 1, OUTPUTS // 2 * 2 * FLOAT32),
        ("channel", "output axis", 0, 0),
        # One message along each mesh axis, of the same two sums.
        ("layer", "both", 2, 2 * 2 * FLOAT32),
    ],
)
def test_messages_of_fixed_views(view, case, all_reduces, layer_bytes):
    kinds, sent_bytes = sent("adamp", SHARDINGS[case][0], 2, view=view)
    assert kinds == ["all-reduce"] * all_reduces
    assert sent_bytes == 2 * layer_bytes
