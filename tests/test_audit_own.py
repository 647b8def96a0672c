"""Targets that xinv did not train: functions of the user's own, recorded releases, arrays."""

import importlib
import importlib.util
import json
import re
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from documented import block, example
from launched import launch
from ml_collections import ConfigDict

from xinv import audit, data, store
from xinv.audit import recorded, target
from xinv.types import InputError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from configs import base, own  # noqa: E402

DRAW = np.random.default_rng(0)
SHAPE, CLASSES, COUNT = (16, 16, 1), 3, 60
LABELS = np.arange(COUNT) % CLASSES
IMAGES = np.uint8(
    np.clip(60 * LABELS[:, None, None, None] + DRAW.integers(0, 80, (COUNT, *SHAPE)), 0, 255)
)
PREDICTION = DRAW.dirichlet(np.ones(CLASSES), COUNT).astype(np.float32)
MAPS = DRAW.normal(size=(COUNT, 4, 4, 2)).astype(np.float32)
QUICK = dict(epochs=1, patience=0, batch_size=8, learning_rate=3e-3)
LINEAR = """
    import numpy as np
    W = np.random.default_rng({seed}).normal(size=(256, 3)).astype(np.float32)
    def apply(v, x):
        return x.reshape(len(x), -1) @ v["w"]
    def load():
        return apply, {{"w": W}}
    def train(images, labels, key):
        assert images.dtype == np.float32 and 0.5 < images.max() <= 1
        assert labels.shape == (len(images),)
        return {{"w": W + len(images)}}
"""
PAGE = (ROOT / "configs" / "own.md").read_text()


def script(name):
    """Returns a script of the page."""
    (code,) = re.findall(rf"```python {name}\n(.*?)```", PAGE, re.DOTALL)
    return code


NNX = (
    script("my_nnx.py")
    + """

import optax

def train(images, labels, key):
    net = Net(nnx.Rngs(params=key, dropout=key))
    net.train()
    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, images, labels):
        entropy = optax.softmax_cross_entropy_with_integer_labels
        loss = lambda net: entropy(net(images), labels).mean()
        optimizer.update(net, nnx.grad(loss)(net))

    step(net, optimizer, images, labels)
    net.eval()
    return nnx.state(net)
"""
)
EQUINOX = (
    script("my_equinox.py")
    + """

import optax

def train(images, labels, key):
    net, state = eqx.nn.make_with_state(Net)(key)

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def slope(net, state):
        each = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = each(images.transpose(0, 3, 1, 2), state)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

    change, state = slope(net, state)
    net = eqx.apply_updates(net, jax.tree.map(lambda leaf: -0.1 * leaf, change))
    return eqx.nn.inference_mode(net), state
"""
)
HAIKU = (
    script("my_haiku.py")
    + """

import optax

def train(images, labels, key):
    params, state = NET.init(key, images[:1], True)

    @jax.jit
    @jax.value_and_grad
    def slope(params):
        logits, _ = NET.apply(params, state, None, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    _, change = slope(params)
    return jax.tree.map(lambda leaf, by: leaf - 0.1 * by, params, change), state
"""
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's, and returns the name of its `load`."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(f"mine_{number}_{tmp_path.name}" for number in range(9))

    def write(text, function="load"):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return f"{name}:{function}"

    return write


def dataset():
    names = tuple(map(str, range(CLASSES)))
    return data.dataset.create("given", IMAGES, {"label": LABELS}, {"label": names})


FRAMEWORKS = {
    "jnp": (LINEAR.format(seed=0), CLASSES),
    "nnx": (NNX, 10),
    "equinox": (EQUINOX, 10),
    "haiku": (HAIKU, 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks(module, framework):
    """The model answers as the user's does, under jit; its variables are arrays alone, trained ones
    others.
    """
    text, classes = FRAMEWORKS[framework]
    path = module(text)
    found = target.load(path)
    target.require_classifier(found, path, IMAGES[:4], classes)
    name = path.split(":")[0]
    apply, variables = importlib.import_module(name).load()
    floats = IMAGES[:5] / np.float32(255)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.variables))
    mine = jax.jit(found.model.apply)
    np.testing.assert_allclose(
        mine(found.variables, floats), apply(variables, floats), rtol=1e-5, atol=1e-4
    )
    trained = found.train(IMAGES, LABELS, jax.random.key(1))
    assert not np.allclose(mine(trained, floats), mine(found.variables, floats))


def test_weights_are_fingerprinted(module):
    path = module(LINEAR.format(seed=0))
    mine = importlib.import_module(path.split(":")[0])
    first, same = target.load(path), target.load(path)
    mine.W = mine.W + np.float32(1e-3)
    assert first.fingerprint == same.fingerprint != target.load(path).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(): pass", "has no function 'load'"),
        ("import nothing_of_this_name", "cannot be imported"),
        ("1 / 0", "importing 'mine_.*' raised ZeroDivisionError"),
        ("def load(): raise KeyError('weights')", "raised KeyError: 'weights'"),
        ("def load(): return 3", "returns int: give 'package.module:function'"),
        (
            "def load(): return (lambda v, x: x), {'w': __import__('numpy').array([float('nan')])}",
            "weights .* hold NaN",
        ),
        ("def load(): return (lambda v, x: (x, x)), {}", r"\[0\]"),
        ("def load(): return (lambda v, x: {'logits': x}), {}", "dict"),
        (
            "def load(): return (lambda v, x: x.reshape(len(x), -1)[:, :4]), {}",
            "has 4 classes, and the data set 3",
        ),
        (
            "import jax\ndef load(): return (lambda v, x: jax.nn.softmax(x[:, 0, :3, 0])), {}",
            "answers probabilities",
        ),
        (
            "def load(): return (lambda v, x: (x - x.mean(0))[:, 0, :3, 0]), {}",
            "put the model in its evaluation mode",
        ),
        (
            "def load(): return (lambda v, x: x @ v), __import__('numpy').ones((7, 3))",
            "cannot treat images",
        ),
    ],
)
def test_functions_refused(module, text, message):
    path = module(text)
    with pytest.raises(InputError, match=message):
        target.require_classifier(target.load(path), path, IMAGES[:4], CLASSES)


