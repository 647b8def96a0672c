"""One trial: a candidate's leak, and the remaining utility of its explanation."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from xinv import metrics, parallel
from xinv.audit.goals.membership import groups
from xinv.harden.candidate import Candidate
from xinv.harden.maps import Maps, attacking, described, fitted, release, searched
from xinv.harden.subject import Subject
from xinv.metrics.explanation import resize
from xinv.types import Array, Estimate, Explainer, Variables

# Number of images judged at once
_CHUNK = 128
_SENSITIVITY = dict(radius=0.02, samples=5)


class Trial(NamedTuple):
    """A candidate and its figures.

    Attributes:
      number: 0 for the unhardened explanation, then in the order of the search.
      values: of the searched parameters.
      candidate: made of them.
      leak: the figure of the leak, with its 95 % interval.
      chance: the leak of an attacker who guesses.
      utility: by name, the mean over images: see `evaluated`.
    """

    number: int
    values: Mapping[str, Any]
    candidate: Candidate
    leak: Estimate
    chance: float
    utility: Mapping[str, float]


def run(
    subject: Subject,
    number: int,
    values: Mapping[str, Any],
    candidate: Candidate,
) -> Trial:
    """Evaluates a candidate on the search's half of members and others."""
    settings = subject.settings
    role = settings["roles"]["search"]
    attack = settings["search_attack"]
    sensitivity = settings["utility"] == "max_sensitivity"
    label = f"trial {number}"
    figures = evaluated(
        subject,
        candidate,
        role,
        attack,
        label,
        searched,
        sensitivity,
    )
    # The leak by the config's figure, the utility as means over images
    member = subject.member(subject.target, role)
    group = groups(subject.service, [role], subject.seed)
    leak, chance = leaked(settings["leak"], member, figures["score"], group)
    utility = {}
    for name, part in figures.items():
        if name != "score":
            utility[name] = float(part.mean())
    return Trial(number, values, candidate, leak, chance, utility)


def leaked(
    metric: str,
    member: np.ndarray,
    score: Array,
    group: np.ndarray | None,
) -> tuple[Estimate, float]:
    """Returns a figure of membership, "auc" or "tpr_at_<rate>", and its value by chance."""
    if metric == "auc":
        return metrics.membership.auc()(member, score, group)["auc"], 0.5
    rate = rate_of(metric)
    found = metrics.membership.tpr_at_fpr(rate)(member, score, group)
    return found[f"tpr_at_{rate}"], found[f"chance_at_{rate}"].value


def rate_of(metric: str) -> float:
    """Returns the rate that the metric "tpr_at_<rate>" names."""
    return float(metric.removeprefix("tpr_at_"))


def evaluated(
    subject: Subject,
    candidate: Candidate,
    role: str,
    attack: Mapping[str, Any],
    label: str,
    maps: Maps,
    sensitivity: bool,
) -> dict[str, np.ndarray]:
    """Returns an adaptive attacker's scores of a role's images, and the utility of their maps.

    The attacker is trained on the shadow model's releases by the same candidate.

    Args:
      subject: the explanation.
      candidate: its release.
      role: of the judged images.
      attack: the section of a membership attack.
      label: for people.
      maps: of the target, see `Maps`.
      sensitivity: True adds "max_sensitivity"; its program is compiled anew for each candidate.

    Returns:
      score: higher for members, [N].
      spearman: rank correlation with the unhardened map, [N].
      insertion, deletion: faithfulness to the target (Petsiuk 2018), of a sample of images.
      max_sensitivity: of the release, under changes of the image by at most 0.02 (Yeh 2019), of the
        same sample.
    """
    # All inputs of the figures, for the stage's hash
    settings = subject.settings
    shadow = subject.shadow
    spec = subject.spec([subject.target, shadow], [role, settings["roles"]["shadow"]])
    spec |= described(subject, candidate, [subject.target, shadow]) | {
        "against": subject.unhardened.spec(),
        **attacking(subject, attack),
        "sample": settings["sample"],
        "sensitivity": sensitivity,
    }

    def compute() -> dict[str, np.ndarray]:
        # Train the attacker, score the target's releases, then measure their utility
        method = subject.attack(attack)
        state = fitted(subject, candidate, attack, shadow)
        shown = maps(subject, candidate, subject.target, role)
        observed = subject.seen(method, subject.target, role, shown)
        found = {"score": np.asarray(method.predict(state, observed))}
        original = maps(subject, subject.unhardened, subject.target, role)
        found |= utility(subject, role, original, shown)
        if sensitivity:
            found["max_sensitivity"] = _sensitivity(subject, candidate, role, shown)
        return found

    label = f"{subject.name}, {label} on {role}, seed {subject.seed}"
    stage = subject.service.stages.computed("trial", label, spec, compute)
    names = ["score", "spearman", "insertion", "deletion", *["max_sensitivity"] * sensitivity]
    return {name: stage.array(name) for name in names}


