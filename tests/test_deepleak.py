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

from xinv import audit, data, metrics, store
from xinv.audit import leaks
from xinv.report import folder
from xinv.report.league import league
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, deepleak  # noqa: E402

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
    found.explanations = ConfigDict(dict(input_x_gradient=dict(name="input_x_gradient", normalise="none")))
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


def test_models_trained_once(audited, capsys, tmp_path):
    """One target, one shadow, a stranger, and two models that are not trained; no evaluation model."""
    rows = audited(IMAGES)
    lines = [line.split()[0] for line in capsys.readouterr().err.splitlines() if line.endswith(" s") and "," in line]
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
    assert {"gini_members", "gini_others", "kurtosis_members", "l2_others", "max_sensitivity"} <= causes


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=30)
    return np.asarray(Image.open(buffer))[..., None]


def crop(image):
    """Shifted by two pixels and flipped, as augmentation does."""
    return np.pad(image, ((2, 0), (2, 0), (0, 0)))[:8, :8][:, ::-1]


@pytest.mark.parametrize("change", [jpeg, crop])
def test_confounds_are_found(audited, tmp_path, change):
    """Members that were stored or augmented differently are told apart by an untrained pair of models, too."""
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


def test_many_shadow_models(tmp_path):
    """Likelihood ratios of maps and of confidences run on halves of the audited images; their maps are not kept."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    shadows = dict(prediction=HALVES, explanation=HALVES, roles=())
    of_maps = dict(train_view=shadows, name="likelihood_ratio")
    stranger = dict(prediction="stranger", explanation="stranger", members="target")
    settings = halves(
        tmp_path / "images.npz",
        ratio=base.arm("input_x_gradient", **of_maps),
        stranger=base.arm("input_x_gradient", test_view=stranger, control_of="ratio", **of_maps),
        confidence=base.arm("prediction", "label", signal="confidence", **of_maps),
        relative=base.arm("prediction", "label", train_view=shadows, name="relative"),
    )
    with store.opened(tmp_path / "stages") as stages:
        rows = audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)
        kept = [path.name for path in (tmp_path / "stages").glob("explanation-*")]
    assert set(areas(rows)) == {"ratio", "stranger", "confidence", "relative"}
    # Statistics of six models, and the maps of the target, which are described
    assert len(kept) == 7
    # Halves are judged on what they were not trained on
    judged = {row["stage"]: row["examples"] for row in rows if row["metric"] == "accuracy"}
    assert judged["target"] == 270
    assert all(90 < judged[name] < 180 for name in HALVES)


def test_inputs_differ(tmp_path):
    """An attack that reads more is another attack."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    attack = dict(name="membership_network", trunk="cnn", width=0.0625, restarts=1)
    inputs = dict(maps=(), label=("label",), prediction=("prediction",), image=("image",))
    arms = {name: base.membership("input_x_gradient", *more, **attack) for name, more in inputs.items()}
    settings = config(tmp_path / "images.npz", epochs=1, **arms)
    settings.attack.train.update(dict(epochs=1, batch_size=64))
    with store.opened(tmp_path / "stages") as stages:
        audit.run(json.loads(json.dumps(settings.to_dict())), tmp_path / "audit", stages)
        assert len(list((tmp_path / "stages").glob("attack-*"))) == 4
        assert len(list((tmp_path / "stages").glob("guess-*"))) == 4


UNTRAINED = dict(prediction="untrained", explanation="untrained", members="target")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (dict(a=base.membership("input_x_gradient", "label", name="confidence")), "confidence reads it"),
        (dict(a=base.membership("input_x_gradient", "input_x_gradient", name="map_statistic")), "twice among"),
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
                b=base.membership("prediction", "label", name="gap", control_of="a", test_view=UNTRAINED),
            ),
            "differs in inputs",
        ),
        (
            dict(a=base.membership("prediction", "label", name="gap", train_view=dict(roles=("shadow_train",)))),
            "it needs both kinds",
        ),
        (dict(a=base.membership("prediction", name="gap")), "needs 'label' among its inputs"),
        (dict(a=base.membership("input_x_gradient", "label", name="map_statistic")), "does not need 'label'"),
        (dict(a=base.arm("prediction", "image")), "must name 'prediction', 'explanation'"),
        (dict(a=base.membership("input_x_gradient", name="likelihood_ratio")), "needs several shadow models"),
        (dict(a=base.membership("prediction", "label", name="gap", control_of="b")), "'b', which is no arm"),
        (
            dict(a=base.membership("prediction", "label", name="gap", test_view=dict(members="nobody"))),
            "unknown classifier 'nobody'",
        ),
        (
            dict(
                a=base.membership(
                    "prediction",
                    "label",
                    name="gap",
                    train_view=dict(prediction="target", explanation="target", roles=("attack_test",)),
                )
            ),
            "reported",
        ),
    ],
)
def test_arms_refused(audited, arms, message):
    with pytest.raises(InputError, match=message):
        audited(IMAGES, **arms)


def test_killed_and_resumed(tmp_path):
    """SIGKILL while a shadow trains, between stages and while an attack trains; then the same command."""
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    arms = base.controlled(
        "network", "input_x_gradient", "label", name="membership_network", trunk="cnn", width=0.0625, restarts=2
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
    for pattern in ("shadow-*.partial/checkpoints/*", "explanation-*", "attack-*.partial/checkpoints/*"):
        process = started("killed")
        wait_for(process, tmp_path / "killed" / "stages", pattern)
        process.kill()
        process.wait()
    assert started("killed").wait().returncode == 0
    for name in ("rows.jsonl", "members.npz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0])
def test_kurtosis(scale):
    """SciPy's, at any scale; 3 for a map without contrast."""
    values = np.random.default_rng(0).laplace(size=(6, 6, 1)).astype(np.float32)
    expected = 3 if scale == 0 else kurtosis(values, axis=None, fisher=False)
    assert float(leaks._kurtosis(np.float32(scale) * values)) == pytest.approx(expected, rel=1e-4)
