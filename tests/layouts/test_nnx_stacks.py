"""Layers of NNX stacked by transforms: each takes the step that it takes alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_nnx_layers import build, specs_of, train_functionally

from layout_layers import draw, fit, standardize
from layout_steps import assert_steps_are_those_of_pytorch
from optax_adamp.layouts import from_nnx
from trees import Spec

LAYERS = 4
AXES = [0, 1, -1]


class Block(nnx.Module):
    """A transformer block with weights of all three views.

    Query and key are normalized per head: scale-invariant as wholes. What goes into
    the instance norm is scale-invariant by channel. The rest is not.
    """

    def __init__(self, features, hidden, rngs):
        self.norm = nnx.LayerNorm(features, use_bias=False, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, features, normalize_qk=True, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(features, hidden, use_bias=False, rngs=rngs)
        self.channels = nnx.InstanceNorm(hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, features, rngs=rngs)

    def __call__(self, values):
        values = values + self.attention(self.norm(values))
        return values + self.down(jnp.tanh(self.channels(self.up(values))))


def stack(make, layers=LAYERS, out_axes=0):
    """A module made as many times as there are layers, in one."""
    split = nnx.split_rngs(splits=layers)
    return split(nnx.vmap(make, in_axes=0, out_axes=out_axes))


def blocks(features=6, hidden=8):
    return lambda rngs: Block(features, hidden, rngs)


def run_blocks(stacked, values, axis):
    scan = nnx.scan(
        lambda block, values: block(values),
        in_axes=(axis, nnx.Carry),
        out_axes=nnx.Carry,
    )
    return scan(stacked, values)


def penalty(stacked):
    """Lets no weight but query, key and up look scale-invariant by chance."""
    layers = stacked.attention.value, stacked.attention.out, stacked.down
    return sum(jnp.sum(layer.kernel[...] ** 2) for layer in layers)


def as_matrix(kernel):
    return kernel.reshape(6, 6).T


# By path in a block: its PyTorch weight, and the view that it takes.
BLOCK = {
    "attention/query/kernel": (as_matrix, "layer"),
    "attention/key/kernel": (as_matrix, "layer"),
    "attention/value/kernel": (as_matrix, "none"),
    "attention/out/kernel": (as_matrix, "none"),
    "up/kernel": (np.transpose, "channel"),
    "down/kernel": (np.transpose, "none"),
}


def each_layer(axis, function):
    return lambda array: [function(layer) for layer in np.moveaxis(array, axis, 0)]


@pytest.mark.parametrize(
    "axis", [pytest.param(a, marks=pytest.mark.nightly if a else ()) for a in AXES]
)
def test_transformer(axis):
    """Its steps are PyTorch's of each of its blocks, decay included."""
    history = train_functionally(
        build(stack(blocks(), out_axes=axis)),
        lambda model: fit(run_blocks(model, draw(3, 5, 6), axis)) + penalty(model),
    )

    assert_steps_are_those_of_pytorch(
        history,
        {path: each_layer(axis, weight) for path, (weight, _) in BLOCK.items()},
        {path: view for path, (_, view) in BLOCK.items()},
    )
    assert {view for _, view in BLOCK.values()} == {"channel", "layer", "none"}


def nested(inner_axis, outer_axis):
    def make(rngs):
        return nnx.Linear(6, 5, rngs=rngs)

    return stack(stack(make, 2, inner_axis), 3, outer_axis)


NESTED = [  # The axes of the inner and the outer stack, a spec, where the layers are.
    (0, 0, Spec((2,), (3,)), (0, 1)),
    (1, 0, Spec((1,), (3,)), (0, 2)),
    (0, -1, Spec((1,), (2,)), (3, 0)),
    (-1, 1, Spec((0,), (2,)), (1, 3)),
]


@pytest.mark.parametrize(("inner_axis", "outer_axis", "spec", "layers"), NESTED)
def test_nested(inner_axis, outer_axis, spec, layers):
    layout = from_nnx(build(nested(inner_axis, outer_axis)))
    assert layout == {"kernel": spec, "bias": None}
    first, second = sorted(layers)
    assert layout.reasons["kernel"] == (
        f"Linear.kernel, stacked along axes {first}, {second}"
    )


@pytest.mark.parametrize(
    ("inner_axis", "outer_axis", "layers"),
    [
        pytest.param(
            inner, outer, layers, marks=() if outer == 1 else pytest.mark.nightly
        )
        for inner, outer, _, layers in NESTED
    ],
)
def test_steps_of_nested(inner_axis, outer_axis, layers):
    def loss(model):
        run = nnx.vmap(lambda layer, values: layer(values), in_axes=(inner_axis, None))
        run = nnx.vmap(run, in_axes=(outer_axis, None))
        return fit(standardize(run(model, draw(16, 6)), (0, 1, -1)))

    def cut(kernel):
        matrices = np.moveaxis(kernel, layers, (0, 1)).reshape(-1, 6, 5)
        return [matrix.T for matrix in matrices]

    history = train_functionally(build(nested(inner_axis, outer_axis)), loss)
    assert_steps_are_those_of_pytorch(history, {"kernel": cut}, {"kernel": "channel"})


