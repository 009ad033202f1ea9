"""What the primitive operations of JAX do to the parameters that go into them."""

from collections.abc import Callable, Sequence
from typing import Any

from optax_adamp.layouts import _tracks
from optax_adamp.layouts._program import Operation
from optax_adamp.layouts._tracks import (
    LINKED_LEFT,
    LINKED_RIGHT,
    PICKED,
    Dimension,
    Part,
    Track,
    Value,
    is_linked,
    map_tracks,
    plain,
    plain_of,
    unowned,
)

_Function = Callable[[Operation, list[Value]], list[Value]]

OPERATIONS: dict[str, _Function] = {}


def _operation(*names: str) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp complex conj convert_element_type copy copy_p cos cosh digamma
    div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag
    integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg
    nextafter not optimization_barrier or polygamma pow pvary real reduce_precision
    regularized_incomplete_beta rem reshard mesh_cast round rsqrt
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign
    sin sinh sqrt square stop_gradient sub tan tanh xor zeta pcast psum psum2
    psum_invariant pmax pmin layout_constraint device_put rev
"""


@_operation(*_ELEMENTWISE.split())
def _elementwise(operation: Operation, values: list[Value]) -> list[Value]:
    shapes = operation.shapes
    if len(shapes) == len(values) > 1:  # Each by itself.
        return [_combined(operation, [value], value.shape) for value in values]
    result = _combined(operation, values, shapes[0])
    if operation.name == "eq":
        axis = _one_hot(values, shapes[0])
        result = result._replace(counts=axis, is_one_hot=axis is not None)
    elif operation.name == "stop_gradient":
        result = map_tracks(result, lambda track: track._replace(has_gradient=False))
    elif operation.name != "convert_element_type":
        result = result._replace(counts=None)
    return [result]


@_operation("select_n")
def _select_n(operation: Operation, values: list[Value]) -> list[Value]:
    predicate, *cases = values
    shape = operation.shapes[0]
    if not predicate.tracks and all(case.is_weight for case in cases):
        # A choice among kernels, as an example asks for it.
        chosen = _combined(operation, cases, shape)
        varies = _aligned(predicate, shape).varies
        along = tuple(a or b for a, b in zip(chosen.varies, varies, strict=True))
        return [chosen._replace(varies=along)]
    return [_combined(operation, values, shape)]


@_operation("cumsum", "cumprod", "cumlogsumexp", "cummax", "cummin")
def _cumulate(operation: Operation, values: list[Value]) -> list[Value]:
    value = values[0]
    along = operation.params["axis"]
    varies = tuple(v or a == along for a, v in enumerate(value.varies))
    cumulated = _combined(operation, [value], value.shape)
    # The sums of a constant are not constant, but those of a weight are a weight.
    return [cumulated if value.tracks else cumulated._replace(varies=varies)]


def _one_hot(values: list[Value], shape: tuple[int, ...]) -> int | None:
    """The axis along which indices are compared with 0, 1, 2, ..."""
    axes = [
        value.counts
        for value, other in (values, values[::-1])
        if value.counts is not None
        and not value.is_one_hot
        and other.counts is None
        and len(value.shape) == len(other.shape) == len(shape)
        and not other.varies[value.counts]
    ]
    return axes[0] if axes else None


def _combined(
    operation: Operation, values: Sequence[Value], shape: tuple[int, ...]
) -> Value:
    """The result of an operation of one shape, entry by entry."""
    values = [_aligned(value, shape) for value in values]
    along = {
        axis
        for axis, size in enumerate(shape)
        if size > 1 and any(value.varies[axis] for value in values)
    }
    is_data = any(value.is_data for value in values)
    is_captured = any(value.is_captured for value in values)
    varies = tuple(axis in along for axis in range(len(shape)))
    tracked = [value for value in values if value.tracks]
    if not tracked:
        if len(values) == 1:
            return values[0]
        return Value(shape, varies, is_data, is_captured=is_captured)
    if is_data and any(value.is_data for value in tracked):
        return _rows_combined(operation, values, shape)
    owned = set[int]().union(*(value.owned() for value in tracked))
    if operation.name in ("add", "add_any", "sub") and _is_biased(tracked):
        # So it is no kernel, but what comes of an input that is learned.
        operation.activate(*tracked)
        return plain(shape, is_data=True)
    if (along < owned if is_data else along <= owned) or len(values) == 1:
        # A mask, or a factor for each channel: still a weight.
        scaled = is_data or any(value.is_scaled for value in tracked)
        tracks = _tracks.merge(tracked)
        return Value(shape, varies, False, tracks, scaled, is_captured)
    operation.combine(*tracked)
    everywhere = along | owned
    return Value(shape, tuple(axis in everywhere for axis in range(len(shape))), True)


def _is_biased(values: Sequence[Value]) -> bool:
    """Whether a product of parameters is added to one with fewer axes."""
    products = [value for value in values if any(map(is_linked, value.tracks))]
    others = [value for value in values if value not in products]
    return bool(products) and any(
        other.owned() < product.owned() for product in products for other in others
    )


def _rows_combined(
    operation: Operation, values: Sequence[Value], shape: tuple[int, ...]
) -> Value:
    """The same for rows that were looked up, which stay rows if only scaled."""
    rows = [value for value in values if value.tracks and value.is_data]
    others = [value for value in values if value not in rows]
    if len(rows) == 1 and not any(any(o.varies) or o.tracks for o in others):
        return rows[0]
    operation.combine(*(value for value in values if value.tracks))
    return plain(shape, is_data=True)


def _aligned(value: Value, shape: tuple[int, ...]) -> Value:
    """The value broadcast to a shape."""
    if value.shape == shape:
        return value
    sources = range(len(value.shape)) if value.shape else [None] * len(shape)
    return _tracks.rearrange(value, list(sources), shape)


# Moving axes.


@_operation("transpose")
def _transpose(operation: Operation, values: list[Value]) -> list[Value]:
    order = operation.params["permutation"]
    return [_tracks.rearrange(values[0], order, operation.shapes[0])]


@_operation("broadcast_in_dim")
def _broadcast(operation: Operation, values: list[Value]) -> list[Value]:
    shape = operation.shapes[0]
    places = list(operation.params["broadcast_dimensions"])
    sources = [
        places.index(axis) if axis in places else None for axis in range(len(shape))
    ]
    return [_tracks.rearrange(values[0], sources, shape)]


@_operation("tile")
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


@_operation("squeeze")
def _squeeze(operation: Operation, values: list[Value]) -> list[Value]:
    dropped = operation.params["dimensions"]
    kept = [axis for axis in range(len(values[0].shape)) if axis not in dropped]
    return [_tracks.rearrange(values[0], kept, operation.shapes[0])]


@_operation("reshape")
def _reshape(operation: Operation, values: list[Value]) -> list[Value]:
    if operation.params["dimensions"] is not None:
        return operation.unknown(values, " with dimensions")
    return [_tracks.reshape(values[0], operation.shapes[0])]


@_operation("iota")
def _iota(operation: Operation, values: list[Value]) -> list[Value]:
    shape, axis = operation.shapes[0], operation.params["dimension"]
    varies = tuple(a == axis and size > 1 for a, size in enumerate(shape))
    return [Value(shape, varies, counts=axis)]


# Cutting and joining.


@_operation("slice")
def _slice(operation: Operation, values: list[Value]) -> list[Value]:
    starts = operation.params["start_indices"]
    return [_cut(values[0], operation.shapes[0], starts)]


@_operation("split")
def _split(operation: Operation, values: list[Value]) -> list[Value]:
    axis = operation.params["axis"]
    starts = [0] * len(values[0].shape)
    pieces: list[Value] = []
    for shape in operation.shapes:
        pieces.append(_cut(values[0], shape, starts))
        starts[axis] += shape[axis]
    return pieces


@_operation("dynamic_slice")
def _dynamic_slice(operation: Operation, values: list[Value]) -> list[Value]:
    value, *starts = values
    shape = operation.shapes[0]
    if not value.tracks:
        return _cut_data(operation, values)
    if any(start.tracks for start in starts):
        operation.combine(*starts)
    cut = _cut(value, shape, [operation.step] * len(shape))
    picked = {
        axis
        for axis, start in enumerate(starts)
        if (start.is_data or start.tracks) and shape[axis] == 1 < value.shape[axis]
    }
    if not picked or value.is_data:
        return [cut]

    # One row, by an index that comes with the data.
    def pick(track: Track) -> Track:
        axes = {a for axis in picked for a in track.axes_at(axis)}
        dimensions = tuple(
            unowned(1) if axis in picked else dimension
            for axis, dimension in enumerate(track.dimensions)
        )
        track = track._replace(dimensions=dimensions, looked_up=operation.where)
        return track.became(axes, PICKED)

    return [map_tracks(cut, pick)._replace(is_data=True)]


def _cut(value: Value, shape: tuple[int, ...], starts: Sequence[object]) -> Value:
    cut = _tracks.resize(value, shape)
    for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        if new == 1 < old:
            cut = _tracks.select(cut, axis, starts[axis])
            varies = tuple(v and a != axis for a, v in enumerate(cut.varies))
            cut = cut._replace(varies=varies)
    return cut._replace(counts=None)


def _cut_data(operation: Operation, values: list[Value]) -> list[Value]:
    """What is cut out of an array at places that other values tell."""
    operation.combine(*(value for value in values[1:] if value.tracks))
    return [plain_of(values, operation.shapes[0])]


@_operation("pad")
def _pad(operation: Operation, values: list[Value]) -> list[Value]:
    value, padding = values
    shape = operation.shapes[0]
    if padding.tracks or (value.tracks and padding.is_data):
        operation.combine(value, padding)
        return operation.data()
    if value.is_data and value.tracks:
        operation.combine(value)
        return operation.data()
    return [_tracks.resize(value, shape)._replace(counts=None)]


@_operation("concatenate")
def _concatenate(operation: Operation, values: list[Value]) -> list[Value]:
    shape, axis = operation.shapes[0], operation.params["dimension"]
    return [_joined(operation, [_placed(value, axis) for value in values], shape, axis)]


@_operation("stack")
def _stack(operation: Operation, values: list[Value]) -> list[Value]:
    shape = operation.shapes[0]
    axis = operation.params["axis"] % len(shape)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    sources: list[int | None] = [*range(len(shape) - 1)]
    sources.insert(axis, None)
    values = [_tracks.rearrange(value, sources, one) for value in values]
    return [_joined(operation, _restacked(values, axis), shape, axis)]


def _joined(
    operation: Operation, values: list[Value], shape: tuple[int, ...], axis: int
) -> Value:
    """Values beside each other along an axis."""
    tracked = [value for value in values if value.tracks]
    if any(value.is_data for value in values):
        operation.combine(*tracked)
        return operation.data()[0]
    along = [any(vs) for vs in zip(*(value.varies for value in values), strict=True)]
    varies = tuple(
        v or (a == axis and not tracked and shape[a] > 1) for a, v in enumerate(along)
    )
    tracks = _tracks.merge([_tracks.resize(value, shape) for value in tracked])
    is_captured = any(value.is_captured for value in values)
    is_scaled = any(value.is_scaled for value in tracked)
    return Value(shape, varies, False, tracks, is_scaled, is_captured)


def _placed(value: Value, axis: int) -> Value:
    """Entries that lie beside each other again are not parts of one number."""

    def place(track: Track) -> Track:
        axes = track.axes_at(axis)
        kept = {entry for entry in track.selection if entry[0] not in axes}
        return track._replace(selection=frozenset(kept))

    return map_tracks(value, place)


def _restacked(values: list[Value], axis: int) -> list[Value]:
    """Gives an axis back of which single entries were taken and are stacked again."""
    parameters = {track.parameter for value in values for track in value.tracks}
    chosen = {entry for value in values for t in value.tracks for entry in t.selection}
    axes = {entry[0] for entry in chosen}
    if len(parameters) != 1 or len(axes) != 1 or len(chosen) != len(values):
        return values
    [back] = axes

    def restore(track: Track) -> Track:
        dimensions = [*track.dimensions]
        dimensions[axis] = (Part((back,), 1),)
        gone = frozenset(entry for entry in track.gone if entry[0] != back)
        return track._replace(
            dimensions=tuple(dimensions), gone=gone, selection=frozenset()
        )

    return [map_tracks(value, restore) for value in values]


@_operation("dynamic_update_slice", "scatter", "scatter-add", "scatter_add")
def _update(operation: Operation, values: list[Value]) -> list[Value]:
    value, *others = values
    if operation.name == "dynamic_update_slice" and not any(v.is_data for v in values):
        place = _tracks.resize(others[0], value.shape)
        return [_combined(operation, [value, place], value.shape)]
    if value.is_weight and not any(other.is_data or other.tracks for other in others):
        return [value]
    operation.combine(*(v for v in values if v.tracks))
    return [plain_of(values, operation.shapes[0])]


@_operation("gather")
def _gather(operation: Operation, values: list[Value]) -> list[Value]:
    value, indices = values
    shape = operation.shapes[0]
    if not value.tracks or value.is_data:
        if value.tracks:
            operation.combine(value)
        return _cut_data(operation, [value._replace(tracks=()), indices])
    operation.combine(indices)
    numbers = operation.params["dimension_numbers"]
    sizes = operation.params["slice_sizes"]
    offset = list(numbers.offset_dims)
    batching = list(numbers.operand_batching_dims)
    dropped = {*numbers.collapsed_slice_dims, *batching}
    # Axes of the operand that are in the result, in order.
    windows = [axis for axis in range(len(value.shape)) if axis not in dropped]
    picked = [
        axis for axis in numbers.start_index_map if sizes[axis] == 1 < value.shape[axis]
    ]
    # The axes of the result that the indices have, and which of these are batches.
    index_axes = [axis for axis in range(len(indices.shape) - 1)]
    free = [axis for axis in range(len(shape)) if axis not in offset]
    batch_of = dict(zip(numbers.start_indices_batching_dims, batching, strict=True))
    is_lookup = bool(picked) and (
        indices.is_data or bool(indices.tracks) or any(indices.varies)
    )

    def move(track: Track) -> Track:
        rows = {a for axis in picked for a in track.axes_at(axis)}
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
            if index_axis in batch_of:
                dimensions[place] = track.dimensions[batch_of[index_axis]]
            else:
                dimensions[place] = (Part(own, shape[place]),)
        track = track._replace(dimensions=tuple(dimensions))
        if not is_lookup:
            return track.became(rows, _tracks.SELECTED)
        return track.became(rows, PICKED)._replace(looked_up=operation.where)

    varies = tuple(axis in free and size > 1 for axis, size in enumerate(shape))
    moved = Value(shape, varies, is_lookup, value.tracks, value.is_scaled)
    moved = map_tracks(moved, move)
    if not is_lookup:
        for axis in picked:
            entry = _tracks.select(value, axis, operation.step)
            moved = moved._replace(
                tracks=tuple(
                    track._replace(selection=chosen.selection)
                    for track, chosen in zip(moved.tracks, entry.tracks, strict=True)
                )
            )
    return [moved]


# Sums.


@_operation(
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
    if value.is_data and value.tracks:
        operation.combine(value)
        value = value._replace(tracks=())
    if value.is_scaled and any(axis in value.owned() for axis in axes):
        operation.combine(value)  # A product with data by hand, and its sum.
        return operation.data()
    return [_tracks.reduce(value, axes, shape)]


@_operation("sort", "fft")
def _along_axis(operation: Operation, values: list[Value]) -> list[Value]:
    if any(value.is_data and value.tracks for value in values):
        operation.combine(*values)
        return operation.data()
    if len(values) > 1 and any(value.tracks for value in values):
        return operation.unknown(values)
    results = [
        _tracks.resize(value, shape)._replace(counts=None)
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
        along = frozenset(a for position in last for a in track.axes_at(position))
        return track._replace(transformed=track.transformed ^ along)

    return map_tracks(value, note)


@_operation("dot_general")
def _dot_general(operation: Operation, values: list[Value]) -> list[Value]:
    contracting, batch = operation.params["dimension_numbers"]
    return [_product(operation, values, [list(axes) for axes in contracting], batch)]


def _product(
    operation: Operation,
    values: list[Value],
    contracting: Sequence[Sequence[int]],
    batch: Sequence[Sequence[int]],
) -> Value:
    """A contraction of two arrays."""
    data = operation.data()[0]
    left, right = values
    if not (left.tracks or right.tracks):
        return plain_of(values, data.shape)
    sides = [*zip(values, contracting, batch, strict=True)]
    if left.is_weight and right.is_weight:
        return _product_of_weights(operation, sides)
    for (value, reduction, shared), other in zip(sides, (right, left), strict=True):
        if value.is_weight:
            others_sum = contracting[1 if value is left else 0]
            if other.is_one_hot and [other.counts] == [*others_sum]:
                return _row_lookup(operation, sides, value is left)
            if not (other.is_data or other.is_captured):
                return _mapped(operation, sides, value is left)
            if operation.equation and not any(map(is_linked, value.tracks)):
                return _partly_contracted(operation, sides, value is left)
            operation.contract(
                value,
                reduction,
                shared,
                left_is_input=not _is_input_contracted(value, reduction),
            )
        elif value.tracks and all(t.equation for t in value.tracks):
            if value.tracks[0].equation == operation.equation and not other.tracks:
                return _partly_contracted(operation, sides, value is left)
            operation.combine(value)
        elif value.tracks:
            _contract_rows(operation, value, reduction, shared, other)
    return data


_Side = tuple[Value, Sequence[int], Sequence[int]]


def _is_input_contracted(value: Value, reduction: Sequence[int]) -> bool:
    """Whether data meet the left one of multiplied parameters, as in `x @ (a @ b)`.

    Otherwise `a` stands for an input, as a learned query does, and `b` for the kernel
    that is applied to it.
    """
    left = [
        track
        for track in value.tracks
        if any(became == LINKED_LEFT for _, became in track.gone)
    ]
    return not left or any(track.axes_at(axis) for track in left for axis in reduction)


def _contract_rows(
    operation: Operation,
    rows: Value,
    reduction: Sequence[int],
    shared: Sequence[int],
    other: Value,
) -> None:
    """Rows that were looked up meet data: vectors, or kernels such as experts'."""
    for track in rows.tracks:
        picked = {axis for axis, became in track.gone if became == PICKED}
        positions = range(len(rows.shape))
        kept = {*positions} - {*reduction} - {*shared}
        inside = {a for p in kept for a in track.axes_at(p) if rows.shape[p] > 1}
        one = rows._replace(tracks=(track,))
        summed = {a for p in reduction for a in track.axes_at(p)}
        if other.is_weight or not inside - picked or summed <= picked:
            operation.combine(one)
        else:
            operation.contract(one, reduction, shared)


