"""Defences against closed forms, the magnitude of noise, repeated queries, and chains."""

import jax
import numpy as np
import pytest
from defence_zoo import NEEDED, SHAPE, changed, fitted, images, observed
from scipy import optimize, stats

from xinv import defences, models
from xinv.defences.gaussian import clipped_variance
from xinv.types import InputError, Observation


def test_truncate():
    """Truncation keeps the largest, and the first of equals."""
    prediction = np.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]], np.float32)
    released = defences.truncate(2).apply({}, Observation(prediction), None).prediction
    np.testing.assert_array_equal(
        released, np.array([[0, 0.4, 0, 0.3], [0.25, 0.25, 0, 0]], np.float32)
    )


def test_round_to():
    prediction = np.array([[0.449, 0.551, 0.0]], np.float32)
    released = defences.round_to(1).apply({}, Observation(prediction), None).prediction
    np.testing.assert_allclose(released, [[0.4, 0.6, 0.0]], rtol=1e-6)


LOGITS = np.array(
    [[9.87, -3.21, 0.04, -0.06], [-2.0, -1.0, -4.0, -3.0], [0, -5, -7, -6]], np.float32
)


def test_logits_truncated():
    """Others become 0; where no logit is above 0, one below the smallest kept."""
    seen = Observation(LOGITS)
    released = defences.release(
        defences.truncate(2, logits=True), {}, seen, jax.random.key(0), logits=True
    ).prediction
    expected = [[9.87, 0, 0.04, 0], [-2, -1, -3, -3], [0, -5, -6, -6]]
    np.testing.assert_array_equal(released, np.float32(expected))
    np.testing.assert_array_equal(released.argmax(1), LOGITS.argmax(1))


def test_logits_rounded():
    seen = Observation(LOGITS)
    released = defences.release(
        defences.round_to(1), {}, seen, jax.random.key(0), logits=True
    ).prediction
    expected = [[9.9, -3.2, 0.0, -0.1], [-2, -1, -4, -3], [0, -5, -7, -6]]
    np.testing.assert_allclose(released, expected, rtol=1e-6)


