"""What errors say, word for word: where it went wrong, of what shape, and what to do.

A line of the library that raises an error, and none of the cases below reaches, fails.
"""

import ast
import functools
import re
import traceback
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec as P

import optax_adamp
import sharded_steps
from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import adamp, describe, layouts, measure, scale_by_projection, sgdp

PACKAGE = Path(optax_adamp.__file__).parent

KERNEL = np.ones((3, 2), "f4")
PARAMS = {"dense": {"kernel": KERNEL, "bias": np.ones(2, "f4")}}


def update(grad=PARAMS, params=PARAMS, **arguments):
    tx = scale_by_projection(**arguments)
    return tx.update(PARAMS, tx.init(PARAMS), params, grad=grad)


def detect(params=PARAMS, loss_fn=lambda params, batch: batch, batches=(), **arguments):
    return optax_adamp.detect_scale_invariance(loss_fn, params, batches, **arguments)


def in_shard_map(params_spec, partition_specs):
    """The first step of a kernel, as each of two times four devices sees it."""

    def first_step(kernel):
        tx = adamp(0.1, partition_specs=partition_specs)
        params = {"kernel": kernel}
        return tx.update(params, tx.init(params), params)[0]["kernel"]

    mesh = sharded_steps.make_mesh((2, 4))
    return jax.eval_shape(
        jax.shard_map(
            first_step, mesh=mesh, in_specs=params_spec, out_specs=params_spec
        ),
        jnp.ones((8, 8)),
    )


class OnlyInitialized(nn.Module):
    """As attention with a cache for one token, which the first call has filled."""

    @nn.compact
    def __call__(self, inputs):
        if not self.is_initializing():
            raise RuntimeError("The cache is full.")
        return nn.Dense(2)(inputs)


def bound_module():
    return nn.Dense(2).bind({"params": {"kernel": KERNEL, "bias": jnp.ones(2)}})


class Table(nn.Module):
    @nn.compact
    def __call__(self):
        table = self.param("table", nn.initializers.zeros, (5, 4, 3))
        return jnp.linalg.svd(table)  # Nobody can say what its channels are.


class Case(NamedTuple):
    call: Callable[[], Any]
    message: str  # "[...]" stands for what other libraries say.


