"""Our trajectories are those of the published PyTorch package, as kept in a file."""

import numpy as np
import pytest

import golden
from parity_cases import FAMILIES, product_of_hyperparameters
from parity_runs import (
    TOLERANCES,
    assert_decisive,
    largest_difference,
    record,
    trajectories,
)

all_families = pytest.mark.parametrize("family", FAMILIES, ids=str)


@all_families
def test_trajectories_over_all_hyperparameters(family):
    hyperparameters = product_of_hyperparameters(family)
    ours = trajectories(family, hyperparameters, golden.load().problem, "float64")
    reference = golden.load().runs[str(family)].weights
    difference = largest_difference(record(ours), reference)
    assert difference.relative <= TOLERANCES["float64"], difference


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.nightly if family.nesterov else ())
        for family in FAMILIES
    ],
    ids=str,
)
def test_trajectories_in_ordinary_use(family):
    # In float32, and with hyperparameters that are Python numbers, not tracers.
    product = product_of_hyperparameters(family)
    usual = {"weight_decay": 1e-2, "eps": 1e-8, "delta": 0.1, "wd_ratio": 0.1}
    matches = np.all([product[name] == usual[name] for name in usual], axis=0)
    index = int(np.argmax(matches))
    numbers = {name: values[index].item() for name, values in product.items()}
    assert usual.items() <= numbers.items()

    ours = trajectories(family, numbers, golden.load().problem, "float32")
    weights = golden.load().runs[str(family)].weights
    reference = {name: weight[[index]] for name, weight in weights.items()}
    difference = largest_difference(record(ours), reference)
    assert difference.relative <= TOLERANCES["float32"], difference


@all_families
def test_every_outcome_is_frequent(family):
    assert_decisive(golden.load().runs[str(family)])


def test_the_file_is_small():
    assert golden.PATH.stat().st_size < 1_000_000
