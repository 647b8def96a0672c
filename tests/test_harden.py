"""The search for a release, its policies, and what it reports."""

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documented import block
from launched import launch
from ml_collections import ConfigDict
from scipy import stats
from sklearn.datasets import load_digits

from xinv import attacks, data, defences, explain, harden, models, report, store
from xinv.audit import results
from xinv.audit.run import opened
from xinv.audit.stage import Stages
from xinv.harden import released, search
from xinv.harden.candidate import Candidate, candidate, chain_of, space_of
from xinv.harden.check import check
from xinv.harden.maps import fits
from xinv.harden.policy import Policy, fingerprint, load_policy
from xinv.harden.propose import propose
from xinv.harden.search import choose, losses
from xinv.harden.subject import Subject
from xinv.harden.trial import Trial
from xinv.metrics.paired import area_difference, rate_difference
from xinv.metrics.stats import mean_interval
from xinv.space import Choice, Number, of
from xinv.types import Estimate, InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, deepleak  # noqa: E402

SPACE = {"stdev": Number(0.01, 1.0, log=True), "samples": Number(1, 9, whole=True)}
SECRET = np.array([3, 5], np.uint32)
NOISY = ({"name": "clip", "low": -0.5, "high": 0.5}, {"name": "noise", "stdev": 0.2})
SALIENCY = {"name": "saliency", "normalise": "none"}


@pytest.fixture(scope="module")
def network():
    """A small classifier, its weights, and images."""
    net = models.cnn(3, (4,), 8)
    images = np.random.default_rng(0).uniform(size=(6, 8, 8, 1)).astype(np.float32)
    return net.apply, net.init(jax.random.key(0), images[:1]), images


HUGE = dict(
    attack=dict(name="decoder"),
    train=dict(base.recipe(batch_size=10**6)),
)


def policy(variables, **changes):
    found = Policy(SALIENCY, NOISY, SECRET, fingerprint(variables), None, {}, {})
    return found._replace(**changes)


# Proposals


def test_proposals_depend_on_trials():
    """The same trials give the same proposals, each of them new and within the space."""
    first = propose(SPACE, [], "a", 4, startup=4)
    assert first == propose(SPACE, [], "a", 4, startup=4)
    assert first != propose(SPACE, [], "b", 4, startup=4)
    trials = [(values, (values["stdev"], 1 - values["stdev"])) for values in first]
    more = propose(SPACE, trials, "a", 3, startup=4)
    assert more == propose(SPACE, trials, "a", 3, startup=4)
    assert not any(values in first for values in more)
    assert all(
        0.01 <= values["stdev"] <= 1 and 1 <= values["samples"] <= 9 for values in [*first, *more]
    )
    assert all(isinstance(values["samples"], int) for values in more)


def test_small_space_is_exhausted():
    """Nothing is proposed twice."""
    found = propose({"kind": Choice(("a", None, True))}, [], "x", 10, startup=10)
    assert sorted(map(str, (values["kind"] for values in found))) == ["None", "True", "a"]


def test_values_that_do_not_fit():
    """Values that a model or its images do not allow are passed over, whatever their number."""
    space = {"window": Choice((4, 8, 16)), "stride": Choice((2, 4))}
    found = propose(space, [], "x", 10, startup=10, fits=lambda values: values["window"] < 16)
    assert len(found) == 4
    assert {values["window"] for values in found} == {4, 8}


SEARCHED = [one for one in (*explain.FACTORIES, *defences.FACTORIES) if of(one)]


@pytest.mark.parametrize("factory", SEARCHED, ids=lambda factory: factory.__name__)
def test_every_corner_of_a_space_is_allowed(factory):
    """No explainer and no transform refuses a value that its own search space proposes."""
    ends = []
    for part in of(factory).values():
        if isinstance(part, Number):
            ends.append([int(end) if part.whole else end for end in (part.low, part.high)])
        else:
            ends.append(part.values if isinstance(part, Choice) else (part.value,))
    given = {}
    if factory is explain.protodash:
        given["reference"] = np.zeros((9, 8, 8, 1), np.float32)
    refused = []
    for corner in itertools.product(*ends):
        try:
            factory(**given, **dict(zip(of(factory), corner, strict=True)))
        except InputError as error:
            refused.append((corner, str(error)))
    assert not refused


def test_audit_refuses_hardenings_fields():
    """An audit refuses a field that only a hardening reads."""
    flags = ("--config=configs/deepleak.py:quick", "--config.harden.trials=3", "--workdir=unused")
    found = launch("run.py", *flags)
    assert (found.returncode, found.stderr.splitlines()) == (
        2,
        ["error: --config.harden.trials is read by launch/harden.py alone: leave it out"],
    )


