"""What each layer of NNX says of its parameters, without running it."""

import re

import jax
import pytest
from flax import nnx

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp.layouts import from_nnx
from optax_adamp.layouts._build import ModelParameter
from optax_adamp.layouts._nnx import (
    _describe,
    _Leaf,
    _leaves,
    _order,
    _Plain,
    _plain,
    _readings,
    _Stacking,
    _stackings,
)
from optax_adamp.layouts._rules import Reading

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
            lambda rngs: nnx.Einsum("bi,ihk->bhk", [3, 4, 5], [4, 5], rngs=rngs),
            {"kernel": _Plain((3, 4, 5), Spec((0,), (1, 2))), "bias": _Plain((4, 5))},
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
        self.count = nnx.BatchStat(jax.numpy.ones(2))


def test_leaves_and_who_holds_them():
    linear = _Plain((3, 4), DENSE)
    leaves = {leaf.path: leaf for leaf in _leaves(made(Model), nnx.Param)}

    assert list(leaves.values()) == [
        _Leaf(("layers", 0, "bias"), (4,), nnx.Param, nnx.Linear, "bias", _Plain((4,))),
        _Leaf(("layers", 0, "kernel"), (3, 4), nnx.Param, nnx.Linear, "kernel", linear),
        _Leaf(
            ("named", "first", "kernel"),
            (4, 5),
            nnx.Param,
            nnx.Linear,
            "kernel",
            _Plain((4, 5), DENSE),
        ),
        _Leaf(("tree", "a", "0"), (2, 3), nnx.Param, Model, "tree/a/0", None),
    ]


def leaf(shape, plain, path=("layer", "kernel")):
    return _Leaf(path, shape, nnx.Param, nnx.Linear, path[-1], plain)


@pytest.mark.parametrize(
    ("shape", "plain", "reading", "problem"),
    [
        ((2, 3), _Plain((3,)), Reading(None, "Linear.kernel"), ""),
        ((3,), _Plain((3,), DENSE), Reading(None, "fewer than two axes"), ""),
        ((), None, Reading(None, "fewer than two axes"), ""),
        (
            (2, 3),
            None,
            None,
            "pass from_nnx what the model is called with, and its program tells",
        ),
        ((3, 4), _Plain((3, 4), DENSE), Reading(Spec(0, 1), "Linear.kernel"), ""),
        (
            (7, 3, 4),
            _Plain((3, 4), DENSE),
            Reading(Spec(1, 2), "Linear.kernel, stacked along axis 0"),
            "",
        ),
        (
            (8, 3, 7, 4),
            _Plain((3, None), DENSE),
            None,
            "its sizes leave open whether it is stacked along axes 0, 2, "
            "ProjectionDimensionNumbers(1, 3) or stacked along axes 0, 3, "
            "ProjectionDimensionNumbers(1, 2)",
        ),
        (
            (4, 5),
            _Plain((3, None), DENSE),
            None,
            "it would have made (3, any) or a stack of these",
        ),
        (
            (4, 4, 4),
            _Plain((4, 4), DENSE),
            None,
            "its sizes leave open whether it is stacked along axis 0, "
            "ProjectionDimensionNumbers(1, 2) or stacked along axis 1, "
            "ProjectionDimensionNumbers(0, 2) or stacked along axis 2, "
            "ProjectionDimensionNumbers(0, 1)",
        ),
    ],
)
def test_what_is_said_of_a_leaf(shape, plain, reading, problem):
    alone = leaf(shape, plain)
    owner = f"{nnx.Linear.__module__}.Linear"
    expected = ModelParameter(("layer", "kernel"), shape, reading, owner, problem)
    assert _describe(alone, [alone]) == expected


