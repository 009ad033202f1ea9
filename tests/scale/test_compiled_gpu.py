"""Memory traffic and kernels of one step in the program that XLA makes for an H200."""

import optax
import pytest

import compiled
import trees
from optax_adamp import ProjectionDimensionNumbers, adamp, sgdp

for part in ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc"):
    pytest.importorskip(part, reason='needs pip install -e ".[gpu-compile]"')

MATRIX = trees.matrices((8192, 8192))
INPUT_LAST = ProjectionDimensionNumbers(reduction_axis=1, output_axis=0)
CHANNEL = ProjectionDimensionNumbers(0, 1, view="channel")

# The arrays that a step moves. Two passes must move 10 for AdamP and 7 for SGDP: see
# test_compiled_tpu.py. XLA grants a float32 sum along any axis but the last 16.5 of a
# kernel's 48 KiB of shared memory. Two of them fit; the four sums of the algorithm
# take a second kernel, which reads two arrays again.
STEPS = {
    "adamw": (optax.adamw(1e-3, weight_decay=0.1), 7),
    "adamp": (adamp(1e-3, weight_decay=0.1), 12),
    "adamp, input last": (adamp(1e-3, dimension_numbers=INPUT_LAST), 10),
    "adamp, fixed view": (adamp(1e-3, dimension_numbers=CHANNEL), 10),
    "sgd": (optax.sgd(0.1, momentum=0.9), 5),
    "sgdp": (sgdp(0.1, weight_decay=1e-4), 9),
    "sgdp, input last": (sgdp(0.1, dimension_numbers=INPUT_LAST), 7),
    "sgdp, fixed view": (sgdp(0.1, dimension_numbers=CHANNEL), 7),
}


def kernels_and_arrays(tx, params):
    kernels = compiled.gpu_kernels(
        compiled.compile_step(tx, params, compiled.h200s()[0])
    ).values()
    return len(kernels), compiled.arrays_moved(sum(kernels), params)


@pytest.mark.parametrize("step", STEPS)
def test_arrays_moved(step):
    tx, arrays = STEPS[step]
    _, moved = kernels_and_arrays(tx, MATRIX)
    # Sums of that many rows are taken in two steps, whose partial sums come on top.
    assert moved == pytest.approx(arrays, abs=0.07)


FIXED = trees.fixed_views(None)
RESNET50, SMALL = trees.resnet50(), trees.matrices(*[(256, 256)] * 50)


@pytest.mark.parametrize(
    ("optimizer", "dimension_numbers", "params", "most_arrays", "most_kernels"),
    [
        # 54 of its 161 parameters are projected; the others take one kernel each.
        pytest.param(adamp, None, RESNET50, 13.2, 410, id="adamp-ResNet-50"),
        pytest.param(sgdp, None, RESNET50, 9.9, 410, id="sgdp-ResNet-50"),
        pytest.param(adamp, FIXED, RESNET50, 11.5, 285, id="adamp-ResNet-50-fixed"),
        pytest.param(sgdp, FIXED, RESNET50, 7.9, 256, id="sgdp-ResNet-50-fixed"),
        pytest.param(adamp, None, SMALL, 13.1, 255, id="adamp-50"),
        pytest.param(sgdp, None, SMALL, 9.1, 255, id="sgdp-50"),
        # Two kernels more than the base optimizer has for each, and for SGDP one.
        pytest.param(adamp, FIXED, SMALL, 12.1, 155, id="adamp-50-fixed"),
        pytest.param(sgdp, FIXED, SMALL, 7.1, 105, id="sgdp-50-fixed"),
    ],
)
def test_kernels(optimizer, dimension_numbers, params, most_arrays, most_kernels):
    tx = optimizer(1e-3, weight_decay=0.1, dimension_numbers=dimension_numbers)
    kernels, moved = kernels_and_arrays(tx, params)
    assert moved < most_arrays
    assert kernels <= most_kernels
