"""AdamP and SGDP for JAX, as Optax gradient transformations.

Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
Weights", ICLR 2021 (https://arxiv.org/abs/2006.08217).
"""

from optax_adamp import layouts
from optax_adamp._alias import adamp, sgdp
from optax_adamp._axes import ProjectionDimensionNumbers
from optax_adamp._inspect.describe import describe
from optax_adamp._inspect.detect import detect_scale_invariance
from optax_adamp._inspect.measure import measure
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
