"""Double precision for a part of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def float64() -> Iterator[None]:
    """Arrays made inside may have 64 bits."""
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(True):
            yield
    else:  # jax < 0.8
        from jax.experimental import enable_x64

        with enable_x64():
            yield
