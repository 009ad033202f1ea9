"""Whole runs of the optimizers on drawn problems, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

import reference
from drawn import Case, few_layouts
from drawn_runs import (
    HYPERPARAMETERS,
    STEPS,
    gradient,
    problems,
    train,
    without_dampening,
)
from optax_adamp import adamp, sgdp
from precision import float64
from training import with_both_optimizers


@with_both_optimizers
@given(problem=problems(few_layouts), nesterov=st.booleans(), data=st.data())
def test_trajectory_equals_reference(optimizer, problem, nesterov, data):
    layout, problem = problem
    drawn = data.draw(HYPERPARAMETERS[optimizer])
    drawn = without_dampening(nesterov, drawn)
    with float64():
        arrays = jax.tree.map(jnp.asarray, problem)
        weights = np.asarray(train(optimizer, nesterov, layout, arrays, drawn))

    settings = dict(drawn)
    lr, decay = settings.pop("learning_rate"), settings.pop("weight_decay")
    if optimizer is sgdp:
        # Of the base optimizer; what is left is for the projection.
        base = {name: settings.pop(name) for name in ("momentum", "dampening")}
        run, decay = reference.sgdp, decay / (1 - base["momentum"])
    else:
        base = {name: settings.pop(name) for name in ("b1", "b2")}
        run, base["eps"] = reference.adamp, settings["eps"]
    settings["weight_decay"] = decay

    def project(*arrays):
        case = Case(layout, *arrays, settings)
        assume(case.is_clear(margin=1e-7))
        return case.expect()[0]

    expected = run(
        problem.weight,
        lambda step, weight: gradient(layout, problem, problem.raw[step], weight),
        STEPS,
        project,
        lr=lr,
        nesterov=nesterov,
        **base,
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9 * scale)


POWERS = {adamp: 1, sgdp: 2}


@with_both_optimizers
@given(problem=problems(few_layouts), exponent=st.integers(-20, 20), data=st.data())
def test_scaling_a_weight_and_its_learning_rate_keeps_directions(
    optimizer, problem, exponent, data
):
    """A scale-invariant weight times c has a gradient over c.

    SGDP then takes the same directions with c² times the learning rate, AdamP, which
    looks at no gradient's size, with c times; and both with as much less decay. Exactly
    so without eps, and for powers of two.
    """
    c = 2.0**exponent
    layout, problem = problem
    # A gradient of zero has no direction for Adam without eps.
    assume(np.all(problem.raw))
    settings = data.draw(HYPERPARAMETERS[optimizer])
    settings["eps"] = 0.0
    rate = c ** POWERS[optimizer]
    scaled_settings = {
        **settings,
        "learning_rate": settings["learning_rate"] * rate,
        "weight_decay": settings["weight_decay"] / rate,
    }
    scaled = problem._replace(
        weight=problem.weight * c,
        raw=problem.raw / c,
        noise=problem.noise / c**2,
        along=(*problem.along[:2], problem.along[2] / c**2),
    )
    with float64():
        directions = [
            np.asarray(train(optimizer, False, layout, arrays, drawn))
            for arrays, drawn in (
                (jax.tree.map(jnp.asarray, problem), settings),
                (jax.tree.map(jnp.asarray, scaled), scaled_settings),
            )
        ]
    np.testing.assert_array_equal(directions[1], c * directions[0])
