"""What someone sees of some images: predictions and explanations, through a chain of defences."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv import attacks, defences, parallel
from xinv.audit.chain import DefenceChain
from xinv.audit.stage import Create, key
from xinv.store import Stage
from xinv.types import Array, Observation

if TYPE_CHECKING:
    from xinv.audit.service import Service

NONE = "none"
"""In the place of an explained model: nothing is explained."""
_CHUNK = 1024  # maps that are summarised at once


class Release(NamedTuple):
    """What someone sees of the images of a role.

    Attributes:
      service: whose predictions and explanations.
      inputs: names of explanations, stacked as channels.
      prediction: the classifier whose predictions are seen.
      explanation: the classifier that is explained, or NONE.
      defences: names, first to last.
      queries: independent releases of every image, of which the mean is seen.
      releases: independent such means of every image; of more than one the observations are [N,releases,…], where
        there are defences.
      summary: names of statistics that are kept of each map, instead of it; see `types.Attack`.
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
        return f"{'+'.join(self.defences)}({'+'.join(self.inputs) or 'prediction'})"

    @property
    def chain(self) -> DefenceChain:
        """The defences."""
        return DefenceChain(self.bare(), self.defences)

    def maps(self, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
        """Returns the shape of the explanations that are seen of images, without computing anything."""
        if not self.explains:
            return None
        if self.summary:
            return jax.ShapeDtypeStruct((images.shape[0], 1, 1, len(self.summary)), np.float32)
        _, shapes = self.service.shapes(self.explanation, self.inputs, images)
        return stacked(shapes)

    def single(self) -> "Release":
        """Returns one release of every image."""
        return self._replace(queries=1, releases=1, summary=())

    def bare(self) -> "Release":
        """Returns one release of every image as it is before the defences."""
        return self.single()._replace(defences=())

    def through(self, name: str) -> "Release":
        """Returns the release by one defence more."""
        return self._replace(defences=(*self.defences, name))

    def observation(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        """Returns what is seen of a role's images, and the digests of the stages that it comes from."""
        if not self.defences:
            return self._undefended(role, seed)
        stage = self.defended(role, seed)
        explanation = stage.array("explanation") if self.explains else None
        if explanation is not None and self.summary:
            explanation = summarised(self.summary, explanation)
        return Observation(stage.array("prediction"), explanation), [stage.digest]

    def _undefended(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        prediction, sources = self.service.prediction(self.prediction, role, seed)
        if not self.explains:
            return Observation(prediction), sources
        if self.summary and len(self.inputs) == 1:
            maps, digests = self.service.explanation(*self.inputs, role, seed, self.explanation, self.summary)
            return Observation(prediction, maps), sources + digests
        found = [self.service.explanation(name, role, seed, self.explanation) for name in self.inputs]
        maps, digests = zip(*found, strict=True)
        stacked_maps = stack(maps)
        if self.summary:
            stacked_maps = summarised(self.summary, stacked_maps)
        return Observation(prediction, stacked_maps), sources + [one for part in digests for one in part]

    def defended(self, role: str, seed: int) -> Stage:
        """Returns a role's images as the defences release them, each of several releases drawn anew."""
        observed, sources = self.bare().observation(role, seed)
        spec = self.chain.spec(seed) | {"sources": sources, "queries": self.queries, "releases": self.releases}
        spec |= {"draws as": self.defences[-1]}

        def fill(create: Create) -> None:
            several = () if self.releases == 1 else (self.releases,)
            shapes = [part if part is None else (len(part), *several, *part.shape[1:]) for part in observed]
            named = zip(Observation._fields, shapes, strict=True)
            out = Observation(*(shape and create(name, shape) for name, shape in named))
            release_key = key(seed, "release", self.defences[-1], role)
            keys = jax.random.split(release_key, self.releases) if several else [release_key]
            defence, state = self.chain.applied(seed)
            for number, one in enumerate(keys):
                rows = (slice(None), number) if several else ...
                part = Observation(*(array if array is None else array[rows] for array in out))
                defences.release(defence, state, observed, one, queries=self.queries, out=part)

        return self.service.stages.filled("release", f"{self.label} on {role}, seed {seed}", spec, fill)


def summarised(names: tuple[str, ...], maps: Array) -> np.ndarray:
    """Returns statistics [N,1,1,T] of maps [N,h,w,c]."""
    found = parallel.map_batches(_summaries(names), {}, maps, _CHUNK)
    return np.asarray(found)[:, None, None, :]


@functools.lru_cache(64)
def _summaries(names: tuple[str, ...]) -> Callable[..., jax.Array]:
    each = jax.vmap(attacks.signals.signals(names))
    return lambda variables, maps, keys: each(maps)


def stack(maps: Sequence[Array]) -> Array:
    """Stacks maps [N,h,w,c] as channels; those that are smaller than the largest are enlarged bilinearly.

    Beside vectors [N,1,1,c], such as activations, maps are vectors too: their values follow one another.
    """
    if len(maps) == 1:
        return maps[0]
    if any(part.shape[1:3] == (1, 1) for part in maps):
        return jnp.concatenate([part.reshape(len(part), 1, 1, -1) for part in maps], axis=-1)
    height, width = (max(part.shape[axis] for part in maps) for axis in (1, 2))
    sized = [jax.image.resize(part, (len(part), height, width, part.shape[-1]), "linear") for part in maps]
    return jnp.concatenate(sized, axis=-1)


def stacked(shapes: Sequence[tuple[int, ...]]) -> jax.ShapeDtypeStruct | None:
    """Returns the shape of `stack` of two maps of each of these shapes."""
    maps = [jax.ShapeDtypeStruct((2, *shape), np.float32) for shape in shapes]
    return jax.eval_shape(stack, maps) if maps else None
