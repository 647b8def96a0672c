"""What someone sees of some images: predictions and explanations, through a chain of defences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xinv import defences
from xinv.audit.chain import DefenceChain
from xinv.audit.stage import Create, key
from xinv.store import Stage
from xinv.types import Array, Observation

if TYPE_CHECKING:
    from xinv.audit.service import Service

NONE = "none"
"""In the place of an explained model: nothing is explained."""


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
    """

    service: "Service"
    inputs: tuple[str, ...]
    prediction: str = "target"
    explanation: str = "target"
    defences: tuple[str, ...] = ()
    queries: int = 1
    releases: int = 1

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
        _, shapes = self.service.shapes(self.explanation, self.inputs, images)
        return stacked(shapes)

    def single(self) -> "Release":
        """Returns one release of every image."""
        return self._replace(queries=1, releases=1)

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
        return Observation(stage.array("prediction"), explanation), [stage.digest]

    def _undefended(self, role: str, seed: int) -> tuple[Observation, list[str]]:
        prediction, sources = self.service.prediction(self.prediction, role, seed)
        if not self.explains:
            return Observation(prediction), sources
        found = [self.service.explanation(name, role, seed, self.explanation) for name in self.inputs]
        maps, digests = zip(*found, strict=True)
        return Observation(prediction, stack(maps)), sources + [one for part in digests for one in part]

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
