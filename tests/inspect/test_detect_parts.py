"""The parts of the detection, one at a time; see test_detect.py for the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from messages import only
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import detect_scale_invariance
from optax_adamp._axes import Axes
from optax_adamp._inspect import detect
from optax_adamp._inspect.evidence import Evidence
from optax_adamp._inspect.perturb import perturb, perturb_leaf
from optax_adamp._parameters import Parameter
from optax_adamp.layouts._dimension_numbers import Reason

AXES = Axes(reduction=(1,), output=(2,), view="auto")  # (batch, in, out)
WORDS = np.arange(4, dtype=np.uint32)


def leaf(array, axes=AXES, why="why", names=("w",)):
    return Parameter(names, array, {}, axes, lambda axes: axes, lambda: Reason(why))


def problem_of(loss_fn, leaves):
    """Of a loss that takes the leaves as a list."""
    params = [given.array for given in leaves]
    loss = detect._loss(
        loss_fn, params, [(given.names, given.array) for given in leaves]
    )
    trained = filter(detect._is_trained, leaves)
    return detect._problem(loss, [given.axes for given in trained])


@pytest.mark.parametrize(
    ("node", "axes", "why", "is_trained"),
    [
        (np.ones((2, 3), "f4"), AXES, "why", True),
        (np.ones((2, 0), "f4"), None, "empty", True),
        (np.ones((2, 3), "c8"), AXES, "why", True),
        (1.5, AXES, "why", True),
        (np.ones((2, 3), "i4"), None, "no gradient reaches arrays of int32", False),
        (True, None, "no gradient reaches arrays of bool", False),
    ],
)
def test_leaf(node, axes, why, is_trained):
    given = leaf(node)
    made = detect._testable(given)

    assert (made.names, made.axes, made.reason()) == (("w",), axes, Reason(why))
    assert detect._is_trained(made) == is_trained
    if is_trained:
        assert isinstance(made.array, jax.Array)
        np.testing.assert_array_equal(made.array, node)
    else:
        assert made.array is node


def test_absent_leaf():
    given = leaf(None, axes=None)
    assert detect._testable(given) is given
    assert not detect._is_trained(given)


def test_draw_zero_is_what_was_given():
    weights = [jnp.ones((2, 3, 4)), jnp.ones(3)]
    given = perturb(weights, [AXES, None], seed=3, draw=0)
    assert [a is b for a, b in zip(given, weights, strict=True)] == [True, True]


def test_draws_are_of_their_seed_number_and_leaf():
    def drawn(seed, draw):
        weights = [jnp.ones((2, 3, 4))] * 2
        moved = perturb(weights, [AXES] * 2, seed=seed, draw=draw)
        return [tuple(np.ravel(array)) for array in moved]

    draws = {
        (seed, draw, index): array
        for seed in range(2)
        for draw in range(1, 3)
        for index, array in enumerate(drawn(seed, draw))
    }
    assert len(set(draws.values())) == len(draws)
    assert drawn(1, 2) == [draws[1, 2, 0], draws[1, 2, 1]]


def test_perturbed_weights():
    """Half the variance of each channel is noise; what is not tested is scaled."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 2000, 3)).astype("f4") * [[[0.01, 0.1, 0.0]], [[0.0] * 3]]
    moved = np.asarray(perturb_leaf(w.astype("f4"), WORDS, axes=AXES))
    norms = np.linalg.norm(moved, axis=1)
    before = np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(norms[0, :2], before[0, :2], rtol=0.1)
    # A channel of zeros is as the mean one of its layer, with noise alone; in a layer
    # of zeros each number has the variance 1 / length.
    np.testing.assert_allclose(
        norms[0, 2], np.sqrt(np.mean(before[0] ** 2) / 2), rtol=0.1
    )
    np.testing.assert_allclose(norms[1], np.sqrt(0.5), rtol=0.1)
    for channel in range(2):
        cosine = np.vdot(moved[0, :, channel], w[0, :, channel]) / (
            norms[0, channel] * before[0, channel]
        )
        assert cosine == pytest.approx(np.sqrt(0.5), abs=0.05)

    free = rng.normal(size=2000).astype("f4")
    free[0] = 0
    scaled = np.asarray(perturb_leaf(free, WORDS, axes=None))
    factors = scaled[1:] / free[1:]
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5
    assert scaled[0] == 0
    zeros = np.asarray(perturb_leaf(0 * free, WORDS, axes=None))
    assert np.std(zeros) == pytest.approx(1, rel=0.1)


