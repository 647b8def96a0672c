"""What a service computes: the stages of a work unit up to its predictions and explanations.

    data -> roles -> classifiers -> predictions, explanations

A stage is stored under the hash of the part of the config that determines it and of the stages it reads, and never
computed twice. `released` continues with what leaves the service, `arms` with what attackers make of it.
"""

import functools
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import attacks, data, explain, models, parallel, plugins, store, train
from xinv.audit.results import Config, Rows
from xinv.images import as_float
from xinv.store import Stage, Store
from xinv.train.scalars import Scalars
from xinv.types import Apply, Batch, Explainer, InputError, Key, Known, Model, Variables

FORWARD = 64
"""Images per forward pass of a classifier."""
REPORTED = "attack_test"
"""The role that every reported figure is computed on; nothing is trained, stopped or chosen by it."""
CLASSIFIERS = ("target", "evaluation")


class Unit(NamedTuple):
    """One work unit: a config, its data and where its results are kept."""

    config: Config
    dataset: data.Dataset
    auxiliary: data.Dataset | None
    workdir: Path
    store: Store
    checkpoint_seconds: float
    dealt: dict[int, dict[str, tuple[data.Dataset, np.ndarray]]]
    """The roles of a seed, once they are dealt: every stage asks for them."""
    taught: Callable[["Unit", Config, Sequence[str], int], tuple[np.ndarray, list[str]]]
    """`released.taught`: it builds on this module, and a classifier that has a teacher on it."""

    @property
    def seeds(self) -> range:
        """The seeds of this unit, at least one."""
        return range(self.config["seed"], self.config["seed"] + self.config["seeds"])

    def roles(self, seed: int) -> dict[str, tuple[data.Dataset, np.ndarray]]:
        """The data set and the indices of each role."""
        if seed not in self.dealt:
            self.dealt[seed] = self._deal(seed)
        return self.dealt[seed]

    def _deal(self, seed: int) -> dict[str, tuple[data.Dataset, np.ndarray]]:
        settings = self.config["data"]
        split = data.roles.split(self.dataset.labels, seed=seed, **settings["roles"])
        result = {role: (self.dataset, indices) for role, indices in split.items()}
        if self.auxiliary is None:
            return result
        further = data.roles.split(self.auxiliary.labels, seed=seed, **settings["auxiliary"]["roles"])
        if set(further) & set(result):
            raise InputError(f"role {min(set(further) & set(result))!r} is dealt by data.roles and by data.auxiliary")
        return result | {role: (self.auxiliary, indices) for role, indices in further.items()}

    def rows_of(self, roles: Iterable[str], seed: int) -> data.Dataset:
        """The labelled images of some roles together, all of one data set, each once, in its order."""
        found = self._find(roles, seed)
        if any(dataset is not found[0][0] or dataset.classes != self.dataset.classes for dataset, _ in found):
            raise InputError(f"the labels of roles {list(roles)} are not those of the data set: they cannot be learned")
        return data.take(found[0][0], np.unique(np.concatenate([indices for _, indices in found])))

    def images(self, roles: Iterable[str], seed: int) -> data.Images:
        """The images of some roles, one role after the other."""
        return data.concatenate([data.take(dataset, indices).images for dataset, indices in self._find(roles, seed)])

    def require_unseen(self, what: str, roles: Iterable[str], seed: int) -> int:
        """The number of images of some roles, none of which is reported.

        Raises:
          InputError: `what` trains on them, and one is.
        """
        if self.shared(roles, [REPORTED], seed):
            raise InputError(f"{what} trains on images of {REPORTED}, which is reported: its roles are {list(roles)}")
        return sum(len(indices) for _, indices in self._find(roles, seed))

    def shared(self, roles: Iterable[str], others: Iterable[str], seed: int) -> bool:
        """Whether some roles have images in common with others, by their places in equal data sets."""
        pairs = itertools.product(self._find(roles, seed), self._find(others, seed))
        return any(
            one[0].fingerprint == two[0].fingerprint and np.intersect1d(one[1], two[1]).size for one, two in pairs
        )

    def _find(self, roles: Iterable[str], seed: int) -> list[tuple[data.Dataset, np.ndarray]]:
        known = self.roles(seed)
        unknown = sorted(set(roles) - set(known))
        if unknown or not roles:
            raise InputError(f"unknown role {unknown[0] if unknown else ''!r}: data.roles gives {', '.join(known)}")
        return [known[role] for role in roles]

    def settings(self, part: str) -> Config:
        """The section of a classifier: target, evaluation model, an attacker's shadow, or the judge of an attribute."""
        if part in CLASSIFIERS:
            return self.config[part]
        further = {**self.config["shadows"], **self.config["attributes"]}
        if part not in further:
            raise InputError(f"unknown classifier {part!r}: the config has {', '.join((*CLASSIFIERS, *further))}")
        return further[part]

    def model(self, part: str) -> Model:
        """The network of a classifier, for its label's classes."""
        settings = self.settings(part)
        if settings["label"] not in self.dataset.classes:
            allowed = ", ".join(self.dataset.classes)
            raise InputError(f"unknown label {settings['label']!r} for the {part}: the data has {allowed}")
        return models.build(classes=len(self.dataset.classes[settings["label"]]), **settings["model"])

    def classifier(self, part: str, seed: int) -> Stage:
        """A trained classifier."""
        settings, model = self.settings(part), self.model(part)
        lesson, sources = self._lesson(settings, seed)
        spec = self.spec(seed, settings["roles"]) | {
            "part": part,
            "settings": settings,
            "model": plugins.complete(models, settings["model"]),
            "sources": sources,
        }

        def build(folder: Path, session: train.Session) -> None:
            batch = lesson()
            recipe, fit_key = train.Recipe.stated(settings["train"]), key(seed, part, "fit")
            if "joint" in settings:
                given = {"classifier": model, "recipe": recipe, "session": session}
                variables, state = attacks.fit_jointly(fit_key, *batch.values(), **given, **settings["joint"])
                save_state(folder, state)
            else:
                start = jax.jit(model.init)(key(seed, part, "init"), as_float(batch["image"][:1]))
                variables, history, *_ = train.fit(train.classifier_loss(model), start, batch, fit_key, recipe, session)
                store.write_json(folder / "history.json", curve(history))
            store.save_tree(folder / "variables", variables)

        return self.stage(part, f"{part}, seed {seed}", spec, build)

    def _lesson(self, settings: Config, seed: int) -> tuple[Callable[[], Batch], list[str]]:
        """What a classifier learns from: images with their labels, or with what its teacher releases about them."""
        if "teacher" not in settings:
            return lambda: _labelled(self.rows_of(settings["roles"], seed), settings["label"]), []
        answers, sources = self.taught(self, settings["teacher"], settings["roles"], seed)
        return lambda: {"image": self.images(settings["roles"], seed), "label": answers}, sources

    def known(self, part: str, seed: int) -> Known:
        """A classifier as someone holds it who has its weights."""
        return Known(self.model(part), self.classifier(part, seed).tree("variables"))

    def logits(self, part: str, role: str, seed: int) -> Stage:
        """A classifier's answers on a role."""
        classifier = self.classifier(part, seed)
        spec = self.spec(seed, [role]) | {"role": role, "classifier": classifier.digest}

        def build(folder: Path, session: train.Session) -> None:
            del session
            answer = _answer(self.model(part))
            logits = parallel.map_batches(answer, classifier.tree("variables"), self.images([role], seed), FORWARD)
            store.save_array(folder / "logits.npy", logits)

        return self.stage("logits", f"{part} on {role}, seed {seed}", spec, build)

    def explanation(self, name: str, role: str, seed: int, part: str = "target") -> Stage:
        """A classifier's explanations of the classes it predicts on a role."""
        settings, classifier = self.config["explanations"][name], self.classifier(part, seed)
        logits = self.logits(part, role, seed)
        explainer = plugins.complete(explain, settings)
        spec = self.spec(seed, [role]) | {"explainer": explainer, "classifier": classifier.digest, "role": role}

        def build(folder: Path, session: train.Session) -> None:
            del session
            images = self.images([role], seed)
            arguments = self.explainer(name, seed, part), self.model(part).apply, classifier.tree("variables"), images
            maps = store.create_array(folder / "explanation.npy", (len(images), *map_shape(*arguments)), np.float32)
            labels = logits.array("logits").argmax(axis=-1)
            explain.batch(*arguments, labels, key(seed, "explain", role), out=maps)
            maps.flush()

        return self.stage("explanation", f"{name} of {part} on {role}, seed {seed}", spec, build)

    def explainer(self, name: str, seed: int, part: str = "target") -> Explainer:
        """The explainer of that name in the config, on its scale.

        A `reference` in the config is a number of images, dealt evenly from those that the classifier is trained on.
        """
        settings, given = self.config["explanations"][name], {}
        factory = {key: value for key, value in settings.items() if key not in ("normalise", "reference")}
        if "reference" in settings:
            images = self.images(self.settings(part)["roles"], seed)
            positions = np.linspace(0, len(images) - 1, min(settings["reference"], len(images))).astype(int)
            given = {"reference": images[positions]}
        return explain.normalise(explain.build(given=given, **factory), settings["normalise"])

    def classifiers(self) -> tuple[str, ...]:
        """The classifiers of a run: without an attack only the target."""
        further = (*self.config["shadows"], *self.config["attributes"])
        return ("target", "evaluation", *further) if self.config["arms"] else ("target",)

    def answers(self, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The true and the predicted class per reported image."""
        truth = self.rows_of([REPORTED], seed).labels[self.settings(part)["label"]]
        return truth, self.logits(part, REPORTED, seed).array("logits").argmax(axis=-1)

    def spec(self, seed: int, roles: Iterable[str]) -> dict[str, Any]:
        """What determines a stage that reads these roles of a seed: the images, and who may see which."""
        settings = self.config["data"]
        spec = {"data": self.dataset.fingerprint, "roles": settings["roles"], "seed": seed}
        if all(dataset is self.dataset for dataset, _ in self._find(roles, seed)):
            return spec
        return spec | {"auxiliary": self.auxiliary.fingerprint, "auxiliary_roles": settings["auxiliary"]["roles"]}

    def stage(self, name: str, label: str, spec: Config, build: Callable[[Path, train.Session], None]) -> Stage:
        """The stage that `spec` determines, computed if the store does not hold it."""
        stage, done = self.store.find(name, spec)
        if done:
            return stage
        started = time.monotonic()
        checkpoints = self.store.partial(stage) / "checkpoints"
        with Scalars(self.workdir / "tensorboard" / stage.path.name) as scalars:
            session = train.Session(checkpoints, label, scalars.write, self.checkpoint_seconds)
            self.store.compute(stage, spec, lambda folder: build(folder, session))
        print(f"{name:12s} {label:40s} {time.monotonic() - started:6.1f} s", file=sys.stderr, flush=True)
        return stage


def key(seed: int, *purpose: str) -> Key:
    """Independent random numbers for each purpose of a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(purpose).encode()))


