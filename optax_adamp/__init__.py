"""AdamP and SGDP for JAX, as Optax gradient transformations.

Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
Weights", ICLR 2021 (https://arxiv.org/abs/2006.08217).
"""

from typing import TYPE_CHECKING

from optax_adamp._alias import adamp, sgdp
from optax_adamp._lazy import lazy_attributes
from optax_adamp._specs import ProjectionDimensionNumbers
from optax_adamp._transform import scale_by_projection, with_gradient

__version__ = "0.1.0"

__all__ = [
    "ProjectionDimensionNumbers",
    "adamp",
    "describe",
    "detect_scale_invariance",
    "layouts",
    "measure",
    "scale_by_projection",
    "sgdp",
    "with_gradient",
]

# What looks at a model, before or between steps, would double the time of an import.
if TYPE_CHECKING:  # Else a checker would believe that there is anything one asks for.
    from optax_adamp import layouts
    from optax_adamp._describe import describe
    from optax_adamp._detect import detect_scale_invariance
    from optax_adamp._measure import measure
else:
    __getattr__ = lazy_attributes(
        __name__,
        {
            "describe": "_describe",
            "detect_scale_invariance": "_detect",
            "layouts": "layouts",
            "measure": "_measure",
        },
    )


def __dir__() -> set[str]:
    return {*globals(), *__all__}
