"""The change of a leak: two attacks' scores of the same examples, compared example by example."""

import math

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from xinv.metrics import roc
from xinv.types import Array, Estimate


def area_difference(
    member: Array,
    before: Array,
    after: Array,
    group: Array | None = None,
) -> Estimate:
    """Returns the area under the ROC curve of `after` less that of `before`, of the same examples.

    The interval is DeLong's (1988) for correlated curves: it takes the differences of an example's
    placements, so what both attacks find easy cancels. Examples of one group deviate together
    (Obuchowski 1997), and the law is Student's with the groups of the smaller kind.

    Args:
      member: [N] of 0 and 1.
      before: scores [N], higher for members.
      after: scores [N] of the same examples.
      group: ids [N] of near-duplicates, or None.

    Returns:
      The difference, its 95 % interval, and the one-sided p-value against no decrease.

    Raises:
      InputError: as `roc.ranked`.
    """
    member = np.asarray(member).ravel()
    found = roc.ranked(member, before, group)  # refuses what has no answer
    roc.ranked(member, after, group)
    kinds = member.astype(bool)
    groups = np.arange(len(member)) if group is None else np.asarray(group).ravel()

    # Each example's change: the share of the other kind that it is above
    changes = _placements(kinds, after) - _placements(kinds, before)
    value = float(changes[kinds].mean())
    variance = _variance(changes[kinds], groups[kinds])
    variance += _variance(changes[~kinds], groups[~kinds])
    error = math.sqrt(variance)
    law = norm
    if found.clustered:
        law = student(min(roc.counted(found)) - 1)
    half = float(law.ppf((1 + roc.LEVEL) / 2)) * error
    p = float(law.cdf(value / error)) if error > 0 else float(value >= 0)
    return Estimate(value, value - half, value + half, p)


def _placements(member: np.ndarray, score: Array) -> np.ndarray:
    """Of members the share of others below them, of others the share of members above; [N]."""
    score = np.asarray(score, np.float64).ravel()
    ranks = rankdata(score)
    found = np.empty(len(score))
    found[member] = (ranks[member] - rankdata(score[member])) / (~member).sum()
    found[~member] = 1 - (ranks[~member] - rankdata(score[~member])) / member.sum()
    return found


def _variance(values: np.ndarray, group: np.ndarray) -> float:
    """Variance of the mean of values; those of a group deviate together."""
    _, codes = np.unique(group, return_inverse=True)
    sums = np.bincount(codes, weights=values - values.mean())
    if len(sums) < 2:
        return math.nan
    return float(len(sums) / (len(sums) - 1) * np.square(sums).sum() / len(values) ** 2)
