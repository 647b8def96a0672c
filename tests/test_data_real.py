"""The sources on the real sets that XINV_DATA points to; figures are those of its README."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from xinv import data

ROOT = Path(os.environ.get("XINV_DATA", ""))
pytestmark = pytest.mark.skipif(
    not os.environ.get("XINV_DATA"), reason="XINV_DATA names no folder of real data sets"
)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_mnist_family(name):
    found = data.build("idx", root=str(ROOT / name), split="test", label="digit")
    assert found.images.shape == (10_000, 28, 28, 1)
    raw = gzip.decompress((ROOT / name / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert found.images.tobytes() == raw[16:]
    assert np.bincount(found.labels["digit"]).min() >= 890


def test_orl_faces():
    found = data.build(
        "folder", root=str(ROOT / "orl_faces" / "att_orl_faces.tar.xz"), labels="identity"
    )
    assert found.images.shape == (400, 112, 92, 1)
    assert np.bincount(found.labels["identity"]).tolist() == [10] * 40


def test_yale_faces():
    """Yale's faces carry identity and emotion, and nine are duplicates."""
    options = {"root": str(ROOT / "yale_faces" / "yalefaces.tar.xz"), "resize": (32, 32)}
    pattern = r"(?P<identity>subject\d+)\.(?P<emotion>\w+)"
    everything = data.build("folder", labels=pattern, **options)
    assert len(everything.images) == 164  # the archive lacks one of the 165
    found = data.build("folder", labels=pattern, drop_duplicates=True, **options)
    assert len(found.images) == 164 - 9
    assert {key: len(names) for key, names in found.classes.items()} == {
        "identity": 15,
        "emotion": 11,
    }


def test_labeled_faces_in_the_wild():
    root = str(ROOT / "lfw_gray" / "lfw_gray250_min20.tar")
    found = data.build("folder", root=root, labels="identity", crop="centre", resize=(32, 32))
    assert found.images.shape == (3023, 32, 32, 1)
    assert np.bincount(found.labels["identity"]).min() == 20
    assert len(found.classes["identity"]) == 62


def test_gtsrb_is_split_by_track():
    found = data.build(
        "arrays",
        path=str(ROOT / "gtsrb32" / "gtsrb32_train_every3rd.npz"),
        image="x",
        labels={"sign": "y", "track": "track_frame[0]"},
    )
    assert found.images.shape == (13_069, 32, 32, 3)
    split = data.roles.split(found.labels, "zhao", seed=0, stratify="sign", group=("sign", "track"))
    sign, track = found.labels["sign"], found.labels["track"]
    whose = [
        set(zip(sign[split[role]], track[split[role]], strict=True))
        for role in ("target_train", "target_test")
    ]
    assert not whose[0] & whose[1]


def test_cifar10_lossless():
    found = data.build(
        "arrays",
        path=str(ROOT / "cifar10_lossless5k" / "cifar10_lossless5k.npz"),
        image=("x_train", "x_test"),
        labels={"object": ("y_train", "y_test")},
    )
    assert found.images.shape == (5000, 32, 32, 3)
    assert len(found.classes["object"]) == 10
