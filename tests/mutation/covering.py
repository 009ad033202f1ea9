"""Which tests run which lines of the package."""

import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from mutants import Module, Mutant


class Run(NamedTuple):
    """What one test did, after the others of its file."""

    test: str
    seconds: float
    lines: dict[str, list[int]]  # By module; without those that run at import.


class Covering:
    """Finds the tests that may notice a mutant."""

    def __init__(self, modules: Mapping[str, Module], runs: Sequence[Run]):
        self.runs = {run.test: run for run in runs}
        self._modules = modules
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        for run in self.runs.values():
            for module, lines in run.lines.items():
                for line in lines:
                    self._tests[module, line].add(run.test)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Tests that may see a mutant, the likeliest first.

        These are the tests that run it. What runs at import any test may see; those go
        first that run a line with a name it binds, or no line of the package at all,
        such as tests of signatures.
        """
        running = self._running(mutant)
        if not self.runs_at_import(mutant):
            return self._in_order(running, mutant.module)
        for line in self._uses_of(mutant.module, self._statement_of(mutant)):
            running |= self._tests[line]
        running |= {run.test for run in self.runs.values() if not run.lines}
        return [
            *self._in_order(running, mutant.module),
            *self._in_order(self.runs.keys() - running, mutant.module),
        ]

    def _in_order(self, tests: Set[str], module: str) -> list[str]:
        """First those of the module's own files, short ones, and one of each file."""

        def cost(test: str) -> float:
            """Those that run little beside the module show more of it."""
            _, seconds, lines = self.runs[test]
            share = len(lines.get(module, ())) or 1
            return seconds * max(sum(map(len, lines.values())), 1) / share

        files = defaultdict(list)
        for test in sorted(tests, key=cost):
            files[test.partition("::")[0]].append(test)
        name = module.replace(".", "").strip("_")  # Such as layouts_nnx.
        ranked = [
            (cost(test) * (0.1 if name in file else number), test)
            for file, its_tests in files.items()
            for number, test in enumerate(its_tests, start=1)
        ]
        return [test for _, test in sorted(ranked)]

    def runs_at_import(self, mutant: Mutant) -> bool:
        """Whether it stands outside of functions, or in one that no test runs."""
        return not (mutant.place.function and self._running(mutant))

    def _running(self, mutant: Mutant) -> set[str]:
        lines = ((mutant.module, line) for line in mutant.place.lines)
        return set[str]().union(*(self._tests[line] for line in lines))

    def _statement_of(self, mutant: Mutant) -> ast.stmt:
        """The outermost statement that a mutant is in."""
        first = mutant.place.lines.start
        return next(
            statement
            for statement in self._modules[mutant.module].tree.body
            if statement.lineno <= first <= (statement.end_lineno or first)
        )

    def _uses_of(self, module: str, statement: ast.stmt) -> list[tuple[str, int]]:
        """Lines of functions that use what a statement at import binds, of any module.

        Also what uses it by way of another such statement, as a table of constants.
        """
        lines, seen, waiting = [], set[str](), [statement]
        lines += _lines(module, statement)
        while waiting:
            names = _bound(waiting.pop()) - seen
            seen |= names
            for other in self._modules.values():
                for user in other.tree.body:
                    uses = [node.lineno for node in _named(user, names)]
                    lines += [(other.name, line) for line in uses]
                    if uses and not isinstance(user, ast.FunctionDef):
                        waiting.append(user)
        return lines


def _lines(module: str, statement: ast.stmt) -> list[tuple[str, int]]:
    end = statement.end_lineno or statement.lineno
    return [(module, line) for line in range(statement.lineno, end + 1)]


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _named(statement: ast.stmt, names: set[str]) -> Iterator[ast.expr]:
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                if name in names:
                    yield node


def read_runs(path: Path) -> list[Run]:
    """What a file says of tests that ran before; nothing if there is none."""
    if not path.exists():
        return []
    return [Run(*json.loads(line)) for line in path.read_text().splitlines()]
