"""One explanation of one target, the subject of a hardening."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import attacks, data, explain, parallel, train
from xinv.audit import outputs
from xinv.audit.goals import MEMBERSHIP
from xinv.audit.goals.membership import membership_spec
from xinv.audit.service import Service
from xinv.audit.stage import Create, key
from xinv.harden import released
from xinv.harden.candidate import Candidate, chain_of
from xinv.store import canonical
from xinv.types import Array, Attack, Explainer, Observation

# Number of maps in a transform at once
_CHUNK = 256


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
    def unhardened(self) -> Candidate:
        """The explanation as given in the config."""
        return Candidate(self.service.config["explanations"][self.name])

    @property
    def secret(self) -> np.ndarray:
        """The seed of every image's noise, uint32 [2].

        It is drawn once and kept: the config does not determine the noise.
        """

        # From the system, not from the config's seed: an attacker may know the config
        def compute() -> dict[str, np.ndarray]:
            return {"secret": np.frombuffer(os.urandom(8), np.uint32)}

        spec = {"explanation": self.name, "seed": self.seed}
        label = f"{self.name}, seed {self.seed}"
        stage = self.service.stages.computed("secret", label, spec, compute)
        return np.array(stage.array("secret"))

    def images(self, role: str) -> data.Images:
        """Returns the images of a role, uint8 [N,H,W,C]."""
        return self.service.roles.images([role], self.seed)

    def labels(self, part: str, role: str) -> np.ndarray:
        """Returns a classifier's predicted classes, to be explained, int32 [N]."""
        logits = self.service.logits(part, role, self.seed).array("logits")
        return logits.argmax(axis=-1).astype(np.int32)

    def explainer(self, candidate: Candidate, part: str) -> Explainer:
        """Returns the explainer of a candidate, without its transforms and its secret."""
        classifiers = self.service.classifiers
        # Only the explainer's section differs from the config's
        config = {**classifiers.config, "explanations": {self.name: candidate.explainer}}
        service = Service(classifiers._replace(config=config))
        return service.explainer(self.name, self.seed, part)

    def release(
        self,
        candidate: Candidate,
        part: str,
        secret: np.ndarray | None = None,
    ) -> Explainer:
        """Returns the explainer of released maps, by another secret if one is given."""
        secret = self.secret if secret is None else secret
        explainer = self.explainer(candidate, part)
        chain = chain_of(candidate.transforms)
        return released.defended(explainer, chain, {}, secret)

    def maps(self, candidate: Candidate, part: str, role: str) -> Array:
        """Returns the released maps [N,h,w,c] of a role's images."""
        # Explain once for all candidates, and transform apart
        explained = self._explained(candidate, part, role)
        chain = chain_of(candidate.transforms)
        if chain is None:
            return explained
        change = released.changed(chain, {}, self.secret)
        batch = {"image": self.images(role), "map": explained}
        return parallel.map_batches(_changed, change, batch, _CHUNK)

    def released(self, candidate: Candidate, part: str, role: str) -> Array:
        """Returns `maps`, stored, and to the bit as a policy releases it.

        A policy explains and transforms in one program; two programs may round in another way.
        """

        def fill(create: Create) -> None:
            # Without labels, as in a policy's default
            self._batch(
                self.release(candidate, part),
                part,
                role,
                create,
                labelled=False,
            )

        spec = self.spec([part], [role]) | candidate.spec()
        label = f"{self.name} of {part} on {role}, seed {self.seed}"
        return self.service.stages.filled("policy", label, spec, fill).array("explanation")

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

    def spec(self, parts: Sequence[str], roles: Sequence[str]) -> dict[str, Any]:
        """Returns the inputs of all releases by these classifiers on these roles, for a hash."""
        identities = []
        for part in parts:
            identities.append(self.service.classifiers.identity(part, self.seed))
        names = self._read(roles)
        return self.service.roles.spec(self.seed, names) | {
            "classifiers": identities,
            "read": list(names),
            # A hash, so that a spec does not give the noise away
            "secret": hashlib.sha256(self.secret.tobytes()).hexdigest()[:16],
            "members": [
                membership_spec(self.service, part, self.seed)
                for part in (self.target, self.settings["shadow"])
            ],
        }

    def attack(self, settings: Mapping[str, Any]) -> Attack:
        """Returns the attack of a section, trained by the config's recipe."""
        recipe = train.Recipe.stated(self.service.config["attack"]["train"])
        return attacks.build(**settings, given={"inputs": ("explanation",), "recipe": recipe})

    def _explained(self, candidate: Candidate, part: str, role: str) -> Array:
        explainer = released.of_image(self.explainer(candidate, part), self.secret)
        if canonical(candidate.explainer) != canonical(self.unhardened.explainer):
            return self._batch(explainer, part, role)

        # Keep it: all candidates with the same explainer are made of it
        def fill(create: Create) -> None:
            self._batch(explainer, part, role, create)

        spec = self.spec([part], [role]) | candidate._replace(transforms=()).spec()
        label = f"{self.name} of {part} on {role}, seed {self.seed}"
        return self.service.stages.filled("explanation", label, spec, fill).array("explanation")

    def _batch(
        self,
        explainer: Explainer,
        part: str,
        role: str,
        create: Create | None = None,
        labelled: bool = True,
    ) -> np.ndarray:
        classifiers = self.service.classifiers
        images = self.images(role)
        apply = classifiers.model(part).apply
        variables = classifiers.variables(part, self.seed)
        # With `create` write into a file of the stage, otherwise return an array
        out = None
        if create is not None:
            shape = outputs.map_shape(explainer, apply, variables, images)
            out = create("explanation", (len(images), *shape))
        labels = self.labels(part, role) if labelled else None
        key_unread = jax.random.key(0)
        return explain.batch(
            explainer,
            apply,
            variables,
            images,
            labels,
            key_unread,
            out=out,
        )

    def _read(self, roles: Sequence[str]) -> tuple[str, ...]:
        """Returns these roles, and the public one of a reference."""
        reference = self.unhardened.explainer.get("reference")
        public = (reference["role"],) if isinstance(reference, Mapping) else ()
        return (*roles, *public)


def _changed(change: Partial, batch: Mapping[str, Array], keys: Any) -> jax.Array:
    del keys
    return change(batch["image"], batch["map"])


Maps = Callable[[Candidate, str, str], Array]
"""`maps(candidate, part, role)`: `Subject.maps` or `Subject.released`."""


def fitted(
    subject: Subject,
    candidate: Candidate,
    attack: Attack,
    shadow: str,
    maps: Maps,
) -> dict[str, Any]:
    """Returns the state of a membership attack, trained on releases of a shadow model.

    Args:
      subject: the explanation.
      candidate: its release; the attacker makes the shadow's maps by it too.
      attack: a membership attack on explanations.
      shadow: the shadow model; of a control an untrained one, with the real shadow's members.
      maps: see `Maps`.
    """
    # The attacker knows the shadow's members, and sees its releases by the same candidate
    role = subject.settings["roles"]["shadow"]
    truth = subject.member(subject.settings["shadow"], role)
    observed = subject.seen(attack, shadow, role, maps(candidate, shadow, role))
    state = dict(attack.fit(key(subject.seed, "harden", "attack"), observed, truth))
    state.pop("history", None)
    return state
