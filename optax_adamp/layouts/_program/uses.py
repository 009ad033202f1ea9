"""From the uses of a parameter in a program to its axes."""

from collections.abc import Iterable
from typing import NamedTuple

from optax_adamp._axes import ProjectionDimensionNumbers, Shape
from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.tracks import Track
from optax_adamp.layouts._rules import Reading

CONTRACTED, LOOKED_UP, ELEMENTWISE, RETURNED, UNKNOWN = (
    "contracted and kept",
    "rows looked up",
    "elementwise",
    "returned as it is",
    "unknown",
)
_REDUCTION, _OUTPUT, _BATCH = "reduction", "output", "batch"
_PRODUCT = "it is multiplied with another parameter before it meets data"


class Use(NamedTuple):
    """One operation with a parameter and data."""

    kind: str
    roles: frozenset[tuple[int, str]]  # What each axis is; may name one more than once.
    where: str  # The modules, file and line.
    problem: str = ""  # Why the roles are not known.
    # How far it is from what the parameter is for: 0 for an operation that a gradient
    # passes through, 1 for one that it does not, 2 for one of a derivative.
    distance: int = 0


def contracted(
    track: Track,
    where: str,
    *,
    reduction: Iterable[int],
    batch: Iterable[int] = (),
    left_is_input: bool = False,
) -> Use:
    """A use of which some axes of a value are summed over, and others shared.

    Args:
      track: The parameter in the value.
      where: The place of the operation.
      reduction: Axes of the value that the sum runs over.
      batch: Axes of the value that the other operand has as well, and the result keeps.
      left_is_input: Whether the left one of two multiplied parameters stands for an
        input, such as a learned query.
    """
    positions = {*range(len(track.dimensions))}
    reduced, shared = track.axes_at(*reduction), track.axes_at(*batch)
    kept = track.axes_at(*positions.difference(reduction, batch))
    kept -= reduced & track.that_became(tracks.PICKED)
    problem = "some of its axes are summed before its use" if track.summed else ""
    if left_is_input and tracks.is_linked(track):
        if reduced and kept:
            problem = _PRODUCT
        # The product is an activation: all axes that are left are outputs of a kernel.
        reduced, shared, kept = set[int](), set[int](), reduced | shared | kept
    # In x @ (a @ b) the input meets a, whose outputs b then reduces.
    linked = _OUTPUT if reduced else _REDUCTION
    reduced |= track.that_became(tracks.REDUCTION)
    # Outputs that are taken in groups, as in chunks of a vocabulary, are outputs.
    groups = (shared | track.that_became(tracks.BATCH)) - kept
    roles = {(axis, _REDUCTION) for axis in reduced}
    roles |= {(axis, _OUTPUT) for axis in kept}
    roles |= {(axis, _BATCH) for axis in groups}
    roles |= {(axis, linked) for axis in track.that_became(*tracks.PRODUCTS)}
    known = {axis for axis, _ in roles}
    # What is left are axes of which a single entry was taken: stacks.
    roles |= {(axis, _BATCH) for axis, _ in track.gone if axis not in known}
    return Use(CONTRACTED, frozenset(roles), where, problem)


def transposed(use: Use) -> Use:
    """The use that a use in a derivative belongs to: sums become outputs."""
    swapped = {_REDUCTION: _OUTPUT, _OUTPUT: _REDUCTION}
    roles = frozenset((axis, swapped.get(role, role)) for axis, role in use.roles)
    return use._replace(roles=roles)


def looked_up(track: Track, where: str) -> Use:
    """A use of rows of a table, each by its index."""
    picked = track.that_became(tracks.PICKED)
    batch = track.that_became(tracks.BATCH)
    chosen = track.that_became(tracks.SELECTED)
    linked = track.that_became(*tracks.PRODUCTS)
    rows = (track.axes() | linked) - picked
    roles = {(axis, _OUTPUT) for axis in picked}
    roles |= {(axis, _REDUCTION) for axis in rows}
    roles |= {(axis, _BATCH) for axis in batch | (chosen - rows - picked)}
    return Use(LOOKED_UP, frozenset(roles), track.looked_up or where)


