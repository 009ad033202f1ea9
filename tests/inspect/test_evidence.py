"""From sums to verdicts, remarks and the table of the evidence, word for word."""

import itertools
import math

import numpy as np
import pytest

from optax_adamp._axes import Axes
from optax_adamp._inspect.evidence import (
    Evidence,
    _tail,
    change_at_threshold,
    evidence_table,
    second_opinion,
    weigh,
)
from optax_adamp._inspect.grouping import BatchSums, merge, stack

LENGTH = 25
INF, NAN = np.inf, np.nan
UNTESTED = Evidence("w", (2, 25), "not tested")


def sums(ratios, *, ww=1.0, batch_shape=None):
    """Of channels with these cosines over the threshold, by batch, element, channel.

    NaN stands for a gradient of zeros. Gradients point outwards and inwards in turn, or
    they would be those of a penalty.
    """
    ratios = np.asarray(ratios, float)
    live = ~np.isnan(ratios)
    ww = np.broadcast_to(ww, ratios.shape)
    signs = (-1.0) ** np.arange(len(ratios))[:, None, None]
    gw = signs * np.where(live, ratios, 0) * 0.1 / math.sqrt(LENGTH) * np.sqrt(ww)
    shape = ratios.shape[1:2] if batch_shape is None else batch_shape
    return BatchSums(gw, live.astype(float), ww, LENGTH, shape, along=(1,), by=(2,))


def verdict(ratios, **arguments):
    finding = weigh(UNTESTED, sums(ratios, **arguments), delta=0.1, eps=1e-8)
    return finding.verdict, finding.remark


def channels(*by_batch):
    """A parameter without batch axes."""
    return [[batch] for batch in by_batch]


