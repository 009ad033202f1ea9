"""`describe`: what it says of the trees of every library, and where it warns."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from optax_adamp import ProjectionDimensionNumbers, describe, sgdp
from optax_adamp.layouts import Layout, Rule, output_first, output_last, stacked
from optax_adamp.layouts._rules import Reading

FIRST = ProjectionDimensionNumbers(1, 0)


def shape_of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def plain(text):
    """With a letter for the multiplication sign, which is like it but longer to say."""
    return text.replace("\N{MULTIPLICATION SIGN}", "x")


def by_path(table):
    return {row.path: row for row in table}


# Rows


def test_row_of_a_parameter_with_all_kinds_of_axes():
    params = {"layers": [{"query": shape_of(16, 3, 4, 8, dtype=jnp.complex64)}]}
    spec = ProjectionDimensionNumbers(-4, (-1, 2), "layer")

    (row,) = describe(params, {"layers": [{"query": spec}]})

    assert row._asdict() == {
        "path": "layers/0/query",
        "shape": (16, 3, 4, 8),
        "reduction_axis": (0,),
        "output_axis": (2, 3),
        "batch_axis": (1,),
        "channels": 32,
        "length": 32,  # A complex number counts as two.
        "batch": 3,
        "view": "layer",
        "why": "spec",
        "warning": "",
    }
    assert (row.output, row.batches) == ("2, 3", "3 (axis 1)")


def test_row_of_a_parameter_that_is_not_projected():
    (row,) = describe(shape_of(8))

    assert row[:2] == ("(root)", (8,))
    assert set(row[2:-2]) == {None}
    assert row[-2:] == ("fewer than two axes", "")


def test_why():
    kernel = shape_of(4, 4)
    reasons = {"own": "Linear", "other": "override 'other'"}
    params = dict.fromkeys(
        ["rule", "spec", "none", "own", "other", "bias", "prefix"], kernel
    )
    params["prefix"] = {"scale": kernel, "kernel": kernel}
    layout = Layout({"own": FIRST, "other": None}, reasons)
    layout.update(rule=output_last, spec=FIRST, none=None, bias=output_last)
    layout["prefix"] = FIRST

    why = {row.path: row.why for row in describe(params, layout)}

    assert why == {
        "rule": "layouts.output_last: last axis",
        "spec": "spec",
        "none": "spec: None",
        "own": "Linear",
        "other": "override 'other'",
        "bias": "named bias",
        "prefix/kernel": "spec",
        "prefix/scale": "named scale",
    }


@pytest.mark.parametrize(
    ("dimension_numbers", "source"),
    [
        (None, "default"),
        (output_last, "layouts.output_last"),
        (Rule("mine(where=['a', 'b'])", output_last.read), "mine"),
    ],
)
def test_why_of_one_rule_for_all(dimension_numbers, source):
    rows = describe({"a": shape_of(4, 4), "b": shape_of(4)}, dimension_numbers)

    assert [row.why for row in rows] == [f"{source}: last axis", "fewer than two axes"]


def test_function_of_the_params():
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}

    rows = describe(params, lambda params: {"a": FIRST, "b": None})

    assert [row.channels for row in rows] == [4, None]


def test_absent_leaves_are_left_out():
    params = {"a": None, "b": optax.MaskedNode(), "c": jnp.ones((2, 3))}

    assert [row.path for row in describe(params)] == ["c"]
    assert [row.path for row in describe(params, {"c": FIRST})] == ["c"]


# Trees of the libraries


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, images):
        partitioned = nn.with_partitioning(nn.initializers.ones, (None,) * 3 + ("a",))
        x = nn.Conv(8, (3, 3), kernel_init=partitioned)(images)
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def test_linen_with_boxes():
    variables = jax.eval_shape(
        LinenModel().init, jax.random.key(0), jnp.ones((1, 8, 8, 3))
    )

    expected = """\
