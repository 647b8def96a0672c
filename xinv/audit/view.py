"""Views of an attack: a release of some images, and guesses of them by other arms."""

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
    """One view of an attack: a release of some images, and guesses of them by other arms.

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
        """The classifiers of whose training sets membership is asked, one per shadow model."""
        # A control keeps the truth of its attack
        named = self.settings["members"]
        if named:
            return (named,)
        parts = self.settings["prediction"]
        return tuple(parts) if self.several else (parts,)

    @property
    def release(self) -> Release:
        """Its release of the service; of several shadow models, that of the first."""
        return self._releases()[0]

    def observation(
        self,
        role: str,
        seed: int,
        releases: int = 1,
    ) -> tuple[Observation, list[str]]:
        """Returns all that it shows of a role's images, and the digests of its sources."""
        # Releases of the service, one per shadow model
        observations = []
        sources = []
        for release in self._releases():
            observed, digests = release._replace(releases=releases).observation(role, seed)
            observations.append(observed)
            sources += digests
        if self.several:
            return _paired(observations), sources

        # Guesses of other arms are read as further channels
        prediction, explanation = observations[0]
        maps = []
        if explanation is not None:
            maps.append(explanation)
        for other in self.arm.others:
            stage = other.guess(self.name, role, seed)
            maps.append(stage.array("guess"))
            sources.append(stage.digest)
        if not maps:
            return Observation(prediction), sources
        return Observation(prediction, stack(maps)), sources

    def shapes(
        self,
        images: jax.ShapeDtypeStruct,
        above: tuple[str, ...],
    ) -> Observation:
        """Returns the shapes of an observation of images, without computing anything."""
        # Defences act on maps, even if statistics of them are kept
        release = self.release
        prediction, _ = self.arm.service.shapes(release.prediction, (), images)
        maps = release._replace(summary=()).maps(images)
        release.chain.check(Observation(prediction, maps), images)

        # Maps and guesses of other arms are channels of one array
        channels = []
        if release.explains:
            channels.append(release.maps(images).shape[1:])
        for other in self.arm.others:
            channels.append(other.check(images.shape[1:], above))
        seen = Observation(prediction, stacked(channels))

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
        predictions = self.settings["prediction"]
        explanations = self.settings["explanation"]
        # Shadow models are named in lists, one release each
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
    """Arrays [N,...] of S shadow models as one array [N,S,...], read by rows on demand."""

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
