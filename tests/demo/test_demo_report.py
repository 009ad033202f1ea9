"""What the demo says of histories that are made up."""

import types

import jax
import numpy as np
import pytest
import scipy.stats

from optax_adamp._demo import report
from optax_adamp._demo.data import Data, Split
from optax_adamp._demo.training import History, Score

DATA = Data(*(Split(np.zeros(0), np.zeros(count)) for count in (1234, 300, 200)))


def history(accuracy, validation=(0.1, 0.2, 0.5, 0.3, 0.1)):
    """From test accuracies of shape (rates, seeds), or of the seeds at each rate."""
    accuracy = np.broadcast_to(accuracy, (5, np.shape(accuracy)[-1]))
    chosen_by = np.broadcast_to(np.array(validation)[:, None], accuracy.shape)
    growth = np.full((2, *accuracy.shape), 3)
    step = np.full((1, *accuracy.shape), 0.01)
    return History(
        Score(chosen_by, chosen_by), Score(accuracy, 2 * accuracy), growth, step
    )


def test_introduction_counts_and_names_the_kind_of_a_device(monkeypatch):
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA T4")
    monkeypatch.setattr(jax, "devices", lambda: [device, "another"])
    introduction = report.introduction(["adamw", "sgd"], DATA, epochs=1, seeds=2)
    text = " ".join(introduction.split())
    for words in ("1,234 images", "AdamW, SGD", "1 epoch.", "2 seeds"):
        assert words in text
    assert text.endswith(" Device: gpu (NVIDIA T4)")


def test_table_of_a_single_seed_has_no_interval_and_marks_the_validated_rate():
    text = report.table({"sgd": history([0.5])}, DATA)
    rows = [line.split() for line in text.splitlines() if line.startswith("SGD ")]
    assert [row[1] for row in rows] == ["0.01", "0.03", "0.1*", "0.3", "1"]
    assert all(row[2:] == ["50.0", "1.000", "3.00", "0.01000"] for row in rows)
    assert "95 %" not in text
    assert "single seed" in text


def test_table_shows_what_diverged():
    broken = history([0.1])
    broken = broken._replace(
        norm_growth=np.full_like(broken.norm_growth, np.nan, float)
    )
    assert " nan " in report.table({"sgd": broken}, DATA)


# The spread of n differences times the quantile of t at n - 1, over the root of n.
@pytest.mark.parametrize(
    ("accuracies", "baseline", "words"),
    [
        ([98, 97, 99, 98], [99, 98, 97, 98], "+0.0 ± 2.3, no difference seen"),
        ([97, 97, 97], [97, 97, 97], "+0.0 ± 0.0, no difference seen"),
        ([96, 95, 97, 96], [98, 98, 98, 98], "-2.0 ± 1.3, worse"),
        ([98, 98, 98, 98], [96, 95, 97, 96], "+2.0 ± 1.3, better"),
        ([98, 97], [96, 96], "+1.5 ± 6.4, no difference seen"),
        ([99], [90], "+9.0: one seed tells nothing, take more"),
    ],
)
def test_accuracies_differ_only_beyond_the_noise(accuracies, baseline, words):
    histories = {
        "sgd": history(np.divide(baseline, 100)),
        "adamp": history(np.divide(baseline, 100)),  # Without its counterpart.
        "sgdp": history(np.divide(accuracies, 100)),
    }
    title, *lines, _ = report.comparisons(histories).splitlines()
    assert title.startswith("SGDP - SGD, ")
    assert len(lines) == 6  # At the rates of their own, and side by side at all five.
    assert all(line.endswith(f": {words}") for line in lines)


def test_each_is_judged_at_the_rate_that_its_validation_images_choose():
    plain = history([[0.1], [0.2], [0.3], [0.4], [0.9]])  # Not at its best test rate.
    held = history([[0.5], [0.7], [0.86], [0.84], [0]], validation=[0.1, 0.9, 0, 0, 0])
    text = report.comparisons({"adamw": plain, "adamp": held})
    _, chosen, *_, last = text.splitlines()
    assert "0.003 and 0.01: +40.0" in chosen
    # 90 is the best of both; only 86 and 90 are within five points of it.
    assert last.endswith("AdamP 1 of 5, AdamW 1")


def test_the_interval_is_the_paired_t_interval():
    a, b = [0.971, 0.984, 0.962, 0.990, 0.977], [0.979, 0.981, 0.975, 0.991, 0.986]
    mean, half_width = report.interval(np.subtract(a, b))
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half_width, mean + half_width], interval)


def test_no_comparison_without_a_pair():
    histories = {"adamw": history([0.9, 0.8]), "sgdp": history([0.8, 0.9])}
    assert report.comparisons(histories) == ""
