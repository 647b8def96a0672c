"""The MNIST family: idx files as published (MNIST, Fashion-MNIST, KMNIST, EMNIST, and as Kaggle unpacks them)."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from xinv.data.dataset import MAX_BYTES, Dataset, create, numbered
from xinv.types import InputError

SPLITS = {"train": ("train",), "test": ("t10k|test",), "all": ("train", "t10k|test")}


def idx(root: str, split: str = "all", label: str = "label", classes: int | None = None, title: str = "") -> Dataset:
    """Images uint8 [N,H,W,1] and one label set, from `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    Names may have a prefix (emnist-letters-train-…), "test" for "t10k", a point before "idx", or be folders with the
    file inside.

    Args:
      root: the folder of the files.
      split: "train", "test", or "all" for train followed by test.
      label: what to call the label set.
      classes: the number of classes, "0", "1", …; None takes those from the smallest label to the largest, if the
        smallest is 1 as in EMNIST's letters, and otherwise from 0.
      title: what to call the data set; the folder's name if empty.

    Raises:
      InputError: a file is missing, truncated, of another format, or does not match its partner.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    images, labels = zip(*(_pair(Path(root), part) for part in SPLITS[split]), strict=True)
    labels = np.concatenate(labels)
    if classes is None and len(labels) and labels.min() == 1:
        names, labels = tuple(map(str, range(1, int(labels.max()) + 1))), labels - 1
    else:
        names = numbered(labels) if classes is None else tuple(map(str, range(classes)))
    return create(
        title or Path(root).name,
        np.concatenate(images)[..., None],
        {label: labels},
        {label: names},
    )


def _pair(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_read(root, part, kind, rank) for kind, rank in (("images", 3), ("labels", 1)))
    if len(images) != len(labels):
        raise InputError(f"{root}: {part} has {len(images)} images but {len(labels)} labels")
    return images, labels


def _find(root: Path, part: str, kind: str, rank: int) -> Path:
    """The file of that name, compressed before plain; InputError where there is none, or several sets' are."""
    pattern = re.compile(rf"(?P<set>.*-)?(?:{part})-{kind}[-.]idx{rank}-ubyte(\.gz)?")
    names = sorted(path.name for path in root.iterdir() if pattern.fullmatch(path.name)) if root.is_dir() else []
    stem = f"{part.split('|')[0]}-{kind}-idx{rank}-ubyte"
    if not names:
        raise InputError(f"no file {stem}.gz (or {stem}) in {root}")
    sets = {pattern.fullmatch(name)["set"] for name in names}
    if len(sets) > 1:
        raise InputError(f"{root} holds {', '.join(names)}: keep one data set in a folder")
    path = root / next((name for name in names if name.endswith(".gz")), names[0])
    return path / path.name if path.is_dir() else path


def _read(root: Path, part: str, kind: str, rank: int) -> np.ndarray:
    """The uint8 array of `rank` in the images or labels of a part."""
    path = _find(root, part, kind, rank)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path, file, rank)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is truncated or not gzip: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parse(path: Path, file: gzip.GzipFile, rank: int) -> np.ndarray:
    magic = file.read(4)
    if magic != bytes([0, 0, 8, rank]):
        raise InputError(f"{path} starts with {magic.hex()}, not 000008{rank:02x} (idx of bytes, rank {rank})")
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise InputError(f"{path} is truncated within its header")
    shape = np.frombuffer(header, ">u4").tolist()
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise InputError(f"{path} claims {size} bytes of data, more than the {MAX_BYTES} allowed")
    content = file.read(size + 1)
    if len(content) != size:
        raise InputError(f"{path} holds {'more' if len(content) > size else 'fewer'} than the {size} bytes it claims")
    return np.frombuffer(content, np.uint8).reshape(shape)
