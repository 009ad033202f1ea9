"""Mutants that do the same as the package, and why."""

from collections.abc import Iterable

from mutants import Module, Mutant

_ZIPPED = "What is zipped has one length: strict= would show an error of ours."
_AT_RUN_TIME = "TYPE_CHECKING is false whenever the package runs."

# For each reason lines of the package, and what is changed there. Neither modules nor
# numbers of lines are told: code may move.
_EQUIVALENT = {
    "Only jax before 0.10 comes here, and there it dies.": [
        ('if hasattr(kind, "vma"):', "if False"),
        ('if hasattr(kind, "vma"):', "'vma' -> 'XX...'"),
        ("return frozenset(kind.vma)", "return None"),
    ],
    "It is a set already.": [
        (
            "return frozenset(kind.manual_axis_type.varying)  # jax >= 0.10",
            "call -> argument 0",
        ),
    ],
    "The whole path comes twice.": [
        ("above = [names[:depth] for depth in range(len(names) + 1)]", "1 -> 2"),
    ],
    "It is for type checkers.": [
        ('Row = TypeVar("Row")', "call -> argument 0"),
        ('Row = TypeVar("Row")', "'Row' -> 'XX...'"),
        ('Partition = PartitionSpec | Literal["own"] | None', "'own' -> 'XX...'"),
    ],
    "With a single reading left, neighbors can take none away.": [
        ("if len(readings) <= 1:", "if False"),
        ("if len(readings) <= 1:", "LtE -> Lt"),
    ],
    "Nobody changes the set.": [
        (
            "return Use(CONTRACTED, frozenset(roles), where, problem)",
            "call -> argument 0",
        ),
        ("return frozenset(found)", "call -> argument 0"),
        (
            "return Use(LOOKED_UP, frozenset(roles), track.looked_up or where)",
            "call -> argument 0",
        ),
        ("selection=frozenset(kept | {*back.items()}),", "call -> argument 0"),
    ],
    "That they are not the same is all that counts.": [
        ("starts[axis] += shape[axis]", "Add -> Sub"),
        (
            'BATCH, REDUCTION, SELECTED, PICKED = "batch", "reduction", "selected", '
            '"picked"',
            "'batch' -> 'XX...'",
        ),
        (
            "LINKED_LEFT, LINKED_RIGHT, LINKED = "
            '"linked left", "linked right", "linked"',
            "'linked right' -> 'XX...'",
        ),
    ],
    "Rows that were looked up have a place.": [
        (
            'looked_up: str = ""  # The place where rows were taken out, if they were.',
            "'' -> 'XX...'",
        ),
    ],
    "Its truth alone counts.": [
        ("return bool(self.tracks) and not self.is_data", "call -> argument 0"),
        ("is_lookup = bool(picked) and (", "call -> argument 0"),
        (
            "indices.is_data or bool(indices.tracks) or any(indices.varies)",
            "call -> argument 0",
        ),
    ],
    "JAX calls it inside a jit, whose results have these sizes.": [
        ("tracks.resize(value, shape)._replace(counts=None)", "call -> argument 0"),
    ],
    "Axes may be a range.": [
        ("return tuple(range(-batch_axes[path], 0))", "call -> argument 0"),
    ],
    "A set of small numbers is in their order.": [
        ("own = tuple(sorted(rows)) if is_lookup else ()", "call -> argument 0"),
    ],
    "Both are false.": [
        ('return ""', "return None"),
    ],
    "Numbers of NumPy and JAX print, compare and add as Python's do.": [
        ("int(silent[e]),", "call -> argument 0"),
        (
            "zero_channels = int(np.count_nonzero(sums.ww[0] == 0))",
            "call -> argument 0",
        ),
        ("return math.log(2) * float(np.sum(limits))", "call -> argument 0"),
        ("return bool(self.passed == self.informative_batches)", "call -> argument 0"),
        (
            "return bool(self.informative[0] and self.ratio[0] < _FAR_BELOW)",
            "call -> argument 0",
        ),
        (
            "passed, batches = int(self.passed), int(self.informative_batches)",
            "call -> argument 0",
        ),
        (
            "too_often = _tail(passed, batches, float(self.chance)) < _CHANCE",
            "call -> argument 0",
        ),
        ("if not_finite := int(np.sum(~finite)):", "call -> argument 0"),
        (
            "rounding = _ROUNDINGS * max(map(float, precisions)) * abs(float(before))",
            "call -> argument 0",
        ),
        ("row, change, rounding + limit, abs(float(before))", "call -> argument 0"),
        (
            "return float(np.mean(values)), float(stdtrit(n - 1, 0.975) * "
            "standard_error)",
            "call -> argument 0",
        ),
    ],
    "No probability is one in a thousand to the last digit.": [
        (
            "too_often = _tail(passed, batches, float(self.chance)) < _CHANCE",
            "Lt -> LtE",
        ),
        (
            "np.all(ratio < 1, axis=0) & (seen >= least) & "
            "(vectors * chance**seen < _CHANCE)",
            "Lt -> LtE",
        ),
    ],
    "The array has two axes, of which the last is number one.": [
        ("vectors = seen.shape[-1]", "without USub"),
        ("elements = seen.shape[:-1]", "without USub"),
        ("unseen=np.sum(seen < least, axis=-1),", "without USub"),
        ("invariant=np.sum(is_invariant, axis=-1),", "without USub"),
    ],
    "Each batch has as many channels.": [
        ("channels = sums.ww[0].size", "0 -> 1"),
    ],
    "There are no ways to pass more often than there are batches.": [
        ("for k in range(passed, batches + 1)", "1 -> 2"),
    ],
    "NumPy takes arrays from a device itself.": [
        (
            "taken.append(jax.device_get(problem.gradient_sums(weights, batch)))",
            "call -> argument 0",
        ),
    ],
    "The imaginary part of the product is zero.": [
        ("squares = jnp.real(jnp.conj(w) * w)", "call -> argument 0"),
    ],
    "Noise has either sign.": [
        ("moved = math.sqrt(1 - _NOISE) * w + size * noise", "Add -> Sub"),
    ],
    "The values of a dict can be counted and gone through again.": [
        ("layout.evidence = evidence_table(list(rows.values()))", "call -> argument 0"),
    ],
    "Without its witness a box gets a new one once its module has run.": [
        (
            "return self.replace_boxed(nn.meta.remove_axis(self.value, index, params))",
            "call -> argument 0",
        ),
    ],
    "Only the type of the key counts.": [
        ('(jax.tree_util.DictKey("value"), box.value),', "'value' -> 'XX...'"),
        ('(jax.tree_util.DictKey("witness"), box.witness),', "'witness' -> 'XX...'"),
    ],
    "No reading has no problem to tell.": [
        ('return ""', "return None"),
    ],
    "Shapes do not depend on the seed.": [
        ("key = jax.random.key(0)", "0 -> 1"),
    ],
    "With nothing to follow, nothing is found.": [
        ("if not shapes:", "if False"),
    ],
    "Any size above one that no axis has would do.": [
        (
            "sizes = (size for size in itertools.count(2) if size not in shape)",
            "2 -> 3",
        ),
    ],
}
_REASONS = {key: reason for reason, keys in _EQUIVALENT.items() for key in keys}


def check_lines(modules: Iterable[Module]) -> None:
    """Raises an error if a line is in the package no more."""
    lines = {
        line.strip()
        for module in modules
        for line in module.path.read_text().splitlines()
    }
    if stale := sorted({line for line, _ in _REASONS} - lines):
        raise ValueError(
            "equivalent.py speaks of lines that the package has no more. Look whether "
            "their mutants live, and correct or remove them:\n" + "\n".join(stale)
        )


def reason_for(mutant: Mutant, module: Module) -> str | None:
    """Why a mutant cannot be told from the package; None if nobody has said so."""
    number = getattr(mutant.place.node, "lineno", 1)
    line = module.path.read_text().splitlines()[number - 1].strip()
    if mutant.what == "without strict=":
        return _ZIPPED
    if mutant.what == "True -> False" and "strict=True" in line:
        return _ZIPPED
    if mutant.what == "if False" and line.startswith("if TYPE_CHECKING:"):
        return _AT_RUN_TIME
    return _REASONS.get((line, mutant.what))
