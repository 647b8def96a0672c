"""Explanation metrics against closed forms, SciPy and literal float64 readings of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats
from jax.tree_util import Partial

from xinv import metrics
from xinv.metrics import explanation
from xinv.types import InputError

RNG = np.random.default_rng(0)
COUNT, SIZE = 4, 8


def case(channels=3, map_size=SIZE, map_channels=1, seed=0):
    """Random images, maps on [0,1] and noisy releases of them."""
    rng = np.random.default_rng(seed)
    e = rng.random((COUNT, map_size, map_size, map_channels)).astype(np.float32)
    released = np.clip(e + rng.normal(0, 0.2, e.shape), 0, 1).astype(np.float32)
    image = rng.random((COUNT, SIZE, SIZE, channels)).astype(np.float32)
    return {"image": image, "explanation": e, "label": np.array([0, 2, 1, 2])}, released


def weights(channels=3, seed=1):
    rng = np.random.default_rng(seed)
    size = SIZE * SIZE * channels
    return {
        "w": rng.normal(0, 0.1, (size, 6)).astype(np.float32),
        "v": rng.normal(0, 1, (6, 3)).astype(np.float32),
    }


def embed(variables, images):
    return jax.nn.relu(images.reshape(len(images), -1) @ variables["w"])


def apply(variables, images):
    return embed(variables, images) @ variables["v"]


def probability64(variables, image, label):
    """The reading of `apply` that the metrics are checked with: one image, float64."""
    z = np.maximum(image.astype(np.float64).ravel() @ variables["w"].astype(np.float64), 0)
    return scipy.special.softmax(z @ variables["v"].astype(np.float64))[label]


def brightness(variables, images):
    """A model whose probability of class 0 is the mean of the pixels: linear in each."""
    mean = images.mean((1, 2, 3)).clip(1e-6, 1 - 1e-6)
    return jnp.log(jnp.stack([mean, 1 - mean], axis=-1))


def test_distortion():
    """Distortion is the mean squared perturbation."""
    truth, released = case(map_channels=2)
    expected = ((truth["explanation"].astype(np.float64) - released) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(metrics.distortion()(truth, released), expected, rtol=1e-5)


@pytest.mark.parametrize("map_channels", [1, 3, 5])
def test_masked_deepsim(map_channels):
    """Masked DeepSim is the cosine of features of masked images."""
    truth, released = case(map_channels=map_channels)
    variables = weights()

    def features(maps):
        maps = maps if map_channels == 3 else maps.mean(-1, keepdims=True)
        masked = (truth["image"].astype(np.float64) * maps).reshape(COUNT, -1)
        return np.maximum(masked @ variables["w"].astype(np.float64), 0)

    z, z_r = features(truth["explanation"]), features(released)
    expected = (z * z_r).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(z_r, axis=1)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(
        metrics.masked_deepsim(embed, variables)(truth, released), expected, rtol=1e-5
    )


def test_small_maps_interpolated():
    """A map that is constant in each half becomes a ramp between the centres of its halves."""
    truth, _ = case(channels=1, map_size=2)
    e, released = np.zeros((2, COUNT, 2, 2, 1), np.float32)
    e[:, :, 1] = 1
    released[:, 1] = 1
    truth |= {"image": np.ones((COUNT, SIZE, SIZE, 1), np.float32), "explanation": e}
    ramp = np.clip((np.arange(SIZE) + 0.5 - SIZE / 4) / (SIZE / 2), 0, 1)
    identity = lambda variables, images: images.reshape(len(images), -1)
    across, down = np.tile(ramp, (SIZE, 1)).ravel(), np.tile(ramp[:, None], SIZE).ravel()
    value = metrics.masked_deepsim(identity, {})(truth, released)
    np.testing.assert_allclose(value, across @ down / (across @ across), rtol=1e-5)


@pytest.mark.parametrize("decimals", [1, 7])
def test_spearman(decimals):
    """Spearman's correlation agrees with SciPy, with and without ties."""
    truth, released = case(map_channels=2)
    e, released = truth["explanation"].round(decimals), released.round(decimals)
    expected = [
        scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
        for a, b in zip(e, released, strict=True)
    ]
    np.testing.assert_allclose(
        metrics.spearman()(truth | {"explanation": e}, released), expected, rtol=1e-4
    )


