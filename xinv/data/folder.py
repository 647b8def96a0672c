"""Image folders: a folder per class, or labels in the file names; tar archives too.

Images that are too large for memory are decoded once, into a file (`xinv.data.mapped`).
"""

import collections
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from xinv.data import mapped
from xinv.data.dataset import MAX_BYTES, Dataset, create, encode
from xinv.data.files import check_background, decode, is_image, read_files
from xinv.data.transform import Crop, Geometry, Size, geometry
from xinv.types import InputError

Labeller = Callable[[str], Mapping[str, str] | None]
"""From a relative path to class names per label name, or to None to leave the file out."""


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
    background: str = "white",
    cache: str = "",
) -> Dataset:
    """Reads selected image files of a folder or tar archive (.tar, .gz, .bz2, .xz), by path.

    Args:
      root: the folder or archive; an archive is read in memory, never unpacked.
      labels: selects the files and gives their classes. A word, such as "identity", selects files
        with an image extension, and the class is the name of a folder, see `level`. A regular
        expression with named groups selects relative paths in which it is found, one label set per
        group, as in r"(?P<identity>subject\\d+)\\.(?P<emotion>happy|sad)". Or a function from the
        relative path to class names per label name, or None to leave the file out.
      crop, resize, grayscale, method: as in `data.transform`, done while reading, so that sizes may
        differ; grey images among coloured ones get three equal channels.
      drop_duplicates: keeps the first, by path, of images with equal pixels.
      title: name of the data set; the root's name if empty.
      level: where `labels` is a word, the place of the class among the folders of a path, counted
        as in Python: 0 is the first below the root (`class/images/x.png`), -1 the last
        (`train/class/x.png`). None is the last, and an error where that is a guess: if files lie at
        different depths, or all in folders of one name.
      background: "white", "grey" or "black", shown by transparent pixels.
      cache: folder for the pixels of sets above MAX_BYTES (4 GiB); $XDG_CACHE_HOME/xinv/images, or
        ~/.cache/xinv/images, if empty. Each set takes N·H·W·C bytes there.

    Returns:
      The data set. Its images are in memory up to MAX_BYTES; above, they are decoded once, into a
      file from which batches are read, and later loads only compare the contents of the image
      files. Images, labels and fingerprint are the same. Its `notes` count the files left out, and
      name a file of pixels and a label of one class.

    Raises:
      InputError: see `read_files` and `decode`; or no image is found, their sizes or label sets
        differ, no folder is at that level, or `cache` cannot be written.
    """
    # Options first: a mistake in them should not cost the reading of a large folder.
    labeller = _labeller(labels, level)
    check_background(background)
    change = geometry(crop, resize, grayscale, method)
    files = _Files(root, labels, labeller)
    # All that changes pixels but the files themselves, which are compared at every load
    described = [str(Path(root).resolve()), change, background, drop_duplicates]
    place = mapped.place(cache, _stem(root), described)
    pixels = _read(files, place, lambda: _decoded(files, change, background, drop_duplicates))

    # Without a level the class's folder is the last, which may be a guess
    if isinstance(labels, str) and labels.isidentifier() and level is None:
        _check_layout(root, pixels.paths)
    names = [labeller(path) for path in pixels.paths]
    dataset = _dataset(title or _stem(root), root, pixels, names)
    notes = _notes(root, files.left_out)
    if pixels.file:
        size = math.prod(pixels.images.shape) / 2**30
        notes += (f"{root}: {size:.1f} GiB of decoded images are read from {pixels.file}",)
    for label, classes in dataset.classes.items():
        if len(classes) == 1:
            notes += (f"{root}: all images are of one {label}, {classes[0]!r}",)
    return dataset._replace(notes=notes)


