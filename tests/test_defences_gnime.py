"""GNIME: Equations 1 to 3, its training and what becomes of one that diverges."""

import dataclasses
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from documented import block
from trainings import equal

from xinv import defences, explain, models, parallel, store, train
from xinv.defences.gnime import Players, two_player_step
from xinv.train import Recipe, Session, State
from xinv.types import InputError, Model, Observation

gnime = importlib.import_module("xinv.defences.gnime")  # the package has the factory by that name
SHAPE, CLASSES = (8, 8, 1), 4
RECIPE = Recipe(batch_size=8, epochs=3, learning_rate=1e-3, validation=0)
SMALL = {
    "network": "decoder",
    "encoder": "flatten",
    "width": 1 / 64,
    "inverter_width": 1 / 64,
    "recipe": RECIPE,
}
SMALL |= {
    "max_distortion": 1e6,
    "max_inverter_error": 1e6,
}  # trainings too short to reach the limits' defaults


def observed(count: int = 24) -> tuple[Observation, np.ndarray]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, *SHAPE), np.uint8)
    maps = np.abs(images / 255 - 0.5)
    maps /= maps.max(axis=(1, 2, 3), keepdims=True)
    return (
        Observation(
            draw.dirichlet(np.ones(CLASSES), count).astype(np.float32), maps.astype(np.float32)
        ),
        images,
    )


# The step


def _linear(variables, prediction, maps):
    return variables["gain"] * maps + (prediction @ variables["shift"])[:, None, None, None]


LINEAR = Model(lambda key, *inputs: {}, _linear, None)
PLAYERS = Players(LINEAR, LINEAR)
VARIABLES = {
    "generator": {"gain": np.float32(0.8), "shift": np.float32([0.1, -0.2, 0.3, 0.0])},
    "inverter": {"gain": np.float32(0.5), "shift": np.float32([0.2, 0.1, 0.0, -0.3])},
    "moments": np.float32([0.4, 0.25]),
    "limits": np.float32([0.0, 1.0]),
}


def _literal(variables, batch):
    """L_xd, L_re(x, f_INV(ê)) and L_re(x, f_INV(e)) as Equations 1 and 2 have them, example by
    example.
    """
    (mean, deviation), rows = variables["moments"], []
    for x, y, e in zip(batch["image"], batch["prediction"], batch["explanation"], strict=True):
        e = (e - mean) / deviation
        noised = variables["generator"]["gain"] * e + y @ variables["generator"]["shift"]
        released = (jnp.clip(noised * deviation + mean, 0, 1) - mean) / deviation

        def invert(maps, y=y):
            return variables["inverter"]["gain"] * maps + y @ variables["inverter"]["shift"]

        rows.append(
            [
                jnp.mean((e - noised) ** 2),
                jnp.mean((x - invert(released)) ** 2),
                jnp.mean((x - invert(e)) ** 2),
            ]
        )
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_equations_1_and_2(updates):
    """A step descends Eq. 1 and 2."""
    observation, images = observed(6)
    batch = {**observation._asdict(), "image": (images / 255).astype(np.float32)}
    lam, rate = 30.0, 0.01
    tx = optax.sgd(rate)
    opt_state = {name: tx.init(VARIABLES[name]) for name in ("generator", "inverter")}
    step = parallel.pmap_step(two_player_step(PLAYERS, lam, updates, tx))
    start = parallel.replicate(State(np.int32(0), VARIABLES, opt_state))
    state, metrics = step(start, parallel.shard(batch), parallel.per_device(jax.random.key(0)))

    def equation_1(inverter):
        _, noised, clean = _literal({**VARIABLES, "inverter": inverter}, batch)
        return clean + noised

    slope = jax.grad(equation_1)(VARIABLES["inverter"])
    inverter = jax.tree.map(
        lambda value, gradient: value - rate * gradient, VARIABLES["inverter"], slope
    )
    faced = inverter if updates == "alternating" else VARIABLES["inverter"]

    def equation_2(generator):
        distortion, noised, _ = _literal(
            {**VARIABLES, "generator": generator, "inverter": faced}, batch
        )
        return distortion - lam * noised

    slope = jax.grad(equation_2)(VARIABLES["generator"])
    generator = jax.tree.map(
        lambda value, gradient: value - rate * gradient, VARIABLES["generator"], slope
    )
    assert any(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(slope))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state.variables["inverter"], inverter)
    jax.tree.map(close, state.variables["generator"], generator)
    distortion, inversion, clean = _literal(VARIABLES, batch)
    expected = {
        "loss": distortion - lam * inversion,
        "distortion": distortion,
        "inversion": inversion,
        "clean": clean,
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.ravel(a)[0], b, rtol=1e-4),
        dict(metrics),
        expected,
    )


