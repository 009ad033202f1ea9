"""Operations entry by entry: of parameters among themselves, and with data."""

from collections.abc import Sequence

from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.tracks import Value, is_linked, map_tracks, plain
from optax_adamp.layouts._program.walk import Operation, Operations

ELEMENTWISE = Operations()


_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp complex conj convert_element_type copy cos cosh digamma
    div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag
    integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg
    nextafter not optimization_barrier or polygamma pow pvary real reduce_precision
    regularized_incomplete_beta rem reshard round rsqrt
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign
    sin sinh sqrt square stop_gradient sub tan tanh xor zeta psum
    psum_invariant pmax pmin layout_constraint device_put rev
"""
# What the programmer sees as the same value.
_PASSED_ON = {
    *("convert_element_type", "copy", "device_put", "layout_constraint", "name"),
    *("optimization_barrier", "pvary", "reduce_precision", "reshard"),
    "sharding_constraint",
}
# What leaves a product a product.
_LINEAR = _PASSED_ON | {"mul", "div", "neg", "rev"}


@ELEMENTWISE.named(*_NAMES.split())
def _elementwise(operation: Operation, values: list[Value]) -> list[Value]:
    shapes = operation.shapes
    if len(shapes) == len(values) > 1:  # Each by itself.
        return [combined(operation, [value], value.shape) for value in values]
    result = combined(operation, values, shapes[0])
    if operation.name == "eq":
        axis = _one_hot(values, shapes[0])
        result = result._replace(counts=axis, is_one_hot=axis is not None)
    elif operation.name == "stop_gradient":
        result = map_tracks(result, lambda track: track._replace(has_gradient=False))
    elif operation.name not in _PASSED_ON:
        result = result._replace(counts=None)
    return [result]


@ELEMENTWISE.named("select_n")
def _select_n(operation: Operation, values: list[Value]) -> list[Value]:
    predicate, *cases = values
    # Among kernels an example chooses one, which is a kernel.
    is_choice = not predicate.tracks and all(case.is_weight for case in cases)
    return [combined(operation, cases if is_choice else values, operation.shapes[0])]


@ELEMENTWISE.named("cumsum", "cumprod", "cumlogsumexp", "cummax", "cummin")
def _cumulate(operation: Operation, values: list[Value]) -> list[Value]:
    value = values[0]
    along = operation.params["axis"]
    varies = tuple(v or a == along for a, v in enumerate(value.varies))
    cumulated = combined(operation, [value], value.shape)
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


def combined(
    operation: Operation, values: Sequence[Value], shape: tuple[int, ...]
) -> Value:
    """The result of an operation of one shape, entry by entry."""
    values = _without_rows(operation, [_aligned(value, shape) for value in values])
    if len(values) == 1:
        is_scaled = values[0].is_scaled and operation.name in _LINEAR
        return values[0]._replace(is_scaled=is_scaled)
    along = {a for value in values for a in value.varying() if shape[a] > 1}
    is_data = any(value.is_data for value in values)
    is_captured = any(value.is_captured for value in values)
    varies = tuple(axis in along for axis in range(len(shape)))
    tracked = [value for value in values if value.tracks]
    if not tracked:
        return Value(shape, varies, is_data, is_captured=is_captured)
    owned = set[int]().union(*(value.owned() for value in tracked))
    if operation.name in ("add", "add_any", "sub") and _is_biased(tracked):
        # So it is no kernel, but what comes of an input that is learned.
        operation.activate(*tracked)
        return plain(shape, is_data=True)
    if along < owned if is_data else along <= owned:
        # A mask, or a factor for each channel: still a weight.
        scaled = is_data or any(value.is_scaled for value in tracked)
        merged = tracks.merge(tracked)
        return Value(shape, varies, False, merged, scaled)
    everywhere = along | owned
    varies = tuple(axis in everywhere for axis in range(len(shape)))
    if _is_product(operation, values) and not owned <= along:
        # Open, as a sum may follow: together they would be a product of matrices.
        return Value(shape, varies, True, tracks.merge(tracked), is_scaled=True)
    operation.combine(*tracked)
    return Value(shape, varies, True)


def _is_product(operation: Operation, values: Sequence[Value]) -> bool:
    is_division = operation.name == "div" and bool(values[0].tracks)
    return operation.name == "mul" or is_division


def _is_biased(values: Sequence[Value]) -> bool:
    """Whether a product of parameters is added to one with fewer axes."""
    products = [value for value in values if any(map(is_linked, value.tracks))]
    others = [value for value in values if value not in products]
    return bool(products) and any(
        other.owned() < product.owned() for product in products for other in others
    )


def _without_rows(operation: Operation, values: list[Value]) -> list[Value]:
    """The values, after those have been used that are data and parameters at once.

    These are rows that were looked up, kernels that data have scaled, and what an
    einsum has made of a kernel so far. If they are only scaled, they stay what they
    are, and are all that is left.
    """
    rows = [value for value in values if value.tracks and value.is_data]
    others = [value for value in values if value not in rows]
    if len(rows) == 1 and not any(other.tracks for other in others):
        along = {axis for other in others for axis in other.varying()}
        if along:
            stays = _is_product(operation, values) and not rows[0].owned() <= along
        else:
            stays = operation.name in _LINEAR or not rows[0].is_scaled
        if stays:
            return rows
    operation.combine(*rows)
    return [v._replace(tracks=()) if v in rows else v for v in values]


def _aligned(value: Value, shape: tuple[int, ...]) -> Value:
    """The value broadcast to a shape."""
    sources = range(len(value.shape)) if value.shape else [None] * len(shape)
    return tracks.rearrange(value, list(sources), shape)
