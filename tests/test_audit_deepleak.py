"""The membership audit as a whole: models trained once, controls, and confounds that they find."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from launched import Launched
from ml_collections import ConfigDict
from PIL import Image
from scipy.stats import kurtosis
from sklearn.datasets import load_digits
from test_audit import programs, wait_for

from xinv import audit, data, metrics, report, store
from xinv.audit import leaks, privacy
from xinv.audit.roles import Roles
from xinv.audit.service import Classifiers, Service
from xinv.report import folder, roc
from xinv.report.ranking import league
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, deepleak, deepleak_published  # noqa: E402

DIGITS = load_digits()
IMAGES = np.rint(DIGITS.images[:900, ..., None] / 16 * 255).astype(np.uint8)
LABELS = DIGITS.target[:900]
NAME = "best(input_x_gradient)"


def config(path, epochs=2, **arms):
    """The quick size on 8x8 digits, with one explainer."""
    found = deepleak.get_config("quick")
    found.seeds, found.report.examples = 1, 2
    found.data.source = ConfigDict(dict(name="arrays", path=str(path), labels=dict(digit="labels")))
    found.data.transform.resize = None
    for part in (found.target, *found.shadows.values()):
        part.model.width = 0.0625
        if part.train:
            part.train.epochs = epochs
    found.explanations = ConfigDict(
        dict(input_x_gradient=dict(name="input_x_gradient", normalise="none"))
    )
    found.arms = ConfigDict(arms or base.controlled(NAME, "input_x_gradient", name="map_statistic"))
    return base.unshared(found)


@pytest.fixture
def audited(tmp_path):
    """Audits images, with a config of `config`."""

    def run(images, workdir="audit", **changes):
        np.savez(tmp_path / "images.npz", images=images, labels=LABELS)
        settings = config(tmp_path / "images.npz", **changes)
        with store.opened(tmp_path / "stages") as stages:
            return audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / workdir, stages)

    return run


def areas(rows):
    """AUC by arm."""
    return {row["arm"]: row for row in rows if row["metric"] == "auc"}


@pytest.mark.slow
def test_models_trained_once(audited, capsys, tmp_path):
    """One target, one shadow, a stranger, and two untrained models; no evaluation model."""
    rows = audited(IMAGES)
    lines = [
        line.split()[0]
        for line in capsys.readouterr().err.splitlines()
        if line.endswith(" s") and "," in line
    ]
    classifiers = ("target", "shadow", "stranger", "untrained", "untrained_shadow", "evaluation")
    counts = {name: lines.count(name) for name in classifiers}
    assert counts == dict.fromkeys(classifiers[:-1], 1) | {"evaluation": 0}
    # The stranger is shown to the very attack, and controls say of what they are
    assert lines.count("attack") == 2
    found = areas(rows)
    assert {name: (row["control_of"], row["model"]) for name, row in found.items()} == {
        NAME: (None, "target"),
        f"{NAME} untrained": (NAME, "untrained"),
        f"{NAME} stranger": (NAME, "stranger"),
    }
    # Scores of all images are kept
    kept = np.load(tmp_path / "audit" / "members.npz")
    assert len(kept[f"0/{NAME}/score"]) == found[NAME]["examples"] == len(kept[f"0/{NAME}/index"])
    assert kept[f"0/{NAME}/member"].sum() == 180
    # Permuted membership is at chance
    random, score = np.random.default_rng(0), kept[f"0/{NAME}/score"]
    permuted = [random.permutation(kept[f"0/{NAME}/member"]) for _ in range(20)]
    assert sum(metrics.membership.auc()(member, score)["auc"].p < 0.05 for member in permuted) <= 4
    causes = {row["metric"] for row in rows if row["stage"] == "cause"}
    assert causes == {
        f"{name}_{kind}" for name in leaks.PROPERTIES for kind in ("members", "others")
    }


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=30)
    return np.asarray(Image.open(buffer))[..., None]


def crop(image):
    """Shifted by two pixels and flipped, as augmentation does."""
    return np.pad(image, ((2, 0), (2, 0), (0, 0)))[:8, :8][:, ::-1]


@pytest.mark.slow
@pytest.mark.parametrize("change", [jpeg, crop])
def test_confounds_are_found(audited, tmp_path, change):
    """Members that were stored or augmented differently are told apart by an untrained pair of
    models, too.
    """
    settings = deepleak.get_config("quick").data.roles.to_dict()
    roles = data.roles.split({"digit": LABELS}, seed=0, **settings)
    images = IMAGES.copy()
    for place in (*roles["target_train"], *roles["shadow_train"]):
        images[place] = change(images[place])
    clean, planted = areas(audited(IMAGES, "clean")), areas(audited(images, "planted"))
    control = f"{NAME} untrained"
    assert clean[control]["p"] > 0.01
    assert planted[control]["p"] < 1e-4
    assert planted[NAME]["p"] < 1e-4  # it leaks nothing of training: two epochs
    (entry,) = league(folder.read(tmp_path / "planted").units[0].rows, 0.9).entries
    assert entry.verdict == "confounded"


HALVES = tuple(f"half_{number}" for number in range(4))


def halves(path, **arms):
    """With four shadow models, each of a random half of the audited images."""
    found = config(path, **arms)
    for name in HALVES:
        found.shadows[name] = found.target.to_dict() | dict(roles=(name,))
    return base.unshared(found)


@pytest.mark.slow
def test_many_shadow_models(tmp_path):
    """Likelihood ratios and RMIA run on halves of the audited images, by track; maps of shadows are
    not kept.
    """
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS, tracks=np.arange(900) // 30)
    shadows = dict(prediction=HALVES, explanation=HALVES, roles=())
    of_maps = dict(train_view=shadows, name="likelihood_ratio")
    stranger = dict(prediction="stranger", explanation="stranger", members="target")
    settings = halves(
        tmp_path / "images.npz",
        ratio=base.arm("input_x_gradient", **of_maps),
        stranger=base.arm("input_x_gradient", test_view=stranger, control_of="ratio", **of_maps),
        confidence=base.arm("prediction", "label", signal="confidence", **of_maps),
        relative=base.arm(
            "prediction", "label", train_view=shadows, population="reference", name="relative"
        ),
    )
    settings.data.source.labels.track = "tracks"
    settings.data.roles.group = ("digit", "track")
    with store.opened(tmp_path / "stages") as stages:
        rows = audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)
        kept = [path.name for path in (tmp_path / "stages").glob("explanation-*")]
    assert set(areas(rows)) == {"ratio", "stranger", "confidence", "relative"}
    # Statistics of six models, and the maps of the target, which are described
    assert len(kept) == 7
    # Halves are judged on what they were not trained on
    judged = {row["stage"]: row["examples"] for row in rows if row["metric"] == "accuracy"}
    assert judged["target"] == pytest.approx(270, abs=15)
    assert all(90 < judged[name] < 180 for name in HALVES)
    # Images of one digit and track are one group, of one kind, and judged as one
    members = np.load(tmp_path / "audit" / "members.npz")
    group, member = members["0/ratio/group"], members["0/ratio/member"]
    assert len(np.unique(group)) < 0.6 * len(group)
    assert len(np.unique(np.stack([group, member]), axis=1).T) == len(np.unique(group))
    drawn = roc.diagram(folder.read(tmp_path / "audit").units[0], league(rows, 0.9))
    assert drawn.independent


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ("", "population is empty, name a role of public images"),
        ("attack_test", r"has images of target_train\+attack_test"),
        ("half_1", "has images of target_train"),
        ("nobody", "unknown role 'nobody'"),
    ],
)
def test_populations_refused(tmp_path, population, message):
    """A population is of public images."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    shadows = dict(prediction=HALVES, explanation=HALVES, roles=())
    arm = base.arm(
        "prediction", "label", train_view=shadows, population=population, name="relative"
    )
    settings = halves(tmp_path / "images.npz", relative=arm)
    with store.opened(tmp_path / "stages") as stages, pytest.raises(InputError, match=message):
        audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)


