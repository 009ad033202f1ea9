"""What to say of parameters whose axes nobody knows: where, and what to write."""

import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from optax_adamp._axes import Shape
from optax_adamp._trees import Names, format_path, is_glob, path_matches, printable
from optax_adamp.layouts._names import (
    looks_like_embedding,
    looks_like_kernel,
    looks_like_norm,
    plain_name,
    without_channels,
)
from optax_adamp.layouts._rules import Reading

# Such as `pos`, `pos_embedding` and `rel_position_bias`, but not `compose`.
_POSITIONS = re.compile(r"(^|_)pos(ition(s|al)?)?(_|emb|$)", re.IGNORECASE)


class ModelParameter(NamedTuple):
    """One parameter of a model and what is known of it."""

    path: tuple[Any, ...]  # The keys of the params' tree, integers included.
    shape: Shape
    reading: Reading | None  # None: no rule covers it.
    owner: str  # The class of the module that holds it, for errors; may be empty.
    problem: str = ""  # Why no rule covers it, if there is more to say.
    stacked: tuple[int, ...] = ()  # Axes that are known to hold layers.


def join(path: Iterable[Any]) -> str:
    """A path as overrides have it."""
    return "/".join(map(str, path))


class _Kind(NamedTuple):
    """What parameters must share to be told in one line."""

    shape: Shape
    owner: str
    problem: str
    override: str
    ending: Names  # The last two names, without numbers.


def uncovered_message(
    uncovered: Sequence[ModelParameter],
    parameters: Sequence[ModelParameter],
    function: str,
) -> str:
    """An error that names the parameters, and the overrides to add.

    Args:
      uncovered: The parameters that it is about.
      parameters: All parameters of the model, which no glob may match by mistake.
      function: The public function that was called.
    """
    kinds: dict[_Kind, list[str]] = defaultdict(list)
    for parameter in uncovered:
        kinds[_kind(parameter)].append(join(parameter.path))
    paths = [join(parameter.path) for parameter in parameters]
    lines: list[str] = []
    entries: list[str] = []
    for kind, alike in kinds.items():
        for pattern, number in _patterns(alike, paths).items():
            what = "an array" if number == 1 else f"{number} arrays"
            owner = f" of {kind.owner}" if kind.owner else ""
            problem = f": {kind.problem}" if kind.problem else ""
            place = format_path((pattern,))
            lines.append(f"  {place}: {what} of shape {kind.shape}{owner}{problem}")
            entries.append(f"    {_literal(pattern)}: {kind.override},")
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


def _kind(parameter: ModelParameter) -> _Kind:
    names = tuple(map(str, parameter.path))
    return _Kind(
        parameter.shape,
        printable(parameter.owner),
        printable(parameter.problem),
        _likely_override(names, parameter),
        tuple(map(_any_number, names[-2:])),
    )


def _any_number(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _patterns(alike: list[str], paths: list[str]) -> dict[str, int]:
    """Globs that match these of all paths and no other, and how many each matches."""
    if len(alike) == 1:
        return {_exact(alike[0]): 1}
    names = [path.split("/") for path in alike]
    ending = _common_ending(names)
    is_whole = {len(ending)} == {len(path) for path in names}
    candidates = ["/".join(ending)] if is_whole else []
    candidates += [
        f"*/{'/'.join(ending[-length:])}" for length in range(2, len(ending) + 1)
    ]
    for pattern in candidates:
        if {path for path in paths if path_matches(path, pattern)} == {*alike}:
            return {pattern: len(alike)}
    # Those of one place in all layers, or else each by itself.
    by_place: dict[str, list[str]] = defaultdict(list)
    for path in alike:
        by_place[path if is_whole else _any_number(path)].append(path)
    return {
        pattern: number
        for some in by_place.values()
        for pattern, number in _patterns(some, paths).items()
    }


def _common_ending(paths: list[list[str]]) -> list[str]:
    """The last names that paths have in common, with `*` for other numbers."""
    ending: list[str] = []
    for names in zip(*map(reversed, paths), strict=False):
        first, *others = {*names}
        if others and len({*map(_any_number, names)}) > 1:
            break
        ending.insert(0, _any_number(first) if others else first)
    return ending


def _exact(path: str) -> str:
    """What matches this path alone, also if a name of it looks like a glob."""
    return glob.escape(path) if is_glob(path) else path


def _literal(text: str) -> str:
    """A string as Python code."""
    plain = printable(text)
    return f'"{plain}"' if plain == text and not {*text} & {*'"\\'} else repr(text)


def _likely_override(names: Names, parameter: ModelParameter) -> str:
    """The code of what is most likely the right override."""
    kept = [
        axis for axis in range(len(parameter.shape)) if axis not in parameter.stacked
    ]
    shape = tuple(parameter.shape[axis] for axis in kept)
    if _only_broadcasts(names, shape, parameter.owner):
        return "None"
    if len(shape) == 2 and looks_like_embedding(names, shape):
        reduction, output = kept[1:], kept[0]
    else:
        *reduction, output = kept
    axes = reduction[0] if len(reduction) == 1 else tuple(reduction)
    return f"ProjectionDimensionNumbers({axes}, {output})"


def _only_broadcasts(names: Names, shape: Shape, owner: str) -> bool:
    """Whether a parameter is likely added to, or multiplied with, what has channels."""
    if without_channels(names, shape):
        return True
    if looks_like_kernel(names):
        return False
    return (
        sum(size > 1 for size in shape) < 2  # A gain, such as (1, 1, 1, C).
        or (len(shape) == 3 and shape[0] == 1)  # Positions or a class token.
        or _POSITIONS.search(plain_name(names)) is not None
        or (len(shape) == 2 and _is_of_norm(names, owner))
    )


def _is_of_norm(names: Names, owner: str) -> bool:
    return looks_like_norm(names) or looks_like_norm((owner, plain_name(names)))


def full_name(cls: type) -> str:
    """A class with its module, since many libraries have a `Dense` or an `Einsum`."""
    return f"{cls.__module__}.{cls.__qualname__}"
