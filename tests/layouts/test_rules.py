"""What each rule says of a path and a shape, word for word."""

import pickle

import jax
import numpy as np
import pytest

from messages import only
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import describe, layouts
from optax_adamp.layouts import _kernels
from optax_adamp.layouts._build import ModelParameter, build_layout
from optax_adamp.layouts._names import plain_names
from optax_adamp.layouts._rules import Reading, Rule

LAST = Spec((0,), 1)
VECTOR = Reading(None, "fewer than two axes")
ASK = "let layouts.from_function read the axes from your program."
BIAS_IN_DOUBT = (
    f"May be a bias or a scale, with one number a channel: give it None if so, or {ASK}"
)
NORM_IN_DOUBT = (
    "May be the weight of a norm, stacked or over several axes, with one number a "
    f"channel: give it None if so, or {ASK}"
)
NAME_IN_DOUBT = (
    "Has a place in a list but no name, and may be a bias or the scale of a norm, "
    f"which are not projected: give it None if so, or {ASK}"
)
EMBEDDING_IN_DOUBT = (
    "May be an embedding, whose rows are its vectors: give it "
    f"ProjectionDimensionNumbers(1, 0), or {ASK}"
)
STACK_IN_DOUBT = (
    "May be stacked layers, experts or attention heads, not the convolution that all "
    "axes but the last are taken for: give it a spec, use layouts.stacked, or "
    f"{ASK}"
)
STACK_OF_FIRST_IN_DOUBT = STACK_IN_DOUBT.replace("the last", "the first")


def named(name):
    return Reading(None, f"named {name}")


def last(*shape, warning=""):
    return Reading(
        Spec(tuple(range(len(shape) - 1)), len(shape) - 1), "last axis", warning
    )


def first(*shape, warning=""):
    return Reading(Spec(tuple(range(1, len(shape))), 0), "first axis", warning)


def check(rule, path, shape, expected):
    reading = rule.read(tuple(path.split("|")) if path else (), shape)
    if callable(reading.warning):
        reading = reading._replace(warning=reading.warning())
    assert reading == expected


