"""Where the axes of parameters are in an intermediate value of a program.

A program transposes, reshapes, cuts and combines its parameters before it uses them. A
*track* follows one parameter through that: for each axis of the value, which axes of
the parameter are in it.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence, Set
from typing import NamedTuple

from optax_adamp._axes import Shape

# What has become of axes that are no longer in the value. A selected axis is one of
# which a single entry was taken, a linked one was summed over with another parameter.
# Of a picked one data tell which entries are taken; of a reordered one the program may.
BATCH, REDUCTION, SELECTED, PICKED = "batch", "reduction", "selected", "picked"
REORDERED = "reordered"
LINKED_LEFT, LINKED_RIGHT, LINKED = "linked left", "linked right", "linked"
PRODUCTS = LINKED_LEFT, LINKED_RIGHT, LINKED


class Part(NamedTuple):
    """A factor of the size of one axis of a value, and whose it is."""

    axes: tuple[int, ...]  # Of the parameter; empty for what was broadcast.
    size: int


Dimension = tuple[Part, ...]  # The sizes of the parts multiply to that of the axis.


class Track(NamedTuple):
    """One parameter in a value."""

    parameter: int
    dimensions: tuple[Dimension, ...]
    gone: frozenset[tuple[int, str]] = frozenset()
    selection: frozenset[tuple[int, object]] = frozenset()  # Which entry of an axis.
    summed: bool = False  # Some of it was added up, or only its size counts.
    has_gradient: bool = True
    looked_up: str = ""  # The place where rows were taken out, if they were.
    equation: str = ""  # Of the einsum with more operands that it is still in.
    # Axes of which it is a Fourier transform.
    transformed: frozenset[int] = frozenset()

    def axes_at(self, *positions: int) -> set[int]:
        """The parameter's axes in some axes of the value."""
        return {
            axis
            for position in positions
            for part in self.dimensions[position]
            for axis in part.axes
        }

    def axes(self) -> set[int]:
        """The parameter's axes that are still in the value."""
        return self.axes_at(*range(len(self.dimensions)))

    def that_became(self, *roles: str) -> set[int]:
        """The axes that have left the value in one of these ways."""
        return {axis for axis, role in self.gone if role in roles}

    def without(self, axes: Set[int]) -> "Track":
        """The track with some axes no longer in the value."""

        def rest(part: Part) -> Part:
            return part._replace(axes=tuple(a for a in part.axes if a not in axes))

        dimensions = (tuple(map(rest, dimension)) for dimension in self.dimensions)
        return self._replace(dimensions=tuple(dimensions))

    def became(self, axes: Iterable[int], role: str) -> "Track":
        """The track after some axes have left the value."""
        return self._replace(gone=self.gone | {(axis, role) for axis in axes})


class Value(NamedTuple):
    """What is known of an intermediate value.

    Data are arguments of the program and all that depends on them, and on a use of a
    parameter with them. What is neither data nor has tracks is constant: made from
    numbers in the program, or captured, as an array that the function closes over.
    """

    shape: Shape
    varies: tuple[bool, ...]  # By axis: whether anything but parameters differs there.
    is_data: bool = False
    tracks: tuple[Track, ...] = ()
    is_scaled: bool = False  # Parameters times data that lack an axis of theirs.
    is_captured: bool = False
    counts: int | None = None  # The axis along which it counts 0, 1, 2, ...
    is_one_hot: bool = False  # Along that axis, instead.

    @property
    def is_weight(self) -> bool:
        """Whether it is made of parameters and constants alone."""
        return bool(self.tracks) and not self.is_data

    def varying(self) -> set[int]:
        """The axes along which anything but parameters differs."""
        return {axis for axis, varies in enumerate(self.varies) if varies}

    def owned(self) -> set[int]:
        """The axes along which a parameter may differ."""
        return {
            position
            for track in self.tracks
            for position, size in enumerate(self.shape)
            if size > 1 and track.axes_at(position)
        }


def unowned(size: int) -> Dimension:
    """An axis that no parameter has."""
    return (Part((), size),)


def plain(shape: Shape, *, is_data: bool, is_captured: bool = False) -> Value:
    """Data or a constant that may differ along all axes."""
    varies = tuple(size > 1 for size in shape)
    return Value(shape, varies, is_data, is_captured=is_captured)


