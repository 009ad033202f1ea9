"""A tree of specs that knows why it says what it says."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from optax_adamp._trees import Names


@jax.tree_util.register_pytree_with_keys_class
class Layout(dict[Any, Any]):
    """A tree of specs, for `dimension_numbers`, that keeps the reason for each.

    A nested dict with the paths of the params, whose leaves are
    :class:`ProjectionDimensionNumbers`, or None for what is not projected. `describe`
    shows the reasons. They are lost where :func:`jax.tree.map` makes new leaves.

    Attributes:
      reasons: For each of its keys that holds a leaf, why the leaf is what it is.
    """

    def __init__(self, tree: Any = (), reasons: Mapping[Any, str] | None = None):
        super().__init__(tree)
        self.reasons = dict(reasons or {})

    def put(self, path: Sequence[Any], spec: Any, reason: str) -> None:
        """Sets the leaf at a path, and makes what is missing above it."""
        *above, key = path
        node = self
        for name in above:
            node = node.setdefault(name, Layout())
        node[key] = spec
        node.reasons[key] = reason

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """Its children in the order of their keys, as those of a dict."""
        keys = tuple(sorted(self, key=str))
        return [(jax.tree_util.DictKey(key), self[key]) for key in keys], keys

    def tree_flatten(self) -> tuple[list[Any], tuple[Any, ...]]:
        """The same without keys."""
        children, keys = self.tree_flatten_with_keys()
        return [child for _, child in children], keys

    @classmethod
    def tree_unflatten(cls, keys: tuple[Any, ...], children: Any) -> "Layout":
        """A layout of new leaves, for which no reason is known."""
        return cls(zip(keys, children, strict=True))


def reason_of(description: Any, names: Names) -> str | None:
    """The reason for the leaf at a path, if the description holds one."""
    if not names or not isinstance(description, Mapping):
        return None
    tree: Mapping[Any, Any] = description
    key: Any = names[0]
    if key not in tree:  # Or it is no string.
        key = next((key for key in tree if str(key) == names[0]), None)
    if len(names) > 1:
        return reason_of(tree.get(key), names[1:])
    return getattr(tree, "reasons", {}).get(key)
