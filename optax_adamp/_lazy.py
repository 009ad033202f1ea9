"""Attributes of a module that are imported when they are first asked for."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_attributes(module: str, sources: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module, which imports a name from where it is defined.

    Args:
      module: The module's name.
      sources: By name the module below that defines it, or that it is.
    """

    def get(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        source = importlib.import_module(f"{module}.{sources[name]}")
        value = source if sources[name] == name else getattr(source, name)
        setattr(sys.modules[module], name, value)  # The next time it is there.
        return value

    return get
