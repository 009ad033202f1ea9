"""Changes the package in one place at a time, and counts the changes no test notices.

    python tests/mutation                            # hours
    python tests/mutation _projection layouts._nnx
    python tests/mutation --sample 300               # at random
    python tests/mutation --results dead.jsonl       # goes on where it stopped

A mutant dies when a test fails. Only tests that run the changed line can, and of them
those run first that killed another mutant of the same function. All tests run once
before, to see which lines they run. What survives is printed at the end.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from children import PACKAGE, Functions, Tests, first_failing_anew, in_children
from covering import Covering, Run, read_runs
from equivalent import check_lines, reason_for
from mutants import Module, Mutant, modules_of, mutants_of

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIONS = ("-qs", "-n0", "-pno:cacheprovider", "--hypothesis-profile=mutation")


class Job(NamedTuple):
    """A mutant, and the tests that may kill it."""

    mutant: Mutant
    tests: Sequence[str]


class Mutation:
    """A plugin of pytest: what runs in the place of the tests that it collected."""

    def __init__(self, arguments: argparse.Namespace, logs: Path):
        self.arguments = arguments
        self.logs = logs
        self.modules = modules_of(ROOT / PACKAGE)
        check_lines(self.modules.values())
        self.mutants = chosen_mutants(self.modules, arguments)
        self.killers: dict[str, str | None] = read_killers(arguments.results)
        # By module and function the tests that killed, the latest last.
        self.sharp: dict[str, dict[str, list[str]]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Shows a failure at once: the process does not live to pytest's summary."""
        if report.failed:
            print(report.longreprtext)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            sys.exit("The tests cannot be collected.")
        # What forks after the threads of a backend have started may hang.
        from jax._src.xla_bridge import backends_are_initialized

        assert not backends_are_initialized(), "An import makes arrays."
        self.tests = Tests(session)
        self.functions = Functions(self.modules.values())
        self.covering = Covering(self.modules, self.runs())
        self.kill()
        return True

    def runs(self) -> list[Run]:
        """What each test runs; only new tests run, if a file says it of the others.

        The tests of a file share a process, or it would take hours. What is traced or
        drawn once for them all shows in the first of them alone: a mutant may so meet
        fewer tests than run it.
        """
        path = self.arguments.coverage or self.logs / "coverage"
        known = {run.test for run in read_runs(path)}
        files: dict[str, list[str]] = defaultdict(list)
        for test in self.tests.items:
            if test not in known:
                files[test.partition("::")[0]].append(test)

        def work(file: str) -> int:
            failed = 0
            for test in files[file]:
                run = self.tests.run_of(test, self.modules.values())
                if run is None:
                    print(f"Fails without a change, left out: {test}")
                    failed = 1
                else:
                    append(path, run)
            return failed

        limit = self.arguments.longest
        for file, status, text in in_children(files, work, self.logs, lambda _: limit):
            if status > 0:
                print(text, flush=True)
            if status < 0:
                print(f"Takes longer than {limit} s, left out: {file}", flush=True)
        return [run for run in read_runs(path) if run.test in self.tests.items]

    def kill(self) -> None:
        """Finds for each mutant a test that it dies of, or None."""
        again = self.arguments.survivors
        left = [
            mutant
            for mutant in self.mutants
            if mutant.identity not in self.killers
            or (again and self.killers[mutant.identity] is None)
        ]
        done = in_children(self.jobs(left), self.work, self.logs, self.limit)
        for number, (job, status, text) in enumerate(done, start=1):
            killer = f"signal {-status}" if status < 0 else None
            if status > 0:
                killer = text.rpartition("KILLER ")[2].strip()
                sharp = self.sharp[job.mutant.module]
                sharp.setdefault(job.mutant.place.function, []).append(killer)
            fate = f"dies of {killer}" if killer else f"SURVIVES {len(job.tests)} tests"
            print(f"[{number}/{len(left)}] {job.mutant}: {fate}", flush=True)
            self.killers[job.mutant.identity] = killer
            if self.arguments.results:
                append(self.arguments.results, (job.mutant.identity, killer))

    def jobs(self, mutants: Sequence[Mutant]) -> Iterator[Job]:
        """Chooses tests for each: as many as take the given time, and at least one."""
        for mutant in mutants:
            sharp = self.sharp[mutant.module]
            here = sharp.get(mutant.place.function, [])
            everywhere = [test for tests in sharp.values() for test in tests]
            tests = self.covering.tests_of(mutant)
            known = set(tests)
            first = [*here[::-1], *(t for t, _ in Counter(everywhere).most_common())]
            chosen, seconds = [], 0.0
            for test in dict.fromkeys([*(t for t in first if t in known), *tests]):
                seconds += self.covering.runs[test].seconds
                if chosen and seconds > self.arguments.seconds:
                    break
                chosen.append(test)
            yield Job(mutant, chosen)

    def work(self, job: Job) -> int:
        """What a mutant's process does; its status says whether the mutant dies."""
        if not job.tests:
            return 0
        module = self.modules[job.mutant.module]
        if self.covering.runs_at_import(job.mutant) or not self.functions.change(
            module, job.mutant
        ):
            killer = first_failing_anew(module, job.mutant, job.tests, OPTIONS, ROOT)
        else:
            killer = self.tests.first_failing(job.tests)
        print(f"\nKILLER {killer}")
        return bool(killer)

    def limit(self, job: Job) -> float:
        """Seconds after which a mutant counts as one that never ends."""
        return 60 + 5 * sum(self.covering.runs[test].seconds for test in job.tests)


