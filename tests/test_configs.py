"""The papers' experiments at every size, on black images of the right shapes: each unit passes
validation.
"""

import dataclasses
import functools
import importlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict

from xinv import audit, data, models, store, train
from xinv.audit.attacker import arms, parts
from xinv.audit.roles import Roles
from xinv.audit.sections import SECTIONS, sections
from xinv.audit.service import Classifiers, Service
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "launch")]
import cli  # noqa: E402

from configs import base, datasets, deepleak, digits, gnime, thielen, yang, zhao  # noqa: E402

SIZES = {
    "yang": tuple(yang.sizes()),
    "thielen": tuple(thielen.sizes()),
    "zhao": tuple(zhao.sizes()),
    "gnime": tuple(gnime.sizes()),
    "deepleak": tuple(deepleak.sizes()),
}
CONFIGS = [path for path in (ROOT / "configs").glob("*.py") if "def get_config" in path.read_text()]
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


class ValidatedError(Exception):
    """All is right: nothing need be computed."""


@functools.cache
def units(name, size):
    """The configs of a sweep, as launch/sweep.py makes them."""
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(size)
    config.seeds = 1
    return [cli.changed(config.to_dict(), unit) for unit in module.sweep(size, config)]


def load(settings):
    return _load(json.dumps(settings, default=str))


