"""Roles: disjoint, seeded, stratified to rounding, balanced, grouped."""

from fractions import Fraction

import numpy as np
import pytest

from xinv.data import roles
from xinv.types import InputError

FRACTIONS = {"a": 0.5, "b": 0.3, "c": 0.15}


def labels(count=997, seed=0):
    random = np.random.default_rng(seed)
    return {"kind": random.choice(5, count, p=[0.4, 0.3, 0.15, 0.1, 0.05]), "who": random.integers(0, 20, count)}


def test_roles_are_disjoint_ascending_and_within_the_images():
    split = roles.split(labels(), FRACTIONS, seed=3)
    assert list(split) == ["a", "b", "c"]
    together = np.concatenate(list(split.values()))
    assert len(np.unique(together)) == len(together)
    assert set(together) <= set(range(997))
    assert all((np.diff(indices) > 0).all() for indices in split.values())


def test_the_seed_decides():
    first, again, other = (roles.split(labels(), FRACTIONS, seed=seed, stratify="kind") for seed in (1, 1, 2))
    assert all((first[role] == again[role]).all() for role in FRACTIONS)
    assert any((first[role] != other[role]).any() for role in FRACTIONS)


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_totals_are_exact_to_rounding(seed):
    kinds = labels(seed=seed)["kind"]
    split = roles.split({"kind": kinds}, FRACTIONS, seed=seed, stratify="kind")
    for role, fraction in FRACTIONS.items():
        exact = Fraction(str(fraction))
        for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
            assert abs((kinds[split[role]] == kind).sum() - exact * int(count)) < 1
        assert abs(len(split[role]) - exact * len(kinds)) < 2


def test_rounding_does_not_favour_a_role():
    kinds = np.repeat(np.arange(15), 11)  # 15 identities with 11 images each, as Yale's
    split = roles.split({"kind": kinds}, {"a": 0.5, "b": 0.5}, seed=0, stratify="kind")
    assert sorted(map(len, split.values())) == [82, 83]


def test_exact_shares_stay_exact():
    kinds = np.repeat(np.arange(3), 100)
    split = roles.split({"kind": kinds}, {"a": 0.29, "b": 0.57, "c": 0.14}, seed=0, stratify="kind")
    assert [np.bincount(kinds[split[role]]).tolist() for role in "abc"] == [[29] * 3, [57] * 3, [14] * 3]


def test_zhao_halves_and_tests_the_target_on_the_attack_set():
    split = roles.split({"digit": np.repeat(np.arange(10), 20)}, "zhao", seed=0, stratify="digit")
    assert {role: len(indices) for role, indices in split.items()} == {
        "target_train": 100,
        "attack_train": 80,
        "attack_test": 20,
        "target_test": 100,
    }
    attack = np.sort(np.concatenate([split["attack_train"], split["attack_test"]]))
    np.testing.assert_array_equal(split["target_test"], attack)
    np.testing.assert_array_equal(np.sort(np.concatenate([split["target_train"], attack])), np.arange(200))


def test_balance_equalises_identities():
    who = np.repeat(np.arange(4), [10, 13, 30, 20])
    split = roles.split({"who": who}, {"a": 0.6, "b": 0.4}, seed=0, stratify="who", balance="who")
    assert np.bincount(who[split["a"]]).tolist() == [6] * 4
    assert np.bincount(who[split["b"]]).tolist() == [4] * 4
    mixed = roles.split({"who": who, "kind": np.arange(73) % 3}, {"a": 1.0}, seed=0, stratify="kind", balance="who")
    assert np.bincount(who[mixed["a"]]).tolist() == [10] * 4


def test_groups_stay_together_and_classes_balanced():
    sign = np.repeat([0, 1], 60)
    track = np.tile(np.repeat(np.arange(10), 6), 2)  # tracks are numbered within a sign, as GTSRB's
    split = roles.split(
        {"sign": sign, "track": track}, {"a": 0.5, "b": 0.5}, seed=0, stratify="sign", group=["sign", "track"]
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


def test_too_few_images_for_the_roles():
    with pytest.raises(InputError, match="class 1 has 2 images or groups, fewer than 3 roles"):
        roles.split({"kind": np.array([0] * 9 + [1] * 2)}, FRACTIONS, seed=0, stratify="kind")
    with pytest.raises(InputError, match="has 2 images or groups, fewer than 3 roles"):
        roles.split({"kind": np.array([0, 1])}, FRACTIONS, seed=0)
