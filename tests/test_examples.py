"""The examples and plug-ins of the packages' docstrings, as they are written there."""

import importlib.util
import re
import textwrap

import jax
import numpy as np
import pytest
from documented import example

from xinv import attacks, data, defences, explain, harden, metrics, models, train
from xinv.types import InputError, Observation

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
LONGEST = 40  # lines of a plug-in


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """A function that writes a package's plug-in to a file and registers it by the one line."""

    def extend(package):
        page = package.__doc__.partition("How to extend.")[2]
        name = re.match(r" Write `.*/(\w+)\.py`:", page)[1]
        code, line = page.split("one line registers it:\n\n")
        code = textwrap.dedent(code.partition("`:\n\n")[2].partition("\nImport it below")[0])
        assert len(code.strip().splitlines()) <= LONGEST
        path = tmp_path / f"{name}.py"
        path.write_text(code)

        spec = importlib.util.spec_from_file_location(f"plugin_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(package, "FACTORIES", package.FACTORIES)  # undone after the test
        names = {package.__name__.removeprefix("xinv."): package, **vars(module)}
        exec(line.splitlines()[0].strip(), names)
        return package.FACTORIES[-1].__name__

    return extend


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    [explain, attacks, defences, metrics, models, train, data, harden],
    ids=lambda package: package.__name__,
)
def test_opening_example(package, tmp_path, monkeypatch):
    """It runs without other imports; that of `audit` is run by tests/test_audit_own.py."""
    monkeypatch.chdir(tmp_path)
    example(package)


def test_explainer(extended):
    """On a linear model the margin's slope is the difference of two rows of weights."""
    name = extended(explain)
    weights = RANDOM.normal(size=(16, 3)).astype(np.float32)
    images = RANDOM.uniform(size=(2, 4, 4, 1)).astype(np.float32)
    apply = lambda variables, x: x.reshape(len(x), -1) @ variables
    labels = (images.reshape(2, -1) @ weights).argmax(axis=1)
    margin = explain.build(name, absolute=False)
    maps = explain.batch(margin, apply, weights, images, None, KEY)
    for image, label, found in zip(images, labels, maps, strict=True):
        logits = image.reshape(-1) @ weights
        rival = np.argsort(logits)[-2]
        np.testing.assert_allclose(found.ravel(), weights[:, label] - weights[:, rival], atol=1e-6)
    with pytest.raises(InputError, match="compares classes"):
        explain.batch(margin, apply, weights[:, :1], images, None, KEY)


def test_attack(extended):
    """Members have surer predictions; the threshold of the shadow holds on the target."""
    attack = attacks.build(extended(attacks))
    member = np.arange(40) % 2
    sure = np.where(member, 0.99, 0.6)
    seen = Observation(np.stack([sure, 1 - sure], axis=1))
    state = attack.fit(KEY, seen, member)
    assert (attack.predict(state, seen) > 0).tolist() == member.astype(bool).tolist()
    assert attack.check(seen, member) == ()


def test_defence(extended):
    """A tenth of the values become 1, example by example."""
    defence = defences.build(extended(defences))
    seen = Observation(np.ones((3, 2), np.float32) / 2, RANDOM.normal(size=(3, 5, 4, 1)))
    state = defence.init(KEY, seen, np.zeros((3, 5, 4, 1), np.uint8))
    maps = defences.release(defence, state, seen, KEY).explanation
    assert sorted(np.unique(maps)) == [0, 1]
    assert maps.sum(axis=(1, 2, 3)).tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="share is 2"):
        defences.build("binarise", share=2)


def test_metric(extended):
    metric = metrics.build(extended(metrics))
    truth, guess = (RANDOM.uniform(size=(3, 4, 4, 1)).astype(np.float32) for _ in range(2))
    expected = np.abs(truth - guess).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(metric(truth, guess), expected, rtol=1e-6)


def test_source(extended, tmp_path):
    name = extended(data)
    path = tmp_path / "images.csv"
    path.write_text("7,0,128,255,1\n9,2,3,4,5\n")
    found = data.build(name, path=str(path), height=2, width=2)
    assert found.images[..., 0].tolist() == [[[0, 128], [255, 1]], [[2, 3], [4, 5]]]
    assert [found.classes["label"][label] for label in found.labels["label"]] == ["7", "9"]
    with pytest.raises(InputError, match="has 5 columns"):
        data.build(name, path=str(path), height=2, width=3)
