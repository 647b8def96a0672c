"""Metrics against scikit-image, float64 formulas and SciPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xinv import metrics
from xinv.metrics import stats
from xinv.types import InputError

IMAGE = ["mse", "one_minus_mse", "psnr", "ssim"]


def pair(channels=3, size=32, count=5, seed=0):
    """Smooth images and noisy guesses of them, float32 [count,size,size,channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size, :1][:2] / size
    phase = rng.uniform(0, 6, (count, 1, 1, channels))
    truth = 0.5 + 0.5 * np.sin(9 * x[None] + 5 * y[None] + phase)
    guess = np.clip(
        truth + rng.normal(0, np.linspace(0.02, 0.5, count)[:, None, None, None], truth.shape), 0, 1
    )
    return truth.astype(np.float32), guess.astype(np.float32)


def embed(variables, images):
    """Stands in for a network: one ReLU layer of 16 features."""
    return jax.nn.relu(images.reshape(len(images), -1) @ variables["w"] + variables["b"][None])


def weights(inputs=32 * 32 * 3, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(0, 0.02, (inputs, 16)).astype(np.float32),
        "b": rng.normal(0, 0.1, 16).astype(np.float32),
    }


def embed64(variables, images):
    z = (
        images.reshape(len(images), -1).astype(np.float64) @ variables["w"].astype(np.float64)
        + variables["b"]
    )
    return np.maximum(z, 0)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("sigma", "size"), [(1.5, 32), (1.5, 11), (2.5, 27), (0.8, 16)])
def test_ssim_agrees_with_scikit_image(channels, sigma, size):
    truth, guess = pair(channels, size)
    expected = [
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=sigma,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for a, b in zip(truth.astype(np.float64), guess.astype(np.float64), strict=True)
    ]
    np.testing.assert_allclose(
        metrics.ssim(sigma)(truth, guess), expected, atol=2e-5
    )  # float32 variances


