"""Differential privacy of classifiers: its demands on a config, and its ε."""

import jax
import numpy as np

from xinv import metrics, plugins, train
from xinv.audit.goals import membership
from xinv.audit.service import Service
from xinv.types import InputError

_METRIC = "epsilon"
"""The metric of membership attacks whose δ is that of the ε, so that both figures compare."""


def require_private(
    service: Service,
    part: str,
    images: jax.ShapeDtypeStruct,
) -> None:
    """Raises InputError if a classifier is to be trained with noise and cannot be."""
    if not _recipe(service, part).noise:
        return
    settings = service.classifiers.settings(part)
    what = f"the {part} is trained with noise"
    # Another path from the training images to the weights would have no noise
    for name in ("joint", "teacher"):
        if name in settings:
            raise InputError(
                f"{what} and has {name!r}, which reads training images without noise: "
                "leave it out, or set clip and noise to 0"
            )
    train.require_independent(service.classifiers.abstract(part, images).variables, part)
    delta = _delta(service)
    if not 0 < delta < 1:
        raise InputError(
            f"{what}, but metrics.membership.epsilon.delta is {delta}: "
            "give the δ of its ε, above 0 and below 1, such as 1e-5"
        )


def guarantee(
    service: Service,
    part: str,
    seed: int,
) -> tuple[dict[str, float], int]:
    """Returns the ε of a classifier trained with noise, and the size of its training set.

    Returns:
      noise: the multiplier σ.
      epsilon: of one image, see `metrics.privacy`.
      epsilon_of_group: of the largest group of images that are dealt as one, where there are any.
      delta: the δ of both.
    """
    recipe = _recipe(service, part)
    roles = service.classifiers.settings(part)["roles"]
    if not recipe.noise:
        return {}, 0
    delta = _delta(service)
    count = service.roles.count(roles, seed)
    stated = {"noise": recipe.noise, "epochs": recipe.epochs, "delta": delta}
    found = {"noise": recipe.noise, "epsilon": metrics.privacy.epsilon(**stated), "delta": delta}
    # The unit of privacy is one image; who appears in several has a larger ε
    groups = membership.groups(service, roles, seed)
    if groups is not None:
        largest = int(np.bincount(groups).max())
        found["epsilon_of_group"] = metrics.privacy.epsilon(**stated, count=largest)
    return found, count


def _recipe(service: Service, part: str) -> train.Recipe:
    """Returns the recipe that a classifier is trained by here, or one without noise."""
    stated = service.classifiers.settings(part).get("train")
    by_recipe = service.classifiers.is_trained(part) and service.classifiers.own(part) is None
    return train.Recipe.stated(stated) if stated and by_recipe else train.Recipe()


def _delta(service: Service) -> float:
    stated = service.config["metrics"][membership.GROUP].get(_METRIC, {})
    return plugins.complete(metrics.membership, {"name": _METRIC, **stated})["delta"]