def _free(side: _Side) -> list[int]:
    """The axes that a product keeps of one operand alone."""
    value, reduction, shared = side
    return [a for a in range(len(value.shape)) if a not in {*reduction, *shared}]


def _replaced(
    operation: Operation, sides: Sequence[_Side], weight_is_left: bool
) -> Callable[[Track], Track]:
    """A product in which the axes of the other operand stand for those summed over."""
    shape = operation.shapes[0]
    ours, theirs = sides if weight_is_left else sides[::-1]
    _, summed, shared = ours
    own = _free(ours)
    start = len(shared) + (0 if weight_is_left else len(_free(theirs)))

    def move(track: Track) -> Track:
        axes = tuple(sorted({a for axis in summed for a in track.axes_at(axis)}))
        dimensions: list[Dimension] = [(Part(axes, size),) for size in shape]
        for place, axis in enumerate(shared):
            dimensions[place] = track.dimensions[axis]
        for place, axis in enumerate(own):
            dimensions[start + place] = track.dimensions[axis]
        return track._replace(dimensions=tuple(dimensions))

    return move


def _row_lookup(
    operation: Operation, sides: Sequence[_Side], table_is_left: bool
) -> Value:
    """A product of one-hot data with a table is a lookup of rows."""
    table, summed, _ = sides[0 if table_is_left else 1]
    move = _replaced(operation, sides, table_is_left)

    def pick(track: Track) -> Track:
        rows = {a for axis in summed for a in track.axes_at(axis)}
        return move(track)._replace(looked_up=operation.where).became(rows, PICKED)

    tracks = tuple(map(pick, table.tracks))
    return plain(operation.shapes[0], is_data=True)._replace(tracks=tracks)


