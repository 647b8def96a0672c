"""npz files: what may be in them, and every way in which they can be wrong."""

import numpy as np
import pytest

from xinv import data
from xinv.types import InputError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2])


@pytest.fixture
def save(tmp_path):
    def write(**content):
        np.savez(tmp_path / "set.npz", **content)
        return str(tmp_path / "set.npz")

    return write


def test_bytes_come_back(save):
    """Bytes come back as they are."""
    found = data.build("arrays", path=save(images=IMAGES, labels=LABELS))
    np.testing.assert_array_equal(found.images, IMAGES)
    np.testing.assert_array_equal(found.labels["label"], LABELS)
    assert found.classes == {"label": ("0", "1", "2")}
    assert found.name == "set"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_bytes(save, dtype):
    found = data.build(
        "arrays", path=save(images=(IMAGES / 255).astype(dtype)[..., 0], labels=LABELS)
    )
    assert found.images.shape == (6, 5, 4, 1)
    np.testing.assert_array_equal(found.images, IMAGES[..., :1])


def test_keys_and_columns(save):
    """Keys, columns and names choose among several arrays."""
    path = save(
        x=IMAGES,
        x2=IMAGES[:2],
        y=LABELS[:, None],
        y2=LABELS[:2],
        meta=np.stack([LABELS, LABELS * 3], 1),
    )
    found = data.build(
        "arrays",
        path=path,
        image="x",
        labels={"sign": "y", "track": "meta[1]"},
        classes={"sign": 5},
        title="signs",
    )
    np.testing.assert_array_equal(found.labels["track"], LABELS * 3)
    assert found.classes["sign"] == tuple("01234")
    assert len(found.classes["track"]) == 7
    assert found.name == "signs"
    both = data.build(
        "arrays",
        path=path,
        image=["x", "x2"],
        labels={"sign": ["y", "y2"]},
        classes={"sign": "abc"},
    )
    np.testing.assert_array_equal(both.images, np.concatenate([IMAGES, IMAGES[:2]]))
    np.testing.assert_array_equal(both.labels["sign"], [*LABELS, 0, 2])
    assert both.classes["sign"] == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "classes", "names", "values"),
    [
        ([1, 2, 3], None, ("1", "2", "3"), [0, 1, 2]),
        ([7, 5, 7], None, ("5", "6", "7"), [2, 0, 2]),
        ([2, 3, 1], 3, ("1", "2", "3"), [1, 2, 0]),
        ([2, 3, 1], ("a", "b", "c"), ("a", "b", "c"), [1, 2, 0]),
        ([2, 3, 1], 4, ("0", "1", "2", "3"), [2, 3, 1]),
        ([0, 2, 2], None, ("0", "1", "2"), [0, 2, 2]),
    ],
)
def test_labels_without_zero(save, labels, classes, names, values):
    """Labels that begin above 0 keep their numbers as names and get no empty classes below."""
    path = save(images=np.zeros((3, 2, 2), np.uint8), labels=np.array(labels, np.uint8))
    found = data.build("arrays", path=path, classes=None if classes is None else {"label": classes})
    assert found.classes["label"] == names
    assert found.labels["label"].tolist() == values


def test_strings_are_their_own_classes(save):
    found = data.build("arrays", path=save(images=IMAGES, labels=np.array(list("cabbac"))))
    assert found.classes["label"] == ("a", "b", "c")
    assert found.labels["label"].tolist() == [2, 0, 1, 1, 0, 2]


def broken(value):
    images = (IMAGES / 255).astype(np.float32)
    images[2, 1, 1, 0] = value
    return images


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"images": broken(np.nan)}, {}, "'images' holds NaN or infinity in image 2"),
        ({"images": broken(-np.inf)}, {}, "'images' holds NaN or infinity in image 2"),
        ({"images": broken(1.01)}, {}, r"lies in \[0, 1.01\], not in \[0, 1\]"),
        ({"images": IMAGES.astype(np.int64)}, {}, "type int64, not uint8 or float"),
        ({"images": IMAGES[0, 0]}, {}, r"shape \(4, 3\), not \[N,H,W\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2).repeat(8, 3)}, {}, "with 1 to 4 channels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, {}, "empty shape"),
        (
            {"images": np.array([None, 1], object)},
            {},
            "'images' is damaged or not a plain array: Object arrays",
        ),
        ({"labels": np.array([object()] * 6)}, {}, "'labels' is damaged or not a plain array"),
        ({"labels": LABELS[:5]}, {}, r"shape \(5,\), but there are 6 images"),
        ({"labels": np.eye(6)}, {}, "type float64, not integers"),
        ({"labels": np.array([0, 1, np.nan, 0, 1, 1])}, {}, "type float64, not integers"),
        ({"labels": LABELS - 1}, {}, "is -1 for image 0"),
        ({"labels": LABELS * 10**9}, {}, "label 2000000000 is outside 0..1048575"),
        ({}, {"classes": {"label": 2}}, "is 2 for image 1, outside 0..1"),
        (
            {},
            {"classes": {"sort": 2}},
            r"classes are given for \['sort'\], but the labels are \['label'\]",
        ),
        ({"labels": np.array(list("abcabc"))}, {"classes": {"label": 3}}, "are their own classes"),
        ({}, {"image": "x"}, "has no array 'x': choose among images, labels"),
        ({}, {"labels": {"label": "labels[1]"}}, r"of shape \(6,\) has no column 1"),
        ({"b": IMAGES[:, :2]}, {"image": ("images", "b")}, "have different shapes"),
    ],
)
def test_bad_arrays_are_named(save, content, options, message):
    path = save(**({"images": IMAGES, "labels": LABELS} | content))
    with pytest.raises(InputError, match=message):
        data.build("arrays", path=path, **options)


def test_broken_files_are_named(save, tmp_path):
    path = save(images=IMAGES, labels=LABELS)
    content = (tmp_path / "set.npz").read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "set.npz").write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"set.npz is truncated or not an npz file"):
            data.build("arrays", path=path)
    (tmp_path / "set.npz").write_bytes(content[:300] + b"\x00\xff" * 20 + content[340:])
    with pytest.raises(InputError, match="'images' is damaged or not a plain array: Bad CRC"):
        data.build("arrays", path=path)
    with pytest.raises(InputError, match="no npz file at nowhere"):
        data.build("arrays", path="nowhere")


def test_memory_limited_beforehand(save, monkeypatch):
    """Memory is limited before it is taken."""
    monkeypatch.setitem(data.arrays.__globals__, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="'labels' exceeds the 100 bytes"):
        data.build("arrays", path=save(images=IMAGES, labels=LABELS))
