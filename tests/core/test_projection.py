"""The leaf function against a float64 transcription of the algorithm."""

import jax.numpy as jnp
import numpy as np
import pytest

import reference
from optax_adamp._axes import Axes
from optax_adamp._projection import project
from precision import float64

HYPERPARAMETERS = {"delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8}
DECAY = 0.3

# shape, reduction axes, output axes; what is left are batch axes.
LAYOUTS = {
    "dense": ((6, 4), (0,), (1,)),
    "convolution": ((3, 2, 5, 4), (0, 1, 2), (3,)),
    "attention query": ((5, 2, 3), (0,), (1, 2)),
    "output between": ((3, 4, 2), (0, 2), (1,)),
    "stacked in the middle": ((6, 3, 4), (0,), (2,)),
    "experts of layers": ((2, 3, 6, 4), (2,), (3,)),
    "one channel": ((6,), (0,), ()),
    "one weight a channel": ((1, 4), (0,), (1,)),
}


def draw(rng, shape, reduction, output, outcome):
    """A weight, a gradient that leads to the outcome, and an update."""
    w, u = rng.normal(size=(2, *shape))
    g = rng.normal(size=shape)
    both = (*reduction, *output)

    def remove_radial(g, axes):
        return g - w * np.sum(g * w, axes, keepdims=True) / np.sum(
            w * w, axes, keepdims=True
        )

    if outcome == "channel":
        g = remove_radial(g, reduction)
    elif outcome == "layer":
        g = remove_radial(g + 3 * w * rng.normal(size=shape), both)
    elif outcome == "none":
        g = remove_radial(g, reduction) - w
    elif outcome == "zero":
        g = np.zeros(shape)
    return u, g, w


def expected_step(u, g, w, reduction, output):
    """The reference, with the views that the batch elements took."""
    return reference.decayed_projection(
        u, g, w, reduction, output, weight_decay=DECAY, **HYPERPARAMETERS
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_reference(layout):
    shape, reduction, output = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    seen = set()
    with float64():
        for outcome in ("channel", "layer", "none", "zero", "chance") * 4:
            arrays = draw(rng, shape, reduction, output, outcome)
            ours = project(
                *arrays,
                Axes(reduction, output, "auto"),
                weight_decay=DECAY,
                **HYPERPARAMETERS,
            )
            expected, views = expected_step(*arrays, reduction, output)
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
            seen.update(views)
    # One channel is the layer, and every vector of one weight is parallel to its
    # gradient unless that is zero.
    reachable = {"channel", "none"} | (set() if layout == "one channel" else {"layer"})
    assert seen == reachable


def project_channels(u, g, w, view="auto", **changes):
    """Projects kernels (in, out) as the optimizers do by default."""
    arguments = {**HYPERPARAMETERS, "weight_decay": DECAY, **changes}
    return project(u, g, w, Axes((0,), (1,), view), **arguments)


@pytest.mark.parametrize(
    ("view", "outcome"), [("channel", "none"), ("layer", "channel"), ("layer", "none")]
)
def test_fixed_view_needs_no_test(view, outcome):
    arrays = draw(np.random.default_rng(0), (6, 4), (0,), (1,), outcome)
    u, g, w = (array.astype(np.float32) for array in arrays)
    ours = project_channels(u, g, w, view)
    axis = 0 if view == "channel" else None
    radial = np.sum(u * w, axis, keepdims=True) / np.sum(w * w, axis, keepdims=True)
    expected = u - radial * w + DECAY * HYPERPARAMETERS["wd_ratio"] * w
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.complex64, 1e-4), (np.complex128, 1e-12)]
)
@pytest.mark.parametrize("outcome", ["channel", "layer", "none"])
def test_complex_weights_are_vectors_of_the_plane(outcome, dtype, rtol):
    rng = np.random.default_rng(0)
    # A last axis of two for the real and the imaginary part, reduced like the input.
    as_real = draw(rng, (6, 4, 2), (0, 2), (1,), outcome)
    as_complex = [(x[..., 0] + 1j * x[..., 1]).astype(dtype) for x in as_real]
    with float64():
        ours = np.asarray(project_channels(*as_complex))
    expected, views = expected_step(*as_real, (0, 2), (1,))
    assert views == [outcome]
    assert ours.dtype == dtype
    for part, of_expected in ((ours.real, 0), (ours.imag, 1)):
        np.testing.assert_allclose(
            part, expected[..., of_expected], rtol=rtol, atol=rtol / 100
        )


