"""Roles: who may see which images, drawn anew for each seed."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from xinv import data
from xinv.audit.results import Config
from xinv.types import InputError

REPORTED = "attack_test"
"""The role of reported images, unless a config names another."""

UNION = "+"
"""Joins the names of roles, to explain their images in one pass: "target_train+attack_test"."""

Found = tuple[data.Dataset, np.ndarray]
"""A data set and the indices of a role's images."""


class Roles(NamedTuple):
    """The roles of a data set and of auxiliary images.

    Attributes:
      dataset: the images under attack, and others of their kind.
      auxiliary: further images of an attacker or a teacher, or None.
      settings: the config's section `data`.
      dealt: the roles of each seed, once they are dealt.
      reported: the role of reported images. No attack, defence or judge is trained, stopped or
        chosen by it; the target is trained on it, if it is one of the target's roles.
    """

    dataset: data.Dataset
    auxiliary: data.Dataset | None
    settings: Config
    dealt: dict[int, dict[str, Found]]
    reported: str = REPORTED

    def of(self, seed: int) -> dict[str, Found]:
        """Returns the data set and the indices of each role."""
        # One draw per seed serves all stages
        if seed not in self.dealt:
            self.dealt[seed] = self._deal(seed)
        return self.dealt[seed]

    def labelled(self, roles: Iterable[str], seed: int) -> data.Dataset:
        """Returns the labelled images of some roles, each once, in the order of the data set.

        Raises:
          InputError: the roles are of two data sets, or of one with other labels.
        """
        found = self.require_labels(roles, seed)
        first, _ = found[0]
        return data.take(first, _together(found))

    def require_labels(self, roles: Iterable[str], seed: int) -> list[Found]:
        """Returns the places of roles that are of one data set with the labels of the main one.

        Raises:
          InputError: they are not.
        """
        # Labels of auxiliary images may mean other classes
        found = self._find(roles, seed)
        first, _ = found[0]
        for dataset, _ in found:
            if dataset is not first or dataset.classes != self.dataset.classes:
                raise InputError(
                    f"the labels of roles {list(roles)} are not those of the data set: "
                    "they cannot be learned"
                )
        return found

    def classes(self, label: str, what: str) -> int:
        """Returns the number of classes of a label; `what` has the label, in errors."""
        known = self.dataset.classes
        if label not in known:
            raise InputError(
                f"unknown label {label!r} for the {what}: the data has {', '.join(known)}"
            )
        return len(known[label])

    def images(self, roles: Iterable[str], seed: int) -> data.Images:
        """Returns the images of some roles, one role after the other."""
        # In the order of the roles, as attacks and teachers read them
        parts = []
        for dataset, indices in self._find(roles, seed):
            parts.append(data.take(dataset, indices).images)
        return data.concatenate(parts)

    def among(
        self,
        role: str,
        others: Iterable[str],
        seed: int,
    ) -> np.ndarray:
        """Tells for each image of a role, bool [N], if one of `others` has it too.

        Images are the same if they have the same place in data sets of equal content.
        """
        # Auxiliary images may come from the data set itself, and then be equal
        (dataset, indices), *_ = self._find([role], seed)
        places = [np.zeros(0)]
        for other, found in self._find(others, seed):
            if other.fingerprint == dataset.fingerprint:
                places.append(found)
        return np.isin(indices, np.concatenate(places))

    def indices(self, role: str, seed: int) -> np.ndarray:
        """Returns the places of a role's images in its data set."""
        (_, indices), *_ = self._find([role], seed)
        return indices

    def count(self, roles: Iterable[str], seed: int) -> int:
        """Returns the number of images of some roles."""
        total = 0
        for _, indices in self._find(roles, seed):
            total += len(indices)
        return total

    def shared(
        self,
        roles: Iterable[str],
        others: Iterable[str],
        seed: int,
    ) -> bool:
        """Tells if some roles have images in common with others, see `among`."""
        return any(self.among(role, others, seed).any() for role in roles)

    def spec(self, seed: int, roles: Iterable[str]) -> dict[str, Any]:
        """Returns the spec of a stage that reads these roles."""
        # How all images are divided determines each role
        spec = {
            "data": self.dataset.fingerprint,
            "roles": self.settings["roles"],
            "seed": seed,
        }
        # Other auxiliary images change no stage without them
        if all(dataset is self.dataset for dataset, _ in self._find(roles, seed)):
            return spec
        return spec | {
            "auxiliary": self.auxiliary.fingerprint,
            "auxiliary_roles": self.settings["auxiliary"]["roles"],
        }

    def _deal(self, seed: int) -> dict[str, Found]:
        split = data.roles.split(
            self.dataset.labels,
            seed=seed,
            **self.settings["roles"],
        )
        result = {role: (self.dataset, indices) for role, indices in split.items()}
        if self.auxiliary is None:
            return result
        further = data.roles.split(
            self.auxiliary.labels,
            seed=seed,
            **self.settings["auxiliary"]["roles"],
        )
        twice = sorted(set(further) & set(result))
        if twice:
            raise InputError(f"role {twice[0]!r} is dealt by data.roles and by data.auxiliary")
        return result | {role: (self.auxiliary, indices) for role, indices in further.items()}

    def _find(self, roles: Iterable[str], seed: int) -> list[Found]:
        # A role may be a union of others
        known = self.of(seed)
        parts = [role.split(UNION) for role in roles]
        unknown = sorted(set(itertools.chain(*parts)) - set(known))
        if unknown or not parts:
            name = unknown[0] if unknown else ""
            raise InputError(f"unknown role {name!r}: data.roles gives {', '.join(known)}")
        found = []
        for names in parts:
            found.append(_union([known[name] for name in names]))
        return found


def _union(found: list[Found]) -> Found:
    """Returns the images of several roles, each once, in the order of the data set."""
    first, indices = found[0]
    if len(found) == 1:
        return first, indices
    # Indices of two data sets mean different images
    if any(dataset is not first for dataset, _ in found):
        raise InputError("a union of roles needs roles of one data set")
    return first, _together(found)


def _together(found: list[Found]) -> np.ndarray:
    return np.unique(np.concatenate([indices for _, indices in found]))
