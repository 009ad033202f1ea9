"""From what is known of each parameter to a layout; nothing is guessed."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from optax_adamp._layout import Layout
from optax_adamp._rules import Reading, Rule, Shape
from optax_adamp._specs import count_from_front, is_spec
from optax_adamp._trees import path_matches

# A path (or a glob of paths) to what stands there: a spec, a rule, or None.
Overrides = Mapping[str, Any]


class Parameter(NamedTuple):
    """One parameter of a model and what its module says of it."""

    path: tuple[Any, ...]  # The keys of the params' tree, integers included.
    shape: Shape
    reading: Reading | None  # None: no rule covers it.
    owner: str  # The class of the module that holds it, for errors.
    problem: str = ""  # Why no rule covers it, if there is more to say.


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
    uncovered: list[Parameter] = []
    for parameter in parameters:
        path = "/".join(map(str, parameter.path))
        matching = [pattern for pattern in overrides if path_matches(path, pattern)]
        unused.difference_update(matching)
        reading = _override(path, parameter.shape, overrides, matching)
        reading = reading or parameter.reading
        if reading is None:
            uncovered.append(parameter)
            continue
        if reading.spec is not None:
            place = f"{function}: {path}, an array of shape {parameter.shape}"
            count_from_front(reading.spec, parameter.shape, place)
        layout.put(parameter.path, reading.spec, reading.why)
    if uncovered:
        raise ValueError(_uncovered_message(uncovered, function))
    if unused:
        raise ValueError(
            f"{function}: the overrides {', '.join(map(repr, sorted(unused)))} match "
            "no parameter. Correct or remove them."
        )
    return layout


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
            f"overrides: {' and '.join(map(repr, patterns))} both match {path} and "
            "differ. Give it one, or name its exact path."
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


def _uncovered_message(uncovered: list[Parameter], function: str) -> str:
    lines = [
        f"  {'/'.join(map(str, parameter.path))}: an array of shape {parameter.shape} "
        f"of {parameter.owner}{parameter.problem and ': ' + parameter.problem}"
        for parameter in uncovered
    ]
    entries = [
        f'    "{"/".join(map(str, parameter.path))}": {_suggestion(parameter.shape)},'
        for parameter in uncovered
    ]
    return "\n".join(
        [
            f"{function} does not know which axes form a channel in these parameters:",
            *lines,
            "Say it for each, a spec or None for what is not projected, by adding this "
            "with the axes corrected:",
            "overrides={",
            *entries,
            "}",
        ]
    )


def _suggestion(shape: Shape) -> str:
    reduction, output = tuple(range(len(shape) - 1)), len(shape) - 1
    axes = reduction[0] if len(reduction) == 1 else reduction
    return f"ProjectionDimensionNumbers({axes}, {output})"
