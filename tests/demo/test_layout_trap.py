"""`python -m optax_adamp.layouts`: what it prints and draws is what it measured."""

import matplotlib.image
import pytest

from optax_adamp._demo import layout_curves, layout_trap
from optax_adamp._demo.layout_networks import NETWORKS
from optax_adamp.layouts import __main__ as command


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_trap, "STEPS", 15)
        return {
            name: layout_trap.compare(network) for name, network in NETWORKS.items()
        }


@pytest.fixture(scope="module")
def curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_curves, "STEPS", 15)
        return layout_curves.curves(NETWORKS["BatchNorm ConvNet"], "Conv_1/kernel")


def test_axes_from_modules_find_all_that_is_invariant(trained):
    leaves = [leaf for network in trained.values() for leaf in network]
    invariant = [leaf for leaf in leaves if leaf.known != "none"]
    assert len(invariant) == 5
    for leaf in invariant:
        assert getattr(leaf.from_modules, leaf.known) == 1, leaf


def test_axes_from_modules_never_project_what_has_no_channels(trained):
    for leaf in trained["scanned transformer"]:
        if leaf.path.endswith(("scale", "bias", "position")):
            assert leaf.from_modules == (0, 0), leaf


def test_axis_0_takes_convolutions_for_layers(trained):
    for leaf in trained["BatchNorm ConvNet"]:
        if leaf.known == "channel":
            assert leaf.axis_0.layer > 0.8, leaf


def test_axis_0_projects_norms_by_chance(trained):
    by_chance = [
        leaf.axis_0.channel + leaf.axis_0.layer
        for leaf in trained["scanned transformer"]
        if leaf.path.endswith(("scale", "bias"))
    ]
    assert sum(by_chance) > 0


def test_all_parameters_with_two_axes_are_shown(trained):
    sizes = {name: len(leaves) for name, leaves in trained.items()}
    assert sizes == {"BatchNorm ConvNet": 4, "scanned transformer": 17}


def test_curves_tell_what_is_healthy(curves):
    healthy, axis_0, adamw = curves.values()
    assert (healthy["channel_cosine"] < 0.1).all()
    assert (axis_0["channel_cosine"] > 1).mean() > 0.8

    def growth(metrics):
        return metrics["weight_norm"][-1] / metrics["weight_norm"][0]

    assert healthy["weight_norm"][0] == adamw["weight_norm"][0]
    assert growth(adamw) > growth(healthy)


def test_report_and_pictures(trained, curves, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layout_trap, "compare", lambda _: next(results))
    monkeypatch.setattr(layout_curves, "curves", lambda *_: curves)
    results = iter(trained.values())
    assert command.main(["--output", str(tmp_path)]) == 0

    printed = capsys.readouterr().out
    head = "head/kernel    (32, 10)              0     0  100        0     0  100  none"
    assert head in printed.splitlines()
    blue, orange = (0, 0x72 / 255, 0xB2 / 255), (0xE6 / 255, 0x9F / 255, 0)
    vermilion = (0xD5 / 255, 0x5E / 255, 0)
    for name, colors, share in (
        (command.SHARES, (blue, orange), 0.04),
        (command.CURVES, (blue, vermilion), 0.0004),
    ):
        pixels = matplotlib.image.imread(tmp_path / name)[..., :3]
        for color in colors:
            assert (abs(pixels - color).max(-1) < 0.02).mean() > share