@pytest.mark.parametrize("path", ["module", ":load", "no.such.module:load", 3])
def test_paths_refused(path):
    with pytest.raises(InputError, match=r"target\.function"):
        target.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prediction=None), "no array 'prediction'"),
        (dict(prediction=PREDICTION[:-1]), r"must be numbers \[N,K\], N = 60"),
        (dict(prediction=np.log(PREDICTION)), "no probabilities"),
        (dict(prediction=np.full((COUNT, 2), 0.5)), "2 classes, and the data set 3"),
        ({"explanation/a": MAPS[:-1]}, r"N = 60"),
        ({"explanation/a": MAPS[..., 0]}, r"\[N,h,w,c\]"),
        (
            {"explanation/a": np.where(MAPS > 2, np.nan, MAPS)},
            "NaN or infinite values in 'explanation/a'",
        ),
        (dict(labels=None), "the order is unknown"),
        (dict(labels=LABELS[::-1]), "in another order"),
    ],
)
def test_recordings_refused(tmp_path, changes, message):
    arrays = {"prediction": PREDICTION, "explanation/a": MAPS, "labels": LABELS} | changes
    np.savez(
        tmp_path / "r.npz", **{name: array for name, array in arrays.items() if array is not None}
    )
    with pytest.raises(InputError, match=message):
        recorded.read(tmp_path / "r.npz", dataset(), "label")


def test_recordings_of_logits(tmp_path):
    """Logits are read if they are stated, and probabilities are none."""
    arrays = {"explanation/a": MAPS, "labels": LABELS}
    logits = np.log(PREDICTION)
    np.savez(tmp_path / "r.npz", prediction=logits, **arrays)
    found = recorded.read(tmp_path / "r.npz", dataset(), "label", logits=True)
    np.testing.assert_array_equal(found.prediction, logits)
    np.savez(tmp_path / "r.npz", prediction=PREDICTION, **arrays)
    with pytest.raises(InputError, match="predictions that are no logits"):
        recorded.read(tmp_path / "r.npz", dataset(), "label", logits=True)


