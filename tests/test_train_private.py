"""Training with differential privacy: the step against a literal loop, its noise, and the ε that it
gives.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from trainings import SMALL, initial, line, pictures, squared_error, zeros

from xinv import parallel, train
from xinv.metrics import membership, privacy
from xinv.models import regularise
from xinv.train import Recipe, State, private
from xinv.types import InputError

KEY = jax.random.key(3)
RECORDED = np.load(Path(__file__).parent / "fixtures" / "privacy.npz")
BATCH = {name: leaf[:6] for name, leaf in line().items()}


def stepped(loss, variables, batch, clip, noise, devices=1, key=KEY):
    """The gradient that a step takes, and its metrics, on that many devices."""
    tx = optax.sgd(1.0)
    step = private.private_step(loss, tx, clip, noise)
    state = State(jnp.int32(0), variables, tx.init(train.step.split(variables)[0]))
    size = len(batch["x" if "x" in batch else "image"]) // devices
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(devices) * size)
    shares = {
        name: jnp.reshape(leaf, (devices, size, *leaf.shape[1:])) for name, leaf in batch.items()
    }
    after, metrics = jax.vmap(step, (None, 0, 0), axis_name=parallel.AXIS)(state, shares, keys)
    for leaf in jax.tree.leaves(after.variables):
        np.testing.assert_array_equal(leaf[0], leaf[-1])
    change = jax.tree.map(lambda old, new: np.asarray(old - new[0]), variables, after.variables)
    return change, jax.tree.map(lambda leaf: leaf[0], metrics)


def test_papers_loop():
    """A step is the paper's loop.

    Each gradient is clipped by itself; their sum is divided by the batch size.
    """
    w, clip = np.array([0.5, 0.0, -0.5]), 2.0
    total, clipped = np.zeros(3), 0
    for x, y in zip(BATCH["x"].astype(np.float64), BATCH["y"], strict=True):
        gradient = 2 * (x @ w - y) * x
        total += gradient / max(1, np.linalg.norm(gradient) / clip)
        clipped += np.linalg.norm(gradient) > clip
    assert 0 < clipped < 6
    change, metrics = stepped(
        squared_error, {"params": {"w": jnp.asarray(w, jnp.float32)}}, BATCH, clip, 0.0
    )
    np.testing.assert_allclose(change["params"]["w"], total / 6, rtol=1e-5)
    np.testing.assert_allclose(metrics["clipped"], clipped / 6)
    np.testing.assert_allclose(
        metrics["loss"], np.mean((BATCH["x"] @ w - BATCH["y"]) ** 2), rtol=1e-5
    )


def dropping(variables, batch, key):
    """A squared error after dropout."""
    kept = regularise.dropout(batch["x"], 0.5, key)
    return (kept @ variables["params"]["w"] - batch["y"]) ** 2, {}


@pytest.mark.slow
@pytest.mark.parametrize(("part", "devices"), [(2, 1), (6, 1), (1, 2), (3, 2)])
def test_neither_parts_nor_devices_matter(part, devices, monkeypatch):
    """Dropout masks are those of the example, and noise is added once."""
    variables = {"params": {"w": jnp.ones(3)}}
    expected, _ = stepped(dropping, variables, BATCH, 2.0, 0.5)
    private.private_step.cache_clear()
    monkeypatch.setattr(private, "_part", lambda size, parameters: part)
    actual, _ = stepped(dropping, variables, BATCH, 2.0, 0.5, devices)
    private.private_step.cache_clear()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, expected)


def test_noise_is_in_the_sum():
    """Gaussian of σC, whatever the data, of its own in each coordinate and step."""

    def nothing(variables, batch, key):
        return 0 * batch["x"].sum(1) + 0 * sum(
            leaf.sum() for leaf in variables["params"].values()
        ), {}

    variables = {"params": {"a": jnp.zeros((100, 200)), "b": jnp.zeros(20_000)}}
    found = [
        stepped(nothing, variables, BATCH, 0.5, 3.0, key=jax.random.key(seed))[0]["params"]
        for seed in (0, 1)
    ]
    drawn = (
        np.stack([found[0]["a"].ravel(), found[0]["b"], found[1]["a"].ravel(), found[1]["b"]]) * 6
    )
    np.testing.assert_allclose(drawn.std(axis=1), 1.5, rtol=0.02)
    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.05)
    np.testing.assert_allclose(np.corrcoef(drawn), np.eye(4), atol=0.03)


def test_memory_bounds_the_parts(monkeypatch):
    """The most examples that divide a batch and fit; on CPU one at a time."""
    parameters = {"w": np.zeros(2**18, np.float32)}  # 1 MiB
    assert private._part(50, parameters) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert private._part(50, parameters) == 50
    monkeypatch.setattr(private, "_BYTES", 20 * 2**20)
    assert [private._part(size, parameters) for size in (50, 17, 23)] == [10, 17, 1]


def test_batch_statistics_are_refused():
    recipe = Recipe(batch_size=8, epochs=1, validation=0, clip=1.0, noise=1.0)
    loss = train.classifier_loss(SMALL)
    with pytest.raises(
        InputError, match=r"^train: a training with noise needs .* choose norm='group'"
    ):
        train.fit(loss, initial(), pictures(), KEY, recipe)

    def counting(variables, batch, key):
        return squared_error(variables, batch, key)[0], {"count": jnp.ones(())}

    with pytest.raises(InputError, match="statistics of its batches"):
        train.fit(counting, zeros(), line(), KEY, recipe)


def test_own_step_refused():
    """A step of one's own would add no noise and is refused."""
    recipe = Recipe(batch_size=8, epochs=1, validation=0, clip=1.0, noise=1.0)
    with pytest.raises(
        InputError,
        match=r"noise of train is 1.0 but must be 0 in a training with a step of its own",
    ):
        train.loop(lambda *_: None, State(np.int32(0), zeros(), ()), line(), KEY, recipe)


