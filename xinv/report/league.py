"""Membership attacks in order: what each finds of the training set, and what its controls find without it.

Rules of a verdict:

1. The p-value of an attack is the least of its AUC's and its resolved true-positive rates' against
   chance, times their number (Bonferroni). Over several seeds it is twice their median, at most 1,
   which is valid whatever their dependence (Rüger 1978; Rüschendorf 1982).
2. Holm's correction covers all attacks of the unit. Controls are corrected over those of one attack
   alone: a stricter correction would let more of them pass. An adjusted value below 0.05 is
   significant.
3. A significant attack "leaks" if none of its controls is significant, and is "confounded" if one
   is: what a control also finds is not in the model. Without any control it is "no control":
   nothing then tells a leak from a difference between the images themselves.
4. Any other attack is "not found" if the upper end of its AUC's interval is below 0.55, and else
   "unresolved": the audit cannot exclude an AUC of 0.55.

The interval is the 95 % one within a seed, its ends averaged over seeds. It speaks of these models;
the ± beside it is Student's over seeds and speaks of models trained alike.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv.metrics.stats import holm
from xinv.report.cells import Cell, Rows, cell, number
from xinv.report.folder import MEMBERSHIP
from xinv.report.labels import seen, shortest
from xinv.report.measures import measure, order, plain

LEAKS, CONFOUNDED, UNCONTROLLED = "leaks", "confounded", "no control"
NOT_FOUND, UNRESOLVED = "not found", "unresolved"
VERDICTS = {
    LEAKS: "",
    CONFOUNDED: "the control leaks too",
    UNCONTROLLED: "nothing tells the model from the images",
    UNRESOLVED: "an AUC of 0.55 is not excluded",
    NOT_FOUND: "an AUC of 0.55 is excluded",
}
"""Why, by verdict."""
SIGNIFICANT = 0.05
SMALL = 0.55
"""The AUC that an audit must exclude to say that it found nothing."""
_TPR, _FPR, _CHANCE, _RESOLVED = "tpr_at_", "fpr_at_", "chance_at_", "resolved_at_"


class Figure(NamedTuple):
    """One metric of one attack.

    Attributes:
      value: mean over seeds.
      low, high: ends of the interval within a seed, averaged over seeds; NaN without one.
      values: the seeds' values, by seed.
      digits: decimals shown.
    """

    value: float
    low: float
    high: float
    values: tuple[float, ...]
    digits: int

    @property
    def text(self) -> str:
        """The value as shown."""
        return number(self.value, self.digits)

    @property
    def ends(self) -> str:
        """The interval as shown; empty without one."""
        if math.isnan(self.low + self.high):
            return ""
        return f"{number(self.low, self.digits)}–{number(self.high, self.digits)}"

    @property
    def seeds(self) -> str:
        """The seeds' values as shown."""
        return ", ".join(number(value, self.digits) for value in self.values)


class Rate(NamedTuple):
    """The true-positive rate at one false-positive rate.

    Attributes:
      tpr: share of members above the threshold.
      fpr: realised share of others above it, with the interval of the true one; None if unknown.
      chance: the true-positive rate by chance, with its band; None if unknown.
      resolved: False if there are too few others for this rate.
    """

    tpr: Figure
    fpr: Figure | None
    chance: Figure | None
    resolved: bool


class Control(NamedTuple):
    """An attack that must find nothing: its model, AUC and adjusted p-value."""

    name: str
    model: str
    auc: Figure
    p: float

    @property
    def leaks(self) -> bool:
        """True if it finds something."""
        return self.p < SIGNIFICANT


class Entry(NamedTuple):
    """One attack.

    Attributes:
      name: as in the rows.
      label: the shortest text that tells it from the unit's other attacks.
      explainer: what it reads, several joined by "+"; None without explanations.
      defence: what changed the release, several joined by "+"; None for a release as it is.
      verdict: a key of `VERDICTS`.
      p: of the AUC against chance, over seeds, adjusted.
      auc: with the interval within a seed.
      spread: the AUC's mean with Student's interval over seeds.
      rates: by name of the metric, such as "tpr_at_0.01".
      figures: the other metrics shown, by name.
      release: figures by metric of what the defence does to the release; empty without a defence.
      controls: those of this attack.
    """

    name: str
    label: str
    explainer: str | None
    defence: str | None
    verdict: str
    p: float
    auc: Figure
    spread: Cell
    rates: dict[str, Rate]
    figures: dict[str, Figure]
    release: dict[str, Cell]
    controls: tuple[Control, ...]

    @property
    def why(self) -> str:
        """The reason of the verdict, in a few words."""
        return VERDICTS[self.verdict]

    @property
    def text(self) -> str:
        """The AUC with the interval over seeds; with one seed with that within it."""
        if self.spread.half:
            return self.spread.text
        return f"{self.auc.text} [{self.auc.ends}]"


