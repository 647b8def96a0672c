"""The factors of Zhao's Figure 6 and their trends, against NumPy, SciPy and known curves."""

import numpy as np
import pytest
import scipy.stats
from scipy.interpolate import make_smoothing_spline

from xinv.metrics import factors, trend
from xinv.types import InputError

RNG = np.random.default_rng(0)


def test_relevance():
    """Relevance is the intersection over union of two rectangles."""
    maps = np.zeros((2, 8, 8, 1), np.float32)
    maps[0, 2:6, 2:6] = 3  # 16 pixels on a scale of their own
    maps[1, 2:6, 2:6], maps[1, 0, 0] = (
        0.4,
        1,
    )  # only one pixel of the second map passes half of its range
    mask = np.zeros((8, 8), bool)
    mask[2:6, 4:8] = True  # 16 pixels, 8 of them shared
    np.testing.assert_allclose(factors.relevance(maps, mask), [8 / 24, 0])
    np.testing.assert_allclose(
        factors.relevance(maps, np.stack([mask, mask]), 0.4), [8 / 24, 8 / 25], rtol=1e-6
    )
    np.testing.assert_allclose(
        factors.relevance(maps, mask, None)[1], 8 * 0.4 / (8 * 0.4 + 1 + 16), rtol=1e-6
    )


def test_relevance_of_special_maps():
    """Small maps are resized before their relevance is read; constant ones have none."""
    maps = np.zeros((2, 2, 2, 3), np.float32)
    maps[0, 0] = 1  # the upper half, of channels that agree
    mask = np.zeros((2, 8, 8), bool)
    mask[:, :4] = True
    np.testing.assert_allclose(factors.relevance(maps, mask), [1, 0])
    assert factors.relevance(maps, np.zeros((8, 8), bool))[1] == 0


def test_masks():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, 1, 2] = 30
    images[0, 0, 0, 0] = 30  # a mean of 10
    np.testing.assert_array_equal(np.argwhere(factors.bright(images)), [(0, 1, 2)])
    face = factors.ellipse(300, 200, (0.8, 0.6))
    assert face.mean() == pytest.approx(np.pi / 4 * 0.8 * 0.6, rel=1e-3)
    assert np.ptp(np.nonzero(face)[0]) + 1 == pytest.approx(240, abs=2)
    np.testing.assert_array_equal(face, face[::-1, ::-1])


def test_typicalness():
    """Typicalness is Pearson's correlation with the class mean."""
    maps = RNG.random((9, 4, 4, 2))
    label = np.array([0, 0, 2, 0, 2, 2, 5, 0, 2])
    maps[3] = 0.5
    means = {
        k: np.mean([m.ravel() for m, one in zip(maps, label, strict=True) if one == k], axis=0)
        for k in (0, 2, 5)
    }
    with np.errstate(all="ignore"):
        expected = [
            0 if i == 3 else scipy.stats.pearsonr(m.ravel(), means[k]).statistic
            for i, (m, k) in enumerate(zip(maps, label, strict=True))
        ]
    np.testing.assert_allclose(factors.typicalness(maps, label), expected, atol=1e-6)
    assert expected[6] == pytest.approx(1)


def test_confidence_and_target_accuracy():
    prediction = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    np.testing.assert_array_equal(factors.confidence(prediction), [0.7, 0.5])
    np.testing.assert_array_equal(factors.target_accuracy(prediction, [1, 2]), [1, 0])


def test_trend_is_the_smoothing_spline():
    """The trend is SciPy's smoothing spline where every point is a knot.

    SciPy minimises the sum of squares + λ∫f''² with its own search for λ; the search here is
    over a grid.
    """
    x = np.sort(RNG.uniform(3, 7, 30))
    y = np.sin(2 * x) + RNG.normal(0, 0.2, 30)
    found = trend.fit(x, y, knots=30)
    np.testing.assert_allclose(found.mean, make_smoothing_spline(x, y)(found.grid), atol=0.03)
    assert (found.grid[0], found.grid[-1]) == (pytest.approx(x[0]), pytest.approx(x[-1]))


def test_trend_of_a_line():
    """The trend of a line is the regression line with its band.

    Two values of x leave nothing to smooth: the band is that of ordinary least squares.
    """
    x = np.repeat([0.0, 1.0], [7, 12])
    y = 0.3 + 0.5 * x + RNG.normal(0, 0.1, 19)
    found = trend.fit(x, y, level=0.9, points=2)
    groups = [y[:7], y[7:]]
    spread = np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / 17)
    half = scipy.stats.t.ppf(0.95, 17) * spread / np.sqrt([7, 12])
    np.testing.assert_allclose(found.mean, [g.mean() for g in groups])
    np.testing.assert_allclose(found.high - found.mean, half)
    np.testing.assert_allclose(found.mean - found.low, half)


def test_units_and_order_of_trend():
    """The trend does not depend on units or order."""
    x, y = RNG.random(50), RNG.random(50)
    order = RNG.permutation(50)
    found, other = trend.fit(x, y), trend.fit(1000 * x[order] - 5, 7 * y[order])
    np.testing.assert_allclose(other.grid, 1000 * found.grid - 5)
    np.testing.assert_allclose(other.high, 7 * found.high, rtol=1e-6)


@pytest.mark.parametrize(
    "curve", [np.zeros_like, lambda x: np.sin(6 * x), lambda x: 1 / (1 + np.exp(20 - 40 * x))]
)
def test_band_covers_at_its_level(curve):
    """Wahba's band covers at its level on average over x; 200 data sets tell to about 2 %."""
    inside = []
    for _ in range(200):
        x = RNG.random(100) ** 2
        found = trend.fit(x, curve(x) + RNG.normal(0, 0.3, 100))
        true = curve(found.grid)
        inside.append(np.mean((found.low <= true) & (true <= found.high)))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.05)


def test_gaps_and_pooled_values():
    """Confidences crowd at 1: the sparse rest has a wide band, and nothing overshoots."""
    x = np.concatenate([[0.3, 0.35], np.full(500, 1.0), 1 - 1e-6 * RNG.random(500)])
    y = 0.5 + RNG.normal(0, 0.1, len(x))
    found = trend.fit(x, y)
    assert np.abs(found.mean - 0.5).max() < 0.3
    assert (found.high - found.low)[0] > 5 * (found.high - found.low)[-1]
    flat = trend.fit([0, 0.5, 1], [1, 1, 1])
    np.testing.assert_allclose([flat.low, flat.high], 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factors.relevance(np.ones((2, 4, 4, 1)), np.ones((3, 4, 4))), "fits no 2 maps"),
        (
            lambda: factors.relevance(np.ones((2, 4, 4, 1)), np.ones((4, 4)), 0.0),
            "threshold 0.0 is not allowed",
        ),
        (lambda: factors.typicalness(np.ones((2, 4, 4, 1)), [1]), "fit no 2 maps"),
        (lambda: trend.fit([1, 2], [1, 2]), "N ≥ 3"),
        (lambda: trend.fit([1, 2, np.nan], [1, 2, 3]), "finite"),
        (lambda: trend.fit([1, 1, 1], [1, 2, 3]), "every x is 1.0"),
        (lambda: trend.fit([1, 2, 3], [1, 2, 3], level=1.0), "confidence level 1.0"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
