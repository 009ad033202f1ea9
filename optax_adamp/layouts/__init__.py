"""Which axes form a channel, for the models and libraries that users have.

Every function here gives what `dimension_numbers` takes. Flax is imported only when the
axes are asked of a Flax model.
"""

import importlib
from typing import TYPE_CHECKING, Any

from optax_adamp.layouts._from_function import from_function
from optax_adamp.layouts._layout import Layout
from optax_adamp.layouts._rules import Rule, output_first, output_last
from optax_adamp.layouts._stacked import stacked

if TYPE_CHECKING:
    from optax_adamp.layouts._linen import from_linen
    from optax_adamp.layouts._nnx import from_nnx
else:

    def __getattr__(name: str) -> Any:
        if name not in ("from_linen", "from_nnx"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{name.removeprefix('from')}")
        return getattr(module, name)


__all__ = [
    "Layout",
    "Rule",
    "from_function",
    "from_linen",
    "from_nnx",
    "output_first",
    "output_last",
    "stacked",
]


def __dir__() -> set[str]:
    return {*globals(), *__all__}
