"""Mutants that do the same as the package, and why."""

from mutants import Module, Mutant

_ZIPPED = "What is zipped has one length: strict= would show an error of ours."
_TYPES = "It is for type checkers."
_NUMBERS = "Numbers of NumPy and JAX print, compare and add as Python's do."
_TWO_AXES = "The array has two axes, of which the last is number one."
_NEIGHBORS = "With a single reading left, neighbors can take none away."
_FOLLOWED = "What no transform moved can be followed too, and is where it was."

_OLD_JAX = "Only jax before 0.10 comes here, and there it dies."
_AT_RUN_TIME = "TYPE_CHECKING is false whenever the package runs."

# Of a module, a line and a change: the reason. Lines have no numbers, as they move.
_REASONS = {
    ("_partition_specs", 'if hasattr(kind, "vma"):', "if False"): _OLD_JAX,
    ("_partition_specs", 'if hasattr(kind, "vma"):', "'vma' -> 'XX...'"): _OLD_JAX,
    ("_partition_specs", "return frozenset(kind.vma)", "return None"): _OLD_JAX,
    (
        "_partition_specs",
        "return frozenset(kind.manual_axis_type.varying)  # jax >= 0.10",
        "call -> argument 0",
    ): "It is a set already.",
    (
        "_trees",
        "above = [names[:depth] for depth in range(len(names) + 1)]",
        "1 -> 2",
    ): ("The whole path comes twice."),
    ("_table", 'Row = TypeVar("Row")', "call -> argument 0"): _TYPES,
    ("_table", 'Row = TypeVar("Row")', "'Row' -> 'XX...'"): _TYPES,
    ("layouts._nnx", "if len(readings) <= 1:", "if False"): _NEIGHBORS,
    ("layouts._nnx", "if len(readings) <= 1:", "LtE -> Lt"): _NEIGHBORS,
    ("layouts._nnx", "return frozenset(found)", "call -> argument 0"): (
        "Nobody changes the set."
    ),
    ("layouts._nnx", 'return ""', "return None"): "Both are false.",
    (
        "_evidence",
        "int(silent[e]),",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "zero_channels = int(np.count_nonzero(sums.ww[0] == 0))",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "return math.log(2) * float(np.sum(limits))",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "return bool(self.passed == self.informative_batches)",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "return bool(self.informative[0] and self.ratio[0] < _FAR_BELOW)",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "passed, batches = int(self.passed), int(self.informative_batches)",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "too_often = _tail(passed, batches, float(self.chance)) < _CHANCE",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "if not_finite := int(np.sum(~finite)):",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_evidence",
        "too_often = _tail(passed, batches, float(self.chance)) < _CHANCE",
        "Lt -> LtE",
    ): "No probability is one in a thousand to the last digit.",
    (
        "_evidence",
        "np.all(ratio < 1, axis=0) & (seen >= least) & "
        "(vectors * chance**seen < _CHANCE)",
        "Lt -> LtE",
    ): "No probability is one in a thousand to the last digit.",
    ("_evidence", "vectors = seen.shape[-1]", "without USub"): _TWO_AXES,
    ("_evidence", "elements = seen.shape[:-1]", "without USub"): _TWO_AXES,
    (
        "_evidence",
        "unseen=np.sum(seen < least, axis=-1),",
        "without USub",
    ): _TWO_AXES,
    (
        "_evidence",
        "invariant=np.sum(is_invariant, axis=-1),",
        "without USub",
    ): _TWO_AXES,
    ("_evidence", "channels = sums.ww[0].size", "0 -> 1"): (
        "Each batch has as many channels."
    ),
    ("_evidence", "for k in range(passed, batches + 1)", "1 -> 2"): (
        "There are no ways to pass more often than there are batches."
    ),
    (
        "_detect",
        "taken.append(jax.device_get(problem.gradient_sums(weights, batch)))",
        "call -> argument 0",
    ): "NumPy takes arrays from a device itself.",
    (
        "_detect",
        'key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), draw)',
        "without impl=",
    ): "Another generator draws other noise, as good.",
    (
        "_detect",
        "squares = jnp.real(jnp.conj(w) * w)",
        "call -> argument 0",
    ): "The imaginary part of the product is zero.",
    (
        "_detect",
        "moved = math.sqrt(1 - _NOISE) * w + size * noise",
        "Add -> Sub",
    ): "Noise has either sign.",
    (
        "_detect",
        "rounding = _ROUNDINGS * max(map(float, precisions)) * abs(float(before))",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_detect",
        "row, change, rounding + limit, abs(float(before))",
        "call -> argument 0",
    ): _NUMBERS,
    (
        "_detect",
        "layout.evidence = evidence_table(list(rows.values()))",
        "call -> argument 0",
    ): "The values of a dict can be counted and gone through again.",
    (
        "_demo.data",
        "train, test = train_test_split(",
        "without test_size=",
    ): "A quarter is what scikit-learn takes by default.",
    (
        "_demo.training",
        "predictions = jnp.argmax(model(data.test_images, train=False), axis=-1)",
        "without USub",
    ): _TWO_AXES,
    (
        "_demo.report",
        "return float(np.mean(differences)), float(stdtrit(n - 1, 0.975) * "
        "standard_error)",
        "call -> argument 0",
    ): _NUMBERS,
    ("layouts._linen", "if seen.moved and seen.has_channels", "And -> Or"): _FOLLOWED,
    (
        "layouts._linen",
        "moved[path] = all(value is not seen.value for seen in sightings[path])",
        "call -> argument 0",
    ): _FOLLOWED,
    (
        "layouts._linen",
        "return self.replace_boxed(nn.meta.remove_axis(self.value, index, params))",
        "call -> argument 0",
    ): "Without its witness a box gets a new one once its module has run.",
    (
        "layouts._linen",
        '(jax.tree_util.DictKey("value"), box.value),',
        "'value' -> 'XX...'",
    ): "Only the type of the key counts.",
    (
        "layouts._linen",
        '(jax.tree_util.DictKey("witness"), box.witness),',
        "'witness' -> 'XX...'",
    ): "Only the type of the key counts.",
    (
        "layouts._linen",
        'return ""',
        "return None",
    ): "No reading has no problem to tell.",
    ("layouts._linen", "key = jax.random.key(0)", "0 -> 1"): (
        "Shapes do not depend on the seed."
    ),
    ("layouts._linen", "if not shapes:", "if False"): (
        "With nothing to follow, nothing is found."
    ),
    (
        "layouts._linen",
        "sizes = (size for size in itertools.count(2) if size not in shape)",
        "2 -> 3",
    ): "Any size above one that no axis has would do.",
    (
        "layouts._linen",
        "places = tuple(range(len(seen.shape)))",
        "call -> argument 0",
    ): "A range has the same elements.",
}


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
    return _REASONS.get((mutant.module, line, mutant.what))
