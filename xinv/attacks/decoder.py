"""Trained inversion: a network that maps what the service releases back to the private image."""

import functools
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from xinv import models, parallel, train
from xinv.images import as_float
from xinv.types import Array, Attack, Batch, InputError, Key, Model, Observation, Variables

_DSSIM_WINDOW = 11  # dm_pix accepts smaller images and returns nonsense


def _mse(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return jnp.mean((images - guesses) ** 2, axis=(1, 2, 3))


def _mae(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(images - guesses), axis=(1, 2, 3))


def _dssim(images: jax.Array, guesses: jax.Array) -> jax.Array:
    return 1 - dm_pix.ssim(images, guesses, filter_size=_DSSIM_WINDOW)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"mse": _mse, "mae": _mae, "dssim": _dssim}


@functools.cache
def decoder(
    inputs: tuple[str, ...] = ("prediction", "explanation"),
    encoder: str = "flatten_unet",
    loss: str = "mse",
    width: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),  # noqa: B008 (immutable)
) -> Attack:
    """An inversion network trained on the attacker's own images (Yang 2019; Zhao 2021, Section 3.2 and Eq. 1).

    Args:
      inputs: what of an Observation it reads: ("prediction",) for PredMI, ("prediction", "explanation") for ExpMI.
      encoder: how it reads the explanation, Zhao's XAI input method: "none" without explanation, else "flatten", "cnn",
        "unet" or "flatten_unet".
      loss: "mse" (Zhao's Eq. 1), "mae", or "dssim" (1 - SSIM, Thielen 2024).
      width: factor on the paper's channel counts.
      dtype: of the computation, "float32" or "bfloat16"; parameters stay float32.
      recipe: the training configuration.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess float32 in [0,1]. Its
      state is a pytree of arrays.

    Raises:
      InputError: the inputs, encoder or loss do not exist or do not go together.
    """
    _check(inputs, encoder, loss)

    def fit(key: Key, observation: Observation, truth: Array, session: train.Session = train.Session()) -> Any:  # noqa: B008
        data = {**_select(inputs, observation), "image": truth}
        model, objective = _network(encoder, width, dtype, tuple(truth.shape[1:]), loss)
        init_key, fit_key = jax.random.split(key)
        first = {name: jnp.asarray(array[:1]) for name, array in data.items()}
        variables = model.init(init_key, first["prediction"], first.get("explanation"))
        fitted = train.fit(objective, variables, data, fit_key, recipe, session)
        return {"variables": fitted.variables, "image_shape": np.asarray(truth.shape[1:]), "history": fitted.history}

    def predict(state: Any, observation: Observation) -> np.ndarray:
        reconstruct = _reconstruct(encoder, width, dtype, tuple(int(side) for side in state["image_shape"]))
        return parallel.map_batches(reconstruct, state["variables"], _select(inputs, observation), recipe.batch_size)

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        shape = tuple(truth.shape[1:])
        if loss == "dssim" and min(shape[:2]) < _DSSIM_WINDOW:
            raise InputError(f"loss 'dssim' needs images of at least {_DSSIM_WINDOW} pixels a side: these have {shape}")
        model, _ = _network(encoder, width, dtype, shape, loss)
        jax.eval_shape(model.init, jax.random.key(0), observation.prediction, observation.explanation)
        return shape

    return Attack(fit, predict, check)


@functools.cache
def _network(
    encoder: str, width: float, dtype: str, image_shape: tuple[int, ...], loss: str
) -> tuple[Model, train.Loss]:
    model = models.build("decoder", encoder=encoder, image_shape=image_shape, width=width, dtype=dtype)
    distance = LOSSES[loss]

    def objective(variables: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Any]:
        released = batch["prediction"], batch.get("explanation")
        if key is None:
            guesses, updates = model.apply(variables, *released), {}
        else:
            guesses, updates = model.train(variables, *released, key=key)
        return distance(as_float(batch["image"]), guesses), updates

    return model, objective


@functools.cache
def _reconstruct(encoder: str, width: float, dtype: str, image_shape: tuple[int, ...]) -> Callable[..., jax.Array]:
    model = models.build("decoder", encoder=encoder, image_shape=image_shape, width=width, dtype=dtype)

    def reconstruct(variables: Variables, batch: Batch, keys: Key) -> jax.Array:
        del keys
        return jnp.clip(model.apply(variables, batch["prediction"], batch.get("explanation")), 0, 1)

    return reconstruct


def _select(inputs: tuple[str, ...], observation: Observation) -> dict[str, Array]:
    """The parts of `observation` that the attack reads; an unused prediction has no columns."""
    columns = observation.prediction.shape[1] if "prediction" in inputs else 0
    selected = {"prediction": observation.prediction[:, :columns]}
    if "explanation" in inputs:
        if observation.explanation is None:
            raise InputError("this attack reads explanations, but the observation has none: use inputs=('prediction',)")
        selected["explanation"] = observation.explanation
    return selected


def _check(inputs: tuple[str, ...], encoder: str, loss: str) -> None:
    if not inputs or set(inputs) - {"prediction", "explanation"}:
        raise InputError(f"inputs {inputs!r} must name 'prediction', 'explanation' or both")
    if ("explanation" in inputs) == (encoder == "none"):
        raise InputError(f"encoder {encoder!r} does not fit inputs {inputs!r}: 'none' goes with predictions alone")
    if loss not in LOSSES:
        raise InputError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}")