def elementwise(track: Track, where: str) -> Use | None:
    """A use entry by entry; None for what was summed before, as the norm of a kernel.

    Entries of a Fourier transform that are multiplied with data are a convolution.
    """
    if track.summed:
        return None
    if track.equation:
        return contracted(track, where, reduction=())
    if track.that_became(tracks.PICKED):
        return looked_up(track, where)
    if tracks.is_linked(track):
        return Use(CONTRACTED, frozenset(), where, _PRODUCT)
    if track.transformed:
        positions = range(len(track.dimensions))
        along = [p for p in positions if track.axes_at(p) & track.transformed]
        return contracted(track, where, reduction=along)
    return Use(ELEMENTWISE, frozenset(), where)


def activation(track: Track, where: str) -> Use | None:
    """What a product of parameters is if it is no kernel: the left one is an input."""
    if track.that_became(tracks.LINKED_RIGHT):
        return contracted(track, where, reduction=(), left_is_input=True)
    return None if track.summed else Use(ELEMENTWISE, frozenset(), where)


def read(
    uses: list[Use], shape: Shape, batch_axes: frozenset[int] = frozenset()
) -> Reading | str:
    """The reading of a parameter, or the problem with it.

    Args:
      uses: All that the program does with it.
      shape: Its shape.
      batch_axes: Axes that are known to be stacked, whatever the program shows.
    """
    if not uses:
        return Reading(None, "not used by the function")
    if len(shape) < 2:
        return Reading(None, "fewer than two axes")
    nearest = min(use.distance for use in uses)
    uses = [_with_batch(u, batch_axes) for u in uses if u.distance == nearest]
    for use in uses:
        if use.kind == UNKNOWN:
            return f"{use.problem}{_at(use)}"
    vectors = [use for use in uses if _has_vectors(use)]
    clear = [use for use in vectors if not use.problem]
    # What keeps no axis, such as the estimate of a spectral norm, tells least.
    clear = [use for use in clear if _has(use, _OUTPUT)] or clear
    if not vectors:
        return _never(uses)
    if not clear:
        return f"{vectors[0].problem}{_at(vectors[0])}"
    first: _Roles = {}
    for use in clear:
        roles = _roles(use, shape)
        if isinstance(roles, str):
            return f"{roles}{_at(use)}"
        first = first or roles
        if roles != first:
            return (
                f"it is used in two ways, {_say(clear[0], first)}, and "
                f"{_say(use, roles)}"
            )
    return Reading(_spec(clear[0], first, shape), f"{clear[0].kind}{_at(clear[0])}")


def _has_vectors(use: Use) -> bool:
    """Whether it sums over some axis; else there is one number a channel."""
    return bool(use.problem) or _has(use, _REDUCTION)


def _has(use: Use, role: str) -> bool:
    return any(its == role for _, its in use.roles)


def _with_batch(use: Use, axes: frozenset[int]) -> Use:
    roles = {(axis, role) for axis, role in use.roles if axis not in axes}
    roles |= {(axis, _BATCH) for axis in axes}
    return use._replace(roles=frozenset(roles))


def _never(uses: list[Use]) -> Reading:
    use = min(uses, key=lambda use: use.kind == RETURNED)
    kind = "one number a channel" if use.kind == CONTRACTED else use.kind
    return Reading(None, f"{kind}{_at(use)}")


_Roles = dict[int, str]


def _roles(use: Use, shape: Shape) -> _Roles | str:
    """The role of each axis with more than one entry, or why it has no single one."""
    roles: _Roles = {}
    for axis, role in sorted(use.roles):
        if shape[axis] == 1:
            continue
        if roles.setdefault(axis, role) != role:
            return f"a part of axis {axis} is {roles[axis]}, another is {role}"
    lost = [axis for axis, size in enumerate(shape) if size > 1 and axis not in roles]
    return f"the use of axis {lost[0]} is not known" if lost else roles


def _spec(use: Use, roles: _Roles, shape: Shape) -> ProjectionDimensionNumbers:
    # An axis of one entry makes no vector longer, whatever it is.
    single = {axis: role for axis, role in use.roles if shape[axis] == 1}
    every = [
        roles.get(axis, single.get(axis, _REDUCTION)) for axis in range(len(shape))
    ]
    reduction, output = (
        tuple(axis for axis, role in enumerate(every) if role == wanted)
        for wanted in (_REDUCTION, _OUTPUT)
    )
    return ProjectionDimensionNumbers(reduction, output)


def _say(use: Use, roles: _Roles) -> str:
    axes = ", ".join(f"axis {axis} {role}" for axis, role in sorted(roles.items()))
    return f"{axes}{_at(use)}"


def _at(use: Use) -> str:
    return f" {use.where}" if use.where.startswith("(") else f", {use.where}"
