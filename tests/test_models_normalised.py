"""The networks of Yang 2019 and Thielen 2024 against the appendices as printed, and dropout over
devices.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from xinv import models, parallel
from xinv.models import regularise
from xinv.models.regularise import dropout
from xinv.models.table import ACTIVATIONS
from xinv.types import InputError

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def drawn(model, *inputs):
    """Variables that no part of the computation is invisible with."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = (
            rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.1, leaf.shape)
        )
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(model.init, KEY, *inputs))


def trained(model, *inputs, key=KEY, variables=None, devices=1):
    """Outputs and updates in training, of a batch divided among that many devices."""
    variables = variables or drawn(model, *inputs)
    shares = [x.reshape(devices, -1, *x.shape[1:]) for x in inputs]
    step = jax.vmap(lambda key, *x: model.train(variables, *x, key=key), axis_name=parallel.AXIS)
    # each device has its own key, and the first one's does not depend on how many there are
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(devices) * len(shares[0][0]))
    outputs, updates = jax.jit(step)(keys, *shares)
    return outputs.reshape(-1, *outputs.shape[2:]), updates


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size"), [(48, 16), (20, 10), (17, 1)])
def test_group_norm(channels, size):
    """GroupNorm is Wu and He's formula."""
    x, scale = np.asarray(normal(2, 3, 3, channels)) + 4, np.linspace(1, 2, channels)
    groups = x.astype(np.float64).reshape(2, 9, channels // size, size)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale

    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x):
            return regularise.norm(x, True, "group", name="norm")

    variables = {"params": {"norm": {"scale": scale, "bias": np.zeros(channels)}}}
    np.testing.assert_allclose(Normalised().apply(variables, x), expected, atol=2e-5)


def parameters(model, *inputs):
    return sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, KEY, *inputs)["params"])
    )


def blocks(pairs, taps):
    """Kernel, bias, and the scale and shift of a BatchNorm."""
    return sum(taps * inputs * outputs + 3 * outputs for inputs, outputs in pairs)


@pytest.mark.parametrize(
    ("size", "channels", "hidden", "classes"),
    [(32, (128, 256, 512), 50, 10), (64, (128, 256, 512, 1024), 2650, 530)],
)
def test_classifiers_of_figures_13_15(size, channels, hidden, classes):
    """Classifiers have the parameters of Yang's figures 13 and 15."""
    model = models.build(
        "cnn",
        classes=classes,
        channels=channels,
        hidden=hidden,
        norm="batch",
        activation="none",
        dropout=[0, 0.5],
    )
    flat = {32: 8192, 64: 16384}[size]
    expected = blocks(zip((1, *channels), channels, strict=False), 9)
    expected += flat * hidden + hidden + hidden * classes + classes
    assert parameters(model, jnp.zeros((1, size, size, 1))) == expected


@pytest.mark.parametrize(
    ("size", "stages", "vector"), [(32, (512, 256, 128), 10), (64, (1024, 512, 256, 128), 530)]
)
def test_inverters_of_figures_14_16(size, stages, vector):
    """Inverters have the parameters of Yang's figures 14 and 16."""
    model = models.build("tcnn", image_shape=(size, size, 1))
    expected = blocks(zip((vector, *stages), stages, strict=False), 16) + 16 * stages[-1] + 1
    assert parameters(model, jnp.zeros((1, vector))) == expected


@pytest.mark.parametrize(("columns", "channels"), [(10, 1034), (0, 1024)])
def test_inverters_read_any_explanation(columns, channels):
    """Inverters read any explanation beside the prediction."""
    model = models.build("dropout_tcnn", image_shape=(32, 32, 1), encoder="flatten")
    for explanation in (jnp.zeros((1, 32, 32, 1)), jnp.zeros((1, 1024))):
        shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, columns)), explanation)["params"][
            "decoder"
        ]
        assert shapes["upsample0"]["kernel"].shape == (channels, 4, 4, 512)


