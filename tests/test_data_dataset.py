"""The Dataset itself, the embedded digits, and transforms, against scikit-learn, Pillow and
scikit-image.
"""

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize as skimage_resize
from sklearn.datasets import load_digits

from xinv import data
from xinv.types import InputError


def toy(count=6, height=5, width=8, channels=3, seed=0):
    images = np.random.default_rng(seed).integers(
        0, 256, (count, height, width, channels), np.uint8
    )
    return data.create("toy", images, {"kind": np.arange(count) % 2}, {"kind": ("even", "odd")})


def lazily(dataset, log=None):
    """`dataset` with images that are read on demand, each read noted in `log`."""

    def read(rows):
        if log is not None:
            log.append(rows.tolist())
        return dataset.images[rows]

    return dataset._replace(images=data.Lazy(dataset.images.shape, read))


def test_digits_are_scikit_learns():
    """The digits are scikit-learn's, in all of 0 to 255."""
    digits, source = data.build("digits"), load_digits()
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    np.testing.assert_allclose(digits.images[..., 0] / 255 * 16, source.images, atol=16 / 255 / 2)
    np.testing.assert_array_equal(digits.labels["digit"], source.target)
    assert digits.classes == {"digit": tuple("0123456789")}
    assert digits.labels["digit"].dtype == np.int32


def test_fingerprint_depends_on_content():
    """The fingerprint depends on pixels, labels and classes and on nothing else."""
    base = toy()
    assert toy().fingerprint == base.fingerprint
    images = base.images.copy()
    images[3, 2, 1, 0] ^= 1
    changed = [
        data.create("toy", images, base.labels, base.classes),
        data.create("toy", base.images, {"kind": 1 - base.labels["kind"]}, base.classes),
        data.create("toy", base.images, base.labels, {"kind": ("even", "uneven")}),
        data.create("toy", base.images.reshape(6, 8, 5, 3), base.labels, base.classes),
        data.create(
            "toy", base.images, {"sort": base.labels["kind"]}, {"sort": base.classes["kind"]}
        ),
    ]
    assert len({base.fingerprint, *(dataset.fingerprint for dataset in changed)}) == 6
    assert (
        data.create("other", base.images, base.labels, base.classes).fingerprint == base.fingerprint
    )


IMAGES = np.zeros((3, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (IMAGES.astype(np.float32), {"a": [0, 0, 1]}, {"a": "xy"}, "float32"),
        (IMAGES[..., 0], {"a": [0, 0, 1]}, {"a": "xy"}, r"\(3, 4, 4\), not uint8 \[N,H,W,C\]"),
        (IMAGES[:0], {"a": np.zeros(0, int)}, {"a": "xy"}, "empty shape"),
        (IMAGES, {}, {}, "label sets"),
        (IMAGES, {"a": [0, 0, 1]}, {"b": "xy"}, "label sets"),
        (IMAGES, {"a": [0, 1]}, {"a": "xy"}, "3 images"),
        (IMAGES, {"a": [0, 1, 2]}, {"a": "xy"}, r"is 2 for image 2, outside 0..1"),
        (IMAGES, {"a": [0, -1, 1]}, {"a": "xy"}, r"is -1 for image 1, outside 0..1"),
        (IMAGES, {"a": [0.0, np.nan, 1.0]}, {"a": "xy"}, "float64, not integers"),
        (IMAGES, {"a": [0, 0, 1]}, {"a": "xx"}, "repeated"),
        (IMAGES, {"a": [0, 0, 1]}, {"a": ["x", ""]}, "empty"),
    ],
)
def test_bad_data_is_named(images, labels, classes, message):
    with pytest.raises(InputError, match=message):
        data.create("bad", images, labels, classes)


@pytest.mark.parametrize(
    "index", [2, -1, slice(1, 5, 2), [4, 0, 0], np.array([], int), np.array([1, 5])]
)
def test_lazy_images_index_like_arrays(index):
    """Lazy images are indexed like an array."""
    dataset = toy()
    lazy = lazily(dataset).images
    np.testing.assert_array_equal(lazy[index], dataset.images[index])
    np.testing.assert_array_equal(np.asarray(lazy), dataset.images)
    assert (len(lazy), lazy.shape, lazy.dtype) == (6, (6, 5, 8, 3), np.uint8)


