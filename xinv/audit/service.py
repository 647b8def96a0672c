"""The service under attack: classifiers, what they predict, and how these predictions are explained.

A classifier is trained here by a recipe, is a function of the user's own, or is known by what it released alone (see
`target`). Its training may use soft labels that another part of the service releases.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import attacks, data, explain, models, parallel, plugins, train
from xinv.audit import recorded
from xinv.audit.release import Release
from xinv.audit.results import Config
from xinv.audit.roles import REPORTED, Roles
from xinv.audit.stage import Create, Stages, key, state_of
from xinv.audit.target import Own, Recorded
from xinv.images import as_float
from xinv.store import Stage
from xinv.types import Apply, Array, Batch, Explainer, InputError, Known, Model, Variables

FORWARD = 64
"""Images per forward pass of a classifier."""
CLASSIFIERS = ("target", "evaluation")


class Classifiers(NamedTuple):
    """The classifiers of a config: trained here, or brought by the user.

    Attributes:
      config: complete and plain.
      roles: who may see which images.
      stages: where results are kept.
      target: a model of the user's own or what it released; None for a target that is trained here.
    """

    config: Config
    roles: Roles
    stages: Stages
    target: Own | Recorded | None = None

    @property
    def seeds(self) -> range:
        """The seeds, at least one."""
        return range(self.config["seed"], self.config["seed"] + self.config["seeds"])

    def settings(self, part: str) -> Config:
        """Returns the section of a classifier: target, evaluation, a shadow, or the judge of an attribute."""
        if part in CLASSIFIERS:
            return self.config[part]
        further = {**self.config["shadows"], **self.config["attributes"]}
        if part not in further:
            raise InputError(f"unknown classifier {part!r}: the config has {', '.join((*CLASSIFIERS, *further))}")
        return further[part]

    def classes(self, part: str) -> int:
        """Returns the number of classes that a classifier tells apart."""
        return self.roles.classes(self.settings(part)["label"], part)

    def own(self, part: str) -> Own | None:
        """Returns the user's own model where a classifier is it, or is trained like it."""
        if "function" not in self.settings(part):
            return None
        if not isinstance(self.target, Own):
            raise InputError(f"{part}.function needs a target.function: a shadow is trained as the target is")
        return self.target

    def is_recorded(self, part: str) -> bool:
        """Tells if a classifier is known by what it released alone."""
        return part == "target" and isinstance(self.target, Recorded)

    def model(self, part: str) -> Model:
        """Returns the network of a classifier, for its label's classes.

        Raises:
          InputError: the classifier is known by its releases alone.
        """
        if self.is_recorded(part):
            raise InputError(
                "the target is recorded: what differentiates or asks its model (white-box attacks, insertion and "
                "deletion, max_sensitivity) needs target.function instead"
            )
        own, classes = self.own(part), self.classes(part)
        return own.model if own else models.build(classes=classes, **self.settings(part)["model"])

    def classifier(self, part: str, seed: int) -> Stage:
        """Returns a classifier that is trained for this audit."""
        settings, own = self.settings(part), self.own(part)
        soft_labels, sources = _soft_labels(self, settings, seed)
        how = plugins.complete(models, settings["model"]) if own is None else {"like": own.fingerprint}
        spec = self.roles.spec(seed, settings["roles"])
        spec |= {"part": part, "settings": settings, "model": how, "sources": sources}

        def fit(session: train.Session) -> dict[str, Any]:
            batch = _training_data(self.roles, settings, soft_labels, seed)
            fit_key = key(seed, part, "fit")
            if own is not None:
                return {"classifier": own.train(*batch.values(), fit_key)}
            model = self.model(part)
            start = jax.jit(model.init)(key(seed, part, "init"), as_float(batch["image"][:1]))
            if not settings["train"]:
                return {"classifier": start}  # the control of a membership attack
            recipe = train.Recipe.stated(settings["train"])
            if "joint" in settings:
                given = {"classifier": model, "recipe": recipe, "session": session}
                variables, state = attacks.fit_jointly(fit_key, *batch.values(), **given, **settings["joint"])
                return {"classifier": variables, **state}
            fitted = train.fit(train.classifier_loss(model), start, batch, fit_key, recipe, session)
            return {"classifier": fitted.variables, "history": fitted.history}

        return self.stages.trained(part, f"{part}, seed {seed}", spec, fit)

    def is_trained(self, part: str) -> bool:
        """Tells if a classifier is trained for this audit."""
        return part != "target" or self.target is None

    def identity(self, part: str, seed: int) -> str:
        """Returns the hash that stands for a classifier in the specs of later stages."""
        return self.classifier(part, seed).digest if self.is_trained(part) else self.target.fingerprint

    def variables(self, part: str, seed: int) -> Variables:
        """Returns the weights of a classifier."""
        self.model(part)  # raises if there are none
        return state_of(self.classifier(part, seed))["classifier"] if self.is_trained(part) else self.target.variables

    def abstract(self, part: str, images: jax.ShapeDtypeStruct) -> Known:
        """Returns a classifier of which only the shapes are known, before it is trained."""
        model, own = self.model(part), self.own(part)
        if own is not None:
            variables = jax.eval_shape(lambda: own.variables)
        else:
            variables = jax.eval_shape(model.init, jax.random.key(0), images)
        jax.eval_shape(model.apply, variables, images)
        return Known(model, variables)