def _mapped(
    operation: Operation, sides: Sequence[_Side], weight_is_left: bool
) -> Value:
    """A linear map that the program makes itself, such as an interpolation."""
    ours, theirs = sides if weight_is_left else sides[::-1]
    weight, summed, shared = ours
    shape = operation.shapes[0]
    if not _free(theirs):
        kept = [axis for axis in range(len(weight.shape)) if axis not in summed]
        sizes = tuple(weight.shape[axis] for axis in kept)
        order = [kept.index(axis) for axis in (*shared, *_free(ours))]
        return _tracks.rearrange(_tracks.reduce(weight, summed, sizes), order, shape)
    moved = map_tracks(weight, _replaced(operation, sides, weight_is_left))
    return moved._replace(shape=shape, varies=(False,) * len(shape), counts=None)


def _partly_contracted(
    operation: Operation, sides: Sequence[_Side], weight_is_left: bool
) -> Value:
    """One of several products in an einsum, of which the next may sum over more."""
    weight, summed, shared = sides[0 if weight_is_left else 1]
    move = _replaced(operation, sides, weight_is_left)

    def contract(track: Track) -> Track:
        # What the other operand brings along is none of its axes.
        emptied = track._replace(
            dimensions=tuple(
                unowned(weight.shape[axis]) if axis in {*summed, *shared} else dimension
                for axis, dimension in enumerate(track.dimensions)
            )
        )
        reduced = {a for axis in summed for a in track.axes_at(axis)}
        batch = {a for axis in shared for a in track.axes_at(axis)}
        moved = move(emptied)._replace(equation=operation.equation)
        return moved.became(reduced, _tracks.REDUCTION).became(batch, _tracks.BATCH)

    tracks = tuple(map(contract, weight.tracks))
    return plain(operation.shapes[0], is_data=True)._replace(tracks=tracks)


