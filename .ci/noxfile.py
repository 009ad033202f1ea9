"""The tests on every Python, with the oldest and the newest of what they depend on.

    pip install nox uv
    nox -f .ci/noxfile.py

runs all of it, `--session "tests-3.11(oldest)"` one pair, and what follows `--` goes to
pytest.
"""

from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent

nox.options.default_venv_backend = "uv"
# A Python that is not there would pass for one with which the tests pass.
nox.options.error_on_missing_interpreters = True

OLDEST = nox.param("lowest-direct", id="oldest")  # The lower bounds in pyproject.toml.
NEWEST = nox.param("highest", id="newest")


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("resolution", [OLDEST, NEWEST])
def tests(session: nox.Session, resolution: str) -> None:
    """What `pytest` runs after `pip install -e ".[test]"`."""
    session.chdir(ROOT)
    session.install("--resolution", resolution, "--editable", ".[test]")
    session.run("uv", "pip", "list")
    session.run("pytest", *session.posargs)