def test_numbers_of_a_finding():
    # Channels of equal norms: the layer's cosine is the mean one, by sqrt(channels)
    # times the length, so that over its threshold it is their sum by sqrt(channels).
    ratios = channels([0.5, -0.25], *[[0.5, 0.25]] * 5, [NAN, 0.75], [NAN, NAN])

    finding = weigh(UNTESTED, sums(ratios, batch_shape=()), delta=0.1, eps=1e-8)

    assert finding == UNTESTED._replace(
        verdict="channel",
        channel_passed=7,
        channel_informative=7,
        channel_cosine=pytest.approx(0.75),
        layer_passed=7,
        layer_informative=7,
        layer_cosine=pytest.approx(0.75),
        along=(1,),
        group_passed=None,
        group_informative=None,
        group_cosine=None,
        remark="no gradient in 1 batch",
    )
    # Plain numbers.
    assert [type(value) for value in finding[2:9]] == [str, *[int, int, float] * 2]
    scaled = weigh(UNTESTED, sums(ratios, ww=4.0, batch_shape=()), delta=0.2, eps=1e-8)
    assert scaled.channel_cosine == pytest.approx(0.375)
    # The worst of two batch elements, which each have their own batches.
    both = np.concatenate([ratios, channels(*[[2.0, NAN]] * 8)], axis=1)
    finding = weigh(UNTESTED, sums(both), delta=0.1, eps=1e-8)
    assert finding.channel == "0 of 7"
    assert finding.layer == "0 of 7"
    assert finding.channel_cosine == pytest.approx(2.0)
    assert finding.layer_cosine == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (channels(*[[0.9, 0.9]] * 8), ("channel", "")),
        (channels(*[[1.2, -1.2]] * 8), ("layer", "")),
        (
            channels(*[[1.2, -1.2]] * 6, *[[NAN, NAN]] * 2),
            ("layer", "no gradient in 2 batches"),
        ),
        (channels(*[[1.2, 1.2]] * 8), ("neither", "")),
        (
            channels(*[[1.2, 1.2]] * 7, [NAN, NAN]),
            ("neither", "no gradient in 1 batch"),
        ),
        (channels(*[[NAN, NAN]] * 8), ("unknown", "no gradient in 8 batches")),
        (
            channels(*[[0.9, 0.9]] * 3, *[[NAN, NAN]] * 5),
            ("unknown", "no gradient in 5 batches"),
        ),
        (
            channels(*[[0.9, NAN]] * 8),
            (
                "mixed",
                "1 of 2 channels have a gradient in fewer than 4 batches, "
                "the others pass",
            ),
        ),
        (
            channels(*[[0.9, 0.9]] * 3, *[[0.9, NAN]] * 7),
            (
                "mixed",
                "1 of 2 channels have a gradient in fewer than 5 batches, "
                "the others pass",
            ),
        ),
        (channels(*[[0.9, 1.2]] * 8), ("mixed", "only 1 of 2 channels always pass")),
        (
            channels(*[[0.9, 0.8, 3.0]] * 8),
            ("mixed", "only 2 of 3 channels always pass"),
        ),
        (
            channels(*[[0.9]] * 7, [1.2]),
            ("mixed", "the channel view passes in 7 of 8 batches, which is not chance"),
        ),
        (
            channels(*[[0.9]] * 5, *[[1.2]] * 3),
            ("mixed", "the channel view passes in 5 of 8 batches, which is not chance"),
        ),
        (channels(*[[0.9]] * 4, *[[1.2]] * 4), ("neither", "")),
        (
            channels([0.009], *[[1.2]] * 7),
            (
                "mixed",
                "the channel view passes by far at the given weights, but "
                "only in 1 of 8 "
                "batches in all; is there a bias of zeros before the norm?",
            ),
        ),
        (channels([0.01], *[[1.2]] * 7), ("neither", "")),
        (channels([NAN], *[[1.2]] * 7), ("neither", "no gradient in 1 batch")),
        (channels(*[[3.0, NAN]] * 8), ("neither", "")),
        (channels([1.2], [0.009], *[[1.2]] * 6), ("neither", "")),
        (
            channels([1.2, -1.2], *[[3.0, 1.0]] * 7),
            (
                "mixed",
                "the layer view passes by far at the given weights, but only in 1 of 8 "
                "batches in all; is there a bias of zeros before the norm?",
            ),
        ),
        (
            channels(*[[1.2, -1.1]] * 6, *[[3.0, 1.0]] * 2),
            ("mixed", "the layer view passes in 6 of 8 batches, which is not chance"),
        ),
        (
            channels(*[[0.9, 0.9]] * 7, [0.9, INF]),
            ("mixed", "the gradient is not finite in 1 batch"),
        ),
        (
            channels(*[[INF, 0.9]] * 2, *[[0.9, 0.9]] * 6),
            ("mixed", "the gradient is not finite in 2 batches"),
        ),
        # Fewer batches than four: all of them.
        (channels([0.9]), ("channel", "")),
        (channels([0.9], [NAN]), ("unknown", "no gradient in 1 batch")),
    ],
)
def test_verdicts(ratios, expected):
    assert verdict(ratios, batch_shape=()) == expected


def test_what_reaches_the_threshold_does_not_pass():
    """Numbers without rounding: the cosine is 1/32, the threshold 1/8 by four."""
    one = np.ones((8, 1, 1))
    signs = (-one) ** np.arange(8)[:, None, None]
    for cosine, found in ((1 / 32, "neither"), (1 / 64, "channel")):
        at = BatchSums(cosine * signs, one, one, 16, (), along=(0,), by=(1,))
        assert weigh(UNTESTED, at, delta=1 / 8, eps=1e-8).verdict == found


def test_many_channels_pass_by_luck():
    """One channel that always passes is no news among thousands, if batches are few."""
    few = [[0.9, *[3.0] * 15]] * 4
    assert verdict(channels(*few), batch_shape=()) == (
        "mixed",
        "only 1 of 16 channels always pass",
    )
    many = [[0.9, *[3.0] * 31]] * 4
    assert verdict(channels(*many), batch_shape=()) == ("neither", "")
    # In more batches it is.
    assert verdict(channels(*many * 2), batch_shape=())[0] == "mixed"


def test_all_of_many_channels_never_pass_by_luck():
    """A batch in which all of four channels pass is beyond chance already."""
    ratios = channels([0.9] * 4, *[[0.9, 0.9, 1.2, 3.0]] * 2, *[[3.0] * 4] * 5)
    assert verdict(ratios, batch_shape=()) == (
        "mixed",
        "the channel view passes in 1 of 8 batches, which is not chance",
    )
    two = channels([0.9] * 2, *[[3.0] * 2] * 7)
    assert verdict(two, batch_shape=()) == ("neither", "")