def test_neighbors_settle_what_sizes_leave_open():
    kernel = leaf((4, 4, 4), _Plain((4, 4), DENSE))
    wide = leaf((4, 5, 6), _Plain((5, 6)), ("layer", "wide"))
    settled = Reading(Spec(1, 2), "Linear.kernel, stacked along axis 0")

    assert _describe(kernel, [kernel, wide]).reading == settled
    # Those of another kind, or of which nothing is known, settle nothing.
    for other in (wide._replace(variable=nnx.BatchStat), wide._replace(plain=None)):
        assert _describe(kernel, [kernel, other]).reading is None
    # One stacked in another way is of another transform.
    apart = leaf((5, 6, 7, 4), _Plain((5, 6, 7)), ("layer", "apart"))
    assert _describe(kernel, [kernel, apart]).reading == Reading(
        Spec(0, 1), "Linear.kernel, stacked along axis 2"
    )
    assert _describe(kernel, [kernel, wide, apart]).reading is None
    # One further above has a say where the nearer ones leave it open: the axis of this
    # bias is 0, or -2, which in the kernel is 1.
    bias, top = (
        leaf((4, 5), _Plain((5,)), ("layer", "bias")),
        wide._replace(path=("t",)),
    )
    open_still = _describe(kernel, [kernel, bias])
    assert open_still.problem.endswith(
        "whether it is stacked along axis 0, ProjectionDimensionNumbers(1, 2) or "
        "stacked along axis 1, ProjectionDimensionNumbers(0, 2)"
    )
    assert _describe(kernel, [kernel, bias, top]).reading == settled
    assert _describe(kernel, [kernel, top]).reading == settled
    # Where those above contradict the nearer ones, the nearer ones stand.
    above = apart._replace(path=("t",))
    assert _describe(kernel, [kernel, wide, above]).reading == settled
    assert _describe(kernel, [kernel, bias, above]) == open_still


def test_order_of_stacked_axes():
    assert _order(2, ()) == [0, 1]
    assert _order(2, (0,)) == [~0, 0, 1]
    assert _order(2, (2,)) == _order(2, (-1,)) == [0, 1, ~0]
    assert _order(2, (-3,)) == [~0, 0, 1]
    assert _order(1, (1, 0)) == [~1, 0, ~0]
    assert _order(1, (0, -1)) == [~0, 0, ~1]


def test_all_stackings():
    assert _stackings((3, 4), (3, 4)) == {_Stacking((), ())}
    assert _stackings((3, 4), (3, 5)) == set()
    assert _stackings((3,), (4,)) == set()
    assert _stackings((3,), ()) == set()
    assert _stackings((None, 4), (9, 4)) == {_Stacking((), ())}
    assert _stackings((3,), (7, 3)) == {_Stacking((0,), (7,)), _Stacking((-2,), (7,))}
    assert _stackings((3,), (3, 7)) == {_Stacking((1,), (7,)), _Stacking((-1,), (7,))}
    assert _stackings((3,), (8, 3, 7)) == {
        _Stacking(axes, sizes)
        for first, second, sizes in (
            ((0, -2), (2, -1), (8, 7)),
            ((1, -1), (0, -3), (7, 8)),
        )
        for axes in ((a, b) for a in first for b in second)
    }


def test_readings_of_stackings():
    plain = _Plain((3, 3), DENSE)
    readings = _readings(plain, _stackings((3, 3), (3, 3, 3)))
    assert list(readings.items()) == [
        (Spec(1, 2), "stacked along axis 0"),
        (Spec(0, 2), "stacked along axis 1"),
        (Spec(0, 1), "stacked along axis 2"),
    ]
    # Where a batch axis stands makes no difference to the spec.
    batched = _Plain((3, 3, 4), Spec((1,), 2))
    readings = _readings(batched, _stackings((3, 3, 4), (3, 3, 3, 4)))
    assert readings == {
        Spec(2, 3): "stacked",
        Spec(1, 3): "stacked along axis 2",
    }


def test_what_nobody_knows():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Param(jax.numpy.ones((2, 3)))

    start = (
        "from_nnx does not know which axes form a channel in these parameters:\n"
        f"  table: an array of shape (2, 3) of {__name__}.test_what_nobody_knows."
        "<locals>.Own: pass from_nnx what the model is called with, and its program "
        "tells\n"
    )
    with pytest.raises(ValueError, match=rf"\A{re.escape(start)}"):
        from_nnx(made(Own))
