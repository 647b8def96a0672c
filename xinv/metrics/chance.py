"""True-positive rates by chance, exact or by permuted groups; float64, on the host."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import hypergeom, nhypergeom

from xinv.metrics.roc import LEVEL, RESAMPLES, Ranked, allowed
from xinv.numbers import require
from xinv.types import Array


def chance_p(true: int, members: int, others: int, most: int) -> float:
    """Returns the probability of `true` or more members above the (most+1)-th non-member.

    By chance all orders are equally likely. The number is then negative hypergeometric, whatever
    the scores' distribution: x members come before the (k+1)-th non-member if at least x of the
    first x + k examples are members. Ties only lower the number, so the p-value stays valid.

    Args:
      true: members found above it.
      members: number of members.
      others: number of non-members.
      most: k, the allowed false positives.
    """
    return float(hypergeom.sf(true - 1, members + others, members, true + most))


def chance_band(
    members: int,
    others: int,
    fpr: float | Array,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean, 2.5 % and 97.5 % quantile of the true-positive rate by chance at each `fpr`.

    They are exact, see `chance_p`. The three arrays have the shape of `fpr`.

    Raises:
      InputError: a rate is not in [0,1).
    """
    # At a rate of 1 there is no (k+1)-th non-member
    rates = np.asarray(fpr, np.float64)
    for rate in rates.ravel():
        require(
            0 <= rate < 1,
            "fpr",
            float(rate),
            "a rate of at least 0 and below 1",
        )
    # The number of members before the (k+1)-th non-member, as in `chance_p`
    most = np.array([allowed(rate, others) for rate in rates.ravel()]).reshape(rates.shape)
    law = nhypergeom(members + others, members, most + 1)
    tail = (1 - LEVEL) / 2
    low, high = (np.asarray(law.ppf(at)) / members for at in (tail, 1 - tail))
    return (most + 1) / (others + 1), low, high


def relabelled(found: Ranked) -> Iterator[Ranked]:
    """Yields `RESAMPLES` permutations of membership among the groups: the law of chance."""
    random = np.random.default_rng(0)
    # A group keeps its examples together, and changes its kind as a whole
    kinds = np.zeros(found.group.max() + 1, bool)
    kinds[found.group] = found.member
    for _ in range(RESAMPLES):
        yield found._replace(member=random.permutation(kinds)[found.group])
