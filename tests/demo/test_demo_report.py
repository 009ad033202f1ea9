"""What the demo says of histories that are made up, word for word."""

import types

import jax
import numpy as np
import pytest
import scipy.stats

from optax_adamp._demo import report
from optax_adamp._demo.data import Data
from optax_adamp._demo.measures import Shares
from optax_adamp._demo.training import History

DATA = Data(np.zeros((1234, 4)), np.zeros(1234), np.zeros((200, 4)), np.zeros(200))


def history(
    accuracy, norm_growth=((2.0,), (3.0,)), effective_step=((0.01,),), views=()
):
    """Of shapes (epochs, seeds), (1 + epochs, seeds) and (epochs, seeds)."""
    return History(
        accuracy=np.array(accuracy),
        norm_growth=np.array(norm_growth),
        effective_step=np.array(effective_step),
        views={path: Shares(*shares) for path, shares in dict(views).items()},
    )


THREE_SEEDS = {
    "adamw": history(
        accuracy=[[0.5, 0.6, 0.7], [0.97, 0.98, 0.975]],
        norm_growth=[[1, 1, 1], [2, 2.5, 3], [4, 4.25, 4.75]],
        effective_step=[[0.1, 0.2, 0.3], [0.01, 0.02, 0.03]],
    ),
    "adamp": history(
        accuracy=[[0.1, 0.2, 0.3], [0.98, 0.95, 0.99]],
        norm_growth=[[1, 1, 1], [1, 1.5, 1], [1.25, 1.5, 1.5]],
        effective_step=[[0.2, 0.3, 0.5], [0.03, 0.04, 0.06]],
        views={"kernel": (0.75, 0.125), "head/kernel": (0, 0.0625)},
    ),
    "sgdp": history(
        accuracy=[[0.1, 0.2, 0.3], [0.9, 0.91, 0.89]],
        norm_growth=[[1, 1, 1], [1, 1.5, 1], [1.5, 2, 1.75]],
        effective_step=[[0.3, 0.3, 0.6], [0.03, 0.04, 0.06]],
        views={"kernel": (1, 0), "head/kernel": (0.5, 0.25)},
    ),
}
SECONDS = {"adamw": 0.0123, "adamp": 0.5, "sgdp": 0.0008}


def introduction(**options):
    usual = {
        "epochs": 3,
        "seeds": 1,
        "learning_rates": {"Adam": 0.01, "SGD": 0.5},
        "weight_decay": 0.025,
    }
    return report.introduction(["adamw", "adamp", "sgd"], DATA, **{**usual, **options})


def test_introduction():
    assert (
        introduction()
        == """\
Learning 1,234 images of digits with AdamW, AdamP, SGD: 3 epochs, 1 seed,
learning rate 0.01 (Adam) and 0.5 (SGD) to 0 on a cosine, momentum 0.9, weight
decay 0.025. Momentum lengthens weights before a BatchNorm, so that steps turn
them less. AdamP and SGDP remove from each step what only lengthens them.
Device: cpu"""
    )


def test_introduction_counts_epochs_and_seeds():
    assert ": 1 epoch, 2 seeds," in introduction(epochs=1, seeds=2)


def test_introduction_names_the_kind_of_a_device(monkeypatch):
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA T4")
    monkeypatch.setattr(jax, "devices", lambda: [device, "another"])
    assert introduction().endswith(".\nDevice: gpu (NVIDIA T4)")


def test_table():
    assert (
        report.table(THREE_SEEDS, SECONDS, DATA)
        == """\
             test accuracy       weight norm     effective         time
optimizer                %       end / start          step     per step
-----------------------------------------------------------------------
AdamW           97.5 ± 0.5       4.33 ± 0.38       0.11000     12.30 ms
AdamP           97.3 ± 2.1       1.42 ± 0.14       0.18833    500.00 ms
SGDP            90.0 ± 1.0       1.75 ± 0.25       0.22167      0.80 ms

test accuracy: after the last epoch, on 200 images; mean ± standard deviation
  over 3 seeds
weight norm: of the 3 kernels before a BatchNorm, whose norm does not change
  what the network computes; mean of their ratios, mean ± standard deviation
  over 3 seeds
effective step: how far a step turns these weights, |w'/|w'| - w/|w|| per
  channel; mean over channels, kernels and all steps
time per step: one step of training 3 seeds, without the measurements; median
  of 10 epochs after compilation"""
    )


