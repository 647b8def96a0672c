"""Membership by one threshold on a statistic of explanations (Shokri, Strobel and Zick 2021)."""

import functools
from typing import Any

import numpy as np
from scipy.stats import rankdata

from xinv import train
from xinv.attacks import calibration, checks
from xinv.attacks.signals import SIGNALS, logarithms, measured
from xinv.types import Array, Attack, Key, Observation

BEST = "best"
_NAMES = tuple(SIGNALS)


@functools.cache
def map_statistic(statistic: str = BEST) -> Attack:
    """Separates members by a statistic of their explanations, with one threshold.

    A model is surer of its training examples: gradients there are smaller and vary less. The side
    of the members is learned on the shadow, by the area under the ROC curve. With "variance" it is
    the attack of Shokri 2021, section 4.

    Args:
      statistic: one of `signals.SIGNALS`, or "best", with the largest area on the shadow.

    Returns:
      An attack. Its truth is 0 or 1 [N], 1 for members, its guess a score float64 [N],
      positive for members. Its state has the "statistic", a place in `SIGNALS`, the "sign" and the
      "threshold", of the logarithm unless the statistic is free of scale.

    Raises:
      InputError: the statistic is unknown; there are no explanations, several releases of each
        image, or only members; a map is not finite.
    """
    checks.choice("statistic", statistic, (BEST, *SIGNALS))
    names = _NAMES if statistic == BEST else (statistic,)

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
    ) -> dict[str, Any]:
        del key, session
        check(observation, truth)
        values = logarithms(names, measured(names, observation.explanation))
        member = checks.members(truth, values.shape[:1])

        # Find the side of members, and how well each statistic separates them
        areas = np.array([_area(member, value) for value in values.T])
        signs = np.where(areas < 0.5, -1, 1)
        best = int(np.abs(areas - 0.5).argmax())
        threshold = calibration.threshold(member, signs[best] * values[:, best])
        return {
            "statistic": np.int32(_NAMES.index(names[best])),
            "sign": np.int32(signs[best]),
            "threshold": np.float64(signs[best] * threshold),
        }

    def predict(state: Any, observation: Observation) -> np.ndarray:
        check(observation, None)
        # Measure the learned statistic alone
        chosen = (_NAMES[int(state["statistic"])],)
        value = logarithms(chosen, measured(chosen, observation.explanation))[:, 0]
        return state["sign"] * (value - state["threshold"])

    def check(observation: Observation, truth: Any) -> tuple[int, ...]:
        del truth
        checks.explanations("map_statistic", observation)
        return ()

    return Attack(
        fit,
        predict,
        check,
        goal="membership",
        inputs=("explanation",),
        logits=True,
    )


def _area(member: np.ndarray, score: np.ndarray) -> float:
    """Returns the area under the ROC curve, ties counted half; 1/2 without members or others."""
    # The Mann-Whitney statistic: the share of pairs in the right order
    members = int(member.sum())
    others = int((~member).sum())
    if not members or not others:
        return 0.5
    ranks = rankdata(score)[member].sum()
    return (ranks - members * (members + 1) / 2) / (members * others)