def test_complex_numbers_count_twice_in_the_threshold():
    """A cosine between delta / sqrt(2 n) and delta / sqrt(n) does not pass."""
    u = np.array([[1.0 + 2j], [3.0 - 1j], [2j]], "c8")
    w = np.array([[3.0], [4j], [0.0]], "c8")
    g = np.array([[0.085 * 3], [0.085 * 4j], [5 * (1 - 0.085**2) ** 0.5]], "c8")
    for delta, passes in ((0.2, False), (0.22, True)):  # sqrt(6) 0.085 = 0.208
        ours = project_channels(u, g, w, delta=delta, weight_decay=0.0)
        radial = (3 * 1 + 4 * -1) / 25  # The second entry of u has -1 along 4j.
        np.testing.assert_allclose(ours, u - radial * w if passes else u, rtol=1e-6)


def test_one_channel_that_fails_is_enough():
    """Nineteen orthogonal channels and a parallel one: the channel view is rejected."""
    u, g, w = draw(np.random.default_rng(0), (6, 20), (0,), (1,), "channel")
    g[:, 7] = 1e-3 * w[:, 7]  # Small, so that the layer still looks scale-invariant.
    with float64():
        ours = project_channels(u, g, w)
        expected, views = expected_step(u, g, w, (0,), (1,))
        assert views == ["layer"]
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("g_norm", "w_norm", "cosine"), [(0.2, 10, 0.2), (10, 0.2, 0.2), (0.2, 0.2, 0.04)]
)
def test_eps_bounds_each_norm_by_itself(g_norm, w_norm, cosine):
    """The cosine of parallel vectors, whose smaller norms count as one."""
    direction, u = np.float32([[0.6], [0.8]]), np.float32([[1], [2]])
    g, w = g_norm * direction, w_norm * direction
    projected = u - np.sum(u * w) / (w_norm + 1) ** 2 * w
    for threshold, expected in ((0.9 * cosine, u), (1.1 * cosine, projected)):
        ours = project_channels(
            u, g, w, delta=threshold * 2**0.5, eps=1.0, weight_decay=0.0
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_the_threshold_itself_does_not_pass():
    zeros, w = np.zeros((2, 1), "f4"), np.float32([[3], [4]])
    ours = project_channels(w, zeros, w, delta=0.0, weight_decay=0.0)
    np.testing.assert_array_equal(ours, w)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_are_taken_in_float32(dtype):
    """The decision and the step are those of the same numbers in float64."""
    rng = np.random.default_rng(0)
    for outcome in ("channel", "layer", "none") * 3:
        arrays = draw(rng, (512, 3), (0,), (1,), outcome)
        u, g, w = (array.astype(jnp.dtype(dtype)) for array in arrays)
        ours = project_channels(u, g, w, delta=0.5)
        assert ours.dtype == jnp.dtype(dtype)
        expected, ratio, view = reference.projection(
            *(np.asarray(array, np.float64) for array in (u, g, w)),
            (0,),
            (1,),
            **{**HYPERPARAMETERS, "delta": 0.5},
        )
        assert view == outcome
        expected += DECAY * ratio * np.asarray(w, np.float64)
        # One rounding, at the end.
        bound = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), expected, rtol=bound, atol=1e-6
        )


@pytest.mark.parametrize("widest", ["update", "grad", "weight"])
def test_arithmetic_has_the_widest_dtype(widest):
    """The step is that of float64 up to its last rounding, to the update's dtype."""
    with float64():
        arrays = {
            name: array.astype("float64" if name == widest else "float32")
            for name, array in zip(
                ("update", "grad", "weight"),
                draw(np.random.default_rng(0), (512, 3), (0,), (1,), "channel"),
                strict=True,
            )
        }
        if widest == "grad":
            arrays["grad"] *= 1e100  # In float32 its norm could not be known.
        dtype = arrays["update"].dtype
        u, g, w = (np.asarray(array, np.float64) for array in arrays.values())
        ours = project_channels(*arrays.values(), delta=1.0)
    expected, views = reference.decayed_projection(
        u, g, w, (0,), (1,), weight_decay=DECAY, **{**HYPERPARAMETERS, "delta": 1.0}
    )
    assert views == ["channel"]
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, expected.astype(dtype), rtol=1e-12, atol=1e-300)


def test_vector_without_a_radial_part_decays_in_full():
    """Its norm underflows, and with eps zero there is nothing to divide by."""
    u, w = np.full((2, 3), 1e-25, "f4"), np.full((2, 3), 2e-25, "f4")
    ours = project_channels(u, u, w, "channel", eps=0.0)
    np.testing.assert_allclose(ours, u + DECAY * w, rtol=1e-6)
