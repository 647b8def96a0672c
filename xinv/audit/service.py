"""The service under attack: classifiers, their predictions, and explanations of these.

A classifier is trained here by a recipe, is a function of the user's own (`target`), or is known by
its releases alone (`recorded`). Its training may use soft labels: releases of another classifier.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import explain, models, plugins
from xinv.audit import outputs, recorded, training
from xinv.audit.form import LOGITS
from xinv.audit.recorded import Recorded
from xinv.audit.results import Config
from xinv.audit.roles import Roles
from xinv.audit.stage import Create, Stages, Watch, key, state_of
from xinv.audit.target import Own
from xinv.store import Stage
from xinv.types import Array, Explainer, InputError, Model, Variables, WhiteBox

FORWARD = 64
"""Images per forward pass of a classifier."""
CLASSIFIERS = ("target", "evaluation")


class Classifiers(NamedTuple):
    """The classifiers of a config: trained here, or brought by the user.

    Attributes:
      config: complete and plain.
      roles: who may see which images.
      stages: the place of results.
      target: a model of the user's own, or its releases; None for one trained here.
    """

    config: Config
    roles: Roles
    stages: Stages
    target: Own | Recorded | None = None

    @property
    def seeds(self) -> range:
        """The seeds, at least one."""
        first = self.config["seed"]
        return range(first, first + self.config["seeds"])

    def settings(self, part: str) -> Config:
        """Returns the section of the target, evaluation, a shadow, or the judge of an attribute."""
        if part in CLASSIFIERS:
            return self.config[part]
        further = {**self.config["shadows"], **self.config["attributes"]}
        if part not in further:
            allowed = ", ".join((*CLASSIFIERS, *further))
            raise InputError(f"unknown classifier {part!r}: the config has {allowed}")
        return further[part]

    def classes(self, part: str) -> int:
        """Returns the number of classes of a classifier."""
        return self.roles.classes(self.settings(part)["label"], part)

    def own(self, part: str) -> Own | None:
        """Returns the user's own model if a classifier is it, or is trained like it."""
        # A shadow names the target's function, too: its `train` makes the shadow
        if "function" not in self.settings(part):
            return None
        if not isinstance(self.target, Own):
            raise InputError(
                f"{part}.function needs a target.function: a shadow is trained as the target is"
            )
        return self.target

    def is_recorded(self, part: str) -> bool:
        """Tells if a classifier is known by its releases alone."""
        return part == "target" and isinstance(self.target, Recorded)

    def model(self, part: str) -> Model:
        """Returns the network of a classifier, for its label's classes.

        Raises:
          InputError: the classifier is known by its releases alone.
        """
        if self.is_recorded(part):
            raise InputError(recorded.NO_MODEL)
        own = self.own(part)
        if own is not None:
            return own.model
        # The label fixes the number of classes, so that no config states it twice
        settings = self.settings(part)
        return models.build(classes=self.classes(part), **settings["model"])

    def classifier(self, part: str, seed: int) -> Stage:
        """Returns a classifier trained for this audit."""
        return training.classifier(Service(self), part, seed)

    def is_trained(self, part: str) -> bool:
        """Tells if a classifier is trained for this audit."""
        return part != "target" or self.target is None

    def identity(self, part: str, seed: int) -> str:
        """Returns the hash of a classifier in the specs of later stages."""
        if self.is_trained(part):
            return self.classifier(part, seed).digest
        return self.target.fingerprint

    def variables(self, part: str, seed: int) -> Variables:
        """Returns the weights of a classifier."""
        self.model(part)  # raises if there are none
        if self.is_trained(part):
            return state_of(self.classifier(part, seed))["classifier"]
        return self.target.variables

    def abstract(self, part: str, images: jax.ShapeDtypeStruct) -> WhiteBox:
        """Returns the shapes of a classifier, before it is trained."""
        model = self.model(part)
        own = self.own(part)
        if own is not None:
            variables = jax.eval_shape(lambda: own.variables)
        else:
            variables = jax.eval_shape(model.init, jax.random.key(0), images)
        # A network that cannot take these images says so here, before hours of training
        jax.eval_shape(model.apply, variables, images)
        return WhiteBox(model, variables)