C, L, N, U = [0.9, 0.9], [1.2, -1.2], [3.0, 3.0], [NAN, NAN]


def elements(*kinds):
    return [list(kinds)] * 8


@pytest.mark.parametrize(
    ("kinds", "shape", "expected"),
    [
        ((C, C), (2,), ("channel", "")),
        ((C, L), (2,), ("layer", "batch elements differ: [0] channel; [1] layer")),
        (
            (C, N, C),
            (3,),
            ("mixed", "batch elements differ: [0, 2] channel; [1] neither"),
        ),
        ((L, N), (2,), ("mixed", "batch elements differ: [0] layer; [1] neither")),
        (
            (U, C),
            (2,),
            (
                "mixed",
                "batch elements differ: [0] no gradient in 8 batches; [1] channel",
            ),
        ),
        (
            (C, L, C, L),
            (2, 2),
            (
                "layer",
                "batch elements differ: [(0, 0), (1, 0)] channel; [(0, 1), "
                "(1, 1)] layer",
            ),
        ),
        (
            (*[C] * 8, N),
            (9,),
            (
                "mixed",
                "batch elements differ: [0, 1, 2, 3, 4, 5, 6, 7] channel; [8] neither",
            ),
        ),
        (
            (*[C] * 9, N),
            (10,),
            (
                "mixed",
                "batch elements differ: [0, 1, 2, 3, 4, 5, 6, 7, ...] "
                "channel; [9] neither",
            ),
        ),
    ],
)
def test_batch_elements(kinds, shape, expected):
    assert verdict(elements(*kinds), batch_shape=shape) == expected


def test_batch_elements_with_one_verdict_and_several_remarks():
    first = np.array(elements(C, C))
    first[0, 0] = NAN
    assert verdict(first) == (
        "channel",
        "batch elements differ: [0] no gradient in 1 batch; [1] channel",
    )


@pytest.mark.parametrize(
    ("kinds", "ww", "expected"),
    [
        ((C,), 0.0, ("channel", "its weights are all zero: tested at others")),
        (
            (C,),
            [0.0, 1.0],
            ("channel", "1 of 2 channels are zero: tested at other weights"),
        ),
        (
            (C, L),
            [[0.0, 1.0], [1.0, 1.0]],
            (
                "layer",
                "batch elements differ: [0] channel; [1] layer; 1 of 4 "
                "channels are zero: "
                "tested at other weights",
            ),
        ),
        ((U,), 0.0, ("unknown", "no gradient in 8 batches")),
    ],
)
def test_weights_of_zero(kinds, ww, expected):
    """Only the given ones; those of further batches are drawn."""
    given = sums(elements(*kinds), batch_shape=(len(kinds),))
    zeros = given.ww.copy()
    zeros[0] = ww
    finding = weigh(UNTESTED, given._replace(ww=zeros), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.remark) == expected
    later = given.ww.copy()
    later[1] = 0.0
    assert (
        "zero"
        not in weigh(UNTESTED, given._replace(ww=later), delta=0.1, eps=1e-8).remark
    )


def test_norms_up_to_eps_tell_nothing():
    given = sums(channels(*[[0.9]] * 8), batch_shape=())
    for tiny in (given._replace(gg=given.gg / 4), given._replace(ww=given.ww / 4)):
        assert weigh(UNTESTED, tiny, delta=0.1, eps=0.5).channel_informative == 0
        assert weigh(UNTESTED, tiny, delta=0.1, eps=0.49).channel_informative == 8
    for gg, remark in ((0.25, "no gradient in 8 batches"), (0.5, "")):
        finding = weigh(UNTESTED, given._replace(gg=given.gg * gg), delta=0.1, eps=0.5)
        assert finding.remark == remark


def test_change_at_the_threshold():
    numbers = (np.full((1, 2, 3), v) for v in (9.0, 4.0, 16.0))
    given = BatchSums(*numbers, LENGTH, (2,), along=(1,), by=(2,))

    expected = math.log(2) * 0.1
    assert change_at_threshold(given, 0.1) == pytest.approx(expected * 6 * 8 / 5)
    assert change_at_threshold(merge(given, (1, 2)), 0.1) == pytest.approx(
        expected * 2 * 24 / math.sqrt(75)
    )


