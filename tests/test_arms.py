"""Attacks, defences and views of one unit, together: what they read, what they share, and what they may not."""

import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xinv import audit, store
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, datasets  # noqa: E402

TRAIN = dict(epochs=1, patience=0, batch_size=64, learning_rate=2e-3)
NETWORK = dict(name="cnn", dtype="float32", channels=(128, 256), hidden=512, width=0.03125, norm="none")
INVERTER = dict(network="decoder", loss="mse", rescale="none", width=0.015625, dtype="float32")


def unit(arms, **sections):
    """Digits at 16x16 with a surrogate, a jointly trained target, two defences and other digits as auxiliary images."""
    data = datasets.section(dict(name="digits"), "digit", datasets.DEFENDED, resize=(16, 16))
    few, many = (str(digit) for digit in range(5)), (str(digit) for digit in range(5, 10))
    data["transform"]["classes"] = ("digit", tuple(few))
    others = datasets.section(dict(name="digits"), "digit", dict(others=0.5), resize=(16, 16))
    others["transform"]["classes"] = ("digit", tuple(many))
    del others["auxiliary"]
    config = base.inversion(
        unit="arms",
        data=data | dict(auxiliary=others),
        target_label="digit",
        attack_label="digit",
        model=NETWORK,
        train=base.recipe(**TRAIN),
        attack_width=0.015625,
        attack_train=base.recipe(**TRAIN),
        explanations=ConfigDict({"gradient": dict(name="gradient", normalise="absolute_minmax")}),
    )
    config.seeds, config.attack.encoder = 1, "flatten"
    config.arms = ConfigDict(arms)
    taught = dict(roles=("others",), teacher=dict(prediction="target", defences=("top2",)))
    config.shadows = ConfigDict(
        dict(surrogate=dict(config.target) | dict(roles=("attack_train",)), pupil=dict(config.target) | taught)
    )
    game = dict(
        name="gnime",
        lam=10.0,
        collapse=100.0,
        defeat=100.0,
        network="decoder",
        encoder="flatten",
        width=0.015625,
        inverter_width=0.015625,
        train=base.recipe(**TRAIN, validation=0.0),
    )
    config.defences = ConfigDict(
        dict(
            gnime=game,
            bounded=dict(trained="gnime", gamma=1e-4),
            rnd=dict(name="gaussian", match="gnime"),
            top2=dict(name="truncate", m=2),
        )
    )
    config.report.examples = 2
    for name, section in sections.items():
        config[name] = ConfigDict(section) if isinstance(section, dict) else section
    return config.to_dict()


def run(config, workdir):
    with store.opened(workdir / "stages") as stages:
        return audit.run(config, workdir, stages)


def stages(workdir, name):
    return sorted((workdir / "stages").glob(f"{name}-*"))


def values(rows, arm, metric, stage="attack"):
    return [row["value"] for row in rows if (row["stage"], row["arm"], row["metric"]) == (stage, arm, metric)]


