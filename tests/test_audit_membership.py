"""Membership in the pipeline: the goal's secret, its rules and its rows."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xinv import attacks, audit, data, store
from xinv.audit import training
from xinv.audit.goals import GOALS
from xinv.audit.goals.membership import membership_spec
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.service import Classifiers, Service
from xinv.audit.stage import Stages
from xinv.images import as_float
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, shokri  # noqa: E402

DRAW = np.random.default_rng(0)


def config(**changes):
    """configs/shokri.py on the small images below."""
    found = shokri.get_config()
    found.seeds, found.report.examples = 1, 2
    found.data.source = ConfigDict(
        dict(name="arrays", path="noise.npz", labels=dict(digit="labels"))
    )
    found.data.transform.resize = None
    for part in (found.target, found.evaluation, *found.shadows.values()):
        part.model.width = 0.0625
    for recipe in (
        found.target.train,
        found.evaluation.train,
        found.shadows.shadow.train,
        found.attack.train,
    ):
        recipe.update(dict(batch_size=16, epochs=60))
    found.arms = ConfigDict({name: arm for name, arm in found.arms.items() if "input" not in name})
    found.explanations = ConfigDict({"gradient": found.explanations.gradient})
    return found


@pytest.fixture
def noise(tmp_path, monkeypatch):
    """Images of noise with labels at random: what is known about them was learned by heart."""
    images = DRAW.integers(0, 255, (320, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(320) % 4)
    monkeypatch.chdir(tmp_path)

    def run(settings):
        with store.opened(tmp_path / "stages") as stages:
            return audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)

    return run


@pytest.mark.slow
def test_learned_by_heart(noise, capfd):
    """The target gives its training images away, the untrained control does not."""
    rows = noise(config())
    auc = {row["arm"]: row for row in rows if row["metric"] == "auc"}
    attack, control = auc["variance(gradient)"], auc["control(gradient)"]
    assert attack["goal"] == "membership"
    assert attack["examples"] == 128
    assert attack["low"] > 0.75
    assert attack["p"] < 1e-6
    assert control["low"] < 0.5 < control["high"]
    # Causes are of the target's maps, although the control stands first
    log = capfd.readouterr()
    assert "gradient of target" in log.out + log.err
    assert "gradient of untrained, seed" not in log.out + log.err
    # Every row has the same fields, and every statistic is one
    assert len({tuple(row) for row in rows}) == 1
    found = {row["metric"]: row for row in rows if row["arm"] == "variance(gradient)"}
    assert found["tpr_at_0.05"]["p"] < 0.05
    assert found["resolved_at_0.05"]["value"] == 0
    assert found["epsilon_lower_bound"]["value"] <= found["epsilon_lower_bound"]["high"]
    assert found["epsilon_lower_bound"]["p"] is None


def public(settings, **changes):
    """Makes a config's explanation the prototypes of an image among those of a public role."""
    settings.unlock()
    settings.data.roles.roles.reference = 0.2
    reference = dict(role="reference", count=20) | changes
    found = dict(name="protodash", prototypes=2, normalise="none", reference=reference)
    settings.explanations.gradient = ConfigDict(found)
    return settings


@pytest.mark.slow
def test_public_reference(noise, tmp_path):
    """Prototypes are of one public role for all classifiers; a number takes their own."""
    settings = json.loads(json.dumps(public(config()).to_dict()))
    roles = Roles(data.build(**settings["data"]["source"]), None, settings["data"], {})
    with store.opened(tmp_path / "stages") as kept:
        service = Service(Classifiers(settings, roles, Stages(kept, tmp_path)))
        maps, _ = service.explanation("gradient", REPORTED, 0, "untrained")

    def reference(part):
        (images,) = jax.tree.leaves(service.explainer("gradient", 0, part))
        return images

    expected = as_float(roles.images(["reference"], 0)[np.linspace(0, 63, 20).astype(int)])
    for part in ("target", "shadow", "untrained"):
        np.testing.assert_array_equal(reference(part), expected)

    # What an untrained model releases are means of two public images, up to the kernel's rounding
    for released in np.asarray(maps):
        pairs = [(one, other) for one in expected for other in expected]
        errors = [_off_segment(released, one, other) for one, other in pairs]
        assert min(errors) < 1e-5

    # A number takes images that the classifier is trained on
    settings["explanations"]["gradient"]["reference"] = 20
    own = {part: reference(part) for part in ("target", "shadow", "untrained")}
    np.testing.assert_array_equal(own["target"], own["untrained"])
    assert not np.array_equal(own["target"], own["shadow"])
    assert not np.array_equal(own["target"], expected)


