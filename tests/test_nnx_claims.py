"""What each layer of NNX says of its parameters, without running it."""

import jax
import pytest
from flax import nnx

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp.layouts._nnx import _Leaf, _leaves, _Plain, _plain

DENSE = Spec((0,), (1,))


def made(make, *args, **kwargs):
    return nnx.eval_shape(lambda: make(*args, **kwargs, rngs=nnx.Rngs(0)))


def grouped(rngs):
    return nnx.GroupNorm(12, num_groups=3, rngs=rngs)


def lora(rngs):
    return nnx.LoRA(5, 2, 7, rngs=rngs)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda rngs: nnx.Linear(3, 4, rngs=rngs),
            {"kernel": _Plain((3, 4), DENSE), "bias": _Plain((4,))},
        ),
        (
            lambda rngs: nnx.LinearGeneral(
                (3, 4), (5, 6), axis=(-2, -1), batch_axis={0: 2}, rngs=rngs
            ),
            {
                "kernel": _Plain((2, 3, 4, 5, 6), Spec((1, 2), (3, 4))),
                "bias": _Plain((2, 5, 6)),
            },
        ),
        (
            lambda rngs: nnx.Conv(4, 6, (3, 2), feature_group_count=2, rngs=rngs),
            {"kernel": _Plain((3, 2, 2, 6), Spec((0, 1, 2), 3)), "bias": _Plain((6,))},
        ),
        (
            lambda rngs: nnx.ConvTranspose(4, 6, 3, rngs=rngs),
            {"kernel": _Plain((3, 4, 6), Spec((0, 1), 2)), "bias": _Plain((6,))},
        ),
        (
            lambda rngs: nnx.ConvTranspose(4, 6, 3, transpose_kernel=True, rngs=rngs),
            {"kernel": _Plain((3, 6, 4), Spec((0, 2), 1)), "bias": _Plain((6,))},
        ),
        (
            lambda rngs: nnx.Einsum("bi,ihk->bhk", (3, 4, 5), (4, 5), rngs=rngs),
            {"kernel": _Plain((3, 4, 5), Spec((0,), (1, 2))), "bias": _Plain((4, 5))},
        ),
        (
            lambda rngs: nnx.Einsum("bi,ih->bh", (3, 4), rngs=rngs),
            {"kernel": _Plain((3, 4), DENSE), "bias": _Plain(())},
        ),
        (
            lambda rngs: nnx.Embed(9, 4, rngs=rngs),
            {"embedding": _Plain((9, 4), Spec(1, 0))},
        ),
        (
            lora,
            {"lora_a": _Plain((5, None), DENSE), "lora_b": _Plain((None, 7), DENSE)},
        ),
        *(
            (
                lambda rngs, norm=norm: norm(6, rngs=rngs),
                {"scale": _Plain((6,)), "bias": _Plain((6,))},
            )
            for norm in (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm)
        ),
        (grouped, {"scale": _Plain((12,)), "bias": _Plain((12,))}),
        (lambda rngs: nnx.PReLU(), {"negative_slope": _Plain(())}),
    ],
)
def test_layer(make, expected):
    layer = made(make)
    names = ("kernel", "bias", "embedding", "lora_a", "lora_b", "scale")

    told = {name: _plain(layer, (name,)) for name in (*names, "negative_slope")}

    assert {name: plain for name, plain in told.items() if plain} == expected
    for plain in expected.values():
        assert type(plain.shape) is tuple
    # Only what is an attribute of its own.
    for name in expected:
        assert _plain(layer, (name, "inside")) is None
        assert _plain(layer, ("inside", name)) is None


def test_subclasses_say_it_too_unless_they_lack_what_it_takes():
    class Mine(nnx.Linear):
        pass

    class Other(nnx.Module):
        kernel = None

    class Bare(nnx.Linear):
        def __init__(self, rngs):
            self.kernel = nnx.Param(jax.numpy.ones((3, 4)))

    assert _plain(made(lambda rngs: Mine(3, 4, rngs=rngs)), ("kernel",)) == (
        _Plain((3, 4), DENSE)
    )
    assert _plain(Other(), ("kernel",)) is None
    assert _plain(made(Bare), ("kernel",)) is None


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs)])
        self.named = nnx.Dict(first=nnx.Linear(4, 5, use_bias=False, rngs=rngs))
        self.tree = nnx.Param({"a": [jax.numpy.ones((2, 3))]})
        self.empty = nnx.Param(None)


def test_leaves_and_who_holds_them():
    linear = _Plain((3, 4), DENSE)
    leaves = {leaf.path: leaf for leaf in _leaves(made(Model), nnx.Param)}

    assert list(leaves.values()) == [
        _Leaf(("layers", 0, "bias"), (4,), nnx.Param, "Linear", "bias", _Plain((4,))),
        _Leaf(("layers", 0, "kernel"), (3, 4), nnx.Param, "Linear", "kernel", linear),
        _Leaf(
            ("named", "first", "kernel"),
            (4, 5),
            nnx.Param,
            "Linear",
            "kernel",
            _Plain((4, 5), DENSE),
        ),
        _Leaf(("tree", "a", "0"), (2, 3), nnx.Param, "Model", "tree/a/0", None),
    ]
