"""Membership in the pipeline: the goal's secret, its rules and its rows."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from xinv import attacks, audit, store
from xinv.audit.goals import GOALS
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, shokri  # noqa: E402

DRAW = np.random.default_rng(0)


def config(**changes):
    """configs/shokri.py on the small images below."""
    found = shokri.get_config()
    found.seeds, found.report.examples = 1, 2
    found.data.source = ConfigDict(dict(name="arrays", path="noise.npz", labels=dict(digit="labels")))
    found.data.transform.resize = None
    for part in (found.target, found.evaluation, found.shadows.shadow, found.shadows.untrained):
        part.model.width = 0.0625
    for recipe in (found.target.train, found.evaluation.train, found.shadows.shadow.train, found.attack.train):
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


def test_learned_by_heart(noise):
    """The target gives its training images away, the untrained control does not."""
    rows = noise(config())
    auc = {row["arm"]: row for row in rows if row["metric"] == "auc"}
    attack, control = auc["variance(gradient)"], auc["control(gradient)"]
    assert attack["goal"] == "membership"
    assert attack["examples"] == 128
    assert attack["low"] > 0.75
    assert attack["p"] < 1e-6
    assert control["low"] < 0.5 < control["high"]
    # Every row has the same fields, and every statistic is one
    assert len({tuple(row) for row in rows}) == 1
    found = {row["metric"]: row for row in rows if row["arm"] == "variance(gradient)"}
    assert found["tpr_at_0.05"]["p"] < 0.05
    assert found["resolved_at_0.05"]["value"] == 0
    assert found["epsilon_lower_bound"]["value"] <= found["epsilon_lower_bound"]["high"]
    assert found["epsilon_lower_bound"]["p"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.target.train.update(dict(validation=0.1)), "set validation to 0"),
        (lambda c: c.arms["variance(gradient)"].train_view.update(dict(roles=("target_train",))), "which are reported"),
        (lambda c: c.arms["variance(gradient)"].update(dict(inputs=("prediction",))), "reads an explanation"),
        (lambda c: c.arms["variance(gradient)"].test_view.update(dict(prediction="shadow")), "name the same"),
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


def test_every_attack_has_a_goal():
    assert {GOALS[attacks.build(name).goal].name for name in ("fredrikson", "map_statistic")} == set(GOALS)
    assert base.metrics().membership