def test_unused_half_refused(tmp_path):
    """A shadow of a half that no attack compares is named, and the way out."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    settings = halves(tmp_path / "images.npz")
    message = (
        r"the half_0 trains on a random half of images that are reported, \['half_0'\], but no"
    )
    with store.opened(tmp_path / "stages") as stages, pytest.raises(InputError, match=message):
        audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)


@pytest.mark.slow
def test_arms_beside_each_other(tmp_path):
    """An attack that reads more is another attack; and one page tells membership and what the
    images are.
    """
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    attack = dict(name="membership_network", trunk="cnn", width=0.0625, restarts=1)
    inputs = dict(maps=(), label=("label",), prediction=("prediction",), image=("image",))
    arms = {
        name: base.membership("input_x_gradient", *more, **attack) for name, more in inputs.items()
    }
    learned = dict(train_view=dict(roles=("shadow_test",)), encoder="flatten", width=0.015625)
    arms["rebuilt"] = base.arm("prediction", "input_x_gradient", **learned)
    settings = config(tmp_path / "images.npz", epochs=1, **arms)
    settings.evaluation.roles = ("shadow_train",)
    settings.evaluation.model.width, settings.evaluation.train.epochs = 0.0625, 1
    settings.metrics.image = ConfigDict(dict(ssim=dict(sigma=1.0, window=5)))
    settings.attack.train.update(dict(epochs=1, batch_size=64))
    with store.opened(tmp_path / "stages") as stages:
        rows = audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)
        assert len(list((tmp_path / "stages").glob("attack-*"))) == 5
        assert len(list((tmp_path / "stages").glob("guess-*"))) == 5
    # One epoch of seven batches of 25, of 180 images
    assert np.load(tmp_path / "audit" / "members.npz")["0/maps/member"].sum() == 175
    goals = {(row["goal"], row["explainer"]) for row in rows if row["stage"] == "attack"}
    assert goals == {("membership", "input_x_gradient"), ("reconstruction", "input_x_gradient")}
    page = report.render(tmp_path / "audit").read_text()
    for title in ("What the attacker recovers", "Who was in the training set", "Reconstructions"):
        assert title in page


UNTRAINED = dict(prediction="untrained", explanation="untrained", members="target")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            dict(a=base.membership("input_x_gradient", "label", name="confidence")),
            "confidence reads it",
        ),
        (
            dict(a=base.membership("input_x_gradient", "input_x_gradient", name="map_statistic")),
            "twice among",
        ),
        (
            dict(a=base.membership("input_x_gradient", name="map_statistic", control_of="a")),
            "a control is of an attack",
        ),
        (
            dict(
                a=base.membership("input_x_gradient", name="map_statistic"),
                b=base.membership("input_x_gradient", name="map_statistic", control_of="a"),
            ),
            "tested on another classifier",
        ),
        (
            dict(
                a=base.membership("input_x_gradient", name="map_statistic"),
                b=base.membership(
                    "prediction", "label", name="gap", control_of="a", test_view=UNTRAINED
                ),
            ),
            "differs in inputs",
        ),
        (
            dict(
                a=base.membership(
                    "prediction", "label", name="gap", train_view=dict(roles=("shadow_train",))
                )
            ),
            "it needs both kinds",
        ),
        (dict(a=base.membership("prediction", name="gap")), "needs 'label' among its inputs"),
        (
            dict(a=base.membership("input_x_gradient", "label", name="map_statistic")),
            "does not need 'label'",
        ),
        (dict(a=base.arm("prediction", "image")), "must name 'prediction', 'explanation'"),
        (
            dict(a=base.membership("input_x_gradient", name="likelihood_ratio")),
            "needs several shadow models",
        ),
        (
            dict(a=base.membership("prediction", "label", name="gap", control_of="b")),
            "'b', which is no arm",
        ),
        (
            dict(a=base.membership("prediction", "label", name="gap", population="reference")),
            "leave it empty",
        ),
        (
            dict(
                a=base.membership(
                    "prediction", "label", name="gap", test_view=dict(members="nobody")
                )
            ),
            "unknown classifier 'nobody'",
        ),
        (
            dict(
                a=base.membership(
                    "prediction",
                    "label",
                    name="gap",
                    train_view=dict(
                        prediction="target", explanation="target", roles=("attack_test",)
                    ),
                )
            ),
            "reported",
        ),
    ],
)
def test_arms_refused(audited, arms, message):
    with pytest.raises(InputError, match=message):
        audited(IMAGES, **arms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target.train.noise": 1.0}, "clip is 0.0 but must be positive when noise is"),
        (
            {"target.model.norm": "batch"},
            "^target: a training with noise needs .* choose norm='group'",
        ),
        ({"target.joint": {}}, "the target is trained with noise and has 'joint', which reads"),
        (
            {"metrics.membership.epsilon.delta": 0.0},
            "metrics.membership.epsilon.delta is 0.0: give the δ",
        ),
        (
            {"attack.train.noise": 1.0},
            "training of 'attack' has noise 1.0, but only classifiers are trained",
        ),
    ],
)
def test_private_refused(tmp_path, changes, message):
    """One sentence, before anything is computed."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    settings = json.loads(json.dumps(config(tmp_path / "images.npz").to_dict()))
    if "target.train.noise" not in changes:
        settings["target"]["train"] |= dict(clip=1.0, noise=1.0)
    settings["target"]["model"]["norm"] = "none"
    for path, value in changes.items():
        *sections, name = path.split(".")
        section = settings
        for part in sections:
            section = section[part]
        section[name] = value
    with store.opened(tmp_path / "stages") as stages, pytest.raises(InputError, match=message):
        audit.run(settings, tmp_path / "audit", stages)
    assert not (tmp_path / "audit" / "rows.jsonl").exists()


