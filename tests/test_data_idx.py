"""idx files, written here byte by byte as the format's description says."""

import gzip
import struct

import numpy as np
import pytest

from xinv import data
from xinv.types import InputError

RANDOM = np.random.default_rng(0)
TRAIN, TEST = (
    RANDOM.integers(0, 256, (5, 4, 3), np.uint8),
    RANDOM.integers(0, 256, (2, 4, 3), np.uint8),
)


def idx_bytes(array, code=8):
    return (
        bytes([0, 0, code, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


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


def rename(root, change):
    for path in list(root.iterdir()):
        path.rename(root / change(path.name))


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("-idx", ".idx"),  # as MNIST was first published, and on Kaggle
        lambda name: "emnist-letters-" + name.replace("t10k", "test"),
        lambda name: name.replace("t10k", "test"),
    ],
)
def test_usual_names_read(root, change):
    """Names with a point, with EMNIST's prefix or with "test" are read as well."""
    rename(root, change)
    np.testing.assert_array_equal(load(root).images[..., 0], np.concatenate([TRAIN, TEST]))


def test_folder_per_file(root):
    """A file in a folder of its own name, as Kaggle unpacks it, is read."""
    for path in list(root.iterdir()):
        folder = root / path.stem
        folder.mkdir()
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(load(root, split="test").images[..., 0], TEST)


def test_prefix_chooses_set(root):
    """Of several sets in one folder `prefix` chooses one, and a missing choice is named."""
    for path in list(root.iterdir()):
        (root / f"emnist-{path.name}").write_bytes(path.read_bytes())
    (root / "emnist-train-images-idx3-ubyte.gz").write_bytes(zipped(idx_bytes(TRAIN[::-1])))
    for prefix, images in (("", TRAIN), ("emnist", TRAIN[::-1])):
        found = load(root, split="train", prefix=prefix)
        np.testing.assert_array_equal(found.images[..., 0], images)
    with pytest.raises(
        InputError, match="holds several sets of idx files: choose prefix among '', 'emnist'"
    ):
        load(root)
    with pytest.raises(
        InputError, match="no idx files of prefix 'letters': there are '', 'emnist'"
    ):
        load(root, prefix="letters")


@pytest.mark.parametrize(("classes", "names"), [(None, "1234"), (4, "1234"), (5, "01234")])
def test_labels_from_one(root, classes, names):
    """Labels 1 to 4 are four classes, unless five are declared."""
    stored = np.array([1, 2, 3, 4, 2], np.uint8)
    (root / "train-labels-idx1-ubyte.gz").write_bytes(zipped(idx_bytes(stored)))
    found = load(root, split="train", classes=classes)
    assert found.classes == {"label": tuple(names)}
    assert [found.classes["label"][value] for value in found.labels["label"]] == list("12342")


def test_wide_labels_named(root):
    """The int32 labels of QMNIST, of rank 2 and under its names, are one sentence."""
    rename(root, lambda name: "qmnist-" + name)
    (root / "qmnist-train-labels-idx1-ubyte.gz").unlink()
    labels = np.zeros((5, 8), ">i4")
    (root / "qmnist-train-labels-idx2-int.gz").write_bytes(zipped(idx_bytes(labels, code=12)))
    with pytest.raises(
        InputError,
        match=r"idx2-int.gz starts with 00000c02, it holds int32 of rank 2, not 00000801",
    ):
        load(root)


def test_gzip_under_plain_name(root):
    """A gzipped file without .gz is not taken for a damaged one."""
    path = root / "train-images-idx3-ubyte.gz"
    path.rename(path.with_suffix(""))
    with pytest.raises(InputError, match=r"idx3-ubyte is gzipped: add .gz to its name"):
        load(root)


def test_wrong_root(root):
    """A wrong root names the files that were looked for."""
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        InputError, match=r"no file t10k-labels-idx1-ubyte.gz \(or t10k-labels-idx1-ubyte\) in "
    ):
        load(root)
    with pytest.raises(InputError, match=r"no file train-images-idx3-ubyte.gz .* in .*nowhere"):
        load(root / "nowhere")
    with pytest.raises(InputError, match="unknown split 'val': choose one of train, test, all"):
        load(root, split="val")
    with pytest.raises(InputError, match=r"unknown split \['train'\]"):
        data.idx(str(root), split=["train"])
    with pytest.raises(InputError, match=r"no idx files of prefix \['a'\]"):
        data.idx(str(root), prefix=["a"])


GOOD = idx_bytes(TRAIN)


def zipped(content):
    """Leaves the time of day out: parallel test workers would name one test differently."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(GOOD)[:-20], "is truncated or not gzip"),
        (zipped(GOOD)[:15], "is truncated or not gzip"),
        (zipped(GOOD)[:-8] + bytes(8), "is truncated or not gzip"),  # wrong check sum
        (b"<html>not found</html>", "is truncated or not gzip"),
        (b"", "starts with , not 00000803"),
        (
            zipped(idx_bytes(TRAIN, code=13)),
            "starts with 00000d03, it holds float32 of rank 3, not 00000803",
        ),
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
