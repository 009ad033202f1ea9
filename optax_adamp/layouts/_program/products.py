"""Products and convolutions: the uses that tell what an axis is for."""

from collections.abc import Callable, Sequence

from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.tracks import (
    LINKED_LEFT,
    LINKED_RIGHT,
    PICKED,
    REORDERED,
    Dimension,
    Part,
    Track,
    Value,
    is_linked,
    map_tracks,
    plain_of,
    unowned,
)
from optax_adamp.layouts._program.walk import Operation, Operations

PRODUCTS = Operations()


@PRODUCTS.named(
    "dot_general",
    params="dimension_numbers out_sharding precision preferred_element_type",
)
def _dot_general(operation: Operation, values: list[Value]) -> list[Value]:
    contracting, batch = operation.params["dimension_numbers"]
    return [_product(operation, values, contracting, batch)]


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
        elif value.tracks:
            equation = value.tracks[0].equation
            if equation == operation.equation and _is_open(value) and not other.tracks:
                return _partly_contracted(operation, sides, value is left)
            _contract_kernel(operation, value, reduction, shared, other)
    return data


_Side = tuple[Value, Sequence[int], Sequence[int]]


def _is_input_contracted(value: Value, reduction: Sequence[int]) -> bool:
    """Whether data meet the left one of multiplied parameters, as in `x @ (a @ b)`.

    Otherwise `a` stands for an input, as a learned query does, and `b` for the kernel
    that is applied to it.
    """
    left = [track for track in value.tracks if track.that_became(LINKED_LEFT)]
    return not left or any(track.axes_at(*reduction) for track in left)


def _is_open(value: Value) -> bool:
    """Whether an einsum with more operands has made it, and may go on with it."""
    return all(track.equation for track in value.tracks)


def _contract_kernel(
    operation: Operation,
    kernel: Value,
    reduction: Sequence[int],
    shared: Sequence[int],
    other: Value,
) -> None:
    """A kernel of parameters meets data; those that data made may be rows, or not."""
    if kernel.is_weight:
        operation.contract(kernel, reduction, shared)
    elif _is_open(kernel):
        operation.combine(kernel)
    else:
        _contract_rows(operation, kernel, reduction, shared, other)


def _contract_rows(
    operation: Operation,
    rows: Value,
    reduction: Sequence[int],
    shared: Sequence[int],
    other: Value,
) -> None:
    """Rows that were looked up meet data: vectors, or kernels such as experts'."""
    kept = [p for p in _free((rows, reduction, shared)) if rows.shape[p] > 1]
    for track in rows.tracks:
        picked = track.that_became(PICKED)
        inside, summed = track.axes_at(*kept), track.axes_at(*reduction)
        one = rows._replace(tracks=(track,))
        # What the program itself has put in order, the same for all examples, is still
        # a kernel.
        reordered = track.that_became(REORDERED) - track.axes_at(*shared)
        if other.is_weight or not inside - picked or summed <= picked - reordered:
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
        axes = tuple(sorted(track.axes_at(*summed)))
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
        moved = move(track)._replace(looked_up=operation.where)
        return moved.became(track.axes_at(*summed), PICKED)

    return _data_with(operation, map_tracks(table, pick))


def _data_with(operation: Operation, value: Value) -> Value:
    """The result, which is data, and of which it is still open what the use was."""
    return operation.data()[0]._replace(tracks=value.tracks)


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
        return tracks.rearrange(tracks.reduce(weight, summed, sizes), order, shape)
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
        moved = move(emptied)._replace(equation=operation.equation)
        moved = moved.became(track.axes_at(*summed), tracks.REDUCTION)
        return moved.became(track.axes_at(*shared), tracks.BATCH)

    return _data_with(operation, map_tracks(weight, contract))


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
    left_free, right_free = map(_free, sides)

    def move(
        value: Value,
        reduction: Sequence[int],
        order: Sequence[int | None],
        role: str,
    ) -> Value:
        def one(track: Track) -> Track:
            dimensions = tuple(
                unowned(size) if axis is None else track.dimensions[axis]
                for axis, size in zip(order, shape, strict=True)
            )
            return track.became(track.axes_at(*reduction), role)._replace(
                dimensions=dimensions,
                # A parameter times itself, as in an orthogonalization.
                summed=track.summed or track.parameter in both,
            )

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
    merged = tracks.merge([moved_left, moved_right])
    scaled = left.is_scaled or right.is_scaled
    return Value(shape, (False,) * len(shape), False, merged, scaled)


def _is_tiled(value: Value, reduction: Sequence[int], shared: Sequence[int]) -> bool:
    """Whether it was broadcast along an axis that the product keeps."""
    kept = {axis for axis in _free((value, reduction, shared)) if value.shape[axis] > 1}
    return not kept <= value.owned()


@PRODUCTS.named(
    "ragged_dot_general",
    params=(
        "ragged_dot_dimension_numbers group_offset out_sharding precision "
        "preferred_element_type"
    ),
)
def _ragged_dot(operation: Operation, values: list[Value]) -> list[Value]:
    left, right, *sizes = values
    numbers = operation.params["ragged_dot_dimension_numbers"]
    operation.combine(left, *sizes)
    (_, reduction), (_, shared) = numbers.dot_dimension_numbers
    shared = [*shared, *numbers.rhs_group_dimensions]
    _contract_kernel(operation, right, reduction, shared, left)
    return operation.data()


@PRODUCTS.named(
    "conv_general_dilated",
    params=(
        "dimension_numbers batch_group_count feature_group_count lhs_dilation "
        "out_sharding padding precision preferred_element_type rhs_dilation "
        "window_strides"
    ),
)
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
    output, inputs, *window = kernel
    if operation.is_derivative:
        output, inputs = inputs, output
    _contract_kernel(operation, right, [inputs, *window], [], left)
    return operation.data()