class League(NamedTuple):
    """The membership attacks of a unit.

    Attributes:
      verb: what they do if they succeed, as people say it after "can".
      entries: the highest AUC first.
      rates: metrics of the entries' rates, the smallest rate first.
      figures: names of their other metrics.
      releases: names of what their defences cost.
      models: of all controls.
      seeds: number of seeds.
      examples: members and others per seed.
      level: confidence level of the intervals over seeds.
    """

    verb: str
    entries: tuple[Entry, ...]
    rates: tuple[str, ...]
    figures: tuple[str, ...]
    releases: tuple[str, ...]
    models: tuple[str, ...]
    seeds: int
    examples: str
    level: float

    @property
    def metrics(self) -> list[str]:
        """All metrics shown, in a table's order."""
        return ["auc", *self.rates, *self.figures, *self.releases]

    @property
    def controls(self) -> list[Control]:
        """The controls of all entries."""
        return [control for entry in self.entries for control in entry.controls]

    @property
    def unresolved(self) -> list[tuple[str, str]]:
        """Each rate that is not resolved, with the interval of the true false-positive rate."""
        found = []
        for name in self.rates:
            rates = [entry.rates[name] for entry in self.entries if name in entry.rates]
            open_ = [rate.fpr for rate in rates if not rate.resolved and rate.fpr]
            if open_:
                low, high = min(fpr.low for fpr in open_), max(fpr.high for fpr in open_)
                found.append((percent(name), f"{100 * low:.2g}% to {100 * high:.2g}%"))
        return found

    def of(self, verdict: str) -> list[Entry]:
        """The entries with a verdict, the highest AUC first."""
        return [entry for entry in self.entries if entry.verdict == verdict]


def league(rows: Rows, level: float) -> League | None:
    """The membership attacks of a unit's rows; None without one. Intervals over seeds are at confidence `level`."""
    attacks = [row for row in rows if (row["stage"], row["goal"]) == ("attack", MEMBERSHIP)]
    arms: dict[str, Rows] = {}
    for row in attacks:
        arms.setdefault(row["arm"], []).append(row)
    real = {name: found for name, found in arms.items() if found[0]["control_of"] is None}
    if not real:
        return None

    # Judge attacks and controls
    controls = _controls({name: found for name, found in arms.items() if name not in real})
    costs = [row for row in rows if row["stage"] == "defence"]
    names = shortest([seen(found[0]) for found in real.values()], [plain(name) for name in real])
    values = _adjusted(real)
    entries = []
    for (name, found), label in zip(real.items(), names, strict=True):
        mine = tuple(controls.get(name, ()))
        lost = [row for row in costs if row["arm"] == name]
        entries.append(_entry(found, label, values[name], mine, lost, level))

    # Order them
    entries.sort(key=lambda entry: -entry.auc.value)
    counts = sorted({row["examples"] for row in attacks})
    return League(
        verb=attacks[0]["verb"],
        entries=tuple(entries),
        rates=tuple(sorted(_distinct(name for entry in entries for name in entry.rates), key=_rate)),
        figures=tuple(order(_distinct(name for entry in entries for name in entry.figures))),
        releases=tuple(order(_distinct(name for entry in entries for name in entry.release))),
        models=tuple(_distinct(control.model for entry in entries for control in entry.controls)),
        seeds=len({row["seed"] for row in attacks}),
        examples=f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}",
        level=level,
    )


def combined(p: Sequence[float]) -> float:
    """Returns one p-value of several seeds' ones, valid under any dependence; see rule 1."""
    return float(p[0]) if len(p) == 1 else min(1.0, 2 * float(np.median(p)))


def judged(p: float, high: float, controls: Iterable[Control]) -> str:
    """Returns the verdict on an attack; see rules 3 and 4.

    Args:
      p: adjusted p-value.
      high: upper end of the AUC's interval.
      controls: of this attack.
    """
    controls = list(controls)
    if p >= SIGNIFICANT:
        return NOT_FOUND if high < SMALL else UNRESOLVED
    if not controls:
        return UNCONTROLLED
    return CONFOUNDED if any(control.leaks for control in controls) else LEAKS


def percent(metric: str) -> str:
    """The rate in a metric's name, in percent: "1%" of "tpr_at_0.01"."""
    return f"{100 * _rate(metric):g}%"


