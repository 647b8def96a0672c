"""Which classes a classifier takes for which."""

from typing import NamedTuple

import matplotlib
import numpy as np

from xinv.report.folder import Unit
from xinv.report.measures import plain
from xinv.report.pictures import picture

_WRITTEN = 12
"""Classes up to which a matrix is written in figures; a larger one is a picture."""


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
    """The matrices that the run kept."""
    found = {}
    for name, array in unit.examples.items():
        if name.startswith("confusion/"):
            found[name] = array
    return [
        _confusion(unit, name.removeprefix("confusion/"), array) for name, array in found.items()
    ]


def _confusion(unit: Unit, classifier: str, counts: np.ndarray) -> Confusion:
    names = _names(unit, classifier, len(counts))
    classes = len(counts)
    truths = counts.sum(axis=1)
    shares = counts / np.maximum(truths[:, None], 1)
    sizes = truths + counts.sum(axis=0)
    right = np.diag(counts)
    f1 = 2 * right / np.maximum(sizes, 1)
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    worst = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:3]:
        worst.append(np.unravel_index(place, wrong.shape))
    return Confusion(
        title=plain(classifier),
        names=names,
        counts=counts.tolist() if classes <= _WRITTEN else None,
        shares=shares.tolist(),
        picture=None
        if classes <= _WRITTEN
        else picture(matplotlib.colormaps["inferno"](shares)[..., :3]),
        accuracy=float(right.sum() / counts.sum()) if counts.sum() else float("nan"),
        weighted_f1=float((f1 * truths).sum() / max(counts.sum(), 1)),
        confused=[
            f"{names[i]} taken for {names[j]} ({wrong[i, j]} times)"
            for i, j in worst
            if wrong[i, j]
        ],
    )


def _names(unit: Unit, classifier: str, classes: int) -> list[str]:
    """The classes' names of the label that the classifier answers, or their numbers where the
    config has none.
    """
    places = unit.config, unit.config.get("shadows", {}), unit.config.get("attributes", {})
    section = next((place[classifier] for place in places if classifier in place), {})
    names = unit.dataset["labels"].get(section.get("label"), ())
    return list(map(str, names if len(names) == classes else range(classes)))
