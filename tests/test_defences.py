"""Every defence: the contract, closed forms, and what leaves the service."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from xinv import defences, models, store
from xinv.defences.gaussian import clipped_variance
from xinv.train import Recipe
from xinv.types import InputError, Observation

COUNT, CLASSES, SHAPE = 16, 5, (8, 8, 1)
RECIPE = Recipe(batch_size=8, epochs=1, validation=0)
NEEDED: dict[str, dict] = {
    "clip": {"low": 0.2, "high": 0.7},
    "gaussian": {"mse": 0.01},
    "gnime": {"width": 1 / 64, "recipe": RECIPE, "collapse": 1e6, "gamma": 0.01},
    "mask": {"threshold": 0.5},
    "noise": {"stdev": 0.1},
    "pgd": {"mse": 0.01, "steps": 2, "encoder": "flatten", "width": 1 / 64, "recipe": RECIPE},
    "round_to": {"decimals": 1},
    "truncate": {"m": 2},
}
every = pytest.mark.parametrize("name", [factory.__name__ for factory in defences.FACTORIES])


def observed(count: int = COUNT, seed: int = 0) -> Observation:
    """Predictions, and maps in [0,1] of which half the values lie on 0."""
    draw = np.random.default_rng(seed)
    maps = np.clip(draw.normal(size=(count, *SHAPE)), 0, None)
    maps /= maps.max(axis=(1, 2, 3), keepdims=True)
    return Observation(
        draw.dirichlet(np.ones(CLASSES), count).astype(np.float32),
        maps.astype(np.float32),
    )


def images(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *SHAPE), np.uint8)


@functools.cache
def fitted(name: str):
    """A defence, its state, and its `apply` compiled, which counts its traces."""
    defence = defences.build(name, **NEEDED.get(name, {}))
    state = defence.init(jax.random.key(0), observed(), images())
    state.pop("history", None)
    traces = []

    def apply(state, observation, key):
        traces.append(None)
        return defence.apply(state, observation, key)

    compiled = jax.jit(apply)
    compiled.traces = traces
    return defence, state, compiled


def changed(name: str, observation: Observation, seed: int = 0) -> Observation:
    _, state, compiled = fitted(name)
    return jax.tree.map(np.asarray, compiled(state, observation, jax.random.key(seed)))


def assert_equal(left: Observation, right: Observation) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


# The contract


@every
def test_public_documented_and_effective(name):
    assert name in defences.__all__
    assert inspect.getdoc(getattr(defences, name))
    before, after = observed(), changed(name, observed())
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, before)
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in after)
    assert any(not np.array_equal(*pair) for pair in zip(after, before, strict=True))
    defence, state, _ = fitted(name)
    assert defence.learns == bool(state)
    defence.check(*jax.eval_shape(lambda *arrays: arrays, observed(), images()))


@every
def test_neighbours_change_nothing_and_one_trace_serves_all(name):
    first, other = observed(), observed(seed=5)
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), first, other)
    assert_equal(*(jax.tree.map(lambda leaf: leaf[0], changed(name, one)) for one in (first, mixed)))
    assert_equal(changed(name, first), changed(name, first))
    assert len(fitted(name)[2].traces) == 1


@every
def test_eager_and_mapped_equal_compiled(name):
    defence, state, _ = fitted(name)
    two = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), observed())
    keys = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(functools.partial(defences.each, defence))(state, two, keys)
    alone = [defence.apply(state, jax.tree.map(lambda x, i=i: x[i : i + 1], two), keys[i]) for i in range(2)]
    eager = jax.tree.map(lambda *rows: np.concatenate(rows), *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), mapped, eager)


@every
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_give_no_nan(name, value):
    constant = observed()._replace(explanation=np.full((COUNT, *SHAPE), value, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in changed(name, constant))


@every
def test_a_release_depends_on_neither_the_batch_nor_the_store(name, tmp_path):
    defence, state, _ = fitted(name)
    expected = defences.release(defence, state, observed(), jax.random.key(3))
    if state:
        store.save_tree(tmp_path / "state", state)
        state = store.load_tree(tmp_path / "state")
    again = defences.release(defence, state, observed(), jax.random.key(3), batch_size=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, expected)


# Closed forms


def test_truncate_keeps_the_largest_and_the_first_of_equals():
    prediction = np.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]], np.float32)
    released = defences.truncate(2).apply({}, Observation(prediction), None).prediction
    np.testing.assert_array_equal(released, np.array([[0, 0.4, 0, 0.3], [0.25, 0.25, 0, 0]], np.float32))


def test_round_to():
    prediction = np.array([[0.449, 0.551, 0.0]], np.float32)
    released = defences.round_to(1).apply({}, Observation(prediction), None).prediction
    np.testing.assert_allclose(released, [[0.4, 0.6, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(0.5, 0.2), (1.0, 0.1), (1.0, 1.0), (1.9, 3.0)])
def test_reverse_sigmoid_in_float64(beta, gamma):
    draw = np.random.default_rng(0)
    prediction = np.concatenate([draw.dirichlet(np.full(4, a), 50) for a in (0.02, 0.3, 3.0)]).astype(np.float32)
    released = np.asarray(defences.reverse_sigmoid(beta, gamma).apply({}, Observation(prediction), None).prediction)
    y = np.clip(prediction.astype(np.float64), 1e-9, 1 - 1e-9)
    r = beta * (1 / (1 + np.exp(-gamma * np.log(y / (1 - y)))) - 0.5)
    expected = np.maximum(prediction - r, 0)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(released.argmax(axis=1), prediction.argmax(axis=1))
    np.testing.assert_allclose(np.sort(released), np.sort(expected), atol=3e-6)  # the tie-break is 1e-6
    kept = expected.argmax(axis=1) == prediction.argmax(axis=1)
    np.testing.assert_allclose(released[kept], expected[kept], atol=3e-6)
    assert kept.all() == (beta * gamma < 1)  # only a steep perturbation turns the order


def test_deepleaks_order_of_transforms():
    maps = np.array([-0.9, -0.2, 0.05, 0.4, 2.0], np.float32).reshape(1, 5, 1, 1)
    parts = defences.clip(-0.5, 1.0), defences.mask(0.1), defences.noise(1e-6)
    defence = defences.chain(*parts)
    released = defence.apply({"0": {}, "1": {}, "2": {}}, Observation(np.ones((1, 1)), maps), jax.random.key(0))
    np.testing.assert_allclose(np.ravel(released.explanation), [-0.5, -0.2, 0, 0.4, 1], atol=1e-5)
    relative = defences.mask(0.5, relative=True).apply({}, Observation(np.ones((1, 1)), maps), None)
    np.testing.assert_array_equal(np.ravel(relative.explanation), np.float32([0, 0, 0, 0, 2]))


def test_noise_is_normal_and_independent_along_a_chain():
    maps = Observation(np.ones((400, 2), np.float32) / 2, np.zeros((400, *SHAPE), np.float32))
    twice = defences.chain(defences.noise(0.3), defences.noise(0.4))
    released = defences.release(twice, {"0": {}, "1": {}}, maps, jax.random.key(0)).explanation
    assert released.std() == pytest.approx(0.5, rel=0.02)  # 25600 values: 0.4 % standard error
    assert abs(released.mean()) < 0.02
    assert abs(np.corrcoef(released[:200].ravel(), released[200:].ravel())[0, 1]) < 0.04


# Magnitudes


@pytest.mark.parametrize("mse", [0.0005, 0.01, 0.1])
@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_gaussian_realises_its_magnitude_after_clipping(mse, shift):
    maps = observed(500)
    maps = maps._replace(explanation=maps.explanation + np.float32(shift))
    defence = defences.gaussian(mse)
    state = defence.init(jax.random.key(0), maps, images(500))
    released = defences.release(defence, state, maps, jax.random.key(1)).explanation
    assert np.mean((released - maps.explanation) ** 2) == pytest.approx(mse, rel=0.03)
    assert state["stdev"] > 1.1 * mse**0.5  # half of the values lie on the range's edge, where noise is clipped
    low, high = (0, 1) if not shift else (maps.explanation.min(), maps.explanation.max())
    assert low <= released.min() <= released.max() <= high


def test_unclipped_noise_is_that_of_gnimes_code():
    """N(0, mse), beyond the maps' range; what is clipped must be larger for the same distortion."""
    maps = observed(500)
    unclipped, clipped = defences.gaussian(0.01, clipped=False), defences.gaussian(0.01)
    states = [defence.init(jax.random.key(0), maps, images(500)) for defence in (unclipped, clipped)]
    released = defences.release(unclipped, states[0], maps, jax.random.key(1)).explanation
    noise = released - maps.explanation
    assert stats.kstest(noise.ravel()[:5000] / 0.1, "norm").pvalue > 0.01
    assert released.min() < -0.2
    assert states[0]["stdev"] == np.float32(0.1) < states[1]["stdev"]


