"""What the demo draws of histories that are made up."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from optax_adamp._demo import picture
from optax_adamp._demo.optimizers import OPTIMIZERS
from optax_adamp._demo.training import History, Score

# Two seeds, of which one is 0.2 better, at five rates.
ACCURACY = np.linspace([0.1, 0.3], [0.7, 0.9], 5)


def history(growths, steps, accuracy=ACCURACY):
    """Of shapes (1 + epochs, seeds) and (epochs, seeds); rates only scale it."""
    scale = np.arange(1, 6)[:, None]
    score = Score(accuracy, accuracy)
    growths, steps = (
        np.asarray(values)[:, None] * scale for values in (growths, steps)
    )
    return History(score, score, growths, steps)


HISTORIES = {
    "adamw": history([[1, 1], [2, 4]], [[0.1, 0.3]]),
    "sgdp": history([[1, 1], [1, 2]], [[0.5, 0.7]]),
}


def drawn(histories):
    figure = Figure()
    picture.draw(figure, histories)
    return figure


def look_of(name):
    style = picture._style(name, marker="")
    return style["color"], style["linestyle"]


def lines_of(axes):
    return {
        (line.get_color(), line.get_linestyle()): np.round(
            line.get_xydata(), 6
        ).tolist()
        for line in axes.get_lines()
        if len(line.get_xydata()) and line.get_marker() not in ("_", "|")
    }


def test_panels_show_means_over_seeds():
    by_rate, by_step, norm, step = map(lines_of, drawn(HISTORIES).axes)
    means = [20, 35, 50, 65, 80]
    middle = 3  # The scale of the third rate.
    for name, growths, mean in (("adamw", [1, 3], 0.2), ("sgdp", [1, 1.5], 0.6)):
        look = look_of(name)
        rates, accuracies = np.transpose(by_rate[look])
        np.testing.assert_allclose(rates, OPTIMIZERS[name].rates, rtol=0.1)
        np.testing.assert_allclose(accuracies, means)
        steps = mean * np.arange(1, 6)
        np.testing.assert_allclose(by_step[look], np.transpose([steps, means]))
        growths = np.transpose([[0, 1], middle * np.array(growths)])
        np.testing.assert_allclose(norm[look], growths)
        np.testing.assert_allclose(step[look], [[1, middle * mean]])
    assert by_rate[look_of("adamw")][0] != by_rate[look_of("sgdp")][0]


def test_ticks_that_have_no_room_for_a_number_have_none():
    close = {"adamw": history([[1, 1], [2, 4]], [[0.01, 0.01]])}
    figure = drawn(close)
    FigureCanvasAgg(figure).draw()
    by_step = figure.axes[1].xaxis
    assert {label.get_text() for label in by_step.get_minorticklabels()} == {""}
    numbers = [label.get_text() for label in by_step.get_majorticklabels()]
    assert "0.03" in numbers


def test_every_optimizer_has_its_look_and_axes_name_the_rates():
    assert len(set(map(look_of, OPTIMIZERS))) == len(OPTIMIZERS)
    for name, optimizer in OPTIMIZERS.items():
        color, line = look_of(name)
        if optimizer.baseline is not None:
            assert look_of(optimizer.baseline) == (color, "--")
            assert line == "-"
    figure = drawn(HISTORIES)
    for axes in figure.axes[2:]:
        assert axes.get_xlabel() == "epoch (AdamW at 0.01, SGDP at 0.1)"
        assert [line.get_linestyle() for line in axes.get_lines()] == ["--", "-"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["AdamW", "SGDP"]


def test_no_dashed_line_is_hidden():
    for axes in drawn(HISTORIES).axes[2:]:
        dashed, solid = axes.get_lines()
        assert dashed.get_zorder() > solid.get_zorder()
        assert dashed.get_linewidth() < solid.get_linewidth()
        assert solid.get_alpha() < 1


@pytest.mark.parametrize("panel", [0, 1])
def test_a_bar_is_a_95_percent_interval(panel):
    # Two seeds that differ by 20 points: a standard error of 10, and t is 12.706.
    bars = drawn(HISTORIES).axes[panel].collections[0].get_segments()
    heights = [bar[1, 1] - bar[0, 1] for bar in bars]
    np.testing.assert_allclose(heights, 2 * 127.06, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_diverged_is_left_out(bad, tmp_path):
    steps = np.where(np.arange(5)[:, None] < 3, [0.1], bad)
    broken = history([[1], [2]], [[0.1]], ACCURACY[:, :1])
    broken = broken._replace(effective_step=steps[None])
    picture.save({"sgd": broken}, tmp_path / "picture.png")  # No warning is an error.
    figure = drawn({"sgd": broken})
    (points,) = lines_of(figure.axes[1]).values()
    assert [x for x, _ in points] == [0.1] * 3


def test_where_nothing_moves_or_all_diverged_there_are_no_logarithms(tmp_path):
    for step in (0.0, np.nan):
        still = history([[step], [step]], [[step]], ACCURACY[:, :1])
        picture.save({"sgd": still}, tmp_path / "picture.png")
        scales = [axes.get_yscale() for axes in drawn({"sgd": still}).axes[2:]]
        assert scales == ["linear", "linear"]