TRUNCATED = dict(defences=("top2",))
ARMS = {
    "prediction": base.arm("prediction", encoder="none"),
    "baseline": base.arm("prediction", encoder="none", sees=TRUNCATED),
    "aligned": base.arm("prediction", encoder="none", learns=TRUNCATED, sees=TRUNCATED),
    "gradient": base.arm("prediction", "gradient"),
    "gnime": base.defended("prediction", "gradient", by=("gnime",)),
    "rnd": base.defended("prediction", "gradient", by=("rnd",)),
    "bounded": base.defended("prediction", "gradient", by=("bounded",)),
    "both": base.defended("prediction", "gradient", by=("gnime", "top2")),
    "averaged": base.arm(
        "prediction", "gradient", learns=dict(defences=("rnd",)), sees=dict(defences=("rnd",), queries=64)
    ),
    "releases": base.arm(
        "prediction", "gradient", learns=dict(defences=("rnd",), releases=3), sees=dict(defences=("rnd",))
    ),
    "chained": base.arm(
        "prediction",
        "gradient",
        learns=dict(defences=("rnd", "top2"), releases=2),
        sees=dict(defences=("rnd", "top2"), queries=8),
    ),
    "surrogate": base.arm(
        "prediction",
        "gradient",
        learns=dict(explanation="surrogate"),
        sees=dict(explanation="none"),
        name="attention_transfer",
        encoder="flatten",
        weight=1.0,
        **INVERTER,
    ),
    "others": base.arm("prediction", encoder="none", learns=dict(roles=("others",))),
    "more": base.arm("prediction", encoder="none", learns=dict(roles=("attack_train", "others"))),
    "classes": base.arm("prediction", name="class_inference", **INVERTER),
    "pixels": base.arm(
        "prediction",
        learns=dict(prediction="surrogate"),
        known="surrogate",
        name="gradient_reconstruction",
        steps=3,
    ),
    "activations": base.arm(
        "prediction", learns=dict(prediction="surrogate"), known="surrogate", scored=False, name="activations"
    ),
    "reads": base.arm("pixels", "activations", learns=dict(prediction="surrogate"), encoder="flatten"),
    "class_image": base.arm("prediction", known="target", name="fredrikson"),
    "preimage": base.arm("prediction", known="target", name="preimage", steps=3),
    "searched": base.arm(
        "prediction",
        learns=dict(prediction="surrogate"),
        known="surrogate",
        name="gradient_reconstruction",
        steps=2,
        search=(2, 1),
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("arms")
    return workdir, run(unit(ARMS), workdir)


def test_every_arm_is_scored_and_every_target_is_trained_once(finished):
    workdir, rows = finished
    scored = {row["arm"] for row in rows if row["stage"] == "attack"}
    assert scored == set(ARMS) - {"activations"}
    assert all(np.isfinite(row["value"]) for row in rows)
    for part in ("target", "evaluation", "surrogate"):
        assert len(stages(workdir, part)) == 1
    # baseline and prediction learn the same; averaged and rnd too
    assert len(stages(workdir, "attack")) == len(ARMS) - 2
    assert len(stages(workdir, "defence")) == 2  # gnime and rnd; bounded applies gnime's, and top2 learns nothing


def test_all_attacks_read_one_training_configuration(finished):
    workdir, _ = finished
    specs = [json.loads((path / "spec.json").read_text()) for path in stages(workdir, "attack")]
    assert {json.dumps(spec["train"], sort_keys=True) for spec in specs} == {
        json.dumps(json.loads(json.dumps(base.recipe(**TRAIN).to_dict())), sort_keys=True)
    }
    with pytest.raises(InputError, match="'train'"):
        run(
            unit({"gnime": base.defended("prediction", "gradient", by=("gnime",), train=dict(epochs=9))}), workdir / "x"
        )


def test_nothing_is_fitted_to_what_is_reported(finished):
    """No classifier, defence or attack has a stage among its sources that comes, however indirectly, of that role."""
    workdir, _ = finished
    specs = {path.name: json.loads((path / "spec.json").read_text()) for path in (workdir / "stages").glob("*-*")}
    read = {name: set(json.dumps(spec).replace('"', " ").split()) for name, spec in specs.items()}
    reported, found = set(), {name for name, spec in specs.items() if spec.get("role") == "attack_test"}
    while found:
        reported |= found
        digests = {name.rsplit("-", 1)[1] for name in reported}
        found = {name for name, sources in read.items() if sources & digests} - reported
    kinds = {name.rsplit("-", 1)[0] for name in reported}
    assert {"logits", "explanation", "release", "guess", "metrics", "function"} <= kinds
    assert not kinds & {"attack", "defence", "target", "evaluation", "surrogate", "pupil"}


def test_matched_noise_changes_what_the_defender_holds_back_as_much_as_gnime(finished):
    _, rows = finished
    gnime, rnd = (values(rows, arm, "held_out_distortion", "defence")[0] for arm in ("gnime", "rnd"))
    assert rnd == pytest.approx(gnime, rel=0.1)  # fitted on the defender's training images


def test_a_bound_is_released_by_the_generator_that_another_defence_has_learned(finished):
    """Eq. 3: a perturbation of variance γ, which the clipping to [0,1] only takes from."""
    workdir, rows = finished
    (bounded,) = values(rows, "bounded", "held_out_distortion", "defence")
    assert 0 < bounded < values(rows, "gnime", "held_out_distortion", "defence")[0]
    examples = np.load(workdir / "examples.npz")
    change = examples["release/bounded"] - examples["explanation/gradient"]
    assert (change.var(axis=(1, 2, 3)) <= 1.01e-4).all()


def test_how_a_game_went_is_kept(finished):
    workdir, _ = finished
    lines = [json.loads(line) for line in (workdir / "curves.jsonl").read_text().splitlines()]
    games = [line for line in lines if line["stage"] == "defence"]
    assert {line["arm"] for line in games} == {"gnime(gradient)"}
    assert [line["epoch"] for line in games] == list(range(1, TRAIN["epochs"] + 1))
    assert all(np.isfinite(line[name]) for line in games for name in ("loss", "distortion", "inversion", "clean"))


def test_averaging_many_releases_brings_noisy_maps_closer_to_the_original(finished):
    workdir, _ = finished
    examples = np.load(workdir / "examples.npz")
    original = examples["explanation/gradient"]
    once, often = (np.square(examples[f"release/{arm}"] - original).mean() for arm in ("rnd", "averaged"))
    assert often < 0.8 * once  # all but what clipping to [0,1] leaves


@pytest.mark.parametrize(("arm", "count"), [("releases", 3), ("chained", 2)])
def test_an_attacker_may_learn_from_independent_releases_of_an_image(finished, arm, count):
    """Each passes through all defences anew, also where only the first of them draws."""
    workdir, _ = finished
    found = [np.load(path) for path in (workdir / "stages").glob("release-*/explanation.npy")]
    (several,) = (maps for maps in found if maps.ndim == 5 and maps.shape[1] == count)
    for one, other in itertools.combinations(range(count), 2):
        assert (several[:, one] != several[:, other]).mean() > 0.4, arm
    examples = np.load(workdir / "examples.npz")
    original = examples["explanation/gradient"]
    once, averaged = (np.square(examples[f"release/{name}"] - original).mean() for name in ("rnd", "chained"))
    assert averaged < 0.9 * once


def test_a_defender_may_have_images_of_another_kind(tmp_path):
    """The generator learns from other digits; what it changes is measured on the service's own."""
    rows = run(unit({"gnime": ARMS["gnime"]}, defender=dict(role="others", held_out="defence_test")), tmp_path)
    (learned,) = stages(tmp_path, "defence")
    assert "others" in (learned / "spec.json").read_text()
    assert values(rows, "gnime", "held_out_distortion", "defence")[0] > 0
    assert values(rows, "gnime", "ssim")


def test_several_defences_are_applied_in_order(finished):
    workdir, _ = finished
    examples = np.load(workdir / "examples.npz")
    np.testing.assert_array_equal(examples["release/both"], examples["release/gnime"])  # top2 leaves maps alone
    assert not np.array_equal(examples["release/rnd"], examples["explanation/gradient"])


def test_class_images_are_one_per_predicted_class(finished):
    workdir, _ = finished
    for arm in ("classes", "class_image"):
        spec = next(p for p in stages(workdir, "guess") if _is(p, workdir, arm))
        guess = np.load(spec / "guess.npy")
        assert len(np.unique(guess.reshape(len(guess), -1).round(5), axis=0)) <= 5


def _is(path, workdir, arm):
    digest = json.loads((path / "spec.json").read_text())["attack"]
    name = ARMS[arm].attack.name
    spec = json.loads((workdir / "stages" / f"attack-{digest}" / "spec.json").read_text())
    return spec["settings"].get("name") == name


def test_a_search_leaves_its_trials(finished):
    """Their weights with the attack, and how far each was from an SSIM of 1 among the curves."""
    workdir, _ = finished
    curves = [json.loads(line) for line in (workdir / "curves.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in curves if line["arm"] == "searched"]
    states = [path / "state" for path in stages(workdir, "attack") if "search" in (path / "spec.json").read_text()]
    found = [tree for tree in map(store.load_tree, filter(Path.exists, states)) if "trials" in tree]
    (trials,) = (tree["trials"] for tree in found)
    np.testing.assert_allclose(losses, 1 - trials["ssim"], rtol=1e-6)
    assert found[0]["l2"] == trials["l2"][trials["ssim"].argmax()]


def test_an_image_is_read_by_its_own_arm_and_by_others(finished):
    """X̃ is scored as a reconstruction and is the input of another network."""
    _, rows = finished
    assert values(rows, "pixels", "ssim")
    assert values(rows, "reads", "ssim")


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"a": base.arm("b"), "b": base.arm("a")}, "in a circle: a reads b reads a"),
        ({"a": base.arm("prediction", encoder="none", sees=dict(defences=("no",)))}, "unknown defence 'no'"),
        ({"a": base.arm("prediction", name="fredrikson")}, "known is empty"),
        ({"a": base.arm("prediction", encoder="none", learns=dict(roles=("attack_test",)))}, "which is reported"),
        (
            {"a": base.arm("prediction", encoder="none", learns=dict(prediction="shadow"))},
            "unknown classifier 'shadow'",
        ),
        ({"a": base.arm("prediction", encoder="none", sees=dict(queries=0))}, "sees 0 queries"),
        (
            {"a": base.arm("prediction", encoder="none", sees=dict(queries=2))},
            "2 queries of what no defence changes",
        ),
        ({"a": base.arm("prediction", encoder="none", learns=dict(queries="2"))}, "learns '2' queries"),
        (
            {"a": base.arm("prediction", encoder="none", sees=dict(releases=2))},
            "sees of arm 'a' has 'releases', which is ignored",
        ),
        (
            {"a": base.arm("prediction", encoder="none", learns=dict(relaeses=2))},
            "learns of arm 'a' has 'relaeses', which is ignored",
        ),
        ({"a": base.arm("prediction", encoder="none", learns=dict(releases=2))}, "2 releases"),
        ({"a": base.arm("prediction", encoder="none", learns=TRUNCATED | dict(releases=0))}, "learns 0 releases"),
        (
            {"a": base.arm("pixels", learns=TRUNCATED | dict(releases=2)), "pixels": ARMS["pixels"]},
            "reads no other arm",
        ),
        (
            {"a": base.arm("prediction", name="class_inference", learns=TRUNCATED | dict(releases=2), sees=TRUNCATED)},
            "predictions do not fit",
        ),
        ({"a": base.arm("prediction", encoder="none", learns=dict(roles=()))}, "learns from no role"),
        ({"a": base.defended("prediction", by=("top2",), learns_too=1)}, "'learns_too'"),
        ({"a": base.arm("prediction", name="activations", known="surrogate")}, "no images"),
        ({"a": ConfigDict(dict(base.arm("prediction")) | dict(sess={}))}, "arm 'a' has 'sess', which is ignored"),
        ({"a": base.arm("b"), "b": ConfigDict(dict(reads=("prediction",), attack={}))}, "arm 'b' has no 'learns'"),
    ],
)
def test_a_wrong_arm_is_told_before_anything_is_computed(tmp_path, arms, sentence):
    with pytest.raises(InputError) as error:
        run(unit(arms), tmp_path)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