def test_space_of_explainer_and_transforms():
    """Parameters of transforms are in units of the maps' deviation."""
    space = space_of(SALIENCY, ("clip", "noise"))
    assert list(space) == ["clip.low", "clip.high", "noise.stdev"]
    values = {"clip.low": -2.0, "clip.high": 3.0, "noise.stdev": 0.5}
    made = candidate(SALIENCY, ("clip", "noise"), values, deviation=0.1)
    clip = dict(made.transforms[0])
    assert clip.pop("name") == "clip"
    assert clip == pytest.approx({"low": -0.2, "high": 0.3})
    assert made.transforms[1] == {"name": "noise", "stdev": 0.05}
    own = candidate(
        {"name": "smoothgrad", "normalise": "none", "samples": 5}, (), {"stdev": 0.3}, 0.1
    )
    assert own == Candidate({"name": "smoothgrad", "normalise": "none", "samples": 5, "stdev": 0.3})


# The choice


def made(number, leak, p, spearman, insertion=0.5, deletion=0.2):
    utility = dict(spearman=spearman, insertion=insertion, deletion=deletion)
    return Trial(number, {}, Candidate({}), Estimate(leak, leak - 0.1, leak + 0.1, p), 0.5, utility)


SETTINGS = dict(
    utility="spearman", alpha=0.05, floors=dict(spearman=0.5, insertion=0.9, deletion=0.9)
)
UNHARDENED = made(0, 0.8, 1e-9, 1.0)


def test_least_leak_within_the_floors():
    """A blank map leaks nothing, and does not keep the utility."""
    trials = [made(1, 0.5, 0.5, 0.0), made(2, 0.6, 0.001, 0.9), made(3, 0.7, 1e-5, 0.95)]
    assert choose(trials, UNHARDENED, SETTINGS).number == 2
    unfaithful = [made(1, 0.5, 0.5, 0.9, insertion=0.4), made(2, 0.5, 0.5, 0.9, deletion=0.3)]
    assert choose(unfaithful, UNHARDENED, SETTINGS) is None
    assert choose([made(1, 0.8, 1e-9, 1.0)], UNHARDENED, SETTINGS) is None


def test_leaks_within_chance_are_equal():
    """Of candidates that the search cannot tell from chance, the most faithful is chosen."""
    trials = [made(1, 0.47, 0.9, 0.6), made(2, 0.51, 0.3, 0.9), made(3, 0.49, 0.6, 0.8)]
    assert choose(trials, UNHARDENED, SETTINGS).number == 2
    assert losses(trials[0], SETTINGS) == (0.0, pytest.approx(0.4))


# Releases


@pytest.mark.slow
def test_noise_is_of_the_image(network):
    """The same image has the same map, wherever it stands; another pixel or secret gives other
    noise.
    """
    apply, variables, images = network
    maps = policy(variables).release(apply, variables, images)
    assert np.array_equal(maps[::-1], policy(variables).release(apply, variables, images[::-1]))
    alone = policy(variables).release(
        apply, variables, images[2:3]
    )  # another batch rounds in another way
    np.testing.assert_allclose(maps[2:3], alone, atol=1e-6)
    plain = policy(variables, defences=NOISY[:1]).release(apply, variables, images)
    noise = maps - plain
    assert noise.std() == pytest.approx(0.2, rel=0.2)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.5
    moved = images.copy()
    moved[:, 0, 0] = (moved[:, 0, 0] + 0.5) % 1
    other = policy(variables).release(apply, variables, moved) - policy(
        variables, defences=NOISY[:1]
    ).release(apply, variables, moved)
    assert np.abs(other - noise).mean() > 0.1
    secret = policy(variables, secret=SECRET + 1).release(apply, variables, images)
    assert np.abs(secret - maps).mean() > 0.1


@pytest.mark.slow
def test_uint8_and_float_images(network):
    """uint8 and float images are released alike."""
    apply, variables, images = network
    pixels = np.round(255 * images).astype(np.uint8)
    one = policy(variables)
    assert np.array_equal(
        one.release(apply, variables, pixels),
        one.release(apply, variables, pixels / np.float32(255)),
    )


def test_noise_does_not_cancel(network):
    """No difference of two queries is free of noise: not below a step, nor of two classes, nor of
    two models.
    """
    apply, variables, images = network
    images = np.round(255 * images).astype(np.float32) / np.float32(255)
    section = {"name": "input_x_gradient", "normalise": "none", "of": "probability"}
    plain = policy(variables, explainer=section, defences=())
    one = policy(variables, explainer=section, defences=({"name": "noise", "stdev": 0.5},))

    # Below a step all is equal
    maps = one.release(apply, variables, images)
    assert np.array_equal(maps, one.release(apply, variables, images + np.float32(0.2 / 255)))

    # The maps of all classes add up to 0, so their mean would be the noise
    classes = apply(variables, images).shape[1]
    found = []
    for label in range(classes):
        labels = np.full(len(images), label)
        noise = one.release(apply, variables, images, labels)
        found.append(noise - plain.release(apply, variables, images, labels))
    correlation = np.corrcoef(np.reshape(found, (classes, -1)))
    assert np.abs(correlation - np.eye(classes)).max() < 0.2

    # A retrained model has noise of its own
    other = one.adopt(variables)
    assert np.abs(other.release(apply, variables, images) - maps).mean() > 0.1