path               shape         output  channels x length  view  why
BatchNorm_0/bias   (8,)                                           fewer than two axes
BatchNorm_0/scale  (8,)                                           fewer than two axes
Conv_0/bias        (8,)                                           fewer than two axes
Conv_0/kernel      (3, 3, 3, 8)  3       8 x 27             auto  default: last axis
head/bias          (10,)                                          fewer than two axes
head/kernel        (8, 10)       1       10 x 8             auto  default: last axis
2 of 6 arrays can be projected, with 296 of 330 parameters."""
    assert plain(str(describe(variables["params"]))) == expected


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(30, 8, rngs=rngs)
        self.blocks = nnx.List(
            [nnx.MultiHeadAttention(4, 8, decode=False, rngs=rngs) for _ in range(2)]
        )


@pytest.mark.parametrize(
    "make", [nnx.eval_shape, pytest.param(lambda f: f(), marks=pytest.mark.nightly)]
)
def test_nnx(make):
    model = make(lambda: NNXModel(nnx.Rngs(0)))

    table = describe(nnx.state(model, nnx.Param))

    rows = by_path(table)
    doubtful = [row.path for row in table if row.warning]
    attention = [
        f"blocks/{block}/{name}/kernel"
        for block in range(2)
        for name in ("key", "out", "query", "value")
    ]
    assert doubtful == [*attention, "embed/embedding"]
    assert len(rows) == 17
    # (heads, head size, features): here the default is right.
    assert rows["blocks/0/out/kernel"][5:7] == (8, 8)
    assert rows["blocks/0/key/kernel"][5:7] == (2, 32)
    assert rows["embed/embedding"][5:7] == (8, 30)
    total, stacked, embedding = table.notes
    assert total == "9 of 17 arrays can be projected, with 752 of 816 parameters."
    assert stacked.startswith("(!) May be stacked layers")
    assert stacked.splitlines()[-8:] == [f"      {path}" for path in attention]
    assert embedding.startswith("(!) May be an embedding")
    assert embedding.splitlines()[-1] == "      embed/embedding"
    assert max(map(len, "\n".join(table.notes).splitlines())) <= 79


def test_equinox():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))

    rows = by_path(describe(eqx.filter(model, eqx.is_inexact_array), FIRST))

    assert {path: (row.channels, row.length) for path, row in rows.items()} == {
        "layers/0/weight": (8, 4),
        "layers/0/bias": (None, None),
        "layers/1/weight": (3, 8),
        "layers/1/bias": (None, None),
    }


def test_haiku():
    def forward(inputs):
        x = hk.Linear(8)(inputs)
        return hk.BatchNorm(True, True, 0.9)(x, is_training=True)

    params, _ = jax.eval_shape(
        hk.transform_with_state(forward).init, jax.random.key(0), jnp.ones((2, 5))
    )

    rows = by_path(describe(params))

    assert rows["linear/w"][5:7] == (8, 5)
    assert not rows["linear/w"].warning
    assert rows["batch_norm/offset"].shape == (1, 8)
    assert rows["batch_norm/offset"].why == "named offset"
    assert rows["batch_norm/scale"].why == "named scale"


class Stack(eqx.Module):
    """Layers of `eqx.filter_vmap`, as in esm2quinox, and a norm over two axes."""

    layers: eqx.Module
    layer_norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        self.layers = eqx.filter_vmap(Layer)(jax.random.split(key, 3))
        self.layer_norm = eqx.nn.LayerNorm((4, 5))
        self.head = eqx.nn.Linear(1, 6, key=key)


class Layer(eqx.Module):
    fc1: eqx.nn.Linear
    final_layer_norm: eqx.nn.LayerNorm

    def __init__(self, key):
        self.fc1 = eqx.nn.Linear(5, 4, key=key)
        self.final_layer_norm = eqx.nn.LayerNorm(5)


def test_stacks_and_norms_of_equinox_are_in_doubt():
    params = jax.eval_shape(
        lambda: eqx.filter(Stack(jax.random.key(0)), eqx.is_inexact_array)
    )

    doubts = {
        row.path: " ".join(row.warning.split()[:6])
        for row in describe(params, output_first)
        if row.warning
    }

    norm = "May be the weight of a"
    assert doubts == {
        "layers/fc1/weight": "May be stacked layers, experts or",
        "layers/final_layer_norm/weight": norm,
        "layer_norm/weight": norm,
    }
    rule = stacked(output_first, where="layers/*")
    table = describe(params, rule)
    rows = by_path(table)
    assert [row.path for row in table if row.warning] == ["layer_norm/weight"]
    assert rows["layers/fc1/weight"][2:5] == ((2,), (1,), (0,))
    assert rows["layers/final_layer_norm/weight"].why == "fewer than two axes"


@pytest.mark.parametrize("rule", [None, output_first, FIRST, stacked(FIRST, axis=-1)])
def test_params_without_names_are_in_doubt(rule):
    """As those of Keras and Penzai, and attention's bias among them."""
    kernel, bias = shape_of(6, 3, 4), shape_of(3, 4, 4)

    for params in ([kernel, bias, shape_of(6, 3)], ((kernel, bias), [kernel])):
        table = describe(params, rule)
        assert all(
            "Has a place in a list but no name" in row.warning
            for row in table
            if row.view
        )
        assert any(row.view for row in table)
        assert table.notes[1].startswith("(!) Has a place in a list")
    assert not describe({"kernel": shape_of(6, 3)}).notes[1:]
    # As Haliax has a position below the name.
    for name in ("kernel", "w", "weight", "weights"):
        assert not describe({name: [shape_of(6, 3)]}).notes[1:]


