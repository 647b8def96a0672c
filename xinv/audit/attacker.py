"""What attackers make of what the service releases: one arm per attack of the comparison.

    release (train_view) -> attack -> guesses of what is released (test_view) -> metrics

An **arm** is one attack of a config: its method, its inputs, the view that it is trained on, and
the view that it is tested on. Every arm is trained by the one recipe of `config.attack.train`, and
may read the guesses of another arm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv.audit.goals import ATTRIBUTE, GOALS, RECONSTRUCTION, Goal
from xinv.audit.method import PREDICTION, Method
from xinv.audit.release import Release, stack, stacked
from xinv.audit.results import Config
from xinv.audit.service import Service
from xinv.audit.stage import key, state_of
from xinv.store import Stage
from xinv.types import Array, InputError, Known, Observation

TRAIN_VIEW, TEST_VIEW = "train_view", "test_view"
"""The two views of an attack: what it is fitted to, and what it is shown of the reported images."""


class Arm(NamedTuple):
    """One attack: the section `config.arms[name]`."""

    service: Service
    name: str

    @property
    def settings(self) -> Config:
        """The arm's section."""
        return self.service.config["arms"][self.name]

    @property
    def explanations(self) -> tuple[str, ...]:
        """The explanations among its inputs."""
        known = self.service.config["explanations"]
        return tuple(name for name in self.settings["inputs"] if name in known)

    @property
    def others(self) -> tuple["Arm", ...]:
        """The arms whose guesses are among its inputs."""
        known, own = self.service.config["arms"], (PREDICTION, *self.explanations)
        names = [name for name in self.settings["inputs"] if name not in own]
        for name in names:
            if name not in known:
                allowed = ", ".join((PREDICTION, *self.service.config["explanations"], *known))
                raise InputError(f"arm {self.name!r} reads {name!r}: there is {allowed}")
        return tuple(Arm(self.service, name) for name in names)

    @property
    def method(self) -> Method:
        """The attack with its parameters."""
        return Method(
            self.service.config["attack"], self.settings["attack"], tuple(self.settings["inputs"])
        )

    @property
    def goal(self) -> Goal:
        """What it is after."""
        return GOALS[self.method.build().goal]

    @property
    def judges(self) -> tuple[Goal, ...]:
        """The goals that its guesses are scored by."""
        if not self.settings["scored"]:
            return ()
        if self.rebuilds and self.service.config["attributes"]:
            return self.goal, ATTRIBUTE
        return (self.goal,)

    @property
    def rebuilds(self) -> bool:
        """Tells if its guesses are images that are scored."""
        return self.settings["scored"] and self.goal is RECONSTRUCTION

    def view(self, name: str) -> "View":
        """Returns what it is trained on, or tested on."""
        return View(self, name)

    def learned(self, seed: int) -> Stage:
        """Returns the state of the attack, from what the attacker holds."""
        settings, service = self.settings[TRAIN_VIEW], self.service
        roles, known = settings["roles"], self.settings["known"]
        # A model that is trained jointly with its inversion has the attack's state
        if not roles:
            return service.classifiers.classifier(settings["prediction"], seed)

        view = self.view(TRAIN_VIEW)
        seen = [view.observation(role, seed, settings["releases"]) for role in roles]
        observed, sources = zip(*seen, strict=True)
        spec = service.roles.spec(seed, roles) | {
            "settings": self.method.complete(),
            "train": service.config["attack"]["train"],
            "reads": PREDICTION in self.settings["inputs"],
            "sources": sources,
            "known": service.classifiers.identity(known, seed) if known else None,
        }

        def fit(session: Any) -> dict[str, Any]:
            truth = self.goal.secret(service, settings["prediction"], roles, seed)
            attack, held = self.method.build(), self._held(seed)
            return attack.fit(key(seed, "attack"), _join(observed), truth, session=session, **held)

        return service.stages.trained("attack", f"{self.name}, seed {seed}", spec, fit)

    def guess(self, view: str, role: str, seed: int) -> Stage:
        """Returns what the attack makes of a role's images."""
        learned = self.learned(seed)
        observed, sources = self.view(view).observation(role, seed)
        spec = {"attack": learned.digest, "settings": self.method.complete(), "sources": sources}

        def compute() -> dict[str, Array]:
            state = state_of(learned)
            state.pop("classifier", None)  # of a model that is trained jointly with its inversion
            return {"guess": self.method.build().predict(state, observed, **self._held(seed))}

        return self.service.stages.computed(
            "guess", f"{self.name} on {role}, seed {seed}", spec, compute
        )

    def guessed(self, seed: int) -> Stage:
        """Returns the guesses of the examples that its goal reports."""
        role = self.goal.evaluated(self.service, self.settings[TEST_VIEW]["prediction"])
        return self.guess(TEST_VIEW, role, seed)

    def check(self, image: Sequence[int], above: tuple[str, ...] = ()) -> tuple[int, ...]:
        """Returns the shape of one guess, of images [H,W,C], without computing anything.

        Raises:
          InputError: a name does not exist, a shape does not fit, or arms read each other in a
            circle.
        """
        if self.name in above:
            circle = " reads ".join((*above, self.name))
            raise InputError(f"arms read each other in a circle: {circle}")
        images = jax.ShapeDtypeStruct((2, *image), np.float32)
        attack, known, held = self.method.build(), self.settings["known"], {}
        if "known" in attack.needs:
            if not known:
                raise InputError(
                    f"arm {self.name!r} needs a model it can differentiate: "
                    "known is empty, name a classifier"
                )
            held = {"known": self.service.classifiers.abstract(known, images)}
        below = (*above, self.name)
        self.view(TEST_VIEW).shapes(images, below)
        return attack.check(self.view(TRAIN_VIEW).shapes(images, below), images, **held)

    def _held(self, seed: int) -> dict[str, Any]:
        """What the attacker holds beside its observations, as far as the attack needs it."""
        if "known" not in self.method.build().needs:
            return {}
        classifiers, part = self.service.classifiers, self.settings["known"]
        return {"known": Known(classifiers.model(part), classifiers.variables(part, seed))}