def test_noise_is_that_of_the_channel():
    """Not larger where a weight is."""
    w = np.tile([[0.1], [3.0]], (2, 1000, 3)).astype("f4")
    moved = np.asarray(perturb_leaf(w, WORDS, axes=AXES))
    noise = moved - np.sqrt(0.5) * w
    expected = np.sqrt(np.mean(w**2) / 2)
    for some in (noise[:, ::2], noise[:, 1::2]):
        np.testing.assert_allclose(some.std(axis=1), expected, rtol=0.1)


def test_perturbed_complex_weights():
    """Noise in both parts, of half the variance in all."""
    rng = np.random.default_rng(0)
    real, imaginary = rng.normal(size=(2, 1, 4000, 1))
    w = (real + 2j * imaginary).astype("c8")
    moved = np.asarray(perturb_leaf(w, WORDS, axes=AXES))
    noise = moved - np.sqrt(0.5) * w
    power = np.mean(np.abs(w) ** 2)
    for part in (noise.real, noise.imag):
        assert np.mean(part**2) == pytest.approx(power / 4, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float32", "complex64"])
@pytest.mark.parametrize("axes", [AXES, None])
def test_perturbed_weights_keep_their_dtype(dtype, axes):
    weight = jax.ShapeDtypeStruct((2, 3, 4), dtype)
    with jax.numpy_dtype_promotion("strict"):
        moved = jax.eval_shape(lambda w: perturb_leaf(w, WORDS, axes=axes), weight)
    assert (moved.dtype, moved.shape) == (dtype, (2, 3, 4))


def test_sums_of_one_batch():
    rng = np.random.default_rng(0)
    g, w = rng.normal(size=(2, 2, 3, 4)).astype("f4")
    sums_of = jax.jit(detect._sums, static_argnums=2)
    for actual, expected in zip(
        sums_of(g, w, AXES), (g * w, g * g, w * w), strict=True
    ):
        np.testing.assert_allclose(
            actual, expected.sum(1, keepdims=True), rtol=1e-5, atol=1e-6
        )
    assert detect._sums(g, w, None) is None
    low = jax.ShapeDtypeStruct(g.shape, "bfloat16")
    assert {array.dtype for array in jax.eval_shape(sums_of, low, low, AXES)} == {
        jnp.dtype("float32")
    }
    # The derivative of |z|^2 along z: JAX gives 2 * conj(z) as its gradient.
    z = g + 1j * w
    gw, *_ = sums_of(2 * np.conj(z), z, AXES)
    np.testing.assert_allclose(
        gw, 2 * np.sum(np.abs(z) ** 2, 1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize(("axes", "shape"), [(AXES, (2, 1, 4)), (None, (1, 1, 1))])
def test_shape_of_channels(axes, shape):
    assert detect._shape_of_channels(leaf(jnp.ones((2, 3, 4)), axes)) == shape


@pytest.mark.parametrize(
    ("along", "shape"), [((1,), (2, 1, 4)), ((1, 2), (2, 1, 1)), ((), (2, 3, 4))]
)
def test_shape_of_vectors(along, shape):
    assert detect._shape_of_vectors(np.ones((2, 3, 4)), along) == shape


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: jnp.ones(2), "an array of float32 with shape (2,)"),
        (lambda: jnp.int32(1), "an array of int32 with shape ()"),
        (lambda: jnp.complex64(1), "an array of complex64 with shape ()"),
        (1, "a int"),
        (1j, "a complex"),
        (None, "a NoneType"),
        ((1.0,), "a tuple"),
        (np.float32(1), "a float32"),
    ],
)
def test_losses_that_are_no_real_number(value, said):
    with pytest.raises(
        ValueError,
        match=only(
            f"loss_fn must return one real number, but returned {said}. "
            "Take the mean of losses, and leave out what else it returns."
        ),
    ):
        detect._check_scalar(value() if callable(value) else value)


def test_losses():
    for loss in (1.5, jnp.float32(1.5), jnp.bfloat16(1.5)):
        checked = detect._check_scalar(loss)
        assert isinstance(checked, jax.Array)
        assert checked == 1.5


def row(verdict, **more):
    along = {"channel": (1,), "layer": (1, 2), "group": (0, 1)}.get(verdict)
    return Evidence("w", (2, 3, 4), verdict, 8, 8, 0.5, 8, 8, 0.5, along, **more)


