"""What a projection would do to each parameter, as a table."""

import math
import textwrap
from collections import defaultdict
from typing import Any, NamedTuple

import jax.numpy as jnp

from optax_adamp._checks import (
    check_array,
    dtype_of,
    has_gradient,
    refuse_empty,
    refuse_model,
)
from optax_adamp._inspect.table import Table
from optax_adamp._mesh_axes import OWN
from optax_adamp._parameters import Parameter, resolve_parameters
from optax_adamp._trees import format_path, is_absent
from optax_adamp.layouts._dimension_numbers import DimensionNumbers

_WIDTH = 79
_TIMES = "\N{MULTIPLICATION SIGN}"
_NO_GRADIENT = "No gradient reaches an array of {}: keep it out of the params."


class Description(NamedTuple):
    """One row of :func:`describe`.

    Attributes:
      path: Where the parameter stands in the tree.
      shape: Its shape.
      reduction_axis: The axes along a channel; None if it is not projected, as for all
        that follow but `why` and `warning`.
      output_axis: The axes that index the channels.
      batch_axis: All other axes.
      channels: Number of channels in a batch element.
      length: Real numbers in each channel; a complex one counts as two.
      batch: Number of batch elements: each is decided and projected by itself.
      view: "auto", "channel" or "layer", see :class:`ProjectionDimensionNumbers`.
      why: Where the axes come from, or why it is not projected.
      warning: Why that may be wrong; empty if there is no reason to think so.
    """

    path: str
    shape: tuple[int, ...]
    reduction_axis: tuple[int, ...] | None
    output_axis: tuple[int, ...] | None
    batch_axis: tuple[int, ...] | None
    channels: int | None
    length: int | None
    batch: int | None
    view: str | None
    why: str
    warning: str

    @property
    def size(self) -> str | None:
        """Channels and length as the table shows them."""
        return None if self.view is None else f"{self.channels} {_TIMES} {self.length}"

    @property
    def output(self) -> str | None:
        """The output axes as the table shows them."""
        return _list_axes(self.output_axis)

    @property
    def batches(self) -> str | None:
        """The batch elements as the table shows them."""
        axes = _list_axes(self.batch_axis)
        return f"{self.batch} (axis {axes})" if axes else None

    @property
    def reason(self) -> str:
        """Why, with a mark if there is a warning."""
        return f"{self.why} (!)" if self.warning else self.why


_COLUMNS = {
    "path": "path",
    "shape": "shape",
    "output": "output",
    "size": f"channels {_TIMES} length",
    "batches": "batch",
    "view": "view",
    "reason": "why",
}


def describe(
    params: Any, dimension_numbers: DimensionNumbers = None
) -> Table[Description]:
    """Shows which axes of each parameter form a channel, and who says so.

    Nothing in an array tells its input axes from its output axes, and where an
    optimizer gets them wrong, training still works, only worse. Look before training:
    give this what the optimizer is given.

    Args:
      params: The params, or anything with their tree and shapes, such as
        :class:`jax.ShapeDtypeStruct`. Places without an array are left out.
      dimension_numbers: As for :func:`scale_by_projection`.

    Returns:
      A table with one row a parameter. Its columns show the output axes, the channels
      and the real numbers in each, the batch elements with their axes, the view, and
      why: the module class, rule, override or spec that decided. A row holds the same
      as plain data, with the attributes `path`, `shape`, `reduction_axis`,
      `output_axis`, `batch_axis`, `channels`, `length`, `batch`, `view`, `why` and
      `warning`; what does not apply is None. Where a rule meets what it may misread,
      the row is marked with (!), and a note below says what to do.

    Raises:
      ValueError: If `params` holds no arrays or other things than arrays, and as
        :func:`scale_by_projection` does if `dimension_numbers` do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_adamp
      >>> params = {
      ...     "embedding": jnp.zeros((500, 64)),
      ...     "hidden": {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)},
      ... }
      >>> optax_adamp.describe(params)
      path           shape      output  channels × length  view  why
      embedding      (500, 64)  1       64 × 500           auto  default: last axis (!)
      hidden/bias    (32,)                                       fewer than two axes
      hidden/kernel  (64, 32)   1       32 × 64            auto  default: last axis
      2 of 3 arrays can be projected, with 34,048 of 34,080 parameters.
      (!) May be an embedding, whose rows are its vectors: give it
          ProjectionDimensionNumbers(1, 0), or let layouts.from_function read the
          axes from your program.
            embedding

      The rows are named tuples:

      >>> table = optax_adamp.describe(
      ...     params,
      ...     {
      ...         "embedding": optax_adamp.ProjectionDimensionNumbers(1, 0),
      ...         "hidden": None,
      ...     },
      ... )
      >>> for row in table:
      ...   print(row.path, row.channels, row.length, row.why)
      embedding 500 64 spec
      hidden/bias None None spec: None
      hidden/kernel None None spec: None

    .. seealso::
      :func:`measure`
    """
    refuse_model(params, function="describe")
    refuse_empty(params, function="describe")
    parameters = resolve_parameters(
        {"params": params}, dimension_numbers, OWN, check=check_array
    )
    rows = [
        _describe_parameter(parameter)
        for parameter in parameters
        if not is_absent(parameter.array)
    ]
    return Table(rows, _COLUMNS, [_total(rows), *_warnings(rows)])


def _describe_parameter(parameter: Parameter) -> Description:
    array = parameter.array
    shape = jnp.shape(array)
    why, warning = parameter.reason()
    if not has_gradient(array):
        warning = _NO_GRADIENT.format(dtype_of(array))
    row = Description(
        path=format_path(parameter.names),
        shape=shape,
        reduction_axis=None,
        output_axis=None,
        batch_axis=None,
        channels=None,
        length=None,
        batch=None,
        view=None,
        why=why,
        warning=warning,
    )
    if parameter.axes is None:
        return row
    axes = parameter.axes
    batch = axes.batch(shape)
    is_complex = jnp.issubdtype(dtype_of(array), jnp.complexfloating)
    return row._replace(
        reduction_axis=axes.reduction,
        output_axis=axes.output,
        batch_axis=batch,
        channels=axes.channels(shape),
        length=axes.length(shape) * (2 if is_complex else 1),
        batch=math.prod(shape[axis] for axis in batch),
        view=axes.view,
    )


def _total(rows: list[Description]) -> str:
    projected = [row for row in rows if row.view is not None]

    def parameters(some: list[Description]) -> int:
        return sum(math.prod(row.shape) for row in some)

    return (
        f"{len(projected)} of {len(rows)} arrays can be projected, with "
        f"{parameters(projected):,} of {parameters(rows):,} parameters."
    )


def _warnings(rows: list[Description]) -> list[str]:
    """One note a warning, with the paths that it is for."""
    paths: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.warning:
            paths[row.warning].append(row.path)
    return [
        "\n".join(
            [
                textwrap.fill(f"(!) {warning}", _WIDTH, subsequent_indent=" " * 4),
                *(f"      {path}" for path in warned),
            ]
        )
        for warning, warned in paths.items()
    ]


def _list_axes(axes: tuple[int, ...] | None) -> str | None:
    return None if axes is None else ", ".join(map(str, axes))
