"""The training loop, against a float64 witness, across devices and data paths."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss
from trainings import (
    SMALL,
    Lazy,
    equal,
    fit_private,
    fit_small,
    initial,
    line,
    pictures,
    run_here,
    squared_error,
    zeros,
)

from xinv import parallel, train
from xinv.train import Recipe, Session, State, batches, progress
from xinv.types import InputError

# The result


def test_fit_is_adam_in_float64():
    data, recipe = (
        line(),
        Recipe(batch_size=60, epochs=40, learning_rate=0.05, b1=0.5, b2=0.9, validation=0),
    )
    fitted = train.fit(squared_error, zeros(), data, jax.random.key(0), recipe)
    w, first, second, losses = np.zeros(3), np.zeros(3), np.zeros(3), []
    x, y = data["x"].astype(np.float64), data["y"].astype(np.float64)
    for t in range(1, 41):
        losses.append(np.mean((x @ w - y) ** 2))
        gradient = 2 * x.T @ (x @ w - y) / len(x)
        first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
        w = w - 0.05 * first / (1 - 0.5**t) / (np.sqrt(second / (1 - 0.9**t)) + 1e-8)
    np.testing.assert_allclose(fitted.variables["params"]["w"], w, rtol=1e-4)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_and_momentum(optimizer):
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, b1=0.5, weight_decay=0.2)
    tx, w = train.optimizer(recipe, 10), jnp.float32(3.0)
    state, steps = tx.init(w), []
    for _ in range(2):
        change, state = tx.update(jnp.float32(1.0), state, w)
        steps.append(float(change))
    gradient = 1 + 0.2 * 3
    expected = {"sgd": [-0.1 * gradient, -0.1 * 1.5 * gradient], "adamw": [-0.1 * gradient] * 2}
    np.testing.assert_allclose(steps, expected[optimizer], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "shape"),
    [
        ("constant", lambda p: 1 + 0 * p),
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: (1 + np.cos(np.pi * p)) / 2),
    ],
)
def test_learning_rate_schedules(schedule, shape):
    recipe = Recipe(
        optimizer="sgd", learning_rate=0.5, b1=0, schedule=schedule, epochs=5, warmup_epochs=1
    )
    tx = train.optimizer(recipe, 50)
    state, rates = tx.init(jnp.float32(0)), []
    for _ in range(50):
        change, state = tx.update(jnp.float32(-1), state)
        rates.append(float(change))
    expected = [*(np.arange(10) / 10), *shape(np.arange(40) / 40)]
    np.testing.assert_allclose(rates, 0.5 * np.array(expected), atol=1e-6)


def test_classifier_loss_is_cross_entropy():
    data, variables = pictures(), initial()
    images = data["image"] / np.float32(255)
    losses, _ = train.classifier_loss(SMALL)(
        variables, {"image": images, "label": data["label"]}, None
    )
    probabilities = np.asarray(jax.nn.softmax(SMALL.apply(variables, images)), np.float64)
    expected = log_loss(data["label"], probabilities / probabilities.sum(1, keepdims=True))
    np.testing.assert_allclose(np.mean(losses), expected, rtol=1e-5)


def test_any_variables_are_learned():
    """`fit` learns variables of any shape and spares the initial ones."""
    zero = jnp.zeros(3)
    loss = lambda w, batch, key: ((batch["x"] @ w - batch["y"]) ** 2, {})
    fitted = train.fit(
        loss, zero, line(), jax.random.key(0), Recipe(batch_size=9, epochs=60, learning_rate=0.05)
    )
    np.testing.assert_allclose(fitted.variables, [1, -2, 0.5], atol=1e-3)
    np.testing.assert_array_equal(zero, np.zeros(3))


def test_batch_statistics_are_kept():
    fitted = fit_small(augment=(), validation=0, epochs=10)
    inputs = pictures()["image"] / np.float32(255)
    means = (
        nn.Conv(4, (3, 3), use_bias=False)
        .apply({"params": fitted.variables["params"]["Conv_0"]}, inputs)
        .mean((0, 1, 2))
    )
    np.testing.assert_allclose(
        fitted.variables["batch_stats"]["BatchNorm_0"]["mean"], means, atol=0.05
    )


# One result, however it is computed


def counting_step(state, batch, key):
    """Counts how often each example is drawn, and the steps."""
    counts = state.variables.at[batch["id"]].add(1)
    variables = state.variables + jax.lax.psum(counts - state.variables, parallel.AXIS)
    return State(state.step + 1, variables, state.opt_state), {
        "loss": jnp.mean(jnp.float32(batch["id"]))
    }


def test_epoch_draws_without_replacement():
    """An epoch draws each example at most once and fills every batch."""
    data, recipe = {"id": np.arange(22)}, Recipe(batch_size=4, epochs=3, validation=0)
    orders = list(batches.Plan(recipe, 22, jax.random.key(0), "").orders(0))
    assert [order.shape for order in orders] == [(5, 4)] * 3
    assert all(len(set(order.ravel())) == 20 for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    state = State(np.int32(0), jnp.zeros(22, jnp.int32), ())
    counts = train.loop(counting_step, state, data, jax.random.key(0), recipe).variables
    assert counts.sum() == 60
    assert counts.max() <= 3


@pytest.mark.parametrize("epochs", [1, 2])
def test_left_out_examples(epochs):
    """Those that no batch had are those whose own parameter no step moved."""
    recipe = Recipe(batch_size=8, epochs=epochs, optimizer="sgd", learning_rate=0.1, validation=0)
    key = jax.random.key(3)

    def loss(variables, batch, key):
        return batch["own"] @ variables, {}

    fitted = train.fit(
        loss, np.zeros(15, np.float32), {"own": np.eye(15, dtype=np.float32)}, key, recipe
    )
    found = train.left_out(recipe, 15, key)
    np.testing.assert_array_equal(found, np.flatnonzero(np.asarray(fitted.variables) == 0))
    assert len(found) == 7 if epochs == 1 else len(found) < 7


def test_streamed_data_same_bits(monkeypatch):
    """Streamed data give the same bits."""
    expected = fit_small()
    lazy = {name: Lazy(array) for name, array in pictures().items()}
    assert equal(fit_small(data=lazy), expected)


def test_many_steps_per_dispatch(monkeypatch):
    """Many steps per dispatch on resident data give the same result."""
    expected, runner = fit_small(), parallel.runner
    monkeypatch.setattr(parallel, "runner", lambda step, data: runner(step, data, resident=True))
    monkeypatch.setattr(parallel, "_STEPS_PER_DISPATCH", 3)  # epochs of 4 steps: dispatches of 2
    actual = fit_small()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        actual.variables,
        expected.variables,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), actual.history, expected.history
    )


@pytest.mark.slow
def test_four_devices_agree_with_one(tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    done = run_here("save", str(tmp_path / "four.npz"), XLA_FLAGS=flags, NPROC="8")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "four.npz") as four:
        assert four["devices"] == 4
        for i, leaf in enumerate(jax.tree.leaves(fit_small()[:2])):
            np.testing.assert_allclose(four[str(i)], leaf, atol=2e-5)
        np.testing.assert_allclose(four["private"], fit_private(), atol=2e-6)


def test_one_compilation_serves_all_seeds():
    traces = []

    def loss(variables, batch, key):
        traces.append("evaluate" if key is None else "train")
        return squared_error(variables, batch, key)

    for seed in range(3):
        train.fit(loss, zeros(), line(), jax.random.key(seed), Recipe(batch_size=10, epochs=2))
    assert sorted(traces) == ["evaluate", "train"]


# Augmentation


def test_augmentation():
    """Augmentation shifts and flips whole images."""
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    possible = {
        padded[i : i + 3, j : j + 4][:, ::flip].tobytes()
        for i in range(3)
        for j in range(3)
        for flip in (1, -1)
    }
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.jit(
        jax.vmap(lambda key: batches._augmented(("crop", "flip"), 1, jnp.asarray(image), key))
    )(keys)
    assert {np.asarray(one).tobytes() for one in drawn} == possible
    assert len(possible) == 18


def test_arrays_seen_by_steps():
    """Steps see images as floats, and other arrays as they are."""
    seen = {}

    def step(state, batch, key):
        seen.update({name: (leaf.dtype, leaf.ndim) for name, leaf in batch.items()})
        return state._replace(step=state.step + 1), {"loss": jnp.max(batch["image"])}

    data = {**pictures(), "byte": np.zeros(40, np.uint8)}
    recipe = Recipe(batch_size=40, epochs=1, validation=0)
    fitted = train.loop(step, State(np.int32(0), (), ()), data, jax.random.key(0), recipe)
    assert seen == {"image": (jnp.float32, 4), "label": (jnp.int32, 1), "byte": (jnp.uint8, 1)}
    assert fitted.history["loss"] == [data["image"].max() / np.float32(255)]


# Validation


def test_validation_never_trained_on():
    """Validation examples are never trained on."""
    one_hot = {"x": np.eye(40, dtype=np.float32), "y": np.ones(40, np.float32)}
    recipe = Recipe(
        batch_size=8, epochs=8, optimizer="sgd", b1=0, validation=0.2, patience=8, learning_rate=0.1
    )
    fitted = train.fit(
        squared_error, {"params": {"w": jnp.zeros(40)}}, one_hot, jax.random.key(3), recipe
    )
    w = np.asarray(fitted.variables["params"]["w"])
    held_out = batches.Plan(recipe, 40, jax.random.split(jax.random.key(3))[0], "").validation
    assert set(np.flatnonzero(w == 0)) == set(held_out)
    assert (
        fitted.history["validation_loss"] == [1.0] * 8
    )  # the error of the examples whose weight stays zero


def test_best_epoch_restored():
    """Early stopping restores the best epoch.

    The variable counts steps, 2 an epoch; the score is lowest at 6, after epoch 3; patience 2
    ends after epoch 5.
    """

    def step(state, batch, key):
        return State(state.step + 1, state.variables + 1, ()), {"loss": jnp.float32(0)}

    def evaluate(variables, batch):
        return jnp.full(len(batch["x"]), jnp.abs(variables - 6))

    recipe = Recipe(batch_size=4, epochs=50, validation=0.2, patience=2)
    state, data = State(np.int32(0), jnp.float32(0), ()), {"x": np.zeros((10, 1))}
    fitted = train.loop(step, state, data, jax.random.key(0), recipe, evaluate)
    assert (fitted.variables, fitted.steps) == (6, 10)
    assert fitted.history["validation_loss"] == [4, 2, 0, 2, 4]


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion' but must be one of adam, adamw, sgd"),
        ({"schedule": "step"}, "schedule is 'step' but must be one of constant, cosine, linear"),
        ({"augment": ("crop", "blur")}, "must be any of crop, flip"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0 but must be positive"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"validation": 0.0, "patience": 3}, "patience is 3 but must be 0"),
        ({"warmup_epochs": 10}, "warmup_epochs is 10"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation": 0, "noise": 1.0}, "clip is 0.0 but must be positive when noise is"),
        ({"validation": 0, "clip": 1.0}, "noise is 0.0 but must be positive when clip is"),
        (
            {"validation": 0.1, "clip": 1.0, "noise": 1.0},
            "validation is 0.1 but must be 0 when noise",
        ),
        ({"validation": 0, "clip": 1.0, "noise": float("inf")}, "noise is inf but must be finite"),
    ],
)
def test_bad_recipes(changes, message):
    """A recipe names what is wrong with it."""
    with pytest.raises(InputError, match=message):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (line(20), {"batch_size": 32}, "18 training images are fewer than a batch of 32"),
        ({**line(), "x": np.full((60, 3), np.nan, np.float32)}, {}, "'x' holds NaN or infinite"),
        ({**line(), "y": np.zeros(59, np.float32)}, {}, r"\[59, 60\]"),
        (line(), {"augment": ("flip",)}, "no uint8 images"),
        *(
            (
                {
                    "image": np.zeros((60, 4, 4, 1), np.uint8),
                    "maps": np.zeros((60, *several, 4, 4, 1), np.float32),
                },
                {"augment": ("flip",)},
                "would move the uint8 images but not 'maps'",
            )
            for several in ((), (2,))
        ),
    ],
)
def test_untrainable_data(data, changes, message):
    """Data that cannot be trained on are named."""
    with pytest.raises(InputError, match=message):
        train.fit(
            squared_error,
            zeros(),
            data,
            jax.random.key(0),
            Recipe(**{"batch_size": 8, "epochs": 1, **changes}),
        )


def test_indivisible_batch(monkeypatch):
    """A batch that the devices do not divide is named."""
    monkeypatch.setattr(parallel, "device_count", lambda: 3)
    with pytest.raises(InputError, match="a batch of 8 does not divide among 3 devices"):
        fit_small()


# What a person sees


def test_progress_and_scalars(capsys):
    logged = []
    fitted = fit_small(
        Session(name="target", log=lambda step, values: logged.append((step, values)))
    )
    assert "target: step 12/12" in capsys.readouterr().err
    steps = [(step, values["loss"]) for step, values in logged if "loss" in values]
    assert [step for step, _ in steps] == list(range(1, 13))
    means = np.reshape([loss for _, loss in steps], (3, 4)).mean(1)
    np.testing.assert_allclose(fitted.history["loss"], means, rtol=1e-12)
    epochs = [(step, values) for step, values in logged if "epoch/validation_loss" in values]
    assert epochs == [
        (4 * i + 4, {"epoch/validation_loss": v})
        for i, v in enumerate(fitted.history["validation_loss"])
    ]


def test_a_terminal_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    fit_small(Session(name="target"))
    assert "img" in capsys.readouterr().err
