"""README's code runs as it stands, and its promises are those that CI keeps."""

import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def namespace():
    """The names that are left when all Python blocks have run in order."""
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_loops_train(namespace):
    losses = namespace["losses"]
    assert losses[-1] < 0.1 * losses[0]
    assert namespace["loss"] < 0.1 * jnp.log(10)


def test_composition_projects(namespace):
    tx = namespace["lionp"]
    params = {"kernel": jnp.array([[3.0], [4.0]])}
    grads = {"kernel": jnp.array([[8.0], [-6.0]])}
    updates, _ = tx.update(grads, tx.init(params), params)
    # Lion's step is (1, -1) times the rate; its radial part -1/5 of it goes.
    expected = -1e-3 * (jnp.array([[28.0], [-21.0]]) / 25 + 0.01 * params["kernel"])
    chex.assert_trees_all_close(updates, {"kernel": expected}, rtol=1e-5)


def test_dimension_numbers_project_the_channels_they_name(namespace):
    shapes = {
        "query": (8, 2, 4),
        "stacked_layers": (3, 8, 4),
        "equinox_linear": (4, 8),
        "position": (6, 8),
    }
    reduction_axis = {"query": 0, "stacked_layers": 1, "equinox_linear": 1}
    params = {
        name: jax.random.normal(jax.random.key(len(name)), shape)
        for name, shape in shapes.items()
    }

    def radial(name, u):
        w, axis = params[name], reduction_axis.get(name, 0)
        return (
            w
            * jnp.sum(u * w, axis, keepdims=True)
            / jnp.sum(w * w, axis, keepdims=True)
        )

    noise = jax.tree.map(lambda w: jnp.roll(w, 1), params)
    grads = {name: u - radial(name, u) for name, u in noise.items()}
    tx = namespace["tx"]
    updates, _ = tx.update(grads, tx.init(params), params)
    left = {
        name: float(jnp.max(jnp.abs(radial(name, u)) / 1e-3))
        for name, u in updates.items()
    }
    assert left.pop("position") > 0.1
    assert max(left.values()) < 1e-5


def test_ci_runs_the_commands_to_the_letter():
    (commands,) = blocks("sh")
    script = (CHECKOUT / ".ci" / "run").read_text()
    for command in commands.splitlines():
        install, _, _ = command.partition(" && ")
        assert f"readme_command '{install}'" in script