# Training and deployment


@pytest.fixture(scope="module")
def trained():
    observation, images = observed()
    defence = defences.gnime(**SMALL)
    return defence, defence.init(jax.random.key(0), observation, images)


@pytest.mark.slow
def test_the_state_and_its_history(trained):
    _, state = trained
    maps = observed()[0].explanation
    np.testing.assert_allclose(
        state["calibration"]["moments"], [maps.mean(), maps.std()], rtol=1e-5
    )
    assert {name: len(values) for name, values in state["history"].items()} == dict.fromkeys(
        ("loss", "distortion", "inversion", "clean"), 3
    )
    assert state["diverged"] == 0
    assert "inverter" not in state


@pytest.mark.slow
def test_network_of_authors_code():
    """The network of the authors' code is trained and applied."""
    observation, images = observed(8)
    hyper = {"network": "gnime_decoder", "encoder": "flatten_unet", "width": 1 / 64}
    hyper |= {"recipe": dataclasses.replace(RECIPE, epochs=1)}
    for defence, player in (
        (defences.gnime(**SMALL | hyper), "generator"),
        (defences.pgd(mse=0.01, steps=1, **hyper), "inverter"),
    ):
        defence.check(observation, images)
        state = defence.init(jax.random.key(0), observation, images)
        # The prediction, the code and the pixels; the dense layer keeps its size too
        kernel = state[player]["params"]["decoder"]["conv0"]["kernel"]
        assert kernel.shape == (1, 1, CLASSES + 64 + 8 * 8, 512)
        released = defence.apply(state, observation, jax.random.key(1)).explanation
        assert released.shape == observation.explanation.shape
        assert np.all(np.isfinite(released))
        assert np.any(released != observation.explanation)


@pytest.mark.slow
def test_saved_and_loaded(trained, tmp_path):
    """A saved state is loaded, and applied in one compiled call."""
    defence, state = trained
    observation, _ = observed()
    store.save_tree(
        tmp_path / "state", {name: part for name, part in state.items() if name != "history"}
    )
    loaded = store.load_tree(tmp_path / "state")
    once = jax.jit(defence.apply)(loaded, observation, jax.random.key(0))
    released = defences.release(defence, state, observation, jax.random.key(7))
    np.testing.assert_allclose(once.explanation, released.explanation, atol=1e-5)
    assert defences.withstands(defence, state, observation, jax.random.key(0), releases=2) == np.inf


@pytest.mark.slow
def test_equation_3(trained):
    defence, state = trained
    observation, _ = observed()
    limits = np.float32([-99, 99])  # so that nothing is clipped
    wide = {**state, "calibration": {**state["calibration"], "limits": limits}}
    released = np.asarray(defence.apply(wide, observation, None).explanation, np.float64)
    for gamma in (1e-4, 4.0):  # less and more than the generator's own
        bounded = defences.gnime(gamma=gamma, **SMALL).apply(wide, observation, None).explanation
        n = released - observation.explanation
        scale = np.sqrt(n.var(axis=(1, 2, 3), keepdims=True) / gamma)
        np.testing.assert_allclose(bounded, observation.explanation + n / scale, atol=2e-4)
    clipped = defences.gnime(gamma=4.0, **SMALL).apply(state, observation, None).explanation
    assert 0 <= clipped.min() <= clipped.max() <= 1


@pytest.mark.slow
def test_killed_training_continues(trained, tmp_path):
    """A killed training continues to the same generator."""

    def kill(step, values):
        if step == 5:
            raise KeyboardInterrupt

    defence, expected = trained
    observation, images = observed()
    with pytest.raises(KeyboardInterrupt):
        defence.init(
            jax.random.key(0),
            observation,
            images,
            Session(tmp_path, log=kill, checkpoint_seconds=0),
        )
    state = defence.init(
        jax.random.key(0), observation, images, Session(tmp_path, checkpoint_seconds=0)
    )
    assert equal(state, expected)