def test_clipped_variance_by_simulation():
    normal = np.random.default_rng(0).normal(size=400_000)
    for value, stdev in ((0.0, 0.1), (0.9, 0.3), (0.5, 2.0)):
        simulated = np.mean((np.clip(value + stdev * normal, 0, 1) - value) ** 2)
        assert clipped_variance(np.array([value]), stdev, 0, 1) == pytest.approx(simulated, rel=0.01)


def test_noise_larger_than_the_maps_allow_is_named():
    with pytest.raises(InputError, match=r"mse is 0\.7 but noise within \[0\.0, 1\.0\] distorts these maps by at most"):
        defences.gaussian(0.7).init(jax.random.key(0), observed(), images())


def test_pgd_changes_every_map_by_its_magnitude_and_its_inverter_more_than_noise_does():
    defence, state, _ = fitted("pgd")
    original, released = observed(), changed("pgd", observed())
    np.testing.assert_allclose(np.mean((released.explanation - original.explanation) ** 2, (1, 2, 3)), 0.01, rtol=1e-3)
    assert 0 <= released.explanation.min() <= released.explanation.max() <= 1
    noise = defences.gaussian(0.01)
    noised = noise.apply(noise.init(jax.random.key(0), original, images()), original, jax.random.key(2))
    invert = models.build("decoder", encoder="flatten", image_shape=SHAPE, width=1 / 64).apply
    guesses = [invert(state["inverter"], original.prediction, one.explanation) for one in (original, released, noised)]
    optimised, random = (np.mean((guess - guesses[0]) ** 2) for guess in guesses[1:])
    assert optimised > 1.5 * random
    assert defence is defences.build("pgd", **NEEDED["pgd"])


