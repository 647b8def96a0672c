"""Rates and areas of a score that tells members from others, with intervals; float64, on the host.

An example is called a member if its score is above a threshold, so tied scores share one answer.
Intervals are two-sided at `LEVEL`. Near-duplicates, such as the frames of one track, form a group;
a group counts as one: counts become rates times Kish's effective number of groups, chance comes
from permuted groups, areas are resampled by group.

>>> fpr, tpr = roc(member=[1, 0, 1, 0], score=[9, 9, 5, 5])
>>> fpr.tolist(), tpr.tolist()
([0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv
from scipy.stats import hypergeom, mannwhitneyu, nhypergeom, norm, rankdata
from scipy.stats import t as student

from xinv.numbers import require
from xinv.types import Array, InputError

LEVEL = 0.95
"""Confidence of the intervals."""
RESAMPLES = 1999
"""Resamples of groups, and permutations of groups."""
ENUMERATED = 14
"""Examples, or groups, of which Mann-Whitney's test tries every permutation."""


class Ranked(NamedTuple):
    """Scores from low to high, and what they belong to.

    Attributes:
      score: float64 [N], ascending.
      member: bool [N].
      group: int [N], from 0 on; one number per example where no groups were given.
    """

    score: np.ndarray
    member: np.ndarray
    group: np.ndarray

    @property
    def members(self) -> int:
        """Number of members."""
        return int(self.member.sum())

    @property
    def others(self) -> int:
        """Number of non-members."""
        return len(self.member) - self.members

    @property
    def clustered(self) -> bool:
        """True if a group has several examples."""
        return int(self.group.max()) + 1 < len(self.group)


class Point(NamedTuple):
    """Counts at one threshold.

    Attributes:
      threshold: an example is called a member if its score is greater.
      allowed: false positives the target rate allows, k = floor(rate · N).
      true: members above the threshold.
      false: non-members above it; fewer than `allowed` if a tie had to stay together.
      tied: True if several non-members have the threshold as their score.
    """

    threshold: float
    allowed: int
    true: int
    false: int
    tied: bool


def ranked(member: Array, score: Array, group: Array | None = None) -> Ranked:
    """Returns the checked inputs, sorted by score.

    Args:
      member: [N] of 0 and 1, 1 for members.
      score: [N], higher for members.
      group: ids [N] of near-duplicates, or None if all examples are independent.

    Raises:
      InputError: lengths differ, a value is not allowed, members or non-members are missing, or a
        group holds both.
    """
    member, score = np.asarray(member).ravel(), np.asarray(score, np.float64).ravel()
    group = np.arange(len(member)) if group is None else np.asarray(group).ravel()
    # Refuse what has no answer
    for name, values in (("scores", score), ("groups", group)):
        if len(values) != len(member):
            raise InputError(f"there are {len(values)} {name} for {len(member)} members and others")
    odd = member[~np.isin(member, (0, 1))]
    if odd.size:
        raise InputError(f"member holds {odd[0]} but must be 0 or 1 for each example")
    member = member.astype(bool)
    counts = f"{int(member.sum())} and {int((~member).sum())}"
    if member.all() or not member.any():
        raise InputError(f"membership needs members and non-members, got {counts}")
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        value = score[bad[0]]
        raise InputError(f"score {bad[0]} is {value} but must be finite, not NaN or infinite")
    # Number the groups
    names, group = np.unique(group, return_inverse=True)
    mixed = np.intersect1d(group[member], group[~member])
    if mixed.size:
        name = names[mixed[0]]
        raise InputError(f"group {name} holds members and non-members: give groups of one kind")
    order = np.argsort(score, kind="stable")
    return Ranked(score[order], member[order], group[order])


def effective(found: Ranked) -> tuple[float, float]:
    """Returns the numbers of independent members and non-members: (Σn)² / Σn² over group sizes n.

    Kish's effective sample size; the number of groups if these are equally large.
    """
    sizes = [np.bincount(found.group[kind]) for kind in (found.member, ~found.member)]
    members, others = (float(size.sum() ** 2 / np.square(size).sum()) for size in sizes)
    return members, others


def counted(found: Ranked) -> tuple[int, int]:
    """Returns the numbers of groups of members and of non-members."""
    members, others = (len(np.unique(found.group[k])) for k in (found.member, ~found.member))
    return members, others


def allowed(fpr: float, others: int) -> int:
    """Returns floor(fpr · others): the largest count whose rate is at most `fpr` below 1."""
    # The product itself may round below a whole number, as 0.29 · 100 does
    near = round(float(fpr) * others)
    return near if near / others <= fpr else near - 1


