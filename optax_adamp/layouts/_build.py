"""From what is known of each parameter to a layout; nothing is guessed."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from optax_adamp._axes import (
    Shape,
    count_from_front,
    is_spec,
)
from optax_adamp._trees import format_array, is_glob, path_matches, printable
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._rules import Reading, Rule
from optax_adamp.layouts._uncovered import ModelParameter, join, uncovered_message

# A path (or a glob of paths) to what stands there: a spec, a rule, or None.
Overrides = Mapping[str, Any]


def build_layout(
    parameters: Iterable[ModelParameter], overrides: Overrides | None, *, function: str
) -> Layout:
    """The layout of a model's parameters.

    Args:
      parameters: All parameters of the model.
      overrides: What is to be used instead of, or in want of, what the modules say.
      function: The public function that was called, for errors.

    Raises:
      ValueError: If no rule and no override covers a parameter, an override matches
        none or two different ones match the same, or a spec does not fit its shape.
    """
    overrides = overrides or {}
    unused = set(overrides)
    globs = list(filter(is_glob, overrides))
    layout = Layout()
    parameters = list(parameters)
    uncovered: list[ModelParameter] = []
    for parameter in parameters:
        path = join(parameter.path)
        matching = [pattern for pattern in globs if path_matches(path, pattern)]
        if path in overrides:
            matching.append(path)
        unused.difference_update(matching)
        override = _override(path, parameter.shape, overrides, matching)
        reading = override or parameter.reading
        if reading is None:
            uncovered.append(parameter)
            continue
        spec = reading.spec
        if spec is not None:
            place = functools.partial(_place, function, parameter)
            axes = count_from_front(spec, parameter.shape, place)
            # What the user wrote stays as it is.
            spec = spec if override else axes.spec()
        layout.put(parameter.path, spec, reading.why)
    if uncovered:
        raise ValueError(uncovered_message(uncovered, parameters, function))
    if unused:
        raise ValueError(
            f"{function}: the overrides {', '.join(map(repr, sorted(unused)))} match "
            "no parameter. Correct or remove them."
        )
    return layout


def _place(function: str, parameter: ModelParameter) -> str:
    names = tuple(map(str, parameter.path))
    return f"{function}: {format_array(names, parameter.shape)}"


def _override(
    path: str, shape: Shape, overrides: Overrides, matching: list[str]
) -> Reading | None:
    """What the overrides say of a parameter; None if nothing."""
    # An exact path is meant for this parameter alone, and beats any pattern.
    patterns = [path] if path in matching else matching
    if not patterns:
        return None
    first, *others = (overrides[pattern] for pattern in patterns)
    if any(other != first for other in others):
        raise ValueError(
            f"overrides: {' and '.join(map(repr, patterns))} both match "
            f"{printable(path)} and differ. Give it one, or name its exact path."
        )
    why = f"override {patterns[0]!r}"
    if isinstance(first, Rule):
        reading = first.read(tuple(path.split("/")), shape)
        return reading._replace(why=f"{why}: {reading.why}")
    if first is not None and not is_spec(first):
        raise ValueError(
            f"overrides: {patterns[0]!r} must be a ProjectionDimensionNumbers, a rule "
            f"of optax_adamp.layouts or None, but got {first!r}."
        )
    return Reading(first, why)
