"""Releases: what a service answers about some images, through defences."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv import attacks, defences, parallel
from xinv.audit.chain import DefenceChain
from xinv.audit.results import Config
from xinv.audit.stage import Create, key
from xinv.store import Stage
from xinv.types import Array, Observation

if TYPE_CHECKING:
    from xinv.audit.service import Service

NONE = "none"
"""In the place of an explained model: nothing is explained."""
_CHUNK = 1024  # maps that are summarised at once


class Release(NamedTuple):
    """The answers about the images of a role: predictions and maps, through defences.

    Attributes:
      service: of the predictions and explanations.
      inputs: names of explanations, stacked as channels.
      prediction: the classifier of the predictions.
      explanation: the explained classifier, or NONE.
      defences: names, first to last.
      queries: independent releases of every image; their mean is seen.
      releases: independent such means of every image; of more than one, through defences, the
        observations are [N,releases,…].
      summary: statistics that are kept of each map, in its place; see `types.Attack`.
    """

    service: "Service"
    inputs: tuple[str, ...]
    prediction: str = "target"
    explanation: str = "target"
    defences: tuple[str, ...] = ()
    queries: int = 1
    releases: int = 1
    summary: tuple[str, ...] = ()

    @property
    def explains(self) -> bool:
        """Tells if explanations are seen."""
        return bool(self.inputs) and self.explanation != NONE

    @property
    def label(self) -> str:
        """For people."""
        inputs = "+".join(self.inputs) or "prediction"
        return f"{'+'.join(self.defences)}({inputs})"

    @property
    def chain(self) -> DefenceChain:
        """The defences."""
        return DefenceChain(self.bare(), self.defences)

    def maps(self, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
        """Returns the shape of the explanations of images, without computing anything."""
        if not self.explains:
            return None
        if self.summary:
            return jax.ShapeDtypeStruct((images.shape[0], 1, 1, len(self.summary)), np.float32)
        # The explained classifier may be another than the one that predicts
        _, shapes = self.service.shapes(self.explanation, self.inputs, images)
        return stacked(shapes)

    def single(self) -> "Release":
        """Returns one release of every image."""
        return self._replace(queries=1, releases=1, summary=())

    def bare(self) -> "Release":
        """Returns one release of every image, before the defences."""
        return self.single()._replace(defences=())

    def through(self, name: str) -> "Release":
        """Returns the release by one defence more."""
        return self._replace(defences=(*self.defences, name))

    def observation(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        """Returns the observation of a role's images, and the digests of its stages."""
        if not self.defences:
            return self._undefended(role, seed)
        # Without explanations the defences release predictions alone
        stage = self.defended(role, seed)
        explanation = None
        if self.explains:
            explanation = self._kept(stage.array("explanation"))
        return Observation(stage.array("prediction"), explanation), [stage.digest]

    def _undefended(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        prediction, sources = self.service.prediction(self.prediction, role, seed)
        if not self.explains:
            return Observation(prediction), sources
        # Of one explanation the statistics alone are computed, batch by batch
        if self.summary and len(self.inputs) == 1:
            (name,) = self.inputs
            maps, further = self.service.explanation(
                name,
                role,
                seed,
                self.explanation,
                self.summary,
            )
            return Observation(prediction, maps), sources + further
        # Maps are explained one name after the other, and read as one image of many channels
        maps = []
        digests = list(sources)
        for name in self.inputs:
            found, further = self.service.explanation(
                name,
                role,
                seed,
                self.explanation,
            )
            maps.append(found)
            digests += further
        return Observation(prediction, self._kept(stack(maps))), digests

    def _kept(self, maps: Array) -> Array:
        if self.summary:
            return summarised(self.summary, maps)
        return maps

    def defended(self, role: str, seed: int) -> Stage:
        """Returns a role's images through the defences, each of several releases drawn anew."""
        observed, sources = self.bare().observation(role, seed)
        # The name of the last defence chooses the random numbers
        spec = self.chain.spec(seed) | {
            "sources": sources,
            "queries": self.queries,
            "releases": self.releases,
            "draws as": self.defences[-1],
        }

        def fill(create: Create) -> None:
            # Each release is drawn by a key of its own, and written in its place
            defence, state = self.chain.applied(seed)
            images = self.service.roles.images([role], seed) if defence.sees_images else None
            out = _created(self, create, observed)
            release_key = key(seed, "release", self.defences[-1], role)
            if self.releases == 1:
                views = [out]
                keys = [release_key]
            else:
                views = [_of_release(out, number) for number in range(self.releases)]
                keys = jax.random.split(release_key, self.releases)
            for view, one in zip(views, keys, strict=True):
                defences.release(
                    defence,
                    state,
                    observed,
                    one,
                    queries=self.queries,
                    out=view,
                    logits=self.service.releases_logits,
                    images=images,
                )

        label = f"{self.label} on {role}, seed {seed}"
        return self.service.stages.filled("release", label, spec, fill)


def _created(release: Release, create: Create, observed: Observation) -> Observation:
    """Creates the arrays of an observation, [N,releases,…] if there are several releases."""
    several = ()
    if release.releases > 1:
        several = (release.releases,)
    # Created on disk: releases may exceed memory
    prediction, explanation = observed
    out = Observation(create("prediction", (len(prediction), *several, *prediction.shape[1:])))
    if explanation is None:
        return out
    shape = (len(explanation), *several, *explanation.shape[1:])
    return out._replace(explanation=create("explanation", shape))


def _of_release(out: Observation, number: int) -> Observation:
    """Returns the view [N,…] of one of several releases."""
    if out.explanation is None:
        return Observation(out.prediction[:, number])
    return Observation(out.prediction[:, number], out.explanation[:, number])


def soft_labels(
    service: "Service",
    settings: Config,
    seed: int,
) -> tuple[np.ndarray | None, list[str]]:
    """Returns a teacher's releases [N,K] of a classifier's training set, and their digests.

    They are probabilities: of released logits the softmax. Without a teacher they are None.
    """
    if "teacher" not in settings:
        return None, []
    teacher = settings["teacher"]
    names = tuple(teacher["defences"])
    release = Release(service, (), teacher["prediction"], defences=names)
    # In the order of `roles.images`, role after role
    labels = []
    digests = []
    for role in settings["roles"]:
        observed, sources = release.observation(role, seed)
        labels.append(service.probabilities(observed.prediction))
        digests += sources
    return np.concatenate(labels), digests


def summarised(names: tuple[str, ...], maps: Array) -> np.ndarray:
    """Returns statistics [N,1,1,T] of maps [N,h,w,c]."""
    found = parallel.map_batches(_summaries(names), {}, maps, _CHUNK)
    return np.asarray(found)[:, None, None, :]


@functools.lru_cache(64)
def _summaries(names: tuple[str, ...]) -> Callable[..., jax.Array]:
    each = jax.vmap(attacks.signals.signals(names))
    return lambda variables, maps, keys: each(maps)


def stack(maps: Sequence[Array]) -> Array:
    """Stacks maps [N,h,w,c] as channels; smaller ones are enlarged bilinearly to the largest.

    Beside vectors [N,1,1,c], such as activations, maps are vectors too: their values follow one
    another.
    """
    if len(maps) == 1:
        return maps[0]
    # Activations have no places: a map beside them is flattened
    if any(part.shape[1:3] == (1, 1) for part in maps):
        vectors = [part.reshape(len(part), 1, 1, -1) for part in maps]
        return jnp.concatenate(vectors, axis=-1)
    # A smaller map shows the same image at a lower resolution
    height = max(part.shape[1] for part in maps)
    width = max(part.shape[2] for part in maps)
    sized = []
    for part in maps:
        shape = (len(part), height, width, part.shape[-1])
        sized.append(jax.image.resize(part, shape, "linear"))
    return jnp.concatenate(sized, axis=-1)


def stacked(shapes: Sequence[tuple[int, ...]]) -> jax.ShapeDtypeStruct | None:
    """Returns the shape of `stack` of two maps of each of these shapes."""
    if not shapes:
        return None
    maps = [jax.ShapeDtypeStruct((2, *shape), np.float32) for shape in shapes]
    return jax.eval_shape(stack, maps)
