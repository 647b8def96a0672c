"""Rows to the figures that a page or a terminal shows: arms, labels, a cell per metric."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from xinv.report.cells import Cell, Rows, against, cell, leak_levels
from xinv.report.folder import MEMBERSHIP, Unit
from xinv.report.labels import labels
from xinv.report.league import League
from xinv.report.measures import measure, order, plain
from xinv.report.ranking import league

_COLOURS = 7
"""Colours of page.css (Okabe-Ito, told apart by colour-blind readers) besides the grey of
predictions alone.
"""


_NOT_MODELS = "attack", "defence", "cause"
"""Stages whose rows are not about a classifier."""


class Arm(NamedTuple):
    """One attack: what it saw and how, and what came of it.

    Attributes:
      name: as in the rows.
      label: the shortest text that tells it from the unit's other arms.
      explainer: what the service explained with, several joined by "+"; None for predictions alone.
      goal: what the attack is after.
      verb: what it does if it succeeds, as people say it after "can".
      encoder: how the attack read it, or the name of its method.
      attack: stands for what it does, whatever defends the release: arms that share it differ in
        nothing else.
      defence: what changed the release, several joined by "+"; None for a release as it is.
      adaptive: whether the attack was trained on releases by the same defences.
      queries: releases of an image whose mean the attack is given.
      releases: releases of each image that the attack is trained on.
      roles: whose images it is trained on, several joined by "+".
      baseline: whether the arms with explanations are compared with it.
      cells: figure by metric, of what the attacker recovers.
      release: figure by metric, of what the defence does to the release; empty without a defence.
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


_DESCRIBED = tuple(
    field for field in Arm._fields if field not in ("name", "label", "cells", "release")
)
"""What each row of an arm says of it."""


class Summary(NamedTuple):
    """A unit in figures.

    Attributes:
      arms: attacks that rebuild images: predictions alone first, then by explainer and inputs, arms
        without a defence before the others.
      metrics: the metrics of the arms, the most telling first.
      releases: the metrics of what defences do to the release.
      models: label, metric and cell of each figure of the target and the other classifiers.
      league: the membership attacks; None without one.
      seeds: number of seeds.
      examples: attacked images per seed, for example "360".
      level: confidence level.
    """

    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    releases: tuple[str, ...]
    models: tuple[tuple[str, str, Cell], ...]
    league: League | None
    seeds: int
    examples: str
    level: float

    @property
    def main(self) -> str | None:
        """The headline's metric: SSIM, or else the first whose leak direction is known."""
        return next((name for name in self.metrics if measure(name).leak), None)

    @property
    def labels(self) -> dict[str, str]:
        """The label of each attack by its name."""
        entries = self.league.entries if self.league else ()
        return {attack.name: attack.label for attack in (*self.arms, *entries)}

    @property
    def baseline(self) -> Arm | None:
        """The attack without explanations that the others are compared with."""
        return next((arm for arm in self.arms if arm.baseline), None)

    @property
    def explained(self) -> list[Arm]:
        """The attacks on undefended explanations that the headline can rank, the most successful
        first.
        """
        return self.ranked(arm for arm in self.arms if arm.explainer and not arm.defence)

    def ranked(self, arms: Iterable[Arm]) -> list[Arm]:
        """Those of `arms` with a figure of the main metric, the most successful attack first."""
        found = [arm for arm in arms if self.main in arm.cells]
        found = [arm for arm in found if not math.isnan(arm.cells[self.main].interval.mean)]
        return sorted(
            found, key=lambda arm: -measure(self.main).leak * arm.cells[self.main].interval.mean
        )


def summarise(unit: Unit, level: float = 0.90) -> Summary:
    """The figures of `unit` with intervals at confidence `level`."""
    # Membership attacks are judged in a league of their own
    members = {row["arm"] for row in unit.rows if row["goal"] == MEMBERSHIP}
    others = [row for row in unit.rows if row["arm"] not in members]
    attacks = [row for row in others if row["stage"] == "attack"]
    defences = [row for row in others if row["stage"] == "defence"]
    metrics = order(_distinct(row["metric"] for row in attacks))
    attacked = [row for row in unit.rows if row["stage"] == "attack"]
    counts = sorted({row["examples"] for row in attacks or attacked or unit.rows})
    return Summary(
        arms=tuple(_arms(attacks, defences, metrics, level)),
        metrics=tuple(metrics),
        releases=tuple(order(_distinct(row["metric"] for row in defences))),
        models=tuple(_models(unit.rows, level)),
        league=league(unit.rows, level),
        seeds=len({row["seed"] for row in unit.rows}),
        examples=f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}",
        level=level,
    )


