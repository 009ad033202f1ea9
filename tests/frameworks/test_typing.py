"""The types of what users write: as a checker sees them, and whether they are true.

pyright checks this file along with the package. It fails where a type is not what an
`assert_type` says, and where a line of `wrong_arguments` is no error.
"""

# At run time it is necessary.
# pyright: reportUnnecessaryIsInstance=false

from collections.abc import Sequence
from typing import Any, Literal, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from optax import GradientTransformationExtraArgs

import optax_adamp
from optax_adamp import ProjectionDimensionNumbers, layouts

PARAMS = {"kernel": np.ones((3, 2), "f4"), "bias": np.zeros(2, "f4")}
SPEC = ProjectionDimensionNumbers(0, 1)
SCHEDULE = optax.cosine_decay_schedule(1e-3, 100)


class Model(nnx.Module):
    def __init__(self):
        zeros = nnx.initializers.zeros
        self.linear = nnx.Linear(3, 2, kernel_init=zeros, rngs=nnx.Rngs(0))


def loss_fn(params: Any, batch: jax.Array) -> jax.Array:
    return jnp.mean(batch @ params["kernel"] + params["bias"])


def test_an_optimizer_is_a_transformation_with_extra_arguments():
    adamp = assert_type(optax_adamp.adamp(1e-3), GradientTransformationExtraArgs)
    sgdp = assert_type(optax_adamp.sgdp(0.1), GradientTransformationExtraArgs)
    projection = assert_type(
        optax_adamp.scale_by_projection(), GradientTransformationExtraArgs
    )
    wrapped = assert_type(
        optax_adamp.with_gradient(optax.chain(optax.scale_by_lion(), projection)),
        GradientTransformationExtraArgs,
    )
    for tx in (adamp, sgdp, projection, wrapped):
        assert isinstance(tx, GradientTransformationExtraArgs)


def test_an_optimizer_goes_wherever_one_of_optax_does():
    tx = optax_adamp.adamp(1e-3, mask=lambda params: params)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), tx)
    averaged = optax.MultiSteps(clipped, 2).gradient_transformation()
    state = TrainState.create(apply_fn=loss_fn, params=PARAMS, tx=averaged)
    injected = optax.inject_hyperparams(optax_adamp.sgdp)(learning_rate=SCHEDULE)
    optimizer = nnx.Optimizer(Model(), injected, wrt=nnx.Param)
    assert assert_type(state.step, int | jax.Array) == 0
    assert optimizer.tx is injected


def test_init_and_update_are_typed_as_in_optax():
    tx = optax_adamp.sgdp(0.1)
    state = assert_type(tx.init(PARAMS), optax.OptState)
    updates, state = tx.update(PARAMS, state, PARAMS, loss=1.0)
    assert_type(state, optax.OptState)
    assert jax.tree.structure(
        assert_type(updates, optax.Updates)
    ) == jax.tree.structure(PARAMS)


def test_rates_and_decays_are_numbers_arrays_or_schedules():
    def schedule(count: Any) -> Any:
        return 0.1 / (1 + count)

    for value in (1, 0.1, jnp.asarray(0.1), schedule, SCHEDULE):
        for make in (optax.adamw, optax_adamp.adamp):
            tx = make(value, 0.9, 0.999, 1e-8, 0.0, None, value, None)
            assert isinstance(tx, GradientTransformationExtraArgs)
        optax_adamp.sgdp(value, 0.9, True, None, value)
        optax_adamp.scale_by_projection(0.1, jnp.asarray(0.1), 1e-8, value)


def test_specs_hold_axes_and_a_view():
    assert_type(SPEC.reduction_axis, Sequence[int] | int)
    assert_type(SPEC.output_axis, Sequence[int] | int)
    assert_type(SPEC.view, Literal["auto", "channel", "layer"])
    assert ProjectionDimensionNumbers([0, 1], (-1,), "layer").view == "layer"


def test_whatever_says_the_axes_is_taken_for_dimension_numbers():
    linen = assert_type(
        layouts.from_linen(nn.Dense(2), jnp.ones((1, 3)), overrides={"bias": None}),
        layouts.Layout,
    )
    of_nnx = assert_type(layouts.from_nnx(Model()), layouts.Layout)
    stacked = assert_type(layouts.stacked(layouts.output_first), layouts.Rule)
    rules = (layouts.output_first, layouts.output_last, stacked)
    assert isinstance(linen, layouts.Layout)
    assert isinstance(of_nnx, layouts.Layout)
    for rule in rules:
        assert isinstance(assert_type(rule, layouts.Rule), layouts.Rule)
    reading = layouts.output_last.read(("kernel",), (3, 2))
    assert isinstance(assert_type(reading.why, str), str)
    tree = {"kernel": SPEC, "bias": None}

    def function(params: Any) -> Any:
        return dict.fromkeys(params, SPEC)

    for dimension_numbers in (None, SPEC, tree, function, linen, *rules):
        optax_adamp.adamp(1e-3, dimension_numbers=dimension_numbers)
        optax_adamp.sgdp(0.1, dimension_numbers=dimension_numbers)
        optax_adamp.scale_by_projection(dimension_numbers=dimension_numbers)


def test_rows_of_a_description_have_types():
    table = optax_adamp.describe(PARAMS, {"kernel": SPEC, "bias": None})
    for row in (table[0], *table[1:], *table):
        assert isinstance(assert_type(row.path, str), str)
        assert isinstance(assert_type(row.shape, tuple[int, ...]), tuple)
        assert isinstance(assert_type(row.channels, int | None), int | None)
        assert isinstance(assert_type(row.view, str | None), str | None)
        assert isinstance(assert_type(row.warning, str), str)