def _product_of_weights(operation: Operation, sides: Sequence[_Side]) -> Value:
    """A product of parameters: of low rank, or of an input that is learned."""
    (left, left_sum, left_batch), (right, right_sum, right_batch) = sides
    if any(is_linked(track) for value in (left, right) for track in value.tracks):
        return operation.unknown([left, right], " with several parameters")[0]
    for index, (value, reduction, shared) in enumerate(sides):
        if _is_tiled(value, reduction, shared):
            # As many copies as there are examples.
            other, other_sum, other_shared = sides[1 - index]
            operation.combine(value)
            operation.contract(other, other_sum, other_shared)
            return operation.data()[0]
    shape = operation.shapes[0]
    both = {t.parameter for t in left.tracks} & {t.parameter for t in right.tracks}
    left_free = [a for a in range(len(left.shape)) if a not in {*left_sum, *left_batch}]
    right_free = [
        a for a in range(len(right.shape)) if a not in {*right_sum, *right_batch}
    ]

    def move(
        value: Value,
        reduction: Sequence[int],
        order: Sequence[int | None],
        role: str,
    ) -> Value:
        def one(track: Track) -> Track:
            axes = {a for axis in reduction for a in track.axes_at(axis)}
            dimensions = tuple(
                unowned(size) if axis is None else track.dimensions[axis]
                for axis, size in zip(order, shape, strict=True)
            )
            moved = track._replace(dimensions=dimensions).became(axes, role)
            # A parameter times itself, as in an orthogonalization.
            return moved._replace(summed=track.summed or track.parameter in both)

        return map_tracks(value, one)

    nothing: list[int | None] = [None]
    moved_left = move(
        left,
        left_sum,
        [*left_batch, *left_free, *nothing * len(right_free)],
        LINKED_LEFT,
    )
    moved_right = move(
        right,
        right_sum,
        [*right_batch, *nothing * len(left_free), *right_free],
        LINKED_RIGHT,
    )
    tracks = _tracks.merge([moved_left, moved_right])
    scaled = left.is_scaled or right.is_scaled
    return Value(shape, (False,) * len(shape), False, tracks, scaled)


