"""Short and distinct names of attacks."""

from collections import Counter
from typing import Any

from xinv.report.cells import Rows
from xinv.report.measures import plain


def labels(rows: Rows, alone: str | None) -> list[str]:
    """The shortest distinct labels of arms.

    Args:
      rows: one per arm.
      alone: name of the arm with predictions alone, None without one.

    Returns:
      One per arm: the release; with the number of releases; with the attack's inputs; or else the
      arm's name.
    """
    short = []
    looks = []
    long = []
    names = []
    for row in rows:
        short.append(seen(row, alone))
        looks.append(seen(row, alone) + _looks(row))
        long.append(_read(row, alone))
        names.append(row["arm"])
    return shortest(short, looks, long, names)


def seen(row: dict[str, Any], alone: str | None = None) -> str:
    """The release that an arm sees, with its defence; the arm's name where it has neither."""
    if row["explainer"]:
        return plain(row["explainer"]) + _defended(row)
    if row["defence"]:
        return f"predictions alone{_defended(row)}"
    return _name(row, alone)


def shortest(*candidates: list[str]) -> list[str]:
    """Chooses a label for each of several arms.

    Args:
      candidates: lists with one label per arm, in order of preference.

    Returns:
      Of each arm's candidates the first without a double in its list, or else the last.
    """
    # A label must be distinct within its own list of candidates.
    counts = [Counter(labels) for labels in candidates]
    found = []
    for mine in zip(*candidates, strict=True):
        chosen = mine[-1]
        for label, count in zip(mine, counts, strict=True):
            if count[label] == 1 or label == chosen:
                chosen = label
                break
        found.append(chosen)
    return found


def _read(row: dict[str, Any], alone: str | None) -> str:
    """The release that an arm sees, with the attack's encoder."""
    if row["explainer"]:
        return f"{plain(row['explainer'])}, {plain(row['encoder'])}{_defended(row)}"
    return _name(row, alone)


def _name(row: dict[str, Any], alone: str | None) -> str:
    if row["arm"] == alone:
        return "predictions alone"
    return plain(row["arm"])


def _defended(row: dict[str, Any]) -> str:
    if row["defence"]:
        return f" with {plain(row['defence'])}"
    return ""


def _looks(row: dict[str, Any]) -> str:
    """The number of releases of an image that an attack has; empty for one."""
    # Releases of training and of attack differ: an attack may learn from many and see one.
    parts = []
    if row["releases"] > 1:
        parts.append(f"learns from {row['releases']} releases")
    if row["queries"] > 1:
        parts.append(f"averages {row['queries']}")
    if parts:
        return f" ({', '.join(parts)})"
    return ""
