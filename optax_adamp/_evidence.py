"""What the gradients of several batches say about one parameter, and its verdict.

Everything here is NumPy on a few sums per channel, taken at weights drawn anew for each
batch. A weight that is not scale-invariant passes the published test by chance, in some
8 % of the batches; one that is passes it in all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optax_adamp._specs import Axes
from optax_adamp._table import Table

# Four batches pass by chance with a probability of 4e-5.
_LEAST_INFORMATIVE = 4

# What is less likely than this is not put down to chance.
_CHANCE = 1e-3

# At the given weights alone, a cosine so far below its threshold is no chance either.
_FAR_BELOW = 1e-2

_LISTED = 8


class Sums(NamedTuple):
    """Inner products of gradient and weight: (batches, batch elements, channels).

    The first batch is taken at the given weights, all others at perturbed ones.
    """

    gw: np.ndarray
    gg: np.ndarray
    ww: np.ndarray
    length: int  # Real numbers in each channel.
    batch_shape: tuple[int, ...]  # Sizes of the batch axes.


class Finding(NamedTuple):
    """The verdict on one parameter, and what it rests on; see `Evidence`."""

    verdict: str
    channel_passed: int
    channel_informative: int
    channel_cosine: float
    layer_passed: int
    layer_informative: int
    layer_cosine: float
    remark: str


class Evidence(NamedTuple):
    """One row of the evidence of :func:`detect_scale_invariance`.

    Where there are batch elements, each number is that of the worst one.

    Attributes:
      path: Where the parameter stands in the tree.
      shape: Its shape.
      verdict: "channel" or "layer", the view that was found; "neither"; "mixed" or
        "unknown", for which `remark` says why; "not tested". Only what was found is
        projected.
      channel_passed: In how many batches all channels with a gradient passed the test.
        None if it was not tested, as for all that follow but `remark`.
      channel_informative: In how many batches any channel had a gradient.
      channel_cosine: The largest cosine of a channel over its threshold.
      layer_passed: In how many batches the whole array passed.
      layer_informative: In how many batches it had a gradient.
      layer_cosine: Its largest cosine over its threshold.
      loss_change: By which part the loss changed when the weight was scaled; None
        without `verify`, and where no view was found.
      remark: What else there is to know; may be empty.
    """

    path: str
    shape: tuple[int, ...]
    verdict: str
    channel_passed: int | None = None
    channel_informative: int | None = None
    channel_cosine: float | None = None
    layer_passed: int | None = None
    layer_informative: int | None = None
    layer_cosine: float | None = None
    loss_change: float | None = None
    remark: str = ""

    @property
    def channel(self) -> str | None:
        """The batches that passed, as the table shows them."""
        return _share(self.channel_passed, self.channel_informative)

    @property
    def layer(self) -> str | None:
        """The same for the layer view."""
        return _share(self.layer_passed, self.layer_informative)

    @property
    def marked_verdict(self) -> str:
        """The verdict, with a mark if there is a remark."""
        return f"{self.verdict} (!)" if self.remark else self.verdict

    @property
    def summary(self) -> str:
        """The verdict with its evidence, in short."""
        share = self.channel if self.verdict == "channel" else self.layer
        if self.verdict in ("channel", "layer"):
            return f"{self.verdict}, {share} batches"
        if self.verdict == "neither":
            return f"neither, {share} batches as a layer"
        return f"{self.verdict}: {self.remark}"


_COLUMNS = {
    "path": "path",
    "shape": "shape",
    "marked_verdict": "verdict",
    "channel": "by channel",
    "channel_cosine": "cos/limit",
    "layer": "as layer",
    "layer_cosine": "cos/limit",
    "loss_change": "loss change",
}


def evidence_table(rows: Sequence[Evidence]) -> Table[Evidence]:
    """The rows with what was found in all, and every remark, below."""

    def count(*verdicts: str) -> int:
        return sum(row.verdict in verdicts for row in rows)

    notes = [
        f"{count('channel', 'layer')} of {len(rows)} arrays are scale-invariant: "
        f"{count('channel')} by channel, {count('layer')} as a layer.",
        "For both views: how many of the batches that have a gradient pass, and the",
        "largest cosine over its threshold.",
    ]
    if undecided := count("mixed", "unknown"):
        notes.append(
            f"{undecided} mixed or unknown: left to the base optimizer, as is neither."
        )
    notes += [f"(!) {row.path}: {row.remark}" for row in rows if row.remark]
    return Table(rows, _COLUMNS, notes)


def stack(batches: Sequence[Any], weight: Any, axes: Axes) -> Sums:
    """Joins the sums of all batches, in double precision.

    Args:
      batches: For each, the arrays gw, gg and ww with the axes of the parameter, of
        size one along a channel.
      weight: The parameter, or anything with its shape and dtype.
      axes: Its axes.
    """
    inside = {*axes.reduction, *axes.output}
    batch_axes = [axis for axis in range(len(weight.shape)) if axis not in inside]

    def size(some: Sequence[int]) -> int:
        return math.prod(weight.shape[axis] for axis in some)

    def arrange(arrays: tuple[Any, ...]) -> np.ndarray:
        values = np.stack([np.asarray(array, np.float64) for array in arrays])
        order = [0, *(1 + a for a in (*batch_axes, *axes.output, *axes.reduction))]
        shape = (len(arrays), size(batch_axes), size(axes.output))
        return values.transpose(order).reshape(shape)

    return Sums(
        *map(arrange, zip(*batches, strict=True)),
        length=size(axes.reduction) * (2 if np.iscomplexobj(weight) else 1),
        batch_shape=tuple(weight.shape[axis] for axis in batch_axes),
    )


def weigh(sums: Sums, *, delta: float, eps: float) -> Finding:
    """The verdict on one parameter.

    Args:
      sums: From as many batches as there were.
      delta: As for :func:`detect_scale_invariance`.
      eps: As for :func:`detect_scale_invariance`.
    """
    batches, elements, _ = sums.gw.shape
    least = min(batches, max(_LEAST_INFORMATIVE, math.ceil(batches / 2)))
    layer_sums = _of_layer(sums)
    chance = math.erf(delta / math.sqrt(2))
    channel = _try_view(sums, chance, least, delta=delta, eps=eps)
    layer = _try_view(layer_sums, chance, least, delta=delta, eps=eps)
    finite = np.all([np.isfinite(s).all(axis=-1) for s in sums[:3]], axis=0)
    silent = np.sum(layer_sums.gg[..., 0] <= eps**2, axis=0)
    judged = [
        _judge(channel.at(e), layer.at(e), finite[:, e], int(silent[e]), least)
        for e in range(elements)
    ]
    verdict, remark = _judge_together(judged, sums.batch_shape)
    zero_channels = int(np.count_nonzero(sums.ww[0] == 0))
    if zero_channels and verdict != "unknown":
        remark = "; ".join(filter(None, [remark, _of_zeros(zero_channels, sums)]))
    return Finding(
        verdict,
        *(int(np.min(channel.passed)), int(np.min(channel.informative_batches))),
        float(np.max(channel.ratio)),
        *(int(np.min(layer.passed)), int(np.min(layer.informative_batches))),
        float(np.max(layer.ratio)),
        remark,
    )


def change_at_threshold(sums: Sums, view: str, delta: float) -> float:
    """By how much a loss may change as the vectors of a view are doubled or halved.

    Along the way, the derivative by the logarithm of a vector's norm is `<g, w>`, and
    `|g||w|` stays the same for what is scale-invariant.
    """
    sums = _of_layer(sums) if view == "layer" else sums
    limits = np.sqrt(sums.gg * sums.ww) * delta / math.sqrt(sums.length)
    return math.log(2) * float(np.sum(limits))


def second_opinion(
    row: Evidence, change: float, allowed: float, loss: float
) -> Evidence:
    """The row of what was found, after its weight has been scaled."""
    relative = change / loss if loss else change
    row = row._replace(loss_change=relative)
    if change <= allowed:
        return row
    remark = (
        f"the {row.verdict} view passes in all batches, but scaling the weight changes "
        f"the loss by {relative:.2g} of it"
    )
    remark = "; ".join(filter(None, [remark, row.remark]))
    return row._replace(verdict="mixed", remark=remark)


def _of_layer(sums: Sums) -> Sums:
    gw, gg, ww = (np.sum(s, axis=-1, keepdims=True) for s in sums[:3])
    return sums._replace(gw=gw, gg=gg, ww=ww, length=sums.length * sums.gw.shape[-1])


class _View(NamedTuple):
    """How one view fared; in arrays whose last axis are the batch elements."""

    ratio: np.ndarray  # (batches, elements): largest cosine over its threshold.
    informative: np.ndarray  # (batches, elements): some vector has a gradient.
    unseen: np.ndarray  # Number of vectors with a gradient in too few batches.
    invariant: np.ndarray  # Number of vectors that always pass, beyond chance.
    vectors: np.ndarray
    chance: np.ndarray  # Of all vectors passing in one batch.

    def at(self, element: int) -> "_View":
        """The view of one batch element."""
        return _View(*(values[..., element] for values in self))

    @property
    def informative_batches(self) -> np.ndarray:
        return np.sum(self.informative, axis=0)

    @property
    def passed(self) -> np.ndarray:
        return np.sum(self.informative & (self.ratio < 1), axis=0)

    @property
    def always_passes(self) -> bool:
        return bool(self.passed == self.informative_batches)

    @property
    def is_clear_at_given_weights(self) -> bool:
        return bool(self.informative[0] and self.ratio[0] < _FAR_BELOW)

    @property
    def passes_beyond_chance(self) -> bool:
        """Whether luck does not explain that it passes so often, or so well."""
        passed, batches = int(self.passed), int(self.informative_batches)
        too_often = _tail(passed, batches, float(self.chance)) < _CHANCE
        return too_often or self.is_clear_at_given_weights


def _try_view(
    sums: Sums, chance: float, least: int, *, delta: float, eps: float
) -> _View:
    """The published test on each vector of a view, in each batch."""
    g_norm, w_norm = np.sqrt(sums.gg), np.sqrt(sums.ww)
    # A gradient of zeros has a cosine of zero and would pass: it tells nothing.
    live = (g_norm > eps) & (w_norm > eps)
    with np.errstate(all="ignore"):
        cosine = np.abs(sums.gw) / g_norm / w_norm
    ratio = np.where(live, cosine * math.sqrt(sums.length) / delta, 0.0)
    seen = np.sum(live, axis=0)
    vectors = seen.shape[-1]
    # With many channels, some always pass by luck.
    is_invariant = (
        np.all(ratio < 1, axis=0) & (seen >= least) & (vectors * chance**seen < _CHANCE)
    )
    elements = seen.shape[:-1]
    return _View(
        ratio=np.max(ratio, axis=-1),
        informative=np.any(live, axis=-1),
        unseen=np.sum(seen < least, axis=-1),
        invariant=np.sum(is_invariant, axis=-1),
        vectors=np.full(elements, vectors),
        chance=np.full(elements, chance**vectors),
    )


def _judge(
    channel: _View, layer: _View, finite: np.ndarray, silent: int, least: int
) -> tuple[str, str]:
    """The verdict on one batch element, and a remark."""
    if not_finite := int(np.sum(~finite)):
        return "mixed", f"the gradient is not finite in {_count(not_finite, 'batch')}"
    remark = f"no gradient in {_count(silent, 'batch')}" if silent else ""
    if layer.unseen:
        return "unknown", remark
    if channel.always_passes and not channel.unseen:
        return "channel", remark
    if channel.unseen and channel.always_passes:
        return "mixed", (
            f"{channel.unseen} of {channel.vectors} channels have a gradient in fewer "
            f"than {_count(least, 'batch')}, the others pass"
        )
    if channel.invariant:
        return "mixed", (
            f"only {channel.invariant} of {channel.vectors} channels always pass"
        )
    if channel.passes_beyond_chance:
        return "mixed", _some(channel, "channel")
    if layer.always_passes:
        return "layer", remark
    if layer.passes_beyond_chance:
        return "mixed", _some(layer, "layer")
    return "neither", remark


def _some(view: _View, name: str) -> str:
    share = f"in {view.passed} of {view.informative_batches} batches"
    if view.is_clear_at_given_weights:
        return (
            f"the {name} view passes by far at the given weights, but only {share} in "
            "all; is there a bias of zeros before the norm?"
        )
    return f"the {name} view passes {share}, which is not chance"


def _judge_together(
    judged: list[tuple[str, str]], batch_shape: tuple[int, ...]
) -> tuple[str, str]:
    """One verdict for all batch elements: a spec has a single view."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for index, judgement in enumerate(judged):
        position = tuple(map(int, np.unravel_index(index, batch_shape)))
        groups.setdefault(judgement, []).append(
            position[0] if len(position) == 1 else position
        )
    if len(groups) == 1:
        return judged[0]
    verdicts = {verdict for verdict, _ in groups}
    if len(verdicts) == 1:
        verdict = verdicts.pop()
    else:
        # A weight whose every channel is scale-invariant is so as a whole.
        verdict = "layer" if verdicts == {"channel", "layer"} else "mixed"
    remarks = [
        f"{_list(positions)} {remark or found}"
        for (found, remark), positions in groups.items()
    ]
    return verdict, "batch elements differ: " + "; ".join(remarks)


def _list(positions: list[Any]) -> str:
    shown = ", ".join(map(str, positions[:_LISTED]))
    return f"[{shown}{', ...' if len(positions) > _LISTED else ''}]"


def _of_zeros(zero_channels: int, sums: Sums) -> str:
    channels = sums.ww[0].size
    if zero_channels == channels:
        return "its weights are all zero: tested at others"
    return f"{zero_channels} of {channels} channels are zero: tested at other weights"


def _tail(passed: int, batches: int, chance: float) -> float:
    """The probability of at least so many passes by chance."""
    return sum(
        math.comb(batches, k) * chance**k * (1 - chance) ** (batches - k)
        for k in range(passed, batches + 1)
    )


def _share(passed: int | None, informative: int | None) -> str | None:
    return None if passed is None else f"{passed} of {informative}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'es' if number != 1 else ''}"
