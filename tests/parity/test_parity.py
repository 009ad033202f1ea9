"""Our trajectories are those of the published PyTorch package, run beside it."""

import pytest

import golden
from parity_cases import FAMILIES, Family, product_of_hyperparameters
from parity_runs import (
    TOLERANCES,
    assert_decisive,
    largest_difference,
    record,
    trajectories,
)
from torch_reference import run_reference  # Skips this file where torch is missing.


@pytest.fixture(scope="module", params=TOLERANCES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def reference(family, dtype):
    hyperparameters = product_of_hyperparameters(family)
    return run_reference(family, hyperparameters, golden.load().problem, dtype)


def test_trajectories_over_all_hyperparameters(reference, family, dtype):
    hyperparameters = product_of_hyperparameters(family)
    ours = trajectories(family, hyperparameters, golden.load().problem, dtype)
    difference = largest_difference(ours, reference.weights)
    assert difference.relative <= TOLERANCES[dtype], difference


def test_every_outcome_is_frequent(reference):
    assert_decisive(reference)


def test_golden_file_is_what_the_reference_does(reference, family, dtype):
    kept = golden.load().runs[str(family)]
    difference = largest_difference(record(reference.weights), kept.weights)
    assert difference.relative <= TOLERANCES[dtype], difference
    # No decision depends on the precision.
    assert (reference.counts == kept.counts).all()


@pytest.mark.parametrize(
    ("algorithm", "ours", "theirs"),
    [
        pytest.param("adamp", {}, {}, id="adamp-defaults"),
        pytest.param(
            "adamp", {"b1": 0.5, "b2": 0.9}, {"b1": 0.5, "b2": 0.9}, id="adamp-betas"
        ),
        pytest.param("sgdp", {"momentum": 0.0}, {}, id="sgdp-defaults"),
        pytest.param("sgdp", {"momentum": None}, {}, id="sgdp-no-momentum"),
        pytest.param("sgdp", {"momentum": 0.5}, {"momentum": 0.5}, id="sgdp-momentum"),
    ],
)
def test_other_settings(algorithm, ours, theirs):
    # What is not given takes its default, the same on both sides but for momentum.
    family, decay = Family(algorithm, nesterov=False), {"weight_decay": 1e-2}
    problem = golden.load().problem
    reference = run_reference(family, theirs | decay, problem, "float64")
    weights = trajectories(family, ours | decay, problem, "float64")
    difference = largest_difference(weights, reference.weights)
    assert difference.relative <= TOLERANCES["float64"], difference
