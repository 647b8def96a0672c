"""The training of one classifier, by its section of a config."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from xinv import attacks, models, plugins, train
from xinv.attacks import joint
from xinv.audit.release import soft_labels
from xinv.audit.results import Config
from xinv.audit.roles import UNION, Roles
from xinv.audit.stage import key
from xinv.images import as_float
from xinv.store import Stage
from xinv.types import Batch, Model

if TYPE_CHECKING:
    from xinv.audit.service import Service


def classifier(service: "Service", part: str, seed: int) -> Stage:
    """Returns a classifier, trained by its recipe or by the user's own `train`."""
    classifiers = service.classifiers
    roles = service.roles
    settings = classifiers.settings(part)
    own = classifiers.own(part)
    labels, sources = soft_labels(service, settings, seed)

    # A changed default of the network is another result, though no config states it
    if own is None:
        how = plugins.complete(models, settings["model"])
    else:
        how = {"like": own.fingerprint, "trained by": own.source}
    spec = roles.spec(seed, settings["roles"]) | {
        "part": part,
        "settings": settings,
        "model": how,
        "sources": sources,
    }

    def trained(session: train.Session) -> dict[str, Any]:
        batch = data(roles, settings, labels, seed)
        if own is None:
            return fit(
                settings,
                part,
                classifiers.model(part),
                batch,
                seed,
                session,
            )
        fit_key = key(seed, part, "fit")
        return {"classifier": own.train(batch["image"], batch["label"], fit_key)}

    return service.stages.trained(part, f"{part}, seed {seed}", spec, trained)


def data(
    roles: Roles,
    settings: Config,
    soft_labels: np.ndarray | None,
    seed: int,
) -> Batch:
    """Returns the images and labels of a classifier's training set, or its soft labels [N,K]."""
    # Soft labels need no labelled images, so that auxiliary ones serve too
    if soft_labels is not None:
        return {"image": roles.images(settings["roles"], seed), "label": soft_labels}
    dataset = roles.labelled(settings["roles"], seed)
    return {"image": dataset.images, "label": dataset.labels[settings["label"]]}


def left_out(
    roles: Roles,
    settings: Config,
    part: str,
    seed: int,
) -> np.ndarray:
    """Returns the places of images in a classifier's training set left out of every batch.

    Each epoch drops an incomplete last batch, of other examples each time; few epochs may
    leave some out. None are known of a training of the user's own.
    """
    if not settings.get("train"):
        return np.zeros(0, np.int64)
    # In the order of `data`
    if "teacher" in settings:
        places = np.concatenate([roles.indices(role, seed) for role in settings["roles"]])
    else:
        places = roles.indices(UNION.join(settings["roles"]), seed)
    fit_key = key(seed, part, "fit")
    if "joint" in settings:
        fit_key = joint.training_key(fit_key)
    recipe = train.Recipe.stated(settings["train"])
    never = train.left_out(recipe, len(places), fit_key, part)
    # An image that stands twice may be in a batch once
    return np.setdiff1d(places[never], np.delete(places, never))


def fit(
    settings: Config,
    part: str,
    model: Model,
    batch: Batch,
    seed: int,
    session: train.Session,
) -> dict[str, Any]:
    """Returns the variables of a classifier as "classifier", and the history if it is trained.

    Args:
      settings: its section of the config. Without a recipe it keeps its initial variables; with
        `joint` it is trained together with the attack that inverts it.
      part: its name.
      model: its network.
      batch: "image" [N,H,W,C], and "label" int [N] or probabilities [N,K].
      seed: of the random numbers.
      session: of the training.
    """
    start = jax.jit(model.init)(
        key(
            seed,
            part,
            "init",
        ),
        as_float(batch["image"][:1]),
    )
    # An untrained target is the control of a membership attack
    if not settings["train"]:
        return {"classifier": start}

    # A joint training makes its inversion too, whose state stays with the classifier
    recipe = train.Recipe.stated(settings["train"])
    fit_key = key(seed, part, "fit")
    if "joint" in settings:
        variables, state = attacks.fit_jointly(
            fit_key,
            batch["image"],
            batch["label"],
            classifier=model,
            recipe=recipe,
            session=session,
            **settings["joint"],
        )
        return {"classifier": variables, **state}
    loss = train.classifier_loss(model)
    fitted = train.fit(
        loss,
        start,
        batch,
        fit_key,
        recipe,
        session,
    )
    return {"classifier": fitted.variables, "history": fitted.history}