def point(found: Ranked, fpr: float) -> Point:
    """Returns the operating point whose false-positive rate is at most `fpr`.

    The threshold is the (k+1)-th largest score of non-members, k = floor(fpr · N); examples above
    it are called members. It depends on non-members alone.
    """
    others = found.score[~found.member]
    most = allowed(fpr, len(others))
    threshold = others[len(others) - 1 - most]
    ties = np.searchsorted(others, threshold, "right") - np.searchsorted(others, threshold, "left")
    return Point(float(threshold), most, *above(found, threshold), bool(ties > 1))


def above(found: Ranked, threshold: float) -> tuple[int, int]:
    """Returns how many members and how many non-members have a score above `threshold`."""
    called = found.member[np.searchsorted(found.score, threshold, "right") :]
    true = int(called.sum())
    return true, len(called) - true


def proportion(count: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Returns Clopper-Pearson's interval of a rate with `count` of `trials`; exact for a binomial.

    Counts need not be whole: of grouped examples they are rates times an effective number.
    """
    tail = (1 - level) / 2
    low = betaincinv(count, trials - count + 1, tail) if count > 0 else 0.0
    high = betaincinv(count + 1, trials - count, 1 - tail) if count < trials else 1.0
    return float(low), float(high)


def true_fpr(at: Point, others: int, trials: float | None = None) -> tuple[float, float]:
    """Returns the interval of the true false-positive rate above an order statistic.

    The true rate beyond the (k+1)-th largest of N continuous scores is Beta(k+1, N−k), whatever
    their distribution. With k = 0 the realised rate, 0, lies below the interval: no threshold at
    the largest of N scores has a true rate of 0.

    Ties only lower the rate, so the upper end holds for them too. Under a tied threshold the lower
    end is Clopper-Pearson's of the realised count. It holds although data choose the threshold:
    let `a` be the lowest score whose bound can fail with at most k scores above. If the bound fails
    at some threshold, the count above `a` fails its bound as well, which is one event of
    probability (1 − level)/2. An untied threshold counts as one of continuous scores.

    Args:
      at: the operating point.
      others: number of non-members N.
      trials: their effective number; None for N.
    """
    trials = float(others) if trials is None else trials
    share = trials / others
    low, _ = proportion(at.false * share, trials)
    _, high = proportion(at.allowed * share, trials)
    if not at.tied:
        kept = at.allowed * share
        low = float(betaincinv(kept + 1, trials - kept, (1 - LEVEL) / 2))
    return low, high


def chance_p(true: int, members: int, others: int, most: int) -> float:
    """Returns the probability that `true` or more members rank above the (most+1)-th non-member.

    Under chance, when all orders are equally likely, their number is negative hypergeometric
    whatever the scores' distribution: x members come before the (k+1)-th non-member if at least x
    of the first x + k examples are members. Ties only lower the number, so the p-value stays valid.
    """
    return float(hypergeom.sf(true - 1, members + others, members, true + most))


def chance_band(
    members: int,
    others: int,
    fpr: float | Array,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean, 2.5 % and 97.5 % quantile of the true-positive rate by chance at each `fpr`.

    Exact, see `chance_p`. The three arrays have the shape of `fpr`.
    """
    rates = np.asarray(fpr, np.float64)
    for rate in rates.ravel():
        require(0 <= rate < 1, "fpr", float(rate), "a rate of at least 0 and below 1")
    most = np.array([allowed(rate, others) for rate in rates.ravel()]).reshape(rates.shape)
    law = nhypergeom(members + others, members, most + 1)
    tail = (1 - LEVEL) / 2
    low, high = (np.asarray(law.ppf(at)) / members for at in (tail, 1 - tail))
    return (most + 1) / (others + 1), low, high


def relabelled(found: Ranked) -> Iterator[Ranked]:
    """Yields `RESAMPLES` permutations of which groups are members: what chance looks like."""
    random = np.random.default_rng(0)
    kinds = np.zeros(found.group.max() + 1, bool)
    kinds[found.group] = found.member
    for _ in range(RESAMPLES):
        yield found._replace(member=random.permutation(kinds)[found.group])


def roc(member: Array, score: Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (fpr, tpr) of all operating points, from (0, 0) to (1, 1); a tie is one step.

    Raises:
      InputError: see `ranked`.
    """
    found = ranked(member, score)
    values = np.unique(found.score)[::-1]
    rates = []
    for kind in (~found.member, found.member):
        scores = found.score[kind]
        reached = len(scores) - np.searchsorted(scores, values, "left")
        rates.append(np.concatenate([[0.0], reached / len(scores)]))
    return rates[0], rates[1]


def area(found: Ranked) -> tuple[float, float]:
    """Returns the area under the ROC curve and its variance.

    The area is the probability that a member has a higher score than a non-member; ties count
    half. The variance is DeLong's (1988), of grouped examples Obuchowski's (1997); NaN if one kind
    has a single group.
    """
    member = found.member
    # Placements: the share of the other kind below each example, by midranks
    ranks = rankdata(found.score)
    inside = (ranks[member] - rankdata(found.score[member])) / found.others
    outside = 1 - (ranks[~member] - rankdata(found.score[~member])) / found.members
    variance = _variance(inside, found.group[member]) + _variance(outside, found.group[~member])
    return float(inside.mean()), variance


def area_interval(found: Ranked, value: float, variance: float) -> tuple[float, float]:
    """Returns the interval of an area: DeLong's, or percentiles over resampled groups.

    Without a variance, as of scores that separate perfectly, it is Clopper-Pearson's for the
    smaller kind: an area varies no more than a share of so many trials (van Dantzig 1951).
    """
    if not variance > 0:
        trials = min(effective(found))
        return proportion(value * trials, trials)
    if found.clustered:
        low, high = np.quantile(_resampled_areas(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt(variance)
    return max(0.0, value - half), min(1.0, value + half)


def area_p(found: Ranked, value: float, variance: float) -> float:
    """Returns the one-sided p-value of an area against 0.5.

    Mann-Whitney's test; of grouped examples a t-test with the clustered variance and as many
    degrees of freedom as the smaller kind has groups, less one. Without that variance the groups'
    mean scores are ranked.
    """
    score, member = found.score, found.member
    if found.clustered and variance > 0:
        return float(student.sf((value - 0.5) / math.sqrt(variance), min(counted(found)) - 1))
    if found.clustered:
        sizes = np.bincount(found.group)
        kinds = np.bincount(found.group, weights=member) > 0
        score, member = np.bincount(found.group, weights=score) / sizes, kinds
    if len(score) <= ENUMERATED:
        ranks = rankdata(score)
        sums = [sum(some) for some in itertools.combinations(ranks, int(member.sum()))]
        return float(np.mean(np.array(sums) >= ranks[member].sum()))
    # SciPy's exact law takes minutes with thousands of examples, where the normal one is as good
    method = "auto" if len(score) <= 100 else "asymptotic"
    test = mannwhitneyu(score[member], score[~member], alternative="greater", method=method)
    return float(test.pvalue)


def epsilon_bound(
    true: float,
    members: float,
    most: float,
    others: float,
    level: float = LEVEL,
    delta: float = 0.0,
) -> float:
    """Returns a lower bound of ε from one operating point: ln((TPR − δ) / FPR), at least 0.

    TPR is the lower end of Clopper-Pearson's interval, FPR the upper end for `most` of `others`,
    each at (1 − level)/2. The latter is also the quantile of Beta(most+1, others−most), so it
    bounds the true rate above the (most+1)-th largest non-member although the same non-members
    chose that threshold: no split is needed. Given the threshold, true positives are binomial.
    """
    tpr, _ = proportion(true, members, level)
    _, fpr = proportion(most, others, level)
    return math.log((tpr - delta) / fpr) if tpr - delta > fpr else 0.0


def _variance(placements: np.ndarray, group: np.ndarray) -> float:
    """Variance of the mean of placements; those of a group deviate together."""
    _, codes = np.unique(group, return_inverse=True)
    sums = np.bincount(codes, weights=placements - placements.mean())
    if len(sums) < 2:
        return math.nan
    return float(len(sums) / (len(sums) - 1) * np.square(sums).sum() / len(placements) ** 2)


def _resampled_areas(found: Ranked) -> np.ndarray:
    """Areas [RESAMPLES] of groups drawn with replacement, members and non-members apart."""
    random = np.random.default_rng(0)
    _, step = np.unique(found.score, return_inverse=True)
    kinds = [np.unique(found.group[kind]) for kind in (found.member, ~found.member)]
    areas = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        # How often each example is drawn
        drawn = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
        weight = np.bincount(drawn, minlength=found.group.max() + 1)[found.group]
        # Members of each score times the others below it, ties half
        members = np.bincount(step, weights=weight * found.member)
        others = np.bincount(step, weights=weight * ~found.member)
        below = np.cumsum(others) - others / 2
        areas[index] = members @ below / (members.sum() * others.sum())
    return areas
