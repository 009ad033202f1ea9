"""`from_function`: what it takes, what it says of its answers, and what it refuses."""

import functools
import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp, describe
from optax_adamp.layouts import from_function, output_first
from optax_adamp.layouts._program.products import PRODUCTS
from optax_adamp.layouts._program.walk import Operations
from programs import floats, indices, read

X = floats(8, 4)
W = {"w": floats(4, 6)}
SQUARE = {"w": floats(4, 4)}
DENSE = ((0,), (1,))


def line(fn, text):
    """Where in this file a function holds the text, as `file.py:line`."""
    lines, first = inspect.getsourcelines(fn)
    (offset,) = (offset for offset, one in enumerate(lines) if text in one)
    return f"test_from_function.py:{first + offset}"


def reasons(fn, params, *data, **kwargs):
    rows = describe(params, from_function(fn, params, *data, **kwargs))
    return {row.path: row.why for row in rows}


def error(fn, params, *data, **kwargs):
    with pytest.raises(ValueError, match=r"\S") as raised:
        from_function(fn, params, *data, **kwargs)
    return str(raised.value)


# Params and arguments


def dense_pair(x, first, second):
    return jnp.tanh(x @ first) @ second.T


@pytest.mark.parametrize("container", [list, tuple])
def test_params_without_names(container):
    params = container([floats(4, 6), floats(5, 6)])
    axes = read(lambda params, x: dense_pair(x, *params), params, X)
    assert axes == {"0": DENSE, "1": ((1,), (0,))}


def test_joined_keys():
    params = {"a/kernel": floats(4, 6), "b/c": {"scale/0": floats(1, 6)}}

    def fn(params, x):
        return x @ params["a/kernel"] * params["b/c"]["scale/0"]

    assert read(fn, params, X) == {"a/kernel": DENSE, "b/c/scale/0": None}


def test_params_without_a_path_of_their_own():
    """A layout is a tree by path, and what shares one would get the same axes."""
    with pytest.raises(ValueError, match=r"but got a lone array\. Put them into"):
        from_function(lambda w, x: x @ w, floats(4, 6), X)