def test_keys_beyond_unit_range():
    """Standardised images are told apart below 0 and above 1."""
    images = jnp.array([1.5, 5.0, -1.0, -3.0]).reshape(4, 1, 1, 1) * jnp.ones((1, 2, 2, 1))
    keys = jax.random.key_data(jax.vmap(lambda image: released.key_of(SECRET, image, 0))(images))
    assert len(np.unique(keys, axis=0)) == 4


def test_image_keys_do_not_collide():
    """2,000 images that differ in one pixel by one step have as many keys."""
    images = (
        jnp.zeros((2000, 50, 40, 1))
        .at[jnp.arange(2000), jnp.arange(2000) // 40, jnp.arange(2000) % 40]
        .set(1 / 255)
    )
    keys = jax.random.key_data(
        jax.jit(jax.vmap(lambda image: released.key_of(SECRET, image, 0)))(images)
    )
    assert len(np.unique(keys, axis=0)) == 2000


@pytest.mark.slow
def test_kept_maps_equal_the_policy(network):
    """The search transforms maps that it keeps; a policy does both in one program."""
    apply, variables, images = network
    labels = np.zeros(6, np.int32)
    saliency = explain.build("saliency")
    kept = explain.batch(
        released.of_image(saliency, SECRET), apply, variables, images, labels, jax.random.key(0)
    )
    changed = released.changed(chain_of(NOISY), {}, SECRET)(images, labels, kept)
    np.testing.assert_allclose(
        changed, policy(variables).release(apply, variables, images, labels), atol=1e-6
    )


def test_quantised_maps():
    """Rounded to multiples, halves to even (NumPy's rule)."""
    maps = np.array([-0.26, -0.05, 0.05, 0.15, 0.24], np.float32).reshape(1, 1, 5, 1)
    observed = defences.quantise(0.1).apply(
        {}, released.Observation(np.zeros((1, 0)), maps), jax.random.key(0)
    )
    np.testing.assert_allclose(observed.explanation, np.round(maps / 0.1) * 0.1, atol=1e-6)


def test_rescaled_maps():
    """All maps have one deviation, tiny ones too; the order of values stays, and constant maps
    stay.
    """
    random = np.random.default_rng(0)
    maps = random.normal(size=(3, 4, 4, 1)).astype(np.float32) * np.float32([1, 1e-25, 0]).reshape(
        3, 1, 1, 1
    )
    apply = defences.rescale(2.0).apply
    found = apply({}, released.Observation(np.zeros((3, 0)), maps), jax.random.key(0)).explanation
    assert np.std(found, axis=(1, 2, 3)) == pytest.approx([2, 2, 0], rel=1e-5)
    assert (np.argsort(found[1].ravel()) == np.argsort(maps[1].ravel())).all()
    half = defences.rescale(2.0, 0.5).apply(
        {}, released.Observation(np.zeros((3, 0)), maps), jax.random.key(0)
    )
    expected = np.std(maps[0].astype(np.float64)) * np.sqrt(2 / np.std(maps[0].astype(np.float64)))
    assert np.std(half.explanation[0]) == pytest.approx(expected, rel=1e-5)


# Policies


def test_policy_round_trip(network, tmp_path):
    """What is loaded releases the same bits, its prototypes included."""
    apply, variables, images = network
    section = {
        "name": "protodash",
        "normalise": "none",
        "prototypes": 2,
        "reference": {"role": "r", "count": 4},
    }
    for one in (policy(variables), policy(variables, explainer=section, reference=images[:4])):
        one.save(tmp_path / "p.json")
        again = load_policy(tmp_path / "p.json")
        assert np.array_equal(
            one.release(apply, variables, images), again.release(apply, variables, images)
        )
    # Of the two, the arrays of the second alone are left
    (beside,) = tmp_path.glob("*.npz")
    assert (beside.stat().st_mode | (tmp_path / "p.json").stat().st_mode) & 0o077 == 0
    beside.unlink()
    with pytest.raises(InputError, match=r"needs p\.json\..*\.npz, which is not beside it"):
        load_policy(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9.*this xinv reads format 2"),
        ({"explainer": {"name": "saliancy", "normalise": "none"}}, "unknown explainer 'saliancy'"),
        ({"defences": [{"name": "noise", "stdev": -1}]}, "stdev"),
        ({"secret": [1]}, "secret of 1 words"),
        ({"secret": ["x", 2]}, "is damaged"),
        ({"secret": [1.5, 2]}, "is damaged"),
        ({"explainer": {"name": "saliency"}}, "has no scale"),
        ({"defences": {}}, "must be a list"),
        ({"defences": [{}]}, "is damaged"),
        (None, "is no policy"),
    ],
)
def test_policy_that_cannot_be_loaded(network, tmp_path, change, message):
    policy(network[1]).save(tmp_path / "p.json")
    text = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps({} if change is None else text | change))
    with pytest.raises(InputError, match=message):
        load_policy(tmp_path / "p.json")


