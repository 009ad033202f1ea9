"""README's code runs as it stands, and its promises are those that CI keeps."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import pytest

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


class Run(NamedTuple):
    """All Python blocks, run in order."""

    names: dict[str, Any]  # What is left.
    outputs: list[tuple[str, str]]  # What was printed, and what README shows of it.


@pytest.fixture(scope="module")
def run():
    names, outputs = {}, []
    for code, shown in re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", README, re.DOTALL | re.M
    ):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        outputs.append((printed.getvalue(), shown))
    return Run(names, outputs)


@pytest.fixture
def namespace(run):
    return run.names


def test_outputs_are_real(run):
    for printed, shown in run.outputs:
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


def test_loops_train(namespace):
    losses = namespace["losses"]
    assert losses[-1] < 0.1 * losses[0]
    assert namespace["loss"] < 0.1 * jnp.log(10)


def test_composition_projects(namespace):
    tx = namespace["lionp"]
    params = {"kernel": jnp.array([[3.0], [4.0]])}
    grads = {"kernel": jnp.array([[8.0], [-6.0]])}
    updates, _ = tx.update(grads, tx.init(params), params)
    # Lion's step is (1, -1) times the rate; its radial part -1/5 of it goes.
    expected = -1e-3 * (jnp.array([[28.0], [-21.0]]) / 25 + 0.01 * params["kernel"])
    chex.assert_trees_all_close(updates, {"kernel": expected}, rtol=1e-5)


def test_dimension_numbers_project_the_channels_they_name(namespace):
    shapes = {
        "query": (8, 2, 4),
        "stacked_layers": (3, 8, 4),
        "equinox_linear": (4, 8),
        "position": (6, 8),
    }
    reduction_axis = {"query": 0, "stacked_layers": 1, "equinox_linear": 1}
    params = {
        name: jax.random.normal(jax.random.key(len(name)), shape)
        for name, shape in shapes.items()
    }

    def radial(name, u):
        w, axis = params[name], reduction_axis.get(name, 0)
        return (
            w
            * jnp.sum(u * w, axis, keepdims=True)
            / jnp.sum(w * w, axis, keepdims=True)
        )

    noise = jax.tree.map(lambda w: jnp.roll(w, 1), params)
    grads = {name: u - radial(name, u) for name, u in noise.items()}
    tx = namespace["by_hand"]
    updates, _ = tx.update(grads, tx.init(params), params)
    left = {
        name: float(jnp.max(jnp.abs(radial(name, u)) / 1e-3))
        for name, u in updates.items()
    }
    assert left.pop("position") > 0.1
    assert max(left.values()) < 1e-5


def test_ci_runs_the_commands_to_the_letter():
    (commands,) = blocks("sh")
    script = (CHECKOUT / ".ci" / "run").read_text()
    for command in commands.splitlines():
        install, _, _ = command.partition(" && ")
        assert f"readme_command '{install}'" in script


def test_tests_named_beside_modules_exist():
    """A table's heading names the file of a column; other cells name the file too."""
    (tables,) = re.findall(r"<details>\n(.*?)</details>", README, re.DOTALL)
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
