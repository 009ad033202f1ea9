"""What holds for a step on any leaf, in float64."""

import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from drawn import (
    EPS,
    TOLERANCE,
    assert_equal_to_rounding,
    cases,
    few_layouts,
    scale_of,
)
from steps import step_case

VIEWS = st.sampled_from(["auto", "channel", "layer"])
# Outcomes in which something is projected.
PROJECTED = ("channel", "layer", "zero", "mixed")
POSITIVE_EPS = EPS.filter(bool)


def views_of(case, view):
    """The view of each batch element: what the reference finds, or the fixed one."""
    elements = len(case.layout.gather(case.weight))
    return case.expect()[1] if view == "auto" else [view] * elements


def inner(case, views, a, b):
    """Inner products of the vectors of each batch element's view."""
    channel = np.sum(case.layout.gather(a) * case.layout.gather(b), -1, keepdims=True)
    layer = np.sum(channel, -2, keepdims=True)
    return np.where(np.reshape(views, (-1, 1, 1)) == "layer", layer, channel)


def has_zero_vector(case):
    """Without eps a vector of zeros has no direction, and is not projected."""
    return not np.all(np.any(case.layout.gather(case.weight), -1))


def is_projected(case):
    """For each batch element whether it is: all of its decay is then taken off."""
    probe = case.change(weight_decay=1.0, wd_ratio=0.0)._replace(update=0 * case.update)
    assume(np.all(np.any(case.layout.gather(case.weight), (-2, -1))))
    return ~np.any(case.layout.gather(step_case(probe)), (-2, -1))


@given(cases())
def test_equals_reference(case):
    expected, _ = case.expect()
    assert_equal_to_rounding(step_case(case), expected, case)


@given(cases(outcomes=PROJECTED), VIEWS)
def test_a_projected_update_is_orthogonal_to_its_weight(case, view):
    """Up to eps, which spares 1 - (norm / (norm + eps))² of the radial part."""
    case = case.change(weight_decay=0.0)
    eps = case.hyperparameters["eps"]
    assume(view == "auto" or eps > 0 or not has_zero_vector(case))
    views = views_of(case, view)
    u, w, projected = case.update, case.weight, step_case(case, view=view)

    ww = inner(case, views, w, w)
    norm = np.sqrt(ww)
    spared = 1 - ww / np.where(norm + eps == 0, 1, norm + eps) ** 2
    spared = np.where(np.reshape(views, (-1, 1, 1)) == "none", 1, spared)
    uw = inner(case, views, u, w)
    bound = TOLERANCE * np.linalg.norm(u) * np.linalg.norm(w)
    np.testing.assert_allclose(
        inner(case, views, projected, w), spared * uw, rtol=0, atol=bound
    )


@given(cases(eps=st.just(0.0)), VIEWS)
def test_a_second_projection_changes_nothing(case, view):
    case = case.change(weight_decay=0.0)
    once = step_case(case, view=view)
    twice = step_case(case._replace(update=once), view=view)
    assert_equal_to_rounding(twice, once, case)


@given(cases(), VIEWS)
def test_the_step_lies_in_the_span_of_weight_and_update(case, view):
    """Each vector of the view moves by a multiple of its weight."""
    views = views_of(case, view)
    w, moved = case.weight, step_case(case, view=view) - case.update
    along = case.layout.gather(w) * inner(case, views, moved, w)
    ww = inner(case, views, w, w)
    error = case.layout.gather(moved) * ww - along
    assert np.abs(error).max() <= TOLERANCE * scale_of(case) * ww.max()


@given(cases(eps=POSITIVE_EPS))
def test_an_infinite_delta_is_the_fixed_channel_view(case):
    """With eps every cosine is finite here, those of zeros included."""
    fixed = step_case(case, view="channel")
    assert_equal_to_rounding(step_case(case, delta=np.inf), fixed, case)


@given(cases(), st.floats(0, 10), st.booleans())
def test_raising_delta_never_unprojects(case, rise, to_infinity):
    """No margin: where cosine and threshold are computed alike, order holds exactly."""
    delta = case.hyperparameters["delta"]
    raised = case.change(delta=np.inf if to_infinity else delta + rise)
    assert np.all(is_projected(case) <= is_projected(raised))


@given(cases(), st.floats(-60, 60))
def test_scaling_the_gradient_changes_no_decision(case, exponent):
    """Wherever eps bounds no norm of it, and its square stays in range."""
    case = case.change(eps=0.0)
    scaled = case._replace(grad=case.grad * 10.0**exponent)
    np.testing.assert_array_equal(step_case(case), step_case(scaled))


@given(cases(eps=POSITIVE_EPS), st.floats(0, 60))
def test_scaling_a_gradient_up_beside_eps_changes_no_decision(case, exponent):
    norms = np.linalg.norm(case.layout.gather(case.grad), axis=-1)
    assume(np.all((norms == 0) | (norms > case.hyperparameters["eps"])))
    scaled = case._replace(grad=case.grad * 10.0**exponent)
    np.testing.assert_array_equal(step_case(case), step_case(scaled))


@given(cases(eps=st.just(0.0)), st.integers(-30, 30))
def test_scaling_a_scale_invariant_weight(case, exponent):
    """A weight times c has a gradient over c; the same direction needs decay over c².

    Powers of two, for which all of this is exact.
    """
    c = 2.0**exponent
    u, g, w = case.arrays
    scaled = case._replace(update=u / c, grad=g / c, weight=w * c).change(
        weight_decay=case.hyperparameters["weight_decay"] / c**2
    )
    np.testing.assert_array_equal(step_case(scaled) * c, step_case(case))


@given(cases(eps=st.just(0.0)), st.floats(1e-3, 10) | st.floats(-10, -1e-3))
def test_scaling_an_update_scales_the_projection(case, factor):
    """The decision knows the gradient alone."""
    case = case.change(weight_decay=0.0)
    scaled = case._replace(update=case.update * factor)
    error = step_case(scaled) - factor * step_case(case)
    assert np.abs(error).max() <= TOLERANCE * scale_of(case) * abs(factor)


@given(cases(layouts=few_layouts), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_low_precision_rounds_once(case, dtype):
    """Against the reference on the same rounded numbers; sums are in float32."""
    scales = [max(np.abs(array).max(), 1e-30) for array in case.arrays]
    rounded = [
        np.asarray(np.asarray(array / scale, jnp.dtype(dtype)), np.float64)
        for array, scale in zip(case.arrays, scales, strict=True)
    ]
    case = case._replace(update=rounded[0], grad=rounded[1], weight=rounded[2])
    assume(case.is_clear(margin=1e-4))
    expected, _ = case.expect()
    actual = step_case(case, dtype=dtype)
    assert actual.dtype == jnp.dtype(dtype)
    bound = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        actual.astype(np.float64), expected, rtol=bound, atol=2e-5 * scale_of(case)
    )
