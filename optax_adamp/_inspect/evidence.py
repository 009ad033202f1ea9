"""What the gradients of several batches say about one parameter, and its verdict.

Everything here is NumPy on a few sums per channel, taken at weights drawn anew for each
batch. A weight that is not scale-invariant passes the published test by chance, in some
8 % of the batches; one that is passes it in all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optax_adamp._inspect.grouping import BatchSums, groupings, is_layer, merge
from optax_adamp._inspect.penalty import find_penalty, without_penalty
from optax_adamp._inspect.table import Table

# Four batches pass by chance with a probability of 4e-5.
_LEAST_INFORMATIVE = 4

# What is less likely than this is not put down to chance.
_CHANCE = 1e-3

# At the given weights alone, a cosine so far below its threshold is no chance either.
_FAR_BELOW = 1e-2

_LISTED = 8


class Evidence(NamedTuple):
    """One row of the evidence of :func:`detect_scale_invariance`.

    Where there are batch elements, each number is that of the worst one.

    Attributes:
      path: Where the parameter stands in the tree.
      shape: Its shape.
      verdict: "channel" or "layer", the view that was found; "group", if it lies
        between them, such as the vectors of each head; "neither"; "mixed" or "unknown",
        for which `remark` says why; "not tested". Only what was found is projected.
      channel_passed: In how many batches all channels with a gradient passed the test.
        None if it was not tested, as for all that follow but `remark`.
      channel_informative: In how many batches any channel had a gradient.
      channel_cosine: The largest cosine of a channel over its threshold.
      layer_passed: In how many batches the whole array passed.
      layer_informative: In how many batches it had a gradient.
      layer_cosine: Its largest cosine over its threshold.
      along: The axes along which each vector of what was found runs; None if nothing
        was.
      group_passed: In how many batches all groups with a gradient passed. None, as for
        the two that follow, unless the verdict is "group".
      group_informative: In how many batches any group had a gradient.
      group_cosine: The largest cosine of a group over its threshold.
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
    along: tuple[int, ...] | None = None
    group_passed: int | None = None
    group_informative: int | None = None
    group_cosine: float | None = None
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
    def group(self) -> str | None:
        """The same for the groups."""
        return _share(self.group_passed, self.group_informative)

    @property
    def marked_verdict(self) -> str:
        """The verdict, with the axes of a group, and a mark if there is a remark."""
        verdict = _name(self.verdict, self.along)
        return f"{verdict} (!)" if self.remark else verdict

    @property
    def summary(self) -> str:
        """The verdict with its evidence, in short."""
        if self.along is not None:
            share = getattr(self, self.verdict)
            return f"{_name(self.verdict, self.along)}, {share} batches"
        if self.verdict == "neither":
            return f"neither, {self.layer} batches as a layer"
        return f"{self.verdict}: {self.remark}"


_COLUMNS = {
    "path": "path",
    "shape": "shape",
    "marked_verdict": "verdict",
    "channel": "by channel",
    "channel_cosine": "cos/limit",
    "group": "by group",
    "group_cosine": "cos/limit",
    "layer": "as layer",
    "layer_cosine": "cos/limit",
    "loss_change": "loss change",
}


def evidence_table(rows: Sequence[Evidence]) -> Table[Evidence]:
    """The rows with what was found in all, and every remark, below."""

    def count(*verdicts: str) -> int:
        return sum(row.verdict in verdicts for row in rows)

    found = count("channel", "group", "layer")
    groups = f", {count('group')} by group" if count("group") else ""
    notes = [
        f"{found} of {len(rows)} arrays are scale-invariant: "
        f"{count('channel')} by channel{groups}, {count('layer')} as a layer.",
        f"For {'each view' if groups else 'both views'}: how many of the batches that "
        "have a gradient pass, and the",
        "largest cosine over its threshold.",
    ]
    if groups:
        notes.append("In brackets: the axes along which the vectors of a group run.")
    if undecided := count("mixed", "unknown"):
        notes.append(
            f"{undecided} mixed or unknown: left to the base optimizer, as is neither."
        )
    notes += [f"(!) {row.path}: {row.remark}" for row in rows if row.remark]
    return Table(rows, _COLUMNS, notes)


