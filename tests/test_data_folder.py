"""Image folders and archives: what is found, how it is labelled, and every way in which they can be
broken.
"""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from xinv import data
from xinv.audit.run import load_data
from xinv.data import files
from xinv.types import InputError

YALE = r"(?P<identity>subject\d+)\.(?P<emotion>happy|sad)"


def picture(seed, height=6, width=4, channels=1):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(pixels, kind="png", **options):
    return _saved(Image.fromarray(pixels), kind, **options)


def _saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(root, members):
    for path, content in members.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return str(root)


def pack(path, members, mode="w:gz"):
    """A tar archive of {name: content, or a ready TarInfo}."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return str(path)


PEOPLE = {
    "zoe/1.png": encoded(picture(0)),
    "zoe/2.pgm": encoded(picture(1), "ppm"),
    "abe/1.gif": encoded(picture(2), "gif"),
    "ben/3.BMP": encoded(picture(3), "bmp"),
    "README.txt": b"not an image",
    "abe/Thumbs.db": b"not an image",
    "abe/poster.pdf": b"%PDF-1.4 which Pillow only writes",
    "abe/features.h5": b"not an image",
    "abe/figure.eps": b"not an image",
    "abe/clip.mpg": b"not an image",
    "abe/.hidden.png": b"not an image",
    "abe/._1.png": b"what a Mac adds",
}


@pytest.mark.parametrize("kind", ["folder", "w", "w:gz", "w:xz", "w:bz2"])
def test_a_folder_per_class(tmp_path, kind):
    root = (
        write(tmp_path / "people", PEOPLE)
        if kind == "folder"
        else pack(tmp_path / "people.tar", PEOPLE, kind)
    )
    before = sorted(tmp_path.rglob("*"))
    found = data.build("folder", root=root, labels="identity", level=-1)
    np.testing.assert_array_equal(found.images[..., 0], [picture(seed) for seed in (2, 3, 0, 1)])
    assert found.classes == {"identity": ("abe", "ben", "zoe")}
    assert found.labels["identity"].tolist() == [0, 1, 2, 2]
    assert found.name == "people"
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"{root}: 6 files are not in the data set (1 .")
    assert data.take(data.transform(found, resize=(2, 2)), [0]).notes == found.notes
    assert sorted(tmp_path.rglob("*")) == before  # nothing unpacked


def test_left_out_logged(tmp_path, capsys):
    """A run prints one line that counts the files that are no images."""
    root = write(tmp_path, PEOPLE)
    load_data({"source": {"name": "folder", "root": root}, "transform": {}})
    assert capsys.readouterr().err.splitlines() == list(data.folder(root).notes)


def test_two_label_sets(tmp_path):
    """One name can carry two label sets."""
    names = ["subject02.sad", "subject01.happy", "subject01.sad", "subject01.wink", "notes"]
    root = write(tmp_path, {name: encoded(picture(seed), "gif") for seed, name in enumerate(names)})
    found = data.build("folder", root=root, labels=YALE)
    np.testing.assert_array_equal(found.images[..., 0], [picture(seed) for seed in (1, 2, 0)])
    assert list(found.labels) == ["identity", "emotion"]
    assert found.labels["identity"].tolist() == [0, 0, 1]
    assert found.labels["emotion"].tolist() == [0, 1, 1]
    assert found.classes["emotion"] == ("happy", "sad")


def test_a_function_may_label(tmp_path):
    root = write(tmp_path, PEOPLE)
    found = data.folder(
        root, labels=lambda path: {"first": path[0]} if path.endswith("1.png") else None
    )
    assert found.classes == {"first": ("z",)}


def test_duplicates_dropped(tmp_path):
    """Duplicates can be dropped, and the first stays."""
    same = picture(5)
    members = {"a.png": encoded(same), "b.png": encoded(picture(6)), "c.gif": encoded(same, "gif")}
    root = write(tmp_path, {f"x/{name}": content for name, content in members.items()})
    assert len(data.build("folder", root=root, level=0).images) == 3
    kept = data.build("folder", root=root, labels=r"(?P<name>\w)\.\w+$", drop_duplicates=True)
    assert kept.classes["name"] == ("a", "b")
    np.testing.assert_array_equal(kept.images[..., 0], [same, picture(6)])
    pixel = {f"y/{i}.png": encoded(np.pad(picture(i, 3, 3), ((1, 0), (1, 0)))) for i in range(3)}
    found = data.folder(
        write(tmp_path / "pads", pixel), crop=(0, 0, 1, 1), drop_duplicates=True, level=0
    )
    assert len(found.images) == 3


def test_mixed_sizes_and_colours(tmp_path):
    """Sizes and colours may differ where the geometry evens them out."""
    members = {"a/1.png": encoded(picture(0, 9, 7, 3)), "a/2.png": encoded(picture(1, 6, 8))}
    root = write(tmp_path, members)
    with pytest.raises(
        InputError, match=r"a/1.png is \(9, 7\) and a/2.png is \(6, 8\)\): declare resize"
    ):
        data.build("folder", root=root, level=0)
    coloured = data.build("folder", root=root, level=0, crop=(0, 0, 6, 7)).images
    np.testing.assert_array_equal(
        coloured, [picture(0, 9, 7, 3)[:6], np.dstack([picture(1, 6, 8)[:, :7]] * 3)]
    )
    found = data.build("folder", root=root, level=0, crop="centre", resize=(5, 5), grayscale=True)
    expected = (
        Image.fromarray(picture(0, 9, 7, 3))
        .crop((0, 1, 7, 8))
        .convert("L")
        .resize((5, 5), Image.BILINEAR)
    )
    np.testing.assert_array_equal(found.images[0, ..., 0], np.asarray(expected))


def test_modes_become_grey_or_colour():
    grey, colour = picture(0), picture(1, channels=3)
    palette = Image.fromarray(colour).quantize(16)
    greys = Image.fromarray(grey).quantize(16)
    np.testing.assert_array_equal(
        files.decode(_saved(greys), "x")[..., 0], np.asarray(greys.convert("L"))
    )
    for mode in ("L", "1", "LA"):
        expected = np.asarray(Image.fromarray(grey).convert(mode).convert("L"))
        np.testing.assert_array_equal(
            files.decode(_saved(Image.fromarray(grey).convert(mode)), "x")[..., 0], expected
        )
    for image in (palette, Image.fromarray(colour), Image.fromarray(colour).convert("RGBA")):
        np.testing.assert_array_equal(
            files.decode(_saved(image), "x"), np.asarray(image.convert("RGB"))
        )
    assert files.decode(encoded(colour), "x", channels=1).shape == (6, 4, 1)


def deep_png(channels):
    """A PNG of 16 bits per channel, byte by byte: Pillow writes none in colour."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 3, 2, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = (b"\0" + bytes(range(6 * channels))) * 2
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep_tiff():
    """A TIFF of 16 bits per channel in colour, one pixel."""
    short, long = 3, 4
    tags = [
        (256, short, 1, 1),
        (257, short, 1, 1),
        (258, short, 3, 122),
        (259, short, 1, 1),
        (262, short, 1, 2),
    ]
    tags += [(273, long, 1, 128), (277, short, 1, 3), (278, short, 1, 1), (279, long, 1, 6)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + directory
        + bytes(4)
        + struct.pack("<6H", *[16] * 3, 1, 2, 3)
    )


