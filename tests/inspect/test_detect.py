"""Each weight of a loss made of known terms is judged as its term says."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_adamp import (
    ProjectionDimensionNumbers,
    detect_scale_invariance,
    sgdp,
)
from optax_adamp._inspect import evidence
from optax_adamp._inspect.grouping import BatchSums

INPUTS, CHANNELS, BATCH = 6, 8, 32
KERNEL = ProjectionDimensionNumbers(-2, -1)
UNTESTED = evidence.Evidence("w", (2, 3), "not tested")


def normal(seed, *shape):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("f4")


def by_channel(x, w):
    """As before a batch normalization."""
    return jax.nn.standardize(x @ w, axis=0)


def as_layer(x, w):
    """As before a layer normalization."""
    return jax.nn.standardize(x @ w, axis=-1)


def linear(x, w):
    return x @ w


def stack(*layers):
    def outputs(x, w):
        return jnp.stack([layer(x, w[i]) for i, layer in enumerate(layers)])

    return outputs


# What becomes of each kernel, the view that must be found, and what the remark says.
# What else the sums of a gradient can tell is for test_evidence.py.
TERMS = {
    "channel": (by_channel, "channel", ""),
    "layer": (as_layer, "layer", ""),
    "neither": (linear, "neither", ""),
    "zeros": (as_layer, "layer", "its weights are all zero"),
    "tiny": (by_channel, "neither", ""),
    "stacked": (
        stack(by_channel, as_layer),
        "layer",
        "batch elements differ: [0] channel; [1] layer",
    ),
}
BIASED = "the layer view passes by far at the given weights, but only in"


def initial_params():
    params = {name: normal(i, INPUTS, CHANNELS) for i, name in enumerate(TERMS)}
    params["stacked"] = normal(19, 2, INPUTS, CHANNELS)
    # The square of these is as small as a norm's eps.
    params["tiny"] *= 1e-3
    params["zeros"] *= 0
    return {
        "terms": params,
        "biased": {"kernel": normal(20, INPUTS, CHANNELS), "bias": np.zeros(8, "f4")},
        "spoiled": normal(23, INPUTS, CHANNELS),
        "complex": normal(24, INPUTS, CHANNELS) + 1j * normal(25, INPUTS, CHANNELS),
        "count": np.arange(4, dtype="i4"),
        "empty": np.zeros((0, 3), "f4"),
        "absent": None,
    }


def batches():
    for k in range(8):
        yield {"x": normal(100 + k, BATCH, INPUTS), "spoil": np.nan if k == 6 else 1.0}


def distance(outputs):
    """Some loss that depends on every output in a way of its own."""
    return jnp.mean(jnp.square(outputs - normal(99, *outputs.shape)))


def loss_fn(params, batch):
    x = batch["x"]
    total = sum(distance(TERMS[name][0](x, w)) for name, w in params["terms"].items())
    pre_norm = x @ params["biased"]["kernel"] + params["biased"]["bias"]
    total += distance(jax.nn.standardize(pre_norm))
    total += batch["spoil"] * distance(linear(x, params["spoiled"]))
    z = params["complex"]
    unit = z / jnp.sqrt(jnp.sum(jnp.abs(z) ** 2, axis=0))
    return total + distance(jnp.real(x @ unit))


def specs():
    """Stacked kernels have an axis in front."""
    return {**dict.fromkeys(initial_params(), KERNEL), "count": None, "empty": KERNEL}


@pytest.fixture(scope="module")
def found():
    return detect_scale_invariance(
        loss_fn, initial_params(), batches(), dimension_numbers=specs(), verify=True
    )


EXPECTED = {
    **{
        f"terms/{name}": (verdict, remark)
        for name, (_, verdict, remark) in TERMS.items()
    },
    "biased/kernel": ("mixed", BIASED),
    "biased/bias": ("not tested", ""),
    "spoiled": ("mixed", "the gradient is not finite in 1 batch"),
    "complex": ("channel", ""),
    "count": ("not tested", "no gradient reaches arrays of int32"),
    "empty": ("not tested", ""),
}


@pytest.mark.parametrize("path", EXPECTED)
def test_verdict(found, path):
    verdict, remark = EXPECTED[path]
    row = next(row for row in found.evidence if row.path == path)
    assert row.verdict == verdict, row
    assert row.remark.startswith(remark), row
    assert bool(row.remark) == bool(remark), row
    assert (row.remark in str(found.evidence)) or not remark


def test_every_parameter_has_a_row_and_a_spec(found):
    assert {row.path for row in found.evidence} == EXPECTED.keys()
    for path, (verdict, _) in EXPECTED.items():
        *above, name = path.split("/")
        node = found
        for key in above:
            node = node[key]
        if verdict in ("channel", "layer"):
            stacked = name == "stacked"
            expected = ((1,), (2,), verdict) if stacked else ((0,), (1,), verdict)
            assert node[name] == ProjectionDimensionNumbers(*expected)
            assert node.reasons[name].startswith(f"detected: {verdict}, ")
        else:
            assert node[name] is None
    assert found["terms"].reasons["layer"] == "detected: layer, 8 of 8 batches"


def test_scaling_confirms_what_was_found(found):
    for row in found.evidence:
        assert (row.loss_change is not None) == (row.verdict in ("channel", "layer"))
        if row.loss_change is not None:
            assert row.loss_change < 1e-4, row


def by(*axes):
    """As before a normalization over axes of the output (examples, heads, size)."""

    def outputs(x, w):
        return jax.nn.standardize(jnp.einsum("be,ehd->bhd", x, w), axis=axes)

    return outputs


HEADS = ProjectionDimensionNumbers((0, 2), (1,), view="channel")
POSITIONS = ProjectionDimensionNumbers((0, 1), (2,), view="channel")
PUBLISHED = ProjectionDimensionNumbers((0,), (1, 2))
STACKED_HEADS = ProjectionDimensionNumbers((1, 3), (2,), view="channel")

# What becomes of each kernel (features, heads, size), and the spec that must be found.
GROUPS = {
    "head": (by(2), HEADS),
    "position": (by(1), POSITIONS),
    "layer": (by(1, 2), PUBLISHED._replace(view="layer")),
    "some": (stack(by(2), by(0)), STACKED_HEADS),
}


def loss_of_groups(params, batch):
    return sum(distance(GROUPS[name][0](batch, w)) for name, w in params.items())


@pytest.fixture(scope="module")
def groups_found():
    params = {
        name: normal(i, *((2,) if name == "some" else ()), INPUTS, 3, 4)
        for i, name in enumerate(GROUPS, 1)
    }
    layout = dict.fromkeys(GROUPS, PUBLISHED)
    layout["some"] = ProjectionDimensionNumbers(1, (2, 3))
    return detect_scale_invariance(
        loss_of_groups,
        params,
        small_batches(),
        dimension_numbers=layout,
        verify=True,
    )


@pytest.mark.parametrize("name", GROUPS)
def test_the_finest_vectors(groups_found, name):
    assert groups_found[name] == GROUPS[name][1], groups_found.evidence
    (row,) = (row for row in groups_found.evidence if row.path == name)
    is_group = name != "layer"
    assert (row.verdict == "group") == is_group
    assert (row.group == "8 of 8") == is_group
    if row.along is not None:
        # Scaled vector by vector: else the loss would change by more.
        assert row.loss_change < 1e-5


def small_loss(params, batch):
    return distance(by_channel(batch, params["first"])) + distance(
        as_layer(batch, params["second"]) @ params["head"]
    )


def small_params():
    return {
        "first": normal(0, 6, 8),
        "second": normal(1, 6, 8),
        "head": normal(2, 8, 3),
    }


def small_batches(count=8):
    return (normal(k, BATCH, INPUTS) for k in range(count))


def detect_small(**arguments):
    return detect_scale_invariance(
        small_loss, small_params(), small_batches(), **arguments
    )


def test_steps_are_those_of_the_specs_written_out():
    found = detect_small()
    written = {
        "first": KERNEL._replace(view="channel"),
        "second": KERNEL._replace(view="layer"),
        "head": None,
    }
    params = small_params()
    # A gradient along the weights: whoever tests it projects nothing.
    grads = jax.tree.map(lambda w: w + w**2 / 10, params)

    def step(specs, wrap=lambda factory: factory):
        tx = wrap(sgdp)(0.1, weight_decay=0.1, dimension_numbers=specs)
        return tx.update(grads, tx.init(params), params)[0]

    expected = step(written)
    chex.assert_trees_all_close(step(found), expected, rtol=1e-4)
    chex.assert_trees_all_close(
        step(found, optax.inject_hyperparams), expected, rtol=1e-4
    )
    chex.assert_trees_all_close(
        step(jax.tree.map(lambda axis: axis, found)), expected, rtol=1e-4
    )
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(step(None), expected, rtol=1e-2)


def test_the_seed_decides_where_weights_are_perturbed():
    def loss(params, batch):
        return distance(as_layer(batch, params["w"]))

    # One trace a detection, for all of its batches
    counted = chex.assert_max_traces(loss, n=3)
    one, again, other = (
        detect_scale_invariance(
            counted, {"w": normal(0, 6, 8)}, small_batches(), seed=seed
        ).evidence.rows
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert [row.verdict for row in one] == [row.verdict for row in other] == ["layer"]


def test_as_many_programs_for_many_shapes_as_for_one(caplog):
    """Perturbation, gradients with their sums, and the loss for a second opinion."""

    def loss(params, batch):
        outputs = [by_channel(batch[:, : len(w)], w) for w in params.values()]
        return sum(jnp.sum(jnp.sin(x)) for x in outputs)

    rng = np.random.default_rng(0)
    sizes = [(3, 2), (3, 4), (4, 2)]
    params = {str(size): rng.normal(size=size).astype("f4") for size in sizes}
    params = jax.device_put(params)
    caplog.clear()
    with jax.log_compiles():
        detect_scale_invariance(
            loss, params, [rng.normal(size=(9, 6)).astype("f4")] * 8, verify=True
        )
    compiled = [
        line for line in caplog.messages if line.startswith("Finished XLA compilation")
    ]
    assert len(compiled) == 3, compiled


def test_one_batch_is_taken_at_the_given_weights():
    weight, gradient = normal(0, 6, 8), normal(1, 6, 8)
    found = detect_scale_invariance(
        lambda params, batch: jnp.sum(params["w"] * batch),
        {"w": weight},
        [gradient],
        num_batches=1,
        delta=0.2,
        dimension_numbers=KERNEL,
    )

    def cosine(g, w):
        return abs(np.sum(g * w)) / np.linalg.norm(g) / np.linalg.norm(w)

    (row,) = found.evidence
    channels = max(map(cosine, gradient.T, weight.T))
    np.testing.assert_allclose(row.channel_cosine, channels * 6**0.5 / 0.2, rtol=1e-5)
    layer = cosine(gradient, weight) * 48**0.5 / 0.2
    np.testing.assert_allclose(row.layer_cosine, layer, rtol=1e-5)


def curved(params, batch):
    """Its gradient at a weight is nearly the same for every batch."""
    return sum(
        jnp.sum(jnp.tanh(w * (common + 0.1 * normal(3, *w.shape) * batch)))
        for w, common in zip(params.values(), constants(params), strict=True)
    )


def constants(params):
    return [normal(50 + i, *w.shape) for i, w in enumerate(params.values())]


def straight(params, batch):
    """Its gradient is the same for every batch and at every weight."""
    terms = zip(params.values(), constants(params), strict=True)
    return sum(jnp.sum(w * g) for w, g in terms) + 0 * batch


@pytest.mark.parametrize(
    ("loss", "elements"),
    [
        (straight, 500),
        pytest.param(straight, 2000, marks=pytest.mark.nightly),
        pytest.param(curved, 2000, marks=pytest.mark.nightly),
    ],
)
def test_what_is_not_scale_invariant_is_not_found_by_chance(loss, elements):
    # Each batch element is a weight of its own. The promise, one in 10,000, makes 0.8
    # false ones of 8,000; tested at the given weights alone, hundreds would pass.
    shapes = ((2, 3), (16, 4), (7, 1), (3, 2, 2, 2))
    params = {str(i): normal(i, elements, *shape) for i, shape in enumerate(shapes)}
    layout = dict.fromkeys(params, KERNEL)
    layout["3"] = ProjectionDimensionNumbers(1, (2, 3, 4))
    found = detect_scale_invariance(
        loss, params, np.arange(8.0), dimension_numbers=layout
    )
    for row in found.evidence:
        assert not re.search(r"\] (channel|group|layer)", row.remark), row
        assert "penalty" not in row.remark
        assert row.along is None


def test_layers_are_not_cut_by_chance():
    """Halves of a layer without a radial part have opposite ones, and pass together.

    So a finer grouping passes with the chance of a single vector, and there are six.
    """
    rng = np.random.default_rng(0)
    g, w = rng.normal(size=(2, 8, 4000, 2, 2, 2, 3))
    inner = np.sum(g * w, axis=(2, 3, 4, 5), keepdims=True)
    g -= w * inner / np.sum(w**2, axis=(2, 3, 4, 5), keepdims=True)
    g[5:] = 0
    gw, gg, ww = (np.sum(x, axis=-1) for x in (g * w, g**2, w**2))
    sums = BatchSums(gw, gg, ww, 3, (4000,), along=(1,), by=(2, 3, 4))
    finding = evidence.weigh(UNTESTED, sums, delta=0.1, eps=1e-8)
    assert (finding.verdict, finding.along) == ("layer", (1, 2, 3, 4))
    assert finding.remark == "no gradient in 3 batches"


def sums_with(ratios, delta=0.1):
    """One channel of 25 numbers, with cosines of so many thresholds in the batches.

    None is a gradient of zeros. The signs alternate, unlike those under a penalty.
    """
    gg = np.array([ratio is not None for ratio in ratios], float)
    signs = (-1) ** np.arange(len(ratios))
    gw = signs * np.array([ratio or 0 for ratio in ratios], float) * delta / 5
    shape = (len(ratios), 1, 1)
    gw, gg = gw.reshape(shape), gg.reshape(shape)
    return BatchSums(gw, gg, np.ones(shape), 25, (), along=(0,), by=(1,))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.9] * 8, "channel"),
        ([-0.9] * 8, "channel"),
        ([-1.1] * 8, "neither"),
        ([0.9] * 3 + [None] * 3, "unknown"),
        ([0.9] * 7 + [1.1], "mixed"),
        ([0.9] * 5 + [1.1] * 3, "mixed"),
        # Chance explains four of eight with a probability of 0.2 %, above the limit.
        ([0.9] * 4 + [1.1] * 4, "neither"),
        ([1e-4] + [1.1] * 7, "mixed"),
        ([1.1] + [1e-4] + [1.1] * 6, "neither"),
        ([0.9] * 4 + [None] * 4, "channel"),
        ([0.9] * 3 + [None] * 5, "unknown"),
        ([0.9] * 7 + [np.nan], "mixed"),
        ([0.9] * 7 + [np.inf], "mixed"),
        ([0.9], "channel"),
        ([None], "unknown"),
        ([0.9] * 6 + [None] * 6, "channel"),
        ([0.9] * 5 + [None] * 7, "unknown"),
    ],
)
def test_rule(ratios, verdict):
    assert (
        evidence.weigh(UNTESTED, sums_with(ratios), delta=0.1, eps=1e-8).verdict
        == verdict
    )


def test_scaling_can_contradict_the_gradients():
    """The loss holds more than its gradients tell."""

    def hidden(params, batch):
        seen = distance(as_layer(batch, params["w"])) + distance(
            by(2)(batch, params["grouped"])
        )
        squares = sum(jnp.sum(w**2) for w in params.values())
        return seen + jax.lax.stop_gradient(squares)

    params = {"grouped": normal(1, INPUTS, 3, 4), "w": normal(0, 6, 8)}
    layout = {"grouped": PUBLISHED, "w": KERNEL}
    found = detect_scale_invariance(
        hidden, params, small_batches(), dimension_numbers=layout, verify=True
    )
    assert found == {"grouped": None, "w": None}
    views = {"grouped": "group (0, 2)", "w": "layer"}
    for row in found.evidence:
        assert row.verdict == "mixed"
        said = f"the {views[row.path]} view passes in all batches, but scaling"
        assert row.remark.startswith(said)


def test_the_second_opinion_is_asked_at_perturbed_weights():
    """At those given, a bias of zeros hides that the kernel is not scale-invariant."""

    def loss(params, batch):
        kernel, bias = params["kernel"], params["bias"]
        # Gradients do not see the bias; the loss does.
        constant = jax.lax.stop_gradient(kernel)
        seen = distance(as_layer(batch, kernel)) - distance(as_layer(batch, constant))
        shifted = jax.nn.standardize(batch @ constant + jax.lax.stop_gradient(bias))
        return seen + 100 * distance(shifted)

    params = {"kernel": normal(4, INPUTS, CHANNELS), "bias": np.zeros(CHANNELS)}
    found = detect_scale_invariance(loss, params, small_batches(), verify=True)
    row = next(row for row in found.evidence if row.path == "kernel")
    assert row.layer_passed == 8
    assert row.verdict == "mixed"
    assert row.loss_change > 1e-3


def penalized(params, batch):
    penalty = sum(jnp.sum(w**2) for w in params.values())
    return small_loss(params, batch) + 0.5 * 1e-2 * penalty


def test_a_penalty_in_the_loss():
    found = detect_scale_invariance(penalized, small_params(), small_batches())
    remarks = {row.path: row.remark for row in found.evidence}
    said = (
        "the loss holds an L2 penalty, in all batches <g, w> is 0.01 <w, w>: leave it "
        "out and use weight_decay, then the verdict is "
    )
    assert remarks == {"first": f"{said}channel", "second": f"{said}layer", "head": ""}
    assert dict(found) == dict.fromkeys(("first", "second", "head"))


def test_strict_types():
    """BatchSums are in single precision, whatever the weights are in."""
    dtypes = {"first": "bfloat16", "second": "float8_e4m3fn", "head": "float16"}
    params = {
        **{k: w.astype(dtypes[k]) for k, w in small_params().items()},
        "temperature": np.ones((), "bfloat16"),
        "z": normal(3, 6, 8) + 1j * normal(4, 6, 8),
    }

    def loss(params, batch):
        real = {k: params[k].astype("f4") for k in dtypes}
        warm = batch * params["temperature"].astype("f4")
        z = params["z"]
        unit = z / jnp.sqrt(jnp.sum(jnp.square(jnp.abs(z)), axis=0)).astype(z.dtype)
        turned = jnp.real(batch.astype(z.dtype) @ unit)
        return small_loss(real, warm) + distance(turned)

    with jax.numpy_dtype_promotion("strict"):
        found = detect_scale_invariance(loss, params, small_batches(), verify=True)
    verdicts = {row.path: row.verdict for row in found.evidence}
    assert verdicts["first"] == "channel"
    assert verdicts["head"] == "neither"
    # A float8 gradient has 3 bits: what is orthogonal to the weight is not, rounded.
    assert verdicts["second"] != "channel"
    assert verdicts["z"] == "channel"


def test_parts_of_arrays_are_refused():
    """Norms of a part would be taken for those of the whole."""
    whole = small_params()
    batches = list(small_batches())

    def of_parts(params):
        return detect_scale_invariance(small_loss, params, batches)

    def of_whole(_):
        return detect_scale_invariance(small_loss, whole, batches)

    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = dict(mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    for inside in (
        jax.jit(of_parts),
        jax.shard_map(of_parts, **specs),
        jax.shard_map(of_whole, **specs),
    ):
        with pytest.raises(
            ValueError, match="decides by numbers, those of whole arrays"
        ):
            inside(whole)


def test_the_program_cannot_tell():
    """The error names what to override, and with a layout there is none."""

    def loss(params, batch):
        there_and_back = batch[:, :4] @ params["odd"] @ params["odd"].T
        return distance(by_channel(batch, params["first"])) + distance(there_and_back)

    params = {"first": normal(0, 6, 8), "odd": normal(3, 4, 5)}
    with pytest.raises(ValueError, match='"odd": ProjectionDimensionNumbers'):
        detect_scale_invariance(loss, params, small_batches())
    layout = {**dict.fromkeys(params, KERNEL), "odd": None}
    found = detect_scale_invariance(
        loss, params, small_batches(), dimension_numbers=layout
    )
    assert found["first"].view == "channel"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss_fn": lambda p, x: x @ p["first"]}, r"float32 with shape \(32, 8\)"),
        ({"loss_fn": lambda p, x: (jnp.sum(p["first"]), x)}, "returned a tuple"),
        ({"loss_fn": lambda p, x: jnp.argmax(p["first"])}, "int32 with shape"),
        (
            {"loss_fn": lambda p, x: jnp.sum(p["first"]), "batches": small_batches(3)},
            "needs 8 batches, but got 3",
        ),
        ({"batches": []}, "needs 8 batches, but got 0"),
        ({"num_batches": 0}, "num_batches must be at least 1"),
        ({"delta": 0.0}, "delta must be positive"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"params": {}}, "without arrays"),
        ({"params": {"first": None}}, "without arrays"),
        ({"params": np.ones((2, 3), "f4")}, "lone array"),
        ({"params": {"a": {"act": jax.nn.relu}}}, "no array at a/act"),
        ({"params": jax.eval_shape(small_params)}, "first has only a shape"),
        (
            {"params": nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))},
            "got a model, Linear",
        ),
        ({"dimension_numbers": {"first": KERNEL}}, "no entry for head"),
    ],
)
def test_bad_input(arguments, message):
    usual = {
        "loss_fn": small_loss,
        "params": small_params(),
        "batches": small_batches(),
    }
    with pytest.raises(ValueError, match=message):
        detect_scale_invariance(**{**usual, **arguments})
