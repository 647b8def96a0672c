"""Roles, disjoint sets of images such as target_train and attack_test, drawn by a seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from xinv.types import InputError

Roles = Mapping[str, float | Sequence[str]]

PROTOCOLS: dict[str, Roles] = {
    # Zhao 2021, Sec. 4.1: half for the target, half for the attack, 80/20; the target is tested on the attack's half.
    "zhao": {
        "target_train": 0.5,
        "attack_train": 0.4,
        "attack_test": 0.1,
        "target_test": ("attack_train", "attack_test"),
    },
}


def split(
    labels: Mapping[str, np.ndarray],
    roles: str | Roles,
    seed: int,
    stratify: str | None = None,
    balance: str | None = None,
    group: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Deals N images out to roles, disjointly by construction.

    Args:
      labels: integer [N] per label name, as in `Dataset.labels`.
      roles: a protocol's name, or per role either its fraction of the images or the names of the roles it unites
        (`{"train": 0.8, "test": 0.1, "all": ("train", "test")}`; only such unions overlap). Fractions may sum to
        less than 1, which leaves images unused.
      seed: the same seed gives the same roles.
      stratify: a label name. Of a class of n images, a role of fraction f gets n·f, rounded up or down so that the
        role's total is right too (largest remainder, carried over from class to class).
      balance: a label name, identity say. First each of its classes is reduced, at random, to the size of the
        smallest; with `stratify` on the same name every role then holds its classes equally often.
      group: a label name, or several, whose equal images stay in one role: the frames of one track, or all images
        of an identity for roles that share none. Fractions then count groups, and the class of a group is its
        first image's.

    Returns:
      int64 indices per role, ascending.

    Raises:
      InputError: unknown protocol or label, fractions outside (0, 1] or above 1 together, or too few images.
    """
    if isinstance(roles, str):
        if roles not in PROTOCOLS:
            raise InputError(f"unknown role protocol {roles!r}: choose one of {', '.join(PROTOCOLS)}")
        roles = PROTOCOLS[roles]
    if not isinstance(roles, Mapping):
        raise InputError(f"roles {roles!r} is neither a protocol's name nor a fraction for each role")
    fractions, unions = _check(roles)
    random = np.random.default_rng(seed)
    members = _groups(labels, group)
    members = members if balance is None else _balanced(members, _column(labels, balance), random)
    first = np.array([rows[0] for rows in members])
    strata = np.zeros(len(first), int) if stratify is None else _column(labels, stratify)[first]
    dealt = _deal(strata, fractions, random)
    result = {role: np.sort(np.concatenate([members[i] for i in chosen])) for role, chosen in dealt.items()}
    result |= {role: np.sort(np.concatenate([result[part] for part in parts])) for role, parts in unions.items()}
    return {role: result[role] for role in roles}


def _check(roles: Roles) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """The fractions and the unions of a specification, checked."""
    unions = {role: tuple(parts) for role, parts in roles.items() if isinstance(parts, tuple | list)}
    fractions = {role: fraction for role, fraction in roles.items() if role not in unions}
    for role, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise InputError(f"role {role!r} has the fraction {fraction!r}: it must lie in (0, 1]")
    for role, parts in unions.items():
        if not parts or set(parts) - set(fractions):
            raise InputError(f"role {role!r} unites {list(parts)}: choose among {', '.join(fractions)}")
    if not 0 < sum(fractions.values()) <= 1 + 1e-9:
        raise InputError(f"fractions of roles sum to {sum(fractions.values()):g}: they must not exceed 1, nor be 0")
    return fractions, unions


def _column(labels: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if not isinstance(name, str) or name not in labels:
        raise InputError(f"unknown label {name!r}: choose one of {', '.join(labels)}")
    return np.asarray(labels[name])


def _groups(labels: Mapping[str, np.ndarray], group: str | Sequence[str] | None) -> list[np.ndarray]:
    """The image indices of each unit that is dealt: single images, or images that agree in all labels of `group`."""
    if group is None:
        return list(np.arange(len(next(iter(labels.values()))))[:, None])
    names = list(group) if isinstance(group, list | tuple) and group else [group]
    columns = np.stack([_column(labels, name) for name in names], axis=1)
    _, unit, sizes = np.unique(columns, axis=0, return_inverse=True, return_counts=True)
    return np.split(np.argsort(unit.reshape(-1), kind="stable"), np.cumsum(sizes)[:-1])


def _balanced(members: list[np.ndarray], values: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """`members` reduced so that every value occurs equally often."""
    keep = np.zeros(len(values), bool)
    size = np.unique_counts(values).counts.min()
    for value in np.unique(values):
        keep[random.choice(np.flatnonzero(values == value), size, replace=False)] = True
    return [rows[keep[rows]] for rows in members if keep[rows].any()]


def _deal(strata: np.ndarray, fractions: dict[str, float], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Indices into `strata` per role; each class gives a role its share, rounded up or down."""
    shares = np.array([*fractions.values(), max(0.0, 1 - sum(fractions.values()))])
    carry = np.zeros(len(shares))
    dealt: list[list[np.ndarray]] = [[] for _ in shares]
    for value in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == value))
        if len(members) < len(fractions):
            raise InputError(f"class {value} has {len(members)} images or groups, fewer than {len(fractions)} roles")
        counts = _round(len(members) * shares, carry)
        carry += len(members) * shares - counts
        for chosen, part in zip(dealt, np.split(members, np.cumsum(counts)[:-1]), strict=True):
            chosen.append(part)
    result = {role: np.concatenate(parts) for role, parts in zip(fractions, dealt, strict=False)}
    empty = [role for role, indices in result.items() if not len(indices)]
    if empty:
        raise InputError(f"role {empty[0]!r} gets none of {len(strata)} images or groups: raise its fraction")
    return result


def _round(quotas: np.ndarray, carry: np.ndarray) -> np.ndarray:
    """Whole counts with the sum of `quotas`, each rounded up or down, up where remainder plus carry is largest."""
    counts = np.floor(np.round(quotas, 9)).astype(int)
    remainder = np.round(quotas - counts, 9)
    priority = np.where(remainder > 0, remainder + carry, -np.inf)
    counts[np.argsort(-priority, kind="stable")[: round(quotas.sum()) - counts.sum()]] += 1
    return counts