def test_probability_of_many_passes():
    """By counting all outcomes of five batches."""
    outcomes = list(itertools.product((0, 1), repeat=5))
    for passed in range(6):
        expected = sum(
            math.prod(0.2 if passes else 0.8 for passes in outcome)
            for outcome in outcomes
            if sum(outcome) >= passed
        )
        assert _tail(passed, 5, 0.2) == pytest.approx(expected)


FOUND = Evidence("w", (2, 3), "layer", 0, 8, 2.0, 8, 8, 0.5, (0, 1), remark="so")


@pytest.mark.parametrize(
    ("change", "allowed", "loss", "relative"),
    [(0.5, 0.5, 2.0, 0.25), (0.5, 1.0, 0.0, 0.5), (0.0, 0.0, 0.0, 0.0)],
)
def test_second_opinion_that_agrees(change, allowed, loss, relative):
    assert second_opinion(FOUND, change, allowed, loss) == FOUND._replace(
        loss_change=relative
    )


def test_second_opinion_that_does_not():
    remark = (
        "the layer view passes in all batches, but scaling the weight changes the loss "
        "by 0.33 of it"
    )
    row = second_opinion(FOUND, 2 / 3, 0.5, 2.0)
    assert row == FOUND._replace(
        verdict="mixed",
        along=None,
        loss_change=pytest.approx(1 / 3),
        remark=f"{remark}; so",
    )
    assert second_opinion(FOUND._replace(remark=""), 2 / 3, 0.5, 2.0).remark == remark


def test_sums_of_batches():
    """Batch elements first, then channels, whatever the order of the axes."""
    axes = Axes(reduction=(1,), output=(0, 3), view="auto")
    weight = np.zeros((2, 5, 3, 4), np.float32)
    shape = (2, 1, 3, 4)
    batches = [
        tuple(
            np.arange(24, dtype=np.float32).reshape(shape) + 100 * b + 1000 * k
            for k in range(3)
        )
        for b in range(2)
    ]

    stacked = stack(batches, weight, axes)

    expected = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    for k, actual in enumerate(stacked[:3]):
        assert actual.dtype == np.float64
        np.testing.assert_array_equal(
            actual, np.stack([expected + 1000 * k, expected + 100 + 1000 * k])
        )
    assert stacked[3:] == (5, (3,), (1,), (0, 3))
    assert stack(batches, weight.astype(np.complex64), axes).length == 10


ROWS = [
    FOUND._replace(
        path="a",
        verdict="channel",
        channel_passed=8,
        layer_passed=5,
        along=(0,),
        remark="",
    ),
    FOUND._replace(path="b", remark="", loss_change=1e-9),
    Evidence("c", (2,), "neither", 1, 7, 3.0, 2, 8, 4.0),
    Evidence("d", (2,), "mixed", 1, 8, 3.0, 2, 8, 4.0, remark="why d"),
    Evidence("e", (2,), "unknown", 0, 0, 0.0, 0, 0, 0.0, remark="why e"),
    Evidence("f", (), "not tested"),
]


def test_rows():
    assert [row.summary for row in ROWS] == [
        "channel, 8 of 8 batches",
        "layer, 8 of 8 batches",
        "neither, 2 of 8 batches as a layer",
        "mixed: why d",
        "unknown: why e",
        "not tested: ",
    ]
    assert [row.channel for row in ROWS][1:3] == ["0 of 8", "1 of 7"]
    assert (ROWS[5].channel, ROWS[5].layer) == (None, None)


def test_table():
    assert str(evidence_table(ROWS)).splitlines() == [
        "path  shape   verdict      by channel  cos/limit  as layer  cos/limit  "
        "loss change",
        "a     (2, 3)  channel      8 of 8              2  5 of 8          0.5",
        "b     (2, 3)  layer        0 of 8              2  8 of 8          0.5  "
        "      1e-09",
        "c     (2,)    neither      1 of 7              3  2 of 8            4",
        "d     (2,)    mixed (!)    1 of 8              3  2 of 8            4",
        "e     (2,)    unknown (!)  0 of 0              0  0 of 0            0",
        "f     ()      not tested",
        "2 of 6 arrays are scale-invariant: 1 by channel, 1 as a layer.",
        "For both views: how many of the batches that have a gradient pass, and the",
        "largest cosine over its threshold.",
        "2 mixed or unknown: left to the base optimizer, as is neither.",
        "(!) d: why d",
        "(!) e: why e",
    ]
    assert evidence_table(ROWS[:3]).notes[-1] == "largest cosine over its threshold."


