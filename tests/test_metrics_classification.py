"""Data-set figures of labels, against counts made by hand."""

import numpy as np
import pytest

from xinv.metrics import classification
from xinv.types import InputError

TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 4])
GUESS = np.array([0, 0, 1, 4, 1, 1, 0, 1, 2, 2])


def f1(truth, guess, of):
    """2TP / (2TP + FP + FN), counted one example at a time."""
    hits = sum(t == g == of for t, g in zip(truth, guess, strict=True))
    errors = sum((t == of) != (g == of) for t, g in zip(truth, guess, strict=True))
    return 2 * hits / (2 * hits + errors) if hits or errors else 0


def test_confusion_counts_every_class():
    """The confusion matrix counts every class, also one without examples."""
    expected = np.zeros((5, 5), int)
    for t, g in zip(TRUTH, GUESS, strict=True):
        expected[t, g] += 1
    matrix = classification.confusion(TRUTH, GUESS, 5)
    assert np.issubdtype(matrix.dtype, np.integer)
    np.testing.assert_array_equal(matrix, expected)


def test_weighted_f1():
    """Weighted F1 is Thielen's Eq. 5."""
    expected = sum(np.mean(k == TRUTH) * f1(TRUTH, GUESS, k) for k in range(5))
    assert classification.weighted_f1(TRUTH, GUESS) == pytest.approx(expected)
    assert classification.weighted_f1(TRUTH, TRUTH) == 1
    assert classification.weighted_f1(TRUTH, np.full(10, 3)) == 0


def test_binary_f1():
    """Binary F1 is that of the present attribute."""
    truth, guess = TRUTH > 0, GUESS > 0
    assert classification.binary_f1(truth.astype(int), guess.astype(int)) == pytest.approx(
        f1(truth, guess, True)
    )
    assert classification.binary_f1([1, 0, 1], [0, 0, 0]) == 0
    assert classification.binary_f1([0, 0], [0, 0]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: classification.confusion(TRUTH, GUESS, 4),
            "label 4 is not allowed: give classes from 0 to 3",
        ),
        (lambda: classification.weighted_f1([], []), "not comparable"),
        (lambda: classification.weighted_f1([0, 1], [0]), "not comparable"),
        (lambda: classification.binary_f1(TRUTH, GUESS), "label 2 is not allowed"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
