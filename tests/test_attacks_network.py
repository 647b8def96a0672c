"""The network that tells members by their explanations: what it reads, learns and answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from trainings import Lazy

from xinv import attacks, models, train
from xinv.attacks import ensemble, evidence, network
from xinv.types import InputError, Observation

KEY = jax.random.key(0)
RECIPE = train.Recipe(batch_size=64, epochs=8, learning_rate=3e-3, weight_decay=1e-4, validation=0)
SMALL = dict(trunk="mlp", width=0.25, restarts=2, recipe=RECIPE)


def planted(count=1200, shape=(8, 8, 1), seed=0, share=0.5):
    """Noise of which members' has a third of the variance; predictions tell nothing."""
    rng = np.random.default_rng(seed)
    member = (rng.random(count) < share).astype(np.int32)
    spread = np.where(member, 0.55, 1.0)[:, None, None, None]
    maps = (1e-4 * spread * rng.normal(size=(count, *shape))).astype(np.float32)
    return Observation(np.full((count, 3), 1 / 3, np.float32), maps), member


def fitted(observed, member, **hyper):
    """An attack, and what it has learned."""
    hyper = SMALL | hyper
    held = {name: hyper.pop(name) for name in ("label", "image") if name in hyper}
    attack = attacks.build("membership_network", **hyper)
    return attack, attack.fit(KEY, observed, member, **held)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "shape", "dtype"),
    [
        ("cnn", (8, 8, 1), "bfloat16"),
        ("mlp", (8, 8, 1), "float32"),
        ("mlp", (1, 1, 64), "float32"),
    ],
)
def test_planted_signal_found(trunk, shape, dtype):
    """A difference in variance is found in examples that it was not trained on."""
    attack, state = fitted(*planted(shape=shape), trunk=trunk, dtype=dtype, width=0.5)
    observed, member = planted(600, shape, seed=1)
    scores = attack.predict(state, observed)
    assert scores.dtype == np.float32
    assert scores.shape == member.shape
    assert roc_auc_score(member, scores) > 0.9
    assert len(state["history"]["loss"]) == RECIPE.epochs
    leaves = jax.tree.leaves(state["variables"]["params"])
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


@pytest.mark.slow
def test_restarts_train_separately():
    """Restarts in one program end where each ends in a training of its own."""
    observed, member = planted(256)
    data = {"prediction": observed.prediction[:, :0], "explanation": observed.explanation}
    model = models.detector("mlp", 0.25)
    recipe = train.Recipe(batch_size=64, epochs=1, weight_decay=1e-4, validation=0)

    def trained(numbers):
        variables = ensemble.start(model, 3, numbers, KEY, data)
        loss = ensemble.objective(model, 3, numbers)
        examples = {**data, "member": member.astype(np.float32)}
        return train.fit(loss, variables, examples, jax.random.key(1), recipe)

    together = trained((0, 1))
    alone = [trained((number,)) for number in (0, 1)]
    for name in ("params", "batch_stats"):
        parts = [one.variables[name] for one in alone]
        apart = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        # Four steps of Adam, of 1e-3 each; sums are taken in another order
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
        jax.tree.map(close, together.variables[name], apart)
    kernels = together.variables["params"]["logit"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])
    mean = np.mean([one.history["loss"] for one in alone], axis=0)
    np.testing.assert_allclose(together.history["loss"], mean, rtol=1e-4)