class View(NamedTuple):
    """What an attack is given of some images: a release, and what other arms guess.

    Attributes:
      arm: the attack.
      name: TRAIN_VIEW or TEST_VIEW.
    """

    arm: Arm
    name: str

    @property
    def release(self) -> Release:
        """What it is given of the service."""
        settings = self.arm.settings[self.name]
        return Release(
            self.arm.service,
            self.arm.explanations,
            settings["prediction"],
            settings["explanation"],
            tuple(settings["defences"]),
            settings["queries"],
        )

    def observation(self, role: str, seed: int, releases: int = 1) -> tuple[Observation, list[str]]:
        """Returns all that it is given of a role's images, and the digests of its sources."""
        release = self.release._replace(releases=releases)
        observed, sources = release.observation(role, seed)
        guesses = [other.guess(self.name, role, seed) for other in self.arm.others]
        maps = [] if observed.explanation is None else [observed.explanation]
        maps += [stage.array("guess") for stage in guesses]
        explanation = stack(maps) if maps else None
        return Observation(observed.prediction, explanation), sources + [
            one.digest for one in guesses
        ]

    def shapes(self, images: jax.ShapeDtypeStruct, above: tuple[str, ...]) -> Observation:
        """Returns the shapes of what it is given of images, without computing anything."""
        release = self.release
        own = release.maps(images)
        prediction, _ = self.arm.service.shapes(release.prediction, (), images)
        release.chain.check(Observation(prediction, own), images)

        guesses = [other.check(images.shape[1:], above) for other in self.arm.others]
        released = [] if own is None else [own.shape[1:]]
        seen = Observation(prediction, stacked(released + guesses))

        # Several releases of each image are [N,releases,…]
        several = self.arm.settings[self.name].get("releases", 1)
        if several == 1:
            return seen

        def repeated(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((one.shape[0], several, *one.shape[1:]), one.dtype)

        return jax.tree.map(repeated, seen)


def arms(service: Service) -> list[Arm]:
    """Returns every arm, in the order of the config."""
    return [Arm(service, name) for name in service.config["arms"]]


def _join(observations: Sequence[Observation]) -> Observation:
    if len(observations) == 1:
        return observations[0]
    predictions, explanations = zip(*observations, strict=True)
    joined = None if explanations[0] is None else np.concatenate(explanations)
    return Observation(np.concatenate(predictions), joined)
