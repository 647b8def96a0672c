"""Folders whose images are too large for memory: decoded once, and never read by mistake."""

import errno
import functools
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xinv import data
from xinv.audit.roles import Roles
from xinv.audit.run import load_data
from xinv.data import mapped
from xinv.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from configs import gnime, yang, zhao

FOLDER = data.folder.__globals__
PEOPLE = ("zoe", "abe", "ben")
LABELS = r"(?P<identity>\w+)/(?P<picture>\d)"


def encoded(seed, channels=3):
    """A picture as a PNG of 8x6 pixels; equal seeds give equal pixels."""
    shape = (8, 6, channels)[: 2 if channels == 1 else 3]
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(file, "png")
    return file.getvalue()


MEMBERS = {
    f"{name}/{i}.png": encoded(10 * n + i) for n, name in enumerate(PEOPLE) for i in range(4)
}
MEMBERS |= {
    "abe/4.png": encoded(0),
    "zoe/5.png": encoded(5, channels=1),
    "zoe/read.me": b"no image",
}
"""Coloured pictures in an order that is not that of their paths, one of them twice, and a grey one.
"""


@pytest.fixture
def root(tmp_path):
    for path, content in MEMBERS.items():
        file = tmp_path / "people" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "people"


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Reads a root as if its images were too large for memory, into one cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def read(root, **options):
        with monkeypatch.context() as limited:
            limited.setitem(FOLDER, "MAX_BYTES", 100)
            return data.folder(str(root), **options)

    read.cache = tmp_path / "home" / "xinv" / "images"
    return read


@pytest.fixture
def undecoded(monkeypatch):
    """Fails the test if an image is decoded, or all pixels are hashed, from here on."""

    def forbid():
        monkeypatch.setitem(FOLDER, "decode", lambda *_, **__: pytest.fail("decoded"))
        monkeypatch.setattr(mapped, "content_fingerprint", lambda *_: pytest.fail("hashed"))

    return forbid


def same(first, second):
    """Tells if two data sets are equal, their pixels too."""
    np.testing.assert_array_equal(first.images[:], second.images[:])
    for key, values in first.labels.items():
        np.testing.assert_array_equal(values, second.labels[key])
    return first.fingerprint == second.fingerprint and first.classes == second.classes


def files(cache):
    return sorted(cache.glob("*/[!.]*"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_duplicates": True},
        {"crop": "centre", "resize": (4, 5), "grayscale": True},
        {"labels": LABELS},
    ],
)
def test_as_in_memory(root, large, tmp_path, packed, options):
    """Images, labels, fingerprint and the notes on files are those of the set in memory."""
    if packed:
        with tarfile.open(tmp_path / "people.tar.gz", "w:gz") as archive:
            for path in MEMBERS:
                archive.add(root / path, path)
        root = tmp_path / "people.tar.gz"
    memory = data.folder(str(root), **options)
    for _ in range(2):
        found = large(root, **options)
        assert isinstance(memory.images, np.ndarray)
        assert isinstance(found.images, data.Lazy)
        assert same(memory, found)
        *notes, note = found.notes
        assert notes == list(memory.notes)
        (file,) = large.cache.glob("people-*/*.pixels")
        assert note == f"{root}: 0.0 GiB of decoded images are read from {file}"


def test_rows_read_anywhere(root, large):
    """Chosen, changed and joined images are read batch by batch, and stay lazy."""
    memory, found = data.folder(str(root)), large(root)
    few, expected = data.take(found, [7, 0, 3]), data.take(memory, [7, 0, 3])
    assert same(data.transform(few, resize=(2, 2)), data.transform(expected, resize=(2, 2)))
    assert same(data.keep(found, "label", ["zoe"]), data.keep(memory, "label", ["zoe"]))
    joined = data.concatenate([few.images, found.images])
    assert isinstance(joined, data.Lazy)
    np.testing.assert_array_equal(joined[[1, 4]], memory.images[[0, 1]])