class Service(NamedTuple):
    """What the classifiers of a config predict on its roles, and how that is explained."""

    classifiers: Classifiers

    @property
    def config(self) -> Config:
        """The config."""
        return self.classifiers.config

    @property
    def roles(self) -> Roles:
        """Who may see which images."""
        return self.classifiers.roles

    @property
    def stages(self) -> Stages:
        """Where results are kept."""
        return self.classifiers.stages

    def logits(self, part: str, role: str, seed: int) -> Stage:
        """Returns a classifier's logits on a role."""
        spec = self.roles.spec(seed, [role]) | {"role": role, "classifier": self.classifiers.identity(part, seed)}

        def compute() -> dict[str, Array]:
            answer, images = _answer(self.classifiers.model(part).apply), self.roles.images([role], seed)
            return {"logits": parallel.map_batches(answer, self.classifiers.variables(part, seed), images, FORWARD)}

        return self.stages.computed("logits", f"{part} on {role}, seed {seed}", spec, compute)

    def prediction(self, part: str, role: str, seed: int) -> tuple[Array, list[str]]:
        """Returns a classifier's probabilities [N,K] on a role, and the digests of what they come from."""
        target = self.classifiers.target
        if self.classifiers.is_recorded(part):
            return recorded.prediction(target, self.roles, role, seed)
        logits = self.logits(part, role, seed)
        return np.asarray(jax.nn.softmax(logits.array("logits"))), [logits.digest]

    def explanation(
        self, name: str, role: str, seed: int, part: str = "target", summary: tuple[str, ...] = ()
    ) -> tuple[Array, list[str]]:
        """Returns explanations [N,h,w,c] of the classes that a classifier predicts on a role, and their digests.

        With `summary` they are statistics of each map [N,1,1,T], and no map is kept.
        """
        settings, target = self.config["explanations"][name], self.classifiers.target
        if self.classifiers.is_recorded(part):
            return recorded.explanation(target, self.roles, self.stages, settings, role, seed)
        logits = self.logits(part, role, seed)
        public = public_reference(settings)
        spec = self.roles.spec(seed, [role, *public])
        spec |= {"role": role, "classifier": self.classifiers.identity(part, seed)}
        spec |= {"explainer": plugins.complete(explain, settings)}
        if summary:
            spec |= {"summary": summary}

        def fill(create: Create) -> None:
            images, explainer = self.roles.images([role], seed), self.explainer(name, seed, part)
            if summary:
                explainer = _summarised(explainer, summary)
            arguments = explainer, self.classifiers.model(part).apply, self.classifiers.variables(part, seed), images
            maps = create("explanation", (len(images), *map_shape(*arguments)))
            labels = logits.array("logits").argmax(axis=-1)
            explain.batch(*arguments, labels, key(seed, "explain", role), out=maps)

        stage = self.stages.filled("explanation", f"{name} of {part} on {role}, seed {seed}", spec, fill)
        return stage.array("explanation"), [stage.digest]

    def explainer(self, name: str, seed: int, part: str = "target") -> Explainer:
        """Returns the explainer of that name in the config, on its scale.

        A `reference` in the config is a number of images, drawn evenly from those that the
        classifier is trained on: it releases their pixels. Or it is `role` and `count`: images of a
        public role, the same for every classifier.
        """
        settings, given = self.config["explanations"][name], {}
        factory = {key: value for key, value in settings.items() if key not in ("normalise", "reference")}
        if "reference" in settings:
            public, count = public_reference(settings), settings["reference"]
            if public:
                count = count["count"]
            images = self.roles.images(public or self.classifiers.settings(part)["roles"], seed)
            positions = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
            given = {"reference": images[positions]}
        return explain.normalise(explain.build(given=given, **factory), settings["normalise"])

    def answers(self, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the true and the predicted class per reported image."""
        truth = self.roles.labelled([REPORTED], seed).labels[self.classifiers.settings(part)["label"]]
        return truth, np.argmax(self.prediction(part, REPORTED, seed)[0], axis=-1)

    def shapes(
        self, part: str, inputs: tuple[str, ...], images: jax.ShapeDtypeStruct
    ) -> tuple[jax.ShapeDtypeStruct, list[tuple[int, ...]]]:
        """Returns the shapes of a classifier's predictions and of its maps, without computing anything."""
        if self.classifiers.is_recorded(part):
            settings = self.config["explanations"]
            found = [recorded.find(self.classifiers.target, settings[name]) for name in inputs]
            maps = [np.shape(one)[1:] for one in found]
            return jax.ShapeDtypeStruct((images.shape[0], self.classifiers.classes(part)), np.float32), maps
        known = self.classifiers.abstract(part, images)
        prediction = jax.eval_shape(known.model.apply, known.variables, images)
        explainers = [self.explainer(name, self.config["seed"]) for name in inputs]
        return prediction, [map_shape(one, known.model.apply, known.variables, images) for one in explainers]


def _soft_labels(classifiers: Classifiers, settings: Config, seed: int) -> tuple[np.ndarray | None, list[str]]:
    """What a teacher releases of the images that a classifier learns from, and its digests."""
    if "teacher" not in settings:
        return None, []
    teacher = settings["teacher"]
    release = Release(Service(classifiers), (), teacher["prediction"], defences=tuple(teacher["defences"]))
    seen, sources = zip(*(release.observation(role, seed) for role in settings["roles"]), strict=True)
    return np.concatenate([observed.prediction for observed in seen]), [one for part in sources for one in part]


def _training_data(roles: Roles, settings: Config, soft_labels: np.ndarray | None, seed: int) -> Batch:
    if soft_labels is not None:
        return {"image": roles.images(settings["roles"], seed), "label": soft_labels}
    dataset = roles.labelled(settings["roles"], seed)
    return {"image": dataset.images, "label": dataset.labels[settings["label"]]}


@functools.lru_cache(64)
def _summarised(explainer: Explainer, names: tuple[str, ...]) -> Explainer:
    """The statistics [1,1,T] of an explainer's maps, as an explainer."""
    summary = attacks.signals.signals(names)

    def explain_in_short(*arguments: Any) -> jax.Array:
        return summary(explainer(*arguments))[None, None, :]

    return explain_in_short


def public_reference(settings: Config) -> Sequence[str]:
    """Returns the role that an explanation's reference is drawn from, if the config names one."""
    reference = settings.get("reference")
    return [reference["role"]] if isinstance(reference, Mapping) else []


def map_shape(explainer: Explainer, apply: Apply, variables: Variables, images: data.Images) -> tuple[int, ...]:
    """Returns the shape [h,w,c] of an explainer's maps of these images."""
    one = jax.ShapeDtypeStruct(images.shape[1:], np.float32), jax.ShapeDtypeStruct((), np.int32)
    return jax.eval_shape(functools.partial(explainer, apply), variables, *one, jax.random.key(0)).shape


@functools.lru_cache(64)
def _answer(apply: Apply) -> Callable[[Variables, Batch, Any], jax.Array]:
    return lambda variables, images, keys: apply(variables, as_float(images))