def keep_programs(folder: Path) -> None:
    """Lets processes, which start without compiled programs, find those of others.

    To be called before jax is imported, which is when pytest starts.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def chosen_mutants(
    modules: dict[str, Module], arguments: argparse.Namespace
) -> list[Mutant]:
    """The mutants that the arguments ask for."""
    names = arguments.modules or list(modules)
    mutants = [m for name in names for m in mutants_of(name, modules[name].tree)]
    if arguments.sample:
        return random.Random(0).sample(mutants, arguments.sample)
    return mutants


def append(path: Path, row: Sequence) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_killers(path: Path | None) -> dict[str, str | None]:
    """What a file of results says; nothing if there is none."""
    if not path or not path.exists():
        return {}
    return dict(json.loads(line) for line in path.read_text().splitlines())


def main() -> None:
    """Prints how many mutants died, and which did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as _projection; else all")
    parser.add_argument("--sample", type=int, help="so many mutants of all of them")
    parser.add_argument("--tests", nargs="*", default=[], help="files; else all")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of tests that a mutant must survive"
    )
    parser.add_argument(
        "--longest", type=float, default=1200, help="seconds a file's tests may take"
    )
    parser.add_argument(
        "--coverage", type=Path, help="a file that keeps which test runs which line"
    )
    parser.add_argument(
        "--results", type=Path, help="a file that keeps what became of each mutant"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="test those of the results anew"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        keep_programs(Path(logs, "programs"))
        mutation = Mutation(arguments, Path(logs))
        status = pytest.main([*OPTIONS, *arguments.tests], plugins=[mutation])
    # Of the tests that pytest knows of, none ran.
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit("The run failed.")
    report(mutation)


def report(mutation: Mutation) -> None:
    """Prints how many mutants of each module die, and why the others do not."""
    counts = defaultdict(lambda: [0, 0])
    equivalent = 0
    for mutant in mutation.mutants:
        dies = mutation.killers[mutant.identity] is not None
        counts[mutant.module][0] += dies
        counts[mutant.module][1] += 1
        if not dies:
            reason = reason_for(mutant, mutation.modules[mutant.module])
            equivalent += reason is not None
            print(f"survives: {mutant}: {reason or 'why?'}")
    for module, (dead, count) in counts.items():
        print(f"{module}: {dead} of {count} mutants die")
    dead, count = map(sum, zip(*counts.values(), strict=True))
    print(
        f"In all {dead} of {count} mutants die, {dead / count:.1%}; of the others "
        f"{equivalent} are equivalent, and {count - dead - equivalent} unexplained."
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
