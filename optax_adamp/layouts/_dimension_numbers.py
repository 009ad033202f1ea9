"""Which axes of each parameter form a channel: the one door for `dimension_numbers`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from optax_adamp._axes import Axes, Spec, count_from_front, is_spec
from optax_adamp._trees import (
    Entry,
    Names,
    call_if_function,
    format_array,
    is_absent,
    match_prefix,
    may_match_below,
    path_matches,
)
from optax_adamp.layouts._layout import reasons_of
from optax_adamp.layouts._names import doubt_without_name, without_channels
from optax_adamp.layouts._rules import Doubt, Reading, Rule, output_last

# A spec or a rule, a tree or prefix tree of them and None, or a function of the params
# that gives one of these.
Specs = Spec | Rule | Mapping[Any, Any] | list[Any] | tuple[Any, ...] | None
DimensionNumbers = Specs | Callable[[Any], Specs]

# What ends the errors about entries and patterns without a parameter.
_PART_OF_MODEL = (
    " If the optimizer has a part of a Flax model only, make the layout of that part: "
    "layouts.from_nnx(model, wrt=...) with the filter that nnx.Optimizer has as wrt."
)

_DEFAULT = dataclasses.replace(output_last, name="default")


class Reason(NamedTuple):
    """Where the axes of one parameter come from, for people."""

    why: str
    warning: str = ""


def resolve_dimension_numbers(
    dimension_numbers: DimensionNumbers,
    params: Any,
    leaves: list[tuple[Names, Any]],
) -> list[tuple[Axes | None, Callable[[], Reason]]]:
    """The axes of each leaf, None if it is not projected, and the reason for them.

    No step needs the reason: it is worked out when it is asked for.

    Args:
      dimension_numbers: The argument of `scale_by_projection`.
      params: What a function is called with.
      leaves: Names and leaves of the params, with None where one is absent.

    Raises:
      ValueError: If a spec does not fit its parameter, or a tree the params.
    """
    description: Any = _DEFAULT
    if dimension_numbers is not None:
        description = call_if_function(dimension_numbers, params)
    entries = match_prefix(
        description,
        leaves,
        argument="dimension_numbers",
        is_leaf=_is_entry,
        way_out=_PART_OF_MODEL,
    )
    _check_patterns(entries, leaves)
    reasons = functools.cache(functools.partial(reasons_of, description))

    def resolve(
        names: Names, leaf: Any, entry: Entry
    ) -> tuple[Axes | None, Callable[[], Reason]]:
        reading = _read(entry, names, leaf)
        reason = functools.partial(_explain, reasons, names, entry, reading)
        if reading.spec is None:
            return None, reason
        place = functools.partial(_place, names, leaf)
        return count_from_front(reading.spec, jnp.shape(leaf), place), reason

    return [
        resolve(names, leaf, entry)
        for (names, leaf), entry in zip(leaves, entries, strict=True)
    ]


def _explain(
    reasons: Callable[[], dict[Names, str]],
    names: Names,
    entry: Entry,
    reading: Reading,
) -> Reason:
    why = reading.why
    if isinstance(entry.value, Rule) and reading.spec is not None:
        # Its arguments, which may be long, are the same for all that it covers.
        rule, _, _ = entry.value.name.partition("(")
        why = f"{rule}: {why}"
    elif entry.exact and not isinstance(entry.value, Rule):
        why = reasons().get(names) or why
    warning = reading.warning
    return Reason(why, warning() if callable(warning) else warning)


def _is_entry(node: Any) -> bool:
    return node is None or isinstance(node, Rule) or is_spec(node)


def _place(names: Names, leaf: Any) -> str:
    return f"dimension_numbers of {format_array(names, jnp.shape(leaf))}"


def _read(entry: Entry, names: Names, leaf: Any) -> Reading:
    """What the entry for a parameter says of it."""
    if is_absent(leaf):
        return Reading(None, "absent")
    value, shape = entry.value, jnp.shape(leaf)
    if isinstance(value, Rule):
        return value.read(names, shape)
    if value is None:
        return Reading(None, "spec: None")
    if not is_spec(value):
        raise ValueError(
            f"{_place(names, leaf)}, must be a ProjectionDimensionNumbers, a rule of "
            "optax_adamp.layouts, or None for a parameter that is not projected, but "
            f"got {value!r}."
        )
    if entry.exact:
        return Reading(value, "spec")
    # What covers many parameters tells how those with channels are laid out. What
    # stands at a parameter's own place is meant for it, and must fit.
    if absence := without_channels(names, shape):
        return Reading(None, absence)
    return Reading(value, "spec", Doubt(doubt_without_name, (names,)))


def _check_patterns(entries: list[Entry], leaves: list[tuple[Names, Any]]) -> None:
    """Refuses a rule with a pattern that matches none of the rule's parameters."""
    paths: dict[Rule, list[str]] = {}
    absent: list[Names] = []
    for entry, (names, leaf) in zip(entries, leaves, strict=True):
        if is_absent(leaf):
            absent.append(names)
        elif isinstance(entry.value, Rule):
            paths.setdefault(entry.value, []).append("/".join(names))
    for rule, covered in paths.items():
        for pattern in rule.patterns:
            if not (
                any(path_matches(path, pattern) for path in covered)
                # A part of the params, as optax.masked and optax.partition hand over.
                or any(may_match_below(names, pattern) for names in absent)
            ):
                raise ValueError(
                    f"dimension_numbers: the pattern {pattern!r} of {rule} matches no "
                    f"parameter. The paths are: {', '.join(covered)}.{_PART_OF_MODEL}"
                )
