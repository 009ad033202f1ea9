"""What the zoo asks of every model: its axes, written by hand, and a falling loss."""

import fnmatch

import jax
import optax

import optax_adamp


def expected_of(path, expected):
    """The entry of the one pattern that matches a path."""
    matching = [p for p in expected if fnmatch.fnmatchcase(path, p)]
    exact = [p for p in matching if p == path]
    matching = exact or matching
    assert len(matching) == 1, f"{path} is matched by {matching}"
    return expected[matching[0]]


def check_axes(layout, params, expected):
    """Compares a layout with axes written by hand.

    Args:
      layout: What `layouts.from_function` and its kin return.
      params: The params of the model.
      expected: By glob of a path, as `describe` shows it, `(reduction, output)` axes or
        None for what is not projected. Each parameter is matched by one glob, each glob
        matches a parameter. An axis of size one may be of any kind: it changes no step.
    """
    rows = optax_adamp.describe(params, layout)
    wrong = []
    for row in rows:
        want = expected_of(row.path, expected)
        got = None
        if row.reduction_axis is not None:
            got = tuple(
                tuple(a for a in axes if row.shape[a] > 1)
                for axes in (row.reduction_axis, row.output_axis)
            )
        if want is not None:
            want = tuple(
                tuple(sorted(a % len(row.shape) for a in axes))
                for axes in (
                    (axes,) if isinstance(axes, int) else axes for axes in want
                )
            )
            want = tuple(tuple(a for a in x if row.shape[a] > 1) for x in want)
        if got != want:
            wrong.append(f"{row.path} {row.shape}: {got}, not {want} ({row.why})")
    assert not wrong, "\n".join(wrong)
    unused = [p for p in expected if not fnmatch.filter([r.path for r in rows], p)]
    assert not unused, unused


def check_loss_falls(loss_fn, params, layout, *, steps=8, learning_rate=1e-2):
    """A few steps of AdamP with the layout lower the loss of one batch."""
    tx = optax_adamp.adamp(learning_rate, dimension_numbers=layout)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = tx.init(params)
    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0], losses
