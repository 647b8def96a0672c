"""Maps of a subject by a candidate: while a search runs, and as a policy releases them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import attacks, explain, parallel, plugins, train
from xinv.audit import outputs
from xinv.audit.chain import DefenceChain
from xinv.audit.release import Release
from xinv.audit.service import Service
from xinv.audit.stage import Create, key, state_of
from xinv.harden import released
from xinv.harden.candidate import Candidate, chain_of
from xinv.harden.subject import Subject
from xinv.store import canonical
from xinv.types import Array, Defence, Explainer, InputError

# Number of maps in a transform at once
_CHUNK = 256

Maps = Callable[[Subject, Candidate, str, str], Array]
"""`maps(subject, candidate, part, role)`: `searched` or `reported`."""


def explainer(subject: Subject, candidate: Candidate, part: str) -> Explainer:
    """Returns the explainer of a candidate, without its transforms and its secret."""
    classifiers = subject.service.classifiers
    # Only the explainer's section differs from the config's
    config = {**classifiers.config, "explanations": {subject.name: candidate.explainer}}
    service = Service(classifiers._replace(config=config))
    return service.explainer(subject.name, subject.seed, part)


def release(
    subject: Subject,
    candidate: Candidate,
    part: str,
    secret: np.ndarray | None = None,
) -> Explainer:
    """Returns the explainer of released maps, by another secret if one is given."""
    if secret is None:
        secret = subject.secret
    chain, state = applied(subject, candidate, part)
    return released.defended(explainer(subject, candidate, part), chain, state, secret)


def applied(subject: Subject, candidate: Candidate, part: str) -> tuple[Defence | None, Any]:
    """Returns what changes a candidate's maps of a classifier as one defence, and its state.

    Defences of the config are learnt for the classifier: an attacker trains them for a shadow model
    as the service did for the target.
    """
    if not candidate.defences:
        return chain_of(candidate.transforms), {}
    return _learned(subject, candidate, part).applied(subject.seed)


def described(
    subject: Subject,
    candidate: Candidate,
    parts: Sequence[str],
) -> dict[str, Any]:
    """Returns all that determines a candidate's releases by these classifiers, for a hash."""
    spec = candidate.spec()
    if candidate.defences:
        chains = [_learned(subject, candidate, part) for part in parts]
        spec["defences"] = [chain.spec(subject.seed) for chain in chains]
    return spec


def sections(subject: Subject, candidate: Candidate) -> tuple[Mapping[str, Any], ...]:
    """Returns the sections of all that changes a candidate's maps of the target."""
    if not candidate.defences:
        return candidate.transforms
    links = _learned(subject, candidate, subject.target).links()
    return tuple(link.hyper(subject.seed) for link in links)


def _learned(subject: Subject, candidate: Candidate, part: str) -> DefenceChain:
    return Release(subject.service, (subject.name,), part, part, candidate.defences).chain


def searched(subject: Subject, candidate: Candidate, part: str, role: str) -> Array:
    """Returns the released maps [N,h,w,c] of a role's images, as a search or an attacker has them.

    They are those of `reported`, but for rounding.
    """
    # What is learned may read predictions, too
    if candidate.defences:
        return _batch(subject, release(subject, candidate, part), part, role)
    # Explain once for all candidates, and transform apart
    explained = _explained(subject, candidate, part, role)
    chain = chain_of(candidate.transforms)
    if chain is None:
        return explained
    change = released.changed(chain, {}, subject.secret)
    labels = subject.labels(part, role)
    batch = {"image": subject.images(role), "label": labels, "map": explained}
    return parallel.map_batches(_changed, change, batch, _CHUNK)


def reported(subject: Subject, candidate: Candidate, part: str, role: str) -> Array:
    """Returns the maps of `searched`, stored, and to the bit as a policy releases them.

    A policy explains and transforms in one program; two programs may round in another way.
    """

    def fill(create: Create) -> None:
        # Without labels, as in a policy's default
        shown = release(subject, candidate, part)
        _batch(subject, shown, part, role, create, labelled=False)

    spec = subject.spec([part], [role]) | described(subject, candidate, [part])
    label = f"{subject.name} of {part} on {role}, seed {subject.seed}"
    return subject.service.stages.filled("policy", label, spec, fill).array("explanation")


