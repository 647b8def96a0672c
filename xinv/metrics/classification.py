"""Scores of predicted labels over a whole data set: host statistics of integer labels [N], not
per-example metrics.

A classifier's answers are judged by `weighted_f1` and `confusion`; what a reconstruction gives away
of an attribute, by `binary_f1` of an attribute classifier's answers on it.
"""

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from xinv.types import Array, InputError


def confusion(truth: Array, guess: Array, classes: int) -> np.ndarray:
    """int [K,K]: how many examples of each class (rows) were given each label (columns).

    Raises:
      InputError: labels that differ in number, none at all, or labels that are no class.
    """
    truth, guess = _labels(truth, guess)
    outside = np.setdiff1d(np.concatenate([truth, guess]), np.arange(classes))
    if outside.size:
        raise InputError(f"label {outside[0]} is not allowed: give classes from 0 to {classes - 1}")
    return confusion_matrix(truth, guess, labels=np.arange(classes))


def weighted_f1(truth: Array, guess: Array) -> float:
    """Mean of the classes' F1, weighted by their numbers of examples, in [0,1] (Thielen 2024, Eq.
    5).

    A class that is never predicted correctly has an F1 of 0, also where its precision or recall is
    undefined.

    Raises:
      InputError: labels that differ in number, or none at all.
    """
    return float(
        f1_score(
            *_labels(truth, guess),
            average="weighted",
            zero_division=0,
        )
    )


def binary_f1(truth: Array, guess: Array) -> float:
    """F1 of an attribute's presence, label 1, in [0,1] (Jeong 2022, Figure 6); 0 if it is never
    predicted correctly.

    Raises:
      InputError: labels that differ in number, none at all, or labels other than 0 and 1.
    """
    truth, guess = _labels(truth, guess)
    outside = np.setdiff1d(np.concatenate([truth, guess]), [0, 1])
    if outside.size:
        raise InputError(
            f"label {outside[0]} is not allowed: give 1 where the attribute is present and 0"
            " elsewhere"
        )
    return float(f1_score(truth, guess, zero_division=0))


def _labels(truth: Array, guess: Array) -> tuple[np.ndarray, np.ndarray]:
    truth, guess = np.asarray(truth), np.asarray(guess)
    if truth.shape != guess.shape or truth.ndim != 1 or truth.size == 0:
        raise InputError(
            f"labels of shapes {truth.shape} and {guess.shape} are not comparable: give two of [N],"
            " N > 0"
        )
    return truth, guess
