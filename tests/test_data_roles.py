"""Roles: disjoint, seeded, stratified to rounding, balanced, grouped; halves of a pool."""

from fractions import Fraction

import numpy as np
import pytest

from xinv.data import roles
from xinv.types import InputError

FRACTIONS = {"a": 0.5, "b": 0.3, "c": 0.15}


def labels(count=997, seed=0):
    random = np.random.default_rng(seed)
    return {
        "kind": random.choice(5, count, p=[0.4, 0.3, 0.15, 0.1, 0.05]),
        "who": random.integers(0, 20, count),
    }


def test_roles_are_disjoint():
    """Roles are disjoint, ascending and within the images."""
    split = roles.split(labels(), FRACTIONS, seed=3)
    assert list(split) == ["a", "b", "c"]
    together = np.concatenate(list(split.values()))
    assert len(np.unique(together)) == len(together)
    assert set(together) <= set(range(997))
    assert all((np.diff(indices) > 0).all() for indices in split.values())


def test_the_seed_decides():
    first, again, other = (
        roles.split(labels(), FRACTIONS, seed=seed, stratify="kind") for seed in (1, 1, 2)
    )
    assert all((first[role] == again[role]).all() for role in FRACTIONS)
    assert any((first[role] != other[role]).any() for role in FRACTIONS)


@pytest.mark.parametrize("seed", range(5))
def test_shares_exact_to_rounding(seed):
    """Classes and totals are exact to rounding."""
    kinds = labels(seed=seed)["kind"]
    split = roles.split({"kind": kinds}, FRACTIONS, seed=seed, stratify="kind")
    for role, fraction in FRACTIONS.items():
        exact = Fraction(str(fraction))
        for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
            assert abs((kinds[split[role]] == kind).sum() - exact * int(count)) < 1
        assert abs(len(split[role]) - exact * len(kinds)) < 2


def test_rounding_is_fair():
    """Rounding does not favour a role."""
    kinds = np.repeat(np.arange(15), 11)  # 15 identities with 11 images each, as Yale's
    split = roles.split({"kind": kinds}, {"a": 0.5, "b": 0.5}, seed=0, stratify="kind")
    assert sorted(map(len, split.values())) == [82, 83]


def test_exact_shares_stay_exact():
    kinds = np.repeat(np.arange(3), 100)
    split = roles.split({"kind": kinds}, {"a": 0.29, "b": 0.57, "c": 0.14}, seed=0, stratify="kind")
    assert [np.bincount(kinds[split[role]]).tolist() for role in "abc"] == [
        [29] * 3,
        [57] * 3,
        [14] * 3,
    ]


def test_zhaos_halves():
    """Zhao halves the images, and the attack's half tests the target."""
    split = roles.split({"digit": np.repeat(np.arange(10), 20)}, "zhao", seed=0, stratify="digit")
    assert {role: len(indices) for role, indices in split.items()} == {
        "target_train": 100,
        "attack_train": 80,
        "attack_test": 20,
        "target_test": 100,
    }
    attack = np.sort(np.concatenate([split["attack_train"], split["attack_test"]]))
    np.testing.assert_array_equal(split["target_test"], attack)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([split["target_train"], attack])), np.arange(200)
    )


def test_balance_equalises_identities():
    who = np.repeat(np.arange(4), [10, 13, 30, 20])
    split = roles.split({"who": who}, {"a": 0.6, "b": 0.4}, seed=0, stratify="who", balance="who")
    assert np.bincount(who[split["a"]]).tolist() == [6] * 4
    assert np.bincount(who[split["b"]]).tolist() == [4] * 4
    mixed = roles.split(
        {"who": who, "kind": np.arange(73) % 3}, {"a": 1.0}, seed=0, stratify="kind", balance="who"
    )
    assert np.bincount(who[mixed["a"]]).tolist() == [10] * 4


