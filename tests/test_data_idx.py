"""idx files, written here byte by byte as the format's description says."""

import gzip
import struct

import numpy as np
import pytest

from xinv import data
from xinv.types import InputError

RANDOM = np.random.default_rng(0)
TRAIN, TEST = RANDOM.integers(0, 256, (5, 4, 3), np.uint8), RANDOM.integers(0, 256, (2, 4, 3), np.uint8)


def idx_bytes(array, code=8):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def root(tmp_path):
    files = {
        "train-images-idx3": TRAIN,
        "train-labels-idx1": np.array([0, 1, 2, 3, 4], np.uint8),
        "t10k-images-idx3": TEST,
        "t10k-labels-idx1": np.array([4, 0], np.uint8),
    }
    for name, array in files.items():
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def load(root, **options):
    return data.build("idx", root=str(root), **options)


def test_splits(root):
    for split, images, labels in [("train", TRAIN, range(5)), ("test", TEST, [4, 0])]:
        found = load(root, split=split, label="digit")
        np.testing.assert_array_equal(found.images, images[..., None])
        np.testing.assert_array_equal(found.labels["digit"], labels)
    both = load(root)
    np.testing.assert_array_equal(both.images[..., 0], np.concatenate([TRAIN, TEST]))
    assert both.classes == {"label": tuple("01234")}
    assert both.name == root.name
    assert load(root, title="mnist").name == "mnist"


def test_unzipped_files(root):
    for path in list(root.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(load(root, split="test").images[..., 0], TEST)


def test_a_wrong_root_says_what_was_looked_for(root):
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"no file t10k-labels-idx1-ubyte.gz \(or t10k-labels-idx1-ubyte\) in "):
        load(root)
    with pytest.raises(InputError, match=r"no file train-images-idx3-ubyte.gz .* in .*nowhere"):
        load(root / "nowhere")
    with pytest.raises(InputError, match="unknown split 'val': choose one of train, test, all"):
        load(root, split="val")


GOOD = idx_bytes(TRAIN)


def zipped(content):
    """Without the time of day, which would give parallel test workers different names for one test."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(GOOD)[:-20], "is truncated or not gzip"),
        (zipped(GOOD)[:15], "is truncated or not gzip"),
        (zipped(GOOD)[:-8] + bytes(8), "is truncated or not gzip"),  # wrong check sum
        (b"<html>not found</html>", "is truncated or not gzip"),
        (b"", "starts with , not 00000803"),
        (zipped(idx_bytes(TRAIN, code=13)), "starts with 00000d03, not 00000803"),
        (zipped(idx_bytes(TRAIN[0])), "starts with 00000802, not 00000803"),
        (zipped(GOOD[:10]), "truncated within its header"),
        (zipped(GOOD[:-1]), "holds fewer than the 60 bytes it claims"),
        (zipped(GOOD + b"x"), "holds more than the 60 bytes it claims"),
        (zipped(GOOD[:4] + b"\xff" * 12), "more than the 4294967296 allowed"),
        (zipped(idx_bytes(TRAIN[:4])), "train has 4 images but 5 labels"),
    ],
)
def test_broken_files_are_named(root, content, message):
    (root / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(root)
