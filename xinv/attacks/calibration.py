"""Calibration of membership scores: thresholds learned on shadow models."""

from collections.abc import Callable

import numpy as np

from xinv.types import InputError


def threshold(member: np.ndarray, score: np.ndarray) -> float:
    """Returns the threshold of maximal balanced accuracy; a score above it means "member".

    Args:
      member: bool, of any shape.
      score: float of that shape, finite.

    Returns:
      A number midway between two neighbouring scores. If no threshold is better than chance, it is
      the highest score: no example is called a member.

    Raises:
      InputError: there are only members, or only others.
    """
    member, score = np.ravel(member), np.ravel(score).astype(np.float64)
    members = int(member.sum())
    others = int((~member).sum())
    if not members or not others:
        given = f"there are {members} and {others}"
        raise InputError(f"a threshold is learned from members and others, but {given}")

    # TPR less FPR above each distinct score, times members times others: exact integers
    distinct, place = np.unique(score, return_inverse=True)
    members_below = np.cumsum(np.bincount(place[member], minlength=len(distinct)))
    others_below = np.cumsum(np.bincount(place[~member], minlength=len(distinct)))
    gain = others_below * members - members_below * others
    best = int(gain.argmax())
    if gain[best] <= 0:
        return float(distinct[-1])

    # Between neighbouring floats there is no middle
    low, high = distinct[best : best + 2]
    middle = low + (high - low) / 2
    return float(middle if middle < high else low)


def leave_one_out(truth: np.ndarray, score: Callable[[int, np.ndarray], np.ndarray]) -> float:
    """Returns the threshold of an attack by references without the example.

    Each shadow model in turn is the target, the others are the references. One threshold serves the
    scores of all of them.

    Args:
      truth: bool [N,S], the training set of each shadow model.
      score: `(number of the target, references[N,S] of bool) -> score [n]` of the n examples with a
        reference.

    Raises:
      InputError: no member, or no other example, has a reference.
    """
    scores = []
    members = []
    for number in range(truth.shape[1]):
        # References are the models without the example, other than the target itself
        references = ~truth
        references[:, number] = False
        scores.append(score(number, references))
        members.append(truth[references.any(axis=1), number])
    return threshold(np.concatenate(members), np.concatenate(scores))
