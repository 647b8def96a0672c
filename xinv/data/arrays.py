"""NumPy archives (.npz), read without pickle."""

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xinv.data.dataset import MAX_BYTES, Dataset, create, encode, renumber
from xinv.types import InputError

Keys = str | Sequence[str]


def arrays(
    path: str,
    image: Keys = "images",
    labels: Mapping[str, Keys] | None = None,
    classes: Mapping[str, int | Sequence[str]] | None = None,
    title: str = "",
) -> Dataset:
    """Reads images and labels from an npz file, under any keys.

    Args:
      path: the file; object arrays are refused, as they need pickle.
      image: key of images [N,H,W] or [N,H,W,C], C up to 4, uint8 or float in [0,1]; several keys
        are concatenated.
      labels: per label name the key of integers or strings [N], as many keys as `image` has;
        "key[2]" takes a column of [N,M]. By default {"label": "labels"}.
      classes: per label name the number of classes or their names; without them integers have a
        class for each number from 0, or from their smallest, to their largest, and strings are
        their own class names. Labels from 1 to that number of classes count from 1.
      title: name of the data set; the file's name if empty.

    Returns:
      The data set, in memory.

    Raises:
      InputError: the file is missing, truncated or no npz, lacks a key, or an array is not as
        described above.
    """
    labels = {"label": "labels"} if labels is None else labels
    classes = classes or {}
    unknown = sorted(set(classes) - set(labels))
    if unknown:
        raise InputError(f"classes are given for {unknown}, but the labels are {list(labels)}")
    # Labels under their names, images under None
    loaded = _load(
        Path(path), {key: _several(keys) for key, keys in labels.items()} | {None: _several(image)}
    )
    # Take the images out, so that labels alone remain
    images = _images(path, _several(image), loaded.pop(None))

    # Class names of strings come from the strings, of integers from `classes` or their range.
    encoded = {}
    for key, parts in loaded.items():
        encoded[key] = _labelled(f"{path}: label {key!r}", parts, classes.get(key))
    values = {key: value for key, (value, _) in encoded.items()}
    names = {key: name for key, (_, name) in encoded.items()}
    return create(title or Path(path).stem, images, values, names)


def _load(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[np.ndarray]]:
    if not path.is_file():
        raise InputError(f"no npz file at {path}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated or not an npz file")
    # Without pickle, which could run code from the file
    with np.load(path, allow_pickle=False) as file:
        return {name: [_column(path, file, key) for key in keys] for name, keys in wanted.items()}


def _column(path: Path, file: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """The array of `key`, or one column of it for "key[2]"."""
    stem, column = re.fullmatch(r"(.*?)(?:\[(\d+)\])?", key).groups()
    if stem not in file.files:
        raise InputError(f"{path} has no array {stem!r}: choose among {', '.join(file.files)}")
    # A small archive may unpack to more than the memory holds, so the size is read first.
    if (
        sum(entry.file_size for entry in file.zip.infolist() if entry.filename == f"{stem}.npy")
        > MAX_BYTES
    ):
        raise InputError(f"{path}: {stem!r} exceeds the {MAX_BYTES} bytes allowed in memory")
    try:
        array = file[stem]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {stem!r} is damaged or not a plain array: {error}") from error
    # "key[2]" of a table of labels
    if column is None:
        return array
    if array.ndim != 2 or int(column) >= array.shape[1]:
        raise InputError(f"{path}: {stem!r} of shape {array.shape} has no column {column}")
    return array[:, int(column)]


def _images(path: str, keys: Sequence[str], parts: Sequence[np.ndarray]) -> np.ndarray:
    # In one range and type first, then in one array
    parts = [as_bytes(f"{path}: {key!r}", part) for key, part in zip(keys, parts, strict=True)]
    if len({part.shape[1:] for part in parts}) > 1:
        raise InputError(
            f"{path}: images of {list(keys)} have different shapes {[part.shape for part in parts]}"
        )
    return np.concatenate(parts)


def as_bytes(what: str, images: np.ndarray) -> np.ndarray:
    """uint8 [N,H,W,C] of images with or without channels, uint8 or float in [0,1]."""
    # Grey images may come without an axis of channels.
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not 1 <= images.shape[-1] <= 4:
        raise InputError(
            f"{what} has shape {images.shape}, not [N,H,W] or [N,H,W,C] with 1 to 4 channels"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise InputError(f"{what} has type {images.dtype}, not uint8 or float")
    # Another range, such as [-1, 1], would give wrong pixels without an error.
    if not np.isfinite(images).all():
        raise InputError(
            f"{what} holds NaN or infinity in image {np.argwhere(~np.isfinite(images))[0, 0]}"
        )
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(f"{what} lies in [{images.min():g}, {images.max():g}], not in [0, 1]")
    return np.rint(images * 255).astype(np.uint8)


def _labelled(
    what: str,
    parts: Sequence[np.ndarray],
    classes: int | Sequence[str] | None,
) -> tuple[np.ndarray, Sequence[str]]:
    """Integer labels [N] and their class names."""
    # Labels [N,1] count as [N].
    values = np.concatenate(
        [part.reshape(len(part)) if part.size == len(part) else part for part in parts]
    )
    if values.dtype.kind in "US":
        if classes is not None:
            raise InputError(
                f"{what} holds strings, which are their own classes: leave out `classes`"
            )
        return encode(values.astype(str))
    return renumber(values, classes)


def _several(keys: Keys) -> tuple[str, ...]:
    if isinstance(keys, str):
        return (keys,)
    return tuple(keys)
