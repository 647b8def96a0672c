"""Scores of predicted labels over a whole data set: host statistics of integer labels [N].

`weighted_f1` and `confusion` judge a classifier's answers. `binary_f1` judges an attribute
classifier's answers on reconstructions: the attribute's leak.
"""

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from xinv.types import Array, InputError


def confusion(truth: Array, guess: Array, classes: int) -> np.ndarray:
    """Counts the examples of each class (rows) by their predicted label (columns), int [K,K].

    Args:
      truth: labels [N].
      guess: predicted labels [N].
      classes: K.

    Raises:
      InputError: labels differ in number, there are none, or a label is no class.
    """
    truth, guess = _labels(truth, guess)
    # scikit-learn drops labels outside `labels` silently
    outside = np.setdiff1d(np.concatenate([truth, guess]), np.arange(classes))
    if outside.size:
        raise InputError(f"label {outside[0]} is not allowed: give classes from 0 to {classes - 1}")
    return confusion_matrix(truth, guess, labels=np.arange(classes))


def weighted_f1(truth: Array, guess: Array) -> float:
    """Returns the mean F1 of the classes, weighted by their size, in [0,1] (Thielen 2024, Eq. 5).

    A class without a correct prediction has an F1 of 0, also if its precision or recall is
    undefined.

    Raises:
      InputError: labels differ in number, or there are none.
    """
    return float(
        f1_score(
            *_labels(truth, guess),
            average="weighted",
            zero_division=0,
        )
    )


def binary_f1(truth: Array, guess: Array) -> float:
    """Returns the F1 of an attribute's presence, label 1, in [0,1] (Jeong 2022, Figure 6).

    It is 0 if the attribute is never predicted correctly.

    Raises:
      InputError: labels differ in number, there are none, or a label is neither 0 nor 1.
    """
    truth, guess = _labels(truth, guess)
    # scikit-learn would count another label as absence
    outside = np.setdiff1d(np.concatenate([truth, guess]), [0, 1])
    if outside.size:
        raise InputError(
            f"label {outside[0]} is not allowed: give 1 where the attribute is present and 0"
            " elsewhere"
        )
    return float(f1_score(truth, guess, zero_division=0))


def _labels(truth: Array, guess: Array) -> tuple[np.ndarray, np.ndarray]:
    # Without this check broadcasting would compare every pair
    truth, guess = np.asarray(truth), np.asarray(guess)
    if truth.shape != guess.shape or truth.ndim != 1 or truth.size == 0:
        raise InputError(
            f"labels of shapes {truth.shape} and {guess.shape} are not comparable: give two of [N],"
            " N > 0"
        )
    return truth, guess