def plain_of(values: Iterable[Value], shape: Shape) -> Value:
    """What comes of values in a way that nothing is known of."""
    values = list(values)
    return plain(
        shape,
        is_data=any(value.is_data or value.tracks for value in values),
        is_captured=any(value.is_captured for value in values),
    )


def of_parameter(index: int, shape: Shape) -> Value:
    """A parameter as the program gets it."""
    dimensions = tuple((Part((axis,), size),) for axis, size in enumerate(shape))
    return Value(shape, (False,) * len(shape), tracks=(Track(index, dimensions),))


def rearrange(value: Value, sources: Sequence[int | None], shape: Shape) -> Value:
    """The value with other axes: each an old one, or (None) a broadcast one.

    Old axes that are left out have one entry. Those of another size than before were
    broadcast from one entry.
    """
    kept = [
        source if source is not None and value.shape[source] == size else None
        for source, size in zip(sources, shape, strict=True)
    ]
    lost = [axis for axis in range(len(value.shape)) if axis not in kept]

    def move(track: Track) -> Track:
        dimensions = tuple(
            unowned(size) if axis is None else track.dimensions[axis]
            for axis, size in zip(kept, shape, strict=True)
        )
        moved = track.became(track.axes_at(*lost), SELECTED)
        return moved._replace(dimensions=dimensions)

    return map_tracks(value, move)._replace(
        shape=shape,
        varies=tuple(axis is not None and value.varies[axis] for axis in kept),
        counts=_index(kept, value.counts),
    )


def resize(value: Value, shape: Shape) -> Value:
    """The value after axes were cut, padded, or put beside others."""

    def move(track: Track) -> Track:
        dimensions = tuple(
            dimension if old == new else _block(dimension, new)
            for dimension, old, new in zip(
                track.dimensions, value.shape, shape, strict=True
            )
        )
        return track._replace(dimensions=dimensions)

    return map_tracks(value, move)._replace(shape=shape)


def select(value: Value, position: int, entry: object) -> Value:
    """Notes which entry of an axis was cut out."""

    def move(track: Track) -> Track:
        chosen = {(axis, entry) for axis in track.axes_at(position)}
        return track._replace(selection=track.selection | chosen)

    return map_tracks(value, move)


def reshape(value: Value, shape: Shape) -> Value:
    """The value with its axes merged or split."""

    def move(track: Track) -> Track:
        dimensions = _refill(track.dimensions, shape)
        moved = track._replace(dimensions=dimensions)
        return moved.became(track.axes() - moved.axes(), SELECTED)

    own = tuple(
        (Part((axis,) if varies else (), size),)
        for axis, (varies, size) in enumerate(
            zip(value.varies, value.shape, strict=True)
        )
    )
    varies = tuple(
        any(part.axes for part in dimension) for dimension in _refill(own, shape)
    )
    counts = value.counts
    if counts is not None:
        ones = [(Part((axis,), n),) for axis, n in enumerate(value.shape)]
        places = [
            position
            for position, dimension in enumerate(_refill(ones, shape))
            if any(counts in part.axes for part in dimension)
        ]
        whole = len(places) == 1 and shape[places[0]] == value.shape[counts]
        counts = places[0] if whole else None
    return map_tracks(value, move)._replace(shape=shape, varies=varies, counts=counts)


def reduce(value: Value, positions: Sequence[int], shape: Shape) -> Value:
    """The value after sums, or other reductions, over some axes."""
    kept = [axis for axis in range(len(value.shape)) if axis not in positions]

    def move(track: Track) -> Track:
        sizes = [value.shape[p] for p in positions if track.axes_at(p)]
        moved = track.became(track.axes_at(*positions), SELECTED)
        return moved._replace(
            dimensions=tuple(track.dimensions[axis] for axis in kept),
            summed=track.summed or math.prod(sizes) > 1,
        )

    return map_tracks(value, move)._replace(
        shape=shape,
        varies=tuple(value.varies[axis] for axis in kept),
        counts=None,
    )