GAME = dict(name="gnime", network="decoder", encoder="flatten", train=base.recipe(**TRAIN, validation=0.0))


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (dict(a=dict(name="gaussian", match="b"), b=dict(name="gaussian", match="a")), "in a circle: a to b to a"),
        (dict(a=dict(name="gaussian", match="c")), "unknown defence 'c'"),
        (dict(a=dict(name="gaussian", match="b", mse=0.1), b=GAME), "has mse and also match"),
        (dict(a=dict(name="gaussian", match="b"), b=GAME | dict(lam=-1.0)), "lam is -1.0"),
        (dict(a=GAME | dict(name="gnome")), "unknown defence 'gnome': choose one of clip"),
        (dict(a=dict(name="gnime")), "defence 'a' needs a training configuration: give train"),
        (dict(a=dict(name="gaussian", mse=0.1, train=base.recipe())), "'a' has train, but is not trained"),
        (dict(a=dict(trained="b"), b=dict(name="clip", low=0.0, high=1.0), c=GAME), "has trained 'b': choose one of c"),
        (dict(a=dict(trained="b", train=base.recipe()), b=GAME), "has train and also trained"),
        (
            dict(a=dict(trained="b", lam=5.0), b=GAME),
            "'a' has lam, which what 'b' has learned depends on",
        ),
        (dict(a=GAME | dict(train=dict(epoch=2))), "a training has no parameter 'epoch': it takes batch_size"),
        (dict(a=GAME | dict(train=dict(epochs="3"))), "epochs is '3' but must be a whole number"),
        (dict(a=GAME | dict(width="a")), "width is 'a' but must be positive and finite"),
        (dict(a=dict(name="gaussian", mse=None)), "mse is None but must be positive and finite"),
        (dict(a=dict(name="clip", low=0.0, high=1.0), unused=dict(name="gnome")), "unknown defence 'gnome'"),
    ],
)
def test_a_wrong_defence_is_told_before_anything_is_computed(tmp_path, known, sentence):
    arm = base.defended("prediction", "gradient", by=("a",), encoder="flatten")
    with pytest.raises(InputError) as error:
        run(unit({"arm": arm}, defences=known | dict(top2=dict(name="truncate", m=2))), tmp_path)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("metric", "sentence"), [("insertoin", "'insertoin'"), ("deletion", "steps 0 is not allowed")])
