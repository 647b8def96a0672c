"""What an attack is given of some images: a release, and what other arms guess of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from xinv.audit.release import Release, stack, stacked
from xinv.audit.results import Config
from xinv.types import Array, Observation

if TYPE_CHECKING:
    from xinv.audit.attacker import Arm

TRAIN_VIEW, TEST_VIEW = "train_view", "test_view"
"""The two views of an attack: what it is fitted to, and what it is shown of the reported images."""


class View(NamedTuple):
    """What an attack is given of some images: a release, and what other arms guess.

    Attributes:
      arm: the attack.
      name: TRAIN_VIEW or TEST_VIEW.
    """

    arm: "Arm"
    name: str

    @property
    def settings(self) -> Config:
        """The section of the config."""
        return self.arm.settings[self.name]

    @property
    def several(self) -> bool:
        """Tells if it is of several shadow models."""
        return not isinstance(self.settings["prediction"], str)

    @property
    def members(self) -> tuple[str, ...]:
        """The classifiers whose training sets a membership attack is after, one per shadow model."""
        named = self.settings["members"]
        if named:
            return (named,)
        parts = self.settings["prediction"]
        return tuple(parts) if self.several else (parts,)

    @property
    def release(self) -> Release:
        """What it is given of the service; of several shadow models, of the first."""
        return self._releases()[0]

    def observation(self, role: str, seed: int, releases: int = 1) -> tuple[Observation, list[str]]:
        """Returns all that it is given of a role's images, and the digests of where this comes from."""
        found = [one._replace(releases=releases).observation(role, seed) for one in self._releases()]
        observations, digests = zip(*found, strict=True)
        sources = [digest for part in digests for digest in part]
        if self.several:
            return _paired(observations), sources

        guesses = [other.guess(self.name, role, seed) for other in self.arm.others]
        observed = observations[0]
        maps = [] if observed.explanation is None else [observed.explanation]
        maps += [stage.array("guess") for stage in guesses]
        explanation = stack(maps) if maps else None
        sources += [stage.digest for stage in guesses]
        return Observation(observed.prediction, explanation), sources

    def shapes(self, images: jax.ShapeDtypeStruct, above: tuple[str, ...]) -> Observation:
        """Returns the shapes of what it is given of images, without computing anything."""
        release = self.release
        own = release.maps(images)
        prediction, _ = self.arm.service.shapes(release.prediction, (), images)
        release.chain.check(Observation(prediction, release._replace(summary=()).maps(images)), images)

        guesses = [other.check(images.shape[1:], above) for other in self.arm.others]
        released = [] if own is None else [own.shape[1:]]
        seen = Observation(prediction, stacked(released + guesses))

        # Several shadow models are [N,S,…], several releases of each image [N,releases,…]
        several = self.settings.get("releases", 1)
        if self.several:
            several = len(self.settings["prediction"])
        elif several == 1:
            return seen

        def repeated(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((one.shape[0], several, *one.shape[1:]), one.dtype)

        return jax.tree.map(repeated, seen)

    def _releases(self) -> list[Release]:
        predictions, explanations = self.settings["prediction"], self.settings["explanation"]
        if not self.several:
            predictions, explanations = [predictions], [explanations]
        return [
            Release(
                self.arm.service,
                self.arm.explanations,
                prediction,
                explanation,
                tuple(self.settings["defences"]),
                self.settings["queries"],
                summary=self.arm.method.build().summary,
            )
            for prediction, explanation in zip(predictions, explanations, strict=True)
        ]


class Paired:
    """Arrays [N,...] of S shadow models as one [N,S,...] that is read by rows, so that few are in memory."""

    def __init__(self, parts: Sequence[Array]) -> None:
        first = parts[0]
        self._parts = parts
        self.shape = (first.shape[0], len(parts), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.stack([np.asarray(part[rows]) for part in self._parts], axis=1)


def _paired(observations: Sequence[Observation]) -> Observation:
    predictions, explanations = zip(*observations, strict=True)
    explained = None if explanations[0] is None else Paired(explanations)
    return Observation(Paired(predictions), explained)
