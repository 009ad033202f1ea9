"""Rules: how all parameters of a library are laid out, told by path and shape."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._trees import Names, own_name

# Leaves with these names have one number per channel, never a vector. When layers are
# stacked they have two axes or more, so that their shape does not show it.
_UNPROJECTED_NAMES = ("bias", "scale")

# Haiku's names for the same, known here only to warn of them.
_VECTOR_NAMES = ("b", "offset")

# Vocabularies of text start near 29,000 entries (BERT's has 28,996). Inputs of a linear
# layer are fewer, VGG's flattened 25,088 among the most; or they are raw images, which
# lead to a handful of classes.
_LEAST_VOCABULARY = 28_000
_LEAST_FEATURES = 16

Shape = tuple[int, ...]


class Reading(NamedTuple):
    """How one parameter is read, and what a table says of it."""

    spec: Any | None  # None: not projected.
    why: str
    # Why the reading may be wrong; empty if there is no doubt. A function where that
    # takes a look at the sizes: no step needs it, and sizes may be symbolic.
    warning: str | Callable[[], str] = ""


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


def without_channels(names: Names, shape: Shape) -> str | None:
    """Why a parameter of any library can hold no channels; None if it may."""
    if len(shape) < 2:
        return "fewer than two axes"
    if own_name(names) in _UNPROJECTED_NAMES:
        return f"named {own_name(names)}"
    return None


def _read_output_last(names: Names, shape: Shape) -> Reading:
    if reason := without_channels(names, shape):
        return Reading(None, reason)
    axes = tuple(range(len(shape)))
    spec = ProjectionDimensionNumbers(axes[:-1], axes[-1])
    return Reading(spec, "last axis", _DoubtInOutputLast(names, shape))


# A class rather than a closure: equal arguments make equal readings.
@dataclasses.dataclass(frozen=True)
class _DoubtInOutputLast:
    names: Names
    shape: Shape

    def __call__(self) -> str:
        return _doubt_in_output_last(self.names, self.shape)


def _doubt_in_output_last(names: Names, shape: Shape) -> str:
    """Why the last axis may not be the output; empty if there is no reason to think so.

    Neither names nor shapes prove anything: what is said here changes no step.
    """
    is_vector = math.prod(shape[:-1]) == 1
    if is_vector or own_name(names).lower() in _VECTOR_NAMES:
        return (
            "May be a bias or an offset, one number a channel: give it None, or name "
            "the library's rule, such as layouts.haiku."
        )
    if len(shape) == 2 and _looks_like_embedding(names, shape):
        return (
            "May be an embedding, whose rows are its vectors: give it "
            "ProjectionDimensionNumbers(1, 0), or use layouts.from_nnx or from_linen."
        )
    if len(shape) > 2 and not _looks_like_convolution(names, shape):
        return (
            "May be stacked layers, experts or attention heads, not the convolution "
            "that all axes but the last are taken for: use layouts.from_nnx, "
            "from_linen, stacked or maxtext, or give it a spec."
        )
    return ""


def _looks_like_embedding(names: Names, shape: Shape) -> bool:
    # Flax and Haiku call the weights of a linear layer kernel and w, also if the layer
    # above them has a name such as patch_embedding.
    is_linear = own_name(names).lower() in ("kernel", "w")
    if not is_linear and any("embed" in name.lower() for name in names[-2:]):
        return True
    entries, features = shape
    return (
        entries >= _LEAST_VOCABULARY
        and features >= _LEAST_FEATURES
        and entries >= 4 * features
    )


def _looks_like_convolution(names: Names, shape: Shape) -> bool:
    if any("conv" in name.lower() for name in names):
        return True
    first, *others, inputs, _ = shape
    # (width, in, out) cannot be told from (layers, in, out) or (in, heads, size).
    # Layers, heads and experts are rarely of one number, windows nearly always are. The
    # limit is AlexNet's; only patches of an image, with its few colors, are larger.
    return {first} == {*others} and (first <= 11 or inputs <= 4)


output_last = Rule("layouts.output_last", _read_output_last)
