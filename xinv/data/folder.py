"""Image folders: a folder per class or identity, or labels within the file names; tar archives too."""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from xinv.data.dataset import MAX_BYTES, Dataset, create, encode
from xinv.data.files import decode, read_files
from xinv.data.transform import Crop, Size, geometry
from xinv.types import InputError

Labeller = Callable[[str], Mapping[str, str] | None]
"""Class names per label name of the file at a path relative to the root, or None to leave the file out."""


def folder(
    root: str,
    labels: str | Labeller = "label",
    crop: Crop = None,
    resize: Size = None,
    grayscale: bool = False,
    method: str = "bilinear",
    drop_duplicates: bool = False,
    title: str = "",
) -> Dataset:
    """Every selected image file below a folder or in a tar archive (.tar, .gz, .bz2, .xz), ordered by path.

    Args:
      root: the folder or archive; an archive is read in memory, never unpacked.
      labels: says which files belong to the set and what their classes are:
        a word, such as "identity": files with an image extension, and the class is the name of the folder they are in;
        a regular expression with named groups: files whose relative path it finds, one label set per group, as in
        r"(?P<identity>subject\\d+)\\.(?P<emotion>happy|sad)";
        or a function from the relative path to class names per label name, or None to leave the file out.
      crop, resize, grayscale, method: as in `data.transform`, done while reading, so that sizes may differ; grey
        images among coloured ones get three equal channels.
      drop_duplicates: keeps only the first, by path, of images whose files show the same pixels.
      title: what to call the data set; the root's name if empty.

    Raises:
      InputError: see `read_files` and `decode`; or no image is found, or their sizes or label sets differ.
    """
    labeller = _labeller(labels) if isinstance(labels, str) else labels
    change = geometry(crop, resize, grayscale, method)
    found, identity, total = {}, {}, 0
    for path, content in read_files(root, lambda path: labeller(path) is not None):
        image = decode(content, f"{root}: {path}")
        identity[path] = _content(image) if drop_duplicates else path
        found[path] = np.ascontiguousarray(change(image))
        total += found[path].nbytes
        if total > MAX_BYTES:
            raise InputError(f"{root}: images exceed {MAX_BYTES} bytes in memory; resize them, or read with `tfds`")
    if not found:
        raise InputError(f"{root}: no image file is selected by labels={labels!r}")
    paths = sorted({identity[path]: path for path in sorted(found, reverse=True)}.values())  # the first of each
    channels = max(image.shape[-1] for image in found.values())
    found = {path: np.broadcast_to(found[path], (*found[path].shape[:2], channels)) for path in paths}
    _check_shapes(root, {path: image.shape for path, image in found.items()})
    names = [labeller(path) for path in paths]
    return _dataset(title or _stem(root), root, paths, np.stack([found.pop(path) for path in paths]), names)


def _dataset(name: str, root: str, paths: list[str], images: np.ndarray, names: list[Mapping[str, str]]) -> Dataset:
    for path, row in zip(paths, names, strict=True):
        if list(row) != list(names[0]) or not all(row.values()):
            raise InputError(f"{root}: {path} has labels {dict(row)}, not one class for each of {list(names[0])}")
    encoded = {key: encode([row[key] for row in names]) for key in names[0]}
    labels = {key: values for key, (values, _) in encoded.items()}
    return create(name, images, labels, {key: classes for key, (_, classes) in encoded.items()})


def _labeller(labels: str) -> Labeller:
    if labels.isidentifier():
        return partial(_parent, labels)
    try:
        pattern = re.compile(labels)
    except re.error as error:
        raise InputError(f"labels {labels!r} is neither a word nor a regular expression: {error}") from error
    if not pattern.groupindex:
        raise InputError(f"labels {labels!r} has no named group: write (?P<identity>…)")
    return partial(_groups, pattern)


def _parent(label: str, path: str) -> dict[str, str] | None:
    extensions = Image.registered_extensions()
    return {label: PurePosixPath(path).parent.name} if Path(path).suffix.lower() in extensions else None


def _groups(pattern: re.Pattern[str], path: str) -> dict[str, str] | None:
    found = pattern.search(path)
    return found.groupdict() if found else None


def _check_shapes(root: str, shapes: dict[str, tuple[int, ...]]) -> None:
    first, *others = shapes
    odd = next((path for path in others if shapes[path] != shapes[first]), None)
    if odd:
        sizes = f"{first} is {shapes[first]} and {odd} is {shapes[odd]}"
        raise InputError(f"{root}: image shapes differ ({sizes}): declare resize=(height, width)")


def _content(image: np.ndarray) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _stem(root: str) -> str:
    return Path(root).name.split(".")[0]
