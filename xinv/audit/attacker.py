"""What attackers make of what the service releases: one arm per attack of the comparison.

    released (learns) -> attack -> guesses of what is released (sees) -> metrics

Every arm is trained by the one recipe of `config.attack.train`. An arm may read what another arm guesses.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from xinv import attacks, plugins, store, train
from xinv.audit.release import Released, stack, state_of
from xinv.audit.results import Config
from xinv.audit.service import REPORTED, Unit, abstract, key, map_shape, save_state
from xinv.store import Stage
from xinv.types import Attack, InputError, Known, Observation

PREDICTION = "prediction"
LEARNS, SEES = "learns", "sees"
"""The two views of an attack: what it is fitted to, and what it is shown of the reported images."""


class Arm(NamedTuple):
    """One attack: the section `config.arms[name]` of a unit."""

    unit: Unit
    name: str

    @property
    def settings(self) -> Config:
        """The arm's section."""
        return self.unit.config["arms"][self.name]

    @property
    def explanations(self) -> tuple[str, ...]:
        """The explanations it reads."""
        return tuple(name for name in self.settings["reads"] if name in self.unit.config["explanations"])

    @property
    def others(self) -> tuple["Arm", ...]:
        """The arms whose guesses it reads."""
        own = (PREDICTION, *self.explanations)
        others = [name for name in self.settings["reads"] if name not in own]
        known = self.unit.config["arms"]
        for name in others:
            if name not in known:
                allowed = ", ".join((PREDICTION, *self.unit.config["explanations"], *known))
                raise InputError(f"arm {self.name!r} reads {name!r}: there is {allowed}")
        return tuple(Arm(self.unit, name) for name in others)

    @property
    def inputs(self) -> str:
        """How it reads: the encoder of a trained attack, or the attack's name."""
        stated, _ = self._hyper()
        return stated.get("encoder", stated["name"])

    @property
    def explainer(self) -> str | None:
        """What it reads beside predictions, for people."""
        return "+".join(name for name in self.settings["reads"] if name != PREDICTION) or None

    @property
    def defended(self) -> str | None:
        """The defences of what it is shown, for people."""
        return "+".join(self.settings[SEES]["defences"]) or None

    def released(self, view: str) -> Released:
        """What it learns from, or sees, of the service."""
        settings = self.settings[view]
        return Released(
            self.unit,
            self.explanations,
            settings["prediction"],
            settings["explanation"],
            tuple(settings["defences"]),
            settings["queries"],
        )

    def observation(self, view: str, role: str, seed: int, releases: int = 1) -> tuple[Observation, list[str]]:
        """All that it learns from, or sees, of a role's images, and the digests of the stages that this comes from."""
        observed, sources = self.released(view)._replace(releases=releases).observation(role, seed)
        guesses = [other.guess(view, role, seed) for other in self.others]
        maps = [] if observed.explanation is None else [observed.explanation]
        maps += [stage.array("guess") for stage in guesses]
        sources = sources + [stage.digest for stage in guesses]
        return Observation(observed.prediction, stack(maps) if maps else None), sources

    def attacker(self) -> Attack:
        """The attack; arms differ in what they read and in their method, never in how they are trained."""
        reads = self.settings["reads"]
        kinds = {PREDICTION: PREDICTION in reads, "explanation": bool(set(reads) - {PREDICTION})}
        recipe = train.Recipe.stated(self.unit.config["attack"]["train"])
        given = {"inputs": tuple(kind for kind, there in kinds.items() if there), "recipe": recipe}
        stated, offered = self._hyper()
        return attacks.build(**stated, given=offered | given)

    def _hyper(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The method's parameters as stated, and those of the attack section that it takes where it has them.

        An arm changes the attack section's parameters; if it names another method, that one states its own.
        """
        own, common = dict(self.settings["attack"]), dict(self.unit.config["attack"])
        del common["train"]
        if "name" not in own:
            return common | own, {}
        return own, {name: value for name, value in common.items() if name not in ("name", *own)}

    def _method(self) -> dict[str, Any]:
        stated, offered = self._hyper()
        return plugins.complete(attacks, offered | stated)

    def learned(self, seed: int) -> Stage:
        """The state of the attack, from what the attacker holds."""
        settings = self.settings[LEARNS]
        if not settings["roles"]:
            return self.unit.classifier(settings["prediction"], seed)
        seen = [self.observation(LEARNS, role, seed, settings["releases"]) for role in settings["roles"]]
        observed, sources = zip(*seen, strict=True)
        known = self.settings["known"]
        spec = self.unit.spec(seed, settings["roles"]) | {
            "settings": self._method(),
            "train": self.unit.config["attack"]["train"],
            "reads": PREDICTION in self.settings["reads"],
            "sources": sources,
            "known": self.unit.classifier(known, seed).digest if known else None,
        }

        def build(folder: Path, session: train.Session) -> None:
            attack, images = self.attacker(), self.unit.images(settings["roles"], seed)
            held = {"known": self.unit.known(known, seed)} if "known" in attack.needs else {}
            state = attack.fit(key(seed, "attack"), _join(observed), images, session=session, **held)
            save_state(folder, state)

        return self.unit.stage("attack", f"{self.name}, seed {seed}", spec, build)

    def guess(self, view: str, role: str, seed: int) -> Stage:
        """What the attack makes of a role's images."""
        learned, (observed, sources) = self.learned(seed), self.observation(view, role, seed)
        spec = {"attack": learned.digest, "settings": self._method(), "sources": sources}

        def build(folder: Path, session: train.Session) -> None:
            del session
            attack, state = self.attacker(), state_of(learned)
            if "known" in attack.needs:
                state = {**state, "known": self.unit.known(self.settings["known"], seed)}
            store.save_array(folder / "guess.npy", attack.predict(state, observed))

        return self.unit.stage("guess", f"{self.name} on {role}, seed {seed}", spec, build)

    def reconstruction(self, seed: int) -> Stage:
        """The guesses of the reported images."""
        return self.guess(SEES, REPORTED, seed)

    def check(self, image: Sequence[int], above: tuple[str, ...] = ()) -> tuple[int, ...]:
        """The shape of one guess, of images [H,W,C], without computing anything.

        Raises:
          InputError: a name does not exist, a shape does not fit, or arms read each other in a circle.
        """
        if self.name in above:
            raise InputError(f"arms read each other in a circle: {' reads '.join((*above, self.name))}")
        images = jax.ShapeDtypeStruct((2, *image), np.float32)
        attack = self.attacker()
        if "known" in attack.needs and not self.settings["known"]:
            raise InputError(f"arm {self.name!r} needs a model it can differentiate: known is empty, name a classifier")
        held = {"known": abstract(self.unit, self.settings["known"], images)} if "known" in attack.needs else {}
        shapes = {view: self._shapes(view, images, (*above, self.name)) for view in (LEARNS, SEES)}
        return attack.check(shapes[LEARNS], images, **held)

    def maps(self, view: str, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
        """The shape of the explanations that are released in a view."""
        released = self.released(view)
        if not released.explains:
            return None
        explained = abstract(self.unit, released.explanation, images)
        explainers = (self.unit.explainer(name, self.unit.seeds[0]) for name in self.explanations)
        return _stacked([map_shape(one, explained.model.apply, explained.variables, images) for one in explainers])

    def _shapes(self, view: str, images: jax.ShapeDtypeStruct, above: tuple[str, ...]) -> Observation:
        released, own = self.released(view), self.maps(view, images)
        prediction = _logits(abstract(self.unit, released.prediction, images), images)
        released.check(Observation(prediction, own), images)
        guesses = [other.check(images.shape[1:], above) for other in self.others]
        seen = Observation(prediction, _stacked(([] if own is None else [own.shape[1:]]) + guesses))
        several = self.settings[LEARNS]["releases"] if view == LEARNS else 1
        return seen if several == 1 else jax.tree.map(functools.partial(_repeated, several), seen)


def arms(unit: Unit) -> list[Arm]:
    """Every arm of a unit, in the order of its config."""
    return [Arm(unit, name) for name in unit.config["arms"]]


def _join(observations: Sequence[Observation]) -> Observation:
    if len(observations) == 1:
        return observations[0]
    predictions, explanations = zip(*observations, strict=True)
    return Observation(np.concatenate(predictions), None if explanations[0] is None else np.concatenate(explanations))


def _logits(known: Known, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(known.model.apply, known.variables, images)


def _repeated(releases: int, one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((one.shape[0], releases, *one.shape[1:]), one.dtype)


def _stacked(shapes: Sequence[tuple[int, ...]]) -> jax.ShapeDtypeStruct | None:
    """The shape of `released.stack` of two maps of each of these shapes."""
    maps = [jax.ShapeDtypeStruct((2, *shape), np.float32) for shape in shapes]
    return jax.eval_shape(stack, maps) if maps else None
