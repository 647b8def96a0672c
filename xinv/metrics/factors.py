"""Factors of an example's risk of inversion (Zhao 2021, section 4.3.5 and Figure 6).

Each is one number per example, a host statistic of whole arrays, for the trend of a
reconstruction's quality against it (`xinv.metrics.trend`).
"""

import numpy as np

from xinv.images import as_float
from xinv.metrics.explanation import resize
from xinv.types import Array, InputError


def relevance(
    explanation: Array,
    mask: Array,
    threshold: float | None = 0.5,
) -> np.ndarray:
    """Returns the explanation relevance: IoU of a map and the valid region, float32 [N] in [0,1].

    The paper says "normalized IoU between the CAM and valid face region" and no more. Here each map
    is averaged over its channels, resized to the mask, scaled to [0,1] by its own range and cut at
    the threshold.

    Args:
      explanation: maps [N,h,w,c].
      mask: the region, bool [N,H,W] or [H,W]; see `bright` and `ellipse`.
      threshold: share of a map's range from which a pixel counts as highlighted; None takes the map
        itself, and the IoU of grey levels Σ min / Σ max.

    Returns:
      The IoU; 0 for a constant map, and if map and mask are both empty.

    Raises:
      InputError: masks differ in number from the maps, or the threshold is outside (0,1].
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(
            f"relevance threshold {threshold} is not allowed: give a number above 0, at most 1, or"
            " None"
        )
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and len(mask) != len(explanation)):
        raise InputError(
            f"a mask of shape {mask.shape} fits no {len(explanation)} maps: give [N,H,W] or [H,W]"
        )
    # Grey maps at the mask's size
    values = np.asarray(
        resize(
            np.mean(
                explanation,
                axis=-1,
                keepdims=True,
            ),
            mask.shape[-2:],
        )
    )[..., 0]
    # Scale each map by its own range; a constant one becomes empty
    low = values.min((1, 2), keepdims=True)
    high = values.max((1, 2), keepdims=True)
    values = (values - low) / np.where(high > low, high - low, 1)
    lit = values if threshold is None else (values >= threshold).astype(np.float32)
    # Minimum and maximum are the intersection and union of grey levels too
    union = np.maximum(lit, mask).sum((1, 2))
    return (np.minimum(lit, mask).sum((1, 2)) / np.where(union > 0, union, 1)).astype(np.float32)


def bright(images: Array, threshold: float = 0.05) -> np.ndarray:
    """Returns bool [N,H,W]: pixels with a mean over channels above `threshold`.

    This is the valid region of images on black, such as digits and the paper's masked faces.

    Args:
      images: [N,H,W,C], uint8 or float in [0,1].
      threshold: in [0,1].
    """
    return np.asarray(as_float(images).mean(axis=-1) > threshold)


def ellipse(
    height: int,
    width: int,
    share: tuple[float, float] = (0.9, 0.7),
) -> np.ndarray:
    """Returns bool [H,W]: a central ellipse, about the place of an aligned face.

    Args:
      height, width: of the image, in pixels.
      share: the ellipse's axes as shares of height and width.
    """
    # Pixel centres, as shares of the sides
    y = (np.arange(height) + 0.5) / height
    x = (np.arange(width) + 0.5) / width
    return ((2 * y - 1) / share[0])[:, None] ** 2 + ((2 * x - 1) / share[1]) ** 2 <= 1


def typicalness(explanation: Array, label: Array) -> np.ndarray:
    """Returns Pearson's correlation of each map with its class's mean map, float32 [N] in [−1,1].

    Class means are over the given maps. A constant map has 0. A class's only map is its own mean
    and has 1.

    Args:
      explanation: maps [N,h,w,c].
      label: int [N], the class explained by each map.

    Raises:
      InputError: the labels are not as many as the maps.
    """
    label = np.asarray(label)
    if label.shape != explanation.shape[:1]:
        raise InputError(
            f"labels of shape {label.shape} fit no {len(explanation)} maps: give one for each"
        )
    values = np.empty(len(label), np.float32)
    # One class at a time bounds the memory
    for members in (label == one for one in np.unique(label)):
        maps = np.asarray(explanation[members], np.float64).reshape(members.sum(), -1)
        values[members] = _pearson(maps, maps.mean(axis=0))
    return values


def confidence(prediction: Array) -> np.ndarray:
    """Returns the target's probability [N] of its predicted class, from probabilities [N,K]."""
    return np.max(prediction, axis=-1)


def target_accuracy(prediction: Array, label: Array) -> np.ndarray:
    """Returns 1 for a correct prediction, else 0, float32 [N].

    Args:
      prediction: probabilities [N,K].
      label: the true classes [N].
    """
    return (np.argmax(prediction, axis=-1) == np.asarray(label)).astype(np.float32)


def _pearson(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns the correlation of each of `rows` [N,P] with `row` [P]; 0 if one is constant."""
    rows, row = rows - rows.mean(axis=1, keepdims=True), row - row.mean()
    # A constant row has no direction: divide by 1
    scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(row)
    return rows @ row / np.where(scale > 0, scale, 1)
