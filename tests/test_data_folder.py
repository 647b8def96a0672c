"""Image folders and archives: what is found, how it is labelled, and every way in which they can be broken."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageFile

from xinv import data
from xinv.data import files
from xinv.types import InputError

YALE = r"(?P<identity>subject\d+)\.(?P<emotion>happy|sad)"


def picture(seed, height=6, width=4, channels=1):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(pixels, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
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
    "abe/deep/3.bmp": encoded(picture(3), "bmp"),
    "README.txt": b"not an image",
    "abe/.hidden.png": b"not an image",
    "abe/._1.png": b"what a Mac adds",
}


@pytest.mark.parametrize("kind", ["folder", "w", "w:gz", "w:xz", "w:bz2"])
def test_a_folder_per_class(tmp_path, kind):
    root = write(tmp_path / "people", PEOPLE) if kind == "folder" else pack(tmp_path / "people.tar", PEOPLE, kind)
    before = sorted(tmp_path.rglob("*"))
    found = data.build("folder", root=root, labels="identity", level=-1)
    np.testing.assert_array_equal(found.images[..., 0], [picture(seed) for seed in (2, 3, 0, 1)])
    assert found.classes == {"identity": ("abe", "deep", "zoe")}
    assert found.labels["identity"].tolist() == [0, 1, 2, 2]
    assert found.name == "people"
    assert sorted(tmp_path.rglob("*")) == before  # nothing unpacked


def test_one_name_can_carry_two_label_sets(tmp_path):
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
    found = data.folder(root, labels=lambda path: {"first": path[0]} if path.endswith("1.png") else None)
    assert found.classes == {"first": ("z",)}


def test_duplicates_can_be_dropped_and_the_first_stays(tmp_path):
    same = picture(5)
    members = {"a.png": encoded(same), "b.png": encoded(picture(6)), "c.gif": encoded(same, "gif")}
    root = write(tmp_path, {f"x/{name}": content for name, content in members.items()})
    assert len(data.build("folder", root=root).images) == 3
    kept = data.build("folder", root=root, labels=r"(?P<name>\w)\.\w+$", drop_duplicates=True)
    assert kept.classes["name"] == ("a", "b")
    np.testing.assert_array_equal(kept.images[..., 0], [same, picture(6)])
    pixel = {f"y/{i}.png": encoded(np.pad(picture(i, 3, 3), ((1, 0), (1, 0)))) for i in range(3)}
    assert len(data.folder(write(tmp_path / "pads", pixel), crop=(0, 0, 1, 1), drop_duplicates=True).images) == 3


def test_sizes_and_colours_may_differ_where_the_geometry_evens_them_out(tmp_path):
    members = {"a/1.png": encoded(picture(0, 9, 7, 3)), "a/2.png": encoded(picture(1, 6, 8))}
    root = write(tmp_path, members)
    with pytest.raises(InputError, match=r"a/1.png is \(9, 7, 3\) and a/2.png is \(6, 8, 3\)\): declare resize"):
        data.build("folder", root=root)
    coloured = data.build("folder", root=root, crop=(0, 0, 6, 7)).images
    np.testing.assert_array_equal(coloured, [picture(0, 9, 7, 3)[:6], np.dstack([picture(1, 6, 8)[:, :7]] * 3)])
    found = data.build("folder", root=root, crop="centre", resize=(5, 5), grayscale=True)
    expected = Image.fromarray(picture(0, 9, 7, 3)).crop((0, 1, 7, 8)).convert("L").resize((5, 5), Image.BILINEAR)
    np.testing.assert_array_equal(found.images[0, ..., 0], np.asarray(expected))


def test_modes_become_grey_or_colour():
    grey, colour = picture(0), picture(1, channels=3)
    palette = Image.fromarray(colour).quantize(16)
    greys = Image.fromarray(grey).quantize(16)
    np.testing.assert_array_equal(files.decode(_saved(greys), "x")[..., 0], np.asarray(greys.convert("L")))
    for mode in ("L", "1", "LA"):
        expected = np.asarray(Image.fromarray(grey).convert(mode).convert("L"))
        np.testing.assert_array_equal(files.decode(_saved(Image.fromarray(grey).convert(mode)), "x")[..., 0], expected)
    for image in (palette, Image.fromarray(colour), Image.fromarray(colour).convert("RGBA")):
        np.testing.assert_array_equal(files.decode(_saved(image), "x"), np.asarray(image.convert("RGB")))
    assert files.decode(encoded(colour), "x", channels=1).shape == (6, 4, 1)


def _saved(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_sixteen_bits_are_refused():
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    with pytest.raises(InputError, match="x has pixels of mode I;16"):
        files.decode(_saved(deep), "x")


@pytest.mark.parametrize("broken", [b"", b"GIF89a", encoded(picture(0, 40, 40))[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_corrupt_image_is_named(tmp_path, broken, packed):
    members = PEOPLE | {"abe/bad.png": broken}
    root = pack(tmp_path / "a.tar", members) if packed else write(tmp_path, members)
    with pytest.raises(InputError, match=r"abe/bad.png is not a readable image"):
        data.build("folder", root=root)


def test_flipped_bytes_never_escape_as_another_error():
    content = encoded(picture(0, 20, 20, 3))
    random = np.random.default_rng(0)
    for _ in range(100):
        noisy = np.frombuffer(content, np.uint8).copy()
        noisy[random.integers(len(noisy), size=3)] = random.integers(0, 256, 3)
        try:
            assert files.decode(noisy.tobytes(), "x").shape[-1] in (1, 3)
        except InputError as error:
            assert str(error).startswith("x ")  # noqa: PT017


@pytest.mark.parametrize("factor", [0.6, 0.4])  # Pillow warns above its limit and raises above twice the limit
def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path, monkeypatch, factor):
    content = encoded(np.zeros((3000, 3000), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(9e6 * factor))
    root = write(tmp_path, {"a/bomb.png": content})
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(InputError, match=f"bomb.png has more than the {int(9e6 * factor)} pixels allowed"):
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
def test_an_archive_may_not_reach_outside(tmp_path, member, message):
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


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"plain text")
    with pytest.raises(InputError, match=r"a.tar.gz is truncated or not a tar archive"):
        data.build("folder", root=str(tmp_path / "a.tar.gz"))
    with pytest.raises(InputError, match=r"no image folder or tar archive at .*nowhere"):
        data.build("folder", root=str(tmp_path / "nowhere"))


def test_limits_of_files_and_memory(tmp_path, monkeypatch):
    root = write(tmp_path, PEOPLE)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 50)
    with pytest.raises(InputError, match="bytes, more than the 50 allowed for an image file"):
        data.build("folder", root=root)
    monkeypatch.undo()
    monkeypatch.setitem(data.folder.__globals__, "MAX_BYTES", 50)
    with pytest.raises(InputError, match="images exceed 50 bytes in memory"):
        data.build("folder", root=root)


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


def test_an_image_outside_any_folder_has_no_class(tmp_path):
    with pytest.raises(InputError, match=r"1.png has labels"):
        data.build("folder", root=write(tmp_path, {"1.png": encoded(picture(0))}))
