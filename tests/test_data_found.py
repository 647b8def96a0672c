"""Image files and folders as people have them: transparent, turned, deep, linked, beside other files."""

import gzip
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xinv import data
from xinv.data.files import decode
from xinv.types import InputError

INK = np.zeros((8, 8), bool)
INK[2:6, 3:5] = True


def saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def write(root, members):
    for path, content in members.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return str(root)


def flat(value):
    return saved(Image.fromarray(np.full((4, 4), value, np.uint8)))


def glyph(colour, mode):
    channels = {"RGBA": 4, "LA": 2}[mode]
    pixels = np.full((8, 8, channels), colour, np.uint8)
    pixels[..., -1] = 255 * INK
    return saved(Image.fromarray(pixels))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_transparency_is_composed(mode, channels):
    """Black ink on nothing stands on white, white ink on a background that is told."""
    black = decode(glyph(0, mode), "x")
    np.testing.assert_array_equal(black, np.repeat(np.where(INK, 0, 255)[..., None], channels, -1))
    white = decode(glyph(255, mode), "x", background=10)
    np.testing.assert_array_equal(white[..., 0], np.where(INK, 255, 10))
    with pytest.raises(InputError, match="x is drawn in 255 on nothing: give another background"):
        decode(glyph(255, mode), "x")


def test_half_transparency_is_mixed():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 51 * INK
    np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels)), "x")[..., 0], np.where(INK, 204, 255))


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_palette(transparency):
    image = Image.fromarray(INK.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0] * 256)
    found = decode(saved(image, transparency=transparency), "x")
    np.testing.assert_array_equal(found, np.where(INK, 0, 255)[..., None])


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 1), (8, 3)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(orientation, turn, kind):
    """What a camera stores turned is shown upright, as the EXIF tag says."""
    upright = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(np.ascontiguousarray(np.rot90(upright, turn))), kind, exif=exif, **lossless)
    np.testing.assert_array_equal(decode(content, "x"), upright)


def deep_png(array):
    """A PNG of 16 bits per channel; Pillow writes none in colour."""
    height, width, channels = array.shape
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    body = (struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b)) for kind, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_in_colour(channels):
    content = deep_png(np.full((3, 4, channels), 300, np.uint16))
    with pytest.raises(InputError, match=r"x has (16 bits|pixels of mode)"):
        decode(content, "x")


def test_the_class_may_be_higher(tmp_path):
    """Tiny ImageNet keeps images in class/images; which folder is the class is told, never guessed."""
    root = write(
        tmp_path / "set", {"n01/images/0.png": flat(1), "n01/images/1.png": flat(2), "n02/images/0.png": flat(3)}
    )
    with pytest.raises(InputError, match=r"all images are in folders named 'images'.*level=0 for 'n01'"):
        data.folder(root)
    found = data.folder(root, level=0)
    assert found.classes == {"label": ("n01", "n02")}
    assert found.labels["label"].tolist() == [0, 0, 1]


def test_depths_are_not_mixed(tmp_path):
    root = write(tmp_path / "set", {"cat/0.png": flat(1), "cat/more/1.png": flat(2), "dog/0.png": flat(3)})
    with pytest.raises(InputError, match="cat and in cat/more, not equally deep"):
        data.folder(root)
    assert data.folder(root, level=0).labels["label"].tolist() == [0, 0, 1]
    assert data.folder(root, level=-1).classes["label"] == ("cat", "dog", "more")


def test_linked_folders_are_followed(tmp_path):
    """Once each: a link to a folder above does not lead round."""
    write(tmp_path / "elsewhere", {"0.png": flat(1), "1.png": flat(2)})
    root = write(tmp_path / "set", {"cat/0.png": flat(3)})
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "dog")
    os.symlink(tmp_path / "set", tmp_path / "set" / "cat" / "round")
    found = data.folder(root)
    assert found.classes == {"label": ("cat", "dog")}
    assert found.labels["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["README.pdf", "cat/poster.eps", "cat/features.h5", "cat/clip.mpg", "cat/notes.txt"])
def test_other_files_are_no_images(tmp_path, name):
    root = write(tmp_path / "set", {"cat/0.PNG": flat(1), "dog/0.png": flat(2), name: b"%!PS not an image"})
    assert len(data.folder(root).images) == 2


def idx(array):
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


IMAGES, LABELS = np.arange(6 * 3 * 2).reshape(6, 3, 2), np.array([1, 2, 3, 1, 2, 3])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte/train-images-idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
    ],
)
def test_names_of_idx_files(tmp_path, images, labels):
    """As 7-Zip unpacks them, EMNIST's, and Kaggle's folders; labels from 1 on are as many classes as there are."""
    pack = lambda name, array: gzip.compress(idx(array)) if name.endswith(".gz") else idx(array)  # noqa: E731
    root = write(tmp_path, {images: pack(images, IMAGES), labels: pack(labels, LABELS)})
    found = data.idx(root, split="train")
    np.testing.assert_array_equal(found.images[..., 0], IMAGES)
    assert found.classes == {"label": ("1", "2", "3")}
    assert found.labels["label"].tolist() == [0, 1, 2, 0, 1, 2]


def test_two_sets_in_a_folder(tmp_path):
    names = [f"emnist-{kind}-train-images-idx3-ubyte" for kind in ("digits", "letters")]
    root = write(tmp_path, {name: idx(IMAGES) for name in names})
    with pytest.raises(InputError, match="keep one data set in a folder"):
        data.idx(root, split="train")
