"""How the command refuses in one line what it can't do, before time is spent on it."""

import argparse
import contextlib
import importlib
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

# What the extra `demo` brings, the quickest to import first.
EXTRA_MODULES = ("tqdm", "matplotlib", "sklearn", "flax")


class Parser(argparse.ArgumentParser):
    """Ends on an error with one line and status 2."""

    def error(self, message: str) -> NoReturn:
        # Without the usage, which would bury the one line that matters.
        line = " ".join(message.splitlines())
        self.exit(2, f"{self.prog}: error: {line}\n")


def import_extra(parser: argparse.ArgumentParser) -> None:
    """Ends the program if the extra `demo` is not there, and says how to get it."""
    missing: list[str] = []
    for module in EXTRA_MODULES:
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(module)
    if missing:
        parser.error(
            f"cannot import {', '.join(missing)}. From a checkout, install what the "
            "demo needs with: pip install -e '.[demo]'"
        )


@contextlib.contextmanager
def one_line_on_failure(parser: argparse.ArgumentParser, path: Path) -> Generator[None]:
    """Ends the program if the file cannot be written inside this context."""
    try:
        yield
    except OSError as error:
        parser.error(f"cannot write {path}: {error.strerror or error}")


def check_writable(path: Path) -> None:
    """Makes the folder of a file and opens the file, before time is spent on it.

    Raises:
      OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()