def test_a_wrong_metric_of_explanations_is_told_before_anything_is_computed(tmp_path, metric, sentence):
    metrics = base.metrics().to_dict()
    metrics["explanation"] = {metric: dict(steps=0)}
    with pytest.raises(InputError) as error:
        run(unit({"arm": ARMS["gnime"]}, metrics=metrics), tmp_path)
    assert sentence in str(error.value)


def test_a_jointly_trained_target_brings_its_inverter(tmp_path):
    joint = dict(network="tcnn", loss="mse", rescale="logits", width=0.03125, dtype="float32", truncation=0, weight=1.0)
    config = unit({"prediction": base.arm("prediction", encoder="none")})
    target = config["target"]
    config = unit(
        {
            "black_box": base.arm("prediction", encoder="none", network="tcnn", rescale="logits", width=0.03125),
            "joint": base.arm(
                "prediction",
                learns=dict(roles=(), prediction="joint"),
                sees=dict(prediction="joint"),
                encoder="none",
                network="tcnn",
                rescale="logits",
                width=0.03125,
            ),
        },
        shadows=dict(joint=target | dict(joint=joint)),
    )
    rows = run(config, tmp_path)
    assert values(rows, "joint", "mse")
    assert values(rows, "joint", "accuracy", "joint")
    assert len(stages(tmp_path, "attack")) == 1  # the joint arm's inverter comes with its target
    assert jax.tree.leaves(store.load_tree(stages(tmp_path, "joint")[0] / "state"))