def test_state_of_nnx():
    class Model(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
            self.norm = nnx.LayerNorm(6, rngs=nnx.Rngs(0))
            self.own = nnx.Param(jnp.ones((2, 5, 6)))

        def __call__(self, x):
            return jnp.einsum("bi,hoi->bho", self.norm(self.dense(x)), self.own[...])

    graphdef, params = nnx.split(Model(), nnx.Param)
    axes = read(lambda params, x: nnx.merge(graphdef, params)(x), params, X)
    assert axes == {
        "dense/kernel": DENSE,
        "dense/bias": None,
        "norm/scale": None,
        "norm/bias": None,
        "own": ((2,), (0, 1)),
    }


def test_module_of_equinox():
    model = eqx.nn.MLP(4, 6, 5, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)

    def fn(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    axes = read(fn, params, X)
    assert axes == {
        "layers/0/weight": ((1,), (0,)),
        "layers/0/bias": None,
        "layers/1/weight": ((1,), (0,)),
        "layers/1/bias": None,
    }


def test_arrays_are_read_as_their_shapes():
    params = {"w": jnp.ones((4, 6)), "bias": np.ones((1, 6), np.float32)}

    def fn(params, x, factor=1.0):
        return x @ params["w"] * factor + params["bias"]

    for data in (X, jnp.ones((8, 4)), np.ones((8, 4), np.float32)):
        assert read(fn, params, data, factor=2.0) == {"w": DENSE, "bias": None}


def test_arguments_that_are_no_arrays_reach_the_function():
    def fn(params, x, mode, *, train):
        assert mode == "logits"
        return x @ params["w"] if train else params["w"] @ x

    assert read(fn, W, X, "logits", train=True) == {"w": DENSE}


def test_keys():
    def fn(params, x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape) @ params["w"]

    assert read(fn, W, X, jax.random.key(0)) == {"w": DENSE}


def test_outputs_may_be_anything():
    def fn(params, x):
        return {"loss": jnp.sum(x @ params["w"]), "aux": (x, None, params["w"])}

    assert read(fn, W, X) == {"w": DENSE}


def test_nothing_is_computed():
    """Each of these arrays would take terabytes."""
    params = {"table": floats(10**6, 10**6), "w": floats(10**6, 10**6)}

    def fn(params, tokens):
        return params["table"][tokens] @ params["w"].T @ params["w"].T

    axes = read(fn, params, indices(10**6))
    assert axes == {"table": ((1,), (0,)), "w": ((1,), (0,))}


def test_layout_is_what_the_optimizer_takes():
    params = {"w": jnp.ones((4, 6)), "scale": jnp.ones((2, 6))}

    def fn(params, x):
        return x @ params["w"] * params["scale"][:, None]

    layout = from_function(fn, params, X)
    tx = adamp(0.1, dimension_numbers=layout)
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


# Reasons


def named(params, x):
    with jax.named_scope("Block"), jax.named_scope("mlp"):
        hidden = jnp.einsum("bi,io->bo", x, params["w"])
    return hidden + params["bias"]


def test_reason_says_what_the_program_does_and_where():
    why = reasons(named, W | {"bias": floats(1, 6)}, X)
    assert why["w"] == f"contracted and kept, Block/mlp ({line(named, 'einsum')})"
    assert why["bias"].endswith(f"({line(named, 'bias')})")
    assert "Block" not in why["bias"]


def looked_up(params, tokens):
    return params["w"][tokens]


def test_reason_of_a_lookup():
    why = reasons(looked_up, W, indices(8))["w"]
    assert why.startswith("rows looked up")
    assert f"({line(looked_up, 'tokens]')})" in why


def alike(params, x):
    first = jnp.where(x > 0, x, params["a"])
    second = jnp.where(x > 0, x, params["b"])
    return first, second


def test_reason_of_integers():
    def fn(params, x):
        return x @ params["w"] + params["order"]

    why = reasons(fn, W | {"order": indices(1, 6)}, X)["order"]
    assert why == "no gradient reaches arrays of int32"


def test_reason_of_what_jax_traces_once():
    """Its own functions are traced for the first line alone that calls them."""
    why = reasons(
        alike, {"a": floats(2, 4, 4), "b": floats(2, 4, 4)}, floats(8, 2, 4, 4)
    )
    assert f"({line(alike, 'first =')})" in why["a"]
    assert f"({line(alike, 'second =')})" in why["b"]


def scanned(params, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    with jax.named_scope("layers"):
        return lax.scan(layer, x, params["w"])[0]


def test_reason_inside_a_loop():
    why = reasons(scanned, {"w": floats(3, 4, 4)}, X)["w"]
    assert "layers" in why
    assert f"({line(scanned, 'x @ w')})" in why


def test_reason_of_what_is_not_used():
    why = reasons(lambda params, x: x @ params["w"], W | {"spare": floats(3, 5)}, X)
    assert "not used" in why["spare"]


def test_reason_of_a_vector():
    why = reasons(lambda params, x: x + params["bias"], {"bias": floats(4)}, X)
    assert why == {"bias": "fewer than two axes"}


def test_reason_of_what_sums_over_no_axis():
    why = reasons(lambda params, x: jnp.tensordot(x, params["w"], 0), W, floats(8))
    assert why["w"].startswith("one number a channel")


def test_reason_of_what_is_padded_with_data():
    def padded(params, x):
        return lax.pad(params["w"], x[0, 0], [(0, 0, 0), (1, 1, 0)])

    assert reasons(padded, W, X)["w"].startswith("elementwise")


def test_reason_of_an_override():
    override = {"w": Spec(1, 0)}
    why = reasons(lambda params, x: x @ params["w"], W, X, overrides=override)
    assert why["w"].startswith("override 'w'")


# What is refused


def forward_and_back(params, x):
    forward = x @ params["w"]
    back = x @ params["w"].T
    return forward + back


def test_uses_that_disagree():
    message = error(forward_and_back, SQUARE, X)
    assert "from_function" in message
    assert "w: an array of shape (4, 4)" in message
    assert line(forward_and_back, "forward = ") in message
    assert line(forward_and_back, "back = ") in message
    assert '"w": ' in message
    assert "axis 0 reduction, axis 1 output" in message


def projected_and_shifting(params, x):
    shifted = x + params["w"]
    return shifted @ params["w"]


def test_uses_entry_by_entry_yield_to_products():
    """They say nothing of axes: so are kernels that a step of an inner loop moves."""
    layout = from_function(projected_and_shifting, SQUARE, floats(8, 4, 4))
    assert layout["w"] == Spec(0, 1)


def block_diagonal(params, x):
    blocks = params["w"].reshape(2, 2, 6)
    return jnp.einsum("bhi,hio->bho", x, blocks)


def test_axis_with_two_roles():
    """Of the four rows, two belong to each block: neither all batch nor all inputs."""
    message = error(block_diagonal, W, floats(8, 2, 2))
    assert "w: an array of shape (4, 6)" in message
    assert line(block_diagonal, "einsum") in message


def refilled(params, x):
    """Rows of another length, which share the entries of old rows."""
    return x @ params["w"].reshape(4, 9)


def test_axis_that_is_cut_anew():
    message = error(refilled, {"w": floats(6, 6)}, X)
    assert "a part of axis 0 is output, another is reduction" in message


def summed(params, x):
    return x @ params["w"].sum(axis=0)


def weighed(params, x):
    return x @ jnp.einsum("j,jio->io", jnp.arange(3.0), params["w"])


@pytest.mark.parametrize("fn", [summed, weighed])
def test_sum_of_kernels(fn):
    """Of several, each its own channels, or of one that is long: both are possible."""
    message = error(fn, {"w": floats(3, 4, 6)}, X)
    assert f"some of its axes are summed before its use ({line(fn, 'x @')})" in message


def test_product_with_itself():
    message = error(lambda params, x: x @ (params["w"] @ params["w"].T), W, X)
    assert "some of its axes are summed before its use" in message


def filtered(params, x):
    return lax.conv_general_dilated(params["w"], x, (1,), "SAME")


def test_weight_in_the_place_of_images():
    message = error(filtered, {"w": floats(2, 4, 9)}, floats(6, 4, 3))
    assert "'conv_general_dilated', whose kernel depends on data" in message


def scaled_by_a_norm(params, x):
    return x @ jnp.broadcast_to(jnp.linalg.norm(params["w"]), (4, 6))


def test_a_norm_is_no_use_of_what_it_is_of():
    layout = from_function(scaled_by_a_norm, W, X)
    assert layout["w"] is None
    assert layout.reasons["w"] == "not used by the function"


def shifted_by_a_product(params, x):
    return x + params["left"] @ params["right"]


def test_product_of_parameters_that_meets_data_entry_by_entry():
    params = {"left": floats(8, 3), "right": floats(3, 4)}
    message = error(shifted_by_a_product, params, X)
    for shape in ("left: an array of shape (8, 3)", "right: an array of shape (3, 4)"):
        problem = "it is multiplied with another parameter before it meets data"
        assert f"{shape}: {problem}" in message


def orthogonalized(params, x):
    q, _ = jnp.linalg.qr(params["nested"]["w"])
    return x @ q


def solved(params, x):
    return lax.linalg.triangular_solve(params["w"], x, left_side=False)


def used_well_and_not(params, x):
    return x @ params["w"], jnp.linalg.qr(params["w"])[1]


def in_groups_of_examples(params, x):
    images, kernel = x[:, :, None], params["w"][:, :, None]
    return lax.conv_general_dilated(images, kernel, (1,), "SAME", batch_group_count=2)


def collected(params, x):
    """With an axis for the devices."""
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    split = jax.sharding.PartitionSpec("data")
    rows = jax.shard_map(
        lambda w: lax.all_gather(w, "data"), mesh=mesh, in_specs=split, out_specs=split
    )
    return x @ rows(params["w"])[0]


@pytest.mark.parametrize(
    ("fn", "params", "path", "operation", "where"),
    [
        (used_well_and_not, SQUARE, "w", "qr", "linalg.qr"),
        (
            in_groups_of_examples,
            SQUARE,
            "w",
            "'conv_general_dilated' with groups of examples",
            "lax.conv_general",
        ),
        (collected, SQUARE, "w", "'all_gather' along a new axis", "lax.all_gather"),
        (orthogonalized, {"nested": W}, "nested/w", "qr", "linalg.qr"),
        (solved, SQUARE, "w", "triangular_solve", "triangular_solve("),
    ],
)
def test_unknown_operation(fn, params, path, operation, where):
    message = error(fn, params, X)
    (shape,) = (leaf.shape for leaf in jax.tree.leaves(params))
    assert f"{path}: an array of shape {shape}" in message
    assert operation in message
    assert line(fn, where) in message
    assert f'"{path}": ProjectionDimensionNumbers(0, 1)' in message


def product_of_three(params, x):
    return x @ (params["w"] @ params["w"].T @ params["w"])


def squared(params, x):
    return x @ lax.fori_loop(0, 2, lambda _, w: w @ w, params["w"])


@pytest.mark.parametrize(
    ("fn", "told"),
    [
        (product_of_three, "operation 'dot_general' with several parameters"),
        (squared, "operation 'while', which changes it|'scan', which changes it"),
    ],
)
def test_products_that_cannot_be_told_from_inputs(fn, told):
    assert re.search(told, error(fn, SQUARE, X))


def test_a_parameter_of_an_operation_that_jax_did_not_have(monkeypatch):
    """What it does is not known, so nothing is read off."""
    narrow = Operations().named("dot_general", params="dimension_numbers precision")
    monkeypatch.setitem(PRODUCTS, "dot_general", narrow(PRODUCTS["dot_general"]))
    message = error(lambda params, x: x @ params["w"], SQUARE, X)
    assert "operation 'dot_general' with out_sharding, preferred_element" in message


def test_a_parameter_of_an_operation_that_jax_has_no_more(monkeypatch):
    def product(operation, values):
        return operation.params["operands"]

    monkeypatch.setitem(PRODUCTS, "dot_general", product)
    message = error(lambda params, x: x @ params["w"], SQUARE, X)
    assert "'dot_general' without 'operands', which it had before" in message


@pytest.mark.parametrize("fn", [solved, forward_and_back])
@pytest.mark.parametrize("spec", [Spec(1, 0), None])
def test_override_answers_what_the_program_does_not(fn, spec):
    axes = read(fn, SQUARE, X, overrides={"w": spec})
    assert axes == {"w": spec and ((1,), (0,))}


def test_entries_of_a_triangle_have_no_axes():
    def triangular(params, x):
        place = jnp.tril_indices(4)
        return x @ jax.vmap(jnp.zeros((4, 4)).at[place].set)(params["w"]).sum(0)

    params = {"w": floats(3, 10)}
    assert read(triangular, params, X) == {"w": None}
    assert reasons(triangular, params, X)["w"].startswith("elementwise")


def test_error_of_a_kernel_that_is_sorted_beside_something():
    def ranked(params, x):
        return x @ (jnp.argsort(params["w"], axis=0) * params["w"])

    assert "it goes into the operation 'sort'" in error(ranked, W, X)


def test_all_parameters_without_an_answer_are_named_at_once():
    params = {"a": floats(4, 4), "b": floats(4, 4), "c": floats(4, 4)}

    def fn(params, x):
        x = solved({"w": params["a"]}, x) @ params["b"]
        return forward_and_back({"w": params["c"]}, x)

    message = error(fn, params, X)
    assert '"a": ' in message
    assert '"b": ' not in message
    assert '"c": ' in message


def test_overrides_by_glob_and_by_rule():
    params = {"blocks": [W, W], "head": W}

    def fn(params, x):
        first, second = (block["w"] for block in params["blocks"])
        return x @ first, x @ second, x @ params["head"]["w"]

    overrides = {"blocks/*": None, "blocks/1/w": Spec(1, 0), "head/w": output_first}
    assert read(fn, params, X, overrides=overrides) == {
        "blocks/0/w": None,
        "blocks/1/w": ((1,), (0,)),
        "head/w": ((1,), (0,)),
    }


def test_override_that_matches_nothing():
    message = error(lambda params, x: x @ params["w"], W, X, overrides={"v": None})
    assert message == (
        "from_function: the overrides 'v' match no parameter. Correct or remove them."
    )


def test_override_that_does_not_fit_the_shape():
    fn, override = (lambda params, x: x @ params["w"]), {"w": Spec(0, 2)}
    message = error(fn, W, X, overrides=override)
    assert message.startswith("from_function: w, an array of shape (4, 6): axis 2 of ")


def test_params_without_arrays():
    message = error(named, {}, X)
    assert message.startswith("from_function needs the params")
    assert message.endswith("as named takes it first.")
    # What has no name
    assert error(functools.partial(named), {}, X).endswith(
        "as the function takes it first."
    )