class _Files:
    """The selected files of a root, as `read_files` yields them, anew at every iteration.

    Attributes:
      root: the folder or archive.
      labels: what selects them, as given.
      left_out: see `read_files`; of the latest iteration.
    """

    def __init__(self, root: str, labels: str | Labeller, labeller: Labeller):
        self.root = root
        self.labels = labels
        self.left_out: list[str] = []
        self._labeller = labeller

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        self.left_out.clear()
        return read_files(self.root, self._selects, self.left_out)

    @property
    def selection(self) -> str:
        """The selection of the files, as text."""
        return self.labels if isinstance(self.labels, str) else "a function"

    def _selects(self, path: str) -> bool:
        return self._labeller(path) is not None

    def hashed(self) -> str:
        """Reads all files, and hashes their paths and contents."""
        # A list of its own: a decoding may be under way
        left_out: list[str] = []
        files = read_files(self.root, self._selects, left_out)
        found = mapped.hashed((path, _hash(content)) for path, content in files)
        self.left_out = left_out
        return found


def _read(
    files: _Files,
    place: Path,
    decoded: Callable[[], Iterator[mapped.Decoded]],
) -> mapped.Pixels:
    """Returns the images, in memory or, if they are too large for it, in the folder `place`."""
    # A large set that an earlier process has decoded
    found = mapped.find(place, files.hashed)
    if found is not None:
        return found
    images = decoded()
    begun: collections.deque[mapped.Decoded] = collections.deque()
    total = 0
    for image in images:
        begun.append(image)
        total += image.pixels.nbytes
        if total > MAX_BYTES:
            # Go on in a file, with the images so far and all others
            rest = itertools.chain(_drained(begun), images)
            return mapped.write(place, files.root, files.selection, files.hashed, rest)
    return _stacked(_drained(begun))


def _drained(images: collections.deque[mapped.Decoded]) -> Iterator[mapped.Decoded]:
    """Yields images in their order, and frees each of them."""
    while images:
        yield images.popleft()


def _stacked(images: Iterable[mapped.Decoded]) -> mapped.Pixels:
    """Returns images in memory, ordered by path."""
    found = {image.path: image for image in images}
    paths = mapped.kept_paths({path: image.identity for path, image in found.items()})
    # Grey images among coloured ones get equal channels
    channels = max(image.pixels.shape[-1] for image in found.values())
    size = found[paths[0]].pixels.shape[:2]
    stacked = np.empty((len(paths), *size, channels), np.uint8)
    for row, path in enumerate(paths):
        stacked[row] = found.pop(path).pixels
    return mapped.Pixels(paths, stacked)


def _decoded(
    files: _Files,
    change: Geometry,
    background: str,
    drop_duplicates: bool,
) -> Iterator[mapped.Decoded]:
    """Yields every selected file, decoded and changed.

    Raises:
      InputError: there is none, or sizes differ.
    """
    root = files.root
    first = None
    for path, content in files:
        image = decode(content, f"{root}: {path}", background=background)
        # Compare pixels as stored, before their change
        identity = _content(image) if drop_duplicates else path
        pixels = np.ascontiguousarray(change(image))
        size = pixels.shape[:2]
        first = first or (path, size)
        if size != first[1]:
            sizes = f"{first[0]} is {first[1]} and {path} is {size}"
            raise InputError(
                f"{root}: image sizes differ ({sizes}): declare resize=(height, width)"
            )
        yield mapped.Decoded(path, _hash(content), identity, pixels)
    if first is None:
        raise InputError(f"{root}: no image file is selected by labels={files.labels!r}")


def _dataset(
    name: str,
    root: str,
    pixels: mapped.Pixels,
    names: list[Mapping[str, str]],
) -> Dataset:
    # Every image needs a class of every label
    for path, row in zip(pixels.paths, names, strict=True):
        if list(row) != list(names[0]) or not all(row.values()):
            raise InputError(
                f"{root}: {path} has labels {dict(row)}, not one class for each of {list(names[0])}"
            )
    labels = {}
    classes = {}
    for key in names[0]:
        labels[key], classes[key] = encode([row[key] for row in names])
    # Pixels in a file are hashed once
    fingerprint = mapped.fingerprint(pixels, labels, classes) if pixels.file else None
    return create(name, pixels.images, labels, classes, fingerprint)


