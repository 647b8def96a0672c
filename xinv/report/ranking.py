"""Ranks a unit's membership attacks by its rows."""

import numpy as np

from xinv.report.cells import Cell, Rows, cell, of_metric
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
    """Returns the league of the membership attacks in a unit's rows.

    Args:
      rows: of the unit.
      level: confidence level of the intervals over seeds, in (0,1).

    Returns:
      The league; None without an attack on the target.
    """
    # Attacks on the target, and controls: the same on models trained without the members
    attacks = []
    arms: dict[str, Rows] = {}
    for row in rows:
        if row["stage"] == "attack" and row["goal"] == MEMBERSHIP:
            attacks.append(row)
            arms.setdefault(row["arm"], []).append(row)
    real: dict[str, Rows] = {}
    others: dict[str, Rows] = {}
    for name, found in arms.items():
        group = real if found[0]["control_of"] is None else others
        group[name] = found
    if not real:
        return None

    # Judge attacks by their p-values, adjusted over all of them, and by their controls.
    controls = _controls(others)
    values = adjusted(real)
    costs = [row for row in rows if row["stage"] == "defence"]
    releases = []
    names = []
    for name, found in real.items():
        releases.append(seen(found[0]))
        names.append(plain(name))
    labels = shortest(releases, names)
    entries = []
    for (name, found), label in zip(real.items(), labels, strict=True):
        mine = tuple(controls.get(name, ()))
        lost = [row for row in costs if row["arm"] == name]
        entries.append(_entry(found, label, values[name], mine, lost, level))
    # The highest AUC first
    entries.sort(key=lambda entry: -entry.auc.value)
    return _league(entries, attacks, level)


def _league(entries: list[Entry], attacks: Rows, level: float) -> League:
    """The league of ranked entries; `attacks` are the rows of all attacks and controls."""
    # The columns of the table are those of any entry.
    rates: dict[str, Rate] = {}
    figures: dict[str, Figure] = {}
    carried: dict[str, Figure] = {}
    spent: dict[str, Cell] = {}
    models: dict[str, None] = {}
    for entry in entries:
        rates |= entry.rates
        figures |= entry.figures
        carried |= entry.carried
        spent |= entry.release
        models |= dict.fromkeys(control.model for control in entry.controls)
    return League(
        verb=attacks[0]["verb"],
        entries=tuple(entries),
        rates=tuple(sorted(rates, key=rate)),
        figures=tuple(order(list(figures))),
        carried=tuple(order(list(carried))),
        releases=tuple(order(list(spent))),
        models=tuple(models),
        seeds=len({row["seed"] for row in attacks}),
        examples=examples(attacks),
        level=level,
    )


def examples(rows: Rows) -> str:
    """Number of attacked images per seed, such as "360" or "300 to 360"."""
    counts = sorted({row["examples"] for row in rows})
    if len(counts) == 1:
        return f"{counts[0]:,}"
    return f"{counts[0]:,} to {counts[-1]:,}"


def _controls(arms: dict[str, Rows]) -> dict[str, list[Control]]:
    """The controls of each attack, corrected among themselves; see rule 2 of `verdict`."""
    groups: dict[str, dict[str, Rows]] = {}
    for name, rows in arms.items():
        groups.setdefault(rows[0]["control_of"], {})[name] = rows
    found: dict[str, list[Control]] = {}
    for real, group in groups.items():
        # Among themselves alone: over all attacks, more of them would pass.
        values = adjusted(group)
        found[real] = []
        for name, rows in group.items():
            model = rows[0]["model"] or name
            auc = _figure(rows, "auc")
            found[real].append(Control(name, model, auc, values[name]))
    return found


def _entry(
    rows: Rows,
    label: str,
    p: float,
    controls: tuple[Control, ...],
    costs: Rows,
    level: float,
) -> Entry:
    """One attack.

    Args:
      rows: of its arm.
      label: of the attack.
      p: against chance, over seeds, adjusted.
      controls: those of the attack.
      costs: rows of its defence.
      level: confidence level of the intervals over seeds.
    """
    head = rows[0]
    auc = _figure(rows, "auc")

    # Figures within a seed, by the kind of their metric
    rates = {}
    carried = {}
    figures = {}
    restarts = None
    for name in dict.fromkeys(row["metric"] for row in rows):
        if _is_rate(name):
            rates[name] = _operating(rows, name)
        elif name.startswith(_CARRIED):
            carried[name] = _figure(rows, name)
        elif name in _SHOWN:
            figures[name] = _figure(rows, name)
        elif name == _RESTARTS:
            restarts = _figure(rows, name)

    # The cost of the defence, over seeds
    release = {}
    for name in dict.fromkeys(row["metric"] for row in costs):
        release[name] = cell(of_metric(costs, name), measure(name).digits, level)
    return Entry(
        name=head["arm"],
        label=label,
        explainer=head["explainer"],
        defence=head["defence"],
        verdict=judged(p, auc.high, [control.p for control in controls]),
        p=p,
        auc=auc,
        spread=cell(of_metric(rows, "auc"), auc.digits, level),
        restarts=restarts,
        rates=rates,
        carried=carried,
        figures=figures,
        release=release,
        controls=controls,
    )


def _operating(rows: Rows, name: str) -> Rate:
    """The figures of one operating point, resolved if it is so in every seed."""
    at = name.removeprefix(TPR)
    # Realised rate and chance are rows of their own under names with the same rate.
    resolved = of_metric(rows, RESOLVED + at)
    return Rate(
        tpr=_figure(rows, name),
        fpr=_optional(rows, _FPR + at),
        chance=_optional(rows, _CHANCE + at),
        resolved=all(row["value"] for row in resolved),
    )


def _optional(rows: Rows, metric: str) -> Figure | None:
    """The figure of a metric; None if the rows do not have it."""
    if of_metric(rows, metric):
        return _figure(rows, metric)
    return None


def _figure(rows: Rows, metric: str) -> Figure:
    """The figure of a metric of the rows; a seed without an interval leaves it without one."""
    values = []
    lows = []
    highs = []
    for row in of_metric(rows, metric):
        values.append(float(row["value"]))
        lows.append(row["low"])
        highs.append(row["high"])
    # None becomes NaN, and a mean with NaN is NaN.
    return Figure(
        value=float(np.mean(values)),
        low=float(np.mean(np.array(lows, float))),
        high=float(np.mean(np.array(highs, float))),
        values=tuple(values),
        digits=measure(metric).digits,
    )


def _is_rate(metric: str) -> bool:
    """True for "tpr_at_0.01", False for "tpr_at_shadow"."""
    return metric.startswith(TPR) and metric.removeprefix(TPR)[:1].isdigit()
