"""Joint training of a classifier and the inverter of its predictions (Yang 2019, Section IV-C).

This is the attack of a malicious developer: the classifier learns to give its inputs away.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xinv import train
from xinv.attacks import checks
from xinv.attacks.inverter import (
    LOSSES,
    Settings,
    check_images,
    inverter,
    join,
    part,
    run,
    truncate,
)
from xinv.images import as_float
from xinv.numbers import require_count, require_not_negative
from xinv.types import Array, Batch, Key, Model, Variables


def fit_jointly(
    key: Key,
    images: Array,
    labels: Array,
    classifier: Model,
    network: str = "tcnn",
    loss: str = "mse",
    rescale: str = "logits",
    width: float = 1.0,
    dtype: str = "float32",
    truncation: int = 0,
    weight: float = 1.0,
    recipe: train.Recipe = train.Recipe(),
    session: train.Session = train.Session(),
) -> tuple[Variables, dict[str, Any]]:
    """Trains a classifier and the inverter of its predictions together, on the classifier's data.

    Args:
      key: a typed key.
      images: [N,H,W,C], uint8 or float32 in [0,1].
      labels: int [N].
      classifier: a model whose variables are a dict of collections with "params", such as any of
        `xinv.models`.
      network, loss, rescale, width, dtype: the inverter, as in `attacks.decoder`.
      truncation: number of largest classes in the inverter's input, 0 for all.
      weight: of the reconstruction loss, a mean per pixel; Eq. 11's sum over pixels has weight
        H·W·C.
      recipe: the training configuration of both.
      session: the training's folder, name and progress.

    Returns:
      The classifier's variables, and a state for the `predict` of an `attacks.decoder` with the
      same settings, inputs=("prediction",) and encoder="none".

    Raises:
      InputError: a setting does not exist.
    """
    checks.choice("loss", loss, LOSSES)
    require_count(0, truncation=truncation)
    require_not_negative(weight=weight)
    shape = tuple(images.shape[1:])
    check_images(loss, shape)
    # Initialise both networks on one image: its prediction gives the inverter's input shape
    inversion = inverter(Settings(network, "none", rescale, width, dtype), shape)
    init_keys, fit_key = _keys(key)
    variables = joint_variables(
        init_keys,
        classifier,
        inversion,
        as_float(images[:1]),
    )
    # Minimise both losses in one training
    objective = joint_loss(classifier, inversion, truncation, weight, loss)
    fitted = train.fit(
        objective,
        variables,
        {"image": images, "label": labels},
        fit_key,
        recipe,
        session,
    )
    # Split the result into the two networks
    state = {"variables": part(fitted.variables, "inverter"), "image_shape": np.asarray(shape)}
    return part(fitted.variables, "classifier"), state | {"history": fitted.history}


def training_key(key: Key) -> Key:
    """Returns the key for the order of batches in `fit_jointly`."""
    _, fit_key = _keys(key)
    return fit_key


def _keys(key: Key) -> tuple[list[Key], Key]:
    *init_keys, fit_key = jax.random.split(key, 3)
    return init_keys, fit_key


def joint_variables(
    keys: Any,
    classifier: Model,
    inversion: Model,
    images: Array,
) -> Variables:
    """Returns initial variables of both networks for `joint_loss`, from two keys and images."""
    variables = classifier.init(keys[0], images)
    prediction = jax.nn.softmax(classifier.apply(variables, images))
    return join({"classifier": variables, "inverter": inversion.init(keys[1], prediction)})


@functools.cache
def joint_loss(
    classifier: Model,
    inversion: Model,
    truncation: int = 0,
    weight: float = 1.0,
    loss: str = "mse",
) -> train.Loss:
    """Returns L_D + weight · R_D (Eq. 2 and 11) on batches {"image" [B,H,W,C], "label" [B]}."""

    def losses(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        # Each network draws its own dropout masks
        images = as_float(batch["image"])
        keys = (None, None) if key is None else jax.random.split(key)
        logits, first = run(
            classifier,
            part(variables, "classifier"),
            images,
            key=keys[0],
        )
        # The inverter's gradient flows through the truncated prediction into the classifier
        released = truncate(jax.nn.softmax(logits), truncation)
        guesses, second = run(
            inversion,
            part(variables, "inverter"),
            released,
            key=keys[1],
        )
        # L_D of Eq. 2 and R_D of Eq. 11
        recognition = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.asarray(batch["label"])
        )
        return recognition + weight * LOSSES[loss](images, guesses), join(
            {"classifier": first, "inverter": second}
        )

    return losses