def test_policy_of_another_model(network):
    """A leak is of the weights that it was measured on."""
    apply, variables, images = network
    others = jax.tree.map(lambda leaf: leaf + 1, variables)
    one = policy(variables, measured={"auc": 0.5})
    with pytest.raises(InputError, match="made for a model with weights"):
        one.release(apply, others, images)
    adopted = one.adopt(others)
    assert adopted.measured == {}
    assert "secret" not in repr(adopted)
    assert adopted.release(apply, others, images).shape == (6, 8, 8, 1)


def test_policy_that_was_changed(network, tmp_path):
    """A leak is of the release that it was measured on."""
    candidate = Candidate({"name": "saliency", "normalise": "none"}, NOISY)
    measured = {"released": candidate.spec() | {"transforms": list(NOISY)}, "outcome": "leaks"}
    one = policy(network[1], measured=measured)
    one.save(tmp_path / "p.json")
    assert "outcome='leaks'" in repr(load_policy(tmp_path / "p.json"))
    one._replace(defences=NOISY[:1]).save(tmp_path / "p.json")
    with pytest.raises(InputError, match="was measured of another release"):
        load_policy(tmp_path / "p.json")


def test_fingerprint_of_numbers(network):
    """Another number among the weights is another model."""
    scaled = [{"weights": network[1], "scale": scale} for scale in (2.0, 7.0)]
    assert len({fingerprint(one) for one in scaled}) == 2


def test_policy_of_predictions(network):
    """Defences of predictions act where predictions are asked for."""
    apply, variables, images = network
    one = policy(variables, defences=({"name": "truncate", "m": 1},))
    observed = one.observe(apply, variables, images)
    truth = jax.nn.softmax(apply(variables, np.round(255 * images) / 255))
    np.testing.assert_allclose(observed.prediction.max(1), truth.max(1), atol=1e-6)
    assert (np.count_nonzero(observed.prediction, axis=1) == 1).all()


def test_verify(network):
    """Members whose images are brighter are told from others by their input x gradient."""
    apply, variables, _ = network
    random = np.random.default_rng(1)
    member = np.arange(120) % 2
    images = random.uniform(size=(120, 8, 8, 1)) * np.where(member, 1.0, 0.2)[:, None, None, None]
    section = {"name": "input_x_gradient", "normalise": "none"}
    one = policy(variables, explainer=section, defences=())
    found = one.verify(
        apply, variables, images.astype(np.float32), member, attack=attacks.map_statistic("l2")
    )
    assert found["auc"].value > 0.9
    with pytest.raises(InputError, match="120 images, 3 members"):
        one.verify(apply, variables, images.astype(np.float32), member[:3])


def test_readme(network, tmp_path, monkeypatch, capsys):
    """Its example loads a policy, releases maps and prints an AUC with its interval."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attacks, "membership_network", lambda **_: attacks.map_statistic("l2"))
    apply, variables, _ = network
    policy(variables).save("runs/harden/policies/probability(saliency)-0.json")
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)
    names = dict(apply=apply, variables=variables, images=images, member=np.arange(40) % 2)
    exec(block("README.md", "Harden what you release"), names)
    assert names["maps"].shape == (40, 8, 8, 1)
    assert re.match(r"Estimate\(value=0\.\d+, low=", capsys.readouterr().out)


# The paired difference


def literal(member, before, after, group):
    """DeLong's covariance by pairs, in float64; groups add up (Obuchowski 1997)."""

    def kernel(score):
        a, b = score[member == 1][:, None], score[member == 0][None]
        return (a > b) + 0.5 * (a == b)

    change = kernel(after) - kernel(before)
    variance = 0.0
    for axis, kind in ((1, 1), (0, 0)):
        placed = change.mean(axis=axis)
        ids = group[member == kind]
        sums = [
            placed[ids == name].sum() - (ids == name).sum() * placed.mean()
            for name in np.unique(ids)
        ]
        variance += len(sums) / (len(sums) - 1) * np.square(sums).sum() / len(placed) ** 2
    return change.mean(), np.sqrt(variance)


@pytest.mark.parametrize("size", [1, 3])
def test_area_difference(size):
    random = np.random.default_rng(0)
    group = np.arange(60) // size
    member = group % 2
    before = random.normal(size=60) + member
    after = np.round(before / 2 + random.normal(size=60), 1)
    found = area_difference(member, before, after, None if size == 1 else group)
    value, error = literal(member, before, after, group)
    assert found.value == pytest.approx(value)
    law = (
        stats.norm
        if size == 1
        else stats.t(min(len(np.unique(group[member == k])) for k in (0, 1)) - 1)
    )
    assert (found.low, found.high) == pytest.approx(
        (value - law.ppf(0.975) * error, value + law.ppf(0.975) * error)
    )
    same = area_difference(member, before, before)
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_mean_over_groups():
    """Values of a group count as one draw, written out; groups of one are the ordinary interval."""
    values = np.random.default_rng(0).normal(size=12) + np.repeat([0.0, 1.0, 2.0, 5.0], 3)
    group = np.repeat(np.arange(4), 3)
    means = np.array([values[group == name].mean() for name in range(4)])
    error = np.sqrt(np.square(means - values.mean()).sum() / 3 / 4)
    found = mean_interval(values, 0.95, group)
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(stats.t(3).ppf(0.975) * error)
    assert mean_interval(values, 0.95, np.arange(12)) == pytest.approx(mean_interval(values, 0.95))


