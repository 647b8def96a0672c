"""Decoded images of a large set, in one file of a cache folder that is read as a memory map.

A set has a folder of its own, by its root and by the options that change its pixels:

    imagenet100-1f0c…/77d0….json     the files that were decoded, and the file of their pixels
    imagenet100-1f0c…/3b2e….pixels   one image after the other, uint8 [H,W,1] or [H,W,3]
    imagenet100-1f0c…/3b2e….9a4d…    the fingerprint of the images with some labels

A set is decoded once. Its files are read and hashed at every load, which takes a small part of the
time: no change of a file escapes, whatever its time stamp. The index is written last, in one step,
and names complete pixels, so that what a killed process leaves is never read. One process decodes,
and others wait for it. The folder may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
from filelock import FileLock, Timeout

from xinv import processes, store
from xinv.data.dataset import Images, Lazy, content_fingerprint, digest
from xinv.types import InputError

_FORMAT = 1
"""Raise it if the meaning of the files changes: earlier ones are then decoded again."""
_SECONDS_BETWEEN_LINES = 10.0


class Decoded(NamedTuple):
    """A decoded file.

    Attributes:
      path: relative to the root.
      content: hash of the file.
      identity: equal for images of which one is kept.
      pixels: uint8 [H,W,1 or 3], contiguous.
    """

    path: str
    content: bytes
    identity: str | bytes
    pixels: np.ndarray


class Pixels(NamedTuple):
    """The images of a set.

    Attributes:
      paths: their relative paths, ascending.
      images: uint8 [N,H,W,C] in this order, in memory or lazy.
      file: the file that has them; None if they are in memory.
    """

    paths: list[str]
    images: Images
    file: Path | None = None


def place(cache: str, name: str, described: Sequence[Any]) -> Path:
    """Returns the folder of a set, without making it.

    Args:
      cache: the folder of all sets; $XDG_CACHE_HOME/xinv/images if empty, or ~/.cache/xinv/images.
      name: of the set, for people.
      described: all that tells the set from others, as JSON.
    """
    return Path(cache or _default()) / f"{name}-{digest(described)[:16]}"


def _default() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    if home:
        return Path(home) / "xinv" / "images"
    # A user of a container may have no home
    try:
        return Path.home() / ".cache" / "xinv" / "images"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "xinv" / "images"


def hashed(files: Iterable[tuple[str, bytes]]) -> str:
    """Hashes the paths of files with the hashes of their contents, and what decodes them."""
    state = hashlib.sha256(f"{_FORMAT} {PIL.__version__}".encode())
    for path, content in files:
        state.update(repr((path, content)).encode())
    return state.hexdigest()


def kept_paths(identity: Mapping[str, str | bytes]) -> list[str]:
    """Returns of each identity the first path, ascending."""
    first = {}
    for path in sorted(identity):
        first.setdefault(identity[path], path)
    return list(first.values())


def find(folder: Path, files: Callable[[], str]) -> Pixels | None:
    """Returns the images in a set's folder; None if there are none, or they are of other files.

    Args:
      folder: see `place`.
      files: hashes the present files, see `hashed`; not called if there are no images.
    """
    indices = _indices(folder)
    if not indices:
        return None
    processes.say(f"comparing the image files with the decoded images in {folder}")
    present = files()
    for index in indices.values():
        # A damaged file, or one removed by a process that decodes changed files, is none
        with contextlib.suppress(OSError, ValueError):
            if index["files"] == present:
                return _opened(folder, index)
    return None


def _indices(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the readable indices of a set's selections, by their file's name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found[path.name] = json.loads(path.read_text())
    return found


def write(
    folder: Path,
    root: str,
    selection: str,
    files: Callable[[], str],
    images: Iterator[Decoded],
) -> Pixels:
    """Writes decoded images, or finds those that another process has written meanwhile.

    Args:
      folder: see `place`.
      root: name of the set in messages.
      selection: what selects the files; images of an earlier content of the same are replaced.
      files: see `find`.
      images: in any order; of equal paths the last counts. What they raise is raised here.

    Raises:
      InputError: the folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            # Another process may have written them since the first look
            index = f"{digest([selection])[:16]}.json"
            return find(folder, files) or _written(folder, index, root, images)
    except OSError as error:
        raise InputError(
            f"{root}: the decoded images are too large for memory and cannot be kept in {folder}"
            f" ({error}): choose another folder with `cache` or XDG_CACHE_HOME, or resize them"
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a set's folder."""
    # The system releases the lock of a killed process
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        processes.say(f"waiting: another process writes decoded images to {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _written(folder: Path, name: str, root: str, images: Iterator[Decoded]) -> Pixels:
    # Make room: what this selection had before, and what killed processes left
    others = _indices(folder)
    others.pop(name, None)
    kept = set(others)
    for index in others.values():
        kept.add(index["pixels"].partition(".")[0])
    for old in folder.glob("[!.]*"):
        if not {old.name, old.name.partition(".")[0]} & kept:
            old.unlink(missing_ok=True)
    file = folder / f"{uuid.uuid4().hex}.pixels"
    try:
        index = _filled(file, root, images)
        with store.atomic(folder / name) as temporary:
            temporary.write_text(json.dumps(index))
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return _opened(folder, index)


def _filled(file: Path, root: str, images: Iterator[Decoded]) -> dict[str, Any]:
    """Writes all pixels to a file, flushed to the disk, and returns their index."""
    contents = []
    identity = {}
    rows = {}
    channels = []
    progress = _Progress(root, file)
    with open(file, "xb") as opened:
        for number, image in enumerate(images):
            _append(opened, image.pixels)
            progress.tell(number + 1, opened.tell())
            contents.append((image.path, image.content))
            identity[image.path] = image.identity
            rows[image.path] = number
            channels.append(image.pixels.shape[-1])
        opened.flush()
        os.fsync(opened.fileno())
    paths = kept_paths(identity)
    return dict(
        files=hashed(contents),
        pixels=file.name,
        size=image.pixels.shape[:2],
        channels=channels,
        paths=paths,
        rows=[rows[path] for path in paths],
    )


def _append(file: BinaryIO, pixels: np.ndarray) -> None:
    file.write(pixels)


class _Progress:
    """Lines on stderr, one at the start and one every ten seconds."""

    def __init__(self, root: str, file: Path):
        self._root = root
        self._last_line = time.monotonic()
        processes.say(f"{root}: the decoded images are too large for memory, and go to {file}")

    def tell(self, count: int, size: int) -> None:
        now = time.monotonic()
        if now - self._last_line > _SECONDS_BETWEEN_LINES:
            processes.say(f"{self._root}: {count} images decoded, {size / 2**30:.1f} GiB")
            self._last_line = now


def _opened(folder: Path, index: Mapping[str, Any]) -> Pixels:
    """Opens the pixels of an index.

    Raises:
      OSError: there is no such file.
      ValueError: it has another size.
    """
    file = folder / index["pixels"]
    channels = np.array(index["channels"])
    height, width = index["size"]
    starts = np.cumsum([0, *(height * width * channels)])
    # As a plain array: slices of a memory map are slow objects
    pixels = np.asarray(np.memmap(file, np.uint8, mode="r"))
    if len(pixels) != starts[-1]:
        raise ValueError(f"{file} has {len(pixels)} bytes, not {starts[-1]}")
    rows = np.array(index["rows"])
    shape = (height, width, int(channels[rows].max()))
    images = Lazy((len(rows), *shape), _Reader(pixels, starts, rows, shape))
    return Pixels(index["paths"], images, file)


class _Reader(NamedTuple):
    """Reads uint8 images [M,H,W,C] at indices [M].

    Attributes:
      pixels: uint8, of all images in the order of decoding.
      starts: int64, of each of them, and the end of the last.
      rows: int64 [N], the place of each image in that order.
      shape: [H,W,C].
    """

    pixels: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    shape: tuple[int, int, int]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), *self.shape), np.uint8)
        for place, row in enumerate(self.rows[indices]):
            stored = self.pixels[self.starts[row] : self.starts[row + 1]]
            # A grey image among coloured ones gets equal channels
            images[place] = stored.reshape(*self.shape[:2], -1)
        return images


def fingerprint(
    pixels: Pixels,
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
) -> str:
    """Returns the fingerprint that the images have in memory; computed once for equal labels.

    Args:
      pixels: images in a file.
      labels: int32 [N] per label name.
      classes: class names per label name.
    """
    ordered = [labels[key] for key in sorted(labels)]
    described = digest(sorted(classes.items()), *ordered)
    file = pixels.file.with_suffix(f".{described}")
    if file.exists():
        return file.read_text()
    found = content_fingerprint(pixels.images, labels, classes)
    # It can be computed again wherever it cannot be kept
    with contextlib.suppress(OSError), store.atomic(file) as temporary:
        temporary.write_text(found)
    return found