def test_logits_refused():
    """Logits are stated, and a defence of probabilities does not take them."""
    key = jax.random.key(0)
    with pytest.raises(InputError, match=r"reach from -7\.0 to 9\.8.*probabilities are within"):
        defences.release(defences.round_to(1), {}, Observation(LOGITS), key)
    for defence in (
        defences.reverse_sigmoid(),
        defences.truncate(2),
        defences.chain(defences.round_to(1), defences.reverse_sigmoid()),
    ):
        with pytest.raises(InputError, match="changes probabilities"):
            defences.release(defence, {}, Observation(LOGITS), key, logits=True)
    broken = Observation(np.full((2, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="hold NaN"):
        defences.release(defences.round_to(1), {}, broken, key, logits=True)


@pytest.mark.parametrize(("beta", "gamma"), [(0.5, 0.2), (1.0, 0.1), (1.0, 1.0), (1.9, 3.0)])
def test_reverse_sigmoid_in_float64(beta, gamma):
    draw = np.random.default_rng(0)
    prediction = np.concatenate(
        [draw.dirichlet(np.full(4, a), 50) for a in (0.02, 0.3, 3.0)]
    ).astype(np.float32)
    released = np.asarray(
        defences.reverse_sigmoid(beta, gamma).apply({}, Observation(prediction), None).prediction
    )
    y = np.clip(prediction.astype(np.float64), 1e-9, 1 - 1e-9)
    r = beta * (1 / (1 + np.exp(-gamma * np.log(y / (1 - y)))) - 0.5)
    expected = np.maximum(prediction - r, 0)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(released.argmax(axis=1), prediction.argmax(axis=1))
    np.testing.assert_allclose(
        np.sort(released), np.sort(expected), atol=3e-6
    )  # the tie-break is 1e-6
    kept = expected.argmax(axis=1) == prediction.argmax(axis=1)
    np.testing.assert_allclose(released[kept], expected[kept], atol=3e-6)
    assert kept.all() == (beta * gamma < 1)  # only a steep perturbation turns the order


def test_deepleaks_order_of_transforms():
    maps = np.array([-0.9, -0.2, 0.05, 0.4, 2.0], np.float32).reshape(1, 5, 1, 1)
    parts = defences.clip(-0.5, 1.0), defences.mask(0.1), defences.noise(1e-6)
    defence = defences.chain(*parts)
    released = defence.apply(
        {"0": {}, "1": {}, "2": {}}, Observation(np.ones((1, 1)), maps), jax.random.key(0)
    )
    np.testing.assert_allclose(np.ravel(released.explanation), [-0.5, -0.2, 0, 0.4, 1], atol=1e-5)
    relative = defences.mask(0.5, relative=True).apply({}, Observation(np.ones((1, 1)), maps), None)
    np.testing.assert_array_equal(np.ravel(relative.explanation), np.float32([0, 0, 0, 0, 2]))


def test_noise_along_a_chain():
    """Noise is normal, and independent along a chain."""
    maps = Observation(np.ones((400, 2), np.float32) / 2, np.zeros((400, *SHAPE), np.float32))
    twice = defences.chain(defences.noise(0.3), defences.noise(0.4))
    released = defences.release(twice, {"0": {}, "1": {}}, maps, jax.random.key(0)).explanation
    assert released.std() == pytest.approx(0.5, rel=0.02)  # 25600 values: 0.4 % standard error
    assert abs(released.mean()) < 0.02
    assert abs(np.corrcoef(released[:200].ravel(), released[200:].ravel())[0, 1]) < 0.04


# Magnitudes


@pytest.mark.parametrize("mse", [0.0005, 0.01, 0.1])
@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_gaussian_magnitude_after_clipping(mse, shift):
    """Gaussian noise has its magnitude after clipping."""
    maps = observed(500)
    maps = maps._replace(explanation=maps.explanation + np.float32(shift))
    defence = defences.gaussian(mse)
    state = defence.init(jax.random.key(0), maps, images(500))
    released = defences.release(defence, state, maps, jax.random.key(1)).explanation
    assert np.mean((released - maps.explanation) ** 2) == pytest.approx(mse, rel=0.03)
    assert (
        state["stdev"] > 1.1 * mse**0.5
    )  # half of the values lie on the range's edge, where noise is clipped
    low, high = (0, 1) if not shift else (maps.explanation.min(), maps.explanation.max())
    assert low <= released.min() <= released.max() <= high


def test_unclipped_noise_of_gnime():
    """Unclipped noise is that of GNIME's code.

    N(0, mse), beyond the maps' range; what is clipped must be larger for the same distortion.
    """
    maps = observed(500)
    unclipped, clipped = defences.gaussian(0.01, clipped=False), defences.gaussian(0.01)
    states = [
        defence.init(jax.random.key(0), maps, images(500)) for defence in (unclipped, clipped)
    ]
    released = defences.release(unclipped, states[0], maps, jax.random.key(1)).explanation
    noise = released - maps.explanation
    assert stats.kstest(noise.ravel()[:5000] / 0.1, "norm").pvalue > 0.01
    assert released.min() < -0.2
    assert states[0]["stdev"] == np.float32(0.1) < states[1]["stdev"]


def test_clipped_variance_by_simulation():
    normal = np.random.default_rng(0).normal(size=400_000)
    for value, stdev in ((0.0, 0.1), (0.9, 0.3), (0.5, 2.0)):
        simulated = np.mean((np.clip(value + stdev * normal, 0, 1) - value) ** 2)
        assert clipped_variance(np.array([value]), stdev, 0, 1) == pytest.approx(
            simulated, rel=0.01
        )


def test_too_large_noise():
    """Noise larger than the maps allow is named."""
    with pytest.raises(
        InputError,
        match=r"mse is 0\.7 but noise within \[0\.0, 1\.0\] distorts these maps by at most",
    ):
        defences.gaussian(0.7).init(jax.random.key(0), observed(), images())


@pytest.mark.slow
def test_pgd_magnitude_and_effect():
    """PGD changes every map by its magnitude, and harms its inverter more than noise does."""
    defence, state, _ = fitted("pgd")
    original, released = observed(), changed("pgd", observed())
    np.testing.assert_allclose(
        np.mean((released.explanation - original.explanation) ** 2, (1, 2, 3)), 0.01, rtol=1e-3
    )
    assert 0 <= released.explanation.min() <= released.explanation.max() <= 1
    noise = defences.gaussian(0.01)
    noised = noise.apply(
        noise.init(jax.random.key(0), original, images()), original, jax.random.key(2)
    )
    invert = models.build("decoder", encoder="flatten", image_shape=SHAPE, width=1 / 64).apply
    guesses = [
        invert(state["inverter"], original.prediction, one.explanation)
        for one in (original, released, noised)
    ]
    optimised, random = (np.mean((guess - guesses[0]) ** 2) for guess in guesses[1:])
    assert optimised > 1.5 * random
    assert defence is defences.build("pgd", **NEEDED["pgd"])


@pytest.mark.slow
def test_pgd_from_image():
    """With the image one step goes up the inverter's error, by the magnitude, on any stack.

    The step written out: the gradient from outside, and the length by SciPy's root finder.
    """
    _, state, _ = fitted("pgd")
    settings = NEEDED["pgd"] | dict(steps=1, away_from="image")
    defence = defences.build("pgd", **settings)
    original = observed(4)
    shown = images(4)
    key = jax.random.key(0)
    with pytest.raises(InputError, match="sees the images at the release: give images as well"):
        defences.release(defence, state, original, key)
    released = defences.release(defence, state, original, key, images=shown).explanation

    invert = models.build("decoder", encoder="flatten", image_shape=SHAPE, width=1 / 64).apply

    def error(maps):
        guesses = invert(state["inverter"], original.prediction, maps)
        return ((guesses - shown / np.float32(255)) ** 2).sum()

    slopes = np.asarray(jax.grad(error)(original.explanation), np.float64)
    for before, after, slope in zip(original.explanation, released, slopes, strict=True):
        low, high = original.explanation.min(), original.explanation.max()

        def excess(length, before=before, slope=slope, low=low, high=high):
            moved = np.clip(before + length * slope, low, high)
            return np.mean((moved - before) ** 2) - 0.01

        length = optimize.brentq(excess, 0, 1e3 / np.sqrt(np.mean(slope**2)))
        np.testing.assert_allclose(after, np.clip(before + length * slope, low, high), atol=2e-4)

    # Each defence of a chain gets the images if it sees them
    chain = defences.chain(defences.quantise(0.5), defence)
    coarse = original._replace(explanation=np.round(original.explanation * 2) / 2)
    joined = {"1": state, "calibration": state["calibration"]}
    both = defences.release(chain, joined, original, key, images=shown).explanation
    alone = defences.release(defence, state, coarse, key, images=shown).explanation
    np.testing.assert_allclose(both, alone, atol=1e-5)


# Repeated queries


@pytest.mark.slow
def test_queries_average_independent_releases():
    maps, defence = observed(200), defences.noise(0.2)
    for queries in (1, 4, 16):
        released = defences.release(defence, {}, maps, jax.random.key(0), queries=queries)
        assert np.mean((released.explanation - maps.explanation) ** 2) == pytest.approx(
            0.04 / queries, rel=0.05
        )
        np.testing.assert_allclose(released.prediction, maps.prediction, rtol=1e-6)


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 2.0), (0.1, 10.0)])
def test_queries_that_noise_withstands(fraction, expected):
    """Averaging 1/`fraction` releases leaves that fraction of the noise."""
    found = defences.withstands(defences.noise(0.2), {}, observed(100), jax.random.key(0), fraction)
    assert found == pytest.approx(expected, rel=0.05)