@pytest.mark.slow
def test_generator_misleads_the_inverter():
    """Maps that are the image: with λ the inverter does worse on the generated map than on the
    original, at once.
    """
    observation, images = observed(64)
    recipe = Recipe(batch_size=16, epochs=12, learning_rate=3e-3, validation=0)
    observation = observation._replace(explanation=(images / 255).astype(np.float32))
    defence = defences.gnime(lam=20.0, **SMALL | {"recipe": recipe})
    history = defence.init(jax.random.key(0), observation, images)["history"]
    assert history["inversion"][-1] > 1.1 * history["clean"][-1]
    assert history["distortion"][-1] > 0.05


# Divergence


def scripted(values):
    """A step whose "distortion" follows a script; the variable counts the steps."""
    script = jnp.asarray(values, jnp.float32)

    def step(state, batch, key):
        return State(state.step + 1, state.variables + 1, ()), {"distortion": script[state.step]}

    return step


def run(values, limits, session=Session()):
    """Two steps an epoch."""
    recipe = Recipe(batch_size=4, epochs=len(values) // 2, validation=0)
    state, data = State(np.int32(0), jnp.float32(0), ()), {"x": np.zeros((8, 1))}
    return train.loop(
        scripted(values), state, data, jax.random.key(0), recipe, None, session, limits
    )


def test_last_epoch_within_limits():
    """Within the limits the last epoch counts, whatever came before."""
    fitted = run([9, 9, 1, 2, 1, 1], {"distortion": 2.0})
    assert (fitted.variables, fitted.diverged) == (6, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1, 1, 1, 2, 4, 4, 9, 9],
            "distortion is 9, above 2 in the last epoch: .*; the state after epoch 2 is kept",
        ),
        (
            [1, 1, 1, 2, 4, np.nan, 1, 1],
            "distortion is nan at step 6: .*; the state after epoch 2 is kept",
        ),
        (
            [1, 1, 1, 2, 4, np.inf, 1, 1],
            "distortion is inf at step 6: .*; the state after epoch 2 is kept",
        ),
    ],
)
def test_diverging_training(values, message, capsys, tmp_path):
    """A training that diverges is named and leaves the last finite epoch."""
    fitted = run(values, {"distortion": 2.0})
    assert fitted.variables == 4
    assert re.fullmatch(f"train: {message}", fitted.diverged)
    assert fitted.diverged in capsys.readouterr().err
    resumed = [
        run(values, {"distortion": 2.0}, Session(tmp_path, checkpoint_seconds=0)) for _ in range(2)
    ]
    assert [(one.variables, one.diverged) for one in resumed] == [(4, fitted.diverged)] * 2


@pytest.mark.parametrize("scale", [1, 255])
def test_error_of_mean_image(scale):
    """The error of the mean image is its variance over the images."""
    images = observed(2000)[1]
    expected = (images / 255).var(axis=0).mean()
    given = images if scale == 255 else (images / 255).astype(np.float32)
    assert gnime._variance(given) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_dead_inverter(capsys):
    """An inverter that has died is named.

    By its error on original maps, in units of the mean image's; a generator without an opponent
    defends nothing.
    """
    observation, images = observed()
    recipe = Recipe(batch_size=8, epochs=6, learning_rate=0.03, validation=0)
    hyper = SMALL | {"lam": 300.0, "recipe": recipe}
    errors = defences.gnime(**hyper).init(jax.random.key(0), observation, images)["history"][
        "clean"
    ]
    assert errors[-1] > min(errors)
    limit = (errors[-1] + min(errors)) / 2 / gnime._variance(images)
    state = defences.gnime(**hyper | {"max_inverter_error": limit}).init(
        jax.random.key(0), observation, images
    )
    assert state["diverged"] == 1
    assert re.search("clean is .*: lower lam, which is 300", capsys.readouterr().err)
    with pytest.raises(train.Diverged, match=r"clean is .*or play for more epochs"):
        defences.gnime(**hyper | {"max_inverter_error": 1e-3}).init(
            jax.random.key(0), observation, images
        )


