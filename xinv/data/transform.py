"""Chooses classes, crops, resizes and makes grey: deterministic, and part of the fingerprint."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from xinv import stream
from xinv.data.dataset import Dataset, Lazy, create, digest, keep, mark
from xinv.numbers import is_count, is_one_of, require_flag
from xinv.types import InputError

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Crop = str | tuple[int, int, int, int] | None
Size = tuple[int, int] | None


class Geometry(NamedTuple):
    """Crop, then grey, then resize; see `transform` for the values of the fields."""

    crop: Crop = None
    resize: Size = None
    grayscale: bool = False
    method: str = "bilinear"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Turns uint8 [H,W,C] into uint8 [h,w,c]."""
        top, left, height, width = _box(self.crop, *image.shape[:2])
        image = image[top : top + height, left : left + width]
        if self.grayscale and image.shape[-1] == 3:
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None]
        if self.resize is None or self.resize == image.shape[:2]:
            return image
        # By channel, as Pillow has no mode for every number of channels
        planes = (
            Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)
        )
        return np.stack(
            [plane.resize(self.resize[::-1], METHODS[self.method]) for plane in planes], axis=-1
        )


def geometry(
    crop: Crop = None,
    resize: Size = None,
    grayscale: bool = False,
    method: str = "bilinear",
) -> Geometry:
    """Returns a checked Geometry; lists, as in configs, count as tuples.

    Raises:
      InputError: an option has a value that is not allowed.
    """
    if crop is not None and crop != "centre":
        crop = _whole_numbers("crop", crop, 4, "None, 'centre' or (top, left, height, width)")
        if min(crop[:2]) < 0 or min(crop[2:]) < 1:
            raise InputError(f"crop {crop} is not (top, left, height, width) inside an image")
    # A tuple, since a list never equals a shape
    if resize is not None:
        resize = _whole_numbers("resize", resize, 2, "None or (height, width)")
        if min(resize) < 1:
            raise InputError(f"resize {resize} is not a (height, width) of at least 1")
    if not is_one_of(method, METHODS):
        raise InputError(f"unknown resize method {method!r}: choose one of {', '.join(METHODS)}")
    require_flag(grayscale=grayscale)
    return Geometry(crop, resize, bool(grayscale), method)


def transform(
    dataset: Dataset,
    crop: Crop = None,
    resize: Size = None,
    grayscale: bool = False,
    method: str = "bilinear",
    classes: tuple[str, Sequence[str] | int] | tuple[str, int, int] | None = None,
    attributes: Mapping[str, tuple[str, Sequence[str]]] | None = None,
) -> Dataset:
    """Crops every image, makes it grey and resizes it, in this order.

    Args:
      dataset: left as it is.
      crop: None, "centre" for the largest centred square, or (top, left, height, width) in pixels.
      resize: None or (height, width) in pixels.
      grayscale: three channels become one by ITU-R 601 luma.
      method: of Pillow's resizing; all but "nearest" average over the area when shrinking.
      classes: a label and the names of its classes to keep, renumbered in this order, or their
        number, and perhaps the number of images that each of these has at least; None keeps all.
      attributes: binary labels to add, "no" and "yes", each true for some classes of a label.

    Returns:
      A new Dataset; lazy images stay lazy.

    Raises:
      InputError: an option has a value that is not allowed, or the crop leaves the image.
    """
    # Classes first: attributes refer to the kept ones
    dataset = dataset if classes is None else keep(dataset, *_chosen(classes))
    for attribute, meaning in (attributes or {}).items():
        dataset = mark(dataset, attribute, *meaning)
    change = geometry(crop, resize, grayscale, method)
    images = dataset.images
    name = dataset.name
    if change.grayscale and images.shape[-1] not in (1, 3):
        raise InputError(f"{name}: grayscale needs 1 or 3 channels, not {images.shape[-1]}")
    # The changed shape by an empty image, so that lazy images stay unread
    shape = (len(images), *change(np.zeros(images.shape[1:], np.uint8)).shape)
    if isinstance(images, np.ndarray):
        changed = _apply(change, images, shape[1:])
    else:
        read = lambda rows: _apply(change, images[rows], shape[1:])
        changed = Lazy(shape, read, stream.threads(images))
    fingerprint = digest([dataset.fingerprint, change])
    return create(name, changed, dataset.labels, dataset.classes, fingerprint)._replace(
        notes=dataset.notes
    )


def _chosen(classes: object) -> tuple[str, Sequence[str] | int, int]:
    """A label, its classes and their least number of images, checked."""
    label = kept = None
    least = 1
    if isinstance(classes, tuple | list) and len(classes) == 2:
        label, kept = classes
    elif isinstance(classes, tuple | list) and len(classes) == 3:
        label, kept, least = classes
    # Names stand alone, whatever their numbers of images
    named = isinstance(kept, tuple | list) and len(classes) == 2
    counted = is_count(kept, 1) and is_count(least, 1)
    if not isinstance(label, str) or not (counted or named):
        raise InputError(
            f"classes {classes!r} is not None, (label, number), (label, number, least images) or "
            "(label, (class, …))"
        )
    return label, kept, least


def _apply(change: Geometry, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    result = np.empty((len(images), *shape), np.uint8)
    for row, image in enumerate(images):
        result[row] = change(image)
    return result


def _box(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop in an image of this size."""
    if crop is None:
        return 0, 0, height, width
    # The largest square in the middle
    if crop == "centre":
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
    if crop[0] + crop[2] > height or crop[1] + crop[3] > width:
        raise InputError(
            f"crop {crop} (top, left, height, width) leaves an image of {height}×{width}"
        )
    return crop


def _whole_numbers(what: str, value: object, count: int, allowed: str) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, tuple | list) else ()
    if len(numbers) != count or not all(isinstance(n, int | np.integer) for n in numbers):
        raise InputError(f"{what} {value!r} is not {allowed}")
    return tuple(map(int, numbers))