@pytest.mark.parametrize(
    ("path", "shape", "warning"),
    [
        ("a|kernel", (3, 2), ""),
        ("", (3, 2), ""),
        ("a|kernel", (1, 2), ""),
        ("a|w", (1, 2), ""),
        ("kernel", (1, 1, 2), STACK_IN_DOUBT),
        ("kernel", (1, 1, 1, 2), ""),
        ("a|weight", (1, 2), BIAS_IN_DOUBT),
        ("a|gain", (1, 1, 1, 2), BIAS_IN_DOUBT),
        ("kernel", (1, 3, 2), STACK_IN_DOUBT),
        ("a|b", (3, 2), BIAS_IN_DOUBT),
        ("mlp/~/linear_0.b", (3, 2), BIAS_IN_DOUBT),
        ("a|B", (3, 2), ""),
        ("a|B", (8, 16, 2), STACK_IN_DOUBT),
        ("LayerNorm_0|weight", (3, 2), NORM_IN_DOUBT),
        ("norms|0|weight", (3, 2), NORM_IN_DOUBT),
        ("ln_f|g", (3, 2), NORM_IN_DOUBT),
        ("bn1|g", (3, 2), NORM_IN_DOUBT),
        ("lnot|g", (3, 2), ""),
        ("norm|linear|g", (3, 2), ""),
        ("norm", (3, 2), ""),
        ("norm|kernel", (3, 2), ""),
        ("norm|w", (3, 2), ""),
        ("0", (3, 2), NAME_IN_DOUBT),
        ("0|1", (3, 2), NAME_IN_DOUBT),
        ("0", (28_000, 16), NAME_IN_DOUBT),
        ("0", (3, 3, 2, 4), NAME_IN_DOUBT),
        ("3|value|data_array", (3, 2), NAME_IN_DOUBT),
        ("params|3", (3, 2), NAME_IN_DOUBT),
        ("params.3", (3, 2), NAME_IN_DOUBT),
        ("0|kernel", (3, 2), ""),
        ("weight|0", (3, 2), ""),
        ("a|kernel|real", (3, 2), ""),
        ("value", (3, 2), ""),
        ("~", (3, 2), ""),
        ("Token_Embed|table", (3, 2), EMBEDDING_IN_DOUBT),
        ("embedding", (3, 2), EMBEDDING_IN_DOUBT),
        ("embed|a|table", (3, 2), ""),
        ("embed|kernel", (3, 2), ""),
        ("embed|w", (3, 2), ""),
        ("embed|W", (3, 2), EMBEDDING_IN_DOUBT),
        ("Embed_0.embedding|real", (3, 2), EMBEDDING_IN_DOUBT),
        ("a|table", (28_000, 16), EMBEDDING_IN_DOUBT),
        ("a|kernel", (28_000, 16), EMBEDDING_IN_DOUBT),
        ("embed|a|kernel", (28_000, 15), ""),
        ("", (28_000, 16), EMBEDDING_IN_DOUBT),
        ("a|table", (27_999, 16), ""),
        ("a|table", (28_000, 15), ""),
        ("a|table", (28_000, 7_000), EMBEDDING_IN_DOUBT),
        ("a|table", (28_000, 7_001), ""),
        ("embed|table", (3, 2, 4), STACK_IN_DOUBT),
        ("a|kernel", (3, 2, 4), STACK_IN_DOUBT),
        ("Conv_0|kernel", (3, 2, 4), ""),
        ("CONV|a|kernel", (3, 2, 4), ""),
        ("a|kernel", (3, 3, 2, 4), ""),
        ("a|kernel", (11, 11, 5, 4), ""),
        ("a|kernel", (12, 12, 5, 4), STACK_IN_DOUBT),
        ("a|kernel", (12, 12, 4, 4), ""),
        ("a|kernel", (3, 4, 2, 4), STACK_IN_DOUBT),
        ("a|kernel", (3, 3, 3, 2, 4), ""),
    ],
)
def test_output_last(path, shape, warning):
    check(layouts.output_last, path, shape, last(*shape, warning=warning))


@pytest.mark.parametrize("name", ["output_last", "output_first"])
def test_without_channels(name):
    rule = getattr(layouts, name)
    for path in ("a|kernel", "kernel", ""):
        for shape in ((), (3,)):
            check(rule, path, shape, VECTOR)
    for path, name in (("a|bias", "bias"), ("scale", "scale")):
        check(rule, path, (3, 2), named(name))


ANY = [
    layouts.output_last,
    layouts.output_first,
    layouts.stacked(layouts.output_last),
    layouts.stacked(Spec(0, 1), axis=-1),
]
BIASES_AND_SCALES = [
    # Alone, in joined keys and under tuples as keys.
    ("a|bias", "bias"),
    ("a/norm/scale", "scale"),
    ("layers.0.norm.scale", "scale"),
    ("layers.0|norm.bias", "bias"),
    ("('norm', 'scale')", "scale"),
    ("['norm']['scale']", "scale"),
    (".norm.bias", "bias"),
    ("norm:bias:", "bias"),
    # Keras's `v.path`.
    ("model/layer_normalization_1/gamma", "gamma"),
    ("model/layer_normalization_1/beta", "beta"),
    ("model/attention/query/bias", "bias"),
    # What wraps an array: Haliax, Penzai, Optax, or any list.
    ("a|bias|0", "bias"),
    ("a|bias|data_array", "bias"),
    ("a|bias|value|data_array", "bias"),
    ("a|scale|array", "scale"),
    ("a|bias|real", "bias"),
    ("a|bias|imaginary", "bias"),
    ("norm/bias|imaginary", "bias"),
    ("a|bias|1|2", "bias"),
    # Other libraries.
    ("batch_norm|offset", "offset"),
    ("cell|bias_n", "bias_n"),
    ("activation|negative_slope", "negative_slope"),
]


@pytest.mark.parametrize("rule", ANY, ids=repr)
@pytest.mark.parametrize(("path", "name"), BIASES_AND_SCALES)
def test_what_names_a_bias_or_a_scale(rule, path, name):
    check(rule, path, (6, 5, 4), named(name))


