"""The axes of the kernels that Flax's layers hold, in Linen and NNX alike."""

from collections.abc import Sequence

from optax_adamp._axes import ProjectionDimensionNumbers


def dense_general(batch: int, inputs: int, outputs: int) -> ProjectionDimensionNumbers:
    """Kernel (*batch, *in, *out), with the number of axes of each kind."""
    first_output = batch + inputs
    return ProjectionDimensionNumbers(
        tuple(range(batch, first_output)),
        tuple(range(first_output, first_output + outputs)),
    )


def convolution(
    spatial: int, *, transposed: bool = False
) -> ProjectionDimensionNumbers:
    """Kernel (*spatial, in / groups, out), or (*spatial, out, in) if transposed."""
    out = spatial if transposed else spatial + 1
    reduction = (axis for axis in range(spatial + 2) if axis != out)
    return ProjectionDimensionNumbers(tuple(reduction), out)


def embedding() -> ProjectionDimensionNumbers:
    """Table (entries, features): each row is a vector of its own."""
    return ProjectionDimensionNumbers(1, 0)


def einsum(equation: str, kernel_axes: int) -> ProjectionDimensionNumbers:
    """The second operand of an equation.

    What the sum runs over is a reduction axis. Of the axes that the result keeps, those
    that the inputs have as well are batch axes, and the others index the channels.

    Args:
      equation: As in `jnp.einsum(equation, inputs, kernel)`, an ellipsis included.
      kernel_axes: How many axes the kernel has.
    """
    operands, _, result = equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    kernel = _expand(kernel, kernel_axes)
    reduction: list[int] = []
    output: list[int] = []
    for axis, letter in enumerate(kernel):
        if letter not in result:
            reduction.append(axis)
        elif letter not in inputs:
            output.append(axis)
    return ProjectionDimensionNumbers(tuple(reduction), tuple(output))


def _expand(subscripts: str, axes: int) -> Sequence[str]:
    """One name an axis; those under an ellipsis are all called by it."""
    before, ellipsis, after = subscripts.partition("...")
    hidden = axes - len(before) - len(after)
    return [*before, *[ellipsis] * hidden, *after]