# Cosines over the threshold of two heads with two channels each.
HEADS = [[1.2, -1.2], [3.0, -3.0]]
# Of two positions.
POSITIONS = [[1.2, 3.0], [-1.2, -3.0]]
WHOLE = [[1.2, 3.0], [-3.0, -1.2]]
CHANNELS = [[0.5, 0.4], [0.3, 0.5]]
NEITHER = [[3.0, 3.0], [3.0, 3.0]]


def heads(*kinds, batches=8, live=None):
    """Of weights (batch, in, heads, size), one for each kind; see `sums`."""
    flat = sums(np.asarray([kinds] * batches).reshape(batches, len(kinds), 4))
    shape = (batches, len(kinds), 2, 2)
    gw, gg, ww = (x.reshape(shape) for x in flat[:3])
    if live is not None:
        gw, gg = (x * np.asarray(live)[:, None, None, None] for x in (gw, gg))
    return BatchSums(gw, gg, ww, LENGTH, (len(kinds),), along=(1,), by=(2, 3))


@pytest.mark.parametrize(
    ("kinds", "verdict", "along", "remark"),
    [
        ((HEADS,), "group", (1, 3), ""),
        ((POSITIONS,), "group", (1, 2), ""),
        ((WHOLE,), "layer", (1, 2, 3), ""),
        ((CHANNELS,), "channel", (1,), ""),
        ((NEITHER,), "neither", None, ""),
        ((HEADS, HEADS), "group", (1, 3), ""),
        (
            (HEADS, CHANNELS),
            "group",
            (1, 3),
            "batch elements differ: [0] group (1, 3); [1] channel",
        ),
        (
            (HEADS, POSITIONS),
            "layer",
            (1, 2, 3),
            "batch elements differ: [0] group (1, 3); [1] group (1, 2)",
        ),
        (
            (HEADS, NEITHER),
            "mixed",
            None,
            "batch elements differ: [0] group (1, 3); [1] neither",
        ),
    ],
)
def test_groups(kinds, verdict, along, remark):
    finding = weigh(UNTESTED, heads(*kinds), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.along, finding.remark) == (verdict, along, remark)
    numbers = (finding.group_passed, finding.group_informative, finding.group_cosine)
    if verdict != "group":
        assert numbers == (None, None, None)
        return
    # Opposite cosines cancel; two equal norms leave the sum of others by sqrt(2).
    worst = 0.9 / math.sqrt(2) if CHANNELS in kinds else 0.0
    assert numbers == (8, 8, pytest.approx(worst, abs=1e-12))
    assert [type(number) for number in numbers] == [int, int, float]


@pytest.mark.parametrize(("live", "verdict"), [(4, "layer"), (5, "group")])
def test_groups_need_a_batch_more(live, verdict):
    """There are two, and each may pass by chance."""
    given = heads(HEADS, live=[1] * live + [0] * (8 - live))
    finding = weigh(UNTESTED, given, delta=0.1, eps=1e-8)
    assert finding.verdict == verdict
    assert finding.remark == f"no gradient in {8 - live} batches"


def test_a_group_in_all_of_few_batches():
    assert (
        weigh(UNTESTED, heads(HEADS, batches=2), delta=0.1, eps=1e-8).verdict == "group"
    )


def test_a_group_of_which_one_has_no_gradient():
    """The layer passes as well, and asks nothing of its parts."""
    given = heads(HEADS)
    live = np.array([[1.0], [0.0]])
    finding = weigh(
        UNTESTED,
        given._replace(gw=given.gw * live, gg=given.gg * live),
        delta=0.1,
        eps=1e-8,
    )
    assert finding.verdict == "layer"


GROUP = Evidence("g", (2, 3, 4), "group", 0, 8, 9.0, 8, 8, 0.2, (0, 2), 8, 8, 0.25)


