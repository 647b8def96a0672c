"""The ways to harden an explanation that one run compares."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from xinv.audit.service import CLASSIFIERS, Service
from xinv.types import InputError

SEARCH = "search"
"""The search by the config's transforms, or by the explainer's own parameters."""

DEFENDED, RETRAINED = "defences of the config", "models trained in another way"
"""Outcomes of ways without a search."""


class Way(NamedTuple):
    """One way: a search, defences of the config, or another training of the models.

    Attributes:
      name: for people and for files.
      order: transforms to search, first to last; () are those of the config.
      defences: names, first to last: their release, without a search.
      training: changes of each classifier's section: its explanation is released as it is.
    """

    name: str
    order: tuple[str, ...] = ()
    defences: tuple[str, ...] = ()
    training: Mapping[str, Any] = {}


def ways(settings: Mapping[str, Any]) -> list[Way]:
    """Returns all ways of a section `harden`, the search first."""
    found = [Way(SEARCH)]
    for order in settings["orders"]:
        found.append(Way("+".join(order), order=tuple(order)))
    for names in settings["defences"]:
        found.append(Way("+".join(names), defences=tuple(names)))
    for name, training in settings["trainings"].items():
        found.append(Way(name, training=training))
    return found


def retrained(service: Service, training: Mapping[str, Any]) -> Service:
    """Returns the service with all models of a hardening trained in another way.

    Args:
      service: with a section `harden`; its controls change alike.
      training: changes of the sections "train", where there is one, and "model".
    """
    classifiers = service.classifiers
    config = copy.deepcopy(dict(classifiers.config))
    for part in models(config["harden"]):
        section = part_of(config, part)
        for name, changes in training.items():
            # An untrained control stays untrained
            if section[name]:
                section[name] |= changes
    return Service(classifiers._replace(config=config))


def part_of(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Returns the section of a classifier that may be trained in another way.

    Raises:
      InputError: it is neither the target nor a shadow model.
    """
    if part in CLASSIFIERS:
        return config[part]
    if part not in config["shadows"]:
        raise InputError(f"harden.trainings cannot change {part!r}, which is no shadow model")
    return config["shadows"][part]


def models(settings: Mapping[str, Any]) -> list[str]:
    """Returns the names of all classifiers of a section `harden`, each once."""
    names = [settings["target"], settings["shadow"]]
    for pair in settings["controls"].values():
        names += pair
    return list(dict.fromkeys(names))