def test_spearman_at_the_ends():
    """Equal maps have 1, opposite ones -1, one constant map 0 and two constant maps 1."""
    truth, _ = case()
    e = truth["explanation"]
    spearman = metrics.spearman()
    np.testing.assert_allclose(spearman(truth, e**3), 1, atol=1e-6)
    np.testing.assert_allclose(spearman(truth, -e), -1, atol=1e-6)
    np.testing.assert_array_equal(spearman(truth, np.zeros_like(e)), 0)
    np.testing.assert_array_equal(
        spearman(truth | {"explanation": np.zeros_like(e)}, np.zeros_like(e)), 1
    )


@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
def test_top_overlap(share):
    """The overlap is of the largest values."""
    truth, released = case(map_channels=2)
    count = max(1, round(share * SIZE * SIZE))

    def top(maps):
        return set(np.argsort(-maps.mean(-1).ravel())[:count])

    pairs = [(top(a), top(b)) for a, b in zip(truth["explanation"], released, strict=True)]
    expected = [len(a & b) / len(a | b) for a, b in pairs]
    np.testing.assert_allclose(metrics.top_overlap(share)(truth, released), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("baseline", "steps"), [(0.0, 1), (0.3, 7), ((0.1, 0.5, 0.9), 100), ("blur", 16)]
)
@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_curves_equal_a_loop(name, baseline, steps):
    """Curves agree with a literal loop."""
    truth, released = case()
    variables = weights()

    def area(x, released, label):
        canvas = np.empty_like(x, np.float64)
        canvas[:] = 0 if baseline == "blur" else baseline
        if baseline == "blur":
            offsets = np.arange(11) - 5
            kernel = np.exp(-(offsets**2) / (2 * 5.0**2))
            for axis in (0, 1):
                source = x.astype(np.float64) if axis == 0 else canvas
                canvas = scipy.ndimage.correlate1d(
                    source, kernel / kernel.sum(), axis, mode="constant"
                )
        start, end = (x, canvas) if name == "deletion" else (canvas, x)
        order = [(-value, place) for place, value in enumerate(released.ravel())]
        order = [place for _, place in sorted(order)]
        shares, values = [], []
        for step in range(steps + 1):
            count = int(np.round(step * SIZE * SIZE / steps))
            now = start.astype(np.float64).reshape(-1, 3)
            now[order[:count]] = end.reshape(-1, 3)[order[:count]]
            shares.append(count / SIZE**2)
            values.append(probability64(variables, now, label))
        return np.trapezoid(values, shares)

    expected = [area(*one) for one in zip(truth["image"], released, truth["label"], strict=True)]
    value = metrics.build(name, steps=steps, baseline=baseline, apply=apply, variables=variables)(
        truth, released
    )
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_areas_of_linear_model():
    """Areas on a linear model have closed forms.

    Half the pixels are 1 and half are 0: the probability is piecewise linear in the share of
    pixels changed.
    """
    x = np.zeros((1, SIZE, SIZE, 1), np.float32)
    x[:, ::2] = 1
    truth = {"image": x, "explanation": x, "label": np.zeros(1, np.int32)}
    deletion, insertion = (
        getattr(metrics, name)(brightness, {}, 2, 0.0) for name in ("deletion", "insertion")
    )
    assert deletion(truth, x)[0] == pytest.approx(
        1 / 8, abs=1e-5
    )  # falls from 1/2 to 0 in the first half
    assert deletion(truth, -x)[0] == pytest.approx(3 / 8, abs=1e-5)  # falls in the second
    assert insertion(truth, x)[0] == pytest.approx(3 / 8, abs=1e-5)
    assert insertion(truth, -x)[0] == pytest.approx(1 / 8, abs=1e-5)


def test_linear_contributions_are_most_faithful():
    """The contributions to a linear score are the most faithful map.

    Of all orders theirs lowers the score most at every step of the deletion, and raises it most
    when inserting.
    """
    truth, noise = case(channels=1)
    w = RNG.normal(0, 0.3, (SIZE, SIZE, 1)).astype(np.float32)

    def score(w, images):
        return jnp.pad((images * w[None]).sum((1, 2)), ((0, 0), (0, 1)))

    faithful, truth = truth["image"] * w, truth | {"label": np.zeros(COUNT, np.int32)}
    for other in (noise, -faithful):
        assert (
            metrics.deletion(score, w)(truth, faithful) < metrics.deletion(score, w)(truth, other)
        ).all()
        insertion = metrics.insertion(score, w, baseline=0.0)
        assert (insertion(truth, faithful) > insertion(truth, other)).all()