class Service(NamedTuple):
    """The predictions of a config's classifiers on its roles, and their explanations."""

    classifiers: Classifiers

    @property
    def config(self) -> Config:
        """The config."""
        return self.classifiers.config

    @property
    def roles(self) -> Roles:
        """The roles: who may see which images."""
        return self.classifiers.roles

    @property
    def stages(self) -> Stages:
        """The place of results."""
        return self.classifiers.stages

    def watched(self, watch: Watch) -> "Service":
        """Returns the same service; `watch` follows its stages."""
        stages = self.stages._replace(watch=watch)
        return Service(self.classifiers._replace(stages=stages))

    @property
    def releases_logits(self) -> bool:
        """Tells if its predictions are logits, not probabilities, of all classifiers alike."""
        return self.config["service"]["prediction"] == LOGITS

    def logits(self, part: str, role: str, seed: int) -> Stage:
        """Returns a classifier's logits [N,K] on a role."""

        def compute() -> dict[str, Array]:
            apply = self.classifiers.model(part).apply
            variables = self.classifiers.variables(part, seed)
            images = self.roles.images([role], seed)
            return {"logits": outputs.logits(apply, variables, images, FORWARD)}

        spec = self._spec(part, role, seed)
        return self.stages.computed(
            "logits",
            f"{part} on {role}, seed {seed}",
            spec,
            compute,
        )

    def prediction(
        self,
        part: str,
        role: str,
        seed: int,
    ) -> tuple[Array, list[str]]:
        """Returns a classifier's predictions [N,K] on a role as released, and their digests."""
        # One stage, or one recording, is the source of both forms: logits are marked as such
        form = [LOGITS] if self.releases_logits else []
        if self.classifiers.is_recorded(part):
            found, sources = recorded.prediction(
                self.classifiers.target,
                self.roles,
                role,
                seed,
            )
            return found, sources + form
        # Logits are stored, from which explained classes and probabilities follow
        logits = self.logits(part, role, seed)
        found = logits.array("logits")
        if not self.releases_logits:
            found = np.asarray(jax.nn.softmax(found))
        return found, [logits.digest, *form]

    def probabilities(self, released: Array) -> Array:
        """Returns released predictions [N,K] as probabilities."""
        if not self.releases_logits:
            return released
        return np.asarray(jax.nn.softmax(released))

    def explanation(
        self,
        name: str,
        role: str,
        seed: int,
        part: str = "target",
        summary: tuple[str, ...] = (),
    ) -> tuple[Array, list[str]]:
        """Returns explanations [N,h,w,c] of a role's predicted classes, and their digests.

        With a `summary` they are statistics of each map [N,1,1,T], and no map is kept.
        """
        settings = self.config["explanations"][name]
        target = self.classifiers.target
        if self.classifiers.is_recorded(part):
            return recorded.explanation(
                target,
                self.roles,
                self.stages,
                settings,
                role,
                seed,
            )
        # The predicted classes are explained: an attacker does not know the true ones
        logits = self.logits(part, role, seed)
        public = outputs.public_reference(settings)
        spec = self._spec(part, role, seed) | self.roles.spec(seed, [role, *public])
        spec |= {"explainer": plugins.complete(explain, settings)}
        # Classifiers draw alike, so that controls differ in nothing else. Many shadow models do
        # not: an attacker does not know the noise of the service.
        purpose = (role,)
        if summary:
            purpose = (role, part)
            spec |= {"summary": summary, "draws": part}

        def fill(create: Create) -> None:
            explainer = self.explainer(name, seed, part)
            if summary:
                explainer = outputs.summarised(explainer, summary)
            outputs.fill(
                create,
                explainer,
                self.classifiers.model(part).apply,
                self.classifiers.variables(part, seed),
                self.roles.images([role], seed),
                logits.array("logits").argmax(axis=-1),
                key(seed, "explain", *purpose),
            )

        label = f"{name} of {part} on {role}, seed {seed}"
        stage = self.stages.filled("explanation", label, spec, fill)
        return stage.array("explanation"), [stage.digest]

    def explainer(self, name: str, seed: int, part: str = "target") -> Explainer:
        """Returns the explainer of that name in the config, on its scale.

        Its reference is drawn from a public role, or from the classifier's own training set, of
        which it releases pixels.
        """
        settings = self.config["explanations"][name]
        reference = None
        if "reference" in settings:
            own = self.classifiers.settings(part)["roles"]
            reference = self.roles.images(outputs.public_reference(settings) or own, seed)
        return outputs.explainer(settings, reference)

    def answers(self, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the true and the predicted class per reported image, int [N] each."""
        label = self.classifiers.settings(part)["label"]
        reported = self.roles.labelled([self.roles.reported], seed)
        prediction, _ = self.prediction(part, self.roles.reported, seed)
        return reported.labels[label], np.argmax(prediction, axis=-1)

    def shapes(
        self,
        part: str,
        inputs: tuple[str, ...],
        images: jax.ShapeDtypeStruct,
    ) -> tuple[jax.ShapeDtypeStruct, list[tuple[int, ...]]]:
        """Returns the shapes of a classifier's predictions and of its maps, computing nothing."""
        if self.classifiers.is_recorded(part):
            sections = [self.config["explanations"][name] for name in inputs]
            return recorded.shapes(self.classifiers.target, sections, images)
        return _traced(self, part, inputs, images)

    def _spec(self, part: str, role: str, seed: int) -> dict[str, Any]:
        # What a classifier answers follows from its weights and from the images
        classifier = self.classifiers.identity(part, seed)
        return self.roles.spec(seed, [role]) | {"role": role, "classifier": classifier}


def _traced(
    service: Service,
    part: str,
    inputs: tuple[str, ...],
    images: jax.ShapeDtypeStruct,
) -> tuple[jax.ShapeDtypeStruct, list[tuple[int, ...]]]:
    """Returns the shapes of `Service.shapes` by tracing the model and the explainers."""
    # Networks and explanations are known by what determines their shapes
    settings = service.classifiers.settings(part)
    own = service.classifiers.own(part)
    network = {
        "model": settings.get("model"),
        "own": own and own.fingerprint,
        "classes": service.classifiers.classes(part),
        "images": images.shape,
    }

    def predicted() -> jax.ShapeDtypeStruct:
        model, variables = service.classifiers.abstract(part, images)
        return jax.eval_shape(model.apply, variables, images)

    def explained(name: str) -> tuple[int, ...]:
        model, variables = service.classifiers.abstract(part, images)
        explainer = service.explainer(name, service.config["seed"])
        return outputs.map_shape(explainer, model.apply, variables, images)

    maps = []
    for name in inputs:
        mapped = [network, service.config["explanations"][name]]
        maps.append(outputs.traced(mapped, functools.partial(explained, name)))
    return outputs.traced(network, predicted), maps