def test_measurements_are_arrays():
    def check(params: Any) -> None:
        measured = optax_adamp.measure(params, params, updates=params)
        for path, leaf in measured.leaves.items():
            assert isinstance(assert_type(path, str), str)
            assert isinstance(assert_type(leaf.weight_norm, jax.Array), jax.Array)
            cosine = assert_type(leaf.channel_cosine, jax.Array | None)
            assert isinstance(cosine, jax.Array | None)
        scalars = assert_type(measured.scalars(), dict[str, jax.Array])
        for name, value in scalars.items():
            assert isinstance(name, str)
            assert isinstance(value, jax.Array)

    jax.eval_shape(check, PARAMS)  # Tracers are arrays, and nothing is compiled.


def test_a_detected_layout_is_a_layout_with_typed_evidence():
    batches = (jnp.full((2, 3), size) for size in (1.0, 2.0))
    detected = optax_adamp.detect_scale_invariance(
        loss_fn, PARAMS, batches, num_batches=2
    )
    layout: layouts.Layout = detected
    assert isinstance(layout, layouts.Layout)
    for row in detected.evidence:
        assert isinstance(assert_type(row.verdict, str), str)
        assert isinstance(assert_type(row.channel_passed, int | None), int | None)
        assert isinstance(assert_type(row.layer_cosine, float | None), float | None)


def wrong_arguments() -> None:
    """Never called. Each comment asserts an error: pyright reports one too many."""
    adamp, sgdp = optax_adamp.adamp, optax_adamp.sgdp
    adamp()  # pyright: ignore[reportCallIssue]
    adamp("1e-3")  # pyright: ignore[reportArgumentType]
    adamp(None)  # pyright: ignore[reportArgumentType]
    adamp(1e-3, b1="0.9")  # pyright: ignore[reportArgumentType]
    adamp(1e-3, eps=None)  # pyright: ignore[reportArgumentType]
    adamp(1e-3, weight_decay=None)  # pyright: ignore[reportArgumentType]
    adamp(1e-3, nesterov=0.9)  # pyright: ignore[reportArgumentType]
    adamp(1e-3, delta=(0.1,))  # pyright: ignore[reportArgumentType]
    adamp(1e-3, wd_ratio=SCHEDULE)  # pyright: ignore[reportArgumentType]
    adamp(1e-3, momentum=0.9)  # pyright: ignore[reportCallIssue]
    adamp(1e-3, 0.9, 0.999, 1e-8, 0.0, None, 0.0, None, True)  # pyright: ignore[reportCallIssue]
    sgdp(0.1, "0.9")  # pyright: ignore[reportArgumentType]
    sgdp(0.1, nesterov=None)  # pyright: ignore[reportArgumentType]
    sgdp(0.1, dampening=None)  # pyright: ignore[reportArgumentType]
    sgdp(0.1, b1=0.9)  # pyright: ignore[reportCallIssue]
    optax_adamp.scale_by_projection(SCHEDULE)  # pyright: ignore[reportArgumentType]
    optax_adamp.with_gradient(adamp)  # pyright: ignore[reportArgumentType]
    adamp(1e-3).update(PARAMS)  # pyright: ignore[reportCallIssue]

    ProjectionDimensionNumbers(0)  # pyright: ignore[reportCallIssue]
    ProjectionDimensionNumbers(0.5, 1)  # pyright: ignore[reportArgumentType]
    ProjectionDimensionNumbers("in", 1)  # pyright: ignore[reportArgumentType]
    ProjectionDimensionNumbers(0, None)  # pyright: ignore[reportArgumentType]
    ProjectionDimensionNumbers(0, 1, "rows")  # pyright: ignore[reportArgumentType]
    SPEC.view = "layer"  # pyright: ignore[reportAttributeAccessIssue]

    _ = layouts.from_flax  # pyright: ignore[reportAttributeAccessIssue]
    layouts.from_linen(Model())  # pyright: ignore[reportArgumentType]
    layouts.from_nnx(nn.Dense(2))  # pyright: ignore[reportArgumentType]
    layouts.from_nnx()  # pyright: ignore[reportCallIssue]
    layouts.from_nnx(Model(), overrides=["*"])  # pyright: ignore[reportArgumentType]
    layouts.stacked(SPEC, axis="layers")  # pyright: ignore[reportArgumentType]
    layouts.stacked(SPEC, where=0)  # pyright: ignore[reportArgumentType]
    layouts.output_first(PARAMS)  # pyright: ignore[reportCallIssue]

    optax_adamp.describe()  # pyright: ignore[reportCallIssue]
    optax_adamp.describe(PARAMS, delta=0.1)  # pyright: ignore[reportCallIssue]
    _ = optax_adamp.describe(PARAMS)[0].axis  # pyright: ignore[reportAttributeAccessIssue]
    optax_adamp.measure(PARAMS, PARAMS, PARAMS)  # pyright: ignore[reportCallIssue]
    _ = optax_adamp.measure(PARAMS, PARAMS).norm  # pyright: ignore[reportAttributeAccessIssue]
    detect = optax_adamp.detect_scale_invariance
    detect(PARAMS, loss_fn, [])  # pyright: ignore[reportArgumentType]
    detect(loss_fn, PARAMS, 8)  # pyright: ignore[reportArgumentType]
    detect(loss_fn, PARAMS, [], 8)  # pyright: ignore[reportCallIssue]
    detect(loss_fn, PARAMS, [], num_batches=0.5)  # pyright: ignore[reportArgumentType]