def test_no_finite_epoch():
    """Without a finite epoch there is nothing to keep."""
    with pytest.raises(train.Diverged, match=r"distortion is 3, above 2 in the last epoch"):
        run([9, 9, 3, 3], {"distortion": 2.0})
    with pytest.raises(train.Diverged, match="distortion is nan at step 3"):
        run([1, 1, np.nan, 1], None)


@pytest.mark.slow
def test_too_large_lambda():
    """A lambda that is too large is named."""
    observation, images = observed()
    fast = Recipe(
        batch_size=8, epochs=2, learning_rate=0.3, validation=0
    )  # gets there within a few steps
    defence = defences.gnime(lam=1e9, **SMALL | {"recipe": fast, "max_distortion": 2.0})
    with pytest.raises(
        InputError, match=r"above 2 in the last epoch: lower lam, which is 1e\+09, or"
    ):
        defence.init(jax.random.key(0), observation, images)


# What the issue asks of a deployment, and of a training that goes too far


def test_cost_of_release():
    """Releasing costs less than a fifth of the gradient explanation.

    By XLA's count of operations, at the defaults, for the paper's MNIST target.
    """
    target, maps = models.cnn(10), jnp.zeros((2, 32, 32, 1))
    observation, defence = Observation(jnp.zeros((2, 10)), maps), defences.gnime()
    generator = models.build(
        "gnime_decoder", image_shape=maps.shape[1:], encoder="flatten_unet", width=0.25
    )
    calibration = {
        "prediction": np.zeros(10),
        "explanation": np.zeros(maps.shape[1:]),
        "moments": np.ones(2),
    }
    state = {"generator": jax.eval_shape(generator.init, jax.random.key(0), *observation)}
    state["calibration"] = calibration | {"limits": np.float32([0, 1])}
    variables = jax.eval_shape(target.init, jax.random.key(0), maps)

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    def explained(variables, image, label):
        return explain.saliency()(target.apply, variables, image, label, jax.random.key(0))

    gradient = operations(jax.vmap(explained, (None, 0, 0)), variables, maps, jnp.zeros(2, int))
    assert operations(defence.apply, state, observation, jax.random.key(0)) < 0.2 * gradient


@pytest.mark.slow
def test_too_distorting_generator():
    """Where the last epoch is beyond `max_distortion`, the state is that of a training which ends
    before.
    """
    observation, images = observed()
    recipe = Recipe(batch_size=8, epochs=6, learning_rate=0.01, validation=0)
    free = defences.gnime(lam=300.0, **SMALL | {"recipe": recipe}).init(
        jax.random.key(0), observation, images
    )
    distortions = free["history"]["distortion"]
    assert distortions[-1] > min(distortions)
    limit = (distortions[-1] + min(distortions)) / 2
    last_within = max(epoch for epoch, value in enumerate(distortions, start=1) if value < limit)
    kept, short = (
        defences.gnime(
            lam=300.0,
            **SMALL
            | {
                "recipe": dataclasses.replace(recipe, epochs=epochs),
                "max_distortion": most,
            },
        )
        for epochs, most in ((6, limit), (last_within, 1e6))
    )
    state, expected = (one.init(jax.random.key(0), observation, images) for one in (kept, short))
    assert (state["diverged"], expected["diverged"]) == (1, 0)
    assert equal(state["generator"], expected["generator"])


@pytest.mark.slow
def test_deployment(tmp_path, monkeypatch):
    """The example of the page runs as it is written, but with small networks and few epochs."""
    code = block("configs/gnime.md", "Deploy it").replace("epochs=160", "epochs=2")
    code = code.replace(
        "lam=100.0",
        "lam=100.0, width=1 / 64, inverter_width=1 / 64, max_distortion=1e6,"
        " max_inverter_error=1e6",
    )
    observation, images = observed(64)
    names = dict(predictions=observation.prediction, maps=observation.explanation, images=images)
    names["new_observation"] = jax.tree.map(lambda part: part[:5], observation)
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    assert names["released"].explanation.shape == (5, *SHAPE)
    assert (tmp_path / "gnime").is_dir()