def test_psnr_and_mse():
    """PSNR and MSE agree with scikit-image."""
    truth, guess = pair()
    expected = [
        peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(truth, guess, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr()(truth, guess), expected, rtol=1e-5)
    mse = ((truth.astype(np.float64) - guess) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(metrics.mse()(truth, guess), mse, rtol=1e-5)
    np.testing.assert_allclose(metrics.one_minus_mse()(truth, guess), 1 - mse, rtol=1e-6)


def test_window_is_the_given_one():
    truth, guess = pair()
    expected = structural_similarity(
        truth[0],
        guess[0],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert metrics.ssim(1.5, 11)(truth, guess)[0] == pytest.approx(expected, abs=2e-5)
    assert abs(metrics.ssim(1.5, 5)(truth, guess)[0] - expected) > 1e-3


@pytest.mark.parametrize("name", IMAGE)
def test_equal_images(name):
    """Equal images are as similar as can be."""
    best = {"mse": 0, "one_minus_mse": 1, "psnr": 100, "ssim": 1}
    for image in (np.zeros((2, 16, 16, 1), np.float32), pair(size=16)[0]):
        np.testing.assert_allclose(metrics.build(name)(image, image), best[name], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE)
def test_image_metrics_are_per_example(name):
    """Image metrics are pure functions of each example."""
    truth, guess = pair()
    fn = metrics.build(name)
    assert fn is metrics.build(name)
    values = fn(truth, guess)
    assert values.shape == (5,)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(fn)(truth, guess), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fn(truth[2:3], guess[2:3]), values[2:3], rtol=1e-5, atol=1e-6)
    stacked = jax.vmap(fn)(np.stack([truth, guess]), np.stack([guess, guess]))
    np.testing.assert_allclose(stacked[0], values, rtol=1e-5, atol=1e-6)


def test_stored_images_in_unit_range():
    """Stored images are compared in the unit range."""
    truth = np.full((1, 12, 12, 1), 255, np.uint8)
    guess = np.full((1, 12, 12, 1), 0.5, np.float32)
    assert metrics.mse()(truth, guess)[0] == pytest.approx(0.25)


def test_embedding_similarity():
    """Embedding similarity is the exponential of the mean squared error."""
    truth, guess = pair()
    variables = weights()
    z, z_r = embed64(variables, truth), embed64(variables, guess)
    expected = np.exp(-((z - z_r) ** 2).mean(1))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(
        metrics.embedding_similarity(embed, variables)(truth, guess), expected, rtol=1e-5
    )


def test_deepsim():
    """DeepSim is the cosine of the features."""
    truth, guess = pair()
    variables = weights()
    z, z_r = embed64(variables, truth), embed64(variables, guess)
    expected = (z * z_r).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(z_r, axis=1)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(metrics.deepsim(embed, variables)(truth, guess), expected, rtol=1e-5)


def test_deepsim_at_the_ends():
    """Opposite features have a DeepSim of 0; two that vanish have 1, one alone 0."""

    def identity(_, images):
        return images[:, 0, 0]

    truth = np.array([[1, 2], [1, 2], [0, 0], [0, 0]], np.float32)[:, None, None]
    guess = np.array([[-1, -2], [2, 4], [0, 0], [1, 1]], np.float32)[:, None, None]
    np.testing.assert_allclose(metrics.deepsim(identity, {})(truth, guess), [0, 1, 1, 0], atol=1e-6)


def test_attack_accuracy_counts_true_labels():
    guess = pair()[1]
    variables = weights()
    labels = embed64(variables, guess).argmax(1)
    wrong = np.where(np.arange(5) < 2, (labels + 1) % 16, labels)
    np.testing.assert_array_equal(
        metrics.attack_accuracy(embed, variables)(wrong, guess), [0, 0, 1, 1, 1]
    )
    np.testing.assert_array_equal(metrics.attack_accuracy(embed, variables)(labels, guess), 1)


@pytest.mark.parametrize(
    "factory", [metrics.attack_accuracy, metrics.embedding_similarity, metrics.deepsim]
)
def test_recognition_compiles_once(factory):
    """Recognition compiles once for all seeds."""
    truth, guess = pair()
    first = np.arange(5) if factory is metrics.attack_accuracy else truth
    traces = []

    @jax.jit
    def evaluate(fn, truth, guess):
        traces.append(1)
        return fn(truth, guess)

    for seed in range(3):
        fn = factory(embed, weights(seed=seed))
        np.testing.assert_allclose(evaluate(fn, first, guess), fn(first, guess), rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.ssim()(*pair(size=10)), "11x11 pixels does not fit in images of 10x10"),
        (lambda: metrics.ssim(2.5)(*pair(size=16)), "19x19 pixels does not fit in images of 16x16"),
        (lambda: metrics.ssim(window=4), "window 4 is not allowed"),
        (lambda: metrics.ssim(sigma=0), "sigma 0 is not allowed"),
        (lambda: metrics.build("sssim"), "unknown metric 'sssim': choose one of attack_accuracy"),
        (lambda: metrics.build("ssim", width=3), "no parameter 'width': it takes sigma, window"),
        (lambda: metrics.mse()(pair(1)[0], pair(3)[1]), "not comparable"),
        (lambda: stats.mean_interval([]), "at least one value"),
        (lambda: stats.mean_interval([1.0], 1.0), "confidence level 1.0"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", [0.5, 0.90, 0.99])
def test_interval_is_students(level):
    values = [0.61, 0.65, 0.60, 0.72]
    low, high = scipy.stats.t.interval(level, 3, np.mean(values), scipy.stats.sem(values))
    interval = stats.mean_interval(values, level)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.mean, interval.level, interval.count) == (
        pytest.approx(np.mean(values)),
        level,
        4,
    )


def test_interval_of_one_seed():
    """The interval of one seed is unknown and overlaps everything."""
    one = stats.mean_interval([0.9])
    assert one.mean == 0.9
    assert math.isnan(one.half_width)
    far = stats.mean_interval([0.1, 0.11, 0.1])
    assert stats.overlap(one, far)
    assert stats.overlap(far, one)


def test_overlap():
    low, middle, high = (stats.Interval(mean, 0.1, 0.9, 3) for mean in (0.2, 0.35, 0.5))
    assert stats.overlap(low, middle)
    assert stats.overlap(high, middle)
    assert not stats.overlap(low, high)
    assert not stats.overlap(high, low)