# Repeated queries


def test_queries_average_independent_releases():
    maps, defence = observed(200), defences.noise(0.2)
    for queries in (1, 4, 16):
        released = defences.release(defence, {}, maps, jax.random.key(0), queries=queries)
        assert np.mean((released.explanation - maps.explanation) ** 2) == pytest.approx(0.04 / queries, rel=0.05)
        np.testing.assert_allclose(released.prediction, maps.prediction, rtol=1e-6)


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 2.0), (0.1, 10.0)])
def test_noise_withstands_one_over_the_fraction(fraction, expected):
    found = defences.withstands(defences.noise(0.2), {}, observed(100), jax.random.key(0), fraction)
    assert found == pytest.approx(expected, rel=0.05)


def test_withstands_tells_constant_from_random_change():
    """A shift by b and noise of variance b²: q releases leave b²(1 + 1/q), 3/4 of 2b² at q = 2, never a half."""
    shift = defences.noise(0.2)
    shifted = shift._replace(
        apply=lambda state, observation, key: shift.apply(
            state, observation._replace(explanation=observation.explanation + 0.2), key
        )
    )
    maps = observed(100)
    assert defences.withstands(shifted, {}, maps, jax.random.key(0), 0.75) == pytest.approx(2, rel=0.05)
    assert defences.withstands(shifted, {}, maps, jax.random.key(0), 0.45) == np.inf
    assert defences.withstands(defences.clip(0.2, 0.7), {}, maps, jax.random.key(0)) == np.inf
    assert defences.withstands(defences.truncate(1), {}, maps._replace(explanation=None), jax.random.key(0)) == np.inf


