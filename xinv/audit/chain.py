"""A chain of defences: what each is, what it learns, and what it does, in order.

    predictions, explanations -> defence 1 -> defence 2 -> … -> release

A defence learns from what those before it release about the defender's images. Its distortion is measured on images
that the defender holds back.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xinv import defences, plugins, train
from xinv.audit.stage import key, state_of
from xinv.defences.maps import calibrate
from xinv.store import Stage
from xinv.types import Array, Defence, InputError, Observation

if TYPE_CHECKING:
    from xinv.audit.release import Release

REFERENCES = ("match_distortion_of", "reuse_state_of")
"""Settings of a defence that name another: one of whose measured distortion it is, and one whose state it applies."""
_CHUNK = 1024  # examples read at once


class Link(NamedTuple):
    """One defence of a chain.

    Attributes:
      source: what the defence learns from and is applied to: one release of each image by those before it.
      name: of its section in the config.
    """

    source: "Release"
    name: str

    @property
    def label(self) -> str:
        """For people."""
        return self.release().label

    def release(self) -> "Release":
        """Returns the release by this defence and those before it."""
        return self.source.through(self.name)

    def instead(self, name: str) -> "Link":
        """Returns another defence in this place."""
        return Link(self.source, name)

    def settings(self) -> dict[str, Any]:
        """Returns its section; one that applies what another has learned states only what differs."""
        known = self.source.service.config["defences"]
        if self.name not in known:
            raise InputError(f"unknown defence {self.name!r}: the config has {', '.join(known) or 'none'}")
        own = known[self.name]
        if "reuse_state_of" not in own:
            return dict(own)
        if "train" not in known.get(own["reuse_state_of"], ()):
            allowed = ", ".join(other for other in known if "train" in known[other]) or "none"
            raise InputError(
                f"defence {self.name!r} has reuse_state_of {own['reuse_state_of']!r}: choose one of {allowed}"
            )
        return {**known[own["reuse_state_of"]], **own}

    def hyper(self, seed: int | None) -> dict[str, Any]:
        """Returns its factory's name and parameters.

        A distortion to match another defence's is measured; without a seed it is 1.
        """
        settings = self.settings()
        hyper = {name: value for name, value in settings.items() if name not in (*REFERENCES, "train")}
        hyper = plugins.complete(defences, hyper)
        if "match_distortion_of" not in settings:
            return hyper
        if seed is None:
            return hyper | {"mse": 1.0}
        other = self.instead(settings["match_distortion_of"])
        mse = float(distortion(self.source, other.release(), seed).mean(dtype=np.float64))
        if not mse:
            raise InputError(f"defence {self.name!r} is to match {other.name!r}, which leaves explanations as they are")
        return hyper | {"mse": mse}

    def build(self, seed: int | None) -> Defence:
        """Returns the defence."""
        settings, given = self.settings(), {}
        if "train" in settings:
            given = {"recipe": train.Recipe.stated(settings["train"])}
        return defences.build(**self.hyper(seed), given=given)

    def learned(self, seed: int) -> Stage | None:
        """Returns what the defence learned from the defender's images; None if it learns nothing."""
        settings, service = self.settings(), self.source.service
        if "reuse_state_of" in settings:
            return self.instead(settings["reuse_state_of"]).learned(seed)
        defence, hyper = self.build(seed), self.hyper(seed)
        if not defence.learns:
            return None
        role = service.config["defender"]["role"]
        observed, sources = self.source.observation(role, seed)
        spec = service.roles.spec(seed, [role]) | {
            "defence": {name: value for name, value in hyper.items() if name not in defence.releasing},
            "train": settings.get("train"),
            "sources": sources,
        }

        def fit(session: train.Session) -> dict[str, Any]:
            images = service.roles.images([role], seed)
            return defence.init(key(seed, "defence"), observed, images, session)

        return service.stages.trained("defence", f"{self.label}, seed {seed}", spec, fit)

    def check(self) -> Defence:
        """Returns the defence as the config states it, with nothing measured.

        Raises:
          InputError: its settings do not fit each other, or its factory.
        """
        name, settings = self.name, self.settings()
        own = self.source.service.config["defences"][name]
        if "match_distortion_of" in settings and "mse" in settings:
            raise InputError(f"defence {name!r} has mse and also match_distortion_of, which measures it: give one")
        if "reuse_state_of" in settings and "train" in own:
            raise InputError(f"defence {name!r} has train and also reuse_state_of, whose state it applies: give one")
        learns = plugins.takes(defences, "defence", settings["name"], "recipe")
        if learns != ("train" in settings):
            needs = "needs a training configuration: give train" if learns else "has train, but is not trained"
            raise InputError(f"defence {name!r} {needs}")
        defence = self.build(None)
        # One that applies what another has learned states nothing that it would have to learn for.
        unknown = sorted(set(own) - {*REFERENCES, *defence.releasing}) if "reuse_state_of" in own else ()
        if unknown:
            raise InputError(
                f"defence {name!r} has {unknown[0]}, which what {own['reuse_state_of']!r} has learned depends on: "
                f"it may state {', '.join(defence.releasing) or 'nothing'}"
            )
        return defence

    def referred(self, path: tuple[str, ...] = ()) -> dict[str, "Link"]:
        """Returns by name the defence and those it refers to, directly or through others."""
        if self.name in path:
            raise InputError(f"defences refer to each other in a circle: {' to '.join((*path, self.name))}")
        found, settings = {self.name: self}, self.settings()
        for kind in REFERENCES:
            if kind in settings:
                found |= self.instead(settings[kind]).referred((*path, self.name))
        return found


