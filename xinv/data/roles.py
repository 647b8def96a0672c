"""Draws roles by a seed: disjoint sets of images such as target_train and attack_test."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.numbers import described, is_count
from xinv.types import InputError

Roles = Mapping[str, float | Sequence[str] | Mapping[str, Any]]

PROTOCOLS: dict[str, Roles] = {
    # Zhao 2021, Sec. 4.1: half for the target, half for the attack, 80/20; the target is tested on
    # the attack's half.
    "zhao": {
        "target_train": 0.5,
        "attack_train": 0.4,
        "attack_test": 0.1,
        "target_test": ("attack_train", "attack_test"),
    },
}


class Half(NamedTuple):
    """One of `of` random halves of a pool; every unit is in exactly `of` / 2 of them.

    Attributes:
      half: the roles of the pool.
      number: the half's place, from 0 to `of` - 1.
      of: the number of halves, even; not all of them need be a role.
    """

    half: tuple[str, ...]
    number: int
    of: int


def split(
    labels: Mapping[str, np.ndarray],
    roles: str | Roles,
    seed: int,
    stratify: str | None = None,
    balance: str | None = None,
    group: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Assigns N images to roles, disjointly by construction.

    Args:
      labels: integer [N] per label name, as in `Dataset.labels`.
      roles: a protocol's name, or per role its fraction of the images, the names of the roles it
        unites, or the fields of a `Half` (`{"train": 0.8, "test": 0.1, "all": ("train", "test"),
        "half_0": {"half": ("all",), "number": 0, "of": 8}}`; only unions and halves overlap).
        Fractions may sum to less than 1, which leaves images unused. Halves, the training sets
        of shadows in Carlini 2022, are drawn apart: they change no other role.
      seed: the same seed gives the same roles.
      stratify: a label name. Of a class of n images, a role of fraction f gets n·f, rounded up or
        down so that the role's total is right too (largest remainder, carried over from class to
        class).
      balance: a label name, identity say. First each of its classes is reduced, at random, to the
        size of the smallest; with `stratify` on the same name every role then has its classes
        equally often.
      group: a label name, or several; images with equal labels stay in one role: the frames of one
        track, or all images of an identity for roles that share none. Fractions then count groups,
        and the class of a group is its first image's.

    Returns:
      int64 indices per role, ascending.

    Raises:
      InputError: unknown protocol or label, fractions outside (0, 1] or above 1 together, halves
        other than `Half` describes, or too few images.
    """
    if isinstance(roles, str):
        if roles not in PROTOCOLS:
            raise InputError(
                f"unknown role protocol {roles!r}: choose one of {', '.join(PROTOCOLS)}"
            )
        roles = PROTOCOLS[roles]
    if not isinstance(roles, Mapping):
        raise InputError(
            f"roles {roles!r} is neither a protocol's name nor a fraction for each role"
        )
    fractions, unions, halves = _check(roles)

    # Units are single images or groups; a unit has the class of its first image.
    random = np.random.default_rng(seed)
    members = _groups(labels, group)
    # Balance first: fractions are of the remaining units
    if balance is None:
        members = members
    else:
        members = _balanced(members, _column(labels, balance), random)
    first = np.array([rows[0] for rows in members])
    if stratify is None:
        strata = np.zeros(len(first), int)
    else:
        strata = _column(labels, stratify)[first]
    dealt = _deal(strata, fractions, random)
    # Unions and halves are of roles that are drawn already.
    for role, parts in unions.items():
        dealt[role] = np.concatenate([dealt[part] for part in parts])
    dealt |= _halves(halves, dealt, len(members), seed)
    return {role: _images(members, dealt[role]) for role in roles}


def _check(roles: Roles) -> tuple[dict[str, float], dict[str, tuple[str, ...]], dict[str, Half]]:
    """Returns the fractions, the unions and the halves of a specification, checked."""
    unions = {
        role: tuple(parts) for role, parts in roles.items() if isinstance(parts, tuple | list)
    }
    stated = {role: fields for role, fields in roles.items() if isinstance(fields, Mapping)}
    # All that is neither a union nor a half must be a fraction.
    fractions = {role: fraction for role, fraction in roles.items() if role not in unions | stated}
    for role, fraction in fractions.items():
        if (
            isinstance(fraction, bool)
            or not isinstance(fraction, int | float)
            or not 0 < fraction <= 1
        ):
            raise InputError(f"role {role!r} has the fraction {fraction!r}: it must lie in (0, 1]")
    for role, parts in unions.items():
        if not parts or set(parts) - set(fractions):
            raise InputError(
                f"role {role!r} unites {list(parts)}: choose among {', '.join(fractions)}"
            )
    # A sum of fractions may exceed 1 by rounding
    if not 0 < sum(fractions.values()) <= 1 + 1e-9:
        raise InputError(
            f"fractions of roles sum to {sum(fractions.values()):g}: they must not exceed 1, nor"
            " be 0"
        )
    halves = {}
    for role, fields in stated.items():
        halves[role] = _checked_half(role, fields, {role: (role,) for role in fractions} | unions)
    _check_pools(halves)
    return fractions, unions, halves


