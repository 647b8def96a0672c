"""Roles: who may see which images, as dealt by each seed."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from xinv import data
from xinv.audit.results import Config
from xinv.types import InputError

REPORTED = "attack_test"
"""The role that reconstructions are reported on; nothing is trained, stopped or chosen by it."""

UNION = "+"
"""Joins the names of roles whose images are explained in one pass: "target_train+attack_test"."""

Found = tuple[data.Dataset, np.ndarray]
"""A data set and the indices of a role's images."""


class Roles(NamedTuple):
    """The roles of a data set and of auxiliary images.

    Attributes:
      dataset: what is attacked.
      auxiliary: further images that an attacker or a teacher has, or None.
      settings: the config's section `data`.
      dealt: the roles of each seed, once they are dealt.
    """

    dataset: data.Dataset
    auxiliary: data.Dataset | None
    settings: Config
    dealt: dict[int, dict[str, Found]]

    def of(self, seed: int) -> dict[str, Found]:
        """Returns the data set and the indices of each role."""
        if seed not in self.dealt:
            self.dealt[seed] = self._deal(seed)
        return self.dealt[seed]

    def labelled(self, roles: Iterable[str], seed: int) -> data.Dataset:
        """Returns the labelled images of some roles together, each once, in the order of the data set.

        Raises:
          InputError: the roles are of two data sets, or of one with other labels.
        """
        found = self._find(roles, seed)
        first = found[0][0]
        if any(dataset is not first or dataset.classes != self.dataset.classes for dataset, _ in found):
            raise InputError(f"the labels of roles {list(roles)} are not those of the data set: they cannot be learned")
        return data.take(first, np.unique(np.concatenate([indices for _, indices in found])))

    def classes(self, label: str, what: str) -> int:
        """Returns the number of classes of a label; an error says that `what` has none of that name."""
        known = self.dataset.classes
        if label not in known:
            raise InputError(f"unknown label {label!r} for the {what}: the data has {', '.join(known)}")
        return len(known[label])

    def images(self, roles: Iterable[str], seed: int) -> data.Images:
        """Returns the images of some roles, one role after the other."""
        return data.concatenate([data.take(*found).images for found in self._find(roles, seed)])

    def among(self, role: str, others: Iterable[str], seed: int) -> np.ndarray:
        """Tells which of a role's images, bool [N], others have too, by their places in equal data sets."""
        dataset, indices = self._find([role], seed)[0]
        found = [places for other, places in self._find(others, seed) if other.fingerprint == dataset.fingerprint]
        return np.isin(indices, np.concatenate([[], *found]))

    def indices(self, role: str, seed: int) -> np.ndarray:
        """Returns the places of a role's images in its data set."""
        return self._find([role], seed)[0][1]

    def count(self, roles: Iterable[str], seed: int) -> int:
        """Returns the number of images of some roles."""
        return sum(len(indices) for _, indices in self._find(roles, seed))

    def shared(self, roles: Iterable[str], others: Iterable[str], seed: int) -> bool:
        """Tells if some roles have images in common with others, see `among`."""
        return any(self.among(role, others, seed).any() for role in roles)

    def spec(self, seed: int, roles: Iterable[str]) -> dict[str, Any]:
        """Returns what determines a stage that reads these roles: the images, and who may see which."""
        spec = {"data": self.dataset.fingerprint, "roles": self.settings["roles"], "seed": seed}
        if all(dataset is self.dataset for dataset, _ in self._find(roles, seed)):
            return spec
        further = {"auxiliary": self.auxiliary.fingerprint, "auxiliary_roles": self.settings["auxiliary"]["roles"]}
        return spec | further

    def _deal(self, seed: int) -> dict[str, Found]:
        split = data.roles.split(self.dataset.labels, seed=seed, **self.settings["roles"])
        result = {role: (self.dataset, indices) for role, indices in split.items()}
        if self.auxiliary is None:
            return result
        further = data.roles.split(self.auxiliary.labels, seed=seed, **self.settings["auxiliary"]["roles"])
        twice = sorted(set(further) & set(result))
        if twice:
            raise InputError(f"role {twice[0]!r} is dealt by data.roles and by data.auxiliary")
        return result | {role: (self.auxiliary, indices) for role, indices in further.items()}

    def _find(self, roles: Iterable[str], seed: int) -> list[Found]:
        known = self.of(seed)
        parts = [role.split(UNION) for role in roles]
        unknown = sorted({name for names in parts for name in names} - set(known))
        if unknown or not roles:
            name = unknown[0] if unknown else ""
            raise InputError(f"unknown role {name!r}: data.roles gives {', '.join(known)}")
        return [self._union([known[name] for name in names]) for names in parts]

    def _union(self, found: list[Found]) -> Found:
        """The images of several roles as one, each once, in the order of the data set."""
        if len(found) == 1:
            return found[0]
        if any(dataset is not found[0][0] for dataset, _ in found):
            raise InputError("a union of roles needs roles of one data set")
        return found[0][0], np.unique(np.concatenate([indices for _, indices in found]))
