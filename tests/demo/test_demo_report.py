"""What the demo says of histories that are made up."""

import types

import jax
import numpy as np
import pytest
import scipy.stats

from optax_adamp._demo import report
from optax_adamp._demo.data import Data
from optax_adamp._demo.training import History

DATA = Data(np.zeros((1234, 4)), np.zeros(1234), np.zeros((200, 4)), np.zeros(200))


def history(accuracy, norm_growth=((2.0,), (3.0,))):
    """Of shapes (epochs, seeds) and (1 + epochs, seeds)."""
    return History(
        accuracy=np.array(accuracy),
        norm_growth=np.array(norm_growth),
        effective_step=np.array([[0.01]]),
        views={},
    )


def table(histories):
    return report.table(histories, dict.fromkeys(histories, 1e-3), DATA)


def test_introduction_counts_and_names_the_kind_of_a_device(monkeypatch):
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA T4")
    monkeypatch.setattr(jax, "devices", lambda: [device, "another"])
    introduction = report.introduction(
        ["adamw", "sgd"],
        DATA,
        epochs=1,
        seeds=2,
        learning_rates={"Adam": 0.01, "SGD": 0.5},
        weight_decay=0.025,
    )
    text = " ".join(introduction.split())
    for words in (
        *("1,234 images", "AdamW, SGD", "1 epoch,", "2 seeds", "weight decay 0.025"),
        "learning rate 0.01 (Adam) and 0.5 (SGD)",
    ):
        assert words in text
    assert text.endswith(" Device: gpu (NVIDIA T4)")


def test_a_single_seed_has_no_deviation():
    text = table({"sgd": history([[0.5]])})
    (row,) = [line for line in text.splitlines() if line.startswith("SGD ")]
    assert " ".join(row.split()) == "SGD 50.0 ± n/a 3.00 ± n/a 0.01000 1.00 ms"
    assert "standard deviation" not in text
    assert "single seed" in text


def test_table_says_which_optimizers_diverged():
    at_once, later = [[np.nan], [np.nan]], [[1], [np.inf]]
    histories = {
        "adamw": history([[0.1]]),
        "sgd": history([[0.1]], norm_growth=at_once),
        "sgdp": history([[0.1]], norm_growth=later),
    }
    diverged = "Diverged: SGD, SGDP. Try a smaller learning rate."
    assert diverged in table(histories).splitlines()
    assert "Diverged" not in table({"adamw": history([[0.1]])})


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
    assert line.split(maxsplit=3) == ["SGDP", "-", "SGD", verdict]


def test_the_interval_is_the_paired_t_interval():
    a, b = [0.971, 0.984, 0.962, 0.990, 0.977], [0.979, 0.981, 0.975, 0.991, 0.986]
    mean, half_width = report.paired_interval(np.subtract(a, b))
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half_width, mean + half_width], interval)


def test_no_comparison_without_a_pair_and_no_projections_without_who_projects():
    histories = {"adamw": history([[0.9, 0.8]]), "sgdp": history([[0.8, 0.9]])}
    assert report.comparisons(histories, DATA) == ""
    text = report.projections({"sgd": history([[0.9]])}, {})
    assert text == "Projected parameters: none, AdamW and SGD project nothing."