@pytest.mark.parametrize(("path", "name"), BIASES_AND_SCALES)
def test_one_spec_for_all_leaves_out_biases_and_scales(path, name):
    params = 1
    for key in reversed(path.split("|")):
        params = {key: params}
    params = jax.tree.map(lambda _: np.ones((5, 4)), params)

    (row,) = describe(params, Spec(0, 1))

    assert (row.view, row.why) == (None, f"named {name}")


@pytest.mark.parametrize("rule", ANY, ids=repr)
@pytest.mark.parametrize(
    "path",
    [
        "a|scale_factor",
        "a|Scale",
        "a|biases",
        "a|bias_proj",
        "a|bias-proj",
        "a|prebias",
        "a|pre-bias",
        "a/scale_factor",
        "a.BIAS",
        "scale|kernel",
        "bias/kernel",
        "scale|kernel|real",
        "scale|arrays",
        "Gamma",
        "gamma_log",
        "a|real",
    ],
)
def test_names_are_compared_as_a_whole_and_by_case(rule, path):
    assert rule.read(tuple(path.split("|")), (6, 5, 4)).spec is not None


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        ((), ()),
        (("/",), ()),
        (("0",), ("0",)),
        (("value",), ("value",)),
        (("0", "value", "array"), ("0",)),
        (("a.b/c", "d e", "f-g_h"), ("a", "b", "c", "d e", "f-g_h")),
        (("mlp/~/linear_0", "w"), ("mlp", "linear_0", "w")),
    ],
)
def test_plain_names(names, plain):
    assert plain_names(names) == plain


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("a|weight", (4, 3), first(4, 3)),
        ("", (4, 3), first(4, 3)),
        ("", (4, 3, 2), first(4, 3, 2, warning=STACK_OF_FIRST_IN_DOUBT)),
        ("a|g", (4, 1), Reading(None, "named g, one number per channel")),
        ("a.g|array", (4, 1), Reading(None, "named g, one number per channel")),
        ("g", (1, 1, 4), Reading(None, "named g, one number per channel")),
        ("g", (1, 1), Reading(None, "named g, one number per channel")),
        ("g", (4, 2, 1), first(4, 2, 1, warning=STACK_OF_FIRST_IN_DOUBT)),
        ("g", (4, 3), first(4, 3)),
        ("a", (4, 1), first(4, 1, warning=BIAS_IN_DOUBT)),
        ("g|a", (4, 1), first(4, 1, warning=BIAS_IN_DOUBT)),
        # A layer with one input, and a norm.
        ("a|weight", (4, 1), first(4, 1)),
        ("a|weights", (4, 1), first(4, 1)),
        ("a|weight", (1, 4), first(1, 4)),
        ("a|weight", (4, 1, 1), first(4, 1, 1, warning=BIAS_IN_DOUBT)),
        ("a|b", (4, 3), first(4, 3, warning=BIAS_IN_DOUBT)),
        ("norm|weight", (4, 3), first(4, 3, warning=NORM_IN_DOUBT)),
        ("layers|layer_norm|weight", (4, 3), first(4, 3, warning=NORM_IN_DOUBT)),
        ("norm|layer|weight", (4, 3), first(4, 3)),
        ("0", (4, 3), first(4, 3, warning=NAME_IN_DOUBT)),
        ("layers|0|weight", (4, 3), first(4, 3)),
        # Stacks and convolutions.
        ("fc1|weight", (6, 4, 3), first(6, 4, 3, warning=STACK_OF_FIRST_IN_DOUBT)),
        ("conv1|weight", (6, 4, 3), first(6, 4, 3)),
        ("a|weight", (6, 5, 3, 3), first(6, 5, 3, 3)),
        ("a|weight", (6, 5, 11, 11), first(6, 5, 11, 11)),
        (
            "a|weight",
            (6, 5, 12, 12),
            first(6, 5, 12, 12, warning=STACK_OF_FIRST_IN_DOUBT),
        ),
        ("a|weight", (6, 4, 12, 12), first(6, 4, 12, 12)),
        (
            "a|weight",
            (6, 5, 3, 2),
            first(6, 5, 3, 2, warning=STACK_OF_FIRST_IN_DOUBT),
        ),
        # Rows of a table are its outputs.
        ("embedding|weight", (50_000, 16), first(50_000, 16)),
    ],
)
def test_output_first(path, shape, expected):
    check(layouts.output_first, path, shape, expected)


