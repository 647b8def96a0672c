"""Attacks, defences and views of one unit, together: what they read and what they share."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from arm_zoo import ARMS, TRAIN, base, run, stages, unit, values

from xinv import store
from xinv.types import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("arms")
    return workdir, run(unit(ARMS), workdir)


def test_arms_scored_targets_trained_once(finished):
    """Every arm is scored, and every target is trained once."""
    workdir, rows = finished
    scored = {row["arm"] for row in rows if row["stage"] == "attack"}
    assert scored == set(ARMS) - {"activations"}
    assert all(np.isfinite(row["value"]) for row in rows)
    for part in ("target", "evaluation", "surrogate"):
        assert len(stages(workdir, part)) == 1
    # baseline and prediction learn the same; averaged and rnd too
    assert len(stages(workdir, "attack")) == len(ARMS) - 2
    assert (
        len(stages(workdir, "defence")) == 2
    )  # gnime and rnd; bounded applies gnime's, and top2 learns nothing


def test_one_configuration_for_all_attacks(finished):
    """All attacks read one training configuration."""
    workdir, _ = finished
    specs = [json.loads((path / "spec.json").read_text()) for path in stages(workdir, "attack")]
    assert {json.dumps(spec["train"], sort_keys=True) for spec in specs} == {
        json.dumps(json.loads(json.dumps(base.recipe(**TRAIN).to_dict())), sort_keys=True)
    }
    with pytest.raises(InputError, match="'train'"):
        run(
            unit(
                {
                    "gnime": base.defended(
                        "prediction", "gradient", by=("gnime",), train=dict(epochs=9)
                    )
                }
            ),
            workdir / "x",
        )


def test_nothing_fitted_to_reported_images(finished):
    """Nothing is fitted to what is reported.

    No classifier, defence or attack has a stage among its sources that comes, however
    indirectly, of that role.
    """
    workdir, _ = finished
    specs = {
        path.name: json.loads((path / "spec.json").read_text())
        for path in (workdir / "stages").glob("*-*")
    }
    read = {name: set(json.dumps(spec).replace('"', " ").split()) for name, spec in specs.items()}
    reported, found = (
        set(),
        {name for name, spec in specs.items() if spec.get("role") == "attack_test"},
    )
    while found:
        reported |= found
        digests = {name.rsplit("-", 1)[1] for name in reported}
        found = {name for name, sources in read.items() if sources & digests} - reported
    kinds = {name.rsplit("-", 1)[0] for name in reported}
    assert {"logits", "explanation", "release", "guess", "metrics", "utility"} <= kinds
    assert not kinds & {"attack", "defence", "target", "evaluation", "surrogate", "distilled"}


def test_noise_matches_distortion_of_gnime(finished):
    """Matched noise changes what the defender holds back as much as GNIME does."""
    _, rows = finished
    gnime, rnd = (
        values(rows, arm, "held_out_distortion", "defence")[0] for arm in ("gnime", "rnd")
    )
    assert rnd == pytest.approx(gnime, rel=0.1)  # fitted on the defender's training images


def test_bound_reuses_the_learned_generator(finished):
    """A bound is released by the generator that another defence has learned.

    Eq. 3: a perturbation of variance γ, which the clipping to [0,1] only takes from.
    """
    workdir, rows = finished
    (bounded,) = values(rows, "bounded", "held_out_distortion", "defence")
    assert 0 < bounded < values(rows, "gnime", "held_out_distortion", "defence")[0]
    examples = np.load(workdir / "examples.npz")
    change = examples["release/bounded"] - examples["explanation/gradient"]
    assert (change.var(axis=(1, 2, 3)) <= 1.01e-4).all()


def test_defence_histories_are_kept(finished):
    workdir, _ = finished
    lines = [json.loads(line) for line in (workdir / "curves.jsonl").read_text().splitlines()]
    history = [line for line in lines if line["stage"] == "defence"]
    assert {line["arm"] for line in history} == {"gnime(gradient)"}
    assert [line["epoch"] for line in history] == list(range(1, TRAIN["epochs"] + 1))
    assert all(
        np.isfinite(line[name])
        for line in history
        for name in ("loss", "distortion", "inversion", "clean")
    )


def test_averaged_releases_near_the_original(finished):
    """Averaging many releases brings noisy maps closer to the original."""
    workdir, _ = finished
    examples = np.load(workdir / "examples.npz")
    original = examples["explanation/gradient"]
    once, often = (
        np.square(examples[f"release/{arm}"] - original).mean() for arm in ("rnd", "averaged")
    )
    assert often < 0.8 * once  # all but what clipping to [0,1] leaves


@pytest.mark.parametrize(("arm", "count"), [("releases", 3), ("chained", 2)])
def test_training_on_independent_releases(finished, arm, count):
    """An attacker may learn from independent releases of an image.

    Each passes through all defences anew, also where only the first of them draws.
    """
    workdir, _ = finished
    found = [np.load(path) for path in (workdir / "stages").glob("release-*/explanation.npy")]
    (several,) = (maps for maps in found if maps.ndim == 5 and maps.shape[1] == count)
    for one, other in itertools.combinations(range(count), 2):
        assert (several[:, one] != several[:, other]).mean() > 0.4, arm
    examples = np.load(workdir / "examples.npz")
    original = examples["explanation/gradient"]
    once, averaged = (
        np.square(examples[f"release/{name}"] - original).mean() for name in ("rnd", "chained")
    )
    assert averaged < 0.9 * once


def test_defender_with_other_images(tmp_path):
    """A defender may have images of another kind.

    The generator learns from other digits; what it changes is measured on the service's own.
    """
    rows = run(
        unit({"gnime": ARMS["gnime"]}, defender=dict(role="others", held_out="defence_test")),
        tmp_path,
    )
    (learned,) = stages(tmp_path, "defence")
    assert "others" in (learned / "spec.json").read_text()
    assert values(rows, "gnime", "held_out_distortion", "defence")[0] > 0
    assert values(rows, "gnime", "ssim")


def test_defences_applied_in_order(finished):
    """Several defences are applied in order."""
    workdir, _ = finished
    examples = np.load(workdir / "examples.npz")
    np.testing.assert_array_equal(
        examples["release/both"], examples["release/gnime"]
    )  # top2 leaves maps alone
    assert not np.array_equal(examples["release/rnd"], examples["explanation/gradient"])


def test_one_image_per_predicted_class(finished):
    """Images of classes are one per predicted class."""
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
    states = [
        path / "state"
        for path in stages(workdir, "attack")
        if "search" in (path / "spec.json").read_text()
    ]
    found = [tree for tree in map(store.load_tree, filter(Path.exists, states)) if "trials" in tree]
    (trials,) = (tree["trials"] for tree in found)
    np.testing.assert_allclose(losses, 1 - trials["ssim"], rtol=1e-6)
    assert found[0]["l2"] == trials["l2"][trials["ssim"].argmax()]


def test_reconstruction_read_by_other_arms(finished):
    """X̃ is scored as a reconstruction and is the input of another network."""
    _, rows = finished
    assert values(rows, "pixels", "ssim")
    assert values(rows, "reads", "ssim")


def test_joint_target_brings_its_inverter(tmp_path):
    """A jointly trained target brings its inverter."""
    joint = dict(
        network="tcnn",
        loss="mse",
        rescale="logits",
        width=0.03125,
        dtype="float32",
        truncation=0,
        weight=1.0,
    )
    config = unit({"prediction": base.arm("prediction", encoder="none")})
    target = config["target"]
    config = unit(
        {
            "black_box": base.arm(
                "prediction", encoder="none", network="tcnn", rescale="logits", width=0.03125
            ),
            "joint": base.arm(
                "prediction",
                train_view=dict(roles=(), prediction="joint"),
                test_view=dict(prediction="joint"),
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


@pytest.mark.slow
def test_defence_sees_images(tmp_path):
    """OND with the image, on the state of the one without: the service hands the images over.

    Both move the maps by the same distance; only the one with the image raises the inverter's error
    to the image most.
    """
    inverter = dict(network="decoder", encoder="flatten", width=0.015625)
    ond = dict(name="pgd", mse=0.01, steps=2, train=base.recipe(**TRAIN)) | inverter
    shown = dict(reuse_state_of="ond", away_from="image")
    names = ("ond", "shown")
    config = unit(
        {name: base.defended("prediction", "gradient", by=(name,)) for name in names},
        defences=dict(ond=ond, shown=shown),
        shadows={},
    )
    config["metrics"]["explanation"] = dict(max_sensitivity=dict(radius=0.02, samples=1))
    rows = run(config, tmp_path)
    assert len(stages(tmp_path, "defence")) == 1
    for name in names:
        (distortion,) = values(rows, name, "held_out_distortion", "defence")
        assert distortion == pytest.approx(0.01, rel=0.02)
        assert np.isfinite(values(rows, name, "max_sensitivity", "defence")).all()
    examples = np.load(tmp_path / "examples.npz")
    assert not np.allclose(examples["release/ond"], examples["release/shown"])
