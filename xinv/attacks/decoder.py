"""Trained inversion: a network from the release of a service back to the private image."""

import functools
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
    first_release,
    inverter,
    objective,
    reconstruct,
    select,
)
from xinv.types import Array, Attack, InputError, Key, Observation


@functools.cache
def decoder(
    inputs: tuple[str, ...] = ("prediction", "explanation"),
    encoder: str = "flatten_unet",
    network: str = "decoder",
    loss: str = "mse",
    rescale: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),
    logits: bool = False,
) -> Attack:
    """Trains an inversion network on the attacker's own images (Zhao 2021, Eq. 1; Yang 2019).

    Args:
      inputs: its parts of an `Observation`: ("prediction",) for PredMI, ("prediction",
        "explanation") for ExpMI, ("explanation",) for explanations alone.
      encoder: its form of the explanation, Zhao's XAI input method: "none" without explanation,
        else "flatten", "cnn", "unet" or "flatten_unet".
      network: a factory of `xinv.models`: "decoder" (Zhao), "gnime_decoder" (GNIME's code;
        "flatten_unet" or "none"), "tcnn" (Yang) or "dropout_tcnn" (Thielen), of which the last two
        take explanations by "flatten" alone.
      loss: "mse" (Zhao's Eq. 1), "mae", or "dssim" (1 - SSIM, Thielen 2024).
      rescale: "none", or "logits" for the logarithm of probabilities and a learned constant (Yang's
        Eq. 12).
      width: factor on the paper's channel counts.
      dtype: of the computation, "float32" or "bfloat16"; parameters stay float32.
      recipe: the training configuration.
      logits: True if predictions are logits: the network reads them as they are.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1]. Its state is a pytree of arrays. `fit` also takes R releases of each image,
      [N,R,K] and [N,R,h,w,c], for stochastic defences: every step draws one of them anew.

    Raises:
      InputError: a setting does not exist, or they do not go together.
    """
    _check(inputs, encoder, loss)
    check_rescale(rescale, logits)
    settings = Settings(network, encoder, rescale, width, dtype)
    # Reject bad settings now, not at the first call
    inverter(settings, (8, 8, 1))

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
    ) -> Any:
        # Check one release of each image; all releases have its shapes
        checks.releases(observation, several=True)
        single = first_release(observation)
        checks.shapes(single, truth)
        checks.finite(observation.prediction)
        # Initialise the network from the first example's shapes
        data = {**select(inputs, observation), "image": truth}
        model = inverter(settings, tuple(truth.shape[1:]))
        init_key, fit_key = jax.random.split(key)
        first = {}
        for name, array in select(inputs, single).items():
            first[name] = jnp.asarray(array[:1])
        variables = model.init(
            init_key,
            first["prediction"],
            first.get("explanation"),
        )
        # Minimise Eq. 1 over the attacker's own images
        fitted = train.fit(
            objective(model, loss),
            variables,
            data,
            fit_key,
            recipe,
            session,
        )
        return {
            "variables": fitted.variables,
            "image_shape": np.asarray(truth.shape[1:]),
            "history": fitted.history,
        }

    def predict(state: Any, observation: Observation) -> np.ndarray:
        checks.releases(observation, several=False)
        model = inverter(settings, tuple(int(side) for side in state["image_shape"]))
        checks.finite(observation.prediction)
        data = select(inputs, observation)
        return parallel.map_batches(
            reconstruct(model),
            state["variables"],
            data,
            recipe.batch_size,
        )

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        # Trace the network on shapes alone: a mismatch shows before anything is trained
        checks.releases(observation, several=True)
        single = jax.eval_shape(first_release, observation)
        checks.shapes(single, truth)
        shape = tuple(truth.shape[1:])
        check_images(loss, shape)
        released = jax.eval_shape(functools.partial(select, inputs), single)
        model = inverter(settings, shape)
        jax.eval_shape(
            model.init,
            jax.random.key(0),
            released["prediction"],
            released.get("explanation"),
        )
        return shape

    return Attack(fit, predict, check, logits=logits)


def _check(inputs: tuple[str, ...], encoder: str, loss: str) -> None:
    # The two options must agree: an encoder without explanation would read nothing
    if not inputs or set(inputs) - {"prediction", "explanation"}:
        raise InputError(f"inputs {inputs!r} must name 'prediction', 'explanation' or both")
    if ("explanation" in inputs) == (encoder == "none"):
        raise InputError(
            f"encoder {encoder!r} does not fit inputs {inputs!r}: 'none' goes with predictions"
            " alone"
        )
    checks.choice("loss", loss, LOSSES)
