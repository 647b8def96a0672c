"""A candidate: one way to release an explanation."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xinv import defences, explain, plugins, space, store
from xinv.space import Fixed, Number, Space
from xinv.types import Defence


class Candidate(NamedTuple):
    """One way to release an explanation.

    Attributes:
      explainer: its section, with `name` and `normalise`.
      transforms: sections of defences, first to last.
      defences: names of defences of the config, first to last, in the place of transforms: their
        states are learnt for each model.
    """

    explainer: Mapping[str, Any]
    transforms: tuple[Mapping[str, Any], ...] = ()
    defences: tuple[str, ...] = ()

    def spec(self) -> dict[str, Any]:
        """Returns a description with all defaults; that of `defences` is of a model, see `maps`."""
        return {
            "explainer": plugins.complete(explain, self.explainer),
            "transforms": [plugins.complete(defences, one) for one in self.transforms],
        }


def chain_of(sections: Sequence[Mapping[str, Any]]) -> Defence | None:
    """Returns the defences of some sections as one, the same object each time; None of none."""
    return _chain(store.canonical(list(sections)))


@functools.lru_cache(64)
def _chain(text: str) -> Defence | None:
    # Keep one object for each chain, so that its compiled program is found again
    built = [defences.build(**section) for section in json.loads(text)]
    if not built:
        return None
    if len(built) == 1:
        return built[0]
    return defences.chain(*built)


def space_of(explainer: Mapping[str, Any], transforms: Sequence[str]) -> Space:
    """Returns the search space of an explainer's parameters and of transforms.

    Parameters of transforms are named "<transform>.<parameter>".
    """
    found = dict(space.of(plugins.find(explain, "explainer", explainer["name"])))
    for name in transforms:
        # The prefix keeps apart parameters of one name, of two transforms
        for parameter, part in space.of(
            plugins.find(
                defences,
                "defence",
                name,
            )
        ).items():
            found[f"{name}.{parameter}"] = part
    return found


def candidate(
    explainer: Mapping[str, Any],
    transforms: Sequence[str],
    values: Mapping[str, Any],
    deviation: float,
) -> Candidate:
    """Returns the candidate with these values of `space_of`.

    Args:
      explainer: its section; searched parameters are replaced.
      transforms: names of defences, first to last.
      values: of each searched parameter.
      deviation: standard deviation of the unhardened maps, the unit of scaled parameters.
    """
    own: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {name: {"name": name} for name in transforms}
    # Scaled values are in units of the maps, so one space serves every explainer
    for key, part in space_of(explainer, transforms).items():
        value = part.value if isinstance(part, Fixed) else values[key]
        if isinstance(part, Fixed) or (isinstance(part, Number) and part.scaled):
            value = value * deviation
        # A name without a prefix is the explainer's own
        owner, _, parameter = key.rpartition(".")
        (sections[owner] if owner else own)[parameter] = value
    return Candidate({**explainer, **own}, tuple(sections.values()))