@pytest.mark.slow
def test_guarantee(tmp_path):
    """ε of an image, and of the largest group of images that are dealt as one; nothing without
    noise.
    """
    track = np.arange(900) // 3
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS, track=track)
    settings = config(tmp_path / "images.npz").to_dict()
    settings["target"]["train"] |= dict(clip=1.0, noise=2.0, epochs=20)
    for group, largest in ((None, None), (("track",), 3)):
        settings["data"]["roles"]["group"] = group
        source = settings["data"]["source"] | dict(labels=dict(digit="labels", track="track"))
        roles = Roles(data.build(**source), None, settings["data"], {})
        classifiers = Classifiers(settings, roles, None)
        found, count = privacy.guarantee(Service(classifiers), "target", 0)
        expected = dict(noise=2.0, epsilon=metrics.privacy.epsilon(2.0, 20, 1e-5), delta=1e-5)
        if largest:
            expected["epsilon_of_group"] = metrics.privacy.epsilon(2.0, 20, 1e-5, largest)
        assert found == expected
        assert count == roles.count(["target_train"], 0)
        assert privacy.guarantee(Service(classifiers), "shadow", 0) == ({}, 0)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """SIGKILL while a shadow trains, between stages and while an attack trains; then the same
    command.
    """
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    arms = base.controlled(
        "network",
        "input_x_gradient",
        "label",
        name="membership_network",
        trunk="cnn",
        width=0.0625,
        restarts=2,
    )
    settings = config(tmp_path / "images.npz", **arms)
    settings.attack.train.update(dict(epochs=3, batch_size=32))
    path = tmp_path / "killed.py"
    lines = [
        "from ml_collections import ConfigDict",
        "def get_config(arg=''):",
        f"    return ConfigDict({settings.to_dict()!r})",
    ]
    path.write_text("\n".join(lines))

    def started(workdir):
        flags = f"--config={path}", f"--workdir={tmp_path / workdir}", "--checkpoint_seconds=0"
        return Launched("run.py", *flags, programs=programs(tmp_path))

    assert started("whole").wait().returncode == 0
    for pattern in (
        "shadow-*.partial/checkpoints/*",
        "explanation-*",
        "attack-*.partial/checkpoints/*",
    ):
        process = started("killed")
        wait_for(process, tmp_path / "killed" / "stages", pattern)
        process.kill()
        process.wait()
    assert started("killed").wait().returncode == 0
    parts = np.load(tmp_path / "whole" / "members.npz")["0/network/parts"]
    assert len(parts) == 2
    assert not np.allclose(*parts)
    for name in ("rows.jsonl", "members.npz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("count", [5000, 1500])
def test_published_bands(count):
    """Ends of chance beside published figures are the exact one of rates, and those of random
    scores.
    """
    bands = deepleak_published.chance(count)
    _, _, high = metrics.chance.chance_band(count, count, 0.001)
    assert bands["tpr_at_0.001"] == pytest.approx(float(high), abs=5e-5)
    random, found = np.random.default_rng(0), []
    for _ in range(400):
        ranks = random.permutation(2 * count)[:count]
        area = (ranks.sum() - count * (count - 1) / 2) / count**2
        rates = random.binomial(count, 0.5, 2) / count
        found.append((0.5 + (rates[0] - rates[1]) / 2, area))
    ends = np.quantile(found, 0.975, axis=0)
    assert ends == pytest.approx(
        [bands["balanced_accuracy"], bands["auc"]], abs=0.15 * (bands["auc"] - 0.5)
    )


def test_published_notes():
    """The paper's GradCAM++ stands beside Guided Grad-CAM, and says so; figures of two units are
    not mixed.
    """
    rows = deepleak_published.published("cifar10")
    (row,) = [row for row in rows if (row["value"], row["source"]) == (0.067, "DeepLeak, Table II")]
    assert row["arm"] == "network(guided_gradcam)"
    assert "GradCAM++" in row["note"]
    assert {row["arm"] for row in rows} >= {"target", "variance(lime)", "network(removal(gradcam))"}
    units = {unit["unit"]: unit for unit in deepleak.sweep("cifar10")}
    assert {row["source"] for row in units["table-6-resnet"]["report.published"]} == {
        "DeepLeak, Table VI"
    }
    assert units["overfitted"]["report.published"] == ()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0])
def test_kurtosis(scale):
    """SciPy's, at any scale; 3 for a map without contrast."""
    values = np.random.default_rng(0).laplace(size=(6, 6, 1)).astype(np.float32)
    expected = 3 if scale == 0 else kurtosis(values, axis=None, fisher=False)
    assert float(leaks._kurtosis(np.float32(scale) * values)) == pytest.approx(expected, rel=1e-4)