def stacked_reading(axis, reduction, output, why="first axis", view="auto"):
    return Reading(Spec(reduction, output, view), f"{why}, stacked along axis {axis}")


@pytest.mark.parametrize(
    ("axis", "shape", "expected"),
    [
        (0, (7, 4, 3), stacked_reading(0, (2,), (1,))),
        (1, (4, 7, 3), stacked_reading(1, (2,), (0,))),
        (2, (4, 3, 7), stacked_reading(2, (1,), (0,))),
        (-1, (4, 3, 7), stacked_reading(2, (1,), (0,))),
        (-3, (7, 4, 3), stacked_reading(0, (2,), (1,))),
        (
            1,
            (4, 7, 3, 2),
            stacked_reading(1, (2, 3), (0,))._replace(warning=STACK_OF_FIRST_IN_DOUBT),
        ),
        (0, (7, 4), VECTOR),
        (0, (7,), VECTOR),
        (-1, (7,), VECTOR),
    ],
)
def test_stacked(axis, shape, expected):
    check(layouts.stacked(layouts.output_first, axis), "a|weight", shape, expected)


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, ()), (1, (3,)), (-2, (3,)), (2, (3, 2))]
)
def test_stacked_needs_its_axis(axis, shape):
    with pytest.raises(
        ValueError,
        match=only(
            f"layouts.stacked: a/w, an array of shape {shape}, has no axis {axis} that "
            "layers could be stacked along. Tell the paths of what is "
            "stacked by `where`."
        ),
    ):
        layouts.stacked(layouts.output_first, axis).read(("a", "w"), shape)


@pytest.mark.parametrize(
    ("outer", "inner", "shape", "spec", "axes"),
    [
        (0, 0, (6, 7, 4, 3), Spec((3,), (2,)), "0, 1"),
        (1, 0, (6, 7, 4, 3), Spec((3,), (2,)), "0, 1"),
        (-1, 0, (7, 4, 3, 6), Spec((2,), (1,)), "0, 3"),
        (2, -1, (4, 3, 6, 7), Spec((1,), (0,)), "2, 3"),
    ],
)
def test_a_stack_of_stacks_names_the_axes_of_the_whole_array(
    outer, inner, shape, spec, axes
):
    rule = layouts.stacked(layouts.stacked(layouts.output_first, inner), outer)
    told = f"first axis, stacked along axes {axes}"
    check(rule, "a|weight", shape, Reading(spec, told))
    check(rule, "a|bias", shape, named("bias"))
    # What only one of them covers.
    for inside, outside in (("a/*", "b/*"), ("b/*", "a/*")):
        rule = layouts.stacked(
            layouts.stacked(layouts.output_first, where=inside), where=outside
        )
        once = stacked_reading(0, (2,), (1,))
        check(rule, "a|weight", (7, 4, 3), once)
        check(rule, "b|weight", (7, 4, 3), once)


def test_stacks_without_names():
    told = "spec, stacked along axis 0"
    rule = layouts.stacked(Spec(0, 1))
    check(rule, "3", (7, 4, 3), Reading(Spec((1,), (2,)), told, NAME_IN_DOUBT))
    check(rule, "3", (7, 4), VECTOR)


def test_axes_of_any_integer_type():
    assert layouts.stacked(layouts.output_last, np.int64(1)).name == (
        "layouts.stacked(layouts.output_last, axis=1)"
    )
    with pytest.raises(TypeError):
        layouts.stacked(layouts.output_last, 1.0)


