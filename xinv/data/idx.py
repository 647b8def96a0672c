"""The MNIST family: idx files as published or as unpacked by Kaggle."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from xinv.data.dataset import MAX_BYTES, Dataset, create, renumber
from xinv.numbers import is_one_of
from xinv.types import InputError

SPLITS = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}
RANKS = {"images": 3, "labels": 1}
TYPES = {
    b"\x09": "int8",
    b"\x0b": "int16",
    b"\x0c": "int32",
    b"\x0d": "float32",
    b"\x0e": "float64",
}
"""Of idx values other than bytes, by the third byte of a file; QMNIST's labels are int32."""
NAME = re.compile(
    r"(?P<prefix>.*?)-?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx\d-\w+?(?:\.gz)?",
)
"""Of a file: `train-images-idx3-ubyte.gz`, `train-images.idx3-ubyte`,
`emnist-letters-test-labels-idx1-ubyte.gz`.
"""


def idx(
    root: str,
    split: str = "all",
    label: str = "label",
    classes: int | None = None,
    title: str = "",
    prefix: str | None = None,
) -> Dataset:
    """Reads `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    The names may have a point before "idx", "test" for "t10k" and a word in front, as in
    `emnist-letters-train-images-idx3-ubyte.gz`; each file may lie in a folder of its own name.
    Images are given as stored: EMNIST's are transposed.

    Args:
      root: the folder of the files.
      split: "train", "test", or "all" for train followed by test.
      label: name of the label set.
      classes: the number of classes, "0", "1", …, or "1", "2", … if no label is 0 and the largest
        is that number; None begins at 0, or at the smallest label, and ends at the largest.
      title: name of the data set; the folder's name if empty.
      prefix: of the names before "-train", such as "emnist-letters"; None where there is one.

    Returns:
      Images uint8 [N,H,W,1] and one label set, in memory.

    Raises:
      InputError: a file is missing, truncated, of another format, or does not match its partner, or
        files of several prefixes are there.
    """
    if not is_one_of(split, SPLITS):
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    files = _files(Path(root), prefix)
    # Train before test, so that the split "all" has them in this order
    images, labels = zip(*(_pair(Path(root), files, part) for part in SPLITS[split]), strict=True)
    values, names = renumber(np.concatenate(labels), classes)
    return create(
        title or Path(root).name,
        np.concatenate(images)[..., None],
        {label: values},
        {label: names},
    )


def _files(root: Path, prefix: str | None) -> dict[tuple[str, str], Path]:
    """The files below `root` by ("train" or "t10k", "images" or "labels"); gzipped ones first."""
    found: dict[str, dict[tuple[str, str], Path]] = {}
    # Kaggle puts each file into a folder of its own name.
    paths = [
        path / path.name if path.is_dir() else path for path in sorted(root.glob("*"), reverse=True)
    ]
    for path in paths:
        name = NAME.fullmatch(path.name)
        if name and path.is_file():
            part = "train" if name["part"] == "train" else "t10k"
            # Keep the first of a kind: in reverse order .gz precedes the bare name
            found.setdefault(name["prefix"], {}).setdefault((part, name["kind"]), path)
    # EMNIST has six sets in one folder: a guess could take the wrong one.
    if prefix is None and len(found) > 1:
        choices = ", ".join(map(repr, sorted(found)))
        raise InputError(f"{root} holds several sets of idx files: choose prefix among {choices}")
    if prefix is not None and not is_one_of(prefix, found):
        choices = ", ".join(map(repr, sorted(found))) or "none"
        raise InputError(f"{root} has no idx files of prefix {prefix!r}: there are {choices}")
    if prefix is not None:
        return found[prefix]
    return next(iter(found.values()), {})


def _pair(
    root: Path,
    files: dict[tuple[str, str], Path],
    part: str,
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_read(root, files, part, kind) for kind in RANKS)
    if len(images) != len(labels):
        raise InputError(f"{root}: {part} has {len(images)} images but {len(labels)} labels")
    return images, labels


def _read(root: Path, files: dict[tuple[str, str], Path], part: str, kind: str) -> np.ndarray:
    """The uint8 array of the images or the labels of a part."""
    # Kaggle's copies are not compressed.
    rank = RANKS[kind]
    path = files.get((part, kind))
    if path is None:
        stem = f"{part}-{kind}-idx{rank}-ubyte"
        raise InputError(f"no file {stem}.gz (or {stem}) in {root}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path, file, rank)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is truncated or not gzip: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parse(path: Path, file: gzip.GzipFile, rank: int) -> np.ndarray:
    # The magic number: two zeros, the type of the values, the number of dimensions
    magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        raise InputError(f"{path} is gzipped: add .gz to its name")
    if magic[:2] == bytes(2) and magic[2:3] in TYPES:
        raise InputError(
            f"{path} starts with {magic.hex()}, it holds {TYPES[magic[2:3]]} of rank {magic[3]},"
            f" not 000008{rank:02x} (bytes of rank {rank}): store it as such, or as npz for"
            " `arrays`"
        )
    if magic != bytes([0, 0, 8, rank]):
        raise InputError(
            f"{path} starts with {magic.hex()}, not 000008{rank:02x} (idx of bytes, rank {rank})"
        )
    # One big-endian size per dimension, then the bytes
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise InputError(f"{path} is truncated within its header")
    shape = np.frombuffer(header, ">u4").tolist()
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise InputError(f"{path} claims {size} bytes of data, more than the {MAX_BYTES} allowed")
    # One byte more than stated, to find a file that is too long
    content = file.read(size + 1)
    if len(content) != size:
        raise InputError(
            f"{path} holds {'more' if len(content) > size else 'fewer'} than the {size} bytes it"
            " claims"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
