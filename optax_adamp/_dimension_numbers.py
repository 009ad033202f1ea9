"""Which axes of each parameter form a channel: the one door for `dimension_numbers`."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from optax_adamp._layout import reason_of
from optax_adamp._rules import Reading, Rule, output_last, without_channels
from optax_adamp._specs import Axes, count_from_front, is_spec
from optax_adamp._trees import (
    Entry,
    Names,
    call_if_function,
    format_path,
    is_absent,
    match_prefix,
    path_matches,
)

# A spec or a rule, a tree or prefix tree of them and None, or a function from params to
# one of these.
DimensionNumbers = Any | Callable[[Any], Any]


_DEFAULT = dataclasses.replace(output_last, name="default")


class Resolution(NamedTuple):
    """What `dimension_numbers` says of one parameter."""

    axes: Axes | None  # None: not projected.
    why: str
    warning: str = ""


def resolve_dimension_numbers(
    dimension_numbers: DimensionNumbers | None,
    params: Any,
    leaves: list[tuple[Names, Any]],
) -> list[Resolution]:
    """The axes of each leaf, with the reason.

    Args:
      dimension_numbers: The argument of `scale_by_projection`.
      params: What a function is called with.
      leaves: Names and leaves of the params, with None where one is absent.

    Raises:
      ValueError: If a spec does not fit its parameter, or a tree the params.
    """
    if dimension_numbers is None:
        dimension_numbers = _DEFAULT
    description = call_if_function(dimension_numbers, params)
    entries = match_prefix(
        description, leaves, argument="dimension_numbers", is_leaf=_is_entry
    )
    _check_patterns(entries, leaves)
    return [
        _resolve(entry, reason_of(description, names), names, leaf)
        for (names, leaf), entry in zip(leaves, entries, strict=True)
    ]


def _is_entry(node: Any) -> bool:
    return node is None or isinstance(node, Rule) or is_spec(node)


def _resolve(entry: Entry, reason: str | None, names: Names, leaf: Any) -> Resolution:
    if is_absent(leaf):
        return Resolution(None, "absent")
    shape = jnp.shape(leaf)
    place = f"dimension_numbers of {format_path(names)}, an array of shape {shape}"
    reading = _read(entry, reason, names, shape, place)
    if reading.spec is None:
        return Resolution(None, reading.why, reading.warning)
    axes = count_from_front(reading.spec, shape, place)
    return Resolution(axes, reading.why, reading.warning)


def _read(
    entry: Entry, reason: str | None, names: Names, shape: tuple[int, ...], place: str
) -> Reading:
    """What the entry for a parameter says of it."""
    value = entry.value
    if isinstance(value, Rule):
        reading = value.read(names, shape)
        if reading.spec is None:
            return reading
        # Its arguments, which may be long, are the same for all that it covers.
        rule, _, _ = value.name.partition("(")
        return reading._replace(why=f"{rule}: {reading.why}")
    if value is None:
        return Reading(None, reason or "spec: None")
    if not is_spec(value):
        raise ValueError(
            f"{place}, must be a ProjectionDimensionNumbers, a rule of "
            "optax_adamp.layouts, or None for a parameter that is not projected, but "
            f"got {value!r}."
        )
    if not entry.exact and (absence := without_channels(names, shape)):
        # What covers many parameters tells how those with channels are laid out. What
        # stands at a parameter's own place is meant for it, and must fit.
        return Reading(None, absence)
    return Reading(value, reason or "spec")


def _check_patterns(entries: list[Entry], leaves: list[tuple[Names, Any]]) -> None:
    """Refuses a rule with a pattern that matches none of the rule's parameters."""
    paths: dict[Rule, list[str]] = {}
    for entry, (names, _) in zip(entries, leaves, strict=True):
        if isinstance(entry.value, Rule):
            paths.setdefault(entry.value, []).append("/".join(names))
    for rule, covered in paths.items():
        for pattern in rule.patterns:
            if not any(path_matches(path, pattern) for path in covered):
                raise ValueError(
                    f"dimension_numbers: the pattern {pattern!r} of {rule} matches no "
                    f"parameter. The paths are: {', '.join(covered)}."
                )
