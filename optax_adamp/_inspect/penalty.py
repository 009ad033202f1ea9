"""An L2 penalty in the loss: the same radial part in every gradient.

A penalty of `0.5 * c * sum(w**2)` adds `c * w` to the gradient. Where a vector is
scale-invariant but for that, `<g, w> / <w, w>` is c: in every batch, at all weights. It
cannot be mistaken: what obeys this is, but for a penalty, scale-invariant.
"""

import numpy as np

from optax_adamp._inspect.grouping import BatchSums

# Fitted to one of the batches, the constant leaves the others to be explained. By
# chance six agree as often as in one weight of 100,000.
_LEAST_BATCHES = 6

# A penalty differs by no more than rounding. Other radial parts, such as a norm's eps
# or a layer without any norm leave, depend on the batch.
_TOLERANCE = 0.02

# The part of a squared norm that rounding may leave in a difference.
_REST = 1e-5


def find_penalty(sums: BatchSums, eps: float) -> float | None:
    """The factor of the weight that all gradients contain; None if there is none.

    Half of the vectors must show it in each batch: the radial part of one with a large
    gradient may be lost in its rounding.
    """
    # A vector without a gradient tells nothing.
    live = (sums.gg > eps**2) & (sums.ww > eps**2)
    with np.errstate(all="ignore"):
        ratios = np.where(live, sums.gw / sums.ww, np.nan)
    by_batch = [ratio[~np.isnan(ratio)] for ratio in ratios]
    by_batch = [ratio for ratio in by_batch if ratio.size]
    if len(by_batch) < _LEAST_BATCHES:
        return None
    factor = float(np.median(np.concatenate(by_batch)))
    differences = [float(np.median(np.abs(ratio - factor))) for ratio in by_batch]
    is_constant = factor > 0 and max(differences) <= _TOLERANCE * factor
    return factor if is_constant else None


def without_penalty(sums: BatchSums, factor: float) -> BatchSums:
    """The sums of the gradient without this part."""
    gw = sums.gw - factor * sums.ww
    gg = sums.gg - 2 * factor * sums.gw + factor**2 * sums.ww
    return sums._replace(gw=gw, gg=np.where(gg > _REST * sums.gg, gg, 0.0))
