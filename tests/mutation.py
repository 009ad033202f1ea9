"""Changes the package in one place at a time, and counts the changes no test notices.

    python tests/mutation.py                 # hours
    python tests/mutation.py _projection layouts._nnx
    python tests/mutation.py --sample 300    # at random, of all modules

Run it from the root of the repository. A mutant is a module in which one operator,
number, string, condition, argument, return value or statement differs; it dies when a
test fails. Each runs in a process forked after the slow imports, and tests stop at the
first failure, so that most mutants take seconds. What survives is printed at the end.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Imported before forking, and not used: this is what takes the time.
import chex  # noqa: F401
import jax  # noqa: F401
import optax  # noqa: F401
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Processor time after which a mutant counts as one that never ends.
SECONDS = 600
WORKERS = os.cpu_count() or 1

# Per module the tests that know it, the likeliest to fail first.
TESTS = {
    "_projection": (
        "test_properties_projection.py::test_equals_reference",
        "test_counterexamples.py",
        "test_projection.py",
        "test_properties_range.py::test_a_step_is_finite_where_the_base_update_is",
        "test_shard_map.py",
    ),
    "_specs": ("test_dimension_numbers.py", "test_bad_input.py"),
    "_dimension_numbers": (
        "test_dimension_numbers.py",
        "test_describing_trees.py",
        "test_bad_input.py",
        "test_counterexamples.py",
        "test_batch_axes.py",
        "test_linen.py",
        "test_nnx.py",
    ),
    "_trees": (
        "test_describing_trees.py",
        "test_bad_input.py",
        "test_dimension_numbers.py",
        "test_linen.py",
        "test_nnx.py",
        "test_equinox.py",
        "test_wrappers.py",
    ),
    "_transform": (
        "test_messages.py",
        "test_counterexamples.py",
        "test_with_gradient.py",
        "test_bad_input.py",
        "test_optimizer_state.py",
        "test_chain.py",
        "test_hyperparameters.py",
        "test_describing_trees.py",
        "test_loops.py",
        "test_wrappers.py",
        "test_events.py",
    ),
    "_alias": (
        "test_messages.py",
        "test_counterexamples.py",
        "test_bad_input.py",
        "test_properties_base.py",
        "test_properties_trajectories.py",
        "test_adamw_equivalence.py",
        "test_optimizer_state.py",
        "test_hyperparameters.py",
        "test_golden.py",
        "test_chain.py",
        "test_events.py",
    ),
    "_checks": ("test_messages.py", "test_bad_input.py"),
    "_partition_specs": ("test_messages.py", "test_shard_map.py"),
    "_rules": (
        "test_layouts_stacked.py",
        "test_messages.py",
        "test_layouts_haiku.py",
        "test_layouts_maxtext.py",
    ),
    "_layout": ("test_describe.py", "test_layouts_nnx.py", "test_layouts_agree.py"),
    "_table": ("test_table.py", "test_describe.py"),
    "_describe": ("test_describe.py", "test_describing_trees.py"),
    "_measure": ("test_measure.py", "test_messages.py"),
    "_detect": ("test_detect.py", "test_messages.py", "test_detect_models.py"),
    "_evidence": ("test_detect.py", "test_detect_models.py"),
    "layouts._build": ("test_messages.py", "test_layouts_nnx.py"),
    "layouts._haiku": ("test_layouts_haiku.py", "test_messages.py"),
    "layouts._kernels": (
        "test_layouts_nnx.py",
        "test_layouts_linen.py",
        "test_layouts_haiku.py",
    ),
    "layouts._linen": (
        "test_layouts_linen_lifted.py",
        "test_layouts_linen.py",
        "test_messages.py",
        "test_layouts_agree.py",
    ),
    "layouts._linen_layers": ("test_layouts_linen.py", "test_layouts_agree.py"),
    "layouts._maxtext": ("test_layouts_maxtext.py", "test_messages.py"),
    "layouts._nnx": (
        "test_layouts_nnx.py",
        "test_layouts_nnx_lifted.py",
        "test_messages.py",
        "test_layouts_agree.py",
    ),
    "layouts._output_first": ("test_layouts_equinox.py",),
    "layouts._stacked": ("test_layouts_stacked.py", "test_messages.py"),
}

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


def changes_of(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What may stand in the place of a node; None removes a statement."""
    match node:
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield f"{value[:20]!r} -> 'XX...'", ast.Constant("XX" + value)
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            yield f"without {type(node.op).__name__}", node.operand
        case ast.If() | ast.IfExp():
            for value in (True, False):
                changed = copy.copy(node)
                changed.test = ast.Constant(value)
                yield f"if {value}", changed
        case ast.Return(value=ast.expr()):
            yield "return None", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr() | ast.AugAssign():
            yield "statement removed", ast.Pass()
        case ast.Call():
            for index, keyword in enumerate(node.keywords):
                changed = copy.copy(node)
                changed.keywords = node.keywords[:index] + node.keywords[index + 1 :]
                yield f"without {keyword.arg}=", changed
            for index in range(len(node.args)):
                changed = copy.copy(node)
                changed.args = node.args[:index] + node.args[index + 1 :]
                yield f"without argument {index}", changed
                if len(node.args) == 1 or index == 0:
                    yield f"call -> argument {index}", node.args[index]
    for field in ("op", "ops"):
        operators = getattr(node, field, None)
        several = isinstance(operators, list)
        for index, operator in enumerate(operators if several else [operators]):
            for swap in SWAPS.get(type(operator), ()):
                changed = copy.copy(node)
                new = [*operators] if several else swap()
                if several:
                    new[index] = swap()
                setattr(changed, field, new)
                yield f"{type(operator).__name__} -> {swap.__name__}", changed


