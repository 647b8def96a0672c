"""Membership by likelihood ratios of statistics of explanations, or of confidences (LiRA)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from xinv import plugins, train
from xinv.attacks import calibration, checks
from xinv.attacks.confidence import log_odds
from xinv.attacks.moments import VARIANCES, Moments, moments
from xinv.attacks.signals import logarithms, signals
from xinv.numbers import optional
from xinv.types import Array, Attack, InputError, Key, Observation

NAME = "likelihood_ratio"
SIGNAL = ("maps", "confidence")
MODES = ("online", "offline")
STATISTICS = ("variance", "l1", "l2")
_LEAST = {"online": 2, "offline": 4}  # shadow models; offline calibration leaves one out
_ROWS = 4096  # examples read at once


@plugins.cached
def likelihood_ratio(
    signal: str = "maps",
    statistics: Sequence[str] | None = None,
    mode: str = "online",
    variance: str = "shrunk",
    logits: bool = False,
) -> Attack:
    """Compares the target's release of an example with those of shadow models: LiRA.

    Carlini 2022 on confidences; Huang 2024 (arXiv 2407.17663) on statistics of maps. The signals x
    are the logarithms of T statistics of a map (`signals.logarithms`), or the confidence
    φ = log p_y − log(1 − p_y) (`confidence.log_odds`), all in float64. For each example they are
    normal, with one mean and variance over the shadow models trained on it ("in"), and others over
    the remaining ones ("out"). Statistics count as independent.

    Online, the score is Σ log N(x; in) − log N(x; out), and its threshold 0. Offline, it is
    −Σ log Pr[Z ≥ x] with Z from "out", one-sided. For one statistic it has the order of
    Pr[Z < x], but resolves the surest members, where Pr[Z < x] rounds to 1. For several it is
    Fisher's combination. The direction of maps is learned: for each statistic the sign of the mean
    difference of "in" and "out", over all examples. Confidences of members are higher. The
    threshold is found with each shadow model in turn as the target, see
    `calibration.leave_one_out`.

    Means replace the medians of Carlini's code. An example's variance s² has n − 1 degrees of
    freedom d, from n models. By `variance`:

        own     s², or the shared one if d = 0
        shared  s0², the mean of s² over examples, weighted by d
        shrunk  (ν0 s0² + d s²) / (ν0 + d), with ν0 by the method of moments, see
                `moments.prior_freedom`

    If no example has two models of a kind, s0² is the variance over all examples. "shrunk" is in
    the spirit of BaVarIA (arXiv 2603.11799), a shrinkage by a Bayesian prior.

    Args:
      signal: "maps", explanations by their statistics, or "confidence", in the true class.
      statistics: of maps, names of `signals.SIGNALS`; by default ("variance", "l1", "l2").
      mode: "online" or "offline".
      variance: "shrunk", "shared" or "own".
      logits: True if predictions are logits.

    Returns:
      A paired attack. Its truth is 0 or 1 [N,S], 1 for members, its guess a score
      float64 [N], positive for members. Of maps it reads the statistics alone, explanation
      [N,S,1,1,T] in `fit` and [N,1,1,T] in `predict`; of confidences it needs "label". Its state
      has arrays [N,T] in the order of the examples: "out_mean" and "out_variance"; online also
      "in_mean" and "in_variance"; offline the "sign" [T] and the "threshold".

    Raises:
      InputError: an argument is none of these, or `statistics` is given for "confidence"; the
        number of shadow models is odd, or below 2 (offline 4); an example has no "out" model or
        (online) no "in" model; shapes do not fit.
    """
    checks.choice("signal", signal, SIGNAL)
    checks.choice("mode", mode, MODES)
    checks.choice("variance", variance, VARIANCES)
    of_maps = signal == "maps"
    names = optional("statistics", statistics, STATISTICS, 'signal "maps"', of_maps)
    summary = ()
    if of_maps:
        # Refuse unknown names now, not at the first call
        signals(names)
        summary = tuple(names)

    def fit(
        key: Key,
        observation: Observation,
        truth: Array,
        session: train.Session = train.Session(),
        label: Array | None = None,
    ) -> dict[str, np.ndarray]:
        del key, session
        check(observation, truth, label)
        values = read(observation, label)
        member = checks.members(truth, values.shape[:2])
        checks.outside(member)

        # "out" serves both modes, "in" the online one alone
        out = moments(values, ~member, variance)
        state = {"out_mean": out.mean, "out_variance": out.variance}
        if mode == "online":
            _require_inside(member)
            inside = moments(values, member, variance)
            return state | {"in_mean": inside.mean, "in_variance": inside.variance}
        return state | _one_sided(values, member, variance, of_maps)

    def predict(
        state: Any,
        observation: Observation,
        label: Array | None = None,
    ) -> np.ndarray:
        if of_maps:
            checks.explanations(NAME, observation)
        else:
            checks.predictions(NAME, observation, label)
        values = read(observation, label)
        checks.same(len(state["out_mean"]), len(values))
        # Score the target's signals under the two normals, or under "out" alone
        out = Moments(state["out_mean"], state["out_variance"])
        if mode == "online":
            inside = Moments(state["in_mean"], state["in_variance"])
            return (_log_density(values, inside) - _log_density(values, out)).sum(axis=-1)
        return _surprise(values, out, state["sign"]) - state["threshold"]

    def read(observation: Observation, label: Array | None) -> np.ndarray:
        """Returns the signals, float64 [N,S,T] or [N,T]."""
        if of_maps:
            return _statistics(observation.explanation, names)
        return log_odds(observation.prediction, label, logits)[..., None]

    def check(
        observation: Observation,
        truth: Any,
        label: Any = None,
    ) -> tuple[int, ...]:
        del truth
        if of_maps:
            checks.shadow_statistics(NAME, observation, len(names), _LEAST[mode])
        else:
            checks.shadow_predictions(NAME, observation, label, _LEAST[mode])
        return ()

    needs = () if of_maps else ("label",)
    inputs = ("explanation",) if of_maps else ("prediction",)
    return Attack(
        fit,
        predict,
        check,
        needs,
        "membership",
        paired=True,
        summary=summary,
        inputs=inputs,
        # Maps are read without predictions
        logits=logits or of_maps,
    )


def _one_sided(
    values: np.ndarray,
    member: np.ndarray,
    variance: str,
    of_maps: bool,
) -> dict[str, np.ndarray]:
    """Returns the direction "sign" [T] and the "threshold" of the offline score."""
    sign = _direction(values, member) if of_maps else np.ones(1)

    # The score of a shadow model as target, without itself among the references
    def score(number: int, references: np.ndarray) -> np.ndarray:
        known = references.any(axis=1)
        out = moments(values[known], references[known], variance)
        return _surprise(values[known, number], out, sign)

    return {"sign": sign, "threshold": np.float64(calibration.leave_one_out(member, score))}


def _direction(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Returns 1 for each statistic [T] with larger values of members, else -1."""
    both = member.any(axis=1)
    # Only examples with models of both kinds show a difference
    if not both.any():
        raise InputError("no shadow model trained on any of the examples: there are no members")
    values, member = values[both], member[both]
    inside = moments(values, member, "own")
    out = moments(values, ~member, "own")
    return np.where((inside.mean - out.mean).mean(axis=0) < 0, -1.0, 1.0)


