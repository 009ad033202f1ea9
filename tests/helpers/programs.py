"""Small programs and the axes that follow from their mathematics, for the tables.

A parameter is written as its axes in order, each a role and a size: `b3 r4 o6` is a
stack of three kernels from 4 numbers to 6. Roles are `r` for reduction, `o` for output
and `b` for batch; `-` marks the axes of what is never projected.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_adamp import describe
from optax_adamp.layouts import from_function


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def indices(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


class Program(NamedTuple):
    """A function of data, and of parameters by name."""

    fn: Callable[..., Any]
    data: tuple[Any, ...]
    roles: dict[str, str]
    dtype: Any

    def __call__(self, params, *data):
        return self.fn(*data, **params)

    @property
    def params(self):
        return {
            name: jax.ShapeDtypeStruct(shape_of(roles), self.dtype)
            for name, roles in self.roles.items()
        }

    @property
    def expected(self):
        return {name: axes_of(roles) for name, roles in self.roles.items()}


def program(fn, *data, dtype=jnp.float32, **roles):
    return Program(fn, data, roles, dtype)


def shape_of(roles):
    return tuple(int(axis[1:]) for axis in roles.split())


def axes_of(roles):
    """Reduction and output axes; None if it is never projected."""
    kinds = [axis[0] for axis in roles.split()]
    if "-" in kinds:
        return None
    return tuple(
        tuple(index for index, kind in enumerate(kinds) if kind == wanted)
        for wanted in "ro"
    )


def read(fn, params, *data, **kwargs):
    """What `describe` shows of each parameter: its axes, or None."""
    return _axes(describe(params, from_function(fn, params, *data, **kwargs)))


def _axes(rows):
    return {
        row.path: row.view and (row.reduction_axis, row.output_axis) for row in rows
    }


def assert_read_well(case):
    """Axes are as expected, and a use was found of all that are used."""
    rows = describe(case.params, from_function(case, case.params, *case.data))
    assert _axes(rows) == case.expected
    unused = {row.path for row in rows if "not used" in row.why}
    assert unused == {"unused"} & case.roles.keys()


def assert_read_well_with_captured_data(case):
    """The data are constants of the program then."""
    data = [jnp.asarray(np.ones(one.shape, one.dtype)) for one in case.data]
    assert read(lambda params: case(params, *data), case.params) == case.expected