@pytest.mark.slow
def test_masks_differ():
    """Networks with the same parameters drop different features."""
    model = models.detector("mlp", 0.25)
    observed, _ = planted(8)
    data = {"prediction": observed.prediction[:, :0], "explanation": observed.explanation}
    variables = ensemble.start(model, 3, (0, 0), KEY, data)
    together = ensemble._together(model, 3, (0, 1))
    logits, _ = jax.pmap(lambda v, b: together(v, b, KEY), "data", in_axes=(None, 0))(
        variables, jax.tree.map(lambda leaf: leaf[None], data)
    )
    assert not np.allclose(logits[0, 0], logits[0, 1])
    quiet, _ = together(variables, data, None)
    np.testing.assert_allclose(quiet[0], quiet[1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "inputs",
    [("explanation", "image"), ("prediction", "label")],
)
def test_inputs_are_read(inputs):
    """Membership that only the label or image gives away is found, and needs that input."""
    rng = np.random.default_rng(2)
    count = 800
    label = rng.integers(0, 4, count).astype(np.int32)
    member = label // 2
    image = np.full((count, 10, 10, 3), 60, np.uint8) + np.uint8(60 * member)[:, None, None, None]
    # The prediction alone tells nothing of membership; the probability of the true class does
    correct = np.where(member, label, (label + 1 + rng.integers(0, 3, count)) % 4)
    prediction = np.eye(4, dtype=np.float32)[correct]
    observed = Observation(prediction, rng.normal(size=(count, 4, 4, 1)).astype(np.float32))
    held = {name: value for name, value in (("label", label), ("image", image)) if name in inputs}
    attack, state = fitted(observed, member, inputs=inputs, **held)
    assert attack.needs == tuple(held)
    assert attack.goal == "membership"
    scores = attack.predict(state, observed, **held)
    assert roc_auc_score(member, scores) > 0.9
    shapes = jax.eval_shape(lambda: (observed, held))
    assert attack.check(shapes[0], member, **shapes[1]) == ()
    with pytest.raises(InputError, match=f"reads the {next(iter(held))} of each candidate"):
        attack.predict(state, observed)


@pytest.mark.slow
def test_small_maps():
    """Every trunk takes maps of few pixels; convolutions refuse a single one."""
    shape = jax.ShapeDtypeStruct
    for trunk in ("cnn", "mobilenet_v2"):
        attack = attacks.membership_network(trunk=trunk, width=0.25)
        for side in (2, 4, 33, 64):
            maps = shape((2, side, side, 3), np.float32)
            assert attack.check(Observation(shape((2, 3), np.float32), maps), None) == ()
        single = Observation(shape((2, 3), np.float32), shape((2, 1, 1, 16), np.float32))
        with pytest.raises(InputError, match="have 1×1: use trunk='mlp'"):
            attack.check(single, None)
    assert attacks.membership_network(trunk="mlp").check(single, None) == ()


@pytest.mark.slow
def test_scores_are_calibrated():
    """With a held-out part, 0 has nearly the best balanced accuracy where few are members."""
    recipe = train.Recipe(batch_size=64, epochs=8, learning_rate=3e-3, validation=0.25)
    attack, state = fitted(*planted(share=0.15), recipe=recipe)
    observed, member = planted(2000, seed=3, share=0.15)
    scores = attack.predict(state, observed)
    assert state["threshold"] < 0

    def balanced(threshold):
        found = scores > threshold
        return (found[member == 1].mean() + 1 - found[member == 0].mean()) / 2

    # 45 members held out give it a standard deviation of some .03
    assert balanced(0) > max(map(balanced, np.unique(scores))) - 0.06


def test_threshold_of_one_kind():
    """A held-out part of members alone leaves the threshold at 0; else `calibration` learns it."""
    assert network._threshold(np.array([True, True]), np.float32([1, 2])) == 0
    assert network._threshold(np.array([False, False, True, True]), np.float32([1, 2, 4, 5])) == 3


@pytest.mark.slow
def test_maps_are_streamed(monkeypatch):
    """Maps that can be indexed alone, read in parts, give the same scores."""
    observed, member = planted(256)
    attack, state = fitted(observed, member)
    deviation = state["variables"]["deviation"]
    np.testing.assert_allclose(deviation, observed.explanation.std(), rtol=1e-5)
    monkeypatch.setattr(evidence, "_PART_VALUES", 64 * 100)
    lazy = observed._replace(explanation=Lazy(observed.explanation))
    again = attack.fit(KEY, lazy, member)
    whole, parts = attack.predict(state, observed), attack.predict(again, lazy)
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_releases_are_drawn():
    """Several releases of each example are learned from; one is judged."""
    observed, member = planted(256)
    several = jax.tree.map(lambda leaf: np.repeat(leaf[:, None], 2, axis=1), observed)
    attack, state = fitted(several, member)
    assert np.isfinite(attack.predict(state, observed)).all()
    with pytest.raises(InputError, match="one of each image"):
        attack.predict(state, several)


@pytest.mark.slow
def test_refused():
    """What cannot be learned from or judged raises an error that names it."""
    observed, member = planted(256)
    attack, state = fitted(observed, member)
    broken = observed._replace(explanation=observed.explanation.copy())
    broken.explanation[7, 2, 3] = np.nan
    with pytest.raises(InputError, match="explanation 7 holds NaN"):
        attack.fit(KEY, broken, member)
    with pytest.raises(InputError, match="candidate 7 has a map"):
        attack.predict(state, broken)
    with pytest.raises(InputError, match="for others"):
        attack.fit(KEY, observed, np.ones(256))
    with pytest.raises(InputError, match="reads explanations"):
        attack.check(observed._replace(explanation=None), member)
    labelled = attacks.membership_network(("label",), "mlp")
    with pytest.raises(InputError, match="label 3 is no class"):
        labelled.fit(KEY, observed, member, label=np.arange(256) % 4)


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        (dict(inputs=("maps",)), "inputs"),
        (dict(inputs=()), "inputs"),
        (dict(trunk="vit"), "'vit'.*mobilenet_v2"),
        (dict(restarts=0), "restarts is 0"),
        (dict(dropout=1.0), "dropout 1.0"),
        (dict(width=0), "width is 0"),
        (dict(dtype="float16"), "'float16'.*bfloat16"),
    ],
)
def test_bad_settings(hyper, message):
    with pytest.raises(InputError, match=message):
        attacks.build("membership_network", **hyper)