def lifted(spec, axis):
    """A spec of a single layer, for layers stacked along an axis."""
    if spec is None:
        return None

    def move(axes):
        axes_of_layer = np.ravel(axes)
        count = 1 + max(np.ravel([*np.ravel(spec[0]), *np.ravel(spec[1])]))
        kept = np.delete(np.arange(count + 1), axis)
        moved = tuple(int(kept[axis]) for axis in axes_of_layer)
        return moved if isinstance(axes, tuple) else moved[0]

    return Spec(move(spec.reduction_axis), move(spec.output_axis))


def lifted_layout(make, axis):
    specs = specs_of(from_nnx(nnx.eval_shape(lambda: make(nnx.Rngs(0)))))
    return {path: lifted(spec, axis) for path, spec in specs.items()}


@pytest.mark.parametrize("axis", AXES)
def test_equal_sizes_settled_by_neighbours(axis):
    """Most shapes leave the axis open here, such as (4, 4, 4); their block does not."""
    make = blocks(features=LAYERS)
    model = nnx.eval_shape(lambda: stack(make, out_axes=axis)(nnx.Rngs(0)))

    assert specs_of(from_nnx(model)) == lifted_layout(make, axis)


class Pair(nnx.Module):
    def __init__(self, first, second):
        self.first, self.second = first, second


def test_stacks_side_by_side():
    """Each stack is settled within itself before anything around it counts."""
    make = blocks(features=LAYERS)
    model = nnx.eval_shape(
        lambda: Pair(*(stack(make, out_axes=axis)(nnx.Rngs(0)) for axis in (0, 1)))
    )

    layout = from_nnx(model)
    assert specs_of(layout["first"]) == lifted_layout(make, 0)
    assert specs_of(layout["second"]) == lifted_layout(make, 1)
    assert layout["first"]["up"].reasons["kernel"] == (
        "Linear.kernel, stacked along axis 0"
    )


class Adapted(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.LoRALinear(LAYERS, LAYERS, lora_rank=2, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)


def test_axes_by_type_of_variable():
    """Adapters do not tell how the kernel beside them, (4, 4, 4), is stacked."""
    axes = nnx.StateAxes({nnx.LoRAParam: 1, ...: 0})
    model = nnx.eval_shape(lambda: stack(Adapted, out_axes=axes)(nnx.Rngs(0)))

    assert specs_of(from_nnx(model)) == {
        "head/kernel": Spec((1,), (2,)),
        "head/bias": None,
        "linear/kernel": Spec((1,), (2,)),
        "linear/bias": None,
        "linear/lora/lora_a": Spec((0,), (2,)),
        "linear/lora/lora_b": Spec((0,), (2,)),
    }


def square(rngs):
    return nnx.Linear(LAYERS, LAYERS, use_bias=False, rngs=rngs)


def test_nothing_settles_equal_sizes():
    model = build(stack(square))

    with pytest.raises(ValueError, match="does not know") as caught:
        from_nnx(model)

    readings = " or ".join(
        f"stacked along axis {axis}, ProjectionDimensionNumbers({reduction}, {output})"
        for axis, reduction, output in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    )
    assert (
        f"kernel: an array of shape (4, 4, 4) of {nnx.Linear.__module__}.Linear: its "
        f"sizes leave open whether it is {readings}\n"
    ) in str(caught.value)
    assert '    "kernel": ProjectionDimensionNumbers((0, 1), 2),' in str(caught.value)
    layout = from_nnx(model, overrides={"kernel": Spec((1,), (2,))})
    assert layout["kernel"] == Spec((1,), (2,))


@pytest.mark.parametrize(
    "neighbour",
    [
        lambda rngs: nnx.Linear(6, 8, rngs=rngs),
        stack(lambda rngs: nnx.Linear(6, 8, rngs=rngs), layers=3),
    ],
    ids=["not stacked", "stacked by another transform"],
)
def test_what_settles_nothing(neighbour):
    """Only what is stacked alike tells how a layer is stacked."""
    model = build(lambda rngs: Pair(stack(square)(rngs), neighbour(rngs)))

    with pytest.raises(ValueError, match=r"first/kernel: .* leave open") as caught:
        from_nnx(model)
    assert "second" not in str(caught.value)


def test_readings_that_do_not_differ():
    """Among a layer's own batch axes the place of one more does not matter."""

    def make(rngs):
        return nnx.LinearGeneral(3, 5, batch_axis={0: LAYERS}, rngs=rngs)

    layout = from_nnx(build(stack(make, out_axes=1)))

    assert layout == {"kernel": Spec((2,), (3,)), "bias": None}
    assert layout.reasons["kernel"] == "LinearGeneral.kernel, stacked"


def test_a_module_of_a_user():
    """A vector of a layer has two axes in a stack, where nothing tells it apart."""

    class Own(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(6, 5, rngs=rngs)
            self.shift = nnx.Param(jnp.zeros(5))

    model = build(stack(Own))

    with pytest.raises(ValueError, match=r"shift: an array of shape \(4, 5\) of .*Own"):
        from_nnx(model)
    layout = from_nnx(model, overrides={"shift": None})
    assert layout["linear"]["kernel"] == Spec((1,), (2,))