def _log_density(values: np.ndarray, of: Moments) -> np.ndarray:
    """Returns log N(x; mean, variance) [N,T], without the constant."""
    return -0.5 * (np.log(of.variance) + np.square(values - of.mean) / of.variance)


def _surprise(values: np.ndarray, out: Moments, sign: np.ndarray) -> np.ndarray:
    """Returns −Σ log Pr[Z ≥ x], float64 [N], in the direction of `sign`."""
    # log_ndtr stays exact in the far tail, where the probability itself is 0
    deviation = sign * (values - out.mean) / np.sqrt(out.variance)
    return -log_ndtr(-deviation).sum(axis=-1)


def _statistics(explanation: Array, names: Sequence[str]) -> np.ndarray:
    """Returns the signals, float64 [N,...,T], of statistics [N,...,1,1,T], read in slices."""
    # The statistics arrive as a map of one pixel, with T channels
    shape = (*explanation.shape[1:-3], len(names))
    if tuple(explanation.shape[-3:]) != (1, 1, len(names)):
        wanted = f"[N,1,1,{len(names)}]"
        given = list(explanation.shape)
        raise InputError(f"{NAME} reads statistics {wanted} of maps, and not {given}")
    found = np.empty((explanation.shape[0], *shape), np.float64)
    # Slices bound the memory, as the array may be a file
    for start in range(0, len(found), _ROWS):
        part = np.asarray(explanation[start : start + _ROWS])
        found[start : start + _ROWS] = logarithms(names, part.reshape(-1, *shape))

    broken = np.argwhere(~np.isfinite(found))
    if len(broken):
        raise InputError(f"example {broken[0][0]} has a statistic that is not finite")
    return found


def _require_inside(member: np.ndarray) -> None:
    """Raises InputError if no shadow model trained on some example; bool [N,S]."""
    never = np.flatnonzero(~member.any(axis=1))
    if len(never):
        name = f"example {never[0]}"
        raise InputError(f"{name} was trained on by no shadow model: mode online needs one")