def test_withstands_constant_or_random_change():
    """A constant change withstands averaging and a random one does not.

    A shift by b and noise of variance b²: q releases leave b²(1 + 1/q), 3/4 of 2b² at q = 2,
    never a half.
    """
    shift = defences.noise(0.2)
    shifted = shift._replace(
        apply=lambda state, observation, key: shift.apply(
            state, observation._replace(explanation=observation.explanation + 0.2), key
        )
    )
    maps = observed(100)
    assert defences.withstands(shifted, {}, maps, jax.random.key(0), 0.75) == pytest.approx(
        2, rel=0.05
    )
    assert defences.withstands(shifted, {}, maps, jax.random.key(0), 0.45) == np.inf
    assert defences.withstands(defences.clip(0.2, 0.7), {}, maps, jax.random.key(0)) == np.inf
    assert (
        defences.withstands(
            defences.truncate(1), {}, maps._replace(explanation=None), jax.random.key(0)
        )
        == np.inf
    )


# Chains


def test_chain_fits_in_turn(tmp_path):
    """A chain fits each defence to the release of the one before."""
    defence = defences.chain(defences.clip(0.0, 0.5), defences.gaussian(0.01))
    state = defence.init(jax.random.key(0), observed(), images())
    clipped = observed()._replace(explanation=np.clip(observed().explanation, 0, 0.5))
    alone = defences.gaussian(0.01).init(jax.random.key(9), clipped, images())
    assert state["1"]["stdev"] == alone["stdev"]
    too_large = observed()._replace(explanation=observed().explanation * 255)
    with pytest.raises(InputError, match=r"fitted to maps in \[0,1\]: these reach from .* to 255"):
        defences.release(defence, state, too_large, jax.random.key(0))


def test_stateless_chain():
    """A chain of defences that learn nothing needs no state."""
    hardened = defences.chain(defences.clip(0.0, 0.5), defences.mask(0.1))
    released = defences.release(hardened, {}, observed(), jax.random.key(0)).explanation
    clipped = np.clip(observed().explanation, 0, 0.5)
    np.testing.assert_array_equal(released, np.where(clipped < np.float32(0.1), 0, clipped))