def unstack(value: Value) -> Value:
    """What one turn of a loop sees of a value that it runs over."""

    def move(track: Track) -> Track:
        return track.became(track.axes_at(0), BATCH)._replace(
            dimensions=track.dimensions[1:]
        )

    return map_tracks(value, move)._replace(
        shape=value.shape[1:],
        varies=value.varies[1:],
        counts=value.counts - 1 if value.counts else None,
    )


def merge(values: Sequence[Value]) -> tuple[Track, ...]:
    """The tracks of an elementwise result: those of all operands, each once.

    What was summed says nothing if the same parameter is there unsummed, as in
    `v / norm(v)`. Different entries of one axis that meet are parts of one number, such
    as real and imaginary part, and make it a reduction axis.
    """
    merged: list[Track] = []
    for track in itertools.chain.from_iterable(value.tracks for value in values):
        for index, other in enumerate(merged):
            if joined := _join(other, track):
                merged[index] = joined
                break
        else:
            merged.append(track)
    unlinked = {t.dimensions for t in merged if not is_linked(t) and not t.summed}
    return tuple(
        _fold(track) if _covers(unlinked, track) else track for track in merged
    )


def is_linked(track: Track) -> bool:
    """Whether the parameter was multiplied with another one, and that is not a kernel.

    So is `a @ b`, but not what is left of it in `w + a @ b`.
    """
    return bool(track.that_became(LINKED_LEFT, LINKED_RIGHT))


def _join(one: Track, other: Track) -> Track | None:
    """One track for two of a parameter; None if each says something of its own."""
    if one.parameter != other.parameter:
        return None
    if one.summed != other.summed:
        return other if one.summed else one
    if one.dimensions != other.dimensions:
        return None
    apart = {axis for axis, _ in one.selection ^ other.selection}
    joined = one.without(apart).became(apart, REDUCTION) if apart else one
    return joined._replace(
        gone=joined.gone | other.gone,
        has_gradient=one.has_gradient or other.has_gradient,
    )


def _covers(unlinked: set[tuple[Dimension, ...]], track: Track) -> bool:
    """Whether a weight stands beside a product of weights that has all its axes."""
    mine = [any(p.axes for p in d) for d in track.dimensions]
    return any(
        sum(any(p.axes for p in d) for d in other) > 1
        and all(
            any(p.axes for p in theirs)
            for has, theirs in zip(mine, other, strict=True)
            if has
        )
        for other in unlinked
    )


def _fold(track: Track) -> Track:
    """The product is added to a weight, so it is none that is applied to an input."""
    gone = frozenset(
        (axis, LINKED if role in (LINKED_LEFT, LINKED_RIGHT) else role)
        for axis, role in track.gone
    )
    return track._replace(gone=gone)


def _index(axes: Sequence[int | None], axis: int | None) -> int | None:
    return None if axis is None or axis not in axes else axes.index(axis)


def _block(dimension: Dimension, size: int) -> Dimension:
    return (Part(_axes_of(dimension), size),)


def _axes_of(parts: Iterable[Part]) -> tuple[int, ...]:
    return tuple(sorted({axis for part in parts for axis in part.axes}))


def _refill(dimensions: Sequence[Dimension], shape: Shape) -> tuple[Dimension, ...]:
    """Lays the parts of the old axes out, and fills the new ones from the left.

    Where neither a part nor what is left of an axis divides the other, parts become one
    that has the axes of all. An axis of one entry keeps its place, or is left out.
    """
    if 0 in shape:
        return tuple(map(unowned, shape))
    parts = [part for dimension in reversed(dimensions) for part in reversed(dimension)]
    filled: list[Dimension] = []
    for size in shape:
        dimension: list[Part] = []
        left = size
        if left == 1 and parts and parts[-1].size == 1:
            dimension.append(parts.pop())
        while left > 1:
            part = parts.pop()
            if part.size == 1:
                continue
            while left % part.size and part.size % left:
                following = parts.pop()
                part = Part(_axes_of([part, following]), part.size * following.size)
            if part.size > left:
                parts.append(Part(part.axes, part.size // left))
                part = Part(part.axes, left)
            dimension.append(part)
            left //= part.size
        filled.append(tuple(dimension) or unowned(1))
    return tuple(filled)


def map_tracks(value: Value, function: Callable[[Track], Track]) -> Value:
    """The value with each of its tracks changed."""
    return value._replace(tracks=tuple(map(function, value.tracks)))
