"""Statistics of a membership audit: the separation of members from others by their scores.

A metric judges the scores of a whole set, `fn(member, score, group=None) -> {name: Estimate}`, and
gives a 95 % interval with each figure. Scores are calibrated on a shadow: above 0 means "member".
Examples are assumed to be drawn independently; with `group`, whole groups of them are.

>>> found = tpr_at_fpr(0.25)([1, 1, 1, 1, 0, 0, 0, 0], [8, 6, 4, 2, 7, 5, 3, 1])
>>> found["tpr_at_0.25"].value, found["fpr_at_0.25"].value, found["resolved_at_0.25"].value
(0.5, 0.25, 0.0)
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from xinv import plugins
from xinv.metrics import area, chance, roc
from xinv.numbers import is_number, require
from xinv.types import Array, Estimate

RESOLVED = 10
"""Least number of false positives, or groups of them, of a resolved operating point."""
RATES = (0.001, 0.01, 0.05)

SetMetric = Callable[..., dict[str, Estimate]]
"""`fn(member[N] of 0/1, score[N] higher=member, group[N] or None=None) -> {name: Estimate}`."""


def auc() -> SetMetric:
    """Measures the area under the ROC curve, the probability of a member above another example.

    Ties count half. The interval is DeLong's; with groups, percentiles over resampled groups. The
    p-value is one-sided against 0.5: Mann-Whitney's; with groups, from the clustered variance.

    Returns:
      A metric with "auc".
    """

    def measure(
        member: Array,
        score: Array,
        group: Array | None = None,
    ) -> dict[str, Estimate]:
        found = roc.ranked(member, score, group)
        # One ranking serves the area, its interval and its test
        value, variance = area.area(found)
        interval = area.area_interval(found, value, variance)
        return {
            "auc": _estimate(
                value,
                interval,
                area.area_p(found, value, variance),
            )
        }

    return measure


def tpr_at_fpr(fpr: float | Sequence[float] = RATES) -> SetMetric:
    """Measures the true-positive rate at a false-positive rate of at most `fpr` (Carlini 2022).

    Args:
      fpr: one rate in [0, 1) or several.

    Returns:
      A metric with four figures for each rate, for example 0.01 and N non-members:
      "tpr_at_0.01", with Clopper-Pearson's interval and the p-value of so many members by chance;
      "fpr_at_0.01", the realised rate, with the interval of the true one (see `roc.true_fpr`);
      "chance_at_0.01", the mean and the 95 % band of the true-positive rate by chance;
      "resolved_at_0.01", 1 if floor(0.01 N) is at least 10, else 0. N counts groups there.

    Raises:
      InputError: a rate is not allowed or given twice.
    """
    rates = _rates(
        "fpr",
        fpr,
        lambda rate: 0 <= rate < 1,
        "a rate of at least 0 and below 1",
    )

    def measure(
        member: Array,
        score: Array,
        group: Array | None = None,
    ) -> dict[str, Estimate]:
        # Counts of groups enter the intervals, all examples the rates
        found = roc.ranked(member, score, group)
        members, others = roc.effective(found)
        chances = _chances(found, rates)
        figures = {}
        for rate, (band, p) in zip(rates, chances, strict=True):
            at = roc.point(found, rate)
            tpr = _rate(at.true / found.members, members, roc.LEVEL)._replace(p=p)
            # The threshold is an order statistic of non-members: its true rate has an interval too
            beta = roc.true_fpr(at, found.others, others)
            # Count groups here, since examples of one group err together
            resolved = roc.allowed(rate, roc.counted(found)[1]) >= RESOLVED
            figures[f"tpr_at_{rate}"] = tpr
            figures[f"fpr_at_{rate}"] = _estimate(at.false / found.others, beta)
            figures[f"chance_at_{rate}"] = band
            figures[f"resolved_at_{rate}"] = _estimate(resolved, (resolved, resolved))
        return figures

    return measure


def transferred() -> SetMetric:
    """Measures rates at the threshold carried over from the shadow, as a real attacker has it.

    Returns:
      A metric with "tpr_at_shadow" and "fpr_at_shadow", both with Clopper-Pearson's intervals, and
      "balanced_accuracy". Its interval joins those two, of independent binomials, by square-and-add
      (Newcombe 1998, method 10); its p-value is Fisher's one-sided exact one, with groups that of
      permuted groups.
    """

    def measure(
        member: Array,
        score: Array,
        group: Array | None = None,
    ) -> dict[str, Estimate]:
        found = roc.ranked(member, score, group)
        tpr, fpr = _transferred(found, roc.LEVEL)
        # Newcombe's method 10, for half the sum of TPR and 1 − FPR
        accuracy = (tpr.value + 1 - fpr.value) / 2
        low = accuracy - math.hypot(tpr.value - tpr.low, fpr.high - fpr.value) / 2
        high = accuracy + math.hypot(tpr.high - tpr.value, fpr.value - fpr.low) / 2
        balanced = _estimate(
            accuracy,
            (max(0, low), min(1, high)),
            _accuracy_p(found),
        )
        return {"tpr_at_shadow": tpr, "fpr_at_shadow": fpr, "balanced_accuracy": balanced}

    return measure


def precision(priors: float | Sequence[float] = (0.01, 0.1, 0.5)) -> SetMetric:
    """Measures the share of members among those called members, for a prior share of members.

    The threshold is the one carried over from the shadow. The interval takes the ends of the
    intervals of TPR and FPR, each at 97.5 %, so that both hold at 95 %. If nobody is called a
    member the value is the prior, as for an attack without knowledge.

    Args:
      priors: one prior in (0, 1) or several.

    Returns:
      A metric with a figure for each prior, for example "precision_at_prior_0.01".

    Raises:
      InputError: a prior is not allowed or given twice.
    """
    shares = _rates(
        "priors",
        priors,
        lambda prior: 0 < prior < 1,
        "a share between 0 and 1",
    )

    def measure(
        member: Array,
        score: Array,
        group: Array | None = None,
    ) -> dict[str, Estimate]:
        found = roc.ranked(member, score, group)
        # Both intervals must hold at once, so each has half the error
        tpr, fpr = _transferred(found, (1 + roc.LEVEL) / 2)
        figures = {}
        for prior in shares:
            value = _precision(tpr.value, fpr.value, prior)
            # Precision grows with TPR and falls with FPR
            ends = (
                _precision(
                    tpr.low,
                    fpr.high,
                    prior,
                ),
                _precision(
                    tpr.high,
                    fpr.low,
                    prior,
                ),
            )
            figures[f"precision_at_prior_{prior}"] = _estimate(value, ends)
        return figures

    return measure


def epsilon(fpr: float | Sequence[float] = RATES, delta: float = 0.0) -> SetMetric:
    """Measures an empirical lower bound of ε at 95 %, the largest over the points of `fpr`.

    The points are fixed before the scores are seen, so Bonferroni's correction over their number
    makes the largest valid. All examples serve, without a split: see `roc.epsilon_bound`. The bound
    is empirical: it assumes independent draws, in contrast to a training set of fixed size.

    Args:
      fpr: one false-positive rate in [0, 1) or several.
      delta: the δ of (ε, δ), in [0, 1).

    Returns:
      A metric with "epsilon_lower_bound"; `high` is the bound of a perfect attack.

    Raises:
      InputError: a rate or `delta` is not allowed, or a rate is given twice.
    """
    rates = _rates(
        "fpr",
        fpr,
        lambda rate: 0 <= rate < 1,
        "a rate of at least 0 and below 1",
    )
    require(
        is_number(delta) and 0 <= delta < 1,
        "delta",
        delta,
        "at least 0 and below 1",
    )
    # Bonferroni's correction over the points
    level = 1 - (1 - roc.LEVEL) / len(rates)

    def measure(
        member: Array,
        score: Array,
        group: Array | None = None,
    ) -> dict[str, Estimate]:
        found = roc.ranked(member, score, group)
        members, others = roc.effective(found)
        bounds = []
        ceilings = []
        # The bound of this point, and of an attack that finds every member
        for rate in rates:
            at = roc.point(found, rate)
            # Counts become rates times the effective numbers of groups
            most = at.allowed * others / found.others
            true = at.true * members / found.members
            bounds.append(
                roc.epsilon_bound(
                    true,
                    members,
                    most,
                    others,
                    level,
                    delta,
                )
            )
            ceilings.append(
                roc.epsilon_bound(
                    members,
                    members,
                    most,
                    others,
                    level,
                    delta,
                )
            )
        return {"epsilon_lower_bound": _estimate(max(bounds), (max(bounds), max(ceilings)))}

    return measure


FACTORIES = (auc, tpr_at_fpr, transferred, precision, epsilon)


def build(name: str, **hyper: Any) -> SetMetric:
    """Returns the metric `name` with its parameters, for example `build("epsilon", delta=1e-5)`."""
    return plugins.build(sys.modules[__name__], "membership metric", name, hyper)


def _estimate(
    value: float,
    interval: tuple[float, float],
    p: float | None = None,
) -> Estimate:
    low, high = map(float, interval)
    return Estimate(float(value), low, high, p)


def _rates(
    name: str,
    given: float | Sequence[float],
    allows: Callable[[float], bool],
    allowed: str,
) -> tuple[float, ...]:
    """Returns the rates of a parameter; raises InputError if one is not allowed or repeated."""
    # A repeated rate would overwrite its figures
    several = given if isinstance(given, list | tuple | np.ndarray) else (given,)
    for rate in several:
        require(is_number(rate) and allows(rate), name, rate, allowed)
    rates = tuple(map(float, several))
    require(
        0 < len(rates) == len(set(rates)),
        name,
        given,
        "one rate or several different ones",
    )
    return rates


def _chances(found: roc.Ranked, rates: Sequence[float]) -> list[tuple[Estimate, float]]:
    """Returns, by rate, the true-positive rate of chance and the p-value of the observed one."""
    if not found.clustered:
        return [_chance(found, rate) for rate in rates]
    # Permute groups: they are exchangeable, the examples of a group are not
    seen = _tprs(found, rates)
    drawn = np.array([_tprs(one, rates) for one in chance.relabelled(found)])
    ends = np.quantile(drawn, [(1 - roc.LEVEL) / 2, (1 + roc.LEVEL) / 2], axis=0)
    # The observed order counts as one more permutation
    p = (1 + (drawn >= seen).sum(axis=0)) / (1 + len(drawn))
    means = drawn.mean(axis=0)
    return [(_estimate(means[i], ends[:, i]), float(p[i])) for i in range(len(rates))]


def _tprs(found: roc.Ranked, rates: Sequence[float]) -> np.ndarray:
    return np.array([roc.point(found, rate).true for rate in rates]) / found.members


def _chance(found: roc.Ranked, rate: float) -> tuple[Estimate, float]:
    # Exact for independent examples
    at = roc.point(found, rate)
    mean, low, high = chance.chance_band(found.members, found.others, rate)
    p = chance.chance_p(at.true, found.members, found.others, at.allowed)
    return _estimate(mean, (low, high)), p


def _transferred(found: roc.Ranked, level: float) -> tuple[Estimate, Estimate]:
    """Returns the true-positive and the false-positive rate of scores above 0."""
    true, false = roc.above(found, 0.0)
    members, others = roc.effective(found)
    tpr = _rate(true / found.members, members, level)
    fpr = _rate(false / found.others, others, level)
    return tpr, fpr


def _rate(rate: float, trials: float, level: float) -> Estimate:
    return _estimate(rate, roc.proportion(rate * trials, trials, level))


def _accuracy_p(found: roc.Ranked) -> float:
    """Returns the p-value of the balanced accuracy, given the number of examples called members."""
    true, false = roc.above(found, 0.0)
    # Fisher's exact test for independent examples, permuted groups otherwise
    if not found.clustered:
        total = found.members + found.others
        return float(hypergeom.sf(true - 1, total, found.members, true + false))
    gains = [_gain(one) for one in chance.relabelled(found)]
    return (1 + sum(gain >= _gain(found) for gain in gains)) / (1 + len(gains))


def _gain(found: roc.Ranked) -> float:
    true, false = roc.above(found, 0.0)
    return true / found.members - false / found.others


def _precision(tpr: float, fpr: float, prior: float) -> float:
    # Bayes' rule; without a positive answer the prior stays
    called = prior * tpr + (1 - prior) * fpr
    if called:
        return prior * tpr / called
    return prior
