"""Loops and branches, which are walked inside."""

from optax_adamp.layouts._program import tracks
from optax_adamp.layouts._program.elementwise import combined
from optax_adamp.layouts._program.tracks import Value
from optax_adamp.layouts._program.walk import (
    Operation,
    Operations,
    jaxpr_of,
    shape_of,
)

LOOPS = Operations()


@LOOPS.named("scan")
def _scan(operation: Operation, values: list[Value]) -> list[Value]:
    body = operation.params["jaxpr"]
    # Constants come first, then the carry, then what a turn has one entry of. How JAX
    # counts them has changed; that the last lack an axis in the body has not.
    inside = [len(shape_of(var)) for var in jaxpr_of(body).invars]
    runs_over = sum(
        len(value.shape) > axes for value, axes in zip(values, inside, strict=True)
    )
    inside = [len(shape_of(var)) for var in jaxpr_of(body).outvars]
    carried = sum(
        len(shape) == axes for shape, axes in zip(operation.shapes, inside, strict=True)
    )
    consts = len(values) - runs_over - carried
    fixed, first = values[:consts], values[consts : consts + carried]
    for value in values[consts + carried :]:
        if value.is_data and value.tracks:
            operation.combine(value)
    stacked = [
        tracks.unstack(value._replace(tracks=()) if value.is_data else value)
        for value in values[consts + carried :]
    ]

    def turn(carry: list[Value]) -> list[Value]:
        return operation.walk(body, [*fixed, *carry, *stacked])

    carry, second = operation.program.settle(first, lambda c: turn(c)[:carried])
    _combine_replaced(operation, first, second, carry)
    results = turn(carry)
    outputs = [
        tracks.rearrange(value, [None, *range(len(value.shape))], shape)
        for value, shape in zip(
            results[carried:], operation.shapes[carried:], strict=True
        )
    ]
    along = (operation.params["length"] > 1,)
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
        return operation.walk(body, [*fixed[1], *carry])

    carry, second = operation.program.settle(first, turn)
    _combine_replaced(operation, first, second, carry)
    operation.walk(condition, [*fixed[0], *carry])
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
    branches = operation.params["branches"]
    results = [operation.walk(branch, arguments) for branch in branches]
    return [
        combined(operation, several, shape)
        for several, shape in zip(
            zip(*results, strict=True), operation.shapes, strict=True
        )
    ]
