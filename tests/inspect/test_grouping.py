"""The ways to cut a parameter into vectors."""

import numpy as np
import pytest

from optax_adamp._inspect.grouping import BatchSums, groupings, is_layer, merge


def channels(*outputs, by=None):
    """BatchSums of channels along axis 1, in three batches and two batch elements."""
    shape = (3, 2, *outputs)
    gw = np.arange(np.prod(shape), dtype=float).reshape(shape)
    by = tuple(range(2, 2 + len(outputs))) if by is None else by
    return BatchSums(gw, gw**2, gw + 1, 5, (2,), along=(1,), by=by)


def test_merged():
    given = channels(3, 4, by=(0, 2))
    heads = merge(given, (2,))
    for before, after in zip(given[:3], heads[:3], strict=True):
        np.testing.assert_array_equal(after, before.sum(3))
    assert heads[3:] == (20, (2,), (1, 2), (0,))
    first = merge(given, (0, 1))
    np.testing.assert_array_equal(first.gw, given.gw.sum(2))
    assert first[3:] == (15, (2,), (0, 1), (2,))
    layer = merge(given, given.by)
    np.testing.assert_array_equal(layer.gg, given.gg.sum((2, 3)))
    assert layer[3:] == (60, (2,), (0, 1, 2), ())
    same = merge(given, given.along)
    np.testing.assert_array_equal(same.ww, given.ww)
    assert same[3:] == given[3:]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((), []),
        ((4,), []),
        # With more vectors first.
        ((3, 4), [(1, 2), (1, 3)]),
        ((4, 3), [(1, 3), (1, 2)]),
        # Of equal ones, first those along later axes.
        ((4, 4), [(1, 3), (1, 2)]),
        # An axis of size one cuts nothing.
        ((3, 1), []),
        ((3, 1, 4), [(1, 2), (1, 4)]),
        # However many vectors, the fewest axes first.
        (
            (2, 2, 9),
            [(1, 3), (1, 2), (1, 4), (1, 2, 3), (1, 3, 4), (1, 2, 4)],
        ),
    ],
)
def test_groupings(outputs, expected):
    assert [group.along for group in groupings(channels(*outputs))] == expected


def test_what_is_the_whole_layer():
    given = channels(3, 1, 4)
    assert is_layer(given, (1, 2, 3, 4))
    assert is_layer(given, (2, 4))
    assert not is_layer(given, (1, 2))
    assert not is_layer(given, (1, 3))
