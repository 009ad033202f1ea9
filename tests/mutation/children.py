"""Processes that are forked when all is imported, and hence start at once."""

import ast
import gc
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeVar

import coverage
import pytest
from coverage.exceptions import CoverageWarning
from covering import Run
from mutants import Module, Mutant

PACKAGE = "optax_adamp"
WORKERS = os.cpu_count() or 1
ERROR = 70  # The exit status of a process in which not a test failed, but this script.
MEMORY = 8 * 2**30  # Bytes a process may have.
Job = TypeVar("Job")


def in_children(
    jobs: Iterable[Job],
    work: Callable[[Job], int],
    logs: Path,
    seconds: Callable[[Job], float],
) -> Iterator[tuple[Job, int, str]]:
    """Does each job in a process of its own; gives its exit status and what it wrote.

    A process that takes longer than `seconds` is killed by a signal, and its status is
    negative.
    """
    running: dict[int, tuple[Job, Path]] = {}

    def reap() -> tuple[Job, int, str]:
        process, wait_status = os.wait()
        job, log = running.pop(process)
        text = log.read_text(errors="replace")
        log.unlink()
        status = os.waitstatus_to_exitcode(wait_status)
        if status == ERROR:
            sys.exit(text)
        return job, status, text

    for number, job in enumerate(jobs):
        if len(running) == WORKERS:
            yield reap()
        log = logs / str(number)
        process = os.fork()
        if not process:
            _work_and_exit(work, job, log, seconds(job))
        running[process] = job, log
    while running:
        yield reap()


def _work_and_exit(work, job, log: Path, seconds: float) -> None:
    status = ERROR
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        # Some mutants fill the memory, for which others would be killed.
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        status = work(job)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Tests:
    """The tests that pytest has collected."""

    def __init__(self, session: pytest.Session):
        self.session = session
        self.items = {item.nodeid: item for item in session.items}

    def first_failing(self, tests: Sequence[str]) -> str | None:
        """Runs tests until one fails, and names it."""
        items = [self.items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.session.testsfailed:
                return item.nodeid
        return None

    def run_of(self, test: str, modules: Iterable[Module]) -> Run | None:
        """Runs one test; if it passes, keeps the lines of the package that it runs."""
        files = {str(module.path): module.name for module in modules}
        recorder = coverage.Coverage(data_file=None, include=list(files))
        start = time.perf_counter()
        self.session.testsfailed = 0
        with recorder.collect():
            failing = self.first_failing([test])
        seconds = time.perf_counter() - start
        with warnings.catch_warnings(category=CoverageWarning, action="ignore"):
            data = recorder.get_data()  # It warns of a test that runs no line.
        lines = {files[path]: data.lines(path) or [] for path in data.measured_files()}
        return None if failing else Run(test, seconds, lines)


class Functions:
    """The functions of the package that exist, by file, name and first line."""

    def __init__(self, modules: Iterable[Module]):
        files = {str(module.path) for module in modules}
        self._found: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        for found in gc.get_objects():
            if type(found) is FunctionType:
                code = found.__code__
                if code.co_filename in files:
                    self._found[_key_of(code)].append(found)

    def change(self, module: Module, mutant: Mutant) -> bool:
        """Gives a function the code of a mutant; says whether that was possible."""
        if self._ran_at_import(module, mutant):
            return False
        with mutant.applied():
            codes = list(_codes_in(_compiled(module)))
        changes = [
            (function, code)
            for code in codes
            if code.co_qualname == mutant.place.function
            for function in self._found[_key_of(code)]
            if function.__code__ != code
        ]
        if any(f.__code__.co_freevars != code.co_freevars for f, code in changes):
            return False
        for function, code in changes:
            function.__code__ = code
        return bool(changes)

    def _ran_at_import(self, module: Module, mutant: Mutant) -> bool:
        """Whether functions that it made exist already."""
        start = f"{mutant.place.function}.<locals>."
        return any(
            file == str(module.path) and name.startswith(start)
            for file, name, _ in self._found
        )


def _key_of(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _compiled(module: Module) -> CodeType:
    """The code of a module, with the mutant that its tree holds."""
    tree = ast.fix_missing_locations(module.tree)
    # It warns of a number that is called, which fails only where it runs.
    with warnings.catch_warnings(category=SyntaxWarning, action="ignore"):
        return compile(tree, module.path, "exec")


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree."""

    def __init__(self, module: Module):
        self.name = f"{PACKAGE}.{module.name}".removesuffix(".__init__")
        self.module = module

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        folder = str(self.module.path.parent)
        is_package = self.module.path.name == "__init__.py"
        return importlib.util.spec_from_file_location(
            fullname,
            self.module.path,
            loader=self,
            submodule_search_locations=[folder] if is_package else None,
        )

    def exec_module(self, module: Any) -> None:
        exec(self.get_code(self.name), vars(module))

    def get_code(self, fullname: str) -> CodeType:
        """Is asked for by `runpy`, which runs a module as a program."""
        return _compiled(self.module)


def first_failing_anew(
    module: Module,
    mutant: Mutant,
    tests: Sequence[str],
    options: Sequence[str],
    root: Path,
) -> str | None:
    """Imports the package again, the mutant in it, and the tests, and runs them."""
    here = Path(__file__).parent
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if file and root in Path(file).parents and here not in Path(file).parents:
            del sys.modules[name]
    sys.meta_path.insert(0, Finder(module))
    # To rewrite its assertions pytest would import a module with doctests itself.
    options = [*options, "-x", "--assert=plain"]
    failed = []

    class Failures:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                failed.append(report.nodeid)

        def pytest_collectreport(self, report):
            if report.failed:
                failed.append(report.nodeid)

        def pytest_internalerror(self, excinfo):
            if excinfo.errisinstance(SystemExit):
                failed.append("an import, which exits")

    with mutant.applied():
        status = pytest.main([*options, *tests], plugins=[Failures()])
        if status == pytest.ExitCode.USAGE_ERROR:
            # The names of some tests hold what the mutant changed.
            files = dict.fromkeys(test.partition("::")[0] for test in tests)
            status = pytest.main([*options, *files], plugins=[Failures()])
    if status and not failed:
        raise RuntimeError(f"pytest ended with status {status}, but no test failed.")
    return failed[0] if failed else None
