"""The networks, the training and the table of the layout trap, on a small scale."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from optax_adamp import ProjectionDimensionNumbers as Spec
from optax_adamp import layouts
from optax_adamp._demo import data, layout_curves, layout_networks, layout_trap
from optax_adamp._demo.layout_networks import NETWORKS, Network
from optax_adamp._demo.layout_trap import Leaf, Shares
from trees import shapes_of

CONVNET, TRANSFORMER = "BatchNorm ConvNet", "scanned transformer"


# The networks


def test_parameters_of_the_convolutional_network():
    variables = layout_networks.init(NETWORKS[CONVNET])

    assert shapes_of(variables["params"]) == {
        "BatchNorm_0/bias": (16,),
        "BatchNorm_0/scale": (16,),
        "BatchNorm_1/bias": (32,),
        "BatchNorm_1/scale": (32,),
        "BatchNorm_2/bias": (32,),
        "BatchNorm_2/scale": (32,),
        "Conv_0/kernel": (3, 3, 1, 16),
        "Conv_1/kernel": (3, 3, 16, 32),
        "Conv_2/kernel": (3, 3, 32, 32),
        "head/bias": (10,),
        "head/kernel": (32, 10),
    }


def test_parameters_of_the_transformer():
    params = layout_networks.init(NETWORKS[TRANSFORMER])["params"]

    assert shapes_of(params) == {
        "embed/bias": (32,),
        "embed/kernel": (8, 32),
        "head/bias": (10,),
        "head/kernel": (32, 10),
        "layers/attn/key/kernel": (4, 32, 4, 8),
        "layers/attn/key_ln/scale": (4, 8),
        "layers/attn/out/kernel": (4, 4, 8, 32),
        "layers/attn/query/kernel": (4, 32, 4, 8),
        "layers/attn/query_ln/scale": (4, 8),
        "layers/attn/value/kernel": (4, 32, 4, 8),
        "layers/in/bias": (4, 64),
        "layers/in/kernel": (4, 32, 64),
        "layers/norm_1/bias": (4, 32),
        "layers/norm_1/scale": (4, 32),
        "layers/norm_2/bias": (4, 32),
        "layers/norm_2/scale": (4, 32),
        "layers/out/bias": (4, 32),
        "layers/out/kernel": (4, 64, 32),
        "norm/bias": (32,),
        "norm/scale": (32,),
        "position": (8, 32),
    }
    # Of 256 numbers.
    assert np.std(params["position"]) == pytest.approx(0.02, rel=0.25)
    kernels = params["layers"]["in"]["kernel"]
    assert len(np.unique(kernels[:, 0, 0])) == 4  # No two layers start the same.


def same_conv(x, kernel):
    """Convolution whose images, with a border of zeros, keep their size."""
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def normalized(x, axes, epsilon):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def convnet(params, images):
    x = images[..., None]
    for index in range(3):
        x = same_conv(x, params[f"Conv_{index}"]["kernel"])
        norm = params[f"BatchNorm_{index}"]
        x = normalized(x, (0, 1, 2), 1e-5) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def layer_norm(x, norm):
    return normalized(x, -1, 1e-6) * norm["scale"] + norm.get("bias", 0)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def attention(x, attn):
    def heads(name):
        return np.einsum("brf,fhd->bhrd", x, attn[name]["kernel"])

    query = layer_norm(heads("query"), attn["query_ln"])
    key = layer_norm(heads("key"), attn["key_ln"])
    weights = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    mixed = weights @ heads("value")
    return np.einsum("bhrd,hdf->brf", mixed, attn["out"]["kernel"])


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def transformer(params, images):
    x = dense(images, params["embed"]) + params["position"]
    for index in range(4):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"])
        x = x + attention(layer_norm(x, layer["norm_1"]), layer["attn"])
        hidden = gelu(dense(layer_norm(x, layer["norm_2"]), layer["in"]))
        x = x + dense(hidden, layer["out"])
    return dense(layer_norm(x, params["norm"]).mean(1), params["head"])


@pytest.mark.parametrize("in_numpy", [convnet, transformer])
def test_networks_are_what_numpy_says(in_numpy):
    network = NETWORKS[{convnet: CONVNET, transformer: TRANSFORMER}[in_numpy]]
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(3, 8, 8)).astype(np.float32)
    variables = layout_networks.init(network)
    params = variables.pop("params")
    # Also where scales and biases start at one or zero.
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + rng.normal(0, 0.1, leaf.shape), np.float32),
        params,
    )

    # A GPU would take products in half of the digits.
    with jax.default_matmul_precision("highest"):
        logits, _ = network.module.apply(
            {"params": params, **variables}, images, mutable=["batch_stats"]
        )
    expected = in_numpy(
        jax.tree.map(np.float64, params), np.asarray(images, np.float64)
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_what_is_known_of_the_networks():
    known = {name: network[1:] for name, network in NETWORKS.items()}
    assert known == {
        "BatchNorm ConvNet": (
            {
                "Conv_0/kernel": "channel",
                "Conv_1/kernel": "channel",
                "Conv_2/kernel": "channel",
            },
            {},
        ),
        "scanned transformer": (
            {"layers/attn/query/kernel": "layer", "layers/attn/key/kernel": "layer"},
            {"position": None},
        ),
    }


def test_settings():
    assert (layout_networks.BATCH_SIZE, layout_networks.LEARNING_RATE) == (64, 3e-3)
    assert (layout_trap.STEPS, layout_curves.STEPS) == (300, 300)
    assert layout_trap.COMPARED == {
        "from_modules": "axes from modules",
        "axis_0": "axis 0",
    }
    assert layout_curves.METRICS == {
        "channel_cosine": "largest channel cosine / threshold",
        "weight_norm": "norm of the weight",
        "channel_step": "effective step of its channels",
    }


# The layouts


def test_axes_from_modules_are_asked_of_the_module(monkeypatch):
    monkeypatch.setattr(layouts, "from_linen", lambda *args, **kwargs: (args, kwargs))
    network = Network(Linear(), {}, {"kernel": None})
    (module, image), kwargs = layout_networks.from_modules(network)

    assert module is network.module
    np.testing.assert_array_equal(image, data.load().train_images[:1].reshape(1, 8, 8))
    assert kwargs == {"overrides": {"kernel": None}}


def test_axis_0_is_the_channel_of_all_that_has_two_axes(monkeypatch):
    params = {
        "scale": np.zeros(()),
        "bias": np.zeros(3),
        "kernel": np.zeros((2, 3)),
        "conv": np.zeros((3, 3, 1, 2)),
    }
    monkeypatch.setattr(layout_networks, "init", lambda _: {"params": params})

    assert layout_networks.axis_0(NETWORKS[CONVNET]) == {
        "scale": None,
        "bias": None,
        "kernel": Spec((1,), 0),
        "conv": Spec((1, 2, 3), 0),
    }


# The training


class Linear(nn.Module):
    """A softmax regression that counts the images it has seen, of which none learns."""

    @nn.compact
    def __call__(self, images):
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros((), jnp.int32))
        seen.value += len(images)
        pixels = images.reshape(len(images), -1)
        shape = (pixels.shape[1], layout_networks.CLASSES)
        return pixels @ self.param("kernel", nn.initializers.normal(0.5), shape)


LINEAR = Network(Linear(), {}, {})


@pytest.fixture
def small(monkeypatch):
    """Eight images of four pixels, three classes, batches of five."""
    monkeypatch.setattr(layout_networks, "SIDE", 2)
    monkeypatch.setattr(layout_networks, "CLASSES", 3)
    monkeypatch.setattr(layout_networks, "BATCH_SIZE", 5)
    images = np.random.default_rng(0).uniform(size=(8, 4)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) % 3
    # Whoever looks at the images held out meets nothing.
    loaded = data.Data(images, labels, np.empty((0, 4)), np.empty(0, np.int32))
    monkeypatch.setattr(data, "load", lambda: loaded)
    return loaded


def test_one_image_is_enough_to_start_and_it_starts_the_same_each_time(small):
    variables = layout_networks.init(LINEAR)

    assert variables["batch_stats"]["seen"] == 1
    kernel = variables["params"]["kernel"]
    drawn = Linear().init(jax.random.key(0), np.ones((1, 2, 2)))["params"]["kernel"]
    np.testing.assert_array_equal(kernel, drawn)


def test_training_is_that_of_a_plain_loop(small):
    traced = []

    def observe(grads, params, updates):
        traced.append(updates)
        return {"grads": grads, "params": params, "updates": updates}

    # It needs params, and a state that is not params.
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9))
    observed = layout_networks.train(LINEAR, tx, observe, steps=3)
    assert len(traced) == 1

    images, labels = small.train_images, small.train_labels
    kernel = np.asarray(layout_networks.init(LINEAR)["params"]["kernel"])
    momentum = 0.0
    expected = {"grads": [], "params": [], "updates": []}
    for key in jax.random.split(jax.random.key(1), 3):
        batch = np.asarray(jax.random.choice(key, 8, (5,)))
        chances = np.exp(images[batch] @ kernel)
        chances /= chances.sum(1, keepdims=True)
        errors = chances - np.eye(3)[labels[batch]]
        grads = images[batch].T @ errors / 5
        momentum = 0.9 * momentum + grads + 0.1 * kernel
        expected["grads"].append(grads)
        expected["params"].append(kernel)
        expected["updates"].append(-0.5 * momentum)
        kernel = kernel - 0.5 * momentum
    assert observed.keys() == expected.keys()
    for what, values in expected.items():
        actual = observed[what]["kernel"]
        assert isinstance(actual, jax.Array)
        np.testing.assert_allclose(actual, values, rtol=1e-4, atol=1e-6)


# Comparing

PARAMS = {
    "bias": np.ones(2, np.float32),
    "kernel": np.ones((2, 2), np.float32),
    "table": np.ones((2, 2), np.float32),
}
# Across the columns of the kernel; not across its rows, but across all of it.
ACROSS = {
    "bias": np.ones(2, np.float32),
    "kernel": np.array([[1, 1], [-1, -1]], np.float32),
    "table": np.array([[1, -1], [2, -2]], np.float32),
}
RIGHT = {"bias": None, "kernel": Spec(0, 1), "table": None}
AXIS_0 = {"bias": None, "kernel": Spec(1, 0), "table": Spec(1, 0)}
NETWORK = Network(Linear(), {"kernel": "channel"}, {})


def of_network(answer):
    def ask(network):
        assert network is NETWORK
        return answer

    return ask


@pytest.fixture
def trainings(monkeypatch):
    """The trainings asked for, each of four steps; one gradient goes across weights."""
    asked = []

    def train(network, tx, observe, steps):
        assert network is NETWORK
        asked.append((tx, steps))
        updates = jax.tree.map(lambda leaf: leaf / 2, ACROSS)
        along = PARAMS
        every_step = [
            observe(grads, PARAMS, updates) for grads in (along, ACROSS, along, along)
        ]
        return jax.tree.map(lambda *values: jnp.stack(values), *every_step)

    for module in (layout_trap, layout_curves):
        monkeypatch.setattr(module, "train", train)
        monkeypatch.setattr(module, "from_modules", of_network(RIGHT))
        monkeypatch.setattr(module, "axis_0", of_network(AXIS_0))
        monkeypatch.setattr(module, "adamp", lambda *args, **kwargs: (args, kwargs))
    monkeypatch.setattr(layout_trap, "init", of_network({"params": PARAMS}))
    return asked


def adamp(dimension_numbers):
    return ((3e-3,), {"dimension_numbers": dimension_numbers})


def test_comparing_asks_both_layouts_at_each_step_of_one_training(trainings):
    kernel, table = layout_trap.compare(NETWORK)

    assert trainings == [(adamp(RIGHT), 300)]
    assert kernel == Leaf("kernel", (2, 2), Shares(0.25, 0), Shares(0, 0.25), "channel")
    assert table == Leaf("table", (2, 2), Shares(0, 0), Shares(0.25, 0), "none")
    # For JAX's numbers, those of Python.
    shares = [*kernel.from_modules, *kernel.axis_0, *table.from_modules, *table.axis_0]
    assert {type(share) for share in shares} == {float}


def test_curves_are_what_each_of_three_trainings_shows(trainings):
    curves = layout_curves.curves(NETWORK, "kernel")

    # Radial gradients are beyond the threshold by as much as they can.
    far = 10 * np.sqrt(2)
    # Half as long as the columns, and across them; along rows, which it does not turn.
    turned = 2 * np.sin(np.arctan(1 / 2) / 2)
    by_column = {"channel_cosine": [far, 0, far, far], "channel_step": [turned] * 4}
    by_row = {"channel_cosine": [far] * 4, "channel_step": [0] * 4}
    expected = {
        "AdamP, axes from modules": by_column,
        "AdamP, axis 0": by_row,
        "AdamW": by_column,
    }
    assert curves.keys() == expected.keys()
    for name, metrics in expected.items():
        assert curves[name].keys() == {*metrics, "weight_norm"}
        assert {type(values) for values in curves[name].values()} == {np.ndarray}
        for metric, values in {**metrics, "weight_norm": [2] * 4}.items():
            np.testing.assert_allclose(
                curves[name][metric], values, rtol=1e-5, atol=1e-5
            )

    *adamps, (adamw, steps) = trainings
    assert adamps == [(adamp(RIGHT), 300), (adamp(AXIS_0), 300)]
    assert steps == 300
    # Adam's first step is as long as the rate, and nothing decays.
    weights = jnp.array([5.0, 5.0])
    updates, _ = adamw.update(jnp.array([2.0, 0.0]), adamw.init(weights), weights)
    np.testing.assert_allclose(updates, [-3e-3, 0], rtol=1e-4)


# What is printed

LEAVES = [
    Leaf("a/kernel", (3, 2), Shares(1, 0), Shares(0.9, 0.1), "channel"),
    Leaf("b/table", (128, 2), Shares(0.125, 0.5), Shares(0, 0.25), "none"),
    Leaf("b/query", (2, 4, 8), Shares(0, 1), Shares(0, 0), "layer"),
    Leaf("b/key", (2, 4, 8), Shares(0, 1), Shares(0.5, 0), "layer"),
]


@pytest.mark.parametrize(
    ("number", "shares"), [(0, (0.28125, 0.625)), (1, (0.35, 0.0875))]
)
def test_mean_shares_of_all_parameters(number, shares):
    field = list(layout_trap.COMPARED)[number]
    mean = layout_trap.mean_shares(LEAVES, field)

    assert isinstance(mean, Shares)
    assert mean == pytest.approx(shares)
    assert mean.none == pytest.approx(1 - sum(shares))


def test_known_shares_of_all_parameters():
    shares = layout_trap.known_shares(LEAVES)

    assert (shares.channel, shares.layer, shares.none) == (0.25, 0.5, 0.25)


TABLE = """
some network            axes from modules, %           axis 0, %
parameter shape           channel layer none  channel layer none  invariant
a/kernel  (3, 2)              100     0    0       90    10    0  channel
b/table   (128, 2)             12    50   38        0    25   75  none
b/query   (2, 4, 8)             0   100    0        0     0  100  layer
b/key     (2, 4, 8)             0   100    0       50     0   50  layer
all                            28    62    9       35     9   56
""".strip()


def test_table_of_all_parameters():
    assert layout_trap.table("some network", LEAVES) == TABLE
