"""The ranking of a unit's membership attacks, by its rows."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from xinv.report.cells import Rows, cell, of_metric
from xinv.report.folder import MEMBERSHIP
from xinv.report.labels import seen, shortest
from xinv.report.league import Control, Entry, Figure, League, Rate, rate
from xinv.report.measures import measure, order, plain
from xinv.report.verdict import RESOLVED, TPR, adjusted, judged

_FPR, _CHANCE = "fpr_at_", "chance_at_"
_CARRIED = ("tpr_at_shadow", "fpr_at_shadow", "precision_at_prior_")
_RESTARTS = "auc_of_restarts"
_SHOWN = ("balanced_accuracy", "epsilon_lower_bound")


def league(rows: Rows, level: float) -> League | None:
    """The membership attacks of a unit's rows; None without one.

    Intervals over seeds are at confidence `level`.
    """
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
    values = adjusted(real)
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
        rates=tuple(sorted(_distinct(name for entry in entries for name in entry.rates), key=rate)),
        figures=tuple(order(_distinct(name for entry in entries for name in entry.figures))),
        carried=tuple(order(_distinct(name for entry in entries for name in entry.carried))),
        releases=tuple(order(_distinct(name for entry in entries for name in entry.release))),
        models=tuple(_distinct(control.model for entry in entries for control in entry.controls)),
        seeds=len({row["seed"] for row in attacks}),
        examples=f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}",
        level=level,
    )


def _controls(arms: dict[str, Rows]) -> dict[str, list[Control]]:
    """The controls of each real arm, corrected among themselves; see rule 2."""
    groups: dict[str, dict[str, Rows]] = {}
    for name, rows in arms.items():
        groups.setdefault(rows[0]["control_of"], {})[name] = rows
    found: dict[str, list[Control]] = {}
    for real, group in groups.items():
        values = adjusted(group)
        found[real] = []
        for name, rows in group.items():
            model = rows[0]["model"] or name
            found[real].append(
                Control(
                    name,
                    model,
                    _figure(rows, "auc"),
                    values[name],
                )
            )
    return found


def _entry(
    rows: Rows,
    label: str,
    p: float,
    controls: tuple[Control, ...],
    costs: Rows,
    level: float,
) -> Entry:
    head = rows[0]
    auc = _figure(rows, "auc")
    metrics = _distinct(row["metric"] for row in rows)
    shown = [name for name in _SHOWN if name in metrics]
    spent = _distinct(row["metric"] for row in costs)
    return Entry(
        name=head["arm"],
        label=label,
        explainer=head["explainer"],
        defence=head["defence"],
        verdict=judged(p, auc.high, [control.p for control in controls]),
        p=p,
        auc=auc,
        spread=cell(of_metric(rows, "auc"), auc.digits, level),
        restarts=_figure(rows, _RESTARTS) if _RESTARTS in metrics else None,
        rates={name: _operating(rows, name) for name in metrics if _is_rate(name)},
        carried={name: _figure(rows, name) for name in metrics if name.startswith(_CARRIED)},
        figures={name: _figure(rows, name) for name in shown},
        release={name: cell(of_metric(costs, name), measure(name).digits, level) for name in spent},
        controls=controls,
    )


def _operating(rows: Rows, name: str) -> Rate:
    """The figures of one operating point; one of several seeds is resolved if it is in all."""
    at = name.removeprefix(TPR)
    resolved = [row["value"] for row in of_metric(rows, RESOLVED + at)]
    others = []
    for metric in (_FPR + at, _CHANCE + at):
        others.append(_figure(rows, metric) if of_metric(rows, metric) else None)
    return Rate(_figure(rows, name), *others, all(resolved))


def _figure(rows: Rows, metric: str) -> Figure:
    """The figure of a metric that the rows have."""
    found = of_metric(rows, metric)
    values = tuple(float(row["value"]) for row in found)
    ends = []
    for end in ("low", "high"):
        known = [math.nan if row[end] is None else row[end] for row in found]
        ends.append(float(np.mean(known)))
    return Figure(float(np.mean(values)), *ends, values, measure(metric).digits)


def _is_rate(metric: str) -> bool:
    """True for "tpr_at_0.01", False for "tpr_at_shadow"."""
    return metric.startswith(TPR) and metric.removeprefix(TPR)[:1].isdigit()


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
