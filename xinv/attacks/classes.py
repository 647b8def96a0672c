"""Training class inference: a representative image per class (Yang 2019, Sections III-B, IV-B)."""

import functools
from typing import Any

import jax
import numpy as np

from xinv import train
from xinv.attacks import checks
from xinv.attacks.decoder import decoder
from xinv.attacks.inverter import truncate
from xinv.types import Array, Attack, Key, Observation


@functools.cache
def class_inference(
    network: str = "tcnn",
    loss: str = "mse",
    rescale: str = "none",
    width: float = 1.0,
    dtype: str = "float32",
    recipe: train.Recipe = train.Recipe(),
    logits: bool = False,
) -> Attack:
    """Reconstructs one image per class, from the largest class and its confidence alone (m = 1).

    The classes are the service's answers to the attacker's images. `predict` gives each observation
    the image of its largest class, from a one-hot vector. A class outside these answers is a vector
    of zeros.

    Args:
      network, loss, rescale, width, dtype, recipe: as in `decoder`, of probabilities alone.
      logits: True if predictions are logits, of which it takes the softmax.

    Returns:
      An attack whose truth and guess are images [N,H,W,C]: truth uint8 or float32 in [0,1], guess
      float32 in [0,1].

    Raises:
      InputError: a setting does not exist.
    """
    inversion = decoder(
        ("prediction",),
        "none",
        network,
        loss,
        rescale,
        width,
        dtype,
        recipe,
    )

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
    ) -> Any:
        checks.shapes(observation, truth)
        checks.finite(observation.prediction)
        # Train on truncated probabilities, with columns for the known classes only
        classes = np.unique(_largest(observation)).astype(np.int32)
        probabilities = jax.numpy.asarray(observation.prediction)
        if logits:
            probabilities = jax.nn.softmax(probabilities)
        largest = np.asarray(truncate(probabilities, 1))
        return inversion.fit(key, Observation(largest[:, classes]), truth, session) | {
            "classes": classes
        }

    def predict(state: Any, observation: Observation) -> np.ndarray:
        checks.finite(observation.prediction)
        classes = np.asarray(state["classes"])
        # One representative per known class, and a last one for all other classes
        known = np.concatenate(
            [np.eye(len(classes), dtype=np.float32), np.zeros((1, len(classes)), np.float32)]
        )
        representatives = inversion.predict(state, Observation(known))
        # Look up the representative of each observation
        matches = _largest(observation)[:, None] == classes
        return representatives[np.where(matches.any(axis=1), matches.argmax(axis=1), len(classes))]

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        checks.shapes(observation, truth)
        return inversion.check(observation, truth)

    return Attack(fit, predict, check, logits=logits)


def _largest(observation: Observation) -> np.ndarray:
    """Returns the class [N] of the largest prediction."""
    return np.argmax(np.asarray(observation.prediction), axis=1)