@functools.cache
def _load(text):
    """A data set of the labels and shapes of that section."""
    settings = json.loads(text)
    source, change = settings["source"], settings["transform"]
    side, *_ = source.get("resize") or change["resize"] or (32,)
    grey = source["name"] == "idx" or change["grayscale"] or source.get("grayscale", False)
    # FaceScrub has some ninety images of each person, other sets at least twenty
    each = 90 if side == 64 else 20
    count = {32: 14_000, 64: 530 * each}.get(side, 240)
    if change["classes"] and isinstance(change["classes"][1], int):
        count = max(count, each * change["classes"][1])
    shape = (count, side, side, 1 if grey else 3)
    images = data.Lazy(shape, lambda rows: np.zeros((len(rows), *shape[1:]), np.uint8))
    if source["name"] == "folder":
        named = re.findall(r"\?P<(\w+)>", source["labels"]) or [source["labels"]]
        people = [f"person{number}" for number in range(len(images) // each)]
        classes = {label: people if label == "identity" else ["happy", "sad"] for label in named}
    else:
        classes = {"label": CIFAR10 if source["name"] == "tfds" else DIGITS}
    if source["name"] in ("digits", "arrays"):
        classes = dict.fromkeys(source.get("labels", ("digit",)), DIGITS)
    labels = {label: np.arange(len(images)) % len(names) for label, names in classes.items()}
    if "track" in labels:  # ten images each
        classes["track"] = tuple(map(str, range(len(images) // 10)))
        labels["track"] = np.arange(len(images)) // 100 * 10 + labels["track"]
    if "frame" in labels:  # every third of the track's frames
        classes["frame"] = tuple(map(str, range(2, 30, 3)))
        labels["frame"] = np.arange(len(images)) // 10 % 10
    drawn = data.create(
        source.get("title", ""), images, labels, classes, data.dataset.digest([text])
    )
    # Without a least number of images: a class has few here
    return data.transform(drawn, classes=change["classes"] and tuple(change["classes"][:2]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "chosen"),
    [
        *(("yang", size, "") for size in SIZES["yang"]),
        *(("thielen", size, "table-[34]|figure") for size in SIZES["thielen"]),
        ("zhao", "runlocal", "figure-4b-inputs"),
        ("zhao", "icv-mefed-identity", "figure-5"),
        ("zhao", "celeba-facescrub", "figure-S5a"),
        ("gnime", "runlocal-gradcam", "gamma|reverse|ood|lambda-1$|logits|deployed"),
        ("gnime", "runlocal-celeba", "defences"),
        ("deepleak", "quick", ""),
        ("deepleak", "runlocal-gtsrb", "audit"),
        ("deepleak", "cifar10", "audit|likelihood|dp-1$"),
    ],
)
def test_every_unit_validates(name, size, chosen, tmp_path, monkeypatch):
    def begin(*arguments):
        raise ValidatedError

    monkeypatch.setattr(
        importlib.import_module("xinv.audit.run"), "load_data", load
    )  # the package has the function
    monkeypatch.setattr("xinv.audit.results.begin", begin)
    with store.opened(tmp_path / "stages") as stages:
        for config in units(name, size):
            if re.match(chosen, config["unit"]):
                with pytest.raises(ValidatedError):
                    audit.run(config, tmp_path / config["unit"], stages)


class Counted(NamedTuple):
    """Stages that are named but not computed: the specs asked for, by name."""

    found: dict

    def computed(self, name, label, spec, compute):
        digest = store.digest({"name": name, "spec": spec})
        self.found.setdefault(name, set()).add(digest)
        return Uncomputed(digest)

    filled = trained = computed


class Uncomputed(NamedTuple):
    digest: str

    def array(self, name):
        return np.zeros((2, 10), np.float32)


@pytest.mark.slow
def test_models_of_fifteen_explainers():
    """A seed has one target, one shadow, a stranger and two untrained models, and explains each
    role once.
    """
    config = json.loads(json.dumps(units("deepleak", "runlocal-cifar10")[0]))
    roles = Roles(load(config["data"]), None, config["data"], {})
    service = Service(Classifiers(config, roles, Counted({})))
    for part in parts(service):
        service.classifiers.classifier(part, seed=0)
    for arm in arms(service):
        arm.guessed(seed=0)
    found = {name: len(specs) for name, specs in service.stages.found.items()}
    explainers, attacked = len(config["explanations"]), len(deepleak.EXPLAINERS)
    assert explainers == attacked >= 15
    assert all(arm["attack"].get("restarts", 5) == 5 for arm in config["arms"].values())
    classifiers = ("target", "shadow", "stranger", "untrained", "untrained_shadow")
    assert found == dict.fromkeys(classifiers, 1) | {
        # The shadow and an untrained one explain what is learned from, three others what is audited
        "logits": 5,
        "explanation": 5 * explainers,
        # A network and a threshold on each explainer, confidence and correctness; each also on the
        # untrained shadow
        "attack": 2 * (2 * explainers + 2),
        "guess": 3 * (2 * explainers + 2),
    }


def test_gallery_networks():
    """Each is built as stated, and only the CNN is asked for what needs a ReLU."""
    cnn, *others = units("explainers", "")
    for config in (cnn, *others):
        models.build(classes=10, **config["target"]["model"])
    assert [config["target"]["model"]["name"] for config in (cnn, *others)] == [
        "cnn",
        "vit",
        "convnext",
    ]
    for config in others:
        missing = set(cnn["explanations"]) - set(config["explanations"])
        assert missing == {"deconvolution", "guided_backprop", "guided_gradcam"}


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, sizes in SIZES.items() for size in sizes]
)
def test_published_matches_measured(name, size):
    """Every published figure is of an arm or a classifier of its unit; unit names are unique."""
    configs = units(name, size)
    assert len({config["unit"] for config in configs}) == len(configs)
    for config in configs:
        measured = {"target", "evaluation", *config["shadows"], *config["arms"]}
        assert {row["arm"] for row in config["report"]["published"]} <= measured, config["unit"]


@pytest.mark.parametrize("name", SIZES)
def test_docstring_lists_sizes(name):
    """The docstring lists every size with its cost."""
    lines = importlib.import_module(f"configs.{name}").__doc__.splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    table = [row for row in rows if re.search("two cores|accelerator", row[-1])]
    listed = {
        size.strip().removesuffix(" (or none)") for row in table for size in row[0].split(",")
    }
    assert listed == set(SIZES[name])
    assert all(re.search(r"estimate|beside other work|measured", row[-1]) for row in table)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_override_changes_one_place(path):
    """A change on the command line changes one place.

    ConfigDict keeps it where two places are one object: the attack's training could change the
    target's.
    """

    def below(section, above=""):
        for name in section:
            if isinstance(section[name], ConfigDict):
                yield id(section[name]), above + name
                yield from below(section[name], f"{above}{name}.")

    module = importlib.import_module(f"configs.{path.stem}")
    for size in ("", *SIZES.get(path.stem, ())):
        config = module.get_config(size)
        places = list(below(config))
        first = dict(reversed(places))
        assert not [(place, first[one]) for one, place in places if first[one] != place], size


def test_base_has_every_key():
    """The commented config has every section and recipe key, and passes validation's key checks."""
    config = base.get_config().to_dict()
    assert set(config) == set(SECTIONS)
    sections(config)
    assert set(base.recipe()) == {field.name for field in dataclasses.fields(train.Recipe)}
    for key in ("source", "transform", "roles"):
        assert set(digits.get_config().data[key]) <= set(config["data"][key])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_unknown_size(path):
    """Every config names a size that it does not have, by the one error."""
    module = importlib.import_module(f"configs.{path.stem}")
    with pytest.raises(ValueError, match="there is no size 'huge': "):
        module.get_config("huge")


def test_shares_multiply_as_decimals():
    """A tenth of 0.1 is 0.01, not 0.010000000000000002; other fractions keep every digit."""
    roles = dict(a=0.1, b=1 / 6, both=("a", "b"))
    assert datasets.shared(roles, 0.1) == dict(a=0.01, b=(1 / 6) / 10, both=("a", "b"))
    assert datasets.shared(roles, 1.0) == roles


def test_gnimes_bound():
    """GNIME's bound is None or a number."""
    config = gnime.get_config("runlocal").lock()
    assert config.to_dict()["defences"]["gnime"]["gamma"] is None
    config.update_from_flattened_dict({"defences.gnime.gamma": 0.004})
    assert config.to_dict()["defences"]["gnime"]["gamma"] == 0.004


def test_thielen_releases_logits():
    """In every unit, and no network takes their logarithm."""
    for config in units("thielen", "runlocal"):
        assert config["service"] == dict(prediction="logits")
        assert config["attack"]["rescale"] == "none"


def test_auxiliary_classes_are_disjoint():
    """Auxiliary sets of other classes are disjoint by construction."""
    for size in ("runlocal", "runlocal-cifar10", "mnist", "cifar10"):
        section = yang.sizes()[size].images("generic")
        own, others = (
            section["transform"]["classes"][1],
            section["auxiliary"]["transform"]["classes"][1],
        )
        assert len(own) == len(others) == 5
        assert not set(own) & set(others)


def test_first_classes_kept():
    """So many classes are the first of them."""
    images, labels = (
        np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1),
        {"identity": np.arange(12) % 4},
    )
    faces = data.create("faces", images, labels, {"identity": tuple("abcd")}, "")
    few, named = (data.keep(faces, "identity", classes) for classes in (3, tuple("abc")))
    np.testing.assert_array_equal(few.images, images[labels["identity"] < 3])
    assert few.fingerprint == named.fingerprint
    for count in (0, 5):
        with pytest.raises(
            InputError, match=f"{count} classes of 'identity' cannot be kept: choose 1 to 4"
        ):
            data.keep(faces, "identity", count)
    # Those with enough images: all have 3 but the last
    few = data.dataset.take(faces, np.arange(11))
    assert data.keep(few, "identity", 2, least=3).classes["identity"] == ("a", "b")
    with pytest.raises(InputError, match="choose 1 to 3, as many as there are with at least 3"):
        data.keep(few, "identity", 4, least=3)


def test_faces_as_in_the_paper():
    """Figures 6 and 8: m and k of 10, 50, 100 and 530, by attackers who have CelebA; Table I: 80 %
    train the target.
    """
    configs = {config["unit"]: config for config in units("yang", "facescrub")}
    arms = {f"{kind}_{m}" for kind in ("aligned", "baseline") for m in (10, 50, 100, 530)}
    assert set(configs["truncation"]["arms"]) == arms
    assert {f"size-{k}" for k in (10, 50, 100, 530)} <= set(configs)
    for name in ("truncation", "size-50", "classes", "auxiliary-generic", "optimised"):
        assert configs[name]["data"]["roles"]["roles"] == dict(target_train=0.8, attack_test=0.2)
        assert configs[name]["data"]["auxiliary"]["source"]["root"].endswith("celeba")
        assert all(
            arm["train_view"]["roles"] == ("auxiliary",) for arm in configs[name]["arms"].values()
        )