def test_where_it_is_stacked():
    plain = first(7, 4, 3, warning=STACK_OF_FIRST_IN_DOUBT)
    deep = stacked_reading(0, (2,), (1,))
    inner = Rule("inner", layouts.output_first.read, ("first/*",))
    for where, patterns in (
        ("a/*", ("a/*",)),
        (["a/*", "[b]/w"], ("a/*", "[b]/w")),
        (("a/*",), ("a/*",)),
        ([], ()),
        (None, ()),
    ):
        rule = layouts.stacked(inner, where=where)
        is_all = where is None
        check(rule, "a|w", (7, 4, 3), deep if is_all or patterns else plain)
        check(rule, "c|w", (7, 4, 3), deep if is_all else plain)
        check(rule, "[b]|w", (7, 4, 3), deep if is_all or len(patterns) > 1 else plain)
        told = f", where={list(patterns)}" if patterns else ""
        assert rule.name == repr(rule) == f"layouts.stacked(inner, axis=0{told})"
        assert rule.patterns == (*patterns, "first/*")
        assert pickle.loads(pickle.dumps(rule)) == rule


def test_stacks_of_one_spec():
    for spec in (Spec(-1, 0), Spec([1], [0])):
        rule = layouts.stacked(spec, 1)
        check(rule, "a|w", (4, 7, 3), stacked_reading(1, (2,), (0,), "spec"))
        check(rule, "a|w", (4, 7), VECTOR)
        check(rule, "a|bias", (4, 7, 3), named("bias"))
        assert pickle.loads(pickle.dumps(rule)) == rule
    assert layouts.stacked(Spec([1], 0)).name == (
        "layouts.stacked(ProjectionDimensionNumbers(reduction_axis=(1,), "
        "output_axis=(0,), view='auto'), axis=0)"
    )
    fixed = layouts.stacked(Spec(1, 0, "layer"))
    check(fixed, "w", (7, 4, 3), stacked_reading(0, (2,), (1,), "spec", "layer"))

    class OfAnotherLibrary:
        reduction_axis, output_axis = 1, 0

    check(
        layouts.stacked(OfAnotherLibrary()),
        "w",
        (7, 4, 3),
        stacked_reading(0, (2,), (1,), "spec"),
    )
    for wrong in ("output_first", None, 3):
        with pytest.raises(
            ValueError,
            match=only(
                "layouts.stacked: rule must be a rule of optax_adamp.layouts or a "
                f"ProjectionDimensionNumbers, but got {wrong!r}."
            ),
        ):
            layouts.stacked(wrong)


@pytest.mark.parametrize(
    ("make", "arguments", "expected"),
    [
        (_kernels.dense_general, (0, 1, 1), Spec((0,), (1,))),
        (_kernels.dense_general, (1, 2, 2), Spec((1, 2), (3, 4))),
        (_kernels.dense_general, (2, 0, 1), Spec((), (2,))),
        (_kernels.convolution, (2,), Spec((0, 1, 2), 3)),
        (_kernels.convolution, (0,), Spec((0,), 1)),
        (_kernels.embedding, (), Spec(1, 0)),
        (_kernels.einsum, ("btd,dhk->bthk", 3), Spec((0,), (1, 2))),
        (_kernels.einsum, (" b t h k , h k d -> b t d ", 3), Spec((0, 1), (2,))),
        (_kernels.einsum, ("eti,eio->eto", 3), Spec((1,), (2,))),
        (_kernels.einsum, ("...i,...io->...o", 3), Spec((1,), (2,))),
        (_kernels.einsum, ("...i,...io->...o", 2), Spec((0,), (1,))),
        (_kernels.einsum, ("bi,i...o->b...o", 4), Spec((0,), (1, 2, 3))),
        (_kernels.einsum, ("bi,io...->b...o", 4), Spec((0,), (1, 2, 3))),
    ],
)
def test_kernels(make, arguments, expected):
    assert make(*arguments) == expected


def test_transposed_convolution():
    assert _kernels.convolution(2, transposed=True) == Spec((0, 1, 3), 2)


@pytest.mark.parametrize("name", ["output_last", "output_first"])
def test_names_of_rules(name):
    assert repr(getattr(layouts, name)) == f"layouts.{name}"


# A layout from what modules say, and from overrides


KERNEL = Reading(LAST, "its kernel")


