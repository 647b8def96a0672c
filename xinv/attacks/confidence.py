"""Membership from predictions: references for attacks on explanations."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from xinv import train
from xinv.attacks import calibration, checks
from xinv.attacks.signals import FLOOR
from xinv.numbers import HALF_ROUNDING
from xinv.types import Array, Attack, InputError, Key, Observation

_ROWS = 4096  # examples read at once


@functools.cache
def gap() -> Attack:
    """Calls an example a member if the target classifies it correctly (Yeom 2018).

    Its balanced accuracy is 1/2 plus half the gap of training and test accuracy.

    Returns:
      An attack that learns nothing; its state is {}. Its guess is a score float32 [N], 1 for
      members and -1 for others. It needs "label".

    Raises:
      InputError: predictions are not [N,K], or labels do not fit.
    """

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
        label: Array | None = None,
    ) -> dict[str, Any]:
        del key, truth, session
        checks.predictions("gap", observation, label)
        return {}

    def predict(
        state: Any,
        observation: Observation,
        label: Array | None = None,
    ) -> np.ndarray:
        del state
        checks.predictions("gap", observation, label)
        checks.finite(observation.prediction)
        # Signs instead of 0 and 1, as a score of 0 divides members from others
        correct = np.asarray(observation.prediction).argmax(axis=1) == np.asarray(label)
        return np.where(correct, 1, -1).astype(np.float32)

    return Attack(
        fit,
        predict,
        _check("gap"),
        needs=("label",),
        goal="membership",
        inputs=("prediction",),
        logits=True,
    )


@functools.cache
def confidence(logits: bool = False) -> Attack:
    """Separates members by the target's confidence in the true class, with one threshold.

    The confidence is φ = log p_y − log(1 − p_y) in float64 (Carlini 2022, Eq. 5), see `log_odds`.
    Members have the higher one. The threshold is learned on a shadow.

    Args:
      logits: True if predictions are logits.

    Returns:
      An attack. Its truth is 0 or 1 [N], 1 for members, its guess a score float64 [N],
      positive for members. Its state has the "threshold" of φ. It needs "label".

    Raises:
      InputError: predictions are not [N,K], or labels or truth do not fit.
    """

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
        label: Array | None = None,
    ) -> dict[str, Any]:
        del key, session
        checks.predictions("confidence", observation, label)
        # The threshold is learned on the shadow, whose members the attacker knows
        score = log_odds(observation.prediction, label, logits)
        member = checks.members(truth, score.shape)
        return {"threshold": np.float64(calibration.threshold(member, score))}

    def predict(
        state: Any,
        observation: Observation,
        label: Array | None = None,
    ) -> np.ndarray:
        checks.predictions("confidence", observation, label)
        return log_odds(observation.prediction, label, logits) - state["threshold"]

    return Attack(
        fit,
        predict,
        _check("confidence"),
        needs=("label",),
        goal="membership",
        inputs=("prediction",),
        logits=logits,
    )


def log_odds(
    prediction: Array,
    label: Array,
    logits: bool = False,
) -> np.ndarray:
    """Returns φ = log p_y − log(1 − p_y), float64 [N,...], of predictions [N,...,K].

    1 − p_y is the sum of the other classes: float32 keeps it even if p_y rounds to 1. Both are at
    least 1.2e-38, the smallest normal float32, so φ of probabilities is within ±87.4. Of logits z
    it is z_y − log Σ exp(z_j) over the other classes j, without a bound.

    Args:
      prediction: probabilities or logits [N,...,K].
      label: int [N], the true classes.
      logits: True if predictions are logits.

    Raises:
      InputError: a label is no class, or a prediction not finite or no probability.
    """
    # Eq. 5 of Carlini 2022, with 1 − p_y as a sum
    if logits:
        own, others = _divided(prediction, label, special.logsumexp, -np.inf)
        return own - others
    own, others = _shares(prediction, label)
    return np.log(np.maximum(own, FLOOR)) - np.log(np.maximum(others, FLOOR))


def true_class(
    prediction: Array,
    label: Array,
    logits: bool = False,
) -> np.ndarray:
    """Returns the probability p_y, float64 [N,...], at least `FLOOR`; arguments as in `log_odds`.

    Raises:
      InputError: a label is no class, or a prediction not finite or no probability.
    """
    if logits:
        return np.maximum(special.expit(log_odds(prediction, label, logits)), FLOOR)
    own, _ = _shares(prediction, label)
    return np.maximum(own, FLOOR)


def _shares(prediction: Array, label: Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns p_y and the sum of the other probabilities, float64 [N,...]."""
    own, others = _divided(prediction, label, np.sum, 0.0)
    # The floor would hide that these are logits
    if min(np.min(own, initial=0), np.min(others, initial=0)) < -HALF_ROUNDING:
        raise InputError("predictions are below 0: give probabilities, or logits=True for logits")
    return own, others


def _divided(
    prediction: Array,
    label: Array,
    total: Callable[..., np.ndarray],
    nothing: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the total of the true class and that of the others, float64 [N,...].

    Predictions [N,...,K] are read in slices of examples; `nothing` adds nothing to a total.
    """
    classes, label = prediction.shape[-1], _labels(label, prediction.shape[-1])
    own = np.empty(prediction.shape[:-1], np.float64)
    others = np.empty_like(own)
    for start in range(0, len(label), _ROWS):
        rows = slice(start, start + _ROWS)
        values = np.asarray(prediction[rows], np.float64)
        # Mask the true class by a one-hot [n,1,...,K], equal for all models of an example
        axes = (1,) * (values.ndim - 2)
        hot = (label[rows, None] == np.arange(classes)).reshape(-1, *axes, classes)
        own[rows] = total(np.where(hot, values, nothing), axis=-1)
        others[rows] = total(np.where(hot, nothing, values), axis=-1)

    # NaN and infinity survive the totals: one look finds them
    broken = np.argwhere(~np.isfinite(own + others))
    if len(broken):
        raise InputError(f"prediction {broken[0][0]} has a value that is not finite")
    return own, others


def _labels(label: Array, classes: int) -> np.ndarray:
    """Returns labels as int [N]; raises InputError unless all are classes."""
    # A label outside the classes would have a confidence of 0, silently
    label = np.asarray(label)
    if not np.issubdtype(label.dtype, np.integer):
        raise InputError(f"labels are {label.dtype} but must be whole numbers")
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        value = label[wrong[0]]
        raise InputError(f"example {wrong[0]} has label {value}, but there are {classes} classes")
    return label


def _check(attack: str) -> Any:
    def check(
        observation: Observation,
        truth: Any,
        label: Any = None,
    ) -> tuple[int, ...]:
        del truth
        checks.predictions(attack, observation, label)
        return ()

    return check
