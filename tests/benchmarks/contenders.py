"""Who is timed: optimizers of Optax, the package, a plain port, and PyTorch's."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_adamp
import trees
from optax_adamp import _projection
from port import adamp_port
from problems import Problem

# Weights stay where they are, or gradients would cease to be orthogonal to them.
RATE = 1e-9
ADAM_DECAY, SGD_DECAY = 1e-2, 1e-5


class Run(NamedTuple):
    """A contender, ready to go."""

    steps: Callable[[int], None]  # Takes so many steps, and returns when all are done.
    compile_seconds: float  # From Python to the program; 0 where there is none.


Contender = Callable[[Problem], Run]


def with_jax(make_tx: Callable[[Any], optax.GradientTransformation]) -> Contender:
    """The step of an optimizer, jitted as in a training loop: its inputs are donated.

    Args:
      make_tx: From dimension numbers to the optimizer.
    """

    def prepare(problem: Problem) -> Run:
        tx = make_tx(problem.dimension_numbers)

        def step(carry: Any, grads: Any) -> Any:
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(lambda x: x.copy(), problem.params)
        carry = params, jax.jit(tx.init)(params)
        return run_program(step, carry, problem.grads)

    return prepare


def run_program(step: Callable[..., Any], carry: Any, data: Any) -> Run:
    """Compiles `carry = step(carry, data)`, with the memory of the carry reused."""
    jitted = jax.jit(step, donate_argnums=0)
    started = time.perf_counter()
    program = jitted.lower(carry, data).compile()
    seconds = time.perf_counter() - started

    def steps(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            carry = program(carry, data)
        jax.block_until_ready(carry)

    return Run(steps, seconds)


def with_torch(name: str, *, compiled: bool = False, **options: Any) -> Contender:
    """A class of the published package, on the same numbers in PyTorch's layout."""

    def prepare(problem: Problem) -> Run:
        import adamp
        import torch

        device = "cuda" if jax.default_backend() == "gpu" else "cpu"

        def tensor(path: Any, array: Any) -> torch.Tensor:
            values = np.asarray(array)
            if "tokens" not in str(path) and "positions" not in str(path):
                values = np.moveaxis(values, -1, 0)
            return torch.tensor(np.ascontiguousarray(values), device=device)

        params = []
        for weight, grad in zip(
            *(
                jax.tree.leaves(jax.tree.map_with_path(tensor, tree))
                for tree in (problem.params, problem.grads)
            ),
            strict=True,
        ):
            params.append(torch.nn.Parameter(weight))
            params[-1].grad = grad
        optimizer = getattr(adamp, name)(params, lr=RATE, **options)
        step = torch.compile(optimizer.step) if compiled else optimizer.step
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started

        def steps(count: int) -> None:
            for _ in range(count):
                step()
            if device == "cuda":
                torch.cuda.synchronize()

        return Run(steps, seconds if compiled else 0.0)

    return prepare


# Sums of fewer rows are not cut.
ROWS = 256


@contextlib.contextmanager
def rows_cut() -> Iterator[None]:
    """Long columns are summed in parts, which keep more of a GPU busy than one sum."""
    whole = _projection._inner

    def inner(a: jax.Array, b: jax.Array, along: tuple[int, ...]) -> jax.Array:
        axis = max(along, key=lambda axis: a.shape[axis])
        size, most = a.shape[axis], math.prod(a.shape[axis] for axis in along) // ROWS
        parts = max((n for n in range(1, most + 1) if size % n == 0), default=1)
        if parts == 1 or a.ndim - 1 in along:
            return whole(a, b, along)
        products = jnp.real(jnp.conj(a) * b)
        cut = products.reshape(
            *a.shape[:axis], parts, size // parts, *a.shape[axis + 1 :]
        )
        inside = [place + (place >= axis) for place in along]
        sums = jnp.sum(cut, axis=inside, keepdims=True)
        # Without the barrier XLA sums all at once again.
        return jnp.sum(jax.lax.optimization_barrier(sums), axis=axis)

    _projection._inner = inner
    _projection.project.clear_cache()
    try:
        yield
    finally:
        _projection._inner = whole
        _projection.project.clear_cache()


def with_rows_cut(contender: Contender) -> Contender:
    """The same with its sums taken in parts."""

    def prepare(problem: Problem) -> Run:
        with rows_cut():
            return contender(problem)

    return prepare


def _adamp(axes: Any) -> optax.GradientTransformation:
    return optax_adamp.adamp(RATE, weight_decay=ADAM_DECAY, dimension_numbers=axes)


def _sgdp(axes: Any) -> optax.GradientTransformation:
    return optax_adamp.sgdp(RATE, weight_decay=SGD_DECAY, dimension_numbers=axes)


JAX_CONTENDERS: dict[str, Contender] = {
    "adamw": with_jax(lambda _: optax.adamw(RATE, weight_decay=ADAM_DECAY)),
    "adamp": with_jax(_adamp),
    "adamp, fixed": with_jax(lambda axes: _adamp(trees.fixed_views(axes))),
    "sgd": with_jax(lambda _: optax.sgd(RATE, momentum=0.9)),
    "sgdp": with_jax(_sgdp),
    "sgdp, fixed": with_jax(lambda axes: _sgdp(trees.fixed_views(axes))),
    "port": with_jax(lambda axes: adamp_port(RATE, ADAM_DECAY, axes)),
}
GPU_CONTENDERS: dict[str, Contender] = {
    f"{name}, rows cut": with_rows_cut(JAX_CONTENDERS[name])
    for name in ("adamp", "adamp, fixed")
}
TORCH_CONTENDERS: dict[str, Contender] = {
    "torch adamp": with_torch("AdamP", weight_decay=ADAM_DECAY),
    "torch adamp, compiled": with_torch(
        "AdamP", compiled=True, weight_decay=ADAM_DECAY
    ),
    "torch sgdp": with_torch("SGDP", momentum=0.9, weight_decay=SGD_DECAY),
}
# What is said of whom: the first takes so many times as long as the second.
RATIOS = (
    ("adamp", "adamw"),
    ("adamp, fixed", "adamw"),
    ("sgdp", "sgd"),
    ("sgdp, fixed", "sgd"),
    ("port", "adamw"),
    ("adamp, rows cut", "adamp"),
    ("adamp, fixed, rows cut", "adamp, fixed"),
    ("from_function", "tracing"),
    ("describe", "describe, of a tenth"),
    ("detect", "8 gradients"),
    ("torch adamp", "adamp"),
    ("torch adamp, compiled", "adamp"),
    ("torch sgdp", "sgdp"),
)


def torch_is_here() -> bool:
    """Whether PyTorch and the published package can run beside JAX."""
    if not (find_spec("torch") and find_spec("adamp")):
        return False
    import torch

    return jax.default_backend() == "cpu" or torch.cuda.is_available()
