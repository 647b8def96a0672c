"""Attention transfer: the attacker's own explanations, against targets without any."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xinv import parallel, train
from xinv.attacks import checks
from xinv.attacks.inverter import (
    LOSSES,
    Settings,
    check_images,
    check_rescale,
    inverter,
    join,
    part,
    run,
)
from xinv.images import as_float
from xinv.numbers import require_not_negative
from xinv.types import Array, Attack, Batch, InputError, Key, Model, Observation, Variables


@functools.cache
def attention_transfer(
    encoder: str = "flatten_unet",
    network: str = "decoder",
    loss: str = "mse",
    weight: float = 1.0,
    rescale: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),
    logits: bool = False,
) -> Attack:
    """Inverts by reconstructed surrogate explanations, rs-CAM (Zhao 2021, Section 3.4).

    It is fitted to the target's predictions and a surrogate model's explanations of the attacker's
    images. Of the private images it sees predictions alone. An explanation inverter rebuilds the
    explanation from the prediction, an image inverter the image from both. They are trained
    together on L_r + weight · L_E (Eq. 1 and 2, as means per pixel).

    Args:
      encoder: the image inverter's form of the explanation, any but "none".
      network: the image inverter, a factory of `xinv.models`; the explanation inverter is Zhao's
        "decoder".
      loss: L_r, "mse" (Eq. 1), "mae" or "dssim".
      weight: of the explanation's mean squared error.
      rescale: as in `decoder`, of both inverters' predictions.
      width: factor on the paper's channel counts.
      dtype: of the computation, "float32" or "bfloat16"; parameters stay float32.
      recipe: the training configuration.
      logits: True if predictions are logits: the network reads them as they are.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1]. Its `predict` ignores explanations.

    Raises:
      InputError: a setting does not exist, or the encoder reads no explanation.
    """
    checks.choice("loss", loss, LOSSES)
    check_rescale(rescale, logits)
    require_not_negative(weight=weight)
    if encoder == "none":
        raise InputError(
            "attention transfer reads the explanation that it rebuilds: encoder 'none' would not"
        )
    settings = Settings(network, encoder, rescale, width, dtype)
    first = settings._replace(network="decoder", encoder="none")
    # Reject bad settings now, not at the first call
    _cascade(inverter(first, (8, 8, 1)), inverter(settings, (8, 8, 1)))

    def cascade(map_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> Model:
        return _cascade(inverter(first, map_shape), inverter(settings, image_shape))

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
    ) -> Any:
        checks.shapes(observation, truth)
        checks.finite(observation.prediction)
        shapes = _map_shape(observation), tuple(truth.shape[1:])
        model = cascade(*shapes)
        # The explanation is a target of the first inverter and an input of the second
        data = {
            "prediction": observation.prediction,
            "explanation": observation.explanation,
            "image": truth,
        }
        init_key, fit_key = jax.random.split(key)
        variables = model.init(init_key, *(jnp.asarray(part[:1]) for part in observation))
        fitted = train.fit(
            _losses(model, loss, weight),
            variables,
            data,
            fit_key,
            recipe,
            session,
        )
        # The state needs both shapes: `predict` sees neither maps nor images
        sizes = {}
        for name, shape in zip(("map_shape", "image_shape"), shapes, strict=True):
            sizes[name] = np.asarray(shape)
        return {"variables": fitted.variables, **sizes, "history": fitted.history}

    def predict(state: Any, observation: Observation) -> np.ndarray:
        checks.finite(observation.prediction)
        model = cascade(*(tuple(map(int, state[name])) for name in ("map_shape", "image_shape")))
        return parallel.map_batches(
            _images(model),
            state["variables"],
            observation.prediction,
            recipe.batch_size,
        )

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        checks.shapes(observation, truth)
        shape = tuple(truth.shape[1:])
        check_images(loss, shape)
        model = cascade(_map_shape(observation), shape)
        jax.eval_shape(model.init, jax.random.key(0), *observation)
        return shape

    return Attack(fit, predict, check, logits=logits)


def _map_shape(observation: Observation) -> tuple[int, ...]:
    if observation.explanation is None:
        raise InputError(
            "attention transfer learns from a surrogate's explanations, but the observation has"
            " none"
        )
    return tuple(observation.explanation.shape[1:])


@functools.cache
def _cascade(explanation: Model, image: Model) -> Model:
    """Returns both inverters as one network from predictions to (images, explanations)."""

    def init(key: Key, prediction: Array, maps: Array) -> Variables:
        # The image inverter is initialised on true maps, which have the rebuilt ones' shape
        keys = jax.random.split(key)
        return join(
            {
                "explanation": explanation.init(keys[0], prediction),
                "image": image.init(keys[1], prediction, maps),
            }
        )

    def apply(variables: Variables, prediction: Array) -> tuple[jax.Array, jax.Array]:
        # In the attack the rebuilt map takes the place of a released one
        maps = explanation.apply(part(variables, "explanation"), prediction)
        return image.apply(part(variables, "image"), prediction, maps), maps

    def train(
        variables: Variables,
        prediction: Array,
        key: Key,
    ) -> tuple[Any, Mapping[str, Any]]:
        # The image inverter trains on rebuilt maps, as it will see them in the attack
        keys = jax.random.split(key)
        maps, first = explanation.train(
            part(variables, "explanation"),
            prediction,
            key=keys[0],
        )
        images, second = image.train(
            part(variables, "image"),
            prediction,
            maps,
            key=keys[1],
        )
        return (images, maps), join({"explanation": first, "image": second})

    return Model(init, apply, train)


@functools.cache
def _losses(cascade: Model, loss: str, weight: float) -> train.Loss:
    def losses(
        variables: Variables,
        batch: Batch,
        key: Key | None,
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        (images, maps), updates = run(
            cascade,
            variables,
            batch["prediction"],
            key=key,
        )
        # Eq. 1 and Eq. 2
        reconstruction = LOSSES[loss](as_float(batch["image"]), images)
        return reconstruction + weight * LOSSES["mse"](batch["explanation"], maps), updates

    return losses


@functools.cache
def _images(cascade: Model):
    return lambda variables, prediction, keys: jnp.clip(
        cascade.apply(variables, prediction)[0], 0, 1
    )
