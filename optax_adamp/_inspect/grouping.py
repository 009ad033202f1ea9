"""The sums of one parameter over batches, and every way to cut it into vectors.

A channel runs along the reduction axes. Longer vectors run along some of the output
axes as well, and their inner products are sums of those of the channels: along all of
them for the layer, along the size of a head but not the heads for vectors per head.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optax_adamp._axes import Axes


class BatchSums(NamedTuple):
    """Inner products of gradient and weight, for the vectors of one grouping.

    Arrays of the shape (batches, batch elements, ...), followed by the sizes of the
    axes that index the vectors. The first batch is taken at the given weights, all
    others at perturbed ones.
    """

    gw: np.ndarray
    gg: np.ndarray
    ww: np.ndarray
    length: int  # Real numbers in each vector.
    batch_shape: tuple[int, ...]  # Sizes of the batch axes.
    along: tuple[int, ...]  # Axes of the parameter along which each vector runs.
    by: tuple[int, ...]  # Axes that index the vectors.


def stack(batches: Sequence[Any], weight: Any, axes: Axes) -> BatchSums:
    """Joins the sums of the channels in all batches, in double precision.

    Args:
      batches: For each, the arrays gw, gg and ww with the axes of the parameter, of
        size one along a channel.
      weight: The parameter, or anything with its shape and dtype.
      axes: Its axes.
    """
    batch_axes = axes.batch(weight.shape)

    def sizes(some: Sequence[int]) -> tuple[int, ...]:
        return tuple(weight.shape[axis] for axis in some)

    def arrange(arrays: tuple[Any, ...]) -> np.ndarray:
        values = np.stack([np.asarray(array, np.float64) for array in arrays])
        order = [0, *(1 + a for a in (*batch_axes, *axes.output, *axes.reduction))]
        shape = (len(arrays), math.prod(sizes(batch_axes)), *sizes(axes.output))
        return values.transpose(order).reshape(shape)

    return BatchSums(
        *map(arrange, zip(*batches, strict=True)),
        length=axes.length(weight.shape) * (2 if np.iscomplexobj(weight) else 1),
        batch_shape=sizes(batch_axes),
        along=axes.reduction,
        by=axes.output,
    )


def merge(sums: BatchSums, along: Iterable[int]) -> BatchSums:
    """The sums of the vectors that run along these axes as well."""
    merged = [axis for axis in sums.by if axis in {*along}]
    positions = tuple(2 + sums.by.index(axis) for axis in merged)
    number = math.prod(sums.gw.shape[position] for position in positions)
    gw, gg, ww = (np.sum(s, axis=positions) for s in sums[:3])
    return sums._replace(
        gw=gw,
        gg=gg,
        ww=ww,
        length=sums.length * number,
        along=tuple(sorted([*sums.along, *merged])),
        by=tuple(axis for axis in sums.by if axis not in merged),
    )


def groupings(channels: BatchSums) -> list[BatchSums]:
    """All that is coarser than the channels and finer than the layer, finest first.

    Of two with as many axes, neither of which cuts the other, the one with more vectors
    goes first, and then the one whose vectors run along later axes.
    """
    # An axis of size one cuts nothing.
    long = [axis for axis, size in _sizes(channels) if size > 1]
    found = [
        merge(channels, axes)
        for number in range(1, len(long))
        for axes in itertools.combinations(long, number)
    ]

    def fineness(sums: BatchSums) -> tuple[Any, ...]:
        return len(sums.along), -sums.gw.size, [-axis for axis in sums.along]

    return sorted(found, key=fineness)


def is_layer(channels: BatchSums, along: Iterable[int]) -> bool:
    """Whether vectors along these axes are the whole layer."""
    return all(axis in {*along} for axis, size in _sizes(channels) if size > 1)


def _sizes(sums: BatchSums) -> Iterable[tuple[int, int]]:
    return zip(sums.by, sums.gw.shape[2:], strict=True)