# Chains


def test_a_chain_fits_each_to_what_the_one_before_releases(tmp_path):
    defence = defences.chain(defences.clip(0.0, 0.5), defences.gaussian(0.01))
    state = defence.init(jax.random.key(0), observed(), images())
    clipped = observed()._replace(explanation=np.clip(observed().explanation, 0, 0.5))
    alone = defences.gaussian(0.01).init(jax.random.key(9), clipped, images())
    assert state["1"]["stdev"] == alone["stdev"]
    too_large = observed()._replace(explanation=observed().explanation * 255)
    with pytest.raises(InputError, match=r"fitted to maps in \[0,1\]: these reach from .* to 255"):
        defences.release(defence, state, too_large, jax.random.key(0))


def test_a_chain_of_defences_that_learn_nothing_needs_no_state():
    hardened = defences.chain(defences.clip(0.0, 0.5), defences.mask(0.1))
    released = defences.release(hardened, {}, observed(), jax.random.key(0)).explanation
    clipped = np.clip(observed().explanation, 0, 0.5)
    np.testing.assert_array_equal(released, np.where(clipped < np.float32(0.1), 0, clipped))


# Bad input


@pytest.mark.parametrize("name", ["gnime", "pgd", "gaussian"])
def test_another_shape_or_scale_is_an_error(name):
    defence, state, _ = fitted(name)
    smaller = observed()._replace(explanation=observed().explanation[:, :4])
    with pytest.raises(InputError, match=r"fitted to explanations of shape \(8, 8, 1\), and is applied to \(4, 8, 1\)"):
        jax.eval_shape(defence.apply, state, smaller, jax.random.key(0))
    fewer = observed()._replace(prediction=observed().prediction[:, :3])
    with pytest.raises(InputError, match=r"predictions of shape \(5,\), and is applied to \(3,\)"):
        defences.release(defence, state, fewer, jax.random.key(0))
    for factor, message in ((2.0, r"maps in \[0,1\]"), (-1.0, r"maps in \[0,1\]"), (0.01, r"peaks from 1\.0 to 1\.0")):
        scaled = observed()._replace(explanation=observed().explanation * np.float32(factor))
        with pytest.raises(InputError, match=message):
            defences.release(defence, state, scaled, jax.random.key(0))


@pytest.mark.parametrize(("name", "part"), [("gnime", "generator"), ("pgd", "inverter")])
def test_a_state_of_another_network_is_an_error(name, part):
    defence, state, _ = fitted(name)
    other = defences.build(name, **NEEDED[name] | {"width": 1 / 32})
    with pytest.raises(InputError, match="learned by another network, encoder or width than this defence has: params/"):
        defences.release(other, state, observed(), jax.random.key(0))
    empty = {**state, part: {"params": {}}}
    with pytest.raises(InputError, match="is missing in the state"):
        jax.eval_shape(defence.apply, empty, observed(), jax.random.key(0))


def test_maps_of_whole_numbers_are_an_error():
    maps = observed()._replace(explanation=(255 * observed().explanation).astype(np.uint8))
    for name in ("gnime", "pgd", "gaussian"):
        with pytest.raises(InputError, match="explanations of type uint8 are no maps: give floating-point numbers"):
            fitted(name)[0].init(jax.random.key(0), maps, images())


