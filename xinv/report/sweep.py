"""Compares the units of a sweep."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from xinv.report.cells import Cell, leak_levels
from xinv.report.folder import Unit
from xinv.report.league import Entry
from xinv.report.measures import measure, plain
from xinv.report.summary import Arm, Summary


class Comparison(NamedTuple):
    """Units by the main metric of the first one with attacks.

    Attributes:
      headline: the most successful attack of all units, in one sentence.
      metric: the metric.
      arms: label by arm name, over all units.
      models: labels of the models' figures, over all units.
      rows: for each unit its cell per arm, with `leak` over the whole table, then per model; None
        where it has none.
    """

    headline: str
    metric: str
    arms: dict[str, str]
    models: list[str]
    rows: list[list[Cell | None]]


def compare(
    names: Sequence[str],
    summaries: Sequence[Summary],
    controls: Collection[str] = (),
) -> Comparison | None:
    """Compares units.

    Args:
      names: of the units.
      summaries: of the units.
      controls: names of positive controls; they must leak, so the headline is of the others.

    Returns:
      The comparison; None without an attack.
    """
    metric = _main(summaries)
    if metric is None:
        return None
    # Labels and leak levels are over the whole table.
    shown = measure(metric)
    attacks = [_attacks(summary, metric) for summary in summaries]
    together: list[tuple[Arm | Entry, Cell]] = []
    for found in attacks:
        together += found
    arms = labels([attack for attack, _ in together])
    place = leak_levels([cell for _, cell in together], shown.leak)

    # The table: each unit's attacks, then the accuracy of its models
    models = _models(summaries)
    rows = []
    candidates = []
    for name, summary, found in zip(names, summaries, attacks, strict=True):
        cells = {attack.name: place(cell) for attack, cell in found}
        figures = {label: cell for label, _, cell in summary.models}
        rows.append([*map(cells.get, arms), *map(figures.get, models)])
        for arm, cell in cells.items():
            candidates.append((cell, name, arms[arm]))

    # The headline: the largest leak
    real = [candidate for candidate in candidates if candidate[1] not in controls]
    cell, name, label = max(real or candidates, key=lambda candidate: candidate[0].leak or 0)
    figure = f"{shown.label} {cell.text} from {label}"
    return Comparison(
        headline=f"Across {len(names)} audits an attacker gets furthest in {name}: {figure}.",
        metric=metric,
        arms=arms,
        models=models,
        rows=rows,
    )


def _main(summaries: Sequence[Summary]) -> str | None:
    """The metric of a comparison: of rebuilt images, or else the AUC of membership attacks."""
    for summary in summaries:
        if summary.main:
            return summary.main
    if any(summary.league for summary in summaries):
        return "auc"
    return None


def _models(summaries: Sequence[Summary]) -> list[str]:
    """Labels of the units' accuracies, each once."""
    found: dict[str, None] = {}
    for summary in summaries:
        for label, metric, _ in summary.models:
            if metric == "accuracy":
                found[label] = None
    return list(found)


def _attacks(summary: Summary, metric: str) -> list[tuple[Arm | Entry, Cell]]:
    """A unit's attacks with their figure of a metric; of membership attacks it is the AUC."""
    found: list[tuple[Arm | Entry, Cell]] = []
    if metric != "auc":
        for arm in summary.arms:
            if metric in arm.cells:
                found.append((arm, arm.cells[metric]))
    elif summary.league:
        for entry in summary.league.entries:
            found.append((entry, entry.spread))
    return found


def labels(arms: Sequence[Arm | Entry]) -> dict[str, str]:
    """Distinct labels of several units' arms, by name."""
    found = {arm.name: arm.label for arm in arms}
    counts = Counter(found.values())
    # Units choose labels on their own, so arms of different names may have the same one.
    for name, label in found.items():
        if counts[label] > 1:
            found[name] = plain(name)
    return found


def changed(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The settings of each config in which the configs differ, under dotted names as in flags."""
    # A unit's name differs by definition
    settings = [dict(flat(config)) for config in configs]
    names: dict[str, None] = {}
    for found in settings:
        names |= dict.fromkeys(found)
    names.pop("unit", None)

    changes: list[dict[str, str]] = [{} for _ in settings]
    # A setting that a config lacks differs from any value of it.
    for name in names:
        values = {found.get(name) for found in settings}
        if len(values) == 1:
            continue
        for change, found in zip(changes, settings, strict=True):
            if name in found:
                change[name] = found[name]
    return changes


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested settings, under dotted names."""
    # An empty section is a leaf, so that it can differ.
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item if isinstance(item, str) else json.dumps(item)


class Axis(NamedTuple):
    """Units with different values of one number.

    Attributes:
      setting: the number's dotted name.
      units: their places in the sweep, from 0.
      values: the number of each.
    """

    setting: str
    units: list[int]
    values: list[float]


def axes(changes: Sequence[Mapping[str, str]]) -> list[Axis]:
    """Every set of units with one number that differs in each, and nothing else that differs.

    Args:
      changes: settings of each unit, as `changed` returns them.

    Returns:
      The sets; of settings with equal values in every unit, such as m in two places, the first.
    """
    names: dict[str, None] = {}
    for settings in changes:
        names |= dict.fromkeys(settings)
    found: list[Axis] = []
    for name in names:
        if name.startswith("report."):
            continue

        # Units that agree in everything but this number
        sets: dict[Any, list[int]] = {}
        for place, settings in enumerate(changes):
            if _number(settings.get(name)) is not None:
                sets.setdefault(_others(settings, settings[name]), []).append(place)
        for units in sets.values():
            values = [_number(changes[place][name]) for place in units]
            # Each unit needs a value of its own; an equal set of units is the same axis.
            known = [axis.units for axis in found]
            if len(set(values)) == len(units) > 1 and units not in known:
                found.append(Axis(name, units, values))
    return found


def defended_alike(units: Sequence[Unit], changes: Sequence[Mapping[str, str]]) -> list[int]:
    """The largest set of units that differ in defences and attacks alone.

    Args:
      units: of the sweep.
      changes: settings of each unit, as `changed` returns them.

    Returns:
      Their places in the sweep, from 0.
    """
    sets: dict[Any, list[int]] = {}
    for place, (unit, settings) in enumerate(zip(units, changes, strict=True)):
        rest = []
        for name, value in settings.items():
            section = name.partition(".")[0]
            if section not in ("defences", "arms", "report"):
                rest.append((name, value))
        # An attack trained out of distribution recovers less, so roles must agree too.
        roles = frozenset(row["roles"] for row in unit.rows if row["stage"] == "attack")
        alike = unit.dataset["fingerprint"], roles, frozenset(rest)
        sets.setdefault(alike, []).append(place)
    return max(sets.values(), key=len, default=[])


def _others(settings: Mapping[str, str], value: str) -> frozenset[tuple[str, str]]:
    """A unit's settings without those of `value` and those of the report."""
    # By value, so that settings that move together count as one.
    found = []
    for name, other in settings.items():
        if other != value and not name.startswith("report."):
            found.append((name, other))
    return frozenset(found)


def _number(text: str | None) -> float | None:
    """The number of a setting; None for another value, True and False among them."""
    try:
        value = json.loads(text or "null")
    except json.JSONDecodeError:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return None