def places_of(parent: ast.AST) -> Iterator[tuple[Any, Any, ast.AST]]:
    """Containers and keys of all nodes that run: no docstrings, types or messages."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        if isinstance(value, list):
            slots = [(value, index, node) for index, node in enumerate(value)]
        else:
            slots = [(vars(parent), field, value)]
        for container, key, node in slots:
            match node:
                case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
                    continue
                case ast.AST():
                    yield container, key, node
                    yield from places_of(node)


class Mutant(NamedTuple):
    """One change; `container[key] = changed` makes it."""

    line: int
    what: str
    container: Any
    key: Any
    changed: Any


def mutants_of(tree: ast.Module) -> list[Mutant]:
    return [
        Mutant(getattr(node, "lineno", 0), what, container, key, changed)
        for container, key, node in places_of(tree)
        for what, changed in changes_of(node)
    ]


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module):
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self.path))

    def exec_module(self, module):
        tree = ast.fix_missing_locations(self.tree)
        exec(compile(tree, self.path, "exec"), vars(module))


def test_in_child(module: str, path: Path, tree: ast.Module, log: Path) -> int:
    """Starts the tests of a module, imported from a tree, and returns the process."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.meta_path.insert(0, Finder(f"optax_adamp.{module}", path, tree))
        files = [str(ROOT / "tests" / name) for name in TESTS[module]]
        options = "-xq", "-n0", "-pno:cacheprovider", "--hypothesis-profile=mutation"
        status = int(pytest.main([*options, *files]))
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Result(NamedTuple):
    """What became of the mutants of a module."""

    count: int
    survivors: list[Mutant]


def mutate(module: str, logs: Path, chosen: Callable[[Mutant], bool]) -> Result:
    """Tests the chosen mutants of a module."""
    path = path_of(module)
    tree = ast.parse(path.read_text())
    mutants = [mutant for mutant in mutants_of(tree) if chosen(mutant)]
    if not mutants:
        return Result(0, [])
    plain = logs / "plain"
    if os.waitpid(test_in_child(module, path, tree, plain), 0)[1] != 0:
        sys.exit(f"{plain.read_text()}\nThe tests of {module} fail without a change.")
    running, survivors = {}, []

    def reap():
        process, status = os.wait()
        number, mutant = running.pop(process)
        if status == 0:
            survivors.append(mutant)
        outcome = "SURVIVES" if status == 0 else "dies"
        print(f"{module}:{mutant.line}: {mutant.what}: {outcome}", flush=True)
        if status != 0:
            (logs / f"{number}").unlink()

    for number, mutant in enumerate(mutants):
        if len(running) == WORKERS:
            reap()
        original = mutant.container[mutant.key]
        mutant.container[mutant.key] = mutant.changed
        process = test_in_child(module, path, tree, logs / f"{number}")
        running[process] = number, mutant
        mutant.container[mutant.key] = original
    while running:
        reap()
    return Result(len(mutants), sorted(survivors, key=lambda mutant: mutant.line))


def path_of(module: str) -> Path:
    return ROOT / "optax_adamp" / f"{module.replace('.', '/')}.py"


def main() -> None:
    """Prints how many mutants died, and which did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as _projection; else all")
    parser.add_argument("--sample", type=int, help="so many mutants of all of them")
    arguments = parser.parse_args()
    modules = arguments.modules or list(TESTS)
    share = 1.0
    if arguments.sample:
        trees = [ast.parse(path_of(module).read_text()) for module in modules]
        share = arguments.sample / sum(len(mutants_of(tree)) for tree in trees)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as directory:
        results = {
            module: mutate(module, Path(directory), lambda _: rng.random() < share)
            for module in modules
        }
    for module, (count, survivors) in results.items():
        print(f"{module}: {count - len(survivors)} of {count} mutants die")
        for mutant in survivors:
            print(f"  survives: line {mutant.line}: {mutant.what}")
    count = sum(result.count for result in results.values())
    survive = sum(len(result.survivors) for result in results.values())
    print(f"In all {count - survive} of {count} mutants die.")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    main()