def test_classifier_equals_pytorchs():
    """Figure 15's order of layers in inference, and its running averages after one step."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = models.build(
        "cnn",
        classes=5,
        channels=[4, 6],
        hidden=7,
        norm="batch",
        activation="none",
        dropout=[0, 0.5],
    )
    images = normal(6, 8, 8, 3)
    variables = drawn(model, images)
    theirs = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 7), nn.Dropout(0.5), nn.Linear(7, 5)),
    )
    layers, statistics = variables["params"]["layers"], variables["batch_stats"]["layers"]

    def tensor(array):
        return torch.tensor(np.array(array))

    state = {}
    for ours, (conv, norm) in zip((0, 2), ((0, 1), (4, 5)), strict=True):
        state[f"{conv}.weight"] = tensor(layers[f"conv{ours}"]["kernel"].transpose(3, 2, 0, 1))
        state[f"{conv}.bias"] = tensor(layers[f"conv{ours}"]["bias"])
        state[f"{norm}.weight"] = tensor(layers[f"norm{ours}"]["scale"])
        state[f"{norm}.bias"] = tensor(layers[f"norm{ours}"]["bias"])
        state[f"{norm}.running_mean"] = tensor(statistics[f"norm{ours}"]["mean"])
        state[f"{norm}.running_var"] = tensor(statistics[f"norm{ours}"]["var"])
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    flat = layers["fc4"]["kernel"].reshape(2, 2, 6, 7).transpose(2, 0, 1, 3).reshape(24, 7)
    state |= {"9.weight": tensor(flat.T), "9.bias": tensor(layers["fc4"]["bias"])}
    state |= {
        "11.weight": tensor(layers["fc5"]["kernel"].T),
        "11.bias": tensor(layers["fc5"]["bias"]),
    }
    theirs.load_state_dict(state)
    inputs = tensor(jnp.moveaxis(images, 3, 1))
    expected = theirs.eval()(inputs).detach().numpy()
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-4)
    theirs.train()(inputs)
    _, updates = trained(model, images, variables=variables)
    moved = updates["batch_stats"]["layers"]["norm2"]["mean"][0]
    np.testing.assert_allclose(moved, theirs[5].running_mean.numpy(), rtol=1e-4, atol=1e-5)


def test_inverter_equals_pytorchs():
    """Figure 16's order of layers, in inference."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = models.build("tcnn", image_shape=(8, 8, 3), width=0.05)
    prediction = normal(4, 5)
    variables = drawn(model, prediction)
    layers, statistics = (
        variables["params"]["decoder"],
        variables["batch_stats"]["decoder"]["norm0"],
    )
    hidden = layers["upsample0"]["bias"].size
    theirs = nn.Sequential(
        *(nn.ConvTranspose2d(5, hidden, 4), nn.BatchNorm2d(hidden), nn.Tanh()),
        *(nn.ConvTranspose2d(hidden, 3, 4, 2, 1), nn.Sigmoid()),
    )
    arrays = {
        "0.weight": layers["upsample0"]["kernel"].transpose(0, 3, 1, 2),
        "0.bias": layers["upsample0"]["bias"],
        "1.weight": layers["norm0"]["scale"],
        "1.bias": layers["norm0"]["bias"],
        "1.running_mean": statistics["mean"],
        "1.running_var": statistics["var"],
        "3.weight": layers["upsample1"]["kernel"].transpose(0, 3, 1, 2),
        "3.bias": layers["upsample1"]["bias"],
    }
    state = {name: torch.tensor(np.array(array)) for name, array in arrays.items()}
    theirs.load_state_dict(state | {"1.num_batches_tracked": torch.tensor(0)})
    expected = theirs.eval()(torch.tensor(np.array(prediction))[:, :, None, None]).detach().numpy()
    np.testing.assert_allclose(
        jnp.moveaxis(model.apply(variables, prediction), 3, 1), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid", "gelu", "silu"])
def test_head_after_embedding(activation):
    """A classifier is its head after its embedding, for each row of Thielen's Table 1.

    For each row of Thielen's Table 1.
    """
    model = models.build(
        "cnn",
        classes=5,
        channels=[4],
        hidden=50,
        norm="batch",
        activation=activation,
        dropout=[0, 0.5],
    )
    images = normal(3, 4, 4, 1)
    variables = drawn(model, images)
    features, logits = (
        jax.jit(function)(variables, images) for function in (model.embed, model.apply)
    )
    assert features.shape == (3, 50)
    np.testing.assert_allclose(
        jax.jit(model.head)(variables, features), logits, rtol=1e-5, atol=1e-5
    )


def test_activations_are_the_papers_formulas():
    x = np.linspace(-4, 4, 41)
    formulas = {
        "none": x,
        "relu": np.maximum(x, 0),
        "tanh": np.tanh(x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "gelu": x * (1 + erf(x / np.sqrt(2))) / 2,
        "silu": x / (1 + np.exp(-x)),
    }
    assert formulas.keys() == ACTIVATIONS.keys()
    for name, expected in formulas.items():
        np.testing.assert_allclose(
            ACTIVATIONS[name](jnp.float32(x)), expected, rtol=1e-5, atol=1e-6
        )


def test_dropout_mean_and_masks():
    """Dropout keeps the mean, and the masks of other numbers of devices."""
    x = jnp.ones((8, 500))

    def dropped(devices):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(devices))
        shares = x.reshape(devices, -1, 500)
        masked = jax.vmap(lambda x, key: dropout(x, 0.3, key), axis_name=parallel.AXIS)(
            shares, keys
        )
        return np.asarray(masked).reshape(x.shape)

    alone = dropped(1)
    np.testing.assert_array_equal(alone, dropped(4))
    np.testing.assert_allclose(np.unique(alone), [0, 1 / 0.7], rtol=1e-6)
    assert abs((alone == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / alone.size)
    assert (alone[0] != alone[1]).any()


@pytest.mark.parametrize(
    ("hyper", "dropped"),
    [({"dropout": [0.9, 0]}, "fc2"), ({"dropout": [0, 0.9]}, "fc3"), ({"dropout": [0, 0]}, "")],
)
def test_dropout_before_its_layer(hyper, dropped):
    """With one weight of 1 per output and no bias, an output is a multiple of an input or 0."""
    model = models.build("cnn", classes=4, channels=[4], hidden=4, activation="none", **hyper)
    images = jax.random.uniform(KEY, (64, 2, 2, 1))
    variables = drawn(model, images)
    for name in ("fc2", "fc3"):
        variables["params"]["layers"][name] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    outputs, updates = trained(model, images, variables=variables)
    exact = model.apply(variables, images)
    kept = np.abs(outputs) > 0
    assert not updates
    np.testing.assert_allclose(outputs[kept], exact[kept] * (10 if dropped else 1), rtol=1e-5)
    assert abs(kept.mean() - (0.1 if dropped else 1)) < (0.08 if dropped else 1e-6)


@pytest.mark.slow
def test_step_on_two_devices():
    """A training step is the same on two devices."""
    model = models.build("dropout_tcnn", image_shape=(8, 8, 1), width=0.05)
    inputs = normal(6, 5)
    (alone, statistics), (together, same) = (
        trained(model, inputs, devices=devices) for devices in (1, 2)
    )
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-4)
    for one, two in zip(*map(jax.tree.leaves, (statistics, same)), strict=True):
        np.testing.assert_allclose(one[0], two[0], rtol=1e-3, atol=1e-4)
    assert np.abs(alone - model.apply(drawn(model, inputs), inputs)).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("cnn", {"classes": 2, "norm": "layer"}, "'layer'.*batch"),
        ("cnn", {"classes": 2, "activation": "elu"}, "'elu'.*silu"),
        ("cnn", {"classes": 2, "dropout": (0.5,)}, r"0\.5.*two rates"),
        ("cnn", {"classes": 2, "dropout": (0.5, 1.0)}, r"dropout 1\.0"),
        ("tcnn", {"image_shape": (8, 8, 1), "encoder": "unet"}, "'unet'.*flatten"),
        ("tcnn", {"image_shape": (8, 8, 1), "activation": "elu"}, "'elu'.*tanh"),
        ("tcnn", {"image_shape": (8, 8)}, r"\(8, 8\)"),
    ],
)
def test_bad_input_is_named(name, hyper, message):
    with pytest.raises(InputError, match=message):
        models.build(name, **hyper)


def test_a_missing_explanation_is_named():
    with pytest.raises(InputError, match="explanation"):
        models.build("tcnn", image_shape=(8, 8, 1), encoder="flatten").init(
            KEY, jnp.zeros((1, 5)), None
        )
