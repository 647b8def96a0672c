"""Membership: whether a classifier was trained on an image, by the indices of its batches.

Members and others are explained in one pass over a union of roles, so that nothing but the
classifier tells them apart.
"""

from collections.abc import Sequence

import numpy as np

from xinv import metrics, plugins
from xinv.audit import training
from xinv.audit.goals.goal import Goal
from xinv.audit.release import NONE
from xinv.audit.results import Config
from xinv.audit.roles import UNION
from xinv.audit.service import Service
from xinv.store import Stage
from xinv.types import Estimate, InputError

GROUP = "membership"


def _secret(
    service: Service,
    part: str,
    roles: Sequence[str],
    seed: int,
) -> np.ndarray:
    """1 for images that the classifier was trained on, 0 for others, int32 [N].

    Of images in groups, all are members if one of their group is.
    """
    settings = service.classifiers.settings(part)
    never = training.left_out(service.roles, settings, part, seed)
    found = []
    for role in roles:
        member = service.roles.among(role, settings["roles"], seed)
        member &= ~np.isin(service.roles.indices(role, seed), never)
        group = groups(service, [role], seed)
        if group is not None:
            member = np.bincount(group, weights=member)[group] > 0
        found.append(member)
    return np.concatenate(found).astype(np.int32)


def membership_spec(service: Service, part: str, seed: int) -> list:
    """Returns what a stage depends on by the members of a classifier's training set."""
    settings = service.classifiers.settings(part)
    never = training.left_out(service.roles, settings, part, seed)
    # The roles say it all, but for images that no batch had
    return [*settings["roles"], *never.tolist()]


def _evaluated(service: Service, part: str) -> str:
    return UNION.join((*service.classifiers.settings(part)["roles"], service.roles.reported))


def _check(service: Service, view: Config, members: Sequence[str]) -> None:
    """Finds that a view allows no membership attack.

    Raises:
      InputError: predictions and explanations are of different classifiers, or the training set
        of a classifier is unknown.
    """
    if view["explanation"] not in (view["prediction"], NONE):
        raise InputError(
            f"membership is of one classifier, but an arm has predictions of "
            f"{view['prediction']!r} and explanations of {view['explanation']!r}: name the same"
        )
    for part in members:
        _check_trained(service, part)


def _check_trained(service: Service, part: str) -> None:
    settings = service.classifiers.settings(part)
    if not service.classifiers.is_trained(part) and not settings["roles"]:
        raise InputError(
            f"membership of the {part} cannot be judged: xinv did not train it, "
            "and its roles do not say on which images it was trained"
        )
    # Held-out images are in the roles of the training, and would count as members
    if settings.get("train", {}).get("validation", 0):
        raise InputError(
            f"membership needs to know each image that the {part} was trained on, "
            "but it holds out a validation part: set validation to 0"
        )
    reported = service.roles.reported
    if reported in settings["roles"]:
        raise InputError(
            f"membership of the {part} needs non-members, but report.role {reported!r} is one of "
            "its training roles: name a role that it was not trained on"
        )
    role = _evaluated(service, part)
    seed = service.config["seed"]
    if _secret(service, part, [role], seed).all():
        raise InputError(
            f"membership of the {part} needs non-members: all of {role} was trained on"
        )


def groups(service: Service, roles: Sequence[str], seed: int) -> np.ndarray | None:
    """Returns the numbers of groups dealt whole, int [N]; None if images are dealt one by one."""
    names = service.roles.settings["roles"].get("group")
    if not names:
        return None
    # Images are near-duplicates if they agree in all labels of the group
    labels = service.roles.labelled(roles, seed).labels
    columns = [labels[name] for name in ([names] if isinstance(names, str) else names)]
    _, numbers = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return numbers.ravel()


def _scores(
    service: Service,
    part: str,
    guess: Stage,
    label: str,
    seed: int,
) -> dict[str, Estimate]:
    package = metrics.membership
    role = _evaluated(service, part)
    settings = service.config["metrics"][GROUP]
    named = [{**hyper, "name": name} for name, hyper in settings.items()]
    spec = {
        "metrics": [plugins.complete(package, hyper) for hyper in named],
        "guess": guess.digest,
        "part": membership_spec(service, part, seed),
    }

    def compute() -> dict[str, np.ndarray]:
        member = _secret(service, part, [role], seed)
        group = groups(service, [role], seed)
        found: dict[str, Estimate] = {}
        for name, hyper in settings.items():
            found |= package.build(name, **hyper)(member, guess.array("guess"), group)
        # One row per statistic; a p-value that does not exist is NaN
        rows = []
        for estimate in found.values():
            rows.append([np.nan if number is None else number for number in estimate])
        return {"names": np.array(list(found), str), "estimates": np.array(rows, np.float64)}

    stage = service.stages.computed("metrics", label, spec, compute)
    names = stage.array("names").tolist()
    rows = stage.array("estimates").tolist()
    return {name: _estimate(row) for name, row in zip(names, rows, strict=True)}


def restarts(
    service: Service,
    part: str,
    guess: Stage,
    seed: int,
) -> dict[str, Estimate]:
    """Returns the mean AUC of the single models of an attack, with the lowest and the highest."""
    role = _evaluated(service, part)
    member = _secret(service, part, [role], seed)
    group = groups(service, [role], seed)
    areas = []
    for score in guess.array("parts"):
        area, _ = metrics.area.area(metrics.roc.ranked(member, score, group))
        areas.append(area)
    return {
        "auc_of_restarts": Estimate(
            float(np.mean(areas)),
            min(areas),
            max(areas),
        )
    }


def _estimate(row: list[float]) -> Estimate:
    """Returns the statistic of a stored row."""
    value, low, high, p = row
    return Estimate(value, low, high, None if np.isnan(p) else p)


MEMBERSHIP = Goal(
    "membership",
    "tell training images from others",
    _secret,
    _evaluated,
    _check,
    lambda image: (),
    _scores,
    (GROUP,),
)