def test_table_of_a_single_seed_without_a_deviation():
    text = report.table({"sgd": history([[0.5]])}, {"sgd": 0.001}, DATA)
    for line in (
        "SGD             50.0 ± n/a        3.00 ± n/a       0.01000      1.00 ms",
        "test accuracy: after the last epoch, on 200 images; of a single seed",
        "  what the network computes; mean of their ratios, of a single seed",
        "time per step: one step of training 1 seed, without the measurements; median "
        "of",
    ):
        assert line in text.splitlines()


def test_table_of_two_seeds_with_a_deviation():
    histories = {"sgd": history([[0.5, 0.7]], norm_growth=[[1, 1], [3, 4]])}
    row = report.table(histories, {"sgd": 0.001}, DATA).splitlines()[3]
    assert row.startswith("SGD            60.0 ± 14.1       3.50 ± 0.71 ")


def test_table_says_which_optimizers_diverged():
    at_once, later = [[np.nan], [np.nan]], [[1], [np.inf]]
    histories = {
        "adamw": history([[0.1]]),
        "sgd": history([[0.1]], norm_growth=at_once),
        "sgdp": history([[0.1]], norm_growth=later),
    }
    rows = report.table(histories, dict.fromkeys(histories, 1e-3), DATA).splitlines()
    # After two lines of names, a rule and three rows.
    assert rows[6:8] == ["Diverged: SGD, SGDP. Try a smaller learning rate.", ""]


def test_comparisons():
    assert (
        report.comparisons(THREE_SEEDS, DATA)
        == """\
Accuracies closer than their standard deviations are no difference. Pair by
pair, in points (one test image is 0.50), with the 95 % interval over 3 seeds:
  AdamP - AdamW  -0.2 ± 6.1: no difference seen"""
    )


# The spread of n differences times the quantile of t at n - 1, over the root of n.
@pytest.mark.parametrize(
    ("accuracies", "baseline", "verdict"),
    [
        ([98, 97, 99, 98], [99, 98, 97, 98], "+0.0 ± 2.3: no difference seen"),
        ([97, 97, 97], [97, 97, 97], "+0.0 ± 0.0: no difference seen"),
        (
            [96, 95, 97, 96],
            [98, 98, 98, 98],
            "-2.0 ± 1.3: more than the seeds' noise, on one small test set",
        ),
        ([98, 97], [96, 96], "+1.5 ± 6.4: no difference seen"),
        ([99], [90], "+9.0: one seed tells nothing, take more"),
    ],
)
def test_accuracies_differ_only_beyond_the_noise(accuracies, baseline, verdict):
    histories = {
        "sgd": history([np.divide(baseline, 100)]),
        "adamp": history([np.divide(baseline, 100)]),  # Without its counterpart.
        "sgdp": history([np.divide(accuracies, 100)]),
    }
    *_, line = report.comparisons(histories, DATA).splitlines()
    assert line == f"  SGDP - SGD     {verdict}"


def test_the_interval_is_the_paired_t_interval():
    a, b = [0.971, 0.984, 0.962, 0.990, 0.977], [0.979, 0.981, 0.975, 0.991, 0.986]
    mean, half_width = report.paired_interval(np.subtract(a, b))
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half_width, mean + half_width], interval)


def test_no_comparison_without_a_pair():
    histories = {"adamw": history([[0.9, 0.8]]), "sgdp": history([[0.8, 0.9]])}
    assert report.comparisons(histories, DATA) == ""


def test_projections():
    params = {
        "bias": np.zeros((3, 4)),
        "head": {"kernel": np.zeros((3, 4, 10))},
        "kernel": np.zeros((3, 3, 4, 10)),
    }
    assert (
        report.projections(THREE_SEEDS, params)
        == """\
projected, % of steps                     AdamP                  SGDP
parameter              shape       channel  layer   none channel  layer   none
------------------------------------------------------------------------------
bias                   (4,)         never: fewer than two axes
head/kernel            (4, 10)         0.0    6.2   93.8    50.0   25.0   25.0
kernel                 (3, 4, 10)     75.0   12.5   12.5   100.0    0.0    0.0

The last kernel feeds no BatchNorm, and its norm matters. The test passes there
by chance, as it does for 8% of random gradients."""
    )


def test_projections_without_an_optimizer_that_projects():
    assert (
        report.projections({"sgd": history([[0.9]])}, {})
        == "Projected parameters: none, AdamW and SGD project nothing."
    )
