"""A tree of specs that knows why it says what it says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from optax_adamp._axes import is_spec
from optax_adamp._trees import Names, is_absent, match_prefix, named_leaves


@jax.tree_util.register_pytree_with_keys_class
class Layout(dict[Any, Any]):
    """A tree of specs, for `dimension_numbers`, that keeps the reason for each.

    A nested dict with the paths of the params, whose leaves are
    :class:`~optax_adamp.ProjectionDimensionNumbers`, or None for what is not projected.
    `describe` shows the reasons. They are lost where :func:`jax.tree.map` makes new
    leaves.

    The params may be in other containers, with which :func:`jax.tree.map` would not
    take a dict: :meth:`like` gives a tree of their own structure.

    Attributes:
      reasons: For each of its keys that holds a leaf, why the leaf is what it is.

    Example:
      Another optimizer for what is not projected:

      >>> import jax.numpy as jnp
      >>> import optax
      >>> import optax_adamp
      >>> from optax_adamp.layouts import Layout
      >>> params = [{"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}]
      >>> layout = Layout()  # As layouts.from_nnx or from_linen make one
      >>> layout.put((0, "kernel"), optax_adamp.ProjectionDimensionNumbers(0, 1), "why")
      >>> layout.put((0, "bias"), None, "why")
      >>> labels = layout.like(params, lambda spec: "rest" if spec is None else "adamp")
      >>> labels
      [{'bias': 'rest', 'kernel': 'adamp'}]
      >>> tx = optax.partition(
      ...     {
      ...         "adamp": optax_adamp.adamp(1e-3, dimension_numbers=layout),
      ...         "rest": optax.adam(1e-3),
      ...     },
      ...     labels,
      ... )
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

    def like(self, params: Any, fn: Callable[[Any], Any] = lambda spec: spec) -> Any:
        """A tree of the params' own structure: labels, masks or specs for Optax.

        Args:
          params: The params that it is for, or anything with their tree.
          fn: From the spec of a parameter, or None, to what the tree has in its place.

        Returns:
          A tree with the containers of the params, such as a list, a FrozenDict, an
          `nnx.State` or an Equinox module. Where the params are absent, so is the leaf.

        Raises:
          ValueError: If the layout does not fit the params.
        """
        leaves = named_leaves(params, is_leaf=is_absent)
        entries = match_prefix(self, leaves, argument="the layout", is_leaf=_is_entry)
        treedef: Any = jax.tree.structure(params, is_leaf=is_absent)
        return treedef.unflatten(
            leaf if is_absent(leaf) else fn(entry.value)
            for (_, leaf), entry in zip(leaves, entries, strict=True)
        )

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


def _is_entry(node: Any) -> bool:
    return node is None or is_spec(node)


def reasons_of(description: Any) -> dict[Names, str]:
    """The reasons that a description holds, by the paths of its leaves.

    All at once: a key may be no string, and each search for one would be a long one.
    """
    if not isinstance(description, Mapping):
        return {}
    tree: Mapping[Any, Any] = description
    reasons: dict[Names, str] = {
        (str(key),): reason for key, reason in getattr(tree, "reasons", {}).items()
    }
    for key, child in tree.items():
        for names, reason in reasons_of(child).items():
            reasons[str(key), *names] = reason
    return reasons