def fitted(
    subject: Subject,
    candidate: Candidate,
    attack: Mapping[str, Any],
    shadow: str,
    maps: Maps = searched,
    queries: int = 1,
) -> dict[str, Any]:
    """Returns the state of a membership attack, trained on releases of a shadow model.

    Args:
      subject: the explanation.
      candidate: its release; the attacker makes the shadow's maps by it too.
      attack: the section of a membership attack on explanations.
      shadow: the shadow model; of a control an untrained one, with the real shadow's members.
      maps: see `Maps`.
      queries: number of releases of an image that `maps` averages.
    """
    # The attacker knows the shadow's members, and sees its releases by the same candidate
    role = subject.settings["roles"]["shadow"]
    spec = subject.spec([shadow], [role]) | described(subject, candidate, [shadow])
    spec |= attacking(subject, attack) | {"queries": queries}

    def fit(session: train.Session) -> dict[str, Any]:
        method = subject.attack(attack)
        truth = subject.member(subject.shadow, role)
        observed = subject.seen(method, shadow, role, maps(subject, candidate, shadow, role))
        random = key(subject.seed, "harden", "attack")
        return dict(method.fit(random, observed, truth, session=session))

    # One attacker for the target and for the models of the controls
    label = f"on {subject.name} of {shadow}, seed {subject.seed}"
    return state_of(subject.service.stages.trained("attack", label, spec, fit))


def fits(subject: Subject, candidate: Candidate) -> bool:
    """Tells if the explainer takes a candidate's parameters, for the target and its images."""
    # Transforms take every value of their spaces
    if _is_as_configured(subject, candidate):
        return True
    part = subject.target
    classifiers = subject.service.classifiers
    images = subject.images(subject.settings["roles"]["search"])
    try:
        outputs.map_shape(
            explainer(subject, candidate, part),
            classifiers.model(part).apply,
            classifiers.variables(part, subject.seed),
            images,
        )
    except InputError:
        return False
    return True


def attacking(subject: Subject, attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that determines an attack of a section, for a hash."""
    recipe = subject.service.config["attack"]["train"]
    return {"attack": plugins.complete(attacks, attack), "train": recipe}


def _is_as_configured(subject: Subject, candidate: Candidate) -> bool:
    """Tells if a candidate's explainer is that of the config, so that transforms alone differ."""
    return canonical(candidate.explainer) == canonical(subject.unhardened.explainer)


def _explained(subject: Subject, candidate: Candidate, part: str, role: str) -> Array:
    shown = released.of_image(explainer(subject, candidate, part), subject.secret)
    if not _is_as_configured(subject, candidate):
        return _batch(subject, shown, part, role)

    # Keep it: all candidates with the same explainer are made of it
    def fill(create: Create) -> None:
        _batch(subject, shown, part, role, create)

    spec = subject.spec([part], [role]) | candidate._replace(transforms=()).spec()
    label = f"{subject.name} of {part} on {role}, seed {subject.seed}"
    return subject.service.stages.filled("explanation", label, spec, fill).array("explanation")


def _batch(
    subject: Subject,
    shown: Explainer,
    part: str,
    role: str,
    create: Create | None = None,
    labelled: bool = True,
) -> np.ndarray:
    classifiers = subject.service.classifiers
    images = subject.images(role)
    apply = classifiers.model(part).apply
    variables = classifiers.variables(part, subject.seed)
    # With `create` write into a file of the stage, otherwise return an array
    out = None
    if create is not None:
        shape = outputs.map_shape(shown, apply, variables, images)
        out = create("explanation", (len(images), *shape))
    labels = subject.labels(part, role) if labelled else None
    key_unread = jax.random.key(0)
    return explain.batch(
        shown,
        apply,
        variables,
        images,
        labels,
        key_unread,
        out=out,
    )


def _changed(change: Partial, batch: Mapping[str, Array], keys: Any) -> jax.Array:
    del keys
    return change(batch["image"], batch["label"], batch["map"])
