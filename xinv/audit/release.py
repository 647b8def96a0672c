"""What leaves the service: predictions and explanations, through the defences.

    predictions, explanations -> defence 1 -> defence 2 -> … -> release

A defence learns from what the one before it releases about the defender's images. What it does to an explanation is
measured on images that the defender holds back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv import defences, plugins, store, train
from xinv.audit.results import Config
from xinv.audit.service import Unit, key, save_state
from xinv.defences.maps import describe
from xinv.store import Stage
from xinv.types import Array, Defence, InputError, Observation

REFERENCES = ("match", "trained")
"""Settings of a defence that name another: one of whose measured distortion it is, and one whose state it applies."""
NONE = "none"
"""In the place of an explained model: nothing is explained."""
_CHUNK = 1024  # examples read at once


class Released(NamedTuple):
    """What someone sees of the images of a role.

    Attributes:
      unit: whose classifiers and explanations.
      reads: names of explanations, stacked as channels.
      prediction: the classifier whose predictions are seen.
      explanation: the classifier that is explained, or NONE.
      defences: names, first to last.
      queries: independent releases of every image, of which the mean is seen.
      releases: independent such means of every image; of more than one the observations are [N,releases,…], where
        there are defences.
    """

    unit: Unit
    reads: tuple[str, ...]
    prediction: str = "target"
    explanation: str = "target"
    defences: tuple[str, ...] = ()
    queries: int = 1
    releases: int = 1

    def observation(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        """What is seen of a role's images, and the digests of the stages it comes from."""
        if not self.defences:
            return self._raw(role, seed)
        stage = self.stage(role, seed)
        explanation = stage.array("explanation") if self.explains else None
        return Observation(stage.array("prediction"), explanation), [stage.digest]

    @property
    def explains(self) -> bool:
        """Whether explanations are seen."""
        return bool(self.reads) and self.explanation != NONE

    def _raw(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        logits = self.unit.logits(self.prediction, role, seed)
        prediction = np.asarray(jax.nn.softmax(logits.array("logits")))
        if not self.explains:
            return Observation(prediction), [logits.digest]
        found = [self.unit.explanation(name, role, seed, self.explanation) for name in self.reads]
        maps = stack([stage.array("explanation") for stage in found])
        return Observation(prediction, maps), [logits.digest, *(stage.digest for stage in found)]

    def stage(self, role: str, seed: int) -> Stage:
        """A role's images as the defences release them; of several releases each passes through all of them anew."""
        observed, sources = self._replace(defences=()).observation(role, seed)
        spec = self.described(seed) | {"sources": sources, "queries": self.queries, "releases": self.releases}
        spec |= {"draws as": self.defences[-1]}

        def build(folder: Path, session: train.Session) -> None:
            del session
            several = () if self.releases == 1 else (self.releases,)

            def file(name: str, part: Array | None) -> np.ndarray | None:
                shape = () if part is None else (len(part), *several, *part.shape[1:])
                return None if part is None else store.create_array(folder / f"{name}.npy", shape, np.float32)

            out = Observation(*map(file, Observation._fields, observed))
            release_key = key(seed, "release", self.defences[-1], role)
            keys = jax.random.split(release_key, self.releases) if several else [release_key]
            defence, state = self.applied(seed)
            for number, one in enumerate(keys):
                rows = (slice(None), number) if several else ...
                part = Observation(*(array if array is None else array[rows] for array in out))
                defences.release(defence, state, observed, one, queries=self.queries, out=part)
            for array in jax.tree.leaves(out):
                array.flush()

        return self.unit.stage("release", f"{self.label} on {role}, seed {seed}", spec, build)

    def learned(self, seed: int) -> Stage | None:
        """The state of the last defence, learned from the defender's images; None if it learns nothing."""
        settings = self.settings()
        if "trained" in settings:
            return self._instead(settings["trained"]).learned(seed)
        defence, hyper = self.defence(seed), self.hyper(seed)
        if not defence.learns:
            return None
        role = self.unit.config["defender"]["role"]
        observed, sources = self.before().observation(role, seed)
        spec = self.unit.spec(seed, [role]) | {
            "defence": {name: value for name, value in hyper.items() if name not in defence.releasing},
            "train": settings.get("train"),
            "sources": sources,
        }

        def build(folder: Path, session: train.Session) -> None:
            images = self.unit.images([role], seed)
            state = defence.init(key(seed, "defence"), observed, images, session)
            save_state(folder, state)

        return self.unit.stage("defence", f"{self.label}, seed {seed}", spec, build)

    def defence(self, seed: int) -> Defence:
        """The last defence."""
        return defences.build(**self.hyper(seed), given=self._given())

    def prefixes(self) -> list["Released"]:
        """The release after the first defence, after the first two, and so on to all."""
        return [self._replace(defences=self.defences[: count + 1]) for count in range(len(self.defences))]

    def applied(self, seed: int) -> tuple[Defence, Any]:
        """All defences as one, and what they have learned."""
        steps = [(part.defence(seed), state_of(part.learned(seed))) for part in self.prefixes()]
        if len(steps) == 1:
            return steps[0]
        found, states = zip(*steps, strict=True)
        seen = {"seen": self._seen(seed)} if any("seen" in state for state in states) else {}
        return defences.chain(*found), {str(number): state for number, state in enumerate(states)} | seen

    def _seen(self, seed: int) -> Any:
        """What the defender's images are like before any defence, which a whole chain is applied to."""
        role = self.unit.config["defender"]["role"]
        observed, sources = self.single()._replace(defences=()).observation(role, seed)

        def build(folder: Path, session: train.Session) -> None:
            del session
            save_state(folder, describe(observed))

        return state_of(self.unit.stage("seen", f"{'+'.join(self.reads)}, seed {seed}", {"sources": sources}, build))

    def states(self, seed: int) -> dict[str, Stage]:
        """What those of the defences learned that learn, by their labels."""
        found = {part.label: part.learned(seed) for part in self.prefixes()}
        return {label: stage for label, stage in found.items() if stage}

    def described(self, seed: int) -> dict[str, Any]:
        """What determines the defences: their parameters, and the digests of what they have learned."""
        stages = [(part.learned(seed), part.hyper(seed)) for part in self.prefixes()]
        *before, last = [{"state": learned and learned.digest, "settings": hyper} for learned, hyper in stages]
        return last | ({"before": before} if before else {})

    def check(self, observation: Observation, images: Any) -> None:
        """Finds, by the shapes of an observation and of images, that it cannot be released.

        Raises:
          InputError: a defence, or one that it refers to, has a wrong parameter or cannot treat these shapes.
        """
        for one in self.needed():
            one.stated().check(observation, images)

    def stated(self) -> Defence:
        """The last defence as the config states it, with nothing measured.

        Raises:
          InputError: its settings do not fit each other, or its factory.
        """
        self._check_settings()
        defence = defences.build(**self.hyper(None), given=self._given())
        self._check_trained(defence)
        return defence

    def needed(self) -> list["Released"]:
        """The release after each defence, and after each that one of them refers to in its place."""
        return [one for part in self.prefixes() for one in part._referred().values()]

    def _referred(self, path: tuple[str, ...] = ()) -> dict[str, "Released"]:
        """By name, the last defence and those it refers to, directly or through others."""
        name, settings = self.defences[-1], self.settings()
        if name in path:
            raise InputError(f"defences refer to each other in a circle: {' to '.join((*path, name))}")
        found = {name: self}
        for other in (settings[kind] for kind in REFERENCES if kind in settings):
            found |= self._instead(other)._referred((*path, name))
        return found

    def _check_settings(self) -> None:
        name, settings = self.defences[-1], self.settings()
        if "match" in settings and "mse" in settings:
            raise InputError(f"defence {name!r} has mse and also match, which measures it: give one")
        if "trained" in settings and "train" in self.unit.config["defences"][name]:
            raise InputError(f"defence {name!r} has train and also trained, whose state it applies: give one")
        learns = plugins.takes(defences, "defence", settings["name"], "recipe")
        if learns != ("train" in settings):
            needs = "needs a training configuration: give train" if learns else "has train, but is not trained"
            raise InputError(f"defence {name!r} {needs}")

    def _check_trained(self, defence: Defence) -> None:
        """One that applies what another has learned states nothing that it would have to learn for."""
        name, own = self.defences[-1], self.unit.config["defences"][self.defences[-1]]
        odd = sorted(set(own) - {*REFERENCES, *defence.releasing}) if "trained" in own else ()
        if odd:
            raise InputError(
                f"defence {name!r} has {odd[0]}, which what {own['trained']!r} has learned depends on: it may state "
                f"{', '.join(defence.releasing) or 'nothing'}"
            )

    def _instead(self, name: str) -> "Released":
        """With another defence in the place of the last."""
        return self._replace(defences=(*self.defences[:-1], name))

    def before(self) -> "Released":
        """What the last defence learns from: one release of every image by those before it."""
        return self.single()._replace(defences=self.defences[:-1])

    def single(self) -> "Released":
        """One release of every image."""
        return self._replace(queries=1, releases=1)

    def distortion(self, seed: int, start: "Released") -> np.ndarray:
        """Mean squared change since `start` of each explanation that the defender holds back, in the maps' units."""
        role = self.unit.config["defender"]["held_out"]
        (original, before), (released, after) = start.observation(role, seed), self.observation(role, seed)

        def build(folder: Path, session: train.Session) -> None:
            del session
            store.save_array(folder / "distortion.npy", squared_change(original.explanation, released.explanation))

        sources = {"before": before, "after": after}
        stage = self.unit.stage("distortion", f"{self.label} on {role}, seed {seed}", sources, build)
        return stage.array("distortion")

    @property
    def label(self) -> str:
        """For people."""
        return f"{'+'.join(self.defences)}({'+'.join(self.reads) or 'prediction'})"

    def settings(self) -> dict[str, Any]:
        """The last defence's in the config; one that applies what another has learned states only what differs."""
        known, name = self.unit.config["defences"], self.defences[-1]
        if name not in known:
            raise InputError(f"unknown defence {name!r}: the config has {', '.join(known) or 'none'}")
        own = known[name]
        if "trained" not in own:
            return dict(own)
        if "train" not in known.get(own["trained"], ()):
            allowed = ", ".join(other for other in known if "train" in known[other])
            raise InputError(f"defence {name!r} has trained {own['trained']!r}: choose one of {allowed or 'none'}")
        return {**known[own["trained"]], **own}

    def hyper(self, seed: int | None) -> dict[str, Any]:
        """The last defence's name and parameters; a distortion to match another defence's is measured (seedless: 1)."""
        settings = self.settings()
        matched = settings.get("match")
        hyper = {name: value for name, value in settings.items() if name not in (*REFERENCES, "train")}
        hyper = plugins.complete(defences, hyper)
        if matched is None:
            return hyper
        if seed is None:
            return hyper | {"mse": 1.0}
        other = self.single()._instead(matched)
        mse = float(other.distortion(seed, self.before()).mean(dtype=np.float64))
        if not mse:
            raise InputError(
                f"defence {self.defences[-1]!r} is to match {matched!r}, which leaves explanations as they are"
            )
        return hyper | {"mse": mse}

    def _given(self) -> dict[str, Any]:
        settings = self.settings()
        return {"recipe": train.Recipe.stated(settings["train"])} if "train" in settings else {}


def taught(unit: Unit, teacher: Config, roles: Sequence[str], seed: int) -> tuple[np.ndarray, list[str]]:
    """What a `teacher` releases of some roles, for a model to learn, and the digests of the stages it comes from."""
    released = Released(unit, (), teacher["prediction"], defences=tuple(teacher["defences"]))
    seen, sources = zip(*(released.observation(role, seed) for role in roles), strict=True)
    return np.concatenate([observed.prediction for observed in seen]), [one for part in sources for one in part]


def state_of(stage: Stage | None) -> Any:
    """What a defence or an attack has learned; an empty tree if that is nothing."""
    return stage.tree("state") if stage and (stage.path / "state").exists() else {}


def stack(maps: Sequence[Array]) -> Array:
    """Maps [N,h,w,c] as the channels of one; those that are smaller than the largest are enlarged bilinearly.

    Beside vectors [N,1,1,c], such as activations, maps are vectors too: their values follow one another.
    """
    if len(maps) == 1:
        return maps[0]
    if any(part.shape[1:3] == (1, 1) for part in maps):
        return jnp.concatenate([part.reshape(len(part), 1, 1, -1) for part in maps], axis=-1)
    height, width = (max(part.shape[axis] for part in maps) for axis in (1, 2))
    sized = [jax.image.resize(part, (len(part), height, width, part.shape[-1]), "linear") for part in maps]
    return jnp.concatenate(sized, axis=-1)


def squared_change(original: Array, released: Array) -> np.ndarray:
    """Mean squared difference per example [N], of arrays that are read in chunks."""
    parts = [slice(start, start + _CHUNK) for start in range(0, len(original), _CHUNK)]
    changes = (np.asarray(original[part]) - np.asarray(released[part]) for part in parts)
    return np.concatenate([np.square(change).mean(axis=(1, 2, 3)) for change in changes])