def test_second_load_decodes_nothing(root, large, undecoded):
    first = large(root)
    undecoded()
    assert same(first, large(root))


def test_other_labels_decode_nothing(root, large, undecoded, monkeypatch):
    """Labels are of paths: others need no other pixels, but have another fingerprint."""
    memory, first = data.folder(str(root), labels=LABELS), large(root)
    (pixels,) = large.cache.glob("*/*.pixels")
    hashing = mapped.content_fingerprint
    undecoded()
    monkeypatch.setattr(mapped, "content_fingerprint", hashing)
    second = large(root, labels=LABELS)
    assert same(memory, second)
    assert second.fingerprint != first.fingerprint
    assert [*large.cache.glob("*/*.pixels")] == [pixels]


def test_selections_side_by_side(root, large, undecoded):
    """Two selections of one root keep their pixels, and each replaces its own when it changes."""
    selections = [rf"(?P<identity>{name})/\d" for name in PEOPLE[:2]]
    first = [large(root, labels=labels) for labels in selections]
    (root / "abe" / "1.png").write_bytes(encoded(99))
    large(root, labels=selections[1])
    assert len([*large.cache.glob("*/*.pixels")]) == 2
    undecoded()
    assert same(first[0], large(root, labels=selections[0]))
    large(root, labels=selections[1])


def test_latecomer_decodes_nothing(root, large, undecoded, monkeypatch):
    """Of two that found no pixels, one may be done before the other begins to write."""
    write = mapped.write

    def late(*arguments):
        monkeypatch.setattr(mapped, "write", write)
        large(root)
        monkeypatch.setattr(mapped, "_written", lambda *_: pytest.fail("written again"))
        return write(*arguments)

    monkeypatch.setattr(mapped, "write", late)
    assert same(data.folder(str(root)), large(root))