def utility(
    subject: Subject,
    role: str,
    original: Array,
    maps: Array,
) -> dict[str, np.ndarray]:
    """Returns the remaining utility of the target's released maps; see `evaluated`."""
    # Compare at the size of the released map
    if original.shape[1:] != maps.shape[1:]:
        original = np.asarray(resize(original, maps.shape[1:3]))
    found = {
        "spearman": _each(
            metrics.build("spearman"),
            {"explanation": original},
            maps,
        )
    }

    # Ask the model on a sample only
    classifiers = subject.service.classifiers
    apply = classifiers.model(subject.target).apply
    variables = classifiers.variables(subject.target, subject.seed)
    shown, truth = _sample(subject, role, len(maps))
    truth["explanation"] = original[shown]
    for name in ("insertion", "deletion"):
        found[name] = _each(
            getattr(metrics, name)(apply, variables),
            truth,
            maps[shown],
        )
    return found


def _sensitivity(
    subject: Subject,
    candidate: Candidate,
    role: str,
    maps: Array,
) -> np.ndarray:
    apply = subject.service.classifiers.model(subject.target).apply
    variables = subject.service.classifiers.variables(subject.target, subject.seed)
    # The release itself, as a function of a changed image
    again = Partial(
        _again(apply),
        release(subject, candidate, subject.target),
        variables,
    )
    shown, truth = _sample(subject, role, len(maps))
    truth["explanation"] = maps[shown]
    return _each(metrics.max_sensitivity(again, **_SENSITIVITY), truth, maps[shown])


def _sample(
    subject: Subject,
    role: str,
    count: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns places spread evenly over a role, with their images and explained classes."""
    size = min(subject.settings["sample"], count)
    shown = np.unique(np.linspace(0, count - 1, size).astype(int))
    images = subject.images(role)
    labels = subject.labels(subject.target, role)
    return shown, {"image": np.asarray(images[shown]), "label": labels[shown]}


def _each(metric: Any, truth: Mapping[str, Array], maps: Array) -> np.ndarray:
    # Never nest Partials: one of a Partial equals no other, and would be compiled again
    tree = metric if isinstance(metric, Partial) else Partial(metric)
    return parallel.map_batches(
        _judge,
        tree,
        {"truth": truth, "guess": maps},
        _CHUNK,
    )


def _judge(metric: Partial, batch: Mapping[str, Any], keys: Any) -> jax.Array:
    del keys
    return metric(batch["truth"], batch["guess"])


@functools.lru_cache(64)
def _again(apply: Any) -> Any:
    def release(
        explainer: Explainer,
        variables: Variables,
        images: Array,
        labels: Array,
        keys: Any,
    ) -> jax.Array:
        each = jax.vmap(explainer, (None, None, 0, 0, 0))
        return each(apply, variables, images, labels, keys)

    return release