def _off_segment(image, one, other):
    """The largest distance of an image's pixel from the mean of two, with the best weight."""
    image, one, other = (np.float64(part) for part in (image, one, other))
    across = one - other
    weight = ((image - other) * across).sum() / max((across**2).sum(), 1e-12)
    return np.abs(image - other - weight * across).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.target.train.update(dict(validation=0.1)), "set validation to 0"),
        (
            lambda c: c.arms["variance(gradient)"].train_view.update(dict(roles=("target_train",))),
            "which are reported",
        ),
        (
            lambda c: c.arms["variance(gradient)"].update(dict(inputs=("prediction",))),
            "differs in inputs",
        ),
        (
            lambda c: c.arms["variance(gradient)"].test_view.update(dict(prediction="shadow")),
            "tested on another classifier",
        ),
        (lambda c: public(c, role="attack_test"), "'attack_test' has images of attack_test"),
        (lambda c: public(c, role="target_train"), r"has images of target_train\+attack_test"),
        (
            lambda c: public(c, role="shadow_test"),
            r"has images of shadow_train\+shadow_test, from which an attack",
        ),
        (lambda c: public(c, role="elsewhere"), "unknown role 'elsewhere'"),
        (lambda c: public(c, count=0), "reference is 0 but must be a number"),
        (lambda c: public(c, share=0.5), "has 'share', which is ignored"),
        (lambda c: c.explanations.gradient.update(dict(reference="all")), "reference is 'all' but"),
        (lambda c: c.metrics.__delattr__("membership"), "has no 'membership'"),
        (lambda c: c.metrics.membership.update(dict(tpr_at_fpr=dict(fpr=2))), "fpr is 2"),
    ],
)
def test_games_refused(noise, change, message):
    settings = config()
    settings.unlock()
    change(settings)
    with pytest.raises(InputError, match=message):
        noise(settings)


@pytest.mark.parametrize(("epochs", "group"), [(1, None), (30, None), (1, ("digit", "track"))])
def test_members_are_trained_on(noise, tmp_path, epochs, group):
    """Images that no batch had are no members; of a track one frame trained on is enough."""
    images = np.load("noise.npz")
    np.savez("noise.npz", **images, track=np.arange(320) // 16)
    settings = config()
    settings.data.source.labels = dict(digit="labels", track="track")
    settings.data.roles.group = group
    settings.target.train.update(dict(batch_size=24, epochs=epochs))
    settings = json.loads(json.dumps(settings.to_dict()))
    roles = Roles(data.build(**settings["data"]["source"]), None, settings["data"], {})
    with store.opened(tmp_path / "stages") as kept:
        service = Service(Classifiers(settings, roles, Stages(kept, tmp_path)))
        secret = GOALS["membership"].secret(service, "target", ["target_train", REPORTED], 0)
        never = training.left_out(roles, settings["target"], "target", 0)
        spec = membership_spec(service, "target", 0)
    # 64 images are two batches of 24 an epoch
    count = len(roles.indices("target_train", 0))
    left = count % 24 if epochs == 1 else 0
    assert len(never) == left
    assert secret[count:].sum() == 0
    assert secret.sum() == (count if group else count - left)
    assert spec == ["target_train", *never]
    if not group:
        np.testing.assert_array_equal(roles.indices("target_train", 0)[secret[:count] == 0], never)


def test_every_attack_has_a_goal():
    assert {
        GOALS[attacks.build(name).goal].name for name in ("fredrikson", "map_statistic")
    } == set(GOALS)
    assert base.metrics().membership
