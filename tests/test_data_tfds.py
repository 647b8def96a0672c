"""Sets stored by xinv's TFDS builder and read back, lazily and without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xinv import data
from xinv.types import InputError


def toy(channels=3, count=300, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 6, 5, channels), np.uint8)
    labels = {"kind": np.arange(count) % 3, "face": np.arange(count) % 2}
    return data.create(
        "Toy set", images, labels, {"kind": ("a", "<b>&", "c d"), "face": ("no", "yes")}
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    data.prepare(toy(), str(root))
    return root


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_and_labels_come_back(tmp_path, channels):
    """Images and labels come back equal and in order."""
    dataset = toy(channels, count=7)
    assert data.prepare(dataset, str(tmp_path), name="seven") == tmp_path / "seven" / "1.0.0"
    found = data.build("tfds", dataset="seven", root=str(tmp_path))
    np.testing.assert_array_equal(np.asarray(found.images), dataset.images)
    assert found.classes == dataset.classes
    assert {key: values.tolist() for key, values in found.labels.items()} == {
        key: values.tolist() for key, values in dataset.labels.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["seven"]


def test_lazy_indexing(stored):
    """Reading is lazy and indexes like an array."""
    found = data.build("tfds", dataset="toy_set", root=str(stored), labels=["kind"])
    assert isinstance(found.images, data.Lazy)
    assert list(found.labels) == ["kind"]
    for index in ([299, 0, 299], slice(10, 20, 3), -1):
        np.testing.assert_array_equal(found.images[index], toy().images[index])


def test_splits_and_geometry(stored):
    found = data.build(
        "tfds",
        dataset="toy_set",
        root=str(stored),
        split="train[10:20]+train[:5]",
        crop=(0, 0, 4, 4),
    )
    rows = [*range(10, 20), *range(5)]
    np.testing.assert_array_equal(found.images[:], toy().images[rows, :4, :4])
    np.testing.assert_array_equal(found.labels["kind"], toy().labels["kind"][rows])
    resized = data.build("tfds", dataset="toy_set", root=str(stored), resize=(3, 3), grayscale=True)
    expected = data.transform(toy(), resize=(3, 3), grayscale=True)
    np.testing.assert_array_equal(resized.images[:], expected.images)


def test_fingerprints(stored, tmp_path):
    """Fingerprints tell content, split and geometry apart."""
    data.prepare(toy(seed=1), str(tmp_path))  # another set of the same name, size and labels
    options = [{}, {"split": "train[:50%]"}, {"resize": (3, 3)}]
    prints = [
        data.build("tfds", dataset="toy_set", root=str(stored), **more).fingerprint
        for more in options
    ]
    prints.append(data.build("tfds", dataset="toy_set", root=str(tmp_path)).fingerprint)
    assert len(set(prints)) == 4
    assert data.build("tfds", dataset="toy_set", root=str(stored)).fingerprint == prints[0]


def test_storing_in_chunks(tmp_path):
    """A lazy set is stored in chunks."""
    dataset, most = toy(count=600), []
    read = data.Lazy(
        dataset.images.shape, lambda rows: most.append(len(rows)) or dataset.images[rows]
    )
    data.prepare(dataset._replace(images=read), str(tmp_path))
    assert max(most) <= 256
    found = data.build("tfds", dataset="toy_set", root=str(tmp_path))
    np.testing.assert_array_equal(found.images[:], dataset.images)


def test_storing_twice(tmp_path):
    """Storing twice keeps the first and never mixes."""
    folder = data.prepare(toy(count=5), str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    data.prepare(toy(count=5), str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(InputError, match="holds another data set"):
        data.prepare(toy(count=5, seed=1), str(tmp_path))


@pytest.mark.slow
def test_tensorflow_is_never_imported(tmp_path):
    """TensorFlow is never imported, even where it is installed."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('imported')")
    code = f"""
import sys
from xinv import data
assert "tensorflow_datasets" not in sys.modules  # slow; only imported where used
data.prepare(data.take(data.build("digits"), range(3)), {str(tmp_path)!r}, name="three")
assert data.build("tfds", dataset="three", root={str(tmp_path)!r}).images[2].shape == (8, 8, 1)
"""
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True
    )
    assert run.returncode == 0, run.stderr.decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "nix"}, "no prepared TFDS data set 'nix' in "),
        ({"dataset": "Not/a:name"}, "no prepared TFDS data set 'Not/a:name'"),
        ({"split": "test"}, "split 'test' cannot be read, choose from train: Unknown split"),
        ({"split": "train[:"}, r"split 'train\[:' cannot be read"),
        ({"image": "picture"}, "has no feature 'picture': choose among "),
        ({"image": "kind"}, "not uint8"),
        ({"threads": -1}, "threads is -1 but must be a whole number of at least 0"),
        ({"labels": ["kind/deep"]}, "has no feature 'kind/deep'"),
        ({"labels": ["image"]}, "feature 'image' is .* not one class"),
    ],
)
def test_bad_requests_are_named(stored, options, message):
    with pytest.raises(InputError, match=message):
        data.build("tfds", **({"dataset": "toy_set", "root": str(stored)} | options))


def cut(content):
    return content[: len(content) // 2]


def scratch(content):
    return content[:500] + bytes(1000) + content[1500:]


@pytest.mark.parametrize("damage", [cut, scratch, None])
def test_damaged_records_are_named(tmp_path, damage):
    folder = data.prepare(toy(count=40), str(tmp_path))
    record = next(folder.glob("*.array_record*"))
    content = record.read_bytes()
    record.unlink()
    if damage:
        record.write_bytes(damage(content))
    with pytest.raises(InputError, match="array_record files are damaged"):
        data.build("tfds", dataset="toy_set", root=str(tmp_path))


def test_tfrecord_names_command(tmp_path):
    """A set in TFDS's usual format says how to prepare it anew."""
    info = data.prepare(toy(count=5), str(tmp_path)) / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    command = (
        "again in another folder with `tfds build toy_set --file_format=array_record"
        " --data_dir=FOLDER`"
    )
    with pytest.raises(
        InputError, match=f"is prepared as tfrecord, not as array_record: .*{command}"
    ):
        data.build("tfds", dataset="toy_set", root=str(tmp_path))


def test_unwritable_root(tmp_path):
    """A root that cannot be written is named."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"toy_set cannot be stored in .*file"):
        data.prepare(toy(), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({}, "Upper", "'Upper' is no TFDS name"),
        (
            {"classes": {"kind": ("a\nb", "b", "c"), "face": ("no", "yes")}},
            "",
            r"class name 'a\\nb' has line breaks",
        ),
        ({"images": np.zeros((300, 4, 4, 2), np.uint8)}, "", "have 2 channels"),
        (
            {"labels": {"image": np.zeros(300, np.int32)}, "classes": {"image": ("a",)}},
            "",
            "may not be called 'image'",
        ),
    ],
)
def test_unstorable_data(tmp_path, change, name, message):
    """Data that TFDS cannot hold are named."""
    with pytest.raises(InputError, match=message):
        data.prepare(toy()._replace(**change), str(tmp_path), name)
    assert not list(tmp_path.iterdir())