def test_small_maps_are_treated_as_large_ones():
    """Of a millionth of the size, changed by a millionth; for GNIME by Eq. 3, whose γ is a variance."""
    small = observed()._replace(explanation=observed().explanation * np.float32(1e-6))
    for name, size in (("gaussian", "mse"), ("pgd", "mse"), ("gnime", "gamma")):
        scaled = [defences.build(name, **NEEDED[name] | {size: 0.01 * factor**2}) for factor in (1.0, 1e-6)]
        changes = []
        for defence, maps in zip(scaled, (observed(), small), strict=True):
            released = defences.release(
                defence, defence.init(jax.random.key(0), maps, images()), maps, jax.random.key(1)
            )
            changes.append(np.mean((released.explanation - maps.explanation) ** 2))
        assert changes[1] * 1e12 == pytest.approx(changes[0], rel=0.1), name


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (observed()._replace(prediction=observed().prediction * 9), "a service releases probabilities"),
        (observed()._replace(prediction=observed().prediction * np.nan), "predictions to release hold NaN"),
        (observed()._replace(explanation=observed().explanation + np.inf), "explanations to release hold NaN"),
    ],
)
def test_what_cannot_be_released_is_named(observation, message):
    with pytest.raises(InputError, match=message):
        defences.release(defences.round_to(1), {}, observation, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("truncate", {"m": 0}, "m is 0 but must be at least 1"),
        ("reverse_sigmoid", {"beta": -1.0}, "beta is -1.0 but must be positive"),
        ("clip", {"low": 1.0, "high": 0.0}, "low is 1.0 but must be below high, which is 0.0"),
        ("mask", {"threshold": 2.0, "relative": True}, "threshold is 2.0 but must be a fraction up to 1"),
        ("noise", {"stdev": 0.0}, "stdev is 0.0"),
        ("noise", {"stdev": np.inf}, "stdev is inf but must be positive and finite"),
        ("gaussian", {"mse": np.nan}, "mse is nan"),
        ("gnime", {"network": "tcnn"}, "network is 'tcnn' but must be one of decoder, gnime_decoder"),
        ("pgd", {"mse": 0.1, "encoder": "none"}, "encoder is 'none' but must be one that reads the explanation"),
        ("gaussian", {"mse": -1.0}, "mse is -1.0"),
        ("pgd", {"mse": 0.1, "steps": 0}, "steps is 0"),
        ("gnime", {"updates": "both"}, "updates is 'both' but must be one of alternating, simultaneous"),
        ("gnime", {"recipe": Recipe()}, "validation is 0.1 but must be 0"),
        ("gnime", {"gamma": 0.0}, "gamma is 0.0"),
        ("gnome", {}, "unknown defence 'gnome': choose one of clip, gaussian, gnime"),
        ("noise", {"sigma": 1}, "has no parameter 'sigma'"),
    ],
)
def test_bad_parameters_are_named(name, hyper, message):
    with pytest.raises(InputError, match=message):
        defences.build(name, **hyper)


def test_checks_name_what_a_defence_cannot_treat():
    bare = Observation(observed().prediction)
    for name in ("gnime", "pgd", "gaussian", "clip", "mask", "noise"):
        with pytest.raises(InputError, match="the observation has none"):
            fitted(name)[0].check(bare, images())
    defences.gnime().check(*jax.eval_shape(lambda *arrays: arrays, observed(), images()))  # the full U-Net, by shapes
    with pytest.raises(InputError, match="m is 9 but must be at most 5, the classes"):
        defences.truncate(9).check(bare, images())
    with pytest.raises(InputError, match="the defender's explanations hold NaN"):
        defences.gaussian(0.1).init(None, observed()._replace(explanation=observed().explanation * np.nan), images())
