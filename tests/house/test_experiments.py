"""What the notebooks' comparisons rest on: convolution, tuning, intervals, splits."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import scipy.stats
from sklearn.datasets import load_digits

experiments = pytest.importorskip(
    "experiments", reason='needs pip install -e ".[notebooks]"'
)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (3, 2), "SAME"),
        ((1, 1), (2, 2), "VALID"),
        ((2, 5), (2, 1), "VALID"),
        ((2, 5), (3, 2), ((2, 0), (1, 3))),
    ],
    ids=str,
)
def test_convolution_is_that_of_jax(window, strides, padding):
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(2, 9, 8, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, 3, 4)), jnp.float32)
    layout = jax.lax.conv_dimension_numbers(
        inputs.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
    )

    def run(convolution):
        def loss(inputs, kernel):
            outputs = convolution(
                inputs, kernel, strides, padding, dimension_numbers=layout
            )
            return jnp.sum(jnp.sin(outputs)), outputs

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(inputs, kernel)

    expected, ours = run(jax.lax.conv_general_dilated), run(experiments.convolution)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        expected,
        ours,
    )


@pytest.mark.parametrize(
    "options", [{"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 2)}], ids=str
)
def test_convolution_leaves_dilation_to_jax(options):
    inputs, kernel = jnp.ones((1, 9, 9, 2)), jnp.ones((3, 3, 2, 4))
    layout = jax.lax.conv_dimension_numbers(
        inputs.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
    )
    arguments = (inputs, kernel, (1, 1), ((0, 0), (0, 0)))
    options = {**options, "dimension_numbers": layout}
    np.testing.assert_array_equal(
        experiments.convolution(*arguments, **options),
        jax.lax.conv_general_dilated(*arguments, **options),
    )


def test_convolution_leaves_groups_to_jax():
    inputs, kernel = jnp.ones((1, 9, 9, 4)), jnp.ones((3, 3, 2, 4))
    layout = jax.lax.conv_dimension_numbers(
        inputs.shape, (3, 3, 2, 4), ("NHWC", "HWIO", "NHWC")
    )
    arguments = (inputs, kernel, (1, 1), "SAME", None, None, layout, 2)
    np.testing.assert_array_equal(
        experiments.convolution(*arguments), jax.lax.conv_general_dilated(*arguments)
    )


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_paired_interval_is_that_of_the_t_test(higher_is_better):
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 7)) + np.array([[0.0], [0.4]])
    row = experiments.paired(before, after, higher_is_better=higher_is_better)
    test = scipy.stats.ttest_rel(after, before)
    np.testing.assert_allclose(row["interval"], test.confidence_interval(0.95))
    np.testing.assert_allclose(row["difference"], after.mean() - before.mean())
    np.testing.assert_allclose(row["std"], after.std(ddof=1))
    gains = after > before if higher_is_better else after < before
    assert row["wins"] == gains.sum()


@pytest.mark.parametrize(
    ("shift", "higher_is_better", "verdict"),
    [
        (1.0, True, "better"),
        (1.0, False, "worse"),
        (-1.0, True, "worse"),
        (-1.0, False, "better"),
        (0.0, True, "no difference seen"),
        (np.nan, True, "not comparable: a run diverged"),
    ],
)
def test_verdict(shift, higher_is_better, verdict):
    noise = np.array([0.1, -0.1, 0.2, -0.2, 0.0])
    row = experiments.paired(
        np.zeros(5), noise + shift, higher_is_better=higher_is_better
    )
    assert row["verdict"] == verdict


def test_optimizers_have_colours_of_their_own():
    def family(name):
        return {"SGDP": "SGD", "AdamP": "AdamW"}.get(name, name)

    assert len(set(experiments.COLORS.values())) == len(
        {family(name) for name in experiments.COLORS}
    )
    for name in experiments.COLORS:
        style = experiments.style(f"{name}, weight-normed")
        assert style["color"] == experiments.style(family(name))["color"]
        assert style["linestyle"] == ("-" if family(name) != name else "--")
        projected = experiments.style(f"{name} + projection")
        assert (projected["color"], projected["linestyle"]) == (style["color"], "-")


def test_dashed_lines_lie_above_solid_ones():
    solid, dashed = map(experiments.style, ("AdamP", "AdamW"))
    (solid_line,), (dashed_line,) = (
        plt.plot([0, 1], **style) for style in (solid, dashed)
    )
    assert dashed_line.zorder > solid_line.zorder
    assert dashed_line.get_linewidth() < solid_line.get_linewidth()
    assert solid_line.get_alpha() < 1
    plt.close()


@pytest.mark.parametrize(
    ("higher_is_better", "told"),
    [(True, "%\n(higher is better)"), (False, "%\n(lower is better)"), (None, "%")],
)
def test_pairs_tell_which_way_is_better(higher_is_better, told, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    results = {"SGD": {"test": np.arange(3.0)}, "SGDP": {"test": np.array([1, 3, 2])}}
    experiments.plot_pairs(
        results,
        [("SGD", "SGDP")],
        title="Test",
        unit="%",
        higher_is_better=higher_is_better,
    )
    scores, gains = plt.gcf().axes
    assert scores.get_ylabel() == gains.get_xlabel() == told
    plt.close()


def train(make, learning_rate, weight_decay, seed):
    """No training: a score that is best at a rate of 2 and a decay of 0.1."""
    make(learning_rate, weight_decay)
    score = -((learning_rate - 2) ** 2) - (weight_decay - 0.1) ** 2
    score = jnp.where(learning_rate > 3, jnp.nan, score)
    # The seeds disagree, so that only their mean has its best there.
    return {
        "validation": score + jnp.where(seed % 2, 1, -1) * learning_rate,
        "it": seed,
    }


@pytest.mark.parametrize("at_once", [1, 4])
def test_tuning_takes_the_best_mean_of_the_grid(at_once):
    candidates = {
        "inner": experiments.Candidate(optax.adamw, [1, 2, 3, 4], [0.0, 0.1, 0.2]),
        "edge": experiments.Candidate(optax.adamw, [1, 1.5], [0.1]),
    }
    choices = experiments.tune(train, candidates, seeds=(0, 1), at_once=at_once)
    assert choices == {"inner": (2, 0.1), "edge": (1.5, 0.1)}
    again = experiments.repeat(
        train, candidates, choices, seeds=range(5), at_once=at_once
    )
    np.testing.assert_array_equal(again["inner"]["it"], range(5))


def test_tuning_may_score_runs_outside_of_jax():
    candidates = {"it": experiments.Candidate(optax.adamw, [1, 2, 3], [0.0, 0.1])}

    def score(run):
        assert run.keys() == {"validation", "it"}
        return -float(run["validation"])  # So the worst is taken.

    choices = experiments.tune(train, candidates, seeds=(0, 1), score=score)
    assert choices["it"].learning_rate != 2


@pytest.mark.parametrize(
    ("rates", "edge"), [([1, 2, 3], ""), ([2, 2.5, 3], "rate"), ([2, 3], "")]
)
def test_tuning_says_where_the_best_lies_at_an_edge(rates, edge, monkeypatch):
    shown = []
    monkeypatch.setattr(experiments, "_show", shown.append)
    experiments.tune(
        train,
        {"it": experiments.Candidate(optax.adamw, rates, [0.1])},
        seeds=(0, 1),
    )
    (table,) = shown
    assert list(table["at the edge"]) == [edge]


def test_climbing_goes_on_until_no_neighbour_is_better(monkeypatch):
    rounds, shown = [], []

    def run(train, make, runs, *_):
        """Best at a rate of 4 and a decay of 0.3; larger rates diverge."""
        rounds.append([(rate, decay) for rate, decay, _ in runs])
        rates, decays, _ = np.transpose(runs)
        score = -((rates - 4) ** 2) - (decays - 0.3) ** 2
        return {"validation": np.where(rates > 4, np.nan, score)}

    monkeypatch.setattr(experiments, "_run", run)
    monkeypatch.setattr(experiments, "_show", shown.append)
    candidate = experiments.Candidate(optax.adamw, [1, 2, 3, 4, 5], [0.1, 0.2, 0.3])
    choices = experiments.tune(train, {"it": candidate}, seeds=(7,), climb=True)
    assert rounds == [
        [(3, 0.2), (2, 0.2), (4, 0.2), (3, 0.1), (3, 0.3)],
        [(5, 0.2), (4, 0.1), (4, 0.3)],
        [(5, 0.3)],
    ]
    assert choices == {"it": (4, 0.3)}
    assert list(shown[0]["settings tried"]) == [9]


def test_differences_are_drawn_from_the_baseline(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    results = {
        "AdamW": {"test": np.array([1.0, 2.0, 3.0])},
        "AdamP": {"test": np.array([2.0, 4.0, 4.0])},
        "AdamW, less decay": {"test": np.array([1.0, 1.0, 2.0])},
    }
    rows = {"AdamP": "projected", "AdamW, less decay": "not projected"}
    experiments.plot_differences(
        results, "AdamW", rows, title="Test", unit="%, right is better"
    )
    (axis,) = plt.gcf().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(rows.values())
    drawn = [line.get_xdata() for line in axis.lines]
    for place, name in enumerate(rows):
        row = experiments.paired(results["AdamW"]["test"], results[name]["test"])
        seeds, interval, mean = drawn[3 * place : 3 * place + 3]
        np.testing.assert_array_equal(
            seeds, results[name]["test"] - results["AdamW"]["test"]
        )
        np.testing.assert_allclose(interval, row["interval"])
        np.testing.assert_allclose(mean, row["difference"])
    # As style() has it for lines: what is not projected is hollow.
    color = experiments.COLORS["AdamP"]
    inner = [axis.lines[at].get_markerfacecolor() for at in (2, 5)]
    assert inner == [color, "white"]
    plt.close()


def test_digits_are_split_without_overlap():
    parts = experiments.digits()
    assert [len(part.labels) for part in parts] == [1000, 297, 500]
    images = np.concatenate([part.images for part in parts])
    assert images.shape == (1797, 8, 8, 1)
    assert len(np.unique(images, axis=0)) == len(np.unique(load_digits().data, axis=0))
    for part in parts:
        assert set(part.labels) == set(range(10))
