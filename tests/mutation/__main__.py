"""Changes the package in one place at a time, and counts the changes no test notices.

    python tests/mutation                              # hours
    python tests/mutation _projection layouts._nnx
    python tests/mutation --sample 300                 # at random
    python tests/mutation --results mutation.jsonl     # goes on where it stopped

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
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# A mutant's process starts without compiled programs; those that no mutant changes it
# finds here.
CACHE = tempfile.TemporaryDirectory()
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import pytest  # noqa: E402
from children import (  # noqa: E402
    PACKAGE,
    Functions,
    Tests,
    first_failing_anew,
    in_children,
)
from covering import Covering, Run, read_runs  # noqa: E402
from mutants import Mutant, modules_of, mutants_of  # noqa: E402

OPTIONS = ("-qs", "-n0", "-pno:cacheprovider", "--hypothesis-profile=mutation")


class Mutation:
    """A plugin of pytest: what runs in the place of the tests that it collected."""

    def __init__(self, arguments: argparse.Namespace, logs: Path):
        self.arguments = arguments
        self.logs = logs
        self.modules = modules_of(ROOT / PACKAGE)
        self.outcomes: list[tuple[Mutant, str | None]] = []

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
        self.covering = Covering(self.modules, self._runs())
        self.outcomes = list(self._outcomes())
        return True

    def _runs(self) -> list[Run]:
        """What each test runs; only new tests run, if a file says it of the others."""
        path = self.arguments.coverage or self.logs / "coverage"
        known = {run.test: run for run in read_runs(path)}

        def work(test: str) -> int:
            run = self.tests.run_of(test, self.modules.values())
            if run is None:
                return 1
            with path.open("a") as file:
                file.write(json.dumps(run) + "\n")
            return 0

        new = [test for test in self.tests.items if test not in known]
        limit = self.arguments.longest
        for test, status, text in in_children(new, work, self.logs, lambda _: limit):
            if status > 0:
                print(f"{text}\nFails without a change, left out: {test}", flush=True)
            if status < 0:
                print(f"Takes longer than {limit} s, left out: {test}", flush=True)
        return [run for run in read_runs(path) if run.test in self.tests.items]

    def _outcomes(self) -> Iterator[tuple[Mutant, str | None]]:
        """For each mutant the test that it dies of, or None."""
        results = self.arguments.results
        dead = {}
        if results and results.exists():
            for line in results.read_text().splitlines():
                identity, killer = json.loads(line)
                dead[identity] = killer
        names = self.arguments.modules or list(self.modules)
        mutants = [
            m for name in names for m in mutants_of(name, self.modules[name].tree)
        ]
        if self.arguments.sample:
            mutants = random.Random(0).sample(mutants, self.arguments.sample)
        killers = defaultdict[tuple[str, str], deque[str]](deque)
        jobs = []
        for mutant in mutants:
            if dead.get(mutant.identity):
                yield mutant, dead[mutant.identity]
            elif mutant.identity in dead and not self.arguments.survivors:
                yield mutant, None
            else:
                jobs.append(mutant)

        def plan() -> Iterator[tuple[Mutant, Sequence[str]]]:
            for mutant in jobs:
                yield mutant, self._chosen(mutant, killers[_place(mutant)])

        def work(job: tuple[Mutant, Sequence[str]]) -> int:
            killer = self._killer(*job)
            print(f"\nKILLER {killer}")
            return bool(killer)

        def seconds(job: tuple[Mutant, Sequence[str]]) -> float:
            return 30 + 10 * self._seconds(job[1])

        for number, ((mutant, tests), status, text) in enumerate(
            in_children(plan(), work, self.logs, seconds)
        ):
            killer = None
            if status < 0:
                killer = f"signal {-status}"
            elif status:
                killer = text.rpartition("KILLER ")[2].strip()
                recent = killers[_place(mutant)]
                if killer in self.tests.items:
                    if killer in recent:
                        recent.remove(killer)
                    recent.appendleft(killer)
            fate = f"dies of {killer}" if killer else f"SURVIVES {len(tests)} tests"
            print(f"[{number + 1}/{len(jobs)}] {mutant}: {fate}", flush=True)
            if results:
                with results.open("a") as file:
                    file.write(json.dumps([mutant.identity, killer]) + "\n")
            yield mutant, killer

    def _killer(self, mutant: Mutant, tests: Sequence[str]) -> str | None:
        if not tests:
            return None
        module = self.modules[mutant.module]
        if self.functions.change(module, mutant):
            return self.tests.first_failing(tests)
        return first_failing_anew(module, mutant, tests, OPTIONS, ROOT)

    def _chosen(self, mutant: Mutant, killers: Sequence[str]) -> list[str]:
        """The tests to run: as many as take the given time, and one at least."""
        tests = self.covering.tests_of(mutant)
        first = [test for test in killers if test in tests]
        chosen, seconds = [], 0.0
        for test in [*first, *(test for test in tests if test not in first)]:
            seconds += self.covering.runs[test].seconds
            if chosen and seconds > self.arguments.seconds:
                break
            chosen.append(test)
        return chosen

    def _seconds(self, tests: Sequence[str]) -> float:
        return sum(self.covering.runs[test].seconds for test in tests)


def _place(mutant: Mutant) -> tuple[str, str]:
    return mutant.module, mutant.place.function


def main() -> None:
    """Prints how many mutants died, and which did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as _projection; else all")
    parser.add_argument("--sample", type=int, help="so many mutants of all of them")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of tests that a mutant must survive"
    )
    parser.add_argument(
        "--longest", type=float, default=120, help="seconds of a test that is not used"
    )
    parser.add_argument(
        "--coverage", type=Path, help="keeps which test runs which line"
    )
    parser.add_argument("--results", type=Path, help="keeps what became of each mutant")
    parser.add_argument("--tests", nargs="*", default=[], help="files; else all")
    parser.add_argument("--survivors", action="store_true", help="tests these anew")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        mutation = Mutation(arguments, Path(logs))
        if pytest.main([*OPTIONS, *arguments.tests], plugins=[mutation]) not in (0, 5):
            sys.exit("The run failed.")
    counts = defaultdict(lambda: [0, 0])
    for mutant, killer in mutation.outcomes:
        counts[mutant.module][0] += killer is not None
        counts[mutant.module][1] += 1
    for mutant, killer in mutation.outcomes:
        if killer is None:
            print(f"survives: {mutant}")
    for module, (dead, count) in counts.items():
        print(f"{module}: {dead} of {count} mutants die")
    dead, count = map(sum, zip(*counts.values(), strict=True))
    print(f"In all {dead} of {count} mutants die: {dead / count:.1%}.")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
