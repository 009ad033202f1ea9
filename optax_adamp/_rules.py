"""Rules: how all parameters of a library are laid out, told by path and shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names

# Leaves with these names have one number per channel, never a vector. When layers are
# stacked they have two axes or more, so that their shape does not show it.
_UNPROJECTED_NAMES = ("bias", "scale")

Shape = tuple[int, ...]


class Reading(NamedTuple):
    """How one parameter is read, and what a table says of it."""

    spec: Any | None  # None: not projected.
    why: str
    warning: str = ""  # Why the reading may be wrong; empty if there is no doubt.


@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """Tells the axes of parameters from their paths and shapes.

    A rule is no function of the params and not callable, or
    :func:`optax.inject_hyperparams` would take it for a schedule. It stands wherever
    a :class:`ProjectionDimensionNumbers` may: alone, or in a tree above the parameters
    that it is for.

    Attributes:
      name: What tables call it.
      read: From the names along a path and a shape to a reading.
      patterns: Globs of paths; each must match a parameter that the rule is used on.
    """

    name: str
    read: Callable[[Names, Shape], Reading]
    patterns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name


def without_channels(names: Names, shape: Shape) -> str:
    """Why a parameter of any library can hold no channels; empty if it may."""
    if len(shape) < 2:
        return "fewer than two axes"
    if names and names[-1] in _UNPROJECTED_NAMES:
        return f"named {names[-1]}"
    return ""


def _read_output_last(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    axes = tuple(range(len(shape)))
    return Reading(ProjectionDimensionNumbers(axes[:-1], axes[-1]), "last axis")


output_last = Rule("layouts.output_last", _read_output_last)
