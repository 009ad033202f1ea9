"""Operations that move, cut, join and add up the entries of one array."""

import math
from collections import defaultdict
from collections.abc import Sequence

from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.elementwise import combined
from optax_adamp.layouts._program.tracks import Part, Track, Value, map_tracks, plain_of
from optax_adamp.layouts._program.walk import Operation, Operations

MOVES = Operations()


# Moving axes.


@MOVES.named("transpose", params="permutation")
def _transpose(operation: Operation, values: list[Value]) -> list[Value]:
    order = operation.params["permutation"]
    return [tracks.rearrange(values[0], order, operation.shapes[0])]


@MOVES.named("broadcast_in_dim", params="broadcast_dimensions shape sharding")
def _broadcast(operation: Operation, values: list[Value]) -> list[Value]:
    shape = operation.shapes[0]
    places = operation.params["broadcast_dimensions"]
    sources = [
        places.index(axis) if axis in places else None for axis in range(len(shape))
    ]
    return [tracks.rearrange(values[0], sources, shape)]


@MOVES.named("tile", params="reps")
def _tile(operation: Operation, values: list[Value]) -> list[Value]:
    value, shape = values[0], operation.shapes[0]

    def repeat(track: Track) -> Track:
        dimensions = tuple(
            dimension if new == old else (Part((), new // old), *dimension)
            for dimension, old, new in zip(
                track.dimensions, value.shape, shape, strict=True
            )
        )
        return track._replace(dimensions=dimensions)

    return [map_tracks(value, repeat)._replace(shape=shape, counts=None)]


@MOVES.named("squeeze", params="dimensions")
def _squeeze(operation: Operation, values: list[Value]) -> list[Value]:
    dropped = operation.params["dimensions"]
    kept = [axis for axis in range(len(values[0].shape)) if axis not in dropped]
    return [tracks.rearrange(values[0], kept, operation.shapes[0])]


@MOVES.named("reshape", params="dimensions new_sizes sharding")
def _reshape(operation: Operation, values: list[Value]) -> list[Value]:
    value = values[0]
    order: tuple[int, ...] | None = operation.params["dimensions"]
    if order is not None:
        value = tracks.rearrange(value, order, tuple(value.shape[a] for a in order))
    return [tracks.reshape(value, operation.shapes[0])]


@MOVES.named("iota")
def _iota(operation: Operation, values: list[Value]) -> list[Value]:
    shape, axis = operation.shapes[0], operation.params["dimension"]
    varies = tuple(a == axis and size > 1 for a, size in enumerate(shape))
    return [Value(shape, varies, counts=axis)]


# Cutting and joining.


@MOVES.named("slice", params="limit_indices start_indices strides")
def _slice(operation: Operation, values: list[Value]) -> list[Value]:
    starts = operation.params["start_indices"]
    return [cut(values[0], operation.shapes[0], starts)]


@MOVES.named("split", params="axis sizes")
def _split(operation: Operation, values: list[Value]) -> list[Value]:
    axis = operation.params["axis"]
    starts = [0] * len(values[0].shape)
    pieces: list[Value] = []
    for shape in operation.shapes:
        pieces.append(cut(values[0], shape, starts))
        starts[axis] += shape[axis]
    return pieces


def cut(value: Value, shape: tuple[int, ...], starts: Sequence[object]) -> Value:
    """The value with but some entries of its axes, each from its start on."""
    part = tracks.resize(value, shape)
    for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        if new == 1 < old:
            part = tracks.select(part, axis, starts[axis])
            varies = tuple(v and a != axis for a, v in enumerate(part.varies))
            part = part._replace(varies=varies)
    return part._replace(counts=None)


@MOVES.named("pad", params="padding_config")
def _pad(operation: Operation, values: list[Value]) -> list[Value]:
    value, padding = values
    shape = operation.shapes[0]
    if padding.tracks or (value.tracks and padding.is_data):
        operation.combine(value, padding)
        return operation.data()
    if value.is_data and value.tracks:
        operation.combine(value)
        return operation.data()
    return [tracks.resize(value, shape)._replace(counts=None)]


@MOVES.named("concatenate", params="dimension")
def _concatenate(operation: Operation, values: list[Value]) -> list[Value]:
    shape = operation.shapes[0]
    return [_joined(operation, values, shape, operation.params["dimension"])]


@MOVES.named("stack", params="axis")
def _stack(operation: Operation, values: list[Value]) -> list[Value]:
    shape = operation.shapes[0]
    axis = operation.params["axis"] % len(shape)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    sources: list[int | None] = [*range(len(shape) - 1)]
    sources.insert(axis, None)
    values = [tracks.rearrange(value, sources, one) for value in values]
    return [_joined(operation, values, shape, axis)]


def _joined(
    operation: Operation, values: list[Value], shape: tuple[int, ...], axis: int
) -> Value:
    """Values beside each other along an axis.

    Before JAX 0.10 a stack is written like this too, of values with a single entry.
    """
    values = _restacked([_placed(value, axis) for value in values], axis)
    tracked = [value for value in values if value.tracks]
    if any(value.is_data for value in values):
        operation.combine(*tracked)
        return operation.data()[0]
    along = [any(vs) for vs in zip(*(value.varies for value in values), strict=True)]
    varies = tuple(
        v or (a == axis and not tracked and shape[a] > 1) for a, v in enumerate(along)
    )
    merged = tracks.merge([tracks.resize(value, shape) for value in tracked])
    is_captured = any(value.is_captured for value in values)
    is_scaled = any(value.is_scaled for value in tracked)
    return Value(shape, varies, False, merged, is_scaled, is_captured)


def _placed(value: Value, axis: int) -> Value:
    """Entries that lie beside each other again are not parts of one number."""

    def place(track: Track) -> Track:
        axes = track.axes_at(axis)
        kept = {entry for entry in track.selection if entry[0] not in axes}
        return track._replace(selection=frozenset(kept))

    return map_tracks(value, place)


def _restacked(values: list[Value], axis: int) -> list[Value]:
    """Gives axes back whose entries were taken one by one, and lie side by side again.

    In which order is noted in their place: the blocks of a complex kernel lie in
    another order in each row, and are parts of one number after all.
    """
    entries: dict[tuple[int, int], list[object]] = defaultdict(list)
    for track in (track for value in values for track in value.tracks):
        for own, entry in track.selection:
            entries[track.parameter, own].append(entry)

    def restore(track: Track) -> Track:
        back = {
            own: tuple(entries[track.parameter, own])
            for own, _ in track.selection
            if len({*entries[track.parameter, own]}) > 1 and own not in track.axes()
        }
        if not back:
            return track
        dimensions = [*track.dimensions]
        size = math.prod(part.size for part in dimensions[axis])
        dimensions[axis] = (Part(tuple(sorted({*back} | track.axes_at(axis))), size),)
        kept = {entry for entry in track.selection if entry[0] not in back}
        return track._replace(
            dimensions=tuple(dimensions),
            selection=frozenset(kept | {*back.items()}),
        )

    return [map_tracks(value, restore) for value in values]


@MOVES.named("dynamic_update_slice", "scatter", "scatter-add")
def _update(operation: Operation, values: list[Value]) -> list[Value]:
    value, *others = values
    if value.is_weight and not any(other.is_data or other.tracks for other in others):
        return [value]
    if any(v.tracks for v in values) and not any(v.is_data for v in values):
        if operation.name == "dynamic_update_slice":
            placed = others[0]
        else:
            placed = _in_order_of_operand(operation, *others)
        if placed is not None:
            placed = tracks.resize(placed, value.shape)
            return [combined(operation, [value, placed], value.shape)]
    operation.combine(*values)
    return [plain_of(values, operation.shapes[0])]


def _in_order_of_operand(
    operation: Operation, indices: Value, updates: Value
) -> Value | None:
    """What a scatter writes, with its axes in the order of those it is written to.

    None if there is no such order, as for the entries of a triangle.
    """
    numbers = operation.params["dimension_numbers"]
    window, inserted = [*numbers.update_window_dims], numbers.inserted_window_dims
    # The axes that the updates have from the indices; those of a batch are known.
    scattered = [axis for axis in range(len(updates.shape)) if axis not in window]
    batching: tuple[int, ...] = numbers.operand_batching_dims
    places: tuple[int, ...] = numbers.scatter_indices_batching_dims
    batches = [scattered[place] for place in places]
    scattered = [axis for axis in scattered if axis not in batches]
    if indices.tracks or len(scattered) not in (0, len(inserted)):
        return None
    sources: list[int | None] = []
    for axis in range(len(window) + len(inserted) + len(batches)):
        left = scattered if axis in inserted else window
        if axis in batching:
            sources.append(batches[batching.index(axis)])
        else:
            sources.append(left.pop(0) if left else None)
    shape = tuple(1 if place is None else updates.shape[place] for place in sources)
    return tracks.rearrange(updates, sources, shape)


# Sums.


@MOVES.named(
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_and",
    "reduce_or",
    "reduce_xor",
    "argmax",
    "argmin",
)
def _reduce(operation: Operation, values: list[Value]) -> list[Value]:
    value, shape = values[0], operation.shapes[0]
    axes = operation.params["axes"]
    is_open = value.is_scaled and any(axis in value.owned() for axis in axes)
    # What data scale is a product by hand, unless they scale it along other axes.
    is_product = value.is_data or value.varying() <= {*axes}
    if is_open and is_product and operation.name == "reduce_sum":
        operation.contract(value, axes)
        return operation.data()
    if is_open or (value.is_data and value.tracks):
        operation.combine(value)
        return operation.data()
    return [tracks.reduce(value, axes, shape)]


@MOVES.named("sort", "fft")
def _along_axis(operation: Operation, values: list[Value]) -> list[Value]:
    if any(value.is_data and value.tracks for value in values):
        operation.combine(*values)
        return operation.data()
    if len(values) > 1 and any(value.tracks for value in values):
        return operation.unknown(values)
    results = [
        tracks.resize(value, shape)._replace(counts=None)
        for value, shape in zip(values, operation.shapes, strict=True)
    ]
    if operation.name == "sort":
        return results
    lengths = len(operation.params["fft_lengths"])
    return [_transformed(value, lengths) for value in results]


def _transformed(value: Value, axes: int) -> Value:
    """A Fourier transform over the last axes, or the inverse of one."""

    def note(track: Track) -> Track:
        last = range(len(value.shape) - axes, len(value.shape))
        return track._replace(transformed=track.transformed ^ track.axes_at(*last))

    return map_tracks(value, note)


@MOVES.named("all_gather")
def _all_gather(operation: Operation, values: list[Value]) -> list[Value]:
    if not operation.params["tiled"] and any(value.tracks for value in values):
        return operation.unknown(values, " along a new axis")
    if not operation.params["tiled"]:
        return [plain_of(values, shape) for shape in operation.shapes]
    return list(map(tracks.resize, values, operation.shapes))
