"""Positive controls: units with a known leak, which give "not found" elsewhere its meaning."""

from collections.abc import Iterable

from xinv.report.folder import Unit
from xinv.report.league import Entry, League
from xinv.report.summary import Summary
from xinv.report.verdict import LEAKS

_NAMED = 3
"""Largest number of attacks in a sentence."""


def units(found: Iterable[Unit]) -> list[str]:
    """Names of the positive controls."""
    names = []
    for unit in found:
        report = unit.config.get("report") or {}
        if report.get("positive_control"):
            names.append(unit.name)
    return names


def sentence(unit: Unit, summary: Summary) -> str:
    """States the leak of a positive control; empty for others, and without membership attacks."""
    if summary.league is None or not units([unit]):
        return ""
    # A leak of explanations proves most: the attacks on explanations can then find one.
    leaks = summary.league.of(LEAKS)
    explained = [entry for entry in leaks if entry.explainer]
    if explained:
        return (
            f"The positive control {unit.name} leaks: {_named(explained)}; "
            f"{_share(summary.league, explained)}. So such a leak is found where there is one."
        )
    # A leak of predictions alone leaves open if the attacks on explanations work.
    if leaks:
        return (
            f"The positive control {unit.name} leaks by predictions alone: {_named(leaks)}. "
            'No explanation of it is known to leak, so "not found" does not tell explanations '
            "without a leak from attacks that miss it."
        )
    return (
        f"The positive control {unit.name} is not known to leak, although it must: "
        'nothing shows that these attacks can find a leak, and "not found" is no finding.'
    )


def _named(leaks: list[Entry]) -> str:
    """The most successful attacks, with their AUC."""
    shown = [f"{entry.label} has AUC {entry.text}" for entry in leaks[:_NAMED]]
    return ", ".join(shown)


def _share(league: League, leaks: list[Entry]) -> str:
    """The share of attacks on explanations that find a leak."""
    total = sum(entry.explainer is not None for entry in league.entries)
    if total == 1:
        verb = "attack on explanations finds"
    else:
        verb = "attacks on explanations find"
    return f"{len(leaks)} of {total} {verb} it"