def parameter(*path, shape=(3, 2), reading=KERNEL, **more):
    return ModelParameter(path, shape, reading, "Dense", **more)


def build(*parameters, **overrides):
    return build_layout(parameters, overrides or None, function="layouts.from_x")


def test_a_layout_of_what_modules_say():
    layout = build(
        parameter("a", 0, "kernel"),
        parameter("a", 1, "bias", shape=(2,), reading=Reading(None, "a bias")),
    )

    assert layout == {"a": {0: {"kernel": Spec(0, 1)}, 1: {"bias": None}}}
    assert layout["a"][0].reasons == {"kernel": "its kernel"}
    assert layout["a"][1].reasons == {"bias": "a bias"}
    assert build() == {}


def test_overrides_go_first_and_exact_ones_before_patterns():
    layout = build_layout(
        [parameter("a", name) for name in "wxyz"] + [parameter("b", 0)],
        {
            "a/[wxy]": Spec(1, 0),
            "a/*x": Spec(1, 0),
            "a/y": None,
            "b/0": layouts.output_last,
        },
        function="layouts.from_x",
    )

    assert layout == {
        "a": {"w": Spec(1, 0), "x": Spec(1, 0), "y": None, "z": Spec(0, 1)},
        "b": {0: Spec((0,), 1)},
    }
    assert layout["a"].reasons == {
        "w": "override 'a/[wxy]'",
        "x": "override 'a/[wxy]'",
        "y": "override 'a/y'",
        "z": "its kernel",
    }
    assert layout["b"].reasons == {0: "override 'b/0': last axis"}


def test_an_override_that_is_a_rule_reads_the_path():
    rule = layouts.output_first
    given = parameter("a", "bias", shape=(2,), reading=None)

    layout = build_layout([given], {"a/*": rule}, function="layouts.from_x")

    assert layout == {"a": {"bias": None}}
    assert layout["a"].reasons == {"bias": "override 'a/*': fewer than two axes"}
    named_b = build_layout(
        [parameter("a", "bias")], {"*": rule}, function="layouts.from_x"
    )
    assert named_b["a"].reasons == {"bias": "override '*': named bias"}
    told = Rule("told", lambda names, shape: Reading(None, f"{names} {shape}"))
    layout = build_layout([given], {"*": told}, function="layouts.from_x")
    assert layout["a"].reasons == {"bias": "override '*': ('a', 'bias') (2,)"}


@pytest.mark.parametrize(
    ("parameters", "overrides", "message"),
    [
        (
            [parameter("a")],
            {"c": None, "b/*": None, "a": None},
            "layouts.from_x: the overrides 'b/*', 'c' match no parameter. Correct or "
            "remove them.",
        ),
        (
            [parameter("a", 0)],
            {"a/*": None, "*0": Spec(0, 1), "*": None},
            "overrides: 'a/*' and '*0' and '*' both match a/0 and differ. Give it one, "
            "or name its exact path.",
        ),
        (
            [parameter("a")],
            {"*": "channel"},
            "overrides: '*' must be a ProjectionDimensionNumbers, a rule of "
            "optax_adamp.layouts or None, but got 'channel'.",
        ),
        (
            [
                parameter("a", 0, reading=None),
                parameter("b", shape=(4, 3, 2), reading=None, problem="it is new"),
                parameter("c"),
            ],
            {},
            "layouts.from_x does not know which axes form a channel in these "
            "parameters:\n"
            "  a/0: an array of shape (3, 2) of Dense\n"
            "  b: an array of shape (4, 3, 2) of Dense: it is new\n"
            "Say it for each, a spec or None for what is not projected, by adding "
            "this with the axes corrected:\n"
            "overrides={\n"
            '    "a/0": ProjectionDimensionNumbers(0, 1),\n'
            '    "b": ProjectionDimensionNumbers((0, 1), 2),\n'
            "}",
        ),
    ],
)
def test_what_no_layout_is_made_of(parameters, overrides, message):
    with pytest.raises(ValueError, match=only(message)):
        build_layout(parameters, overrides, function="layouts.from_x")


