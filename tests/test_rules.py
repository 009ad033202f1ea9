"""What each rule says of a path and a shape, word for word."""

import pickle

import numpy as np
import pytest

from messages import only
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import layouts
from optax_adamp._rules import Reading, Rule
from optax_adamp.layouts import _kernels
from optax_adamp.layouts._build import Parameter, build_layout

LAST = Spec((0,), 1)
PLAIN = Spec(0, 1)
VECTOR = Reading(None, "fewer than two axes")
BIAS_IN_DOUBT = (
    "May be a bias or an offset, one number a channel: give it None, or name the "
    "library's rule, such as layouts.haiku."
)
EMBEDDING_IN_DOUBT = (
    "May be an embedding, whose rows are its vectors: give it "
    "ProjectionDimensionNumbers(1, 0), or use layouts.from_nnx or from_linen."
)
STACK_IN_DOUBT = (
    "May be stacked layers, experts or attention heads, not the convolution that all "
    "axes but the last are taken for: use layouts.from_nnx, from_linen, stacked or "
    "maxtext, or give it a spec."
)


def named(name):
    return Reading(None, f"named {name}")


def last(*shape, warning=""):
    return Reading(
        Spec(tuple(range(len(shape) - 1)), len(shape) - 1), "last axis", warning
    )


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
        ("a|kernel", (1, 2), BIAS_IN_DOUBT),
        ("kernel", (1, 1, 2), BIAS_IN_DOUBT),
        ("kernel", (1, 3, 2), STACK_IN_DOUBT),
        ("a|B", (3, 2), BIAS_IN_DOUBT),
        ("a|offset", (3, 2), BIAS_IN_DOUBT),
        ("Token_Embed|table", (3, 2), EMBEDDING_IN_DOUBT),
        ("embedding", (3, 2), EMBEDDING_IN_DOUBT),
        ("embed|a|table", (3, 2), ""),
        ("embed|kernel", (3, 2), ""),
        ("embed|w", (3, 2), ""),
        ("a|table", (28_000, 16), EMBEDDING_IN_DOUBT),
        ("a|kernel", (28_000, 16), EMBEDDING_IN_DOUBT),
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


@pytest.mark.parametrize("name", ["output_last", "output_first", "haiku", "maxtext"])
def test_without_channels(name):
    rule = getattr(layouts, name)
    for path in ("a|kernel", "kernel", ""):
        for shape in ((), (3,)):
            check(rule, path, shape, VECTOR)
    for path, name in (("a|bias", "bias"), ("scale", "scale")):
        check(rule, path, (3, 2), named(name))


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("a|weight", (4, 3), Reading(Spec((1,), 0), "first axis")),
        ("", (4, 3, 2), Reading(Spec((1, 2), 0), "first axis")),
        ("a|bias_n", (4, 3), named("bias_n")),
        ("negative_slope", (4, 3), named("negative_slope")),
        ("a|g", (4, 1), Reading(None, "named g, one number per channel")),
        ("g", (1, 1, 4), Reading(None, "named g, one number per channel")),
        ("g", (1, 1), Reading(None, "named g, one number per channel")),
        ("g", (4, 2, 1), Reading(Spec((1, 2), 0), "first axis")),
        ("g", (4, 3, 2), Reading(Spec((1, 2), 0), "first axis")),
        ("a", (4, 1), Reading(Spec((1,), 0), "first axis")),
        ("g|a", (4, 1), Reading(Spec((1,), 0), "first axis")),
    ],
)
def test_output_first(path, shape, expected):
    check(layouts.output_first, path, shape, expected)


def convolution(*shape, transposed=False, warning=""):
    first, second = len(shape) - 2, len(shape) - 1
    out, rest = (first, second) if transposed else (second, first)
    order = "w (*k, out, in)" if transposed else "w (*k, in, out)"
    reduction = tuple(sorted((*range(first), rest)))
    return Reading(Spec(reduction, out), order, warning)


def unknown_convolution(name, order):
    return (
        f"{name!r} is no default name of a convolution; read as {order}. Give it a "
        "spec if it is of another kind, and see layouts.stacked for layers that are "
        "stacked."
    )


