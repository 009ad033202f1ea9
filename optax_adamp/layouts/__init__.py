"""Which axes form a channel, for the models and libraries that users have.

Every function here gives what `dimension_numbers` takes. Flax is imported only when the
axes are asked of a Flax model.
"""

from typing import TYPE_CHECKING

from optax_adamp._layout import Layout
from optax_adamp._lazy import lazy_attributes
from optax_adamp._rules import Rule, output_last
from optax_adamp.layouts._from_function import from_function
from optax_adamp.layouts._output_first import output_first
from optax_adamp.layouts._stacked import stacked

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

if TYPE_CHECKING:  # Else a checker would believe that there is anything one asks for.
    from optax_adamp.layouts._linen import from_linen
    from optax_adamp.layouts._nnx import from_nnx
else:
    __getattr__ = lazy_attributes(
        __name__, {"from_linen": "_linen", "from_nnx": "_nnx"}
    )


def __dir__() -> set[str]:
    return {*globals(), *__all__}
