"""What Orbax saved of AdamW goes on under AdamP, of SGD under SGDP, and back."""

import chex
import optax
import pytest
from test_optimizer_state import VARIANTS, run

import restore_worker
import training
from optax_adamp import adamp, sgdp
from training import SETTINGS

BATCHES = list(zip(*training.all_batches(), strict=True))
BEFORE, AFTER = BATCHES[:4], BATCHES[4:]


def through_orbax(path, saved, like):
    restore_worker.save(path, saved)
    return restore_worker.restore(path, like)


@pytest.mark.parametrize(
    "variant",
    ["plain", pytest.param("both by schedule, and a mask", marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize("direction", ["AdamW to AdamP", "AdamP to AdamW"])
def test_adamw_and_adamp_share_their_checkpoints(direction, variant, tmp_path):
    """A job restores into its own state, and need not know who saved."""
    arguments = {**SETTINGS[adamp], **VARIANTS[variant]}
    optimizers = {
        "AdamW": optax.adamw(**arguments),
        "AdamP": adamp(**arguments, delta=training.DELTA, wd_ratio=training.WD_RATIO),
    }
    saver, restorer = (optimizers[name] for name in direction.split(" to "))
    params = training.initial_params()
    saved = run(saver, params, saver.init(params), BEFORE)

    own = params, restorer.init(params)
    restored = through_orbax(tmp_path / "saved", saved, own)

    chex.assert_trees_all_equal_structs(restored, own)
    trained, _ = run(restorer, *restored, AFTER)
    in_memory, _ = run(restorer, *saved, AFTER)
    chex.assert_trees_all_equal(trained, in_memory)
    stayed, _ = run(saver, *saved, AFTER)
    training.assert_kernels_differ(trained, stayed)


@pytest.mark.parametrize(
    "nesterov", [False, pytest.param(True, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("direction", ["SGD to SGDP", "SGDP to SGD"])
def test_sgd_and_sgdp_share_their_trace(direction, nesterov, tmp_path):
    """Each restores what the other saved, and puts the trace into its own state."""
    arguments = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
    # Each with an SGDP that takes the same steps, in which the state need not change.
    optimizers = {
        "SGD": (optax.sgd(**arguments), sgdp(**arguments, delta=0.0)),
        "SGDP": 2 * (sgdp(**arguments, weight_decay=0.04, delta=training.DELTA),),
    }
    saver, restorer = (optimizers[name] for name in direction.split(" to "))
    params = training.initial_params()

    saved = run(saver[0], params, saver[0].init(params), BEFORE)
    restored, state = through_orbax(tmp_path / "saved", saved, saved)
    trace = optax.tree.get(state, "trace")
    state = optax.tree.set(restorer[0].init(restored), trace=trace)
    trained, _ = run(restorer[0], restored, state, AFTER)

    in_memory = run(saver[1], params, saver[1].init(params), BEFORE)
    training.assert_close(trained, run(restorer[1], *in_memory, AFTER)[0])
    stayed, _ = run(saver[1], *in_memory, AFTER)
    training.assert_kernels_differ(trained, stayed)
