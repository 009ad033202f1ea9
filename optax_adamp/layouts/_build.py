"""From what is known of each parameter to a layout; nothing is guessed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optax_adamp._axes import (
    ProjectionDimensionNumbers,
    count_from_front,
    is_spec,
)
from optax_adamp._trees import path_matches, printable
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._names import Shape
from optax_adamp.layouts._rules import Reading, Rule
from optax_adamp.layouts._uncovered import Parameter, join, uncovered_message

# A path (or a glob of paths) to what stands there: a spec, a rule, or None.
Overrides = Mapping[str, Any]


def build_layout(
    parameters: Iterable[Parameter], overrides: Overrides | None, *, function: str
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
    layout = Layout()
    parameters = list(parameters)
    uncovered: list[Parameter] = []
    for parameter in parameters:
        path = join(parameter.path)
        matching = [pattern for pattern in overrides if path_matches(path, pattern)]
        unused.difference_update(matching)
        reading = _override(path, parameter.shape, overrides, matching)
        reading = reading or _in_short(parameter.reading)
        if reading is None:
            uncovered.append(parameter)
            continue
        if reading.spec is not None:
            place = (
                f"{function}: {printable(path)}, an array of shape {parameter.shape}"
            )
            count_from_front(reading.spec, parameter.shape, place)
        layout.put(parameter.path, reading.spec, reading.why)
    if uncovered:
        raise ValueError(uncovered_message(uncovered, parameters, function))
    if unused:
        raise ValueError(
            f"{function}: the overrides {', '.join(map(repr, sorted(unused)))} match "
            "no parameter. Correct or remove them."
        )
    return layout


def _in_short(reading: Reading | None) -> Reading | None:
    """The reading with single axes as numbers, as one would write them."""
    if reading is None or reading.spec is None:
        return reading

    def axes(several: Sequence[int] | int) -> Sequence[int] | int:
        if isinstance(several, int) or len(several) != 1:
            return several
        return several[0]

    reduction, output, view = reading.spec
    spec = ProjectionDimensionNumbers(axes(reduction), axes(output), view)
    return reading._replace(spec=spec)


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