def _checked_half(role: str, fields: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> Half:
    """Returns a half as stated, its pool as roles with a fraction; `known` has those of each role.

    Raises:
      InputError: it names the wrong field.
    """
    allowed = Half._fields
    if set(fields) != set(allowed):
        given = ", ".join(map(str, fields))
        raise InputError(f"role {role!r} states {given}: give {', '.join(allowed)}")
    pool, number, of = (fields[field] for field in allowed)
    if not isinstance(pool, tuple | list) or not pool or any(part not in known for part in pool):
        raise InputError(f"role {role!r} halves {described(pool)}: choose among {', '.join(known)}")
    if not is_count(of, 2) or of % 2:
        raise InputError(f"role {role!r} is one of {described(of)} halves: give an even number")
    if not is_count(number, 0) or number >= of:
        raise InputError(f"role {role!r} is half number {described(number)}: choose 0 to {of - 1}")
    # Two names of one pool are one pool: a union counts as its parts.
    leaves = {leaf for part in pool for leaf in known[part]}
    return Half(tuple(sorted(leaves)), int(number), int(of))


def _check_pools(halves: Mapping[str, Half]) -> None:
    """Raises InputError for halves of one pool that do not belong together."""
    first: dict[tuple[str, ...], str] = {}
    for role, half in halves.items():
        other = first.setdefault(half.half, role)
        if halves[other].of != half.of:
            raise InputError(
                f"roles {other!r} and {role!r} halve the same images, but one is of "
                f"{halves[other].of} halves and one of {half.of}: give both the same number"
            )


def _halves(
    halves: Mapping[str, Half],
    dealt: Mapping[str, np.ndarray],
    count: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Returns the units of each half; `dealt` gives those of its pool, of `count` in all."""
    pools: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
    result = {}
    for role, (half, number, of) in halves.items():
        # Halves of one pool are drawn together, so that each unit is in half of them.
        if half not in pools:
            units = np.unique(np.concatenate([dealt[part] for part in half]))
            pools[half] = units, _inside(count, of, seed)[units]
        units, inside = pools[half]
        result[role] = units[inside[:, number]]
        if not len(result[role]):
            few = f"{len(units)} images or groups"
            raise InputError(f"role {role!r} gets none of {few}: give it a larger pool")
    return result


def _inside(count: int, of: int, seed: int) -> np.ndarray:
    """Draws the halves of each unit: bool [count, of]."""
    # A stream of its own, so that nothing else that is drawn changes
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(of,)))
    # Each unit puts the halves in an order of its own and is in the first of them
    order = np.argsort(random.random((count, of)), axis=1)
    inside = np.zeros((count, of), bool)
    np.put_along_axis(inside, order[:, : of // 2], True, axis=1)
    return inside


def _images(members: list[np.ndarray], units: np.ndarray) -> np.ndarray:
    """Returns the image indices of some units, ascending."""
    return np.sort(np.concatenate([members[unit] for unit in units]))


def _column(labels: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if not isinstance(name, str) or name not in labels:
        raise InputError(f"unknown label {name!r}: choose one of {', '.join(labels)}")
    return np.asarray(labels[name])


def _groups(
    labels: Mapping[str, np.ndarray], group: str | Sequence[str] | None
) -> list[np.ndarray]:
    """The image indices of each unit: single images, or images equal in all labels of `group`."""
    if group is None:
        return list(np.arange(len(next(iter(labels.values()))))[:, None])
    names = list(group) if isinstance(group, list | tuple) and group else [group]
    # Images equal in all columns are a unit; units are in the order of their labels.
    columns = np.stack([_column(labels, name) for name in names], axis=1)
    _, unit, sizes = np.unique(columns, axis=0, return_inverse=True, return_counts=True)
    # Sort images by unit, and cut after the last one of each
    return np.split(np.argsort(unit.reshape(-1), kind="stable"), np.cumsum(sizes)[:-1])


def _balanced(
    members: list[np.ndarray],
    values: np.ndarray,
    random: np.random.Generator,
) -> list[np.ndarray]:
    """`members` reduced so that every value occurs equally often."""
    keep = np.zeros(len(values), bool)
    size = np.unique_counts(values).counts.min()
    for value in np.unique(values):
        keep[random.choice(np.flatnonzero(values == value), size, replace=False)] = True
    return [rows[keep[rows]] for rows in members if keep[rows].any()]


def _deal(
    strata: np.ndarray,
    fractions: dict[str, float],
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Indices into `strata` per role; each class gives a role its share, rounded up or down."""
    # The last share is of no role: the images that the fractions leave unused.
    shares = np.array([*fractions.values(), max(0.0, 1 - sum(fractions.values()))])
    carry = np.zeros(len(shares))
    dealt: list[list[np.ndarray]] = [[] for _ in shares]
    for value in np.unique(strata):
        # A random order within the class, cut at the roles' counts
        members = random.permutation(np.flatnonzero(strata == value))
        if len(members) < len(fractions):
            raise InputError(
                f"class {value} has {len(members)} images or groups, fewer than {len(fractions)}"
                " roles"
            )
        counts = _round(len(members) * shares, carry)
        # A role that got less than its share of this class is first in the next one.
        carry += len(members) * shares - counts
        for chosen, part in zip(dealt, np.split(members, np.cumsum(counts)[:-1]), strict=True):
            chosen.append(part)
    # Not strict: the last part, of unused images, has no role
    result = {}
    for role, parts in zip(fractions, dealt, strict=False):
        result[role] = np.concatenate(parts)
    empty = [role for role, indices in result.items() if not len(indices)]
    if empty:
        raise InputError(
            f"role {empty[0]!r} gets none of {len(strata)} images or groups: raise its fraction"
        )
    return result


def _round(quotas: np.ndarray, carry: np.ndarray) -> np.ndarray:
    """Rounds `quotas` to whole counts of the same sum, up where remainder plus carry is largest."""
    # Nine decimals, as a sum of fractions misses a whole number by rounding
    counts = np.floor(np.round(quotas, 9)).astype(int)
    remainder = np.round(quotas - counts, 9)
    priority = np.where(remainder > 0, remainder + carry, -np.inf)
    counts[np.argsort(-priority, kind="stable")[: round(quotas.sum()) - counts.sum()]] += 1
    return counts