def test_table_with_groups():
    assert GROUP.summary == "group (0, 2), 8 of 8 batches"
    table = evidence_table([ROWS[0], GROUP._replace(remark="so")])
    assert str(table).splitlines() == [
        "path  shape      verdict           by channel  cos/limit  by group  "
        "cos/limit  as layer  cos/limit",
        "a     (2, 3)     channel           8 of 8              2            "
        "           5 of 8          0.5",
        "g     (2, 3, 4)  group (0, 2) (!)  0 of 8              9  8 of 8    "
        "     0.25  8 of 8          0.2",
        "2 of 2 arrays are scale-invariant: 1 by channel, 1 by group, 0 as a layer.",
        "For each view: how many of the batches that have a gradient pass, and the",
        "largest cosine over its threshold.",
        "In brackets: the axes along which the vectors of a group run.",
        "(!) g: so",
    ]


def test_second_opinion_on_a_group():
    row = second_opinion(GROUP, 1.0, 0.5, 2.0)
    assert (row.verdict, row.along) == ("mixed", None)
    assert row.remark.startswith("the group (0, 2) view passes in all batches, but")


def penalized(given, factor):
    """The sums of a gradient to which a multiple of the weight was added."""
    return given._replace(
        gw=given.gw + factor * given.ww,
        gg=given.gg + 2 * factor * given.gw + factor**2 * given.ww,
    )


def nearly(kind, rounding=1e-3):
    """Cosines that only rounding keeps from zero."""
    return heads(np.asarray(kind) * rounding)


REMARK = (
    "the loss holds an L2 penalty, in all batches <g, w> is {} <w, w>: leave it out "
    "and use weight_decay"
)


def test_a_penalty_that_passes_is_told():
    finding = weigh(UNTESTED, penalized(nearly(CHANNELS), 0.01), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.along) == ("channel", (1,))
    assert finding.remark == REMARK.format(0.01)


@pytest.mark.parametrize("factor", [0.03, 0.3, 2.5])
def test_a_penalty_hides_what_is_scale_invariant(factor):
    finding = weigh(UNTESTED, penalized(nearly(CHANNELS), factor), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.along) == ("mixed", None)
    assert finding.remark == REMARK.format(factor) + ", then the verdict is channel"


def test_a_penalty_on_a_group():
    # Each head by itself has a radial part of zero, its channels have not.
    finding = weigh(UNTESTED, penalized(heads(HEADS), 0.3), delta=0.1, eps=1e-8)
    assert finding.remark == REMARK.format(0.3) + ", then the verdict is group (1, 3)"


def unequal(values):
    """A radial part that is so many times the weight, one for each batch."""
    values = np.asarray(values)[:, None, None]
    zeros = heads([[0.0] * 2] * 2, batches=len(values))
    flat = zeros._replace(
        by=(2,),
        **{
            name: getattr(zeros, name).reshape(len(values), 1, 4)
            for name in ("gw", "gg", "ww")
        },
    )
    return penalized(flat, values)


@pytest.mark.parametrize(
    ("values", "is_penalty"),
    [
        ([0.3] * 8, True),
        ([0.3] * 6, True),
        ([0.3] * 5, False),
        ([0.3] * 7 + [0.305], True),
        ([0.3] * 7 + [0.31], False),
        ([-0.3] * 8, False),
        ([0.3, -0.3] * 4, False),
    ],
)
def test_what_is_a_penalty(values, is_penalty):
    remark = weigh(UNTESTED, unequal(values), delta=0.1, eps=1e-8).remark
    assert ("L2 penalty" in remark) == is_penalty


def test_a_penalty_is_that_of_all_vectors():
    """A norm's eps may leave the same radial part in the layer, not in its channels."""
    given = sums([[[1e-3] * 2]] * 8, batch_shape=())
    factors = np.array([0.005, 0.015])
    finding = weigh(UNTESTED, penalized(given, factors), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.remark) == ("channel", "")


def test_nothing_but_a_penalty():
    """Without it there is no gradient, and nothing is known."""
    silent = sums([[[NAN] * 2]] * 8, batch_shape=())
    finding = weigh(UNTESTED, penalized(silent, 0.3), delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.remark) == ("neither", "")
