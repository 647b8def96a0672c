"""Summarises rows: arms, their labels, and a cell per metric."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from xinv.report.cells import Cell, Rows, against, cell, leak_levels, of_metric
from xinv.report.folder import MEMBERSHIP, Unit
from xinv.report.labels import labels
from xinv.report.league import League
from xinv.report.measures import measure, order, plain
from xinv.report.ranking import examples, league

_COLOURS = 7
"""Colours of page.css, besides grey for predictions alone: Okabe-Ito, safe for the colour-blind."""
_NOT_MODELS = "attack", "defence", "cause"
"""Stages without rows on classifiers."""


class Arm(NamedTuple):
    """One attack: its inputs, its method and its figures.

    Attributes:
      name: as in the rows.
      label: the shortest distinct label among the unit's arms.
      explainer: explainers of the service, joined by "+"; None for predictions alone.
      goal: the aim of the attack.
      verb: the aim in words after "can".
      encoder: the attack's encoder, or the name of its method.
      attack: identifies the attack without the defence: arms with the same one differ in their
        defences alone.
      defence: defences of the release, joined by "+"; None for a release as it is.
      adaptive: True if the attack was trained on releases under the same defences.
      queries: number of releases of an image in the attack's input, their mean.
      releases: number of releases of each image in the attack's training.
      roles: roles of its training images, joined by "+".
      baseline: True for the arm that the arms with explanations are compared with.
      cells: figure by metric of the recovered images.
      release: figure by metric of the defence's cost; empty without a defence.
    """

    name: str
    label: str
    explainer: str | None
    goal: str
    verb: str
    encoder: str
    attack: str
    defence: str | None
    adaptive: bool
    queries: int
    releases: int
    roles: str
    baseline: bool
    cells: dict[str, Cell]
    release: dict[str, Cell]


_COMPUTED = ("name", "label", "cells", "release")
_DESCRIBED = tuple(field for field in Arm._fields if field not in _COMPUTED)
"""Fields of an arm that each of its rows has."""


class Summary(NamedTuple):
    """A unit in figures.

    Attributes:
      arms: attacks on the images: predictions alone first, then by explainer and inputs, arms
        without a defence before the others.
      metrics: the metrics of the arms, the main ones first.
      releases: the metrics of the defences' cost.
      models: label, metric and cell of each figure of the target and the other classifiers.
      league: the membership attacks; None without one.
      seeds: number of seeds.
      examples: attacked images per seed, for example "360".
      kind: what these are: "test images", "audited images" of a membership audit, or "training
        images of the target".
      level: confidence level.
    """

    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    releases: tuple[str, ...]
    models: tuple[tuple[str, str, Cell], ...]
    league: League | None
    seeds: int
    examples: str
    kind: str
    level: float

    @property
    def main(self) -> str | None:
        """The headline's metric: SSIM, or else the first one with a known direction."""
        for name in self.metrics:
            if measure(name).leak:
                return name
        return None

    @property
    def labels(self) -> dict[str, str]:
        """The label of each attack by its name."""
        attacks = [*self.arms]
        if self.league:
            attacks += self.league.entries
        return {attack.name: attack.label for attack in attacks}

    @property
    def baseline(self) -> Arm | None:
        """The attack on predictions alone, with which the others are compared."""
        return next((arm for arm in self.arms if arm.baseline), None)

    @property
    def explained(self) -> list[Arm]:
        """The attacks on undefended explanations, ranked."""
        return self.ranked(arm for arm in self.arms if arm.explainer and not arm.defence)

    def ranked(self, arms: Iterable[Arm]) -> list[Arm]:
        """Those of `arms` with a figure of the main metric, the most successful attack first."""
        # NaN has no rank
        main = self.main
        found = []
        for arm in arms:
            if main in arm.cells and not math.isnan(arm.cells[main].interval.mean):
                found.append(arm)

        def success(arm: Arm) -> float:
            return measure(main).leak * arm.cells[main].interval.mean

        return sorted(found, key=lambda arm: -success(arm))


def summarise(unit: Unit, level: float = 0.90) -> Summary:
    """The figures of `unit` with intervals at confidence `level`."""
    # Membership attacks are judged in a league of their own.
    members = {row["arm"] for row in unit.rows if row["goal"] == MEMBERSHIP}
    attacked = []
    attacks = []
    defences = []
    for row in unit.rows:
        if row["stage"] == "attack":
            attacked.append(row)
        if row["arm"] in members:
            continue
        if row["stage"] == "attack":
            attacks.append(row)
        if row["stage"] == "defence":
            defences.append(row)
    metrics = order(_distinct(row["metric"] for row in attacks))
    return Summary(
        arms=tuple(_arms(attacks, defences, metrics, level)),
        metrics=tuple(metrics),
        releases=tuple(order(_distinct(row["metric"] for row in defences))),
        models=tuple(_models(unit.rows, level)),
        league=league(unit.rows, level),
        seeds=len({row["seed"] for row in unit.rows}),
        examples=examples(attacks or attacked or unit.rows),
        kind=_kind(unit, bool(members) and not attacks),
        level=level,
    )


def _kind(unit: Unit, audited: bool) -> str:
    """Names the attacked images; a config may ask for those that the target was trained on."""
    if audited:
        return "audited images"
    reported = (unit.config.get("report") or {}).get("role")
    trained = (unit.config.get("target") or {}).get("roles", ())
    return "training images of the target" if reported in trained else "test images"


