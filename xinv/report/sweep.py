"""Several units side by side."""

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
    """Units by one metric, the first headline's.

    Attributes:
      headline: where an attacker gets furthest, in one sentence.
      metric: that metric.
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
    """Places the units `names` beside each other; None where none of them attacked anything.

    Positive controls, the units `controls`, must leak, so the headline is of the others.
    """
    metric = next((summary.main for summary in summaries if summary.main), None)
    if metric is None and any(summary.league for summary in summaries):
        metric = "auc"
    if metric is None:
        return None
    shown = measure(metric)
    attacks = [_attacks(summary, metric) for summary in summaries]
    arms = labels([attack for found in attacks for attack, _ in found])
    models = list(
        dict.fromkeys(
            label for summary in summaries for label, of, _ in summary.models if of == "accuracy"
        )
    )
    place = leak_levels([cell for found in attacks for _, cell in found], shown.leak)
    rows = [{attack.name: place(cell) for attack, cell in found} for found in attacks]
    found = [
        (cell, name, arms[arm])
        for name, row in zip(names, rows, strict=True)
        for arm, cell in row.items()
    ]
    found = [entry for entry in found if entry[1] not in controls] or found
    cell, name, label = max(found, key=lambda entry: entry[0].leak or 0)
    figure = f"{shown.label} {cell.text} from {label}"
    return Comparison(
        headline=f"Across {len(names)} audits an attacker gets furthest in {name}: {figure}.",
        metric=metric,
        arms=arms,
        models=models,
        rows=[
            [row.get(arm) for arm in arms]
            + [{of: cell for of, _, cell in summary.models}.get(label) for label in models]
            for row, summary in zip(rows, summaries, strict=True)
        ],
    )


def _attacks(summary: Summary, metric: str) -> list[tuple[Arm | Entry, Cell]]:
    """A unit's attacks with their figure of a metric; of membership attacks it is the AUC."""
    if metric == "auc":
        if summary.league:
            return [(entry, entry.spread) for entry in summary.league.entries]
        return []
    return [(arm, arm.cells[metric]) for arm in summary.arms if metric in arm.cells]


def labels(arms: Sequence[Arm | Entry]) -> dict[str, str]:
    """Labels of several units' arms by name: a unit's own, or the name where arms of different
    names share a label.
    """
    found = {arm.name: arm.label for arm in arms}
    counts = Counter(found.values())
    return {name: label if counts[label] == 1 else plain(name) for name, label in found.items()}


def changed(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each config, the settings (dotted, as flags take them) in which it differs from another
    one.
    """
    settings = [dict(flat(config)) for config in configs]
    names = list(dict.fromkeys(name for found in settings for name in found if name != "unit"))
    differing = []
    for name in names:
        if len({found.get(name) for found in settings}) > 1:
            differing.append(name)
    return [{name: found[name] for name in differing if name in found} for found in settings]


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested settings, under dotted names."""
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item if isinstance(item, str) else json.dumps(item)


class Axis(NamedTuple):
    """Units, by their places in the sweep, that differ in one number: the setting and its value for
    each.
    """

    setting: str
    units: list[int]
    values: list[float]


def axes(changes: Sequence[Mapping[str, str]]) -> list[Axis]:
    """Every set of units that differ in one number, by what `changed` gives.

    Settings that take the same value as that number in every unit, such as m in two places, count
    as the same one.
    """
    found = []
    for name in dict.fromkeys(
        name for settings in changes for name in settings if not name.startswith("report.")
    ):
        sets: dict[Any, list[int]] = {}
        for place, settings in enumerate(changes):
            if _number(settings.get(name)) is not None:
                sets.setdefault(_others(settings, settings[name]), []).append(place)
        for units in sets.values():
            values = [_number(changes[place][name]) for place in units]
            if len(set(values)) == len(units) > 1 and units not in [axis.units for axis in found]:
                found.append(Axis(name, units, values))
    return found


def defended_alike(units: Sequence[Unit], changes: Sequence[Mapping[str, str]]) -> list[int]:
    """The largest set of units that differ in nothing but defences and attacks, so that one diagram
    holds them all.

    Attackers who learn from images of other roles are of another diagram: one out of distribution
    recovers less.
    """
    sets: dict[Any, list[int]] = {}
    for place, (unit, settings) in enumerate(zip(units, changes, strict=True)):
        rest = {}
        for n, v in settings.items():
            if n.partition(".")[0] not in ("defences", "arms", "report"):
                rest[n] = v
        roles = frozenset(row["roles"] for row in unit.rows if row["stage"] == "attack")
        sets.setdefault((unit.dataset["fingerprint"], roles, frozenset(rest.items())), []).append(
            place
        )
    return max(sets.values(), key=len, default=[])


def _others(settings: Mapping[str, str], value: str) -> frozenset[tuple[str, str]]:
    """What a unit has beside a number: all settings but those with that value and those of the
    report.
    """
    return frozenset(
        (n, v) for n, v in settings.items() if v != value and not n.startswith("report.")
    )


def _number(text: str | None) -> float | None:
    try:
        value = json.loads(text or "null")
    except json.JSONDecodeError:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return None