def test_a_spec_for_all_warns_of_params_without_names():
    params = {"list": [shape_of(6, 3)], "kernel": shape_of(6, 3)}

    warned = {row.path: row.warning for row in describe(params, FIRST)}
    assert warned["list/0"].startswith("Has a place in a list but no name")
    assert warned["kernel"] == ""
    # At its own place it was meant.
    exact = describe(params, {"list": [FIRST], "kernel": FIRST})
    assert [row.warning for row in exact] == ["", ""]


def test_every_warning_names_what_works_for_any_library():
    params = {
        "gain": shape_of(1, 4),
        "norm": {"weight": shape_of(3, 4)},
        "embedding": shape_of(5, 4),
        "stack": shape_of(3, 5, 4),
        "list": [shape_of(5, 4)],
    }

    for rule in (None, output_first):
        warnings = {row.warning for row in describe(params, rule)} - {""}
        assert len(warnings) == (5 if rule is None else 3)
        for warning in warnings:
            assert warning.endswith(
                "let layouts.from_function read the axes from your program."
            )


def test_names_that_cannot_be_printed_are_escaped():
    """They neither break a line nor reach the terminal."""
    params = {"a\nb": {"\x1b[31mc\r": shape_of(4, 3)}, "größe": shape_of(1, 1, 3)}
    expected = r"a\nb/\x1b[31mc\r"

    table = describe(params)

    assert [row.path for row in table] == [expected, "größe"]
    for shown in (str(table), table._repr_html_()):
        assert expected in shown
        assert "größe" in shown
        assert all(line.isprintable() for line in shown.split("\n"))
    assert len(str(table).splitlines()) == 7
    with pytest.raises(ValueError, match=r"a\\nb/\\x1b\[31mc\\r, an array"):
        describe(params, {"größe": FIRST})


def test_html():
    params = {"<a>": shape_of(4, 3), "embedding": shape_of(9, 3)}

    page = plain(describe(params)._repr_html_())

    assert "<td>&lt;a&gt;</td><td>(4, 3)</td><td>1</td><td>3 x 4</td>" in page
    assert "<pre>(!) May be an embedding" in page
    assert "batch" not in page  # No parameter has a batch axis.


