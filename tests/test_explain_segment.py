"""Superpixels against scikit-image, on real digits and a photograph."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import data, segmentation, transform
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from xinv import data as sources
from xinv.explain.perturbation import segment
from xinv.types import InputError

DIGITS = [
    transform.resize(digit / 16, (32, 32))[..., None].astype(np.float32)
    for digit in load_digits().images[:2]
]
PHOTOGRAPH = transform.resize(data.astronaut()[:200, 120:320], (48, 40)).astype(np.float32)
IMAGES = [*DIGITS, PHOTOGRAPH]
OPTIONS = [(50, 10.0, 0.0), (15, 20.0, 0.5)]


def skimage_slic(image, segments, compactness, sigma, connect=True):
    options = {"channel_axis": -1, "start_label": 0, "enforce_connectivity": connect}
    return segmentation.slic(image, segments, compactness, sigma=sigma, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("image", IMAGES)
def test_slic_clusters_like_scikit_image(image, options):
    """Before fragments are joined, label by label: the few pixels that differ are ties decided in
    float32.
    """
    segments, compactness, sigma = options
    centres, steps = segment._grid(*image.shape[:2], segments)
    smooth = jax.jit(lambda image: segment.smooth(segment._colours(image), sigma) / compactness)(
        image
    )
    ours = jax.jit(lambda image: segment._cluster(image, centres, steps, 10))(smooth)
    assert (np.asarray(ours) == skimage_slic(image, *options, connect=False)).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_slic_agrees_with_scikit_image(options):
    """Not equal: a photograph's fragments join by other rules (see `slic`), and flat parts of a
    digit hold ties.
    """
    for image in IMAGES:
        ours = jax.jit(segment.slic(*options).labels)(image)
        agreement = adjusted_rand_score(np.ravel(ours), skimage_slic(image, *options).ravel())
        assert agreement > (0.97 if image.shape[-1] == 1 else 0.85)


@pytest.mark.skipif(
    not os.environ.get("XINV_DATA"), reason="XINV_DATA names no folder of real data sets"
)
def test_slic_on_faces():
    """SLIC agrees with scikit-image on faces.

    Smooth grey images leave no fragments: the two are the same, but for a pixel that ties.
    """
    root = Path(os.environ["XINV_DATA"]) / "orl_faces" / "att_orl_faces.tar.xz"
    faces = sources.build(
        "folder", root=str(root), labels="identity", crop="centre", resize=(64, 64)
    ).images
    segmenter = jax.jit(segment.slic(50, 10.0, 0.5).labels)
    for face in faces[::150].astype(np.float32) / 255:
        found = np.ravel(segmenter(face))
        agreement = adjusted_rand_score(found, skimage_slic(face, 50, 10.0, 0.5).ravel())
        assert agreement > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("compactness", [0.1, 10.0])
@pytest.mark.parametrize("image", [DIGITS[0], PHOTOGRAPH, np.zeros((9, 13, 1), np.float32)])
def test_superpixels_are_connected(image, compactness):
    """Superpixels of SLIC are connected and not tiny."""
    segmenter = segment.slic(30, compactness)
    count, labels = segmenter.count(*image.shape[:2]), np.asarray(jax.jit(segmenter.labels)(image))
    assert labels.dtype == np.int32
    assert 0 <= labels.min() <= labels.max() < count
    for label in np.unique(labels):
        assert ndimage.label(labels == label)[1] == 1
        assert (labels == label).sum() >= int(0.5 * labels.size / count)


@pytest.mark.parametrize("name", ["slic", "felzenszwalb", "quickshift"])
def test_batch_is_each_image(name):
    """Segmenting a batch is segmenting each image."""
    segmenter = segment.superpixels(name, 20, None, 0.5)
    one = jax.jit(segmenter.labels)
    batch = jax.jit(jax.vmap(one))(jnp.stack(DIGITS))
    np.testing.assert_array_equal(batch, [one(image) for image in DIGITS])
    assert batch.max() < segmenter.count(32, 32)


def test_host_segmentations_are_scikit_images():
    """With room for all segments they are its own; with less the scale grows until they fit."""
    ours = segment.felzenszwalb(500, min_size=5).labels(PHOTOGRAPH)
    np.testing.assert_array_equal(ours, segmentation.felzenszwalb(PHOTOGRAPH, 1.0, 0.8, 5))
    ours = segment.quickshift(500, 2.0, 4.0).labels(PHOTOGRAPH)
    np.testing.assert_array_equal(
        ours, segmentation.quickshift(PHOTOGRAPH, kernel_size=2.0, max_dist=4.0)
    )
    for segmenter in (segment.felzenszwalb(6), segment.quickshift(6, 2.0, 4.0)):
        assert segmenter.labels(PHOTOGRAPH).max() < 6


def test_given_label_map():
    """A given label map is used as it is."""
    segmenter = segment.superpixels(((0, 1), (1, 2)), None, None, None)
    assert segmenter.count(2, 2) == 3
    np.testing.assert_array_equal(segmenter.labels(np.zeros((2, 2, 1))), [[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("watershed", 5, None, None), "choose slic, felzenszwalb, quickshift"),
        (("felzenszwalb", 5, 3.0, None), "compactness 3.0 belongs to segmentation 'slic'"),
        (("slic", 0, None, None), "segments is positive, not 0"),
        (("slic", 5, 0.0, None), "compactness is positive, not 0.0"),
        (("slic", 5, None, -1.0), "sigma is at least 0, not -1.0"),
        (((0, 1), None, None, None), "a label map is"),
        ((((0, 1),), None, 3.0, None), "compactness is 3.0 but a given segmentation takes none"),
        ((((0, 1),), 5, None, None), "segments is 5 but a given segmentation takes none"),
    ],
)
def test_bad_options(arguments, message):
    """Bad options name what is allowed."""
    with pytest.raises(InputError, match=message):
        segment.superpixels(*arguments)


def test_label_map_of_another_size():
    """A label map of another size is refused."""
    with pytest.raises(InputError, match=r"the label map is \(1, 2\), the image \(3, 3\)"):
        segment.fixed(((0, 1),)).labels(np.zeros((3, 3, 1)))