def _labeller(labels: str | Labeller, level: int | None) -> Labeller:
    if level is not None and (isinstance(level, bool) or not isinstance(level, int)):
        raise InputError(f"level {level!r} is not None or a whole number")
    # A word names the label, a regular expression its groups; an identifier has no groups.
    if isinstance(labels, str) and labels.isidentifier():
        return partial(_parent, labels, level)
    if level is not None:
        raise InputError(
            f"level {level} chooses a folder where labels is a word, but labels is {labels!r}"
        )
    if callable(labels):
        return labels
    if not isinstance(labels, str):
        raise InputError(
            f"labels {labels!r} is neither a word, a regular expression nor a function"
        )
    try:
        pattern = re.compile(labels)
    except re.error as error:
        raise InputError(
            f"labels {labels!r} is neither a word nor a regular expression: {error}"
        ) from error
    if not pattern.groupindex:
        raise InputError(f"labels {labels!r} has no named group: write (?P<identity>…)")
    return partial(_groups, pattern)


def _parent(label: str, level: int | None, path: str) -> dict[str, str] | None:
    """The folder at `level` of an image file's path, by default the last, "" without any."""
    if not is_image(path):
        return None
    folders = _folders(path)
    if level is None:
        return {label: folders[-1] if folders else ""}
    if not -len(folders) <= level < len(folders):
        raise InputError(f"{path} has no folder at level {level}: it lies in {len(folders)}")
    return {label: folders[level]}


def _folders(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts[:-1]


def _check_layout(root: str, paths: list[str]) -> None:
    """Refuses a layout without a clear folder of the class, or with one class."""
    # Files at different depths leave the class's folder open
    ordered = sorted(paths, key=lambda path: len(_folders(path)))
    least = ordered[0]
    most = ordered[-1]
    if not _folders(least):
        return  # an image without a class, which is named where the classes are
    if len(_folders(least)) < len(_folders(most)):
        raise InputError(
            f"{root}: {least} and {most} lie at different depths: choose the folder that is the"
            " class with level=0 (the first below the root) to level=-1 (the last)"
        )

    # Several folders above one name, as in class/images: the class is one of those.
    names = []
    for column in zip(*map(_folders, paths), strict=True):
        names.append(sorted(set(column)))
    several = [level for level, found in enumerate(names) if len(found) > 1]
    if several and len(names[-1]) == 1:
        level = several[-1]
        raise InputError(
            f"{root}: all images lie in folders {names[-1][0]!r}, which makes one class: choose"
            f" level={level} for the {len(names[level])} classes {', '.join(names[level][:5])}, or"
            " level=-1 for the one"
        )
    if not several and len(names) > 1:
        raise InputError(
            f"{root}: all images lie in {'/'.join(column[0] for column in names)}, which makes one"
            f" class: choose its folder with level=0 for {names[0][0]!r} to level=-1 for"
            f" {names[-1][0]!r}, or labels from the file names"
        )


def _notes(root: str, left_out: list[str]) -> tuple[str, ...]:
    """Counts the files left out, by extension, and names links to folders read already."""
    lines = []
    # Links end in a slash, files do not
    kinds = collections.Counter(
        PurePosixPath(path).suffix.lower() or "no extension" for path in left_out if path[-1] != "/"
    )
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        lines.append(f"{root}: {kinds.total()} files are not in the data set ({counts})")
    links = [path for path in left_out if path[-1] == "/"]
    if links:
        lines.append(
            f"{root}: {len(links)} links lead to folders that are read already"
            f" ({', '.join(links[:5])})"
        )
    return tuple(lines)


def _groups(pattern: re.Pattern[str], path: str) -> dict[str, str] | None:
    found = pattern.search(path)
    if found:
        return found.groupdict()
    return None


def _content(image: np.ndarray) -> bytes:
    return _hash(repr(image.shape).encode() + image.tobytes())


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _stem(root: str) -> str:
    return Path(root).name.split(".")[0]