def colours(summaries: Iterable[Summary]) -> dict[str, str]:
    """The CSS class of each arm, the same in every unit: one per undefended attack, whose defended
    versions share it.

    Grey is for predictions alone. Where the colours do not suffice there is one per explainer.
    """
    arms = [(arm, summary.baseline) for summary in summaries for arm in summary.arms]
    fine = {arm.name: _origin(arm, [other for other, _ in arms]) for arm, _ in arms}
    coarse = {arm.name: arm.explainer or "" for arm, _ in arms}
    grey = {
        arm.name
        for arm, baseline in arms
        if baseline and arm.attack == baseline.attack and arm.defence
    }
    grey |= {baseline.name for _, baseline in arms if baseline}
    for keys in (fine, coarse):
        found = _distinct(key for name, key in keys.items() if name not in grey)
        if len(found) <= _COLOURS:
            break
    return {
        name: "c0" if name in grey else f"c{found.index(key) % _COLOURS + 1}"
        for name, key in keys.items()
    }


def same_attack(arm: Arm, others: Iterable[Arm]) -> list[Arm]:
    """Those of `others` that differ from `arm` in nothing but what defends the release."""
    return [other for other in others if other.attack == arm.attack]


def _origin(arm: Arm, arms: list[Arm]) -> Any:
    """What an arm's colour stands for: itself, or for a defended one the undefended one, or what
    they all read.
    """
    if not arm.defence:
        return arm.name
    return next((other.name for other in same_attack(arm, arms) if not other.defence), arm.attack)


def _arms(
    attacks: Rows,
    defences: Rows,
    metrics: list[str],
    level: float,
) -> list[Arm]:
    groups = {}
    for name in _distinct(r["arm"] for r in attacks):
        groups[name] = [row for row in attacks if row["arm"] == name]
    heads = _sorted([rows[0] for rows in groups.values()])
    alone = next((row["arm"] for row in heads if row["baseline"]), None)
    columns = {metric: _column(groups, metric, alone, level) for metric in metrics}
    return [
        Arm(
            name=row["arm"],
            label=label,
            cells={m: column[row["arm"]] for m, column in columns.items() if row["arm"] in column},
            release=_release([found for found in defences if found["arm"] == row["arm"]], level),
            **{field: row[field] for field in _DESCRIBED},
        )
        for row, label in zip(heads, labels(heads, alone), strict=True)
    ]


def _sorted(heads: Rows) -> Rows:
    """The baseline and the others without an explainer first; then by what they read, undefended
    ones first.

    Names that differ in numbers alone go by these: a config has "queries_16" before "queries_4".
    """
    explainers = _distinct(row["explainer"] for row in heads)
    attacks = _distinct(row["attack"] for row in heads)
    names = _distinct(re.sub(r"\d+", "0", row["arm"]) for row in heads)

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        first = not row["baseline"], row["explainer"] is not None
        kind = explainers.index(row["explainer"]), attacks.index(row["attack"])
        name = (
            names.index(re.sub(r"\d+", "0", row["arm"])),
            *map(int, re.findall(r"\d+", row["arm"])),
        )
        return *first, *kind, row["defence"] is not None, name

    return sorted(heads, key=rank)


def _column(
    groups: dict[str, Rows],
    metric: str,
    alone: str | None,
    level: float,
) -> dict[str, Cell]:
    """The cells of one metric by arm, each placed between the arm that leaks least and the one that
    leaks most.
    """
    shown = measure(metric)
    found = {}
    for arm, rows in groups.items():
        found[arm] = [row for row in rows if row["metric"] == metric]
    cells = {}
    for arm, rows in found.items():
        if rows:
            cells[arm] = cell(rows, shown.digits, level)
    place = leak_levels(list(cells.values()), shown.leak)
    base = cells.get(alone)
    return {
        arm: (
            place(mine)._replace(
                against=against(mine, base, shown.leak) if base and arm != alone else None
            )
        )
        for arm, mine in cells.items()
    }


def _release(rows: Rows, level: float) -> dict[str, Cell]:
    metrics = order(_distinct(row["metric"] for row in rows))
    found = {}
    for m in metrics:
        found[m] = cell(
            [row for row in rows if row["metric"] == m],
            measure(m).digits,
            level,
        )
    return found


def _models(rows: Rows, level: float) -> Iterable[tuple[str, str, Cell]]:
    others = [row for row in rows if row["stage"] not in _NOT_MODELS]
    for stage, metric in _distinct((row["stage"], row["metric"]) for row in others):
        found = []
        for row in others:
            if (row["stage"], row["metric"]) == (stage, metric):
                found.append(row)
        yield (
            f"{plain(stage)} {plain(metric)}",
            metric,
            cell(
                found,
                measure(metric).digits,
                level,
            ),
        )


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
