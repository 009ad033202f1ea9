"""Trees that describe parameters, matched to them by path.

A tree of specs or masks stands beside the parameters and may be a prefix of them. Their
containers can differ all the same: a dict may describe an `nnx.State`, and Flax puts a
box around a parameter in one place and not in another. Hence entries are matched by the
names along their paths, not by tree structure.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Names = tuple[str, ...]


class Entry(NamedTuple):
    """What a describing tree says of one parameter."""

    value: Any
    exact: bool  # The entry stands at the parameter's own path, not above it.


def is_absent(node: Any) -> bool:
    """Whether a tree holds no parameter here: None, or masked by `optax.masked`."""
    return node is None or isinstance(node, optax.MaskedNode)


def named_leaves(
    tree: Any, *, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[Names, Any]]:
    """Leaves with the names along their paths, less the `.value` of Flax's boxes.

    A box holds its value and nothing else, which tells it from a module that has a
    parameter of that name beside others.
    """
    paths_and_leaves: list[tuple[tuple[Any, ...], Any]] = jax.tree.leaves_with_path(
        tree, is_leaf=is_leaf
    )
    children: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    for path, _ in paths_and_leaves:
        for depth, key in enumerate(path):
            children[path[:depth]].add(key)

    def names(path: tuple[Any, ...]) -> Names:
        box, key = path[:-1], path[-1:]
        if key == (jax.tree_util.GetAttrKey("value"),) and len(children[box]) == 1:
            path = box
        return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)

    return [(names(path), leaf) for path, leaf in paths_and_leaves]


def format_path(names: Names) -> str:
    """A path as errors show it, for example `encoder/0/kernel`."""
    return printable("/".join(names) or "(root)")


def format_array(names: Names, shape: tuple[int, ...]) -> str:
    """An array as errors show it, for example `kernel, an array of shape (3, 2)`."""
    return f"{format_path(names)}, an array of shape {shape}"


def path_matches(path: str, pattern: str) -> bool:
    """Whether a path, as `format_path` shows it, is a pattern or matches it as a glob.

    A path may hold brackets, which a glob would read as a set of characters.
    """
    return path == pattern or fnmatchcase(path, pattern)


def is_glob(pattern: str) -> bool:
    """Whether a pattern may match another path than the one that it is."""
    return not {*"*?["}.isdisjoint(pattern)


def may_match_below(names: Names, pattern: str) -> bool:
    """Whether a pattern matches a path, or may match one below it.

    For an absent parameter, which may have been a whole branch of the tree.
    """
    above = "".join(f"{name}/" for name in names)
    return (
        path_matches("/".join(names), pattern)
        or pattern.startswith(above)
        # What is left of the pattern matches the rest of some path.
        or any(fnmatchcase(above, pattern[:end]) for end in range(len(pattern) + 1))
    )


def leaves_like(
    named_updates: list[tuple[Names, Any]],
    treedef: Any,
    tree: Any,
    *,
    argument: str,
    like: str = "updates",
) -> list[Any]:
    """The leaves of `tree` in the order of those of the updates, of the same shapes.

    Args:
      named_updates: Names and leaves of the updates, absent ones included.
      treedef: The structure of the updates, in which absent ones are leaves.
      tree: The params or the gradient.
      argument: Name of the argument that `tree` came in, for errors.
      like: What the user calls the updates, for errors.

    Returns:
      One leaf per update, with None where the update is absent.

    Raises:
      ValueError: If `tree` has another structure, or an array another shape.
    """
    try:
        leaves = treedef.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{argument} must have the tree structure of the {like}, but "
            f"{_difference(named_updates, tree) or str(error).rstrip('.')}."
        ) from error

    def check(names: Names, update: Any, leaf: Any) -> Any:
        if is_absent(update):
            return None
        shape = jnp.shape(update)
        if not jax.tree_util.all_leaves([leaf]):
            raise ValueError(
                f"{argument} has no array at {format_path(names)}, where the {like} "
                f"have shape {shape}, but {leaf!r}."
            )
        if jnp.shape(leaf) != shape:
            raise ValueError(
                f"{argument} has shape {jnp.shape(leaf)} at {format_path(names)}, "
                f"where the {like} have shape {shape}."
            )
        return leaf

    return [
        check(names, update, leaf)
        for (names, update), leaf in zip(named_updates, leaves, strict=True)
    ]


def _difference(named_updates: list[tuple[Names, Any]], tree: Any) -> str:
    """A path that only one of two trees has; empty if just their containers differ."""
    ours = {format_path(names) for names, _ in named_updates}
    theirs = {format_path(names) for names, _ in named_leaves(tree, is_leaf=is_absent)}
    lacking, more = sorted(ours - theirs), sorted(theirs - ours)
    return " and ".join(
        [f"lacks {path}" for path in lacking[:1]] + [f"has {path}" for path in more[:1]]
    )


def take_out(
    tree: Any, is_taken: Callable[[Any], bool]
) -> tuple[list[Any], Callable[[Iterable[Any]], Any]]:
    """Some leaves of a tree, and a function that puts others in their places.

    So a function of a tree of arrays and other things is one of the arrays alone.
    """
    leaves: list[Any] = jax.tree.leaves(tree)
    treedef: Any = jax.tree.structure(tree)

    def put_back(others: Iterable[Any]) -> Any:
        given = iter(others)
        filled = [next(given) if is_taken(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(treedef, filled)

    return [leaf for leaf in leaves if is_taken(leaf)], put_back


def call_if_function(description: Any, params: Any) -> Any:
    """Calls a function of the params, and returns a tree as it is.

    Trees can be callable too, such as an Equinox module. But a function is a leaf.
    """
    leaves = jax.tree.leaves(description)
    if callable(description) and len(leaves) == 1 and leaves[0] is description:
        return description(params)
    return description


def match_prefix(
    description: Any,
    params: list[tuple[Names, Any]],
    *,
    argument: str,
    is_leaf: Callable[[Any], bool] | None = None,
    way_out: str = "",
) -> list[Entry]:
    """For each parameter, the entry at its path or above it; there is one at most.

    Args:
      description: A tree with the structure of the params, or a prefix of it.
      params: Names and leaves, with None where an array is absent.
      argument: Name of the argument that `description` came in, for errors.
      is_leaf: Tells the entries of `description` from its containers.
      way_out: What else the error about an entry without a parameter is to say.

    Returns:
      One entry per parameter; absent ones get `Entry(None, exact=False)`.

    Raises:
      ValueError: If a parameter has no entry, or an entry no parameter; or if two of
        either have the same path, so that it is open which belongs to which.
    """
    entries: dict[Names, Any] = {}
    for names, value in named_leaves(description, is_leaf=is_leaf):
        if names in entries:
            raise ValueError(
                f"{argument} has two entries with the path {format_path(names)}. "
                "Rename one, here and in the params."
            )
        entries[names] = value
    exact: set[Names] = set()
    known: set[Names] = {()}
    absent: set[Names] = set()
    matches: list[Entry] = []
    for names, leaf in params:
        above = [names[:depth] for depth in range(len(names) + 1)]
        known.update(above)
        if is_absent(leaf):
            absent.add(names)
            matches.append(Entry(None, exact=False))
            continue
        found = next((prefix for prefix in above if prefix in entries), None)
        if found is None:
            raise ValueError(
                f"{argument} does not fit the params: it has no entry for "
                f"{format_array(names, jnp.shape(leaf))}. "
                "Give every parameter an entry, at its path or above it."
            )
        if found == names and names in exact:
            raise ValueError(
                f"{argument} does not fit the params: two parameters have the path "
                f"{format_path(names)}, and one entry cannot be for both. Rename one, "
                "or give an entry above them."
            )
        if found == names:
            exact.add(names)
        matches.append(Entry(entries[found], exact=found == names))
    for names in entries:
        below_absent = any(names[:depth] in absent for depth in range(len(names)))
        if names not in known and not below_absent:
            raise ValueError(
                f"{argument} does not fit the params: it has an entry for "
                f"{format_path(names)}, where the params hold nothing. Remove the "
                f"entry or correct its path.{way_out}"
            )
    return matches


def printable(text: str) -> str:
    r"""A text in which line breaks, terminal escapes and the like are written out.

    The names of users may hold anything, and tables go to terminals.

    Example:
      >>> print(printable("größe\n\x1b[31m"))
      größe\n\x1b[31m
    """
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )
