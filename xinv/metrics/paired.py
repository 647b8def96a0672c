"""The change of a leak: two attacks' scores of the same examples, compared example by example."""

import math

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from xinv.metrics import area, roc
from xinv.types import Array, Estimate, InputError


def area_difference(
    member: Array,
    before: Array,
    after: Array,
    group: Array | None = None,
) -> Estimate:
    """Returns the area under the ROC curve of `after` less that of `before`, of the same examples.

    The interval is DeLong's (1988) for correlated curves. It takes the differences of an example's
    placements, so examples easy for both attacks cancel. Examples of one group deviate together
    (Obuchowski 1997), and the law is Student's with the groups of the smaller kind.

    Args:
      member: [N] of 0 and 1.
      before: scores [N], higher for members.
      after: scores [N] of the same examples.
      group: ids [N] of near-duplicates, or None.

    Returns:
      The difference, its 95 % interval, and the one-sided p-value against no decrease.

    Raises:
      InputError: as `roc.ranked`; or a kind has a single group.
    """
    # Refuse undefined differences
    found = roc.ranked(member, before, group)
    roc.ranked(member, after, group)
    fewest = min(roc.counted(found))
    if fewest < 2:
        raise InputError("a difference needs members and others of two groups each, got one group")
    kinds = np.asarray(member).ravel().astype(bool)
    groups = np.arange(len(kinds)) if group is None else np.asarray(group).ravel()

    # Each example's change of placement: its share of the other kind below it
    scores = [np.asarray(score, np.float64).ravel() for score in (before, after)]
    first, second = (area.placements(kinds, score) for score in scores)
    changes = second - first
    # Members and others vary independently: their variances add
    value = float(changes[kinds].mean())
    spread = area.variance(changes[kinds], groups[kinds])
    spread += area.variance(changes[~kinds], groups[~kinds])
    if not spread > 0:
        return _alike(value, fewest)
    # The interval, and the probability of so low a difference without a decrease
    error = math.sqrt(spread)
    law = norm
    if found.clustered:
        law = student(fewest - 1)
    half = float(law.ppf((1 + roc.LEVEL) / 2)) * error
    return Estimate(
        value,
        value - half,
        value + half,
        float(law.cdf(value / error)),
    )


def rate_difference(
    member: Array,
    before: Array,
    after: Array,
    rate: float,
    group: Array | None = None,
) -> Estimate:
    """Returns the true-positive rate of `after` less that of `before`, of the same examples.

    Each is at its own threshold of a false-positive rate of at most `rate`, as `roc.point` finds
    it. The interval is of percentiles over examples, or groups, drawn with replacement; both
    thresholds are found anew in each draw, so that their own variance counts. With fewer than ten
    allowed false positives ("resolved" of `membership.tpr_at_fpr`) it may be too narrow.

    Args:
      member, before, after, group: as in `area_difference`.
      rate: in [0, 1).

    Returns:
      The difference, its 95 % interval, and the share of draws without a decrease (Davison and
      Hinkley 1997, section 4.4), one-sided.

    Raises:
      InputError: as `roc.ranked`.
    """
    found = roc.ranked(member, before, group)
    roc.ranked(member, after, group)
    kinds = np.asarray(member).ravel().astype(bool)
    groups = np.arange(len(kinds)) if group is None else np.asarray(group).ravel()
    _, groups = np.unique(groups, return_inverse=True)
    # Each distinct score is one step
    steps = []
    for score in (before, after):
        _, step = np.unique(np.asarray(score, np.float64).ravel(), return_inverse=True)
        steps.append(step)

    def change(weight: np.ndarray) -> float:
        first, second = (_rate(kinds, step, weight, rate) for step in steps)
        return second - first

    value = change(np.ones(len(kinds), np.int64))
    if min(roc.counted(found)) < 2:
        raise InputError("a difference needs members and others of two groups each, got one group")
    draws = np.array([change(weight) for weight in area.resamples(kinds, groups)])
    low, high = np.quantile(draws, [(1 - roc.LEVEL) / 2, (1 + roc.LEVEL) / 2])
    p = (1 + int((draws >= 0).sum())) / (1 + len(draws))
    return Estimate(value, float(low), float(high), p)


def _rate(
    member: np.ndarray,
    step: np.ndarray,
    weight: np.ndarray,
    rate: float,
) -> float:
    """Returns the true-positive rate of weighted examples at a false-positive rate.

    Args:
      member: bool [N].
      step: the rank of each score, from 0 on; ties have one rank.
      weight: how often each example counts, int [N].
      rate: the largest allowed false-positive rate.
    """
    members = np.bincount(step, weights=weight * member)
    others = np.bincount(step, weights=weight * ~member)
    # Others above each step, which is a threshold; the lowest allowed one calls most members
    above = others.sum() - np.cumsum(others)
    lowest = np.argmax(above <= roc.allowed(rate, int(others.sum())))
    return float(members[lowest + 1 :].sum() / members.sum())


def _alike(value: float, count: int) -> Estimate:
    """Returns the estimate of equal changes of all examples, which have no variance.

    The interval is Clopper-Pearson's of a share of so many trials, the p-value a sign test's.
    """
    # No change at all is certain
    if value == 0:
        return Estimate(0.0, 0.0, 0.0, 1.0)
    low, high = roc.proportion(abs(value) * count, count)
    ends = (-high, -low) if value < 0 else (low, high)
    return Estimate(value, *ends, 0.5**count if value < 0 else 1.0)
