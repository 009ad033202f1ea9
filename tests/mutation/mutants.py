"""Mutants: a module of the package in which one thing differs.

A mutant differs in one operator, number, string, condition, argument, return value or
statement. Docstrings, types, decorators and messages with values in them stay.
"""

import ast
import contextlib
import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
    """What may stand in the place of a node."""
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
        case ast.Return(value=ast.Constant(value=None)):
            return
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
                if index == 0 and not isinstance(node.args[0], ast.Starred):
                    yield "call -> argument 0", node.args[0]
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


class Place(NamedTuple):
    """Where a node stands: `container[key]` is the node."""

    container: Any
    key: Any
    node: ast.AST
    function: str  # The qualified name of the outermost function; empty outside.
    lines: range  # Of the innermost statement; without its body, if it has one.


def places_of(
    parent: ast.AST, names: tuple[str, ...] = (), function: str = "", lines=range(0)
) -> Iterator[Place]:
    """All nodes that run."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        is_list = isinstance(value, list)
        is_body = isinstance(parent, ast.FunctionDef) and field == "body"
        inside = function or (".".join(names) if is_body else "")
        for key, node in enumerate(value) if is_list else [(field, value)]:
            match node:
                case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
                    continue
                case ast.AST():
                    own = _lines_of(node) if isinstance(node, ast.stmt) else lines
                    yield Place(
                        value if is_list else vars(parent), key, node, inside, own
                    )
                    is_named = isinstance(node, ast.FunctionDef | ast.ClassDef)
                    below = (*names, node.name) if is_named else names
                    yield from places_of(node, below, inside, own)


def _lines_of(statement: ast.stmt) -> range:
    body = getattr(statement, "body", None)
    end = max(body[0].lineno - 1, statement.lineno) if body else statement.end_lineno
    return range(statement.lineno, (end or statement.lineno) + 1)


class Mutant(NamedTuple):
    """One change of a module."""

    module: str  # Such as layouts._nnx
    place: Place
    what: str
    changed: Any
    identity: str  # Of the change; the same while the code around it is the same.

    def __str__(self) -> str:
        return f"{self.module}:{getattr(self.place.node, 'lineno', 0)}: {self.what}"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Changes the tree of the module, for a while."""
        container, key = self.place.container, self.place.key
        container[key] = self.changed
        try:
            yield
        finally:
            container[key] = self.place.node


def mutants_of(module: str, tree: ast.Module) -> list[Mutant]:
    """All mutants of a module."""
    mutants = []
    for statement in tree.body:
        text = ast.unparse(statement)
        within = ast.Module([statement], [])
        for number, place in enumerate(places_of(within)):
            if place.container is within.body:
                place = place._replace(
                    container=tree.body, key=tree.body.index(statement)
                )
            for index, (what, changed) in enumerate(changes_of(place.node)):
                key = f"{module}\n{text}\n{number} {index} {what}".encode()
                identity = hashlib.sha256(key).hexdigest()[:16]
                mutants.append(Mutant(module, place, what, changed, identity))
    return mutants


class Module(NamedTuple):
    """A module of the package, in source and as a tree."""

    name: str
    path: Path
    tree: ast.Module


def modules_of(package: Path) -> dict[str, Module]:
    """All modules of a package, by their names below it."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts)
        modules[name] = Module(name, path, ast.parse(path.read_text()))
    return modules
