"""Loops and branches, which are walked inside."""

from typing import Any

from optax_adamp.layouts import _tracks
from optax_adamp.layouts._elementwise import combined
from optax_adamp.layouts._program import Operation, Operations
from optax_adamp.layouts._tracks import (
    Value,
)

LOOPS = Operations()


@LOOPS.named("scan")
def _scan(operation: Operation, values: list[Value]) -> list[Value]:
    params = operation.params
    body, consts, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    fixed, first = values[:consts], values[consts : consts + carried]
    for value in values[consts + carried :]:
        if value.is_data and value.tracks:
            operation.combine(value)
    stacked = [
        _tracks.unstack(value._replace(tracks=()) if value.is_data else value)
        for value in values[consts + carried :]
    ]

    def turn(carry: list[Value]) -> list[Value]:
        return _walk(operation, body, [*fixed, *carry, *stacked])

    carry, second = operation.program.settle(first, lambda c: turn(c)[:carried])
    _combine_replaced(operation, first, second, carry)
    results = turn(carry)
    outputs = [
        _tracks.rearrange(value, [None, *range(len(value.shape))], shape)
        for value, shape in zip(
            results[carried:], operation.shapes[carried:], strict=True
        )
    ]
    along = (params["length"] > 1,)
    return carry + [
        value._replace(varies=along + value.varies[1:]) for value in outputs
    ]


@LOOPS.named("while")
def _while(operation: Operation, values: list[Value]) -> list[Value]:
    params = operation.params
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    split = params["cond_nconsts"]
    fixed = values[:split], values[split : split + params["body_nconsts"]]
    first = values[split + params["body_nconsts"] :]

    def turn(carry: list[Value]) -> list[Value]:
        return _walk(operation, body, [*fixed[1], *carry])

    carry, second = operation.program.settle(first, turn)
    _combine_replaced(operation, first, second, carry)
    _walk(operation, condition, [*fixed[0], *carry])
    turn(carry)
    return carry


def _combine_replaced(
    operation: Operation,
    first: list[Value],
    second: list[Value],
    carry: list[Value],
) -> None:
    """Parameters that a loop begins with, and then replaces by something else."""
    for before, after, every in zip(first, second, carry, strict=True):
        if every.tracks == before.tracks:
            continue
        if after.is_weight:
            operation.unknown([before], ", which changes it")
        else:
            operation.combine(before)


@LOOPS.named("cond")
def _cond(operation: Operation, values: list[Value]) -> list[Value]:
    index, *arguments = values
    operation.combine(index)
    results = [
        _walk(operation, branch, arguments) for branch in operation.params["branches"]
    ]
    joined: list[Value] = []
    for shape, several in zip(
        operation.shapes, zip(*results, strict=True), strict=True
    ):
        joined.append(combined(operation, several, shape))
    return joined


def _walk(operation: Operation, body: Any, values: list[Value]) -> list[Value]:
    return operation.program.walk(body.jaxpr, body.consts, values, caller=operation)
