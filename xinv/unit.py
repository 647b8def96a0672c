"""The stages of one work unit, each computed when it is asked for and never twice.

    data -> roles -> target -> predictions, explanations -> attack -> metrics

A stage is stored under the hash of the part of the config that determines it and of the stages it reads.
"""

import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import attacks, data, explain, metrics, models, parallel, plugins, store, train
from xinv.images import as_float
from xinv.results import Config, Rows
from xinv.scalars import Scalars
from xinv.store import Stage, Store
from xinv.types import Apply, Attack, Batch, Explainer, InputError, Key, Model, Observation, Variables

FORWARD = 64
"""Images per forward pass of a classifier."""
ATTACKER = "attack_train"
REPORTED = "attack_test"
"""The role that every reported figure is computed on; nothing is trained, stopped or chosen by it."""


class Arm(NamedTuple):
    """One attack of the comparison: how it reads what, None being predictions alone."""

    encoder: str
    explainer: str | None

    @property
    def name(self) -> str:
        return "prediction" if self.explainer is None else f"{self.encoder}({self.explainer})"


class Unit(NamedTuple):
    """One work unit: a config, its data and where its results are kept."""

    config: Config
    dataset: data.Dataset
    workdir: Path
    store: Store
    checkpoint_seconds: float

    @property
    def seeds(self) -> range:
        """The seeds of this unit, at least one."""
        return range(self.config["seed"], self.config["seed"] + self.config["seeds"])

    def arms(self) -> list[Arm]:
        """Predictions alone first, then every way to read every explanation."""
        encoders = self.config["attack"]["encoders"]
        explained = [Arm(e, name) for name in self.config["explanations"] for e in encoders if e != "none"]
        return [Arm(e, None) for e in encoders if e == "none"] + explained

    def roles(self, seed: int) -> dict[str, np.ndarray]:
        """The indices of each role."""
        return data.roles.split(self.dataset.labels, seed=seed, **self.config["data"]["roles"])

    def rows_of(self, roles: Iterable[str], seed: int) -> data.Dataset:
        """The images of some roles together."""
        return data.take(self.dataset, self.indices(roles, seed))

    def indices(self, roles: Iterable[str], seed: int) -> np.ndarray:
        """The indices of some roles together, ascending."""
        split = self.roles(seed)
        unknown = sorted(set(roles) - set(split))
        if unknown:
            raise InputError(f"unknown role {unknown[0]!r}: data.roles gives {', '.join(split)}")
        return np.unique(np.concatenate([split[role] for role in roles]))

    def classifier(self, part: str, seed: int) -> Stage:
        """The trained classifier that `config[part]` describes."""
        settings, model = self.config[part], self.model(part)
        spec = self.spec(seed) | {"part": part, "settings": settings}

        def build(folder: Path, session: train.Session) -> None:
            chosen = self.rows_of(settings["roles"], seed)
            batch = {"image": chosen.images, "label": chosen.labels[settings["label"]]}
            variables = jax.jit(model.init)(_key(seed, part, "init"), as_float(chosen.images[:1]))
            recipe = train.Recipe(**settings["train"])
            fitted = train.fit(train.classifier_loss(model), variables, batch, _key(seed, part, "fit"), recipe, session)
            store.save_tree(folder / "variables", fitted.variables)
            store.write_json(folder / "history.json", _curve(fitted.history))

        return self.stage(part, f"{part}, seed {seed}", spec, build)

    def model(self, part: str) -> Model:
        """The network that `config[part]` describes, for its label's classes."""
        settings = self.config[part]
        if settings["label"] not in self.dataset.classes:
            allowed = ", ".join(self.dataset.classes)
            raise InputError(f"unknown label {settings['label']!r} for the {part}: the data has {allowed}")
        return models.build(classes=len(self.dataset.classes[settings["label"]]), **settings["model"])

    def logits(self, part: str, role: str, seed: int) -> Stage:
        """The classifier's answers on a role."""
        classifier = self.classifier(part, seed)
        spec = self.spec(seed) | {"role": role, "classifier": classifier.digest}

        def build(folder: Path, session: train.Session) -> None:
            del session
            images = self.rows_of([role], seed).images
            answer = _answer(self.model(part))
            logits = parallel.map_batches(answer, classifier.tree("variables"), images, FORWARD)
            store.save_array(folder / "logits.npy", logits)

        return self.stage("logits", f"{part} on {role}, seed {seed}", spec, build)

    def explanation(self, name: str, role: str, seed: int) -> Stage:
        """The target's explanations of the classes it predicts on a role."""
        settings, classifier = self.config["explanations"][name], self.classifier("target", seed)
        logits = self.logits("target", role, seed)
        spec = self.spec(seed) | {"explainer": settings, "classifier": classifier.digest, "role": role}

        def build(folder: Path, session: train.Session) -> None:
            del session
            images = self.rows_of([role], seed).images
            arguments = self.explainer(name), self.model("target").apply, classifier.tree("variables"), images
            maps = store.create_array(folder / "explanation.npy", (len(images), *map_shape(*arguments)), np.float32)
            labels = logits.array("logits").argmax(axis=-1)
            explain.batch(*arguments, labels, _key(seed, "explain", role), out=maps)
            maps.flush()

        return self.stage("explanation", f"{name} on {role}, seed {seed}", spec, build)

    def explainer(self, name: str) -> Explainer:
        """The explainer of that name in the config, on its scale."""
        settings = self.config["explanations"][name]
        factory = {key: value for key, value in settings.items() if key != "normalise"}
        return explain.normalise(explain.build(**factory), settings["normalise"])

    def observation(self, arm: Arm, role: str, seed: int) -> tuple[Observation, list[str]]:
        """What the service releases about a role's images, and the digests of the stages it comes from."""
        logits = self.logits("target", role, seed)
        prediction = np.asarray(jax.nn.softmax(logits.array("logits")))
        if arm.explainer is None:
            return Observation(prediction), [logits.digest]
        explanation = self.explanation(arm.explainer, role, seed)
        return Observation(prediction, explanation.array("explanation")), [logits.digest, explanation.digest]

    def attack(self, arm: Arm, seed: int) -> Stage:
        """The attack of one arm, trained on the attacker's images, with its guesses on the reported ones."""
        observed, sources = self.observation(arm, ATTACKER, seed)
        released, targets = self.observation(arm, REPORTED, seed)
        common = {name: value for name, value in self.config["attack"].items() if name != "encoders"}
        spec = self.spec(seed) | {"settings": common, "encoder": arm.encoder, "sources": sources + targets}

        def build(folder: Path, session: train.Session) -> None:
            attack = self.attacker(arm)
            state = attack.fit(_key(seed, "attack"), observed, self.rows_of([ATTACKER], seed).images, session)
            store.save_tree(folder / "state", {name: part for name, part in state.items() if name != "history"})
            store.write_json(folder / "history.json", _curve(state["history"]))
            store.save_array(folder / "reconstruction.npy", attack.predict(state, released))

        return self.stage("attack", f"{arm.name}, seed {seed}", spec, build)

    def attacker(self, arm: Arm) -> Attack:
        """The attack of one arm; the arms differ in what they read, and in nothing else."""
        hyper = {name: value for name, value in self.config["attack"].items() if name not in ("encoders", "train")}
        inputs = ("prediction",) if arm.explainer is None else ("prediction", "explanation")
        recipe = train.Recipe(**self.config["attack"]["train"])
        return attacks.build(**hyper, inputs=inputs, encoder=arm.encoder, recipe=recipe)

    def scores(self, arm: Arm, seed: int) -> dict[str, np.ndarray]:
        """Each metric, per reported image, of one arm's reconstructions."""
        settings = self.config["metrics"]
        attack, evaluation = self.attack(arm, seed), self.classifier("evaluation", seed)
        spec = {"metrics": settings, "attack": attack.digest, "evaluation": evaluation.digest}

        def build(folder: Path, session: train.Session) -> None:
            del session
            reported, judge = self.rows_of([REPORTED], seed), self.model("evaluation")
            truths = {"image": reported.images, "label": reported.labels[self.config["evaluation"]["label"]]}
            given = {"apply": judge.apply, "embed": judge.embed, "variables": evaluation.tree("variables")}
            for kind, named in settings.items():
                functions = {name: metric(name, hyper, given) for name, hyper in named.items()}
                batch = {"truth": truths[kind], "guess": attack.array("reconstruction")}
                scores = parallel.map_batches(score, functions, batch, FORWARD)
                for name, values in scores.items():
                    store.save_array(folder / f"{name}.npy", values)

        scored = self.stage("metrics", f"{arm.name}, seed {seed}", spec, build)
        return {name: scored.array(name) for named in settings.values() for name in named}

    def correct(self, part: str, seed: int) -> np.ndarray:
        """Whether a classifier is right, per reported image."""
        labels = self.rows_of([REPORTED], seed).labels[self.config[part]["label"]]
        return (self.logits(part, REPORTED, seed).array("logits").argmax(axis=-1) == labels).astype(np.float32)

    def spec(self, seed: int) -> dict[str, Any]:
        """What determines every stage of a seed: the images, and who may see which."""
        return {"data": self.dataset.fingerprint, "roles": self.config["data"]["roles"], "seed": seed}

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


