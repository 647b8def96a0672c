"""Confusion matrices of classifiers."""

from typing import NamedTuple

import matplotlib
import numpy as np

from xinv.report.folder import Unit
from xinv.report.measures import plain
from xinv.report.pictures import picture

_WRITTEN = 12
"""Largest number of classes of a matrix in figures; a larger one is a picture."""
_MISTAKES = 3
"""Mistakes that are named in words."""


class Confusion(NamedTuple):
    """One classifier's answers.

    Attributes:
      title: the classifier.
      names: of the classes.
      counts: by true class, then by answer; None where there are too many classes to write.
      shares: each count as a share of its true class, in [0,1]; 0 in an empty class.
      picture: the shares as a data URI, dark for 0; None where the counts are written.
      accuracy: share of right answers; NaN without any.
      weighted_f1: mean F1 of the classes, weighted by their sizes.
      confused: the most frequent mistakes, in words.
    """

    title: str
    names: list[str]
    counts: list[list[int]] | None
    shares: list[list[float]]
    picture: str | None
    accuracy: float
    weighted_f1: float
    confused: list[str]


def confusions(unit: Unit) -> list[Confusion]:
    """The matrices of a unit, one per classifier with one."""
    found = []
    for name, array in unit.examples.items():
        kind, _, classifier = name.partition("/")
        if kind == "confusion":
            found.append(_confusion(unit, classifier, array))
    return found


def _confusion(unit: Unit, classifier: str, counts: np.ndarray) -> Confusion:
    """The matrix of one classifier from its `counts` [K,K], rows the truth."""
    classes = len(counts)
    names = _names(unit, classifier, classes)
    truths = counts.sum(axis=1)
    shares = counts / np.maximum(truths[:, None], 1)

    # F1 of a class is 2 TP / (2 TP + FP + FN): the denominator counts its row and its column.
    sizes = truths + counts.sum(axis=0)
    right = np.diag(counts)
    f1 = 2 * right / np.maximum(sizes, 1)
    total = counts.sum()
    accuracy = float("nan")
    if total:
        accuracy = float(right.sum() / total)

    # A large matrix is legible as a picture alone.
    written = None
    drawn = None
    if classes <= _WRITTEN:
        written = counts.tolist()
    else:
        drawn = picture(matplotlib.colormaps["inferno"](shares)[..., :3])
    return Confusion(
        title=plain(classifier),
        names=names,
        counts=written,
        shares=shares.tolist(),
        picture=drawn,
        accuracy=accuracy,
        weighted_f1=float((f1 * truths).sum() / max(total, 1)),
        confused=_confused(counts, names),
    )


def _confused(counts: np.ndarray, names: list[str]) -> list[str]:
    """The most frequent mistakes in `counts` [K,K], in words."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    found = []
    # A stable order keeps ties in the order of the classes.
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]:
        truth, answer = np.unravel_index(place, wrong.shape)
        times = wrong[truth, answer]
        if times:
            found.append(f"{names[truth]} taken for {names[answer]} ({times} times)")
    return found


def _names(unit: Unit, classifier: str, classes: int) -> list[str]:
    """Names of the classes of a classifier's label; their numbers where the config has none."""
    config = unit.config
    section = {}
    for place in (config, config.get("shadows", {}), config.get("attributes", {})):
        if classifier in place:
            section = place[classifier]
            break
    names = unit.dataset["labels"].get(section.get("label"), ())
    if len(names) != classes:
        names = range(classes)
    return [str(name) for name in names]