def weigh(row: Evidence, sums: BatchSums, *, delta: float, eps: float) -> Evidence:
    """The row of a parameter with the verdict, and what a penalty has to do with it.

    Args:
      row: The row before.
      sums: Those of its channels, from as many batches as there were.
      delta: As for :func:`detect_scale_invariance`.
      eps: As for :func:`detect_scale_invariance`.
    """
    row = _weigh(row, sums, delta=delta, eps=eps)
    penalty = find_penalty(merge(sums, sums.by), eps)
    if penalty is None:
        return row
    bare = row
    if row.along is None:
        bare = _weigh(row, without_penalty(sums, penalty), delta=delta, eps=eps)
    # Each of the vectors must have it, not only the sum of all.
    if bare.along is None or find_penalty(merge(sums, bare.along), eps) is None:
        return row
    remark = (
        f"the loss holds an L2 penalty, in all batches <g, w> is {penalty:.2g} <w, w>: "
        "leave it out and use weight_decay"
    )
    if row.along is not None:
        remark = "; ".join(filter(None, [row.remark, remark]))
        return row._replace(remark=remark)
    remark += f", then the verdict is {_name(bare.verdict, bare.along)}"
    return row._replace(verdict="mixed", remark=remark)


def change_at_threshold(sums: BatchSums, delta: float) -> float:
    """By how much a loss may change as vectors are doubled or halved.

    Along the way, the derivative by the logarithm of a vector's norm is `<g, w>`, and
    `|g||w|` stays the same for what is scale-invariant.
    """
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
        f"the {_name(row.verdict, row.along)} view passes in all batches, but scaling "
        f"the weight changes the loss by {relative:.2g} of it"
    )
    remark = "; ".join(filter(None, [remark, row.remark]))
    return row._replace(verdict="mixed", along=None, remark=remark)


def _name(verdict: str, along: tuple[int, ...] | None) -> str:
    """The verdict as the table shows it: a group by its axes."""
    return f"group {along}" if verdict == "group" else verdict


def _weigh(row: Evidence, sums: BatchSums, *, delta: float, eps: float) -> Evidence:
    """The verdict on what the gradients are, whatever they are made of."""
    batches, elements = sums.gw.shape[:2]
    chance = math.erf(delta / math.sqrt(2))
    least = min(batches, max(_LEAST_INFORMATIVE, math.ceil(batches / 2)))
    groups = groupings(sums)
    # As many batches more as it takes to make up for the number of tries.
    least_of_groups = next(
        (
            number
            for number in range(least, batches)
            if len(groups) * chance**number <= chance**_LEAST_INFORMATIVE
        ),
        batches,
    )
    layer_sums = merge(sums, sums.by)
    channel = _try(sums, chance, least, delta=delta, eps=eps)
    layer = _try(layer_sums, chance, least, delta=delta, eps=eps)
    between = [
        _try(group, chance, least_of_groups, delta=delta, eps=eps) for group in groups
    ]
    finite = np.all([np.isfinite(s) for s in layer_sums[:3]], axis=0)
    silent = np.sum(layer_sums.gg <= eps**2, axis=0)
    judged = [
        _judge(
            channel.at(e),
            [group.at(e) for group in between],
            layer.at(e),
            finite[:, e],
            int(silent[e]),
            least,
        )
        for e in range(elements)
    ]
    verdict, along, remark = _judge_together(judged, sums)
    zero_channels = int(np.count_nonzero(sums.ww[0] == 0))
    if zero_channels and verdict != "unknown":
        remark = "; ".join(filter(None, [remark, _of_zeros(zero_channels, sums)]))
    row = row._replace(verdict=verdict, along=along, remark=remark)
    tries = [("channel", channel), ("layer", layer)]
    tries += [("group", group) for group in between if group.along == along]
    for name, tried in tries:
        passed, informative, cosine = tried.worst
        row = row._replace(
            **{
                f"{name}_passed": passed,
                f"{name}_informative": informative,
                f"{name}_cosine": cosine,
            }
        )
    return row


class _Try(NamedTuple):
    """How the vectors along some axes fared; the last axis are the batch elements."""

    along: tuple[int, ...]
    ratio: np.ndarray  # (batches, elements): largest cosine over its threshold.
    informative: np.ndarray  # (batches, elements): some vector has a gradient.
    unseen: np.ndarray  # Number of vectors with a gradient in too few batches.
    invariant: np.ndarray  # Number of vectors that always pass, beyond chance.
    vectors: np.ndarray
    chance: np.ndarray  # Of all vectors passing in one batch.

    def at(self, element: int) -> "_Try":
        """The same of one batch element."""
        along, *arrays = self
        return _Try(along, *(array[..., element] for array in arrays))

    @property
    def informative_batches(self) -> np.ndarray:
        return np.sum(self.informative, axis=0)

    @property
    def passed(self) -> np.ndarray:
        return np.sum(self.informative & (self.ratio < 1), axis=0)

    @property
    def worst(self) -> tuple[int, int, float]:
        """Of all batch elements: batches passed, informative ones, largest ratio."""
        passed, informative = np.min([self.passed, self.informative_batches], axis=-1)
        return int(passed), int(informative), float(np.max(self.ratio))

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


class _Judgement(NamedTuple):
    verdict: str
    along: tuple[int, ...] | None  # None if nothing was found.
    remark: str