def _is_tiled(value: Value, reduction: Sequence[int], shared: Sequence[int]) -> bool:
    """Whether it was broadcast along an axis that the product keeps."""
    owned = value.owned()
    return any(
        size > 1 and axis not in owned and axis not in {*reduction, *shared}
        for axis, size in enumerate(value.shape)
    )


@_operation("ragged_dot", "ragged_dot_general")
def _ragged_dot(operation: Operation, values: list[Value]) -> list[Value]:
    left, right, *sizes = values
    numbers = operation.params.get("ragged_dot_dimension_numbers")
    operation.combine(left, *sizes)
    if numbers is None:
        reduction, shared = [1], [0]
    else:
        (_, reduction), (_, shared) = numbers.dot_dimension_numbers
        shared = [*shared, *numbers.rhs_group_dimensions]
    if right.is_data:
        operation.combine(right)
    else:
        operation.contract(right, reduction, shared)
    return operation.data()


@_operation("conv_general_dilated")
def _convolution(operation: Operation, values: list[Value]) -> list[Value]:
    left, right = values
    _, kernel, _ = operation.params["dimension_numbers"]
    if not (left.tracks or right.tracks):
        return [plain_of(values, operation.shapes[0])]
    if left.is_weight and not right.tracks:
        return operation.unknown(values, ", whose kernel depends on data")
    operation.combine(left)
    if operation.params["batch_group_count"] > 1:
        return operation.unknown([right], " with groups of examples")
    if right.is_data:
        operation.combine(right)
    else:
        output, inputs, *window = kernel
        if operation.is_derivative:
            output, inputs = inputs, output
        operation.contract(right, [inputs, *window])
    return operation.data()