def test_area_difference_without_variance():
    """From perfect to constant scores all examples change alike: the interval is that of as many
    trials.
    """
    member = np.arange(40) % 2
    found = area_difference(member, member.astype(float), np.zeros(40))
    assert found.value == -0.5
    assert found.low < -0.5 < found.high < 0
    assert found.p == 0.5**20
    with pytest.raises(InputError, match="two groups"):
        area_difference(member, member.astype(float), np.zeros(40), member)


# The whole


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The quick size on 8x8 digits, attacked by a statistic, of a target that has learned its
    images by heart.
    """
    path = tmp_path_factory.mktemp("digits") / "images.npz"
    digits = load_digits()
    images = np.rint(digits.images[:700, ..., None] / 16 * 255).astype(np.uint8)
    np.savez(path, images=images, labels=digits.target[:700])
    found = deepleak.get_config("quick")
    found.data.source = ConfigDict(dict(name="arrays", path=str(path), labels=dict(digit="labels")))
    found.data.transform.resize = None
    for part in (found.target, *found.shadows.values()):
        part.model.width = 0.0625
        if part.train:
            part.train.epochs, part.train.learning_rate = 60, 1e-2
    section = dict(name="saliency", of="probability", normalise="none")
    found.explanations = ConfigDict(dict(probability=section))
    found.arms = ConfigDict()
    statistic = dict(name="map_statistic", statistic="l2")
    found.harden.update(
        dict(explanations=("probability",), trials=3, startup=2, generation=1, sample=16, queries=2)
    )
    found.harden.search_attack = found.harden.attack = ConfigDict(statistic)
    found.harden.floors, found.harden.transforms = (
        ConfigDict(dict(spearman=0.1)),
        ("rescale", "quantise"),
    )
    found.harden.inversion = ConfigDict()
    return json.loads(json.dumps(found.to_dict()))


def hardened(config, folder, stages):
    with store.opened(stages) as kept:
        return harden.run(config, folder, kept)


def contents(folder):
    names = [
        "hardened.jsonl",
        "trials.jsonl",
        *sorted(str(p.relative_to(folder)) for p in folder.glob("policies/**/*.*")),
    ]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    root = tmp_path_factory.mktemp("harden")
    return root, hardened(config, root / "one", root / "stages")


@pytest.mark.slow
def test_hardening_lowers_the_leak(done, config):
    """The difference is of images that the search never saw, and both controls stand beside it."""
    root, (line,) = done
    assert line["outcome"] == "leaks"
    difference = line["leak"]["auc"]["difference"]
    assert line["leak"]["auc"]["before"]["value"] > 0.6
    assert difference["high"] < 0
    assert {control: set(figures) for control, figures in line["controls"].items()} == {
        "untrained": {"before", "after"},
        "stranger": {"before", "after"},
    }
    page = report.hardened(root / "one").read_text()
    assert "1 of 1 hardened explanations leak less" in page
    assert "leaks less" in report.hardened_table(root / "one")


@pytest.mark.slow
def test_search_reads_no_reported_image(done, config):
    """No stage that the choice depends on reads a role of the reported half."""
    root, _ = done
    trials = list((root / "stages").glob("trial-*/spec.json"))
    specs = {
        path.parent.name.rsplit("-", 1)[1]: json.loads(path.read_text())
        for path in (root / "stages").glob("*/spec.json")
    }
    searched = [json.loads(path.read_text()) for path in trials]
    searched = [spec for spec in searched if "search_members+search_others" in spec["read"]]
    assert len(searched) == 4  # the unhardened map and three trials
    allowed = {"search_members+search_others", "shadow_train+shadow_test"}
    found = np.load(config["data"]["source"]["path"])
    dealt = data.roles.split({"digit": found["labels"]}, seed=0, **config["data"]["roles"])
    reported = np.concatenate([dealt["report_members"], dealt["report_others"]])
    for role in allowed:
        assert not np.isin(
            np.concatenate([dealt[part] for part in role.split("+")]), reported
        ).any()
    for spec in searched:
        assert set(spec["read"]) == allowed
        for digest in spec["classifiers"]:
            # Classifiers alone may know images of the other half: the members are what it is about
            assert specs[digest]["settings"]["roles"] in (["target_train"], ["shadow_train"])


@pytest.mark.slow
def test_policy_is_the_audited_release(done, config):
    """The policy gives the bits of the maps whose leak is reported."""
    root, (line,) = done
    (path,) = (root / "one" / "policies").glob("*.json")
    loaded = load_policy(path)
    kept = [
        json.loads(spec.read_text()) | {"path": spec.parent}
        for spec in (root / "stages").glob("policy-*/spec.json")
    ]
    (after,) = [
        spec
        for spec in kept
        if spec["read"] == ["report_members+report_others"]
        and spec["transforms"]
        and loaded.model == fingerprint(_weights(root, spec["classifiers"][0]))
    ]
    variables = _weights(root, after["classifiers"][0])
    network = models.build(classes=10, **config["target"]["model"])
    assert line["policy"] == str(path.relative_to(root / "one"))
    images = _images(config, "report_members", "report_others")
    maps = loaded.release(network.apply, variables, images)
    assert np.array_equal(maps, np.load(after["path"] / "explanation.npy"))


def _weights(root, digest):
    (folder,) = (root / "stages").glob(f"*-{digest}/state")
    return store.load_tree(folder)["classifier"]


def _images(config, *roles):
    found = np.load(config["data"]["source"]["path"])
    dealt = data.roles.split({"digit": found["labels"]}, seed=0, **config["data"]["roles"])
    places = np.sort(np.concatenate([dealt[role] for role in roles]))
    images = found["images"][places]
    return images


@pytest.mark.slow
@pytest.mark.parametrize("helped", [False, True])
def test_same_bytes_again(done, config, tmp_path, helped):
    """A second start that lacks some trials, as after a kill, ends with the same bytes; a helper
    leaves it nothing to compute.
    """
    root, _ = done
    trials = lambda: sorted((root / "stages").glob("trial-*"))
    complete = trials()
    for path in complete[::2]:
        shutil.rmtree(path)
    if helped:
        with store.opened(root / "stages") as stages:
            with pytest.raises(InputError, match="has no hardening of this config to help"):
                harden.assist(config, tmp_path, stages, 1)
            results.begin(tmp_path, config)
            harden.assist(config, tmp_path, stages, 1)
        assert trials() == complete
        assert not (tmp_path / "hardened.jsonl").exists()
    hardened(config, tmp_path, root / "stages")
    assert contents(root / "one") == contents(tmp_path)


@pytest.mark.slow
def test_two_processes(done, config, tmp_path):
    """Processes that share the work end with the bytes of one, and leave nothing behind."""
    root, _ = done
    stages = tmp_path / "stages"
    shutil.copytree(root / "stages", stages)
    for name in ("trial-*", "attack-*", "explanation-*"):
        for path in stages.glob(name):
            shutil.rmtree(path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = tmp_path / "digits.py"
    file.write_text(
        "import json\n"
        "from ml_collections import ConfigDict\n"
        "def get_config(arg=''):\n"
        f"    return ConfigDict(json.loads(open({str(tmp_path / 'config.json')!r}).read()))\n"
    )
    command = [sys.executable, ROOT / "launch" / "harden.py", f"--config={file}"]
    command += ["--workdir=two", f"--store={stages}", "--jobs", "2"]
    # Programs like those of these tests
    plain = str(int(jax.config.read("jax_disable_most_optimizations")))
    settings = dict(
        JAX_DISABLE_MOST_OPTIMIZATIONS=plain, JAX_NUM_CPU_DEVICES=str(jax.device_count())
    )
    found = subprocess.run(
        list(map(str, command)), env=os.environ | settings, cwd=tmp_path, capture_output=True
    )
    assert found.returncode == 0, found.stderr.decode()
    assert b"helper 1 ended" not in found.stderr
    assert contents(tmp_path / "two") == contents(root / "one")
    assert (tmp_path / "two" / "workers" / "1.log").exists()
    assert not [path for end in ("lease", "partial") for path in tmp_path.glob(f"**/*.{end}")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(trials=0), "trials"),
        (dict(explanations=("gradcam",)), "harden.explanations has 'gradcam'"),
        (dict(transforms=("blur",)), "unknown defence 'blur'"),
        (dict(transforms=("truncate",)), "'truncate', which has no search space"),
        (dict(leak="accuracy"), "harden.leak"),
        (dict(target="nobody"), "nobody"),
        (dict(attack=dict(name="gap")), "choose a membership attack"),
        (
            dict(roles=dict(shadow="shadow_train", search="target_train", report="report_members")),
            "share images",
        ),
        (
            dict(
                roles=dict(shadow="shadow_train", search="search_members", report="report_members")
            ),
            "needs members and others",
        ),
        (
            dict(roles=base.harden((), {}, {})["roles"] | dict(shadow="shadow_train")),
            "harden.roles.shadow needs members and others of the shadow's",
        ),
        (dict(floors=dict(infidelity=1)), "harden.floors has 'infidelity'"),
        (dict(explanations=("probability", "probability")), "explanations names one twice"),
        (dict(controls=dict(stranger=("shadow",))), "harden.controls.stranger"),
    ],
)
def test_bad_section(config, tmp_path, changes, message):
    changed = {**config, "harden": {**config["harden"], **changes}}
    with store.opened(tmp_path / "stages") as kept, pytest.raises(InputError, match=message):
        check(opened(changed, Stages(kept, tmp_path)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("target.label", "colour", "colour"),
        ("target.model.width", -1.0, "width"),
        ("shadows.stranger.model.name", "foo", "foo"),
        ("explanations.probability.of", "prob", "prob"),
        ("explanations.probability", dict(name="saliency"), "no scale"),
        ("shadows.shadow.roles", ("shadow_train", "report_others"), "'shadow' as a shadow model"),
        ("shadows.stranger.roles", ("search_others",), "'stranger' as a shadow model"),
        ("shadows.shadow.train.noise", 1.0, "clip"),
        ("harden.inversion", HUGE, "harden.inversion"),
    ],
)
def test_bad_models(config, tmp_path, path, value, message):
    """All models of a hardening are checked before the first is trained."""
    changed = copy.deepcopy(config)
    *places, last = path.split(".")
    section = changed
    for name in places:
        section = section[name]
    section[last] = value
    with store.opened(tmp_path / "stages") as kept, pytest.raises(InputError, match=message):
        check(opened(changed, Stages(kept, tmp_path)))


def test_logits_are_no_policy(config, tmp_path):
    """Policies release probabilities."""
    changed = {**config, "service": {"prediction": "logits"}}
    with store.opened(tmp_path / "stages") as kept, pytest.raises(InputError, match="policies"):
        check(opened(changed, Stages(kept, tmp_path)))


@pytest.mark.slow
def test_search_passes_over_what_does_not_fit(done, config):
    """A window larger than the images is no candidate, and does not end the search."""
    root, _ = done
    occluded = {"name": "occlusion", "normalise": "none"}
    changed = {**config, "explanations": {"occlusion": occluded}}
    with store.opened(root / "stages") as kept:
        subject = Subject(opened(changed, Stages(kept, root)), "occlusion", 0)
        found = [fits(subject, Candidate(occluded | {"window": size})) for size in (4, 8, 16)]
    assert found == [True, True, False]


@pytest.mark.slow
def test_search_without_a_candidate(done, config, monkeypatch):
    """What no candidate fits is not said to have been tried."""
    root, _ = done
    monkeypatch.setattr(search, "fits", lambda subject, candidate: False)
    with store.opened(root / "stages") as kept:
        found = search.search(Subject(opened(config, Stages(kept, root)), "probability", 0))
    assert found.outcome == "no candidate of the search space fits the model and its images"


@pytest.mark.slow
def test_no_leak_is_a_result(config, tmp_path):
    """A target that is not trained leaks nothing, and there is nothing to harden."""
    untrained = {**config, "target": {**config["target"], "train": {}}}
    (line,) = hardened(untrained, tmp_path / "run", tmp_path / "stages")
    assert line["outcome"] == "no leak found, nothing to harden"
    assert "after" not in line["leak"]["auc"]
    assert "nothing to harden" in report.hardened_table(tmp_path / "run")


# Ways


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """A search by another order, a learned defence, and a training with noise, of one target."""
    networks = dict(network="gnime_decoder", encoder="flatten_unet", width=0.0625)
    game = dict(
        base.recipe(batch_size=16, epochs=2, learning_rate=1e-3, validation=0.0, patience=0)
    )
    ond = dict(name="pgd", mse=0.01, steps=2, train=game) | networks
    dp = dict(clip=1.0, noise=1.0, batch_size=70, epochs=2, weight_decay=0.0)
    ways = dict(
        trials=1,
        startup=1,
        orders=(("noise", "quantise"),),
        defences=(("ond",), ("noise",)),
        trainings={"dp-sgd": dict(train=dp)},
    )
    changed = {
        **config,
        "defences": {"ond": json.loads(json.dumps(ond)), "noise": dict(name="noise", stdev=0.1)},
        "defender": dict(role="reference", held_out="held_out"),
        "harden": {**config["harden"], **ways},
    }
    roles = changed["data"]["roles"]
    roles = {**roles, "roles": {**roles["roles"], "held_out": 0.05}}
    changed["data"] = {**changed["data"], "roles": roles}
    root = tmp_path_factory.mktemp("ways")
    return root, changed, hardened(changed, root / "one", root / "stages")


@pytest.mark.slow
def test_ways_are_compared(compared):
    """Each way has its line with paired figures; another training has an ε and no fidelity."""
    root, _, lines = compared
    found = {line["way"]: line for line in lines}
    assert list(found) == ["search", "noise+quantise", "ond", "noise", "dp-sgd"]
    before = {json.dumps(line["leak"]["auc"]["before"]) for line in lines}
    assert len(before) == 1  # of the same images and the same unhardened map
    for way in ("ond", "noise", "dp-sgd"):
        assert set(found[way]["leak"]["auc"]) == {"before", "after", "difference"}
        assert set(found[way]["accuracy"]) == {"before", "after"}
    assert found["dp-sgd"]["privacy"]["epsilon"] > 0
    assert found["ond"]["privacy"] == {}
    # Only noise may be averaged away
    assert found["ond"]["queries"] is None
    assert 0 < found["noise"]["queries"]["value"] < 1
    assert "after" not in found["dp-sgd"]["utility"]["spearman"]
    page = report.hardened(root / "one").read_text()
    assert "Policy against policy" in page
    assert "probability, ond" in report.hardened_table(root / "one")


@pytest.mark.slow
def test_ways_again(compared, tmp_path):
    """A second start that lacks stages of several ways, as after a kill, ends with the same bytes;
    each way states what it took.
    """
    root, config, lines = compared
    kept = shutil.copytree(root / "stages", tmp_path / "stages")
    for name in ("trial", "control", "policy", "defence"):
        for path in sorted(kept.glob(f"{name}-*"))[::2]:
            shutil.rmtree(path)
    hardened(config, tmp_path / "two", kept)
    assert contents(root / "one") == contents(tmp_path / "two")
    costs = [json.loads(line) for line in (root / "one" / "costs.jsonl").read_text().splitlines()]
    assert [cost["way"] for cost in costs] == [line["way"] for line in lines]
    spent = {cost["way"]: cost["seconds"] for cost in costs}
    assert spent.pop("noise") == 0  # nothing is learned
    assert min(spent.values()) > 0


@pytest.mark.slow
def test_policy_of_a_learned_defence(compared):
    """A file beside the policy holds what the defence has learned: it releases the audited bits."""
    root, config, lines = compared
    (line,) = [line for line in lines if line["way"] == "ond"]
    loaded = load_policy(root / "one" / line["policy"])
    path = root / "one" / line["policy"]
    assert list(path.parent.glob(f"{path.name}.*.npz"))
    assert [section["name"] for section in loaded.defences] == ["pgd"]
    matching = []
    for path in (root / "stages").glob("policy-*/spec.json"):
        spec = json.loads(path.read_text())
        reported = spec["read"] == ["report_members+report_others"]
        learned = [one["settings"]["name"] for one in spec.get("defences", ())] == ["pgd"]
        if reported and learned and len(spec["classifiers"]) == 1:
            variables = _weights(root, spec["classifiers"][0])
            if fingerprint(variables) == loaded.model:
                matching.append((path.parent, variables))
    ((folder, variables),) = matching
    network = models.build(classes=10, **config["target"]["model"])
    maps = loaded.release(
        network.apply, variables, _images(config, "report_members", "report_others")
    )
    assert np.array_equal(maps, np.load(folder / "explanation.npy"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(defences=("rnd",)), "harden.defences has 'rnd': give each as a list"),
        (dict(defences=(("rnd",),)), "unknown defence 'rnd'"),
        (dict(defences=(("noise",),)), "defender.held_out is empty, and the defence 'noise'"),
        (dict(orders=((),)), "give each as a list of names"),
        (dict(defences=(("top1",),)), "'top1', which changes predictions"),
        (dict(trainings={"v": {"train": {"validation": 0.2, "patience": 5}}}), "validation"),
        (dict(orders=(("clip", "clip"),)), "harden.orders names one twice"),
        (dict(orders=(("truncate",),)), "harden.orders has 'truncate'"),
        (dict(orders=(("clip",), ("clip",))), "the way 'clip' twice"),
        (dict(trainings={"search": {"train": {}}}), "the way 'search' twice"),
        (dict(trainings={"a/b": {"train": {}}}), "no name of a folder"),
        (dict(trainings={".": {"train": {}}}), "no name of a folder"),
        (dict(trainings={"dp": {}}), "trainings.dp is {}"),
        (dict(trainings={"dp": {"roles": {}}}), "trainings.dp has 'roles'"),
        (dict(trainings={"dp": {"train": {"nois": 1.0}}}), "nois"),
        (dict(trainings={"dp": {"model": {"width": -1.0}}}), "width"),
    ],
)
def test_bad_ways(config, tmp_path, changes, message):
    changed = {**config, "harden": {**config["harden"], **changes}}
    changed["defences"] = {
        "top1": dict(name="truncate", m=1),
        "noise": dict(name="noise", stdev=0.1),
    }
    with store.opened(tmp_path / "stages") as kept, pytest.raises(InputError, match=message):
        check(opened(changed, Stages(kept, tmp_path)))


def rate_by_thresholds(member, score, rate):
    """The true-positive rate at the best threshold of an allowed false-positive rate."""
    best = 0.0
    for threshold in [np.inf, *score]:
        called = score >= threshold
        if called[member == 0].sum() <= np.floor(rate * (member == 0).sum() + 1e-9):
            best = max(best, called[member == 1].mean())
    return best


def test_rate_difference():
    """The rates are those of all thresholds; equal scores do not differ."""
    random = np.random.default_rng(0)
    member = np.arange(120) % 2
    before = np.round(random.normal(size=120) + 2 * member, 1)
    after = np.round(random.normal(size=120), 1)
    found = rate_difference(member, before, after, 0.05)
    expected = rate_by_thresholds(member, after, 0.05) - rate_by_thresholds(member, before, 0.05)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high < 0
    assert found.p < 0.01
    same = rate_difference(member, before, before, 0.05)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
