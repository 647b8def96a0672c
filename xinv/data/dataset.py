"""The data set of every source: uint8 images [N,H,W,C] with named label arrays."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from xinv import stream
from xinv.types import InputError

MAX_BYTES = 4 * 2**30
"""Largest size in memory of one source's images; larger sets stream, see `folder` and `tfds`."""
MAX_CLASSES = 2**20
_CHUNK = 256
"""Lazy images that are read at a time to be hashed."""


class Images(Protocol):
    """uint8 [N,H,W,C]: a NumPy array, or anything that reads rows on demand such as `Lazy`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> np.ndarray: ...


class Dataset(NamedTuple):
    """Labelled images; label sets share the images (emotion and identity of one face, say).

    Attributes:
      images: uint8 [N,H,W,C], in memory or lazy.
      labels: int32 [N] per label name; the first is the default.
      classes: class names per label name, indexed by the labels.
      name: of the set in a report.
      fingerprint: hash of the content; of lazy images, of all that determines it.
      notes: lines for the log, such as the number of files that are no images.
    """

    images: Images
    labels: dict[str, np.ndarray]
    classes: dict[str, tuple[str, ...]]
    name: str
    fingerprint: str
    notes: tuple[str, ...] = ()


class Lazy:
    """Images that are read when indexed, by int, slice, or integer or boolean array."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        shape: Sequence[int],
        read: Callable[[np.ndarray], np.ndarray],
        threads: int = 0,
    ):
        """`read` turns indices int64 [M] into uint8 images [M,H,W,C]; `shape` is [N,H,W,C].

        With `threads`, which call `read` at once, batches are read before they are needed.
        """
        self.shape = tuple(shape)
        self.threads = threads
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        images = self._read(rows.reshape(-1))
        return images.reshape(rows.shape + self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def create(
    name: str,
    images: Images,
    labels: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    fingerprint: str | None = None,
) -> Dataset:
    """Creates a validated Dataset.

    Args:
      name: of the set.
      images: uint8 [N,H,W,C], in memory or lazy.
      labels: integers [N] per label name.
      classes: class names per label name.
      fingerprint: of all that determines lazy images; None hashes the content, of lazy images
        some at a time.

    Returns:
      The Dataset, with labels int32.

    Raises:
      InputError: see `validate`.
    """
    classes = {key: tuple(map(str, names)) for key, names in classes.items()}
    # Validate labels as given: a conversion to int32 could hide a wrong type
    dataset = Dataset(
        images,
        {key: np.asarray(values) for key, values in labels.items()},
        classes,
        name,
        "",
    )
    validate(dataset)
    labels = {}
    for key, values in dataset.labels.items():
        labels[key] = values.astype(np.int32)
    if fingerprint is None:
        fingerprint = content_fingerprint(images, labels, classes)
    return dataset._replace(labels=labels, fingerprint=fingerprint)


def content_fingerprint(
    images: Images,
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
) -> str:
    """Hashes images uint8 [N,H,W,C], labels int32 [N] and class names; reads lazy images all."""
    # Labels by name, so that the order of label sets does not matter
    ordered = [labels[key] for key in sorted(labels)]
    return digest([images.shape, sorted(classes.items())], images, *ordered)


def validate(dataset: Dataset) -> None:
    """Checks shapes and types of images and labels, and labels against their classes.

    Raises:
      InputError: it names the first fault.
    """
    # By shape alone, so that lazy images are not read.
    images = dataset.images
    name = dataset.name
    if images.dtype != np.uint8 or len(images.shape) != 4:
        raise InputError(
            f"{name}: images are {images.dtype} {tuple(images.shape)}, not uint8 [N,H,W,C]"
        )
    if min(images.shape) < 1:
        raise InputError(f"{name}: images have the empty shape {tuple(images.shape)}")
    if not dataset.labels or set(dataset.labels) != set(dataset.classes):
        raise InputError(
            f"{name}: label sets {list(dataset.labels)} and class names {list(dataset.classes)}"
            " differ"
        )
    for key, names in dataset.classes.items():
        if len(set(names)) < len(names) or not all(names):
            raise InputError(f"{name}: class names of label {key!r} are empty or repeated")
    for key, values in dataset.labels.items():
        _validate_labels(f"{name}: label {key!r}", values, len(images), len(dataset.classes[key]))


def _validate_labels(what: str, values: np.ndarray, count: int, classes: int) -> None:
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} has type {values.dtype}, not integers")
    if values.shape != (count,):
        raise InputError(f"{what} has shape {values.shape}, but there are {count} images")
    outside = np.flatnonzero((values < 0) | (values >= classes))
    if outside.size:
        at = outside[0]
        raise InputError(f"{what} is {values[at]} for image {at}, outside 0..{classes - 1}")