# The accounting


def test_epsilon_is_dp_accountings():
    """Of its closed form, and of the mechanisms composed numerically."""
    for (sigma, epochs, delta), expected in zip(RECORDED["cases"], RECORDED["exact"], strict=True):
        found = privacy.epsilon(sigma, int(epochs), delta)
        assert abs(found - expected) < 1e-6 * max(1, expected)
        np.testing.assert_allclose(privacy.delta(found, sigma, int(epochs)), delta, rtol=1e-6)
    for (sigma, epochs, delta), expected in zip(
        RECORDED["composed_cases"], RECORDED["composed"], strict=True
    ):
        assert abs(privacy.epsilon(sigma, int(epochs), delta) - expected) < 1e-6
    found = [privacy.noise(epsilon, 20, 1e-5) for epsilon in (0.1, 1.0, 8.0)]
    np.testing.assert_allclose(found, RECORDED["sigmas"], rtol=1e-6)


def test_epsilon_at_the_ends():
    """Nothing overflows, and a δ that needs no ε has 0."""
    assert privacy.delta(1e9, 1e-3, 1000) == 0
    assert privacy.epsilon(1e6, 1, 1e-5) == 0
    assert 5e7 < privacy.epsilon(1e-3, 100, 1e-5) < 5.1e7
    np.testing.assert_allclose(privacy.delta(0, 1.0, 1), 0.3829249225, rtol=1e-9)  # 2Φ(½) - 1
    assert privacy.epsilon(4.0, 10, 1e-5, count=2) == privacy.epsilon(2.0, 10, 1e-5)
    np.testing.assert_allclose(
        privacy.noise(1.0, 10, 1e-5, count=3), 3 * privacy.noise(1.0, 10, 1e-5)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: privacy.epsilon(0.0, 10, 1e-5), "noise is 0.0 but must be positive"),
        (lambda: privacy.epsilon(1.0, 0, 1e-5), "epochs is 0 but must be a whole number"),
        (lambda: privacy.epsilon(1.0, 10, 0.0), "delta is 0.0 but must be above 0 and below 1"),
        (
            lambda: privacy.noise(-1.0, 10, 1e-5),
            "epsilon is -1.0 but must be finite and at least 0",
        ),
        (lambda: privacy.delta(1.0, 1.0, 10, count=0), "count is 0"),
    ],
)
def test_bad_privacy_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_epsilon_bounds_attacks():
    """A classifier that learns labels drawn at random by heart gives them away, and with ε = 1 it
    does not.
    """
    random = np.random.default_rng(0)
    x = np.maximum(load_digits().data[:800] / 16 @ random.normal(size=(64, 512)), 0).astype(
        np.float32
    )
    data = {
        "x": x / np.linalg.norm(x, axis=1, keepdims=True),
        "y": random.integers(0, 10, 800).astype(np.int32),
    }
    members = {name: leaf[:400] for name, leaf in data.items()}

    def logistic(variables, batch, key):
        logits = batch["x"] @ variables["params"]["w"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]), {}

    def bound(**privately):
        recipe = Recipe(batch_size=100, epochs=40, learning_rate=0.3, validation=0, **privately)
        weights = train.fit(
            logistic, {"params": {"w": jnp.zeros((512, 10))}}, members, KEY, recipe
        ).variables
        losses, _ = logistic(weights, data, None)
        return membership.epsilon(delta=1e-5)(np.arange(800) < 400, -np.asarray(losses))[
            "epsilon_lower_bound"
        ].value

    assert bound(clip=1.0, noise=privacy.noise(1.0, 40, 1e-5)) <= 1 < bound()
