"""The pictures: what is drawn, in which colors, and the words around it."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from optax_adamp._demo import figures, layout_pictures, picture
from optax_adamp._demo.layout_trap import Leaf, Shares
from optax_adamp._demo.training import History

BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
ORANGE, GREY, BLACK = "#e69f00", "#dddddd", "#000000"


def lines_of(axes):
    """By label: color, style, marker, and the points."""
    return {
        line.get_label(): (
            line.get_color().lower(),
            line.get_linestyle(),
            line.get_marker(),
            np.round(line.get_xydata(), 6).tolist(),
        )
        for line in axes.get_lines()
    }


def words_of(axes):
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def are_in_a_row(panels):
    places = [axes.get_subplotspec() for axes in panels]
    row = [(1, len(panels), column, column) for column in range(len(panels))]
    return [place.get_geometry() for place in places] == row


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def has_grid(axes):
    return [line.get_visible() for line in axes.get_xgridlines()[:1]] == [True]


# What all have in common


@pytest.fixture
def saved(tmp_path):
    """A picture of one line, its figure, and the settings under which it was drawn."""
    seen = {}

    def draw(figure):
        seen["figure"], seen["settings"] = figure, dict(matplotlib.rcParams)
        figure.subplots().plot([1, 2])

    figures.save(tmp_path / "file", 2, draw)
    return tmp_path / "file", seen["figure"], seen["settings"]


def test_a_picture_is_a_png_of_few_colors(saved):
    path, _, _ = saved
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1500, 300)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert image.mode == "P"
        colors = image.getcolors()
        assert colors is not None
        assert 2 < len(colors) <= 64
        assert image.getpalette() is not None
        assert len(image.getpalette()) == 3 * 64


def test_panels_are_laid_out_around_words_and_a_legend(saved):
    _, figure, _ = saved
    assert isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)


def test_style(saved):
    _, _, settings = saved
    differing = {
        name: value
        for name, value in settings.items()
        if value != matplotlib.rcParamsDefault[name]
    }
    # No style decides what draws on which screen.
    assert differing.keys() - {"backend"} == figures.STYLE.keys()
    assert figures.STYLE == {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "axes.titleweight": "bold",
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }


def test_drawing_and_the_settings_of_matplotlib_leave_each_other_alone(tmp_path):
    def draw(figure):
        figure.subplots().plot([1, 2], label="words")

    figures.save(tmp_path / "before", 2, draw)
    with matplotlib.rc_context({"lines.linewidth": 20, "font.size": 4}):
        settings = matplotlib.rcParams.copy()
        figures.save(tmp_path / "picture", 2, draw)
        assert matplotlib.rcParams.copy() == settings
    before = (tmp_path / "before").read_bytes()
    assert (tmp_path / "picture").read_bytes() == before


def test_a_legend_is_a_row_below_the_panels():
    figure = Figure(layout="constrained")
    (line,) = figure.subplots().plot([1, 2])
    figures.add_legend(figure, [line, line, line], ["one", "two", "three"])
    FigureCanvasAgg(figure).draw()
    assert legend_of(figure) == ["one", "two", "three"]
    (legend,) = figure.legends
    assert len({text.get_window_extent().y0 for text in legend.get_texts()}) == 1
    box, panel = legend.get_window_extent(), figure.axes[0].get_tightbbox()
    assert box.y1 <= panel.y0
    assert (box.x0 + box.x1) / 2 == pytest.approx(figure.bbox.width / 2, abs=1)


# The demo


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


def drawn(histories, **settings):
    figure = Figure(**settings)
    picture.draw(figure, histories)
    return figure


def test_a_panel_shows_the_mean_over_seeds_by_epoch():
    accuracy, norm, step = map(lines_of, drawn(HISTORIES).axes)
    blue, vermilion = (BLUE, "--", "None"), (VERMILION, "-", "None")
    assert accuracy == {
        "AdamW": (*blue, [[1, 60], [2, 90]]),
        "SGDP": (*vermilion, [[1, 15], [2, 40]]),
    }
    assert norm == {
        "AdamW": (*blue, [[0, 1], [1, 3], [2, 5]]),
        "SGDP": (*vermilion, [[0, 1], [1, 1.5], [2, 2]]),
    }
    assert step == {
        "AdamW": (*blue, [[1, 0.2], [2, 0.03]]),
        "SGDP": (*vermilion, [[1, 0.6], [2, 0.1]]),
    }


def test_a_band_is_one_standard_deviation_wide():
    _, norm, _ = drawn(HISTORIES).axes
    adamw, sgdp = norm.collections
    # The roots of the sums of two squares, which seeds minus one divides by one.
    half = np.sqrt(2) * np.array([0, 1, 2])
    corners = adamw.get_paths()[0].vertices
    for epoch, mean in enumerate([1, 3, 5]):
        band = corners[corners[:, 0] == epoch, 1]
        np.testing.assert_allclose(
            [band.min(), band.max()], [mean - half[epoch], mean + half[epoch]]
        )
    for band, color in ((adamw, BLUE), (sgdp, VERMILION)):
        (face,) = band.get_facecolor()
        assert (to_hex(face), face[3]) == (color, 0.15)
        assert list(band.get_linewidth()) == [0]


def test_words_and_axes_of_the_demo():
    figure = drawn(HISTORIES, figsize=(20, 5))  # There is room for half an epoch.
    assert are_in_a_row(figure.axes)
    assert [words_of(axes) for axes in figure.axes] == [
        ("Test accuracy", "epoch", "% of the test images"),
        ("Norm of scale-invariant weights", "epoch", "relative to the start"),
        ("Effective step", "epoch", "radians per step"),
    ]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    for axes in figure.axes:
        assert has_grid(axes)
        assert axes.get_xlim()[0] == 0
        assert all(tick == int(tick) for tick in axes.get_xticks())
    deviation = "± one standard deviation over seeds"
    assert legend_of(figure) == ["AdamW", "SGDP", deviation]
    patch = figure.legends[0].get_patches()[0]
    assert (to_hex(patch.get_facecolor()), patch.get_alpha()) == (BLACK, 0.15)
    assert patch.get_linewidth() == 0


def test_a_single_seed_has_no_band():
    figure = drawn({"sgd": history([[0.5], [0.6]], [[1], [2], [3]], [[0.1], [0.2]])})
    assert [len(axes.collections) for axes in figure.axes] == [0, 0, 0]
    assert legend_of(figure) == ["SGD"]


def test_a_single_epoch_is_a_point():
    figure = drawn({"sgd": history([[0.5]], [[1], [2]], [[0.1]])})
    lines = [lines_of(axes)["SGD"] for axes in figure.axes]
    assert [marker for _, _, marker, _ in lines] == ["o", "None", "o"]


@pytest.mark.parametrize(
    ("last", "bottom"),
    # One in 10,000 of the largest; a margin of 5 % in logarithms below the smallest.
    [(1e-9, 0.5e-4), (0.05, 0.05 * 10**-0.05)],
)
def test_the_end_of_the_schedule_is_cropped(last, bottom):
    steps = [[0.5, 0.5], [last, last]]
    figure = drawn({"sgd": history([[0, 0]] * 2, [[1, 1]] * 3, steps)})
    assert figure.axes[2].get_ylim()[0] == pytest.approx(bottom)


@pytest.mark.parametrize("step", [0, np.inf, np.nan])
def test_where_nothing_moves_or_all_diverged_there_are_no_logarithms(step):
    figure = drawn({"sgd": history([[0.1]], [[1], [1]], [[step]])})
    assert figure.axes[2].get_yscale() == "linear"


@pytest.mark.parametrize("step", [np.inf, np.nan])
def test_steps_before_one_diverged_are_cropped(step):
    steps = [[0.5], [1e-9], [step]]
    figure = drawn({"sgd": history([[0]] * 3, [[1]] * 4, steps)})
    assert figure.axes[2].get_yscale() == "log"
    assert figure.axes[2].get_ylim()[0] == pytest.approx(0.5e-4)


# The layouts


LEAVES = [
    Leaf("a", (3, 3), Shares(0.5, 0.25), Shares(0.03, 0.87), "channel"),
    Leaf("b", (3, 3), Shares(0.25, 0.25), Shares(0.03, 0.01), "none"),
]


def shares(trained):
    figure = Figure()
    layout_pictures.draw_shares(figure, trained)
    return figure


def test_bars_are_the_shares_of_views():
    figure = shares({"one": LEAVES, "two": LEAVES[:1]})
    one, two = figure.axes
    channel, layer, none = one.containers

    def bars(container):
        colors = {to_hex(bar.get_facecolor()) for bar in container}
        spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in container]
        return colors, np.round(spans, 6).tolist()

    # Axes from modules, axis 0, and what is known.
    assert bars(channel) == ({BLUE}, [[0, 37.5], [0, 3], [0, 50]])
    assert bars(layer) == ({ORANGE}, [[37.5, 62.5], [3, 47], [50, 50]])
    assert bars(none) == ({GREY}, [[62.5, 100], [47, 100], [50, 100]])
    assert bars(two.containers[0]) == ({BLUE}, [[0, 50], [0, 3], [0, 100]])


def test_long_bars_tell_their_shares():
    one, _ = shares({"one": LEAVES, "two": LEAVES}).axes
    texts = [text for text in one.texts if text.get_text()]
    assert [text.get_text() for text in texts] == [
        *("38 %", "50 %"),
        *("25 %", "44 %"),
        *("38 %", "53 %", "50 %"),
    ]
    assert {text.get_fontsize() for text in one.texts} == {10 * 0.833}
    # In the middle of their bars.
    assert [text.xy for text in texts[:1]] == [(0.5, 0.5)]


def test_a_bar_of_four_percent_is_long():
    leaf = Leaf("a", (3, 3), Shares(0.04, 0.039), Shares(0, 0), "none")
    one, _ = shares({"one": [leaf], "two": LEAVES}).axes
    assert [text.get_text() for text in one.texts] == [
        *("4 %", "", ""),
        *("", "", ""),
        *("92 %", "100 %", "100 %"),
    ]


def test_words_and_axes_of_the_shares():
    figure = shares({"one": LEAVES, "two": LEAVES[:1]})
    one, two = figure.axes
    assert are_in_a_row(figure.axes)
    percent = "% of {} parameters with two axes or more, all steps"
    assert words_of(one) == ("one", percent.format(2), "")
    assert words_of(two) == ("two", percent.format(1), "")
    names = [label.get_text() for label in one.get_yticklabels()]
    assert names == ["axes from modules", "axis 0", "scale-invariant by construction"]
    assert not any(label.get_visible() for label in two.get_yticklabels())
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 100)
        assert axes.yaxis_inverted()  # The first bar is above.
    assert legend_of(figure) == [
        "projected channel by channel",
        "projected as one layer",
        "not projected",
    ]


def curves():
    metrics = ("channel_cosine", "weight_norm", "channel_step")
    return {
        name: {metric: np.arange(1, 3) * (i + 1) for metric in metrics}
        for i, name in enumerate(("one", "two", "three"))
    }


def test_curves_of_three_optimizers():
    figure = Figure()
    layout_pictures.draw_curves(figure, curves())
    expected = {
        "one": (BLUE, "-", "None", [[0, 1], [1, 2]]),
        "two": (VERMILION, "--", "None", [[0, 2], [1, 4]]),
        "three": (GREEN, "-", "None", [[0, 3], [1, 6]]),
    }
    for axes in figure.axes:
        lines = lines_of(axes)
        assert {name: lines[name] for name in expected} == expected
        assert has_grid(axes)
    assert are_in_a_row(figure.axes)
    assert [words_of(axes) for axes in figure.axes] == [
        ("largest channel cosine / threshold", "step", ""),
        ("norm of the weight", "step", ""),
        ("effective step of its channels", "step", ""),
    ]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log"]
    assert legend_of(figure) == ["one", "two", "three"]


def test_a_line_marks_the_threshold():
    figure = Figure()
    layout_pictures.draw_curves(figure, curves())
    *_, threshold = figure.axes[0].get_lines()
    assert list(threshold.get_ydata()) == [1, 1]
    assert threshold.get_color() == "black"
    assert threshold.get_linewidth() == 0.8
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 3, 3]


@pytest.mark.parametrize(
    ("save", "drawing", "height"),
    [
        (picture.save, HISTORIES, 500),
        (layout_pictures.save_shares, {"one": LEAVES, "two": LEAVES}, 420),
        (layout_pictures.save_curves, curves(), 420),
    ],
)
def test_files(tmp_path, save, drawing, height):
    save(drawing, tmp_path / "file")
    with Image.open(tmp_path / "file") as image:
        assert image.size == (1500, height)
        blue = np.abs(np.asarray(image.convert("RGB"), int) - [0, 0x72, 0xB2]).max(-1)
    assert np.mean(blue < 16) > 2e-4