def deep_jpeg2000():
    """A JPEG 2000 whose header states 16 bits per channel."""
    content = bytearray(encoded(picture(0, channels=3), "jpeg2000"))
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 15
    return bytes(content)


DEEP = {f"png of {channels}": deep_png(channels) for channels in (1, 2, 3, 4)} | {
    "tiff": deep_tiff(),
    "jpeg2000": deep_jpeg2000(),
    "ppm": b"P6 1 1 65535\n" + bytes(6),
    "plain ppm": b"P3 1 1 1000\n1 2 1000\n",
    "pgm": b"P5 1 1 65535\n" + bytes(2),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_colour_refused(name):
    """More than 8 bits per channel are refused in grey and in colour, where Pillow reads 8
    silently.
    """
    with pytest.raises(InputError, match=r"only 8( bits per channel)? are allowed"):
        files.decode(DEEP[name], "x")


def test_low_maximum_read():
    """A PPM with a maximum below 255 spreads over 0..255."""
    assert files.decode(b"P6 1 1 100\n" + bytes([0, 50, 100]), "x").ravel().tolist() == [
        0,
        128,
        255,
    ]


INK = np.zeros((6, 5), np.uint8)
INK[1:4, 2] = 255


def see_through(kind, colour):
    """An image of that kind with ink of one grey level on nothing."""
    grey = Image.fromarray(np.full_like(INK, colour))
    if kind == "tRNS":
        return encoded(np.where(INK, colour, 77).astype(np.uint8), transparency=77)
    if kind == "palette":
        image = Image.fromarray(INK // 255).convert("P")
        image.putpalette([colour] * 768)
        return _saved(image, transparency=0)
    image = Image.merge("LA", [grey, Image.fromarray(INK)])
    if kind == "LA":
        return _saved(image)
    return _saved(
        image.convert("RGBA"), **({"lossless": True} if kind == "webp" else {}), kind=kind
    )


@pytest.mark.parametrize("kind", ["png", "LA", "tRNS", "palette", "tiff", "webp", "tga"])
@pytest.mark.parametrize(("background", "level"), [("white", 255), ("grey", 128), ("black", 0)])
def test_transparency_shows_background(kind, background, level):
    """Ink keeps its colour, nothing becomes the background, and ink that vanishes there is an
    error.
    """
    for colour in (0, 128, 255):
        content = see_through(kind, colour)
        if colour == level:
            with pytest.raises(InputError, match="x is transparent and shows nothing"):
                files.decode(content, "x", background=background)
        else:
            found = files.decode(content, "x", background=background)
            np.testing.assert_array_equal(
                found, np.where(INK, colour, level)[..., None] + 0 * found
            )


def test_half_transparency_mixes():
    """A pixel of alpha a shows a/255 of its colour: 100·51/255 + 255·204/255 = 224."""
    pixel = Image.new("RGBA", (1, 1), (100, 0, 255, 51))
    assert files.decode(_saved(pixel), "x").ravel().tolist() == [224, 204, 255]
    assert files.decode(_saved(pixel), "x", channels=4).ravel().tolist() == [100, 0, 255, 51]


def test_empty_image_named(tmp_path):
    """A wholly transparent image and an unknown background are one sentence each."""
    root = write(tmp_path, {"a/1.png": _saved(Image.new("RGBA", (2, 2)))})
    with pytest.raises(
        InputError, match=r"a/1.png is transparent and shows nothing .* among grey, black"
    ):
        data.build("folder", root=root)
    with pytest.raises(
        InputError, match="unknown background 'red': choose one of white, grey, black"
    ):
        data.build("folder", root=root, background="red")


UPRIGHT = picture(7, channels=3)
STORED = {  # where a camera that says so puts row 0 and column 0, from the EXIF standard
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
    9: UPRIGHT,
}


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("packed", [False, True])
def test_orientation_applied(tmp_path, kind, packed):
    """Photographs come upright from folders and archives, whatever way they are stored."""
    members = {}
    for orientation, pixels in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        members[f"a/{orientation}.{kind}"] = _saved(image, kind=kind, exif=exif, lossless=True)
    root = pack(tmp_path / "a.tar", members) if packed else write(tmp_path, members)
    for image in data.build("folder", root=root, level=0).images:
        np.testing.assert_array_equal(image, UPRIGHT)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_orientation_of_avif(orientation):
    """Pillow turns what the file says by boxes of its own back into EXIF, and the pixels not at
    all.
    """
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(0, 16, 24, 3), "avif", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(files.decode(content, "x"), np.asarray(upright))


def test_damaged_exif_ignored():
    """An image beside broken metadata is read as it stands."""
    content = _saved(Image.fromarray(UPRIGHT), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    np.testing.assert_array_equal(files.decode(content, "x"), UPRIGHT)


def pictures(*paths):
    return {path: encoded(picture(seed)) for seed, path in enumerate(paths)}


NESTED = pictures("n01/images/1.png", "n01/images/2.png", "n02/images/1.png")
SPLIT = pictures("train/cat/1.png", "train/dog/1.png", "val/cat/1.png")
MIXED = pictures("cat/1.png", "cat/more/2.png", "dog/1.png")


@pytest.mark.parametrize(
    ("members", "level", "classes", "labels"),
    [
        (NESTED, 0, ("n01", "n02"), [0, 0, 1]),
        (NESTED, -2, ("n01", "n02"), [0, 0, 1]),
        (NESTED, -1, ("images",), [0, 0, 0]),
        (SPLIT, None, ("cat", "dog"), [0, 1, 0]),
        (SPLIT, 1, ("cat", "dog"), [0, 1, 0]),
        (SPLIT, 0, ("train", "val"), [0, 0, 1]),
        (MIXED, 0, ("cat", "dog"), [0, 0, 1]),
        (MIXED, -1, ("cat", "dog", "more"), [0, 2, 1]),
        (pictures("face/1.png"), 0, ("face",), [0]),
        (pictures("all/face/1.png", "all/face/2.png"), -1, ("face",), [0, 0]),
    ],
)
def test_level_chooses_class(tmp_path, members, level, classes, labels):
    """The class is the folder at `level`, counted from the root or from the file."""
    found = data.build("folder", root=write(tmp_path, members), level=level)
    assert found.classes == {"label": classes}
    assert found.labels["label"].tolist() == labels


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        (
            NESTED,
            {},
            (
                r"in folders 'images', which makes one class: choose level=0 for the 2 classes n01,"
                r" n02, or"
            ),
        ),
        (MIXED, {}, r"cat/1.png and cat/more/2.png lie at different depths: choose .* level=0"),
        (MIXED, {"level": 1}, r"cat/1.png has no folder at level 1: it lies in 1"),
        (MIXED, {"level": -3}, r"has no folder at level -3"),
        (MIXED, {"level": "cat"}, r"level 'cat' is not None or a whole number"),
        (
            MIXED,
            {"level": 0, "labels": r"(?P<a>\w+)/"},
            r"level 0 chooses a folder where labels is a word",
        ),
    ],
)
def test_ambiguous_layout_named(tmp_path, members, options, message):
    """A layout that leaves the class open, or a level that is not there, is one sentence."""
    with pytest.raises(InputError, match=message):
        data.build("folder", root=write(tmp_path, members), **options)


def test_linked_folders_followed(tmp_path):
    """Linked class folders are read once; a folder keeps its own name, and loops end."""
    write(tmp_path / "store", {"x/1.png": encoded(picture(0)), "x/in/2.png": encoded(picture(1))})
    root = write(tmp_path / "root", pictures("dog/1/1.png"))
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "root" / "dog")  # sorted before dog
    (tmp_path / "root" / "dog" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "dog" / "2.png").symlink_to(tmp_path / "store" / "x" / "1.png")
    found = data.build("folder", root=root, level=0)
    assert found.classes == {"label": ("cat", "dog")}
    assert found.labels["label"].tolist() == [0, 0, 1, 1]
    assert found.notes == (
        f"{root}: 2 links lead to folders that are read already (again/, dog/loop/)",
    )
    (tmp_path / "root" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the link gone leads nowhere"):
        data.build("folder", root=root, level=0)


def test_zip_named(tmp_path):
    """A zip archive is not taken for a damaged file."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.png", encoded(picture(0)))
    with pytest.raises(
        InputError, match=r"a.zip is a zip archive: unpack it, or pack it as a tar archive"
    ):
        data.build("folder", root=str(tmp_path / "a.zip"))


@pytest.mark.parametrize(
    "broken", [b"", b"GIF89a", encoded(picture(0, 40, 40))[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_corrupt_image_is_named(tmp_path, broken, packed):
    members = PEOPLE | {"abe/bad.png": broken}
    root = pack(tmp_path / "a.tar", members) if packed else write(tmp_path, members)
    with pytest.raises(InputError, match=r"abe/bad.png is not a readable image"):
        data.build("folder", root=root)


def test_flipped_bytes():
    """Flipped bytes never escape as another error."""
    content = encoded(picture(0, 20, 20, 3))
    random = np.random.default_rng(0)
    for _ in range(100):
        noisy = np.frombuffer(content, np.uint8).copy()
        noisy[random.integers(len(noisy), size=3)] = random.integers(0, 256, 3)
        try:
            assert files.decode(noisy.tobytes(), "x").shape[-1] in (1, 3)
        except InputError as error:
            assert str(error).startswith("x ")  # noqa: PT017


@pytest.mark.parametrize(
    "factor", [0.6, 0.4]
)  # Pillow warns above its limit and raises above twice the limit
def test_decompression_bomb(tmp_path, monkeypatch, factor):
    """A decompression bomb is refused before it unfolds."""
    content = encoded(np.zeros((3000, 3000), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(9e6 * factor))
    root = write(tmp_path, {"a/bomb.png": content})
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(
        InputError, match=f"bomb.png has more than the {int(9e6 * factor)} pixels allowed"
    ):
        data.build("folder", root=root)


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"../out.png": b"x"}, r"'../out.png' leaves the archive"),
        ({"a/../../out.png": b"x"}, "leaves the archive"),
        ({"/etc/out.png": b"x"}, "'/etc/out.png' leaves the archive"),
        ({"a": link("a/l.png", "/etc/passwd")}, "'a/l.png' is a link or device"),
        ({"a": link("a/l.png", "../../x", tarfile.LNKTYPE)}, "is a link or device"),
        ({"a": link("a/d.png", "", tarfile.CHRTYPE)}, "is a link or device"),
    ],
)
def test_archive_reaching_outside(tmp_path, member, message):
    """An archive may not reach outside its folder."""
    root = pack(tmp_path / "evil.tar.gz", PEOPLE | member)
    with pytest.raises(InputError, match=message):
        data.build("folder", root=root)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_truncated_archive_is_named(tmp_path, mode):
    path = tmp_path / "a.tar"
    pack(path, {f"a/{i}.png": encoded(picture(i, 30, 30)) for i in range(20)}, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])
    with pytest.raises(InputError, match=r"a.tar is truncated or not a tar archive"):
        data.build("folder", root=str(path))


def test_no_archive(tmp_path):
    """A file that is no archive is named."""
    (tmp_path / "a.tar.gz").write_bytes(b"plain text")
    with pytest.raises(InputError, match=r"a.tar.gz is truncated or not a tar archive"):
        data.build("folder", root=str(tmp_path / "a.tar.gz"))
    with pytest.raises(InputError, match=r"no image folder or tar archive at .*nowhere"):
        data.build("folder", root=str(tmp_path / "nowhere"))


def test_file_too_large(tmp_path, monkeypatch):
    """An image file above the limit is named."""
    root = write(tmp_path, PEOPLE)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 50)
    with pytest.raises(InputError, match="bytes, more than the 50 allowed for an image file"):
        data.build("folder", root=root)


@pytest.mark.parametrize(
    "options", [{"background": ["white"]}, {"method": ["box"]}, {"crop": {}}, {"labels": 1}]
)
def test_options_of_another_type(tmp_path, options):
    """Options of another type are named."""
    (name,) = options
    with pytest.raises(InputError, match=name):
        data.folder(write(tmp_path, PEOPLE), **options)
    with pytest.raises(InputError, match=r"unknown background \{\}"):
        files.decode(encoded(picture(0)), "x", background={})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (r"(?P<a>nothing)", "no image file is selected by labels="),
        (r"(?P<a>zoe", "neither a word nor a regular expression"),
        (r"zoe/.*", "has no named group"),
        (r"zoe/(?P<a>1)?(?P<b>2)?", r"labels \{'a': '1', 'b': None\}, not one class for each of"),
    ],
)
def test_bad_labels_are_named(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        data.build("folder", root=write(tmp_path, PEOPLE), labels=labels)


def test_image_without_folder(tmp_path):
    """An image outside any folder has no class."""
    with pytest.raises(InputError, match=r"1.png has labels"):
        data.build("folder", root=write(tmp_path, {"1.png": encoded(picture(0))}))


def test_one_class_is_asked_for(tmp_path):
    """Nothing tells whether n01/images/x.png is of the class n01 or images; a lone folder is its
    class, with a note.
    """
    root = write(tmp_path / "deep", {"n01/images/0.png": encoded(picture(0))})
    with pytest.raises(
        InputError, match="all images lie in n01/images, which makes one class: choose its folder"
    ):
        data.folder(root)
    assert data.folder(root, level=0).classes == {"label": ("n01",)}
    root = write(tmp_path / "flat", {"images/0.png": encoded(picture(0))})
    assert data.folder(root).classes == {"label": ("images",)}
    assert data.folder(root).notes == (f"{root}: all images are of one label, 'images'",)
