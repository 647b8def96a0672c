"""A service that releases logits: every reader of a prediction takes them as such, or refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arm_zoo import ARMS, INVERTER, base, run, stages, unit
from ml_collections import ConfigDict

from xinv import attacks, plugins, store
from xinv.audit import cost, evaluate
from xinv.audit.release import Release, soft_labels
from xinv.audit.run import opened
from xinv.audit.stage import Stages
from xinv.types import Attack, Defence, InputError

LOGITS = dict(prediction="logits")
ROLE = "attack_test"
DEFENCES = dict(rounded=dict(name="round_to", decimals=1), top2=dict(name="truncate", m=2))
TARGET = """
import numpy as np

WEIGHTS = np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32)


def apply(variables, images):
    return images.reshape(len(images), -1) @ variables["weights"]


def load():
    return apply, {"weights": WEIGHTS}
"""


@pytest.fixture
def services(tmp_path, monkeypatch):
    """One target of the user's own, released as probabilities and as logits."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"target_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGET)
    with store.opened(tmp_path / "stages") as kept:
        found = {}
        for form in ("probabilities", "logits"):
            config = unit({}, shadows={}, defences=DEFENCES, service=dict(prediction=form))
            config["target"] = dict(label="digit", roles=(), function=f"{name}:load")
            found[form] = opened(config, Stages(kept, tmp_path))
        yield found


def literal(service):
    """Returns the logits of the reported images in float64."""
    images = np.asarray(service.roles.images([ROLE], 0)[:], np.float64) / 255
    weights = np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32)
    return images.reshape(len(images), -1) @ weights


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_one_stage_of_both_forms(services):
    """Both forms are of one stage of logits, and their sources tell them apart."""
    logits, of_logits = services["logits"].prediction("target", ROLE, 0)
    probabilities, sources = services["probabilities"].prediction("target", ROLE, 0)
    np.testing.assert_allclose(logits, literal(services["logits"]), atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(literal(services["logits"])), atol=1e-5)
    assert of_logits == [*sources, "logits"]


def test_defences_act_on_logits(services):
    """Rounding is of logits, and so is the distortion."""
    logits, _ = services["logits"].prediction("target", ROLE, 0)
    release = Release(services["logits"], ())
    rounded, _ = release.through("rounded").observation(ROLE, 0)
    np.testing.assert_allclose(rounded.prediction, np.round(np.float64(logits), 1), atol=1e-5)
    truncated, _ = release.through("top2").observation(ROLE, 0)
    kept = np.argsort(-logits, axis=1)[:, :2]
    np.testing.assert_array_equal(np.argmax(truncated.prediction, axis=1), kept[:, 0])
    for row, places in zip(truncated.prediction, kept, strict=True):
        assert len(np.unique(np.delete(row, places))) == 1
    # Stages of the other form have other digests
    other = Release(services["probabilities"], ()).through("rounded").observation(ROLE, 0)
    assert 0 <= other[0].prediction.min() <= other[0].prediction.max() <= 1


def test_confidence_and_soft_labels(services):
    """Confidences and a student's labels are probabilities in either form."""
    expected = softmax(literal(services["logits"]))
    settings = dict(roles=(ROLE,), teacher=dict(prediction="target", defences=()))
    for service in services.values():
        found = evaluate.factors(service, 0)
        np.testing.assert_allclose(found["confidence"], expected.max(axis=1), atol=1e-5)
        labels, _ = soft_labels(service, settings, 0)
        np.testing.assert_allclose(labels, expected, atol=1e-5)


def test_released_maps_read_the_form(services):
    """A defence that reads the prediction reads the released form, also within a metric."""

    def apply(state, observation, key):
        shown = observation.prediction.max(axis=1)[:, None, None, None]
        return observation._replace(explanation=jnp.broadcast_to(shown, (1, 16, 16, 1)))

    defence = Defence(None, apply, logits=True)
    service = services["logits"]
    variables = service.classifiers.variables("target", 0)
    model = service.classifiers.model("target").apply
    images = jnp.asarray(service.roles.images([ROLE], 0)[:4] / np.float32(255))
    arguments = (
        (variables, variables),
        {},
        images,
        np.zeros(4, int),
        jax.random.split(jax.random.key(0), 4),
    )
    explainers = (service.explainer("gradient", 0),)
    for logits, expected in ((True, literal(service)), (False, softmax(literal(service)))):
        found = cost._explains(explainers, model, model, defence, logits)(*arguments)
        np.testing.assert_allclose(found[:, 0, 0, 0], expected[:4].max(axis=1), atol=1e-4)


def unread(name):
    """An attack that does not say if it treats logits."""

    def strange() -> Attack:
        return Attack(None, None)

    strange.__name__ = name
    return strange


ALONE = {"a": base.arm("prediction", encoder="none")}


@pytest.mark.parametrize(
    ("arms", "sections", "sentence"),
    [
        (
            ALONE,
            dict(service=dict(prediction="odds")),
            "service.prediction is 'odds' but must be 'probabilities' or 'logits'",
        ),
        (ALONE, dict(service={}), "service has no 'prediction'"),
        (ALONE, dict(service=LOGITS | dict(temperature=2)), "service has 'temperature'"),
        (
            ALONE,
            dict(service=LOGITS, defences=dict(sigmoid=dict(name="reverse_sigmoid")), shadows={}),
            "defence 'sigmoid' (reverse_sigmoid) changes probabilities, and the service releases",
        ),
        (
            {"a": base.arm("prediction", encoder="none", rescale="logits")},
            dict(service=LOGITS),
            "rescale is 'logits'",
        ),
        (
            {"a": base.arm("prediction", name="strange")},
            dict(service=LOGITS),
            "attack 'strange' reads probabilities, and the service releases logits",
        ),
    ],
)
def test_refused(tmp_path, monkeypatch, arms, sections, sentence):
    """What takes no logits is refused before anything is computed."""
    monkeypatch.setattr(attacks, "FACTORIES", (*attacks.FACTORIES, unread("strange")))
    with pytest.raises(InputError) as error:
        run(unit(arms, **sections), tmp_path)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


def test_joint_training_refused(tmp_path):
    config = unit(ALONE, service=LOGITS)
    joint = dict(INVERTER, network="tcnn", truncation=0, weight=1.0)
    config["target"] = config["target"] | dict(joint=joint)
    with pytest.raises(InputError, match="jointly with an inverter of its probabilities"):
        run(config, tmp_path)


def test_specs_of_probabilities():
    """The form is in no attack's own settings: digests of earlier stages stay."""
    for factory in attacks.FACTORIES:
        assert "logits" not in plugins.complete(attacks, dict(name=factory.__name__))


READERS = (
    "prediction",
    "gnime",
    "surrogate",
    "classes",
    "pixels",
    "activations",
    "reads",
    "class_image",
    "preimage",
)


@pytest.mark.slow
def test_every_reader(tmp_path):
    """Attacks, GNIME and a student run on logits, and every source says so."""
    arms = {name: ARMS[name] for name in READERS}
    arms["aligned"] = ARMS["aligned"]
    config = unit(ConfigDict(arms), service=LOGITS)
    rows = run(config, tmp_path)
    assert all(np.isfinite(row["value"]) for row in rows)
    # Through a defence it is the release whose sources say so
    releases = stages(tmp_path, "release")
    defended = [path.name.rsplit("-", 1)[1] for path in releases]
    for path in (*releases, *stages(tmp_path, "attack")):
        sources = json.dumps(json.loads((path / "spec.json").read_text())["sources"])
        marks = ["logits"] if path in releases else ["logits", *defended]
        assert any(mark in sources for mark in marks), path.name
