"""One explanation of one target, the subject of a hardening."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv import attacks, data, train
from xinv.audit import outputs
from xinv.audit.goals import MEMBERSHIP
from xinv.audit.goals.membership import membership_spec
from xinv.audit.service import Service
from xinv.harden import released
from xinv.harden.candidate import Candidate
from xinv.types import Array, Attack, Observation


class Subject(NamedTuple):
    """One explanation of one target.

    Attributes:
      service: of the target, its shadow model and the models of the controls.
      name: of the explanation in the config.
      seed: of the target.
    """

    service: Service
    name: str
    seed: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """The config's section `harden`."""
        return self.service.config["harden"]

    @property
    def target(self) -> str:
        """The classifier whose members the attacker looks for."""
        return self.settings["target"]

    @property
    def shadow(self) -> str:
        """The attacker's own classifier."""
        return self.settings["shadow"]

    @property
    def unhardened(self) -> Candidate:
        """The explanation as given in the config."""
        return Candidate(self.service.config["explanations"][self.name])

    @property
    def secret(self) -> np.ndarray:
        """The seed of every image's noise, uint32 [2].

        It is drawn once for an explanation of a target, and kept: the config does not determine the
        noise, and no two targets share any.
        """
        # From the system, not from the config's seed: an attacker may know the config
        label = f"{self.name}, seed {self.seed}"
        target = self.service.classifiers.identity(self.target, self.seed)
        spec = {"explanation": self.name, "seed": self.seed, "target": target}
        stage = self.service.stages.computed(
            "secret", label, spec, lambda: {"secret": released.draw_secret()}
        )
        # No other user may read it
        file = stage.path / "secret.npy"
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
        return np.array(stage.array("secret"))

    def accuracy(self, role: str) -> float:
        """Returns the target's accuracy on images of a role outside its training set."""
        label = self.service.classifiers.settings(self.target)["label"]
        truth = self.service.roles.labelled([role], self.seed).labels[label]
        right = self.labels(self.target, role) == truth
        return float(right[self.member(self.target, role) == 0].mean())

    def images(self, role: str) -> data.Images:
        """Returns the images of a role, uint8 [N,H,W,C]."""
        return self.service.roles.images([role], self.seed)

    def labels(self, part: str, role: str) -> np.ndarray:
        """Returns a classifier's predicted classes, to be explained, int32 [N]."""
        logits = self.service.logits(part, role, self.seed).array("logits")
        return logits.argmax(axis=-1).astype(np.int32)

    def prediction(self, part: str, role: str) -> Array:
        """Returns a classifier's probabilities of a role's images, [N,K]."""
        found, _ = self.service.prediction(part, role, self.seed)
        return found

    def seen(
        self,
        attack: Attack,
        part: str,
        role: str,
        maps: Array,
    ) -> Observation:
        """Returns an attack's view of a role's images."""
        return Observation(self.prediction(part, role), released.seen(attack, maps))

    def reference(self) -> np.ndarray | None:
        """Returns the images [R,H,W,C] of the explainer's reference, or None."""
        section = self.unhardened.explainer
        if "reference" not in section:
            return None
        # A reference without a role takes the target's own training images
        own = self.service.classifiers.settings(self.target)["roles"]
        roles = outputs.public_reference(section) or own
        return outputs.referred(section, self.service.roles.images(roles, self.seed))

    def member(self, part: str, role: str) -> np.ndarray:
        """Returns membership int32 [N] of a role's images in a classifier's training set."""
        return MEMBERSHIP.secret(self.service, part, [role], self.seed)

    def asked(self, parts: Sequence[str], roles: Sequence[str]) -> dict[str, Any]:
        """Returns the inputs of these classifiers' predictions on these roles, for a hash."""
        identities = []
        for part in parts:
            identities.append(self.service.classifiers.identity(part, self.seed))
        return self.service.roles.spec(self.seed, roles) | {
            "classifiers": identities,
            "read": list(roles),
        }

    def spec(self, parts: Sequence[str], roles: Sequence[str]) -> dict[str, Any]:
        """Returns the inputs of all releases by these classifiers on these roles, for a hash."""
        # These roles, and the public one of a reference
        reference = self.unhardened.explainer.get("reference")
        public = (reference["role"],) if isinstance(reference, Mapping) else ()
        return self.asked(parts, (*roles, *public)) | {
            # A hash, so that a spec does not give the noise away
            "secret": hashlib.sha256(self.secret.tobytes()).hexdigest()[:16],
            "members": [
                membership_spec(self.service, part, self.seed)
                for part in (self.target, self.shadow)
            ],
        }

    def attack(self, settings: Mapping[str, Any]) -> Attack:
        """Returns the attack of a section, trained by the config's recipe."""
        recipe = train.Recipe.stated(self.service.config["attack"]["train"])
        return attacks.build(**settings, given={"inputs": ("explanation",), "recipe": recipe})
