"""Scores of membership attacks by image, and properties of explanations beside their leak."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import attacks, metrics, parallel
from xinv.audit.attacker import TEST_VIEW, Arm, arms
from xinv.audit.cost import released_maps
from xinv.audit.evaluate import Value
from xinv.audit.goals import MEMBERSHIP
from xinv.audit.goals.membership import groups
from xinv.audit.release import Release
from xinv.audit.service import Service
from xinv.types import Array

_SAMPLE, _DRAWS = 64, 5  # images, and changes of each, by which sensitivity is estimated
_CHUNK = 256  # maps whose statistics are computed at once


def membership_arms(service: Service) -> list[Arm]:
    """Returns the arms after membership, in the order of the config."""
    return [arm for arm in arms(service) if arm.settings["evaluate"] and arm.goal is MEMBERSHIP]


def scores(service: Service) -> dict[str, np.ndarray]:
    """Returns each image's score, membership and place in the data set, [N] each.

    Their names are "<seed>/<arm>/score", "member" and "index"; "parts" [R,N] are the scores of the
    R models of an attack that averages them; "group" is there if images are dealt in groups.
    """
    found = {}
    for seed in service.classifiers.seeds:
        for arm in membership_arms(service):
            # Whose training set it is about, and the images that are reported
            part = arm.view(TEST_VIEW).members[0]
            role = arm.evaluated
            name = f"{seed}/{arm.name}"
            guess = arm.guessed(seed)
            found[f"{name}/score"] = np.asarray(guess.array("guess"))
            if arm.method.build().parts is not None:
                found[f"{name}/parts"] = np.asarray(guess.array("parts"))
            member = MEMBERSHIP.secret(service, part, [role], seed)
            found[f"{name}/member"] = member.astype(np.uint8)
            found[f"{name}/index"] = service.roles.indices(role, seed)
            group = groups(service, [role], seed)
            if group is not None:
                found[f"{name}/group"] = group
    return found


def overfitting(
    service: Service,
    part: str,
    seed: int,
) -> tuple[dict[str, Value], int]:
    """Returns the accuracy on a training set, how much lower it is elsewhere, and the examples."""
    # The classifiers that an attack asks about, and on what
    audited = []
    for arm in membership_arms(service):
        if arm.view(TEST_VIEW).members == (part,):
            audited.append(arm)
    if not audited:
        return {}, 0
    role = audited[0].evaluated
    label = service.classifiers.settings(part)["label"]
    prediction, _ = service.prediction(part, role, seed)
    truth = service.roles.labelled([role], seed).labels[label]

    # Members and others are of one role, so that their accuracies compare
    answers = np.argmax(prediction, axis=-1)
    right = answers == truth
    member = MEMBERSHIP.secret(service, part, [role], seed).astype(bool)
    trained = float(right[member].mean())
    gap = trained - float(right[~member].mean())
    return {"train_accuracy": trained, "generalisation_gap": gap}, len(right)


def causes(service: Service, name: str, seed: int) -> tuple[dict[str, Value], int]:
    """Returns properties of explanations by one explainer, and the number of examples.

    Returns:
      Means over members, as "gini_members", and over others, as "gini_others":
      gini: sparsity in [0,1].
      kurtosis: weight of the tails, 3 for a normal distribution.
      l2: size, in units of the map.
      max_sensitivity: of a sample of both, see `metrics.explanation.max_sensitivity`.
    """
    arm = next(arm for arm in _real(service) if arm.explanations == (name,))
    part = arm.view(TEST_VIEW).members[0]
    role = arm.evaluated
    maps, sources = service.explanation(name, role, seed, part)
    spec = {
        "maps": sources,
        "part": service.classifiers.identity(part, seed),
        "sample": _SAMPLE,
        "draws": _DRAWS,
    }

    def compute() -> dict[str, np.ndarray]:
        statistics = parallel.map_batches(_statistics, {}, maps, _CHUNK)
        found = dict(
            zip(
                _SHAPE,
                np.moveaxis(np.asarray(statistics, np.float64), -1, 0),
                strict=True,
            )
        )
        if not service.classifiers.is_recorded(part):
            found["max_sensitivity"] = _sensitivity(
                service,
                name,
                part,
                role,
                maps,
                seed,
            )
        return found

    # Kept per image, since the same statistics serve members and others
    label = f"{name} of {part}, seed {seed}"
    stage = service.stages.computed("causes", label, spec, compute)
    member = MEMBERSHIP.secret(service, part, [role], seed).astype(bool)
    kinds = dict.fromkeys(_SHAPE, member)
    if not service.classifiers.is_recorded(part):
        kinds["max_sensitivity"] = member[_sample(len(maps))]
    found = {}
    for statistic, mine in kinds.items():
        values = stage.array(statistic)
        found[f"{statistic}_members"] = float(values[mine].mean())
        found[f"{statistic}_others"] = float(values[~mine].mean())
    return found, len(member)


def explained(service: Service) -> Iterable[str]:
    """Returns the explainers read alone by a membership attack, each once."""
    return dict.fromkeys(
        arm.explanations[0] for arm in _real(service) if len(arm.explanations) == 1
    )


def _real(service: Service) -> list[Arm]:
    """Returns the membership arms other than controls: a control explains another model."""
    return [arm for arm in membership_arms(service) if not arm.settings["control_of"]]


def _sample(count: int) -> np.ndarray:
    """Returns places of some of so many images, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int))


def _sensitivity(
    service: Service,
    name: str,
    part: str,
    role: str,
    maps: Array,
    seed: int,
) -> np.ndarray:
    """Max-sensitivity of the sample of a role."""
    # A sample: each image is explained as often as the metric draws
    images = service.roles.images([role], seed)
    prediction, _ = service.prediction(part, role, seed)
    shown = _sample(len(maps))
    release = released_maps(Release(service, (name,), part, part), seed)
    metric = metrics.explanation.max_sensitivity(release, samples=_DRAWS)
    truth = {
        "image": np.stack([images[place] for place in shown]),
        "explanation": maps[shown],
        "label": np.argmax(prediction[shown], axis=-1).astype(np.int32),
    }
    return np.asarray(jax.jit(metric)(truth, maps[shown]))


def _kurtosis(values: jax.Array) -> jax.Array:
    """Weight of the tails, 3 for a normal distribution and for values that are all alike."""
    # Scaled first: fourth powers of tiny values are 0, and their ratio is no number
    centred = values - values.mean()
    largest = jnp.abs(centred).max()
    centred = centred / jnp.where(largest == 0, 1, largest)
    variance = jnp.square(centred).mean()
    ratio = (centred**4).mean() / jnp.where(variance == 0, 1, variance) ** 2
    return jnp.where(variance == 0, 3, ratio)


def _each(values: jax.Array) -> jax.Array:
    return jnp.stack([function(values) for function in _SHAPE.values()])


_SHAPE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gini": attacks.signals.SIGNALS["gini"],
    "kurtosis": _kurtosis,
    "l2": attacks.signals.SIGNALS["l2"],
}
"""Statistics of the shape of a map."""
PROPERTIES = (*_SHAPE, "max_sensitivity")
"""Properties of explanations, of members and of others."""


def _statistics(variables: Any, maps: jax.Array, keys: Any) -> jax.Array:
    del variables, keys
    return jax.vmap(_each)(maps)
