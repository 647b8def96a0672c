"""Membership by one threshold on the variance of an explanation (Shokri, Strobel and Zick 2021, section 4)."""

import functools
from typing import Any

import numpy as np

from xinv import train
from xinv.types import Array, Attack, InputError, Key, Observation


@functools.cache
def variance_threshold() -> Attack:
    """Tells members of a training set by the variance of their explanations, against a threshold learned on a shadow.

    A model is surer of what it was trained on, and gradients there are smaller and vary less. Which side of the
    threshold members are on is learned too.

    Returns:
      An attack whose truth is 0 or 1 [N], 1 for members, and whose guess is a score float32 [N]: positive for members.
      Its state has the "threshold", in squared units of the maps, and the "sign".

    Raises:
      InputError: there are no explanations.
    """

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),  # noqa: B008 (immutable)
    ) -> dict[str, Any]:
        del key, session
        values, member = _variances(observation), np.asarray(truth).astype(bool)
        order = np.argsort(values)
        # The rate of members minus that of others among the smallest, for each place of the threshold
        rates = [np.cumsum(kind[order]) / max(1, kind.sum()) for kind in (member, ~member)]
        gain = rates[0] - rates[1]
        best = int(np.abs(gain).argmax())
        following = values[order[min(best + 1, len(order) - 1)]]
        threshold = (values[order[best]] + following) / 2
        return {"threshold": np.float32(threshold), "sign": np.float32(-1 if gain[best] > 0 else 1)}

    def predict(state: Any, observation: Observation) -> np.ndarray:
        return np.float32(state["sign"]) * (_variances(observation) - np.float32(state["threshold"]))

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        del truth
        if observation.explanation is None:
            raise InputError("variance_threshold reads an explanation, and the arm reads none")
        return ()

    return Attack(fit, predict, check, goal="membership")


def _variances(observation: Observation) -> np.ndarray:
    maps = np.asarray(observation.explanation, np.float32)
    return maps.reshape(len(maps), -1).var(axis=1)
