"""The MNIST family: gzipped idx files as published (MNIST, Fashion-MNIST, KMNIST)."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from xinv.data.dataset import MAX_BYTES, Dataset, create, numbered
from xinv.types import InputError

SPLITS = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}


def idx(root: str, split: str = "all", label: str = "label", classes: int | None = None, title: str = "") -> Dataset:
    """Images uint8 [N,H,W,1] and one label set, from `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    Args:
      root: the folder of the files.
      split: "train", "test", or "all" for train followed by test.
      label: what to call the label set.
      classes: the number of classes, "0", "1", …; None ends them at the largest label.
      title: what to call the data set; the folder's name if empty.

    Raises:
      InputError: a file is missing, truncated, of another format, or does not match its partner.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    images, labels = zip(*(_pair(Path(root), part) for part in SPLITS[split]), strict=True)
    labels = np.concatenate(labels)
    return create(
        title or Path(root).name,
        np.concatenate(images)[..., None],
        {label: labels},
        {label: numbered(labels) if classes is None else tuple(map(str, range(classes)))},
    )


def _pair(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read(root, f"{part}-images-idx3-ubyte", rank=3)
    labels = _read(root, f"{part}-labels-idx1-ubyte", rank=1)
    if len(images) != len(labels):
        raise InputError(f"{root}: {part} has {len(images)} images but {len(labels)} labels")
    return images, labels


def _read(root: Path, stem: str, rank: int) -> np.ndarray:
    """The uint8 array of `rank` in `root/stem.gz` or `root/stem`."""
    path = next((path for path in (root / f"{stem}.gz", root / stem) if path.is_file()), None)
    if path is None:
        raise InputError(f"no file {stem}.gz (or {stem}) in {root}")
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
