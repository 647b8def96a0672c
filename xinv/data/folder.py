"""Image folders: a folder per class or identity, or labels within the file names; tar archives too."""

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from xinv.data.dataset import MAX_BYTES, Dataset, create, encode
from xinv.data.files import decode, extensions, read_files
from xinv.data.transform import Crop, Size, geometry
from xinv.numbers import is_count, require, require_count
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
    level: int | None = None,
    background: int = 255,
) -> Dataset:
    """Every selected image file below a folder or in a tar archive (.tar, .gz, .bz2, .xz), ordered by path.

    Args:
      root: the folder or archive; an archive is read in memory, never unpacked.
      labels: says which files belong to the set and what their classes are:
        a word, such as "identity": files with an image extension, and the class is the name of a folder, see `level`;
        a regular expression with named groups: files whose relative path it finds, one label set per group, as in
        r"(?P<identity>subject\\d+)\\.(?P<emotion>happy|sad)";
        or a function from the relative path to class names per label name, or None to leave the file out.
      crop, resize, grayscale, method: as in `data.transform`, done while reading, so that sizes may differ; grey
        images among coloured ones get three equal channels.
      drop_duplicates: keeps only the first, by path, of images whose files show the same pixels.
      title: what to call the data set; the root's name if empty.
      level: which folder of the path is the class, counted from 0 below the root or from -1 above the file; 0 for
        class/images/x.jpeg. None is -1, where all images are equally deep and not all in folders of one name.
      background: the intensity, 0 to 255, that transparent images are composed on.

    Raises:
      InputError: see `read_files` and `decode`; or no image is found, or their sizes or label sets differ, or `level`
        must be given.
    """
    require_count(0, background=background)
    require(background <= 255, "background", background, "0 to 255")
    require(level is None or is_count(level, -sys.maxsize), "level", level, "None or a whole number")
    labeller = _labeller(labels, -1 if level is None else level) if isinstance(labels, str) else labels
    change = geometry(crop, resize, grayscale, method)
    found, identity, total = {}, {}, 0
    for path, content in read_files(root, lambda path: labeller(path) is not None):
        image = decode(content, f"{root}: {path}", background=background)
        identity[path] = _content(image) if drop_duplicates else path
        found[path] = np.ascontiguousarray(change(image))
        total += found[path].nbytes
        if total > MAX_BYTES:
            raise InputError(f"{root}: images exceed {MAX_BYTES} bytes in memory; resize them, or read with `tfds`")
    if not found:
        raise InputError(f"{root}: no image file is selected by labels={labels!r}")
    if isinstance(labels, str) and labels.isidentifier() and level is None:
        _check_level(root, [PurePosixPath(path).parent.parts for path in sorted(found)])
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


def _check_level(root: str, folders: list[tuple[str, ...]]) -> None:
    """InputError where the folder that an image is in may not be its class."""
    shortest, longest = min(folders, key=len), max(folders, key=len)
    if not shortest:
        return  # an image outside all folders, which is told with its path
    if len(shortest) != len(longest):
        raise InputError(
            f"{root}: images lie in {'/'.join(shortest)} and in {'/'.join(longest)}, not equally deep: say which "
            "folder is the class, level=0 for the first one below the root, level=-1 for the one they are in"
        )
    if len({parts[-1] for parts in folders}) == 1 and len(set(folders)) > 1:
        raise InputError(
            f"{root}: all images are in folders named {shortest[-1]!r}, which gives one class: say which folder is the "
            f"class, level=0 for {folders[0][0]!r}"
        )


def _labeller(labels: str, level: int) -> Labeller:
    if labels.isidentifier():
        return partial(_parent, labels, level)
    try:
        pattern = re.compile(labels)
    except re.error as error:
        raise InputError(f"labels {labels!r} is neither a word nor a regular expression: {error}") from error
    if not pattern.groupindex:
        raise InputError(f"labels {labels!r} has no named group: write (?P<identity>…)")
    return partial(_groups, pattern)


def _parent(label: str, level: int, path: str) -> dict[str, str] | None:
    if Path(path).suffix.lower() not in extensions():
        return None
    folders = PurePosixPath(path).parent.parts
    return {label: folders[level] if -len(folders) <= level < len(folders) else ""}


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