# Warnings


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("Conv_0/kernel", (3, 64, 64)),
        ("encoder/conv1/kernel", (5, 3, 3, 16, 32)),
        ("stem/kernel", (7, 7, 3, 64)),
        ("down/kernel", (1, 1, 64, 128)),
        ("depthwise/kernel", (3, 3, 1, 128)),
        ("block/kernel", (3, 3, 3, 16, 32)),
        ("alexnet/kernel", (11, 11, 3, 96)),
        ("embedding/kernel", (16, 16, 3, 768)),  # Patches of an image.
        ("Dense_0/kernel", (784, 10)),
        ("Dense_0/kernel", (3072, 10)),
        ("Dense_0/kernel", (9216, 128)),
        ("vgg/fc6/kernel", (25088, 4096)),
        ("vgg/top/kernel", (25088, 256)),
        ("softmax/kernel", (150528, 10)),
        ("head/kernel", (768, 50257)),
        ("mlp/down/kernel", (28672, 8192)),  # Of a transformer of 70 billion.
        ("patch_embedding/kernel", (768, 512)),
        ("linear/w", (64, 64)),
        ("lora_b", (8, 64)),
        ("Dense_0/kernel", (1, 16)),
        ("linear/w", (1, 16)),
        ("s5/B", (64, 8)),
        ("batch_norm/offset", (1, 64)),
        ("stack/layer_norm/offset", (12, 64)),
        ("w", (2, 1)),
        ("bias", (12, 64)),
        ("b", (64,)),
    ],
)
def test_default_is_not_in_doubt(path, shape):
    assert _warning(path, shape) == ""


@pytest.mark.parametrize(
    ("path", "shape", "doubt"),
    [
        ("attention/query/kernel", (64, 4, 16), "heads"),
        ("attention/out/kernel", (4, 16, 64), "heads"),
        ("layers/Dense_0/kernel", (12, 64, 256), "stacked"),
        ("layers/attention/query/kernel", (12, 768, 12, 64), "stacked"),
        ("layers/attention/out/kernel", (12, 12, 64, 768), "stacked"),
        ("moe/w1", (8, 64, 256), "experts"),
        ("layers/moe/w1", (4, 8, 64, 256), "experts"),
        ("pos_embedding", (1, 197, 768), "stacked"),
        ("Embed_0/embedding", (100, 16), "embedding"),
        ("embed/embeddings", (100, 16), "embedding"),
        ("pos_embedding", (512, 64), "embedding"),
        ("token_embedding/weight", (100, 16), "embedding"),
        ("wte/table", (50257, 768), "embedding"),
        ("tokens", (32000, 4096), "embedding"),
        ("items", (1_000_000, 16), "embedding"),
        ("group_norm/gain", (1, 1, 1, 64), "scale"),
        ("cls", (1, 1, 768), "scale"),
        ("stack/linear/b", (12, 64), "bias"),
        ("s5/B", (8, 16, 2), "stacked"),
        ("stack/norm/weight", (12, 64), "norm"),
    ],
)
def test_default_is_in_doubt(path, shape, doubt):
    assert doubt in _warning(path, shape)


def _warning(path, shape):
    *above, name = path.split("/")
    params = shape_of(*shape)
    for key in [name, *reversed(above)]:
        params = {key: params}
    (row,) = describe(params)
    return row.warning


def test_a_layer_of_haiku_far_below_an_embedding_is_not_in_doubt():
    """Its module has one name, with slashes."""
    (row,) = describe({"embedding/mixer/linear": {"mix": shape_of(64, 64)}})
    assert row.warning == ""


def test_specs_are_not_in_doubt():
    params = {"embedding": shape_of(100, 16), "heads": shape_of(16, 2, 8)}
    specs = {"embedding": FIRST, "heads": ProjectionDimensionNumbers(0, (1, 2))}

    table = describe(params, specs)

    assert [row.warning for row in table] == ["", ""]
    assert len(table.notes) == 1


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (shape_of(4, 3, dtype=jnp.int32), "int32"),
        (3, "int32"),
        (jax.eval_shape(jax.random.key, 0), "key<fry>"),
    ],
)
def test_what_has_no_gradient_is_named(leaf, dtype):
    (row,) = describe({"steps": leaf})

    assert f"an array of {dtype}:" in row.warning


# It says what the optimizer does