def test_layout_of_what_was_found():
    array = jnp.ones((2, 3, 4))
    leaves = [
        leaf(array, names=("a", "channel")),
        leaf(array, names=("a", "layer")),
        leaf(array, names=("a", "neither")),
        leaf(array, names=("a", "mixed")),
        leaf(array, axes=None, why="spec: None", names=("b",)),
        leaf(None, axes=None, names=("gone",)),
    ]
    rows = {
        ("a", "channel"): row("channel"),
        ("a", "layer"): row("layer"),
        ("a", "neither"): row("neither"),
        ("a", "mixed"): row("mixed", remark="why"),
        ("b",): row("not tested"),
    }

    layout = detect._layout(leaves, rows)

    assert layout == {
        "a": {
            "channel": Spec((1,), (2,), "channel"),
            "layer": Spec((1,), (2,), "layer"),
            "neither": None,
            "mixed": None,
        },
        "b": None,
    }
    assert layout["a"].reasons == {
        "channel": "detected: channel, 8 of 8 batches",
        "layer": "detected: layer, 8 of 8 batches",
        "neither": "detected: neither, 8 of 8 batches as a layer",
        "mixed": "detected: mixed: why",
    }
    assert layout.reasons == {"b": "spec: None"}
    assert isinstance(layout, detect.DetectedLayout)
    assert list(layout.evidence) == list(rows.values())
    assert str(layout.evidence).startswith("path")


def test_what_is_not_tested():
    for dtype, remark in (("f4", ""), ("i4", "why")):
        given = leaf(np.ones((2, 3), dtype), axes=None)
        assert detect._untested(given) == Evidence(
            "w", (2, 3), "not tested", remark=remark
        )


def test_verified_rows():
    """The loss, of its weights' norm alone, says no to one and nothing of others."""

    def loss(params, batch):
        first, _, third = params
        return batch * (jnp.sum(first**2) + jnp.sum(third))

    leaves = [
        leaf(jnp.full((1, 4, 2), 0.5)),
        leaf(jnp.ones((1, 4, 2)), names=("v",)),
        leaf(jnp.ones(3), axes=None, names=("u",)),
    ]
    problem = problem_of(loss, leaves)
    rows = {("w",): row("channel"), ("v",): row("layer"), ("u",): row("not tested")}
    weights = [given.array for given in leaves]

    verified = detect._verify(problem, (weights, 1.0), leaves, rows, delta=0.1, seed=0)

    changes = {given: verified[given].loss_change for given in rows}
    # Each channel of the first, whose squares add up to one, is doubled or halved:
    # 4 - 1 or 1/4 - 1, of a loss of 2 + 3.
    possible = {(a + b) / 5 for a in (3.0, -0.75) for b in (3.0, -0.75)}
    assert min(abs(changes["w",] - abs(change)) for change in possible) < 1e-6
    assert (changes["v",], changes["u",]) == (0.0, None)
    assert [verified[given].verdict for given in rows] == [
        "mixed",
        "layer",
        "not tested",
    ]
    assert rows["w",].verdict == "channel"