def test_recordings_missing(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        recorded.read(tmp_path / "r.npz", dataset(), "label")
    (tmp_path / "r.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="cannot be read"):
        recorded.read(tmp_path / "r.npz", dataset(), "label")


def config(size, **target_settings):
    """The config of configs/own.py at a small size: networks and images as `test_arrays` has them,
    so compiled once.
    """
    found = own.get_config(size)
    found.seeds, found.report.examples = 1, 2
    found.data.roles.roles = ConfigDict(dict(attack_train=0.7, attack_test=0.3))
    for recipe in (found.evaluation.train, found.attack.train):
        recipe.update(QUICK)
    found.attack.width = 0.015625
    found.target.update(target_settings)
    found.arms = base.arms(
        ("flatten_unet",), ("saliency",) if size == "recorded" else ("gradient",)
    )
    return found


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """Runs a config on the small images, in `tmp_path`."""
    np.savez(tmp_path / "my_data.npz", images=IMAGES, labels=LABELS)
    monkeypatch.chdir(tmp_path)

    def run(settings):
        with store.opened(tmp_path / "stages") as stages:
            return audit.run(
                json.loads(json.dumps(settings.to_dict())), tmp_path / settings.unit, stages
            )

    return run


@pytest.mark.slow
def test_shadows_like_the_target(audited, module):
    """A shadow is trained by the user's `train` on images like those of `apply`, and attacked in
    the white box.
    """
    path = module(LINEAR.format(seed=0))
    settings = config("function", function=path)
    settings.explanations = ConfigDict(
        dict(gradient=dict(name="gradient", normalise="absolute_minmax"))
    )
    settings.shadows = ConfigDict(
        dict(shadow=dict(function=path, label="label", roles=("attack_train",)))
    )
    settings.arms = ConfigDict(
        dict(pixels=base.arm("prediction", known="shadow", name="preimage", steps=2))
    )
    rows = audited(settings)
    assert {row["arm"] for row in rows if row["stage"] == "attack"} == {"pixels"}
    assert {row["stage"] for row in rows} >= {"target", "shadow", "evaluation"}


@pytest.mark.slow
def test_membership(audited, module):
    """Models that the user's `train` makes are attacked, with a stranger as control; none of xinv's
    is trained.
    """
    settings = own.get_config("membership")
    settings.seeds, settings.report.examples = 1, 2
    settings.target.function = module(LINEAR.format(seed=0))
    settings.attack.train.update(QUICK)
    settings.explanations = ConfigDict(dict(gradient=settings.explanations.gradient))
    settings.arms = ConfigDict(
        {name: arm for name, arm in settings.arms.items() if name.startswith("gradient")}
    )
    for arm in settings.arms.values():
        arm.attack.update(dict(trunk="mlp", width=0.0625, restarts=1))
    rows = audited(settings)
    found = {row["arm"]: row for row in rows if row["metric"] == "auc"}
    assert {name: (row["model"], row["control_of"]) for name, row in found.items()} == {
        "gradient": ("model", None),
        "gradient stranger": ("stranger", "gradient"),
    }
    assert "evaluation" not in {row["stage"] for row in rows}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('images')", "raised KeyError: 'images'"),
        (
            "return {'other': W}",
            r"other variables than load: .*'other'.* instead of float32\[256, 3\] \['w'\]",
        ),
        ("return {'w': W[:, :2]}", r"float32\[256, 2\] \['w'\] instead of"),
        ("return {'w': W, 'x': 1.0}", r"\['x'\] instead of no leaf"),
        ("return {'w': W * np.nan}", "NaN or infinite weights"),
    ],
)
def test_training_refused(module, body, message):
    text = (
        LINEAR.format(seed=0).split("def train")[0]
        + f"def train(images, labels, key):\n        {body}\n"
    )
    train = target.load(module(text)).train
    with pytest.raises(InputError, match=message):
        train(IMAGES, LABELS, jax.random.key(0))