def test_projected_as_described():
    """A gradient orthogonal to every column: only described leaves decay less."""
    params = {name: np.ones((3, 2), "f4") for name in ("kernel", "bias", "none")}
    specs = {"kernel": ProjectionDimensionNumbers(0, 1), "bias": None, "none": None}
    tx = sgdp(1.0, weight_decay=0.5, wd_ratio=0.0, dimension_numbers=specs)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)

    for row in describe(params, specs):
        decayed = np.any(updates[row.path] != 0)
        assert decayed == (row.view is None)


# Bad input


@pytest.mark.parametrize(
    "nothing", [None, {}, {"a": None}, optax.MaskedNode(), {"a": optax.MaskedNode()}]
)
def test_no_parameters(nothing):
    with pytest.raises(ValueError, match="describe needs the params, but got a tree"):
        describe(nothing)


@pytest.mark.parametrize(
    ("make", "way"),
    [
        (
            lambda: nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))),
            r"NNXModel\. Pass nnx\.state\(model, nnx\.Param\)",
        ),
        (lambda: nn.Dense(3), r"Dense\. Pass module\.init\(\.\.\.\)\[\"params\"\]"),
    ],
)
def test_model_instead_of_params(make, way):
    with pytest.raises(ValueError, match=f"describe needs the params, .*{way}"):
        describe(make())


def test_other_things_than_arrays():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))

    with pytest.raises(
        ValueError, match=r"no array at activation, but a .*eqx\.filter"
    ):
        describe(model)


def test_dimension_numbers_that_do_not_fit():
    params = {"a": jnp.ones((2, 3))}

    with pytest.raises(ValueError, match=r"of a, an array of shape.*out of range"):
        describe(params, ProjectionDimensionNumbers(2, 0))
    with pytest.raises(ValueError, match="it has an entry for b"):
        describe(params, {"a": None, "b": None})


# Word for word


def test_the_whole_table():
    params = {
        "b": {
            "k": shape_of(3, 4, 5),
            "two": shape_of(2, 4, 3, 5, dtype=jnp.complex64),
        },
        "embed_1": shape_of(7, 6),
        "embed_2": shape_of(7, 6),
        "gone": None,
        "n": shape_of(2, 3, dtype=jnp.int32),
    }
    specs = {
        "b": {
            "k": ProjectionDimensionNumbers(2, 1),
            "two": ProjectionDimensionNumbers(1, 3),
        },
        "embed_1": Rule("last", output_last.read),
        "embed_2": Rule("last", output_last.read),
        "n": None,
    }

    table = describe(params, specs)

    assert str(table).replace("\N{MULTIPLICATION SIGN}", "x").splitlines() == [
        "path     shape         output  channels x length  batch          view  why",
        "b/k      (3, 4, 5)     1       4 x 5              3 (axis 0)     auto  spec",
        "b/two    (2, 4, 3, 5)  3       5 x 8              6 (axis 0, 2)  auto  spec",
        "embed_1  (7, 6)        1       6 x 7                             auto  last: "
        "last axis (!)",
        "embed_2  (7, 6)        1       6 x 7                             auto  last: "
        "last axis (!)",
        f"n        (2, 3){' ' * 56}spec: None (!)",
        "4 of 5 arrays can be projected, with 264 of 270 parameters.",
        "(!) May be an embedding, whose rows are its vectors: give it",
        "    ProjectionDimensionNumbers(1, 0), or let layouts.from_function read the",
        "    axes from your program.",
        "      embed_1",
        "      embed_2",
        "(!) No gradient reaches an array of int32: keep it out of the params.",
        "      n",
    ]
    assert [row.batch_axis for row in table] == [(0,), (0, 2), (), (), None]
    assert [row.shape for row in table][:2] == [(3, 4, 5), (2, 4, 3, 5)]


def test_notes_are_79_letters_wide():
    fits, breaks = f"{'x' * 36} {'y' * 38}", f"{'x' * 36} {'y' * 39}"
    for warning, note in (
        (fits, f"(!) {fits}\n      w"),
        (breaks, f"(!) {'x' * 36}\n    {'y' * 39}\n      w"),
    ):
        rule = Rule("mine", lambda *_, told=warning: Reading(None, "so", told))
        assert describe({"w": shape_of(2, 3)}, rule).notes[1] == note