@pytest.mark.parametrize("view", ["channel", "layer"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_a_second_opinion_is_asked(view, sign, monkeypatch):
    """The change of the loss, and what of it the test and rounding allow."""
    asked = []

    def opinion(*arguments):
        asked.append(arguments)
        return arguments[0]

    def at_threshold(sums, delta):
        number = sums.ww.size
        np.testing.assert_allclose(sums.ww.ravel(), [2 / number] * number)
        return {2: 10.0, 1: 20.0}[number] * delta

    monkeypatch.setattr(detect, "second_opinion", opinion)
    monkeypatch.setattr(detect, "change_at_threshold", at_threshold)
    given = leaf(jnp.full((1, 4, 2), 0.5))
    low = leaf(jnp.ones(3, jnp.bfloat16), axes=None, names=("low",))
    problem = problem_of(
        lambda params, batch: sign * batch * jnp.sum(params[0] ** 2), [given, low]
    )
    rows = {("w",): row(view), ("low",): row("channel")}

    for seed in [*range(16), *range(16)]:
        at = ([given.array, low.array], 100.0)
        detect._verify(problem, at, [given, low], rows, delta=0.5, seed=seed)

    # The coarsest of the dtypes involved, four times.
    rounding = 4 * float(jnp.finfo(jnp.bfloat16).eps) * 200
    allowed = rounding + {"channel": 5.0, "layer": 10.0}[view]
    changes = [change for _, change, *_ in asked]
    assert changes[:16] == changes[16:]
    assert [opinion[2:] for opinion in asked] == [(pytest.approx(allowed), 200.0)] * 32
    assert {opinion[0] for opinion in asked} == {row(view)}
    # Each of two channels, or both at once, is doubled or halved.
    steps = (300.0, -75.0)
    both = {abs(2 * a) for a in steps}
    each = {abs(a + b) for a in steps for b in steps}
    assert {*changes} == (each if view == "channel" else both)


def test_verified_without_a_parameter_that_was_found():
    given = leaf(jnp.ones((1, 4, 2)))
    problem = problem_of(lambda params, batch: jnp.sum(params[0]), [given])
    rows = {("w",): row("neither")}
    at = ([given.array], 1.0)
    assert detect._verify(problem, at, [given], rows, delta=0.1, seed=0) == rows


class Twins:
    """Its two children have one name."""

    def __init__(self, *twins):
        self.twins = twins


jax.tree_util.register_pytree_with_keys(
    Twins,
    lambda node: (
        [
            (jax.tree_util.GetAttrKey("twin"), node.twins[0]),
            (jax.tree_util.DictKey("twin"), node.twins[1]),
        ],
        None,
    ),
    lambda _, children: Twins(*children),
)


class Box:
    def __init__(self, value):
        self.value = value


jax.tree_util.register_pytree_with_keys(
    Box,
    lambda box: ([(jax.tree_util.GetAttrKey("value"), box.value)], None),
    lambda _, children: Box(*children),
)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
            "detect_scale_invariance needs the params, but got a model, Linear. Pass "
            "nnx.state(model, nnx.Param).",
        ),
        (
            {"a": "text"},
            "params has no array at a, but a str. Keep arrays only; for Equinox, "
            "eqx.filter(model, eqx.is_inexact_array).",
        ),
        (
            {"a": jax.ShapeDtypeStruct((2, 3), np.float32)},
            "detect_scale_invariance needs numbers, but a has only a shape, (2, 3). "
            "Initialize the model.",
        ),
        (
            Box(1.0),
            "detect_scale_invariance needs a path of its own for each parameter, but "
            "got a lone array. Put them into a dict.",
        ),
        (
            {"b": {"0": 1.0, "c": 1.0}, "a": [1.0, Twins(1.0, 2.0)]},
            "detect_scale_invariance needs a path of its own for each parameter, but "
            "got 2 at a/1/twin. Put them into a dict.",
        ),
    ],
)
def test_params_that_cannot_be_tested(params, message):
    with pytest.raises(ValueError, match=only(message)):
        detect._named_arrays(params)


def test_numbers_out_of_range():
    detect._check_numbers(1, 1e-9, 0.0)
    for numbers, said in (
        ((0, 0.1, 0.0), "num_batches must be at least 1, but got 0."),
        ((1, 0.0, 0.0), "delta must be positive, but got 0.0."),
        ((1, 0.1, -1e-9), "eps must not be negative, but got -1e-09."),
        ((1, float("nan"), 0.0), "delta must be positive, but got nan."),
        ((1, 0.1, float("nan")), "eps must not be negative, but got nan."),
    ):
        with pytest.raises(ValueError, match=only(said)):
            detect._check_numbers(*numbers)


def test_constants_reach_the_loss():
    """Integers among the params are what they were, for gradients and losses alike."""
    leaves = [
        leaf(jnp.ones((1, 3, 2))),
        leaf(np.array([2, 3]), axes=None, names=("n",)),
    ]
    # Constants: a tracer could not give an index.
    problem = problem_of(
        lambda params, batch: batch * jnp.sum(params[0]) * int(params[1][1]), leaves
    )
    ((gw, gg, ww),) = problem.gradient_sums([leaves[0].array], 2.0)
    for actual, expected in ((gw, 18.0), (gg, 108.0), (ww, 3.0)):
        np.testing.assert_allclose(actual, np.full((1, 1, 2), expected))
    factors = [jnp.full((1, 1, 2), 0.5)]
    assert problem.scaled_loss([leaves[0].array], 2.0, factors) == 18.0


def test_a_layout_has_a_table():
    assert str(detect.DetectedLayout().evidence) == ""


def test_each_batch_is_taken_once():
    seen = []

    def loss(params, batch):
        return jnp.sum(params["w"]) * batch

    def batches():
        for number in range(20):
            seen.append(number)
            yield float(number)

    detect_scale_invariance(loss, {"w": jnp.ones((2, 3))}, batches(), num_batches=3)
    assert seen == [0, 1, 2]
