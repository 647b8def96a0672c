"""Membership by likelihood ratios against a population: RMIA (Zarifzadeh 2024)."""

import functools
from typing import Any

import numpy as np

from xinv import train
from xinv.attacks import calibration, checks
from xinv.attacks.confidence import true_class
from xinv.attacks.signals import FLOOR
from xinv.numbers import is_number, require, require_positive
from xinv.types import Array, Attack, Key, Observation, Population


@functools.cache
def relative(gamma: float = 2.0, a: float = 0.3, logits: bool = False) -> Attack:
    """Compares an example's likelihood ratio with a population's: RMIA (Zarifzadeh 2024), offline.

    References are p_out(x), the mean of p(x|θ') over the shadow models θ' without x in training:

        p(x) = ((1 + a) p_out(x) + 1 − a) / 2
        LR(x,z) = [p(x|target) / p(x)] / [p(z|target) / p(z)]
        score(x) = share of z with LR(x,z) ≥ gamma

    The population z is public images outside every training set, so p_out(z) is the mean over all
    shadow models. A score is a multiple of 1/P, for P such images. Probabilities are the released
    ones, or the softmax of released logits (a temperature of 1), and at least 1.2e-38, the smallest
    normal float32. The threshold is found with each shadow model in turn as the target, see
    `calibration.leave_one_out`.

    Args:
      gamma: γ, the least ratio that counts, above 0.
      a: in [0,1], the trust in the references; p(x) is p_out(x) for 1, its mean with 1 for 0.
      logits: True if predictions are logits.

    Returns:
      An attack. Its truth is 0 or 1 [N,S], 1 for members, its guess a score float64 [N],
      positive for members. Its state has the "reference" p(x) [N] of each example in order, the
      "population" p(z) [P], and the "threshold". It is paired and needs "label" and "population".

    Raises:
      InputError: gamma or a is out of its range; there are fewer than four shadow models or an odd
        number; all of them trained on one example; shapes or labels do not fit.
    """
    require_positive(gamma=gamma)
    require(is_number(a) and 0 <= a <= 1, "a", a, "in [0, 1]")

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
        label: Array | None = None,
        population: Population | None = None,
    ) -> dict[str, Any]:
        del key, session
        check(observation, truth, label, population)
        probability = true_class(observation.prediction, label, logits)
        public = true_class(*population, logits)
        member = checks.members(truth, probability.shape)
        checks.outside(member)

        def score(number: int, references: np.ndarray) -> np.ndarray:
            # An example in the training set of every other shadow model has no reference
            known = references.any(axis=1)
            reference = _reference(probability[known], references[known], a)
            # The target of this round trained on no z, but is no reference of itself
            others = np.arange(public.shape[1]) != number
            common = _reference(public, np.broadcast_to(others, public.shape), a)
            return _share(
                probability[known, number] / reference,
                public[:, number] / common,
                gamma,
            )

        return {
            "reference": _reference(probability, ~member, a),
            "population": _reference(public, np.ones(public.shape, bool), a),
            "threshold": np.float64(calibration.leave_one_out(member, score)),
        }

    def predict(
        state: Any,
        observation: Observation,
        label: Array | None = None,
        population: Population | None = None,
    ) -> np.ndarray:
        checks.predictions("relative", observation, label)
        checks.population("relative", population, observation.prediction.shape[1:])
        probability = true_class(observation.prediction, label, logits)
        public = true_class(*population, logits)
        # References are per example: the order must be that of `fit`
        checks.same(len(state["reference"]), len(probability))
        checks.same(len(state["population"]), len(public), "public examples")
        # LR(x,z) as the quotient of two ratios
        ratio = probability / state["reference"]
        common = public / state["population"]
        return _share(ratio, common, gamma) - state["threshold"]

    def check(
        observation: Observation,
        truth: Any,
        label: Any = None,
        population: Any = None,
    ) -> tuple[int, ...]:
        del truth
        checks.shadow_predictions("relative", observation, label, 4)
        checks.population("relative", population, observation.prediction.shape[1:])
        return ()

    return Attack(
        fit,
        predict,
        check,
        needs=("label", "population"),
        goal="membership",
        inputs=("prediction",),
        paired=True,
        logits=logits,
    )


def _reference(
    probability: np.ndarray,
    outside: np.ndarray,
    a: float,
) -> np.ndarray:
    """Returns p(x) [N] from p(x|θ') [N,S] of the shadow models marked `outside`."""
    total = np.where(outside, probability, 0).sum(axis=1)
    mean = total / outside.sum(axis=1)
    return np.maximum(((1 + a) * mean + 1 - a) / 2, FLOOR)


def _share(ratio: np.ndarray, population: np.ndarray, gamma: float) -> np.ndarray:
    """Returns for each x the share of z with ratio(x) ≥ gamma ratio(z)."""
    # Count by bisection in the sorted population: N·P ratios need not exist
    below = np.searchsorted(np.sort(population), ratio / gamma, side="right")
    return below / len(population)
