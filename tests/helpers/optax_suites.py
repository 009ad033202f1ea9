"""The tests that Optax ships, run on optimizers that are not Optax's own.

Each of its suites reads lists of optimizers when its classes are defined. So a suite is
not imported: its source, in the installed wheel, is parsed, whatever builds the lists
is removed, and the rest is executed with our lists in their place. Tests that don't
read the lists check Optax's own optimizers by name, and are removed as well.
"""

import ast
import functools
import importlib.util
import itertools
import os
import re
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax


class Contract(NamedTuple):
    """One of Optax's tests, for one optimizer."""

    name: str
    run: Callable[[], None]


def alias_contracts(factory: Callable[..., Any], **kwargs: Any) -> list[Contract]:
    """What Optax asks of its own optimizers."""
    entry = {"opt_name": factory.__name__, "opt_kwargs": kwargs}
    return _contracts(
        "optax._src.alias_test",
        lists={"_OPTIMIZERS_UNDER_TEST": [entry]},
        attributes={"alias": {factory.__name__: factory}},
    )


def contrib_contracts(factory: Callable[..., Any], **kwargs: Any) -> list[Contract]:
    """What Optax asks of contributed optimizers."""
    entry = {
        "opt_name": factory.__name__,
        "opt_kwargs": kwargs,
        "wrapper_name": None,
        "wrapper_kwargs": None,
    }
    return _contracts(
        "optax.contrib._common_test",
        lists={
            "_MAIN_OPTIMIZERS_UNDER_TEST": [entry],
            "_ALL_OPTIMIZERS_UNDER_TEST": [entry],
        },
        attributes={"contrib": {factory.__name__: factory}},
    )


def sharding_contracts(factory: Callable[..., Any], **kwargs: Any) -> list[Contract]:
    """What Optax asks of optimizers on several devices; it needs eight."""
    return _contracts(
        "optax._src.sharding_test",
        lists={"OPTIMIZERS": {factory.__name__: factory(**kwargs)}},
        # It skips itself on old releases of jax, and takes 0.10 for older than 0.7.
        attributes={"jax": {"__version__": _Version(jax.__version__)}},
    )


def _contracts(
    module_name: str,
    lists: dict[str, Any],
    attributes: dict[str, dict[str, Any]],
) -> list[Contract]:
    """Loads a suite with other lists, and other attributes of what it imports."""
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The installed optax has no {module_name}.")
    source = Path(spec.origin)
    suite = _without_lists(ast.parse(source.read_bytes()), set(lists))

    module = types.ModuleType(module_name)
    vars(module).update(lists)
    with mock.patch.dict(os.environ):  # The sharding suite sets XLA_FLAGS.
        exec(compile(suite, source, "exec"), vars(module))
    for name, overrides in attributes.items():
        # A copy, for the suite alone: the imported module stays as it is.
        original = vars(getattr(module, name))
        setattr(module, name, types.SimpleNamespace(**(original | overrides)))

    tests = unittest.defaultTestLoader.loadTestsFromModule(module)
    return [
        Contract(_describe(test), functools.partial(_run, test))
        for test in itertools.chain.from_iterable(tests)
    ]


def _without_lists(tree: ast.Module, lists: set[str]) -> ast.Module:
    """Leaves out what builds the lists, and the tests that don't read them."""

    def mentions(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Name) and n.id in lists for n in ast.walk(node))

    def is_foreign_test(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.FunctionDef)
            and node.name.startswith("test")
            and not any(map(mentions, node.decorator_list))
        )

    body = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = [member for member in node.body if not is_foreign_test(member)]
            node.body = members or [ast.Pass(lineno=node.lineno, col_offset=0)]
        elif mentions(node):
            continue
        body.append(node)
    return ast.Module(body, type_ignores=[])


def _describe(test: unittest.TestCase) -> str:
    """The name of a test with its parameters, which absl only numbers."""
    description = (test.shortDescription() or "").splitlines()[0]
    name = test.id().split()[0].rpartition(".")[2].rstrip("0123456789")
    parameters = re.findall(
        r"(?<=_setup_)\w+|b?float\d+|complex\d+|wrap=\w+", description
    )
    return "-".join([name, *parameters])


def _run(test: unittest.TestCase) -> None:
    try:
        test.debug()
    except unittest.SkipTest as skip:
        raise AssertionError(f"Optax skipped its test: {skip}") from skip


class _Version(str):
    """A version that compares by its numbers, not by its letters."""

    def __lt__(self, other: str) -> bool:
        return _numbers(self) < _numbers(other)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