class DefenceChain(NamedTuple):
    """All defences of a release.

    Attributes:
      source: one release of each image before the first defence.
      names: of the defences, first to last.
    """

    source: "Release"
    names: tuple[str, ...]

    def links(self) -> list[Link]:
        """Returns each defence with what it learns from."""
        found, source = [], self.source
        for name in self.names:
            found.append(Link(source, name))
            source = source.through(name)
        return found

    def needed(self) -> list[Link]:
        """Returns each defence, and each that one of them refers to in its place."""
        return [one for link in self.links() for one in link.referred().values()]

    def learned(self, seed: int) -> dict[str, Stage]:
        """Returns what those of the defences learned that learn, by their labels."""
        found = {link.label: link.learned(seed) for link in self.links()}
        return {label: stage for label, stage in found.items() if stage}

    def applied(self, seed: int) -> tuple[Defence, Any]:
        """Returns all defences as one, and what they have learned."""
        steps = [(link.build(seed), state_of(link.learned(seed))) for link in self.links()]
        if len(steps) == 1:
            return steps[0]
        found, states = zip(*steps, strict=True)
        joined = {str(number): state for number, state in enumerate(states)}
        if any("calibration" in state for state in states):
            joined["calibration"] = self._calibration(seed)
        return defences.chain(*found), joined

    def spec(self, seed: int) -> dict[str, Any]:
        """Returns what determines the defences: their parameters, and the digests of what they have learned."""
        stages = [(link.learned(seed), link.hyper(seed)) for link in self.links()]
        *before, last = [{"state": learned and learned.digest, "settings": hyper} for learned, hyper in stages]
        return last | ({"before": before} if before else {})

    def check(self, observation: Observation, images: Any) -> None:
        """Finds, by the shapes of an observation and of images, that it cannot be released.

        Raises:
          InputError: a defence, or one that it refers to, has a wrong parameter or cannot treat these shapes.
        """
        for link in self.needed():
            link.check().check(observation, images)

    def _calibration(self, seed: int) -> Any:
        """Measures what the defender has before any defence, to which a whole chain is applied."""
        service = self.source.service
        observed, sources = self.source.observation(service.config["defender"]["role"], seed)
        label = f"{'+'.join(self.source.inputs)}, seed {seed}"
        spec = {"sources": sources}
        return state_of(service.stages.trained("calibration", label, spec, lambda _: calibrate(observed)))


def distortion(before: "Release", after: "Release", seed: int) -> np.ndarray:
    """Returns the mean squared change [N] from one release to another of each explanation held back, in maps' units."""
    service = before.service
    role = service.config["defender"]["held_out"]
    (original, first), (released, second) = before.observation(role, seed), after.observation(role, seed)
    spec = {"before": first, "after": second}
    compute = lambda: {"distortion": squared_change(original.explanation, released.explanation)}  # noqa: E731
    stage = service.stages.computed("distortion", f"{after.label} on {role}, seed {seed}", spec, compute)
    return stage.array("distortion")


def squared_change(original: Array, released: Array) -> np.ndarray:
    """Returns the mean squared difference per example [N], of arrays that are read in chunks."""
    changes = []
    for start in range(0, len(original), _CHUNK):
        part = slice(start, start + _CHUNK)
        change = np.asarray(original[part]) - np.asarray(released[part])
        changes.append(np.square(change).mean(axis=(1, 2, 3)))
    return np.concatenate(changes)