def _labelled(dataset: data.Dataset, label: str) -> Batch:
    return {"image": dataset.images, "label": dataset.labels[label]}


@functools.cache
def _answer(model: Model) -> Callable[[Variables, Batch, Any], jax.Array]:
    return lambda variables, images, keys: model.apply(variables, as_float(images))


def abstract(unit: Unit, part: str, images: jax.ShapeDtypeStruct) -> Known:
    """A classifier of which only the shapes are known, before it is trained."""
    model = unit.model(part)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    jax.eval_shape(model.apply, variables, images)
    return Known(model, variables)


def map_shape(explainer: Explainer, apply: Apply, variables: Variables, images: data.Images) -> tuple[int, ...]:
    """The shape [h,w,c] of an explainer's maps of these images."""
    one = jax.ShapeDtypeStruct(images.shape[1:], np.float32), jax.ShapeDtypeStruct((), np.int32)
    return jax.eval_shape(functools.partial(explainer, apply), variables, *one, jax.random.key(0)).shape


def curve(history: Mapping[str, list[float]]) -> Rows:
    """A training's history as one line per epoch, with all its metrics; without validation its loss is None."""
    columns = {"validation_loss": [None] * len(history["loss"]), **history}
    lines = zip(*columns.values(), strict=True)
    return [{"epoch": epoch, **dict(zip(columns, line, strict=True))} for epoch, line in enumerate(lines, start=1)]


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Saves what was learned by an attack or a defence, and how its losses went."""
    arrays = {name: part for name, part in state.items() if name not in ("history", "known")}
    if arrays:
        store.save_tree(folder / "state", arrays)
    store.write_json(folder / "history.json", curve(state["history"]) if "history" in state else [])
