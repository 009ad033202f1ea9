"""Mutants that do the same as the package, and why."""

from mutants import Module, Mutant

# Of a line's code and a change: the reason. Lines are not numbered, as they move.
REASONS: dict[tuple[str, str, str], str] = {}


def reason_for(mutant: Mutant, module: Module) -> str | None:
    """Why a mutant cannot be told from the package; None if nobody has said so."""
    number = getattr(mutant.place.node, "lineno", 1)
    line = module.path.read_text().splitlines()[number - 1].strip()
    if mutant.what in ("without strict=", "True -> False") and "strict=" in line:
        return "What is zipped has one length: strict= would show an error of ours."
    return REASONS.get((mutant.module, line, mutant.what))
