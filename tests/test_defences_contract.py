"""The contract of every defence, and its bad input: a new factory is tested here unasked."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from defence_zoo import COUNT, NEEDED, SHAPE, changed, fitted, images, observed

from xinv import defences, store
from xinv.train import Recipe
from xinv.types import InputError, Observation

LEARNED = "gnime", "pgd"
"""Defences that train networks."""


def parameter(name):
    """The name as a parameter of a test, slow where the defence trains."""
    return pytest.param(name, marks=[pytest.mark.slow] if name in LEARNED else [])


every = pytest.mark.parametrize(
    "name", [parameter(factory.__name__) for factory in defences.FACTORIES]
)


def assert_equal(left: Observation, right: Observation) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
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
def test_neighbours_change_nothing(name):
    """Neighbours in a batch change nothing, and one trace serves all."""
    first, other = observed(), observed(seed=5)
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), first, other)
    assert_equal(
        *(jax.tree.map(lambda leaf: leaf[0], changed(name, one)) for one in (first, mixed))
    )
    assert_equal(changed(name, first), changed(name, first))
    assert len(fitted(name)[2].traces) == 1


@pytest.mark.slow
@every
def test_eager_and_mapped_equal_compiled(name):
    defence, state, _ = fitted(name)
    two = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), observed())
    keys = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(functools.partial(defences.each, defence))(state, two, keys)
    alone = [
        defence.apply(state, jax.tree.map(lambda x, i=i: x[i : i + 1], two), keys[i])
        for i in range(2)
    ]
    eager = jax.tree.map(lambda *rows: np.concatenate(rows), *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), mapped, eager)


@every
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_give_no_nan(name, value):
    constant = observed()._replace(explanation=np.full((COUNT, *SHAPE), value, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in changed(name, constant))


@pytest.mark.slow
@every
def test_batch_and_store_change_nothing(name, tmp_path):
    """A release depends on neither the batch nor the store."""
    defence, state, _ = fitted(name)
    expected = defences.release(defence, state, observed(), jax.random.key(3))
    if state:
        store.save_tree(tmp_path / "state", state)
        state = store.load_tree(tmp_path / "state")
    again = defences.release(defence, state, observed(), jax.random.key(3), batch_size=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, expected)


# Bad input


@pytest.mark.parametrize("name", [*map(parameter, LEARNED), "gaussian"])
def test_other_shape_or_scale(name):
    """Another shape or scale is an error."""
    defence, state, _ = fitted(name)
    smaller = observed()._replace(explanation=observed().explanation[:, :4])
    with pytest.raises(
        InputError,
        match=r"fitted to explanations of shape \(8, 8, 1\), and is applied to \(4, 8, 1\)",
    ):
        jax.eval_shape(defence.apply, state, smaller, jax.random.key(0))
    fewer = observed()._replace(prediction=observed().prediction[:, :3])
    with pytest.raises(InputError, match=r"predictions of shape \(5,\), and is applied to \(3,\)"):
        defences.release(defence, state, fewer, jax.random.key(0))
    for factor, message in (
        (2.0, r"maps in \[0,1\]"),
        (-1.0, r"maps in \[0,1\]"),
        (0.9, r"peaks from 1\.0 to 1\.0"),
    ):
        scaled = observed()._replace(explanation=observed().explanation * np.float32(factor))
        with pytest.raises(InputError, match=message):
            defences.release(defence, state, scaled, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"), [("gnime", "generator"), ("pgd", "inverter"), ("gaussian", "stdev")]
)
def test_state_of_another_defence(name, part):
    """A state of another defence is an error."""
    defence = fitted(name)[0]
    for state in ({}, fitted("pgd" if name == "gnime" else "gnime")[1]):
        with pytest.raises(
            InputError, match=f"needs the state that its init returned, with {part}: this one has"
        ):
            defences.release(defence, state, observed(), jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gnime", "pgd"])
def test_unservable_observations_refused(name):
    """Observations that no service would release are not learned from."""
    defence = fitted(name)[0]
    logits = observed()._replace(prediction=observed().prediction * 9)
    with pytest.raises(InputError, match="probabilities are within"):
        defence.init(jax.random.key(0), logits, images())
    for wrong in (images().astype(np.float32), images().astype(np.int32)):
        with pytest.raises(
            InputError,
            match=rf"images of type {wrong.dtype} reach from 0.* give uint8, or floating-",
        ):
            defence.init(jax.random.key(0), observed(), wrong)


def test_shared_peak():
    """Of maps that share a peak each is to have it.

    As after min–max scaling of each: scaled by the batch's largest value, most would be dim.
    """
    defence, state, _ = fitted("gaussian")
    maps = observed().explanation.copy()
    maps[3] *= 0.5
    with pytest.raises(InputError, match=r"maps with peaks from 1\.0 to 1\.0: one has 0\.5"):
        defences.release(defence, state, observed()._replace(explanation=maps), jax.random.key(0))


@pytest.mark.slow
def test_images_moved_by_rounding():
    """Images that rounding has moved are learned from."""
    for kind in (np.float32, jnp.bfloat16):
        moved = jnp.asarray(images() / 255 * 1.000001, kind)
        assert np.isfinite(
            fitted("pgd")[0].init(jax.random.key(0), observed(), moved)["start"]
        ).all()


@pytest.mark.slow
def test_dim_maps():
    """A dim map is released, and the maps of a dim service are not.

    Maps of widely different peaks, as ReLUs leave them without scaling.
    """
    draw = np.random.default_rng(0)
    maps = np.abs(draw.normal(size=(COUNT, *SHAPE)) * draw.normal(size=(COUNT, 1, 1, 1))).astype(
        np.float32
    )
    defence, varied = defences.gaussian(1e-4), observed()._replace(explanation=maps)
    state = defence.init(jax.random.key(0), varied, images())
    dim = maps.copy()
    dim[3] *= 1e-6
    for some in (slice(None), slice(3, 4)):  # also alone
        asked = jax.tree.map(lambda part, some=some: part[some], varied._replace(explanation=dim))
        defences.release(defence, state, asked, jax.random.key(0))
    for factor in (1e-3, 1e3):
        scaled = varied._replace(explanation=maps * np.float32(factor))
        with pytest.raises(InputError, match="was fitted to maps with peaks from"):
            defences.release(defence, state, scaled, jax.random.key(0))


def test_numbers_of_releases_are_checked():
    defence, state, _ = fitted("gaussian")
    for queries in (1.5, "2", 0):
        with pytest.raises(
            InputError, match=f"queries is {queries!r} but must be a whole number of at least 1"
        ):
            defences.release(defence, state, observed(), jax.random.key(0), queries=queries)
    with pytest.raises(InputError, match=r"releases 2\.5, but must be within"):
        defences.withstands(defence, state, observed(), jax.random.key(0), releases=2.5)


def test_nobody_defends_without_images():
    none = jax.tree.map(lambda leaf: leaf[:0], observed())
    with pytest.raises(InputError, match="the defender has no explanations"):
        defences.gaussian(0.01).init(jax.random.key(0), none, images(0))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("gnime", "generator"), ("pgd", "inverter")])
def test_state_of_another_network(name, part):
    """A state of another network is an error."""
    defence, state, _ = fitted(name)
    other = defences.build(name, **NEEDED[name] | {"width": 1 / 32})
    with pytest.raises(
        InputError,
        match="learned by another network, encoder or width than this defence has: params/",
    ):
        defences.release(other, state, observed(), jax.random.key(0))
    empty = {**state, part: {"params": {}}}
    with pytest.raises(InputError, match="is missing in the state"):
        jax.eval_shape(defence.apply, empty, observed(), jax.random.key(0))


@pytest.mark.slow
def test_integer_maps():
    """Maps of whole numbers are an error."""
    maps = observed()._replace(explanation=(255 * observed().explanation).astype(np.uint8))
    for name in ("gnime", "pgd", "gaussian"):
        with pytest.raises(
            InputError, match="explanations of type uint8 are no maps: give floating-point numbers"
        ):
            fitted(name)[0].init(jax.random.key(0), maps, images())


@pytest.mark.slow
def test_small_maps():
    """Small maps are treated as large ones.

    Of a millionth of the size, changed by a millionth; for GNIME by Eq. 3, whose γ is a
    variance.
    """
    small = observed()._replace(explanation=observed().explanation * np.float32(1e-6))
    for name, size in (("gaussian", "mse"), ("pgd", "mse"), ("gnime", "gamma")):
        scaled = [
            defences.build(name, **NEEDED[name] | {size: 0.01 * factor**2})
            for factor in (1.0, 1e-6)
        ]
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
        (
            observed()._replace(prediction=observed().prediction * 9),
            r"probabilities are within \[0,1\]",
        ),
        (
            observed()._replace(prediction=observed().prediction * np.nan),
            "predictions to release hold NaN",
        ),
        (
            observed()._replace(explanation=observed().explanation + np.inf),
            "explanations to release hold NaN",
        ),
    ],
)
def test_unreleasable_observations(observation, message):
    """Observations that cannot be released are named."""
    with pytest.raises(InputError, match=message):
        defences.release(defences.round_to(1), {}, observation, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("truncate", {"m": 0}, "m is 0 but must be a whole number of at least 1"),
        ("round_to", {"decimals": 1.5}, "decimals is 1.5 but must be a whole number of at least 0"),
        ("pgd", {"mse": 0.1, "steps": 2.5}, "steps is 2.5"),
        ("gnime", {"lam": "100"}, "lam is '100' but must be positive"),
        ("reverse_sigmoid", {"beta": -1.0}, "beta is -1.0 but must be positive"),
        ("clip", {"low": 1.0, "high": 0.0}, "low is 1.0 but must be below high, which is 0.0"),
        ("clip", {"low": "a", "high": 0.0}, "low is 'a' but must be a finite number"),
        ("mask", {"threshold": "0.1"}, "threshold is '0.1' but must be finite and at least 0"),
        (
            "mask",
            {"threshold": 0.1, "relative": "no"},
            "relative is 'no' but must be True or False",
        ),
        ("gaussian", {"mse": 0.1, "clipped": "no"}, "clipped is 'no' but must be True or False"),
        ("noise", {"stdev": None}, "stdev is None but must be positive and finite"),
        ("gnime", {"lam": None}, "lam is None but must be positive and finite"),
        ("gnime", {"inverter_width": 0}, "inverter_width is 0 but must be positive"),
        (
            "mask",
            {"threshold": 2.0, "relative": True},
            "threshold is 2.0 but must be a fraction up to 1",
        ),
        ("noise", {"stdev": 0.0}, "stdev is 0.0"),
        ("noise", {"stdev": np.inf}, "stdev is inf but must be positive and finite"),
        ("gaussian", {"mse": np.nan}, "mse is nan"),
        (
            "gnime",
            {"network": "tcnn"},
            "network is 'tcnn' but must be one of decoder, gnime_decoder",
        ),
        (
            "pgd",
            {"mse": 0.1, "encoder": "none"},
            "encoder is 'none' but must be one that reads the explanation",
        ),
        ("gaussian", {"mse": -1.0}, "mse is -1.0"),
        ("pgd", {"mse": 0.1, "steps": 0}, "steps is 0"),
        (
            "pgd",
            {"mse": 0.1, "away_from": "map"},
            "away_from is 'map' but must be one of reconstruction, image",
        ),
        (
            "gnime",
            {"updates": "both"},
            "updates is 'both' but must be one of alternating, simultaneous",
        ),
        ("gnime", {"recipe": Recipe()}, "validation is 0.1 but must be 0"),
        ("gnime", {"gamma": 0.0}, "gamma is 0.0"),
        ("gnome", {}, "unknown defence 'gnome': choose one of clip, gaussian, gnime"),
        ("noise", {"sigma": 1}, "has no parameter 'sigma'"),
    ],
)
def test_bad_parameters_are_named(name, hyper, message):
    with pytest.raises(InputError, match=message):
        defences.build(name, **hyper)


@pytest.mark.slow
def test_checks_name_the_unfit():
    """Checks name what a defence cannot treat."""
    bare = Observation(observed().prediction)
    for name in ("gnime", "pgd", "gaussian", "clip", "mask", "noise"):
        with pytest.raises(InputError, match="the observation has none"):
            fitted(name)[0].check(bare, images())
    defences.gnime().check(
        *jax.eval_shape(lambda *arrays: arrays, observed(), images())
    )  # the full U-Net, by shapes
    with pytest.raises(InputError, match="m is 9 but must be at most 5, the classes"):
        defences.truncate(9).check(bare, images())
    with pytest.raises(InputError, match="the defender's explanations hold NaN"):
        defences.gaussian(0.1).init(
            None, observed()._replace(explanation=observed().explanation * np.nan), images()
        )
