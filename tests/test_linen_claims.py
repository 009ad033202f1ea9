"""What each layer of Linen says of its parameters, without running it."""

import pytest
from flax import linen as nn
from optax_adamp.layouts._linen_layers import Call, Claim, claim

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp._rules import Reading

NO_CALL = Call((), {})
DENSE = Spec((0,), (1,))
EINSUM = Spec((0,), (1, 2))


def asked(equation):
    """The call of an `nn.Einsum` that is given its equation."""
    return Call((None, equation), {})


@pytest.mark.parametrize(
    ("layer", "names", "axes", "call", "spec"),
    [
        (nn.Dense(2), ["kernel"], 2, NO_CALL, DENSE),
        (nn.DenseGeneral(2), ["kernel"], 2, NO_CALL, DENSE),
        (nn.DenseGeneral((2, 3)), ["kernel"], 3, NO_CALL, EINSUM),
        (nn.DenseGeneral(2, axis=(-2, -1)), ["kernel"], 3, NO_CALL, Spec((0, 1), (2,))),
        (nn.DenseGeneral(2, batch_dims=(0,)), ["kernel"], 3, NO_CALL, Spec((1,), (2,))),
        (
            nn.DenseGeneral([2, 3], axis=[-1], batch_dims=[0]),
            ["kernel"],
            4,
            NO_CALL,
            Spec((1,), (2, 3)),
        ),
        (nn.Einsum((3, 2, 2), "bi,ihk->bhk"), ["kernel"], 3, NO_CALL, EINSUM),
        (nn.Einsum((3, 2, 2)), ["kernel"], 3, asked("bi,ihk->bhk"), EINSUM),
        (
            nn.Einsum((3, 2, 2)),
            ["kernel"],
            3,
            Call((None,), {"einsum_str": "bi,ihk->bhk"}),
            EINSUM,
        ),
        # The layer's own equation goes first, then what is given by name.
        (
            nn.Einsum((3, 2, 2), "bi,ihk->bhk"),
            ["kernel"],
            3,
            Call((None, "bhk,ihk->bi"), {"einsum_str": "bhk,ihk->bi"}),
            EINSUM,
        ),
        (nn.Conv(2, (3, 3)), ["kernel"], 4, NO_CALL, Spec((0, 1, 2), 3)),
        (nn.Conv(2, 3), ["kernel"], 3, NO_CALL, Spec((0, 1), 2)),
        (nn.ConvTranspose(2, (3, 3)), ["kernel"], 4, NO_CALL, Spec((0, 1, 2), 3)),
        (
            nn.ConvTranspose(2, (3,), transpose_kernel=True),
            ["kernel"],
            3,
            NO_CALL,
            Spec((0, 2), 1),
        ),
        (nn.ConvLocal(2, (3, 3)), ["kernel"], 4, NO_CALL, Spec(2, 3)),
        (nn.Embed(4, 2), ["embedding"], 2, NO_CALL, Spec(1, 0)),
        *(
            (nn.OptimizedLSTMCell(2), [f"{of}{gate}", "kernel"], 2, NO_CALL, DENSE)
            for of in "ih"
            for gate in "ifgo"
        ),
    ],
)
def test_kernels(layer, names, axes, call, spec):
    why = f"{type(layer).__name__}.{names[-1]}"
    assert claim(layer, tuple(names), axes, call) == Claim(Reading(spec, why), "")


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        *(
            (layer, "bias")
            for layer in (
                nn.Dense(2),
                nn.DenseGeneral(2),
                nn.Einsum((2, 3), "bi,io->bo"),
                nn.Conv(2, 3),
                nn.ConvTranspose(2, (3,)),
                nn.ConvLocal(2, (3,)),
            )
        ),
        *(
            (layer, name)
            for layer in (
                nn.BatchNorm(),
                nn.LayerNorm(),
                nn.RMSNorm(),
                nn.GroupNorm(),
                nn.InstanceNorm(),
            )
            for name in ("scale", "bias")
        ),
        (nn.PReLU(), "negative_slope"),
    ],
)
def test_what_is_never_projected(layer, name):
    why = f"{type(layer).__name__}.{name}"
    for axes in (0, 1, 2, 3):
        assert claim(layer, (name,), axes, NO_CALL) == Claim(Reading(None, why), "")


def test_paths_with_several_names():
    lstm, normed = nn.OptimizedLSTMCell(2), nn.WeightNorm(nn.Dense(2))

    assert claim(lstm, ("hf", "bias"), 1, NO_CALL) == Claim(
        Reading(None, "OptimizedLSTMCell.bias")
    )
    assert claim(normed, ("Dense_0/kernel/scale",), 1, NO_CALL) == Claim(
        Reading(None, "WeightNorm.scale")
    )
    for layer, names in (
        (lstm, ("hx", "kernel")),
        (lstm, ("xf", "bias")),
        (lstm, ("kernel",)),
        (lstm, ("a", "hf", "kernel")),
        (normed, ("scale",)),
        (nn.Dense(2), ("scale",)),
        (nn.Dense(2), ("a", "kernel")),
        (nn.Embed(4, 2), ("kernel",)),
        (nn.Sequential([]), ("kernel",)),
    ):
        assert claim(layer, names, 2, NO_CALL) is None


@pytest.mark.parametrize(
    ("layer", "name", "axes"),
    [
        (nn.Dense(2), "kernel", 3),
        (nn.DenseGeneral(2), "kernel", 3),
        (nn.Einsum((2, 3)), "kernel", 2),
        (nn.Conv(2, (3, 3)), "kernel", 5),
        (nn.Conv(2, (3, 3)), "kernel", 3),
        (nn.ConvTranspose(2, (3, 3)), "kernel", 3),
        (nn.ConvLocal(2, (3, 3)), "kernel", 3),
        (nn.Embed(4, 2), "embedding", 3),
    ],
)
def test_axes_that_do_not_fit(layer, name, axes):
    kind = type(layer).__name__
    expected = Claim(None, f"this is not a {name} as {kind} has it")
    assert claim(layer, (name,), axes, NO_CALL) == expected
    # An array of equations is none.
    assert claim(layer, (name,), axes, Call((None, None), {})) == expected


def test_sums_without_channels_or_over_nothing():
    outer = nn.Einsum((2,), "bi,i->bi")
    assert claim(outer, ("kernel",), 1, NO_CALL) == Claim(
        Reading(None, "Einsum.kernel without sums or channels")
    )
    for equation, spec in (("bi,i->b", Spec((0,), ())), ("b,o->bo", Spec((), (0,)))):
        assert claim(nn.Einsum((2,), equation), ("kernel",), 1, NO_CALL) == Claim(
            Reading(spec, "Einsum.kernel")
        )