def _key(seed: int, *purpose: str) -> Key:
    """Independent random numbers for each purpose of a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32("/".join(purpose).encode()))


@functools.cache
def _answer(model: Model) -> Callable[[Variables, Batch, Any], jax.Array]:
    return lambda variables, images, keys: model.apply(variables, as_float(images))


def map_shape(explainer: Explainer, apply: Apply, variables: Variables, images: data.Images) -> tuple[int, ...]:
    """The shape [h,w,c] of an explainer's maps of these images."""
    one = jax.ShapeDtypeStruct(images.shape[1:], np.float32), jax.ShapeDtypeStruct((), np.int32)
    return jax.eval_shape(functools.partial(explainer, apply), variables, *one, jax.random.key(0)).shape


def metric(name: str, hyper: Config, given: Config) -> Partial:
    """A metric as a pytree, so that an argument of `score` carries its variables; `given` as in `plugins.build`."""
    fn = plugins.build(metrics, "metric", name, hyper, given)
    return fn if isinstance(fn, Partial) else Partial(fn)


def score(functions: Mapping[str, Partial], batch: Batch, keys: Any) -> dict[str, jax.Array]:
    """Every function's value per example of {"truth", "guess"}."""
    del keys
    return {name: fn(batch["truth"], as_float(batch["guess"])) for name, fn in functions.items()}


def _curve(history: Mapping[str, list[float]]) -> Rows:
    """A training's history as one line per epoch; without validation its loss is None."""
    losses = history["loss"]
    validation = history.get("validation_loss", [None] * len(losses))
    pairs = enumerate(zip(losses, validation, strict=True), start=1)
    return [{"epoch": epoch, "loss": loss, "validation_loss": judged} for epoch, (loss, judged) in pairs]
