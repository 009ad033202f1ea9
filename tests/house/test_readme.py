"""The pages' code runs as it stands, and README's promises are those that CI keeps."""

import contextlib
import functools
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[2]
WITH_CODE = ["README.md", "notebooks/axes.md", "notebooks/measuring.md"]
PAGES = [
    *WITH_CODE,
    ".github/CONTRIBUTING.md",
    "notebooks/README.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
]


def text_of(page):
    return (CHECKOUT / page).read_text()


class Run(NamedTuple):
    """All Python blocks of a page, run in order."""

    names: dict[str, Any]  # What is left.
    outputs: list[tuple[str, str]]  # What was printed, and what the page shows of it.


@functools.cache
def run(page):
    names, outputs = {}, []
    for code, shown in re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?",
        text_of(page),
        re.DOTALL | re.MULTILINE,
    ):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, Path(page).name, "exec"), names)
        outputs.append((printed.getvalue(), shown))
    return Run(names, outputs)


@pytest.mark.parametrize("page", WITH_CODE)
def test_outputs_are_real(page):
    outputs = run(page).outputs
    # No block is passed over.
    assert len(outputs) == text_of(page).count("```python") > 0
    for printed, shown in outputs:
        words, expected = printed.split(), shown.split()
        assert len(words) == len(expected)
        for word, other in zip(words, expected, strict=True):
            assert word == other or are_near(word, other), (word, other)


def are_near(word, other):
    """Whether two words are numbers of one size: rounding noise depends on hardware."""
    numbers = [w.strip("{}',") for w in (word, other)]
    if not all(
        re.fullmatch(r"[\d.]+(e[+-]\d+)?", n) and not n.isdecimal() for n in numbers
    ):
        return False
    a, b = map(float, numbers)
    return 0.1 < a / b < 10


def test_loop_trains():
    losses = run("README.md").names["losses"]
    assert losses[-1] < 0.1 * losses[0]


def test_dimension_numbers_project_the_channels_they_name():
    shapes = {
        "query": (8, 2, 4),
        "stacked_layers": (3, 8, 4),
        "equinox_linear": (4, 8),
        "position": (6, 8),
    }
    reduction_axis = {"query": 0, "stacked_layers": 1, "equinox_linear": 1}
    rng = np.random.default_rng(0)
    params, noise = (
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )

    def radial(name, u):
        w, axis = params[name], reduction_axis.get(name, 0)
        inner, square = (np.sum(x * w, axis, keepdims=True) for x in (u, w))
        return w * inner / square

    grads = {name: u - radial(name, u) for name, u in noise.items()}
    tx = run("notebooks/axes.md").names["by_hand"]
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    left = {
        name: np.max(np.abs(radial(name, np.asarray(u)))) / 1e-3
        for name, u in updates.items()
    }
    assert left.pop("position") > 0.1
    assert max(left.values()) < 1e-5


def test_ci_runs_the_commands_to_the_letter():
    blocks = re.findall(
        r"^```sh\n(.*?)^```", text_of("README.md"), re.DOTALL | re.MULTILINE
    )
    promised = [
        command.partition(" && ")[0]
        for block in blocks
        for command in block.splitlines()
    ]
    # It looks for them by how they begin.
    assert promised == re.findall(r"readme_command '(.*?)'", text_of(".ci/run"))
    for beginning in promised:
        assert text_of("README.md").count(beginning) == 1


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    assert links
    for link in links:
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = (CHECKOUT / page).parent / path if path else CHECKOUT / page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(page):
    """As hosting sites name them in links."""
    return {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    }


@pytest.mark.nightly  # It collects them in a process of its own.
def test_tests_named_beside_modules_exist():
    """A table's heading names the file of a column; other cells name the file too."""
    _, tables = text_of("tests/README.md").split("\n## Supported modules\n")
    heading, *rows = [
        line.strip("| ").split(" | ") for line in tables.splitlines() if line[:1] == "|"
    ]
    files = [re.findall(r"`(.*?)`", cell) for cell in heading]
    named = set()
    for row in rows:
        for file, cell in zip(files, row, strict=False):
            for test in re.findall(r"`(test_.*?)`", cell):
                named.add(test if "::" in test else f"{file[0]}::{test}")
    collected = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "--numprocesses=0",
            "-m=",  # Of all, also those for the patient.
            "-q",
            *{n.split("::")[0] for n in named},
        ],
        cwd=CHECKOUT / "tests/layouts",
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    known = {line.removeprefix("tests/layouts/") for line in collected.splitlines()}
    known |= {test.partition("[")[0] for test in known}
    assert len(named) > 90
    assert not named - known