def p_value(p: float) -> str:
    """A p-value as shown."""
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def counted(entries: Sequence[Entry]) -> str:
    """How many entries have each verdict, in words: "3 leak, 10 not found"."""
    counts = Counter(entry.verdict for entry in entries)
    words = {LEAKS: "leak" if counts[LEAKS] > 1 else "leaks", UNCONTROLLED: "without a control"}
    found = [f"{counts[verdict]} {words.get(verdict, verdict)}" for verdict in VERDICTS if counts[verdict]]
    return ", ".join(found)


def _adjusted(arms: dict[str, Rows]) -> dict[str, float]:
    """The p-value of each arm over seeds, by Holm's correction over all of them."""
    if not arms:
        return {}
    values = [combined(_by_seed(rows)) for rows in arms.values()]
    return dict(zip(arms, holm(values).tolist(), strict=True))


def _by_seed(rows: Rows) -> list[float]:
    """One p-value per seed, of the AUC and of each rate that is resolved; see rule 1."""
    found = []
    for area in _of(rows, "auc"):
        same = [row for row in rows if row["seed"] == area["seed"]]
        resolved = {row["metric"].removeprefix(_RESOLVED) for row in same if _is_resolved(row)}
        rates = [row["p"] for row in same if row["metric"].removeprefix(_TPR) in resolved]
        values = [area["p"], *(p for p in rates if p is not None)]
        found.append(min(1.0, len(values) * min(values)))
    return found


def _is_resolved(row: Mapping[str, Any]) -> bool:
    return row["metric"].startswith(_RESOLVED) and row["value"] == 1


def _controls(arms: dict[str, Rows]) -> dict[str, list[Control]]:
    """The controls of each real arm, corrected among themselves; see rule 2."""
    groups: dict[str, dict[str, Rows]] = {}
    for name, rows in arms.items():
        groups.setdefault(rows[0]["control_of"], {})[name] = rows
    found: dict[str, list[Control]] = {}
    for real, group in groups.items():
        values = _adjusted(group)
        found[real] = [
            Control(name, rows[0]["model"] or name, _figure(rows, "auc"), values[name]) for name, rows in group.items()
        ]
    return found


def _entry(
    rows: Rows,
    label: str,
    p: float,
    controls: tuple[Control, ...],
    costs: Rows,
    level: float,
) -> Entry:
    head, auc = rows[0], _figure(rows, "auc")
    metrics = _distinct(row["metric"] for row in rows)
    shown = [name for name in ("balanced_accuracy", "epsilon_lower_bound") if name in metrics]
    spent = _distinct(row["metric"] for row in costs)
    return Entry(
        name=head["arm"],
        label=label,
        explainer=head["explainer"],
        defence=head["defence"],
        verdict=judged(p, auc.high, controls),
        p=p,
        auc=auc,
        spread=cell(_of(rows, "auc"), auc.digits, level),
        rates={name: _operating(rows, name) for name in metrics if _is_rate(name)},
        figures={name: _figure(rows, name) for name in shown},
        release={name: cell(_of(costs, name), measure(name).digits, level) for name in spent},
        controls=controls,
    )


def _operating(rows: Rows, name: str) -> Rate:
    """The figures of one operating point; one of several seeds is resolved if it is in all."""
    rate = name.removeprefix(_TPR)
    resolved = [row["value"] for row in _of(rows, _RESOLVED + rate)]
    named = {kind: kind + rate for kind in (_FPR, _CHANCE)}
    others = {kind: _figure(rows, metric) if _of(rows, metric) else None for kind, metric in named.items()}
    return Rate(_figure(rows, name), others[_FPR], others[_CHANCE], all(resolved))


def _figure(rows: Rows, metric: str) -> Figure:
    """The figure of a metric that the rows have."""
    found = _of(rows, metric)
    values = tuple(float(row["value"]) for row in found)
    ends = []
    for end in ("low", "high"):
        known = [math.nan if row[end] is None else row[end] for row in found]
        ends.append(float(np.mean(known)))
    return Figure(float(np.mean(values)), *ends, values, measure(metric).digits)


def _of(rows: Rows, metric: str) -> Rows:
    """The rows of a metric, by seed."""
    return sorted((row for row in rows if row["metric"] == metric), key=lambda row: row["seed"])


def _is_rate(metric: str) -> bool:
    """True for "tpr_at_0.01", False for "tpr_at_shadow"."""
    return metric.startswith(_TPR) and metric.removeprefix(_TPR)[:1].isdigit()


def _rate(metric: str) -> float:
    return float(metric.removeprefix(_TPR))


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