LINEAR = Reading(PLAIN, "w (in, out)")
HAIKU = [
    ("mlp/~/linear_0|w", (3, 2), LINEAR),
    ("linear|w", (3, 2), LINEAR),
    ("w", (3, 2), LINEAR),
    ("mine|w", (3, 2), LINEAR),
    ("linear|b", (3, 2), named("b")),
    ("batch_norm/~/mean|scale", (1, 3), named("scale")),
    ("layer_norm|offset", (1, 3), named("offset")),
    ("gru|w_i", (3, 6), Reading(PLAIN, "fused gates")),
    ("gru|w_h", (3, 6), Reading(PLAIN, "fused gates")),
    ("embed|embeddings", (9, 3), Reading(Spec(1, 0), "embeddings (entries, features)")),
    (
        "token_embedding_2|embeddings",
        (9, 3),
        Reading(Spec(1, 0), "embeddings (entries, features)"),
    ),
    (
        "vector_quantizer_1|embeddings",
        (3, 9),
        Reading(PLAIN, "codebook (features, entries)"),
    ),
    (
        "mine|embeddings",
        (9, 3),
        Reading(
            Spec(1, 0),
            "embeddings (entries, features)",
            "'mine' is no default name of an embedding; read as (entries, features). "
            "hk.nets.VectorQuantizer has (features, entries).",
        ),
    ),
    ("conv1_d|w", (3, 4, 5), convolution(3, 4, 5)),
    ("a/~/conv2_d_12|w", (3, 3, 4, 5), convolution(3, 3, 4, 5)),
    ("conv3_d|w", (3, 3, 3, 4, 5), convolution(3, 3, 3, 4, 5)),
    ("depthwise_conv2_d|w", (3, 3, 1, 5), convolution(3, 3, 1, 5)),
    ("conv1_d_transpose|w", (3, 5, 4), convolution(3, 5, 4, transposed=True)),
    ("conv2_d_transpose_1|w", (3, 3, 5, 4), convolution(3, 3, 5, 4, transposed=True)),
    *(
        (f"{name}|w", (3, 4, 5), convolution(3, 4, 5))
        for name in (
            "conv_nd",
            "conv",
            "initial_conv",
            "shortcut_conv",
            "depthwise_conv_3",
            "pointwise_conv",
            "input_to_hidden",
            "hidden_to_hidden",
        )
    ),
    ("conv_nd_transpose|w", (3, 5, 4), convolution(3, 5, 4, transposed=True)),
    (
        "mine_1|w",
        (3, 4, 5),
        convolution(3, 4, 5, warning=unknown_convolution("mine", "w (*k, in, out)")),
    ),
    (
        "w",
        (3, 4, 5),
        convolution(3, 4, 5, warning=unknown_convolution("", "w (*k, in, out)")),
    ),
    (
        "my_transpose|w",
        (3, 5, 4),
        convolution(
            3,
            5,
            4,
            transposed=True,
            warning=unknown_convolution("my_transpose", "w (*k, out, in)"),
        ),
    ),
    *(
        (
            f"mine|{name}",
            shape,
            last(
                *shape,
                warning=f"Haiku has no parameter {name!r}; its last axis was taken as "
                "output.",
            ),
        )
        for name, shape in (
            ("kernel", (3, 2)),
            ("w_i", (3, 2, 4)),
            ("embeddings", (3, 2, 4)),
        )
    ),
    (
        "__layer_stack_no_per_layer/block/linear|w",
        (7, 3, 2),
        Reading(Spec((1,), (2,)), "w (in, out), stacked along axis 0"),
    ),
    (
        "a/__layer_stack_1|b/__layer_stack_2/linear|w",
        (6, 7, 3, 2),
        Reading(
            Spec((2,), (3,)),
            "w (in, out), stacked along axis 0, stacked along axis 0",
        ),
    ),
    ("__layer_stack_1/linear|b", (7, 3), VECTOR),
]


@pytest.mark.parametrize(("path", "shape", "expected"), HAIKU)
def test_haiku(path, shape, expected):
    check(layouts.haiku, path, shape, expected)


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("linear_1|w", (7, 3, 2), 2),
        ("linear|w", (7, 7, 3, 2), 2),
        ("conv1_d|w", (3, 2), 3),
        ("conv2_d|w", (7, 3, 3, 4, 5), 4),
        ("conv3_d_transpose|w", (3, 3, 4, 5), 5),
    ],
)
def test_haiku_refuses_what_contradicts_its_name(path, shape, axes):
    with pytest.raises(
        ValueError,
        match=only(
            f"layouts.haiku: {path.replace('|', '/')}, an array of "
            f"shape {shape}, should "
            f"have {axes} axes by the default name of its module. If its layers are "
            "stacked, use layouts.stacked(layouts.haiku, where=...); "
            "otherwise give it a "
            "spec in a tree of dimension numbers."
        ),
    ):
        layouts.haiku.read(tuple(path.split("|")), shape)


def maxtext(kind, reduction, output, scanned=False):
    why = f"kernel of {kind}" + (", stacked along axis 1" if scanned else "")
    return Reading(Spec(reduction, output), why)