def test_groups_stay_together():
    """Groups stay together and classes balanced."""
    sign = np.repeat([0, 1], 60)
    track = np.tile(np.repeat(np.arange(10), 6), 2)  # tracks are numbered within a sign, as GTSRB's
    split = roles.split(
        {"sign": sign, "track": track},
        {"a": 0.5, "b": 0.5},
        seed=0,
        stratify="sign",
        group=["sign", "track"],
    )
    whose = {role: set(zip(sign[rows], track[rows], strict=True)) for role, rows in split.items()}
    assert not whose["a"] & whose["b"]
    assert np.bincount(sign[split["a"]]).tolist() == [30, 30]


def test_roles_can_share_no_class():
    who = labels()["who"]
    split = roles.split({"who": who}, {"a": 0.5, "b": 0.5}, seed=0, group="who")
    assert len(set(who[split["a"]])) == 10
    assert not set(who[split["a"]]) & set(who[split["b"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": "gao"}, "unknown role protocol 'gao': choose one of zhao"),
        ({"roles": {"a": 0.7, "b": 0.4}}, "sum to 1.1"),
        ({"roles": {}}, "sum to 0"),
        ({"roles": {"a": 0.0}}, r"fraction 0.0: it must lie in \(0, 1\]"),
        ({"roles": {"a": float("nan")}}, "fraction nan"),
        ({"roles": {"a": "half"}}, "fraction 'half'"),
        ({"roles": {"a": 0.5, "b": ("a", "z")}}, r"unites \['a', 'z'\]: choose among a"),
        ({"stratify": "sort"}, "unknown label 'sort': choose one of kind, who"),
        ({"balance": "sort"}, "unknown label 'sort'"),
        ({"group": "sort"}, "unknown label 'sort'"),
        ({"roles": {"a": 0.999, "b": 0.0001}}, "role 'b' gets none of 997"),
    ],
)
def test_bad_specifications_are_named(options, message):
    with pytest.raises(InputError, match=message):
        roles.split(labels(), **({"roles": FRACTIONS, "seed": 0} | options))


def test_too_few_images():
    """Too few images for the roles are named."""
    with pytest.raises(InputError, match="class 1 has 2 images or groups, fewer than 3 roles"):
        roles.split({"kind": np.array([0] * 9 + [1] * 2)}, FRACTIONS, seed=0, stratify="kind")
    with pytest.raises(InputError, match="has 2 images or groups, fewer than 3 roles"):
        roles.split({"kind": np.array([0, 1])}, FRACTIONS, seed=0)


POOL = FRACTIONS | {"pool": ("a", "b")}


def halved(of=8, pool=("pool",), **options):
    """The roles of POOL and all `of` halves of it."""
    halves = {f"half_{i}": {"half": pool, "number": i, "of": of} for i in range(of)}
    return roles.split(labels(), POOL | halves, **({"seed": 3} | options))


def counts(split, of=8, count=997):
    """The number of halves that each image is in."""
    return np.bincount(np.concatenate([split[f"half_{i}"] for i in range(of)]), minlength=count)


@pytest.mark.parametrize("of", [2, 8, 16])
@pytest.mark.parametrize("pool", [("pool",), ["a", "b"], ("pool", "a")])
def test_halves(of, pool):
    """Each image of the pool is in exactly half of the halves, no other image in any."""
    split = halved(of, pool)
    expected = np.where(np.isin(np.arange(997), split["pool"]), of // 2, 0)
    np.testing.assert_array_equal(counts(split, of), expected)
    assert all((np.diff(split[f"half_{i}"]) > 0).all() for i in range(of))


def test_halves_keep_groups():
    """A group is in a half as a whole, and the groups are halved."""
    split = halved(group="who")
    who = labels()["who"]
    found = counts(split)
    for value in np.unique(who):
        assert set(found[who == value]) <= {0, 4}
    for i in range(8):
        inside = set(who[split[f"half_{i}"]])
        assert not inside & set(who[np.setdiff1d(np.arange(997), split[f"half_{i}"])])


@pytest.mark.parametrize("options", [{}, {"balance": "kind"}, {"group": "who"}])
def test_halves_change_no_role(options):
    """Other roles are those of the seed without halves; a half is the same without the others."""
    without = roles.split(labels(), POOL, seed=3, **options)
    split = halved(**options)
    for role, indices in without.items():
        np.testing.assert_array_equal(split[role], indices)
    alone = POOL | {"x": {"half": ("b", "a"), "number": 5, "of": 8}}
    one = roles.split(labels(), alone, seed=3, **options)
    np.testing.assert_array_equal(one["x"], split["half_5"])


def test_halves_by_seed():
    """The seed decides, and halves of two seeds are unrelated."""
    first, again, other = (halved(pool=("a", "b", "c"), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["half_0"], again["half_0"])
    # Of two random halves of 947 images the overlap has the mean 237 and a deviation below 16
    common = np.intersect1d(first["half_0"], other["half_0"])
    everything = np.union1d(first["pool"], other["pool"])
    assert abs(len(common) - len(everything) / 4) < 64


def test_halves_are_exchangeable():
    """Neither a half's number nor an image's place tells who is in it."""
    halves = {f"half_{i}": {"half": ("all",), "number": i, "of": 4} for i in range(4)}
    everyone = {"all": 1.0} | halves
    inside = np.zeros((400, 4, 50))
    for seed in range(400):
        split = roles.split({"kind": np.zeros(50, int)}, everyone, seed=seed)
        for i in range(4):
            inside[seed, i, split[f"half_{i}"]] = 1
    # 400 fair coins have a mean of 0.5 with the deviation 0.025: five of them for 200 comparisons
    assert np.abs(inside.mean(axis=0) - 0.5).max() < 0.125
    # The size of a half varies as 50 fair coins do, with the variance 12.5
    assert 10 < inside.sum(axis=2).var(axis=0).mean() < 15
    # Two halves share 1/6 of the units, as 2 of 4 drawn without replacement
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2)):
        assert abs((inside[:, i] * inside[:, j]).mean() - 1 / 6) < 0.02


def half(**changes):
    return {"half": ("pool",), "number": 0, "of": 8} | changes


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"x": half(of=7)}, "role 'x' is one of 7 halves: give an even number"),
        ({"x": half(of=0)}, "one of 0 halves"),
        ({"x": half(of=True)}, "one of True halves"),
        ({"x": half(number=8)}, "half number 8: choose 0 to 7"),
        ({"x": half(number=-1)}, "half number -1"),
        ({"x": half(number=0.5)}, "half number 0.5"),
        ({"x": half(half=("z",))}, r"halves \('z',\): choose among a, b, c, pool"),
        ({"x": half(half="pool")}, "halves 'pool': choose"),
        ({"x": half(half=())}, r"halves \(\)"),
        ({"x": half(), "y": half(half=("x",))}, r"role 'y' halves \('x',\)"),
        ({"x": half(), "y": half(of=4)}, "'x' and 'y' halve the same images"),
        ({"x": half(), "y": half(half=("b", "a"), of=4)}, "one is of 8 halves and one of 4"),
        ({"x": {"half": ("pool",), "number": 0}}, "'x' states half, number: give half, number, of"),
        ({"x": half(), "y": ("a", "x")}, r"role 'y' unites \['a', 'x'\]"),
    ],
)
def test_bad_halves(stated, message):
    with pytest.raises(InputError, match=message):
        roles.split(labels(), POOL | stated, seed=0)


def test_empty_half():
    """A pool of one unit leaves half of its halves empty."""
    one = {"all": 1.0} | {f"half_{i}": {"half": ("all",), "number": i, "of": 2} for i in range(2)}
    with pytest.raises(InputError, match="gets none of 1 images or groups: give it a larger pool"):
        roles.split({"kind": np.zeros(1, int)}, one, seed=0)