@pytest.mark.parametrize("lazy", [False, True])
def test_take(lazy):
    """`take` keeps images, labels and laziness."""
    dataset, log = toy(), []
    part = data.take(lazily(dataset, log) if lazy else dataset, [5, 1, 2])
    assert log == []
    np.testing.assert_array_equal(part.images[np.array([2, 0])], dataset.images[[2, 5]])
    assert log == ([[2, 5]] if lazy else [])
    assert part.labels["kind"].tolist() == [1, 1, 0]
    mask = np.isin(np.arange(6), [1, 2])
    np.testing.assert_array_equal(data.take(dataset, mask).images, dataset.images[[1, 2]])
    assert len({dataset.fingerprint, part.fingerprint, data.take(dataset, mask).fingerprint}) == 3


def test_no_image_is_chosen():
    with pytest.raises(InputError, match="empty"):
        data.take(toy(), [])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transform_order(lazy, channels):
    """A transform crops, then turns grey, then resizes."""
    dataset = toy(channels=channels)
    before = dataset.images.copy()
    source = lazily(dataset) if lazy else dataset
    grayscale = channels != 4
    changed = data.transform(source, crop=(1, 2, 4, 5), resize=(7, 3), grayscale=grayscale)
    assert isinstance(changed.images, data.Lazy) == lazy
    for was, now in zip(dataset.images, changed.images[:], strict=True):
        image = Image.fromarray(was.squeeze())
        image = image.crop((2, 1, 7, 5))
        image = image.convert("L") if grayscale else image
        planes = [plane.resize((3, 7), Image.Resampling.BILINEAR) for plane in image.split()]
        np.testing.assert_array_equal(now, np.stack([np.asarray(plane) for plane in planes], -1))
    np.testing.assert_array_equal(dataset.images, before)


def test_resize_agrees_with_scikit_image():
    digits = data.build("digits")
    grown = data.transform(data.take(digits, range(20)), resize=(32, 32)).images
    expected = [
        skimage_resize(image / 255, (32, 32), order=1, mode="edge") for image in digits.images[:20]
    ]
    np.testing.assert_allclose(
        grown / 255, expected, atol=1.5 / 255
    )  # Pillow rounds each of its two passes


def test_centre_is_the_largest_square():
    dataset = toy(height=5, width=8)
    np.testing.assert_array_equal(
        data.transform(dataset, crop="centre").images, dataset.images[:, :, 1:6]
    )
    np.testing.assert_array_equal(data.transform(dataset).images, dataset.images)


def test_transform_enters_fingerprint():
    """The transform is recorded in the fingerprint."""
    dataset = toy()
    options = [
        {},
        {"crop": "centre"},
        {"resize": (4, 4)},
        {"resize": (4, 4), "method": "nearest"},
        {"grayscale": True},
    ]
    changed = [data.transform(dataset, **option).fingerprint for option in options]
    assert len({dataset.fingerprint, *changed}) == 6
    assert data.transform(dataset, resize=[4, 4]).fingerprint == changed[2]
    assert data.transform(lazily(dataset), resize=(4, 4)).fingerprint == changed[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "center"}, "'center' is not None, 'centre' or"),
        ({"crop": (0, 0, 5)}, "is not None, 'centre' or"),
        ({"crop": (1, 0, 5, 8)}, "leaves an image of 5×8"),
        ({"crop": (-1, 0, 2, 2)}, "inside an image"),
        ({"resize": 32}, "resize 32 is not"),
        ({"resize": (0, 4)}, "at least 1"),
        ({"resize": (4.5, 4)}, "is not None or"),
        ({"method": "magic"}, "choose one of nearest, box"),
    ],
)
def test_bad_transforms_are_named(options, message):
    with pytest.raises(InputError, match=message):
        data.transform(toy(), **options)


def test_grey_needs_colours_it_knows():
    with pytest.raises(InputError, match="1 or 3 channels, not 4"):
        data.transform(toy(channels=4), grayscale=True)


def test_unknown_names_refused():
    """Unknown sources and options are named."""
    with pytest.raises(
        InputError,
        match="unknown data source 'mnist': choose one of arrays, digits, folder, idx, tfds",
    ):
        data.build("mnist")
    with pytest.raises(InputError, match="no parameter 'foot'"):
        data.build("idx", foot="x")
    with pytest.raises(InputError, match="needs a value for root"):
        data.build("folder")


@pytest.mark.parametrize(
    "classes", [3, "kind", ("kind",), ("kind", 1.5), (3, 2), ("kind", True), ("kind", "a")]
)
def test_malformed_classes_named(classes):
    """Classes to keep that are no label with a number or names are one sentence."""
    with pytest.raises(
        InputError, match=r"is not None, \(label, number\), .* or \(label, \(class, …\)\)"
    ):
        data.transform(data.digits(), classes=classes)
