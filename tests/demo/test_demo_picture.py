"""What the demo draws of histories that are made up."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from optax_adamp._demo import picture
from optax_adamp._demo.training import History


def history(accuracy, norm_growth, effective_step):
    return History(*map(np.array, (accuracy, norm_growth, effective_step)), views={})


HISTORIES = {
    "adamw": history(
        accuracy=[[0.5, 0.7], [0.8, 1.0]],
        norm_growth=[[1, 1], [2, 4], [3, 7]],
        effective_step=[[0.1, 0.3], [0.02, 0.04]],
    ),
    "sgdp": history(
        accuracy=[[0.1, 0.2], [0.3, 0.5]],
        norm_growth=[[1, 1], [1, 2], [2, 2]],
        effective_step=[[0.5, 0.7], [0.1, 0.1]],
    ),
}


def drawn(histories):
    figure = Figure()
    picture.draw(figure, histories)
    return figure


def lines_of(axes):
    return {
        line.get_label(): np.round(line.get_xydata(), 6).tolist()
        for line in axes.get_lines()
    }


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_panel_shows_the_mean_over_seeds_by_epoch():
    figure = drawn(HISTORIES)
    accuracy, norm, step = map(lines_of, figure.axes)
    assert accuracy == {"AdamW": [[1, 60], [2, 90]], "SGDP": [[1, 15], [2, 40]]}
    assert norm == {
        "AdamW": [[0, 1], [1, 3], [2, 5]],
        "SGDP": [[0, 1], [1, 1.5], [2, 2]],
    }
    assert step == {"AdamW": [[1, 0.2], [2, 0.03]], "SGDP": [[1, 0.6], [2, 0.1]]}
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    assert legend_of(figure)[:2] == ["AdamW", "SGDP"]
    dashes = [line.get_linestyle() for line in figure.axes[0].get_lines()]
    assert dashes == ["--", "-"]


def test_a_band_is_one_standard_deviation_wide():
    figure = drawn(HISTORIES)
    adamw, _ = figure.axes[1].collections
    # The roots of the sums of two squares, which seeds minus one divides by one.
    half = np.sqrt(2) * np.array([0, 1, 2])
    corners = adamw.get_paths()[0].vertices
    for epoch, mean in enumerate([1, 3, 5]):
        band = corners[corners[:, 0] == epoch, 1]
        np.testing.assert_allclose(
            [band.min(), band.max()], [mean - half[epoch], mean + half[epoch]]
        )
    assert "standard deviation" in legend_of(figure)[-1]


def test_a_single_seed_has_no_band():
    figure = drawn({"sgd": history([[0.5], [0.6]], [[1], [2], [3]], [[0.1], [0.2]])})
    assert [len(axes.collections) for axes in figure.axes] == [0, 0, 0]
    assert legend_of(figure) == ["SGD"]


def test_a_single_epoch_is_a_point():
    figure = drawn({"sgd": history([[0.5]], [[1], [2]], [[0.1]])})
    markers = [axes.get_lines()[0].get_marker() for axes in figure.axes]
    assert markers == ["o", "None", "o"]


@pytest.mark.parametrize(
    ("steps", "bottom"),
    [
        # One in 10,000 of the largest.
        ([0.5, 1e-9], 0.5e-4),
        ([0.5, 1e-9, np.inf], 0.5e-4),
        ([0.5, 1e-9, np.nan], 0.5e-4),
        # A margin of 5 % in logarithms below the smallest.
        ([0.5, 0.05], 0.05 * 10**-0.05),
    ],
)
def test_the_end_of_the_schedule_is_cropped(steps, bottom):
    each = [[step] for step in steps]
    step = drawn({"sgd": history(each, [[1], *each], each)}).axes[2]
    assert step.get_yscale() == "log"
    assert step.get_ylim()[0] == pytest.approx(bottom)


@pytest.mark.parametrize("step", [0, np.inf, np.nan])
def test_where_nothing_moves_or_all_diverged_there_are_no_logarithms(step):
    figure = drawn({"sgd": history([[0.1]], [[1], [1]], [[step]])})
    assert figure.axes[2].get_yscale() == "linear"