def test_changed_file_noticed(root, large):
    """Other content is decoded, also with the size and the times of the old one."""
    changed = root / "abe" / "1.png"
    changed.write_bytes(encoded(98).ljust(400, b"\0"))  # decoders ignore what follows an image
    before, old = changed.stat(), large(root)
    changed.write_bytes(encoded(99).ljust(400, b"\0"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed.stat().st_mtime_ns == before.st_mtime_ns
    assert changed.stat().st_size == before.st_size
    found = large(root)
    assert same(data.folder(str(root)), found)
    assert found.fingerprint != old.fingerprint
    assert len([*large.cache.glob("*/*.pixels")]) == 1


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_changed_paths_noticed(root, large, change):
    large(root)
    if change == "added":
        (root / "abe" / "7.png").write_bytes(encoded(7))
    elif change == "removed":
        (root / "abe" / "2.png").unlink()
    else:
        (root / "abe" / "2.png").rename(root / "ben" / "9.png")
    assert same(data.folder(str(root)), large(root))


def test_options_have_own_pixels(root, large, undecoded):
    """Each way to decode has a file, and finds it again."""
    options = ({}, {"resize": (4, 4)}, {"grayscale": True}, {"drop_duplicates": True})
    first = [large(root, **option) for option in options]
    undecoded()
    for option, found in zip(options, first, strict=True):
        assert same(found, large(root, **option))


def test_other_decoder_decodes(root, large, monkeypatch):
    """Another Pillow may give other pixels."""
    large(root)
    monkeypatch.setattr(mapped.PIL, "__version__", "0.1")
    monkeypatch.setitem(FOLDER, "decode", lambda *_, **__: np.zeros((8, 6, 1), np.uint8))
    assert not large(root).images[:].any()


@pytest.mark.parametrize("damage", ["pixels cut", "no pixels", "index cut", "no index"])
def test_damage_not_believed(root, large, damage):
    """What is incomplete is decoded again, and removed."""
    whole = data.folder(str(root))
    large(root)
    (index,), (pixels,) = large.cache.glob("*/*.json"), large.cache.glob("*/*.pixels")
    if damage == "pixels cut":
        os.truncate(pixels, pixels.stat().st_size - 1)
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "index cut":
        index.write_text(index.read_text()[:-9])
    else:
        index.unlink()
    assert same(whole, large(root))
    kept = json.loads(index.read_text())["pixels"]
    assert [file.name for file in large.cache.glob("*/*.pixels")] == [kept] != [pixels.name]


def test_corrupt_image_leaves_nothing(root, large):
    (root / "zoe" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"zoe/1.png is not a readable image"):
        large(root)
    assert files(large.cache) == []


def test_sizes_differ(root, large):
    """The first image of another size ends the reading."""
    file = io.BytesIO()
    Image.new("L", (3, 4)).save(file, "png")
    (root / "zoe" / "2.png").write_bytes(file.getvalue())
    with pytest.raises(InputError, match=r"abe/0.png is \(8, 6\) and zoe/2.png is \(4, 3\)"):
        large(root)
    assert files(large.cache) == []


def test_full_disk(root, large, monkeypatch):
    """A full disk is one sentence, and nothing stays on it."""

    def full(file, pixels):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "_append", full)
    with pytest.raises(InputError) as caught:
        large(root)
    (folder,) = large.cache.iterdir()
    assert str(caught.value) == (
        f"{root}: the decoded images are too large for memory and cannot be kept in {folder}"
        " ([Errno 28] No space left on device): choose another folder with `cache` or"
        " XDG_CACHE_HOME, or resize them"
    )
    assert files(large.cache) == []


def test_cache_unwritable(root, large, tmp_path):
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", "/proc/nowhere"):
        with pytest.raises(InputError, match=rf"cannot be kept in {cache}/people-\w+ \(.*`cache`"):
            large(root, cache=str(cache))
    assert len(large(root, cache=str(tmp_path / "own")).images) == len(MEMBERS) - 1
    assert not large.cache.exists()


def test_small_set_writes_nothing(root, large):
    data.folder(str(root))
    assert not large.cache.exists()


def test_two_at_once(root, large, undecoded, monkeypatch):
    """Of two that read one set, the second waits for the pixels of the first."""
    memory = data.folder(str(root))
    begun, waiting = threading.Event(), threading.Event()
    append = mapped._append

    def slow(file, pixels):
        begun.set()
        assert waiting.wait(30)
        append(file, pixels)

    def say(line):
        if line.startswith("waiting: another process writes"):
            waiting.set()

    monkeypatch.setattr(mapped, "_append", slow)
    monkeypatch.setattr(mapped.processes, "say", say)
    monkeypatch.setitem(FOLDER, "MAX_BYTES", 300)
    found = []
    first = threading.Thread(target=lambda: found.append(data.folder(str(root))))
    first.start()
    assert begun.wait(30)
    found.append(data.folder(str(root)))
    first.join(30)
    assert same(memory, found[0])
    assert same(memory, found[1])
    assert len([*large.cache.glob("*/*.pixels")]) == 1


KILLED = """
import os, signal, sys
from xinv import data
from xinv.data import mapped

data.folder.__globals__["MAX_BYTES"] = 300
append, count = mapped._append, 0

def deadly(file, pixels):
    global count
    append(file, pixels)
    file.flush()
    count += 1
    if count == 9:
        os.kill(os.getpid(), signal.SIGKILL)

mapped._append = deadly
data.folder(sys.argv[1])
"""


@pytest.mark.slow
def test_kill_leaves_nothing_believed(root, large):
    """What a killed process has written is neither read nor kept, and its lock is free."""
    environment = os.environ | {"XDG_CACHE_HOME": str(large.cache.parent.parent)}
    command = [sys.executable, "-c", KILLED, str(root)]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    (left,) = files(large.cache)
    assert left.stat().st_size == 9 * 8 * 6 * 3
    assert same(data.folder(str(root)), large(root))
    assert not left.exists()


def made(count, classes, *, emotions=()):
    """Paths of so many images of so many classes, equally many of each where they divide."""
    paths = []
    for number in range(count):
        folder = f"class{number % classes:05d}"
        if emotions:
            folder += f"/{emotions[number // classes % len(emotions)]}"
        paths.append(f"{folder}/{number:06d}.jpg")
    return paths


EMOTIONS = ("angry", "contempt", "disgust", "happy", "sad", "surprised")
PAPER = {
    # Most of CelebA's 10,177 people have fewer images than the chosen ones
    "celeba": made(30_000, 1000) + [f"person{number:05d}/0.jpg" for number in range(200)],
    "facescrub": made(48_579, 530),
    "faces": made(24_120, 115, emotions=EMOTIONS),
    "imagenet100": made(130_000, 100),
}
"""The folders of the papers' sets: Zhao 2021, Section 4.1; Yang 2019, Section V-A. ImageNet's
classes have up to 1,300 images.
"""
SIZES = [
    (zhao, "celeba-facescrub", (30_000, 256, 256, 1)),
    (zhao, "icv-mefed", (24_120, 128, 128, 1)),
    (gnime, "celeba-facescrub", (30_000, 128, 128, 3)),
    (gnime, "imagenet100", (130_000, 256, 256, 3)),
    (yang, "facescrub", (48_579, 64, 64, 1)),
]


@functools.cache
def _black(height, width, channels):
    return np.zeros((height, width, channels), np.uint8)


@pytest.fixture
def made_sets(monkeypatch, tmp_path):
    """Puts folders with the papers' numbers of black images in place of all files.

    The first of a set has a camera's shape, the others that of the config, so that changing them
    costs nothing; their pixels are holes in a sparse file.
    """

    def read_files(root, select, left_out):
        for number, path in enumerate(PAPER[Path(root).name]):
            assert select(path)
            yield path, b"" if number else b"camera"

    def decode(content, what, background):
        return _black(218, 178, 3) if content else _black(*decode.shape)

    def skip(file, pixels):
        file.seek(file.truncate(file.tell() + pixels.nbytes))

    def ends(images, labels, classes):
        return data.dataset.digest([images.shape], images[:1], images[-1:], *labels.values())

    different = itertools.count()
    replaced = dict(
        read_files=read_files,
        decode=decode,
        _content=lambda image: str(next(different)),  # black images are no duplicates here
        MAX_BYTES=2**20,
    )
    for name, value in replaced.items():
        monkeypatch.setitem(FOLDER, name, value)
    monkeypatch.setattr(mapped, "_append", skip)
    monkeypatch.setattr(mapped, "content_fingerprint", ends)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return decode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "size", "shape"), SIZES, ids=[f"{m.__name__[8:]}-{size}" for m, size, _ in SIZES]
)
def test_paper_sizes_load(made_sets, module, size, shape):
    """A set of the paper's shape and number loads through the config's own section, with roles."""
    settings = module.get_config(size).data.to_dict()
    made_sets.shape = shape[1:]
    found = load_data(settings)
    auxiliary = load_data(settings["auxiliary"]) if settings["auxiliary"] else None
    assert found.images.shape == shape
    if auxiliary:
        assert auxiliary.images.shape[1:] == shape[1:]
    dealt = Roles(found, auxiliary, settings, {}).of(0)
    # Fractions are of the images, of auxiliary ones of theirs
    for role, fraction in settings["roles"]["roles"].items():
        dataset, indices = dealt[role]
        assert dataset is found
        assert abs(len(indices) - fraction * shape[0]) < 1
        batch = data.take(dataset, indices[-4:]).images[:]
        np.testing.assert_array_equal(batch, np.zeros((4, *shape[1:]), np.uint8))


def test_sizes_share_data():
    """The sizes that are not loaded above have the sections of those that are."""
    for module, size, other in (
        (zhao, "celeba", "celeba-facescrub"),
        (zhao, "icv-mefed-identity", "icv-mefed"),
        (gnime, "celeba", "celeba-facescrub"),
    ):
        sizes = module.sizes()
        assert sizes[size].data | {"auxiliary": {}} == sizes[other].data | {"auxiliary": {}}