def linear(matrix, images, labels, keys):
    """A release whose map is a matrix per class times the image."""
    del keys
    return jnp.einsum("nij,njwc->niwc", matrix[labels], images).mean(-1, keepdims=True)


def test_max_sensitivity():
    """Max-sensitivity is the largest relative change.

    The draws are made again; what they do to the map is read literally, in float64.
    """
    truth, _ = case()
    matrix = RNG.normal(0, 1, (3, SIZE, SIZE)).astype(np.float32)
    released = np.asarray(linear(matrix, truth["image"], truth["label"], None))
    draws = [jax.random.split(key)[0] for key in jax.random.split(jax.random.key(5), 6)]
    noise = [jax.random.uniform(key, (SIZE, SIZE, 3), minval=-0.2, maxval=0.2) for key in draws]
    near = np.clip(truth["image"] + np.array(noise, np.float64)[:, None], 0, 1)
    maps = np.einsum("nij,snjwc->sniwc", matrix.astype(np.float64)[truth["label"]], near).mean(
        -1, keepdims=True
    )
    expected = np.sqrt(((maps - released) ** 2).sum((2, 3, 4))).max(0) / np.sqrt(
        (released**2).sum((1, 2, 3))
    )
    fn = metrics.max_sensitivity(Partial(linear, matrix), radius=0.2, samples=6, seed=5)
    np.testing.assert_allclose(fn(truth | {"explanation": released}, released), expected, rtol=1e-4)


def test_max_sensitivity_in_closed_form():
    """A map that is the image has a closed form.

    ‖δ‖ of D values uniform in ±r is r √(D/3) to a few per cent, and never above r √D.
    """
    image = np.full((2, 32, 32, 3), 0.5, np.float32)
    truth = {"image": image, "explanation": image, "label": np.zeros(2, np.int32)}
    identity = Partial(lambda images, labels, keys: images)
    value = metrics.max_sensitivity(identity, radius=0.1)(truth, image)
    np.testing.assert_allclose(value, 0.1 / np.sqrt(3) / 0.5, rtol=0.05)
    np.testing.assert_array_equal(metrics.max_sensitivity(identity, radius=0.0)(truth, image), 0)


def test_max_sensitivity_of_random_release():
    """Max-sensitivity counts the noise of a random release and ignores the rest."""
    truth, _ = case()

    def noisy(images, labels, keys):
        return 1 + 0.5 * jax.vmap(
            lambda key: jax.random.rademacher(key, (SIZE, SIZE, 1), np.float32)
        )(keys)

    ones = np.ones((COUNT, SIZE, SIZE, 1), np.float32)
    truth |= {"explanation": ones}
    np.testing.assert_allclose(
        metrics.max_sensitivity(Partial(noisy), samples=3)(truth, ones), 0.5, rtol=1e-6
    )


@pytest.mark.parametrize("largest", [1, 2 * COUNT * SIZE**2])
def test_large_images_in_parts(monkeypatch, largest):
    """Large images are treated a few steps at a time."""
    truth, released = case()
    deletion = metrics.deletion(apply, weights(), steps=6)
    matrix = RNG.normal(0, 1, (3, SIZE, SIZE)).astype(np.float32)
    sensitivity = metrics.max_sensitivity(Partial(linear, matrix), samples=3)
    expected = deletion(truth, released), sensitivity(truth, released)
    monkeypatch.setattr(explanation, "LARGEST", largest)
    np.testing.assert_allclose(
        (deletion(truth, released), sensitivity(truth, released)), expected, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.distortion()(case()[0], case(map_size=4)[1]), "not comparable"),
        (lambda: metrics.top_overlap(0.0), "share 0.0 is not allowed"),
        (lambda: metrics.deletion(apply, {}, steps=0), "deletion steps 0"),
        (lambda: metrics.insertion(apply, {}, steps=0), "insertion steps 0"),
        (
            lambda: metrics.deletion(apply, weights(), baseline="black")(*case()),
            "'black' is not allowed",
        ),
        (
            lambda: metrics.deletion(apply, weights(), baseline=(0.0, 1.0))(*case()),
            "give a number, 3 of them",
        ),
        (lambda: metrics.max_sensitivity(Partial(linear), radius=-1.0), "radius -1.0"),
        (lambda: metrics.max_sensitivity(Partial(linear), samples=0), "samples 0"),
        (lambda: metrics.build("max_sensitivity"), "needs a value for release"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