@pytest.mark.slow
def test_recorded_needs_no_model(audited, tmp_path):
    maps = {"explanation/saliency": MAPS, "explanation/gradcam": np.abs(MAPS)}
    np.savez(tmp_path / "release.npz", prediction=PREDICTION, labels=LABELS, **maps)
    settings = config("recorded")
    rows = audited(settings)
    assert {row["arm"] for row in rows if row["stage"] == "attack"} == {
        "prediction",
        "flatten_unet(saliency)",
    }
    accuracy = [
        row["value"] for row in rows if (row["stage"], row["metric"]) == ("target", "accuracy")
    ]
    assert 0 < accuracy[0] < 1
    settings.arms.fredrikson = base.arm("prediction", known="target", name="fredrikson")
    with pytest.raises(InputError, match=r"the target is recorded: .* needs target\.function"):
        audited(settings)
    del settings.arms["fredrikson"]
    settings.explanations.saliency.name = "lime"
    with pytest.raises(InputError, match="no explanation 'lime': it has"):
        audited(settings)


@pytest.mark.slow
def test_arrays(tmp_path, monkeypatch):
    """The package's example runs; that of the README, on memory maps, then computes nothing."""
    monkeypatch.chdir(tmp_path)
    names = example(audit)
    assert {row["arm"] for row in names["rows"]} == {
        "target",
        "evaluation",
        "prediction",
        "gradcam",
    }
    assert "<html" in (tmp_path / "audit" / "report.html").read_text()
    before = sorted((tmp_path / "audit" / "stages").iterdir())

    for name, array in dict(images="images", probabilities="probabilities", gradcam="maps").items():
        np.save(f"{name}.npy", names[array])
    labels, given = names["probabilities"].argmax(axis=1), audit.release

    def release(images, prediction, explanations, workdir):
        settings = names["quick"] | dict(workdir=workdir, labels=labels)
        return given(images, prediction.tolist(), explanations, **settings)

    monkeypatch.setattr(audit, "release", release)
    again = {}
    exec(block("README.md", "Audit your own model"), again)
    assert again["rows"] == names["rows"]
    assert sorted((tmp_path / "audit" / "stages").iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(images=IMAGES[..., 0]), r"give uint8 or float \[N,H,W,C\]"),
        (dict(images=IMAGES.astype(np.float32)), r"lies in \[0, 199\]"),
        (dict(prediction=PREDICTION[:-1]), "for 60 images"),
        (dict(explanations={}), "with at least one"),
        (dict(explanations=MAPS), "a dict of arrays"),
        (dict(explanations={"prediction": MAPS}), "no explanation may be called 'prediction'"),
        (dict(labels=LABELS[:-1]), "but there are 60 images"),
        (dict(test=1.5), "test is 1.5"),
        (dict(epochs="many"), "epochs is 'many'"),
    ],
)
def test_arrays_refused(tmp_path, changes, message):
    given = (
        dict(
            images=IMAGES,
            prediction=PREDICTION,
            explanations={"a": MAPS},
            workdir=tmp_path / "audit",
        )
        | changes
    )
    with pytest.raises(InputError, match=message):
        audit.release(**given)
    assert not (tmp_path / "audit").exists()


TORCH = pytest.mark.skipif(
    not importlib.util.find_spec("captum"), reason="captum is not installed: extra witness"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "workdir"),
    [
        ("my_model.py", "function", "function"),
        ("my_model.py", "membership", "who"),
        pytest.param("my_release.py", "recorded", "recorded", marks=TORCH),
    ],
)
def test_walkthrough(tmp_path, name, size, workdir):
    """The page's script and its command run as they stand there, at a small size."""
    (command,) = re.findall(rf"python (launch/run.py --config=configs/own.py:{size} .*)", PAGE)
    (tmp_path / name).write_text(script(name).replace("range(15)", "range(1)"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    small = "--config.seeds=1 --config.attack.train.epochs=1"
    if size != "membership":
        small += " --config.evaluation.train.epochs=1 --config.attack.width=0.015625"
    program, *arguments = f"{command} {small}".split()
    for line in ([tmp_path / name], [ROOT / program, *arguments]):
        result = launch(*line, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / workdir / "report.html").exists()
