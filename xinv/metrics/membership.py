"""Metrics of scores that separate members of a training set from others: of a whole set, with intervals."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from xinv import plugins
from xinv.numbers import is_number, require
from xinv.types import Array, Estimate, InputError

LEVEL = 0.9
"""Confidence of the intervals."""
RESAMPLES = 1000

SetMetric = Callable[[Array, Array], Estimate]
"""`fn(member[N] of 0 and 1, score[N], higher for members) -> Estimate`."""


def auc() -> SetMetric:
    """Area under the ROC curve: the probability that a member has a higher score than another; ties count half."""
    return _estimated(roc_auc_score)


def tpr_at_fpr(fpr: float = 0.01) -> SetMetric:
    """Largest true-positive rate at a false-positive rate of at most `fpr` (Carlini 2022, section III).

    With M non-members a rate below 1/M allows no false positive at all.
    """
    require(is_number(fpr) and 0 <= fpr < 1, "fpr", fpr, "a rate of at least 0 and below 1")

    def rate(member: np.ndarray, score: np.ndarray) -> float:
        false, true, _ = roc_curve(member, score, drop_intermediate=False)
        return float(true[false <= fpr].max())

    return _estimated(rate)


FACTORIES = (auc, tpr_at_fpr)


def build(name: str, **hyper: Any) -> SetMetric:
    """Returns the metric `name` with its hyper-parameters bound, for example `build("tpr_at_fpr", fpr=0.001)`."""
    return plugins.build(sys.modules[__name__], "membership metric", name, hyper)


def _estimated(statistic: Callable[[np.ndarray, np.ndarray], float]) -> SetMetric:
    """The statistic with its percentile interval over resamples of members and of non-members."""

    def estimate(member: Array, score: Array) -> Estimate:
        member, score = np.asarray(member).astype(bool), np.asarray(score, np.float64).ravel()
        if member.all() or not member.any():
            raise InputError("membership needs both members and non-members")
        if not np.isfinite(score).all():
            raise InputError("membership scores hold NaN or infinite values")
        ins, outs = score[member], score[~member]
        label = np.repeat([1, 0], [len(ins), len(outs)])
        random = np.random.default_rng(0)
        found = []
        for _ in range(RESAMPLES):
            drawn = random.choice(ins, len(ins)), random.choice(outs, len(outs))
            found.append(statistic(label, np.concatenate(drawn)))
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(statistic(label, np.concatenate([ins, outs]))), float(low), float(high))

    return estimate
