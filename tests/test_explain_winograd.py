"""Faster convolutions in forward passes: equal to plain ones, and only where they pay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xinv import explain, models
from xinv.explain.perturbation import winograd

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture
def used(monkeypatch):
    """The shapes of the convolutions that were made faster."""
    shapes, convolve = [], winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda x, *rest: shapes.append(x.shape) or convolve(x, *rest)
    )
    return shapes


def arrays(shape, channels=(64, 64), size=3):
    x = np.random.default_rng(0).normal(size=(*shape, channels[0])).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(size, size, *channels)).astype(np.float32)
    return x, kernel


def model(numbers=NHWC, padding=((1, 1), (1, 1)), strides=(1, 1), **options):
    return lambda kernel, x: lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **options
    )


def predict(apply, kernel, x):
    """Of batches: two, so that the kernel is transformed outside of a loop."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.jit(lambda kernel, xs: lax.map(winograd.predictor(apply, kernel, shape), xs))(
        kernel, jnp.stack([x, 2 * x])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "padding"),
    [((2, 4, 8), ((1, 1), (1, 1))), ((1, 11, 9), ((2, 1), (0, 3))), ((3, 10, 9), ((0, 0), (0, 0)))],
)
def test_equals_the_sum_over_taps(shape, padding, used):
    x, kernel = arrays(shape)
    found = predict(model(padding=padding), kernel, x)
    padded = np.pad(x, ((0, 0), *padding, (0, 0))).astype(np.float64)
    height, width = (n - 2 for n in padded.shape[1:3])
    expected = sum(
        padded[:, a : a + height, b : b + width] @ kernel[a, b].astype(np.float64)
        for a in range(3)
        for b in range(3)
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found[1], 2 * expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [("NCHW", "OIHW", "NCHW"), ("HWNC", "OHWI", "NHWC")])
def test_any_layout(numbers, used):
    x, kernel = arrays((2, 8, 12))
    x = x.transpose(["NHWC".index(axis) for axis in numbers[0]])
    kernel = kernel.transpose(["HWIO".index(axis) for axis in numbers[1]])
    expected = model(numbers)(kernel, jnp.asarray(x))
    np.testing.assert_allclose(
        predict(model(numbers), kernel, x)[0], expected, atol=1e-5 * np.abs(expected).max()
    )
    assert used == [(2, 8, 12, 64)]


@pytest.mark.parametrize(
    ("shape", "channels", "size", "options"),
    [
        ((2, 8, 8), (32, 64), 3, {}),
        ((2, 8, 8), (64, 64), 5, {}),
        ((2, 5, 5), (64, 64), 3, {}),
        ((2, 8, 8), (64, 64), 3, {"strides": (2, 2)}),
        ((2, 8, 8), (64, 64), 3, {"rhs_dilation": (2, 2)}),
        ((2, 8, 8), (64, 64), 3, {"lhs_dilation": (2, 2)}),
        ((2, 8, 8), (64, 64), 3, {"precision": "highest"}),
    ],
)
def test_others_stay_as_they_are(shape, channels, size, options, used):
    x, kernel = arrays(shape, channels, size)
    expected = model(**options)(kernel, x)
    np.testing.assert_allclose(
        predict(model(**options), kernel, x)[0], expected, rtol=1e-5, atol=1e-3
    )
    assert not used


@pytest.mark.slow
def test_the_explainers_use_it(used):
    """Occlusion of the targets' second block, whose convolution is written with a derivative of its
    own.
    """
    network = models.cnn(3, (64, 64), hidden=8)
    image = jax.random.uniform(jax.random.key(0), (16, 16, 1))
    variables = network.init(jax.random.key(1), image[None])
    explainer = jax.jit(functools.partial(explain.occlusion(8, 8), network.apply))
    fast = explainer(variables, image, 0, jax.random.key(2))
    assert used == [(5, 8, 8, 64)]
    copies = np.array(image)[None].repeat(5, 0)
    for number in range(4):
        y, x = divmod(number, 2)
        copies[number, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
    logits = network.apply(variables, copies)[:, 0]
    drops = (logits[4] - logits[:4]).reshape(2, 2, 1)
    np.testing.assert_allclose(
        fast, np.kron(drops, np.ones((8, 8, 1))), atol=1e-5 * np.abs(logits).max()
    )