CASES = {
    "negative hyperparameter": Case(
        lambda: adamp(0.1, delta=-1),
        "ValueError: delta must not be negative, but got -1.",
    ),
    "momentum": Case(
        lambda: sgdp(0.1, 1.0),
        "ValueError: momentum must be less than 1, but got 1.0.",
    ),
    "dampening": Case(
        lambda: sgdp(0.1, nesterov=True, dampening=0.5),
        "ValueError: Nesterov momentum has no dampening, but got dampening=0.5. Set "
        "one of them to zero or False.",
    ),
    "no params": Case(
        lambda: update(params=None),
        "ValueError: scale_by_projection needs the current params, to project updates "
        "on them: call `tx.update(grads, state, params)`.",
    ),
    "no gradient": Case(
        lambda: update(grad=None),
        "ValueError: scale_by_projection needs the raw gradient of this step, which "
        "transformations before it in a chain have replaced. Wrap the whole chain, "
        "`tx = optax_adamp.with_gradient(optax.chain(...))`, or pass it yourself, "
        "`tx.update(updates, state, params, grad=grads)`.",
    ),
    # Trees beside the updates.
    "other tree": Case(
        lambda: update(grad={"dense": {"kernel": KERNEL, "scale": jnp.ones(2)}}),
        "ValueError: grad must have the tree structure of the updates, but lacks "
        "dense/bias and has dense/scale.",
    ),
    "smaller tree": Case(
        lambda: update(params={"dense": {"kernel": KERNEL}}),
        "ValueError: params must have the tree structure of the updates, but lacks "
        "dense/bias.",
    ),
    "larger tree": Case(
        lambda: measure(PARAMS, {**PARAMS, "scale": jnp.ones(2)}),
        "ValueError: params must have the tree structure of the grads, but has scale.",
    ),
    "other containers": Case(
        lambda: measure([KERNEL], (KERNEL,)),
        "ValueError: params must have the tree structure of the grads, but Expected "
        "list, got [...].",
    ),
    "no array": Case(
        lambda: update(grad={"dense": {"kernel": None, "bias": jnp.ones(2)}}),
        "ValueError: grad has no array at dense/kernel, where the updates have shape "
        "(3, 2), but None.",
    ),
    "other shape": Case(
        lambda: update(params={"dense": {"kernel": KERNEL.T, "bias": jnp.ones(2)}}),
        "ValueError: params has shape (2, 3) at dense/kernel, where the updates have "
        "shape (3, 2).",
    ),
    # Trees that describe params.
    "parameter without an entry": Case(
        lambda: update(mask={"dense": {"kernel": True}}),
        "ValueError: mask does not fit the params: it has no entry for dense/bias, an "
        "array of shape (2,). Give every parameter an entry, at its path or above it.",
    ),
    "entry without a parameter": Case(
        lambda: update(dimension_numbers={"dense": None, "norm": None}),
        "ValueError: dimension_numbers does not fit the params: it has an entry for "
        "norm, where the params hold nothing. Remove the entry or correct its path. If "
        "the optimizer has a part of a Flax model only, make the layout of that part: "
        "layouts.from_nnx(model, wrt=...) with the filter that nnx.Optimizer has as "
        "wrt.",
    ),
    "two entries with one path": Case(
        lambda: update(mask=OrderedDict({0: True, "0": True})),
        "ValueError: mask has two entries with the path 0. Rename one, here and in the "
        "params.",
    ),
    "two parameters with one path": Case(
        lambda: describe(OrderedDict({0: KERNEL, "0": KERNEL}), [Spec(0, 1)]),
        "ValueError: dimension_numbers does not fit the params: two parameters have "
        "the path 0, and one entry cannot be for both. Rename one, or give an entry "
        "above them.",
    ),
    # Specs.
    "no spec": Case(
        lambda: update(dimension_numbers={"dense": {"kernel": 0, "bias": None}}),
        "ValueError: dimension_numbers of dense/kernel, an array of shape (3, 2), must "
        "be a ProjectionDimensionNumbers, a rule of optax_adamp.layouts, or None for a "
        "parameter that is not projected, but got 0.",
    ),
    "axis that is no integer": Case(
        lambda: update(dimension_numbers=Spec(0, 0.5)),
        "ValueError: dimension_numbers of dense/kernel, an array of shape (3, 2): axis "
        "0.5 of ProjectionDimensionNumbers(reduction_axis=0, output_axis=0.5, "
        "view='auto') is not an integer.",
    ),
    "axis out of range": Case(
        lambda: describe(PARAMS, Spec(0, -3)),
        "ValueError: dimension_numbers of dense/kernel, an array of shape (3, 2): axis "
        "-3 of ProjectionDimensionNumbers(reduction_axis=0, output_axis=-3, "
        "view='auto') is out of range for 2 axes.",
    ),
    "axis named twice": Case(
        lambda: measure(PARAMS, PARAMS, dimension_numbers=Spec((0, 1), -1)),
        "ValueError: dimension_numbers of dense/kernel, an array of shape (3, 2): "
        "ProjectionDimensionNumbers(reduction_axis=(0, 1), output_axis=-1, "
        "view='auto') names an axis more than once. Each axis is a reduction axis, an "
        "output axis or, if left out, a batch axis.",
    ),
    "unknown view": Case(
        lambda: update(dimension_numbers=Spec(0, 1, "row")),
        "ValueError: dimension_numbers of dense/kernel, an array of shape (3, 2): the "
        "view of ProjectionDimensionNumbers(reduction_axis=0, output_axis=1, "
        "view='row') must be one of auto, channel, layer.",
    ),
    # Rules.
    "pattern that matches nothing": Case(
        lambda: update(dimension_numbers=layouts.stacked(Spec(0, 1), where="conv")),
        "ValueError: dimension_numbers: the pattern 'conv' of layouts.stacked("
        "ProjectionDimensionNumbers(reduction_axis=(0,), output_axis=(1,), "
        "view='auto'), axis=0, where=['conv']) matches no parameter. The paths are: "
        "dense/bias, dense/kernel. If the "
        "optimizer has a part of a Flax model only, make the layout of that part: "
        "layouts.from_nnx(model, wrt=...) with the filter that nnx.Optimizer has as "
        "wrt.",
    ),
    "no rule to stack": Case(
        lambda: layouts.stacked(adamp),
        "ValueError: layouts.stacked: rule must be a rule of optax_adamp.layouts or a "
        "ProjectionDimensionNumbers, but got <function adamp at [...]>.",
    ),
    "no axis to stack along": Case(
        lambda: update(dimension_numbers=layouts.stacked(layouts.output_first, axis=1)),
        "ValueError: layouts.stacked: dense/bias, an array of shape (2,), has no axis "
        "1 that layers could be stacked along. Tell the paths of what is stacked by "
        "`where`.",
    ),
    "stack of what does not fit": Case(
        lambda: layouts.stacked(Spec(0, 2)).read(("moe", "kernel"), (5, 4, 3)),
        "ValueError: layouts.stacked: moe/kernel, an array of shape (5, 4, 3), without "
        "axis 0: axis 2 of ProjectionDimensionNumbers(reduction_axis=(0,), "
        "output_axis=(2,), view='auto') is out of range for 2 axes.",
    ),
    "no such layout": Case(
        lambda: layouts.from_flax,
        "AttributeError: module 'optax_adamp.layouts' has no attribute 'from_flax'",
    ),
    # Models.
    "class of Linen": Case(
        lambda: layouts.from_linen(nn.Dense),
        "TypeError: from_linen takes a flax.linen.Module, but got the class Dense: "
        "pass an instance.",
    ),
    "params for Linen": Case(
        lambda: layouts.from_linen(PARAMS),
        "TypeError: from_linen takes a flax.linen.Module, but got an object of type "
        "dict: pass the module that holds the parameters.",
    ),
    "NNX for Linen": Case(
        lambda: layouts.from_linen(nnx.Linear(3, 2, rngs=nnx.Rngs(0))),
        "TypeError: from_linen takes a flax.linen.Module, but Linear is an nnx.Module: "
        "use from_nnx.",
    ),
    "bound module": Case(
        lambda: layouts.from_linen(bound_module(), KERNEL),
        "ValueError: from_linen initializes the module itself, but got one that is "
        "bound to variables. Pass it unbound: `module.unbind()[0]`.",
    ),
    "Linen without parameters": Case(
        lambda: layouts.from_linen(nn.Dropout(0.5, deterministic=True), KERNEL),
        "ValueError: from_linen: Dropout has no parameters when it is initialized with "
        "these arguments. Pass the module that holds them.",
    ),
    "module that decodes": Case(
        lambda: layouts.from_linen(OnlyInitialized(), KERNEL),
        "ValueError: from_linen: OnlyInitialized can be initialized with these "
        "arguments, but calling it with them afterwards failed (RuntimeError: The "
        "cache is full). Pass a module and arguments as in training, without a cache "
        "for decoding.",
    ),
    "class of NNX": Case(
        lambda: layouts.from_nnx(nnx.Linear),
        "TypeError: from_nnx needs an instance of nnx.Module; Linear is a class, a "
        "model that was never built. Build it, or its shapes alone: "
        "`nnx.eval_shape(lambda: Linear(..., rngs=nnx.Rngs(0)))`.",
    ),
    "params for NNX": Case(
        lambda: layouts.from_nnx(PARAMS),
        "TypeError: from_nnx needs an instance of nnx.Module; got dict. Parameters "
        "alone do not say what their axes are, and a function must be called first: "
        "pass the module that holds them.",
    ),
    "Linen for NNX": Case(
        lambda: layouts.from_nnx(nn.Dense(2)),
        "TypeError: from_nnx needs an instance of nnx.Module; Dense is a module of "
        "Flax Linen: use from_linen.",
    ),
    "NNX without parameters": Case(
        lambda: layouts.from_nnx(nnx.Dropout(0.5)),
        "ValueError: from_nnx: Dropout has no parameters (nnx.Param). Pass the module "
        "that holds them, or say by `wrt` which Variables are trained.",
    ),
    "unknown parameter": Case(
        lambda: layouts.from_linen(Table()),
        "ValueError: from_linen does not know which axes form a channel in these "
        "parameters:\n"
        "  table: an array of shape (5, 4, 3) of [...]Table: it goes "
        "into the operation 'svd', Table (test_messages.py:[...])\n"
        "Say it for each, a spec or None for what is not projected, by adding this "
        "with the axes corrected:\n"
        "overrides={\n"
        '    "table": ProjectionDimensionNumbers((0, 1), 2),\n'
        "}",
    ),
    "override of nothing": Case(
        lambda: layouts.from_linen(Table(), overrides={"tabel": None, "table": None}),
        "ValueError: from_linen: the overrides 'tabel' match no parameter. Correct or "
        "remove them.",
    ),
    "overrides that differ": Case(
        lambda: layouts.from_linen(Table(), overrides={"t*": None, "*e": Spec(0, 1)}),
        "ValueError: overrides: 't*' and '*e' both match table and differ. Give it "
        "one, or name its exact path.",
    ),
    "override that is no spec": Case(
        lambda: layouts.from_linen(Table(), overrides={"table": 2}),
        "ValueError: overrides: 'table' must be a ProjectionDimensionNumbers, a rule "
        "of optax_adamp.layouts or None, but got 2.",
    ),
    "override that does not fit": Case(
        lambda: layouts.from_linen(Table(), overrides={"table": Spec(0, 3)}),
        "ValueError: from_linen: table, an array of shape (5, 4, 3): axis 3 of "
        "ProjectionDimensionNumbers(reduction_axis=0, output_axis=3, view='auto') is "
        "out of range for 3 axes.",
    ),
    # Meshes.
    "no partition spec": Case(
        lambda: update(partition_specs={"dense": {"kernel": "x", "bias": None}}),
        "ValueError: partition_specs of dense/kernel, an array of shape (3, 2), must "
        "be a jax.sharding.PartitionSpec, None for a parameter that is whole on every "
        "device, or 'own' for one that each device has for itself, but got 'x'.",
    ),
    "too long a partition spec": Case(
        lambda: update(partition_specs=P(None, None, "x")),
        "ValueError: partition_specs of dense/kernel, an array of shape (3, 2): "
        f"{P(None, None, 'x')} has 3 entries for 2 axes.",
    ),
    "parts taken for wholes": Case(
        lambda: in_shard_map(P("x", "y"), P(None, "y")),
        "ValueError: Inside shard_map kernel, an array of shape (4, 2), differs along "
        f"the mesh axes x, but partition_specs says {P(None, 'y')}: sums over this "
        "part would be taken for those of the whole parameter. Pass the specs of the "
        "parameters, `partition_specs=` what shard_map has as in_specs for them. If "
        "every device has a parameter of its own, as a part of an ensemble under "
        "jax.vmap, or a whole one marked as varying by jax.lax.pcast, say 'own' in "
        "place of its spec: sums are then taken over what each device has.",
    ),
    "wholes taken for parts": Case(
        lambda: in_shard_map(P("x"), P("x", "y")),
        "ValueError: Inside shard_map kernel, an array of shape (4, 8), is the same "
        f"all along the mesh axes y, but partition_specs says {P('x', 'y')}: whole "
        "arrays would be taken for parts. Pass what shard_map has as in_specs for the "
        "parameters.",
    ),
    # What the functions that look at params refuse.
    "nothing to describe": Case(
        lambda: describe({}),
        "ValueError: describe needs the params, but got a tree without arrays. A Flax "
        "model that was never initialized has none.",
    ),
    "model of NNX": Case(
        lambda: describe(nnx.Linear(3, 2, rngs=nnx.Rngs(0))),
        "ValueError: describe needs the params, but got a model, Linear. Pass "
        "nnx.state(model, nnx.Param).",
    ),
    "model of Linen": Case(
        lambda: measure(PARAMS, nn.Dense(2)),
        "ValueError: measure needs the params, but got a model, Dense. Pass "
        'module.init(...)["params"].',
    ),
    "other things than arrays": Case(
        lambda: describe({"dense": {"activation": jnp.tanh}}),
        "ValueError: params has no array at dense/activation, but a [...]. Keep arrays "
        "only; for Equinox, eqx.filter(model, eqx.is_inexact_array).",
    ),
    "integers to measure": Case(
        lambda: measure({"table": jnp.arange(3)}, {"table": jnp.arange(3)}),
        "ValueError: grads has an array of int32 at table: only real and complex "
        "numbers have a gradient. Leave it out.",
    ),
    "two of one path to measure": Case(
        lambda: measure(*[{"a": {"b": KERNEL}, "a/b": KERNEL}] * 2),
        "ValueError: measure: two parameters have the path a/b, and their measurements "
        "would have the same names. Rename one.",
    ),
    "number of batches": Case(
        lambda: detect(num_batches=0),
        "ValueError: num_batches must be at least 1, but got 0.",
    ),
    "delta of the detector": Case(
        lambda: detect(delta=0.0),
        "ValueError: delta must be positive, but got 0.0.",
    ),
    "eps of the detector": Case(
        lambda: detect(eps=-1.0),
        "ValueError: eps must not be negative, but got -1.0.",
    ),
    "nothing to detect": Case(
        lambda: detect({"dense": None}),
        "ValueError: detect_scale_invariance needs the params, but got a tree without "
        "arrays. A Flax model that was never initialized has none.",
    ),
    "lone array to detect": Case(
        lambda: detect(KERNEL),
        "ValueError: detect_scale_invariance needs a path of its own for each "
        "parameter, but got a lone array. Put them into a dict.",
    ),
    "shapes to detect": Case(
        lambda: detect(jax.eval_shape(lambda: PARAMS)),
        "ValueError: detect_scale_invariance needs numbers, but dense/bias has only a "
        "shape, (2,). Initialize the model.",
    ),
    "too few batches": Case(
        lambda: detect(),
        "ValueError: detect_scale_invariance needs 8 batches, but got 0. Give it more, "
        "or a smaller num_batches.",
    ),
    "too few batches of some": Case(
        lambda: detect(
            {"kernel": KERNEL},
            lambda params, batch: batch * jnp.sum(params["kernel"]),
            [1.0],
            num_batches=2,
            dimension_numbers=Spec(0, 1),
        ),
        "ValueError: detect_scale_invariance needs 2 batches, but got 1. Give it more, "
        "or a smaller num_batches.",
    ),
    "detection under a transformation": Case(
        lambda: jax.jit(detect)(PARAMS),
        "ValueError: detect_scale_invariance decides by numbers, those of whole "
        "arrays, once before training. Call it outside of jax.jit, jax.vmap and "
        "jax.shard_map; loss_fn may use them.",
    ),
    "nothing that a program takes": Case(
        lambda: layouts.from_function(detect, {}),
        "ValueError: from_function needs the params, but got a tree without arrays. "
        "Pass what is trained, as detect takes it first.",
    ),
    "lone array that a program takes": Case(
        lambda: layouts.from_function(detect, KERNEL),
        "ValueError: from_function needs a path of its own for each parameter, but got "
        "a lone array. Put them into a dict.",
    ),
    "loss of many numbers": Case(
        lambda: detect(batches=[jnp.ones((4, 2))], num_batches=1),
        "ValueError: loss_fn must return one real number, but returned an array of "
        "float32 with shape (4, 2). Take the mean of losses, and leave out what else "
        "it returns.",
    ),
    "loss with more": Case(
        lambda: detect(
            loss_fn=lambda params, batch: (batch, params), batches=[1.0], num_batches=1
        ),
        "ValueError: loss_fn must return one real number, but returned a tuple. Take "
        "the mean of losses, and leave out what else it returns.",
    ),
}


@functools.cache
def error_of(case):
    try:
        CASES[case].call()
    except Exception as error:
        return error
    raise AssertionError(f"no error: {case}")


@pytest.mark.parametrize("case", CASES)
def test_message(case):
    error = error_of(case)
    said = f"{type(error).__name__}: {error}"
    pattern = ".*".join(map(re.escape, CASES[case].message.split("[...]")))
    assert re.fullmatch(pattern, said, re.DOTALL), said


def raised_at(error):
    """Where in the library, innermost, an error came from."""
    return [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if PACKAGE in Path(frame.filename).parents
    ][-1]


def test_each_error_of_the_library_has_a_case():
    reached = {raised_at(error_of(case)) for case in CASES}
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "_demo":  # Refuses options, see test_demo_commands.py.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise):
                lines = range(node.lineno, node.end_lineno + 1)
                assert any((str(path), line) in reached for line in lines), (
                    f"{path.name}:{node.lineno} has no case"
                )