def test_a_spec_of_a_module_must_fit():
    with pytest.raises(
        ValueError,
        match=r"layouts\.from_x: a/0, an array of shape \(3,\).*out of range",
    ):
        build(parameter("a", 0, shape=(3,)))


# What the error about uncovered parameters says to add


def suggest(*parameters):
    """The globs of the suggested overrides with what they say, and the lines above."""
    with pytest.raises(ValueError, match="does not know which axes") as caught:
        build(*parameters)
    told, _, code = str(caught.value).partition("overrides=")
    _, *lines, _ = told.strip().splitlines()
    overrides = eval(code, {"ProjectionDimensionNumbers": Spec})
    # It works, and whatever it matches is what nobody knew.
    layout = build_layout(parameters, overrides, function="layouts.from_x")
    for known in parameters:
        if known.reading is not None:
            node = layout
            for key in known.path[:-1]:
                node = node[key]
            assert node.reasons[known.path[-1]] == known.reading.why
    return overrides, [line.strip() for line in lines]


def unknown(path, *shape, **more):
    keys = tuple(int(key) if key.isdecimal() else key for key in path.split("/"))
    return ModelParameter(keys, shape, None, **{"owner": "Own", **more})


@pytest.mark.parametrize(
    ("parameter", "override"),
    [
        # What only broadcasts.
        (unknown("block/gain", 1, 1, 1, 8), None),
        (unknown("block/gain", 8, 1), None),
        (unknown("block/gain", 1, 8, 1), None),
        (unknown("cls", 1, 1, 8), None),
        (unknown("pos_embedding", 1, 9, 8), None),
        (unknown("latents", 1, 9, 8), None),
        (unknown("pos_embedding", 9, 8), None),
        (unknown("positions", 9, 8), None),
        (unknown("blocks/position", 3, 9, 8), None),
        (unknown("relative_position_bias", 9, 8), None),
        (unknown("block/bias", 4, 8), None),
        (unknown("block/offset", 4, 8), None),
        (unknown("norm/weight", 4, 8), None),
        (unknown("a/weight", 4, 8, owner="gemma.layers.RMSNorm"), None),
        (unknown("a/weight", 4, 8, stacked=(0,)), None),
        (unknown("a/weight", 4, 3, 8, stacked=(0, 1)), None),
        # Rows of a table.
        (unknown("embedder/input_table", 9, 8), Spec(1, 0)),
        (unknown("embedder/input_table", 3, 9, 8, stacked=(0,)), Spec(2, 1)),
        (unknown("tokens", 32_000, 64), Spec(1, 0)),
        # What has no such sign.
        (unknown("block/kernel", 1, 8), Spec(0, 1)),
        (unknown("block/w", 1, 4, 8), Spec((0, 1), 2)),
        (unknown("compose", 9, 8), Spec(0, 1)),
        (unknown("posterior", 9, 8), Spec(0, 1)),
        (unknown("rms/weight", 4, 3, 8), Spec((0, 1), 2)),
        (unknown("norm/kernel", 4, 8), Spec(0, 1)),
        (unknown("embed/kernel", 9, 8), Spec(0, 1)),
        (unknown("experts/w", 4, 9, 8, stacked=(0,)), Spec(1, 2)),
        (unknown("layers/w", 9, 4, 8, stacked=(1,)), Spec(0, 2)),
    ],
)
def test_override_that_is_most_likely_right(parameter, override):
    suggested, _ = suggest(parameter)

    assert suggested == {"/".join(map(str, parameter.path)): override}


LAYERS = [
    unknown(f"decoder/layers_{n}/{name}", *shape)
    for n in range(12)
    for name, shape in (
        ("attention/query/w", (4, 6, 3)),
        ("attention/key/w", (4, 6, 3)),
        ("mlp/w", (6, 8)),
        ("mlp/norm/gain", (1, 6)),
    )
]


