"""The pipeline end to end on a small config: rows, re-use, history, kills."""

import json
import shutil
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from launched import Launched
from ml_collections import ConfigDict

from xinv import audit, data, report, store
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, digits  # noqa: E402

TINY = {
    "seeds": 1,
    "data.transform.resize": (16, 16),
    "target.model.width": 0.03125,
    "target.train.epochs": 2,
    "evaluation.train.epochs": 2,
    "attack.width": 0.015625,
    "attack.train.epochs": 2,
    "report.examples": 3,
}


INVERTER = ("network", "loss", "rescale", "width", "dtype")


def tiny(**changes):
    """The digits audit with one seed, one explanation, small images and small networks."""
    config = digits.get_config("")
    config.explanations = ConfigDict({"gradient": config.explanations.gradient})
    config.arms = base.arms(("flatten_unet",), ("gradient",))
    config.update_from_flattened_dict(TINY | changes)
    return config.to_dict()


def run(config, workdir):
    with store.opened(workdir / "stages") as stages:
        return audit.run(config, workdir, stages)


def stage_names(workdir):
    return sorted(path.name for path in (workdir / "stages").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny audit; tests leave its stages as they find them or only add to them."""
    workdir = tmp_path_factory.mktemp("audit")
    return workdir, run(tiny(), workdir)


@pytest.mark.slow
def test_rows_name_everything_once(finished):
    """Rows name every arm and metric once."""
    workdir, rows = finished
    assert [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()] == rows
    arms = {row["arm"] for row in rows if row["stage"] == "attack"}
    assert arms == {"prediction", "flatten_unet(gradient)"}
    metrics = {
        "mse",
        "one_minus_mse",
        "psnr",
        "ssim",
        "attack_accuracy",
        "embedding_similarity",
        "deepsim",
    }
    for arm in arms:
        assert sorted(row["metric"] for row in rows if row["arm"] == arm) == sorted(metrics)
    assert {row["examples"] for row in rows} == {
        len(np.load(_stage(workdir, "metrics") / "ssim.npy"))
    }
    assert all(np.isfinite(row["value"]) for row in rows)


def _stage(workdir, name):
    return next((workdir / "stages").glob(f"{name}-*"))


@pytest.mark.slow
def test_rows_agree_with_reconstructions(finished):
    """mse of the rows = the mean over reported images recomputed from the stored reconstructions in
    float64.
    """
    workdir, rows = finished
    examples = np.load(workdir / "examples.npz")
    for arm in ("prediction", "flatten_unet(gradient)"):
        row = next(row for row in rows if row["arm"] == arm and row["metric"] == "mse")
        per_image = [np.load(path / "mse.npy") for path in (workdir / "stages").glob("metrics-*")]
        assert any(np.isclose(row["value"], values.mean(dtype=np.float64)) for values in per_image)
        guess = examples[f"reconstruction/{arm}"].astype(np.float64)
        wanted = ((examples["images"] / 255.0 - guess) ** 2).mean(axis=(1, 2, 3))
        shown = np.linspace(0, len(per_image[0]) - 1, 3).astype(
            int
        )  # spread over the reported images
        assert any(np.allclose(values[shown], wanted, rtol=1e-5) for values in per_image)


@pytest.mark.slow
def test_same_config_computes_nothing(finished):
    """The same config again computes nothing."""
    workdir, rows = finished
    before = {path: path.stat().st_mtime_ns for path in (workdir / "stages").iterdir()}
    assert run(tiny(), workdir) == rows
    after = {path: path.stat().st_mtime_ns for path in (workdir / "stages").iterdir()}
    assert {p: t for p, t in after.items() if p.is_dir()} == {
        p: t for p, t in before.items() if p.is_dir()
    }


@pytest.mark.slow
def test_training_images_reported(finished, tmp_path):
    """A config may report images that the target was trained on, and says so.

    The target itself is that of the other audit; judge and attackers see none of these images.
    """
    workdir, _ = finished
    config = tiny(**{"report.role": "target_train", "evaluation.roles": ("attack_train",)})
    with store.opened(workdir / "stages") as stages:
        rows = audit.run(config, tmp_path, stages)
    assert sum(name.startswith("target-") for name in stage_names(workdir)) == 1

    dataset = data.build("digits")
    roles = data.roles.split(dataset.labels, seed=0, **config["data"]["roles"])
    reported = roles["target_train"]
    assert {row["examples"] for row in rows if row["stage"] == "attack"} == {len(reported)}
    shown = reported[np.linspace(0, len(reported) - 1, 3).astype(int)]
    examples = np.load(tmp_path / "examples.npz")
    np.testing.assert_array_equal(examples["labels"], dataset.labels["digit"][shown])
    text = report.markdown(tmp_path)
    assert f"{len(reported)} training images of the target per seed" in text


@pytest.mark.slow
def test_another_attack_reuses_stages(finished):
    """Another attack reuses target and explanations, and keeps the old rows."""
    workdir, rows = finished
    before = stage_names(workdir)
    changed = run(tiny(**{"attack.train.learning_rate": 1e-3}), workdir)
    added = {name.rsplit("-", 1)[0] for name in set(stage_names(workdir)) - set(before)}
    assert added == {"attack", "guess", "metrics"}
    assert changed != rows
    old = next((workdir / "history").iterdir())
    assert [json.loads(line) for line in (old / "rows.jsonl").read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target.label": "emotion"}, "unknown label 'emotion'"),
        ({"target.roles": ("target_trian",)}, "unknown role 'target_trian'"),
        ({"explanations.gradient.name": "gradeint"}, "unknown explainer 'gradeint'"),
        ({"attack.train.batch_size": 4096}, "4096"),
        ({"arms.prediction.attack.encoder": "unett"}, "unett"),
        ({"arms.flatten_unet(gradient).inputs": ("prediction", "gradcm")}, "gradcm"),
        ({"arms.prediction.test_view.defences": ("rund",)}, "rund"),
        ({"metrics.image.ssim.window": 33}, "33"),
        ({"target.roles": ("target_train", "attack_test")}, "trains on images of attack_test"),
        ({"report.role": "atack_test"}, "unknown role 'atack_test'"),
        (
            {
                "report.role": "others",
                "data.auxiliary": {
                    "source": {"name": "digits"},
                    "transform": {"resize": (16, 16), "classes": ("digit", 5)},
                    "roles": {"roles": {"others": 0.5}, "stratify": "digit"},
                },
            },
            "the labels of roles ['others'] are not those of the data set",
        ),
        (
            {"report.role": "target_train"},
            "the evaluation trains on images of target_train, which is reported",
        ),
        (
            {
                "report.role": "target_train",
                "evaluation.roles": ("attack_train",),
                "target.joint": {
                    **{name: getattr(digits.get_config("").attack, name) for name in INVERTER},
                    "weight": 10.0,
                    "truncation": 0,
                },
            },
            "the target trains on images of target_train, which is reported",
        ),
        (
            {"report.role": "attack_train", "evaluation.roles": ("target_train",)},
            "trains on images of attack_train, which is reported",
        ),
        ({"explanations.gradient.normalise": "minmaxx"}, "minmaxx"),
        ({"explanations.gradient": {"normalise": "minmax"}}, "explanations.gradient has no name"),
        ({"defences": {"rnd": {"mse": 0.01}}}, "defences.rnd has no name"),
        (
            {"metrics.imgae": {}},
            "metrics has 'imgae', which is ignored: it needs image, label, explanation",
        ),
        (
            {"defender.rule": "target_train"},
            "defender has 'rule', which is ignored: it needs role, held_out",
        ),
        ({"defneces": {}}, "the config has 'defneces', which is ignored: it needs unit, seed"),
    ],
)
def test_wrong_config_in_one_sentence(tmp_path, change, sentence):
    """A wrong config is named in one sentence."""
    with pytest.raises(InputError) as error:
        run(tiny(**change), tmp_path)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_killed_run_same_rows(finished, tmp_path):
    """A run that is killed at several points ends with the same rows.

    SIGKILL while the target trains, between stages, and while an attack trains; then the same
    command again. The rows are also those of an audit in another process.
    """
    _, rows = finished
    killed = tmp_path / "killed"
    for pattern in (
        "target-*.partial/checkpoints/*",
        "explanation-*",
        "attack-*.partial/checkpoints/*",
    ):
        process = _launched(tmp_path, killed)
        wait_for(process, killed / "stages", pattern)
        process.kill()
        process.wait()
        assert not (killed / "rows.jsonl").exists()
    last = _launched(tmp_path, killed).wait()
    assert last.returncode == 0, last.stderr
    assert [json.loads(line) for line in (killed / "rows.jsonl").read_text().splitlines()] == rows


def _launched(folder, workdir):
    path = folder / "tiny.py"
    path.write_text(
        "from ml_collections import ConfigDict\ndef get_config(arg=''):\n    return"
        f" ConfigDict({tiny()!r})\n"
    )
    flags = f"--config={path}", f"--workdir={workdir}", "--checkpoint_seconds=0"
    return Launched("run.py", *flags, programs=programs(folder))


def programs(folder):
    """A copy of the compiled programs of all tests, in which a process that is killed may leave one
    half-written.
    """
    copy = folder / "programs"
    if not copy.exists():
        shutil.copytree(jax.config.jax_compilation_cache_dir, copy)
    return copy


def wait_for(process, folder, pattern):
    deadline = time.monotonic() + 300
    while not any(folder.glob(pattern)):
        assert process.poll() is None, f"the run ended before {pattern} appeared"
        assert time.monotonic() < deadline
        time.sleep(0.01)