def _try(
    sums: BatchSums, chance: float, least: int, *, delta: float, eps: float
) -> _Try:
    """The published test on each of these vectors, in each batch."""
    gw, gg, ww = (s.reshape(*s.shape[:2], -1) for s in sums[:3])
    g_norm, w_norm = np.sqrt(gg), np.sqrt(ww)
    # A gradient of zeros has a cosine of zero and would pass: it tells nothing.
    live = (g_norm > eps) & (w_norm > eps)
    with np.errstate(all="ignore"):
        cosine = np.abs(gw) / g_norm / w_norm
    ratio = np.where(live, cosine * math.sqrt(sums.length) / delta, 0.0)
    seen = np.sum(live, axis=0)
    vectors = seen.shape[-1]
    # With many channels, some always pass by luck.
    is_invariant = (
        np.all(ratio < 1, axis=0) & (seen >= least) & (vectors * chance**seen < _CHANCE)
    )
    elements = seen.shape[:-1]
    return _Try(
        along=sums.along,
        ratio=np.max(ratio, axis=-1),
        informative=np.any(live, axis=-1),
        unseen=np.sum(seen < least, axis=-1),
        invariant=np.sum(is_invariant, axis=-1),
        vectors=np.full(elements, vectors),
        chance=np.full(elements, chance**vectors),
    )


def _judge(
    channel: _Try,
    groups: Sequence[_Try],
    layer: _Try,
    finite: np.ndarray,
    silent: int,
    least: int,
) -> _Judgement:
    """The verdict on one batch element, with a remark."""

    def mixed(remark: str) -> _Judgement:
        return _Judgement("mixed", None, remark)

    if not_finite := int(np.sum(~finite)):
        return mixed(f"the gradient is not finite in {_count(not_finite, 'batch')}")
    remark = f"no gradient in {_count(silent, 'batch')}" if silent else ""
    if layer.unseen:
        return _Judgement("unknown", None, remark)
    if channel.always_passes and not channel.unseen:
        return _Judgement("channel", channel.along, remark)
    if channel.unseen and channel.always_passes:
        return mixed(
            f"{channel.unseen} of {channel.vectors} channels have a gradient in fewer "
            f"than {_count(least, 'batch')}, the others pass"
        )
    if channel.invariant:
        return mixed(
            f"only {channel.invariant} of {channel.vectors} channels always pass"
        )
    if channel.passes_beyond_chance:
        return mixed(_some(channel, "channel"))
    for group in groups:
        if group.always_passes and not group.unseen:
            return _Judgement("group", group.along, remark)
    if layer.always_passes:
        return _Judgement("layer", layer.along, remark)
    if layer.passes_beyond_chance:
        return mixed(_some(layer, "layer"))
    return _Judgement("neither", None, remark)


def _some(tried: _Try, name: str) -> str:
    share = f"in {tried.passed} of {tried.informative_batches} batches"
    if tried.is_clear_at_given_weights:
        return (
            f"the {name} view passes by far at the given weights, but only {share} in "
            "all; is there a bias of zeros before the norm?"
        )
    return f"the {name} view passes {share}, which is not chance"


def _judge_together(judged: list[_Judgement], sums: BatchSums) -> _Judgement:
    """One verdict for all batch elements: a spec has a single view."""
    groups: dict[_Judgement, list[Any]] = {}
    for index, judgement in enumerate(judged):
        position = tuple(map(int, np.unravel_index(index, sums.batch_shape)))
        groups.setdefault(judgement, []).append(
            position[0] if len(position) == 1 else position
        )
    if len(groups) == 1:
        return judged[0]
    remarks = [
        f"{_list(positions)} {remark or _name(verdict, along)}"
        for (verdict, along, remark), positions in groups.items()
    ]
    remark = "batch elements differ: " + "; ".join(remarks)
    if all(along is not None for _, along, _ in groups):
        # What is scale-invariant in its parts is so as a whole.
        along = tuple(sorted({axis for _, some, _ in groups for axis in some or ()}))
        return _Judgement(_verdict_of(along, sums), along, remark)
    verdicts = {verdict for verdict, _, _ in groups}
    verdict = verdicts.pop() if len(verdicts) == 1 else "mixed"
    return _Judgement(verdict, None, remark)


def _verdict_of(along: tuple[int, ...], sums: BatchSums) -> str:
    if along == sums.along:
        return "channel"
    return "layer" if is_layer(sums, along) else "group"


def _list(positions: list[Any]) -> str:
    shown = ", ".join(map(str, positions[:_LISTED]))
    return f"[{shown}{', ...' if len(positions) > _LISTED else ''}]"


def _of_zeros(zero_channels: int, sums: BatchSums) -> str:
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