# Control flow.


@_operation("scan")
def _scan(operation: Operation, values: list[Value]) -> list[Value]:
    params = operation.params
    body, consts, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    fixed, first = values[:consts], values[consts : consts + carried]
    for value in values[consts + carried :]:
        if value.is_data and value.tracks:
            operation.combine(value)
    stacked = [
        _tracks.unstack(value._replace(tracks=()) if value.is_data else value)
        for value in values[consts + carried :]
    ]

    def turn(carry: list[Value]) -> list[Value]:
        return _walk(operation, body, [*fixed, *carry, *stacked])

    carry, second = operation.program.settle(first, lambda c: turn(c)[:carried])
    _combine_replaced(operation, first, second, carry)
    results = turn(carry)
    outputs = [
        _tracks.rearrange(value, [None, *range(len(value.shape))], shape)
        for value, shape in zip(
            results[carried:], operation.shapes[carried:], strict=True
        )
    ]
    along = (params["length"] > 1,)
    return carry + [
        value._replace(varies=along + value.varies[1:]) for value in outputs
    ]


@_operation("while")
def _while(operation: Operation, values: list[Value]) -> list[Value]:
    params = operation.params
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    split = params["cond_nconsts"]
    fixed = values[:split], values[split : split + params["body_nconsts"]]
    first = values[split + params["body_nconsts"] :]

    def turn(carry: list[Value]) -> list[Value]:
        return _walk(operation, body, [*fixed[1], *carry])

    carry, second = operation.program.settle(first, turn)
    _combine_replaced(operation, first, second, carry)
    _walk(operation, condition, [*fixed[0], *carry])
    turn(carry)
    return carry


