"""Removal trajectories against a slow float64 reading of the definition, and their options."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explain_zoo import quick
from scipy import ndimage, special

from xinv import explain, plugins

KEY = jax.random.key(0)
SHAPE, CLASSES, STEPS = (7, 9, 3), 4, 6
DRAW = np.random.default_rng(0)
IMAGE = DRAW.random(SHAPE)
WEIGHTS = DRAW.normal(size=(*SHAPE, CLASSES))
COARSE = DRAW.normal(size=(3, 4, 2))
MEANS = (0.2, 0.5, 0.8)


def linear(variables, images):
    return jnp.einsum("nhwc,hwck->nk", images, variables)


def coarse(apply, variables, image, label, key):
    """A base of the user's own, with maps smaller than the image."""
    return jnp.asarray(COARSE, image.dtype)


def enlarged(grid, height, width):
    """Bilinear interpolation between pixel centres; beyond the outer centres constant."""
    rows, columns = grid.shape
    result = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = np.clip((i + 0.5) * rows / height - 0.5, 0, rows - 1)
            x = np.clip((j + 0.5) * columns / width - 0.5, 0, columns - 1)
            top, left = int(min(y, rows - 2)), int(min(x, columns - 2))
            y, x = y - top, x - left
            above = (1 - x) * grid[top, left] + x * grid[top, left + 1]
            below = (1 - x) * grid[top + 1, left] + x * grid[top + 1, left + 1]
            result[i, j] = (1 - y) * above + y * below
    return result


def trajectory(weights, label, explanation, canvas, steps=STEPS):
    """The definition, one pixel after the other."""
    importance = np.abs(explanation).sum(-1)
    if importance.shape != SHAPE[:2]:
        importance = enlarged(importance, *SHAPE[:2])
    pixels = sorted(np.ndindex(*SHAPE[:2]), key=lambda pixel: -importance[pixel])
    result = []
    for step in range(steps + 1):
        image = IMAGE.copy()
        for pixel in pixels[: round(len(pixels) * step / steps)]:
            image[pixel] = canvas[pixel]
        logits = np.tensordot(image, weights, 3)
        alone = len(logits) == 1
        result.append(special.expit(logits[0]) if alone else special.softmax(logits)[label])
    return np.array(result)


def blurred():
    """The image after a Gaussian of 5 pixels, mirrored at the border."""
    return ndimage.gaussian_filter(IMAGE, (5, 5, 0), mode="reflect", truncate=4)


def found(explainer, weights=WEIGHTS, label=2):
    variables = jnp.asarray(weights, jnp.float32)
    image = jnp.asarray(IMAGE, jnp.float32)
    result = np.asarray(quick(explainer, static_argnums=0)(linear, variables, image, label, KEY))
    assert result.shape[:2] == (1, 1)
    return result[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "explanation"),
    [
        (None, WEIGHTS[..., 2]),
        (explain.input_x_gradient(), IMAGE * WEIGHTS[..., 2]),
        (coarse, COARSE),
    ],
    ids=["gradient", "input_x_gradient", "coarse"],
)
@pytest.mark.parametrize(
    ("baseline", "canvas"),
    [
        ("blur", blurred()),
        (0.25, np.full(SHAPE, 0.25)),
        (MEANS, np.broadcast_to(MEANS, SHAPE)),
        (1 - IMAGE, 1 - IMAGE),
    ],
    ids=["blur", "number", "channels", "image"],
)
def test_definition(base, explanation, baseline, canvas):
    """The slow reading in float64; 1e-5 is the rounding of logits of order 10 in float32."""
    ours = found(explain.removal_trajectory(base, STEPS, baseline))
    expected = trajectory(WEIGHTS, 2, explanation, canvas)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_one_logit():
    """The confidence of a binary classifier is its sigmoid."""
    weights = WEIGHTS[..., :1] / 4
    ours = found(explain.removal_trajectory(steps=STEPS, baseline=0.0), weights, 0)
    expected = trajectory(weights, 0, weights[..., 0], np.zeros(SHAPE))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_ends():
    """It starts at the prediction and ends at that of the baseline, whatever the base says."""
    for base in (None, coarse, explain.occlusion(3, 2)):
        ours = found(explain.removal_trajectory(base, steps=200, baseline=0.0))
        logits = np.tensordot(IMAGE, WEIGHTS, 3)
        np.testing.assert_allclose(ours[0], special.softmax(logits)[2], atol=1e-5)
        np.testing.assert_allclose(ours[-1], 1 / CLASSES, atol=1e-6)
        assert len(ours) == 201


def test_ties():
    """Ties go from the upper left: a constant map removes row after row."""
    flat = lambda apply, variables, image, label, key: jnp.ones((*SHAPE[:2], 1))
    ours = found(explain.removal_trajectory(flat, SHAPE[0], 0.0))
    expected = []
    for rows in range(SHAPE[0] + 1):
        logits = np.tensordot(IMAGE[rows:], WEIGHTS[rows:], 3)
        expected.append(special.softmax(logits)[2])
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_no_order_no_trajectory():
    """A base whose map is NaN gives NaN, though every confidence is finite."""
    broken = lambda apply, variables, image, label, key: jnp.full((2, 2, 1), jnp.nan)
    assert np.isnan(found(explain.removal_trajectory(broken))).all()


def test_sections():
    """A config names the base, or states its parameters; a hash holds the base's defaults."""
    named = explain.build("removal_trajectory", base="saliency", steps=3)
    section = {"name": "saliency", "of": "probability"}
    assert named is explain.removal_trajectory(explain.saliency(), 3)
    assert explain.build("removal_trajectory", base=section, steps=3) is explain.removal_trajectory(
        explain.saliency("probability"), 3
    )
    settings = {"name": "removal_trajectory", "base": {"name": "integrated_gradients"}, "steps": 3}
    spec = json.loads(json.dumps(plugins.complete(explain, settings)))
    assert spec["baseline"] == "blur"
    assert spec["base"] == plugins.complete(explain, settings["base"])
    assert "method" in spec["base"]


def test_of_prototypes():
    """The reference that a pipeline offers reaches the base."""
    reference = DRAW.random((5, *SHAPE)).astype(np.float32)
    base = {"name": "protodash", "prototypes": 2}
    explainer = explain.build("removal_trajectory", {"reference": reference}, base=base, steps=3)
    assert found(explainer).shape == (4,)


def test_batch():
    """Through `batch`, which sizes its chunks by the memory of a map."""
    images = DRAW.random((5, *SHAPE)).astype(np.float32)
    explainer = explain.normalise(explain.removal_trajectory(steps=3), "none")
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    maps = explain.batch(explainer, linear, weights, images, None, KEY, batch_size=2)
    assert maps.shape == (5, 1, 1, 4)
    confidence = special.softmax(np.tensordot(images, WEIGHTS, 3), axis=-1).max(-1)
    np.testing.assert_allclose(maps[:, 0, 0, 0], confidence, atol=1e-5)
