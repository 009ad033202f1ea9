"""The benchmarks measure what they say, whatever they find."""

import json
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import contenders
import problems
import report
import timing
import training_steps
import trees
from optax_adamp import adamp
from port import adamp_port

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHECKOUT = BENCHMARKS.parent.parent


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run prints, and the folder with what it writes."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, BENCHMARKS, "--quick", "--no-torch", "--output", folder]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, folder


@pytest.mark.nightly
def test_quick_run_compares_all_pairs(quick):
    printed, folder = quick
    measured = json.loads((folder / "benchmarks.json").read_text())
    compared = {
        (entry["problem"], entry["name"], entry["baseline"])
        for entry in measured["ratios"]
    }
    of_jax = {
        pair for pair in contenders.RATIOS if {*pair} <= {*contenders.JAX_CONTENDERS}
    }
    assert compared >= {(name, *pair) for name in problems.QUICK for pair in of_jax}
    parts = {name.split()[0] for name, *_ in compared if name not in problems.QUICK}
    once = {"tracing", "describing,", "reading,", "detecting,"}
    assert parts == {"training:", "compilation,"} | once
    assert report.markdown(measured) in printed
    assert "nothing here is a result" in printed
    assert (folder / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_contenders_take_turns(monkeypatch):
    """A clock that only the contenders move."""
    now, order = 0.0, []

    def run_of(name, seconds):
        def steps(count):
            nonlocal now
            now += count * seconds
            order.append((name, count))

        return contenders.Run(steps, compile_seconds=0.0)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    runs = {"fast": run_of("fast", 1 / 128), "slow": run_of("slow", 1 / 32)}
    times = timing.interleave(runs, rounds=3, seconds=0)
    # Three steps of the fast one last as long as a timing must.
    rounds = order[-6:]
    assert rounds[:4] == [("fast", 3), ("slow", 1), ("slow", 1), ("fast", 3)]
    np.testing.assert_allclose(times["fast"], [1 / 128] * 3)
    np.testing.assert_allclose(times["slow"], [1 / 32] * 3)
    assert timing.median_ratio(times, "slow", "fast") == pytest.approx((4, 4, 4))


def test_ratios_are_of_the_same_round():
    """A machine that was slow for a round was so for both."""
    times = {"a": np.array([2.0, 20.0, 6.0]), "b": np.array([1.0, 10.0, 2.0])}
    assert timing.median_ratio(times, "a", "b") == (2, 2, 2.5)


@pytest.mark.nightly
def test_gradients_are_orthogonal_to_weights():
    problem = problems.make_problem(trees.matrices((3, 3, 8, 16), (64, 32), (5,)), None)
    for weight, grad in zip(problem.params[:2], problem.grads[:2], strict=True):
        inner = (weight * grad).sum(tuple(range(weight.ndim - 1)))
        assert abs(inner).max() < 1e-5


@pytest.mark.nightly
def test_port_takes_the_steps_of_the_package():
    """What is timed beside the package is right, but for batch axes."""
    shapes = trees.matrices((3, 3, 8, 16), (64, 32), (5,))
    problem = problems.make_problem(shapes, None)
    both = adamp(1e-2, weight_decay=0.1), adamp_port(1e-2, 0.1, None)
    steps = [jax.jit(tx.update) for tx in both]
    # Neither view, the layer, and every channel
    aims = (np.ones(16), np.resize([1.0, -1.0], 16), np.zeros(16))
    for aim in aims:
        grads = [problem.grads[0] + aim * problem.params[0], *problem.grads[1:]]
        stepped = []
        for tx, step in zip(both, steps, strict=True):
            updates, _ = step(grads, tx.init(problem.params), problem.params)
            stepped.append(optax.apply_updates(problem.params, updates))
        chex.assert_trees_all_close(*stepped, atol=1e-6, rtol=1e-5)


@pytest.mark.nightly
def test_sums_of_cut_rows_are_those_of_whole_ones():
    params = trees.matrices((3, 3, 128, 16), (1024, 32), (512, 4), (16, 8, 4))
    problem = problems.make_problem(params, None)
    tx = adamp(1e-2, weight_decay=0.1)

    def update():
        # A function of its own, which is traced anew.
        step = jax.jit(lambda *arguments: tx.update(*arguments)[0])
        arguments = problem.grads, tx.init(problem.params), problem.params
        return step(*arguments), str(jax.make_jaxpr(step)(*arguments))

    whole, program_of_whole = update()
    with contenders.rows_cut():
        cut, program_of_cut = update()
    chex.assert_trees_all_close(cut, whole, atol=1e-6, rtol=1e-5)
    parts = [f"f32[{shape}]" for shape in ("4,256,32", "2,256,4", "3,3,4,32,16")]
    assert all(part in program_of_cut for part in parts)
    assert not any(part in program_of_whole for part in parts)


@pytest.mark.nightly
def test_resnet50_can_be_differentiated():
    """Quick runs train the other network alone."""
    params = trees.resnet50()
    batch = trees.matrices((2, 32, 32, 3)) + trees.matrices((2,), dtype=jnp.int32)
    grads = jax.eval_shape(jax.grad(training_steps.resnet_loss), params, tuple(batch))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


def measured_in(name):
    return json.loads((CHECKOUT / ".github" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["benchmarks", "benchmarks_gpu"])
def test_page_shows_what_was_measured(name):
    """The table that a run prints is copied there, and its JSON is kept."""
    _, shown = (BENCHMARKS / "README.md").read_text().split(f"<!-- {name}: start -->\n")
    shown, _ = shown.split(f"<!-- {name}: end -->")
    assert shown == report.markdown(measured_in(name)) + "\n"


def test_readme_says_what_training_steps_took():
    measured = measured_in("benchmarks_gpu")
    resnet, gpt2 = (
        f"{entry['ratio']:.2f}"
        for entry in measured["ratios"]
        if entry["problem"].startswith("training: ")
    )
    readme = " ".join((CHECKOUT / "README.md").read_text().split())
    assert "H100" in measured["hardware"]
    assert (
        f"on an H100 {resnet} times as long for ResNet-50 and {gpt2} times for GPT-2."
    ) in readme