def _combine_replaced(
    operation: Operation,
    first: list[Value],
    second: list[Value],
    carry: list[Value],
) -> None:
    """Parameters that a loop begins with, and then replaces by something else."""
    for before, after, every in zip(first, second, carry, strict=True):
        if every.tracks == before.tracks:
            continue
        if after.is_weight:
            operation.unknown([before], ", which changes it")
        else:
            operation.combine(before)


@_operation("cond")
def _cond(operation: Operation, values: list[Value]) -> list[Value]:
    index, *arguments = values
    operation.combine(index)
    results = [
        _walk(operation, branch, arguments) for branch in operation.params["branches"]
    ]
    joined: list[Value] = []
    for shape, several in zip(
        operation.shapes, zip(*results, strict=True), strict=True
    ):
        joined.append(_combined(operation, several, shape))
    return joined


def _walk(operation: Operation, body: Any, values: list[Value]) -> list[Value]:
    return operation.program.walk(body.jaxpr, body.consts, values, caller=operation)


@_operation("all_gather")
def _all_gather(operation: Operation, values: list[Value]) -> list[Value]:
    if not operation.params["tiled"] and any(value.tracks for value in values):
        return operation.unknown(values, " along a new axis")
    if not operation.params["tiled"]:
        return [plain_of(values, shape) for shape in operation.shapes]
    return list(map(_tracks.resize, values, operation.shapes))