def colours(summaries: Iterable[Summary]) -> dict[str, str]:
    """Assigns colours to the arms of several units, the same in every unit.

    Args:
      summaries: of the units.

    Returns:
      A CSS class by arm: grey, "c0", for predictions alone, else one per attack, defended or not;
      one per explainer where the colours do not suffice for that.
    """
    arms: list[Arm] = []
    grey = set()
    for summary in summaries:
        arms += summary.arms
        baseline = summary.baseline
        if baseline:
            grey.add(baseline.name)
            alike = same_attack(baseline, summary.arms)
            grey.update(arm.name for arm in alike if arm.defence)

    # Keys of the colours: by attack, or else by explainer
    fine = {arm.name: _origin(arm, arms) for arm in arms}
    coarse = {arm.name: arm.explainer or "" for arm in arms}
    keys = fine
    if len(_coloured(fine, grey)) > _COLOURS:
        keys = coarse

    # Colours repeat where even the explainers are too many.
    found = _coloured(keys, grey)
    classes = {}
    for name, key in keys.items():
        classes[name] = "c0" if name in grey else f"c{found.index(key) % _COLOURS + 1}"
    return classes


def _coloured(keys: dict[str, Any], grey: set[str]) -> list[Any]:
    """The different keys of the arms that are not grey."""
    return _distinct(key for name, key in keys.items() if name not in grey)


def same_attack(arm: Arm, others: Iterable[Arm]) -> list[Arm]:
    """Those of `others` that differ from `arm` in nothing but what defends the release."""
    return [other for other in others if other.attack == arm.attack]


def _origin(arm: Arm, arms: list[Arm]) -> Any:
    """The key of an arm's colour: the name of the undefended arm, or the attack without one."""
    # A defended attack has the colour of the undefended one.
    if not arm.defence:
        return arm.name
    for other in same_attack(arm, arms):
        if not other.defence:
            return other.name
    return arm.attack


def _arms(
    attacks: Rows,
    defences: Rows,
    metrics: list[str],
    level: float,
) -> list[Arm]:
    """The arms of attack rows, in the order of a table."""
    # All rows of an arm describe it alike, so the first one stands for them.
    groups: dict[str, Rows] = {}
    for row in attacks:
        groups.setdefault(row["arm"], []).append(row)
    heads = _sorted([rows[0] for rows in groups.values()])
    alone = next((row["arm"] for row in heads if row["baseline"]), None)

    # Cells are placed within their column, so columns come first.
    columns = {metric: _column(groups, metric, alone, level) for metric in metrics}
    found = []
    for head, label in zip(heads, labels(heads, alone), strict=True):
        name = head["arm"]
        cells = {}
        for metric, column in columns.items():
            if name in column:
                cells[metric] = column[name]
        costs = [row for row in defences if row["arm"] == name]
        described = {field: head[field] for field in _DESCRIBED}
        found.append(
            Arm(
                name=name,
                label=label,
                cells=cells,
                release=_release(costs, level),
                **described,
            )
        )
    return found


def _sorted(heads: Rows) -> Rows:
    """Arms in the order of a table: the baseline, others without an explainer, then the rest.

    The rest goes by explainer, attack, undefended before defended, and name.
    """
    # Names that differ in numbers alone go by these: a config has "queries_16" before "queries_4".
    explainers = _distinct(row["explainer"] for row in heads)
    attacks = _distinct(row["attack"] for row in heads)
    names = _distinct(re.sub(r"\d+", "0", row["arm"]) for row in heads)

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        numbers = re.findall(r"\d+", row["arm"])
        return (
            not row["baseline"],
            row["explainer"] is not None,
            explainers.index(row["explainer"]),
            attacks.index(row["attack"]),
            row["defence"] is not None,
            names.index(re.sub(r"\d+", "0", row["arm"])),
            *map(int, numbers),
        )

    return sorted(heads, key=rank)


def _column(
    groups: dict[str, Rows],
    metric: str,
    alone: str | None,
    level: float,
) -> dict[str, Cell]:
    """The cells of one metric by arm, with their leak in the column and against the arm `alone`."""
    shown = measure(metric)
    # An attack may lack a metric.
    cells = {}
    for arm, rows in groups.items():
        mine = of_metric(rows, metric)
        if mine:
            cells[arm] = cell(mine, shown.digits, level)

    # Its place among all arms, and its difference from predictions alone
    place = leak_levels(list(cells.values()), shown.leak)
    base = cells.get(alone)
    column = {}
    for arm, found in cells.items():
        verdict = None
        if base and arm != alone:
            verdict = against(found, base, shown.leak)
        column[arm] = place(found)._replace(against=verdict)
    return column


def _release(rows: Rows, level: float) -> dict[str, Cell]:
    """The figures of a defence's cost by metric, in the order of a table."""
    found = {}
    for metric in order(_distinct(row["metric"] for row in rows)):
        found[metric] = cell(of_metric(rows, metric), measure(metric).digits, level)
    return found


def _models(rows: Rows, level: float) -> Iterable[tuple[str, str, Cell]]:
    """Label, metric and figure of each stage of a classifier."""
    # In the order of the rows
    groups: dict[tuple[str, str], Rows] = {}
    for row in rows:
        if row["stage"] not in _NOT_MODELS:
            groups.setdefault((row["stage"], row["metric"]), []).append(row)
    for (stage, metric), found in groups.items():
        figure = cell(found, measure(metric).digits, level)
        yield f"{plain(stage)} {plain(metric)}", metric, figure


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
