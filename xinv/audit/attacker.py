"""Attacks on the releases of a service: one arm per attack of the comparison.

    release (train_view) -> attack -> guesses about releases (test_view) -> metrics

An **arm** is one attack of a config: its method, its inputs, and the views of its training and of
its test. Every arm is trained by the one recipe of `config.attack.train`, and
may read the guesses of another arm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv.audit import holdings
from xinv.audit.form import LOGITS
from xinv.audit.goals import GOALS, MEMBERSHIP, RECONSTRUCTION, Goal
from xinv.audit.goals.membership import membership_spec
from xinv.audit.method import HELD, PREDICTION, Method
from xinv.audit.results import Config
from xinv.audit.service import Service
from xinv.audit.stage import key, state_of
from xinv.audit.view import TEST_VIEW, TRAIN_VIEW, View
from xinv.store import Stage
from xinv.types import Array, InputError, Observation


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
        own = (PREDICTION, *HELD, *self.explanations)
        names = [name for name in self.settings["inputs"] if name not in own]
        _require_arms(self, names)
        return tuple(Arm(self.service, name) for name in names)

    @property
    def method(self) -> Method:
        """The attack with its parameters."""
        return Method(
            self.service.config["attack"],
            self.settings["attack"],
            tuple(self.settings["inputs"]),
            self.service.releases_logits,
        )

    @property
    def goal(self) -> Goal:
        """The goal of its method."""
        return GOALS[self.method.build().goal]

    @property
    def rebuilds(self) -> bool:
        """Tells if its guesses are images that are evaluated."""
        return self.settings["evaluate"] and self.goal is RECONSTRUCTION

    def view(self, name: str) -> View:
        """Returns what it is trained on, or tested on."""
        return View(self, name)

    @property
    def evaluated(self) -> str:
        """The role whose examples are reported for its goal."""
        return self.goal.evaluated(self.service, self.view(TEST_VIEW).members[0])

    def learned(self, seed: int) -> Stage:
        """Returns the state of the attack, from what the attacker holds."""
        settings = self.settings[TRAIN_VIEW]
        service = self.service
        view = self.view(TRAIN_VIEW)
        attack = self.method.build()
        known = self.settings["known"]
        # Many shadow models are asked about the very examples that are reported
        roles = [self.evaluated] if attack.paired else settings["roles"]
        # A model that is trained jointly with its inversion has the attack's state
        if not roles:
            return service.classifiers.classifier(settings["prediction"], seed)

        seen = [view.observation(role, seed, settings["releases"]) for role in roles]
        observed, sources = zip(*seen, strict=True)
        spec = service.roles.spec(seed, roles) | {
            "settings": self.method.complete(),
            "train": service.config["attack"]["train"],
            "inputs": self.method.kinds,
            "sources": sources,
            "known": service.classifiers.identity(known, seed) if known else None,
        }
        if self.goal is MEMBERSHIP:
            spec["members"] = [membership_spec(service, part, seed) for part in view.members]
        spec |= holdings.spec(self, TRAIN_VIEW, seed)

        # Paired attacks have the truth of each shadow model, others of one
        def fit(session: Any) -> dict[str, Any]:
            truths = [self.goal.secret(service, part, roles, seed) for part in view.members]
            truth = np.stack(truths, axis=1) if attack.paired else truths[0]
            held = holdings.held(self, TRAIN_VIEW, roles, seed)
            return attack.fit(
                key(seed, "attack"),
                _join(observed),
                truth,
                session=session,
                **held,
            )

        # Kept under the hash of all that the attacker learned from
        label = f"{self.name}, seed {seed}"
        return service.stages.trained("attack", label, spec, fit)

    def guess(self, view: str, role: str, seed: int) -> Stage:
        """Returns what the attack makes of a role's images."""
        learned = self.learned(seed)
        observed, sources = self.view(view).observation(role, seed)
        spec = {"attack": learned.digest, "settings": self.method.complete(), "sources": sources}
        spec["inputs"] = self.method.kinds
        spec |= holdings.spec(self, view, seed)
        # What is kept is part of the stage's identity
        attack = self.method.build()
        if attack.parts is not None:
            spec["kept"] = ("guess", "parts")

        def compute() -> dict[str, Array]:
            state = state_of(learned)
            # A joint training has left the target among the attack's state
            state.pop("classifier", None)
            held = holdings.held(self, view, [role], seed)
            if attack.parts is None:
                return {"guess": attack.predict(state, observed, **held)}
            # The parts tell the spread over restarts; their mean is the guess
            parts = attack.parts(state, observed, **held)
            return {"guess": parts.mean(axis=0), "parts": parts}

        label = f"{self.name} on {role}, seed {seed}"
        return self.service.stages.computed("guess", label, spec, compute)

    def guessed(self, seed: int) -> Stage:
        """Returns the guesses of the examples that its goal reports."""
        return self.guess(TEST_VIEW, self.evaluated, seed)

    def check(
        self,
        image: Sequence[int],
        above: tuple[str, ...] = (),
    ) -> tuple[int, ...]:
        """Returns the shape of one guess, of images [H,W,C], without computing anything.

        Raises:
          InputError: a name does not exist, a shape does not fit, or arms read each other in a
            circle.
        """
        if self.name in above:
            circle = " reads ".join((*above, self.name))
            raise InputError(f"arms read each other in a circle: {circle}")
        images = jax.ShapeDtypeStruct((2, *image), np.float32)
        held = holdings.shapes(self, images)
        below = (*above, self.name)
        self.view(TEST_VIEW).shapes(images, below)
        trained = self.view(TRAIN_VIEW).shapes(images, below)
        return self.method.build().check(trained, images, **held)


def _require_arms(arm: Arm, names: Sequence[str]) -> None:
    """Raises InputError for an input that is neither an explanation nor an arm."""
    config = arm.service.config
    for name in names:
        if name not in config["arms"]:
            allowed = ", ".join((PREDICTION, *HELD, *config["explanations"], *config["arms"]))
            raise InputError(f"arm {arm.name!r} reads {name!r}: there is {allowed}")


def arms(service: Service) -> list[Arm]:
    """Returns every arm, in the order of the config."""
    return [Arm(service, name) for name in service.config["arms"]]


def parts(service: Service) -> tuple[str, ...]:
    """Returns the names of the classifiers of a run: those that attacks and metrics need."""
    found = ["target"]
    config = service.config
    if any(arm.rebuilds for arm in arms(service)):
        found.append("evaluation")
    if config["arms"]:
        found += [*config["shadows"], *config["attributes"]]
    return tuple(found)


def unread(config: Config) -> list[str]:
    """Returns paths of a config that no arm reads, nor anything below them."""
    methods = []
    rebuilds = False
    logits = config["service"]["prediction"] == LOGITS
    for arm in config["arms"].values():
        method = Method(config["attack"], arm["attack"], tuple(arm["inputs"]), logits)
        methods.append(method)
        rebuilds |= arm["evaluate"] and method.build().goal == RECONSTRUCTION.name
    found = []
    for name in config["attack"]:
        if not any(method.reads(name) for method in methods):
            found.append(f"attack.{name}")
    # Reconstructions alone are evaluated as images
    if not rebuilds:
        found += ["evaluation", *(f"metrics.{group}" for group in RECONSTRUCTION.metrics)]
    return found


def _join(observations: Sequence[Observation]) -> Observation:
    if len(observations) == 1:
        return observations[0]
    predictions, explanations = zip(*observations, strict=True)
    joined = None if explanations[0] is None else np.concatenate(explanations)
    return Observation(np.concatenate(predictions), joined)
