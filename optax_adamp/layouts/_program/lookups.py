"""Operations that take entries out of a parameter by their indices."""

from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.moves import cut
from optax_adamp.layouts._program.tracks import (
    BATCH,
    PICKED,
    REORDERED,
    Part,
    Track,
    Value,
    map_tracks,
    plain_of,
    unowned,
)
from optax_adamp.layouts._program.walk import Operation, Operations

LOOKUPS = Operations()


@LOOKUPS.named("dynamic_slice", params="slice_sizes")
def _dynamic_slice(operation: Operation, values: list[Value]) -> list[Value]:
    value, *starts = values
    shape = operation.shapes[0]
    if not value.tracks:
        return _cut_data(operation, values)
    operation.combine(*starts)
    row = cut(value, shape, [operation.step] * len(shape))
    picked = {
        axis
        for axis, start in enumerate(starts)
        if (start.is_data or start.tracks) and shape[axis] == 1 < value.shape[axis]
    }
    if not picked or value.is_data:
        return [row]

    # One row, by an index that comes with the data.
    def pick(track: Track) -> Track:
        dimensions = tuple(
            unowned(1) if axis in picked else dimension
            for axis, dimension in enumerate(track.dimensions)
        )
        moved = track.became(track.axes_at(*picked), PICKED)
        return moved._replace(dimensions=dimensions, looked_up=operation.where)

    return [map_tracks(row, pick)._replace(is_data=True)]


def _cut_data(operation: Operation, values: list[Value]) -> list[Value]:
    """What is cut out of an array at places that other values tell."""
    operation.combine(*values[1:])
    return [plain_of(values, operation.shapes[0])]


@LOOKUPS.named(
    "gather",
    params=(
        "dimension_numbers fill_value indices_are_sorted mode slice_sizes "
        "unique_indices"
    ),
)
def _gather(operation: Operation, values: list[Value]) -> list[Value]:
    value, indices = values
    shape = operation.shapes[0]
    if not value.tracks or value.is_data:
        operation.combine(value)
        return _cut_data(operation, [value._replace(tracks=()), indices])
    operation.combine(indices)
    numbers = operation.params["dimension_numbers"]
    sizes = operation.params["slice_sizes"]
    offset = numbers.offset_dims
    batching = numbers.operand_batching_dims
    dropped = {*numbers.collapsed_slice_dims, *batching}
    # Axes of the operand that are in the result, in order.
    windows = [axis for axis in range(len(value.shape)) if axis not in dropped]
    picked = [
        axis for axis in numbers.start_index_map if sizes[axis] == 1 < value.shape[axis]
    ]
    # The axes of the result that the indices have, and which of these are batches.
    index_axes = range(len(indices.shape) - 1)
    free = [axis for axis in range(len(shape)) if axis not in offset]
    batch_of = dict(zip(numbers.start_indices_batching_dims, batching, strict=True))
    is_lookup = bool(picked) and (
        indices.is_data or bool(indices.tracks) or any(indices.varies)
    )

    def move(track: Track) -> Track:
        rows, tables = track.axes_at(*picked), track.axes_at(*batching)
        own = tuple(sorted(rows)) if is_lookup else ()
        dimensions = [unowned(size) for size in shape]
        for place, axis in zip(offset, windows, strict=True):
            dimension = track.dimensions[axis]
            if axis in picked:
                dimension = unowned(1)
            elif shape[place] != value.shape[axis]:
                dimension = (Part(tuple(sorted(track.axes_at(axis))), shape[place]),)
            dimensions[place] = dimension
        for place, index_axis in zip(free, index_axes, strict=True):
            if index_axis in batch_of and not is_lookup:
                dimensions[place] = track.dimensions[batch_of[index_axis]]
            else:
                dimensions[place] = (Part(own, shape[place]),)
        track = track._replace(dimensions=tuple(dimensions))
        if not is_lookup:
            return track.became(rows, tracks.SELECTED)
        # Each entry of a batch has a table of its own.
        track = track.became(tables, BATCH).became(rows, PICKED)
        if not (indices.is_data or indices.tracks):
            track = track.became(rows, REORDERED)
        return track._replace(looked_up=operation.where)

    for axis in picked:
        value = tracks.select(value, axis, operation.step)
    varies = tuple(axis in free and size > 1 for axis, size in enumerate(shape))
    moved = Value(shape, varies, is_lookup, value.tracks, value.is_scaled)
    return [map_tracks(moved, move)]
