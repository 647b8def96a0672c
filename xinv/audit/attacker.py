"""What attackers make of what the service releases: one arm per attack of the comparison.

    release (learns) -> attack -> guesses of what is released (sees) -> metrics

An arm is one attack with what it reads, learns from and is shown. Every arm is trained by the one recipe of
`config.attack.train`, and may read what another arm guesses.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import attacks, plugins, train
from xinv.audit.goals import GOALS, RECONSTRUCTION, Goal
from xinv.audit.release import Release, stack, stacked
from xinv.audit.results import Config
from xinv.audit.service import Service
from xinv.audit.stage import key, state_of
from xinv.store import Stage
from xinv.types import Array, Attack, InputError, Observation

PREDICTION = "prediction"
LEARNS, SEES = "learns", "sees"
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
        """The explanations it reads."""
        return tuple(name for name in self.settings["reads"] if name in self.service.config["explanations"])

    @property
    def others(self) -> tuple["Arm", ...]:
        """The arms whose guesses it reads."""
        own = (PREDICTION, *self.explanations)
        others = [name for name in self.settings["reads"] if name not in own]
        known = self.service.config["arms"]
        for name in others:
            if name not in known:
                allowed = ", ".join((PREDICTION, *self.service.config["explanations"], *known))
                raise InputError(f"arm {self.name!r} reads {name!r}: there is {allowed}")
        return tuple(Arm(self.service, name) for name in others)

    def description(self) -> dict[str, str | None]:
        """Returns the fields of its rows: goal, encoder or method, what it reads beside predictions, and defences."""
        stated, _ = self.hyper()
        explainer = "+".join(name for name in self.settings["reads"] if name != PREDICTION)
        return {
            "goal": self.attack().goal,
            "inputs": stated.get("encoder", stated["name"]),
            "explainer": explainer or None,
            "defence": "+".join(self.settings[SEES]["defences"]) or None,
        }

    def release(self, view: str) -> Release:
        """Returns what it learns from, or sees, of the service."""
        settings = self.settings[view]
        return Release(
            self.service,
            self.explanations,
            settings["prediction"],
            settings["explanation"],
            tuple(settings["defences"]),
            settings["queries"],
        )

    def observation(self, view: str, role: str, seed: int, releases: int = 1) -> tuple[Observation, list[str]]:
        """Returns all that it learns from, or sees, of a role's images, and the digests of where this comes from."""
        observed, sources = self.release(view)._replace(releases=releases).observation(role, seed)
        guesses = [other.guess(view, role, seed) for other in self.others]
        maps = [] if observed.explanation is None else [observed.explanation]
        maps += [stage.array("guess") for stage in guesses]
        sources = sources + [stage.digest for stage in guesses]
        return Observation(observed.prediction, stack(maps) if maps else None), sources

    def attack(self) -> Attack:
        """Returns the attack; arms differ in what they read and in their method, never in how they are trained."""
        reads = self.settings["reads"]
        kinds = {PREDICTION: PREDICTION in reads, "explanation": bool(set(reads) - {PREDICTION})}
        recipe = train.Recipe.stated(self.service.config["attack"]["train"])
        given = {"inputs": tuple(kind for kind, there in kinds.items() if there), "recipe": recipe}
        stated, offered = self.hyper()
        return attacks.build(**stated, given=offered | given)

    def hyper(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the method's parameters as stated, and those that the attack section offers.

        An arm changes the attack section's parameters; if it names another method, that one states its own, and takes
        of the section's what it has parameters for.
        """
        own, common = dict(self.settings["attack"]), dict(self.service.config["attack"])
        del common["train"]
        if "name" not in own:
            return common | own, {}
        return own, {name: value for name, value in common.items() if name not in ("name", *own)}

    def learned(self, seed: int) -> Stage:
        """Returns the state of the attack, from what the attacker holds."""
        settings, service = self.settings[LEARNS], self.service
        if not settings["roles"]:
            return service.classifiers.classifier(settings["prediction"], seed)
        seen = [self.observation(LEARNS, role, seed, settings["releases"]) for role in settings["roles"]]
        observed, sources = zip(*seen, strict=True)
        known = self.settings["known"]
        spec = service.roles.spec(seed, settings["roles"]) | {
            "settings": self._method(),
            "train": service.config["attack"]["train"],
            "reads": PREDICTION in self.settings["reads"],
            "sources": sources,
            "known": service.classifiers.identity(known, seed) if known else None,
        }

        def fit(session: train.Session) -> dict[str, Any]:
            truth = self.goal.secret(service, settings["prediction"], settings["roles"], seed)
            attack_key = key(seed, "attack")
            return self.attack().fit(attack_key, _join(observed), truth, session=session, **self._held(seed))

        return service.stages.trained("attack", f"{self.name}, seed {seed}", spec, fit)

    def guess(self, view: str, role: str, seed: int) -> Stage:
        """Returns what the attack makes of a role's images."""
        learned, (observed, sources) = self.learned(seed), self.observation(view, role, seed)
        spec = {"attack": learned.digest, "settings": self._method(), "sources": sources}

        def compute() -> dict[str, Array]:
            state = state_of(learned)
            state.pop("classifier", None)  # of a model that is trained jointly with its inversion
            return {"guess": self.attack().predict(state, observed, **self._held(seed))}

        return self.service.stages.computed("guess", f"{self.name} on {role}, seed {seed}", spec, compute)

    @property
    def goal(self) -> Goal:
        """What it is after."""
        return GOALS[self.attack().goal]

    @property
    def rebuilds(self) -> bool:
        """Tells if its guesses are images that are scored."""
        return self.settings["scored"] and self.goal is RECONSTRUCTION

    def guessed(self, seed: int) -> Stage:
        """Returns the guesses of the examples that its goal reports."""
        role = self.goal.evaluated(self.service, self.settings[SEES]["prediction"])
        return self.guess(SEES, role, seed)

    def check(self, image: Sequence[int], above: tuple[str, ...] = ()) -> tuple[int, ...]:
        """Returns the shape of one guess, of images [H,W,C], without computing anything.

        Raises:
          InputError: a name does not exist, a shape does not fit, or arms read each other in a circle.
        """
        if self.name in above:
            raise InputError(f"arms read each other in a circle: {' reads '.join((*above, self.name))}")
        images = jax.ShapeDtypeStruct((2, *image), np.float32)
        attack, known, held = self.attack(), self.settings["known"], {}
        if "known" in attack.needs:
            if not known:
                raise InputError(
                    f"arm {self.name!r} needs a model it can differentiate: known is empty, name a classifier"
                )
            held = {"known": self.service.classifiers.abstract(known, images)}
        shapes = {view: self._shapes(view, images, (*above, self.name)) for view in (LEARNS, SEES)}
        return attack.check(shapes[LEARNS], images, **held)

    def maps(self, view: str, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
        """Returns the shape of the explanations that are released in a view."""
        release = self.release(view)
        if not release.explains:
            return None
        return stacked(self.service.shapes(release.explanation, release.inputs, images)[1])

    def _method(self) -> dict[str, Any]:
        stated, offered = self.hyper()
        return plugins.complete(attacks, offered | stated)

    def _held(self, seed: int) -> dict[str, Any]:
        """What the attacker holds beside its observations, as far as the attack needs it."""
        if "known" not in self.attack().needs:
            return {}
        return {"known": self.service.classifiers.known(self.settings["known"], seed)}

    def _shapes(self, view: str, images: jax.ShapeDtypeStruct, above: tuple[str, ...]) -> Observation:
        release, own = self.release(view), self.maps(view, images)
        prediction, _ = self.service.shapes(release.prediction, (), images)
        release.chain.check(Observation(prediction, own), images)
        guesses = [other.check(images.shape[1:], above) for other in self.others]
        seen = Observation(prediction, stacked(([] if own is None else [own.shape[1:]]) + guesses))
        several = self.settings[LEARNS]["releases"] if view == LEARNS else 1
        return seen if several == 1 else jax.tree.map(functools.partial(_repeated, several), seen)


def arms(service: Service) -> list[Arm]:
    """Returns every arm, in the order of the config."""
    return [Arm(service, name) for name in service.config["arms"]]


def _join(observations: Sequence[Observation]) -> Observation:
    if len(observations) == 1:
        return observations[0]
    predictions, explanations = zip(*observations, strict=True)
    return Observation(np.concatenate(predictions), None if explanations[0] is None else np.concatenate(explanations))


def _repeated(releases: int, one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((one.shape[0], releases, *one.shape[1:]), one.dtype)
