"""Short names of attacks, by which a reader tells them apart."""

from collections import Counter
from typing import Any

from xinv.report.cells import Rows
from xinv.report.measures import plain


def labels(rows: Rows, alone: str | None) -> list[str]:
    """The shortest labels that tell the arms apart: what is seen, how often, by what inputs, or the
    arm's name.

    Args:
      rows: one per arm.
      alone: name of the arm with predictions alone, None without one.
    """
    short = [seen(row, alone) for row in rows]
    looks = [label + _looks(row) for label, row in zip(short, rows, strict=True)]
    long = [_read(row, alone) for row in rows]
    return shortest(short, looks, long, [row["arm"] for row in rows])


def seen(row: dict[str, Any], alone: str | None = None) -> str:
    """What an arm sees: explanations or predictions alone and what defends them; an arm without
    both has its name.
    """
    if row["explainer"]:
        return plain(row["explainer"]) + _defended(row)
    if row["defence"]:
        return f"predictions alone{_defended(row)}"
    return _name(row, alone)


def shortest(*candidates: list[str]) -> list[str]:
    """Of each arm's candidates, in order of preference, the first that no other arm has, or the
    last.
    """
    counts = [Counter(labels) for labels in candidates]
    found = []
    for labels in zip(*candidates, strict=True):
        found.append(
            next(
                label
                for label, count in zip(labels, counts, strict=True)
                if count[label] == 1 or label == labels[-1]
            )
        )
    return found


def _read(row: dict[str, Any], alone: str | None) -> str:
    """What an arm sees, and how it reads it."""
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
    """How many releases of an image an attack has; nothing where it is one."""
    parts = []
    if row["releases"] > 1:
        parts.append(f"learns from {row['releases']} releases")
    if row["queries"] > 1:
        parts.append(f"averages {row['queries']}")
    if parts:
        return f" ({', '.join(parts)})"
    return ""
