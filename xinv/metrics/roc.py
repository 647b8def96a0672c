"""Rates of a membership score, with intervals; float64, on the host.

An example is called a member if its score is above a threshold, so tied scores share one answer.
Intervals are two-sided at `LEVEL`. Near-duplicates, such as the frames of one track, form a group,
and a group counts as one: counts become rates times Kish's effective number of groups, chance comes
from permuted groups, areas are resampled by group.

>>> fpr, tpr = roc(member=[1, 0, 1, 0], score=[9, 9, 5, 5])
>>> fpr.tolist(), tpr.tolist()
([0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from xinv.types import Array, InputError

LEVEL = 0.95
"""Confidence of the intervals."""
RESAMPLES = 1999
"""Resamples of groups, and permutations of groups."""


class Ranked(NamedTuple):
    """Scores from low to high, with the kind and group of their examples.

    Attributes:
      score: float64 [N], ascending.
      member: bool [N].
      group: int [N], from 0 on; one number per example without given groups.
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
      true: number of members above the threshold.
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
    # Refuse undefined rates
    for name, values in (("scores", score), ("groups", group)):
        if len(values) != len(member):
            raise InputError(f"there are {len(values)} {name} for {len(member)} members and others")
    invalid = member[~np.isin(member, (0, 1))]
    if invalid.size:
        raise InputError(f"member holds {invalid[0]} but must be 0 or 1 for each example")
    member = member.astype(bool)
    counts = f"{int(member.sum())} and {int((~member).sum())}"
    if member.all() or not member.any():
        raise InputError(f"membership needs members and non-members, got {counts}")
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        value = score[bad[0]]
        raise InputError(f"score {bad[0]} is {value} but must be finite, not NaN or infinite")
    # Number the groups; none may hold both kinds
    names, group = np.unique(group, return_inverse=True)
    mixed = np.intersect1d(group[member], group[~member])
    if mixed.size:
        name = names[mixed[0]]
        raise InputError(f"group {name} holds members and non-members: give groups of one kind")
    # Stable, so that tied examples keep the given order
    order = np.argsort(score, kind="stable")
    return Ranked(score[order], member[order], group[order])


def effective(found: Ranked) -> tuple[float, float]:
    """Returns the numbers of independent members and non-members: (Σn)² / Σn² over group sizes n.

    Kish's effective sample size; the number of groups if these are equally large.
    """
    # Groups of the other kind count 0 in both sums
    sizes = [np.bincount(found.group[kind]) for kind in (found.member, ~found.member)]
    members, others = (float(size.sum() ** 2 / np.square(size).sum()) for size in sizes)
    return members, others


def counted(found: Ranked) -> tuple[int, int]:
    """Returns the numbers of groups of members and of non-members."""
    members, others = (len(np.unique(found.group[k])) for k in (found.member, ~found.member))
    return members, others


def allowed(fpr: float, others: int) -> int:
    """Returns floor(fpr · others): the largest count with a rate of at most `fpr` below 1."""
    # The product may round below a whole number, as 0.29 · 100 does
    near = round(float(fpr) * others)
    if near / others <= fpr:
        return near
    return near - 1


def point(found: Ranked, fpr: float) -> Point:
    """Returns the operating point of a false-positive rate of at most `fpr`.

    The threshold is the (k+1)-th largest score of non-members, k = floor(fpr · N); examples above
    it are called members. It depends on non-members alone.
    """
    others = found.score[~found.member]
    most = allowed(fpr, len(others))
    # Scores ascend, so the (k+1)-th largest is the k-th before the last
    threshold = others[len(others) - 1 - most]
    ties = np.searchsorted(others, threshold, "right") - np.searchsorted(others, threshold, "left")
    return Point(float(threshold), most, *above(found, threshold), bool(ties > 1))


def above(found: Ranked, threshold: float) -> tuple[int, int]:
    """Returns the numbers of members and of non-members with a score above `threshold`."""
    # Scores ascend: skip all up to the last one equal to the threshold
    called = found.member[np.searchsorted(found.score, threshold, "right") :]
    true = int(called.sum())
    return true, len(called) - true


def proportion(
    count: float,
    trials: float,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Returns Clopper-Pearson's interval of a rate with `count` of `trials`; exact for a binomial.

    Counts need not be whole: of grouped examples they are rates times an effective number.
    """
    # Quantiles of two Beta distributions; the ends 0 and 1 are closed
    tail = (1 - level) / 2
    low = betaincinv(count, trials - count + 1, tail) if count > 0 else 0.0
    high = betaincinv(count + 1, trials - count, 1 - tail) if count < trials else 1.0
    return float(low), float(high)


def true_fpr(
    at: Point,
    others: int,
    trials: float | None = None,
) -> tuple[float, float]:
    """Returns the interval of the true false-positive rate above an order statistic.

    The true rate beyond the (k+1)-th largest of N continuous scores is Beta(k+1, N−k), whatever
    their distribution. With k = 0 the realised rate, 0, lies below the interval: no threshold at
    the largest of N scores has a true rate of 0.

    Ties only lower the rate, so the upper end holds for them too. Under a tied threshold the lower
    end is Clopper-Pearson's of the realised count. It holds although data choose the threshold:
    let `a` be the lowest score whose bound can fail with at most k scores above. If the bound fails
    at some threshold, the count above `a` fails its bound as well: one event of probability
    (1 − level)/2. An untied threshold counts as one of continuous scores.

    Args:
      at: the operating point.
      others: number of non-members N.
      trials: their effective number; None for N.
    """
    trials = float(others) if trials is None else trials
    # With groups, counts become rates times the effective number
    share = trials / others
    low, _ = proportion(at.false * share, trials)
    _, high = proportion(at.allowed * share, trials)
    # The quantile of Beta(k+1, N−k)
    if not at.tied:
        kept = at.allowed * share
        low = float(betaincinv(kept + 1, trials - kept, (1 - LEVEL) / 2))
    return low, high


def roc(member: Array, score: Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (fpr, tpr) of all operating points, from (0, 0) to (1, 1); a tie is one step.

    Raises:
      InputError: see `ranked`.
    """
    found = ranked(member, score)
    # Each distinct score is a threshold: count the scores at or above it
    values = np.unique(found.score)[::-1]
    rates = []
    for kind in (~found.member, found.member):
        scores = found.score[kind]
        reached = len(scores) - np.searchsorted(scores, values, "left")
        rates.append(np.concatenate([[0.0], reached / len(scores)]))
    return rates[0], rates[1]


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
    each at (1 − level)/2. The latter is also the quantile of Beta(most+1, others−most). So it
    bounds the true rate above the (most+1)-th largest non-member although the same non-members
    chose this threshold: no split is needed. Given the threshold, true positives are binomial.

    Args:
      true: members above the threshold.
      members: number of members.
      most: allowed false positives.
      others: number of non-members.
      level: confidence of the bound's two rates together.
      delta: δ, in [0, 1).
    """
    # The smallest ratio that both intervals allow
    tpr, _ = proportion(true, members, level)
    _, fpr = proportion(most, others, level)
    if tpr - delta > fpr:
        return math.log((tpr - delta) / fpr)
    return 0.0