def test_one_override_for_a_kind():
    overrides, lines = suggest(*LAYERS, parameter("head", "w"))

    assert overrides == {
        "decoder/layers_*/attention/query/w": Spec((0, 1), 2),
        "decoder/layers_*/attention/key/w": Spec((0, 1), 2),
        "decoder/layers_*/mlp/w": Spec(0, 1),
        "decoder/layers_*/mlp/norm/gain": None,
    }
    assert lines == [
        "decoder/layers_*/attention/query/w: 12 arrays of shape (4, 6, 3) of Own",
        "decoder/layers_*/attention/key/w: 12 arrays of shape (4, 6, 3) of Own",
        "decoder/layers_*/mlp/w: 12 arrays of shape (6, 8) of Own",
        "decoder/layers_*/mlp/norm/gain: 12 arrays of shape (1, 6) of Own",
    ]


@pytest.mark.parametrize(
    ("unknowns", "known", "overrides"),
    [
        # At several places.
        (["encoder/0/mlp/w", "decoder/0/mlp/w"], ["mlp/v"], ["*/mlp/w"]),
        (["encoder/mlp/w", "decoder/0/mlp/w", "mlp/w"], [], None),
        (["a/mlp/w", "b/1/mlp/w"], ["c/1/linear/w"], ["*/mlp/w"]),
        # What others would match, too.
        (["e/0/mlp/w", "d/0/mlp/w"], ["mlp/w", "c/mlp/w"], ["*/0/mlp/w"]),
        (["e/0/mlp/w", "d/0/mlp/w"], ["c/0/mlp/w"], None),
        (
            ["e/0/mlp/w", "e/1/mlp/w", "d/0/mlp/w"],
            ["c/0/mlp/w"],
            ["e/*/mlp/w", "d/0/mlp/w"],
        ),
        (["e/0/w", "e/1/w"], ["e/2/w"], None),
        (["e/0/w", "e/1/w"], ["e/norm/w"], None),
        # Numbers, which the keys of the params are, too.
        (["weights/0", "weights/1"], [], ["weights/*"]),
        (["0/0", "1/0"], [], ["*/0"]),
        (["a1_2/w", "a3_4/w"], ["a1/w"], ["a*_*/w"]),
        # Names that look like a glob.
        (["a[0]/w", "a[1]/w"], [], ["a[[]0]/w", "a[[]1]/w"]),
        (["a[0]"], ["a0"], ["a[[]0]"]),
        (["a*"], ["ab"], ["a[*]"]),
    ],
)
def test_globs_match_what_is_not_known_and_nothing_else(unknowns, known, overrides):
    suggested, _ = suggest(
        *(unknown(path, 4, 6) for path in unknowns),
        *(parameter(*unknown(path).path, shape=(4, 6)) for path in known),
    )

    assert list(suggested) == (overrides or unknowns)


def test_kinds_differ_in_whatever_is_said_of_them():
    first = unknown("a/0/mlp/w", 4, 6)
    for other in (
        unknown("a/1/mlp/w", 4, 7),
        unknown("a/1/mlp/w", 4, 6, owner="Other"),
        unknown("a/1/mlp/w", 4, 6, problem="it is new"),
        unknown("a/1/mlp/w", 4, 6, stacked=(0,)),
    ):
        overrides, lines = suggest(first, other)
        assert list(overrides) == ["a/0/mlp/w", "a/1/mlp/w"]
        assert lines[0] == "a/0/mlp/w: an array of shape (4, 6) of Own"


def test_a_lone_array_without_an_owner():
    with pytest.raises(ValueError, match="does not know") as caught:
        build(ModelParameter((), (4, 6), None, ""))
    assert "\n  (root): an array of shape (4, 6)\n" in str(caught.value)


def test_names_that_cannot_be_printed_are_escaped():
    overrides, lines = suggest(
        unknown("a\nb/w", 4, 6, owner="O\x1b[31m", problem="p\rq"),
        unknown('"c"', 4, 6),
        unknown("größe", 4, 6),
    )

    assert list(overrides) == ["a\nb/w", '"c"', "größe"]
    assert lines == [
        r"a\nb/w: an array of shape (4, 6) of O\x1b[31m: p\rq",
        '"c": an array of shape (4, 6) of Own',
        "größe: an array of shape (4, 6) of Own",
    ]
