"""The audit of arrays from Python: predictions and explanations of some images."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xinv import leases, report, store
from xinv.audit import recorded
from xinv.audit.results import Config, Rows
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.run import audited
from xinv.audit.sections import sections
from xinv.audit.service import Classifiers, Service
from xinv.audit.stage import Stages
from xinv.data import dataset
from xinv.data.arrays import as_bytes
from xinv.numbers import is_number, require, require_flag
from xinv.train import Recipe
from xinv.types import Array, InputError

LABEL = "label"
_CHUNK = 256  # images read at once


def release(
    images: Array,
    prediction: Array,
    explanations: Mapping[str, Array],
    *,
    workdir: str | Path,
    labels: Array | None = None,
    logits: bool = False,
    seeds: int = 3,
    test: float = 0.2,
    width: float = 0.125,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    title: str = "release",
) -> Rows:
    """Measures the leakage of images through predictions and explanations of them.

    One attack learns to rebuild images from predictions alone (PredMI), one from predictions and
    each of the explanations (ExpMI, Zhao 2021). All are trained alike on most of the images and
    attack the others. Called again after a kill with the same arguments, it continues.

    Args:
      images: private images, not of the model's training set, [N,H,W,C], uint8 or float in [0,1].
        They and the other arrays may be memory maps: they are read batch by batch.
      prediction: the released probabilities or `logits` of each image, [N,K].
      explanations: by name, the released maps of each image, [N,h,w,c]; no name may be
        "prediction".
      workdir: a folder for the results: `rows.jsonl`, `report.html` and others.
      labels: the classes of the images, int [N] from 0 to K-1; None takes the predicted ones. By
        them the evaluation model tells if a reconstruction is recognised.
      logits: True if `prediction` are logits.
      seeds: repetitions, each with other images to train on and to attack; at least 2 give
        intervals.
      test: the fraction of the images to attack.
      width: of the attacks' networks, as a fraction of the paper's.
      epochs, batch_size, learning_rate: of every training.
      title: the name of the images in the report.

    Returns:
      The rows: one dict for each seed, arm and metric, with "value" the mean over the attacked
      images.

    Raises:
      InputError: an array has another shape or length than the others, holds NaN, or there are too
        few images.

    Example:
      rows = xinv.audit.release(images, probabilities, {"gradcam": maps}, workdir="audit")
    """
    # Check the arguments
    require(
        is_number(test) and 0 < test < 1,
        "test",
        test,
        "a fraction between 0 and 1",
    )
    named = isinstance(explanations, Mapping) and all(isinstance(n, str) for n in explanations)
    if not named or not explanations:
        raise InputError(
            "explanations must be a dict of arrays [N,h,w,c] by name, with at least one"
        )
    require_flag(logits=logits)
    images = _array("images", images)
    prediction = _array("prediction", prediction)
    maps = {}
    for name, array in explanations.items():
        maps[name] = _array(f"explanation {name!r}", array)

    # Audit them as a recorded target
    folder = Path(workdir)
    started = time.monotonic()
    recipe = dict(batch_size=batch_size, epochs=epochs, learning_rate=learning_rate)
    config = _config(
        list(maps),
        recipe,
        logits=logits,
        seeds=seeds,
        test=test,
        width=width,
        title=title,
    )
    with leases.locked(folder), store.opened(folder / "stages") as stages:
        # Names of explanations come from the user, and are checked as those of a config file
        sections(config)
        found = _dataset(images, prediction, labels, title)
        target = recorded.checked("the release", found, LABEL, prediction, maps, logits)
        roles = Roles(found, None, config["data"], {})
        service = Service(
            Classifiers(
                config,
                roles,
                Stages(stages, folder),
                target,
            )
        )
        rows = audited(service, folder, started)
    report.render(folder)
    return rows


def _dataset(
    images: Any,
    prediction: Any,
    labels: Any,
    title: str,
) -> dataset.Dataset:
    """Returns the images with their labels; images are read and converted on use."""
    shape = images.shape
    classes = prediction.shape
    if len(shape) != 4 or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise InputError(
            f"the images are {images.dtype} {list(shape)}: give uint8 or float [N,H,W,C]"
        )
    if len(classes) != 2 or classes[0] != shape[0] or classes[1] < 2:
        raise InputError(
            f"prediction is {list(classes)} for {shape[0]} images: "
            "give probabilities or logits [N,K], K at least 2"
        )
    # Nothing else is known of the classes
    if labels is None:
        labels = np.argmax(prediction, axis=1)

    # Images may be larger than memory: they become bytes as they are read
    def read(rows: Any) -> np.ndarray:
        return as_bytes("the images", np.asarray(images[rows]))

    # The content is the identity of the data set
    digest = hashlib.sha256(f"{shape} {classes[1]}".encode())
    for start in range(0, shape[0], _CHUNK):
        digest.update(read(slice(start, start + _CHUNK)).tobytes())
    digest.update(np.asarray(labels, np.int64).tobytes())
    names = tuple(map(str, range(classes[1])))
    return dataset.create(
        title,
        dataset.Lazy(shape, read),
        {LABEL: np.asarray(labels)},
        {LABEL: names},
        digest.hexdigest()[:16],
    )


def _array(name: str, value: Any) -> Any:
    """Returns lists as arrays; arrays of any kind are read later."""
    # Memory maps stay on disk
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return value
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is no array: {error}") from None


def _config(
    names: list[str],
    recipe: Config,
    *,
    logits: bool,
    seeds: int,
    test: float,
    width: float,
    title: str,
) -> dict[str, Any]:
    """Returns a complete config of an inversion audit of recorded explanations."""
    # One recipe for all, so that the arms differ in their inputs alone
    train = asdict(Recipe(**recipe, b1=0.5, patience=10))
    roles = {"attack_train": 1 - test, REPORTED: test}
    explanations = {name: dict(name=name, normalise="absolute_minmax") for name in names}
    return dict(
        unit="release",
        seed=0,
        seeds=seeds,
        data=dict(
            source=dict(name="given", title=title),
            transform={},
            auxiliary={},
            roles=dict(roles=roles),
        ),
        target=dict(label=LABEL, roles=(), recorded="given"),
        evaluation=_evaluation(train),
        shadows={},
        attributes={},
        service=dict(prediction="logits" if logits else "probabilities"),
        explanations=explanations,
        defences={},
        # No defence is fitted; the section is never absent
        defender=dict(role="attack_train", held_out=""),
        attack=_attack(width, train),
        arms=_arms(names),
        metrics=dict(
            image=dict(
                mse={},
                psnr={},
                ssim=dict(sigma=1.5, window=11),
                embedding_similarity={},
            ),
            label=dict(attack_accuracy={}),
            explanation={},
            membership={},
        ),
        analysis={},
        report=dict(role=REPORTED, examples=12, published=(), positive_control=False),
    )


def _evaluation(train: Config) -> dict[str, Any]:
    return dict(
        label=LABEL,
        roles=("attack_train",),
        model=dict(
            name="cnn",
            dtype="float32",
            channels=(128, 256),
            hidden=512,
            width=0.125,
        ),
        train=train,
    )


def _attack(width: float, train: Config) -> dict[str, Any]:
    return dict(
        name="decoder",
        encoder="flatten_unet",
        network="decoder",
        loss="mse",
        rescale="none",
        width=width,
        dtype="float32",
        train=train,
    )


def _arms(names: list[str]) -> dict[str, Any]:
    """Returns one arm for predictions alone, and one for predictions with each explanation."""
    if "prediction" in names:
        raise InputError(
            "no explanation may be called 'prediction': that is the attack without explanations"
        )
    # The attack is trained on a view like the tested one
    view = dict(
        prediction="target",
        explanation="target",
        defences=(),
        queries=1,
        members="",
    )

    def arm(*inputs: str, encoder: str) -> dict[str, Any]:
        return dict(
            inputs=inputs,
            attack=dict(encoder=encoder),
            train_view=dict(roles=("attack_train",), releases=1) | view,
            test_view=view,
            known="",
            population="",
            evaluate=True,
            control_of="",
        )

    arms = {"prediction": arm("prediction", encoder="none")}
    for name in names:
        arms[name] = arm("prediction", name, encoder="flatten_unet")
    return arms
