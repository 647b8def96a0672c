"""The area under a ROC curve with its interval and its p-value; float64, on the host."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import mannwhitneyu, norm, rankdata
from scipy.stats import t as student

from xinv.metrics.roc import LEVEL, RESAMPLES, Ranked, counted, effective, proportion

ENUMERATED = 14
"""Largest number of examples, or groups, for Mann-Whitney's test by every permutation."""


def area(found: Ranked) -> tuple[float, float]:
    """Returns the area under the ROC curve and its variance.

    The area is the probability that a member has a higher score than a non-member; ties count
    half. The variance is DeLong's (1988), of grouped examples Obuchowski's (1997); NaN if one kind
    has a single group.
    """
    member = found.member
    # Members and others vary independently: variances of placements add
    placed = placements(found.member, found.score)
    inside = placed[member]
    outside = placed[~member]
    spread = variance(inside, found.group[member]) + variance(outside, found.group[~member])
    return float(inside.mean()), spread


def placements(member: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Returns for members the share of others below, for others that of members above, [N]."""
    # Take midranks, so that ties count half
    ranks = rankdata(score)
    found = np.empty(len(score))
    found[member] = (ranks[member] - rankdata(score[member])) / (~member).sum()
    found[~member] = 1 - (ranks[~member] - rankdata(score[~member])) / member.sum()
    return found


def area_interval(
    found: Ranked,
    value: float,
    variance: float,
) -> tuple[float, float]:
    """Returns the interval of an area: DeLong's, or percentiles over resampled groups.

    Without a variance, as of scores with perfect separation, it is Clopper-Pearson's for the
    smaller kind: an area varies no more than a share of so many trials (van Dantzig 1951).
    """
    if not variance > 0:
        trials = min(effective(found))
        return proportion(value * trials, trials)
    if found.clustered:
        low, high = np.quantile(_resampled_areas(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)
    # DeLong's interval is normal, so its ends may leave [0,1]
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt(variance)
    return max(0.0, value - half), min(1.0, value + half)


def area_p(found: Ranked, value: float, variance: float) -> float:
    """Returns the one-sided p-value of an area against 0.5.

    Mann-Whitney's test; of grouped examples a t-test with the clustered variance and as many
    degrees of freedom as the smaller kind has groups, less one. Without that variance the groups'
    mean scores are ranked.
    """
    score = found.score
    member = found.member
    # The t-test on the clustered variance
    if found.clustered and variance > 0:
        return float(student.sf((value - 0.5) / math.sqrt(variance), min(counted(found)) - 1))
    # Without it, rank the groups' mean scores as single examples
    if found.clustered:
        sizes = np.bincount(found.group)
        kinds = np.bincount(found.group, weights=member) > 0
        score = np.bincount(found.group, weights=score) / sizes
        member = kinds
    # Few examples: the share of all permutations with a rank sum as high
    if len(score) <= ENUMERATED:
        ranks = rankdata(score)
        sums = [sum(some) for some in itertools.combinations(ranks, int(member.sum()))]
        return float(np.mean(np.array(sums) >= ranks[member].sum()))
    # SciPy's exact law takes minutes with thousands of examples, where the normal one is as good
    method = "auto" if len(score) <= 100 else "asymptotic"
    test = mannwhitneyu(
        score[member],
        score[~member],
        alternative="greater",
        method=method,
    )
    return float(test.pvalue)


def variance(values: np.ndarray, group: np.ndarray) -> float:
    """Returns the variance of a mean of grouped values; NaN for a single group.

    Values of a group deviate together.
    """
    _, codes = np.unique(group, return_inverse=True)
    # Add up the deviations of a group before they are squared
    sums = np.bincount(codes, weights=values - values.mean())
    if len(sums) < 2:
        return math.nan
    return float(len(sums) / (len(sums) - 1) * np.square(sums).sum() / len(values) ** 2)


def resamples(member: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
    """Yields RESAMPLES times how often each example is drawn, int [N].

    Groups are drawn with replacement, those of members and those of others apart.

    Args:
      member: bool [N].
      group: int [N], from 0 on.
    """
    random = np.random.default_rng(0)
    kinds = [np.unique(group[kind]) for kind in (member, ~member)]
    for _ in range(RESAMPLES):
        drawn = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
        yield np.bincount(drawn, minlength=group.max() + 1)[group]


def _resampled_areas(found: Ranked) -> np.ndarray:
    """Returns areas [RESAMPLES] of groups drawn with replacement, of each kind apart."""
    _, step = np.unique(found.score, return_inverse=True)
    areas = np.empty(RESAMPLES)
    for index, weight in enumerate(resamples(found.member, found.group)):
        # Weigh the members of each score by the others below it, ties half
        members = np.bincount(step, weights=weight * found.member)
        others = np.bincount(step, weights=weight * ~found.member)
        below = np.cumsum(others) - others / 2
        areas[index] = members @ below / (members.sum() * others.sum())
    return areas