MAXTEXT = [
    *(
        row
        for name in ("query", "key", "value", "wq_b", "wkv_b")
        for row in (
            (f"a|{name}|kernel", (6, 2, 3), maxtext(name, (0,), (1, 2))),
            (f"a|{name}|kernel", (6, 9, 2, 3), maxtext(name, (0,), (2, 3), True)),
        )
    ),
    *(
        row
        for name in ("wq_a", "wkv_a", "wi_0", "wi_1", "wo", "gate", "logits_dense")
        for row in (
            (f"{name}|kernel", (6, 2), maxtext(name, (0,), (1,))),
            (f"{name}|kernel", (6, 9, 2), maxtext(name, (0,), (2,), True)),
        )
    ),
    ("qkv_proj|kernel", (6, 3, 2, 4), maxtext("qkv_proj", (0,), (1, 2, 3))),
    ("qkv_proj|kernel", (6, 9, 3, 2, 4), maxtext("qkv_proj", (0,), (2, 3, 4), True)),
    *(
        row
        for name in ("wi", "wi_0", "wi_1", "wo")
        for row in (
            (f"MoeBlock_0|{name}", (8, 6, 2), maxtext("experts", (1,), (2,))),
            (name, (8, 6, 2), maxtext("experts", (1,), (2,))),
            (f"a|{name}", (8, 9, 6, 2), maxtext("experts", (2,), (3,), True)),
            (f"a|{name}_bias", (8, 6), named(f"{name}_bias")),
        )
    ),
    ("wi|kernel", (6, 2), maxtext("wi", (0,), (1,))),
    ("mlp|wi|kernel", (6, 9, 3, 2), maxtext("wi", (0,), (2, 3), True)),
    ("attention|out|kernel", (6, 2), maxtext("out", (0,), (1,))),
    ("attention|out|kernel", (6, 9, 2), maxtext("out", (0,), (2,), True)),
    ("self_attention|out|kernel", (2, 3, 6), maxtext("out", (0, 1), (2,))),
    ("self_attention_3|out|kernel", (2, 9, 3, 6), maxtext("out", (0, 2), (3,), True)),
    ("GptOssAttention|out|kernel", (2, 3, 6), maxtext("out", (0, 1), (2,))),
    ("token_embedder|embedding", (9, 6), Reading(Spec(1, 0), "rows of an embedding")),
    ("a|per_expert_scale", (8, 9), named("per_expert_scale")),
    ("sinks", (8, 9), named("sinks")),
]


@pytest.mark.parametrize(("path", "shape", "expected"), MAXTEXT)
def test_maxtext(path, shape, expected):
    check(layouts.maxtext, path, shape, expected)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("", (3, 2)),
        ("kernel", (3, 2)),
        ("a|kernel", (3, 2)),
        ("query|kernel", (6, 2)),
        ("query|kernel", (6, 9, 9, 2, 3)),
        ("a|query", (6, 2, 3)),
        ("query|w", (6, 2, 3)),
        ("out|kernel", (6, 2)),
        ("cross_attention|out|kernel", (6, 2)),
        ("wi|kernel", (6, 9, 2)),
        ("wi|kernel", (6, 9, 9, 3, 2)),
        ("a|wo", (6, 2)),
        ("a|embedding", (9, 6, 2)),
    ],
)
def test_maxtext_refuses_what_it_does_not_know(path, shape):
    names = tuple(path.split("|")) if path else ()
    with pytest.raises(
        ValueError,
        match=only(
            f"layouts.maxtext does not know {'/'.join(names) or '(root)'}, an array of "
            f"shape {shape}. Give it a spec of its own, or None for "
            "what is not projected: "
            "`tree = jax.tree.map(lambda _: layouts.maxtext, params)` makes a tree of "
            "dimension numbers in which you can replace its entry."
        ),
    ):
        layouts.maxtext.read(names, shape)


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
        (1, (4, 7, 3, 2), stacked_reading(1, (2, 3), (0,))),
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


def test_axes_of_any_integer_type():
    assert layouts.stacked(layouts.haiku, np.int64(1)).name == (
        "layouts.stacked(layouts.haiku, axis=1)"
    )
    with pytest.raises(TypeError):
        layouts.stacked(layouts.haiku, 1.0)


def test_where_it_is_stacked():
    plain = Reading(Spec((1, 2), 0), "first axis")
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
        (_kernels.local_convolution, (2,), Spec(2, 3)),
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


@pytest.mark.parametrize("name", ["output_last", "output_first", "haiku", "maxtext"])
def test_names_of_rules(name):
    assert repr(getattr(layouts, name)) == f"layouts.{name}"


# A layout from what modules say, and from overrides


KERNEL = Reading(LAST, "its kernel")


def parameter(*path, shape=(3, 2), reading=KERNEL, **more):
    return Parameter(path, shape, reading, "Dense", **more)


def build(*parameters, **overrides):
    return build_layout(parameters, overrides or None, function="layouts.from_x")


def test_a_layout_of_what_modules_say():
    layout = build(
        parameter("a", 0, "kernel"),
        parameter("a", 1, "bias", shape=(2,), reading=Reading(None, "a bias")),
    )

    assert layout == {"a": {0: {"kernel": LAST}, 1: {"bias": None}}}
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
        "a": {"w": Spec(1, 0), "x": Spec(1, 0), "y": None, "z": LAST},
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
