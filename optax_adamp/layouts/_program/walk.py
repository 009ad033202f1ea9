"""Follows the parameters of a program to the operations that use them.

The program is a jaxpr, JAX's list of primitive operations. Those that only move or
combine parameters are followed, calls and loops are walked inside, and an operation
with data is a use, which tells what each axis is for.
"""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend import core, source_info_util

from optax_adamp.layouts._program import tracks, uses
from optax_adamp.layouts._program.tracks import Track, Value, plain, plain_of
from optax_adamp.layouts._program.uses import Use

# Functions that are called with what the operation is given, by the name of their body.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "shard_map": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# What depends on a key alone is noise, no matter where the key comes from.
_NOISE = re.compile("random_.*|threefry2x32|rng_.*")


class Program:
    """What is found out while walking a program.

    Attributes:
      operations: What is done with those that parameters are followed through.
      uses: Of each parameter.
    """

    def __init__(self, parameters: int, operations: "Operations"):
        self.operations = operations
        self.uses: list[list[Use]] = [[] for _ in range(parameters)]
        self.is_trial = False  # While it is not yet known what a loop carries.

    def walk(
        self,
        jaxpr: core.Jaxpr,
        arguments: Sequence[Value],
        *,
        caller: "Operation | None" = None,
    ) -> list[Value]:
        """What is known of the results of a jaxpr.

        Args:
          jaxpr: The program.
          arguments: What is known of its arguments.
          caller: The operation that it is the body of.
        """
        known: dict[Any, Value] = {}

        def value_of(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return Value(shape_of(atom), (False,) * len(shape_of(atom)))
            return known[atom]

        for var in jaxpr.constvars:
            known[var] = plain(shape_of(var), is_data=False, is_captured=True)
        for var, value in zip(jaxpr.invars, arguments, strict=True):
            # Inside shard_map an array is a part of what it is outside.
            known[var] = tracks.resize(value, shape_of(var))
        wanted = _with_gradient(jaxpr)
        for index, equation in enumerate(jaxpr.eqns):
            operation = Operation(self, equation, caller, index in wanted)
            values = [value_of(atom) for atom in equation.invars]
            for var, value in zip(
                equation.outvars, operation.apply(values), strict=True
            ):
                known[var] = value
        return [value_of(atom) for atom in jaxpr.outvars]

    def record(self, parameter: int, use: Use | None) -> None:
        """Adds a use, unless the walk is a trial."""
        if use is not None and not self.is_trial:
            self.uses[parameter].append(use)

    def settle(
        self, carry: list[Value], turn: Callable[[list[Value]], list[Value]]
    ) -> tuple[list[Value], list[Value]]:
        """What a loop carries at every turn, and what it has after the first."""
        was_trial, self.is_trial = self.is_trial, True
        first = after = turn(carry)
        while (both := list(map(_either, carry, after))) != carry:
            carry = both
            after = turn(carry)
        self.is_trial = was_trial
        return carry, first


class Operation:
    """One operation of a program, at its place."""

    def __init__(
        self,
        program: Program,
        equation: Any,
        caller: "Operation | None",
        has_gradient: bool,
    ):
        self.program = program
        self.step = equation
        self.name: str = equation.primitive.name
        self.params: dict[str, Any] = equation.params
        self.caller = caller
        self.has_gradient = has_gradient

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the results."""
        return list(map(shape_of, self.step.outvars))

    @property
    def distance(self) -> int:
        """As that of its uses."""
        if self.is_derivative:
            return 2
        outer = self.caller.distance if self.caller else 0
        return max(outer, 0 if self.has_gradient else 1)

    @property
    def is_derivative(self) -> bool:
        """Whether it goes back from results to arguments, inside the program."""
        return "transpose(" in self.modules()

    @functools.cached_property
    def where(self) -> str:
        """Modules, file and line."""
        modules = self.modules()
        while (bare := re.sub(r"\w+\(([^()]*)\)", r"\1", modules)) != modules:
            modules = bare
        # Of einsum JAX notes the equation there.
        names = [name for name in modules.split("/") if name and "->" not in name]
        modules = "/".join(names)
        return " ".join(filter(None, [modules, self.place()])) or "at unknown place"

    @property
    def equation(self) -> str:
        """That of the einsum of three operands or more that it is a step of."""
        last = str(self.step.source_info.name_stack).split("/")[-1]
        return last if last.count(",") > 1 and "->" in last else ""

    def modules(self) -> str:
        """The names of the modules around it, with those of transformations."""
        outer = self.caller.modules() if self.caller else ""
        own = str(self.step.source_info.name_stack)
        return "/".join(filter(None, [outer, own]))

    def place(self) -> str:
        """The file and line."""
        # A function of JAX is traced once for all who call it.
        if self.caller and self.caller.is_of_jax:
            return self.caller.place()
        summary: str = source_info_util.summarize(self.step.source_info)
        match = re.match(r"(?:.*[/\\])?(.+?:\d+)", summary)
        if match:
            return f"({match[1]})"
        return self.caller.place() if self.caller else ""

    @property
    def is_of_jax(self) -> bool:
        """Whether it is a call of a function that JAX itself wrapped in `jit`."""
        info = getattr(self.params.get("jaxpr"), "debug_info", None)
        source = getattr(info, "func_src_info", None)
        return str(Path(jax.__file__).parent) in str(source)

    def apply(self, values: list[Value]) -> list[Value]:
        """What is known of the results."""
        if _NOISE.fullmatch(self.name):
            return [
                plain(shape, is_data=False, is_captured=True) for shape in self.shapes
            ]
        if self.name in _CALLS:
            body = self.params.get(_CALLS[self.name])
            if body is not None and len(jaxpr_of(body).invars) == len(values):
                results = self.walk(body, values)
                return list(map(tracks.resize, results, self.shapes))
        elif function := self.program.operations.get(self.name):
            try:
                return function(self, values)
            except KeyError as error:
                return self.unknown(values, f" without {error}, which it had before")
        return self.unknown(values)

    def walk(self, body: Any, values: list[Value]) -> list[Value]:
        """What is known of the results of a program inside of it."""
        return self.program.walk(jaxpr_of(body), values, caller=self)

    def data(self) -> list[Value]:
        """Results that depend on data and differ along all axes."""
        return [plain(shape, is_data=True) for shape in self.shapes]

    def unknown(self, values: Sequence[Value], more: str = "") -> list[Value]:
        """Results of an operation that no parameter can be followed through."""
        for value in values:
            for track in value.tracks:
                if not track.summed:
                    problem = f"it goes into the operation {self.name!r}{more}"
                    self.note(
                        track,
                        Use(uses.UNKNOWN, frozenset(), self.where, problem),
                    )
        return [plain_of(values, shape) for shape in self.shapes]

    def contract(
        self,
        value: Value,
        reduction: Sequence[int],
        batch: Sequence[int] = (),
        *,
        left_is_input: bool = False,
    ) -> None:
        """Notes that axes of a value of parameters are summed over with data."""
        for track in value.tracks:
            is_input = left_is_input and track.that_became(tracks.LINKED_LEFT)
            if is_input or _is_gain(track, value, {*reduction, *batch}):
                self.note(track, uses.activation(track, self.where))
            elif track.axes() or not track.summed:
                use = uses.contracted(
                    track,
                    self.where,
                    reduction=reduction,
                    batch=batch,
                    left_is_input=left_is_input,
                )
                is_transposed = self.is_derivative and self.name == "dot_general"
                self.note(track, uses.transposed(use) if is_transposed else use)

    def activate(self, *values: Value) -> None:
        """Notes that products of parameters are activations."""
        for value in values:
            for track in value.tracks:
                self.note(track, uses.activation(track, self.where))

    def combine(self, *values: Value) -> None:
        """Notes that values of parameters meet data entry by entry."""
        for value in values:
            for track in value.tracks:
                self.note(track, uses.elementwise(track, self.where))

    def note(self, track: Track, use: Use | None) -> None:
        """Adds a use of a parameter, if there is any."""
        if use is not None:
            distance = max(self.distance, 0 if track.has_gradient else 1)
            self.program.record(track.parameter, use._replace(distance=distance))


def _is_gain(track: Track, value: Value, shared: set[int]) -> bool:
    """Whether it only multiplies a kernel, the same number for all its outputs."""
    return not track.that_became(*tracks.PRODUCTS) and any(
        not track.axes_at(position)
        for position in value.owned()
        if position not in shared
    )


def _either(one: Value, other: Value) -> Value:
    """What holds of a value that is one or the other."""
    varies = tuple(a or b for a, b in zip(one.varies, other.varies, strict=True))
    is_data = one.is_data or other.is_data or one.tracks != other.tracks
    return Value(
        one.shape,
        varies,
        is_data,
        () if is_data else one.tracks,
        one.is_scaled or other.is_scaled,
        one.is_captured or other.is_captured,
    )


def _with_gradient(jaxpr: core.Jaxpr) -> set[int]:
    """The operations on which the results depend with a gradient."""
    needed = {var for var in jaxpr.outvars if isinstance(var, core.Var)}
    found: set[int] = set()
    for index in reversed(range(len(jaxpr.eqns))):
        equation = jaxpr.eqns[index]
        if needed.isdisjoint(equation.outvars):
            continue
        found.add(index)
        if equation.primitive.name != "stop_gradient":
            needed |= {var for var in equation.invars if isinstance(var, core.Var)}
    return found


def jaxpr_of(body: Any) -> core.Jaxpr:
    """The program of a function, without the arrays that it holds."""
    return body.jaxpr if isinstance(body, core.ClosedJaxpr) else body


def shape_of(var: Any) -> tuple[int, ...]:
    """The shape of what a variable of a jaxpr stands for."""
    return var.aval.shape


Function = Callable[[Operation, list[Value]], list[Value]]


class Operations(dict[str, Function]):
    """For the names of operations, what they do to the parameters in their operands."""

    def named(
        self, *names: str, params: str | None = None
    ) -> Callable[[Function], Function]:
        """Enters a function under the names of the operations that it is for.

        Args:
          *names: Those of primitives in any supported version of JAX.
          params: The parameters of the primitives that are understood, or make no
            difference to the axes; by default any make none.
        """

        def enter(function: Function) -> Function:
            def check(operation: Operation, values: list[Value]) -> list[Value]:
                known = operation.params if params is None else params.split()
                if new := sorted({*operation.params} - {*known}):
                    return operation.unknown(values, f" with {', '.join(new)}")
                return function(operation, values)

            self.update(dict.fromkeys(names, check))
            return check

        return enter