def encode(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encodes N class names as labels int32 [N] and the sorted names that they index."""
    classes, values = np.unique(np.asarray(names, str), return_inverse=True)
    return values.astype(np.int32), tuple(classes.tolist())


def numbered(values: np.ndarray) -> tuple[str, ...]:
    """The class names "0", "1", … up to the largest of the integers `values` [N].

    Raises:
      InputError: they are no integers, or reach MAX_CLASSES: identifiers are no labels.
    """
    if values.dtype.kind not in "iu":
        raise InputError(f"labels have type {values.dtype}, not integers")
    largest = int(values.max(initial=0))
    if largest >= MAX_CLASSES:
        raise InputError(f"label {largest} is outside 0..{MAX_CLASSES - 1}")
    return tuple(map(str, range(largest + 1)))


def renumber(
    values: np.ndarray,
    classes: int | Sequence[str] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Renumbers integer labels from 0, and names their classes.

    Args:
      values: integers [N] as stored, such as 1 to 26 for letters.
      classes: the number of classes or their names. Where the labels lack 0 and end at that number,
        they count from 1. None gives a class to every number from 0, or from 1 or more where that
        is the smallest, to the largest.

    Returns:
      Integers [N] that index the names, and the names; without names, the numbers as stored.

    Raises:
      InputError: see `numbered`.
    """
    if classes is None:
        names = numbered(values)
        least = max(0, int(values.min())) if values.size else 0
        return values - values.dtype.type(least), names[least:]
    # Labels 1 to K of K classes count from 1, as EMNIST's letters do.
    count = classes if isinstance(classes, int) else len(classes)
    whole = values.size > 0 and values.dtype.kind in "iu"
    first = 1 if whole and values.min() >= 1 and values.max() == count else 0
    if isinstance(classes, int):
        classes = map(str, range(first, first + count))
    return (values - values.dtype.type(1) if first else values), tuple(classes)


def take(dataset: Dataset, indices: Any) -> Dataset:
    """The images at `indices` (integers or a mask) with their labels; lazy images stay lazy.

    Raises:
      InputError: see `validate`; an empty selection is one.
    """
    images = dataset.images
    # Masks become indices; an index out of range fails here
    indices = np.arange(len(images))[indices]
    if isinstance(images, np.ndarray):
        chosen = images[indices]
    else:
        shape = (len(indices), *images.shape[1:])
        chosen = Lazy(shape, lambda rows: images[indices[rows]], stream.threads(images))
    labels = {key: values[indices] for key, values in dataset.labels.items()}
    fingerprint = digest([dataset.fingerprint, "take"], indices)
    return create(dataset.name, chosen, labels, dataset.classes, fingerprint)._replace(
        notes=dataset.notes
    )


def keep(
    dataset: Dataset,
    label: str,
    classes: Sequence[str] | int,
    least: int = 1,
) -> Dataset:
    """The images of some classes, renumbered.

    Args:
      dataset: left as it is.
      label: name of the label set.
      classes: names in the order of their new numbers, or the number of first classes.
      least: images that each of the first classes must have; others are passed over.

    Raises:
      InputError: there is no such label or class, or no image of them.
    """
    if isinstance(classes, int):
        classes = _first(dataset, label, classes, least)
    # The new number of each old one, −1 for a class that is left out
    renumbered = np.full(len(dataset.classes.get(label, ())), -1, np.int32)
    renumbered[_numbers(dataset, label, classes)] = np.arange(len(classes))
    values = renumbered[dataset.labels[label]]
    kept = take(dataset, values >= 0)
    # Replace the old numbers, which `take` has kept
    labels = {**kept.labels, label: values[values >= 0]}
    described = [kept.fingerprint, "keep", label, list(classes)]
    names = {**kept.classes, label: tuple(classes)}
    return create(dataset.name, kept.images, labels, names, digest(described))._replace(
        notes=kept.notes
    )


def _first(dataset: Dataset, label: str, count: int, least: int) -> tuple[str, ...]:
    names = dataset.classes.get(label, ())
    if not names:
        return ()
    # In the order of the names, whatever their numbers of images
    images = np.bincount(dataset.labels[label], minlength=len(names))
    names = [name for name, number in zip(names, images, strict=True) if number >= least]
    if not 1 <= count <= len(names):
        enough = f" with at least {least} images" if least > 1 else ""
        raise InputError(
            f"{count} classes of {label!r} cannot be kept: choose 1 to {len(names)}, as many as "
            f"there are{enough}"
        )
    return tuple(names[:count])


def mark(dataset: Dataset, attribute: str, label: str, classes: Sequence[str]) -> Dataset:
    """Adds a binary label `attribute`: "yes" where `label` is one of `classes`.

    Raises:
      InputError: there is no such label or class, or there is a label of that name.
    """
    if attribute in dataset.labels:
        raise InputError(f"there is a label {attribute!r} already: give the attribute another name")
    values = np.isin(dataset.labels.get(label, ()), _numbers(dataset, label, classes)).astype(
        np.int32
    )
    labels = {**dataset.labels, attribute: values}
    names = {**dataset.classes, attribute: ("no", "yes")}
    # The images are the same, so the old fingerprint and the change stand for all.
    described = digest([dataset.fingerprint, "mark", attribute, label, list(classes)])
    return create(dataset.name, dataset.images, labels, names, described)._replace(
        notes=dataset.notes
    )


def _numbers(dataset: Dataset, label: str, classes: Sequence[str]) -> list[int]:
    """The numbers of some classes of `label`."""
    if label not in dataset.classes:
        raise InputError(f"unknown label {label!r}: choose one of {', '.join(dataset.classes)}")
    names = dataset.classes[label]
    unknown = [name for name in classes if name not in names]
    if unknown or not classes:
        raise InputError(
            f"unknown class {unknown[0] if unknown else ''!r} of {label!r}: choose among"
            f" {', '.join(names)}"
        )
    return [names.index(name) for name in classes]


def concatenate(parts: Sequence[Images]) -> Images:
    """Joins images [N,H,W,C] of several parts; the result is lazy if one of them is.

    Raises:
      InputError: the parts differ in the size of their images.
    """
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise InputError(
            f"images of sizes {sorted(shapes)} cannot be used together: give one"
            " data.transform.resize"
        )
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    # A row is read from the part between whose ends it lies.
    ends = np.cumsum([len(part) for part in parts])
    starts = ends - [len(part) for part in parts]

    def read(rows: np.ndarray) -> np.ndarray:
        # Fill in the rows of each part, in the order asked for
        result = np.empty((len(rows), *parts[0].shape[1:]), np.uint8)
        for part, start, end in zip(parts, starts, ends, strict=True):
            inside = (rows >= start) & (rows < end)
            result[inside] = part[rows[inside] - start]
        return result

    return Lazy((int(ends[-1]), *parts[0].shape[1:]), read, stream.threads(list(parts)))


def digest(description: Any, *arrays: np.ndarray | Images) -> str:
    """Hashes a JSON-able description and the bytes of some arrays to 32 hexadecimal digits."""
    state = hashlib.sha256(json.dumps(description).encode())
    for array in arrays:
        for part in _parts(array):
            state.update(np.ascontiguousarray(part).data)
    return state.hexdigest()[:32]


def _parts(array: np.ndarray | Images) -> Iterator[np.ndarray]:
    """Yields an array whole, and lazy images some at a time."""
    if isinstance(array, np.ndarray):
        yield array
        return
    for start in range(0, len(array), _CHUNK):
        yield array[start : start + _CHUNK]
